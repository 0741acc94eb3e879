#include "fleet/offline.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "driver/datastore.h"
#include "fleet/definition.h"
#include "fleet/registry.h"
#include "fleet/registry_copy.h"
#include "fleet/registry_file.h"
#include "fleet/secret.h"
#include "fleet/settings.h"
#include "fleet/uuid.h"
#include "keyspace/record.h"
#include "snapshot/save.h"

#define CLOSE_GRACE_NS (2 * NSEC_PER_SEC)
#define PATIENCE_NS (5 * NSEC_PER_SEC) /* for what does not answer */
#define MAX_TRIES 3                    /* while daemons compact */
#define TERM 2                         /* any will do */

struct offline {
        struct settings *settings; /* owned, as all of these */
        struct plugin_table *plugins;
        struct secret_source *secrets;
        struct definitions *definitions;
        struct loop *loop;
};

/* Where a keyspace is. */
struct place {
        char *datastore; /* owned */
        char *name;      /* owned */
        uint8_t incarnation[16];
};

static void place_done(struct place *p) {
        free(p->datastore);
        free(p->name);
}

/* ---- the settings and the definitions */

static const char *on_driver(void *userdata, const char *name, struct error *reterr) {
        const struct plugin *plugin = plugin_find(userdata, name, reterr);

        return plugin ? plugin->driver->name : NULL;
}

static void offline_done(struct offline *o) {
        definitions_free(o->definitions);
        secret_source_unref(o->secrets);
        plugin_table_free(o->plugins);
        loop_free(o->loop);
        settings_free(o->settings);
}

static int offline_init(struct offline *o, const struct offline_config *config, struct error *reterr) {
        struct settings_options options = {config->config, config->root, config->plugins};
        struct definition_problems problems = {};
        struct plugin_table_config plugins;
        struct definitions_config definitions;
        int r = settings_load(&options, &o->settings, reterr);

        if (r < 0)
                return r;
        log_set_level(LOG_LEVEL_ERROR);
        plugins = (struct plugin_table_config){
                .directory = o->settings->plugins_dir,
                .root_only = o->settings->root_only,
                .experimental = (const char *const *)o->settings->experimental,
                .n_experimental = o->settings->n_experimental,
        };
        r = plugin_table_new(&plugins, &o->plugins);
        if (r >= 0) {
                plugin_table_scan(o->plugins);
                r = secret_source_new(o->settings->secrets_dir, getenv("CREDENTIALS_DIRECTORY"), &o->secrets);
        }
        definitions = (struct definitions_config){
                .directory = o->settings->definitions_dir,
                .state_dir = o->settings->state_dir,
                .driver = on_driver,
                .userdata = o->plugins,
        };
        if (r >= 0)
                r = definitions_load(&definitions, NULL, &o->definitions, &problems);
        definition_problems_done(&problems);
        log_set_level(LOG_LEVEL_WARNING);
        if (r >= 0) {
                secret_source_set(o->secrets, o->definitions);
                r = loop_new("offline", &o->loop);
        }
        return r < 0 ? error_set(reterr, r, "%s", strerror(-r)) : 0;
}

/* ---- datastores */

struct opened {
        struct datastore *ds;
        struct datastore_secret secret;
        bool exclusive;
};

/* The daemon of this state, which holds what is exclusive, or may at any moment. */
static bool daemon_runs(const struct offline *o) {
        struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
        cleanup(freep) char *path = NULL;
        int fd, r;

        if (asprintf(&path, "%s/daemon.lock", o->settings->state_dir) < 0)
                return true;
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return errno != ENOENT;
        r = fcntl(fd, F_OFD_GETLK, &lock);
        close(fd);
        return r < 0 || lock.l_type != F_UNLCK;
}

static int open_datastore(struct offline *o, const char *name, struct opened *ret, struct error *reterr) {
        const struct datastore_definition *d = definitions_find_datastore(o->definitions, name);
        const struct plugin *plugin = d ? plugin_find(o->plugins, d->driver, reterr) : NULL;
        struct datastore_config config;

        if (!d)
                return error_set(reterr, -ENOENT, "no datastore '%s' is defined", name);
        if (!plugin)
                return -ENOENT;
        *ret = (struct opened){
                .secret = {o->secrets, d},
                .exclusive = plugin->driver->capabilities & STOKE_EXCLUSIVE,
        };
        if (ret->exclusive && daemon_runs(o))
                return error_set(reterr, -EBUSY,
                        "datastore '%s' belongs to the daemon that runs on %s: ask that one (etcdctl snapshot save), or stop it",
                        name, o->settings->state_dir);
        config = (struct datastore_config){
                .name = name,
                .plugin = plugin,
                .endpoints = (const char *const *)d->endpoints,
                .n_endpoints = d->n_endpoints,
                .settings = d->settings,
                .n_settings = d->n_settings,
                .n_sessions = 2,
                .secret = datastore_secret_visit,
                .secret_userdata = &ret->secret,
        };
        uuid_make(config.daemon);
        return datastore_open(&config, &ret->ds, reterr);
}

struct last_task {
        struct loop_task task;
        struct loop *loop;
};

static void on_last(struct loop_task *task) {
        loop_stop(container_of(task, struct last_task, task)->loop);
}

/* What its jobs have posted meanwhile is run, too. */
static void close_datastore(struct offline *o, struct opened *opened) {
        struct last_task last = {.task.run = on_last, .loop = o->loop};

        if (!opened->ds)
                return;
        datastore_close(steal(opened->ds), CLOSE_GRACE_NS);
        loop_post(o->loop, &last.task);
        (void)loop_run(o->loop);
}

/* ---- the registry */

struct lookup {
        struct offline *o;
        struct stream *stream;
        char *key;   /* owned */
        char *value; /* owned: NUL-terminated; NULL: there is none, or it is gone */
        size_t value_size;
        int result;
        struct error err;
};

static void look_at(struct lookup *l, const struct stoke_record *r) {
        bool is_put = r->kind == RECORD_PUT;

        if ((!is_put && r->kind != RECORD_TOMBSTONE) || r->key_size != strlen(l->key) ||
                memcmp(r->key, l->key, r->key_size) != 0)
                return;
        free(steal(l->value));
        if (!is_put)
                return;
        l->value = strndup(r->value, r->value_size);
        l->value_size = r->value_size;
        check(l->value);
}

static void on_records(void *userdata) {
        struct lookup *l = userdata;
        struct stream_piece *piece;
        struct stream_status status;
        int r;

        while ((r = stream_next(l->stream, &piece)) == STREAM_PIECE) {
                for (size_t i = 0; i < piece->n; i++)
                        look_at(l, &piece->records[i]);
                stream_piece_free(piece);
        }
        if (r == STREAM_WAIT)
                return;
        if (r < 0) {
                stream_get_status(l->stream, &status);
                error_set(&l->err, r, "%s", status.reason);
        }
        l->result = r < 0 ? r : 0;
        loop_stop(l->o->loop);
}

/* The tenant's record as the registry itself has it; -EAGAIN: it was compacted while it was read. */
static int ask_registry(struct offline *o, const struct registry_file *file, const char *key, char **ret_value,
        size_t *ret_size, struct error *reterr) {
        struct opened opened = {};
        struct lookup l = {.o = o};
        struct stream_config config;
        int r = open_datastore(o, file->datastore, &opened, reterr);

        if (r < 0)
                return r;
        l.key = strdup(key);
        check(l.key);
        config = (struct stream_config){
                .datastore = opened.ds,
                .name = REGISTRY_KEYSPACE,
                .loop = o->loop,
                .with_values = true,
                .acquire = opened.exclusive,
                .patience_ns = PATIENCE_NS,
                .on_ready = on_records,
                .userdata = &l,
        };
        memcpy(config.incarnation, file->incarnation, sizeof(config.incarnation));
        r = stream_new(&config, &l.stream);
        if (r >= 0) {
                r = loop_run(o->loop);
                r = r < 0 ? r : l.result;
        }
        stream_free(l.stream);
        close_datastore(o, &opened);
        if (r < 0)
                error_set(reterr, r, "the registry in datastore '%s' cannot be read: %s", file->datastore,
                        l.err.text ? l.err.text : strerror(-r));
        else {
                *ret_value = steal(l.value);
                *ret_size = l.value_size;
        }
        error_done(&l.err);
        free(l.key);
        free(l.value);
        return r;
}

static struct place place_of(const struct registry_record *record) {
        struct place place = {.datastore = strdup(record->datastore), .name = strdup(record->name)};

        check(place.datastore && place.name);
        memcpy(place.incarnation, record->incarnation, sizeof(place.incarnation));
        return place;
}

static int no_tenant(const char *tenant, struct error *reterr) {
        return error_set(reterr, -ENOENT, "the registry has no tenant '%s'", tenant);
}

/* What this host saw last, where the registry cannot be reached. */
static int ask_copy(struct offline *o, const char *tenant, struct place *ret, struct error *reterr) {
        struct format_range formats = {STOKE_FORMAT_OLDEST, STOKE_FORMAT_CURRENT};
        struct registry_copy copy = {};
        int r = registry_copy_read(o->settings->state_dir, &formats, &copy, reterr);

        if (r < 0)
                return r;
        r = -ENOENT;
        for (size_t i = 0; i < copy.n_records; i++)
                if (strcmp(copy.records[i]->name, tenant) == 0) {
                        *ret = place_of(copy.records[i]);
                        r = 0;
                }
        registry_copy_done(&copy);
        return r < 0 ? no_tenant(tenant, reterr) : 0;
}

static int find_by_registry(struct offline *o, const char *tenant, struct place *ret, struct error *reterr) {
        struct format_range formats = {STOKE_FORMAT_OLDEST, STOKE_FORMAT_CURRENT};
        cleanup(registry_record_freep) struct registry_record *record = NULL;
        cleanup(freep) char *key = NULL, *value = NULL;
        struct registry_file file = {};
        size_t size = 0;
        int r = registry_file_read(o->settings->state_dir, &file, reterr);

        if (r == -ENOENT)
                return error_set(reterr, r,
                        "%s has no registry: is it the state of a daemon? (or give --datastore and --keyspace)",
                        o->settings->state_dir);
        if (r < 0)
                return r;
        if (asprintf(&key, "/tenants/%s", tenant) < 0)
                check(false);
        r = -EAGAIN;
        for (unsigned i = 0; r == -EAGAIN && i < MAX_TRIES; i++) {
                error_done(reterr);
                *reterr = (struct error){};
                r = ask_registry(o, &file, key, &value, &size, reterr);
        }
        registry_file_done(&file);
        if (r == -EBUSY)
                return r;
        if (r < 0) {
                cleanup(error_done) struct error why = {};

                if (ask_copy(o, tenant, ret, &why) < 0)
                        return r;
                log_warning("%s: what this host knew of it last is taken", error_text(reterr));
                error_done(reterr);
                *reterr = (struct error){};
                return 0;
        }
        if (!value)
                return no_tenant(tenant, reterr);
        r = registry_record_parse(bytes_of_string(tenant), bytes_of(value, size), &formats, &record, reterr);
        if (r < 0)
                return error_prefix(reterr, "the registry's record of '%s'", tenant);
        *ret = place_of(record);
        return 0;
}

static int find_as_given(const struct offline_config *config, struct place *ret, struct error *reterr) {
        const char *slash = strchr(config->keyspace, '/');

        if (!slash || slash == config->keyspace || uuid_parse(slash + 1, ret->incarnation) < 0)
                return error_set(reterr, -EINVAL, "'%s' is no keyspace: NAME/INCARNATION", config->keyspace);
        ret->name = strndup(config->keyspace, (size_t)(slash - config->keyspace));
        ret->datastore = strdup(config->datastore);
        check(ret->name && ret->datastore);
        return 0;
}

/* ---- the snapshot */

struct saving {
        struct offline *o;
        struct snapshot_save *save; /* owned */
        int fd;
        int result;
        struct snapshot_figures *figures;
        struct error *err;
};

static int write_all(int fd, const struct blob *piece, struct error *reterr) {
        for (size_t n = 0; n < piece->size;) {
                ssize_t w = write(fd, piece->data + n, piece->size - n);

                if (w < 0 && errno == EINTR)
                        continue;
                if (w < 0)
                        return error_set(reterr, -errno, "writing: %s", strerror(errno));
                n += (size_t)w;
        }
        return 0;
}

static void on_pieces(void *userdata) {
        struct saving *s = userdata;
        struct blob *piece;
        int r;

        while ((r = snapshot_save_next(s->save, &piece)) == SAVE_PIECE) {
                s->result = write_all(s->fd, piece, s->err);
                blob_unref(piece);
                if (s->result < 0) {
                        loop_stop(s->o->loop);
                        return;
                }
        }
        if (r == SAVE_WAIT)
                return;
        if (r < 0)
                error_set(s->err, r, "%s", snapshot_save_reason(s->save));
        else
                *s->figures = *snapshot_save_figures(s->save);
        s->result = r < 0 ? r : 0;
        loop_stop(s->o->loop);
}

static int save(struct offline *o, const struct place *place, struct opened *opened, int fd,
        struct snapshot_figures *ret, struct error *reterr) {
        struct saving s = {.o = o, .fd = fd, .figures = ret, .err = reterr};
        struct snapshot_save_config config = {
                .source =
                        {
                                .datastore = opened->ds,
                                .name = place->name,
                                .loop = o->loop,
                                .acquire = opened->exclusive,
                                .patience_ns = PATIENCE_NS,
                        },
                .plan = {.member_id = hash_name(place->name, 1) | 1, .term = TERM},
                .on_ready = on_pieces,
                .userdata = &s,
        };
        int r;

        memcpy(config.source.incarnation, place->incarnation, sizeof(config.source.incarnation));
        r = snapshot_save_new(&config, &s.save);
        if (r < 0)
                return error_set(reterr, r, "no thread: %s", strerror(-r));
        r = loop_run(o->loop);
        snapshot_save_free(s.save);
        return r < 0 ? error_set(reterr, r, "%s", strerror(-r)) : s.result;
}

int offline_snapshot(const struct offline_config *config, int fd, struct snapshot_figures *ret, struct error *reterr) {
        struct opened opened = {};
        struct place place = {};
        struct offline o = {};
        int r = offline_init(&o, config, reterr);

        if (r >= 0)
                r = config->keyspace ? find_as_given(config, &place, reterr)
                                     : find_by_registry(&o, config->tenant, &place, reterr);
        if (r >= 0)
                r = open_datastore(&o, place.datastore, &opened, reterr);
        for (unsigned i = 0; r >= 0; i++) {
                r = save(&o, &place, &opened, fd, ret, reterr);
                if ((r != -EAGAIN && r != -ESTALE) || i + 1 == MAX_TRIES)
                        break;
                if (ftruncate(fd, 0) < 0 || lseek(fd, 0, SEEK_SET) < 0)
                        break;
                error_done(reterr);
                *reterr = (struct error){};
                r = 0;
        }
        close_datastore(&o, &opened);
        place_done(&place);
        offline_done(&o);
        return r;
}
