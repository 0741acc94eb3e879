#include "rpc/transport.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

/* Plain sockets. */

static ssize_t socket_read(struct transport *t, void *data, size_t size) {
        ssize_t n;

        do
                n = recv(t->fd, data, size, 0);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

static ssize_t socket_write(struct transport *t, const struct iovec *iov, size_t n_iov) {
        struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n_iov};
        ssize_t n;

        do
                n = sendmsg(t->fd, &message, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

static void socket_end(struct transport *t) {
        (void)shutdown(t->fd, SHUT_WR);
}

static void socket_close(struct transport *t) {
        close(t->fd);
}

static const struct transport_ops socket_ops = {
        .read = socket_read,
        .write = socket_write,
        .end = socket_end,
        .close = socket_close,
};

void transport_init_socket(struct transport *t, int fd) {
        *t = (struct transport){.ops = &socket_ops, .fd = fd};
}
