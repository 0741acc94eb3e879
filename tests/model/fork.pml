/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One keyspace in a datastore that loses its last acknowledged records (a replica that lagged is promoted, an old backup is
 * put back), and two daemons of which one may know what was lost.
 *
 * Covered: STOKE_FORKED from load (the record at the known end has another origin, or is not there because the log is
 * shorter), the compare of append on seq and origin, ends() compared with the end that was known when the question was sent, a log that has grown again
 * beyond what was known.
 *
 * Asserted: no daemon serves an index that mixes records of the lost log with ones of the new; STOKE_FORKED is never said while
 * nothing was lost.
 *
 * Not covered: what `recover --accept-loss` does; a fork below which all was compacted away; more than one failover. The bounds: five records, three
 * steps a daemon.
 *
 * Broken on purpose, each by a flag: LOAD_SEQ_ONLY (load looks at seqs alone), APPEND_SEQ_ONLY (append compares the seq
 * alone), NEWER_END (the answer of ends() is compared with an end newer than the one known when it was sent).
 */
#define RECORDS 5
#define STEPS 3

byte log_origin[RECORDS + 1]; /* by seq, from 1 */
byte log_end, next_origin = 1;
bool lost;

#ifdef LOAD_SEQ_ONLY
#define SAME_AT(seq) (log_end >= (seq))
#else
#define SAME_AT(seq) ((seq) == 0 || (log_end >= (seq) && log_origin[seq] == index[seq]))
#endif
#ifdef APPEND_SEQ_ONLY
#define ENDS_WHERE_KNOWN (log_end == applied)
#else
#define ENDS_WHERE_KNOWN (log_end == applied && (applied == 0 || log_origin[applied] == index[applied]))
#endif

inline append_mine() { log_end++; log_origin[log_end] = next_origin; next_origin++; applied++; index[applied] = log_origin[log_end] }
inline load_tail(LEAST) {
        if
        :: !SAME_AT(applied) || log_end < LEAST -> forked = true
        :: else -> do :: applied < log_end -> applied++; index[applied] = log_origin[applied] :: else -> break od
        fi
}

proctype Daemon() {
        byte index[RECORDS + 1], applied, steps, end, origin, known, known_origin, i;
        bool forked, mixed;

        do
        :: steps < STEPS -> steps++;
                if
                :: atomic { log_end < RECORDS && ENDS_WHERE_KNOWN -> append_mine() }    /* append */
                :: atomic { !ENDS_WHERE_KNOWN -> load_tail(applied) }                   /* STOKE_STALE, then load */
                :: atomic { known = applied; known_origin = index[applied]; end = log_end; origin = log_origin[end] }; /* ends */
                        if /* meanwhile an append of ours is answered on another session */
                        :: atomic { log_end < RECORDS && ENDS_WHERE_KNOWN -> append_mine() }
                        :: true
                        fi;
                        atomic {
#ifdef NEWER_END
                                known = applied; known_origin = index[applied];
#endif
                                if
                                :: end < known || (end == known && end > 0 && origin != known_origin) -> forked = true
                                :: else -> if :: end > applied -> load_tail(end) :: else fi
                                fi }
                fi;
                atomic { /* answer */
                        if
                        :: forked -> assert(lost); break
                        :: else ->
                                i = 1; mixed = false;
                                do
                                :: i <= applied && i <= log_end -> if :: log_origin[i] != index[i] -> mixed = true :: else fi; i++
                                :: else -> break
                                od;
                                assert(!(mixed && applied <= log_end && log_origin[applied] == index[applied]))
                        fi;
                        i = 0; mixed = false; end = 0; origin = 0; known = 0; known_origin = 0 }
        :: steps >= STEPS -> break
        od
}

proctype Failover() {
        if
        :: atomic { log_end > 0 -> log_origin[log_end] = 0; log_end--; lost = true };
                if
                :: atomic { log_end > 0 -> log_origin[log_end] = 0; log_end-- }
                :: true
                fi
        :: true
        fi
}

init { atomic { run Daemon(); run Daemon(); run Failover() } }
