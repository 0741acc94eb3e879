#include "fleet/host.h"

/*
 * Kept with the state, not taken from the system: a state directory that moves to another machine takes its datastores along, and two
 * machines made from one image do not share it.
 */

#include <string.h>
#include <unistd.h>

#include "fleet/state_file.h"

#define FILE_NAME "host-id"

void host_done(struct host *host) {
        free(host->name);
        *host = (struct host){};
}

int host_read(const char *state_dir, struct host *ret, struct error *reterr) {
        cleanup(freep) char *text = NULL, *line = NULL;
        struct host host = {};
        uint8_t id[16];
        char name[256];
        int r;

        r = state_file_read(state_dir, FILE_NAME, 4096, &text, reterr);
        if (r < 0 && r != -ENOENT)
                return r;
        if (r == -ENOENT) {
                uuid_make(id);
                uuid_print(id, host.id);
                if (asprintf(&line, "%s\n", host.id) < 0)
                        return -ENOMEM;
                r = state_file_write(state_dir, FILE_NAME, line, reterr);
                if (r < 0)
                        return r;
        } else {
                text[strcspn(text, "\n")] = '\0';
                if (uuid_parse(text, id) < 0)
                        return error_set(reterr, -EBADMSG, "%s/" FILE_NAME ": is no UUID", state_dir);
                uuid_print(id, host.id);
        }
        if (gethostname(name, sizeof(name)) < 0)
                strcpy(name, "localhost");
        name[sizeof(name) - 1] = '\0';
        host.name = strdup(name);
        if (!host.name)
                return -ENOMEM;

        *ret = host;
        return 0;
}
