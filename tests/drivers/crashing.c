/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SQLite driver with a fault on demand, under its name, so that a daemon that finds this plugin in its place dies for real, in the
 * driver's code on a worker's thread. Where the environment has STOKEHOLD_TEST_CRASH=DIRECTORY, a file NAME.load or NAME.append there makes
 * the next such call for the keyspace NAME crash; one that begins with "wait" makes the call wait for as long as it is there.
 */

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <stokehold/driver.h>

/* The driver itself, whose one symbol meson.build gives this name. */
extern const struct stoke_driver wrapped_driver;

STOKE_EXPORT extern struct stoke_driver stoke_driver;
struct stoke_driver stoke_driver;

static void fault(const struct stoke_keyspace *keyspace, const char *function) {
        const char *directory = getenv("STOKEHOLD_TEST_CRASH");
        char path[512], word[8] = "";
        FILE *f;

        if (!directory)
                return;
        (void)snprintf(path, sizeof(path), "%s/%s.%s", directory, keyspace->name, function);
        f = fopen(path, "re");
        if (!f)
                return;
        if (fread(word, 1, 4, f) != 4)
                word[0] = '\0';
        fclose(f);
        while (word[0] == 'w' && access(path, F_OK) == 0)
                usleep(1000);
        if (word[0] != 'w')
                abort();
}

static int load(struct stoke_session *session, const struct stoke_keyspace *keyspace, const struct stoke_end *after,
        bool with_values, struct stoke_call *call, int (*visit)(void *userdata, const struct stoke_record *record),
        void *userdata, struct stoke_end *ret) {
        fault(keyspace, "load");
        return wrapped_driver.load(session, keyspace, after, with_values, call, visit, userdata, ret);
}

static int append(struct stoke_session *session, const struct stoke_keyspace *keyspace, struct stoke_append *what,
        struct stoke_call *call) {
        fault(keyspace, "append");
        return wrapped_driver.append(session, keyspace, what, call);
}

__attribute__((__constructor__)) static void wrap(void) {
        stoke_driver = wrapped_driver;
        stoke_driver.load = load;
        stoke_driver.append = append;
}
