#include "fleet/endpoint.h"

/*
 * What is in force at the port that all tenants share. The parts of it (our certificate, authorities with their revocation lists) are read when a
 * directory that they are in changes, at a reload and every half minute; with the names of definitions and records they make a policy, which the door
 * is given, and with which every tenant then compares the connections that it has. The door is opened with the first policy: until the
 * registry has said which tenants there are, nobody could be told anything but wrong.
 */

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/owner.h"
#include "fleet/definition_node.h"
#include "fleet/endpoint_state.h"

#define POLL_NS (30 * NSEC_PER_SEC)
#define DOOR_RETRY_NS (5 * NSEC_PER_SEC)
#define EXPIRY_DAYS 30
#define SECONDS_A_DAY 86400

static const struct settings_tls *settings_of(const struct endpoint *e) {
        return &e->fleet->config.settings->tls;
}

static bool is_on(const struct endpoint *e) {
        return e && !e->stopped && settings_of(e)->address;
}

/* It is known which tenants there are. */
static bool knows_tenants(const struct endpoint *e) {
        return fleet_is_running(e->fleet) || (e->fleet->stage == FLEET_OPENING && e->fleet->from_copy);
}

/* ---- open connections */

struct recheck {
        struct tenant *tenant;
        struct tls_server *policy; /* ref */
        uint32_t owner;
};

static void recheck_there(struct errand *errand) {
        struct recheck *recheck = errand->userdata;

        owner_set(recheck->owner);
        tenant_recheck(recheck->tenant, recheck->policy);
        errand_return(errand);
}

static void recheck_back(struct errand *errand) {
        struct recheck *recheck = errand->userdata;

        tls_server_unref(recheck->policy);
        free(recheck);
}

/* Whatever was sent to a tenant's shard before is there by then. */
static void recheck_all(struct endpoint *e) {
        struct assignment *a;

        LIST_FOREACH(a, &e->fleet->assignments, entry) {
                struct recheck *recheck;

                if (!a->serving || a->stopping)
                        continue;
                recheck = new0(struct recheck);
                recheck->tenant = a->serving;
                recheck->policy = tls_server_ref(e->policy);
                recheck->owner = a->owner;
                errand_send(a->shard->loop, e->fleet->loop, recheck_there, recheck_back, recheck);
        }
}

/* ---- what clients are told to dial */

struct telling {
        struct tenant *tenant;
        char **urls; /* owned */
        size_t n_urls;
        uint32_t owner;
};

static void tell_there(struct errand *errand) {
        struct telling *telling = errand->userdata;

        owner_set(telling->owner);
        tenant_set_tls_urls(telling->tenant, (const char *const *)telling->urls, telling->n_urls);
        errand_return(errand);
}

static void tell_back(struct errand *errand) {
        struct telling *telling = errand->userdata;

        strings_free(telling->urls, telling->n_urls);
        free(telling);
}

static void tell(struct endpoint *e, struct assignment *a) {
        const uint64_t wanted = a->n_tls_rules ? e->urls_generation : 0;
        struct telling *telling;

        if (!a->serving || a->stopping) {
                a->told_urls = 0; /* it begins with none */
                return;
        }
        if (a->told_urls == wanted)
                return;
        a->told_urls = wanted;
        telling = new0(struct telling);
        telling->tenant = a->serving;
        telling->owner = a->owner;
        telling->n_urls = wanted ? e->n_urls : 0;
        telling->urls = xcalloc(telling->n_urls, sizeof(*telling->urls));
        for (size_t i = 0; i < telling->n_urls; i++) {
                telling->urls[i] = strdup(e->urls[i]);
                check(telling->urls[i]);
        }
        errand_send(a->shard->loop, e->fleet->loop, tell_there, tell_back, telling);
}

/* As the settings say, or as bound; the host's name where it is bound to all addresses. */
static void update_urls(struct endpoint *e) {
        const struct settings_tls *tls = settings_of(e);
        const char *address = door_address(e->door) + strlen("tls:"), *port = strrchr(address, ':');
        bool is_any = strncmp(address, "0.0.0.0:", 8) == 0 || strncmp(address, "[::]:", 5) == 0;
        size_t n = tls->n_advertise ? tls->n_advertise : 1;
        char **urls = xcalloc(n, sizeof(*urls));
        bool same = n == e->n_urls;

        for (size_t i = 0; i < n; i++) {
                if (tls->n_advertise)
                        check(asprintf(&urls[i], "%s", tls->advertise[i]) > 0);
                else if (is_any)
                        check(asprintf(&urls[i], "https://%s%s", e->fleet->host.name, port) > 0);
                else
                        check(asprintf(&urls[i], "https://%s", address) > 0);
                same = same && strcmp(urls[i], e->urls[i]) == 0;
        }
        if (same) {
                strings_free(urls, n);
                return;
        }
        strings_free(e->urls, e->n_urls);
        e->urls = urls;
        e->n_urls = n;
        e->urls_generation++;
}

const char *const *endpoint_urls(const struct assignment *a, size_t *ret_n) {
        const struct endpoint *e = a->fleet->endpoint;
        bool reachable = e && e->door && a->n_tls_rules;

        *ret_n = reachable ? e->n_urls : 0;
        return reachable ? (const char *const *)e->urls : NULL;
}

/* ---- the door */

static void set_trouble(char **trouble, const char *what, const char *why) {
        char *text = NULL;

        if (why)
                check(asprintf(&text, "%s: %s", what, why) > 0);
        if (text && (!*trouble || strcmp(*trouble, text) != 0))
                log_error("%s", text);
        free(*trouble);
        *trouble = text;
}

static void open_door(struct endpoint *e) {
        const struct settings_tls *tls = settings_of(e);
        cleanup(freep) char *address = NULL;
        cleanup(error_done) struct error err = {};
        struct door_config config = {
                .fd = e->listen_fd, .policy = e->policy, .on_admitted = admission_on_admitted, .userdata = e};

        check(asprintf(&address, "tls:%s", tls->address) > 0);
        config.address = address;
        if (door_new(&config, &e->door, &err) < 0) {
                set_trouble(&e->door_trouble, "tls.address", error_text(&err));
                loop_timer_set(e->fleet->loop, &e->soon_timer, clock_now_ns() + DOOR_RETRY_NS);
                return;
        }
        e->listen_fd = -EBADF;
        set_trouble(&e->door_trouble, "tls.address", NULL);
        log_info("clients with certificates at %s", door_address(e->door));
}

const char *endpoint_address(const struct fleet *fleet) {
        const struct endpoint *e = fleet->endpoint;

        return e && e->door ? door_address(e->door) + strlen("tls:") : NULL;
}

/* ---- the policy */

static void publish_expiry(const struct endpoint *e) {
        metric_set(metric_gauge("stokehold_tls_certificate_not_after_seconds",
                           "When the certificate of the TLS port expires, in seconds since 1970.", NULL),
                (double)tls_server_not_after(e->policy));
}

/* What is wrong without anybody having changed a file, told once. */
static void update_warnings(struct endpoint *e) {
        int64_t left = tls_server_not_after(e->policy) - (int64_t)time(NULL);
        cleanup(buf_done) struct buf before = e->warnings;

        e->warnings = (struct buf){};
        if (left > 0 && left < EXPIRY_DAYS * SECONDS_A_DAY)
                check(buf_printf(&e->warnings, "our certificate expires in %" PRId64 " days; ", left / SECONDS_A_DAY) >=
                        0);
        check(tls_server_warnings(e->policy, &e->warnings) >= 0 && buf_append(&e->warnings, "", 1) >= 0);
        if (e->warnings.size > 2 && strcmp((char *)e->warnings.data + e->warnings.size - 3, "; ") == 0)
                e->warnings.data[e->warnings.size - 3] = '\0';
        if (e->warnings.data[0] && (!before.size || strcmp((char *)before.data, (char *)e->warnings.data) != 0))
                log_warning("tls: %s", (const char *)e->warnings.data);
}

/* True: it has changed. */
static bool make_policy(struct endpoint *e, const struct plan *plan) {
        const struct tls_server_config config = {.certificate = e->server->first,
                .key = e->server->second,
                .authorities = plan->authorities,
                .n_authorities = plan->n_authorities,
                .rules = plan->rules.rules,
                .n_rules = plan->rules.n_rules};
        uint64_t hash = plan_hash(e, plan);
        cleanup(error_done) struct error err = {};
        struct tls_server *policy;

        if (e->policy && hash == e->policy_hash && !e->policy_trouble)
                return false;
        if (tls_server_new(&config, &policy, &err) < 0) {
                set_trouble(&e->policy_trouble, "tls: what was in force stays", error_text(&err));
                return false;
        }
        set_trouble(&e->policy_trouble, "tls", NULL);
        tls_server_unref(e->policy);
        e->policy = policy;
        e->policy_hash = hash;
        publish_expiry(e);
        log_debug("tls: %zu names under %zu authorities are in force", plan->rules.n_rules, plan->n_authorities);
        return true;
}

static void take_rules(struct endpoint *e, struct plan *plan) {
        tls_rules_done(&e->rules);
        for (size_t i = 0; i < plan->n_tenants; i++)
                plan->assignments[i]->n_tls_rules = plan->tenants[i].n_rules;
        /* Only the lines are kept. */
        e->rules = (struct tls_rules){.problems = plan->rules.problems, .n_problems = plan->rules.n_problems};
        plan->rules.problems = NULL;
        plan->rules.n_problems = 0;
}

static void put_in_force(struct endpoint *e) {
        cleanup(plan_done) struct plan plan = {};
        bool changed;

        endpoint_read_server(e);
        if (!e->server->good || !knows_tenants(e))
                return;
        plan_make(e, &plan);
        changed = make_policy(e, &plan);
        if (!e->policy_trouble)
                take_rules(e, &plan);
        endpoint_forget_unwanted(e);
        if (!e->policy)
                return;
        update_warnings(e);
        if (changed && e->door)
                door_set_policy(e->door, e->policy);
        if (changed)
                recheck_all(e);
        if (!e->door)
                open_door(e);
        if (e->door)
                update_urls(e);
        endpoint_settle(e->fleet);
}

static void count_problem(void *userdata, const char *line) {
        (void)line;
        ++*(size_t *)userdata;
}

static void refresh(struct endpoint *e) {
        size_t n = 0;

        put_in_force(e);
        endpoint_problems(e->fleet, count_problem, &n);
        metric_set(metric_gauge("stokehold_tls_problems",
                           "Lines of `stokectl status` about the TLS port: files that cannot be used, what expires.",
                           NULL),
                (double)n);
}

static void on_changed(struct loop_task *task) {
        struct endpoint *e = container_of(task, struct endpoint, changed_task);

        if (is_on(e))
                refresh(e);
}

static void on_soon(struct loop_timer *timer) {
        struct endpoint *e = container_of(timer, struct endpoint, soon_timer);

        if (is_on(e))
                refresh(e);
}

/* Certificates and lists end without anybody having changed a file. */
static void on_poll(struct loop_timer *timer) {
        struct endpoint *e = container_of(timer, struct endpoint, poll_timer);

        if (!is_on(e))
                return;
        refresh(e);
        if (e->policy)
                recheck_all(e);
        loop_timer_set(e->fleet->loop, &e->poll_timer, clock_now_ns() + POLL_NS);
}

/* ---- from outside */

struct endpoint *endpoint_new(struct fleet *fleet, int listen_fd) {
        struct endpoint *e = new0(struct endpoint);

        e->fleet = fleet;
        e->listen_fd = listen_fd;
        if (listen_fd >= 0 && !fleet->config.settings->tls.address) {
                log_warning("the socket \"tls\" that was passed is not used: tls.address is not set");
                close(listen_fd);
                e->listen_fd = -EBADF;
        }
        e->server = tls_part_new(TLS_PART_SERVER, "tls.certificate");
        e->changed_task.run = on_changed;
        e->soon_timer.on_time = on_soon;
        e->poll_timer.on_time = on_poll;
        STAILQ_INIT(&e->waiting);
        e->refusal = refusal_new(
                fleet->loop, fleet->config.services.unavailable ? fleet->config.services.unavailable : "unavailable");
        return e;
}

void endpoint_free(struct endpoint *e) {
        if (!e)
                return;
        endpoint_stop(e->fleet);
        endpoint_unwatch(e);
        free(e->watches);
        free(e->watched);
        tls_part_free(e->server);
        for (size_t i = 0; i < e->n_others; i++)
                tls_part_free(e->others[i]);
        free(e->others);
        tls_rules_done(&e->rules);
        buf_done(&e->warnings);
        tls_server_unref(e->policy);
        strings_free(e->urls, e->n_urls);
        free(e->policy_trouble);
        free(e->door_trouble);
        if (e->listen_fd >= 0)
                close(e->listen_fd);
        free(e);
}

void endpoint_changed(struct fleet *fleet) {
        struct endpoint *e = fleet->endpoint;

        if (!is_on(e))
                return;
        loop_defer(fleet->loop, &e->changed_task);
        if (!e->poll_timer.position)
                loop_timer_set(fleet->loop, &e->poll_timer, clock_now_ns() + POLL_NS);
}

void endpoint_settle(struct fleet *fleet) {
        struct endpoint *e = fleet->endpoint;
        struct assignment *a;

        if (!is_on(e))
                return;
        LIST_FOREACH(a, &fleet->assignments, entry)
                tell(e, a);
        admission_go(e);
}

void endpoint_stop(struct fleet *fleet) {
        struct endpoint *e = fleet->endpoint;

        if (!e || e->stopped)
                return;
        e->stopped = true;
        loop_undefer(fleet->loop, &e->changed_task);
        loop_timer_clear(&e->soon_timer);
        loop_timer_clear(&e->poll_timer);
        door_free(steal(e->door));
        admission_stop(e);
        refusal_free(steal(e->refusal));
}

void endpoint_problems(struct fleet *fleet, void (*visit)(void *userdata, const char *line), void *userdata) {
        struct endpoint *e = fleet->endpoint;

        if (!is_on(e))
                return;
        if (e->door_trouble)
                visit(userdata, e->door_trouble);
        if (e->server->trouble)
                visit(userdata, e->server->trouble);
        for (size_t i = 0; i < e->n_others; i++)
                if (e->others[i]->trouble)
                        visit(userdata, e->others[i]->trouble);
        if (e->policy_trouble)
                visit(userdata, e->policy_trouble);
        for (size_t i = 0; i < e->rules.n_problems; i++)
                visit(userdata, e->rules.problems[i]);
        if (e->warnings.size > 1) {
                cleanup(freep) char *line = NULL;

                check(asprintf(&line, "tls: %s", (const char *)e->warnings.data) > 0);
                visit(userdata, line);
        }
}
