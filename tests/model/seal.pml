/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A log that moves: keyspace_seal, keyspace_unseal, keyspace_switch, what daemons do that find a seal, and the registry's part in it: a
 * migration that is begun, switched, taken over, undone.
 *
 * Covered: two daemons that write and read at the source, at its seal, and at the target; appends as a compare-and-set on the end, STOKE_STALE,
 * STOKE_UNKNOWN that landed, that did not, that may still land; a read's question for the end, sent and answered at any time (a daemon that stands
 * still in between); a migrator that seals, commits the installation and switches the registry, and that may stop anywhere, or be slow without
 * end; its seal in limbo, and its change of the registry in limbo; one that takes over, whether the migrator lives or not, undoes, and may stop
 * anywhere, and another one; a second migration after the first was undone.
 *
 * Asserted: nothing but an unseal lands behind a seal; every answer is given on a log at least as new as any answer given before the call arrived,
 * a write behind all of those; an acknowledged write is in the log that is served at the end, once; at the end a log that was not switched
 * is not sealed, one that was switched is sealed at its source by that migration, its installation is committed, and nobody waits.
 *
 * Not covered: what is copied (the target's log is the source's up to the seal: stream.h and install.h, by test), pins (compact.pml has what they
 * keep from happening), leases, watches, more daemons, the move of the registry itself (registry.pml).
 *
 * Broken on purpose, each by a flag: ANSWER_AT_SEAL (a read is answered from what its load brought, the seal in it), APPEND_BLIND (after STOKE_STALE
 * the batch is sent again without a look at what was loaded), UNSEAL_ANY (an unseal lifts whichever seal there is, and is appended though it is in the log), NO_FENCE (undoing
 * appends an unseal only where a seal is seen), RESEAL (a migrator that reads its own unseal seals once more), REGISTRY_LAST (undoing
 * unseals first and writes the registry afterwards), BLIND_SWITCH (the registry is switched without a compare), STALE_REGISTRY (a daemon that finds a seal believes a
 * registry that it read before), COMMIT_UNSEALED (the installation is committed, and switched to, before the seal is certain).
 */
#ifndef CALLS
#define CALLS 2
#endif
#ifndef MIGRATIONS
#define MIGRATIONS 1
#endif
#ifndef FAULTS
#define FAULTS 1 /* appends, or changes of the registry, with an unknown outcome */
#endif
#define RECORDS 12

#define PUT 1
#define SEAL 2
#define UNSEAL 3

/* The log at the source: [i] is the record with seq i; [0] is its beginning. */
byte log_kind[RECORDS], log_of[RECORDS]; /* of which call + 1, or migration */
byte sealed_by[RECORDS];                 /* behind this record: the migration; 0: not sealed */
byte log_end;
byte unsealed_at[MIGRATIONS + 1]; /* the first unseal of this migration; 0: none */

/* The targets: of each migration one, whose log is the source's up to the seal, and then its own. */
byte base[MIGRATIONS + 1], target_end[MIGRATIONS + 1];
bool committed[MIGRATIONS + 1], aborted[MIGRATIONS + 1];

#define IDLE 0
#define MIGRATING 1
#define ABORTING 2
#define SWITCHED 3
byte version, phase, migration;

byte at_source[CALLS], at_target[CALLS]; /* where the call's record is; 0: nowhere */
bool acknowledged[CALLS];
byte next_call, busy, faults = FAULTS;
byte shown; /* the newest end that any answer has shown */

chan limbo = [2] of { byte, byte, byte };          /* expected end, kind, of */
chan registry_limbo = [1] of { byte, byte };       /* expected version, migration to switch to */

inline write_record(KIND, OF) {
        assert(log_end + 1 < RECORDS);
        log_end++;
        log_kind[log_end] = KIND; log_of[log_end] = OF;
        sealed_by[log_end] = sealed_by[log_end - 1];
        if
        :: KIND == PUT ->
                assert(sealed_by[log_end - 1] == 0); /* nothing lands behind a seal */
                assert(at_source[OF - 1] == 0);
                at_source[OF - 1] = log_end
        :: KIND == SEAL ->
                assert(sealed_by[log_end - 1] == 0);
                sealed_by[log_end] = OF
        :: KIND == UNSEAL ->
                if :: unsealed_at[OF] == 0 -> unsealed_at[OF] = log_end :: else fi;
#ifdef UNSEAL_ANY
                sealed_by[log_end] = 0
#else
                if :: sealed_by[log_end] == OF -> sealed_by[log_end] = 0 :: else fi
#endif
        fi
}

#define DONE 0
#define STALE 1
#define UNKNOWN 2

/* The driver's append at the source, one atomic step; its outcome as the host sees it. */
inline append(EXPECTED, KIND, OF, RET) {
        if
        :: true ->
                if :: log_end == EXPECTED -> write_record(KIND, OF); RET = DONE :: else -> RET = STALE fi
        :: faults > 0 -> faults--; RET = UNKNOWN;
                if :: log_end == EXPECTED -> write_record(KIND, OF) :: else fi
        :: faults > 0 && nfull(limbo) -> faults--; RET = UNKNOWN; limbo ! EXPECTED, KIND, OF
        fi
}

proctype Limbo() {
        byte expected, k, whose;
end:    do
        :: atomic { limbo ? expected, k, whose ->
                if
                :: log_end == expected -> write_record(k, whose)
                :: true /* lost */
                fi;
                expected = 0; k = 0; whose = 0 }
        :: atomic { registry_limbo ? expected, whose ->
                if :: version == expected -> version++; phase = SWITCHED :: true fi;
                expected = 0; whose = 0 }
        od
}

inline answer_shows(SEEN) { if :: (SEEN) > shown -> shown = (SEEN) :: else fi }

/* The migration of this seal can never switch any more, as the registry says. */
#define IS_VOID(PHASE, WHICH, M) (!((PHASE) == MIGRATING && (WHICH) == (M)) && !((PHASE) == SWITCHED && (WHICH) == (M)))

proctype Daemon() {
        byte where, applied; /* where 0: the source, else the target of this migration */
        byte call, arrived, end, m, outcome, seen_phase, seen_migration; bool writes;

        do
        :: atomic { next_call < CALLS -> call = next_call; next_call++; busy++; arrived = shown;
#ifdef STALE_REGISTRY
                seen_phase = phase; seen_migration = migration;
#endif
                if :: writes = true :: writes = false fi };
evaluate:
                if
                :: where == 0 && sealed_by[applied] != 0 -> goto held
                :: where == 0 && sealed_by[applied] == 0 && writes -> goto commit
                :: where != 0 && writes ->
                        atomic {
                                if
                                :: target_end[where] == applied ->
                                        assert(at_target[call] == 0);
                                        target_end[where]++; applied = target_end[where]; at_target[call] = applied;
                                        goto written
                                :: else -> applied = target_end[where]; goto evaluate
                                fi }
                :: else -> goto read
                fi;
commit:
                atomic { append(applied, PUT, call + 1, outcome);
                        if
                        :: outcome == DONE -> applied++; outcome = 0; goto written
                        :: outcome == STALE -> outcome = 0;
#ifdef APPEND_BLIND
                                applied = log_end; goto commit
#endif
                        :: outcome == UNKNOWN -> outcome = 0; goto settle
                        fi };
                atomic { applied = log_end; goto evaluate }; /* load */
settle:         /* the log tells; while it ends where the append expected it may still land, and the call is given up */
                atomic {
                        if
                        :: log_end == applied -> goto given_up
                        :: else ->
                                applied = log_end;
                                if :: at_source[call] != 0 -> goto written :: else -> goto evaluate fi
                        fi };
written:
                atomic { m = (at_source[call] != 0 -> at_source[call] : at_target[call]);
                        assert(m > arrived); acknowledged[call] = true; answer_shows(applied); goto given_up };
read:
                atomic { end = (where == 0 -> log_end : target_end[where]) }; /* ends */
                if
                :: end > applied ->
                        atomic { applied = (where == 0 -> log_end : target_end[where]) }; /* load */
#ifndef ANSWER_AT_SEAL
                        if :: where == 0 && sealed_by[applied] != 0 -> end = 0; goto held :: else fi
#endif
                :: else
                fi;
                atomic { assert(applied >= arrived); answer_shows(applied); goto given_up };
held:
                if
                :: atomic { phase == SWITCHED -> where = migration; /* keyspace_switch */
                        assert(target_end[where] >= applied); applied = target_end[where]; goto evaluate }
                :: atomic { log_end > applied -> applied = log_end; goto evaluate } /* it follows the log */
#ifdef STALE_REGISTRY
                :: atomic { IS_VOID(seen_phase, seen_migration, sealed_by[applied]) -> m = sealed_by[applied] };
                        seen_phase = phase; seen_migration = migration;
#else
                :: atomic { IS_VOID(phase, migration, sealed_by[applied]) -> m = sealed_by[applied] };
#endif
                        atomic { append(applied, UNSEAL, m, outcome); outcome = 0; m = 0; applied = log_end; goto evaluate }
                fi;
given_up:
                atomic { call = 0; arrived = 0; end = 0; m = 0; writes = false; seen_phase = 0; seen_migration = 0; busy-- }
        :: atomic { next_call >= CALLS -> break }
        od
}

/* May stop at each step, for ever: `goto gone`. */
proctype Migrator(byte m) {
        byte v, n, outcome;

        if
        :: atomic { phase == IDLE && migration < m -> phase = MIGRATING; migration = m; version++; v = version }
        :: atomic { migration >= m || phase == SWITCHED -> goto gone }
        fi;
#ifdef COMMIT_UNSEALED
        atomic { n = log_end; base[m] = n; target_end[m] = n + 1; committed[m] = true };
#endif
seal:
        if :: true :: goto gone fi;
        atomic { n = log_end; /* evaluate_seal */
                if
                :: sealed_by[n] == m -> goto sealed
                :: sealed_by[n] != 0 && sealed_by[n] != m -> goto gone
#ifndef RESEAL
                :: sealed_by[n] == 0 && unsealed_at[m] != 0 -> goto gone
                :: sealed_by[n] == 0 && unsealed_at[m] == 0
#else
                :: sealed_by[n] == 0
#endif
                fi };
        atomic { append(n, SEAL, m, outcome);
                if
                :: outcome == DONE -> goto sealed
                :: outcome == STALE -> goto seal
                :: outcome == UNKNOWN && log_end > n -> goto seal /* the log tells */
                :: outcome == UNKNOWN && log_end == n -> goto seal /* sent again: whichever lands first makes the other stale */
                fi };
sealed:
        if :: true :: goto gone fi;
        atomic { outcome = 0; n = log_end; /* install_commit, behind the seal */
                do :: n > 0 && !(log_kind[n] == SEAL && log_of[n] == m) -> n-- :: else -> break od;
                if
                :: aborted[m] -> goto gone
                :: else
#ifndef COMMIT_UNSEALED
                        -> base[m] = n; target_end[m] = n + 1; committed[m] = true
#endif
                fi };
        if :: true :: goto gone fi;
        if
#ifdef BLIND_SWITCH
        :: atomic { true -> version++; phase = SWITCHED; migration = m }
#else
        :: atomic { version == v -> version++; phase = SWITCHED }
        :: atomic { version != v -> goto gone }
#endif
        :: atomic { faults > 0 && nfull(registry_limbo) -> faults--; registry_limbo ! v, m }
        fi;
gone:   atomic { v = 0; n = 0; outcome = 0 }
}

#define ALL_OVER ((phase == SWITCHED || (phase == IDLE && migration == MIGRATIONS)) && next_call == CALLS && busy == 0)

/* Undoes what is under way, whoever is at it: the registry first, then the installation, then always an unseal, then it is cleared. */
proctype Taker(bool stops) {
        byte v, n, m, outcome;

        do
        :: atomic { phase == MIGRATING || phase == ABORTING -> m = migration;
#ifndef REGISTRY_LAST
                phase = ABORTING; version++;
#endif
                v = version };
                if :: stops -> goto gone :: true fi;
                atomic { if :: !committed[m] -> aborted[m] = true :: else fi }; /* install_abort; or it is dropped, unused */
unseal:
                atomic { n = log_end; /* evaluate_unseal */
                        if
#ifdef UNSEAL_ANY
                        :: unsealed_at[m] != 0 && outcome == DONE && log_kind[n] == UNSEAL -> goto fenced
                        :: unsealed_at[m] != 0 && log_kind[n] != UNSEAL -> goto again
#else
                        :: unsealed_at[m] != 0 -> goto fenced
#endif
#ifdef NO_FENCE
                        :: unsealed_at[m] == 0 && sealed_by[n] != m -> goto fenced
                        :: unsealed_at[m] == 0 && sealed_by[n] == m
#else
                        :: unsealed_at[m] == 0
#endif
                        fi };
again:          atomic { append(n, UNSEAL, m, outcome); outcome = 0; goto unseal };
fenced:
                if :: stops -> goto gone :: true fi;
                atomic {
                        if
#ifdef REGISTRY_LAST
                        :: phase == MIGRATING && migration == m -> version++; phase = IDLE
#else
                        :: version == v -> version++; phase = IDLE
#endif
                        :: else
                        fi;
                        v = 0; n = 0; m = 0;
                        if :: stops -> goto gone :: else fi /* once is enough: else two take over from each other without end */ }
        :: atomic { ALL_OVER -> break }
        od;
gone:   atomic { v = 0; n = 0; m = 0; outcome = 0 }
}

/* Nothing moves any more. */
proctype Monitor() {
        byte i;

        timeout -> atomic {
                assert(busy == 0); /* nobody waits */
                assert(phase == IDLE || phase == SWITCHED);
                assert(phase == SWITCHED || sealed_by[log_end] == 0);
                assert(phase != SWITCHED || (sealed_by[log_end] == migration && committed[migration]));
                i = 0;
                do
                :: i < CALLS && acknowledged[i] ->
                        if
                        :: phase == SWITCHED ->
                                assert((at_target[i] != 0 && at_source[i] == 0) ||
                                        (at_target[i] == 0 && at_source[i] != 0 && at_source[i] <= base[migration]))
                        :: else -> assert(at_source[i] != 0 && at_target[i] == 0)
                        fi;
                        i++
                :: i < CALLS && !acknowledged[i] -> i++
                :: else -> break
                od }
}

init {
        atomic {
                run Daemon(); run Migrator(1);
#ifndef ALONE
                run Daemon();
#endif
#if MIGRATIONS == 2
                run Migrator(2);
#endif
                run Limbo();
#ifdef SECOND_TAKER
                run Taker(true);
#endif
                run Taker(false); run Monitor()
        }
}
