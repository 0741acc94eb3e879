#pragma once

/*
 * What is pasted where a client of a tenant is set up: the flags of kube-apiserver, kubeadm's configuration, a command line of k3s, the
 * environment of etcdctl. Pure functions, stokectl's only thread.
 */

#include "base/buf.h"
#include "base/error.h"

enum paste_client { PASTE_KUBE_APISERVER, PASTE_KUBEADM, PASTE_K3S, PASTE_ETCDCTL };
/* "kube-apiserver", "kubeadm", "k3s", "etcdctl". -EINVAL. */
int paste_client_parse(const char *name, enum paste_client *ret);
const char *paste_client_name(enum paste_client client);

/* All borrowed. */
struct paste {
        const char *const *endpoints; /* "https://HOST:PORT"; without TLS "http://HOST:PORT" or "unix:///PATH" */
        size_t n_endpoints;
        const char *authority, *certificate, *key; /* paths; NULL: without TLS */
};

/* Where the files of a client are kept by convention, if nobody says otherwise: in *ret, whose strings are static. */
void paste_conventional_paths(enum paste_client client, struct paste *ret);
/* Whether the client can speak to such an endpoint at all: kubeadm and k3s know no Unix sockets. */
bool paste_client_takes(enum paste_client client, const char *endpoint);
/* Appended, ends with a newline. Paths of any kind are quoted as the place wants them. */
int paste_print(enum paste_client client, const struct paste *paste, struct buf *ret);

/* "https://HOST:PORT", with a host that one can dial. -EINVAL with the reason. */
int paste_check_endpoint(const char *endpoint, struct error *reterr);
