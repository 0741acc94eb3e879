/*
 * From a directory to a list of documents that know their kind and name. What a document says beyond that is for the
 * files of its kind. Runs on the main thread and reads files, nothing else; whatever is wrong with one file or document is a
 * problem to tell, and never keeps another from being read.
 */

#include "fleet/definition_file.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fleet/definition_node.h"

#define FILE_MAX_BYTES (16 * 1024 * 1024)
#define FILES_MAX 100000

static const char *const kind_names[] = {
        [DEFINITION_SECRET] = "Secret", [DEFINITION_DATASTORE] = "DataStore", [DEFINITION_TENANT] = "Tenant"};

const char *definition_kind_name(enum definition_kind kind) {
        return kind_names[kind];
}

/* ---- problems */

int problem_add_text(struct definition_problems *problems, bool refused, const char *text) {
        struct definition_problem *items;
        char *copy;

        items = realloc(problems->items, (problems->n_items + 1) * sizeof(*items));
        if (!items)
                return -ENOMEM;
        problems->items = items;
        copy = strdup(text);
        if (!copy)
                return -ENOMEM;
        for (char *p = copy; *p; p++)
                if (iscntrl((unsigned char)*p))
                        *p = ' ';
        items[problems->n_items++] = (struct definition_problem){.text = copy, .refused = refused};
        return 0;
}

int problem_add(
        struct definition_problems *problems, bool refused, const char *file, unsigned line, const char *format, ...) {
        cleanup(freep) char *reason = NULL, *text = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&reason, format, ap);
        va_end(ap);
        if (n < 0) {
                reason = NULL;
                return -ENOMEM;
        }
        n = line ? asprintf(&text, "%s:%u: %s", file, line, reason) : asprintf(&text, "%s: %s", file, reason);
        if (n < 0) {
                text = NULL;
                return -ENOMEM;
        }
        return problem_add_text(problems, refused, text);
}

void definition_problems_done(struct definition_problems *problems) {
        for (size_t i = 0; i < problems->n_items; i++)
                free(problems->items[i].text);
        free(problems->items);
        *problems = (struct definition_problems){};
}

/* ---- files */

int text_file_read(const char *path, struct buf *ret, struct error *reterr) {
        struct stat st;
        ssize_t n;
        int fd, r;

        /* Not to be held up by a pipe that somebody left there. */
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0)
                return error_set(reterr, -errno, "cannot be read: %s", strerror(errno));
        if (fstat(fd, &st) < 0)
                r = error_set(reterr, -errno, "cannot be read: %s", strerror(errno));
        else if (!S_ISREG(st.st_mode))
                r = error_set(reterr, -EINVAL, "is not a regular file");
        else if (st.st_size > FILE_MAX_BYTES)
                r = error_set(reterr, -EFBIG, "is larger than 16Mi");
        else
                r = 0;

        while (r == 0) {
                r = buf_reserve(ret, 64 * 1024);
                if (r < 0)
                        break;
                n = read(fd, ret->data + ret->size, ret->capacity - ret->size);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        r = error_set(reterr, -errno, "cannot be read: %s", strerror(errno));
                if (n <= 0)
                        break;
                ret->size += (size_t)n;
                if (ret->size > FILE_MAX_BYTES)
                        r = error_set(reterr, -EFBIG, "is larger than 16Mi");
        }
        close(fd);
        return r;
}

/* False: not an address with a port, all numeric. */
static bool parse_address(const char *address, bool *ret_loopback) {
        const char *colon = strrchr(address, ':');
        struct in6_addr six;
        struct in_addr four;
        char host[64];
        size_t n;

        if (!colon || !colon[1] || strlen(colon + 1) > 5 || colon[1 + strspn(colon + 1, "0123456789")] ||
                strtoul(colon + 1, NULL, 10) > 65535)
                return false;
        n = (size_t)(colon - address);
        if (n >= sizeof(host))
                return false;
        memcpy(host, address, n);
        host[n] = '\0';

        if (host[0] == '[' && n > 2 && host[n - 1] == ']') {
                host[n - 1] = '\0';
                if (inet_pton(AF_INET6, host + 1, &six) != 1)
                        return false;
                *ret_loopback = IN6_IS_ADDR_LOOPBACK(&six);
                return true;
        }
        if (inet_pton(AF_INET, host, &four) != 1)
                return false;
        *ret_loopback = ntohl(four.s_addr) >> 24 == 127;
        return true;
}

bool tcp_address_is_loopback(const char *address) {
        bool loopback;

        return parse_address(address, &loopback) && loopback;
}

bool tcp_address_is_valid(const char *address) {
        bool loopback;

        return parse_address(address, &loopback);
}

/* ---- documents */

static int document_add(struct document_list *list, struct document **ret) {
        if (list->n_documents == list->capacity) {
                size_t capacity = list->capacity ? list->capacity * 2 : 64;
                struct document *documents = realloc(list->documents, capacity * sizeof(*documents));

                if (!documents)
                        return -ENOMEM;
                list->documents = documents;
                list->capacity = capacity;
        }
        *ret = &list->documents[list->n_documents++];
        **ret = (struct document){};
        return 0;
}

static bool secret_name_is_valid(const char *name) {
        size_t n = strlen(name);

        return n > 0 && n <= 253 && !strchr(name, '/') && name[0] != '.';
}

/* What all documents have. -EBADMSG with the reason: neither kind nor name can be relied on. */
static int document_identify(
        struct document *d, const struct node_reader *reader, const struct yaml_node *root, const char *list_kind) {
        const struct node_at top = {.node = root, .path = "", .line = root->line};
        const char *kind = list_kind, *name = NULL, *namespace = "default";
        struct node_at metadata;
        bool known = false, valid;
        int r;

        r = node_string(reader, &top, "kind", &kind);
        if (r < 0)
                return r;
        if (!kind)
                return node_required(reader, &top, "kind");
        for (size_t i = 0; i < n_elements(kind_names) && !known; i++)
                if (strcmp(kind_names[i], kind) == 0) {
                        d->kind = (enum definition_kind)i;
                        known = true;
                }
        if (!known)
                return node_field_fail(
                        reader, &top, "kind", "unknown kind \"%s\": there are DataStore, Tenant and Secret", kind);

        r = node_required(reader, &top, "metadata");
        if (r < 0)
                return r;
        r = node_mapping(reader, &top, "metadata", "metadata", &metadata);
        if (r < 0)
                return r;
        r = node_required(reader, &metadata, "name");
        if (r < 0)
                return r;
        r = node_string(reader, &metadata, "name", &name);
        if (r < 0)
                return r;
        r = node_string(reader, &metadata, "namespace", &namespace);
        if (r < 0)
                return r;

        valid = d->kind == DEFINITION_TENANT      ? tenant_name_is_valid(name)
                : d->kind == DEFINITION_DATASTORE ? datastore_name_is_valid(name)
                                                  : secret_name_is_valid(name);
        if (!valid)
                return node_field_fail(reader, &metadata, "name", "\"%s\" is not a valid name for a %s%s", name, kind,
                        d->kind == DEFINITION_TENANT
                                ? ": at most 63 of a-z, 0-9 and -, with a letter or digit at both ends"
                                : d->kind == DEFINITION_DATASTORE
                                ? ": at most 253 of a-z, 0-9, - and ., with a letter or digit at both ends"
                                : "");
        if (d->kind == DEFINITION_SECRET && !secret_name_is_valid(namespace))
                return node_field_fail(reader, &metadata, "namespace", "\"%s\" is not a valid namespace", namespace);

        if (d->kind == DEFINITION_SECRET)
                r = asprintf(&d->name, "%s/%s", namespace, name) < 0 ? -ENOMEM : 0;
        else
                r = string_copy(name, &d->name);
        if (r < 0 || asprintf(&d->subject, "%s \"%s\"", kind, d->name) < 0) {
                d->subject = NULL;
                return -ENOMEM;
        }
        return 0;
}

/* "a or b". */
static int check_api_version(struct document *d, const struct node_reader *reader, const char *list_version) {
        static const char *const versions[][2] = {
                [DEFINITION_SECRET] = {"v1", NULL},
                [DEFINITION_DATASTORE] = {"kamaji.clastix.io/v1alpha1", "stokehold/v1alpha1"},
                [DEFINITION_TENANT] = {"stokehold/v1alpha1", NULL},
        };
        const struct node_at top = {.node = d->root, .path = "", .line = d->root->line};
        const char *const *mine = versions[d->kind];
        int r;

        d->api_version = list_version;
        r = node_string(reader, &top, "apiVersion", &d->api_version);
        if (r < 0)
                return r;
        if (!d->api_version)
                return node_required(reader, &top, "apiVersion");
        if (strcmp(d->api_version, mine[0]) == 0 || (mine[1] && strcmp(d->api_version, mine[1]) == 0))
                return 0;
        return node_field_fail(reader, &top, "apiVersion", "unknown version \"%s\" of a %s: it must be %s%s%s",
                d->api_version, definition_kind_name(d->kind), mine[0], mine[1] ? " or " : "", mine[1] ? mine[1] : "");
}

static void document_done(struct document *d) {
        free(d->name);
        free(d->subject);
}

static int document_read(struct document_list *list, struct document_file *file, const struct yaml_node *root,
        const char *list_kind, const char *list_version, struct definition_problems *problems) {
        cleanup(error_done) struct error why = {};
        struct node_reader reader = {.file = file->path, .reterr = &why};
        struct document *d;
        int r;

        if (root->kind != YAML_MAPPING) {
                file->doubtful = true;
                return problem_add(problems, true, file->path, root->line, "a document must be a mapping");
        }

        r = document_add(list, &d);
        if (r < 0)
                return r;
        d->file = file->path;
        d->line = root->line;
        d->root = root;
        r = document_identify(d, &reader, root, list_kind);
        if (r == -EBADMSG) {
                document_done(d);
                list->n_documents--;
                file->doubtful = true;
                return problem_add_text(problems, true, error_text(&why));
        }
        if (r < 0)
                return r;

        reader.subject = d->subject;
        r = check_api_version(d, &reader, list_version);
        if (r == -EBADMSG) {
                d->refused = true;
                return problem_add_text(problems, true, error_text(&why));
        }
        return r;
}

/* kind: List, as kubectl prints several objects, or DataStoreList and so on, as the API server does, whose items may leave
 * kind and apiVersion out. *ret_kind: what the items are. False: no list. */
static bool is_list(const struct yaml_node *root, const char **ret_kind) {
        const struct yaml_node *kind = yaml_find(root, "kind");

        *ret_kind = NULL;
        if (!yaml_is_string(kind))
                return false;
        if (strcmp(kind->text, "List") == 0)
                return true;
        for (size_t i = 0; i < n_elements(kind_names); i++) {
                size_t n = strlen(kind_names[i]);

                if (strncmp(kind->text, kind_names[i], n) == 0 && strcmp(kind->text + n, "List") == 0) {
                        *ret_kind = kind_names[i];
                        return true;
                }
        }
        return false;
}

static int list_read(struct document_list *list, struct document_file *file, const struct yaml_node *root,
        const char *kind, struct definition_problems *problems) {
        static const char *const known[] = {"apiVersion", "kind", "metadata", "items", NULL};
        const struct node_at top = {.node = root, .path = "", .line = root->line};
        cleanup(error_done) struct error why = {};
        struct node_reader reader = {.file = file->path, .reterr = &why};
        const struct yaml_node *items = NULL;
        const char *version = NULL;
        int r;

        r = node_only(&reader, &top, known, NULL);
        if (r >= 0)
                r = node_string(&reader, &top, "apiVersion", &version);
        if (r >= 0)
                r = node_sequence(&reader, &top, "items", &items);
        if (r < 0) {
                file->doubtful = true;
                return r == -EBADMSG ? problem_add_text(problems, true, error_text(&why)) : r;
        }

        for (size_t i = 0; items && i < items->n_items && r >= 0; i++)
                r = document_read(list, file, items->items[i], kind, kind ? version : NULL, problems);
        return r;
}

static int file_read(struct document_list *list, struct document_file *file, struct definition_problems *problems) {
        cleanup(error_done) struct error why = {};
        cleanup(buf_done) struct buf text = {};
        const char *kind;
        unsigned line = 0;
        int r;

        r = text_file_read(file->path, &text, &why);
        if (r == 0)
                r = yaml_parse(bytes_of(text.data, text.size), &file->yaml, &line, &why);
        if (text.data)
                explicit_bzero(text.data, text.size);
        if (r < 0) {
                file->doubtful = true;
                return problem_add(problems, true, file->path, line, "%s", error_text(&why));
        }

        for (size_t i = 0; i < file->yaml->n_documents && r >= 0; i++) {
                const struct yaml_node *root = file->yaml->documents[i].root;

                if (!root || yaml_is_null(root))
                        continue;
                if (root->kind == YAML_MAPPING && is_list(root, &kind))
                        r = list_read(list, file, root, kind, problems);
                else
                        r = document_read(list, file, root, NULL, NULL, problems);
        }
        return r;
}

static bool is_definition_file(const char *name) {
        const char *dot = strrchr(name, '.');

        return name[0] != '.' && dot && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
}

static int file_compare(const void *a, const void *b) {
        return strcmp(((const struct document_file *)a)->path, ((const struct document_file *)b)->path);
}

/* readdir tells of a failure by errno alone. */
static int directory_list(const char *directory, struct document_list *list) {
        struct document_file *files;
        struct dirent *entry;
        int r = 0;
        DIR *dir;

        dir = opendir(directory);
        if (!dir)
                return -errno;
        while (r == 0) {
                errno = 0;
                entry = readdir(dir);
                if (!entry) {
                        r = -errno;
                        break;
                }
                if (!is_definition_file(entry->d_name))
                        continue;
                if (list->n_files == FILES_MAX) {
                        r = -E2BIG;
                        break;
                }
                files = realloc(list->files, (list->n_files + 1) * sizeof(*files));
                if (!files) {
                        r = -ENOMEM;
                        break;
                }
                list->files = files;
                files[list->n_files] = (struct document_file){};
                if (asprintf(&files[list->n_files].path, "%s/%s", directory, entry->d_name) < 0)
                        r = -ENOMEM;
                else
                        list->n_files++;
        }
        closedir(dir);
        return r;
}

int document_list_read(const char *directory, struct document_list *ret, struct definition_problems *problems) {
        cleanup(document_list_done) struct document_list list = {};
        int r;

        r = directory_list(directory, &list);
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                /* Half of a directory is worse than none: all stays as it was. */
                document_list_done(&list);
                ret->doubtful = true;
                return problem_add(problems, true, directory, 0, "the directory cannot be read: %s", strerror(-r));
        }

        /* The order of the files decides which of two documents of one name is the first. */
        if (list.n_files)
                qsort(list.files, list.n_files, sizeof(*list.files), file_compare);
        for (size_t i = 0; i < list.n_files; i++) {
                r = file_read(&list, &list.files[i], problems);
                if (r < 0)
                        return r;
        }
        *ret = list;
        list = (struct document_list){};
        return 0;
}

void document_list_done(struct document_list *list) {
        for (size_t i = 0; i < list->n_documents; i++)
                document_done(&list->documents[i]);
        free(list->documents);
        for (size_t i = 0; i < list->n_files; i++) {
                free(list->files[i].path);
                yaml_file_free(list->files[i].yaml);
        }
        free(list->files);
        *list = (struct document_list){};
}

const struct document_file *document_list_find_file(const struct document_list *list, const char *path) {
        struct document_file wanted = {.path = (char *)path};

        if (list->n_files == 0)
                return NULL;
        return bsearch(&wanted, list->files, list->n_files, sizeof(wanted), file_compare);
}
