#pragma once

/*
 * The files of the definitions directory as a list of documents, each with its kind and name; lists are unfolded. Only
 * inside fleet/, on the main thread.
 */

#include "base/buf.h"
#include "base/yaml.h"
#include "fleet/definition.h"

enum definition_kind { DEFINITION_SECRET, DEFINITION_DATASTORE, DEFINITION_TENANT };
#define N_DEFINITION_KINDS 3
/* "Secret", "DataStore", "Tenant". */
const char *definition_kind_name(enum definition_kind kind);

struct document {
        enum definition_kind kind;
        char *name;              /* owned; a Secret's: NAMESPACE/NAME */
        char *subject;           /* owned: DataStore "x", for reasons */
        const char *api_version; /* borrowed from the file */
        const char *file;        /* borrowed from the file: its path */
        unsigned line;
        const struct yaml_node *root; /* borrowed from the file; a mapping */
        bool refused;                 /* a problem was told already */
};

struct document_file {
        char *path;             /* owned */
        struct yaml_file *yaml; /* owned; NULL: could not be read */
        /* A document in it could not be read, or tells neither kind nor name: objects that came from this file and are
         * found nowhere else may be what it meant. */
        bool doubtful;
};

struct document_list {
        struct document_file *files; /* owned */
        size_t n_files;
        struct document *documents; /* owned */
        size_t n_documents, capacity;
        bool doubtful; /* the directory itself could not be read */
};

/* What is wrong becomes a problem. -ENOMEM only. */
int document_list_read(const char *directory, struct document_list *ret, struct definition_problems *problems);
void document_list_done(struct document_list *list);
/* NULL: no file of this path was there. */
const struct document_file *document_list_find_file(const struct document_list *list, const char *path);

/* line 0: none is told. Line ends and the like in the text become spaces: a problem is one line. */
int problem_add(struct definition_problems *problems, bool refused, const char *file, unsigned line, const char *format,
        ...) printf_like(5, 6);
/* text: complete, "FILE:LINE: reason". */
int problem_add_text(struct definition_problems *problems, bool refused, const char *text);

/* A regular file of at most 16 MiB, followed through links. -ENOENT, -EFBIG and so on, with the reason. */
int text_file_read(const char *path, struct buf *ret, struct error *reterr);
/* "127.0.0.1:PORT" or "[::1]:PORT", numeric, port from 0 on. */
bool tcp_address_is_loopback(const char *address);
/* The same of any address. */
bool tcp_address_is_valid(const char *address);
