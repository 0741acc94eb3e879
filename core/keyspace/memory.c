/*
 * The budget. See the header for who may do what; posting to a loop does not block, so it is done under the mutex, which makes it
 * certain that a user is still there when it is posted to. A user lives as long as a task of it is posted.
 */

#include "keyspace/memory.h"

#include <pthread.h>
#include <sys/queue.h>

#include "base/owner.h"

#define CACHE_LEAST ((uint64_t)1024 * 1024) /* left to each cache, if the budget is not small */
#define ROUND_NS NSEC_PER_SEC               /* between asking everybody and asking everybody again */

struct memory_user {
        struct memory *memory; /* borrowed, or NULL */
        struct loop *loop;     /* borrowed */
        struct memory_handlers handlers;
        void *userdata;
        bool dead;                  /* the loop's */
        _Atomic uint64_t published; /* in memory->state_bytes; written by the loop */
        _Atomic uint64_t used_ns;   /* written by the loop */
        struct loop_task task;

        /* Under the mutex. */
        TAILQ_ENTRY(memory_user) entry;
        bool open, waits, hopeless, posted;
        enum { TELL_NOTHING, TELL_CLOSE, TELL_GRANTED, TELL_REFUSED } tell;
        uint64_t round; /* in which it was asked last */
};

struct memory {
        uint64_t max_bytes, idle_ns;
        _Atomic uint64_t state_bytes, value_bytes, n_closed, n_refused, freed_bytes;
        _Atomic uint64_t next_round_ns; /* growth alone asks again from then on */

        pthread_mutex_t mutex;
        TAILQ_HEAD(, memory_user) users;
        struct memory_cache *caches;
        _Atomic uint64_t n_caches;
        struct memory_user *busy; /* is being asked, or frees what it has */
        uint64_t round;
};

static uint64_t get(const _Atomic uint64_t *n) {
        return atomic_load_explicit(n, memory_order_relaxed);
}

static void add(_Atomic uint64_t *n, uint64_t delta) {
        atomic_fetch_add_explicit(n, delta, memory_order_relaxed);
}

struct memory *memory_new(uint64_t max_bytes, uint64_t idle_ns) {
        struct memory *m = new0(struct memory);

        m->max_bytes = max_bytes;
        m->idle_ns = idle_ns;
        m->round = 1;
        TAILQ_INIT(&m->users);
        pthread_mutex_init(&m->mutex, NULL);
        return m;
}

void memory_free(struct memory *m) {
        if (!m)
                return;
        check(TAILQ_EMPTY(&m->users) && !m->caches);
        pthread_mutex_destroy(&m->mutex);
        free(m);
}

void memory_get_figures(const struct memory *m, struct memory_figures *ret) {
        *ret = (struct memory_figures){};
        if (!m)
                return;
        ret->max_bytes = m->max_bytes;
        ret->state_bytes = get(&m->state_bytes);
        ret->value_bytes = get(&m->value_bytes);
        ret->n_closed = get(&m->n_closed);
        ret->n_refused = get(&m->n_refused);
        ret->freed_bytes = get(&m->freed_bytes);
}

/* The share of the caches that no state may take. */
static uint64_t least(const struct memory *m) {
        return min_of(get(&m->n_caches) * CACHE_LEAST, m->max_bytes / 8);
}

uint64_t memory_most(const struct memory *m) {
        return m && m->max_bytes ? m->max_bytes - least(m) : UINT64_MAX;
}

static bool state_fits(const struct memory *m) {
        return get(&m->state_bytes) <= memory_most(m);
}

/* ---- deciding. All with the mutex. */

static void tell(struct memory_user *u, int what) {
        u->tell = what;
        if (u->posted)
                return;
        u->posted = true;
        loop_post(u->loop, &u->task);
}

static void tell_caches(struct memory *m) {
        if (get(&m->value_bytes) + get(&m->state_bytes) <= m->max_bytes)
                return;
        for (struct memory_cache *c = m->caches; c; c = c->next)
                if (!c->posted) {
                        c->posted = true;
                        loop_post(c->loop, &c->task);
                }
}

/* The one that was used longest ago, of those not asked yet. */
static struct memory_user *find_idle(struct memory *m) {
        struct memory_user *u, *oldest = NULL;
        uint64_t since = clock_now_ns();

        since -= min_of(since, m->idle_ns);
        TAILQ_FOREACH(u, &m->users, entry)
                if (u->open && u->round != m->round && get(&u->used_ns) <= since &&
                        (!oldest || get(&u->used_ns) < get(&oldest->used_ns)))
                        oldest = u;
        return oldest;
}

/* The largest: then the others find room. */
static struct memory_user *find_waiting(struct memory *m) {
        struct memory_user *u, *largest = NULL;

        TAILQ_FOREACH(u, &m->users, entry)
                if (u->waits && (!largest || get(&u->published) > get(&largest->published)))
                        largest = u;
        return largest;
}

static void press(struct memory *m) {
        struct memory_user *u;

        tell_caches(m);
        if (m->busy)
                return;
        if (state_fits(m)) {
                TAILQ_FOREACH(u, &m->users, entry)
                        if (u->waits) {
                                u->waits = false;
                                tell(u, TELL_GRANTED);
                        }
                return;
        }
        TAILQ_FOREACH(u, &m->users, entry)
                if (u->waits && u->hopeless)
                        break;
        if (!u)
                u = find_idle(m);
        if (u && !u->waits) {
                u->round = m->round;
                m->busy = u;
                tell(u, TELL_CLOSE);
                return;
        }
        if (!u)
                u = find_waiting(m);
        if (!u)
                return;
        u->waits = false;
        m->busy = u;
        add(&m->n_refused, 1);
        tell(u, TELL_REFUSED);
}

static void begin_round(struct memory *m) {
        m->round++;
        atomic_store_explicit(&m->next_round_ns, clock_now_ns() + ROUND_NS, memory_order_relaxed);
}

void memory_poke(struct memory *m) {
        if (!m || !m->max_bytes)
                return;
        pthread_mutex_lock(&m->mutex);
        begin_round(m);
        press(m);
        pthread_mutex_unlock(&m->mutex);
}

/* ---- users */

static void unref(struct memory_user *u) {
        if (!u->posted && u->dead)
                free(u);
}

/* On the user's loop. */
static void on_told(struct loop_task *task) {
        struct memory_user *u = container_of(task, struct memory_user, task);
        int told;

        pthread_mutex_lock(&u->memory->mutex);
        told = u->tell;
        u->tell = TELL_NOTHING;
        u->posted = false;
        pthread_mutex_unlock(&u->memory->mutex);
        if (u->dead) {
                unref(u);
                return;
        }
        if (told == TELL_CLOSE) {
                if (u->handlers.close(u->userdata))
                        add(&u->memory->n_closed, 1);
                else
                        memory_done(u);
        } else if (told != TELL_NOTHING)
                u->handlers.answer(u->userdata, told == TELL_GRANTED);
}

struct memory_user *memory_user_new(
        struct memory *m, struct loop *loop, const struct memory_handlers *handlers, void *userdata) {
        struct memory_user *u = new0(struct memory_user);

        u->memory = m && m->max_bytes ? m : NULL;
        u->loop = loop;
        u->handlers = *handlers;
        u->userdata = userdata;
        u->task.run = on_told;
        u->task.owner = owner_get();
        if (!u->memory)
                return u;
        pthread_mutex_lock(&m->mutex);
        TAILQ_INSERT_TAIL(&m->users, u, entry);
        pthread_mutex_unlock(&m->mutex);
        return u;
}

void memory_user_free(struct memory_user *u) {
        struct memory *m;
        bool posted;

        if (!u)
                return;
        m = u->memory;
        u->dead = true;
        if (!m) {
                free(u);
                return;
        }
        add(&m->state_bytes, 0 - get(&u->published));
        pthread_mutex_lock(&m->mutex);
        TAILQ_REMOVE(&m->users, u, entry);
        posted = u->posted;
        if (m->busy == u)
                m->busy = NULL;
        press(m);
        pthread_mutex_unlock(&m->mutex);
        if (!posted)
                free(u);
}

void memory_set(struct memory_user *u, size_t bytes, bool exactly) {
        struct memory *m = u->memory;
        uint64_t before = get(&u->published);

        if (!m || before == bytes || (!exactly && bytes < before + MEMORY_STEP && before < bytes + MEMORY_STEP))
                return;
        atomic_store_explicit(&u->published, bytes, memory_order_relaxed);
        add(&m->state_bytes, bytes - before);
        if (bytes < before && !u->open) /* of which nobody but this thread tells */
                add(&m->freed_bytes, before - bytes);
        if (bytes < before || get(&m->state_bytes) + get(&m->value_bytes) <= m->max_bytes)
                return;
        if (clock_now_ns() >= get(&m->next_round_ns)) {
                memory_poke(m);
                return;
        }
        pthread_mutex_lock(&m->mutex);
        tell_caches(m);
        pthread_mutex_unlock(&m->mutex);
}

void memory_used(struct memory_user *u, uint64_t now_ns) {
        atomic_store_explicit(&u->used_ns, now_ns, memory_order_relaxed);
}

uint64_t memory_used_ns(const struct memory_user *u) {
        return get(&u->used_ns);
}

void memory_set_open(struct memory_user *u, bool open) {
        if (!u->memory)
                return;
        pthread_mutex_lock(&u->memory->mutex);
        u->open = open;
        pthread_mutex_unlock(&u->memory->mutex);
}

bool memory_fits(const struct memory_user *u) {
        return !u->memory || state_fits(u->memory);
}

void memory_wait(struct memory_user *u, bool hopeless) {
        struct memory *m = u->memory;

        pthread_mutex_lock(&m->mutex);
        u->waits = true;
        u->hopeless = hopeless || get(&u->published) > memory_most(m);
        begin_round(m);
        press(m);
        pthread_mutex_unlock(&m->mutex);
}

void memory_done(struct memory_user *u) {
        struct memory *m = u->memory;

        if (!m)
                return;
        pthread_mutex_lock(&m->mutex);
        u->waits = false;
        if (m->busy == u)
                m->busy = NULL;
        press(m);
        pthread_mutex_unlock(&m->mutex);
}

/* ---- caches */

void memory_cache_add(struct memory *m, struct loop *loop, struct memory_cache *c) {
        c->memory = m && m->max_bytes ? m : NULL;
        c->loop = loop;
        if (!c->memory)
                return;
        pthread_mutex_lock(&m->mutex);
        c->next = m->caches;
        m->caches = c;
        pthread_mutex_unlock(&m->mutex);
        add(&m->n_caches, 1);
}

void memory_cache_remove(struct memory_cache *c) {
        struct memory *m = c->memory;
        struct memory_cache **p;

        if (!m)
                return;
        add(&m->value_bytes, 0 - (uint64_t)c->published);
        pthread_mutex_lock(&m->mutex);
        for (p = &m->caches; *p != c; p = &(*p)->next)
                ;
        *p = c->next;
        pthread_mutex_unlock(&m->mutex);
        add(&m->n_caches, UINT64_MAX);
        c->memory = NULL;
}

void memory_cache_told(struct memory_cache *c) {
        pthread_mutex_lock(&c->memory->mutex);
        c->posted = false;
        pthread_mutex_unlock(&c->memory->mutex);
}

void memory_cache_set(struct memory_cache *c, size_t bytes) {
        if (!c->memory || (bytes < c->published + MEMORY_STEP && c->published < bytes + MEMORY_STEP))
                return;
        add(&c->memory->value_bytes, (uint64_t)bytes - (uint64_t)c->published);
        c->published = bytes;
}

size_t memory_cache_most(const struct memory_cache *c) {
        struct memory *m = c->memory;
        uint64_t state, most;

        if (!m)
                return SIZE_MAX;
        state = get(&m->state_bytes);
        most = m->max_bytes - min_of(m->max_bytes, state);
        return (size_t)(max_of(most, least(m)) / max_of(get(&m->n_caches), (uint64_t)1));
}
