/*
 * CPU of the server's thread for a unary call: N calls, with the headers that grpc-go sends, a request of 100 bytes and an answer of
 * 1 KiB, over 16 connections of 8 streams each; the clients are another process. Then the memory of idle connections.
 *
 *     bench-unary [CALLS [CONNECTIONS [STREAMS]]]
 */

#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fixture.h"

static long n_calls = 400000;
static unsigned n_connections = 16, n_streams = 8;
static uint64_t cpu_ns;

struct caller {
        struct grpc_client *client;
        struct loop *loop;
        long *left, *running;
};

static void call(struct caller *c);

static void on_end(void *userdata, enum grpc_code code, const char *message) {
        struct caller *c = userdata;

        if (code != GRPC_OK) {
                fprintf(stderr, "%s: %s\n", grpc_code_name(code), message);
                exit(1);
        }
        if (*c->left > 0)
                call(c);
        else if (--*c->running == 0)
                loop_stop(c->loop);
}

static const struct grpc_client_handler handler = {.on_end = on_end};

static void call(struct caller *c) {
        static const char request[100] = "size:1024";
        struct grpc_client_call *started;

        --*c->left;
        check(grpc_client_start(c->client, "/test.Echo/Unary", 10 * NSEC_PER_SEC, &handler, c, &started) == 0);
        check(grpc_client_send(started, bytes_of(request, sizeof(request))) == 0);
        grpc_client_half_close(started);
}

static void clients(const char *address, int ready) {
        struct grpc_client **list = xcalloc(n_connections, sizeof(struct grpc_client *));
        struct caller *callers = xcalloc((size_t)n_connections * n_streams, sizeof(*callers));
        long left = n_calls, running = (long)n_connections * n_streams;
        struct loop *loop;

        check(loop_new("clients", &loop) == 0);
        for (unsigned i = 0; i < n_connections; i++)
                check(grpc_client_new(loop, address, &list[i], NULL) == 0);
        for (unsigned i = 0; i < n_connections * n_streams; i++) {
                callers[i] = (struct caller){list[i % n_connections], loop, &left, &running};
                call(&callers[i]);
        }
        check(loop_run(loop) == 0);
        check(write(ready, "x", 1) == 1);
        for (unsigned i = 0; i < n_connections; i++)
                grpc_client_free(list[i]);
        loop_free(loop);
}

struct pause {
        struct loop_timer timer;
        struct loop *loop;
};

static void on_pause_over(struct loop_timer *timer) {
        loop_stop(container_of(timer, struct pause, timer)->loop);
}

/* Runs the loop for a while. */
static void run_for(struct loop *loop, uint64_t ns) {
        struct pause pause = {.timer.on_time = on_pause_over, .loop = loop};

        loop_timer_set(loop, &pause.timer, clock_now_ns() + ns);
        check(loop_run(loop) == 0);
}

static void idle(const char *address, int ready, int go, unsigned n) {
        struct grpc_client **list = xcalloc(n, sizeof(struct grpc_client *));
        static const struct grpc_client_handler quiet = {};
        struct loop *loop;
        char byte;

        check(loop_new("idle", &loop) == 0);
        for (unsigned i = 0; i < n; i++) {
                struct grpc_client_call *started;

                check(grpc_client_new(loop, address, &list[i], NULL) == 0);
                check(grpc_client_start(list[i], "/test.Echo/Bidi", 0, &quiet, NULL, &started) == 0);
                check(grpc_client_send(started, bytes_of_string("hello")) == 0);
                if (i % 64 == 63)
                        run_for(loop, 10 * NSEC_PER_MSEC);
        }
        run_for(loop, NSEC_PER_SEC);
        check(write(ready, "x", 1) == 1);
        check(read(go, &byte, 1) >= 0);
        _exit(0);
}

static void read_cpu(struct fixture *f) {
        struct timespec ts;

        (void)f;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
        cpu_ns = (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static long resident_kib(void) {
        long pages = 0;
        FILE *file = fopen("/proc/self/statm", "re");

        check(file && fscanf(file, "%*d %ld", &pages) == 1);
        fclose(file);
        return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

int main(int argc, char **argv) {
        struct fixture f;
        int ready[2], go[2];
        uint64_t before, started;
        char byte;
        long memory;
        pid_t pid;

        if (argc > 1)
                n_calls = atol(argv[1]);
        if (argc > 2)
                n_connections = (unsigned)atoi(argv[2]);
        if (argc > 3)
                n_streams = (unsigned)atoi(argv[3]);
        check(pipe(ready) == 0 && pipe(go) == 0);
        fixture_start(&f, NULL);

        memory = resident_kib();
        pid = fork();
        if (pid == 0) {
                idle(f.address, ready[1], go[0], 1000);
        }
        check(read(ready[0], &byte, 1) == 1);
        check(fixture_wait(&f.n_messages, 1000));
        printf("idle connection with an idle stream: %.1f KiB\n", (double)(resident_kib() - memory) / 1000.0);
        check(write(go[1], "x", 1) == 1);
        waitpid(pid, NULL, 0);
        check(fixture_wait(&f.n_frees, 1000));

        fixture_run(&f, read_cpu);
        before = cpu_ns;
        started = clock_now_ns();
        pid = fork();
        if (pid == 0) {
                clients(f.address, ready[1]);
                _exit(0);
        }
        check(read(ready[0], &byte, 1) == 1);
        started = clock_now_ns() - started;
        fixture_run(&f, read_cpu);
        waitpid(pid, NULL, 0);
        printf("%ld calls, %u connections of %u streams: %.2f us of the server's CPU a call, %.0f calls/s\n", n_calls,
                n_connections, n_streams, (double)(cpu_ns - before) / 1000.0 / (double)n_calls,
                (double)n_calls / ((double)started / 1e9));
        fixture_stop(&f);
        return 0;
}
