#include "fleet/definition_merge.h"

/*
 * What only one tenant can have: a port of its own, a name in clients' certificates. Who has it keeps it; otherwise the first
 * document does. The other goes back to what was in force, or, if that is in the way as well, goes. Main thread.
 */

#include <string.h>

static const struct tenant_definition *next_of(const struct entry *e) {
        return (const struct tenant_definition *)e->next;
}

static const struct tenant_definition *previous_of(const struct entry *e) {
        return (const struct tenant_definition *)e->previous;
}

/* What of a tenant's another has too: as text, with its line; NULL: nothing. */
typedef const char *(*clash_fn)(
        const struct tenant_definition *t, const struct tenant_definition *other, unsigned *ret_line);
typedef bool (*has_fn)(const struct tenant_definition *t, const struct tenant_definition *as, const char *what);

static struct entry *find_clash(struct merge *m, const struct entry *e, bool before, clash_fn clash,
        const char **ret_what, unsigned *ret_line) {
        const struct tenant_definition *t = next_of(e);

        if (!t)
                return NULL;
        for (struct entry *o = m->entries[DEFINITION_TENANT]; o && !(before && o == e); o = o->hh.next) {
                if (o == e || !o->next)
                        continue;
                *ret_what = clash(t, next_of(o), ret_line);
                if (*ret_what)
                        return o;
        }
        return NULL;
}

static int settle(struct merge *m, const char *field, clash_fn clash, has_fn has) {
        for (struct entry *e = m->entries[DEFINITION_TENANT]; e; e = e->hh.next) {
                const char *what;
                unsigned line;
                struct entry *other = find_clash(m, e, true, clash, &what, &line), *winner = other, *loser = e;
                int r;

                if (!other)
                        continue;
                if (e->previous && has(previous_of(e), next_of(e), what) &&
                        !(other->previous && has(previous_of(other), next_of(e), what))) {
                        winner = e;
                        loser = other;
                        (void)clash(next_of(loser), next_of(winner), &line);
                }
                r = problem_add(m->problems, true, loser->next->file, line,
                        "Tenant \"%s\": spec.endpoint.%s: %s is Tenant \"%s\"'s already, at %s", loser->name, field,
                        what, winner->name, winner->next->source);
                if (r < 0)
                        return r;
                entry_keep(loser);
                if (find_clash(m, loser, false, clash, &what, &line) || entry_dangles(m, loser))
                        entry_set_next(loser, NULL);
        }
        return 0;
}

/* ---- ports: port 0 is any free one */

static bool has_port(const struct tenant_definition *t, const struct tenant_definition *as, const char *tcp) {
        (void)as;
        return t->tcp && strcmp(t->tcp, tcp) == 0;
}

static const char *port_clash(
        const struct tenant_definition *t, const struct tenant_definition *other, unsigned *ret_line) {
        size_t n = t->tcp ? strlen(t->tcp) : 0;

        if (!n || (n > 2 && strcmp(t->tcp + n - 2, ":0") == 0) || !has_port(other, t, t->tcp))
                return NULL;
        *ret_line = t->tcp_line;
        return t->tcp;
}

int check_ports(struct merge *m) {
        return settle(m, "tcp", port_clash, has_port);
}

/* ---- names, each under the authority that vouches for it */

static bool same_text(const char *a, const char *b) {
        return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_authority(const struct tenant_definition *t, const struct tenant_definition *other) {
        const struct content_ref *a = &t->client_ca, *b = &other->client_ca;

        if (!a->present || !b->present)
                return a->present == b->present;
        if (a->content_size || b->content_size)
                return a->content_size == b->content_size && memcmp(a->content, b->content, a->content_size) == 0;
        return same_text(a->name, b->name) && same_text(a->namespace, b->namespace) && same_text(a->key, b->key);
}

static bool has_name(const struct tenant_definition *t, const struct tenant_definition *as, const char *name) {
        for (size_t i = 0; i < t->n_client_names && same_authority(t, as); i++)
                if (strcmp(t->client_names[i].name, name) == 0)
                        return true;
        return false;
}

static const char *name_clash(
        const struct tenant_definition *t, const struct tenant_definition *other, unsigned *ret_line) {
        for (size_t i = 0; i < t->n_client_names; i++)
                if (has_name(other, t, t->client_names[i].name)) {
                        *ret_line = t->client_names[i].line;
                        return t->client_names[i].name;
                }
        return NULL;
}

int check_client_names(struct merge *m) {
        return settle(m, "clientNames", name_clash, has_name);
}
