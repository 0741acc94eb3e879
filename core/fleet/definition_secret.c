/*
 * kind: Secret, as Kubernetes has it, as far as contents go: data (base64) and stringData (text, which wins). Type and
 * everything else about it mean nothing here. Runs on the main thread; the values are wiped when the last reference goes,
 * which may be on a session's thread.
 */

#include <string.h>

#include "fleet/definition_kind.h"

void secret_definition_free(struct secret_definition *s) {
        if (!s)
                return;
        definition_base_done(&s->base);
        for (size_t i = 0; i < s->n_values; i++) {
                free(s->values[i].key);
                if (s->values[i].data)
                        explicit_bzero(s->values[i].data, s->values[i].size);
                free(s->values[i].data);
        }
        free(s->values);
        free(s);
}

/* The place of a key, new or not. */
static struct secret_value *value_at(struct secret_definition *s, const char *key) {
        for (size_t i = 0; i < s->n_values; i++)
                if (strcmp(s->values[i].key, key) == 0)
                        return &s->values[i];
        s->values[s->n_values].key = strdup(key);
        return s->values[s->n_values].key ? &s->values[s->n_values++] : NULL;
}

static int value_set(struct secret_definition *s, const char *key, uint8_t *data, size_t size) {
        struct secret_value *v = value_at(s, key);

        if (!v) {
                free(data);
                return -ENOMEM;
        }
        if (v->data)
                explicit_bzero(v->data, v->size);
        free(v->data);
        v->data = data;
        v->size = size;
        return 0;
}

static int parse_values(
        const struct node_reader *reader, const struct node_at *at, bool is_text, struct secret_definition *s) {
        int r;

        for (size_t i = 0; at->node && i < at->node->n_items; i++) {
                const char *key = at->node->keys[i]->text, *text = "";
                uint8_t *data = NULL;
                size_t size = 0;

                if (is_text) {
                        r = node_string(reader, at, key, &text);
                        if (r < 0)
                                return r;
                        data = (uint8_t *)strdup(text);
                        size = strlen(text);
                } else {
                        r = node_base64(reader, at, key, &data, &size);
                        if (r < 0)
                                return r;
                        if (!data)
                                data = calloc(1, 1);
                }
                if (!data)
                        return -ENOMEM;
                r = value_set(s, key, data, size);
                if (r < 0)
                        return r;
        }
        return 0;
}

int secret_definition_parse(const struct document *document, const struct definitions_config *config,
        struct definition **ret, struct error *reterr) {
        static const char *const known[] = {
                "apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData", NULL};
        const struct node_reader reader = {.file = document->file, .subject = document->subject, .reterr = reterr};
        const struct node_at top = {.node = document->root, .path = "", .line = document->root->line};
        cleanup(secret_definition_freep) struct secret_definition *s = new0(struct secret_definition);
        struct definition_map labels = {}, annotations = {};
        struct node_at data, text;
        int r;

        (void)config;
        r = string_copy(document->name, &s->base.name);
        if (r < 0)
                return r;
        r = node_only(&reader, &top, known, NULL);
        if (r < 0)
                return r;
        r = metadata_parse(&reader, &top, &labels, &annotations);
        definition_map_done(&labels);
        definition_map_done(&annotations);
        if (r < 0)
                return r;
        r = node_mapping(&reader, &top, "data", "data", &data);
        if (r < 0)
                return r;
        r = node_mapping(&reader, &top, "stringData", "stringData", &text);
        if (r < 0)
                return r;

        s->values = calloc(
                (data.node ? data.node->n_items : 0) + (text.node ? text.node->n_items : 0) + 1, sizeof(*s->values));
        if (!s->values)
                return -ENOMEM;
        r = parse_values(&reader, &data, false, s);
        if (r < 0)
                return r;
        r = parse_values(&reader, &text, true, s);
        if (r < 0)
                return r;

        s->base.fingerprint = node_fingerprint(data.node, 1) ^ node_fingerprint(text.node, 2);
        *ret = &steal(s)->base;
        return 0;
}
