/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Telling other daemons. See mysql_news.h. The notifier is a thread of the store's, started by its first append, with a session of its own that
 * it gives up when there is nothing to tell; appends only leave a name.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mysql_news.h"

#define MESSAGE_NS 3000000000ull  /* one message may take so long */
#define RETRY_NS 1000000000ull    /* after a failure */
#define HANG_UP_NS 60000000000ull /* without anything to tell */
#define KNOWN_NS 2000000000ull    /* what is known of the listeners is good for so long */

struct my_news *my_news_new(void) {
        struct my_news *news = calloc(1, sizeof(*news));
        pthread_condattr_t attr;

        if (!news)
                return NULL;
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&news->changed, &attr);
        pthread_condattr_destroy(&attr);
        return news;
}

/* ---- messages */

/* With store->mutex: the next message's number, and what it says. */
static uint64_t compose(struct my_news *news, struct my_text *ret) {
        uint64_t now = sql_now_ns(), number;
        struct timespec ts;
        size_t n = 0;

        /* Above what an earlier store of this daemon has sent. */
        clock_gettime(CLOCK_REALTIME, &ts);
        number = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
        if (number <= news->counter)
                number = news->counter + 1;
        news->counter = number;
        my_text_reset(ret);
        for (size_t i = 0; i < news->n_grown; i++) {
                struct my_grown *grown = &news->grown[i];

                if (grown->number == 0)
                        grown->number = number;
                if (now - grown->at_ns > NEWS_KEPT_NS)
                        continue;
                my_text_format(ret, "%llu %s\n", (unsigned long long)grown->number, grown->name);
                news->grown[n++] = *grown;
        }
        news->n_grown = n;
        news->pending = false;
        return number;
}

static int send_message(struct stoke_session *session, struct my_text *recent, struct stoke_call *call) {
        struct stoke_store *store = session->store;
        struct my_text *text = &session->text;
        uint64_t now = sql_now_ns(), number;
        bool known, listened;
        size_t n;
        int r;

        pthread_mutex_lock(&store->mutex);
        known = now - store->news->asked_ns < KNOWN_NS;
        pthread_mutex_unlock(&store->mutex);
        if (!known) {
                /* Nobody listens in this daemon, or it has not begun to. */
                r = my_news_ask(session, call, NULL, NULL, &n);
                if (r < 0)
                        return r;
        }
        pthread_mutex_lock(&store->mutex);
        number = compose(store->news, recent);
        listened = my_news_listened(store->news, sql_now_ns());
        pthread_mutex_unlock(&store->mutex);
        if (!listened)
                return 0;
        if (recent->failed)
                return my_no_memory(call);
        my_catalogue_text(session, "INSERT INTO @.daemons (daemon, beat, counter, recent) VALUES (");
        my_text_hex(text, store->host->daemon, 16);
        my_text_format(text, ", 0, %llu, ", (unsigned long long)number);
        my_text_bytes(text, session->mysql, recent->data ? recent->data : "", recent->size);
        my_text_format(text, ") ON DUPLICATE KEY UPDATE counter = %llu, recent = ", (unsigned long long)number);
        my_text_bytes(text, session->mysql, recent->data ? recent->data : "", recent->size);
        return my_query(session, call);
}

/* ---- the thread */

/* With store->mutex; false: stopping. */
static bool sleep_until(struct stoke_store *store, uint64_t ns) {
        struct timespec at = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};

        while (!store->news->stopping && pthread_cond_timedwait(&store->news->changed, &store->mutex, &at) != ETIMEDOUT)
                ;
        return !store->news->stopping;
}

static int tell(struct stoke_session *session, struct my_text *recent) {
        char reason[256] = "";
        struct stoke_call call = {.size = sizeof(call),
                .deadline_ns = sql_now_ns() + MESSAGE_NS,
                .reason = reason,
                .reason_size = sizeof(reason)};
        int r;

        r = my_begin(session, true, &call);
        return r < 0 ? r : my_end(session, send_message(session, recent, &call));
}

static void *notify(void *userdata) {
        struct stoke_store *store = userdata;
        struct my_news *news = store->news;
        struct stoke_session *session = NULL;
        struct my_text recent = {};

        if (my_session_new(store, NULL, &session) < 0)
                return NULL;
        session->hints = true;
        pthread_mutex_lock(&store->mutex);
        news->session = session;
        while (!news->stopping) {
                int r;

                if (!news->pending) {
                        uint64_t until = sql_now_ns() + HANG_UP_NS;
                        struct timespec at = {
                                .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};

                        if (pthread_cond_timedwait(&news->changed, &store->mutex, &at) == ETIMEDOUT && session->mysql) {
                                pthread_mutex_unlock(&store->mutex);
                                my_hang_up(session);
                                pthread_mutex_lock(&store->mutex);
                        }
                        continue;
                }
                pthread_mutex_unlock(&store->mutex);
                r = tell(session, &recent);
                pthread_mutex_lock(&store->mutex);
                if (r < 0)
                        news->pending = true;
                if (!sleep_until(store, sql_now_ns() + (r < 0 ? RETRY_NS : NEWS_GATHER_NS)))
                        break;
        }
        news->session = NULL;
        pthread_mutex_unlock(&store->mutex);
        my_text_done(&recent);
        my_session_free(session);
        return NULL;
}

/* With store->mutex. Without a thread nothing is told: others see the log's ends once a second. */
static void start(struct stoke_store *store) {
        sigset_t all, before;

        if (store->news->started)
                return;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        store->news->started = pthread_create(&store->news->notifier, NULL, notify, store) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void my_news_stop(struct stoke_store *store) {
        struct my_news *news = store->news;
        struct timespec at;

        if (!news)
                return;
        pthread_mutex_lock(&store->mutex);
        news->stopping = true;
        pthread_cond_broadcast(&news->changed);
        pthread_mutex_unlock(&store->mutex);
        /* It may be about to begin a question: interrupted until it has gone. */
        while (news->started) {
                struct stoke_session *session;

                pthread_mutex_lock(&store->mutex);
                session = news->session;
                if (session)
                        my_interrupt_locked(session);
                pthread_mutex_unlock(&store->mutex);
                clock_gettime(CLOCK_REALTIME, &at);
                at.tv_nsec += 20000000;
                if (at.tv_nsec >= 1000000000) {
                        at.tv_nsec -= 1000000000;
                        at.tv_sec++;
                }
                if (pthread_timedjoin_np(news->notifier, NULL, &at) == 0)
                        break;
        }
        pthread_cond_destroy(&news->changed);
        free(news);
        store->news = NULL;
}

/* ---- what appends leave */

/* Is there somebody to tell? Else not even the thread is woken. */
static bool is_wanted(const struct my_news *news, uint64_t now) {
        return now - news->asked_ns >= KNOWN_NS || my_news_listened(news, now);
}

static void wake(struct stoke_store *store) {
        start(store);
        if (!store->news->pending) {
                store->news->pending = true;
                pthread_cond_signal(&store->news->changed);
        }
}

void my_news_announce(struct stoke_store *store) {
        struct my_news *news = store->news;
        uint64_t now = sql_now_ns();

        pthread_mutex_lock(&store->mutex);
        if (now - news->appended_ns > NEWS_PAUSE_NS && is_wanted(news, now))
                wake(store);
        news->appended_ns = now;
        pthread_mutex_unlock(&store->mutex);
}

void my_news_grown(struct stoke_store *store, const char *name) {
        struct my_news *news = store->news;
        uint64_t now = sql_now_ns();
        size_t i, oldest = 0;

        pthread_mutex_lock(&store->mutex);
        news->appended_ns = now;
        if (!is_wanted(news, now))
                goto out;
        for (i = 0; i < news->n_grown; i++) {
                if (strcmp(news->grown[i].name, name) == 0)
                        break;
                if (news->grown[i].at_ns < news->grown[oldest].at_ns)
                        oldest = i;
        }
        if (i == NEWS_NAMES)
                i = oldest; /* the host sees it within a second */
        else if (i == news->n_grown)
                news->n_grown++;
        news->grown[i] = (struct my_grown){.at_ns = now};
        snprintf(news->grown[i].name, sizeof(news->grown[i].name), "%s", name);
        wake(store);
out:
        pthread_mutex_unlock(&store->mutex);
}
