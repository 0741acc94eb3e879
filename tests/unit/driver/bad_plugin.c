/* SPDX-License-Identifier: Apache-2.0 */
/* Plugins that the loader must refuse: which one, says VARIANT. */
#include <stokehold/driver.h>

#define VARIANT_MAGIC 1
#define VARIANT_MAJOR 2
#define VARIANT_SIZE 3
#define VARIANT_NAME 4
#define VARIANT_FUNCTIONS 5

STOKE_EXPORT extern const struct stoke_driver stoke_driver;
const struct stoke_driver stoke_driver = {
        .magic = VARIANT == VARIANT_MAGIC ? 1 : STOKE_DRIVER_MAGIC,
        .abi_major = VARIANT == VARIANT_MAJOR ? STOKE_ABI_MAJOR + 1 : STOKE_ABI_MAJOR,
        .abi_minor = STOKE_ABI_MINOR,
        .size = VARIANT == VARIANT_SIZE ? 64 : sizeof(struct stoke_driver),
        .name = VARIANT == VARIANT_NAME ? "bad name" : "Bad",
        .version = "1",
        .limits = {1, 1, 1},
};
