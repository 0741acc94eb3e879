#include "keyspace/record.h"

#include <endian.h>

#define XXH_INLINE_ALL
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#include <xxhash.h>
#pragma GCC diagnostic pop

#include "keyspace/keyspace.h"

uint64_t record_hash(const struct stoke_record *r) {
        uint64_t numbers[] = {
                r->seq,
                (uint64_t)r->revision,
                r->kind,
                (uint64_t)r->create_revision,
                (uint64_t)r->version,
                (uint64_t)r->lease,
                r->key_size,
                r->value_size,
        };
        uint64_t h;

        for (size_t i = 0; i < n_elements(numbers); i++)
                numbers[i] = htole64(numbers[i]);
        h = XXH3_64bits(numbers, sizeof(numbers));
        h = XXH3_64bits_withSeed(r->key, r->key_size, h);
        return XXH3_64bits_withSeed(r->value, r->value_size, h);
}

uint64_t hash_name(const char *name, uint64_t seed) {
        return XXH3_64bits_withSeed(name, strlen(name), seed);
}

void keyspace_first_record(const uint8_t daemon[16], struct stoke_record *ret) {
        *ret = (struct stoke_record){.seq = 1, .revision = 1, .kind = RECORD_CREATED, .key = "", .value = ""};
        memcpy(ret->origin.daemon, daemon, sizeof(ret->origin.daemon));
        ret->hash = record_hash(ret);
}
