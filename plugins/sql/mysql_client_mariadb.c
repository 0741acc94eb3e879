/* SPDX-License-Identifier: Apache-2.0 */
/* What is MariaDB Connector/C's own. */
#include "mysql_client.h"

int my_client_socket(MYSQL *mysql) {
        return (int)mysql_get_socket(mysql);
}

void my_client_tls(MYSQL *mysql, bool tls, bool verify) {
        my_bool on = tls, name = verify;

        mysql_options(mysql, MYSQL_OPT_SSL_ENFORCE, &on);
        mysql_options(mysql, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &name);
        /* A server that nothing vouches for does not get the password in clear, whatever it asks for. */
        if (!verify)
                mysql_optionsv(mysql, MARIADB_OPT_RESTRICTED_AUTH,
                        "mysql_native_password,client_ed25519,caching_sha2_password,sha256_password,parsec");
}
