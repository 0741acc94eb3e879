#pragma once

/*
 * A piece of what TLS is done with, read from files or secrets: the server's certificate with its key, or an authority with its
 * revocation lists. What is new takes the place of what is in force only if it can be used; if not, that stays, and what is wrong is told until
 * it is put right. Main thread.
 */

#include "base/buf.h"
#include "fleet/secret.h"
#include "rpc/tls.h"

/* One of the two; both NULL: there is none. Borrowed. */
struct tls_source {
        const char *path;
        const struct content_ref *ref;
};

enum tls_part_kind { TLS_PART_SERVER, TLS_PART_AUTHORITY };

struct tls_part {
        enum tls_part_kind kind;
        char *name; /* owned: of what it is of, for people: "tls.clientCA" */
        bool good;  /* something is in force: */
        struct bytes first,
                second;   /* owned: the certificate and the key; the CA's certificates and their lists, maybe empty */
        uint64_t refused; /* what was tried last, in vain; 0: nothing */
        char *trouble;    /* owned: why what is there is not in force; NULL: it is */
        bool wanted;      /* for the owner's use */
};

struct tls_part *tls_part_new(enum tls_part_kind kind, const char *name);
/* Wipes it. Takes NULL. */
void tls_part_free(struct tls_part *part);
/* Reads what is there now. True: what is in force has changed. server: the one with which an authority is
 * tried; NULL for the server's own. */
bool tls_part_read(struct tls_part *part, struct secret_source *secrets, const struct tls_source *first,
        const struct tls_source *second, const struct tls_part *server);
