#pragma once

/*
 * Reading fields out of YAML trees, for definitions and settings: each function checks one field's type and value and says
 * what is wrong as FILE:LINE: SUBJECT: PATH: reason. Absent and null are the same throughout: the field was not given.
 * Only inside fleet/, on the thread that reads.
 */

#include <sys/types.h>

#include "base/error.h"
#include "base/yaml.h"
#include "fleet/definition.h"

struct node_reader {
        const char *file;    /* borrowed */
        const char *subject; /* borrowed: DataStore "x"; NULL: none */
        struct error *reterr;
};

/* The mapping that fields are read from, and how it is called: "spec.basicAuth"; "": the document itself. */
struct node_at {
        const struct yaml_node *node; /* borrowed; NULL: not given, and so is all in it */
        const char *path;
        unsigned line; /* where a field that is missing is missed */
};

/* -EBADMSG, always. */
int node_fail(const struct node_reader *reader, unsigned line, const char *format, ...) printf_like(3, 4);
/* The same, for a field. */
int node_field_fail(const struct node_reader *reader, const struct node_at *at, const char *key, const char *format,
        ...) printf_like(4, 5);

/* Fields that are none of the known are refused; those planned for a later version with that reason. Both arrays end with NULL. */
int node_only(const struct node_reader *reader, const struct node_at *at, const char *const *known,
        const char *const *planned);
/* A field must be there and not null. */
int node_required(const struct node_reader *reader, const struct node_at *at, const char *key);

/* The field's node; NULL: not given. */
const struct yaml_node *node_field(const struct node_at *at, const char *key);
/* path: borrowed for as long as ret is used. */
int node_mapping(const struct node_reader *reader, const struct node_at *at, const char *key, const char *path,
        struct node_at *ret);
int node_sequence(
        const struct node_reader *reader, const struct node_at *at, const char *key, const struct yaml_node **ret);
/* What is not given leaves *ret as it is; *ret_given (may be NULL) says so. */
int node_string(const struct node_reader *reader, const struct node_at *at, const char *key, const char **ret);
int node_bool(const struct node_reader *reader, const struct node_at *at, const char *key, bool *ret);
int node_number(const struct node_reader *reader, const struct node_at *at, const char *key, uint64_t min, uint64_t max,
        uint64_t *ret);
int node_size(
        const struct node_reader *reader, const struct node_at *at, const char *key, bool *ret_given, uint64_t *ret);
/* "off" is 0. */
int node_duration(
        const struct node_reader *reader, const struct node_at *at, const char *key, bool *ret_given, uint64_t *ret);
/* An octal number, with or without quotes, 0 to 0777. */
int node_mode(
        const struct node_reader *reader, const struct node_at *at, const char *key, bool *ret_given, mode_t *ret);
/* A mapping of strings. Owned by the caller. */
int node_map(const struct node_reader *reader, const struct node_at *at, const char *key, struct definition_map *ret);
/* A sequence of strings that are not empty. Owned by the caller. */
int node_strings(
        const struct node_reader *reader, const struct node_at *at, const char *key, char ***ret, size_t *ret_n);
/* base64. Owned by the caller; NULL where it is empty or not given. */
int node_base64(
        const struct node_reader *reader, const struct node_at *at, const char *key, uint8_t **ret, size_t *ret_size);

void definition_map_done(struct definition_map *map);
void strings_free(char **strings, size_t n);
/* 0: strdup; NULL stays NULL. */
int string_copy(const char *s, char **ret);
