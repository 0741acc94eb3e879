#include "control/peer.h"

/*
 * root may do everything, always. The rest depends on how the daemon was started. A peer that is not on a Unix socket has no credentials
 * and gets nothing.
 */

#include <grp.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static bool find_group(const char *name, gid_t *ret) {
        cleanup(freep) char *buffer = NULL;
        size_t size = 1024;

        for (;;) {
                struct group group, *found = NULL;
                char *bigger;
                int r;

                bigger = realloc(buffer, size);
                if (!bigger)
                        return false;
                buffer = bigger;
                r = getgrnam_r(name, &group, buffer, size, &found);
                if (r == ERANGE && size < (1U << 24)) {
                        size *= 2;
                        continue;
                }
                if (r != 0) {
                        log_warning("group %s cannot be looked up: %s", name, strerror(r));
                        return false;
                }
                if (!found)
                        return false;
                *ret = group.gr_gid;
                return true;
        }
}

void peer_rules_load(struct peer_rules *rules, bool own) {
        *rules = (struct peer_rules){.own = own, .own_uid = geteuid()};
        if (own)
                return;
        rules->has_admin = find_group(PEER_GROUP_ADMIN, &rules->admin);
        rules->has_view = find_group(PEER_GROUP_VIEW, &rules->view);
}

static bool is_member(const struct grpc_peer *peer, gid_t gid) {
        if (peer->gid == gid)
                return true;
        for (size_t i = 0; i < peer->n_groups; i++)
                if (peer->groups[i] == gid)
                        return true;
        return false;
}

enum peer_right peer_right(const struct peer_rules *rules, const struct grpc_peer *peer) {
        if (!peer->local)
                return PEER_NOTHING;
        if (peer->uid == 0)
                return PEER_CHANGE;
        if (rules->own)
                return peer->uid == rules->own_uid ? PEER_CHANGE : PEER_NOTHING;
        if (rules->has_admin && is_member(peer, rules->admin))
                return PEER_CHANGE;
        if (rules->has_view && is_member(peer, rules->view))
                return PEER_VIEW;
        return PEER_NOTHING;
}
