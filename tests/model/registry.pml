/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry itself moves: it cannot say of itself where it went once it is sealed. So the decision is install_commit at the target: an
 * installation is committed or aborted, once, for ever. Whoever undoes first aborts it there, and unseals only if that has succeeded; a
 * daemon at the sealed registry asks the target whether the id is committed.
 *
 * Covered: a mover that seals, commits, and may stop or be slow at each step; two that undo, likewise; daemons that write to the registry (each
 * write a compare-and-set on its end), find the seal, ask the target, and go there; a commit of unknown outcome that lands late.
 *
 * Asserted: nothing is written at the old place once the new one exists; no write is lost; never are both in use; at the end, the old
 * place is unsealed or the new one committed, not both, and nobody waits.
 *
 * Broken on purpose: LOOK_ONLY (undoing looks whether it is committed, and does not abort), UNSEAL_FIRST (it unseals before it has
 * aborted), GUESS (a daemon at the seal takes "not committed yet" for "never", and unseals without an abort).
 */
#define OPEN 0
#define COMMITTED 1
#define ABORTED 2
byte installation;          /* at the target: decided once */
byte old_end, seal_at, new_end;
bool sealed, fenced;        /* the old registry's log; fenced: the unseal is in it */
byte written_old, written_new, acknowledged;
byte writes = 2, waiting;

chan limbo = [1] of { bit }; /* a commit on its way */

proctype Limbo() {
end:    do
        :: atomic { limbo ? _ -> if :: installation == OPEN -> installation = COMMITTED; new_end = seal_at + 1 :: true fi }
        od
}

proctype Mover() {
        byte n;

        atomic { n = old_end };
        if :: true :: goto gone fi;
        atomic { if :: old_end == n && !fenced -> old_end++; sealed = true; seal_at = old_end :: else -> goto gone fi };
        if :: true :: goto gone fi;
        if
        :: atomic { if :: installation == OPEN -> installation = COMMITTED; new_end = seal_at + 1 :: else fi }
        :: limbo ! 0
        fi;
gone:   skip
}

inline abort(RET) { if :: installation == OPEN -> installation = ABORTED; RET = true :: installation == ABORTED -> RET = true :: installation == COMMITTED -> RET = false fi }
inline unseal() { old_end++; sealed = false; fenced = true }

proctype Undoer() {
        bool may;

        if :: true :: goto gone fi;
#ifdef UNSEAL_FIRST
        atomic { may = (installation != COMMITTED); if :: may -> unseal() :: else fi };
        if :: true :: goto gone fi;
        atomic { abort(may) };
        goto gone;
#endif
#ifdef LOOK_ONLY
        atomic { may = (installation != COMMITTED) };
#else
        atomic { abort(may) }; /* install_abort: durable */
#endif
        if :: true :: goto gone fi;
        atomic { if :: may -> unseal() :: else fi }; /* always, where it could be aborted */
gone:   skip
}

proctype Daemon() {
        byte n; bool there, may;

        do
        :: atomic { writes > 0 -> writes--; waiting++ };
again:          atomic { n = (there -> new_end : old_end) };
                if
                :: there ->
                        atomic { if :: new_end == n -> new_end++; written_new++; goto done :: else -> goto again fi }
                :: !there && sealed ->
#ifdef GUESS
                        atomic { if :: installation == COMMITTED -> there = true; goto again :: else fi };
                        atomic { if :: sealed -> unseal() :: else fi; goto again }
#else
                        /* Held: it asks the target; whoever can, undoes. */
                        if
                        :: atomic { installation == COMMITTED -> there = true; goto again }
                        :: atomic { !sealed -> goto again }
                        :: atomic { abort(may) }; atomic { if :: may && sealed -> unseal() :: else fi; may = false; goto again }
                        fi
#endif
                :: !there && !sealed ->
                        atomic {
                                if
                                :: old_end == n && !sealed -> old_end++; written_old++; assert(installation != COMMITTED); goto done
                                :: else -> goto again
                                fi }
                fi;
done:           atomic { acknowledged++; waiting--; n = 0 }
        :: atomic { writes == 0 -> break }
        od
}

proctype Monitor() {
        timeout -> atomic {
                assert(waiting == 0);
                assert(acknowledged == written_old + written_new);
                assert(!(installation == COMMITTED && fenced));
                assert(written_new == 0 || installation == COMMITTED) }
}

init { atomic { run Mover(); run Undoer(); run Undoer(); run Daemon(); run Daemon(); run Limbo(); run Monitor() } }
