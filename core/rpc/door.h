#pragma once

/*
 * Where TLS clients knock: listens on one address, does the handshakes on threads of its own, so that nobody who is served waits
 * for one, and hands over those that were let in. What is not yet let in is limited: in time, in number, and by source, and costs next to nothing
 * until it has spoken. A source is an IPv4 address or an IPv6 /64. Each refusal is counted
 * (stokehold_tls_handshakes_total{result="…"}) and logged, a few lines a reason and 10 s, with the number of those left out.
 *
 * A refusal that depends on the client's certificate is told after a fixed time, so that the time does not tell which names exist.
 */

#include "base/error.h"
#include "rpc/tls.h"

struct door;

/* Zero is the default. */
struct door_limits {
        uint64_t handshake_ns;     /* from the accepted connection to the end of its handshake; 10 s */
        uint64_t refusal_ns;       /* see above; 50 ms */
        size_t max_open;           /* connections not let in yet; beyond it the oldest goes; 8192 */
        size_t max_open_of_source; /* beyond it new ones are refused; 2048 */
        size_t max_started; /* handshakes at once: those that have sent something beyond it wait; one that hung for 1 s goes; 1024 */
        size_t max_started_of_source; /* the same; sources take turns; 256 */
};

struct door_config {
        const char *address; /* "tls:HOST:PORT", HOST numeric ("0.0.0.0", "[::]"), port 0: any free one */
        int fd; /* used instead of address if it is > 0: a TCP socket that listens already, taken over if door_new() succeeds */
        unsigned n_threads; /* 0: one, or two where there are four cores */
        struct door_limits limits;
        struct tls_server *policy; /* a reference of its own is taken; NULL: all are refused until there is one */
        /* On a thread of the door. label: until it returns (and later as tls_transport_peer()->label). The transport is taken over:
         * it goes to its thread, is compared there with the policy then in force (tls_transport_check(): that may have been replaced meanwhile) and
         * given to grpc_server_accept_transport(), or to transport_free() on any thread. May be called until door_free() returns. */
        void (*on_admitted)(void *userdata, const char *label, struct transport *transport);
        void *userdata;
};

/* Errors as listener_new(), but for any address. Starts the threads. */
int door_new(const struct door_config *config, struct door **ret, struct error *reterr);
/* Any thread. For handshakes that begin from now on; what a handshake in progress leads to is compared with it, too. Takes a reference. */
void door_set_policy(struct door *door, struct tls_server *policy);
/* "tls:HOST:PORT", as bound. */
const char *door_address(const struct door *door);
/* Handshakes not finished. Any thread. */
size_t door_n_open(const struct door *door);
/* Closes the listener and what is not let in yet, and waits for the threads. Takes NULL. Not from within on_admitted(). */
void door_free(struct door *door);
DEFINE_FREEP(door)
