/*
 * A limit of bytes a second that streams share: a point in time up to which what went by is paid for. Who takes bytes moves it on, and pauses
 * until a burst's length before it. A mutex, held for a few instructions. Any thread.
 */

#include <pthread.h>

#include "keyspace/stream.h"

#define BURST_NS (100 * NSEC_PER_MSEC)

struct throttle {
        pthread_mutex_t mutex;
        uint64_t bytes_per_second; /* 0: none */
        uint64_t paid_ns;
};

struct throttle *throttle_new(uint64_t bytes_per_second) {
        struct throttle *t = new0(struct throttle);

        pthread_mutex_init(&t->mutex, NULL);
        t->bytes_per_second = bytes_per_second;
        return t;
}

void throttle_free(struct throttle *t) {
        if (!t)
                return;
        pthread_mutex_destroy(&t->mutex);
        free(t);
}

void throttle_set(struct throttle *t, uint64_t bytes_per_second) {
        pthread_mutex_lock(&t->mutex);
        t->bytes_per_second = bytes_per_second;
        t->paid_ns = 0;
        pthread_mutex_unlock(&t->mutex);
}

uint64_t throttle_get(const struct throttle *t) {
        pthread_mutex_t *mutex = (pthread_mutex_t *)&t->mutex;
        uint64_t rate;

        pthread_mutex_lock(mutex);
        rate = t->bytes_per_second;
        pthread_mutex_unlock(mutex);
        return rate;
}

uint64_t throttle_take(struct throttle *t, uint64_t bytes) {
        uint64_t now = clock_now_ns(), wait = 0;

        if (!t)
                return 0;
        pthread_mutex_lock(&t->mutex);
        if (t->bytes_per_second) {
                t->paid_ns = max_of(t->paid_ns, now);
                t->paid_ns += (uint64_t)((double)bytes / (double)t->bytes_per_second * 1e9);
                wait = t->paid_ns - now > BURST_NS ? t->paid_ns - now - BURST_NS : 0;
        }
        pthread_mutex_unlock(&t->mutex);
        return wait;
}
