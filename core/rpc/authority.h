#pragma once

/*
 * An authority: a certificate that may sign others, with its key. It issues certificates for requests, of which it takes nothing but the public key: what a
 * certificate says is the issuer's word. And it lists what it has revoked. Texts are PEM. Any thread, one at a time; nothing here reads or
 * writes files.
 */

#include "base/buf.h"
#include "base/error.h"

#define CERTIFICATE_DAYS_MAX 36500

struct authority;

/* certificate: the authority's own first; others behind it are handed out with what it issues. -EBADMSG: not PEM; -EINVAL, with the reason: the key is
 * another's; it is no authority, or none for clients' certificates; it is expired or not valid yet. */
int authority_load(struct bytes certificate, struct bytes key, struct authority **ret, struct error *reterr);
void authority_free(struct authority *authority);
DEFINE_FREEP(authority)
/* Seconds since 1970. */
int64_t authority_not_after(const struct authority *authority);
/* Serials in hexadecimal, with or without colons, are as authority_serial() makes them: upper case, no zero in front. NULL: it is no serial.
 * Owned by the caller. */
char *authority_serial(const char *text);

/* A new authority that signs itself, on P-256, with a key in PKCS #8. */
int authority_make(
        const char *common_name, unsigned days, struct buf *ret_certificate, struct buf *ret_key, struct error *reterr);

enum certificate_use { CERTIFICATE_CLIENT, CERTIFICATE_SERVER };
struct certificate_wish {
        enum certificate_use use;
        const char *common_name;  /* at most 64 bytes */
        const char *const *names; /* alternative ones: "URI:…", "DNS:…", "IP:…" */
        size_t n_names;
        unsigned days; /* from now; never beyond the authority's own end */
};
struct certificate_issued {
        char *serial;      /* owned */
        int64_t not_after; /* seconds since 1970 */
        bool is_shortened; /* by the authority's own end */
};
/* ret: the certificate, and what is to stand behind it. -EBADMSG: the request cannot be read; -EINVAL, with the reason: it does not prove its key, the key is
 * weak or of a kind that servers refuse, a name is none, or what would be issued would be accepted by nobody. */
int authority_issue(struct authority *authority, struct bytes request, const struct certificate_wish *wish,
        struct buf *ret, struct certificate_issued *ret_issued, struct error *reterr);
void certificate_issued_done(struct certificate_issued *issued);

/* Whether the authority has signed the certificate, and it is one for this use by now. -EINVAL: not so, with the reason. */
int authority_verify(
        struct authority *authority, struct bytes certificate, enum certificate_use use, struct error *reterr);

/* A revocation list with all of the last one (size 0: there was none) and this serial (NULL: nothing more). It holds as long as the authority. -EEXIST: it is
 * on the list already; -EINVAL: the list is another authority's. */
int authority_revoke(
        struct authority *authority, struct bytes last, const char *serial, struct buf *ret, struct error *reterr);
