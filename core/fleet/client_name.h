#pragma once

/*
 * Names in clients' certificates, as a Tenant's clientNames and `stokectl tenant create --client-name` have them: "CN:NAME", "URI:URI",
 * "DNS:NAME"; a word without a colon is a common name. Pure functions, any thread.
 */

#include "base/error.h"

#define CLIENT_NAMES_MAX 64 /* of one tenant */

/* With what it is in front: "CN:berlin". Owned by the caller. -EINVAL with the reason. */
int client_name_parse(const char *text, char **ret, struct error *reterr);
