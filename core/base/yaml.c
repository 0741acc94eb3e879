/*
 * YAML text to trees and back, over libyaml's events. A file's nodes live in one arena that goes with the file; nothing
 * is shared, so each file and each writer belongs to whoever made it. Whatever makes YAML a language of its own
 * (anchors, aliases, tags, merge keys) is refused: a definition means what its text says, and a small file stays a small tree.
 *
 * A tree's depth is bounded while it is built, so that those who walk it may recurse.
 */

#include "base/yaml.h"

#include <stdarg.h>
#include <yaml.h>

#include "base/arena.h"
#include "base/yaml_node.h"

#define YAML_MAX_DEPTH 64
#define YAML_MAX_NODES 100000

/* What yaml_parse() gives: the caller sees the first member. */
struct yaml_tree {
        struct yaml_file file;
        struct arena arena;
};

struct frame {
        struct yaml_node *node; /* a sequence or mapping under construction */
        struct yaml_node *key;  /* waits for its value */
        size_t capacity;
};

struct builder {
        struct yaml_tree *tree; /* borrowed */
        struct frame frames[YAML_MAX_DEPTH];
        size_t depth;
        size_t n_nodes;
        size_t n_documents_capacity;
        unsigned line; /* of the error */
        struct error *reterr;
};

static int fail(struct builder *b, unsigned line, const char *format, ...) printf_like(3, 4);
static int fail(struct builder *b, unsigned line, const char *format, ...) {
        cleanup(freep) char *text = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);

        b->line = line;
        return error_set(b->reterr, -EBADMSG, "%s", text ? text : "out of memory");
}

static unsigned mark_line(const yaml_mark_t *mark) {
        return (unsigned)(mark->line + 1);
}

/* ---- building */

static struct yaml_node *node_new(struct builder *b, enum yaml_kind kind, const yaml_mark_t *mark) {
        struct yaml_node *n = arena_alloc0(&b->tree->arena, sizeof(*n));

        if (n) {
                n->kind = kind;
                n->line = mark_line(mark);
        }
        return n;
}

static int frame_grow(struct builder *b, struct frame *f) {
        struct arena *a = &b->tree->arena;
        size_t capacity = f->capacity ? f->capacity * 2 : 8;
        struct yaml_node **items, **keys = NULL;

        items = arena_alloc(a, capacity * sizeof(*items));
        if (f->node->kind == YAML_MAPPING)
                keys = arena_alloc(a, capacity * sizeof(*keys));
        if (!items || (f->node->kind == YAML_MAPPING && !keys))
                return -ENOMEM;
        if (f->node->n_items) {
                memcpy(items, f->node->items, f->node->n_items * sizeof(*items));
                if (keys)
                        memcpy(keys, f->node->keys, f->node->n_items * sizeof(*keys));
        }
        f->node->items = items;
        f->node->keys = keys;
        f->capacity = capacity;
        return 0;
}

/* A complete scalar, or a collection that begins, finds its place. */
static int place(struct builder *b, struct yaml_node *n) {
        struct yaml_document *document = &b->tree->file.documents[b->tree->file.n_documents - 1];
        struct frame *f;
        int r;

        if (++b->n_nodes > YAML_MAX_NODES)
                return fail(b, n->line, "more than %d nodes", YAML_MAX_NODES);
        if (b->depth == 0) {
                document->root = n;
                return 0;
        }

        f = &b->frames[b->depth - 1];
        if (f->node->kind == YAML_MAPPING && !f->key) {
                if (n->kind != YAML_SCALAR)
                        return fail(b, n->line, "a key must be a plain word or a string");
                if (n->plain && strcmp(n->text, "<<") == 0)
                        return fail(b, n->line, "merge keys (<<) are not allowed");
                f->key = n;
                return 0;
        }

        if (f->node->n_items == f->capacity) {
                r = frame_grow(b, f);
                if (r < 0)
                        return r;
        }
        if (f->key)
                f->node->keys[f->node->n_items] = steal(f->key);
        f->node->items[f->node->n_items++] = n;
        return 0;
}

static int push(struct builder *b, struct yaml_node *n) {
        int r;

        r = place(b, n);
        if (r < 0)
                return r;
        if (b->depth == YAML_MAX_DEPTH)
                return fail(b, n->line, "nested deeper than %d", YAML_MAX_DEPTH);
        b->frames[b->depth++] = (struct frame){.node = n};
        return 0;
}

static int key_compare(const void *a, const void *b) {
        const struct yaml_node *x = *(const struct yaml_node *const *)a, *y = *(const struct yaml_node *const *)b;
        int r = strcmp(x->text, y->text);

        return r ? r : (x->line > y->line) - (x->line < y->line);
}

/* Two keys of one text: both on record in one mapping, one of them meant nothing to the writer. */
static int pop(struct builder *b) {
        const struct yaml_node *n = b->frames[--b->depth].node;
        const struct yaml_node *second = NULL, *first = NULL;
        struct yaml_node **sorted;

        if (n->kind != YAML_MAPPING || n->n_items < 2)
                return 0;

        sorted = arena_copy(&b->tree->arena, n->keys, n->n_items * sizeof(*sorted));
        if (!sorted)
                return -ENOMEM;
        qsort(sorted, n->n_items, sizeof(*sorted), key_compare);
        for (size_t i = 1; i < n->n_items; i++)
                if (strcmp(sorted[i - 1]->text, sorted[i]->text) == 0 && (!second || sorted[i]->line < second->line)) {
                        first = sorted[i - 1];
                        second = sorted[i];
                }
        if (second)
                return fail(b, second->line, "key \"%s\" is there twice, first in line %u", second->text, first->line);
        return 0;
}

static int on_document(struct builder *b, const yaml_event_t *event) {
        struct yaml_file *file = &b->tree->file;

        if (event->data.document_start.tag_directives.start != event->data.document_start.tag_directives.end)
                return fail(b, mark_line(&event->start_mark), "tags are not allowed");

        if (++b->n_nodes > YAML_MAX_NODES)
                return fail(b, mark_line(&event->start_mark), "more than %d nodes", YAML_MAX_NODES);
        if (file->n_documents == b->n_documents_capacity) {
                size_t capacity = b->n_documents_capacity ? b->n_documents_capacity * 2 : 4;
                struct yaml_document *documents = arena_alloc(&b->tree->arena, capacity * sizeof(*documents));

                if (!documents)
                        return -ENOMEM;
                if (file->n_documents)
                        memcpy(documents, file->documents, file->n_documents * sizeof(*documents));
                file->documents = documents;
                b->n_documents_capacity = capacity;
        }
        file->documents[file->n_documents++] = (struct yaml_document){.line = mark_line(&event->start_mark)};
        return 0;
}

static int on_scalar(struct builder *b, const yaml_event_t *event) {
        struct yaml_node *n = node_new(b, YAML_SCALAR, &event->start_mark);

        if (!n)
                return -ENOMEM;
        if (memchr(event->data.scalar.value, '\0', event->data.scalar.length))
                return fail(b, n->line, "text with a NUL in it");
        n->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        n->text = arena_string(&b->tree->arena, (const char *)event->data.scalar.value, event->data.scalar.length);
        if (!n->text)
                return -ENOMEM;
        return place(b, n);
}

/* What is meant as one of these is often a password without quotes: so its text is not told. */
static int refuse_extras(
        struct builder *b, const yaml_event_t *event, const yaml_char_t *anchor, const yaml_char_t *tag) {
        if (anchor)
                return fail(b, mark_line(&event->start_mark),
                        "anchors are not allowed (a value that begins with & needs quotes)");
        if (tag)
                return fail(b, mark_line(&event->start_mark),
                        "tags are not allowed (a value that begins with ! needs quotes)");
        return 0;
}

static int on_event(struct builder *b, const yaml_event_t *event) {
        struct yaml_node *n;
        int r;

        switch (event->type) {
        case YAML_DOCUMENT_START_EVENT:
                return on_document(b, event);
        case YAML_ALIAS_EVENT:
                return fail(b, mark_line(&event->start_mark),
                        "aliases are not allowed (a value that begins with * needs quotes)");
        case YAML_SCALAR_EVENT:
                r = refuse_extras(b, event, event->data.scalar.anchor, event->data.scalar.tag);
                return r < 0 ? r : on_scalar(b, event);
        case YAML_SEQUENCE_START_EVENT:
                r = refuse_extras(b, event, event->data.sequence_start.anchor, event->data.sequence_start.tag);
                if (r < 0)
                        return r;
                n = node_new(b, YAML_SEQUENCE, &event->start_mark);
                return n ? push(b, n) : -ENOMEM;
        case YAML_MAPPING_START_EVENT:
                r = refuse_extras(b, event, event->data.mapping_start.anchor, event->data.mapping_start.tag);
                if (r < 0)
                        return r;
                n = node_new(b, YAML_MAPPING, &event->start_mark);
                return n ? push(b, n) : -ENOMEM;
        case YAML_SEQUENCE_END_EVENT:
        case YAML_MAPPING_END_EVENT:
                return pop(b);
        default:
                return 0;
        }
}

/* libyaml gives a place where it scans and parses, but only an offset where it decodes. */
static int on_parser_error(struct builder *b, const yaml_parser_t *parser, struct bytes text) {
        unsigned line = 1;

        switch (parser->error) {
        case YAML_MEMORY_ERROR:
                return -ENOMEM;
        case YAML_READER_ERROR:
                for (size_t i = 0; i < min_of(parser->problem_offset, text.size); i++)
                        line += text.data[i] == '\n';
                return fail(b, line, "not UTF-8 text: %s", parser->problem ? parser->problem : "invalid");
        default:
                line = mark_line(&parser->problem_mark);
                if (parser->context)
                        return fail(b, line, "%s (%s that begins in line %u)",
                                parser->problem ? parser->problem : "syntax error", parser->context,
                                mark_line(&parser->context_mark));
                return fail(b, line, "%s", parser->problem ? parser->problem : "syntax error");
        }
}

static int build(struct builder *b, yaml_parser_t *parser, struct bytes text) {
        bool ended = false;
        yaml_event_t event;
        int r;

        while (!ended) {
                if (!yaml_parser_parse(parser, &event))
                        return on_parser_error(b, parser, text);
                ended = event.type == YAML_STREAM_END_EVENT;
                r = on_event(b, &event);
                yaml_event_delete(&event);
                if (r < 0)
                        return r;
        }
        return 0;
}

int yaml_parse(struct bytes text, struct yaml_file **ret, unsigned *ret_line, struct error *reterr) {
        cleanup(freep) struct builder *b = new0(struct builder);
        cleanup(yaml_file_freep) struct yaml_file *file = NULL;
        struct yaml_tree *tree;
        yaml_parser_t parser;
        int r;

        tree = new0(struct yaml_tree);
        arena_init(&tree->arena, 0);
        file = &tree->file;
        b->tree = tree;
        b->line = 1;
        b->reterr = reterr;

        if (!yaml_parser_initialize(&parser))
                return -ENOMEM;
        yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
        /* A byte order mark is no content. */
        if (text.size >= 3 && memcmp(text.data, "\xEF\xBB\xBF", 3) == 0)
                text = bytes_of(text.data + 3, text.size - 3);
        yaml_parser_set_input_string(&parser, text.data ? text.data : (const uint8_t *)"", text.size);
        r = build(b, &parser, text);
        yaml_parser_delete(&parser);
        if (r < 0) {
                *ret_line = b->line;
                return r == -ENOMEM ? error_set(reterr, r, "out of memory") : r;
        }

        *ret = steal(file);
        return 0;
}

void yaml_file_free(struct yaml_file *file) {
        struct yaml_tree *tree;

        if (!file)
                return;
        tree = container_of(file, struct yaml_tree, file);
        arena_done(&tree->arena);
        free(tree);
}

/* ---- printing */

struct yaml_writer {
        yaml_emitter_t emitter;
        struct buf *out; /* borrowed */
        bool is_sequence[YAML_MAX_DEPTH];
        size_t depth;
        int error;
};

static int on_write(void *userdata, unsigned char *data, size_t size) {
        struct yaml_writer *w = userdata;
        int r = buf_append(w->out, data, size);

        if (r < 0 && !w->error)
                w->error = r;
        return r == 0;
}

/* made: what the event's constructor returned. Takes the event. */
static void emit(struct yaml_writer *w, yaml_event_t *event, int made) {
        if (!made) {
                w->error = w->error ? w->error : -ENOMEM;
                return;
        }
        if (w->error) {
                yaml_event_delete(event);
                return;
        }
        if (!yaml_emitter_emit(&w->emitter, event) && !w->error)
                w->error = w->emitter.error == YAML_MEMORY_ERROR ? -ENOMEM : -EINVAL;
}

int yaml_writer_new(struct buf *out, struct yaml_writer **ret) {
        struct yaml_writer *w = new0(struct yaml_writer);
        yaml_event_t event;

        if (!yaml_emitter_initialize(&w->emitter)) {
                free(w);
                return -ENOMEM;
        }
        w->out = out;
        yaml_emitter_set_output(&w->emitter, on_write, w);
        yaml_emitter_set_unicode(&w->emitter, 1);
        yaml_emitter_set_width(&w->emitter, -1);
        emit(w, &event, yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING));
        emit(w, &event, yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1));
        *ret = w;
        return 0;
}

static void begin(struct yaml_writer *w, bool sequence, bool empty) {
        yaml_event_t event;
        int made;

        check(w->depth < YAML_MAX_DEPTH);
        w->is_sequence[w->depth++] = sequence;
        if (sequence)
                made = yaml_sequence_start_event_initialize(
                        &event, NULL, NULL, 1, empty ? YAML_FLOW_SEQUENCE_STYLE : YAML_BLOCK_SEQUENCE_STYLE);
        else
                made = yaml_mapping_start_event_initialize(
                        &event, NULL, NULL, 1, empty ? YAML_FLOW_MAPPING_STYLE : YAML_BLOCK_MAPPING_STYLE);
        emit(w, &event, made);
}

void yaml_write_mapping(struct yaml_writer *w) {
        begin(w, false, false);
}

void yaml_write_sequence(struct yaml_writer *w) {
        begin(w, true, false);
}

void yaml_write_end(struct yaml_writer *w) {
        yaml_event_t event;

        check(w->depth > 0);
        emit(w, &event,
                w->is_sequence[--w->depth] ? yaml_sequence_end_event_initialize(&event)
                                           : yaml_mapping_end_event_initialize(&event));
}

void yaml_write_empty_mapping(struct yaml_writer *w) {
        begin(w, false, true);
        yaml_write_end(w);
}

void yaml_write_empty_sequence(struct yaml_writer *w) {
        begin(w, true, true);
        yaml_write_end(w);
}

static void write_scalar(struct yaml_writer *w, const char *text, yaml_scalar_style_t style) {
        yaml_event_t event;

        emit(w, &event,
                yaml_scalar_event_initialize(
                        &event, NULL, NULL, (const yaml_char_t *)text, (int)strlen(text), 1, 1, style));
}

/* The bytes of one character at p, 0 if they are none. */
static size_t utf8_size(const unsigned char *p) {
        size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;

        for (size_t i = 1; i < n; i++)
                if ((p[i] & 0xc0) != 0x80)
                        return 0;
        if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) || (p[0] == 0xf0 && p[1] < 0x90) ||
                (p[0] == 0xf4 && p[1] >= 0x90))
                return 0;
        return n;
}

static void write_text(struct yaml_writer *w, const char *text) {
        bool plain = !yaml_text_is_ambiguous(text);
        cleanup(buf_done) struct buf clean = {};
        size_t n;
        int r = 0;

        for (const unsigned char *p = (const unsigned char *)text; *p && r == 0; p += n ? n : 1) {
                n = utf8_size(p);
                r = n ? buf_append(&clean, p, n) : buf_append_string(&clean, "\xef\xbf\xbd");
                /* What is shown as an escape needs the quotes that escapes need. */
                plain = plain && n && *p >= ' ' && *p != 0x7f;
        }
        if (r == 0)
                r = buf_append(&clean, "", 1);
        if (r < 0 && !w->error)
                w->error = r;
        if (r == 0)
                write_scalar(
                        w, (const char *)clean.data, plain ? YAML_ANY_SCALAR_STYLE : YAML_DOUBLE_QUOTED_SCALAR_STYLE);
}

void yaml_write_key(struct yaml_writer *w, const char *key) {
        check(w->depth > 0 && !w->is_sequence[w->depth - 1]);
        write_text(w, key);
}

void yaml_write_string(struct yaml_writer *w, const char *value) {
        write_text(w, value);
}

void yaml_write_int(struct yaml_writer *w, int64_t value) {
        char text[32];

        snprintf(text, sizeof(text), "%lld", (long long)value);
        write_scalar(w, text, YAML_PLAIN_SCALAR_STYLE);
}

void yaml_write_bool(struct yaml_writer *w, bool value) {
        write_scalar(w, value ? "true" : "false", YAML_PLAIN_SCALAR_STYLE);
}

void yaml_write_null(struct yaml_writer *w) {
        write_scalar(w, "null", YAML_PLAIN_SCALAR_STYLE);
}

int yaml_writer_finish(struct yaml_writer *w) {
        yaml_event_t event;

        check(w->depth == 0);
        emit(w, &event, yaml_document_end_event_initialize(&event, 1));
        emit(w, &event, yaml_stream_end_event_initialize(&event));
        return w->error;
}

void yaml_writer_free(struct yaml_writer *w) {
        if (!w)
                return;
        yaml_emitter_delete(&w->emitter);
        free(w);
}
