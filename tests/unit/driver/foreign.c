/* SPDX-License-Identifier: Apache-2.0 */
/* A shared object that is no driver; loading it at all would be a mistake, and leaves a trace. */
#include <stdlib.h>

__attribute__((__visibility__("default"))) int foreign_answer(void);
int foreign_answer(void) {
        return 42;
}
__attribute__((__constructor__)) static void on_load(void) {
        setenv("FOREIGN_WAS_LOADED", "yes", 1);
}
