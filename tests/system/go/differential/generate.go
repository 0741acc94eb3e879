package main

// Makes programs from a seed: which calls, on which streams, how long. What a program will find on the server is only guessed here (how
// many revisions there are by now, which leases and watches): most requests shall make sense, and some must not.

import (
	"math"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

const nClients = 4

type generator struct {
	*rand.Rand
	p *program

	revisions int64 // guessed: how many there are since the begin
	compacted int64 // guessed
	slots     int   // leases that the server chose
	leases    []int64
	ids       map[int][]int64 // stream to guessed watch ids
	nextID    map[int]int64
	big       int // bytes of large values that may still be sent
}

type kind struct {
	name   string
	weight int
	make   func(*generator)
}

// Whole areas are more or less likely in a program, so that some go deep into one.
var kinds = []kind{
	{"range", 10, func(g *generator) { g.add("KV/Range", g.rangeRequest()) }},
	{"stream", 3, func(g *generator) { g.add(callRangeStream, g.streamRequest()) }},
	{"put", 12, func(g *generator) { g.add("KV/Put", g.put()); g.wrote() }},
	{"delete", 5, func(g *generator) { g.add("KV/DeleteRange", g.deleteRange()); g.wrote() }},
	{"txn", 14, func(g *generator) { g.add("KV/Txn", g.txn()); g.wrote() }},
	{"compact", 3, (*generator).compact},
	{"watch", 10, (*generator).watch},
	{"lease", 7, (*generator).lease},
	{"maintenance", 2, (*generator).maintenance},
	{"cluster", 1, (*generator).cluster},
}

func generate(seed uint64) *program {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0x5170)), p: &program{seed: seed}, ids: map[int][]int64{}, nextID: map[int]int64{}}
	if g.IntN(4) == 0 {
		g.big = 8 << 20
	}
	weights, total := make([]int, len(kinds)), 0
	for i, k := range kinds {
		weights[i] = k.weight * (1 + g.IntN(6))
		if g.IntN(5) == 0 {
			weights[i] = 0
		}
		total += weights[i]
	}
	for n := 5 + g.IntN(60); len(g.p.steps) < n && total > 0; {
		at := g.IntN(total)
		for i, w := range weights {
			if at -= w; at < 0 {
				kinds[i].make(g)
				break
			}
		}
	}
	if g.one(12) {
		g.expiry()
	}
	if g.one(25) {
		g.largeEvents()
	}
	return g.p
}

func (g *generator) add(call string, request proto.Message) *step {
	s := &step{client: g.IntN(nClients), call: call, request: request}
	g.p.steps = append(g.p.steps, s)
	return s
}

// wrote: a good half of what is asked for changes something.
func (g *generator) wrote() {
	if g.IntN(5) < 3 {
		g.revisions++
	}
}

func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

// ---- values

var alphabet = []string{"a", "b", "c", "ab", "abc", "a\x00", "b\x00", "d", "e", "f", "\x00", "\xff", "\xff\xff", "a/1", "a/2", "a/3", "a0"}

func (g *generator) key() []byte {
	if g.one(40) {
		return pick(g, nil, []byte("\x00\x00"), []byte("key of some length, with\nodd \xc3\x28 bytes"), large(3000))
	}
	// The first ones come often.
	return []byte(alphabet[min(g.IntN(len(alphabet)), g.IntN(len(alphabet)))])
}

// span makes a range's end, for a key.
func (g *generator) span(key []byte) []byte {
	switch g.IntN(12) {
	case 0, 1, 2, 3:
		return nil
	case 4, 5:
		return []byte{0}
	case 6:
		return append(append([]byte{}, key...), 0)
	case 7:
		if len(key) == 0 || key[len(key)-1] == 0xff {
			return []byte{0}
		}
		end := append([]byte{}, key...)
		end[len(end)-1]++
		return end
	case 8:
		return key
	}
	return g.key()
}

func (g *generator) value() []byte {
	switch n := g.IntN(40); {
	case n < 4:
		return nil
	case n < 6:
		return pick(g, []byte{0}, []byte("\xff\x00\xfe"), []byte("k\x00"))
	case n < 8:
		return large(g.IntN(5000))
	case n == 8 && g.big > 0:
		// Around etcd's limit of 1.5 MiB for a request, and the one of gRPC above it.
		size := pick(g, 1<<20, 1572864-100-g.IntN(50), 1572864+g.IntN(100), 2097152-100+g.IntN(200), 300000)
		g.big -= size
		return large(size)
	}
	return []byte(pick(g, "x", "y", "z", "value", "xx"))
}

// revision makes one in the past, present, future, or an odd one.
func (g *generator) revision() int64 {
	switch g.IntN(14) {
	case 0:
		return pick(g, int64(-1), 1, 2, math.MaxInt64, math.MinInt64)
	case 1:
		return baseRevision + g.revisions + g.Int64N(5)
	case 2:
		return baseRevision + g.compacted + g.Int64N(3) - 1
	}
	return baseRevision + g.Int64N(g.revisions+2)
}

func (g *generator) leaseID() int64 {
	if len(g.leases) > 0 && !g.one(5) {
		return pick(g, g.leases...)
	}
	return pick(g, 0, 1, 2, 3, -1, 77, firstSlot, math.MaxInt64, math.MinInt64)
}

// ---- KV

func (g *generator) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{Key: g.key()}
	if g.one(3) {
		r.Key = []byte{0}
		r.RangeEnd = []byte{0}
	} else {
		r.RangeEnd = g.span(r.Key)
	}
	if g.one(2) {
		r.Limit = pick(g, int64(0), 1, 2, 3, 5, 1000, -1, math.MaxInt64)
	}
	if g.one(2) {
		r.Revision = g.revision()
	}
	if g.one(2) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.IntN(5))
		if g.one(20) {
			r.SortOrder = pick(g, pb.RangeRequest_SortOrder(3), -1, 100)
		}
		if g.one(20) {
			r.SortTarget = pick(g, pb.RangeRequest_SortTarget(5), -1, 100)
		}
	}
	r.Serializable, r.KeysOnly, r.CountOnly = g.one(4), g.one(4), g.one(6)
	bound := func() int64 {
		if g.one(6) {
			return pick(g, int64(-1), 1, math.MaxInt64)
		}
		return baseRevision + g.Int64N(g.revisions+2)
	}
	if g.one(6) {
		r.MinModRevision = bound()
	}
	if g.one(6) {
		r.MaxModRevision = bound()
	}
	if g.one(8) {
		r.MinCreateRevision = bound()
	}
	if g.one(8) {
		r.MaxCreateRevision = bound()
	}
	return r
}

func (g *generator) streamRequest() *pb.RangeRequest {
	r := g.rangeRequest()
	if !g.one(5) { // what a stream does not offer
		r.SortOrder, r.SortTarget = pick(g, pb.RangeRequest_NONE, pb.RangeRequest_ASCEND), pb.RangeRequest_KEY
		r.MinModRevision, r.MaxModRevision, r.MinCreateRevision, r.MaxCreateRevision = 0, 0, 0, 0
	}
	return r
}

func (g *generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value(), PrevKv: g.one(3)}
	if g.one(4) {
		r.Lease = g.leaseID()
	}
	if g.one(10) {
		r.IgnoreValue = true
		if !g.one(4) {
			r.Value = nil
		}
	}
	if g.one(10) {
		r.IgnoreLease = true
		if !g.one(4) {
			r.Lease = 0
		}
	}
	return r
}

func (g *generator) deleteRange() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: g.key(), PrevKv: g.one(2)}
	r.RangeEnd = g.span(r.Key)
	if len(r.RangeEnd) == 1 && g.one(2) { // all of them are gone too often otherwise
		r.RangeEnd = nil
	}
	return r
}

func (g *generator) compact() {
	r := &pb.CompactionRequest{Revision: g.revision(), Physical: g.one(3)}
	if n := r.Revision - baseRevision; n > g.compacted && n <= g.revisions {
		g.compacted = n
	}
	g.add("KV/Compact", r)
}
