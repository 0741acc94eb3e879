package main

import (
	"slices"
	"strings"
)

// state is what etcd's rules make of a log: the checker's own, independent of every server.
type state map[string]KV

func in(key, from, end string) bool {
	switch end {
	case "":
		return key == from
	case "\x00":
		return key >= from
	}
	return key >= from && key < end
}

func (s state) scan(from, end string) []KV {
	if end == "" {
		if kv, ok := s[from]; ok {
			return []KV{kv}
		}
		return nil
	}
	var out []KV
	for k, kv := range s {
		if in(k, from, end) {
			out = append(out, kv)
		}
	}
	slices.SortFunc(out, func(a, b KV) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func (s state) holds(c Compare) bool {
	kv := s[c.Key]
	sign := 0
	switch c.Target {
	case "mod":
		sign = sgn(kv.Mod - c.Number)
	case "create":
		sign = sgn(kv.Create - c.Number)
	case "version":
		sign = sgn(kv.Version - c.Number)
	case "value":
		if _, ok := s[c.Key]; !ok {
			return false
		}
		sign = strings.Compare(kv.Value, c.Text)
	}
	switch c.Result {
	case "=":
		return sign == 0
	case "!=":
		return sign != 0
	case "<":
		return sign < 0
	}
	return sign > 0
}

func sgn(n int64) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func (s state) all(compares []Compare) bool {
	for _, c := range compares {
		if !s.holds(c) {
			return false
		}
	}
	return true
}

func (s state) read(op Op) Answer {
	kvs := s.scan(op.Key, op.End)
	a := Answer{Count: int64(len(kvs))}
	if op.CountOnly {
		return a
	}
	if op.Limit > 0 && int64(len(kvs)) > op.Limit {
		kvs, a.More = kvs[:op.Limit], true
	}
	a.KVs = kvs
	return a
}

// run carries the operations out as of a revision on a copy: what a server must have answered, and the events.
func (s state) run(ops []Op, rev int64) (state, []Answer, []Event) {
	writes := false
	for _, op := range ops {
		writes = writes || op.Do != "range"
	}
	if writes {
		copied := make(state, len(s))
		for k, kv := range s {
			copied[k] = kv
		}
		s = copied
	}
	var answers []Answer
	var events []Event
	for _, op := range ops {
		switch op.Do {
		case "range":
			answers = append(answers, s.read(op))
		case "put":
			var a Answer
			old, was := s[op.Key]
			kv := KV{op.Key, op.Value, rev, rev, 1, op.Lease}
			e := Event{KV: kv}
			if was {
				e.KV.Create, e.KV.Version, e.Prev = old.Create, old.Version+1, &old
				if op.Prev {
					a.KVs = []KV{old}
				}
			}
			s[op.Key] = e.KV
			answers, events = append(answers, a), append(events, e)
		case "delete":
			var a Answer
			for _, old := range s.scan(op.Key, op.End) {
				delete(s, old.Key)
				a.Deleted++
				if op.Prev {
					a.KVs = append(a.KVs, old)
				}
				events = append(events, Event{Delete: true, KV: KV{Key: old.Key, Mod: rev}, Prev: &old})
			}
			answers = append(answers, a)
		}
	}
	return s, answers, events
}

func (s state) apply(e Event) {
	if e.Delete {
		delete(s, e.KV.Key)
	} else {
		s[e.KV.Key] = e.KV
	}
}

func sameAnswer(a, b Answer) bool {
	return a.Deleted == b.Deleted && a.Count == b.Count && a.More == b.More && slices.Equal(a.KVs, b.KVs)
}

func sameEvent(a, b Event, prev bool) bool {
	if a.Delete != b.Delete || a.KV != b.KV {
		return false
	}
	if !prev {
		return true
	}
	return (a.Prev == nil) == (b.Prev == nil) && (a.Prev == nil || *a.Prev == *b.Prev)
}

func sameEvents(a, b []Event) bool {
	return slices.EqualFunc(a, b, func(x, y Event) bool { return sameEvent(x, y, true) })
}
