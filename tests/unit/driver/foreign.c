/* SPDX-License-Identifier: Apache-2.0 */
/* A shared object that is no driver. */
__attribute__((__visibility__("default"))) int foreign_answer(void);
int foreign_answer(void) {
        return 42;
}
