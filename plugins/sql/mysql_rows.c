/* SPDX-License-Identifier: Apache-2.0 */
/* Records as the text of rows, and rows as records. A hash and an origin are bytes: no server has an opinion on those. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mysql_driver.h"

/* The numbers, the origin and the hash in hexadecimal, and what stands between them. */
#define ROW_OVERHEAD 256

static void hash_pack(uint64_t hash, uint8_t ret[8]) {
        for (unsigned i = 0; i < 8; i++)
                ret[i] = (uint8_t)(hash >> (56 - 8 * i));
}

void my_row_text(struct stoke_session *session, const struct stoke_record *record) {
        struct my_text *text = &session->text;
        uint8_t origin[SQL_ORIGIN_SIZE], hash[8];

        sql_origin_pack(&record->origin, origin);
        hash_pack(record->hash, hash);
        my_text_format(text, "(%llu,%lld,%u,%lld,%lld,%lld,", (unsigned long long)record->seq,
                (long long)record->revision, record->kind, (long long)record->create_revision,
                (long long)record->version, (long long)record->lease);
        my_text_hex(text, origin, sizeof(origin));
        my_text_add(text, ",");
        my_text_hex(text, hash, sizeof(hash));
        my_text_add(text, ",");
        my_text_bytes(text, session->mysql, record->key, record->key_size);
        my_text_add(text, ",");
        my_text_bytes(text, session->mysql, record->value, record->value_size);
        my_text_add(text, ")");
}

uint64_t my_row_bytes(const struct stoke_record *record) {
        return 2 * ((uint64_t)record->key_size + record->value_size) + ROW_OVERHEAD;
}

int my_row_read(
        MYSQL_ROW row, const unsigned long *sizes, bool with_value, struct stoke_record *ret, struct stoke_call *call) {
        *ret = (struct stoke_record){.seq = my_number(row[0]),
                .revision = row[1] ? strtoll(row[1], NULL, 10) : 0,
                .kind = (uint8_t)my_number(row[2]),
                .create_revision = row[3] ? strtoll(row[3], NULL, 10) : 0,
                .version = row[4] ? strtoll(row[4], NULL, 10) : 0,
                .lease = row[5] ? strtoll(row[5], NULL, 10) : 0,
                .key = row[8],
                .key_size = sizes[8]};
        if (!sql_origin_unpack(row[6], sizes[6], &ret->origin) || sizes[7] != 8 || !row[8] || !row[9])
                return sql_fail(call, -EUCLEAN, "record %llu is damaged", (unsigned long long)ret->seq);
        for (unsigned i = 0; i < 8; i++)
                ret->hash = ret->hash << 8 | (uint8_t)row[7][i];
        if (with_value) {
                ret->value = row[9];
                ret->value_size = sizes[9];
        } else {
                ret->value_size = my_number(row[9]);
        }
        return 0;
}

size_t my_packet_room(const struct stoke_session *session) {
        /* The packet's own bytes, and a server that counts a little otherwise. */
        return session->server.packet > 1024 ? (size_t)session->server.packet - 512 : 512;
}

int my_rows_insert(struct stoke_session *session, const char *database, const char *table,
        const struct stoke_record *records, size_t n_records, struct stoke_call *call) {
        struct my_text *text = &session->text;
        size_t room = my_packet_room(session);

        for (size_t i = 0; i < n_records;) {
                size_t first = i;
                int r;

                my_text_reset(text);
                my_text_add(text, "INSERT INTO ");
                my_text_table(text, database, table);
                my_text_add(text, " (" MY_COLUMNS ") VALUES ");
                while (i < n_records && (i == first || text->size + my_row_bytes(&records[i]) + 64 <= room)) {
                        if (i > first)
                                my_text_add(text, ",");
                        my_row_text(session, &records[i++]);
                }
                my_text_add(text, " ON DUPLICATE KEY UPDATE seq = seq");
                if (text->size > room)
                        return sql_fail(
                                call, -EMSGSIZE, "a record is larger than the server's max_allowed_packet lets it be");
                r = my_query(session, call);
                if (r < 0)
                        return r;
        }
        return 0;
}
