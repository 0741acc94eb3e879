#include "fleet/tls_rules.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "fleet/credential_name.h"

/* A name under an authority, and whose it is. */
struct taken {
        char *key; /* owned: the authority's number, a colon, the name */
        const struct tls_tenant *tenant;
        UT_hash_handle hh;
};

struct making {
        const struct tls_rules_input *input;
        struct tls_rules *out;
        struct taken *taken;
};

void tls_rules_done(struct tls_rules *r) {
        for (size_t i = 0; i < r->n_own_names; i++)
                free(r->own_names[i]);
        for (size_t i = 0; i < r->n_problems; i++)
                free(r->problems[i]);
        free(r->own_names);
        free(r->problems);
        free(r->rules);
        *r = (struct tls_rules){};
}

static void *grown(void *array, size_t n, size_t size) {
        void *p = n & (n - 1) ? array : reallocarray(array, n ? 2 * n : 1, size);

        check(p);
        return p;
}

static void add_problem(
        struct tls_rules *r, const struct tls_tenant *t, const char *name, const struct tls_tenant *owner) {
        char *text;

        check(asprintf(&text, "tenant %s: client name %s is tenant %s's already, and leads there", t->name, name,
                      owner->name) > 0);
        r->problems = grown(r->problems, r->n_problems, sizeof(*r->problems));
        r->problems[r->n_problems++] = text;
}

static void add(struct making *m, struct tls_tenant *t, const char *name, size_t authority) {
        struct tls_rules *r = m->out;
        struct taken *taken;
        char *key;

        if (authority == TLS_NO_AUTHORITY)
                return;
        check(asprintf(&key, "%zu:%s", authority, name) > 0);
        HASH_FIND_STR(m->taken, key, taken);
        if (taken) {
                free(key);
                if (taken->tenant != t)
                        add_problem(r, t, name, taken->tenant);
                return;
        }
        taken = new0(struct taken);
        taken->key = key;
        taken->tenant = t;
        HASH_ADD_KEYPTR(hh, m->taken, taken->key, strlen(taken->key), taken);
        r->rules = grown(r->rules, r->n_rules, sizeof(*r->rules));
        r->rules[r->n_rules++] = (struct tls_rule){.name = name, .label = t->name, .authority = authority};
        t->n_rules++;
}

/* name: taken over. */
static const char *keep_name(struct tls_rules *r, char *name) {
        r->own_names = grown(r->own_names, r->n_own_names, sizeof(*r->own_names));
        return r->own_names[r->n_own_names++] = name;
}

static const char *own_name(struct tls_rules *r, const struct tls_tenant *t) {
        char *name;

        check(asprintf(&name, "CN:%s", t->name) > 0);
        return keep_name(r, name);
}

/* NULL: none is issued. */
static const char *issued_name(struct tls_rules *r, const struct tls_tenant *t) {
        cleanup(freep) char *uri = NULL;
        char *name;

        if (credential_name(t->name, t->created, &uri) < 0)
                return NULL;
        check(asprintf(&name, "URI:%s", uri) > 0);
        return keep_name(r, name);
}

static int compare_age(const void *a, const void *b) {
        const struct tls_tenant *const *x = a, *const *y = b;

        if ((*x)->created != (*y)->created)
                return (*x)->created < (*y)->created ? -1 : 1;
        return strcmp((*x)->name, (*y)->name);
}

void tls_rules_make(const struct tls_rules_input *input, struct tls_rules *ret) {
        cleanup(freep) struct tls_tenant **tenants = xcalloc(input->n_tenants, sizeof(struct tls_tenant *));
        struct making m = {.input = input, .out = ret};
        struct taken *taken, *next;

        *ret = (struct tls_rules){};
        for (size_t i = 0; i < input->n_tenants; i++) {
                tenants[i] = &input->tenants[i];
                tenants[i]->n_rules = 0;
        }
        if (input->n_tenants)
                qsort(tenants, input->n_tenants, sizeof(struct tls_tenant *), compare_age);

        for (size_t i = 0; i < input->n_tenants; i++) {
                struct tls_tenant *t = tenants[i];
                const char *issued = input->issuer == TLS_NO_AUTHORITY ? NULL : issued_name(ret, t);

                if (issued)
                        add(&m, t, issued, input->issuer);
                for (size_t j = 0; j < t->n_client_names; j++)
                        add(&m, t, t->client_names[j], t->own ? t->authority : input->client_ca);
                if (t->n_client_names == 0 && input->tenant_names)
                        add(&m, t, own_name(ret, t), input->client_ca);
        }
        HASH_ITER(hh, m.taken, taken, next) {
                HASH_DEL(m.taken, taken);
                free(taken->key);
                free(taken);
        }
}
