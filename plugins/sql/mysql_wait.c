/* SPDX-License-Identifier: Apache-2.0 */
/* Listening to other daemons. See mysql_news.h. Runs on the host's thread for wait(), and (the questions alone) on the notifier. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mysql_news.h"

/* One question may take so long: it is none that anything depends on. */
#define QUESTION_NS 5000000000ull

static struct timespec timespec_of(uint64_t ns) {
        return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

bool my_news_active(const struct my_news *news, uint64_t now) {
        for (size_t i = 0; i < news->n_peers; i++)
                if (now - news->peers[i].counter_ns < NEWS_ACTIVE_NS)
                        return true;
        return false;
}

bool my_news_listened(const struct my_news *news, uint64_t now) {
        for (size_t i = 0; i < news->n_peers; i++)
                if (now - news->peers[i].beat_ns < NEWS_LISTENS_NS)
                        return true;
        return false;
}

/* ---- the question */

static void write_question(struct stoke_session *session) {
        struct stoke_store *store = session->store;
        struct my_text *text = &session->text;

        my_catalogue_text(session, "SELECT daemon, beat, counter, recent FROM @.daemons WHERE daemon <> ");
        my_text_hex(text, store->host->daemon, 16);
        pthread_mutex_lock(&store->mutex);
        for (size_t i = 0; i < store->news->n_peers; i++) {
                const struct my_peer *peer = &store->news->peers[i];

                my_text_add(text, " AND NOT (daemon = ");
                my_text_hex(text, peer->daemon, 16);
                my_text_format(text, " AND beat = %llu AND counter = %llu)", (unsigned long long)peer->beat,
                        (unsigned long long)peer->counter);
        }
        pthread_mutex_unlock(&store->mutex);
}

/* The peer's row of before; a stranger's is made, in the place of the one silent for longest if there is no room. */
static struct my_peer *find_peer(struct my_news *news, const void *daemon, uint64_t now) {
        struct my_peer *peer = NULL;

        for (size_t i = 0; i < news->n_peers; i++)
                if (memcmp(news->peers[i].daemon, daemon, 16) == 0)
                        return &news->peers[i];
        if (news->n_peers < NEWS_PEERS)
                peer = &news->peers[news->n_peers++];
        else
                for (size_t i = 0; i < news->n_peers; i++)
                        if (!peer || news->peers[i].counter_ns < peer->counter_ns)
                                peer = &news->peers[i];
        *peer = (struct my_peer){.beat_ns = now, .counter_ns = now};
        memcpy(peer->daemon, daemon, 16);
        return peer;
}

/* The lines of `recent` that are newer than what was seen. recent has a NUL behind it. */
static size_t read_recent(
        char *recent, uint64_t seen, void (*grown)(void *userdata, const char *name), void *userdata) {
        size_t n = 0;

        for (char *line = strtok_r(recent, "\n", &recent); line; line = strtok_r(NULL, "\n", &recent)) {
                char *name;
                uint64_t number = strtoull(line, &name, 10);

                if (*name != ' ' || number <= seen || !sql_name_valid(name + 1, strlen(name + 1)))
                        continue;
                if (grown)
                        grown(userdata, name + 1);
                n++;
        }
        return n;
}

int my_news_ask(struct stoke_session *session, struct stoke_call *call, void (*grown)(void *userdata, const char *name),
        void *userdata, size_t *ret_n) {
        struct stoke_store *store = session->store;
        unsigned long *sizes;
        MYSQL_RES *result;
        MYSQL_ROW row;
        uint64_t now;
        int r;

        *ret_n = 0;
        write_question(session);
        r = my_ask(session, call, &result);
        if (r < 0)
                return r;
        now = sql_now_ns();
        while ((row = mysql_fetch_row(result))) {
                uint64_t beat = my_number(row[1]), counter = my_number(row[2]), seen;
                struct my_peer *peer;

                sizes = mysql_fetch_lengths(result);
                if (!row[0] || sizes[0] != 16 || !row[3])
                        continue;
                pthread_mutex_lock(&store->mutex);
                peer = find_peer(store->news, row[0], now);
                seen = peer->counter > counter ? 0 : peer->counter; /* it has begun anew */
                if (peer->beat != beat)
                        peer->beat_ns = now;
                if (peer->counter != counter)
                        peer->counter_ns = now;
                peer->beat = beat;
                peer->counter = counter;
                pthread_mutex_unlock(&store->mutex);
                *ret_n += read_recent(row[3], seen, grown, userdata);
        }
        mysql_free_result(result);
        pthread_mutex_lock(&store->mutex);
        store->news->asked_ns = now;
        pthread_mutex_unlock(&store->mutex);
        return 0;
}

/* ---- the beat */

static int beat(struct stoke_session *session, struct stoke_call *call) {
        struct stoke_store *store = session->store;
        struct my_text *text = &session->text;
        uint64_t now = sql_now_ns();
        struct my_peer gone = {};
        bool found = false;
        int r;

        my_catalogue_text(session, "INSERT INTO @.daemons (daemon, beat, counter, recent) VALUES (");
        my_text_hex(text, store->host->daemon, 16);
        my_text_add(text, ", 1, 0, '') ON DUPLICATE KEY UPDATE beat = beat + 1");
        r = my_query(session, call);
        if (r < 0)
                return r;
        pthread_mutex_lock(&store->mutex);
        for (size_t i = 0; i < store->news->n_peers && !found; i++) {
                struct my_peer *peer = &store->news->peers[i];

                found = now - peer->beat_ns > NEWS_GONE_NS && now - peer->counter_ns > NEWS_GONE_NS;
                if (found) {
                        gone = *peer;
                        *peer = store->news->peers[--store->news->n_peers];
                }
        }
        pthread_mutex_unlock(&store->mutex);
        if (!found)
                return 0;
        my_catalogue_text(session, "DELETE FROM @.daemons WHERE daemon = ");
        my_text_hex(text, gone.daemon, 16);
        my_text_format(text, " AND beat = %llu AND counter = %llu", (unsigned long long)gone.beat,
                (unsigned long long)gone.counter);
        r = my_query(session, call);
        if (r < 0)
                return r;
        my_catalogue_text(session, "DELETE FROM @.settled WHERE daemon = ");
        my_text_hex(text, gone.daemon, 16);
        return my_query(session, call);
}

/* ---- wait */

/* News are told of late rather than slowly: a node answers from what it has. */
static int without_waiting(struct stoke_session *session, struct stoke_call *call) {
        if (session->hints)
                return 0;
        session->hints = true;
        return session->server.galera ? my_execute(session, "SET SESSION wsrep_sync_wait = 0", call) : 0;
}

static int ask_once(struct stoke_session *session, struct stoke_call *call, uint64_t *beat_ns,
        void (*grown)(void *userdata, const char *name), void *userdata, size_t *ret_n) {
        struct stoke_call question = *call;
        int r;

        *ret_n = 0;
        question.deadline_ns = sql_now_ns() + QUESTION_NS;
        r = my_begin(session, true, &question);
        if (r < 0)
                return r;
        r = without_waiting(session, &question);
        if (r == 0 && sql_now_ns() - *beat_ns >= NEWS_BEAT_NS) {
                r = beat(session, &question);
                *beat_ns = sql_now_ns();
        }
        if (r == 0)
                r = my_news_ask(session, &question, grown, userdata, ret_n);
        return my_end(session, r);
}

int my_wait(struct stoke_session *session, struct stoke_call *call, void (*grown)(void *userdata, const char *name),
        void *userdata) {
        struct stoke_store *store = session->store;
        struct my_news *news = store->news;
        size_t n = 0;
        int r = 0;

        pthread_mutex_lock(&store->mutex);
        session->waiting = true;
        atomic_store(&session->interrupted, false);
        for (;;) {
                uint64_t now = sql_now_ns(), next, until;
                struct timespec at;

                if (atomic_load(&session->interrupted)) {
                        r = sql_fail(call, -ECANCELED, "interrupted");
                        break;
                }
                if (now >= call->deadline_ns)
                        break;
                /* From the last question on, over the calls of wait() too: news upon news must not make it a storm. */
                next = session->asked_ns + (my_news_active(news, now) ? NEWS_FAST_NS : NEWS_IDLE_NS);
                if (now < next) {
                        until = next < call->deadline_ns ? next : call->deadline_ns;
                        at = timespec_of(until);
                        pthread_cond_timedwait(&session->wake, &store->mutex, &at);
                        continue;
                }
                pthread_mutex_unlock(&store->mutex);
                session->asked_ns = now;
                r = ask_once(session, call, &session->beat_ns, grown, userdata, &n);
                pthread_mutex_lock(&store->mutex);
                if (r < 0 || n > 0)
                        break;
        }
        session->waiting = false;
        pthread_mutex_unlock(&store->mutex);
        return r;
}
