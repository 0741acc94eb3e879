/* Several fleets in one process: daemons.h. */

#include "daemons.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fleet/crash.h"

/* Metrics and the table of crashes are one a process, as a daemon is; here several use the same metrics, and none has the table. */
int __wrap_crash_table_open(const struct crash_config *config, struct crash_report *ret_report,
        struct crash_table **ret, struct error *reterr);
int __wrap_crash_table_open(const struct crash_config *config, struct crash_report *ret_report,
        struct crash_table **ret, struct error *reterr) {
        (void)config;
        (void)reterr;
        *ret_report = (struct crash_report){};
        *ret = NULL;
        return 0;
}
void __wrap_crash_table_close(struct crash_table *table);
void __wrap_crash_table_close(struct crash_table *table) {
        (void)table;
}
uint32_t __wrap_crash_table_enter(struct crash_table *table, const char *name);
uint32_t __wrap_crash_table_enter(struct crash_table *table, const char *name) {
        (void)table;
        (void)name;
        return 0;
}
void __wrap_crash_table_leave(struct crash_table *table, uint32_t owner);
void __wrap_crash_table_leave(struct crash_table *table, uint32_t owner) {
        (void)table;
        (void)owner;
}
_Atomic uint32_t *__wrap_crash_table_opening(struct crash_table *table, uint32_t owner);
_Atomic uint32_t *__wrap_crash_table_opening(struct crash_table *table, uint32_t owner) {
        (void)table;
        (void)owner;
        return NULL;
}
void __wrap_metric_drop(const char *label, const char *value);
void __wrap_metric_drop(const char *label, const char *value) {
        (void)label;
        (void)value;
}

struct loop *loop;
char top[64];
char instance[64];

/* ---- waiting */

static struct loop_timer tick;
static uint64_t give_up_ns;
static const bool *flag;

static void on_tick(struct loop_timer *timer) {
        if ((flag && *flag) || clock_now_ns() > give_up_ns)
                loop_stop(loop);
        else
                loop_timer_set(loop, timer, clock_now_ns() + 5 * NSEC_PER_MSEC);
}

void run(const bool *f, uint64_t ms) {
        flag = f;
        give_up_ns = clock_now_ns() + ms * NSEC_PER_MSEC;
        tick.on_time = on_tick;
        loop_timer_set(loop, &tick, clock_now_ns());
        assert_true(loop_run(loop) >= 0);
        loop_timer_clear(&tick);
}

void wait_flag(const bool *f) {
        run(f, 60000);
        assert_true(*f);
}

/* ---- files */

void write_file(const char *path, const char *text) {
        FILE *f = fopen(path, "w");

        assert_non_null(f);
        fputs(text, f);
        fclose(f);
}

void copy_file(const char *from, const char *to) {
        char data[65536];
        ssize_t n;
        int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);

        assert_true(in >= 0 && out >= 0);
        while ((n = read(in, data, sizeof(data))) > 0)
                assert_int_equal(write(out, data, (size_t)n), n);
        close(in);
        close(out);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        (void)st;
        (void)type;
        (void)ftw;
        return remove(path);
}

void next_instance(void) {
        static unsigned n;

        snprintf(instance, sizeof(instance), "daemons-%u", n++);
}

int daemons_setup(void **state) {
        static const char *const files[] = {"STOKE_PLUGIN_SQLITE", "STOKE_PLUGIN_MEMORY"};
        char *plugins, *to;

        (void)state;
        log_open();
        log_set_level(getenv("STOKE_TEST_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
        strcpy(top, "/tmp/stokehold-test-XXXXXX");
        assert_non_null(mkdtemp(top));
        next_instance();
        assert_true(asprintf(&plugins, "%s/plugins", top) > 0);
        assert_int_equal(mkdir(plugins, 0700), 0);
        for (size_t i = 0; i < n_elements(files); i++) {
                assert_non_null(getenv(files[i]));
                assert_true(asprintf(&to, "%s/driver-%zu.so", plugins, i) > 0);
                copy_file(getenv(files[i]), to);
                free(to);
        }
        free(plugins);
        return loop_new("main", &loop);
}

int daemons_teardown(void **state) {
        (void)state;
        loop_free(loop);
        nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        return 0;
}
