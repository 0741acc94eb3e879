#include "rpc/client_call.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

/* Where a client connects to: a Unix path, or a numeric TCP address. A pure function, any thread. */

int client_address(const char *address, struct sockaddr_storage *ret, socklen_t *ret_size, struct error *reterr) {
        if (strncmp(address, "unix:", 5) == 0) {
                struct sockaddr_un *sun = (struct sockaddr_un *)ret;
                size_t n = strlen(address + 5);

                if (n >= sizeof(sun->sun_path))
                        return error_set(reterr, -ENAMETOOLONG, "%s: the path has %zu bytes, a socket's may have %zu",
                                address + 5, n, sizeof(sun->sun_path) - 1);
                sun->sun_family = AF_UNIX;
                memcpy(sun->sun_path, address + 5, n + 1);
                *ret_size = sizeof(*sun);
                return 0;
        }
        if (strncmp(address, "tcp:", 4) == 0) {
                const char *text = address + 4, *colon = strrchr(text, ':');
                cleanup(freep) char *host = NULL;
                struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
                struct sockaddr_in *in = (struct sockaddr_in *)ret;
                unsigned long port;
                char *end;

                if (colon && colon[1] >= '0' && colon[1] <= '9') {
                        port = strtoul(colon + 1, &end, 10);
                        host = text[0] == '[' && colon > text + 1 && colon[-1] == ']'
                                ? strndup(text + 1, (size_t)(colon - text) - 2)
                                : strndup(text, (size_t)(colon - text));
                        if (!host)
                                return -ENOMEM;
                        if (!*end && port && port <= 65535 && inet_pton(AF_INET, host, &in->sin_addr) == 1) {
                                in->sin_family = AF_INET;
                                in->sin_port = htons((uint16_t)port);
                                *ret_size = sizeof(*in);
                                return 0;
                        }
                        if (!*end && port && port <= 65535 && inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
                                in6->sin6_family = AF_INET6;
                                in6->sin6_port = htons((uint16_t)port);
                                *ret_size = sizeof(*in6);
                                return 0;
                        }
                }
        }
        return error_set(reterr, -EINVAL, "%s: neither unix:/path nor tcp:ADDRESS:PORT", address);
}
