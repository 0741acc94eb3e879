/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One keyspace under compaction: two daemons that append marks and delete what is dead, two appends at a time of the kind whose
 * compare and insert are two steps (PostgreSQL: the snapshot, then the primary key), and a third party that loads page by
 * page, from zero and from its known end, and rebuilds when it must.
 *
 * Covered: a mark is a record, appended only by a daemon that has completed the deletions of the mark before it; compact
 * deletes in steps of one record, ascending, and may stop anywhere; tombstones are named one compaction later than what they
 * cover (deferred tombstones); the fence of compact's `first`; load after a known end with STOKE_COMPACTED for a record that has gone
 * or a hole that follows; load from zero that remembers the end at its start and begins again at a mark with a greater seq.
 *
 * Asserted: nothing lands inside the log; a load that has come to an end knows the key's state at every revision from the
 * last mark's to its end, as the whole log has it.
 *
 * Not covered: outcomes of append (append.pml), lost history (fork.pml); transactions of several records, more keys than
 * one, leases, watches across a rebuild, installations. The bounds are in `run`; a page is one record.
 *
 * Broken on purpose, each by a flag: NO_FENCE (`first` is ignored), AUTHOR_FENCE (only the daemon that appended the mark fences; who
 * completes its deletions does not), TOMBSTONES_EARLY (named with what they cover), NO_COMPLETION (a mark is appended while
 * deletions of the one before it remain), MARK_AFTER_STALE (they were completed, but of the mark known before
 * STOKE_STALE), NO_MARK_CHECK (load from zero takes what it got),
 * NO_HOLE_CHECK (load after an end skips holes).
 */
#ifndef WRITES
#define WRITES 4
#endif
#ifndef MARKS
#define MARKS 2
#endif
#ifndef PRESET
#define PRESET 0 /* 1, 3: the log begins with a put, its tombstone, another key's put: so many of them */
#endif
#define RECORDS (PRESET + WRITES + MARKS)

#define PUT 1
#define TOMBSTONE 2
#define OTHER 3 /* a put of another key, never dead */
#define MARK 4

byte log_kind[RECORDS + 1]; /* by seq, from 1; what was written, also when it is gone */
bool gone[RECORDS + 1];
byte log_end;
byte mark_seq[MARKS + 1], mark_revision[MARKS + 1], marks; /* [0]: none */
byte writes = WRITES;
bool running[2]; /* appends between their snapshot and their insert */

#define IS_KEY(s) (log_kind[s] == PUT || log_kind[s] == TOMBSTONE)

/* Is the record s superseded at this revision? */
inline superseded(S, REVISION, RET) {
        RET = false; h = S + 1;
        do
        :: h > REVISION || h > RECORDS -> break
        :: else ->
                if
                :: IS_KEY(S) && IS_KEY(h) -> RET = true; break
                :: else -> h++
                fi
        od;
        if :: log_kind[S] == TOMBSTONE && S < REVISION -> RET = true :: else fi;
        h = 0
}

/* May the compaction number K name it? */
inline dead(S, K, RET) {
        RET = false;
        if
        :: gone[S] || S >= mark_seq[K] -> skip
        :: else ->
                if
                :: log_kind[S] == MARK -> RET = true /* an older one */
#ifndef TOMBSTONES_EARLY
                :: log_kind[S] == TOMBSTONE -> superseded(S, mark_revision[K - 1], RET)
                :: log_kind[S] != MARK && log_kind[S] != TOMBSTONE -> superseded(S, mark_revision[K], RET)
#else
                :: log_kind[S] != MARK -> superseded(S, mark_revision[K], RET)
#endif
                fi
        fi
}

/* append where the compare reads a snapshot and the primary key is looked at later. */
proctype Append(byte me) {
        byte expected;

        do
        :: atomic { writes > 0 -> writes--; expected = log_end; running[me] = true
#ifdef FENCE_ONLY
                        }; atomic { skip
#endif
                        ;
                        if
                        :: expected == log_end || gone[expected + 1] ->
                                assert(expected == log_end); /* or it lands inside the log */
                                log_end++;
                                if :: log_kind[log_end] = PUT :: log_kind[log_end] = TOMBSTONE :: log_kind[log_end] = OTHER fi
                        :: else -> skip /* STOKE_STALE */
                        fi;
                        running[me] = false; expected = 0 }
        :: atomic { writes == 0 -> break }
        od
}

/* All deletions of compaction K, in steps, unless the daemon stops between them. */
inline compact(K, FENCE, WHOLE) {
#ifndef NO_FENCE
        if
        :: atomic { !(FENCE) -> skip }
        :: atomic { (FENCE) && !running[0] && !running[1] -> skip } /* first */
        fi;
#endif
        do
        :: atomic {
                d_step { s = 1;
                        do
                        :: s <= RECORDS -> dead(s, K, is_dead); if :: is_dead -> break :: else -> s++ fi
                        :: else -> break
                        od };
                if
                :: is_dead -> gone[s] = true; is_dead = false; s = 0
                :: else -> s = 0; break
                fi }
        :: !(WHOLE) -> break
        od
}

proctype Compact(byte me) {
        byte completed, s, h, r, mine; bool is_dead;

        do
        :: atomic { marks < MARKS && log_end > 0 -> completed = marks };
complete:
#ifndef NO_COMPLETION
                if
                :: atomic { completed > 0 -> skip };
#ifdef AUTHOR_FENCE
                        compact(completed, mine == completed, true)
#else
                        compact(completed, true, true)
#endif
                :: atomic { completed == 0 -> skip }
                fi;
#endif
                /* The mark's append: a compare-and-set, evaluated on an index that knows the newest mark. */
                atomic {
                        if
#ifndef MARK_AFTER_STALE
                        :: marks != completed && marks < MARKS -> completed = marks; goto complete
#endif
                        :: marks >= MARKS -> goto done
#ifdef MARK_AFTER_STALE
                        :: marks < MARKS ->
#else
                        :: marks == completed && marks < MARKS ->
#endif
                                r = mark_revision[marks] + 1;
                                do
                                :: r < log_end -> r++
                                :: r <= log_end && log_kind[r] != MARK -> break
                                :: r >= log_end && (r > log_end || log_kind[r] == MARK) -> r = 0; break
                                od;
                                if
                                :: r == 0 -> goto done
                                :: else -> log_end++; log_kind[log_end] = MARK; marks++; mine = marks;
                                        mark_seq[marks] = log_end; mark_revision[marks] = r; r = 0
                                fi
                        fi };
                compact(mine, true, false);
done:           atomic { completed = 0; r = 0 }
        :: atomic { true -> break }
        od
}

proctype Load() {
        byte end, at, q, h, revision, is, was; bool zero, known[RECORDS + 1];
        byte seen_mark;

rebuild: /* load from zero */
        atomic { end = log_end; at = 0; zero = true; seen_mark = 0; q = 0;
                do :: q <= RECORDS -> known[q] = false; q++ :: else -> break od; q = 0 };
page:
        do
        :: atomic {
                if
#ifndef NO_HOLE_CHECK
                :: !zero && (gone[at] || (at < log_end && gone[at + 1])) -> goto rebuild /* STOKE_COMPACTED */
                :: else ->
#else
                :: true ->
#endif
                        q = at + 1;
                        do :: q <= log_end && gone[q] -> q++ :: else -> break od;
                        if
                        :: q > log_end -> q = 0; break
                        :: else ->
                                at = q; known[q] = true; q = 0;
                                if
#ifndef NO_MARK_CHECK
                                :: log_kind[at] == MARK && zero && at > end -> goto rebuild
#endif
                                :: log_kind[at] == MARK && (!zero || at <= end) ->
                                        seen_mark = 1;
                                        do :: mark_seq[seen_mark] != at -> seen_mark++ :: else -> break od
#ifdef NO_MARK_CHECK
                                :: log_kind[at] == MARK && zero && at > end -> 
                                        seen_mark = 1;
                                        do :: mark_seq[seen_mark] != at -> seen_mark++ :: else -> break od
#endif
                                :: log_kind[at] != MARK -> skip
                                fi
                        fi
                fi }
        od;
        /* What is served now: every revision from the last mark's on. */
        atomic {
                revision = mark_revision[seen_mark]; if :: revision == 0 -> revision = 1 :: else fi;
                do
                :: revision <= at ->
                        is = revision; do :: is > 0 && !(known[is] && IS_KEY(is)) -> is-- :: else -> break od;
                        was = revision; do :: was > 0 && !IS_KEY(was) -> was-- :: else -> break od;
                        if :: is > 0 && log_kind[is] == TOMBSTONE -> is = 0 :: else fi;
                        if :: was > 0 && log_kind[was] == TOMBSTONE -> was = 0 :: else fi;
                        assert(is == was);
                        revision++
                :: else -> break
                od;
                revision = 0; is = 0; was = 0; zero = false; end = 0 };
        /* The log has grown, or nothing will come any more. */
        if
        :: atomic { log_end > at -> goto page }
        :: atomic { true -> skip }
        fi
}

inline begin() {
        if :: PRESET >= 1 -> log_kind[1] = PUT :: else fi;
        if :: PRESET == 3 -> log_kind[2] = TOMBSTONE; log_kind[3] = OTHER :: else fi;
        log_end = PRESET
}

/* The fence and the loads meet nowhere but in the log, so each is searched without the other's processes. */
init {
        atomic {
                begin();
                run Append(0); run Compact(0);
#ifndef ALONE /* one daemon compacts: enough for some failures */
                run Compact(1);
#endif
#ifdef FENCE_ONLY
                run Append(1)
#else
                run Load()
#endif
        }
}
