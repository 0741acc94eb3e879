#include "rpc/server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "rpc/tls.h"

/*
 * Who is at the other end of a connection: on a Unix socket what the kernel says of the process that connected, on TCP an
 * address, and with TLS what its certificate says. Asked once, when the connection comes, on the server's loop.
 */

int connection_identify(struct connection *c) {
        const struct tls_peer *certified = tls_transport_peer(c->transport);
        int fd = c->transport->fd;
        struct sockaddr_storage ss = {};
        socklen_t size = sizeof(ss);
        char host[INET6_ADDRSTRLEN] = "?";
        int r, one = 1;

        if (getsockname(fd, (struct sockaddr *)&ss, &size) < 0)
                return -errno;
        if (ss.ss_family == AF_UNIX) {
                struct ucred ucred = {};
                socklen_t n = sizeof(ucred), n_groups = 0;

                if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &ucred, &n) < 0)
                        return -errno;
                c->peer.local = true;
                c->peer.uid = ucred.uid;
                c->peer.gid = ucred.gid;
                c->peer.pid = ucred.pid;
                if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &n_groups) < 0 && errno == ERANGE && n_groups) {
                        c->groups = malloc(n_groups);
                        if (!c->groups)
                                return -ENOMEM;
                        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, c->groups, &n_groups) < 0)
                                n_groups = 0;
                }
                c->peer.groups = c->groups;
                c->peer.n_groups = c->groups ? n_groups / sizeof(uint32_t) : 0;
                r = asprintf(&c->peer_name, "pid %d uid %u", (int)ucred.pid, ucred.uid);
        } else {
                (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
                c->peer.tls = certified;
                size = sizeof(ss);
                if (getpeername(fd, (struct sockaddr *)&ss, &size) < 0)
                        return -errno;
                if (ss.ss_family == AF_INET6) {
                        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&ss;

                        (void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
                        r = asprintf(&c->peer_name, "[%s]:%u%s%s", host, ntohs(in6->sin6_port), certified ? " " : "",
                                certified ? certified->name : "");
                } else {
                        const struct sockaddr_in *in = (const struct sockaddr_in *)&ss;

                        (void)inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
                        r = asprintf(&c->peer_name, "%s:%u%s%s", host, ntohs(in->sin_port), certified ? " " : "",
                                certified ? certified->name : "");
                }
        }
        if (r < 0) {
                c->peer_name = NULL;
                return -ENOMEM;
        }
        c->peer.name = c->peer_name;
        return 0;
}
