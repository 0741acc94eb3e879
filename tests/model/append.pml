/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One keyspace, two daemons: keyspace_txn, the commit batch, append and its outcomes, the read barrier, load and apply.
 *
 * Covered: batches of one or two calls on one key (put if absent, put if unchanged, delete if unchanged), evaluated in
 * order against the index plus the batch so far; append as a compare-and-set on the end, with STOKE_STALE, with
 * STOKE_UNKNOWN that landed, that did not, and that may still land at any time; the noop that closes the question;
 * calls whose compare failed, answered with the batch that wrote or by a barrier; reads that ask ends() on another
 * session while an append is in flight; load and apply of what other daemons wrote; a driver (or a pooler behind it) that
 * sends an append twice.
 *
 * Asserted: no call is in the log twice; a write is answered only if it is in the log whole, at the place that was
 * computed; every answer is given on an index at least as new as any answer given before the call arrived, a write behind
 * all of those; no record is applied twice; no false STOKE_FORKED.
 *
 * Not covered: compaction (compact.pml) and lost history (fork.pml); leases, watches, rebase, deadlines of calls; more than
 * two calls a batch, more than one key, more daemons than two. The bounds are in `run`.
 *
 * Broken on purpose, each by a flag: NO_BARRIER (reads are answered from the index as it is), COMPARE_NO_BARRIER (a
 * failed compare too), RESEND with TRUST_STALE (the driver sends twice; the host does not look for its own origin after
 * STOKE_STALE), FORGET_UNKNOWN (the host evaluates anew while the first may still land), CALL_IT_LANDED (the host takes
 * an unknown outcome for success), LOAD_DURING_APPEND (a load whose position was taken before the outcome of an append in
 * flight was applied), NEWER_END (ends() compared with an end newer than the one known when the question was sent),
 * SEQ_ONLY (the compare looks at nothing but that the end's seq is not below the expected one).
 */
#ifndef CALLS
#define CALLS 3
#endif
#ifndef READS
#define READS 2
#endif
#ifndef FAULTS
#define FAULTS 2 /* appends with an unknown outcome */
#endif
#define RECORDS 8

#define PUT_IF_ABSENT 1
#define PUT_IF_UNCHANGED 2
#define DELETE_IF_UNCHANGED 3

/* The log in the datastore: [i] is the record with seq i + 1. */
byte log_call[RECORDS];  /* the call + 1; 0: a noop */
byte log_batch[RECORDS]; /* origin */
byte log_key[RECORDS];   /* seq of the key's living version behind this record; 0: none */
byte log_end;

byte kind[CALLS], arg[CALLS];
byte times[CALLS]; /* how often the call is in the log */
byte next_call, next_batch = 1, faults = FAULTS, reads = READS;
byte shown; /* the newest end that any answer has shown */

/* The daemons' own, shared by the commit queue and the barrier of one keyspace, which are on one loop. */
byte applied[2];  /* the index is the log up to this seq */
bool on_log[2];   /* an append with the settling of its outcome, or a load, is under way */

/* Appends that were sent and are still on their way, their senders gone. */
chan limbo = [2] of { byte, byte, byte, byte, byte, byte }; /* expected seq, expected batch, n, call, call, batch */

#define KEY_AT(n) ((n) == 0 -> 0 : log_key[(n) - 1])
#define BATCH_AT(n) ((n) == 0 -> 0 : log_batch[(n) - 1])
#define HOLDS(k, a, s) (((k) == PUT_IF_ABSENT && (s) == 0) || ((k) != PUT_IF_ABSENT && (s) != 0 && (s) == (a)))
#ifdef SEQ_ONLY
#define ENDS_AT(SEQ, BATCH) (log_end >= (SEQ))
#else
#define ENDS_AT(SEQ, BATCH) (log_end == (SEQ) && BATCH_AT(log_end) == (BATCH))
#endif

inline write_record(CALL, BATCH) {
        log_call[log_end] = (CALL); log_batch[log_end] = (BATCH);
        if
        :: (CALL) == 0 -> log_key[log_end] = KEY_AT(log_end)
        :: else ->
                log_key[log_end] = (kind[(CALL) - 1] == DELETE_IF_UNCHANGED -> 0 : log_end + 1);
                times[(CALL) - 1]++;
                assert(times[(CALL) - 1] <= 1)
        fi;
        log_end++
}

/* The driver's append at the datastore, one atomic step. C1 is a call + 1, or 0 for a noop. */
inline append(SEQ, BEFORE, COUNT, C1, C2, BATCH, RET) {
        if
        :: ENDS_AT(SEQ, BEFORE) ->
                write_record(C1, BATCH);
                if :: (COUNT) == 2 -> write_record(C2, BATCH) :: else fi;
                RET = true
        :: else -> RET = false
        fi
}

proctype Limbo() {
        byte seq, before, n, c1, c2, b; bool ret;
end:    do
        :: atomic { limbo ? seq, before, n, c1, c2, b ->
                if :: true -> append(seq, before, n, c1, c2, b, ret) :: true /* lost */ fi;
                seq = 0; before = 0; n = 0; c1 = 0; c2 = 0; b = 0; ret = false }
        od
}

inline answer_shows(SEEN) { if :: (SEEN) > shown -> shown = (SEEN) :: else fi }

#define DONE 0
#define STALE 1
#define UNKNOWN 2

/* One append in flight; its outcome as the host sees it. */
inline send(SEQ, BEFORE, COUNT, C1, C2, BATCH, RET) {
        if
        :: true -> append(SEQ, BEFORE, COUNT, C1, C2, BATCH, ok); RET = (ok -> DONE : STALE)
#ifdef RESEND
        :: true -> append(SEQ, BEFORE, COUNT, C1, C2, BATCH, ok); RET = STALE /* sent twice: the answer to the second */
#endif
        :: faults > 0 -> faults--; RET = STALE /* a deadlock, a rival that rolled back: the end may be unchanged */
        :: faults > 0 -> faults--; append(SEQ, BEFORE, COUNT, C1, C2, BATCH, ok); RET = UNKNOWN
        :: faults > 0 && nfull(limbo) -> faults--; limbo ! SEQ, BEFORE, COUNT, C1, C2, BATCH; RET = UNKNOWN
        fi;
        ok = false
}

proctype Commit(byte me) {
        byte call[2], arrived[2], at[2], w[2]; bool writes[2];
        byte m, nw, i, n, before, s, p, b, b2, end, known, outcome; bool ok, landed;

        do
        :: atomic { next_call < CALLS ->
                m = 0;
                do
                :: m < 2 && next_call < CALLS ->
                        call[m] = next_call; arrived[m] = shown;
                        if
                        :: kind[next_call] = PUT_IF_ABSENT
                        :: kind[next_call] = PUT_IF_UNCHANGED; if :: arg[next_call] = 1 :: arg[next_call] = 2 fi
                        :: kind[next_call] = DELETE_IF_UNCHANGED; arg[next_call] = 1
                        fi;
                        next_call++; m++
                :: m > 0 -> break
                od }
evaluate:
                atomic { !on_log[me] ->
                        n = applied[me]; before = BATCH_AT(n); s = KEY_AT(n); p = n; nw = 0; i = 0;
                        do
                        :: i < m ->
                                writes[i] = HOLDS(kind[call[i]], arg[call[i]], s);
                                if
                                :: writes[i] -> w[nw] = call[i] + 1; nw++; p++;
                                        s = (kind[call[i]] == DELETE_IF_UNCHANGED -> 0 : p)
                                :: else
                                fi;
                                at[i] = p; i++
                        :: else -> break
                        od;
                        b = next_batch; next_batch++; /* every evaluation has its own number */
                        i = 0; s = 0; p = 0;
                        if
                        :: nw == 0 -> goto barrier
                        :: else -> on_log[me] = true
                        fi };
                atomic { send(n, before, nw, w[0], w[1], b, outcome) };
                if
                :: atomic { outcome == DONE -> landed = true;
                        assert(applied[me] == n);
                        applied[me] = n + nw; goto settled }
                :: atomic { outcome == STALE || outcome == UNKNOWN -> skip }
                fi;
settle:
                atomic { end = log_end };       /* load after (n, before) */
                atomic {                        /* apply */
                        assert(applied[me] == n);
                        landed = (end > n && log_batch[n] == b);
#ifdef TRUST_STALE
                        if :: outcome == STALE -> landed = false :: else fi;
#endif
#ifdef CALL_IT_LANDED
                        if :: outcome == UNKNOWN -> landed = true :: else fi;
#endif
                        if
                        :: end > n || outcome == STALE || landed -> applied[me] = end; goto settled
                        :: else -> skip
                        fi;
#ifdef FORGET_UNKNOWN
                        goto settled;
#endif
                        b2 = next_batch; next_batch++ };
                /* The log still ends where the batch would land: a noop closes the question. */
                atomic { send(n, before, 1, 0, 0, b2, s);
                        b2 = 0;
                        if
                        :: s == DONE -> applied[me] = n + 1; landed = false; s = 0; goto settled
                        :: else -> s = 0; goto settle
                        fi };
settled:
                atomic { on_log[me] = false; end = 0; outcome = 0; before = 0; w[0] = 0; w[1] = 0; nw = 0; b = 0;
                        if
                        :: !landed -> n = 0; goto evaluate
                        :: else ->
                                i = 0;
                                do
                                :: i < m ->
                                        if
                                        :: writes[i] -> assert(times[call[i]] == 1 && log_call[at[i] - 1] == call[i] + 1);
                                                assert(at[i] > arrived[i])
                                        :: else -> assert(at[i] >= arrived[i]) /* a failed compare, answered with the batch */
                                        fi;
                                        answer_shows(at[i]); i++
                                :: else -> break
                                od;
                                goto answered
                        fi };
barrier:        /* nobody writes: answered only behind ends() */
                atomic { known = applied[me] };
                atomic { end = log_end };       /* ends */
#ifdef COMPARE_NO_BARRIER
                atomic { end = 0; known = 0 };
#endif
                atomic { assert(end >= known || end == 0);
                        if
                        :: end <= applied[me] -> goto behind_barrier
                        :: else -> skip
                        fi };
                atomic { !on_log[me] -> on_log[me] = true; n = applied[me] };
                atomic { end = log_end };       /* load */
                atomic { assert(applied[me] == n); applied[me] = end; on_log[me] = false };
behind_barrier:
                atomic { s = KEY_AT(applied[me]); i = 0; landed = true;
                        do
                        :: i < m -> if :: HOLDS(kind[call[i]], arg[call[i]], s) -> landed = false :: else fi; i++
                        :: else -> break
                        od;
                        s = 0; i = 0; end = 0; known = 0; n = 0; before = 0; b = 0;
                        if
                        :: !landed -> goto evaluate /* it writes now */
                        :: else ->
                                do
                                :: i < m -> assert(applied[me] >= arrived[i]); answer_shows(applied[me]); i++
                                :: else -> break
                                od
                        fi };
answered:
                atomic { m = 0; i = 0; n = 0; landed = false; call[0] = 0; call[1] = 0; arrived[0] = 0; arrived[1] = 0;
                        at[0] = 0; at[1] = 0; writes[0] = false; writes[1] = false }
        :: atomic { next_call >= CALLS -> break }
        od
}

/* Linearizable reads of the same keyspace, while its appends are in flight. */
proctype Barrier(byte me) {
        byte arrived, known, end, after;

        do
        :: atomic { reads > 0 -> reads--; arrived = shown; known = applied[me] };
#ifndef NO_BARRIER
                atomic { end = log_end };       /* ends */
again:
#ifdef NEWER_END
                atomic { assert(end >= applied[me]) };
#endif
                atomic { assert(end >= known);  /* or it is STOKE_FORKED */
                        if
                        :: end <= applied[me] -> goto answer
                        :: else -> skip
                        fi };
#ifdef LOAD_DURING_APPEND
                atomic { after = applied[me] };
                atomic { end = log_end };
                atomic { assert(applied[me] == after); applied[me] = end; after = 0; goto again };
#else
                atomic { !on_log[me] -> on_log[me] = true; after = applied[me] };
                atomic { end = (log_end > end -> log_end : end) }; /* load */
                atomic { assert(applied[me] == after); applied[me] = end; after = 0; on_log[me] = false; goto again };
#endif
#endif
answer:
                atomic { assert(applied[me] >= arrived); answer_shows(applied[me]); arrived = 0; known = 0; end = 0; after = 0 }
        :: atomic { reads == 0 -> break }
        od
}

init { atomic { run Commit(0); run Commit(1); run Barrier(0); run Barrier(1); run Limbo() } }
