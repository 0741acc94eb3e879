#pragma once

/* The inside of an etcd client, shared by etcd_client.c and etcd_watch.c, and by nobody else. */

#include "fleet/etcd_client.h"
#include "rpc/client.h"

struct etcd_client {
        struct loop *loop;             /* borrowed */
        struct tls_client *tls;        /* ref; NULL: none */
        const atomic_bool *stopped;    /* borrowed; may be NULL */
        char **endpoints, **addresses; /* owned: as given, and as core/rpc has them */
        size_t n_endpoints, at;        /* the one in use */
        bool answered;                 /* once, so that it is an etcd that we may talk to */
        uint64_t patience_ns;
        size_t page;             /* keys asked for at once, by the size of the last page */
        struct grpc_client *rpc; /* owned; NULL: to be dialled */
};

static inline bool etcd_client_is_stopped(const struct etcd_client *c) {
        return c->stopped && atomic_load(c->stopped);
}
/* The connection; made if there is none. */
int etcd_client_dial(struct etcd_client *c, struct error *reterr);
/* It does not answer: the next call dials the next endpoint. */
void etcd_client_drop(struct etcd_client *c);
/* Lets time go by, on the loop; false: stopped meanwhile. */
bool etcd_client_sleep(struct etcd_client *c, uint64_t ns);
