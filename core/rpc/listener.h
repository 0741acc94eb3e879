#pragma once

/*
 * Listening sockets: Unix paths, TCP on loopback, and TCP anywhere for what is to speak TLS (rpc/door.h). A listener belongs to one loop and hands each accepted descriptor
 * (non-blocking, close-on-exec) to its owner, on that loop's thread.
 */

#include <sys/types.h>

#include "base/error.h"
#include "base/loop.h"

struct listener;

/* address: "unix:/absolute/path" or "tcp:HOST:PORT" with a numeric HOST ("127.0.0.1", "[::1]"; port 0: any free one).
 * A Unix path longer than a socket may have is -ENAMETOOLONG with that reason; a socket file that nobody listens on any
 * more is replaced, one that somebody does is -EADDRINUSE. mode: of the socket file. A TCP address that is not
 * loopback is -EPERM ("without TLS only on loopback"); "tls:HOST:PORT" is the same without that. */
int listener_new(struct loop *loop, const char *address, mode_t mode, void (*on_accept)(void *userdata, int fd),
        void *userdata, struct listener **ret, struct error *reterr);
/* Takes over a socket that listens already (socket activation). Its address is "tcp:…" or "unix:…". */
int listener_new_from_fd(struct loop *loop, int fd, void (*on_accept)(void *userdata, int fd), void *userdata,
        struct listener **ret, struct error *reterr);
/* The address as bound: the port chosen for port 0 is in it. */
const char *listener_address(const struct listener *listener);
/* Borrowed. */
int listener_fd(const struct listener *listener);
/* Closes, and removes a socket file that it made (if it is still the one that it made). */
void listener_free(struct listener *listener);
DEFINE_FREEP(listener)
