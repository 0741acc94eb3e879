/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One log in SQL: texts, names, rows, and the decisions that are the same in every dialect. No I/O and no state here:
 * a function that needs a connection belongs to the dialect.
 */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const columns = "seq, revision, kind, create_revision, version, lease, origin, hash, \"key\", value";

/* key and value stand last, so that a reader of the numbers does not walk over the bytes. */
static const char *const templates[SQL_N_STATEMENTS] = {
        [SQL_CREATE_LOG] =
                "CREATE TABLE @log (seq @integer PRIMARY KEY, revision @integer NOT NULL, kind @small NOT NULL, "
                "create_revision @integer NOT NULL, version @integer NOT NULL, lease @integer NOT NULL, "
                "origin @key NOT NULL, hash @integer NOT NULL, \"key\" @key NOT NULL, value @value NOT NULL)@suffix",
        [SQL_INSERT] = "INSERT INTO @log (@columns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [SQL_LAST] = "SELECT seq, origin FROM @log ORDER BY seq DESC LIMIT 1",
        [SQL_FIRST] = "SELECT seq FROM @log ORDER BY seq LIMIT 1",
        [SQL_ORIGIN_AT] = "SELECT origin FROM @log WHERE seq = ?",
        [SQL_LOAD] = "SELECT @columns FROM @log WHERE seq > ? ORDER BY seq",
        [SQL_LOAD_KEYS] = "SELECT seq, revision, kind, create_revision, version, lease, origin, hash, \"key\", "
                          "@octet_length(value) FROM @log WHERE seq > ? ORDER BY seq",
        [SQL_VALUE_AT] = "SELECT value FROM @log WHERE seq = ?",
        [SQL_DELETE_AT] = "DELETE FROM @log WHERE seq = ?",
};

char *sql_statement_text(const struct sql_dialect *dialect, enum sql_statement statement, const char *table) {
        const struct {
                const char *word, *text;
        } words[] = {
                {"@log", table},
                {"@columns", columns},
                {"@integer", dialect->integer},
                {"@small", dialect->small},
                {"@key", dialect->key_bytes},
                {"@value", dialect->value_bytes},
                {"@octet_length", dialect->octet_length},
                {"@suffix", dialect->table_suffix},
        };
        const char *p;
        char *text = NULL;
        size_t size = 0;
        unsigned n = 0;
        FILE *f;

        f = open_memstream(&text, &size);
        if (!f)
                return NULL;
        for (p = templates[statement]; *p;) {
                size_t i, n_words = sizeof(words) / sizeof(words[0]);

                if (*p == '?' && dialect->numbered) {
                        fprintf(f, "$%u", ++n);
                        p++;
                        continue;
                }
                for (i = 0; *p == '@' && i < n_words; i++)
                        if (strncmp(p, words[i].word, strlen(words[i].word)) == 0)
                                break;
                if (*p == '@' && i < n_words) {
                        fputs(words[i].text, f);
                        p += strlen(words[i].word);
                } else {
                        fputc(*p++, f);
                }
        }
        if (fclose(f) != 0) {
                free(text);
                return NULL;
        }
        return text;
}

void sql_uuid_text(const uint8_t uuid[16], char ret[SQL_UUID_TEXT]) {
        static const char digits[] = "0123456789abcdef";

        for (size_t i = 0; i < 16; i++) {
                ret[2 * i] = digits[uuid[i] >> 4];
                ret[2 * i + 1] = digits[uuid[i] & 15];
        }
        ret[32] = '\0';
}

static int digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool sql_uuid_parse(const char *text, size_t size, uint8_t ret[16]) {
        if (size != SQL_UUID_TEXT - 1)
                return false;
        for (size_t i = 0; i < 16; i++) {
                int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

                if (high < 0 || low < 0)
                        return false;
                ret[i] = (uint8_t)(high << 4 | low);
        }
        return true;
}

bool sql_name_valid(const char *name, size_t size) {
        if (size == 0 || size > SQL_NAME_MAX || name[0] == '-')
                return false;
        for (size_t i = 0; i < size; i++)
                if (!(name[i] >= 'a' && name[i] <= 'z') && !(name[i] >= '0' && name[i] <= '9') && name[i] != '-')
                        return false;
        return true;
}

void sql_table_text(const struct stoke_keyspace *keyspace, char ret[SQL_TABLE_TEXT]) {
        char uuid[SQL_UUID_TEXT];

        sql_uuid_text(keyspace->incarnation, uuid);
        snprintf(ret, SQL_TABLE_TEXT, "%.*s-%s", SQL_NAME_MAX, keyspace->name, uuid);
}

bool sql_table_parse(const char *text, size_t size, char ret_name[SQL_NAME_MAX + 1], uint8_t ret_incarnation[16]) {
        size_t name_size;

        if (size < SQL_UUID_TEXT + 1)
                return false;
        name_size = size - SQL_UUID_TEXT; /* the digits and the dash */
        if (text[name_size] != '-' || !sql_name_valid(text, name_size) ||
                !sql_uuid_parse(text + name_size + 1, SQL_UUID_TEXT - 1, ret_incarnation))
                return false;
        memcpy(ret_name, text, name_size);
        ret_name[name_size] = '\0';
        return true;
}

void sql_origin_pack(const struct stoke_origin *origin, uint8_t ret[SQL_ORIGIN_SIZE]) {
        memcpy(ret, origin->daemon, 16);
        for (unsigned i = 0; i < 8; i++)
                ret[16 + i] = (uint8_t)(origin->batch >> (56 - 8 * i));
}

bool sql_origin_unpack(const void *data, size_t size, struct stoke_origin *ret) {
        const uint8_t *p = data;

        if (!data || size != SQL_ORIGIN_SIZE)
                return false;
        memcpy(ret->daemon, p, 16);
        ret->batch = 0;
        for (unsigned i = 0; i < 8; i++)
                ret->batch = ret->batch << 8 | p[16 + i];
        return true;
}

bool sql_origin_equal(const struct stoke_origin *a, const struct stoke_origin *b) {
        return a->batch == b->batch && memcmp(a->daemon, b->daemon, sizeof(a->daemon)) == 0;
}

static bool same_group(const struct stoke_record *a, const struct stoke_record *b) {
        return (a->kind & b->kind & STOKE_KIND_GROUPED) && a->revision == b->revision;
}

int sql_records_check(const struct stoke_record *records, size_t n_records, uint64_t after,
        const struct stoke_limits *limits, struct stoke_call *call) {
        uint64_t total = 0, previous = after == UINT64_MAX ? 0 : after;

        if (n_records == 0)
                return sql_fail(call, -EINVAL, "no records were given");
        for (size_t i = 0; i < n_records; i++) {
                const struct stoke_record *r = &records[i];
                uint64_t size = (uint64_t)r->key_size + r->value_size;

                if (r->seq > INT64_MAX || (after == UINT64_MAX ? r->seq <= previous : r->seq != previous + 1))
                        return sql_fail(call, -EINVAL, "record %llu does not follow %llu", (unsigned long long)r->seq,
                                (unsigned long long)previous);
                if ((!r->key && r->key_size) || (!r->value && r->value_size))
                        return sql_fail(
                                call, -EINVAL, "record %llu comes without its bytes", (unsigned long long)r->seq);
                if (size > limits->record_bytes)
                        return sql_fail(call, -EMSGSIZE, "a record of %llu bytes is above the limit of %llu",
                                (unsigned long long)size, (unsigned long long)limits->record_bytes);
                if (i >= limits->batch_records && !same_group(r, &records[i - 1]))
                        return sql_fail(call, -EMSGSIZE,
                                "%zu records in several groups are more than the %u that one append may have",
                                n_records, limits->batch_records);
                total += size;
                previous = r->seq;
        }
        if (total > limits->batch_bytes)
                return sql_fail(call, -EMSGSIZE, "%llu bytes are above the limit of %llu for one append",
                        (unsigned long long)total, (unsigned long long)limits->batch_bytes);
        return 0;
}

int sql_loading_begin(struct sql_loading *loading, const struct stoke_end *after, const struct stoke_origin *origin) {
        *loading = (struct sql_loading){.end = *after, .dense = after->seq > 0};
        if (after->seq == 0)
                return 0;
        if (!origin)
                return STOKE_COMPACTED;
        return sql_origin_equal(origin, &after->origin) ? 0 : STOKE_FORKED;
}

int sql_loading_next(struct sql_loading *loading, const struct stoke_record *record) {
        if (loading->dense && record->seq != loading->end.seq + 1)
                return STOKE_COMPACTED;
        loading->end.seq = record->seq;
        loading->end.origin = record->origin;
        return 0;
}

enum sql_decision sql_install_decide(enum sql_install what, const struct sql_found *found, const uint8_t id[16],
        struct stoke_call *call, int *ret_result) {
        bool ours = found->has_id && memcmp(found->id, id, 16) == 0;

        *ret_result = 0;
        if (found->state == SQL_LIVE && ours) {
                if (what == SQL_COMMIT)
                        return SQL_ALREADY;
                *ret_result = sql_fail(call, STOKE_ENDED, "this installation was committed");
                return SQL_REFUSE;
        }
        if (found->ended != SQL_NOT_ENDED) {
                if (what == SQL_ABORT &&
                        found->ended == SQL_ABORTED) /* to be completed, should the first have been cut short */
                        return found->state == SQL_INSTALLING && ours ? SQL_GO : SQL_ALREADY;
                *ret_result = sql_fail(call, STOKE_ENDED, "this installation was ended before");
                return SQL_REFUSE;
        }
        if (what == SQL_ABORT)
                return SQL_GO; /* an unknown id ends too */
        if (found->state == SQL_INSTALLING && ours)
                return SQL_GO;
        if (what != SQL_BEGIN) {
                *ret_result = sql_fail(call, STOKE_MISSING, "there is no such installation");
                return SQL_REFUSE;
        }
        if (found->state == SQL_ABSENT)
                return SQL_GO_ANEW;
        *ret_result = sql_fail(call, -EEXIST,
                found->state == SQL_LIVE ? "the keyspace exists" : "the keyspace is being installed under another id");
        return SQL_REFUSE;
}

int sql_fail(struct stoke_call *call, int code, const char *format, ...) {
        va_list args;

        if (call->reason && call->reason_size > 0) {
                va_start(args, format);
                vsnprintf(call->reason, call->reason_size, format, args);
                va_end(args);
        }
        return code;
}

uint64_t sql_now_ns(void) {
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

bool sql_expired(const struct stoke_call *call) {
        return sql_now_ns() >= call->deadline_ns;
}
