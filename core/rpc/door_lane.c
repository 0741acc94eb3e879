#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/door_inside.h"

/*
 * One thread of the door: connections from their arrival until they are handed over or refused. Who has not spoken has only a
 * descriptor; who has spoken gets one of a limited number of handshakes, the sources by turns; who hangs while others wait is put out.
 * Runs on the lane's loop.
 */

#define HUNG_NS NSEC_PER_SEC
#define LINGER_NS NSEC_PER_SEC

static void on_io(struct loop_io *io, uint32_t events);
static void start_waiting(struct door_lane *lane);

/* Sources. */

static void source_key(const struct sockaddr_storage *ss, uint64_t key[2]) {
        key[0] = key[1] = 0;
        if (ss->ss_family == AF_INET) {
                key[1] = ((const struct sockaddr_in *)ss)->sin_addr.s_addr | UINT64_C(0xffff) << 32;
        } else {
                const struct in6_addr *in6 = &((const struct sockaddr_in6 *)ss)->sin6_addr;

                if (IN6_IS_ADDR_V4MAPPED(in6)) {
                        uint32_t v4;

                        memcpy(&v4, in6->s6_addr + 12, 4);
                        key[1] = v4 | UINT64_C(0xffff) << 32;
                } else
                        memcpy(key, in6->s6_addr, 8);
        }
}

static struct door_source *source_get(struct door_lane *lane, const struct sockaddr_storage *ss) {
        struct door_source *source = NULL;
        uint64_t key[2];

        source_key(ss, key);
        HASH_FIND(hh, lane->sources, key, sizeof(key), source);
        if (source)
                return source;
        source = calloc(1, sizeof(*source));
        if (!source)
                return NULL;
        memcpy(source->key, key, sizeof(key));
        TAILQ_INIT(&source->started);
        TAILQ_INIT(&source->waiting);
        HASH_ADD(hh, lane->sources, key, sizeof(source->key), source);
        return source;
}

static void source_put(struct door_lane *lane, struct door_source *source) {
        if (source->n_open)
                return;
        HASH_DEL(lane->sources, source);
        free(source);
}

/* Knocks. */

static void set_timer(struct door_lane *lane) {
        struct door_knock *oldest = TAILQ_FIRST(&lane->knocks);

        if (!oldest)
                loop_timer_clear(&lane->timer);
        else if (!lane->timer.position)
                loop_timer_set(lane->loop, &lane->timer, oldest->came_ns + lane->limits.handshake_ns);
}

/* Out of the state that it is in. */
static void leave_state(struct door_knock *k) {
        struct door_lane *lane = k->lane;
        struct door_source *source = k->source;

        if (k->state == DOOR_WAITING) {
                TAILQ_REMOVE(&source->waiting, k, source_entry);
                if (TAILQ_EMPTY(&source->waiting))
                        TAILQ_REMOVE(&lane->waiting, source, waiting_entry);
        } else if (k->state == DOOR_STARTED) {
                TAILQ_REMOVE(&source->started, k, source_entry);
                TAILQ_REMOVE(&lane->started, k, started_entry);
                source->n_started--;
                lane->n_started--;
        }
        k->state = DOOR_SILENT;
}

/* Takes it off all lists; its transport, if it has one still, goes with it. */
static void knock_free(struct door_knock *k) {
        struct door_lane *lane = k->lane;
        struct door_source *source = k->source;

        leave_state(k);
        loop_timer_clear(&k->timer);
        loop_io_stop(&k->io);
        if (k->transport)
                transport_free(k->transport);
        else if (k->fd >= 0)
                close(k->fd);
        tls_server_unref(k->policy);
        TAILQ_REMOVE(&lane->knocks, k, entry);
        lane->n_open--;
        source->n_open--;
        atomic_fetch_sub_explicit(&lane->door->n_open, 1, memory_order_relaxed);
        metric_add(lane->door->open, -1);
        free(k);
        source_put(lane, source);
}

static void knock_drop(struct door_knock *k, unsigned result, const char *why) {
        struct door_lane *lane = k->lane;

        report_result(lane, result, k->peer, why);
        knock_free(k);
        start_waiting(lane);
}

/* Handshakes. */

/* Refused: it is told, and gets a moment to read that before the descriptor goes, which would take the words back. */
static void on_refusal_time(struct loop_timer *timer) {
        struct door_knock *k = container_of(timer, struct door_knock, timer);

        if (k->told) {
                knock_free(k);
                return;
        }
        k->told = true;
        tls_alert(k->transport);
        (void)shutdown(k->transport->fd, SHUT_WR);
        (void)loop_io_modify(&k->io, EPOLLIN);
        loop_timer_set(k->lane->loop, &k->timer, loop_now_ns(k->lane->loop) + LINGER_NS);
}

/* After the alert: what comes is thrown away, until the end. */
static void discard(struct door_knock *k) {
        uint8_t room[4096];
        ssize_t n = recv(k->transport->fd, room, sizeof(room), 0);

        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
                knock_free(k);
}

static void refuse(struct door_knock *k, enum tls_refusal refusal, const char *why) {
        struct door_lane *lane = k->lane;
        bool secret = refusal == TLS_REFUSAL_UNTRUSTED || refusal == TLS_REFUSAL_REVOKED ||
                refusal == TLS_REFUSAL_UNKNOWN || refusal == TLS_REFUSAL_AMBIGUOUS || refusal == TLS_REFUSAL_EXPIRED;

        report_result(lane, refusal, k->peer, why);
        if (refusal == TLS_REFUSAL_LOST) {
                knock_free(k);
                start_waiting(lane);
                return;
        }
        leave_state(k);
        k->state = DOOR_REFUSING;
        k->timer.on_time = on_refusal_time;
        (void)loop_io_modify(&k->io, 0);
        loop_timer_set(lane->loop, &k->timer, secret ? k->spoke_ns + lane->limits.refusal_ns : 0);
        start_waiting(lane);
}

static void admit(struct door_knock *k) {
        struct door_lane *lane = k->lane;
        struct door *door = lane->door;
        cleanup(error_done) struct error err = {};
        cleanup(tls_server_unrefp) struct tls_server *now = door_policy(door);
        struct transport *transport;
        int one = 1;

        if (now != k->policy && (!now || tls_transport_check(k->transport, now, &err) < 0)) {
                knock_drop(k, now ? TLS_REFUSAL_UNTRUSTED : DOOR_CLOSED, now ? error_text(&err) : "no policy");
                return;
        }
        report_result(lane, TLS_REFUSAL_NONE, k->peer, NULL);
        metric_observe(door->seconds, (double)(clock_now_ns() - k->came_ns) / 1e9);
        loop_io_stop(&k->io);
        /* We have nothing to say at the end of a handshake, and a client that has not set TCP_NODELAY waits with its first request until
         * its last words are acknowledged. */
        (void)setsockopt(k->transport->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof(one));
        transport = steal(k->transport);
        k->fd = -EBADF;
        knock_free(k);
        door->on_admitted(door->userdata, tls_transport_peer(transport)->label, transport);
        start_waiting(lane);
}

static void shake(struct door_knock *k) {
        cleanup(error_done) struct error err = {};
        enum tls_refusal refusal;
        uint32_t events = EPOLLIN;
        int r;

        k->spoke_ns = clock_now_ns();
        r = tls_handshake(k->transport, &events, &refusal, &err);
        if (r > 0)
                admit(k);
        else if (r < 0)
                refuse(k, refusal, error_text(&err));
        else if (k->io.events != events)
                (void)loop_io_modify(&k->io, events);
}

static bool has_place(const struct door_lane *lane, const struct door_source *source) {
        return lane->n_started < lane->limits.max_started && source->n_started < lane->limits.max_started_of_source;
}

static void start(struct door_knock *k) {
        struct door_lane *lane = k->lane;

        leave_state(k);
        k->policy = door_policy(lane->door);
        if (k->policy)
                k->transport = tls_accept_new(k->fd, k->policy);
        if (!k->transport) {
                knock_drop(k, DOOR_CLOSED, k->policy ? "out of memory" : "there is no policy");
                return;
        }
        k->state = DOOR_STARTED;
        k->started_ns = loop_now_ns(lane->loop);
        TAILQ_INSERT_TAIL(&k->source->started, k, source_entry);
        TAILQ_INSERT_TAIL(&lane->started, k, started_entry);
        k->source->n_started++;
        lane->n_started++;
        shake(k);
}

/* Gives free places to those that wait, the sources by turns. */
static void on_start_waiting(struct loop_task *task) {
        struct door_lane *lane = container_of(task, struct door_lane, start_waiting);
        struct door_source *source, *next;
        bool some = true;

        while (some && lane->n_started < lane->limits.max_started) {
                some = false;
                for (source = TAILQ_FIRST(&lane->waiting); source; source = next) {
                        next = TAILQ_NEXT(source, waiting_entry);
                        if (!has_place(lane, source))
                                continue;
                        some = true;
                        TAILQ_REMOVE(&lane->waiting, source, waiting_entry);
                        TAILQ_INSERT_TAIL(&lane->waiting, source, waiting_entry);
                        start(TAILQ_FIRST(&source->waiting));
                        break;
                }
        }
}

static void start_waiting(struct door_lane *lane) {
        if (!TAILQ_EMPTY(&lane->waiting))
                loop_defer(lane->loop, &lane->start_waiting);
}

/* It has had its place for a while, and it is not we who are slow. */
static bool is_hung(const struct door_knock *k) {
        char byte;

        return k->started_ns + HUNG_NS <= loop_now_ns(k->lane->loop) &&
                recv(k->transport->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;
}

/* While somebody waits, those that were given a place and do not use it lose it. */
static void on_hung(struct loop_timer *timer) {
        struct door_lane *lane = container_of(timer, struct door_lane, hung);
        struct door_source *source, *next_source;
        struct door_knock *k, *next;

        if (TAILQ_EMPTY(&lane->waiting))
                return;
        for (k = TAILQ_FIRST(&lane->started); k && lane->n_started >= lane->limits.max_started; k = next) {
                next = TAILQ_NEXT(k, started_entry);
                if (is_hung(k))
                        knock_drop(k, DOOR_EVICTED, "it hung while others waited");
        }
        for (source = TAILQ_FIRST(&lane->waiting); source; source = next_source) {
                next_source = TAILQ_NEXT(source, waiting_entry);
                for (k = TAILQ_FIRST(&source->started); k && source->n_started >= lane->limits.max_started_of_source;
                        k = next) {
                        next = TAILQ_NEXT(k, source_entry);
                        if (is_hung(k))
                                knock_drop(k, DOOR_EVICTED, "it hung while others of its source waited");
                }
        }
        loop_timer_set(lane->loop, &lane->hung, loop_now_ns(lane->loop) + HUNG_NS / 8);
}

/* The first words, or the end. */
static void on_spoke(struct door_knock *k) {
        struct door_lane *lane = k->lane;
        char byte;
        ssize_t n = recv(k->fd, &byte, 1, MSG_PEEK);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) { /* a probe of the port alone: no line */
                knock_drop(k, TLS_REFUSAL_LOST, NULL);
                return;
        }
        if (TAILQ_EMPTY(&k->source->waiting) && has_place(lane, k->source)) {
                start(k);
                return;
        }
        k->state = DOOR_WAITING;
        (void)loop_io_modify(&k->io, 0);
        if (TAILQ_EMPTY(&k->source->waiting))
                TAILQ_INSERT_TAIL(&lane->waiting, k->source, waiting_entry);
        TAILQ_INSERT_TAIL(&k->source->waiting, k, source_entry);
        if (!lane->hung.position)
                loop_timer_set(lane->loop, &lane->hung, loop_now_ns(lane->loop) + HUNG_NS / 8);
}

static void on_io(struct loop_io *io, uint32_t events) {
        struct door_knock *k = container_of(io, struct door_knock, io);

        switch (k->state) {
        case DOOR_SILENT:
                on_spoke(k);
                break;
        case DOOR_WAITING:
                if (events & (EPOLLERR | EPOLLHUP))
                        knock_drop(k, TLS_REFUSAL_LOST, NULL);
                break;
        case DOOR_STARTED:
                shake(k);
                break;
        case DOOR_REFUSING:
                if (k->told)
                        discard(k);
                else if (events & (EPOLLERR | EPOLLHUP))
                        knock_free(k);
                break;
        }
}

static void on_time(struct loop_timer *timer) {
        struct door_lane *lane = container_of(timer, struct door_lane, timer);
        uint64_t now = loop_now_ns(lane->loop);
        struct door_knock *k, *next;

        for (k = TAILQ_FIRST(&lane->knocks); k && k->came_ns + lane->limits.handshake_ns <= now; k = next) {
                next = TAILQ_NEXT(k, entry);
                if (k->state == DOOR_REFUSING)
                        knock_free(k); /* counted already */
                else
                        knock_drop(k, DOOR_TIMEOUT,
                                k->state == DOOR_SILENT ? "it has said nothing in time"
                                                        : "its handshake took too long");
        }
        set_timer(lane);
}

static void name_peer(struct door_knock *k, const struct sockaddr_storage *ss) {
        char host[INET6_ADDRSTRLEN] = "?";

        if (ss->ss_family == AF_INET) {
                const struct sockaddr_in *in = (const struct sockaddr_in *)ss;

                (void)inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
                (void)snprintf(k->peer, sizeof(k->peer), "%s:%u", host, ntohs(in->sin_port));
        } else {
                const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;

                (void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
                (void)snprintf(k->peer, sizeof(k->peer), "[%s]:%u", host, ntohs(in6->sin6_port));
        }
}

void lane_on_accept(void *userdata, int fd) {
        struct door_lane *lane = userdata;
        struct sockaddr_storage ss = {};
        socklen_t size = sizeof(ss);
        struct door_knock *k, *oldest;
        int one = 1;

        if (getpeername(fd, (struct sockaddr *)&ss, &size) < 0) { /* gone already */
                report_result(lane, TLS_REFUSAL_LOST, NULL, NULL);
                close(fd);
                return;
        }
        k = calloc(1, sizeof(*k));
        if (k)
                k->source = source_get(lane, &ss);
        if (!k || !k->source) {
                report_result(lane, DOOR_CLOSED, NULL, "out of memory");
                free(k);
                close(fd);
                return;
        }
        name_peer(k, &ss);
        if (k->source->n_open >= lane->limits.max_open_of_source) {
                report_result(lane, DOOR_TOO_MANY, k->peer, "too many handshakes of one source");
                free(k);
                close(fd);
                return;
        }
        k->lane = lane;
        k->fd = fd;
        k->io.on_io = on_io;
        k->came_ns = loop_now_ns(lane->loop);
        k->source->n_open++;
        lane->n_open++;
        TAILQ_INSERT_TAIL(&lane->knocks, k, entry);
        atomic_fetch_add_explicit(&lane->door->n_open, 1, memory_order_relaxed);
        metric_add(lane->door->open, 1);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (loop_io_start(lane->loop, &k->io, fd, EPOLLIN) < 0) {
                knock_drop(k, DOOR_CLOSED, "out of memory");
                return;
        }
        oldest = TAILQ_FIRST(&lane->knocks);
        if (lane->n_open > lane->limits.max_open)
                knock_drop(oldest, DOOR_EVICTED, "too many handshakes: the oldest goes");
        set_timer(lane);
}

/* Handshakes are many and long; whom they compete with for the processors is served already. */
static void on_begin(struct loop_task *task) {
        (void)task;
        (void)setpriority(PRIO_PROCESS, (id_t)gettid(), 5);
}

static size_t part(size_t whole, unsigned n) {
        return max_of((size_t)1, whole / n);
}

int lane_init(struct door_lane *lane, struct door *door, const struct door_limits *limits, unsigned i) {
        char name[16];
        int r;

        lane->door = door;
        lane->limits = *limits;
        lane->limits.max_open = part(limits->max_open, door->n_lanes);
        lane->limits.max_open_of_source = part(limits->max_open_of_source, door->n_lanes);
        lane->limits.max_started = part(limits->max_started, door->n_lanes);
        lane->limits.max_started_of_source = part(limits->max_started_of_source, door->n_lanes);
        TAILQ_INIT(&lane->waiting);
        TAILQ_INIT(&lane->knocks);
        TAILQ_INIT(&lane->started);
        lane->timer.on_time = on_time;
        lane->hung.on_time = on_hung;
        lane->report_timer.on_time = report_on_time;
        lane->start_waiting.run = on_start_waiting;
        lane->begin.run = on_begin;
        (void)snprintf(name, sizeof(name), "door-%u", i);
        r = loop_new(name, &lane->loop);
        if (r >= 0)
                loop_post(lane->loop, &lane->begin);
        return r;
}

void lane_close(struct door_lane *lane) {
        if (!lane->loop)
                return;
        listener_free(steal(lane->listener));
        while (!TAILQ_EMPTY(&lane->knocks))
                knock_free(TAILQ_FIRST(&lane->knocks));
        loop_undefer(lane->loop, &lane->start_waiting);
        loop_timer_clear(&lane->timer);
        loop_timer_clear(&lane->hung);
        loop_timer_clear(&lane->report_timer);
        report_on_time(&lane->report_timer); /* what was left out */
}
