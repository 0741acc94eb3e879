/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the log in MySQL, row by row as the server sends them, so that no more than one is in memory. A load is a sequence of pages, each
 * a statement of its own: no statement holds the table for long against a compaction's fence, and since the log only grows
 * and is deleted from below, what was appended meanwhile is seen at the end, whole. Each answer says too whether its server still takes
 * writes: one that was demoted may lack what others have seen. Runs on the host's session threads.
 */
#include <errno.h>
#include <string.h>

#include "mysql_driver.h"

#define PAGE 2048    /* rows of a load */
#define N_VALUES 256 /* values a question: a list that no server makes a join of */
#define N_ENDS 50    /* keyspaces a question */

static int demoted(struct stoke_session *session, struct stoke_call *call) {
        session->broken = true; /* dialled anew, perhaps elsewhere */
        return sql_fail(call, -EROFS, "the server has become read-only");
}

static int missing_or(struct stoke_session *session, int r) {
        return r < 0 && my_is_missing(session) ? STOKE_MISSING : r;
}

static void add_table(struct my_text *text, const struct my_place *place) {
        my_text_table(text, place->database, place->table);
}

/* ---- load */

struct load {
        struct stoke_session *session;
        struct stoke_call *call;
        const struct my_place *place;
        const struct stoke_end *after;
        bool with_values;
        int (*visit)(void *userdata, const struct stoke_record *record);
        void *userdata;
        struct sql_loading loading;
        bool begun;
        uint64_t last;     /* what is behind it is not looked at */
        const char *table; /* of the place */
        bool part;         /* each row says whether the server takes writes: nothing may be missing in the middle */
        unsigned n_most;   /* rows of a page */
};

static int on_row(struct load *l, MYSQL_ROW row, const unsigned long *sizes) {
        struct stoke_record record;
        int r;

        if ((!l->begun || l->part) && my_number(row[10]) == 0)
                return demoted(l->session, l->call);
        r = my_row_read(row, sizes, l->with_values, &record, l->call);
        if (r < 0)
                return r;
        if (!l->begun) {
                l->begun = true;
                r = sql_loading_begin(&l->loading, l->after, record.seq == l->after->seq ? &record.origin : NULL);
                if (r != 0 || record.seq == l->after->seq)
                        return r;
        }
        r = sql_loading_next(&l->loading, &record);
        if (r == 0 && l->visit(l->userdata, &record))
                r = STOKE_STOPPED;
        return r;
}

/* One statement. *ret_n: its rows. */
static int load_page(struct load *l, size_t *ret_n) {
        struct my_text *text = &l->session->text;
        const char *columns = l->with_values ? MY_COLUMNS : MY_COLUMNS_WITHOUT_VALUE;
        struct my_stream stream;
        unsigned long *sizes;
        MYSQL_ROW row;
        int r, got;

        *ret_n = 0;
        my_text_reset(text);
        /* The first row of the first page is the record that the host knows. */
        my_text_format(text, "SELECT %s%s FROM ", columns, l->begun && !l->part ? "" : ", " MY_WRITABLE);
        my_text_table(text, l->place->database, l->table);
        my_text_format(text, " WHERE seq %s %llu AND seq <= %llu ORDER BY seq LIMIT %u",
                l->begun ? ">" : ">=", (unsigned long long)(l->begun ? l->loading.end.seq : l->after->seq),
                (unsigned long long)l->last, l->n_most);
        r = my_stream(l->session, l->call, &stream);
        if (r < 0)
                return missing_or(l->session, r);
        while ((got = my_fetch(l->session, &stream, l->call, &row, &sizes)) > 0) {
                ++*ret_n;
                r = on_row(l, row, sizes);
                if (r != 0)
                        break;
                /* Nothing but the visitor takes time while rows are in the socket. */
                if (*ret_n % 256 == 0 && (r = my_call_over(l->session, l->call)) < 0)
                        break;
        }
        my_stream_end(l->session, &stream);
        return got < 0 ? got : r;
}

/* Where the log ends now, and that it will not end before that again. */
static int find_end(struct load *l, const struct stoke_keyspace *keyspace) {
        struct my_text *text = &l->session->text;
        struct stoke_end end = {};
        unsigned long *sizes;
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r;

        l->last = INT64_MAX;
        if (!l->session->server.unsettled)
                return 0;
        my_text_reset(text);
        my_text_add(text, "SELECT seq, origin FROM ");
        add_table(text, l->place);
        my_text_add(text, " ORDER BY seq DESC LIMIT 1");
        r = my_ask(l->session, l->call, &result);
        if (r < 0)
                return missing_or(l->session, r);
        row = mysql_fetch_row(result);
        if (row) {
                sizes = mysql_fetch_lengths(result);
                end.seq = my_number(row[0]);
                if (!sql_origin_unpack(row[1], sizes[1], &end.origin))
                        r = sql_fail(l->call, -EUCLEAN, "record %llu is damaged", (unsigned long long)end.seq);
        }
        mysql_free_result(result);
        l->last = end.seq;
        return r == 0 && row ? my_settle(l->session, keyspace, &end, l->call) : r;
}

int my_load(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_end *after,
        bool with_values, struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record),
        void *userdata, struct stoke_end *ret_end) {
        struct my_place place;
        struct load l = {.session = session,
                .call = call,
                .place = &place,
                .after = after,
                .with_values = with_values,
                .visit = visit,
                .userdata = userdata,
                .table = place.table,
                .n_most = PAGE};
        size_t n = PAGE;
        int r;

        r = my_place(session->store, keyspace, NULL, &place, call);
        if (r == 0)
                r = my_begin(session, false, call);
        if (r < 0)
                return r;
        r = find_end(&l, keyspace);
        while (r == 0 && n == PAGE)
                r = load_page(&l, &n);
        if (r == 0 && !l.begun) {
                if (after->seq > 0) /* beyond the end */
                        r = STOKE_COMPACTED;
                else
                        r = sql_fail(call, -EUCLEAN, "the keyspace's table is empty");
        }
        if (r == 0)
                *ret_end = l.loading.end;
        return my_end(session, r);
}

/* ---- a part of it */

/* In one statement; what can be asked for has been told as the log's end, and is settled. */
int my_read(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_read *read,
        struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record), void *userdata) {
        const struct stoke_end after = {.seq = read->after};
        struct my_place place;
        struct load l = {.session = session,
                .call = call,
                .place = &place,
                .after = &after,
                .with_values = read->with_values,
                .visit = visit,
                .userdata = userdata,
                .loading.end.seq = read->after,
                .last = read->upto < INT64_MAX ? read->upto : INT64_MAX,
                .table = read->installation ? place.installing : place.table,
                .n_most = read->n_most};
        size_t n;
        int r;

        r = my_place(session->store, keyspace, read->installation, &place, call);
        if (r == 0)
                r = my_begin(session, read->installation != NULL, call);
        if (r < 0)
                return r;
        l.begun = l.part = true; /* nothing is known of the record at `after` */
        r = load_page(&l, &n);
        return my_end(session, r);
}

/* ---- values */

struct values {
        struct stoke_session *session;
        struct stoke_call *call;
        const struct my_place *place;
        int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size);
        void *userdata;
        const uint64_t *seqs; /* what is left */
        size_t n_seqs;
};

/* Those that are not there, up to the given seq. */
static int visit_absent(struct values *v, uint64_t below) {
        while (v->n_seqs > 0 && v->seqs[0] < below) {
                if (v->visit(v->userdata, v->seqs[0], NULL, 0))
                        return STOKE_STOPPED;
                v->seqs++;
                v->n_seqs--;
        }
        return 0;
}

static int on_value(struct values *v, MYSQL_ROW row, const unsigned long *sizes) {
        uint64_t seq = my_number(row[0]);
        int r;

        if (my_number(row[2]) == 0)
                return demoted(v->session, v->call);
        r = visit_absent(v, seq);
        if (r != 0)
                return r;
        if (v->n_seqs == 0 || v->seqs[0] != seq || !row[1])
                return sql_fail(v->call, -EUCLEAN, "record %llu is damaged", (unsigned long long)seq);
        v->seqs++;
        v->n_seqs--;
        return v->visit(v->userdata, seq, row[1], sizes[1]) ? STOKE_STOPPED : 0;
}

/* What is missing at the end of an answer is missing only if the server may say so. */
static int still_writable(struct values *v) {
        MYSQL_RES *result;
        MYSQL_ROW row;
        bool writable;
        int r;

        my_text_reset(&v->session->text);
        my_text_add(&v->session->text, "SELECT " MY_WRITABLE);
        r = my_ask(v->session, v->call, &result);
        if (r < 0)
                return r;
        row = mysql_fetch_row(result);
        writable = row && my_number(row[0]);
        mysql_free_result(result);
        return writable ? 0 : demoted(v->session, v->call);
}

static int values_page(struct values *v, size_t n) {
        struct my_text *text = &v->session->text;
        uint64_t last = v->seqs[n - 1];
        size_t left = v->n_seqs - n; /* behind this page */
        struct my_stream stream;
        unsigned long *sizes;
        MYSQL_ROW row;
        int r, got;

        my_text_reset(text);
        my_text_add(text, "SELECT seq, value, " MY_WRITABLE " FROM ");
        add_table(text, v->place);
        my_text_add(text, " WHERE seq IN (");
        for (size_t i = 0; i < n; i++)
                my_text_format(text, "%s%llu", i ? "," : "", (unsigned long long)v->seqs[i]);
        my_text_add(text, ") ORDER BY seq");
        r = my_stream(v->session, v->call, &stream);
        if (r < 0)
                return missing_or(v->session, r);
        while ((got = my_fetch(v->session, &stream, v->call, &row, &sizes)) > 0) {
                r = on_value(v, row, sizes);
                if (r != 0)
                        break;
        }
        my_stream_end(v->session, &stream);
        if (got < 0)
                return got;
        if (r == 0 && v->n_seqs > left) {
                r = still_writable(v);
                if (r == 0)
                        r = visit_absent(v, last + 1);
        }
        return r;
}

int my_values(struct stoke_session *session, const struct stoke_keyspace *keyspace, const uint64_t *seqs, size_t n_seqs,
        struct stoke_call *call, int (*visit)(void *userdata, uint64_t seq, const void *data, size_t size),
        void *userdata) {
        struct my_place place;
        struct values v = {.session = session,
                .call = call,
                .place = &place,
                .visit = visit,
                .userdata = userdata,
                .seqs = seqs,
                .n_seqs = n_seqs};
        int r;

        r = my_place(session->store, keyspace, NULL, &place, call);
        if (r == 0)
                r = my_begin(session, false, call);
        if (r < 0)
                return r;
        while (r == 0 && v.n_seqs > 0)
                r = values_page(&v, v.n_seqs < N_VALUES ? v.n_seqs : N_VALUES);
        return my_end(session, r);
}

/* ---- ends */

struct ends {
        struct stoke_session *session;
        struct stoke_call *call;
        const struct stoke_keyspace *keyspaces;
        int (*visit)(void *userdata, size_t index, const struct stoke_end *end);
        void *userdata;
};

static int ends_text(struct ends *e, size_t from, size_t n, bool *valid) {
        struct my_text *text = &e->session->text;
        struct my_place place;

        my_text_reset(text);
        my_text_add(text, "SELECT -1, " MY_WRITABLE ", ''");
        for (size_t i = 0; i < n; i++) {
                valid[i] = my_place(e->session->store, &e->keyspaces[from + i], NULL, &place, e->call) == 0;
                if (!valid[i])
                        continue;
                my_text_format(text, " UNION ALL (SELECT %zu, seq, origin FROM ", i);
                add_table(text, &place);
                my_text_add(text, " ORDER BY seq DESC LIMIT 1)");
        }
        return 0;
}

/* One write for all of them. */
static int settle_ends(struct ends *e, size_t from, size_t n, const bool *found, const struct stoke_end *ends) {
        struct stoke_store *store = e->session->store;
        bool settled = true;
        int r;

        for (size_t i = 0; i < n; i++)
                settled = settled && (!found[i] || my_is_settled(store, &e->keyspaces[from + i], &ends[i]));
        if (settled)
                return 0;
        r = my_settle_all(e->session, e->call);
        for (size_t i = 0; r == 0 && i < n; i++)
                if (found[i])
                        my_set_settled(store, &e->keyspaces[from + i], &ends[i]);
        return r;
}

/* One question. A table that is missing fails it as a whole: halved until that one is alone. */
static int ask_ends(struct ends *e, size_t from, size_t n) {
        bool valid[N_ENDS], found[N_ENDS] = {};
        struct stoke_end ends[N_ENDS];
        unsigned long *sizes;
        MYSQL_RES *result;
        MYSQL_ROW row;
        int r;

        r = ends_text(e, from, n, valid);
        if (r == 0)
                r = my_ask(e->session, e->call, &result);
        if (r < 0 && my_is_missing(e->session)) {
                if (n == 1)
                        return e->visit(e->userdata, from, NULL) ? STOKE_STOPPED : 0;
                r = ask_ends(e, from, n / 2);
                return r == 0 ? ask_ends(e, from + n / 2, n - n / 2) : r;
        }
        if (r < 0)
                return r;
        while (r == 0 && (row = mysql_fetch_row(result))) {
                size_t i = (size_t)my_number(row[0]);

                sizes = mysql_fetch_lengths(result);
                if (row[0][0] == '-') {
                        if (my_number(row[1]) == 0)
                                r = demoted(e->session, e->call);
                        continue;
                }
                if (i >= n || !sql_origin_unpack(row[2], sizes[2], &ends[i].origin)) {
                        r = sql_fail(e->call, -EUCLEAN, "the end of a log is damaged");
                        break;
                }
                ends[i].seq = my_number(row[1]);
                found[i] = true;
        }
        mysql_free_result(result);
        if (r == 0)
                r = settle_ends(e, from, n, found, ends);
        for (size_t i = 0; r == 0 && i < n; i++)
                if (e->visit(e->userdata, from + i, found[i] ? &ends[i] : NULL))
                        r = STOKE_STOPPED;
        return r;
}

int my_ends(struct stoke_session *session, const struct stoke_keyspace *keyspaces, size_t n_keyspaces,
        struct stoke_call *call, int (*visit)(void *userdata, size_t index, const struct stoke_end *end),
        void *userdata) {
        struct ends e = {
                .session = session, .call = call, .keyspaces = keyspaces, .visit = visit, .userdata = userdata};
        int r;

        r = my_begin(session, false, call);
        if (r < 0)
                return r;
        for (size_t i = 0; r == 0 && i < n_keyspaces; i += N_ENDS)
                r = ask_ends(&e, i, n_keyspaces - i < N_ENDS ? n_keyspaces - i : N_ENDS);
        return my_end(session, r);
}
