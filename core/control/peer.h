#pragma once

/*
 * Who may do what through the control socket, by the kernel's word about the peer (SO_PEERCRED, SO_PEERGROUPS). Main thread.
 */

#include <sys/types.h>

#include "rpc/grpc.h"

#define PEER_GROUP_ADMIN "stokehold-admin"
#define PEER_GROUP_VIEW "stokehold-view"

enum peer_right {
        PEER_NOTHING,
        PEER_VIEW,
        PEER_CHANGE,
};

struct peer_rules {
        bool own; /* --root: the daemon's own user may change things, and groups count for nothing */
        uid_t own_uid;
        bool has_admin, has_view; /* the group exists */
        gid_t admin, view;
};

/* own: as with --root. Otherwise looks the two groups up, which may block for as long as the system's user database does: at start and at
 * reload only. A group that does not exist has no members. */
void peer_rules_load(struct peer_rules *rules, bool own);
enum peer_right peer_right(const struct peer_rules *rules, const struct grpc_peer *peer);
