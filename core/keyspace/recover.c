/*
 * When a log is not the one that was known. What was known before a keyspace is opened (the daemon keeps it between its lives) is held against
 * what is loaded; and an operator may have the log taken as it is all the same: then it is continued at a revision that nobody
 * can have been served, and everything below counts as compacted, so that no client takes what it remembers for what is there.
 *
 * The continuation is one append of two records: a mark, and RECOVERED, which carries the recovery's id, so that it is made once whoever tries
 * and however often. The keyspace's loop only.
 */

#include "base/log.h"
#include "keyspace/commit.h"

/* Revisions left out, for what a daemon that nobody could ask may have served. */
#define RECOVERY_GAP INT64_C(1000000)

char *recover_contradiction(const struct keyspace *ks, bool met, bool met_other) {
        const struct keyspace_known *known = &ks->config.known;
        bool kept = met || (!met_other && ks->compaction.mark > known->end.seq); /* compacted away since */
        char *text;

        if (!known->end.seq || uuid_is_set(ks->config.recovery))
                return NULL;
        if (kept && ks->end.seq >= known->end.seq && ks->revision >= known->revision)
                return NULL;
        check(asprintf(&text,
                      "the log was known to record %llu, revision %lld; now it is another one that ends at record %llu, revision %lld: "
                      "a replica that lagged was promoted, or a backup restored",
                      (unsigned long long)known->end.seq, (long long)known->revision, (unsigned long long)ks->end.seq,
                      (long long)ks->revision) > 0);
        return text;
}

static void on_end(struct datastore_question *q) {
        struct keyspace *ks = container_of(q, struct keyspace, lost_question);

        keyspace_job_ended(ks);
        ks->head = HEAD_IDLE;
        if (!ks->closing) {
                if (q->result == 0 && q->found)
                        keyspace_set_condition(ks, KEYSPACE_HISTORY_LOST,
                                "the log known to record %llu, revision %lld, is now another one that ends at record %llu: a replica that "
                                "lagged was promoted, or a backup restored",
                                (unsigned long long)ks->end.seq, (long long)ks->revision,
                                (unsigned long long)q->end.seq);
                else
                        keyspace_set_condition(ks, KEYSPACE_HISTORY_LOST,
                                "the log known to record %llu, revision %lld, is now another one: a replica that lagged was promoted, or a "
                                "backup restored",
                                (unsigned long long)ks->end.seq, (long long)ks->revision);
        }
        keyspace_check_closed(ks);
}

void recover_lose_forked(struct keyspace *ks) {
        ks->head = HEAD_LOADING; /* nothing more goes to a log that is not ours */
        ks->lost_question.keyspace = keyspace_stoke(ks);
        ks->lost_question.done = on_end;
        keyspace_ask(ks, &ks->lost_question);
}

bool recover_is_due(const struct keyspace *ks) {
        /* Behind a seal nothing is appended: it may go on elsewhere. */
        return uuid_is_set(ks->config.recovery) && !ks->moving.sealed &&
                memcmp(ks->recovered, ks->config.recovery, sizeof(ks->recovered)) != 0;
}

void recover_evaluate(struct batch *b) {
        struct keyspace *ks = b->ks;
        int64_t revision = max_of(ks->revision, ks->config.recover_above) + RECOVERY_GAP;

        log_notice("%s: its log is taken as it is, to record %llu, revision %lld, and continued at revision %lld",
                ks->name, (unsigned long long)ks->end.seq, (long long)ks->revision, (long long)revision);
        batch_add(b, RECORD_MARK, revision, (struct bytes){}, NULL, revision, 0, 0);
        /* Behind the mark, which would name it as dead otherwise. */
        batch_add(b, RECORD_RECOVERED, revision, bytes_of(ks->config.recovery, sizeof(ks->config.recovery)), NULL, 0, 0,
                0);
}

void recover_apply(struct keyspace *ks, const struct stoke_record *r) {
        if (r->key_size == sizeof(ks->recovered))
                memcpy(ks->recovered, r->key, sizeof(ks->recovered));
        compaction_add(ks, r->seq, false);
}
