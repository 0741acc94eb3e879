#pragma once

/*
 * The inside of TLS, shared by tls_server.c and tls_client.c (policies), tls_pem.c (what they are read from), tls_verify.c (whether a chain is let
 * in, and as whom), tls_peer.c (who was) and tls_transport.c and tls_handshake.c (connections), and tls_memory.c. Nobody else includes it, nor OpenSSL.
 */

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <uthash.h>

#include "rpc/tls.h"

/* What is wrong, in OpenSSL's words, and forgets it; "" for nothing. Static memory of the thread. */
const char *tls_reason(void);

/* PEM. Errors say what and why, never what is in it. */
int tls_pem_certificates(struct bytes pem, const char *what, struct stack_st_X509 **ret, struct error *reterr);
int tls_pem_revocations(struct bytes pem, const char *what, struct stack_st_X509_CRL **ret, struct error *reterr);
/* Certificate, chain and key into a context. not_after: of the first; may be NULL. */
int tls_pem_use(SSL_CTX *ctx, struct bytes certificate, struct bytes key, int64_t *not_after, struct error *reterr);
int64_t tls_time(const ASN1_TIME *time);

/* Policies. */

struct tls_revocations {
        X509_CRL *crl; /* owned */
        X509 *signer;  /* borrowed from the authority */
};

struct tls_trust {
        char *what;                         /* owned */
        struct stack_st_X509 *certificates; /* owned */
        X509_STORE *store;                  /* owned */
        struct tls_revocations *lists;      /* owned */
        size_t n_lists;
};

struct tls_way {
        struct tls_way *next; /* owned: the same name, another authority */
        size_t authority;
        char *label; /* owned */
};

struct tls_name {
        char *name;          /* owned: "CN:…"; a DNS name in lower case */
        struct tls_way *way; /* owned */
        UT_hash_handle hh;
};

struct tls_server {
        atomic_uint n_refs;
        uint64_t serial; /* no two of a process have the same */
        SSL_CTX *ctx;    /* owned */
        int64_t not_after;
        struct tls_trust *authorities; /* owned */
        size_t n_authorities;
        struct tls_name *names; /* owned, uthash */
};

struct tls_client {
        atomic_uint n_refs;
        SSL_CTX *ctx;      /* owned */
        char *server_name; /* owned; NULL: the host */
};

/* Makes sure that OpenSSL's memory is as tls_memory.c says. */
void tls_memory(void);
/* What both sides want of a context. */
int tls_context(const SSL_METHOD *method, SSL_CTX **ret, struct error *reterr);

/* Whether and as whom. */

struct tls_verdict {
        enum tls_refusal refusal; /* NONE: let in */
        const char *label, *name; /* the policy's */
        int64_t not_after;        /* the earliest of the chain */
        bool own_fault;           /* EXPIRED: the leaf is, which says nothing of the rules; the peer may be told */
};

/* chain: what came with the leaf, it may be in it; NULL: nothing. The reason of a refusal goes to reterr. */
void tls_verify(const struct tls_server *server, X509 *leaf, struct stack_st_X509 *chain, struct tls_verdict *ret,
        struct error *reterr);
/* SSL_CTX_set_cert_verify_callback(): asks tls_verify() and leaves what it says in the transport. */
int tls_on_verify(X509_STORE_CTX *ctx, void *userdata);

/* Counted; shared by all connections of one certificate with one label. */
struct tls_identity;
int tls_identity_get(const struct tls_server *server, const struct tls_verdict *verdict, X509 *leaf,
        struct stack_st_X509 *chain, struct tls_identity **ret);
void tls_identity_unref(struct tls_identity *identity);
const struct tls_peer *tls_identity_peer(const struct tls_identity *identity);
int tls_identity_check(struct tls_identity *identity, struct tls_server *now, struct error *reterr);

/* Connections. */

struct tls_shaking {
        struct tls_server *policy; /* ref; NULL: we are the client */
        struct tls_client *client; /* ref */
        enum tls_refusal refusal;
        struct error err; /* why */
};

struct tls_transport {
        struct transport transport;
        SSL *ssl;                      /* owned */
        struct tls_identity *identity; /* ref; NULL: the peer is a server, or not known yet */
        struct tls_shaking *shaking;   /* owned; NULL: the handshake is done */

        const uint8_t *given; /* borrowed, during a call: ciphertext for OpenSSL */
        size_t n_given;
        bool hung_up; /* behind that nothing more comes */

        uint8_t *in; /* owned; ciphertext that was read and not yet wanted */
        size_t n_in;
        uint8_t *out; /* owned; ciphertext that the socket did not take */
        size_t out_sent, n_out;
        size_t owed; /* bytes whose records are in out: told as taken when they have gone */
        size_t paid; /* the same, gone and not told yet */

        bool wrote;          /* OpenSSL did, since this was set to false */
        int broken;          /* negative errno; 1: the end has come; told by the next read */
        char *error;         /* owned; in words */
        uint32_t n_unasked;  /* times that reading made OpenSSL write */
        uint64_t n_received; /* bytes of content */
};

static inline struct tls_transport *tls_of(const struct transport *t) {
        return container_of(t, struct tls_transport, transport);
}
extern const struct transport_ops tls_transport_ops;
/* Gives the SSL its BIO, which gathers in a buffer of the thread what is written. */
int tls_transport_attach(struct tls_transport *t);
/* Reads what has come into a buffer of the thread, for the calls to OpenSSL that follow. 1: something or the end; -EAGAIN; or the connection's error. */
int tls_transport_fill(struct tls_transport *t, size_t most);
/* What OpenSSL has not taken of it is kept. 0 or -ENOMEM. */
int tls_transport_keep(struct tls_transport *t);
/* Sends what OpenSSL has written. 1: all has gone; 0: the rest waits; or the connection's error. */
int tls_transport_flush(struct tls_transport *t);
/* Keeps it instead, to be sent later. 0, or a negative errno. */
int tls_transport_hold(struct tls_transport *t);
/* Translates what an SSL_… function returned: 0: it wants to read; 1: the end; negative errno, with its text in t->error. */
int tls_transport_fate(struct tls_transport *t, int r);
