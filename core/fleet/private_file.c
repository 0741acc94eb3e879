#include "fleet/private_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include "fleet/definition_file.h"

/* Looked at by its name, then read by it: whoever can exchange the file in between can write into its directory, and needs no key from us. */
int private_file_read(const char *path, struct buf *ret, struct error *reterr) {
        struct stat st;

        if (stat(path, &st) == 0) {
                if (st.st_uid != 0 && st.st_uid != geteuid())
                        return error_set(reterr, -EPERM, "belongs to user %ld, who is neither root nor the daemon",
                                (long)st.st_uid);
                if (st.st_mode & (st.st_uid == 0 ? 0037 : 0077))
                        return error_set(reterr, -EPERM,
                                "may be read or written by others (mode %04o): a private key must be 0600, or 0640 where it is root's",
                                (unsigned)st.st_mode & 07777);
        }
        return text_file_read(path, ret, reterr);
}
