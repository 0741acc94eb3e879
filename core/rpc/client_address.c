#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "rpc/client_call.h"

/* Where a client connects to: a Unix path, or a host and a port. A pure function, any thread. */

static int of_path(const char *path, struct client_place *ret, struct error *reterr) {
        struct sockaddr_un *sun = (struct sockaddr_un *)&ret->address;
        size_t n = strlen(path);

        if (n >= sizeof(sun->sun_path))
                return error_set(reterr, -ENAMETOOLONG, "%s: the path has %zu bytes, a socket's may have %zu", path, n,
                        sizeof(sun->sun_path) - 1);
        sun->sun_family = AF_UNIX;
        memcpy(sun->sun_path, path, n + 1);
        ret->size = sizeof(*sun);
        return 0;
}

static void of_numbers(const char *host, uint16_t port, struct client_place *ret) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ret->address;
        struct sockaddr_in *in = (struct sockaddr_in *)&ret->address;

        if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
                in->sin_family = AF_INET;
                in->sin_port = htons(port);
                ret->size = sizeof(*in);
        } else if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
                in6->sin6_family = AF_INET6;
                in6->sin6_port = htons(port);
                ret->size = sizeof(*in6);
        }
}

int client_address(
        const char *address, struct client_place *ret_place, char **ret_host, char **ret_port, struct error *reterr) {
        const char *text, *colon;
        unsigned long port;
        size_t size;
        char *end;

        *ret_place = (struct client_place){};
        *ret_host = *ret_port = NULL;
        if (strncmp(address, "unix:", 5) == 0) {
                *ret_host = strdup("");
                return *ret_host ? of_path(address + 5, ret_place, reterr) : -ENOMEM;
        }
        if (strncmp(address, "tcp:", 4) != 0 && strncmp(address, "tls:", 4) != 0)
                return error_set(
                        reterr, -EINVAL, "%s: neither unix:/path nor tcp:HOST:PORT nor tls:HOST:PORT", address);
        text = address + 4;
        colon = strrchr(text, ':');
        size = colon ? (size_t)(colon - text) : 0;
        port = colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &end, 10) : 0;
        if (!size || !port || port > 65535 || *end)
                return error_set(reterr, -EINVAL, "%s: not HOST:PORT", address);
        if (text[0] == '[' && size > 2 && text[size - 1] == ']') {
                text++;
                size -= 2;
        }
        *ret_host = strndup(text, size);
        *ret_port = strdup(colon + 1);
        if (!*ret_host || !*ret_port)
                return -ENOMEM;
        of_numbers(*ret_host, (uint16_t)port, ret_place);
        return 0;
}
