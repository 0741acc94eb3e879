#pragma once

/*
 * Finds, checks and loads plugins, and keeps the table of drivers. A broken or foreign file is reported and skipped,
 * never fatal. The main thread scans; the table may be read from any thread (drivers are never unloaded).
 */

#include <stokehold/driver.h>

#include "base/error.h"
#include "base/macro.h"

struct plugin {
        const struct stoke_driver *driver; /* never unloaded */
        char *path;                        /* owned */
        bool allowed;                      /* false: experimental, and stokehold.yaml does not allow it */
};

/* A file that was skipped, and why: for `stokectl driver list`. */
struct plugin_refusal {
        char *path;
        char *reason;
};

struct plugin_table;

struct plugin_table_config {
        const char *directory;
        /* Only root may own the file and every directory above it (--config); else the caller may too (--root). Never writable by
         * group or others (a sticky directory such as /tmp above is accepted for the caller's own). */
        bool root_only;
        /* Names of experimental drivers that may be used. */
        const char *const *experimental;
        size_t n_experimental;
};

int plugin_table_new(const struct plugin_table_config *config, struct plugin_table **ret);
void plugin_table_free(struct plugin_table *table);
DEFINE_FREEP(plugin_table)

/* Other experimental drivers may be used from now on. What has been opened with a driver that no longer may stays open. Main thread. */
int plugin_table_allow(struct plugin_table *table, const char *const *experimental, size_t n_experimental);
/* Loads what is new since the last scan; one log line for each file that is loaded or (when the reason is new) skipped. */
void plugin_table_scan(struct plugin_table *table);
/* Refusals are the main thread's. By name or alias. NULL: unknown, with the reason ("no driver \"X\": there are …", or that it is experimental and not allowed). */
const struct plugin *plugin_find(struct plugin_table *table, const char *name, struct error *reterr);
size_t plugin_count(struct plugin_table *table);
const struct plugin *plugin_at(struct plugin_table *table, size_t i);
size_t plugin_refusal_count(struct plugin_table *table);
const struct plugin_refusal *plugin_refusal_at(struct plugin_table *table, size_t i);
