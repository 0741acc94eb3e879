#pragma once

/*
 * What the fleet's tests stand on: a temporary folder as --root has it, the real SQLite driver, a main loop that is run until something has happened.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/loop.h"
#include "driver/datastore.h"
#include "fleet/registry.h"

struct world {
        char root[64];
        struct loop *loop;
        struct plugin_table *plugins;
        struct datastore *ds; /* the embedded one, opened by the test itself; NULL while a fleet has it */
        uint8_t daemon[16];
        bool done;
        int result;
        char reason[512];
};

int world_setup(void **state);
int world_teardown(void **state);
char *world_path(struct world *w, const char *format, ...) printf_like(2, 3);

/* Runs the main loop until *flag, for at most ten seconds. */
void world_run(struct world *w, const bool *flag);
/* Runs it for a while. */
void world_run_ms(struct world *w, unsigned ms);

void world_open_datastore(struct world *w);
void world_close_datastore(struct world *w);
/* One call of the driver, on the open datastore. */
void world_make_keyspace(struct world *w, const char *name, const uint8_t incarnation[16]);
unsigned world_count_keyspaces(struct world *w, const char *name);

extern const struct format_range world_formats;
/* A registry on the open datastore: opened, with its records; closed. */
struct registry *world_open_registry(struct world *w);
void world_close_registry(struct world *w, struct registry *r);
extern struct registry_record *world_records[64];
extern size_t world_n_records;
void world_write(struct world *w, struct registry *r, struct registry_record *record, bool remove);
struct registry_record *world_record(const char *name, enum registry_phase phase);
