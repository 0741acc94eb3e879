#include "fleet/members.h"

/*
 * One call at a time: a lease is granted, the record is put with it (under the condition that the format in use is the one that this daemon
 * has looked at, so that a format is never put in use past a daemon that was just coming), then the lease is kept alive. A lease that has ended,
 * since the registry could not be reached for long, begins that anew.
 */

#include <jansson.h>
#include <string.h>
#include <time.h>

#include "base/log.h"

#define TTL_SECONDS 35
#define RENEW_NS (10 * NSEC_PER_SEC)
#define REWRITE_AFTER                                                                                                  \
        60 /* renewals, which are not revisions: without one now and then nothing would ever be compacted */
#define RETRY_NS (2 * NSEC_PER_SEC)
#define CALL_TIMEOUT_NS (5 * NSEC_PER_SEC)
#define LEAVE_TIMEOUT_NS NSEC_PER_SEC
#define MEMBER_FORMAT 1

struct members {
        struct members_config config;
        struct member *items; /* owned, in order of host id */
        size_t n_items;
        char *key; /* owned: of this daemon */
        char daemon[UUID_TEXT_SIZE];
        int64_t since, format_revision;
        size_t n_serving, n_told;
        unsigned n_renewals; /* since the record was written */
        char *trouble;       /* owned */

        bool wanted, entered, busy;
        int64_t lease; /* 0: none */
        char *value;   /* owned: as it is put */
        struct arena arena;
        struct lease_call lease_call;
        struct registry_put put;
        struct compare condition;
        struct loop_timer timer;

        void (*left)(void *userdata);
        void *left_userdata;
};

/* ---- who there is */

static void member_done(struct member *item) {
        free(item->host);
        free(item->name);
        free(item->daemon);
        free(item->version);
}

static char *copy(const char *s) {
        char *p = strdup(s ? s : "");

        check(p);
        return p;
}

static struct member *find(const struct members *m, const char *host) {
        for (size_t i = 0; i < m->n_items; i++)
                if (strcmp(m->items[i].host, host) == 0)
                        return &m->items[i];
        return NULL;
}

static struct member *add(struct members *m, const char *host) {
        size_t i = 0;

        m->items = reallocarray(m->items, m->n_items + 1, sizeof(*m->items));
        check(m->items);
        while (i < m->n_items && strcmp(m->items[i].host, host) < 0)
                i++;
        memmove(m->items + i + 1, m->items + i, (m->n_items - i) * sizeof(*m->items));
        m->items[i] = (struct member){.host = copy(host)};
        m->n_items++;
        return &m->items[i];
}

static void drop(struct members *m, struct member *item) {
        size_t i = (size_t)(item - m->items);

        member_done(item);
        memmove(item, item + 1, (--m->n_items - i) * sizeof(*item));
}

static void parse(struct member *item, struct bytes value) {
        cleanup(json_decrefp) json_t *object = json_loadb((const char *)value.data, value.size, 0, NULL);
        const char *daemon = NULL, *name = NULL, *version = NULL;
        json_int_t since = 0, n_serving = 0;
        int oldest = 0, current = 0;

        if (!object ||
                json_unpack(object, "{s:s s:s s:s s:i s:i s:I s:I}", "daemon", &daemon, "host", &name, "version",
                        &version, "oldestFormat", &oldest, "currentFormat", &current, "since", &since, "tenants",
                        &n_serving) < 0 ||
                oldest < 1 || current < oldest)
                oldest = current = 0;
        free(item->daemon);
        free(item->name);
        free(item->version);
        item->daemon = copy(daemon);
        item->name = copy(name);
        item->version = copy(version);
        item->formats = (struct format_range){(uint32_t)oldest, (uint32_t)current};
        item->since = since;
        item->n_serving = (uint64_t)max_of(n_serving, (json_int_t)0);
}

static void look_for_trouble(struct members *m, const struct member *item) {
        if (strcmp(item->host, m->config.host->id) != 0 || strcmp(item->daemon, m->daemon) == 0 || !m->entered)
                return;
        free(m->trouble);
        check(asprintf(&m->trouble,
                      "daemon %s on %s has the host id of this one: a state directory was copied; remove STATE/host-id in one of them",
                      item->daemon, item->name) > 0);
        log_error("%s", m->trouble);
        m->entered = false; /* and its record is written again, for both to see */
}

void members_begin(struct members *m) {
        for (size_t i = 0; i < m->n_items; i++)
                m->items[i].listed = false;
}

void members_value(struct members *m, const char *key, struct bytes value) {
        const char *host = key + strlen(REGISTRY_DAEMONS_PREFIX);
        struct member *item = find(m, host);
        bool came = false;

        if (!value.data) {
                if (!item)
                        return;
                log_info("daemon on %s has gone", item->name);
                drop(m, item);
                if (strcmp(host, m->config.host->id) == 0)
                        m->entered = false;
                m->config.on_changed(m->config.userdata);
                return;
        }
        if (!item) {
                item = add(m, host);
                came = true;
        }
        parse(item, value);
        item->listed = true;
        if (came && strcmp(host, m->config.host->id) != 0)
                log_info("daemon %s on %s, version %s, has the registry open too", item->daemon, item->name,
                        item->version);
        look_for_trouble(m, item);
        if (came)
                m->config.on_changed(m->config.userdata);
}

void members_listed(struct members *m) {
        for (size_t i = m->n_items; i > 0; i--)
                if (!m->items[i - 1].listed)
                        drop(m, &m->items[i - 1]);
        m->config.on_changed(m->config.userdata);
}

void members_format(struct members *m, int64_t mod_revision) {
        m->format_revision = mod_revision;
}

int64_t members_format_revision(const struct members *m) {
        return m->format_revision;
}

const struct member *members_list(const struct members *m, size_t *ret_n) {
        *ret_n = m->n_items;
        return m->items;
}

size_t members_n_others(const struct members *m) {
        return m->n_items - (find(m, m->config.host->id) != NULL);
}

bool members_is_first(const struct members *m) {
        return m->n_items == 0 || strcmp(m->items[0].host, m->config.host->id) == 0;
}

const char *members_trouble(const struct members *m) {
        return m->trouble;
}

bool members_is_entered(const struct members *m) {
        return m->entered;
}

int64_t members_since(const struct members *m) {
        return m->since;
}

void members_tell(struct members *m, size_t n_serving) {
        m->n_serving = n_serving;
}

/* ---- this daemon's own record */

static void go_on(struct members *m);

static void again(struct members *m, uint64_t pause_ns) {
        if (m->wanted)
                loop_timer_set(m->config.loop, &m->timer, clock_now_ns() + pause_ns);
}

static void on_time(struct loop_timer *timer) {
        go_on(container_of(timer, struct members, timer));
}

static void left(struct members *m) {
        void (*done)(void *userdata) = m->left;

        m->left = NULL;
        if (done)
                done(m->left_userdata);
}

static void on_put(struct registry_put *p, int result, const char *reason) {
        struct members *m = container_of(p, struct members, put);

        m->busy = false;
        if (result == 0) {
                bool first = !m->entered;

                m->entered = true;
                m->n_told = m->n_serving;
                m->n_renewals = 0;
                again(m, RENEW_NS);
                if (first)
                        m->config.on_changed(m->config.userdata);
                return;
        }
        log_debug("registry: this daemon's record: %s", reason);
        if (result == -ENOKEY)
                m->lease = 0;
        again(m, RETRY_NS);
}

static void put(struct members *m) {
        const struct format_range *formats = registry_formats(m->config.registry);
        json_t *object = json_pack("{s:i s:s s:s s:s s:i s:i s:I s:I}", "format", MEMBER_FORMAT, "daemon", m->daemon,
                "host", m->config.host->name, "version", m->config.version, "oldestFormat", (int)formats->oldest,
                "currentFormat", (int)formats->current, "since", (json_int_t)m->since, "tenants",
                (json_int_t)m->n_serving);

        /* A host's name may be any bytes. */
        if (!object)
                object = json_pack("{s:i s:s s:s s:s s:i s:i s:I s:I}", "format", MEMBER_FORMAT, "daemon", m->daemon,
                        "host", "?", "version", m->config.version, "oldestFormat", (int)formats->oldest,
                        "currentFormat", (int)formats->current, "since", (json_int_t)m->since, "tenants",
                        (json_int_t)m->n_serving);
        check(object);
        free(m->value);
        m->value = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
        check(m->value);
        json_decref(object);
        m->condition = (struct compare){.result = COMPARE_EQUAL,
                .target = COMPARE_MOD,
                .range = {.key = bytes_of_string(REGISTRY_FORMAT_KEY)},
                .number = m->format_revision};
        m->put = (struct registry_put){.key = m->key,
                .value = m->value,
                .lease = m->lease,
                .conditions = &m->condition,
                .n_conditions = 1,
                .done = on_put};
        m->busy = true;
        registry_put(m->config.registry, &m->put);
}

static void on_granted(struct keyspace_call *call, enum keyspace_result result) {
        struct members *m = container_of(container_of(call, struct lease_call, call), struct members, lease_call);

        m->busy = false;
        if (result == KEYSPACE_OK)
                m->lease = m->lease_call.id;
        arena_done(&m->arena);
        if (result == KEYSPACE_OK && m->wanted)
                put(m);
        else
                again(m, RETRY_NS);
}

static void on_renewed(struct keyspace_call *call, enum keyspace_result result) {
        struct members *m = container_of(container_of(call, struct lease_call, call), struct members, lease_call);

        m->busy = false;
        arena_done(&m->arena);
        if (result == KEYSPACE_OK && m->entered && m->wanted &&
                (m->n_told != m->n_serving || ++m->n_renewals >= REWRITE_AFTER)) {
                put(m);
                return;
        }
        if (result == KEYSPACE_OK) {
                again(m, m->entered ? RENEW_NS : 0);
                return;
        }
        if (result == KEYSPACE_LEASE_NOT_FOUND) {
                m->lease = 0;
                m->entered = false;
        }
        again(m, result == KEYSPACE_LEASE_NOT_FOUND ? 0 : RETRY_NS);
}

static void lease(struct members *m, void (*ask)(struct keyspace *ks, struct lease_call *call),
        void (*done)(struct keyspace_call *call, enum keyspace_result result), uint64_t timeout_ns) {
        m->lease_call = (struct lease_call){
                .call = {.done = done, .deadline_ns = clock_now_ns() + timeout_ns, .arena = &m->arena},
                .id = m->lease,
                .ttl = TTL_SECONDS,
        };
        m->busy = true;
        ask(registry_keyspace(m->config.registry), &m->lease_call);
}

static void go_on(struct members *m) {
        if (m->busy || !m->wanted)
                return;
        loop_timer_clear(&m->timer);
        if (!registry_keyspace(m->config.registry)) {
                again(m, RETRY_NS); /* it is being opened anew */
                return;
        }
        if (!m->lease)
                lease(m, keyspace_lease_grant, on_granted, CALL_TIMEOUT_NS);
        else if (!m->entered)
                put(m);
        else
                lease(m, keyspace_lease_keep_alive, on_renewed, CALL_TIMEOUT_NS);
}

void members_enter(struct members *m) {
        m->wanted = true;
        go_on(m);
}

static void on_revoked(struct keyspace_call *call, enum keyspace_result result) {
        struct members *m = container_of(container_of(call, struct lease_call, call), struct members, lease_call);

        (void)result;
        m->busy = false;
        arena_done(&m->arena);
        left(m);
}

void members_leave(struct members *m, void (*done)(void *userdata), void *userdata) {
        m->wanted = false;
        m->entered = false;
        loop_timer_clear(&m->timer);
        m->left = done;
        m->left_userdata = userdata;
        if (m->busy || !m->lease) {
                left(m); /* what runs ends with the registry, and the lease by itself */
                return;
        }
        lease(m, keyspace_lease_revoke, on_revoked, LEAVE_TIMEOUT_NS);
}

struct members *members_new(const struct members_config *config) {
        struct members *m = new0(struct members);

        m->config = *config;
        m->since = time(NULL);
        m->timer.on_time = on_time;
        arena_init(&m->arena, 0);
        uuid_print(config->daemon, m->daemon);
        check(asprintf(&m->key, REGISTRY_DAEMONS_PREFIX "%s", config->host->id) > 0);
        return m;
}

void members_free(struct members *m) {
        if (!m)
                return;
        check(!m->busy);
        loop_timer_clear(&m->timer);
        for (size_t i = 0; i < m->n_items; i++)
                member_done(&m->items[i]);
        free(m->items);
        arena_done(&m->arena);
        free(m->trouble);
        free(m->value);
        free(m->key);
        free(m);
}
