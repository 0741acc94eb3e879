/*
 * Holds and seals. A keyspace is held while its log may go on elsewhere: somebody who moves it asked for that, or its log is sealed, or it is
 * on its way. Calls that change it, and reads that must be of now, wait on the lists where they always wait, which are not looked at.
 *
 * A seal is a record. Nothing but an unseal is appended behind one, and it is only appended to a log that is not sealed; so whoever appends has
 * read it before, and holds. An unseal names the migration that it makes void, and is appended even where no seal is seen: it makes one that is
 * still under way stale, and once it was read that migration can never seal again. The keyspace's loop only.
 */

#include "base/log.h"
#include "keyspace/commit.h"

/* ---- what the log says */

static const struct ended_migration *find_ended(const struct keyspace *ks, const uint8_t id[16]) {
        for (size_t i = 0; i < ks->moving.n_ended; i++)
                if (memcmp(ks->moving.ended[i].id, id, 16) == 0)
                        return &ks->moving.ended[i];
        return NULL;
}

static void remember_ended(struct keyspace *ks, const struct stoke_record *r) {
        struct moving *m = &ks->moving;
        struct ended_migration *e;

        if (find_ended(ks, r->key))
                return;
        m->ended = realloc(m->ended, (m->n_ended + 1) * sizeof(*m->ended));
        check(m->ended);
        e = &m->ended[m->n_ended++];
        *e = (struct ended_migration){.end = {r->seq, r->origin}, .revision = r->revision};
        memcpy(e->id, r->key, sizeof(e->id));
}

void seal_apply(struct keyspace *ks, const struct stoke_record *r) {
        struct moving *m = &ks->moving;

        if (r->kind == RECORD_INSTALLED) {
                m->sealed = false;
                compaction_on_installed(ks);
                return;
        }
        if (r->key_size != sizeof(m->seal_id))
                return;
        if (r->kind == RECORD_SEAL) {
                if (m->sealed)
                        return; /* nobody does that */
                m->sealed = true;
                m->told = false;
                memcpy(m->seal_id, r->key, sizeof(m->seal_id));
                m->seal_end = (struct stoke_end){r->seq, r->origin};
                m->seal_revision = r->revision;
        } else {
                remember_ended(ks, r);
                if (m->sealed && memcmp(m->seal_id, r->key, sizeof(m->seal_id)) == 0)
                        m->sealed = false;
        }
}

void moving_forget(struct keyspace *ks) {
        struct moving *m = &ks->moving;

        m->sealed = m->told = false;
        free(steal(m->ended));
        m->n_ended = 0;
        free(steal(m->pins));
        m->n_pins = 0;
        loop_timer_clear(&m->pins_timer);
}

/* ---- holding */

static bool is_sealing(const struct call_list *list, const uint8_t id[16]) {
        for (struct keyspace_call *call = list->first; call; call = call->own.next) {
                const struct seal_call *c = container_of(call, struct seal_call, call);

                if (!call->own.internal && c->own.seals && memcmp(c->id, id, 16) == 0)
                        return true;
        }
        return false;
}

/* Somebody here is about to be told by keyspace_seal(). */
static bool is_own(const struct keyspace *ks) {
        const struct moving *m = &ks->moving;

        if (is_sealing(&m->calls, m->seal_id))
                return true;
        for (size_t i = 0; ks->batch && ks->batch->moves && i < ks->batch->n_calls; i++) {
                const struct keyspace_call *call = ks->batch->calls[i];
                const struct seal_call *c = call ? container_of(call, struct seal_call, call) : NULL;

                if (c && !call->own.internal && c->own.seals && memcmp(c->id, m->seal_id, 16) == 0)
                        return true;
        }
        return false;
}

static void on_told(struct loop_task *task) {
        struct keyspace *ks = container_of(task, struct keyspace, moving.told_task);
        struct moving *m = &ks->moving;

        if (!m->sealed || m->told || !ks->open || ks->closing || is_own(ks))
                return;
        m->told = true;
        log_notice("%s: its log is sealed at record %llu, revision %lld: it is held until it is known where it goes on",
                ks->name, (unsigned long long)m->seal_end.seq, (long long)m->seal_revision);
        if (ks->config.on_sealed)
                ks->config.on_sealed(ks->config.userdata, m->seal_id);
}

void hold_update(struct keyspace *ks) {
        struct moving *m = &ks->moving;
        bool held = keyspace_is_held(ks);
        uint64_t now = clock_now_ns();

        if (m->sealed && !m->told)
                loop_defer(ks->loop, &m->told_task);
        if (!m->sealed)
                call_list_join(&m->calls, &m->later);
        if (held && !m->held_ns) {
                m->held_ns = now;
                keyspace_stalled(ks);
        } else if (!held && m->held_ns) {
                leases_shift(ks, now - m->held_ns);
                m->held_ns = 0;
                barrier_go_on(ks);
                leases_kick(ks);
                compaction_kick(ks);
        }
        commit_kick(ks);
}

void keyspace_hold(struct keyspace *ks) {
        ks->moving.n_holds++;
        hold_update(ks);
}

void keyspace_release_hold(struct keyspace *ks) {
        check(ks->moving.n_holds > 0);
        ks->moving.n_holds--;
        hold_update(ks);
}

/* ---- calls */

void moving_queue(struct keyspace *ks, struct keyspace_call *call,
        int (*evaluate)(struct keyspace_call *call, struct batch *batch)) {
        bool open;

        call->own.moves = true;
        open = keyspace_enter(ks, call, NULL);
        call->own.evaluate = evaluate;
        if (!open)
                return;
        call_list_add(&ks->moving.calls, call);
        commit_kick(ks);
        keyspace_stalled(ks);
}

/* Of the record that was added last. */
static void answer(struct seal_call *c, const struct batch *b) {
        const struct stoke_record *r = &b->records[b->n_records - 1];

        c->end = (struct stoke_end){r->seq, r->origin};
        c->revision = r->revision;
}

static int evaluate_seal(struct keyspace_call *call, struct batch *b) {
        struct seal_call *c = container_of(call, struct seal_call, call);
        const struct moving *m = &b->ks->moving;
        const char *target = c->target ? c->target : "";

        call->revision = b->revision;
        call->own.result = KEYSPACE_OK;
        if (m->sealed) {
                c->outcome = memcmp(m->seal_id, c->id, sizeof(c->id)) == 0 ? SEAL_STANDS : SEAL_OTHER;
                c->end = m->seal_end;
                c->revision = m->seal_revision;
        } else if (find_ended(b->ks, c->id)) {
                c->outcome = SEAL_VOID;
        } else {
                c->outcome = SEAL_STANDS;
                batch_add(b, RECORD_SEAL, b->revision, bytes_of(c->id, sizeof(c->id)),
                        blob_copy(target, strlen(target)), 0, 0, 0);
                answer(c, b);
        }
        return EVALUATED;
}

static int evaluate_unseal(struct keyspace_call *call, struct batch *b) {
        struct seal_call *c = container_of(call, struct seal_call, call);
        const struct ended_migration *ended = find_ended(b->ks, c->id);

        call->revision = b->revision;
        call->own.result = KEYSPACE_OK;
        c->outcome = SEAL_UNSEALED;
        if (ended) {
                c->end = ended->end;
                c->revision = ended->revision;
        } else {
                batch_add(b, RECORD_UNSEAL, b->revision, bytes_of(c->id, sizeof(c->id)), NULL, 0, 0, 0);
                answer(c, b);
        }
        return EVALUATED;
}

static void on_done(struct keyspace_call *call, enum keyspace_result result) {
        struct seal_call *c = container_of(call, struct seal_call, call);
        struct keyspace *ks = c->own.keyspace;
        struct moving *m = &ks->moving;

        /* A seal that nobody was told of is told by on_sealed. */
        if (c->own.seals && m->sealed && memcmp(m->seal_id, c->id, sizeof(c->id)) == 0) {
                if (result == KEYSPACE_OK)
                        m->told = true;
                else if (!ks->closing)
                        loop_defer(ks->loop, &m->told_task);
        }
        call->done = c->own.done;
        call->done(call, result);
}

static void queue(struct keyspace *ks, struct seal_call *c, bool seals,
        int (*evaluate)(struct keyspace_call *call, struct batch *batch)) {
        c->own.keyspace = ks;
        c->own.seals = seals;
        c->own.done = c->call.done;
        c->call.done = on_done;
        moving_queue(ks, &c->call, evaluate);
}

void keyspace_seal(struct keyspace *ks, struct seal_call *c) {
        queue(ks, c, true, evaluate_seal);
}

void keyspace_unseal(struct keyspace *ks, struct seal_call *c) {
        queue(ks, c, false, evaluate_unseal);
}

void moving_init(struct keyspace *ks) {
        struct moving *m = &ks->moving;

        TAILQ_INIT(&m->own);
        m->told_task.run = on_told;
        switch_init(ks);
}

void moving_done(struct keyspace *ks) {
        if (ks->loop)
                loop_undefer(ks->loop, &ks->moving.told_task);
        switch_done(ks);
        moving_forget(ks);
}
