#include <netdb.h>
#include <pthread.h>

#include "base/thread.h"
#include "rpc/client_call.h"

/*
 * A host's addresses. getaddrinfo() blocks for as long as a resolver likes, so each lookup has a thread, which nobody waits for: whoever is
 * not interested any more abandons it, and it frees itself.
 */

struct client_lookup {
        pthread_mutex_t lock; /* of loop */
        struct loop *loop;    /* borrowed; NULL: abandoned */
        struct loop_task task;
        char *host, *port; /* owned */
        void (*done)(void *userdata, struct client_place *places, size_t n_places, const char *error);
        void *userdata;
        struct client_place *places; /* owned */
        size_t n_places;
        int error; /* getaddrinfo's */
};

static void lookup_free(struct client_lookup *l) {
        pthread_mutex_destroy(&l->lock);
        free(l->host);
        free(l->port);
        free(l->places);
        free(l);
}

static void on_found(struct loop_task *task) {
        struct client_lookup *l = container_of(task, struct client_lookup, task);

        /* The thread may hold it still, behind its loop_post(). */
        pthread_mutex_lock(&l->lock);
        pthread_mutex_unlock(&l->lock);
        if (l->loop)
                l->done(l->userdata, steal(l->places), l->n_places,
                        l->n_places        ? NULL
                                : l->error ? gai_strerror(l->error)
                                           : "it has no address");
        lookup_free(l);
}

static void *run(void *userdata) {
        const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
        struct client_lookup *l = userdata;
        struct addrinfo *list = NULL;
        bool abandoned;

        l->error = getaddrinfo(l->host, l->port, &hints, &list);
        for (struct addrinfo *a = l->error ? NULL : list; a; a = a->ai_next) {
                struct client_place *more = reallocarray(l->places, l->n_places + 1, sizeof(*more));

                if (!more)
                        break;
                l->places = more;
                more[l->n_places] = (struct client_place){.size = a->ai_addrlen};
                memcpy(&more[l->n_places++].address, a->ai_addr, a->ai_addrlen);
        }
        if (list)
                freeaddrinfo(list);

        pthread_mutex_lock(&l->lock);
        abandoned = !l->loop;
        if (!abandoned)
                loop_post(l->loop, &l->task);
        pthread_mutex_unlock(&l->lock);
        if (abandoned)
                lookup_free(l);
        return NULL;
}

int client_lookup(struct loop *loop, const char *host, const char *port,
        void (*done)(void *userdata, struct client_place *places, size_t n_places, const char *error), void *userdata,
        struct client_lookup **ret) {
        struct client_lookup *l = new0(struct client_lookup);
        pthread_t thread;
        int r = -ENOMEM;

        pthread_mutex_init(&l->lock, NULL);
        l->loop = loop;
        l->done = done;
        l->userdata = userdata;
        l->task.run = on_found;
        l->host = strdup(host);
        l->port = strdup(port);
        if (l->host && l->port)
                r = thread_start(&thread, "lookup", run, l);
        if (r < 0) {
                lookup_free(l);
                return r;
        }
        (void)pthread_detach(thread);
        *ret = l;
        return 0;
}

void client_lookup_abandon(struct client_lookup *l) {
        if (!l)
                return;
        pthread_mutex_lock(&l->lock);
        l->loop = NULL; /* on the loop's thread: a task that is posted sees it */
        pthread_mutex_unlock(&l->lock);
}
