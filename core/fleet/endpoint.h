#pragma once

/*
 * The port that all tenants share: clients come in by TLS, and their certificates lead to their tenants. Only inside fleet/, on the main
 * thread; all is harmless where the settings have no such port.
 */

#include "fleet/state.h"

struct endpoint;

/* listen_fd: a socket that listens already (socket activation), taken over; < 0: none, the address of the settings. */
struct endpoint *endpoint_new(struct fleet *fleet, int listen_fd);
/* After endpoint_stop(), or before anything was served. Takes NULL. */
void endpoint_free(struct endpoint *e);
/* What decides who may come in has changed (settings, definitions, records): looked at in this iteration. */
void endpoint_changed(struct fleet *fleet);
/* A tenant has come to rest: whoever waits for it, and what it tells its clients, goes on. */
void endpoint_settle(struct fleet *fleet);
/* Listens no more; who waits is let go. */
void endpoint_stop(struct fleet *fleet);
/* A line for whatever is wrong. */
void endpoint_problems(struct fleet *fleet, void (*visit)(void *userdata, const char *line), void *userdata);
/* What the tenant's clients dial: "https://HOST:PORT"; none: no name leads to it. */
const char *const *endpoint_urls(const struct assignment *a, size_t *ret_n);
/* For --check, of what the settings and definitions refer to: prints what cannot be used, a line each; false: something. The definitions' secrets are
 * those of the source. */
bool endpoint_check(
        const struct settings *settings, struct secret_source *secrets, const struct definitions *set, FILE *out);
/* "0.0.0.0:2379" as bound; NULL: not listening. */
const char *endpoint_address(const struct fleet *fleet);
