#include "rpc/door.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "rpc/door_inside.h"

/* The door as a whole: the socket, which all lanes accept from, and the policy, which is replaced under a lock. Any thread. */

static void use_defaults(struct door_limits *l) {
        l->handshake_ns = l->handshake_ns ? l->handshake_ns : 10 * NSEC_PER_SEC;
        l->refusal_ns = l->refusal_ns ? l->refusal_ns : 50 * NSEC_PER_MSEC;
        l->max_open = l->max_open ? l->max_open : 8192;
        l->max_open_of_source = l->max_open_of_source ? l->max_open_of_source : 2048;
        l->max_started = l->max_started ? l->max_started : 1024;
        l->max_started_of_source = l->max_started_of_source ? l->max_started_of_source : 256;
}

struct tls_server *door_policy(struct door *door) {
        struct tls_server *policy;

        pthread_mutex_lock(&door->lock);
        policy = door->policy ? tls_server_ref(door->policy) : NULL;
        pthread_mutex_unlock(&door->lock);
        return policy;
}

void door_set_policy(struct door *door, struct tls_server *policy) {
        struct tls_server *before;

        if (policy)
                tls_server_ref(policy);
        pthread_mutex_lock(&door->lock);
        before = door->policy;
        door->policy = policy;
        pthread_mutex_unlock(&door->lock);
        tls_server_unref(before);
}

const char *door_address(const struct door *door) {
        return door->address;
}

size_t door_n_open(const struct door *door) {
        return atomic_load_explicit(&((struct door *)door)->n_open, memory_order_relaxed);
}

/* The first lane opens the socket, the others have a copy of its descriptor each. */
static int open_socket(struct door *door, const struct door_config *config, struct error *reterr) {
        struct door_lane *lane = &door->lanes[0];
        const char *address;
        int r;

        r = config->fd > 0
                ? listener_new_from_fd(lane->loop, config->fd, lane_on_accept, lane, &lane->listener, reterr)
                : listener_new(lane->loop, config->address, 0, lane_on_accept, lane, &lane->listener, reterr);
        if (r < 0)
                return r;
        address = listener_address(lane->listener);
        if (strncmp(address, "tcp:", 4) != 0 && strncmp(address, "tls:", 4) != 0)
                return error_set(reterr, -EINVAL, "%s: TLS is for TCP", address);
        if (asprintf(&door->address, "tls:%s", address + 4) < 0) {
                door->address = NULL;
                return -ENOMEM;
        }
        for (unsigned i = 1; i < door->n_lanes; i++) {
                int fd = fcntl(listener_fd(lane->listener), F_DUPFD_CLOEXEC, 0);

                if (fd < 0)
                        return error_set(reterr, -errno, "%s: %s", door->address, strerror(errno));
                r = listener_new_from_fd(
                        door->lanes[i].loop, fd, lane_on_accept, &door->lanes[i], &door->lanes[i].listener, reterr);
                if (r < 0) {
                        close(fd);
                        return r;
                }
        }
        return 0;
}

int door_new(const struct door_config *config, struct door **ret, struct error *reterr) {
        cleanup(door_freep) struct door *door = NULL;
        struct door_limits limits = config->limits;
        int r;

        use_defaults(&limits);
        door = new0(struct door);
        pthread_mutex_init(&door->lock, NULL);
        door->on_admitted = config->on_admitted;
        door->userdata = config->userdata;
        if (config->policy)
                door->policy = tls_server_ref(config->policy);
        door->n_lanes = config->n_threads ? config->n_threads : sysconf(_SC_NPROCESSORS_ONLN) >= 4 ? 2 : 1;
        door->lanes = xcalloc(door->n_lanes, sizeof(*door->lanes));
        report_init(door);
        for (unsigned i = 0; i < door->n_lanes; i++) {
                r = lane_init(&door->lanes[i], door, &limits, i);
                if (r < 0)
                        return error_set(reterr, r, "door: %s", strerror(-r));
        }
        r = open_socket(door, config, reterr);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < door->n_lanes; i++) {
                r = loop_start_thread(door->lanes[i].loop);
                if (r < 0)
                        return error_set(reterr, r, "door: %s", strerror(-r));
                door->lanes[i].runs = true;
        }
        *ret = steal(door);
        return 0;
}

void door_free(struct door *door) {
        if (!door)
                return;
        for (unsigned i = 0; i < door->n_lanes; i++)
                if (door->lanes[i].runs)
                        loop_stop(door->lanes[i].loop);
        for (unsigned i = 0; i < door->n_lanes; i++) {
                struct door_lane *lane = &door->lanes[i];

                if (lane->runs)
                        loop_join(lane->loop);
                lane_close(lane);
                loop_free(lane->loop);
        }
        tls_server_unref(door->policy);
        pthread_mutex_destroy(&door->lock);
        free(door->lanes);
        free(door->address);
        free(door);
}
