#include "fleet/machine.h"

/*
 * /proc/meminfo, and the limits of the process's own control group and of those above it: memory.max (version 2) or
 * memory.limit_in_bytes (version 1, of which the process's own and the topmost are looked at).
 */

#include <stdlib.h>
#include <string.h>

#include "base/macro.h"

/* The number that a file begins with; UINT64_MAX: there is none ("max"), or no file. */
static uint64_t read_limit(const char *root, const char *directory, const char *name) {
        cleanup(freep) char *path = NULL;
        unsigned long long n = 0;
        uint64_t limit = UINT64_MAX;
        FILE *f;

        if (asprintf(&path, "%s/sys/fs/cgroup%s/%s", root, directory, name) < 0)
                return UINT64_MAX;
        f = fopen(path, "re");
        if (!f)
                return UINT64_MAX;
        if (fscanf(f, "%llu", &n) == 1 && n > 0)
                limit = n;
        fclose(f);
        return limit;
}

/* The group's and those above it. */
static uint64_t group_limit(const char *root, char *group) {
        uint64_t limit = UINT64_MAX, one;
        char *slash;

        for (;;) {
                one = read_limit(root, group, "memory.max");
                limit = min_of(limit, one);
                slash = strrchr(group, '/');
                if (!slash)
                        return limit;
                *slash = '\0';
        }
}

static uint64_t groups_limit(const char *root) {
        cleanup(freep) char *path = NULL, *line = NULL;
        uint64_t limit = UINT64_MAX, one;
        size_t size = 0;
        FILE *f;

        if (asprintf(&path, "%s/proc/self/cgroup", root) < 0)
                return limit;
        f = fopen(path, "re");
        if (!f)
                return limit;
        while (getline(&line, &size, f) > 0) { /* HIERARCHY:CONTROLLERS:GROUP */
                char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
                cleanup(freep) char *old = NULL;

                if (!group)
                        continue;
                *group++ = '\0';
                group[strcspn(group, "\n")] = '\0';
                if (controllers[1] == '\0') {
                        one = group_limit(root, group);
                } else if (strcmp(controllers + 1, "memory") == 0 && asprintf(&old, "/memory%s", group) > 0) {
                        uint64_t top = read_limit(root, "/memory", "memory.limit_in_bytes");

                        one = read_limit(root, old, "memory.limit_in_bytes");
                        one = min_of(one, top);
                } else
                        continue;
                limit = min_of(limit, one);
        }
        fclose(f);
        return limit;
}

static uint64_t total(const char *root) {
        cleanup(freep) char *path = NULL;
        unsigned long long kib = 0;
        char line[128];
        FILE *f;

        if (asprintf(&path, "%s/proc/meminfo", root) < 0)
                return 0;
        f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "MemTotal: %llu kB", &kib) == 1)
                        break;
        if (f)
                fclose(f);
        return kib * 1024;
}

uint64_t machine_memory(const char *root) {
        uint64_t all = total(root), limit = groups_limit(root);

        if (limit == UINT64_MAX)
                return all;
        return all ? min_of(all, limit) : limit;
}
