#pragma once

/*
 * The datastore's subscriptions, private to this room: which keyspaces somebody wants to hear of, and the thread that asks the driver
 * with wait().
 */

#include "driver/datastore.h"

struct subscriptions;

struct subscriptions *subscriptions_new(const struct stoke_driver *driver, struct stoke_store *store);
/* Stops the thread; all must have unsubscribed. */
void subscriptions_free(struct subscriptions *subs);
struct datastore_subscription *subscriptions_add(struct subscriptions *subs, const char *keyspace, struct loop *loop,
        void (*on_grown)(void *userdata), void *userdata);
