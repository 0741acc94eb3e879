#pragma once

/*
 * A door before the echo server of fixture.h, with two authorities and some clients, and clients that speak TLS by OpenSSL itself, so that
 * they can do what ours would not.
 */

#include "certs.h"
#include "fixture.h"
#include "rpc/door.h"
#include "rpc/tls.h"

enum { AUTHORITY_COMMON, AUTHORITY_PARIS, N_AUTHORITIES };

struct knock {
        struct fixture f;
        struct door *door;
        struct cert common, paris_ca, foreign_ca; /* authorities; nobody knows the last */
        struct cert server;
        struct cert berlin, paris;           /* CN:berlin of the common one, URI:spiffe://x/paris of its own */
        struct bytes revoked[N_AUTHORITIES]; /* PEM, for the policies made from now on */
        struct tls_server *policy;           /* the last that was made */
        const char *only_label;              /* admitted to the server; NULL: all */
        char address[64];                    /* tls:127.0.0.1:PORT */
        unsigned short port;
        unsigned n_threads; /* of the door; 0: one. Set before it is started */
        atomic_int n_admitted, n_accepted;
        char last_label[64]; /* of the server's thread */
};

void knock_start(struct knock *k, const struct door_limits *limits);
void knock_stop(struct knock *k);
/* A policy with CN:berlin -> berlin, DNS:berlin.example -> berlin, CN:munich -> munich (all common), URI:spiffe://x/paris -> paris and CN:shared ->
 * paris (of the own authority), CN:shared -> berlin (common); then what is given: name, label, authority, … NULL. */
struct tls_server *knock_policy(struct knock *k, ...);
/* Puts it in force, for the connections that are open too; takes it. */
void knock_set_policy(struct knock *k, struct tls_server *policy);
/* A certificate of one of the authorities. */
struct cert knock_cert(const struct cert *issuer, const char *cn, const char *names);

/* Our own client, with a certificate that may be NULL. */
struct tls_client *knock_client(struct knock *k, const struct cert *cert, const char *server_name);
/* One unary call on a connection of its own; text: what the server or the error said. */
enum grpc_code knock_call(struct knock *k, const struct cert *cert, char *text, size_t size);

/* OpenSSL's. */
struct tls_end {
        SSL_CTX *ctx;
        SSL *ssl;
        int fd;
        int alert; /* that came; -1: none */
};
struct tls_wish {
        const struct cert *cert, *chain; /* may be NULL */
        int version;                     /* 0: the newest */
        const char *alpn;                /* "\x02h2"; NULL: none */
        const char *source;              /* an address of loopback to come from; NULL: any */
};
/* A socket that is connected, and no more. */
int knock_connect(const struct knock *k, const char *source);
/* Connects and shakes hands, and with TLS 1.3 waits for the first byte of the server or its refusal. True: let in. */
bool tls_end_open(struct tls_end *e, const struct knock *k, const struct tls_wish *wish);
void tls_end_close(struct tls_end *e);
/* Value of stokehold_tls_handshakes_total{result}. */
double knock_count(const char *result);
