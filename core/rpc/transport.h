#pragma once

/*
 * Where a connection's bytes go to and come from: two functions over a descriptor. Plain sockets are here; TLS is a
 * transport of its own which embeds this struct. One loop's thread.
 */

#include <sys/types.h>
#include <sys/uio.h>

#include "base/macro.h"

struct transport;

struct transport_ops {
        /* Bytes read, 0 at the end of the stream, or a negative errno (-EAGAIN: nothing now). */
        ssize_t (*read)(struct transport *t, void *data, size_t size);
        /* Bytes taken (maybe fewer than given), or a negative errno (-EAGAIN: not now). */
        ssize_t (*write)(struct transport *t, const struct iovec *iov, size_t n_iov);
        /* Tells the peer that no more will come. */
        void (*end)(struct transport *t);
        /* Closes the descriptor and drops what belongs to the transport, not the struct itself. */
        void (*close)(struct transport *t);
};

struct transport {
        const struct transport_ops *ops;
        int fd; /* owned; -EBADF: none */
};

/* fd: a connected non-blocking socket, taken over. */
void transport_init_socket(struct transport *t, int fd);
static inline ssize_t transport_read(struct transport *t, void *data, size_t size) {
        return t->ops->read(t, data, size);
}
static inline ssize_t transport_write(struct transport *t, const struct iovec *iov, size_t n_iov) {
        return t->ops->write(t, iov, n_iov);
}
static inline void transport_end(struct transport *t) {
        t->ops->end(t);
}
static inline void transport_close(struct transport *t) {
        if (t->fd >= 0)
                t->ops->close(t);
        t->fd = -1;
}
