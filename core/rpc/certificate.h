#pragma once

/*
 * A client's half of getting a certificate: a key pair, a request that proves it, and what a certificate says. Texts are PEM. Any thread; nothing here
 * reads or writes files.
 */

#include "base/buf.h"
#include "base/error.h"

/* Frees a buffer that held a private key, and leaves nothing of it in memory. */
void key_done(struct buf *key);

/* A new key pair on P-256 (all that speaks TLS takes it), as a private key in PKCS #8. */
int key_make(struct buf *ret, struct error *reterr);

/* A request (PKCS #10) for the key, which may be of any kind. */
int certificate_request_make(struct bytes key, const char *common_name, struct buf *ret, struct error *reterr);

/* What a certificate says. */
struct certificate_info {
        char *serial;  /* owned: hexadecimal digits, in upper case */
        char *subject; /* owned: as RFC 4514 writes it */
        char *issuer;  /* owned */
        char **names;  /* owned: alternative names, "URI:…", "DNS:…", "IP:…" */
        size_t n_names;
        int64_t not_before, not_after; /* seconds since 1970 */
};
/* Of the first one in the text. -EBADMSG. */
int certificate_read(struct bytes certificate, struct certificate_info *ret, struct error *reterr);
void certificate_info_done(struct certificate_info *info);

/* The one among the anchors (any number of certificates) that a server's certificate leads to, through those that stand behind it: appended. -ENOENT:
 * none. Whether anything of it has expired is not asked. */
int certificate_find_anchor(struct bytes chain, struct bytes anchors, struct buf *ret);

/* Whether the key is the certificate's. -EBADMSG: one of them cannot be read; -EINVAL: it is not. */
int certificate_matches(struct bytes certificate, struct bytes key, struct error *reterr);
