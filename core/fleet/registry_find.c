#include "fleet/registry_state.h"

/*
 * Finding the registry's keyspace, and making it where it may not have been made: jobs at the datastore, one after the other.
 *
 * Where one daemon alone can have the datastore open, the keyspace is found by the file, else by what the datastore lists, else
 * it is a new one that is written down in the file first. Where several can, the governor of the datastore knows it: whoever comes first
 * writes there which one it shall be, everybody makes that one (making it twice is making it once), and it is marked as made before
 * anything is written to it, so that one that has gone is missed and not made anew. The file follows.
 */

#include <string.h>

#include "base/log.h"

static void submit(struct registry *r,
        int (*run)(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call),
        void (*done)(struct datastore_job *job), const struct stoke_keyspace *keyspace, bool own_scope) {
        r->job = (struct datastore_job){
                .class = JOB_BULK,
                .own_scope = own_scope,
                .keyspace = keyspace,
                .deadline_ns = clock_now_ns() + REGISTRY_OPEN_TIMEOUT_NS,
                .loop = r->loop,
                .run = run,
                .done = done,
        };
        r->job_running = true;
        datastore_submit(r->ds, &r->job);
}

/* The end of a job: true if that is all, because it failed (which was told) or the registry was closed meanwhile. */
static bool job_is_the_end(struct registry *r) {
        const struct datastore_job *job = &r->job;

        r->job_running = false;
        if (r->closing) {
                registry_close_keyspace(r);
                return true;
        }
        if (job->result == 0)
                return false;
        registry_open_end(r, job->result < 0 ? job->result : -EIO,
                job->reason[0]            ? job->reason
                        : job->result < 0 ? strerror(-job->result)
                                          : "an outcome that was not expected");
        return true;
}

static bool write_file(struct registry *r) {
        cleanup(error_done) struct error err = {};
        int k = registry_file_write(r->state_dir, &r->file, &err);

        if (k < 0)
                registry_open_end(r, k, error_text(&err));
        return k >= 0;
}

/* A worker's thread: only what is passed may be touched. */
static int run_create(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct registry *r = container_of(job, struct registry, job);
        struct stoke_record first;

        keyspace_first_record(r->daemon, &first);
        return datastore_driver(job->ds)->create(session, job->keyspace, &first, call);
}

static void submit_governor(struct registry *r, enum governor_deed deed, void (*done)(struct datastore_job *job));

static void on_marked(struct datastore_job *job) {
        struct registry *r = container_of(job, struct registry, job);

        if (job_is_the_end(r))
                return;
        r->file.created = true;
        if (write_file(r))
                registry_open_keyspace(r);
}

static void on_created(struct datastore_job *job) {
        struct registry *r = container_of(job, struct registry, job);

        if (job_is_the_end(r))
                return;
        if (r->governor.is_governed) {
                r->governor.wanted = r->governor.found;
                r->governor.wanted.created = true;
                submit_governor(r, GOVERNOR_CREATED, on_marked);
                return;
        }
        r->file.created = true;
        if (write_file(r))
                registry_open_keyspace(r);
        else
                r->file.created = false;
}

static void create(struct registry *r) {
        r->job_keyspace = (struct stoke_keyspace){.name = REGISTRY_KEYSPACE};
        memcpy(r->job_keyspace.incarnation, r->file.incarnation, 16);
        submit(r, run_create, on_created, &r->job_keyspace, true);
}

/* ---- one daemon alone: the file and the list */

static int on_listed(void *userdata, const struct stoke_keyspace_info *info) {
        struct registry *r = userdata;

        if (strcmp(info->name, REGISTRY_KEYSPACE) == 0 && !info->installing) {
                r->n_listed++;
                memcpy(r->listed, info->incarnation, 16);
        }
        return 0;
}

static int run_list(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct registry *r = container_of(job, struct registry, job);

        /* The registry is touched by nobody else while its opening waits for this job. */
        r->n_listed = 0;
        return datastore_driver(job->ds)->list(session, call, on_listed, r);
}

static void on_list_done(struct datastore_job *job) {
        struct registry *r = container_of(job, struct registry, job);
        char text[UUID_TEXT_SIZE];

        if (job_is_the_end(r))
                return;
        if (r->n_listed > 1) {
                registry_open_end(
                        r, -ENOTUNIQ, "registry.json is missing, and the datastore holds more than one registry");
                return;
        }

        r->file.datastore = strdup(datastore_name(r->ds));
        check(r->file.datastore);
        if (r->n_listed == 1) {
                memcpy(r->file.incarnation, r->listed, 16);
                r->file.created = true;
        } else {
                uuid_make(r->file.incarnation);
                r->file.created = false;
        }
        if (!write_file(r)) {
                registry_file_done(&r->file);
                return;
        }
        uuid_print(r->file.incarnation, text);
        if (r->n_listed == 1) {
                log_notice("registry.json was missing: adopted the registry %s that datastore %s holds", text,
                        r->file.datastore);
                registry_open_keyspace(r);
        } else {
                log_notice("making a registry in datastore %s", r->file.datastore);
                create(r);
        }
}

/* ---- several daemons: the governor */

static int run_governor(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        struct registry *r = container_of(job, struct registry, job);

        return governor_run(datastore_driver(job->ds), session, call, &r->governor);
}

static void submit_governor(struct registry *r, enum governor_deed deed, void (*done)(struct datastore_job *job)) {
        r->governor.deed = deed;
        memcpy(r->governor.daemon, r->daemon, 16);
        governor_keyspace(&r->job_keyspace);
        submit(r, run_governor, done, &r->job_keyspace, false);
}

/* Whether what the governor says is for us; otherwise the opening has ended. */
static bool may_follow_governor(struct registry *r) {
        const struct governor_record *found = &r->governor.found;
        cleanup(freep) char *text = NULL;
        char id[UUID_TEXT_SIZE];
        const char *name = datastore_name(r->ds);

        uuid_print(found->id, id);
        if (!r->file.datastore && !found->home)
                check(asprintf(&text,
                              "datastore %s is governed by registry %s, which is kept elsewhere; "
                              "stokectl datastore claim %s ends that, and makes a registry there",
                              name, id, name) > 0);
        else if (r->file.datastore && memcmp(found->incarnation, r->file.incarnation, 16) != 0)
                check(asprintf(&text,
                              "datastore %s is governed by registry %s, which is not the one that this daemon had there; "
                              "stokectl datastore claim %s ends that",
                              name, id, name) > 0);
        else
                return true;
        registry_open_end(r, -EPERM, text);
        return false;
}

static void on_governor(struct datastore_job *job) {
        struct registry *r = container_of(job, struct registry, job);
        const struct governor_record *found = &r->governor.found;
        bool had_file = r->file.datastore;
        char text[UUID_TEXT_SIZE];

        if (job_is_the_end(r) || !may_follow_governor(r))
                return;
        if (!had_file) {
                uuid_print(found->id, text);
                log_notice("%s registry %s in datastore %s", r->governor.wrote ? "making" : "joining", text,
                        datastore_name(r->ds));
                r->file.datastore = strdup(datastore_name(r->ds));
                check(r->file.datastore);
        }
        if (!had_file || !r->file.has_id || r->file.created != found->created) {
                memcpy(r->file.incarnation, found->incarnation, 16);
                memcpy(r->file.id, found->id, 16);
                r->file.has_id = true;
                r->file.created = found->created;
                if (!write_file(r)) {
                        if (!had_file)
                                registry_file_done(&r->file);
                        return;
                }
        }
        if (found->created)
                registry_open_keyspace(r);
        else
                create(r);
}

static int run_governor_create(struct datastore_job *job, struct stoke_session *session, struct stoke_call *call) {
        return governor_create(
                datastore_driver(job->ds), session, call, container_of(job, struct registry, job)->daemon);
}

static void on_governor_created(struct datastore_job *job) {
        struct registry *r = container_of(job, struct registry, job);

        if (!job_is_the_end(r))
                submit_governor(r, r->opening.claim ? GOVERNOR_CLAIM : GOVERNOR_SETTLE, on_governor);
}

static void ask_governor(struct registry *r) {
        struct governor_record *wanted = &r->governor.wanted;

        /* What this host knows of, where it knows of one. A registry that it had made is not made again, whatever has become of the governor. */
        *wanted = (struct governor_record){.home = true};
        if (r->file.datastore) {
                memcpy(wanted->incarnation, r->file.incarnation, 16);
                memcpy(wanted->id, r->file.id, 16);
                wanted->created = r->file.created;
        } else
                uuid_make(wanted->incarnation);
        if (!r->file.has_id)
                uuid_make(wanted->id);
        governor_keyspace(&r->job_keyspace);
        submit(r, run_governor_create, on_governor_created, &r->job_keyspace, true);
}

void registry_find(struct registry *r) {
        if (!(datastore_driver(r->ds)->capabilities & STOKE_EXCLUSIVE))
                ask_governor(r);
        else if (!r->file.datastore)
                submit(r, run_list, on_list_done, NULL, true);
        else if (!r->file.created)
                create(r);
        else
                registry_open_keyspace(r);
}
