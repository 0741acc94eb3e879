package main

import (
	"fmt"
	"slices"
	"sort"
)

// checker replays a history in order of revision, once. What it finds is added to found; a correct server leaves that empty.
type checker struct {
	h     *History
	log   map[int64][]Event // by revision, dense from First+1 to last
	last  int64
	seen  map[int64]int64 // when the first watcher saw a revision
	begun map[int64]int64 // when the call that made a revision was begun
	found []string

	nDone, nUnknown, nLanded, nExpired, nEvents int
}

func (c *checker) say(format string, args ...any) {
	if len(c.found) < 50 {
		c.found = append(c.found, fmt.Sprintf(format, args...))
	}
}

func check(h *History) *checker {
	c := &checker{h: h, log: map[int64][]Event{}, last: h.First, seen: map[int64]int64{}, begun: map[int64]int64{}}
	if len(h.Watches) == 0 {
		c.say("no log: nobody watched")
		return c
	}
	c.readLog()
	c.replay()
	c.times()
	c.deadCalls()
	c.refusals()
	c.watches()
	return c
}

// readLog takes the log from the first watch: dense, each revision in one response, rising.
func (c *checker) readLog() {
	w := c.h.Watches[0]
	for _, r := range w.Responses {
		before := c.last
		for _, e := range r.Events {
			rev := e.KV.Mod
			switch {
			case rev < c.last || rev == before:
				c.say("log: %s at revision %d after %d", e.KV.Key, rev, c.last)
				continue
			case rev > c.last+1:
				c.say("log: revision %d after %d, with a gap", rev, c.last)
			}
			c.last = rev
			c.log[rev] = append(c.log[rev], e)
			c.nEvents++
		}
	}
	for _, w := range c.h.Watches {
		for _, r := range w.Responses {
			for _, e := range r.Events {
				if t, ok := c.seen[e.KV.Mod]; !ok || r.At < t {
					c.seen[e.KV.Mod] = r.At
				}
			}
		}
	}
	if !w.Complete {
		c.say("log: its watch did not see the end (revision %d)", c.last)
	}
}

// branch is what a call of "kv" did by its own account.
func (call *Call) branch() []Op {
	if call.Succeeded || len(call.Compares) == 0 {
		return call.Then
	}
	return call.Else
}

func (call *Call) wrote() bool {
	for i, op := range call.branch() {
		if op.Do == "put" || op.Do == "delete" && i < len(call.Answers) && call.Answers[i].Deleted > 0 {
			return true
		}
	}
	return false
}

func (call *Call) String() string {
	return fmt.Sprintf("client %d's %s begun at %.6f s (compares %v then %v else %v)", call.Client, call.What, float64(call.Start)/1e9, call.Compares, call.Then, call.Else)
}

func (c *checker) replay() {
	writers := map[int64][]*Call{} // acknowledged, by their revision
	readers := map[int64][]*Call{} // by the revision whose state they saw
	owner := map[string]*Call{}    // of a value
	var unsure []*Call             // deletions that may have happened
	revokes := map[int64][]*Call{} // by lease
	for i := range c.h.Calls {
		call := &c.h.Calls[i]
		if call.Outcome == Unknown {
			c.nUnknown++
		} else if call.Outcome == Done {
			c.nDone++
		}
		// The client sends one again by itself when its connection ends; then it may find that it has happened.
		if call.What == "revoke" && (call.Outcome != Refused || call.Error == LeaseNotFound) {
			revokes[call.Lease] = append(revokes[call.Lease], call)
		}
		if call.What != "kv" {
			continue
		}
		puts := 0
		for _, op := range slices.Concat(call.Then, call.Else) {
			if op.Do == "put" {
				owner[op.Value] = call
				puts++
			}
		}
		switch {
		case call.Outcome == Unknown && call.mayDelete():
			unsure = append(unsure, call)
		case call.Outcome != Done:
		case call.wrote():
			writers[call.Header] = append(writers[call.Header], call)
		case len(call.Then) == 1 && call.Then[0].Rev > 0:
			readers[call.Then[0].Rev] = append(readers[call.Then[0].Rev], call)
		default:
			readers[call.Header] = append(readers[call.Header], call)
		}
	}

	s := state{}
	for _, kv := range c.h.Base {
		s[kv.Key] = kv
	}
	landed := map[*Call]int64{}
	ended := map[int64]int64{}        // leases that ended with keys, and at which revision
	candidates := map[int64][]*Call{} // who may have made a revision of deletions
	var open []int64
	for rev := c.h.First; rev <= c.last; rev++ {
		events := c.log[rev]
		acked := writers[rev]
		delete(writers, rev)
		if len(acked) > 1 {
			c.say("revision %d was answered to %d writes: %v, %v", rev, len(acked), acked[0], acked[1])
		}
		if rev > c.h.First && len(events) > 0 {
			switch {
			case len(acked) > 0:
				c.checkWrite(s, acked[0], rev, events)
				c.own(landed, acked[0], rev)
			default:
				c.explain(s, rev, events, owner, landed, unsure, revokes, ended, candidates, &open)
			}
			for _, e := range events {
				if was, ok := s[e.KV.Key]; e.Delete && !ok || (e.Prev != nil) != ok || ok && *e.Prev != was {
					c.say("log: %s at %d, previous %v, was %v", e.KV.Key, rev, e.Prev, was)
				}
				if at, ok := ended[e.KV.Lease]; ok && e.KV.Lease != 0 && at < rev {
					c.say("%s was put at %d with lease %x, which ended at %d", e.KV.Key, rev, e.KV.Lease, at)
				}
				s.apply(e)
			}
		} else {
			for _, call := range acked {
				c.say("%v was acknowledged at revision %d, which was there before or does not exist", call, rev)
			}
		}
		for _, call := range readers[rev] {
			c.checkRead(s, call, rev)
		}
		delete(readers, rev)
	}
	for rev, calls := range writers {
		c.say("lost: %v, acknowledged at revision %d; the log ends at %d", calls[0], rev, c.last)
	}
	for rev, calls := range readers {
		c.say("%v saw revision %d, which does not exist; the log is from %d to %d", calls[0], rev, c.h.First, c.last)
	}
	c.match(candidates, open, landed)
	for call, rev := range landed {
		if call.Outcome == Unknown {
			c.nLanded++
		}
		c.begun[rev] = call.Start
	}
}

func (c *checker) own(landed map[*Call]int64, call *Call, rev int64) {
	if other, ok := landed[call]; ok {
		c.say("%v happened twice, at %d and at %d", call, other, rev)
	}
	landed[call] = rev
}

func (call *Call) mayDelete() bool {
	for _, op := range slices.Concat(call.Then, call.Else) {
		if op.Do == "delete" {
			return true
		}
	}
	return false
}

func (c *checker) checkWrite(s state, call *Call, rev int64, events []Event) {
	if s.all(call.Compares) != (call.Succeeded || len(call.Compares) == 0) {
		c.say("%v succeeded %v at revision %d, and its compares say otherwise", call, call.Succeeded, rev)
	}
	_, answers, want := s.run(call.branch(), rev)
	if !sameEvents(want, events) {
		c.say("lost or changed: %v was acknowledged at revision %d, where the log has %v and not %v", call, rev, events, want)
	}
	c.answers(call, answers, rev)
}

func (c *checker) checkRead(s state, call *Call, rev int64) {
	if s.all(call.Compares) != (call.Succeeded || len(call.Compares) == 0) {
		c.say("%v succeeded %v at revision %d, and its compares say otherwise", call, call.Succeeded, rev)
	}
	_, answers, _ := s.run(call.branch(), rev)
	c.answers(call, answers, rev)
}

func (c *checker) answers(call *Call, want []Answer, rev int64) {
	if !slices.EqualFunc(call.Answers, want, sameAnswer) {
		c.say("%v was answered %v; at revision %d it must be %v", call, call.Answers, rev, want)
	}
}

// explain finds who made a revision that was acknowledged to nobody.
func (c *checker) explain(s state, rev int64, events []Event, owner map[string]*Call, landed map[*Call]int64, unsure []*Call,
	revokes map[int64][]*Call, ended map[int64]int64, candidates map[int64][]*Call, open *[]int64) {
	for _, e := range events {
		if e.Delete {
			continue
		}
		call := owner[e.KV.Value]
		switch {
		case call == nil:
			c.say("%s at %d was never written", e.KV.Key, rev)
			return
		case call.Outcome == Refused:
			c.say("%v was refused (%s), and happened at %d", call, call.Error, rev)
			return
		}
		ops := call.Else
		if s.all(call.Compares) {
			ops = call.Then
		}
		if _, _, want := s.run(ops, rev); !sameEvents(want, events) {
			c.say("%v happened at %d as %v and not as %v", call, rev, events, want)
		}
		c.own(landed, call, rev)
		return
	}
	// Deletions only. A lease's end takes all its keys and no others.
	lease := s[events[0].KV.Key].Lease
	if lease != 0 && c.isLease(s, lease, rev, events) {
		ended[lease] = rev
		for _, r := range revokes[lease] {
			if r.Start <= c.seen[rev] && (r.Outcome != Done || r.Header >= rev) {
				return
			}
		}
		// A deletion of unknown outcome may have done the same; then neither is wrong.
		if slices.ContainsFunc(unsure, func(u *Call) bool { return c.fits(s, u, rev, events) }) {
			delete(ended, lease)
			return
		}
		if at, alive := c.aliveUntil(lease, c.seen[rev]); alive && c.seen[rev] < at {
			c.say("lease %x ended early, at revision %d, %.3f s before its time", lease, rev, float64(at-c.seen[rev])/1e9)
		}
		c.nExpired++
		ended[lease] = rev
		return
	}
	for _, call := range unsure {
		if c.fits(s, call, rev, events) {
			candidates[rev] = append(candidates[rev], call)
		}
	}
	*open = append(*open, rev)
}

func (c *checker) fits(s state, call *Call, rev int64, events []Event) bool {
	if call.Start > c.seen[rev] {
		return false
	}
	ops := call.Else
	if s.all(call.Compares) {
		ops = call.Then
	}
	_, _, want := s.run(ops, rev)
	return sameEvents(want, events)
}

func (c *checker) isLease(s state, lease, rev int64, events []Event) bool {
	n := 0
	for _, kv := range s {
		if kv.Lease == lease {
			n++
		}
	}
	for _, e := range events {
		if s[e.KV.Key].Lease != lease {
			return false
		}
	}
	return n == len(events)
}

// aliveUntil: a lease that was granted or kept alive, as answered before a time, lives at least so long.
func (c *checker) aliveUntil(lease, answered int64) (int64, bool) {
	until, any := int64(0), false
	for i := range c.h.Calls {
		call := &c.h.Calls[i]
		if call.Lease == lease && call.Outcome == Done && (call.What == "grant" || call.What == "keepalive") && call.End <= answered {
			until, any = max(until, call.Start+call.TTL*1e9), true
		}
	}
	return until, any
}

// match gives each unexplained revision of deletions a call of unknown outcome of its own: a bipartite matching.
func (c *checker) match(candidates map[int64][]*Call, open []int64, landed map[*Call]int64) {
	taken := map[*Call]int64{}
	var try func(rev int64, tried map[*Call]bool) bool
	try = func(rev int64, tried map[*Call]bool) bool {
		for _, call := range candidates[rev] {
			if _, elsewhere := landed[call]; elsewhere || tried[call] {
				continue
			}
			tried[call] = true
			if other, ok := taken[call]; !ok || try(other, tried) {
				taken[call] = rev
				return true
			}
		}
		return false
	}
	for _, rev := range open {
		if !try(rev, map[*Call]bool{}) {
			c.say("nobody can have deleted what revision %d deletes: %v", rev, c.log[rev])
		}
	}
	for call, rev := range taken {
		landed[call] = rev
	}
}

// times compares with the clock: nothing linearizable is older than what was shown before it began, a client's own revisions never go
// back, and no answer shows a write that nobody had begun.
func (c *checker) times() {
	type shown struct{ at, rev int64 }
	var all []shown
	for i := range c.h.Calls {
		if call := &c.h.Calls[i]; call.Outcome == Done && call.Header > 0 {
			all = append(all, shown{call.End, call.Header})
		}
	}
	for _, w := range c.h.Watches {
		for _, r := range w.Responses {
			all = append(all, shown{r.At, r.Header})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].at < all[j].at })

	calls := make([]*Call, 0, len(c.h.Calls))
	for i := range c.h.Calls {
		if call := &c.h.Calls[i]; call.Outcome == Done && call.Header > 0 {
			calls = append(calls, call)
		}
	}
	sort.Slice(calls, func(i, j int) bool { return calls[i].Start < calls[j].Start })
	latest := make(map[int64]int64, len(c.begun))
	begun := int64(0)
	for rev := c.h.First; rev <= c.last; rev++ {
		begun = max(begun, c.begun[rev])
		latest[rev] = begun
	}
	next, highest := 0, int64(0)
	own := map[int]int64{}
	for _, call := range calls {
		for ; next < len(all) && all[next].at < call.Start; next++ {
			highest = max(highest, all[next].rev)
		}
		serial := call.What == "kv" && len(call.Then) == 1 && call.Then[0].Serial
		if !serial && call.Header < highest {
			c.say("stale: %v was answered at revision %d, and %d had been shown before", call, call.Header, highest)
		}
		if call.Header < own[call.Client] {
			c.say("client %d went back: %v was answered at revision %d after %d", call.Client, call, call.Header, own[call.Client])
		}
		own[call.Client] = max(own[call.Client], call.Header)
		if call.End < latest[call.Header] {
			c.say("%v was answered at revision %d before that was written", call, call.Header)
		}
	}
}

// deadCalls: what had no answer when all daemons were dead happened before or never.
func (c *checker) deadCalls() {
	owner := map[string]int64{} // the revision of a value
	for rev, events := range c.log {
		for _, e := range events {
			if !e.Delete {
				owner[e.KV.Value] = rev
			}
		}
	}
	for _, mark := range c.h.Marks {
		first := int64(0)
		for i := range c.h.Calls {
			if call := &c.h.Calls[i]; call.Outcome == Done && call.Start > mark && call.Header > 0 && (first == 0 || call.Header < first) {
				first = call.Header
			}
		}
		if first == 0 {
			continue
		}
		for i := range c.h.Calls {
			call := &c.h.Calls[i]
			if call.What != "kv" || call.Outcome != Unknown || call.End > mark {
				continue
			}
			for _, op := range slices.Concat(call.Then, call.Else) {
				if rev := owner[op.Value]; op.Do == "put" && rev > first {
					c.say("%v was dead, and happened at revision %d, after %d", call, rev, first)
				}
			}
		}
	}
}

// refusals: "compacted" needs a compaction, and "lease not found" a lease that may have ended; and where they are due they must come.
func (c *checker) refusals() {
	var compactions []*Call
	revoked := map[int64]int64{}
	for i := range c.h.Calls {
		switch call := &c.h.Calls[i]; {
		case call.What == "compact" && call.Outcome != Refused:
			compactions = append(compactions, call)
		case call.What == "revoke":
			if at, ok := revoked[call.Lease]; !ok || call.Start < at {
				revoked[call.Lease] = call.Start
			}
		}
	}
	sort.Slice(compactions, func(i, j int) bool { return compactions[i].Start < compactions[j].Start })
	for i := range c.h.Calls {
		call := &c.h.Calls[i]
		rev := call.Rev
		if call.What == "kv" && len(call.Then) == 1 {
			rev = call.Then[0].Rev
		}
		switch {
		case call.Outcome == Refused && call.Error == Compacted:
			c.justify(compactions, call.String(), rev, call.End, call.What == "compact")
		case call.Outcome == Done && call.What == "kv" && rev > 0:
			for _, other := range compactions {
				if other.Outcome == Done && other.End < call.Start && rev < other.Rev {
					c.say("%v read revision %d, and %d had been compacted", call, rev, other.Rev)
				}
			}
		case call.Outcome == Refused && call.Error == LeaseNotFound:
			lease := call.Lease
			for _, op := range slices.Concat(call.Then, call.Else) {
				lease = max(lease, op.Lease)
			}
			at, known := c.aliveUntil(lease, call.Start)
			begun, ok := revoked[lease]
			if known && call.End < at && (!ok || begun > call.End) {
				c.say("%v did not find lease %x, which must live", call, lease)
			}
		}
	}
	for _, w := range c.h.Watches {
		if w.Compacted > 0 {
			// The first event's previous value may be gone although the event itself is not: a watch that asked for it is cancelled too.
			c.justify(compactions, fmt.Sprintf("client %d's watch from %d", w.Client, w.From), w.From, w.EndedAt, w.Prev)
		}
	}
}

func (c *checker) justify(compactions []*Call, who string, rev, end int64, same bool) {
	for _, other := range compactions {
		if other.Start <= end && (other.Rev > rev || same && other.Rev == rev) {
			return
		}
	}
	c.say("%s met \"compacted\" at %d, and nobody had compacted that", who, rev)
}

// watches compares what each watch was sent with the log: in order, no gap, no double, whole revisions, no header ahead of its events.
func (c *checker) watches() {
	for i, w := range c.h.Watches {
		from := w.From
		if from == 0 {
			if w.Created == 0 {
				continue // never made
			}
			from = w.Created + 1
		}
		var want []Event
		for rev := max(from, c.h.First+1); rev <= c.last; rev++ {
			for _, e := range c.log[rev] {
				if in(e.KV.Key, w.Key, w.End) && !(w.NoPut && !e.Delete) && !(w.NoDelete && e.Delete) {
					want = append(want, e)
				}
			}
		}
		who := fmt.Sprintf("watch %d (client %d, %q to %q from %d)", i, w.Client, w.Key, w.End, from)
		header, broken := int64(0), false
		for _, r := range w.Responses {
			last := int64(0)
			for _, e := range r.Events {
				if e.KV.Mod > c.last && c.h.Watches[0].Complete {
					break // a lease that expired after the log was closed
				}
				if len(want) == 0 || !sameEvent(want[0], e, w.Prev) {
					c.say("%s was sent %v; the log goes on with %v", who, e, want[:min(1, len(want))])
					broken = true
					break
				}
				if !w.Prev && e.Prev != nil {
					c.say("%s was sent a previous value that it had not asked for", who)
				}
				last, want = e.KV.Mod, want[1:]
			}
			if broken {
				break
			}
			switch {
			case r.Header < last:
				c.say("%s: header %d with an event of %d", who, r.Header, last)
			case r.Header < header:
				c.say("%s: header %d after %d", who, r.Header, header)
			case len(want) > 0 && want[0].KV.Mod == last:
				c.say("%s was sent revision %d in parts", who, last)
			case len(want) > 0 && want[0].KV.Mod <= r.Header:
				c.say("%s: header %d is ahead: %s at %d was not yet sent", who, r.Header, want[0].KV.Key, want[0].KV.Mod)
			}
			header = r.Header
		}
		if w.Complete && len(want) > 0 && !broken {
			c.say("%s lacks %d events to the end, the first is %s at %d", who, len(want), want[0].KV.Key, want[0].KV.Mod)
		}
	}
}
