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

static bool socket_pending(const struct transport *t) {
        (void)t;
        return false;
}

static void socket_free(struct transport *t) {
        close(t->fd);
        free(t);
}

static const struct transport_ops socket_ops = {
        .read = socket_read,
        .write = socket_write,
        .end = socket_end,
        .pending = socket_pending,
        .free = socket_free,
};

struct transport *transport_new_socket(int fd) {
        struct transport *t = malloc(sizeof(*t));

        if (t)
                *t = (struct transport){.ops = &socket_ops, .fd = fd};
        else
                close(fd);
        return t;
}
