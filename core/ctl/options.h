#pragma once

/* The options of stokectl: what there are, how they are read, and what --help says of them. The only thread. */

#include "ctl/ctl.h"

struct ctl_given {
        ctl_options options; /* those that only some commands take */
        bool help, version;
};
/* Fills ctl; argv is sorted, words first from optind on. CTL_OK, or what was reported. */
int ctl_options_parse(int argc, char **argv, struct ctl *ctl, struct ctl_given *ret);
/* What the parsing has allocated. */
void ctl_options_done(struct ctl *ctl);
/* A line or more for each option of the set, and those that every command takes. */
void ctl_options_print(ctl_options options);
/* "--name" of the first of the set; it must not be empty. */
const char *ctl_options_name(ctl_options options);
