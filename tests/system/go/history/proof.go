package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// A checker that accepts everything proves nothing: each of these breaks a good history in one way, and the checker must say so in
// the words given. The name stands first on its line: the tests in Python read the list from here.
var proofs = []struct {
	name  string
	words string // "": the history is good
	spoil func(*History)
}{
	{"good", "", func(*History) {}},
	{"good-unknown-that-happened", "", func(h *History) { unknown(&h.Calls[1]) }},
	{"good-unknown-deletion", "", func(h *History) { unknown(&h.Calls[2]) }},
	{"good-expiry-in-time", "", func(h *History) { h.Calls[5].What = "keepalive"; h.Calls[5].TTL = 1; h.Calls[5].Start = 0; late(h) }},
	{"lost-write", "acknowledged at revision 8", func(h *History) {
		add(h, Call{Start: 100, End: 110, Header: 8, Then: []Op{{Do: "put", Key: "x", Value: "lost"}}})
	}},
	{"wrong-revision", "and not", func(h *History) { h.Calls[0].Header = 3 }},
	{"two-writes-one-revision", "was answered to 2 writes", func(h *History) {
		add(h, Call{Start: 100, End: 110, Header: 4, Then: []Op{{Do: "put", Key: "x", Value: "second"}}})
	}},
	{"changed-value", "lost or changed", func(h *History) { h.Calls[0].Then[0].Value = "other" }},
	{"never-written", "was never written", func(h *History) { h.Calls = h.Calls[1:] }},
	{"deleted-by-nobody", "nobody can have deleted", func(h *History) { h.Calls = append(h.Calls[:2:2], h.Calls[3:]...) }},
	{"unknown-twice", "happened twice", func(h *History) {
		unknown(&h.Calls[1])
		again(h, Event{KV: KV{"b", "2", 3, 8, 1, 0}})
	}},
	{"refused-that-happened", "was refused", func(h *History) { h.Calls[1].Outcome = Refused; h.Calls[1].Error = "no" }},
	{"dead-that-happened", "was dead", func(h *History) {
		unknown(&h.Calls[3])
		h.Calls[3].Start, h.Calls[3].End, h.Marks = 5, 6, []int64{7}
		h.Calls[1].Start = 8
		h.Calls[2].Start = 9
	}},
	{"compare-not-justified", "its compares say otherwise", func(h *History) { h.Calls[6].Compares[0].Number = 2 }},
	{"stale-read", "stale:", func(h *History) {
		add(h, Call{Start: 100, End: 110, Header: 3, Then: []Op{get("b")}, Answers: []Answer{{KVs: []KV{{"b", "2", 3, 3, 1, 0}}, Count: 1}}})
	}},
	{"good-stale-serializable", "", func(h *History) {
		op := get("b")
		op.Serial = true
		add(h, Call{Client: 9, Start: 100, End: 110, Header: 3, Then: []Op{op}, Answers: []Answer{{KVs: []KV{{"b", "2", 3, 3, 1, 0}}, Count: 1}}})
	}},
	{"serializable-goes-back", "client 1 went back", func(h *History) {
		op := get("b")
		op.Serial = true
		add(h, Call{Client: 1, Start: 100, End: 110, Header: 3, Then: []Op{op}, Answers: []Answer{{KVs: []KV{{"b", "2", 3, 3, 1, 0}}, Count: 1}}})
	}},
	{"wrong-read", "must be", func(h *History) {
		add(h, Call{Start: 100, End: 110, Header: 7, Then: []Op{get("b")}, Answers: []Answer{{}}})
	}},
	{"read-before-written", "before that was written", func(h *History) { h.Calls[6].Start, h.Calls[6].End = 1, 2 }},
	{"gap-in-the-log", "with a gap", func(h *History) {
		log := h.Watches[0]
		log.Responses = append(log.Responses[:2:2], log.Responses[3:]...)
	}},
	{"revision-in-two-responses", "log: b at revision 3 after 3", func(h *History) { log := h.Watches[0]; log.Responses[2] = log.Responses[1] }},
	{"previous-value", "previous", func(h *History) { h.Watches[0].Responses[2].Events[0].Prev.Value = "x" }},
	{"watch-gap", "the log goes on with", func(h *History) { h.Watches[1].Responses = h.Watches[1].Responses[1:] }},
	{"watch-double", "the log goes on with", func(h *History) { w := h.Watches[1]; w.Responses = append(w.Responses[:1:1], w.Responses...) }},
	{"watch-end", "lacks 1 events", func(h *History) { w := h.Watches[1]; w.Responses = w.Responses[:len(w.Responses)-1] }},
	{"watch-header-ahead", "is ahead", func(h *History) { h.Watches[1].Responses[0].Header = 5 }},
	{"watch-progress-ahead", "is ahead", func(h *History) {
		w := h.Watches[1]
		w.Responses = append([]Response{{At: 25, Header: 4}}, w.Responses...)
	}},
	{"watch-header-behind", "header 1 with an event of 2", func(h *History) { h.Watches[1].Responses[0].Header = 1 }},
	{"watch-in-parts", "in parts", func(h *History) {
		w := h.Watches[2]
		both := w.Responses[0]
		w.Responses = append([]Response{{both.At, both.Header, both.Events[:1]}, {both.At, both.Header, both.Events[1:]}}, w.Responses[1:]...)
	}},
	{"compacted-by-nobody", "nobody had compacted", func(h *History) { h.Watches[1].Compacted, h.Watches[1].EndedAt = 3, 99 }},
	{"read-of-compacted", "had been compacted", func(h *History) {
		add(h, Call{What: "compact", Rev: 5, Start: 100, End: 105, Header: 7})
		op := get("b")
		op.Rev = 3
		add(h, Call{Start: 110, End: 120, Header: 7, Then: []Op{op}, Answers: []Answer{{KVs: []KV{{"b", "2", 3, 3, 1, 0}}, Count: 1}}})
	}},
	{"lease-early", "ended early", func(h *History) {
		h.Calls[5].What = "keepalive"
		h.Calls[5].TTL = 1
		h.Calls[5].Start, h.Calls[5].End = 40, 45
	}},
	{"good-revoke-sent-twice", "", func(h *History) {
		h.Calls = append(h.Calls, Call{What: "keepalive", Lease: h.Calls[5].Lease, TTL: 1, Start: 40, End: 45, Outcome: Done, Header: 4})
		h.Calls[5].Outcome, h.Calls[5].Error, h.Calls[5].Header = Refused, LeaseNotFound, 0
	}},
	{"lease-half", "nobody can have deleted", func(h *History) {
		h.Calls[4].Then[1].Lease = 0 // k2 is not the lease's, and goes with it
		for _, r := range []int{4, 5} {
			for i := range h.Watches[0].Responses[r].Events {
				e := &h.Watches[0].Responses[r].Events[i]
				if e.KV.Key == "k2" {
					e.KV.Lease = 0
					if e.Prev != nil {
						e.Prev.Lease = 0
					}
				}
			}
		}
	}},
	{"put-with-ended-lease", "which ended at 7", func(h *History) {
		add(h, Call{Client: 3, Start: 100, End: 110, Header: 8, Then: []Op{{Do: "put", Key: "z", Value: "late", Lease: 77}}, Answers: []Answer{{}}})
		again(h, Event{KV: KV{"z", "late", 8, 8, 1, 77}})
	}},
	{"lease-not-found-alive", "which must live", func(h *History) {
		h.Calls = append(h.Calls, Call{What: "grant", Lease: 5, TTL: 10, Start: 1, End: 2, Outcome: Done, Header: 1},
			Call{What: "keepalive", Lease: 5, Start: 100, End: 110, Outcome: Refused, Error: LeaseNotFound})
	}},
}

func get(key string) Op { return Op{Do: "range", Key: key} }

func unknown(c *Call) {
	*c = Call{Client: c.Client, What: c.What, Start: c.Start, End: c.End, Outcome: Unknown, Compares: c.Compares, Then: c.Then, Else: c.Else}
}

func add(h *History, c Call) {
	c.Outcome, c.Succeeded = Done, true
	if c.What == "" {
		c.What = "kv"
	}
	h.Calls = append(h.Calls, c)
}

// again adds a revision to the log.
func again(h *History, e Event) {
	log := h.Watches[0]
	log.Responses = append(log.Responses, Response{At: 105, Header: e.KV.Mod, Events: []Event{e}})
}

// late moves the log's last revision beyond the lease's second.
func late(h *History) {
	for _, w := range h.Watches {
		w.Responses[len(w.Responses)-1].At = 2e9
	}
	h.Calls[6].Start, h.Calls[6].End = 3e9, 4e9
}

// good is a history without fault: puts, a deletion, a key made again, a lease revoked with two keys, a compare that fails.
func good() *History {
	a, b := KV{"a", "1", 2, 2, 1, 0}, KV{"b", "2", 3, 3, 1, 0}
	again := KV{"a", "3", 5, 5, 1, 0}
	k1, k2 := KV{"k1", "4", 6, 6, 1, 77}, KV{"k2", "5", 6, 6, 1, 77}
	gone := func(kv KV, rev int64) Event { return Event{Delete: true, KV: KV{Key: kv.Key, Mod: rev}, Prev: &kv} }
	h := &History{First: 1, Calls: []Call{
		{Client: 1, Start: 10, End: 19, Header: 2, Then: []Op{{Do: "put", Key: "a", Value: "1"}}, Answers: []Answer{{}}},
		{Client: 1, Start: 20, End: 29, Header: 3, Then: []Op{{Do: "put", Key: "b", Value: "2"}}, Answers: []Answer{{}}},
		{Client: 1, Start: 30, End: 39, Header: 4, Then: []Op{{Do: "delete", Key: "a", Prev: true}}, Answers: []Answer{{Deleted: 1, KVs: []KV{a}}}},
		{Client: 1, Start: 40, End: 49, Header: 5, Compares: []Compare{{Key: "a", Target: "mod", Result: "="}}, Then: []Op{{Do: "put", Key: "a", Value: "3"}}, Answers: []Answer{{}}},
		{Client: 1, Start: 50, End: 59, Header: 6, Then: []Op{{Do: "put", Key: "k1", Value: "4", Lease: 77}, {Do: "put", Key: "k2", Value: "5", Lease: 77}}, Answers: []Answer{{}, {}}},
		{Client: 2, What: "revoke", Lease: 77, Start: 60, End: 69, Header: 7},
		{Client: 2, Start: 70, End: 79, Header: 7, Compares: []Compare{{Key: "b", Target: "mod", Result: "=", Number: 3}}, Then: []Op{get("b")}, Answers: []Answer{{KVs: []KV{b}, Count: 1}}},
	}}
	for i := range h.Calls {
		c := &h.Calls[i]
		c.Outcome, c.Succeeded = Done, true
		if c.What == "" {
			c.What = "kv"
		}
	}
	events := [][]Event{{{KV: a}}, {{KV: b}}, {gone(a, 4)}, {{KV: again}}, {{KV: k1}, {KV: k2}}, {gone(k1, 7), gone(k2, 7)}}
	log := &Watch{Key: "\x00", End: "\x00", From: 2, Prev: true, Complete: true}
	some := &Watch{Key: "a", End: "b", From: 2, Complete: true}
	leased := &Watch{Key: "k", End: "l", From: 2, Prev: true, Complete: true}
	for i, e := range events {
		r := Response{At: int64(i+1)*10 + 8, Header: int64(i) + 2, Events: e}
		log.Responses = append(log.Responses, r)
		switch e[0].KV.Key {
		case "a":
			r.Events = []Event{e[0]}
			r.Events[0].Prev = nil
			some.Responses = append(some.Responses, r)
		case "k1":
			leased.Responses = append(leased.Responses, r)
		}
	}
	h.Watches = []*Watch{log, some, leased}
	return h
}

func proof(name string) {
	for _, p := range proofs {
		if p.name != name {
			continue
		}
		// Through JSON, so that nothing is shared within it, and the form of the record is tried too.
		text, err := json.Marshal(good())
		if err != nil {
			fail("%v", err)
		}
		h := &History{}
		if err := json.Unmarshal(text, h); err != nil {
			fail("%v", err)
		}
		p.spoil(h)
		found := strings.Join(check(h).found, "\n")
		switch {
		case p.words == "" && found != "":
			fail("a good history was refused: %s", found)
		case p.words != "" && !strings.Contains(found, p.words):
			fail("%q was not said, but: %q", p.words, found)
		}
		fmt.Fprintln(os.Stdout, found)
		return
	}
	fail("no proof is called %q", name)
}
