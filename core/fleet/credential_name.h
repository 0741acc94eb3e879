#pragma once

/*
 * The name by which a certificate that this daemon's authority issued leads to its tenant: a URI among the subject's alternative names,
 *
 *     stokehold:tenant:NAME:CREATED        stokehold:tenant:berlin:20260801T120000Z
 *
 * CREATED is when the tenant was (registry_record.created), so that a tenant which is deleted and made anew under the same name, maybe for somebody
 * else, is not reached with its predecessor's certificates. A migration keeps it, and all daemons of a registry see the same. Any thread.
 */

#include <stdint.h>

#define CREDENTIAL_SCHEME "stokehold:tenant:"

/* The URI, without the "URI:" that stands before it in a rule; owned by the caller. -EINVAL: created is no time. */
int credential_name(const char *tenant, int64_t created, char **ret);
