/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Where MariaDB's and Oracle's client libraries differ: one of mysql_client_mariadb.c and mysql_client_oracle.c, chosen by meson. The rest of
 * the driver uses what both have.
 */

#include <stdbool.h>

#include <mysql.h>

/* The connection's socket. */
int my_client_socket(MYSQL *mysql);
/* Before connecting: TLS or nothing; verify: the server's certificate must be of the CA given, and have its name. false: no TLS. */
void my_client_tls(MYSQL *mysql, bool tls, bool verify);
