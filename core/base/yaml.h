#pragma once

/*
 * YAML documents as trees that know the line of each node, for definitions and settings; and the way back to text for what is
 * shown (libyaml is known to yaml.c only). Any thread, one at a time. Anchors, aliases, tags and merge keys are refused with their line; duplicate keys in a mapping too.
 */

#include "base/buf.h"
#include "base/error.h"

enum yaml_kind { YAML_SCALAR, YAML_SEQUENCE, YAML_MAPPING };

struct yaml_node {
        enum yaml_kind kind;
        unsigned line;            /* from 1 */
        bool plain;               /* a scalar without quotes: null, true, 12 mean more than text then */
        char *text;               /* scalar: its text, ended by NUL; may hold no NUL itself */
        struct yaml_node **items; /* sequence: its items; mapping: its values */
        struct yaml_node **keys;  /* mapping: its keys (scalars), as many */
        size_t n_items;
};

struct yaml_document {
        unsigned line;          /* where it begins */
        struct yaml_node *root; /* NULL: an empty document */
};

struct yaml_file {
        struct yaml_document *documents;
        size_t n_documents;
};

/* Limits: depth 64, 100,000 nodes. A syntax error is -EBADMSG with the line in *ret_line and the reason in reterr ("line" is
 * not in the text: the caller prints FILE:LINE:). */
int yaml_parse(struct bytes text, struct yaml_file **ret, unsigned *ret_line, struct error *reterr);
void yaml_file_free(struct yaml_file *file);
DEFINE_FREEP(yaml_file)

/* NULL: absent, or node is no mapping, or NULL itself. */
const struct yaml_node *yaml_find(const struct yaml_node *node, const char *key);
/* An empty plain scalar, null, Null, NULL or ~. */
bool yaml_is_null(const struct yaml_node *node);
/* A scalar that means a string: quoted, or plain and neither null, bool nor number. */
bool yaml_is_string(const struct yaml_node *node);
/* 0 or -EINVAL; plain scalars only. */
int yaml_get_bool(const struct yaml_node *node, bool *ret);
int yaml_get_int(const struct yaml_node *node, int64_t *ret);

/* ---- printing. Block style; strings are quoted where they would mean something else without. */

struct yaml_writer;

/* Appends one document to out, which must outlive the writer. -ENOMEM. */
int yaml_writer_new(struct buf *out, struct yaml_writer **ret);
/* In the order of the text. In a mapping each value follows its key. An error is kept until the end. Text that is not UTF-8 is
 * shown with replacement characters. */
void yaml_write_mapping(struct yaml_writer *w);
void yaml_write_sequence(struct yaml_writer *w);
void yaml_write_end(struct yaml_writer *w); /* of the mapping or sequence begun last */
void yaml_write_key(struct yaml_writer *w, const char *key);
void yaml_write_string(struct yaml_writer *w, const char *value);
void yaml_write_int(struct yaml_writer *w, int64_t value);
void yaml_write_bool(struct yaml_writer *w, bool value);
void yaml_write_null(struct yaml_writer *w);
/* Empty ones, which block style cannot show: {} and []. */
void yaml_write_empty_mapping(struct yaml_writer *w);
void yaml_write_empty_sequence(struct yaml_writer *w);
/* 0 or the first error; all that was begun must be ended. */
int yaml_writer_finish(struct yaml_writer *w);
void yaml_writer_free(struct yaml_writer *w);
DEFINE_FREEP(yaml_writer)
