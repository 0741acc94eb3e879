#include "fleet/endpoint_state.h"

/*
 * What is to be in force at the port that all tenants share: the parts (our certificate, authorities with their revocation lists), read and watched,
 * and the names that lead to tenants. Main thread.
 */

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/log.h"
#include "fleet/definition_node.h"

#define SOON_NS (100 * NSEC_PER_MSEC)

/* ---- watching */

static void on_directory(void *userdata) {
        struct endpoint *e = userdata;

        if (!e->soon_timer.position)
                loop_timer_set(e->fleet->loop, &e->soon_timer, clock_now_ns() + SOON_NS);
}

void endpoint_unwatch(struct endpoint *e) {
        while (e->n_watched) {
                e->n_watched--;
                loop_watch_free(e->watches[e->n_watched]);
                free(e->watched[e->n_watched]);
        }
}

/* A directory that is not there, or cannot be watched, is looked into every half minute all the same. */
static void watch(struct endpoint *e, const char *directory) {
        struct loop_watch *watch;

        for (size_t i = 0; i < e->n_watched; i++)
                if (strcmp(e->watched[i], directory) == 0)
                        return;
        if (loop_watch_directory(e->fleet->loop, directory, on_directory, e, &watch) < 0)
                return;
        e->watches = reallocarray(e->watches, e->n_watched + 1, sizeof(struct loop_watch *));
        e->watched = reallocarray(e->watched, e->n_watched + 1, sizeof(*e->watched));
        check(e->watches && e->watched);
        e->watches[e->n_watched] = watch;
        e->watched[e->n_watched] = strdup(directory);
        check(e->watched[e->n_watched++]);
}

static void watch_source(struct endpoint *e, const struct tls_source *source) {
        const char *credentials = getenv("CREDENTIALS_DIRECTORY");
        cleanup(freep) char *directory = NULL;
        char *slash;

        if (source->path) {
                directory = strdup(source->path);
                check(directory);
                slash = strrchr(directory, '/');
                slash[slash == directory] = '\0';
                watch(e, directory);
        } else if (source->ref && source->ref->has_reference && source->ref->name && source->ref->namespace) {
                check(asprintf(&directory, "%s/%s/%s", e->fleet->config.settings->secrets_dir, source->ref->namespace,
                              source->ref->name) > 0);
                watch(e, directory);
                if (credentials)
                        watch(e, credentials);
        }
}

/* ---- the parts */

static void read_part(struct endpoint *e, struct tls_part *part, struct tls_source first, struct tls_source second) {
        cleanup(freep) char *before = part->trouble ? strdup(part->trouble) : NULL;
        bool was_good = part->good;

        watch_source(e, &first);
        watch_source(e, &second);
        part->wanted = true;
        if (tls_part_read(part, e->fleet->secrets, &first, &second, e->server) && was_good)
                log_notice("%s: what is new is in force", part->name);
        if (part->trouble && (!before || strcmp(before, part->trouble) != 0))
                log_error("%s", part->trouble);
}

void endpoint_read_server(struct endpoint *e) {
        const struct settings_tls *tls = &e->fleet->config.settings->tls;

        endpoint_unwatch(e);
        for (size_t i = 0; i < e->n_others; i++)
                e->others[i]->wanted = false;
        read_part(e, e->server, (struct tls_source){.path = tls->certificate}, (struct tls_source){.path = tls->key});
}

/* An authority, as its index among those that can be used. */
static size_t read_authority(struct endpoint *e, const char *name, struct tls_source certificates,
        struct tls_source revocations, struct tls_authority *authorities, size_t *n_authorities) {
        struct tls_part *part = NULL;

        for (size_t i = 0; i < e->n_others && !part; i++)
                if (strcmp(e->others[i]->name, name) == 0)
                        part = e->others[i];
        if (!part) {
                e->others = reallocarray(e->others, e->n_others + 1, sizeof(struct tls_part *));
                check(e->others);
                part = e->others[e->n_others++] = tls_part_new(TLS_PART_AUTHORITY, name);
        }
        read_part(e, part, certificates, revocations);
        if (!part->good)
                return TLS_NO_AUTHORITY;
        authorities[*n_authorities] =
                (struct tls_authority){.what = part->name, .certificates = part->first, .revocations = part->second};
        return (*n_authorities)++;
}

void endpoint_forget_unwanted(struct endpoint *e) {
        size_t n = 0;

        for (size_t i = 0; i < e->n_others; i++)
                if (e->others[i]->wanted)
                        e->others[n++] = e->others[i];
                else
                        tls_part_free(e->others[i]);
        e->n_others = n;
}

static struct tls_source file(const char *path) {
        return (struct tls_source){.path = path};
}

static struct tls_source content(const struct content_ref *ref) {
        return (struct tls_source){.ref = ref->present ? ref : NULL};
}

/* ---- what is to be in force */

void plan_done(struct plan *plan) {
        for (size_t i = 0; i < plan->n_tenants; i++)
                free(plan->tenants[i].client_names);
        free(plan->authorities);
        free(plan->tenants);
        free(plan->assignments);
        tls_rules_done(&plan->rules);
}

static void plan_tenant(struct endpoint *e, struct plan *plan, struct assignment *a) {
        const struct registry_record *record = assignment_record(a);
        const struct tenant_definition *d = definitions_find_tenant(e->fleet->definitions, a->name);
        struct tls_tenant *t = &plan->tenants[plan->n_tenants];
        size_t n;

        if (!record || a->gone || record->phase == REGISTRY_DELETING)
                return;
        *t = (struct tls_tenant){.name = a->name, .created = record->created};
        n = d ? d->n_client_names : record->n_client_names;
        t->client_names = xcalloc(n, sizeof(*t->client_names));
        for (size_t i = 0; i < n; i++)
                t->client_names[t->n_client_names++] = d ? d->client_names[i].name : record->client_names[i];
        t->own = d && d->client_ca.present;
        if (t->own) {
                cleanup(freep) char *name = NULL;

                check(asprintf(&name, "tenant %s: spec.endpoint.clientCA", a->name) > 0);
                t->authority = read_authority(e, name, content(&d->client_ca), content(&d->client_revocations),
                        plan->authorities, &plan->n_authorities);
        }
        plan->assignments[plan->n_tenants++] = a;
}

/* Reads all parts, which needs a good certificate of ours. */
void plan_make(struct endpoint *e, struct plan *plan) {
        const struct settings_tls *tls = &e->fleet->config.settings->tls;
        struct tls_rules_input input = {
                .client_ca = TLS_NO_AUTHORITY, .issuer = TLS_NO_AUTHORITY, .tenant_names = tls->tenant_names};
        struct assignment *a;
        size_t n = 0;

        LIST_FOREACH(a, &e->fleet->assignments, entry)
                n++;
        plan->authorities = xcalloc(n + 2, sizeof(*plan->authorities));
        plan->tenants = xcalloc(n, sizeof(*plan->tenants));
        plan->assignments = xcalloc(n, sizeof(struct assignment *));

        if (tls->client_ca)
                input.client_ca = read_authority(e, "tls.clientCA", file(tls->client_ca), file(tls->client_revocations),
                        plan->authorities, &plan->n_authorities);
        if (tls->authority.certificate)
                input.issuer = read_authority(e, "tls.authority", file(tls->authority.certificate),
                        file(tls->authority.revocations), plan->authorities, &plan->n_authorities);
        LIST_FOREACH(a, &e->fleet->assignments, entry)
                plan_tenant(e, plan, a);

        input.tenants = plan->tenants;
        input.n_tenants = plan->n_tenants;
        tls_rules_make(&input, &plan->rules);
}

static uint64_t hash_bytes(struct bytes b, uint64_t seed) {
        return XXH3_64bits_withSeed(b.data, b.size, seed + b.size);
}

uint64_t plan_hash(const struct endpoint *e, const struct plan *plan) {
        uint64_t h = hash_bytes(e->server->second, hash_bytes(e->server->first, 1));

        for (size_t i = 0; i < plan->n_authorities; i++)
                h = hash_bytes(plan->authorities[i].revocations, hash_bytes(plan->authorities[i].certificates, h));
        for (size_t i = 0; i < plan->rules.n_rules; i++) {
                const struct tls_rule *rule = &plan->rules.rules[i];

                h = hash_bytes(
                        bytes_of_string(rule->label), hash_bytes(bytes_of_string(rule->name), h + rule->authority));
        }
        return h;
}

/* ---- --check */

static bool check_part(enum tls_part_kind kind, const char *name, struct secret_source *secrets,
        struct tls_source first, struct tls_source second, struct tls_part *server, FILE *out) {
        struct tls_part *part = kind == TLS_PART_SERVER ? server : tls_part_new(kind, name);
        bool good;

        (void)tls_part_read(part, secrets, &first, &second, server);
        good = !part->trouble;
        if (!good)
                fprintf(out, "%s\n", part->trouble);
        if (part != server)
                tls_part_free(part);
        return good;
}

bool endpoint_check(
        const struct settings *settings, struct secret_source *secrets, const struct definitions *set, FILE *out) {
        const struct settings_tls *tls = &settings->tls;
        struct tls_part *server;
        bool good;

        if (!tls->address)
                return true;
        server = tls_part_new(TLS_PART_SERVER, "tls.certificate");
        good = check_part(TLS_PART_SERVER, NULL, secrets, file(tls->certificate), file(tls->key), server, out);
        if (good && tls->client_ca)
                good &= check_part(TLS_PART_AUTHORITY, "tls.clientCA", secrets, file(tls->client_ca),
                        file(tls->client_revocations), server, out);
        if (good && tls->authority.certificate)
                good &= check_part(TLS_PART_AUTHORITY, "tls.authority", secrets, file(tls->authority.certificate),
                        file(tls->authority.revocations), server, out);
        for (size_t i = 0; i < set->n_tenants && server->good; i++) {
                const struct tenant_definition *d = set->tenants[i];
                cleanup(freep) char *name = NULL;

                if (!d->client_ca.present)
                        continue;
                check(asprintf(&name, "tenant %s: spec.endpoint.clientCA", d->base.name) > 0);
                good &= check_part(TLS_PART_AUTHORITY, name, secrets, content(&d->client_ca),
                        content(&d->client_revocations), server, out);
        }
        tls_part_free(server);
        return good;
}
