#pragma once

/*
 * What stokectl prints: tables fitted to the terminal, sizes and ages for people, and messages as JSON and YAML. The only thread.
 * Text from the daemon is printed without control characters, so that no name or reason can play with the terminal.
 */

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

#include "base/macro.h"

/* What was asked for: for people, or for programs. */
enum ctl_format { FORMAT_TABLE, FORMAT_JSON, FORMAT_YAML };

/* A table of text; cells are added row by row. */
struct table;

enum { TABLE_RIGHT = 1 /* numbers */, TABLE_SHRINK = 2 /* may be cut to fit a terminal */ };
struct table_column {
        const char *title;
        unsigned flags;
};

/* columns: borrowed, alive until table_free(). */
struct table *table_new(const struct table_column *columns, size_t n_columns);
void table_free(struct table *table);
DEFINE_FREEP(table)
void table_cell(struct table *table, const char *format, ...) printf_like(2, 3);
void table_print(const struct table *table);

/* "Name:  value", the value aligned to the others of its block. */
void output_field(const char *name, const char *format, ...) printf_like(2, 3);
/* The text without control characters, on stdout. */
void output_text(const char *text);
/* As output_text(), but newlines stay: for manifests. */
void output_document(const char *text);

enum output_colour { COLOUR_GOOD, COLOUR_BAD, COLOUR_WARN, COLOUR_STRONG };
/* Escape sequences, or "" when stdout is no terminal or NO_COLOR is set. */
const char *output_colour(enum output_colour colour);
const char *output_colour_off(void);

/* "17 B", "1.5 MiB"; "3d4h", "5m12s": into buf, which is returned. */
struct output_word {
        char text[32];
};
const char *output_size(uint64_t bytes, struct output_word *word);
const char *output_age(int64_t seconds, struct output_word *word);
/* The age of an RFC 3339 time in UTC; "-": not known. */
const char *output_since(const char *time, struct output_word *word);

/* A message as JSON: names in lowerCamelCase, every field present, maps as objects; the field called manifest is left out, since it
 * is the same once more as text. A new reference. */
json_t *output_json_of(const ProtobufCMessage *message);
/* Prints and drops the reference. */
void output_json(json_t *value);
void output_yaml(json_t *value);
/* Prints a message where one of these was asked for; false: it is for people, and nothing was printed. */
bool output_message(enum ctl_format format, const ProtobufCMessage *message);
/* The same of what has a manifest, which is its YAML. */
bool output_manifest(enum ctl_format format, const ProtobufCMessage *message, const char *manifest);
