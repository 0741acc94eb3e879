#pragma once

/*
 * The registry's own structure: shared by registry.c (finding and opening), registry_follow.c (listing and watching) and registry_write.c, and
 * by nobody else.
 */

#include "fleet/governor.h"
#include "fleet/registry.h"
#include "fleet/registry_file.h"
#include "fleet/uuid.h"

#define REGISTRY_TENANTS "/tenants/"
#define REGISTRY_OPEN_TIMEOUT_NS (30 * NSEC_PER_SEC)

struct registry {
        struct loop *loop; /* borrowed */
        char *state_dir;   /* owned */
        uint8_t daemon[16];
        struct format_range formats;
        struct registry_file file; /* datastore NULL: none yet */
        char id[UUID_TEXT_SIZE];
        uint32_t format; /* in use */

        struct value_cache *cache; /* owned */
        struct keyspace *keyspace; /* owned, NULL before it was found */
        struct datastore *ds;      /* borrowed while open or opening */

        struct registry_open opening; /* done NULL: not opening */
        struct datastore_job job;
        struct stoke_keyspace job_keyspace;
        bool job_running;
        struct governor governor;
        /* What the job found. */
        unsigned n_listed;
        uint8_t listed[16];

        struct arena arena;
        struct txn_call meta;
        struct txn meta_txn;
        struct compare meta_compare;
        struct txn_op meta_puts[2], meta_gets[2];
        char *meta_json, *meta_format; /* owned */

        /* Following. */
        struct registry_listener listener;
        struct range_call range;
        bool listing;
        struct watcher *watcher; /* owned; NULL: not yet, or it is being listed anew */
        struct loop_timer relist;
        struct loop_task reopen; /* the keyspace was lost: another one is made of it */
        int64_t revision;

        void (*closed)(void *userdata);
        void *closed_userdata;
        bool closing, closing_lost;
};

/* registry_find.c: finds or makes the keyspace, then opens it. */
void registry_find(struct registry *r);
/* registry_follow.c: lists, then watches. Ends an opening that is under way. */
void registry_follow(struct registry *r);
void registry_unfollow(struct registry *r);
/* registry.c */
void registry_open_keyspace(struct registry *r);
void registry_close_keyspace(struct registry *r);
void registry_open_end(struct registry *r, int result, const char *reason);
void registry_open_end_keyspace(struct registry *r, enum keyspace_result result);
const char *registry_result_text(enum keyspace_result result);
int registry_result_errno(enum keyspace_result result);
/* 0: no number. */
uint32_t registry_format_parse(struct bytes text);
