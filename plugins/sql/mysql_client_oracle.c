/* SPDX-License-Identifier: Apache-2.0 */
/* What is the own of Oracle's libmysqlclient, 8.0 and later. It never sends a password in clear unless told to. */
#include "mysql_client.h"

int my_client_socket(MYSQL *mysql) {
        return (int)mysql->net.fd;
}

void my_client_tls(MYSQL *mysql, bool tls, bool verify) {
        unsigned mode = tls ? verify ? SSL_MODE_VERIFY_IDENTITY : SSL_MODE_REQUIRED : SSL_MODE_PREFERRED;
        bool key = true;

        mysql_options(mysql, MYSQL_OPT_SSL_MODE, &mode);
        /* caching_sha2_password without TLS encrypts the password with the server's key. */
        if (!tls)
                mysql_options(mysql, MYSQL_OPT_GET_SERVER_PUBLIC_KEY, &key);
}
