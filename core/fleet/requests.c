#include "fleet/state.h"

/*
 * What the control service asks for: looked at here, answered at once where it cannot be, and handed to those who do it. Main loop only.
 */

#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "fleet/client_name.h"
#include "fleet/endpoint.h"
#include "fleet/uuid.h"

/* An answer that is known at once, given later, so that done never comes from within. */
struct prompt {
        struct loop_task task;
        fleet_done_fn done;
        fleet_check_fn checked;
        void *userdata;
        int result;
        char *reason;
};

static void on_prompt(struct loop_task *task) {
        struct prompt *p = container_of(task, struct prompt, task);

        if (p->done)
                p->done(p->userdata, p->result, p->reason);
        else
                p->checked(p->userdata, p->result, p->reason, NULL, 0);
        free(p->reason);
        free(p);
}

static void refuse(struct fleet *fleet, fleet_done_fn done, fleet_check_fn checked, void *userdata, int result,
        const char *format, ...) printf_like(6, 7);
static void refuse(struct fleet *fleet, fleet_done_fn done, fleet_check_fn checked, void *userdata, int result,
        const char *format, ...) {
        struct prompt *p = new0(struct prompt);
        va_list ap;

        p->task.run = on_prompt;
        p->done = done;
        p->checked = checked;
        p->userdata = userdata;
        p->result = result;
        va_start(ap, format);
        if (vasprintf(&p->reason, format, ap) < 0)
                check(false);
        va_end(ap);
        loop_defer(fleet->loop, &p->task);
}

void fleet_refuse(struct fleet *fleet, fleet_done_fn done, void *userdata, int result, const char *format, ...) {
        cleanup(freep) char *text = NULL;
        va_list ap;

        va_start(ap, format);
        check(vasprintf(&text, format, ap) >= 0);
        va_end(ap);
        refuse(fleet, done, NULL, userdata, result, "%s", text);
}

static bool refuse_unless_running(struct fleet *fleet, fleet_done_fn done, void *userdata) {
        if (fleet_is_running(fleet) && !fleet->unfit)
                return false;
        if (fleet->unfit)
                refuse(fleet, done, NULL, userdata, -EBUSY, "%s", fleet->unfit);
        else
                refuse(fleet, done, NULL, userdata, -EAGAIN,
                        fleet->stage == FLEET_OPENING ? "the registry is not open yet: %s"
                                                      : "the daemon is being stopped%s",
                        fleet->stage != FLEET_OPENING    ? ""
                                : fleet->registry_reason ? fleet->registry_reason
                                                         : "it is being opened");
        return true;
}

struct assignment *fleet_assign(struct fleet *fleet, const char *name, const char *datastore, uint64_t quota_bytes,
        bool retain, const char *source, bool from_file) {
        struct registry_record *record = new0(struct registry_record);
        struct fleet_store *store = fleet_find_store(fleet, datastore);
        struct assignment *a = assignment_new(fleet, name);

        record->name = strdup(name);
        record->datastore = strdup(datastore);
        record->source = strdup(source);
        record->host = strdup("");
        record->host_name = strdup("");
        check(record->name && record->datastore && record->source && record->host && record->host_name);
        uuid_make(record->incarnation);
        memcpy(record->cluster, record->incarnation, 16);
        record->phase = REGISTRY_PROVISIONING;
        record->quota_bytes = quota_bytes;
        record->retain = retain;
        record->from_file = from_file;
        record->created = time(NULL);
        a->next = record;
        if (store && store->ds && !store_is_shared(store))
                assignment_claim_host(a, record);
        assignment_update_manner(a);
        endpoint_changed(fleet);
        fleet_settle(fleet);
        return a;
}

/* Who has a name already, under the authorities of the settings; NULL: nobody. */
static const char *client_name_owner(struct fleet *fleet, const char *name) {
        const struct definitions *set = fleet->definitions;
        struct assignment *a;

        for (size_t i = 0; i < set->n_tenants; i++) {
                const struct tenant_definition *t = set->tenants[i];

                for (size_t j = 0; j < t->n_client_names && !t->client_ca.present; j++)
                        if (strcmp(t->client_names[j].name, name) == 0)
                                return t->base.name;
        }
        LIST_FOREACH(a, &fleet->assignments, entry) {
                const struct registry_record *record = assignment_record(a);

                for (size_t j = 0; record && !a->gone && j < record->n_client_names; j++)
                        if (strcmp(record->client_names[j], name) == 0)
                                return a->name;
        }
        return NULL;
}

struct name_list {
        char **names;
        size_t n_names;
};

static void name_list_done(struct name_list *list) {
        for (size_t i = 0; i < list->n_names; i++)
                free(list->names[i]);
        free(list->names);
}

/* As they are to be recorded. -EINVAL or -EEXIST with the reason. */
static int take_client_names(
        struct fleet *fleet, const struct fleet_create *create, struct name_list *list, struct error *reterr) {
        if (create->n_client_names > CLIENT_NAMES_MAX)
                return error_set(reterr, -EINVAL, "more than %d client names", CLIENT_NAMES_MAX);
        list->names = xcalloc(create->n_client_names, sizeof(*list->names));
        for (size_t i = 0; i < create->n_client_names; i++) {
                const char *owner;
                int r;

                r = client_name_parse(create->client_names[i], &list->names[list->n_names], reterr);
                if (r < 0)
                        return r;
                list->n_names++;
                owner = client_name_owner(fleet, list->names[i]);
                if (owner)
                        return error_set(
                                reterr, -EEXIST, "client name %s is tenant %s's already", list->names[i], owner);
                for (size_t j = 0; j < i; j++)
                        if (strcmp(list->names[i], list->names[j]) == 0)
                                return error_set(reterr, -EINVAL, "client name %s is there twice", list->names[i]);
        }
        return 0;
}

struct fleet_store *fleet_place_tenant(
        struct fleet *fleet, const struct fleet_create *create, fleet_done_fn done, void *userdata) {
        const char *datastore = create->datastore;
        struct fleet_store *store;
        struct assignment *a;

        if (refuse_unless_running(fleet, done, userdata))
                return NULL;
        if (!tenant_name_is_valid(create->name)) {
                refuse(fleet, done, NULL, userdata, -EINVAL,
                        "\"%.80s\" is no name for a tenant: 1 to 63 of a-z, 0-9 and \"-\", neither beginning nor ending with \"-\"",
                        create->name);
                return NULL;
        }
        if (registry_keeps_name(create->name)) {
                refuse(fleet, done, NULL, userdata, -EINVAL, "\"%s\" is the daemon's own keyspace", create->name);
                return NULL;
        }
        if (create->quota_bytes > INT64_MAX) {
                refuse(fleet, done, NULL, userdata, -EINVAL, "quota is too large");
                return NULL;
        }
        a = fleet_find_assignment(fleet, create->name);
        if (a) {
                refuse(fleet, done, NULL, userdata, -EEXIST, "tenant %s exists already, on datastore %s", a->name,
                        assignment_record(a) ? assignment_record(a)->datastore : "?");
                return NULL;
        }
        if (!datastore || !datastore[0])
                datastore = fleet->definitions->default_datastore->base.name;
        store = fleet_find_store(fleet, datastore);
        if (!store || !store->wanted) {
                refuse(fleet, done, NULL, userdata, -ENOENT, "no such datastore: %.253s", datastore);
                return NULL;
        }
        if (!store->ds && !store->leaving) {
                refuse(fleet, done, NULL, userdata, -EBUSY, "datastore %s is not ready: %s", datastore,
                        store->validation.message);
                return NULL;
        }
        if (store->governance.state == GOVERNANCE_FOREIGN) {
                refuse(fleet, done, NULL, userdata, -EBUSY, "datastore %s: %s", datastore, governance_refusal(store));
                return NULL;
        }
        if (store_refusal(store)) {
                refuse(fleet, done, NULL, userdata, -EBUSY,
                        "datastore %s is refused, %s; allowUnsafe in its definition would accept it", datastore,
                        store_refusal(store));
                return NULL;
        }
        return store;
}

struct assignment *fleet_assign_installing(
        struct fleet *fleet, const struct fleet_create *create, const struct fleet_store *store) {
        struct assignment *a =
                fleet_assign(fleet, create->name, store->name, create->quota_bytes, create->retain, "stokectl", false);

        a->next->phase = REGISTRY_INSTALLING;
        uuid_make(a->next->installation);
        memcpy(a->next->installer, fleet->config.daemon, 16);
        return a;
}

void fleet_create_tenant(struct fleet *fleet, const struct fleet_create *create, fleet_done_fn done, void *userdata) {
        struct fleet_store *store = fleet_place_tenant(fleet, create, done, userdata);
        cleanup(name_list_done) struct name_list client_names = {};
        cleanup(error_done) struct error err = {};
        struct assignment *a;
        int r;

        if (!store)
                return;
        r = take_client_names(fleet, create, &client_names, &err);
        if (r < 0) {
                refuse(fleet, done, NULL, userdata, r, "%s", error_text(&err));
                return;
        }
        a = fleet_assign(fleet, create->name, store->name, create->quota_bytes, create->retain, "stokectl", false);
        a->next->n_client_names = client_names.n_names;
        client_names.n_names = 0;
        a->next->client_names = steal(client_names.names);
        assignment_wait(a, create->wait ? WAIT_SERVED : WAIT_RECORDED, done, userdata);
        assignment_step(a);
}

struct assignment *fleet_find_tenant_for(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        struct assignment *a;

        if (refuse_unless_running(fleet, done, userdata))
                return NULL;
        a = fleet_find_assignment(fleet, name);
        if (a && !a->gone && assignment_record(a))
                return a;
        refuse(fleet, done, NULL, userdata, -ENOENT, "no such tenant: %.80s", name);
        return NULL;
}

void fleet_delete_tenant(struct fleet *fleet, const char *name, bool keep_data, fleet_done_fn done, void *userdata) {
        const struct registry_record *record;
        struct assignment *a;

        a = fleet_find_tenant_for(fleet, name, done, userdata);
        if (!a)
                return;
        record = assignment_record(a);
        if (fleet_is_declared(fleet, name)) {
                refuse(fleet, done, NULL, userdata, -EBUSY, "tenant %s is declared in %s: remove it there", name,
                        record->source);
                return;
        }
        a->want_retain = keep_data || (a->want_delete ? a->want_retain : record->retain);
        a->want_delete = true;
        assignment_wait(a, WAIT_GONE, done, userdata);
        assignment_hurry(a);
}

void fleet_recover_tenant(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        const struct registry_record *record;
        struct assignment *a;

        a = fleet_find_tenant_for(fleet, name, done, userdata);
        if (!a)
                return;
        record = assignment_record(a);
        if (record->phase != REGISTRY_RECOVERING && a->figures.condition != KEYSPACE_HISTORY_LOST) {
                refuse(fleet, done, NULL, userdata, -EBUSY, "tenant %s has not lost its history", name);
                return;
        }
        a->want_recover = record->phase != REGISTRY_RECOVERING;
        assignment_wait(a, WAIT_SERVED, done, userdata);
        assignment_hurry(a);
}

void fleet_resume_tenant(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        struct assignment *a;

        a = fleet_find_tenant_for(fleet, name, done, userdata);
        if (!a)
                return;
        if (!quarantine_reason(fleet->quarantine, name)) {
                refuse(fleet, done, NULL, userdata, -EBUSY, "tenant %s is not quarantined", name);
                return;
        }
        quarantine_forget(fleet->quarantine, name);
        assignment_update_manner(a);
        assignment_wait(a, WAIT_SERVED, done, userdata);
        assignment_hurry(a);
}

void fleet_check_datastore(struct fleet *fleet, const char *name, fleet_check_fn done, void *userdata) {
        struct fleet_store *store = fleet_find_store(fleet, name);

        if (!store)
                refuse(fleet, NULL, done, userdata, -ENOENT, "no such datastore: %.253s", name);
        else if (!store->ds || store->leaving || fleet->stage >= FLEET_STOPPING)
                refuse(fleet, NULL, done, userdata, -EAGAIN, "%s",
                        store->ds ? "it is being closed" : store->validation.message);
        else
                store_check(store, done, userdata);
}

void fleet_claim_datastore(struct fleet *fleet, const char *name, fleet_done_fn done, void *userdata) {
        struct fleet_store *store = fleet_find_store(fleet, name);

        if (!store) {
                refuse(fleet, done, NULL, userdata, -ENOENT, "no such datastore: %.253s", name);
                return;
        }
        if (fleet->stage >= FLEET_STOPPING || !store->ds || store->leaving) {
                refuse(fleet, done, NULL, userdata, -EAGAIN, "datastore %s is not open: %s", name,
                        store->validation.message);
                return;
        }
        if (!store_is_shared(store)) {
                refuse(fleet, done, NULL, userdata, -EINVAL, "datastore %s serves one daemon alone, and needs no claim",
                        name);
                return;
        }
        if (fleet_is_running(fleet)) {
                governance_claim(store, done, userdata);
                return;
        }
        if (store != fleet->registry_store || !fleet->registry_is_foreign ||
                !fleet_registry_wait(fleet, done, userdata)) {
                refuse_unless_running(fleet, done, userdata);
                return;
        }
        /* The registry's own: the next opening does it. */
        fleet->claim_registry = true;
        fleet_registry_hurry(fleet);
}

void fleet_recover_registry(struct fleet *fleet, fleet_done_fn done, void *userdata) {
        if (fleet->stage != FLEET_OPENING || !fleet->registry_is_lost) {
                refuse(fleet, done, NULL, userdata, -EBUSY, "the registry has not lost its history");
                return;
        }
        if (!fleet_registry_wait(fleet, done, userdata)) {
                refuse(fleet, done, NULL, userdata, -EBUSY, "it is under way already");
                return;
        }
        known_logs_forget(fleet->known, REGISTRY_KEYSPACE);
        fleet_registry_hurry(fleet);
}
