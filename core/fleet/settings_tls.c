/*
 * The section `tls` of stokehold.yaml: the port that all tenants share, and whose certificates are believed. Only names of files are
 * read here, and none of the files: they are replaced while the daemon runs, see fleet/tls_files.h.
 */

#include "fleet/settings_read.h"

#include <string.h>

#include "fleet/definition_file.h"

#define DEFAULT_DAYS 365
#define MOST_DAYS 36500

void settings_tls_done(struct settings_tls *tls) {
        free(tls->address);
        free(tls->certificate);
        free(tls->key);
        free(tls->client_ca);
        free(tls->client_revocations);
        free(tls->server_ca);
        strings_free(tls->advertise, tls->n_advertise);
        free(tls->authority.certificate);
        free(tls->authority.key);
        free(tls->authority.revocations);
        *tls = (struct settings_tls){};
}

static int read_authority(const struct node_reader *reader, const struct node_at *section, struct settings *s) {
        static const char *const known[] = {"certificate", "key", "revocations", "days", NULL};
        struct settings_tls *tls = &s->tls;
        uint64_t days = DEFAULT_DAYS;
        struct node_at at;
        int r;

        r = node_mapping(reader, section, "authority", "tls.authority", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, NULL);
        if (r < 0)
                return r;
        if (!at.node)
                return 0;
        r = node_required(reader, &at, "certificate");
        if (r < 0)
                return r;
        r = node_required(reader, &at, "key");
        if (r < 0)
                return r;
        r = settings_read_path(reader, &at, "certificate", s->root, &tls->authority.certificate);
        if (r < 0)
                return r;
        r = settings_read_path(reader, &at, "key", s->root, &tls->authority.key);
        if (r < 0)
                return r;
        r = settings_read_path(reader, &at, "revocations", s->root, &tls->authority.revocations);
        if (r < 0)
                return r;
        r = node_number(reader, &at, "days", 1, MOST_DAYS, &days);
        tls->authority.days = (unsigned)days;
        return r;
}

static int read_advertise(const struct node_reader *reader, const struct node_at *at, struct settings_tls *tls) {
        int r;

        r = node_strings(reader, at, "advertise", &tls->advertise, &tls->n_advertise);
        if (r < 0)
                return r;
        for (size_t i = 0; i < tls->n_advertise; i++) {
                const char *url = tls->advertise[i], *host = url + strlen("https://");

                if (strncmp(url, "https://", strlen("https://")) != 0 || !*host || host[strcspn(host, "/ ,\t")])
                        return node_field_fail(reader, at, "advertise", "\"%s\" must be https://HOST:PORT", url);
        }
        return 0;
}

int settings_read_tls(const struct node_reader *reader, const struct node_at *top, struct settings *s) {
        static const char *const known[] = {"address", "certificate", "key", "clientCA", "clientRevocations",
                "serverCA", "advertise", "tenantNames", "authority", NULL};
        struct settings_tls *tls = &s->tls;
        const struct yaml_node *n;
        const char *address = NULL;
        struct node_at at;
        int r;

        r = node_mapping(reader, top, "tls", "tls", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, NULL);
        if (r < 0 || !at.node)
                return r;
        r = node_required(reader, &at, "address");
        if (r < 0)
                return r;
        n = node_field(&at, "address");
        if (n->kind != YAML_SCALAR || strcmp(n->text, "off") != 0) {
                r = node_string(reader, &at, "address", &address);
                if (r < 0)
                        return r;
        }
        if (address && !tcp_address_is_valid(address))
                return node_field_fail(reader, &at, "address",
                        "must be HOST:PORT with a numeric host (0.0.0.0:2379, [::]:2379), or off");
        r = string_copy(address, &tls->address);
        if (r < 0)
                return r;
        if (address) {
                r = node_required(reader, &at, "certificate");
                if (r < 0)
                        return r;
                r = node_required(reader, &at, "key");
                if (r < 0)
                        return r;
        }
        r = settings_read_path(reader, &at, "certificate", s->root, &tls->certificate);
        if (r < 0)
                return r;
        r = settings_read_path(reader, &at, "key", s->root, &tls->key);
        if (r < 0)
                return r;
        r = settings_read_path(reader, &at, "clientCA", s->root, &tls->client_ca);
        if (r < 0)
                return r;
        r = settings_read_path(reader, &at, "clientRevocations", s->root, &tls->client_revocations);
        if (r < 0)
                return r;
        if (tls->client_revocations && !tls->client_ca)
                return node_field_fail(reader, &at, "clientRevocations", "needs a clientCA");
        r = settings_read_path(reader, &at, "serverCA", s->root, &tls->server_ca);
        if (r < 0)
                return r;
        r = node_bool(reader, &at, "tenantNames", &tls->tenant_names);
        if (r < 0)
                return r;
        r = read_advertise(reader, &at, tls);
        if (r < 0)
                return r;
        return read_authority(reader, &at, s);
}

bool settings_tls_same_listener(const struct settings_tls *a, const struct settings_tls *b) {
        return a->address == b->address || (a->address && b->address && strcmp(a->address, b->address) == 0);
}

void settings_tls_adopt(struct settings_tls *running, struct settings_tls *new) {
        char *address;

        if (running->address && !new->address)
                return; /* it goes on as it is until the daemon is started anew */
        address = steal(running->address);
        settings_tls_done(running);
        *running = *new;
        *new = (struct settings_tls){};
        free(running->address);
        running->address = address;
}
