/* What TLS costs the server: memory of an idle connection with a stream, CPU of unary calls, time until many who reconnect are served. */

#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "knock.h"

static struct knock k;
static bool plain; /* over the Unix socket instead */
static struct tls_client *tls;

static struct grpc_client *dial(struct loop *loop) {
        struct grpc_client *client;

        if (plain)
                check(grpc_client_new(loop, k.f.address, &client, NULL) == 0);
        else
                check(grpc_client_new_tls(loop, k.address, tls, &client, NULL) == 0);
        return client;
}

struct caller {
        struct grpc_client *client;
        struct loop *loop;
        long *left;
        unsigned *running;
};

static void call(struct caller *c);

static void on_end(void *userdata, enum grpc_code code, const char *message) {
        struct caller *c = userdata;

        if (code != GRPC_OK)
                fprintf(stderr, "%s\n", message);
        check(code == GRPC_OK);
        if (--*c->left > 0)
                call(c);
        else if (--*c->running == 0)
                loop_stop(c->loop);
}

static const struct grpc_client_handler handler = {.on_end = on_end};

static void call(struct caller *c) {
        struct grpc_client_call *started;

        check(grpc_client_start(c->client, "/test.Echo/Unary", 0, &handler, c, &started) == 0);
        check(grpc_client_send(started, bytes_of_string("size:1024")) == 0);
        grpc_client_half_close(started);
}

/* One call on each of n connections, all made at once, then the rest on them. */
static void clients(unsigned n_connections, unsigned n_streams, long n_calls) {
        struct grpc_client **list = xcalloc(n_connections, sizeof(struct grpc_client *));
        struct caller *callers = xcalloc(n_connections * n_streams, sizeof(struct caller));
        unsigned running = n_connections * n_streams;
        long left = n_calls;
        struct loop *loop;

        check(loop_new("clients", &loop) == 0);
        for (unsigned i = 0; i < n_connections; i++)
                list[i] = dial(loop);
        for (unsigned i = 0; i < n_connections * n_streams; i++) {
                callers[i] = (struct caller){list[i % n_connections], loop, &left, &running};
                call(&callers[i]);
        }
        check(loop_run(loop) == 0);
}

struct pause {
        struct loop_timer timer;
        struct loop *loop;
};

static void on_pause_over(struct loop_timer *timer) {
        loop_stop(container_of(timer, struct pause, timer)->loop);
}

static void run_for(struct loop *loop, uint64_t ns) {
        struct pause pause = {.timer.on_time = on_pause_over, .loop = loop};

        loop_timer_set(loop, &pause.timer, clock_now_ns() + ns);
        check(loop_run(loop) == 0);
}

static void idle(unsigned n) {
        struct grpc_client **list = xcalloc(n, sizeof(struct grpc_client *));
        static const struct grpc_client_handler quiet = {};
        struct loop *loop;

        check(loop_new("idle", &loop) == 0);
        for (unsigned i = 0; i < n; i++) {
                struct grpc_client_call *started;

                list[i] = dial(loop);
                check(grpc_client_start(list[i], "/test.Echo/Bidi", 0, &quiet, NULL, &started) == 0);
                check(grpc_client_send(started, bytes_of_string("hello")) == 0);
                if (i % 64 == 63)
                        run_for(loop, 100 * NSEC_PER_MSEC);
        }
        run_for(loop, 2 * NSEC_PER_SEC);
}

static uint64_t cpu_ns;

static void read_cpu(struct fixture *f) {
        struct timespec ts;

        (void)f;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
        cpu_ns = (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static uint64_t process_cpu_ns(void) {
        struct timespec ts;

        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
        return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static long resident_kib(void) {
        long pages = 0;
        FILE *file = fopen("/proc/self/statm", "re");

        check(file && fscanf(file, "%*d %ld", &pages) == 1);
        fclose(file);
        return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* In another process, which says when it is done and stays until told. */
static pid_t child(int ready, int go, void (*run)(void)) {
        pid_t pid = fork();
        char byte;

        if (pid)
                return pid;
        run();
        check(write(ready, "x", 1) == 1);
        check(read(go, &byte, 1) >= 0);
        _exit(0);
}

static void run_idle(void) {
        idle(1000);
}
static void run_idle_first(void) {
        idle(64);
}
static long n_calls = 200000;
static void run_calls(void) {
        clients(16, 8, n_calls);
}
static void run_reconnect(void) {
        clients(1000, 1, 1000);
}

static void measure(const char *over) {
        int ready[2], go[2];
        uint64_t before, process, started;
        long memory;
        char byte;
        pid_t pid;

        check(pipe(ready) == 0 && pipe(go) == 0);
        pid = child(ready[1], go[0], run_idle_first); /* what is there once */
        check(read(ready[0], &byte, 1) == 1);
        memory = resident_kib();
        {
                int go2[2];
                pid_t second;

                check(pipe(go2) == 0);
                second = child(ready[1], go2[0], run_idle);
                check(read(ready[0], &byte, 1) == 1);
                printf("%s: idle connection with an idle stream: %.1f KiB\n", over,
                        (double)(resident_kib() - memory) / 1000.0);
                fflush(stdout);
                check(write(go2[1], "x", 1) == 1 && waitpid(second, NULL, 0) == second);
        }
        check(write(go[1], "x", 1) == 1 && waitpid(pid, NULL, 0) == pid);
        usleep(300 * 1000);

        fixture_run(&k.f, read_cpu);
        before = cpu_ns;
        pid = child(ready[1], go[0], run_calls);
        check(read(ready[0], &byte, 1) == 1);
        fixture_run(&k.f, read_cpu);
        printf("%s: %ld calls on 16 connections of 8 streams: %.2f us of the server's CPU a call\n", over, n_calls,
                (double)(cpu_ns - before) / 1000.0 / (double)n_calls);
        check(write(go[1], "x", 1) == 1 && waitpid(pid, NULL, 0) == pid);

        started = clock_now_ns();
        process = process_cpu_ns();
        pid = child(ready[1], go[0], run_reconnect);
        check(read(ready[0], &byte, 1) == 1);
        printf("%s: 1000 connections at once, one call each: %.2f s, %.0f us of the server's CPU each\n", over,
                (double)(clock_now_ns() - started) / 1e9, (double)(process_cpu_ns() - process) / 1e6);
        check(write(go[1], "x", 1) == 1 && waitpid(pid, NULL, 0) == pid);
        close(ready[0]);
        close(ready[1]);
        close(go[0]);
        close(go[1]);
}

/* bench-tls unix|tls [CALLS]: one of both in a process, since memory that was freed is used again. */
int main(int argc, char **argv) {
        plain = argc > 1 && strcmp(argv[1], "unix") == 0;
        if (argc > 2)
                n_calls = atol(argv[2]);
        knock_start(&k, NULL);
        tls = knock_client(&k, &k.berlin, NULL);
        measure(plain ? "unix" : "tls");
        tls_client_unref(tls);
        knock_stop(&k);
        return 0;
}
