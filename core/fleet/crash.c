#include "fleet/crash.h"

/*
 * The table and the handler. The handler runs on the thread that crashed, whatever that was doing: it stores into the mapping and
 * restores the signal's former action, nothing else.
 */

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/owner.h"
#include "base/thread.h"

#define N_SLOTS 8192
#define MAGIC UINT64_C(0x31656c6261746873) /* and with it the layout */
#define N_SIGNALS 5

struct slot {
        char name[CRASH_NAME_SIZE]; /* "": free */
        _Atomic uint32_t opening;
        uint32_t unused[3];
};
struct file {
        uint64_t magic;
        char boot_id[64];
        uint64_t n_memory_kills; /* of the machine, when the daemon started */
        _Atomic uint32_t running;
        _Atomic uint32_t signo, owner;
        uint32_t unused[5];
        struct slot slots[N_SLOTS];
};

struct crash_table {
        struct file *file; /* the mapping */
        size_t next;       /* where a free slot is looked for */
        struct sigaction before[N_SIGNALS];
};

static struct file *watched; /* by the handler; NULL: no table */
static struct crash_table *installed;

static void on_fault(int signo, siginfo_t *info, void *context) {
        struct file *f = watched;
        bool own = info->si_code > 0 || (info->si_code == SI_TKILL && info->si_pid == getpid());
        uint32_t none = 0;

        (void)context;
        if (f && atomic_compare_exchange_strong(&f->signo, &none, (uint32_t)signo))
                atomic_store(&f->owner, own ? owner_get() : 0);
        for (size_t i = 0; installed && i < N_SIGNALS; i++)
                if (thread_fault_signals[i] == signo)
                        (void)sigaction(signo, &installed->before[i], NULL);
        /* A fault comes again when the handler returns; what was sent does not. */
        if (info->si_code <= 0)
                (void)raise(signo);
}

static void install(struct crash_table *t) {
        struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};

        sigemptyset(&action.sa_mask);
        watched = t->file;
        installed = t;
        for (size_t i = 0; i < N_SIGNALS; i++)
                check(sigaction(thread_fault_signals[i], &action, &t->before[i]) == 0);
}

static void uninstall(struct crash_table *t) {
        for (size_t i = 0; i < N_SIGNALS; i++)
                (void)sigaction(thread_fault_signals[i], &t->before[i], NULL);
        watched = NULL;
        installed = NULL;
}

/* ---- of the machine */

static void read_boot_id(const char *path, char *ret, size_t size) {
        FILE *f = fopen(path, "re");

        memset(ret, 0, size);
        if (!f)
                return;
        if (!fgets(ret, (int)size, f))
                ret[0] = '\0';
        fclose(f);
}

static uint64_t read_memory_kills(const char *path) {
        FILE *f = fopen(path, "re");
        unsigned long long n = 0;
        char line[128];

        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "oom_kill %llu", &n) == 1)
                        break;
        if (f)
                fclose(f);
        return n;
}

/* ---- the last run */

void crash_report_done(struct crash_report *r) {
        free(r->opening);
        *r = (struct crash_report){};
}

/* The file is ours, but it may have been written by anything. */
static void copy_name(const struct slot *slot, char ret[CRASH_NAME_SIZE]) {
        memcpy(ret, slot->name, CRASH_NAME_SIZE);
        ret[CRASH_NAME_SIZE - 1] = '\0';
}

static void report(const struct file *f, const char *boot_id, uint64_t n_memory_kills, struct crash_report *ret) {
        uint32_t owner = atomic_load(&f->owner), signo = atomic_load(&f->signo);

        *ret = (struct crash_report){};
        if (f->magic != MAGIC || !atomic_load(&f->running) || !boot_id[0] ||
                strncmp(f->boot_id, boot_id, sizeof(f->boot_id)) != 0)
                return;
        ret->kind = signo ? CRASH_FAULT : n_memory_kills > f->n_memory_kills ? CRASH_MEMORY : CRASH_KILLED;
        ret->signo = (int)signo;
        if (signo && owner && owner <= N_SLOTS)
                copy_name(&f->slots[owner - 1], ret->owner);
        ret->opening = xcalloc(N_SLOTS, CRASH_NAME_SIZE);
        for (size_t i = 0; i < N_SLOTS; i++)
                if (f->slots[i].name[0] && atomic_load(&f->slots[i].opening))
                        copy_name(&f->slots[i], ret->opening[ret->n_opening++]);
}

/* ---- life */

int crash_table_open(const struct crash_config *config, struct crash_report *ret_report, struct crash_table **ret,
        struct error *reterr) {
        cleanup(freep) char *path = NULL;
        char boot_id[sizeof(((struct file *)NULL)->boot_id)];
        uint64_t n_memory_kills = read_memory_kills(config->vmstat);
        struct crash_table *t;
        struct file *f;
        int fd, r;

        if (asprintf(&path, "%s/crash.table", config->state_dir) < 0)
                return -ENOMEM;
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return error_set(reterr, -errno, "%s: %m", path);
        if (ftruncate(fd, sizeof(*f)) < 0) { /* what another version made is cut, or filled up with zeros */
                r = error_set(reterr, -errno, "%s: %m", path);
                close(fd);
                return r;
        }
        f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        r = -errno;
        close(fd);
        if (f == MAP_FAILED)
                return error_set(reterr, r, "%s: %s", path, strerror(-r));

        read_boot_id(config->boot_id, boot_id, sizeof(boot_id));
        report(f, boot_id, n_memory_kills, ret_report);
        memset(f, 0, sizeof(*f));
        f->magic = MAGIC;
        memcpy(f->boot_id, boot_id, sizeof(boot_id));
        f->n_memory_kills = n_memory_kills;
        atomic_store(&f->running, 1);

        t = new0(struct crash_table);
        t->file = f;
        if (!installed) /* faults are the process's: of several fleets in one, as tests have them, the first is watched */
                install(t);
        *ret = t;
        return 0;
}

void crash_table_close(struct crash_table *t) {
        if (!t)
                return;
        if (t == installed)
                uninstall(t);
        atomic_store(&t->file->running, 0);
        munmap(t->file, sizeof(*t->file));
        free(t);
}

uint32_t crash_table_enter(struct crash_table *t, const char *name) {
        if (strlen(name) >= CRASH_NAME_SIZE)
                return 0;
        for (size_t i = 0; i < N_SLOTS; i++) {
                size_t at = (t->next + i) % N_SLOTS;
                struct slot *slot = &t->file->slots[at];

                if (slot->name[0])
                        continue;
                memcpy(slot->name, name, strlen(name) + 1);
                t->next = at + 1;
                return (uint32_t)at + 1;
        }
        log_warning("tenant %s: there are more than %d tenants: if the daemon crashes it will not be known with which",
                name, N_SLOTS);
        return 0;
}

void crash_table_leave(struct crash_table *t, uint32_t owner) {
        if (!owner)
                return;
        memset(t->file->slots[owner - 1].name, 0, CRASH_NAME_SIZE);
        atomic_store(&t->file->slots[owner - 1].opening, 0);
}

_Atomic uint32_t *crash_table_opening(struct crash_table *t, uint32_t owner) {
        return owner ? &t->file->slots[owner - 1].opening : NULL;
}
