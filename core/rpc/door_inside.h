#pragma once

/*
 * The inside of the door, shared by door.c (the whole), door_lane.c (one thread of it) and door_report.c (what it tells). Nobody else includes it.
 *
 * Each thread is a lane, which shares nothing with the others but the listening socket and the policy; the limits are divided among them.
 */

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <uthash.h>

#include "base/loop.h"
#include "base/metrics.h"
#include "rpc/door.h"
#include "rpc/listener.h"

/* What becomes of a knock, beyond tls_refusal. */
enum door_result {
        DOOR_TIMEOUT = TLS_REFUSAL_N, /* its time was over */
        DOOR_EVICTED,                 /* it hung while others waited */
        DOOR_TOO_MANY,                /* of its source */
        DOOR_CLOSED,                  /* there is no policy, or the daemon is short of something */
        DOOR_N
};

struct door_source {
        uint64_t key[2]; /* an IPv4 address mapped, or an IPv6 /64 */
        UT_hash_handle hh;
        size_t n_open, n_started;
        TAILQ_HEAD(door_knocks, door_knock) started; /* in order of beginning */
        struct door_knocks waiting;                  /* have spoken, and have no place yet */
        TAILQ_ENTRY(door_source) waiting_entry;      /* of the lane, while there are such */
};

enum door_state {
        DOOR_SILENT,   /* has not spoken: costs its descriptor */
        DOOR_WAITING,  /* has, and waits for its turn */
        DOOR_STARTED,  /* its handshake is under way */
        DOOR_REFUSING, /* is refused, and told after a while */
};

struct door_knock {
        struct door_lane *lane;
        struct door_source *source;
        enum door_state state;
        TAILQ_ENTRY(door_knock) entry;         /* of the lane: in order of arrival */
        TAILQ_ENTRY(door_knock) source_entry;  /* of the source: started or waiting */
        TAILQ_ENTRY(door_knock) started_entry; /* of the lane */
        int fd;                                /* owned, until transport has it */
        struct transport *transport;           /* owned; NULL: not started */
        struct tls_server *policy;             /* ref: of its handshake */
        struct loop_io io;
        struct loop_timer timer; /* REFUSING */
        uint64_t came_ns, started_ns;
        uint64_t spoke_ns; /* its last words came */
        bool told;         /* the alert is away, the peer has a moment to read it */
        char peer[64];
};

/* A few lines in a while for each result. */
struct door_report {
        uint64_t since_ns;
        unsigned n_lines, n_left_out;
};

struct door_lane {
        struct door *door; /* borrowed */
        struct loop *loop; /* owned */
        bool runs;
        struct listener *listener;   /* owned */
        struct door_limits limits;   /* its part */
        struct door_source *sources; /* uthash */
        TAILQ_HEAD(, door_source) waiting;
        struct door_knocks knocks;
        struct door_knocks started;
        size_t n_open, n_started;
        struct loop_timer timer; /* of the oldest */
        struct loop_timer hung;  /* while somebody waits */
        struct loop_timer report_timer;
        struct door_report reports[DOOR_N];
        struct loop_task start_waiting; /* deferred */
        struct loop_task begin;
};

struct door {
        char *address; /* owned */
        void (*on_admitted)(void *userdata, const char *label, struct transport *transport);
        void *userdata;
        pthread_mutex_t lock;      /* of policy */
        struct tls_server *policy; /* ref; may be NULL */
        atomic_size_t n_open;
        struct metric *results[DOOR_N];
        struct metric *open, *seconds;
        struct door_lane *lanes; /* owned */
        unsigned n_lanes;
};

/* A reference, or NULL. Any thread. */
struct tls_server *door_policy(struct door *door);

/* Before the loop runs. */
int lane_init(struct door_lane *lane, struct door *door, const struct door_limits *limits, unsigned i);
/* On the lane's thread, or after it. */
void lane_close(struct door_lane *lane);
void lane_on_accept(void *userdata, int fd);

void report_init(struct door *door);
/* Counts it and, if there is a reason, logs it, unless there were many of late. */
void report_result(struct door_lane *lane, unsigned result, const char *peer, const char *why);
void report_on_time(struct loop_timer *timer);
