#pragma once

/* A line on a terminal that tells how far something has come; nothing where stderr is none. The only thread. */

#include "base/macro.h"

struct progress {
        const char *what; /* borrowed */
        uint64_t began_ns, shown_ns;
        bool terminal;
};

void progress_begin(struct progress *p, const char *what);
/* all: about; 0: not known. A few times a second at most. */
void progress_show(struct progress *p, uint64_t bytes, uint64_t all);
/* The line goes. */
void progress_end(struct progress *p);
