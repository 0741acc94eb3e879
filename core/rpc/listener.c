#include "rpc/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

/* A listener is its owner's; it runs on the loop's thread and knows nothing of what is spoken on its connections. */

#define ACCEPTS_PER_WAKE 64
#define PAUSE_NS (100 * NSEC_PER_MSEC)

struct listener {
        struct loop *loop; /* borrowed */
        struct loop_io io;
        struct loop_timer pause; /* no descriptors left: asked again after a while */
        int fd;                  /* owned */
        char *address;           /* owned */
        char *path;              /* owned; NULL: no socket file of ours */
        dev_t path_dev;
        ino_t path_ino;
        void (*on_accept)(void *userdata, int fd);
        void *userdata;
        bool warned;
        bool *freed; /* borrowed from on_io's stack: on_accept may free the listener */
};

void listener_free(struct listener *l) {
        struct stat st;

        if (!l)
                return;
        if (l->freed)
                *l->freed = true;
        loop_timer_clear(&l->pause);
        loop_io_stop(&l->io);
        if (l->path && lstat(l->path, &st) == 0 && st.st_dev == l->path_dev && st.st_ino == l->path_ino)
                (void)unlink(l->path);
        if (l->fd >= 0)
                close(l->fd);
        free(l->path);
        free(l->address);
        free(l);
}

const char *listener_address(const struct listener *l) {
        return l->address;
}

int listener_fd(const struct listener *l) {
        return l->fd;
}

static void on_pause_over(struct loop_timer *timer) {
        struct listener *l = container_of(timer, struct listener, pause);

        (void)loop_io_modify(&l->io, EPOLLIN);
}

static void on_connections(struct loop_io *io, uint32_t events) {
        struct listener *l = container_of(io, struct listener, io);
        bool freed = false;

        (void)events;
        l->freed = &freed;
        for (unsigned i = 0; i < ACCEPTS_PER_WAKE; i++) {
                int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

                if (fd < 0) {
                        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                                /* The connection stays in the queue, so the descriptor stays ready: look away for a while. */
                                if (!l->warned)
                                        log_warning("%s: cannot accept connections: %s", l->address, strerror(errno));
                                l->warned = true;
                                (void)loop_io_modify(&l->io, 0);
                                loop_timer_set(l->loop, &l->pause, loop_now_ns(l->loop) + PAUSE_NS);
                                break;
                        }
                        if (errno == EAGAIN)
                                break;
                        continue; /* the connection's own trouble, ECONNABORTED and its like */
                }
                l->warned = false;
                l->on_accept(l->userdata, fd);
                if (freed)
                        return;
        }
        l->freed = NULL;
}

static int listener_start(struct listener *l, struct loop *loop, void (*on_accept)(void *, int), void *userdata) {
        l->loop = loop;
        l->on_accept = on_accept;
        l->userdata = userdata;
        l->io.on_io = on_connections;
        l->pause.on_time = on_pause_over;
        return loop_io_start(loop, &l->io, l->fd, EPOLLIN);
}

/* Is anybody listening there? Removes the file if nobody is. */
static int remove_stale(const char *path, const struct sockaddr_un *sun, struct error *reterr) {
        struct stat st;
        int fd, r;

        if (lstat(path, &st) < 0)
                return errno == ENOENT ? 0 : error_set(reterr, -errno, "%s: %s", path, strerror(errno));
        if (!S_ISSOCK(st.st_mode))
                return error_set(reterr, -EEXIST, "%s: exists and is not a socket", path);

        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return error_set(reterr, -errno, "socket: %s", strerror(errno));
        r = connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0 ? -errno : 0;
        close(fd);
        /* EAGAIN: its queue is full, so there is one. */
        if (r != -ECONNREFUSED && r != -ENOENT)
                return error_set(reterr, -EADDRINUSE, "%s: another process listens there", path);
        if (unlink(path) < 0 && errno != ENOENT)
                return error_set(reterr, -errno, "%s: cannot remove the stale socket: %s", path, strerror(errno));
        return 0;
}

static int open_unix(struct listener *l, const char *path, mode_t mode, struct error *reterr) {
        struct sockaddr_un sun = {.sun_family = AF_UNIX};
        struct stat st;
        size_t size = strlen(path);
        int r;

        if (path[0] != '/')
                return error_set(reterr, -EINVAL, "%s: the path of a socket must be absolute", path);
        if (size >= sizeof(sun.sun_path))
                return error_set(reterr, -ENAMETOOLONG, "%s: the path has %zu bytes, a socket's may have %zu", path,
                        size, sizeof(sun.sun_path) - 1);
        memcpy(sun.sun_path, path, size + 1);

        l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (l->fd < 0)
                return error_set(reterr, -errno, "socket: %s", strerror(errno));
        r = remove_stale(path, &sun, reterr);
        if (r < 0)
                return r;
        /* The file gets its mode from that of the socket (and the umask), so it is never wider than wanted. */
        if (fchmod(l->fd, mode) < 0)
                return error_set(reterr, -errno, "%s: %s", path, strerror(errno));
        if (bind(l->fd, (const struct sockaddr *)&sun, sizeof(sun)) < 0)
                return error_set(reterr, -errno, "%s: %s", path, strerror(errno));
        l->path = strdup(path);
        if (!l->path) {
                (void)unlink(path);
                return -ENOMEM;
        }
        if (lstat(path, &st) < 0)
                return error_set(reterr, -errno, "%s: %s", path, strerror(errno));
        l->path_dev = st.st_dev;
        l->path_ino = st.st_ino;
        if (chmod(path, mode) < 0)
                return error_set(reterr, -errno, "%s: %s", path, strerror(errno));
        if (listen(l->fd, SOMAXCONN) < 0)
                return error_set(reterr, -errno, "%s: %s", path, strerror(errno));
        return 0;
}

/* "127.0.0.1:2379" or "[::1]:2379" */
static int parse_tcp(
        const char *text, bool anywhere, struct sockaddr_storage *ret, socklen_t *ret_size, struct error *reterr) {
        const char *colon = strrchr(text, ':');
        cleanup(freep) char *host = NULL;
        unsigned long port;
        size_t size;
        char *end;

        if (!colon || colon == text || colon[1] < '0' || colon[1] > '9')
                return error_set(reterr, -EINVAL, "tcp:%s: not HOST:PORT", text);
        errno = 0;
        port = strtoul(colon + 1, &end, 10);
        if (*end || errno || port > 65535)
                return error_set(reterr, -EINVAL, "tcp:%s: no such port", text);

        size = (size_t)(colon - text);
        if (text[0] == '[' && size > 2 && text[size - 1] == ']') {
                struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;

                host = strndup(text + 1, size - 2);
                if (!host)
                        return -ENOMEM;
                *in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
                if (inet_pton(AF_INET6, host, &in6->sin6_addr) != 1)
                        return error_set(reterr, -EINVAL, "tcp:%s: not a numeric address", text);
                if (!anywhere && !IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr))
                        return error_set(reterr, -EPERM, "tcp:%s: without TLS only on loopback", text);
                *ret_size = sizeof(*in6);
        } else {
                struct sockaddr_in *in = (struct sockaddr_in *)ret;

                host = strndup(text, size);
                if (!host)
                        return -ENOMEM;
                *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
                if (inet_pton(AF_INET, host, &in->sin_addr) != 1)
                        return error_set(reterr, -EINVAL, "tcp:%s: not a numeric address", text);
                if (!anywhere && ntohl(in->sin_addr.s_addr) >> 24 != 127)
                        return error_set(reterr, -EPERM, "tcp:%s: without TLS only on loopback", text);
                *ret_size = sizeof(*in);
        }
        return 0;
}

/* The address that the socket really has. */
static int name_address(struct listener *l, struct error *reterr) {
        struct sockaddr_storage ss = {};
        socklen_t size = sizeof(ss);
        char host[INET6_ADDRSTRLEN];
        int r;

        if (getsockname(l->fd, (struct sockaddr *)&ss, &size) < 0)
                return error_set(reterr, -errno, "getsockname: %s", strerror(errno));

        if (ss.ss_family == AF_UNIX) {
                const struct sockaddr_un *sun = (const struct sockaddr_un *)&ss;

                r = asprintf(&l->address, "unix:%.*s", (int)sizeof(sun->sun_path), sun->sun_path);
        } else if (ss.ss_family == AF_INET) {
                const struct sockaddr_in *in = (const struct sockaddr_in *)&ss;

                r = asprintf(&l->address, "tcp:%s:%u", inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host)),
                        ntohs(in->sin_port));
        } else if (ss.ss_family == AF_INET6) {
                const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&ss;

                r = asprintf(&l->address, "tcp:[%s]:%u", inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host)),
                        ntohs(in6->sin6_port));
        } else
                return error_set(reterr, -EAFNOSUPPORT, "not a Unix or TCP socket");
        if (r < 0) {
                l->address = NULL;
                return -ENOMEM;
        }
        return 0;
}

static int open_tcp(struct listener *l, const char *text, bool anywhere, struct error *reterr) {
        struct sockaddr_storage ss = {};
        socklen_t size = 0;
        int r, one = 1;

        r = parse_tcp(text, anywhere, &ss, &size, reterr);
        if (r < 0)
                return r;
        l->fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (l->fd < 0)
                return error_set(reterr, -errno, "socket: %s", strerror(errno));
        (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (bind(l->fd, (const struct sockaddr *)&ss, size) < 0)
                return error_set(reterr, -errno, "tcp:%s: %s", text, strerror(errno));
        if (listen(l->fd, SOMAXCONN) < 0)
                return error_set(reterr, -errno, "tcp:%s: %s", text, strerror(errno));
        return 0;
}

int listener_new(struct loop *loop, const char *address, mode_t mode, void (*on_accept)(void *userdata, int fd),
        void *userdata, struct listener **ret, struct error *reterr) {
        cleanup(listener_freep) struct listener *l = NULL;
        int r;

        l = new0(struct listener);
        l->fd = -EBADF;
        if (strncmp(address, "unix:", 5) == 0)
                r = open_unix(l, address + 5, mode, reterr);
        else if (strncmp(address, "tcp:", 4) == 0)
                r = open_tcp(l, address + 4, false, reterr);
        else if (strncmp(address, "tls:", 4) == 0)
                r = open_tcp(l, address + 4, true, reterr);
        else
                r = error_set(reterr, -EINVAL, "%s: neither unix:/path nor tcp:HOST:PORT", address);
        if (r < 0)
                return r;

        r = name_address(l, reterr);
        if (r < 0)
                return r;
        if (strncmp(address, "tls:", 4) == 0)
                memcpy(l->address, "tls:", 4); /* over "tcp:" */
        r = listener_start(l, loop, on_accept, userdata);
        if (r < 0)
                return error_set(reterr, r, "%s: %s", address, strerror(-r));
        *ret = steal(l);
        return 0;
}

static int make_nonblocking(int fd) {
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
                return -errno;
        return 0;
}

int listener_new_from_fd(struct loop *loop, int fd, void (*on_accept)(void *userdata, int fd), void *userdata,
        struct listener **ret, struct error *reterr) {
        cleanup(listener_freep) struct listener *l = NULL;
        int r, listens = 0;
        socklen_t size = sizeof(listens);

        l = new0(struct listener);
        l->fd = -EBADF;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0)
                return error_set(reterr, -errno, "descriptor %d: %s", fd, strerror(errno));
        if (!listens)
                return error_set(reterr, -EINVAL, "descriptor %d: a socket that does not listen", fd);
        l->fd = fd;
        r = name_address(l, reterr);
        if (r >= 0)
                r = make_nonblocking(fd);
        if (r >= 0)
                r = listener_start(l, loop, on_accept, userdata);
        if (r < 0) {
                l->fd = -EBADF; /* not taken over */
                return error_set(reterr, r, "descriptor %d: %s", fd, strerror(-r));
        }
        *ret = steal(l);
        return 0;
}
