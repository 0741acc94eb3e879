#pragma once

/*
 * Which name in a client's certificate leads to which tenant, and which authority must vouch for it. Pure, any thread.
 *
 * A tenant with a CA of its own is reached by its clientNames under that one, any other by its clientNames under tls.clientCA; each besides by
 * the name that tls.authority puts into the certificates that it issues for it (fleet/credential_name.h), under that one. With tls.tenantNames a
 * tenant that has no clientNames has its own name, as a common name, under tls.clientCA. Two tenants that want the same (a file
 * and `stokectl`, or a name that is another's own): who was made first has it.
 */

#include "rpc/tls.h"

#define TLS_NO_AUTHORITY SIZE_MAX

struct tls_tenant {
        const char *name;
        int64_t created;
        char **client_names; /* "CN:berlin" */
        size_t n_client_names;
        bool own;         /* has a CA of its own: */
        size_t authority; /* that one; TLS_NO_AUTHORITY: it cannot be used */
        size_t n_rules;   /* filled in: how many names lead to it */
};

struct tls_rules_input {
        struct tls_tenant *tenants;
        size_t n_tenants;
        size_t client_ca, issuer; /* of the settings; TLS_NO_AUTHORITY: none */
        bool tenant_names;
};

struct tls_rules {
        struct tls_rule *rules; /* owned; labels are borrowed from the tenants, */
        size_t n_rules;
        char **own_names; /* owned: and names from them or from here */
        size_t n_own_names;
        char **problems; /* owned: a line each */
        size_t n_problems;
};
void tls_rules_make(const struct tls_rules_input *input, struct tls_rules *ret);
void tls_rules_done(struct tls_rules *rules);
