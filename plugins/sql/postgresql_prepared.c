/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Statements that are prepared on a connection, by what they do to which table. A pooler would give the next question to another connection,
 * where it is not prepared, so it is done only where the server itself answers. Runs on the host's session threads.
 */
#include "postgresql.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORTH_IT 3 /* uses on one connection: preparing costs a question */

/* Its place; the one that was not used for longest makes room. */
static struct pg_prepared *find(struct pg *pg, enum pg_prepared_kind kind, const char *table) {
        struct pg_prepared *place = &pg->prepared[0];

        for (size_t i = 0; i < PG_PREPARED; i++) {
                if (pg->prepared[i].kind == kind && strcmp(pg->prepared[i].table, table) == 0) {
                        place = &pg->prepared[i];
                        break;
                }
                if (pg->prepared[i].used < place->used)
                        place = &pg->prepared[i];
        }
        place->used = ++pg->n_uses;
        return place;
}

/* One that no other connection uses, should this one be shared after all. */
static void make_name(const struct pg *pg, unsigned n, char ret[PG_PREPARED_NAME]) {
        snprintf(ret, PG_PREPARED_NAME, "stokehold_%d_%u", PQbackendPID(pg->conn), n);
}

static int replace(struct stoke_session *session, struct pg *pg, struct pg_prepared *place, enum pg_prepared_kind kind,
        const char *table, struct stoke_call *call) {
        char name[PG_PREPARED_NAME], sql[PG_PREPARED_NAME + 16];
        PGresult *res = NULL;
        int r = 0;

        if (place->name) {
                make_name(pg, place->name, name);
                snprintf(sql, sizeof(sql), "DEALLOCATE %s", name);
                r = pg_ask(session, pg, call, sql, NULL, 0, &res);
                PQclear(res);
        }
        place->kind = kind;
        snprintf(place->table, sizeof(place->table), "%s", table);
        place->uses = place->name = 0;
        return r;
}

int pg_prepared_get(struct stoke_session *session, struct pg *pg, enum pg_prepared_kind kind, const char *table,
        const char *types, char *(*text)(const void *userdata, const char *table), const void *userdata,
        struct stoke_call *call, char ret_name[PG_PREPARED_NAME]) {
        struct pg_prepared *place;
        char *statement, *sql = NULL;
        PGresult *res = NULL;
        int r = 0;

        ret_name[0] = '\0';
        if (pg->pooled)
                return 0;
        place = find(pg, kind, table);
        if (place->kind != kind || strcmp(place->table, table) != 0)
                r = replace(session, pg, place, kind, table, call);
        if (r < 0)
                return r;
        if (!place->name && ++place->uses >= WORTH_IT) {
                statement = text(userdata, table);
                make_name(pg, ++pg->last_name, ret_name);
                if (statement && asprintf(&sql, "PREPARE %s (%s) AS %s", ret_name, types, statement) > 0)
                        r = pg_ask(session, pg, call, sql, NULL, 0, &res);
                if (r == 0 && res && PQresultStatus(res) == PGRES_COMMAND_OK)
                        place->name = pg->last_name;
                PQclear(res);
                free(sql);
                free(statement);
        }
        ret_name[0] = '\0';
        if (place->name)
                make_name(pg, place->name, ret_name);
        return r;
}

void pg_prepared_failed(struct pg *pg) {
        pg->pooled = true;
        atomic_store(&pg->store->multiplexed, true);
}
