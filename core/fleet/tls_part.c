#include "fleet/tls_part.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "fleet/definition_file.h"

#define MAX_BYTES ((size_t)4 << 20)
/* What is read in one piece leaves no copy behind in a buffer that grew. */
#define ROOM ((size_t)256 << 10)

static void wipe(struct bytes *b) {
        if (b->data) {
                explicit_bzero((void *)(uintptr_t)b->data, b->size);
                free((void *)(uintptr_t)b->data);
        }
        *b = (struct bytes){};
}

static void bytes_wipep(struct bytes *b) {
        wipe(b);
}

struct tls_part *tls_part_new(enum tls_part_kind kind, const char *name) {
        struct tls_part *part = new0(struct tls_part);

        part->kind = kind;
        part->name = strdup(name);
        check(part->name);
        return part;
}

void tls_part_free(struct tls_part *part) {
        if (!part)
                return;
        wipe(&part->first);
        wipe(&part->second);
        free(part->trouble);
        free(part->name);
        free(part);
}

/* ---- reading */

static void on_bytes(void *visitor, const void *data, size_t size) {
        struct bytes *b = visitor;
        void *copy = malloc(size + 1);

        check(copy);
        memcpy(copy, data, size);
        wipe(b);
        *b = bytes_of(copy, size);
}

static int read_file(const char *path, struct bytes *ret, struct error *reterr) {
        cleanup(error_done) struct error why = {};
        struct buf text = {.max = MAX_BYTES};
        int r;

        r = buf_reserve(&text, ROOM);
        if (r >= 0)
                r = text_file_read(path, &text, &why);
        if (r >= 0)
                on_bytes(ret, text.data, text.size);
        else
                r = error_set(reterr, r, "%s: %s", path, error_text(&why));
        if (text.data)
                explicit_bzero(text.data, text.capacity);
        buf_done(&text);
        return r;
}

static int read_source(
        struct secret_source *secrets, const struct tls_source *source, struct bytes *ret, struct error *reterr) {
        if (source->path)
                return read_file(source->path, ret, reterr);
        if (source->ref)
                return secret_resolve(secrets, source->ref, on_bytes, ret, reterr);
        return 0;
}

/* ---- taking */

/* A list that is empty for the moment, as while somebody writes it, would let in whoever was revoked. */
static bool lacks_list(const struct tls_part *part, const struct tls_source *source, struct bytes lists) {
        static const char begin[] = "-----BEGIN X509 CRL-----";

        return part->kind == TLS_PART_AUTHORITY && (source->path || source->ref) &&
                (!lists.size || !memmem(lists.data, lists.size, begin, strlen(begin)));
}

/* Whether it can be used: that is, whether a policy can be made of it. */
static int try_it(const struct tls_part *part, struct bytes first, struct bytes second, const struct tls_part *server,
        struct error *reterr) {
        const struct tls_authority authority = {.what = part->name, .certificates = first, .revocations = second};
        cleanup(tls_server_unrefp) struct tls_server *policy = NULL;
        struct tls_server_config config = {.certificate = first, .key = second};

        if (part->kind == TLS_PART_AUTHORITY) {
                config.certificate = server->first;
                config.key = server->second;
                config.authorities = &authority;
                config.n_authorities = 1;
        }
        return tls_server_new(&config, &policy, reterr);
}

static void tell(struct tls_part *part, const char *why) {
        char *text;

        check(asprintf(&text, "%s: %s%s", part->name, why,
                      part->good                              ? "; what was in force stays"
                              : part->kind == TLS_PART_SERVER ? "; nobody is served over TLS"
                                                              : "; it lets nobody in") > 0);
        free(part->trouble);
        part->trouble = text;
}

static bool same(struct bytes a, struct bytes b) {
        return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

bool tls_part_read(struct tls_part *part, struct secret_source *secrets, const struct tls_source *first,
        const struct tls_source *second, const struct tls_part *server) {
        cleanup(bytes_wipep) struct bytes a = {}, b = {};
        cleanup(error_done) struct error err = {};
        uint64_t hash;

        if (read_source(secrets, first, &a, &err) < 0 || read_source(secrets, second, &b, &err) < 0) {
                part->refused = 0;
                tell(part, error_text(&err));
                return false;
        }
        if (part->good && same(a, part->first) && same(b, part->second)) {
                part->refused = 0;
                free(steal(part->trouble));
                return false;
        }
        if (lacks_list(part, second, b)) {
                part->refused = 0;
                tell(part, "there is no revocation list where one is to be");
                return false;
        }
        hash = XXH3_64bits_withSeed(b.data, b.size, XXH3_64bits(a.data, a.size)) | 1;
        if (hash == part->refused)
                return false;
        if (try_it(part, a, b, server, &err) < 0) {
                part->refused = hash;
                tell(part, error_text(&err));
                return false;
        }
        part->good = true;
        part->refused = 0;
        free(steal(part->trouble));
        wipe(&part->first);
        wipe(&part->second);
        part->first = a;
        part->second = b;
        a = (struct bytes){};
        b = (struct bytes){};
        return true;
}
