/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How daemons hear of each other where the server has no notifications: a row a daemon in the catalogue's `daemons`, which only that daemon
 * writes.
 *   beat     grows every ten seconds while it listens: who sees it grow knows that somebody wants to be told
 *   counter  grows with each message
 *   recent   what has grown of late, newest first: "NUMBER NAME" a line, NUMBER the counter at that time
 * A listener asks for the rows that differ from what it knows: one question for all keyspaces, without an answer most of the time; twenty times a
 * second while somebody else writes, once a second else. A writer sends a message before its first append after a pause, so
 * that the listeners make haste. Messages are gathered, off the path of the appends, in a session of their own, and not
 * sent where nobody listens. A message that is lost costs a second: the host asks for ends besides.
 *
 * No clocks are compared: each daemon times what it sees by its own.
 */

#include <pthread.h>

#include "mysql_driver.h"

#define NEWS_PEERS 64            /* more are not told from strangers: every one of their rows is news */
#define NEWS_FAST_NS 50000000ull /* between two questions */
#define NEWS_IDLE_NS 1000000000ull
#define NEWS_ACTIVE_NS 10000000000ull /* so long after a message its sender counts as active */
#define NEWS_BEAT_NS 10000000000ull
#define NEWS_LISTENS_NS 30000000000ull /* so long after a beat its sender counts as listening */
#define NEWS_GONE_NS 3600000000000ull  /* a row that has not changed for so long is removed */
#define NEWS_GATHER_NS 25000000ull     /* between two messages */
#define NEWS_PAUSE_NS 5000000000ull    /* after so long without an append the next one is announced */
#define NEWS_KEPT_NS 3000000000ull     /* so long a name stays in `recent` */
#define NEWS_NAMES 512

struct my_peer {
        uint8_t daemon[16];
        uint64_t beat, counter;
        uint64_t beat_ns, counter_ns; /* when we saw them change last */
};

struct my_grown {
        char name[SQL_NAME_MAX + 1];
        uint64_t number, at_ns;
};

/* All under store->mutex. */
struct my_news {
        struct my_peer peers[NEWS_PEERS];
        size_t n_peers;
        uint64_t asked_ns; /* the last question that was answered; 0: none yet */

        struct my_grown grown[NEWS_NAMES]; /* unordered */
        size_t n_grown;
        uint64_t counter; /* of the last message */
        bool pending;     /* something is not in a message yet */
        uint64_t appended_ns;

        pthread_t notifier;
        pthread_cond_t changed;
        bool started, stopping;
        struct stoke_session *session; /* the notifier's */
};

/* Asks for what is new, on a connected session, and visits the names (grown may be NULL). */
int my_news_ask(struct stoke_session *session, struct stoke_call *call, void (*grown)(void *userdata, const char *name),
        void *userdata, size_t *ret_n);
/* With store->mutex. */
bool my_news_listened(const struct my_news *news, uint64_t now);
bool my_news_active(const struct my_news *news, uint64_t now);
