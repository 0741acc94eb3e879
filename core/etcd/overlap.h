#pragma once

/*
 * No key may be put twice by one transaction, nor put and deleted, as far as etcd sees it: told by overlap_check() before the
 * transaction is evaluated. The branches of one nested transaction exclude each other and may put the same key.
 */

#include "etcd/status.h"

/* Checks one branch with all that is nested in it. ETCD_OK, ETCD_DUPLICATE_KEY, ETCD_NO_MEMORY. */
enum etcd_status overlap_check(const struct txn_op *ops, size_t n_ops);
