#include "fleet/spool.h"

/*
 * One file, written from its beginning to its end, then read by place. A list in order of key is about random in order of revision; what
 * was just written is in the page cache as long as it fits there, and costs a read from disk for each key beyond.
 */

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WRITE_BYTES ((size_t)1024 * 1024)
#define READ_BYTES ((size_t)4096)

struct place {
        int64_t revision;
        uint64_t offset;
};

/* Before each key in the file. */
struct head {
        int64_t create_revision, mod_revision, version, lease;
        uint32_t key_size, value_size;
};

struct spool {
        int fd;               /* owned */
        struct place *places; /* owned */
        size_t n, capacity, at;
        uint64_t written;
        struct buf out, in;
};

int spool_new(const char *directory, struct spool **ret, struct error *reterr) {
        cleanup(spool_freep) struct spool *s = new0(struct spool);

        s->fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (s->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) { /* a file system that has none without a name */
                cleanup(freep) char *path = NULL;

                check(asprintf(&path, "%s/spool-XXXXXX", directory) > 0);
                s->fd = mkostemp(path, O_CLOEXEC);
                if (s->fd >= 0)
                        (void)unlink(path);
        }
        if (s->fd < 0)
                return error_set(reterr, -errno, "%s: no file can be made there: %s", directory, strerror(errno));
        *ret = steal(s);
        return 0;
}

void spool_free(struct spool *s) {
        if (!s)
                return;
        if (s->fd >= 0)
                close(s->fd);
        buf_done(&s->out);
        buf_done(&s->in);
        free(s->places);
        free(s);
}

uint64_t spool_n(const struct spool *s) {
        return s->n;
}

static int write_out(struct spool *s, struct error *reterr) {
        size_t done = 0;

        while (done < s->out.size) {
                ssize_t n = write(s->fd, s->out.data + done, s->out.size - done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return error_set(reterr, -errno,
                                "the keys that were read cannot be kept in the state directory: %s", strerror(errno));
                done += (size_t)n;
        }
        buf_clear(&s->out);
        return 0;
}

int spool_add(struct spool *s, const struct spool_key *key, struct error *reterr) {
        struct head head = {key->create_revision, key->mod_revision, key->version, key->lease, (uint32_t)key->key.size,
                (uint32_t)key->value.size};
        int r;

        if (key->key.size > UINT32_MAX || key->value.size > UINT32_MAX)
                return error_set(reterr, -EMSGSIZE, "a key is too large");
        if (s->n == s->capacity) {
                size_t capacity = s->capacity ? s->capacity * 2 : 1024;
                struct place *places = reallocarray(s->places, capacity, sizeof(*places));

                if (!places)
                        return error_set(reterr, -ENOMEM, "no memory for the places of %zu keys", capacity);
                s->places = places;
                s->capacity = capacity;
        }
        s->places[s->n++] = (struct place){key->mod_revision, s->written};
        r = buf_append(&s->out, &head, sizeof(head));
        if (r >= 0)
                r = buf_append(&s->out, key->key.data, key->key.size);
        if (r >= 0)
                r = buf_append(&s->out, key->value.data, key->value.size);
        if (r < 0)
                return error_set(reterr, r, "%s", strerror(-r));
        s->written += sizeof(head) + key->key.size + key->value.size;
        return s->out.size >= WRITE_BYTES ? write_out(s, reterr) : 0;
}

static int compare_places(const void *a, const void *b) {
        const struct place *x = a, *y = b;

        if (x->revision != y->revision)
                return x->revision < y->revision ? -1 : 1;
        return x->offset < y->offset ? -1 : x->offset > y->offset;
}

int spool_sort(struct spool *s, struct error *reterr) {
        int r = write_out(s, reterr);

        if (r < 0)
                return r;
        buf_done(&s->out);
        if (s->n)
                qsort(s->places, s->n, sizeof(*s->places), compare_places);
        s->at = 0;
        return 0;
}

/* At least n bytes from the offset are in s->in. */
static int read_in(struct spool *s, uint64_t offset, size_t n, struct error *reterr) {
        int r;

        while (s->in.size < n) {
                size_t want = max_of(n, READ_BYTES) - s->in.size;
                ssize_t got;

                r = buf_reserve(&s->in, want);
                if (r < 0)
                        return error_set(reterr, r, "%s", strerror(-r));
                got = pread(s->fd, s->in.data + s->in.size, want, (off_t)(offset + s->in.size));
                if (got < 0 && errno == EINTR)
                        continue;
                if (got <= 0)
                        return error_set(reterr, got < 0 ? -errno : -EIO,
                                "the keys that were read cannot be read back: %s",
                                got < 0 ? strerror(errno) : "they end too early");
                s->in.size += (size_t)got;
        }
        return 0;
}

int spool_next(struct spool *s, struct spool_key *ret, struct error *reterr) {
        struct head head;
        uint64_t offset;
        size_t whole;
        int r;

        if (s->at == s->n)
                return 0;
        offset = s->places[s->at++].offset;
        buf_clear(&s->in);
        r = read_in(s, offset, sizeof(head), reterr);
        if (r < 0)
                return r;
        memcpy(&head, s->in.data, sizeof(head));
        whole = sizeof(head) + (size_t)head.key_size + head.value_size;
        r = read_in(s, offset, whole, reterr);
        if (r < 0)
                return r;
        *ret = (struct spool_key){
                .key = bytes_of(s->in.data + sizeof(head), head.key_size),
                .value = bytes_of(s->in.data + sizeof(head) + head.key_size, head.value_size),
                .create_revision = head.create_revision,
                .mod_revision = head.mod_revision,
                .version = head.version,
                .lease = head.lease,
        };
        return 1;
}
