/*
 * YAML as definitions and settings hold it. The first byte chooses: the parser alone, stokehold.yaml, or a file of the definitions
 * directory; the rest is the text. Beyond not crashing:
 *  - every node, and every mistake that is told, has a line within the text; nesting and number of nodes are within the limits;
 *  - a tree that is printed is read again as the same tree;
 *  - settings that are refused say why, as FILE:LINE: reason; definitions that are refused too, and the set that is left is whole;
 *  - a definition that is printed as YAML is read again without a mistake of the parser.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/yaml.h"
#include "fleet/definition.h"
#include "fleet/settings.h"
#include "fuzz.h"

static char folder[64], definitions_dir[80], definition_path[96], settings_path[96];

static void remove_folder(void) {
        (void)unlink(definition_path);
        (void)unlink(settings_path);
        (void)rmdir(definitions_dir);
        (void)rmdir(folder);
}

static void prepare(void) {
        const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

        if (folder[0])
                return;
        (void)snprintf(folder, sizeof(folder), "%s/fuzz-yaml-XXXXXX", base);
        check(mkdtemp(folder));
        (void)snprintf(definitions_dir, sizeof(definitions_dir), "%s/d", folder);
        (void)snprintf(definition_path, sizeof(definition_path), "%s/a.yaml", definitions_dir);
        (void)snprintf(settings_path, sizeof(settings_path), "%s/stokehold.yaml", folder);
        check(mkdir(definitions_dir, 0700) == 0);
        (void)atexit(remove_folder);
}

static void write_file(const char *path, struct bytes text) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        check(fd >= 0 && write(fd, text.data, text.size) == (ssize_t)text.size);
        close(fd);
}

/* At most: YAML ends lines by CR, NEL and the like too. */
static unsigned most_lines(struct bytes text) {
        unsigned n = 2;

        for (size_t i = 0; i < text.size; i++)
                n += text.data[i] == '\n' || text.data[i] == '\r' || text.data[i] >= 0x80;
        return n;
}

/* ---- trees */

static void check_node(const struct yaml_node *node, unsigned lines, unsigned depth, size_t *n_nodes) {
        check(depth <= 64 && ++*n_nodes <= 100000);
        check(node->line >= 1 && node->line <= lines);
        if (node->kind == YAML_SCALAR) {
                check(node->text);
                return;
        }
        for (size_t i = 0; i < node->n_items; i++) {
                if (node->kind == YAML_MAPPING) {
                        check(node->keys[i]->kind == YAML_SCALAR);
                        for (size_t j = 0; j < i && i < 32; j++)
                                check(strcmp(node->keys[i]->text, node->keys[j]->text) != 0);
                        check_node(node->keys[i], lines, depth + 1, n_nodes);
                }
                check_node(node->items[i], lines, depth + 1, n_nodes);
        }
}

static void print_node(struct yaml_writer *w, const struct yaml_node *node) {
        switch (node->kind) {
        case YAML_SCALAR:
                yaml_write_string(w, node->text);
                return;
        case YAML_SEQUENCE:
                if (!node->n_items) {
                        yaml_write_empty_sequence(w);
                        return;
                }
                yaml_write_sequence(w);
                for (size_t i = 0; i < node->n_items; i++)
                        print_node(w, node->items[i]);
                break;
        case YAML_MAPPING:
                if (!node->n_items) {
                        yaml_write_empty_mapping(w);
                        return;
                }
                yaml_write_mapping(w);
                for (size_t i = 0; i < node->n_items; i++) {
                        yaml_write_key(w, node->keys[i]->text);
                        print_node(w, node->items[i]);
                }
                break;
        }
        yaml_write_end(w);
}

static bool same_tree(const struct yaml_node *a, const struct yaml_node *b) {
        if (a->kind != b->kind || a->n_items != b->n_items)
                return false;
        if (a->kind == YAML_SCALAR)
                return strcmp(a->text, b->text) == 0 && yaml_is_string(b);
        for (size_t i = 0; i < a->n_items; i++)
                if ((a->kind == YAML_MAPPING && strcmp(a->keys[i]->text, b->keys[i]->text) != 0) ||
                        !same_tree(a->items[i], b->items[i]))
                        return false;
        return true;
}

static void try_parser(struct bytes text) {
        cleanup(yaml_file_freep) struct yaml_file *file = NULL;
        cleanup(error_done) struct error err = {};
        unsigned line = 0, lines = most_lines(text);
        size_t n_nodes = 0;
        int r = yaml_parse(text, &file, &line, &err);

        if (r < 0) {
                check(r == -EBADMSG && !file && line >= 1 && line <= lines && *error_text(&err));
                return;
        }
        for (size_t i = 0; i < file->n_documents; i++) {
                const struct yaml_document *d = &file->documents[i];
                cleanup(yaml_file_freep) struct yaml_file *again = NULL;
                cleanup(yaml_writer_freep) struct yaml_writer *w = NULL;
                cleanup(buf_done) struct buf out = {};

                check(d->line >= 1 && d->line <= lines);
                if (!d->root)
                        continue;
                check_node(d->root, lines, 1, &n_nodes);
                check(yaml_writer_new(&out, &w) == 0);
                print_node(w, d->root);
                check(yaml_writer_finish(w) == 0);
                r = yaml_parse(bytes_of(out.data, out.size), &again, &line, &err);
                if (r < 0)
                        fprintf(stderr, "%u: %s\n", line, error_text(&err));
                check(r == 0 && again->n_documents == 1 && again->documents[0].root);
                check(same_tree(d->root, again->documents[0].root));
        }
}

/* ---- what is read from files */

/* FILE:LINE: … */
static void check_place(const char *text, const char *file, unsigned lines) {
        unsigned long line;
        char *end;

        check(strncmp(text, file, strlen(file)) == 0);
        text += strlen(file);
        if (text[0] != ':' || text[1] < '0' || text[1] > '9') /* the file as a whole */
                return;
        line = strtoul(text + 1, &end, 10);
        check(line >= 1 && line <= lines && end[0] == ':' && end[1] == ' ' && end[2]);
        for (const char *p = text; *p; p++)
                check(*p != '\n');
}

static void try_settings(struct bytes text) {
        struct settings_options options = {.config = settings_path, .plugins = "/plugins"};
        cleanup(settings_freep) struct settings *s = NULL;
        cleanup(error_done) struct error err = {};

        write_file(settings_path, text);
        if (settings_load(&options, &s, &err) < 0) {
                check(!s);
                check_place(error_text(&err), settings_path, most_lines(text));
                return;
        }
        check(s->n_shards >= 1 && s->n_shards <= 64 && s->limits.streams && s->limits.request_bytes);
        check(s->state_dir[0] == '/' && s->definitions_dir[0] == '/' && s->control_socket[0] == '/');
}

static void check_printed(struct buf *out) {
        cleanup(yaml_file_freep) struct yaml_file *file = NULL;
        cleanup(error_done) struct error err = {};
        unsigned line;

        check(yaml_parse(bytes_of(out->data, out->size), &file, &line, &err) == 0);
        buf_done(out);
}

static void try_definitions(struct bytes text) {
        struct definitions_config config = {.directory = definitions_dir, .state_dir = "/state"};
        struct definition_problems problems = {};
        cleanup(definitions_freep) struct definitions *set = NULL, *next = NULL;
        struct buf out = {};

        write_file(definition_path, text);
        check(definitions_load(&config, NULL, &set, &problems) == 0);
        for (size_t i = 0; i < problems.n_items; i++)
                check_place(problems.items[i].text, definition_path, most_lines(text));
        definition_problems_done(&problems);
        check(set->default_datastore && set->system_datastore);
        for (size_t i = 0; i < set->n_datastores; i++) {
                struct datastore_status status = {};

                check(datastore_name_is_valid(set->datastores[i]->base.name));
                check(definitions_find_datastore(set, set->datastores[i]->base.name) == set->datastores[i]);
                check(datastore_definition_print(set->datastores[i], &status, &out) == 0);
                check_printed(&out);
        }
        for (size_t i = 0; i < set->n_tenants; i++) {
                struct tenant_status status = {};

                check(tenant_name_is_valid(set->tenants[i]->base.name));
                check(definitions_find_tenant(set, set->tenants[i]->base.name) == set->tenants[i]);
                check(tenant_definition_print(set->tenants[i], &status, &out) == 0);
                check_printed(&out);
        }

        /* The same again is no change and no new mistake. */
        check(definitions_load(&config, set, &next, &problems) == 0);
        check(next->n_datastores == set->n_datastores && next->n_tenants == set->n_tenants);
        definition_problems_done(&problems);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct fuzz_input in = {data, size};
        uint8_t kind = fuzz_byte(&in);
        uint8_t *copy = fuzz_copy(in.data, in.size);
        struct bytes text = bytes_of(copy, in.size);

        prepare();
        if (kind == 's')
                try_settings(text);
        else if (kind == 'd')
                try_definitions(text);
        else
                try_parser(text);
        free(copy);
        return 0;
}
