/*
 * Pieces of a stream: records with what they point to, in one arena each. Made on a datastore's worker, used and freed by whoever has taken
 * them; one thread at a time.
 */

#include "keyspace/stream_piece.h"

#include <errno.h>

#include "base/arena.h"

struct stream_piece *stream_piece_new(void) {
        struct stream_piece *p = new0(struct stream_piece);

        p->arena = new0(struct arena);
        arena_init(p->arena, 0);
        return p;
}

void stream_piece_free(struct stream_piece *p) {
        struct stream_piece *next;

        for (; p; p = next) {
                next = p->joined;
                arena_done(p->arena);
                free(p->arena);
                free(p->records);
                free(p);
        }
}

int stream_piece_join(struct stream_piece *p, struct stream_piece *other) {
        struct stoke_record *r;

        if (p->n + other->n > p->capacity) {
                r = realloc(p->records, (p->n + other->n) * sizeof(*r));
                if (!r)
                        return -ENOMEM;
                p->records = r;
                p->capacity = p->n + other->n;
        }
        memcpy(&p->records[p->n], other->records, other->n * sizeof(*other->records));
        p->n += other->n;
        p->bytes += other->bytes;
        free(steal(other->records));
        other->capacity = other->n = 0;
        check(!other->joined);
        other->joined = p->joined;
        p->joined = other;
        return 0;
}

int stream_piece_add(struct stream_piece *p, const struct stoke_record *record) {
        struct stoke_record *r;

        if (p->n == p->capacity) {
                size_t capacity = p->capacity ? p->capacity * 2 : 64;

                r = realloc(p->records, capacity * sizeof(*r));
                if (!r)
                        return -ENOMEM;
                p->records = r;
                p->capacity = capacity;
        }
        r = &p->records[p->n];
        *r = *record;
        r->key = arena_copy(p->arena, record->key, record->key_size);
        if (!r->key)
                return -ENOMEM;
        if (record->value || record->value_size == 0) {
                r->value = arena_copy(p->arena, record->value, record->value_size);
                if (!r->value)
                        return -ENOMEM;
                p->bytes += r->value_size;
        }
        p->bytes += r->key_size;
        p->n++;
        return 0;
}
