#pragma once

/*
 * The number of the format: one for all that daemons share with each other (the records of a keyspace's log, the registry and
 * the governors, the control protocol). A daemon reads and writes its own format and the one before, and what a format adds is
 * used only once the format is in use: the registry says which one is (/meta/format), and `stokectl upgrade finalize`
 * raises it, when every live daemon can.
 *
 * Who asks: the registry, when it is opened and when the number in use changes (fleet/registry.c: a daemon that cannot
 * do it does not serve); registry_record_print(), which writes a record as the format in use has it; fleet/members.c, which
 * tells the others what this daemon can do; fleet/finalize.c, which raises it. Code that came with format N looks at
 * registry_format() >= N before it writes anything that format N-1 does not have; reading needs no question.
 *
 *     1  the first
 *
 * A build may say another number (-DSTOKE_FORMAT_CURRENT=2): tests do, to have a daemon of the next version.
 */

#include "base/macro.h"

#ifndef STOKE_FORMAT_CURRENT
#define STOKE_FORMAT_CURRENT 1
#endif
#define STOKE_FORMAT_OLDEST (STOKE_FORMAT_CURRENT > 1 ? STOKE_FORMAT_CURRENT - 1 : 1)

/* What a daemon can do. Given from outside (main.c), so that one process may have several in its tests. */
struct format_range {
        uint32_t oldest, current;
};
static inline bool format_is_known(const struct format_range *range, uint32_t format) {
        return format >= range->oldest && format <= range->current;
}
