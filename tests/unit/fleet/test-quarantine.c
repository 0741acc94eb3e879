#include "world.h"

/*
 * What a user would lose: all tenants of a daemon, because one of them makes it crash again and again; or a tenant that is put away
 * though it has nothing to do with it. Each crash here is one: a process that runs a fleet, or a table, and dies.
 */

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/owner.h"
#include "base/thread.h"
#include "fleet/fleet.h"
#include "fleet/quarantine.h"
#include "fleet/settings.h"
#include "rpc/client.h"

/* ---- the table */

static struct crash_config config_of(struct world *w) {
        static char state[128], vmstat[128], boot_id[128];

        snprintf(state, sizeof(state), "%s/state", w->root);
        snprintf(vmstat, sizeof(vmstat), "%s/vmstat", w->root);
        snprintf(boot_id, sizeof(boot_id), "%s/boot_id", w->root);
        return (struct crash_config){.state_dir = state, .vmstat = vmstat, .boot_id = boot_id};
}

static void write_text(struct world *w, const char *name, const char *text) {
        char *path = world_path(w, "%s", name);
        FILE *f = fopen(path, "w");

        assert_non_null(f);
        fputs(text, f);
        fclose(f);
        free(path);
}

static struct crash_table *open_table(struct world *w, struct crash_report *report) {
        const struct crash_config config = config_of(w);
        cleanup(error_done) struct error err = {};
        struct crash_table *t = NULL;

        if (crash_table_open(&config, report, &t, &err) < 0)
                fail_msg("%s", error_text(&err));
        return t;
}

enum way { ABORT, SEGV, DIVIDE, STACK, FROM_OUTSIDE, KILL, ORDERLY, JUST_EXIT };

static volatile int zero;

static __attribute__((__noinline__)) int dig(volatile char *above) {
        volatile char here[4096];

        here[0] = above ? above[0] : 1;
        return zero ? 0 : dig(here) + here[0];
}

static void *die(void *userdata) {
        enum way way = *(enum way *)userdata;

        switch (way) {
        case ABORT:
                abort();
        case SEGV:
                /* Not the null pointer, which a sanitizer would catch before. */
                *(volatile int *)mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) = 1;
                break;
        case DIVIDE:
                raise(SIGFPE); /* what a sanitizer would catch before */
                break;
        case STACK:
                return (void *)(uintptr_t)dig(NULL);
        default:
                pause();
        }
        return NULL;
}

static void *die_as_a(void *userdata) {
        owner_set(2);
        return die(userdata);
}

static void quiet(void) {
        struct rlimit none = {};

        setrlimit(RLIMIT_CORE, &none);
        for (const int *signo = thread_fault_signals; *signo; signo++)
                signal(*signo, SIG_DFL); /* the tests' own handlers would go on with the next test */
        (void)!freopen("/dev/null", "w", stderr);
}

/* A process with a table of the tenants x, a and b, of which b is being opened; its thread dies while it works for a. */
static struct crash_report crash(struct world *w, enum way way, struct crash_table **ret) {
        struct crash_report report;
        int status, ready[2];
        char byte;
        pid_t pid;

        assert_int_equal(pipe(ready), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                struct crash_table *t;
                pthread_t thread;

                quiet();
                t = open_table(w, &report);
                check(crash_table_enter(t, "x") == 1);
                check(crash_table_enter(t, "a") == 2);
                atomic_store(crash_table_opening(t, crash_table_enter(t, "b")), 1);
                if (way == ORDERLY)
                        crash_table_close(t);
                if (way == ORDERLY || way == JUST_EXIT)
                        _exit(0);
                check(thread_start(&thread, "shard", die_as_a, &way) == 0);
                check(write(ready[1], "", 1) == 1);
                pthread_join(thread, NULL);
                _exit(0);
        }
        close(ready[1]);
        (void)!read(ready[0], &byte, 1);
        close(ready[0]);
        if (way == FROM_OUTSIDE)
                kill(pid, SIGSEGV);
        if (way == KILL)
                kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (way == ORDERLY || way == JUST_EXIT)
                assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        else /* a sanitizer ends by itself, with its report */
                assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0));
        *ret = open_table(w, &report);
        return report;
}

static void test_table(void **state) {
        static const struct {
                enum way way;
                enum crash_kind kind;
                int signo;
                const char *owner;
        } cases[] = {
                {ABORT, CRASH_FAULT, SIGABRT, "a"},
                {SEGV, CRASH_FAULT, SIGSEGV, "a"},
                {DIVIDE, CRASH_FAULT, SIGFPE, "a"},
                {STACK, CRASH_FAULT, SIGSEGV, "a"},
                {FROM_OUTSIDE, CRASH_FAULT, SIGSEGV, ""},
                {KILL, CRASH_KILLED, 0, ""},
                {JUST_EXIT, CRASH_KILLED, 0, ""},
                {ORDERLY, CRASH_NONE, 0, ""},
        };
        struct world *w = *state;
        struct crash_report report;
        struct crash_table *t;

        write_text(w, "boot_id", "one\n");
        write_text(w, "vmstat", "nr_free_pages 7\noom_kill 3\n");
        for (size_t i = 0; i < n_elements(cases); i++) {
                report = crash(w, cases[i].way, &t);
                print_message("# case %zu\n", i);
                assert_int_equal(report.kind, cases[i].kind);
                assert_int_equal(report.signo, cases[i].signo);
                assert_string_equal(report.owner, cases[i].owner);
                if (report.kind != CRASH_NONE) {
                        assert_int_equal(report.n_opening, 1);
                        assert_string_equal(report.opening[0], "b");
                }
                crash_report_done(&report);
                crash_table_close(t);
        }
}

static void test_killed_for_memory(void **state) {
        struct world *w = *state;
        struct crash_report report;
        struct crash_table *t;
        pid_t pid;

        write_text(w, "boot_id", "one\n");
        write_text(w, "vmstat", "oom_kill 3\n");
        for (unsigned i = 0; i < 2; i++) {
                pid = fork();
                assert_true(pid >= 0);
                if (pid == 0) {
                        quiet();
                        t = open_table(w, &report);
                        atomic_store(crash_table_opening(t, crash_table_enter(t, "huge")), 1);
                        raise(SIGKILL);
                }
                assert_int_equal(waitpid(pid, NULL, 0), pid);
                if (i == 1)
                        write_text(w, "vmstat", "oom_kill 4\n");
                t = open_table(w, &report);
                assert_int_equal(report.kind, i == 1 ? CRASH_MEMORY : CRASH_KILLED);
                assert_int_equal(report.n_opening, 1);
                assert_string_equal(report.opening[0], "huge");
                crash_report_done(&report);
                crash_table_close(t);
        }
}

/* After a power cut the file may hold anything. */
static void test_another_boot(void **state) {
        struct world *w = *state;
        struct crash_report report;
        struct crash_table *t;

        write_text(w, "boot_id", "one\n");
        write_text(w, "vmstat", "");
        {
                struct crash_report last;
                pid_t pid = fork();

                assert_true(pid >= 0);
                if (pid == 0) {
                        quiet();
                        t = open_table(w, &last);
                        owner_set(crash_table_enter(t, "a"));
                        abort();
                }
                assert_int_equal(waitpid(pid, NULL, 0), pid);
        }
        write_text(w, "boot_id", "two\n");
        t = open_table(w, &report);
        assert_int_equal(report.kind, CRASH_NONE);
        crash_report_done(&report);
        crash_table_close(t);
        write_text(w, "state/crash.table", "no table at all");
        t = open_table(w, &report);
        assert_int_equal(report.kind, CRASH_NONE);
        crash_report_done(&report);
        crash_table_close(t);
}

static void test_places(void **state) {
        struct world *w = *state;
        struct crash_report report;
        struct crash_table *t;
        uint32_t a, b;

        write_text(w, "boot_id", "one\n");
        write_text(w, "vmstat", "");
        t = open_table(w, &report);
        a = crash_table_enter(t, "a");
        b = crash_table_enter(t, "b");
        assert_true(a && b && a != b);
        crash_table_leave(t, a);
        for (unsigned i = 0; i < 8191; i++)
                assert_true(crash_table_enter(t, "c"));
        assert_int_equal(crash_table_enter(t, "one too many"), 0);
        assert_null(crash_table_opening(t, 0));
        crash_table_leave(t, 0);
        crash_table_leave(t, b);
        assert_int_equal(crash_table_enter(t, "d"), b);
        crash_report_done(&report);
        crash_table_close(t);
}

/* ---- judging */

static uint64_t window_ns;

static struct quarantine *start(struct world *w, enum crash_kind kind, const char *owner, size_t n_opening) {
        static char opening[16][CRASH_NAME_SIZE];
        struct crash_report report = {
                .kind = kind, .signo = kind == CRASH_FAULT ? SIGSEGV : 0, .opening = opening, .n_opening = n_opening};
        char *dir = world_path(w, "state");
        struct quarantine *q;

        for (size_t i = 0; i < n_opening; i++)
                snprintf(opening[i], sizeof(opening[i]), "o%zu", i);
        snprintf(report.owner, sizeof(report.owner), "%s", owner);
        q = quarantine_new(w->loop, dir, &window_ns, &report);
        free(dir);
        return q;
}

static void again(struct world *w, struct quarantine **q, enum crash_kind kind, const char *owner, size_t n_opening) {
        quarantine_free(*q);
        *q = start(w, kind, owner, n_opening);
}

static void test_judging(void **state) {
        struct world *w = *state;
        struct quarantine *q;

        window_ns = 3600 * NSEC_PER_SEC;
        q = start(w, CRASH_NONE, "", 0);
        assert_null(quarantine_reason(q, "a"));
        again(w, &q, CRASH_FAULT, "a", 2);
        assert_null(quarantine_reason(q, "a"));
        again(w, &q, CRASH_NONE, "", 0); /* stopped, started */
        again(w, &q, CRASH_KILLED, "", 2);
        again(w, &q, CRASH_FAULT, "b", 1);
        assert_null(quarantine_reason(q, "a"));
        assert_null(quarantine_reason(q, "b"));
        again(w, &q, CRASH_FAULT, "a", 2);
        assert_non_null(quarantine_reason(q, "a"));
        assert_non_null(strstr(quarantine_reason(q, "a"), "SIGSEGV while it worked for the tenant"));
        assert_non_null(strstr(quarantine_reason(q, "a"), "stokectl tenant resume a"));
        assert_null(quarantine_reason(q, "b"));
        assert_null(quarantine_reason(q, "o0")); /* whose thread it was is known */
        again(w, &q, CRASH_NONE, "", 0);
        assert_non_null(quarantine_reason(q, "a"));
        quarantine_forget(q, "a");
        assert_null(quarantine_reason(q, "a"));
        again(w, &q, CRASH_FAULT, "a", 0);
        assert_null(quarantine_reason(q, "a")); /* begun anew */
        quarantine_forget(q, "nobody");
        quarantine_free(q);
}

static void test_opening(void **state) {
        struct world *w = *state;
        struct quarantine *q;

        window_ns = 3600 * NSEC_PER_SEC;
        q = start(w, CRASH_MEMORY, "", 2);
        again(w, &q, CRASH_FAULT, "", 1);
        assert_non_null(quarantine_reason(q, "o0"));
        assert_non_null(strstr(quarantine_reason(q, "o0"), "want of memory"));
        assert_null(quarantine_reason(q, "o1"));
        quarantine_forget(q, "o0");
        quarantine_forget(q, "o1");
        /* A daemon that opens hundreds after its start. */
        again(w, &q, CRASH_FAULT, "", 9);
        again(w, &q, CRASH_FAULT, "", 9);
        again(w, &q, CRASH_MEMORY, "", 9);
        for (char name[] = "o0"; name[1] <= '8'; name[1]++)
                assert_null(quarantine_reason(q, name));
        quarantine_free(q);
}

static void test_forgotten(void **state) {
        struct world *w = *state;
        struct quarantine *q;

        window_ns = 100 * NSEC_PER_MSEC;
        q = start(w, CRASH_FAULT, "a", 0);
        again(w, &q, CRASH_FAULT, "b", 0);
        again(w, &q, CRASH_FAULT, "b", 0);
        world_run_ms(w, 400);
        again(w, &q, CRASH_FAULT, "a", 0);
        assert_null(quarantine_reason(q, "a"));
        assert_non_null(quarantine_reason(q, "b")); /* that is not forgotten by itself */
        again(w, &q, CRASH_FAULT, "a", 0);
        assert_non_null(quarantine_reason(q, "a"));
        quarantine_forget(q, "a");
        window_ns = 0;
        again(w, &q, CRASH_FAULT, "a", 0);
        again(w, &q, CRASH_FAULT, "a", 0);
        assert_null(quarantine_reason(q, "a"));
        quarantine_free(q);
}

static void test_broken_file(void **state) {
        struct world *w = *state;
        struct quarantine *q;

        window_ns = 3600 * NSEC_PER_SEC;
        write_text(w, "state/quarantine.json", "{");
        log_set_level((enum log_level)0);
        q = start(w, CRASH_FAULT, "a", 0);
        again(w, &q, CRASH_FAULT, "a", 0);
        log_set_level(LOG_LEVEL_ERROR);
        assert_non_null(quarantine_reason(q, "a"));
        quarantine_free(q);
}

/* ---- a fleet */

struct running {
        struct world *w;
        struct settings *settings;
        struct fleet *fleet;
        bool ready, stopped, done;
        int result;
        char phase[32], reason[512];
        enum keyspace_condition condition;
};

static void now(struct grpc_call *call, struct bytes data) {
        if (data.size)
                abort();
        grpc_call_reply(call, blob_new(0));
}

static int add_services(struct grpc_server *server) {
        static const struct grpc_method methods[] = {{.path = "/test.Crash/Now", .on_message = now}};
        static const struct grpc_service service = {"test.Crash", methods, 1};

        return grpc_server_add(server, &service, (struct bytes){});
}

static void on_ready(void *userdata) {
        ((struct running *)userdata)->ready = true;
}

static void on_stopped(void *userdata) {
        ((struct running *)userdata)->stopped = true;
}

static void begin(struct world *w, struct running *r) {
        struct settings_options options = {.root = w->root, .plugins = getenv("STOKE_PLUGINS")};
        cleanup(error_done) struct error err = {};
        struct fleet_config config = {.loop = w->loop,
                .services = {.add = add_services, .unavailable = "not now"},
                .on_ready = on_ready,
                .userdata = r};

        *r = (struct running){.w = w};
        if (settings_load(&options, &r->settings, &err) < 0)
                fail_msg("%s", error_text(&err));
        config.settings = r->settings;
        memcpy(config.daemon, w->daemon, 16);
        if (fleet_new(&config, &r->fleet, &err) < 0)
                fail_msg("%s", error_text(&err));
        if (fleet_start(r->fleet, &err) < 0)
                fail_msg("%s", error_text(&err));
        world_run(w, &r->ready);
}

static void end(struct running *r) {
        fleet_stop(r->fleet, on_stopped, r);
        world_run(r->w, &r->stopped);
        fleet_free(r->fleet);
        settings_free(r->settings);
}

static void on_done(void *userdata, int result, const char *reason) {
        struct running *r = userdata;

        r->result = result;
        snprintf(r->reason, sizeof(r->reason), "%s", reason);
        r->done = true;
}

static void create(struct running *r, const char *name) {
        const struct fleet_create c = {.name = name, .wait = true};

        r->done = false;
        fleet_create_tenant(r->fleet, &c, on_done, r);
        world_run(r->w, &r->done);
        assert_int_equal(r->result, 0);
}

static int resume(struct running *r, const char *name) {
        r->done = false;
        fleet_resume_tenant(r->fleet, name, on_done, r);
        world_run(r->w, &r->done);
        return r->result;
}

static void on_tenant(void *userdata, const struct fleet_tenant_view *view) {
        struct running *r = userdata;

        snprintf(r->phase, sizeof(r->phase), "%s", view->phase);
        snprintf(r->reason, sizeof(r->reason), "%s", view->reason);
        r->condition = view->figures->condition;
}

static void on_collected(void *userdata) {
        ((struct running *)userdata)->done = true;
}

static const char *phase_of(struct running *r, const char *name) {
        r->done = false;
        fleet_collect(r->fleet, on_collected, r);
        world_run(r->w, &r->done);
        assert_true(fleet_find_tenant(r->fleet, name, on_tenant, r));
        return r->phase;
}

static void on_problem(void *userdata, const char *line) {
        *(bool *)userdata |= strncmp(line, "tenant bad: quarantined: ", 25) == 0;
}

/* The message is what makes it crash. */
static enum grpc_code call(struct running *r, const char *name, const char *message, char text[256]) {
        cleanup(error_done) struct error err = {};
        struct grpc_client *client = NULL;
        struct loop *loop = NULL;
        enum grpc_code code;
        char address[256];

        snprintf(address, sizeof(address), "unix:%s/run/tenants/%s.sock", r->w->root, name);
        assert_int_equal(loop_new("client", &loop), 0);
        assert_int_equal(grpc_client_new(loop, address, &client, &err), 0);
        code = grpc_client_unary(
                client, "/test.Crash/Now", 10 * NSEC_PER_SEC, bytes_of_string(message), NULL, NULL, &err);
        snprintf(text, 256, "%s", code == GRPC_OK ? "" : error_text(&err));
        grpc_client_free(client);
        loop_free(loop);
        return code;
}

/* In a process of its own, as is each daemon here; the exit status, or the signal as a negative number. */
static int in_child(struct world *w, void (*run)(struct running *r)) {
        pid_t pid = fork();
        int status;

        assert_true(pid >= 0);
        if (pid == 0) {
                struct running r;

                (void)w;
                quiet();
                begin(w, &r);
                run(&r);
                end(&r);
                _exit(42);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void run_first(struct running *r) {
        char text[256];

        create(r, "bad");
        create(r, "good");
        check(call(r, "good", "", text) == GRPC_OK);
        (void)call(r, "bad", "!", text);
}

static void run_second(struct running *r) {
        char text[256];

        check(strcmp(phase_of(r, "bad"), "Ready") == 0);
        check(call(r, "bad", "", text) == GRPC_OK);
        check(resume(r, "bad") == -EBUSY);
        (void)call(r, "bad", "!", text);
}

static void run_third(struct running *r) {
        char text[256];
        bool told = false;

        check(strcmp(phase_of(r, "good"), "Ready") == 0);
        check(call(r, "good", "", text) == GRPC_OK);
        check(strcmp(phase_of(r, "bad"), "Quarantined") == 0);
        check(strstr(r->reason, "SIGABRT while it worked for the tenant"));
        check(r->condition == KEYSPACE_QUARANTINED);
        fleet_problems(r->fleet, on_problem, &told);
        check(told);
        /* What it crashed on is not even read. */
        check(call(r, "bad", "!", text) == GRPC_UNAVAILABLE && strstr(text, "not now"));
        check(call(r, "bad", "", text) == GRPC_UNAVAILABLE);
        check(resume(r, "nobody") == -ENOENT);
        check(resume(r, "good") == -EBUSY);
}

static void run_fourth(struct running *r) {
        char text[256];

        check(strcmp(phase_of(r, "bad"), "Quarantined") == 0);
        check(resume(r, "bad") == 0);
        check(strcmp(phase_of(r, "bad"), "Ready") == 0);
        check(call(r, "bad", "", text) == GRPC_OK);
}

static void run_fifth(struct running *r) {
        check(strcmp(phase_of(r, "bad"), "Ready") == 0);
}

static void test_fleet(void **state) {
        struct world *w = *state;

        assert_int_equal(in_child(w, run_first), -SIGABRT);
        assert_int_equal(in_child(w, run_second), -SIGABRT);
        assert_int_equal(in_child(w, run_third), 42);
        assert_int_equal(in_child(w, run_fourth), 42);
        assert_int_equal(in_child(w, run_fifth), 42);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_table, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_killed_for_memory, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_another_boot, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_places, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_judging, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_opening, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_forgotten, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_broken_file, world_setup, world_teardown),
                cmocka_unit_test_setup_teardown(test_fleet, world_setup, world_teardown),
        };

        return cmocka_run_group_tests_name("fleet-quarantine", tests, NULL, NULL);
}
