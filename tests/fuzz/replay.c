/*
 * The short form of fuzzing, which every run of the tests has: a target is fed each file of its corpus, and then mutations of them,
 * always the same for one seed, as many as it is told. No coverage guides it; it keeps the targets working and finds what is shallow.
 * A crash leaves the input in a file of the working folder, whose name it prints: give that file as the only argument to repeat it.
 *
 *     fuzz-NAME [--rounds N] [--seed N] FILE|FOLDER…     STOKEHOLD_SEED in the environment is a seed too
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

#define MOST_BYTES ((size_t)64 * 1024)
#define MOST_FILES 4096

struct file {
        char *path; /* owned */
        uint8_t *data;
        size_t size;
};

static struct file files[MOST_FILES];
static size_t n_files;
static uint8_t input[MOST_BYTES];
static size_t input_size;
static char crash_name[256];

/* xorshift: the same everywhere. */
static uint64_t dice_state;
static uint64_t dice(void) {
        dice_state ^= dice_state << 13;
        dice_state ^= dice_state >> 7;
        dice_state ^= dice_state << 17;
        return dice_state;
}
static size_t below(size_t n) {
        return n ? (size_t)(dice() % n) : 0;
}

/* ---- what is left of a crash; write() and the like only */

static void leave_input(void) {
        static bool left;
        ssize_t n;
        int fd;

        if (left)
                return;
        left = true;
        fd = open(crash_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0)
                return;
        n = write(fd, input, input_size);
        close(fd);
        if (n != (ssize_t)input_size)
                return;
        n = write(STDERR_FILENO, "the input is in ", 16);
        n = write(STDERR_FILENO, crash_name, strlen(crash_name));
        n = write(STDERR_FILENO, "\n", 1);
        (void)n;
}

static void on_abort(int signo) {
        leave_input();
        (void)signal(signo, SIG_DFL);
        (void)raise(signo);
}

/* Of the sanitizers' runtime, where there is one. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((__weak__));

/* ---- the corpus */

static void add_file(const char *path) {
        struct file *f = &files[n_files];
        struct stat st;
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        if (fd < 0 || fstat(fd, &st) < 0) {
                fprintf(stderr, "%s: %s\n", path, strerror(errno));
                exit(2);
        }
        check(n_files < MOST_FILES && (size_t)st.st_size <= MOST_BYTES);
        f->path = strdup(path);
        f->size = (size_t)st.st_size;
        f->data = xcalloc(1, f->size);
        check(f->path && read(fd, f->data, f->size) == st.st_size);
        close(fd);
        n_files++;
}

static void add(const char *path) {
        struct dirent **entries;
        struct stat st;
        int n;

        if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)) {
                add_file(path);
                return;
        }
        n = scandir(path, &entries, NULL, alphasort);
        check(n >= 0);
        for (int i = 0; i < n; i++) {
                char full[4096];

                if (entries[i]->d_name[0] != '.') {
                        (void)snprintf(full, sizeof(full), "%s/%s", path, entries[i]->d_name);
                        add_file(full);
                }
                free(entries[i]);
        }
        free(entries);
}

/* ---- mutations */

static void make_room(size_t at, size_t n) {
        n = min_of(n, MOST_BYTES - input_size);
        memmove(input + at + n, input + at, input_size - at);
        input_size += n;
}

static void take_away(size_t at, size_t n) {
        n = min_of(n, input_size - at);
        memmove(input + at, input + at + n, input_size - at - n);
        input_size -= n;
}

static void mutate(void) {
        static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff, '\n', ' ', ':', '/', '"', '-', '0', '9', 'a', 'Z'};
        size_t at = below(input_size + 1), n;
        const struct file *other;

        switch (below(8)) {
        case 0:
                if (input_size)
                        input[at % input_size] ^= (uint8_t)(1u << below(8));
                break;
        case 1:
                if (input_size)
                        input[at % input_size] = (uint8_t)dice();
                break;
        case 2:
                if (input_size)
                        input[at % input_size] = odd[below(sizeof(odd))];
                break;
        case 3:
                take_away(at, 1 + below(16));
                break;
        case 4: /* bytes of anything */
                n = 1 + below(8);
                if (input_size + n > MOST_BYTES)
                        break;
                make_room(at, n);
                for (size_t i = 0; i < n; i++)
                        input[at + i] = (uint8_t)dice();
                break;
        case 5: /* a piece again, somewhere else */
                if (input_size < 2)
                        break;
                n = 1 + below(min_of(input_size, (size_t)256));
                if (input_size + n <= MOST_BYTES) {
                        uint8_t piece[256];

                        memcpy(piece, input + below(input_size - n + 1), n);
                        make_room(at, n);
                        memcpy(input + at, piece, n);
                }
                break;
        case 6: /* the rest of another file */
                other = &files[below(n_files)];
                n = below(other->size + 1);
                n = min_of(n, MOST_BYTES - at);
                memcpy(input + at, other->data + other->size - n, n);
                input_size = at + n;
                break;
        default:
                input_size = at;
                break;
        }
}

static void run_one(void) {
        uint8_t *copy = fuzz_copy(input, input_size);

        (void)LLVMFuzzerTestOneInput(copy, input_size);
        free(copy);
}

int main(int argc, char **argv) {
        const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0], *s = getenv("STOKEHOLD_SEED");
        unsigned long rounds = 0, seed = s ? strtoul(s, NULL, 10) : 1;

        for (int i = 1; i < argc; i++)
                if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
                        rounds = strtoul(argv[++i], NULL, 10);
                else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
                        seed = strtoul(argv[++i], NULL, 10);
                else
                        add(argv[i]);
        if (!n_files) {
                fprintf(stderr, "usage: %s [--rounds N] [--seed N] FILE|FOLDER...\n", name);
                return 2;
        }
        (void)snprintf(crash_name, sizeof(crash_name), "crash-%s-%d", name, (int)getpid());
        if (__sanitizer_set_death_callback)
                __sanitizer_set_death_callback(leave_input);
        (void)signal(SIGABRT, on_abort);

        printf("%s: %zu files, %lu mutations, STOKEHOLD_SEED=%lu\n", name, n_files, rounds, seed);
        (void)fflush(stdout);
        for (size_t i = 0; i < n_files; i++) {
                memcpy(input, files[i].data, files[i].size);
                input_size = files[i].size;
                run_one();
        }
        dice_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
        for (unsigned long i = 0; i < rounds; i++) {
                const struct file *f = &files[below(n_files)];

                memcpy(input, f->data, f->size);
                input_size = f->size;
                for (size_t n = 1 + below(4); n; n--)
                        mutate();
                run_one();
        }
        for (size_t i = 0; i < n_files; i++) {
                free(files[i].path);
                free(files[i].data);
        }
        return 0;
}
