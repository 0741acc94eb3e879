#pragma once

/* A temporary folder with files in it, for the tests of definitions, settings and secrets. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct folder {
        char path[64];
};

static inline void folder_new(struct folder *f) {
        snprintf(f->path, sizeof(f->path), "/tmp/stoke-test-XXXXXX");
        assert_non_null(mkdtemp(f->path));
}

static inline void folder_remove(struct folder *f) {
        char command[128];

        snprintf(command, sizeof(command), "rm -rf -- '%s'", f->path);
        assert_int_equal(system(command), 0);
}

/* Valid until the next call but three. */
static inline const char *folder_path(const struct folder *f, const char *name) {
        static char paths[4][512];
        static unsigned n;
        char *p = paths[n++ % 4];

        snprintf(p, sizeof(paths[0]), "%s/%s", f->path, name);
        return p;
}

static inline void folder_directory(const struct folder *f, const char *name) {
        assert_int_equal(mkdir(folder_path(f, name), 0700), 0);
}

static inline void folder_write_bytes(const struct folder *f, const char *name, const void *data, size_t size) {
        FILE *file = fopen(folder_path(f, name), "w");

        assert_non_null(file);
        assert_int_equal(fwrite(data, 1, size, file), size);
        assert_int_equal(fclose(file), 0);
}

static inline void folder_write(const struct folder *f, const char *name, const char *text) {
        folder_write_bytes(f, name, text, strlen(text));
}

static inline void folder_delete(const struct folder *f, const char *name) {
        assert_int_equal(unlink(folder_path(f, name)), 0);
}

/* Owned by the caller; ends with NUL. */
static inline char *file_read_all(const char *path, size_t *ret_size) {
        FILE *file = fopen(path, "r");
        char *text = malloc(1 << 20);
        size_t n;

        assert_non_null(file);
        assert_non_null(text);
        n = fread(text, 1, (1 << 20) - 1, file);
        assert_int_equal(ferror(file), 0);
        fclose(file);
        text[n] = '\0';
        if (ret_size)
                *ret_size = n;
        return text;
}
