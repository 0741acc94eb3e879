#include "control/files.h"

/*
 * BackupTenant: the fleet makes the file on a thread of its own; its bytes come here through a queue, which keeps that thread waiting while the client is
 * slow. What is queued, and what the call itself holds, are a few messages.
 *
 * The backup and the call end apart: whichever is last frees what they share.
 */

#include <errno.h>
#include <pthread.h>
#include <stokehold/control.pb-c.h>
#include <string.h>
#include <sys/queue.h>

#include "control/answer.h"
#include "control/audit.h"
#include "control/method.h"
#include "rpc/protobuf.h"
#include "fleet/backup.h"
#include "fleet/uuid.h"

#define MESSAGE_BYTES ((size_t)128 * 1024)
#define QUEUE_BYTES ((size_t)512 * 1024)
#define CALL_BYTES ((size_t)256 * 1024) /* the server's low mark */

/* While the tenant is read nothing of it is deleted: a client that takes nothing for so long does not keep it from that. */
#define STALL_NS (120 * NSEC_PER_SEC)
#define STALL_LOOK_NS (10 * NSEC_PER_SEC)

struct chunk {
        struct blob *message; /* owned */
        STAILQ_ENTRY(chunk) entry;
};

struct sending {
        struct grpc_call *call; /* borrowed; NULL: it has ended */
        struct backup *backup;  /* borrowed; NULL: done */
        struct loop *loop;
        struct audit_change *change; /* owned, until it has ended */
        char *name;                  /* owned */
        int result;
        char *reason; /* owned */
        struct loop_task task;
        struct loop_timer timer;
        uint64_t taken_ns; /* the client has taken something, or nothing was there to take */

        pthread_mutex_t mutex;
        pthread_cond_t room;
        STAILQ_HEAD(, chunk) chunks;
        size_t queued;
        bool posted, cancelled;
};

static void sending_unref(struct sending *s) {
        struct chunk *chunk;

        if (s->call || s->backup || s->posted)
                return;
        loop_timer_clear(&s->timer);
        while ((chunk = STAILQ_FIRST(&s->chunks))) {
                STAILQ_REMOVE_HEAD(&s->chunks, entry);
                blob_unref(chunk->message);
                free(chunk);
        }
        pthread_mutex_destroy(&s->mutex);
        pthread_cond_destroy(&s->room);
        audit_change_free(s->change);
        free(s->name);
        free(s->reason);
        free(s);
}

/* ---- on the backup's thread */

/* BackupTenantResponse.data */
static struct chunk *pack(struct bytes data) {
        struct chunk *chunk = new0(struct chunk);

        chunk->message = blob_new(protobuf_field_bytes_size(data.size));
        if (!chunk->message) {
                free(chunk);
                return NULL;
        }
        (void)protobuf_put_field_bytes(chunk->message->data, 2, data);
        return chunk;
}

static int on_write(void *userdata, struct bytes data, struct error *reterr) {
        struct sending *s = userdata;
        int r = 0;

        while (data.size && r == 0) {
                size_t n = min_of(data.size, MESSAGE_BYTES);
                struct chunk *chunk = pack(bytes_of(data.data, n));

                if (!chunk)
                        return error_set(reterr, -ENOMEM, "no memory");
                pthread_mutex_lock(&s->mutex);
                STAILQ_INSERT_TAIL(&s->chunks, chunk, entry);
                s->queued += chunk->message->size;
                if (!s->posted) {
                        s->posted = true;
                        loop_post(s->loop, &s->task);
                }
                while (s->queued > QUEUE_BYTES && !s->cancelled)
                        pthread_cond_wait(&s->room, &s->mutex);
                if (s->cancelled)
                        r = error_set(reterr, -ECANCELED, "the client has gone");
                pthread_mutex_unlock(&s->mutex);
                data = bytes_of(data.data + n, data.size - n);
        }
        return r;
}

/* Any thread. */
static void on_cancel(void *userdata) {
        struct sending *s = userdata;

        pthread_mutex_lock(&s->mutex);
        s->cancelled = true;
        pthread_cond_signal(&s->room);
        pthread_mutex_unlock(&s->mutex);
}

/* ---- on the loop */

static struct chunk *take(struct sending *s) {
        struct chunk *chunk;

        pthread_mutex_lock(&s->mutex);
        chunk = STAILQ_FIRST(&s->chunks);
        if (chunk) {
                STAILQ_REMOVE_HEAD(&s->chunks, entry);
                s->queued -= chunk->message->size;
                pthread_cond_signal(&s->room);
        }
        pthread_mutex_unlock(&s->mutex);
        return chunk;
}

static void send_some(struct sending *s) {
        struct chunk *chunk;

        while (s->call && grpc_call_pending(s->call) < CALL_BYTES) {
                s->taken_ns = clock_now_ns();
                chunk = take(s);
                if (!chunk) {
                        if (!s->backup)
                                grpc_call_finish(s->call, s->result < 0 ? method_code(s->result) : GRPC_OK, s->reason);
                        return;
                }
                grpc_call_send(s->call, &chunk->message, 1);
                free(chunk);
        }
}

static void on_look(struct loop_timer *timer) {
        struct sending *s = container_of(timer, struct sending, timer);

        if (!s->call)
                return;
        if (grpc_call_pending(s->call) < CALL_BYTES)
                s->taken_ns = clock_now_ns();
        if (clock_now_ns() < s->taken_ns + STALL_NS) {
                loop_timer_set(s->loop, timer, clock_now_ns() + STALL_LOOK_NS);
                return;
        }
        grpc_call_finish(s->call, GRPC_ABORTED, "the client took nothing for two minutes");
        files_backup_cancel(s->call);
}

static void on_posted(struct loop_task *task) {
        struct sending *s = container_of(task, struct sending, task);

        pthread_mutex_lock(&s->mutex);
        s->posted = false;
        pthread_mutex_unlock(&s->mutex);
        send_some(s);
        sending_unref(s);
}

static void on_begun(void *userdata, const struct archive_about *about, uint64_t bytes) {
        Stokehold__Control__V1__BackupTenantResponse response = STOKEHOLD__CONTROL__V1__BACKUP_TENANT_RESPONSE__INIT;
        Stokehold__Control__V1__Backup message = STOKEHOLD__CONTROL__V1__BACKUP__INIT;
        struct sending *s = userdata;
        char incarnation[UUID_TEXT_SIZE];
        struct blob *packed;

        if (!s->call)
                return;
        uuid_print(about->incarnation, incarnation);
        message.tenant = (char *)about->tenant;
        message.incarnation = incarnation;
        message.revision = about->revision;
        message.compacted = about->compacted;
        message.created = answer_time(grpc_call_arena(s->call), about->created);
        message.version = (char *)about->version;
        message.driver = (char *)about->driver;
        message.bytes = bytes;
        response.about = &message;
        packed = protobuf_pack(&response.base);
        if (packed)
                grpc_call_send(s->call, &packed, 1);
}

static void on_done(void *userdata, int result, const char *reason, const struct archive_about *about,
        const struct archive_figures *figures) {
        struct sending *s = userdata;

        if (result >= 0)
                audit_reword(s->change, "back up tenant \"%.63s\" at revision %lld, %llu records", s->name,
                        (long long)about->revision, (unsigned long long)figures->n_records);
        audit_end(steal(s->change), result < 0 ? method_code(result) : GRPC_OK, reason);
        s->result = result;
        s->reason = strdup(reason);
        s->backup = NULL;
        send_some(s);
        sending_unref(s);
}

/* ---- the call: its memory has the pointer */

static struct sending **of(struct grpc_call *call) {
        return grpc_call_user(call);
}

void files_backup_tenant(struct grpc_call *call, struct bytes data) {
        Stokehold__Control__V1__BackupTenantRequest *request;
        struct backup_config config = {
                .write = on_write,
                .cancel = on_cancel,
                .on_begun = on_begun,
                .done = on_done,
        };
        struct sending *s;

        request = method_enter(call, data, &stokehold__control__v1__backup_tenant_request__descriptor, PEER_CHANGE);
        if (!request)
                return;
        s = new0(struct sending);
        *of(call) = s;
        s->call = call;
        s->loop = grpc_call_loop(call);
        s->name = strdup(request->name);
        check(s->name);
        s->change = audit_begin(call, request->name, NULL, "back up tenant \"%.63s\"", request->name);
        s->task.run = on_posted;
        pthread_mutex_init(&s->mutex, NULL);
        pthread_cond_init(&s->room, NULL);
        STAILQ_INIT(&s->chunks);
        config.name = request->name;
        config.userdata = s;
        s->taken_ns = clock_now_ns();
        s->timer.on_time = on_look;
        loop_timer_set(s->loop, &s->timer, s->taken_ns + STALL_LOOK_NS);
        s->backup = fleet_backup_tenant(method_fleet(call), &config);
}

void files_backup_cancel(struct grpc_call *call) {
        struct sending *s = *of(call);

        if (!s)
                return;
        *of(call) = NULL;
        s->call = NULL;
        if (s->backup)
                backup_cancel(s->backup);
        else
                sending_unref(s);
}

void files_backup_drained(struct grpc_call *call) {
        struct sending *s = *of(call);

        if (s && s->call)
                send_some(s);
}

void files_backup_free(struct grpc_call *call) {
        struct sending *s = *of(call);

        if (!s)
                return;
        s->call = NULL;
        sending_unref(s);
}
