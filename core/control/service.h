#pragma once

/*
 * The control service, stokehold.control.v1, on RUNTIME/control.sock. Main loop only. Checks who asks, calls the fleet, writes an audit line for
 * each change, and turns what the fleet knows into messages.
 */

#include "base/error.h"
#include "base/loop.h"
#include "fleet/fleet.h"

struct control;

struct control_config {
        struct loop *loop;   /* borrowed */
        struct fleet *fleet; /* borrowed, until control_free() */
        const char *path;    /* of the socket, borrowed until control_new() returns */
        bool own_user;       /* --root: see control/peer.h */
        const char *version; /* static */
        uint8_t daemon[16];
        /* Reads settings, plugins and definitions again; done as fleet_reload(). */
        void (*reload)(void *userdata, bool enforce, fleet_reload_fn done, void *done_userdata);
        void *userdata;
};

int control_new(const struct control_config *config, struct control **ret, struct error *reterr);
/* Looks the groups up again. */
void control_reload(struct control *control);
/* Listens no more, ends the calls that run. */
void control_close(struct control *control, uint64_t timeout_ns, void (*done)(void *userdata), void *userdata);
/* Once the fleet has stopped or answers no more: what was asked of it refers to the control. */
void control_free(struct control *control);
DEFINE_FREEP(control)
