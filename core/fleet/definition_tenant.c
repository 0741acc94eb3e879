/*
 * kind: Tenant. Runs on the main thread; names of users and groups are looked up when the document is read, so that
 * whoever serves the tenant deals in numbers. What is planned but does nothing yet is refused rather than ignored.
 */

#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

#include "fleet/client_name.h"
#include "fleet/definition_credentials.h"
#include "fleet/definition_kind.h"
#include "fleet/registry.h"

#define BACKUP_KEEP 7

void tenant_definition_free(struct tenant_definition *t) {
        if (!t)
                return;
        definition_base_done(&t->base);
        definition_map_done(&t->labels);
        definition_map_done(&t->annotations);
        free(t->datastore);
        free(t->peers);
        free(t->tcp);
        free(t->backup_directory);
        for (size_t i = 0; i < t->n_client_names; i++)
                free(t->client_names[i].name);
        free(t->client_names);
        content_ref_done(&t->client_ca);
        content_ref_done(&t->client_revocations);
        free(t);
}

/* ---- users and groups */

/* Runs a reentrant look-up with as much memory as it asks for. 0: found. */
static int look_up(const char *name, bool group, uint32_t *ret) {
        cleanup(freep) char *memory = NULL;
        struct passwd pw, *found_user = NULL;
        struct group gr, *found_group = NULL;
        size_t size = 1024;
        int r;

        do {
                free(memory);
                size *= 2;
                memory = malloc(size);
                if (!memory)
                        return -ENOMEM;
                r = group ? getgrnam_r(name, &gr, memory, size, &found_group)
                          : getpwnam_r(name, &pw, memory, size, &found_user);
        } while (r == ERANGE && size < 1024 * 1024);

        if (group && found_group)
                *ret = found_group->gr_gid;
        else if (!group && found_user)
                *ret = found_user->pw_uid;
        else
                return -ENOENT;
        return 0;
}

/* A number or a name. */
static int parse_id(
        const struct node_reader *reader, const struct yaml_node *n, const char *path, bool group, uint32_t *ret) {
        const char *what = group ? "group" : "user";
        int64_t v;
        int r;

        if (yaml_get_int(n, &v) == 0) {
                /* The last number is the system's word for "leave it". */
                if (v < 0 || v >= UINT32_MAX)
                        return node_fail(reader, n->line, "%s: %" PRId64 " is not a %s's number", path, v, what);
                *ret = (uint32_t)v;
                return 0;
        }
        if (!yaml_is_string(n) || !*n->text)
                return node_fail(reader, n->line, "%s: must be a %s's name or number", path, what);
        r = look_up(n->text, group, ret);
        if (r == -ENOENT)
                return node_fail(reader, n->line, "%s: there is no %s \"%s\"", path, what, n->text);
        return r;
}

/* ---- spec */

static bool has_client_name(const struct tenant_definition *t, const char *name) {
        for (size_t i = 0; i < t->n_client_names; i++)
                if (strcmp(t->client_names[i].name, name) == 0)
                        return true;
        return false;
}

static int parse_client_name(const struct node_reader *reader, const struct yaml_node *n, struct tenant_definition *t) {
        cleanup(error_done) struct error why = {};
        struct client_name *name = &t->client_names[t->n_client_names];
        int r;

        if (!yaml_is_string(n) || !*n->text)
                return node_fail(reader, n->line, "spec.endpoint.clientNames: must be strings that are not empty");
        r = client_name_parse(n->text, &name->name, &why);
        if (r == -EINVAL)
                return node_fail(reader, n->line, "spec.endpoint.clientNames: %s", error_text(&why));
        if (r < 0)
                return r;
        if (has_client_name(t, name->name)) {
                free(steal(name->name));
                return node_fail(reader, n->line, "spec.endpoint.clientNames: \"%s\" is there twice", n->text);
        }
        name->line = n->line;
        t->n_client_names++;
        return 0;
}

/* Whose certificates lead here, at the port that all tenants share. */
static int parse_clients(const struct node_reader *reader, const struct node_at *at, struct tenant_definition *t) {
        const struct yaml_node *names;
        struct node_at authority;
        int r;

        r = node_sequence(reader, at, "clientNames", &names);
        if (r < 0)
                return r;
        if (names && names->n_items > CLIENT_NAMES_MAX)
                return node_field_fail(reader, at, "clientNames", "has more than %d names", CLIENT_NAMES_MAX);
        if (names && names->n_items) {
                t->client_names = calloc(names->n_items, sizeof(*t->client_names));
                if (!t->client_names)
                        return -ENOMEM;
        }
        for (size_t i = 0; names && i < names->n_items; i++) {
                r = parse_client_name(reader, names->items[i], t);
                if (r < 0)
                        return r;
        }

        r = node_mapping(reader, at, "clientCA", "spec.endpoint.clientCA", &authority);
        if (r < 0)
                return r;
        r = content_refs_parse(reader, &authority, "certificate", "revocations", &t->client_ca, &t->client_revocations);
        if (r < 0)
                return r;
        if (authority.node && t->n_client_names == 0)
                return node_field_fail(reader, at, "clientCA", "needs clientNames: nobody is let in by a CA alone");
        return 0;
}

static int parse_endpoint(const struct node_reader *reader, const struct node_at *spec, struct tenant_definition *t) {
        static const char *const known[] = {"mode", "owner", "group", "peers", "tcp", "clientNames", "clientCA", NULL};
        static const char *const planned[] = {"acl", NULL};
        const struct yaml_node *n, *peers;
        const char *tcp = NULL;
        struct node_at at;
        int r;

        r = node_mapping(reader, spec, "endpoint", "spec.endpoint", &at);
        if (r < 0)
                return r;
        r = node_only(reader, &at, known, planned);
        if (r < 0)
                return r;
        r = node_mode(reader, &at, "mode", &t->has_socket_mode, &t->socket_mode);
        if (r < 0)
                return r;
        n = node_field(&at, "owner");
        if (n) {
                r = parse_id(reader, n, "spec.endpoint.owner", false, &t->owner);
                if (r < 0)
                        return r;
        }
        n = node_field(&at, "group");
        if (n) {
                r = parse_id(reader, n, "spec.endpoint.group", true, &t->group);
                if (r < 0)
                        return r;
        }

        r = node_sequence(reader, &at, "peers", &peers);
        if (r < 0)
                return r;
        if (peers) {
                /* An empty list reads as "nobody" and would mean "everybody". */
                if (peers->n_items == 0)
                        return node_field_fail(
                                reader, &at, "peers", "is empty: leave it out to admit whoever the mode lets in");
                t->peers = calloc(peers->n_items, sizeof(*t->peers));
                if (!t->peers)
                        return -ENOMEM;
                for (size_t i = 0; i < peers->n_items; i++) {
                        r = parse_id(reader, peers->items[i], "spec.endpoint.peers", false, &t->peers[i]);
                        if (r < 0)
                                return r;
                }
                t->n_peers = peers->n_items;
        }

        r = parse_clients(reader, &at, t);
        if (r < 0)
                return r;
        r = node_string(reader, &at, "tcp", &tcp);
        if (r < 0 || !tcp)
                return r;
        if (!tcp_address_is_loopback(tcp))
                return node_field_fail(
                        reader, &at, "tcp", "must be 127.0.0.1:PORT or [::1]:PORT (without TLS on loopback only)");
        t->tcp_line = node_field(&at, "tcp")->line;
        return string_copy(tcp, &t->tcp);
}

static int parse_backup(const struct node_reader *reader, const struct node_at *spec, struct tenant_definition *t) {
        static const char *const known[] = {"every", "keep", "directory", NULL};
        const char *directory = NULL;
        uint64_t keep = BACKUP_KEEP;
        struct node_at at;
        bool given = false;
        int r;

        r = node_mapping(reader, spec, "backup", "spec.backup", &at);
        if (r < 0 || !at.node)
                return r;
        r = node_only(reader, &at, known, NULL);
        if (r < 0)
                return r;
        r = node_duration(reader, &at, "every", &given, &t->backup_every_ns);
        if (r < 0)
                return r;
        if (!given)
                return node_required(reader, &at, "every");
        if (t->backup_every_ns && t->backup_every_ns < NSEC_PER_SEC)
                return node_field_fail(reader, &at, "every", "must be at least 1s, or off");
        r = node_number(reader, &at, "keep", 1, 10000, &keep);
        if (r < 0)
                return r;
        t->backup_keep = (unsigned)keep;
        r = node_string(reader, &at, "directory", &directory);
        if (r < 0)
                return r;
        if (!directory)
                return node_required(reader, &at, "directory");
        if (directory[0] != '/')
                return node_field_fail(reader, &at, "directory", "must be an absolute path");
        return string_copy(directory, &t->backup_directory);
}

static int parse_spec(const struct node_reader *reader, const struct node_at *spec, struct tenant_definition *t) {
        static const char *const known[] = {
                "datastore", "quota", "endpoint", "deletionPolicy", "autoCompaction", "backup", NULL};
        static const char *const planned[] = {"requests", "selector", "tolerations", NULL};
        const char *datastore = NULL, *policy = NULL;
        int r;

        r = node_only(reader, spec, known, planned);
        if (r < 0)
                return r;
        r = node_string(reader, spec, "datastore", &datastore);
        if (r < 0)
                return r;
        if (datastore) {
                if (!datastore_name_is_valid(datastore))
                        return node_field_fail(
                                reader, spec, "datastore", "\"%s\" is not a datastore's name", datastore);
                t->datastore_line = node_field(spec, "datastore")->line;
                r = string_copy(datastore, &t->datastore);
                if (r < 0)
                        return r;
        }
        r = node_size(reader, spec, "quota", &t->has_quota, &t->quota_bytes);
        if (r < 0)
                return r;
        r = node_duration(reader, spec, "autoCompaction", &t->has_auto_compact, &t->auto_compact_ns);
        if (r < 0)
                return r;
        r = node_string(reader, spec, "deletionPolicy", &policy);
        if (r < 0)
                return r;
        if (policy && strcmp(policy, "Delete") != 0 && strcmp(policy, "Retain") != 0)
                return node_field_fail(reader, spec, "deletionPolicy",
                        "Unsupported value: \"%s\": supported values: \"Delete\", \"Retain\"", policy);
        t->retain = policy && strcmp(policy, "Retain") == 0;
        r = parse_backup(reader, spec, t);
        if (r < 0)
                return r;
        return parse_endpoint(reader, spec, t);
}

int tenant_definition_parse(const struct document *document, const struct definitions_config *config,
        struct definition **ret, struct error *reterr) {
        static const char *const known[] = {"apiVersion", "kind", "metadata", "spec", "status", NULL};
        const struct node_reader reader = {.file = document->file, .subject = document->subject, .reterr = reterr};
        const struct node_at top = {.node = document->root, .path = "", .line = document->root->line};
        cleanup(tenant_definition_freep) struct tenant_definition *t = new0(struct tenant_definition);
        struct node_at spec;
        int r;

        (void)config;
        t->owner = (uid_t)-1;
        t->group = (gid_t)-1;
        r = string_copy(document->name, &t->base.name);
        if (r < 0)
                return r;
        r = node_only(&reader, &top, known, NULL);
        if (r < 0)
                return r;
        if (registry_keeps_name(t->base.name))
                return node_fail(&reader, top.line, "metadata.name: is kept for the daemon's own keyspace");
        r = metadata_parse(&reader, &top, &t->labels, &t->annotations);
        if (r < 0)
                return r;
        r = node_mapping(&reader, &top, "spec", "spec", &spec);
        if (r < 0)
                return r;
        r = parse_spec(&reader, &spec, t);
        if (r < 0)
                return r;

        t->base.fingerprint = t->base.shared = node_fingerprint(spec.node, 3);
        *ret = &steal(t)->base;
        return 0;
}
