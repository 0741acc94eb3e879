/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `stokectl datastore check` shows of a directory: a database is really made there, written and synced, and timed.
 * Runs on a session thread.
 */
#include "sqlite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#define N_COMMITS 16

static const struct {
        long magic;
        const char *name;
        const char *trouble; /* NULL: fine */
} file_systems[] = {
        {0xef53, "ext4", NULL},
        {0x58465342, "XFS", NULL},
        {(long)0x9123683e, "Btrfs", NULL},
        {0x2fc12fc1, "ZFS", NULL},
        {(long)0xf2f52010, "F2FS", NULL},
        {0x01021994, "tmpfs", "lost at a reboot"},
        {(long)0x858458f6, "ramfs", "lost at a reboot"},
        {0x6969, "NFS", "SQLite cannot lock reliably on a network file system"},
        {(long)0xff534d42, "CIFS", "SQLite cannot lock reliably on a network file system"},
        {0x01021997, "9p", "SQLite cannot lock reliably on a network file system"},
        {0x65735546, "FUSE", "locks and syncs depend on what is behind it"},
        {0x794c7630, "overlay", "often lost with its container"},
};

static int compare(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

static int write_test(struct stoke_store *store, const char *path, uint64_t *ret_median_ns, struct stoke_call *call) {
        struct guard guard = {call, NULL};
        uint64_t times[N_COMMITS];
        sqlite3 *db = NULL;
        int r;

        r = sqlite_remove(store, path, call);
        if (r == 0)
                r = sqlite_open_new(path, &guard, call, &db);
        if (r == 0)
                r = sqlite_exec(
                        db, "PRAGMA journal_mode=WAL; CREATE TABLE t (n INTEGER PRIMARY KEY, value BLOB)", NULL, call);
        for (size_t i = 0; r == 0 && i < N_COMMITS; i++) {
                uint64_t start = sql_now_ns();

                r = sqlite_exec(db, "INSERT INTO t (value) VALUES (zeroblob(1024))", NULL, call);
                times[i] = sql_now_ns() - start;
        }
        sqlite_close(db);
        if (r == 0) {
                qsort(times, N_COMMITS, sizeof(times[0]), compare);
                *ret_median_ns = times[N_COMMITS / 2];
        }
        return r;
}

int sqlite_check(struct stoke_store *store, struct stoke_call *call,
        void (*report)(void *userdata, const char *name, const char *value, enum stoke_severity severity),
        void *userdata) {
        static atomic_uint counter;
        uint64_t median = 0, room, total;
        const char *fs_name = "an unknown file system", *trouble = NULL;
        struct stoke_call quiet = *call;
        char text[256], reason[256];
        struct statvfs vfs;
        struct statfs fs;
        struct stat st;
        char *path;
        int r;

        r = sqlite_begin_call(NULL, call);
        if (r == 0)
                r = sqlite_make_directory(store, call);
        if (r < 0)
                return r;
        if (asprintf(&path, "%s/.check-%ld-%u", store->directory, (long)getpid(), atomic_fetch_add(&counter, 1)) < 0)
                return -ENOMEM;
        r = write_test(store, path, &median, call);
        quiet.reason = reason; /* whatever failed first is what matters */
        quiet.reason_size = sizeof(reason);
        (void)sqlite_remove(store, path, &quiet);
        free(path);
        if (r < 0)
                return r;

        snprintf(text, sizeof(text), "SQLite %s", sqlite3_libversion());
        report(userdata, "version", text, STOKE_INFO);
        snprintf(text, sizeof(text), "%.2f ms a commit", (double)median / 1e6);
        report(userdata, "latency", text, median > 50000000 ? STOKE_WARNING : STOKE_INFO);

        if (statfs(store->directory, &fs) == 0)
                for (size_t i = 0; i < sizeof(file_systems) / sizeof(file_systems[0]); i++)
                        if ((uint32_t)fs.f_type == (uint32_t)file_systems[i].magic) {
                                fs_name = file_systems[i].name;
                                trouble = file_systems[i].trouble;
                        }
        snprintf(text, sizeof(text), "each commit synced (WAL, synchronous=FULL) on %s%s%s", fs_name,
                trouble ? ": " : "", trouble ? trouble : "");
        report(userdata, "durability", text, trouble ? STOKE_WARNING : STOKE_INFO);

        if (statvfs(store->directory, &vfs) == 0 && vfs.f_blocks > 0) {
                room = (uint64_t)vfs.f_bavail * vfs.f_frsize;
                total = (uint64_t)vfs.f_blocks * vfs.f_frsize;
                snprintf(text, sizeof(text), "%.1f GiB free of %.1f GiB", (double)room / (1u << 30),
                        (double)total / (1u << 30));
                report(userdata, "room", text,
                        room < (UINT64_C(256) << 20)                              ? STOKE_PROBLEM
                                : room < (UINT64_C(1) << 30) || room < total / 20 ? STOKE_WARNING
                                                                                  : STOKE_INFO);
        }
        if (stat(store->directory, &st) == 0 && (st.st_mode & 022)) {
                snprintf(text, sizeof(text), "the directory can be written by others (mode %03o)",
                        (unsigned)st.st_mode & 0777);
                report(userdata, "access", text, STOKE_WARNING);
        }
        return 0;
}
