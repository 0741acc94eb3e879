#pragma once

/*
 * TLS: who may come in (struct tls_server), as whom we go out (struct tls_client), and transports that speak it. Nothing here knows
 * what the certificates stand for: a client's leads to a label, whose meaning is its owner's.
 *
 * A policy is immutable and counted, so that it is replaced by handing out another; connections that are open are compared with
 * the new one by tls_transport_check(). A client is let in if one of its certificate's names has a rule and its chain leads to that rule's
 * authority, whatever other authorities there are; certificates whose names lead to several labels are refused. What a refused client
 * is told does not depend on the rules: expired (its leaf is, which it can see itself), or else bad_certificate, always.
 *
 * OpenSSL is included by core/rpc/tls*.c alone.
 */

#include "base/buf.h"
#include "base/error.h"
#include "rpc/transport.h"

/* Counted atomically, immutable: any thread may use it. */
struct tls_server;
struct tls_client;

struct tls_authority {
        const char *what; /* for errors: "tls.clientCA", a file; NULL: its number */
        struct bytes
                certificates; /* PEM, one or more CA certificates: each is trusted, also one that another has signed */
        struct bytes revocations; /* PEM, revocation lists, or empty; each must be signed by one of the certificates */
};

struct tls_rule {
        const char *name;  /* "CN:berlin", "URI:spiffe://x/berlin", "DNS:berlin.example" (compared without case) */
        const char *label; /* not empty */
        size_t authority;  /* index into authorities */
};

/* All is copied. */
struct tls_server_config {
        struct bytes certificate; /* PEM, ours first, then the chain */
        struct bytes key;         /* PEM, not encrypted */
        const struct tls_authority *authorities;
        size_t n_authorities;
        const struct tls_rule *rules;
        size_t n_rules;
};

/* -EINVAL: an unreadable PEM, a key that is not the certificate's, a CA that is none, a list signed by nobody of its authority, a name of no known
 * kind; -EEXIST: one name, one authority, two labels. All with the reason; no part of a key is in it. No authorities or no rules are
 * fine: nobody is let in. */
int tls_server_new(const struct tls_server_config *config, struct tls_server **ret, struct error *reterr);
struct tls_server *tls_server_ref(struct tls_server *server);
/* Takes NULL. */
void tls_server_unref(struct tls_server *server);
static inline void tls_server_unrefp(struct tls_server **p) {
        tls_server_unref(*p);
}
/* What is wrong with it now but does not keep it from serving: our certificate or a CA's has expired or will within a week, a
 * revocation list is out of date (it is applied all the same). Sentences joined by "; ", appended to out; nothing: all is well. */
int tls_server_warnings(const struct tls_server *server, struct buf *out);
/* When our certificate expires, in seconds since the epoch. */
int64_t tls_server_not_after(const struct tls_server *server);

/* Who is at the other end, as its certificate says. Connections of one certificate share it. */
struct tls_peer {
        const char *label;            /* of the rule that let it in */
        const char *name;             /* of that rule: "CN:berlin" */
        const char *subject, *issuer; /* RFC 2253, cut at 256 bytes */
        const char *serial;           /* hexadecimal */
        int64_t not_after;            /* seconds since the epoch; the earliest of its chain */
};

/* A transport of a door or of a client after its handshake; NULL for all others and where the other end is a server. Lives as
 * long as the transport does. */
const struct tls_peer *tls_transport_peer(const struct transport *transport);
/* "h2", "http/1.1", or "" if none was agreed on. */
const char *tls_transport_protocol(const struct transport *transport);
/* Why the last function on it failed, beyond its errno: "tlsv13 alert certificate required"; NULL: nothing to add. */
const char *tls_transport_error(const struct transport *transport);
/* Would the peer be let in by this policy, now, under the label that it has? 0; -EACCES with the reason, for logs. The answer for a
 * certificate is kept, so asking for each of its connections, and again for the same policy, is cheap. A transport that is not TLS: 0. The transport's own
 * thread. */
int tls_transport_check(struct transport *transport, struct tls_server *now, struct error *reterr);

/* The outgoing side. All is copied. */
struct tls_client_config {
        struct bytes authorities; /* PEM; empty: the system's */
        struct bytes certificate; /* PEM, ours and its chain; may be empty */
        struct bytes key;         /* PEM; with the certificate */
        const char *
                server_name; /* that the server's certificate must have, a DNS name or an address; NULL: the host that is dialled */
};

/* Errors as above. */
int tls_client_new(const struct tls_client_config *config, struct tls_client **ret, struct error *reterr);
struct tls_client *tls_client_ref(struct tls_client *client);
/* Takes NULL. */
void tls_client_unref(struct tls_client *client);
static inline void tls_client_unrefp(struct tls_client **p) {
        tls_client_unref(*p);
}

/*
 * Transports, for the door and the client half. fd: a connected (or connecting) non-blocking socket, taken over unless the result is NULL (no
 * memory). Until tls_handshake() has returned 1, nothing else but it and transport_free() may be called.
 */
struct transport *tls_accept_new(int fd, struct tls_server *policy);
/* host: what is dialled, without a port or brackets. */
struct transport *tls_connect_new(int fd, struct tls_client *client, const char *host);

/* Why a handshake failed, for metrics. */
enum tls_refusal {
        TLS_REFUSAL_NONE,
        TLS_REFUSAL_PROTOCOL,       /* not TLS, or nothing in common (version, cipher, …) */
        TLS_REFUSAL_ALPN,           /* neither h2 nor http/1.1 */
        TLS_REFUSAL_NO_CERTIFICATE, /* the client has sent none */
        TLS_REFUSAL_EXPIRED,        /* or not valid yet */
        TLS_REFUSAL_UNTRUSTED,      /* not of the authority that its names belong to; what a certificate must not be */
        TLS_REFUSAL_REVOKED,
        TLS_REFUSAL_UNKNOWN,   /* no rule has its names */
        TLS_REFUSAL_AMBIGUOUS, /* its names lead to several labels */
        TLS_REFUSAL_LOST,      /* the peer went, or refused us */
        TLS_REFUSAL_N
};
const char *tls_refusal_name(enum tls_refusal refusal); /* "protocol", "no_certificate", … */

/* Goes on with the handshake: 1: done; 0: waits for *events (EPOLLIN, EPOLLOUT); negative errno: failed, with the reason. An alert that
 * tells the peer why waits in the transport until tls_alert(). refusal may be NULL. */
int tls_handshake(struct transport *transport, uint32_t *events, enum tls_refusal *refusal, struct error *reterr);
/* Sends what a failed handshake has to say, as far as the socket takes it. */
void tls_alert(struct transport *transport);
