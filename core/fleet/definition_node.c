/*
 * Field by field out of a YAML tree, with Kubernetes' strictness about types (true is no string, "12" is no number) and
 * reasons that name file, line and path. Stateless; whoever reads owns what comes out. Values of secrets are never part
 * of a reason.
 */

#include "fleet/definition_node.h"

#include <inttypes.h>
#include <stdarg.h>

#include "fleet/quantity.h"

static int vfail(const struct node_reader *reader, unsigned line, const char *path, const char *key, const char *format,
        va_list ap) {
        cleanup(freep) char *reason = NULL;

        if (vasprintf(&reason, format, ap) < 0)
                reason = NULL;
        return error_set(reader->reterr, -EBADMSG, "%s:%u: %s%s%s%s%s%s%s", reader->file, line,
                reader->subject ? reader->subject : "", reader->subject ? ": " : "", path, *path && *key ? "." : "",
                key, *path || *key ? ": " : "", reason ? reason : "out of memory");
}

int node_fail(const struct node_reader *reader, unsigned line, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        (void)vfail(reader, line, "", "", format, ap);
        va_end(ap);
        return -EBADMSG;
}

int node_field_fail(
        const struct node_reader *reader, const struct node_at *at, const char *key, const char *format, ...) {
        const struct yaml_node *n = node_field(at, key);
        unsigned line = n ? n->line : at->line;
        va_list ap;

        va_start(ap, format);
        (void)vfail(reader, line, at->path, key, format, ap);
        va_end(ap);
        return -EBADMSG;
}

const struct yaml_node *node_field(const struct node_at *at, const char *key) {
        const struct yaml_node *n = yaml_find(at->node, key);

        return yaml_is_null(n) ? NULL : n;
}

static bool contains(const char *const *words, const char *word) {
        for (; words && *words; words++)
                if (strcmp(*words, word) == 0)
                        return true;
        return false;
}

int node_only(const struct node_reader *reader, const struct node_at *at, const char *const *known,
        const char *const *planned) {
        for (size_t i = 0; at->node && i < at->node->n_items; i++) {
                const struct yaml_node *key = at->node->keys[i];
                struct node_at here = {.path = at->path, .line = key->line};

                if (contains(known, key->text))
                        continue;
                if (contains(planned, key->text))
                        return node_field_fail(reader, &here, key->text, "not supported yet by this version");
                return node_field_fail(reader, &here, key->text, "unknown field");
        }
        return 0;
}

int node_required(const struct node_reader *reader, const struct node_at *at, const char *key) {
        if (!node_field(at, key))
                return node_field_fail(reader, at, key, "Required value");
        return 0;
}

int node_mapping(const struct node_reader *reader, const struct node_at *at, const char *key, const char *path,
        struct node_at *ret) {
        const struct yaml_node *n = node_field(at, key);

        if (n && n->kind != YAML_MAPPING)
                return node_field_fail(reader, at, key, "must be a mapping");
        *ret = (struct node_at){.node = n, .path = path, .line = n ? n->line : at->line};
        return 0;
}

int node_sequence(
        const struct node_reader *reader, const struct node_at *at, const char *key, const struct yaml_node **ret) {
        const struct yaml_node *n = node_field(at, key);

        if (n && n->kind != YAML_SEQUENCE)
                return node_field_fail(reader, at, key, "must be a list");
        *ret = n;
        return 0;
}

int node_string(const struct node_reader *reader, const struct node_at *at, const char *key, const char **ret) {
        const struct yaml_node *n = node_field(at, key);

        if (!n)
                return 0;
        if (n->kind != YAML_SCALAR)
                return node_field_fail(reader, at, key, "must be a string");
        if (!yaml_is_string(n))
                return node_field_fail(reader, at, key, "must be a string (put quotes around it)");
        *ret = n->text;
        return 0;
}

int node_bool(const struct node_reader *reader, const struct node_at *at, const char *key, bool *ret) {
        const struct yaml_node *n = node_field(at, key);

        if (n && yaml_get_bool(n, ret) < 0)
                return node_field_fail(reader, at, key, "must be true or false");
        return 0;
}

int node_number(const struct node_reader *reader, const struct node_at *at, const char *key, uint64_t min, uint64_t max,
        uint64_t *ret) {
        const struct yaml_node *n = node_field(at, key);
        int64_t v;

        if (!n)
                return 0;
        if (yaml_get_int(n, &v) < 0)
                return node_field_fail(reader, at, key, "must be a whole number");
        if (v < 0 || (uint64_t)v < min || (uint64_t)v > max)
                return node_field_fail(reader, at, key, "must be from %" PRIu64 " to %" PRIu64, min, max);
        *ret = (uint64_t)v;
        return 0;
}

int node_size(
        const struct node_reader *reader, const struct node_at *at, const char *key, bool *ret_given, uint64_t *ret) {
        const struct yaml_node *n = node_field(at, key);
        int r;

        if (!n)
                return 0;
        r = n->kind == YAML_SCALAR ? size_parse(n->text, ret) : -EINVAL;
        if (r == -ERANGE)
                return node_field_fail(reader, at, key, "is too large");
        if (r < 0)
                return node_field_fail(reader, at, key, "must be a size, such as 256Mi or 2Gi");
        if (ret_given)
                *ret_given = true;
        return 0;
}

int node_duration(
        const struct node_reader *reader, const struct node_at *at, const char *key, bool *ret_given, uint64_t *ret) {
        const struct yaml_node *n = node_field(at, key);
        int r;

        if (!n)
                return 0;
        if (n->kind == YAML_SCALAR && strcmp(n->text, "off") == 0) {
                *ret = 0;
                r = 0;
        } else
                r = n->kind == YAML_SCALAR ? duration_parse(n->text, ret) : -EINVAL;
        if (r == -ERANGE)
                return node_field_fail(reader, at, key, "is too long");
        if (r < 0)
                return node_field_fail(reader, at, key, "must be a duration, such as 500ms, 5m or 1h30m, or off");
        if (ret_given)
                *ret_given = true;
        return 0;
}

int node_mode(
        const struct node_reader *reader, const struct node_at *at, const char *key, bool *ret_given, mode_t *ret) {
        const struct yaml_node *n = node_field(at, key);
        unsigned long v;
        char *end;

        if (!n)
                return 0;
        if (n->kind != YAML_SCALAR || !*n->text || n->text[strspn(n->text, "01234567")])
                return node_field_fail(reader, at, key, "must be an octal mode, such as \"0660\"");
        errno = 0;
        v = strtoul(n->text, &end, 8);
        if (errno || *end || v > 0777)
                return node_field_fail(reader, at, key, "must be an octal mode from 0 to 0777");
        *ret = (mode_t)v;
        if (ret_given)
                *ret_given = true;
        return 0;
}

int node_map(const struct node_reader *reader, const struct node_at *at, const char *key, struct definition_map *ret) {
        cleanup(definition_map_done) struct definition_map map = {};
        struct node_at sub;
        char path[256];
        int r;

        snprintf(path, sizeof(path), "%s%s%s", at->path, *at->path ? "." : "", key);
        r = node_mapping(reader, at, key, path, &sub);
        if (r < 0 || !sub.node)
                return r;

        map.pairs = calloc(max_of(sub.node->n_items, (size_t)1), sizeof(*map.pairs));
        if (!map.pairs)
                return -ENOMEM;
        for (size_t i = 0; i < sub.node->n_items; i++) {
                const char *value = "";

                r = node_string(reader, &sub, sub.node->keys[i]->text, &value);
                if (r < 0)
                        return r;
                map.n_pairs++;
                r = string_copy(sub.node->keys[i]->text, &map.pairs[i].name);
                if (r < 0)
                        return r;
                r = string_copy(value, &map.pairs[i].value);
                if (r < 0)
                        return r;
        }
        *ret = map;
        map = (struct definition_map){};
        return 0;
}

int node_strings(
        const struct node_reader *reader, const struct node_at *at, const char *key, char ***ret, size_t *ret_n) {
        const struct yaml_node *list;
        char **strings;
        int r;

        r = node_sequence(reader, at, key, &list);
        if (r < 0 || !list)
                return r;

        strings = calloc(max_of(list->n_items, (size_t)1), sizeof(*strings));
        if (!strings)
                return -ENOMEM;
        for (size_t i = 0; i < list->n_items; i++) {
                const struct yaml_node *n = list->items[i];
                struct node_at here = {.path = at->path, .line = n->line};

                if (!yaml_is_string(n) || !*n->text)
                        r = node_field_fail(reader, &here, key, "entry %zu must be a string that is not empty", i + 1);
                else
                        r = string_copy(n->text, &strings[i]);
                if (r < 0) {
                        strings_free(strings, list->n_items);
                        return r;
                }
        }
        *ret = strings;
        *ret_n = list->n_items;
        return 0;
}

int node_base64(
        const struct node_reader *reader, const struct node_at *at, const char *key, uint8_t **ret, size_t *ret_size) {
        const char *text = NULL;
        size_t size;
        uint8_t *data;
        int r;

        /* What a number looks like may be base64 all the same, and YAML 1.1's words too. */
        const struct yaml_node *n = node_field(at, key);
        if (n && n->kind == YAML_SCALAR)
                text = n->text;
        else if (n)
                return node_field_fail(reader, at, key, "must be a string");
        if (!text)
                return 0;

        r = base64_decode(text, &data, &size);
        if (r == -EINVAL)
                return node_field_fail(reader, at, key, "is not base64");
        if (r < 0)
                return r;
        if (size == 0) {
                free(data);
                return 0;
        }
        *ret = data;
        *ret_size = size;
        return 0;
}

void definition_map_done(struct definition_map *map) {
        for (size_t i = 0; i < map->n_pairs; i++) {
                free(map->pairs[i].name);
                free(map->pairs[i].value);
        }
        free(map->pairs);
        *map = (struct definition_map){};
}

void strings_free(char **strings, size_t n) {
        for (size_t i = 0; strings && i < n; i++)
                free(strings[i]);
        free(strings);
}

int string_copy(const char *s, char **ret) {
        char *p = NULL;

        if (s) {
                p = strdup(s);
                if (!p)
                        return -ENOMEM;
        }
        *ret = p;
        return 0;
}
