package main

// Many clients at once. Each has keys of its own, so that what it is answered and told does not depend on the others, but for the
// numbers of the revisions: those are written as the client's own writes, in order. So both sides must agree on each client's answers
// and events; and on each side by itself, all revisions that there were must read as the events say.

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	nRacers    = 8
	nRacerOps  = 40
	nRacerKeys = 5
)

func racerPrefix(n int) []byte { return []byte{'w', byte('0' + n), '/'} }

// racer is one client on one side.
type racer struct {
	side    *side
	number  int
	writes  []int64 // the revisions of its writes
	highest int64   // that an answer told it
	lines   []string
}

// racerOps are a client's requests: the same on both sides.
func racerOps(r *rand.Rand, number int) []*step {
	g := &generator{Rand: r, p: &program{}}
	prefix := racerPrefix(number)
	key := func() []byte { return append(slices.Clone(prefix), byte('a'+g.IntN(nRacerKeys))) }
	lease := int64(1000 + number)
	span := func() []byte {
		if g.one(2) {
			return nil
		}
		end := slices.Clone(prefix)
		end[len(end)-1]++
		return end
	}
	put := func() *pb.PutRequest {
		p := &pb.PutRequest{Key: key(), Value: g.value(), PrevKv: g.one(2)}
		if g.one(4) {
			p.Lease = lease
		}
		return p
	}
	list := func() *pb.RangeRequest {
		return &pb.RangeRequest{Key: key(), RangeEnd: span(), Limit: pick(g, int64(0), 0, 1, 3), SortOrder: pb.RangeRequest_SortOrder(g.IntN(3)),
			SortTarget: pb.RangeRequest_SortTarget(g.IntN(5)), KeysOnly: g.one(5), CountOnly: g.one(5)}
	}
	remove := func() *pb.DeleteRangeRequest {
		return &pb.DeleteRangeRequest{Key: key(), RangeEnd: span(), PrevKv: g.one(2)}
	}
	g.add("Lease/LeaseGrant", &pb.LeaseGrantRequest{ID: lease, TTL: 1000})
	for range nRacerOps {
		switch g.IntN(8) {
		case 0, 1, 2:
			g.add("KV/Put", put())
		case 3, 4:
			g.add("KV/Range", list())
		case 5:
			g.add("KV/DeleteRange", remove())
		default:
			t := &pb.TxnRequest{Compare: []*pb.Compare{{Key: key(), Target: pb.Compare_VERSION, Result: pb.Compare_CompareResult(g.IntN(4)), TargetUnion: &pb.Compare_Version{Version: g.Int64N(3)}}},
				Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put()}}, {Request: &pb.RequestOp_RequestRange{RequestRange: list()}}},
				Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: remove()}}, {Request: &pb.RequestOp_RequestRange{RequestRange: list()}}}}
			g.add("KV/Txn", t)
		}
	}
	g.add("Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: lease})
	return g.p.steps
}

// wrote tells whether an answer is that of a write.
func wrote(response proto.Message) bool {
	switch r := response.(type) {
	case *pb.PutResponse:
		return true
	case *pb.DeleteRangeResponse:
		return r.Deleted > 0
	case *pb.TxnResponse:
		for _, op := range r.Responses {
			if op.GetResponsePut() != nil || op.GetResponseDeleteRange().GetDeleted() > 0 {
				return true
			}
		}
	}
	return false
}

// own writes revisions as this client's writes, and takes out those of headers, which others' writes move.
func (r *racer) own(message proto.Message) string {
	message = proto.Clone(message)
	m := mapping{signed: func(field protoreflect.FieldDescriptor, n int64) int64 {
		if !isRevision(field) {
			return n
		}
		if field.Name() == "revision" {
			return 0
		}
		return int64(slices.Index(r.writes, n) + 1)
	}}
	m.apply(message.ProtoReflect())
	return r.side.normalised("", message)
}

func (r *racer) run(steps []*step) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*callTimeout)
	defer cancel()
	c, err := r.side.racers[r.number], error(nil)
	for _, each := range steps {
		_, out, _ := messageTypes(each.call)
		response := out.New().Interface()
		if err = c.Invoke(ctx, "/etcdserverpb."+each.call, r.side.resolve(each.request), response); err != nil {
			r.lines = append(r.lines, outcome(err))
			continue
		}
		told := response.(interface{ GetHeader() *pb.ResponseHeader }).GetHeader().GetRevision()
		if told < r.highest {
			r.lines = append(r.lines, fmt.Sprintf("answered at %+d after %+d", told-r.side.base, r.highest-r.side.base))
		}
		if wrote(response) {
			if len(r.writes) > 0 && told <= r.writes[len(r.writes)-1] {
				r.lines = append(r.lines, fmt.Sprintf("a write at %+d after one at %+d", told-r.side.base, r.highest-r.side.base))
			}
			r.writes = append(r.writes, told)
		}
		r.highest = max(r.highest, told)
		r.lines = append(r.lines, r.own(response))
	}
}

// race lets them run on all sides and compares.
func race(seed uint64, sides []*side) error {
	programs := make([][]*step, nRacers)
	for i := range programs {
		programs[i] = racerOps(rand.New(rand.NewPCG(seed, uint64(i))), i)
	}
	results := make([][]*racer, len(sides))
	var group sync.WaitGroup
	for n, s := range sides {
		s.racers = nil
		for i := range nRacers {
			r := &racer{side: s, number: i}
			results[n] = append(results[n], r)
			c, err := s.client(100 + i)
			if err != nil {
				return err
			}
			s.racers = append(s.racers, c)
			w, err := s.openStream(100+i, i+1)
			if err != nil {
				return err
			}
			s.mu.Lock()
			s.streams[i+1] = w
			s.order = append(s.order, w)
			s.mu.Unlock()
			end := racerPrefix(i)
			end[len(end)-1]++
			if err := w.create(&pb.WatchCreateRequest{Key: racerPrefix(i), RangeEnd: end, PrevKv: true, StartRevision: s.base + 1}); err != nil {
				return err
			}
		}
		if !s.wait(func() bool { return !slices.ContainsFunc(s.order, func(w *watchStream) bool { return w.created == 0 }) }) {
			return fmt.Errorf("%s: watches are not created", s.name)
		}
	}
	for n := range sides {
		for i, r := range results[n] {
			group.Go(func() { r.run(programs[i]) })
		}
	}
	group.Wait()

	told := make([][]string, len(sides))
	for n, s := range sides {
		lines, err := s.afterRace(results[n])
		if err != nil {
			return err
		}
		told[n] = lines
	}
	for n := range sides[1:] {
		for i := range max(len(told[0]), len(told[n+1])) {
			if i >= len(told[0]) || i >= len(told[n+1]) || told[0][i] != told[n+1][i] {
				return fmt.Errorf("%s and %s differ:\n  %s\n  %s", sides[0].name, sides[n+1].name, lineOf(told[0], i), lineOf(told[n+1], i))
			}
		}
	}
	return nil
}

func lineOf(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "nothing more"
}

// afterRace waits for all events, looks whether this side agrees with itself, and tells what must be the same on the other.
func (s *side) afterRace(racers []*racer) ([]string, error) {
	var lines []string
	for _, r := range racers {
		s.revision = max(s.revision, r.highest)
	}
	if wrong := s.settle(); len(wrong) > 0 {
		return nil, fmt.Errorf("%s: %s", s.name, strings.Join(wrong, "\n"))
	}
	state, next := map[string]*mvccpb.KeyValue{}, 0
	for revision := s.base + 1; revision <= s.revision; revision++ {
		owner, before := -1, next
		for ; next < len(s.history) && s.history[next].event.Kv.ModRevision <= revision; next++ {
			e := s.history[next].event
			if e.Kv.ModRevision < revision {
				continue
			}
			number := int(e.Kv.Key[1] - '0')
			if owner >= 0 && owner != number {
				return nil, fmt.Errorf("%s: %+d has events of two clients", s.name, revision-s.base)
			}
			if owner = number; e.Type == mvccpb.Event_DELETE {
				delete(state, string(e.Kv.Key))
			} else {
				state[string(e.Kv.Key)] = e.Kv
			}
			racers[number].lines = append(racers[number].lines, racers[number].own(e))
		}
		if next == before {
			return nil, fmt.Errorf("%s: there is no event of %+d", s.name, revision-s.base)
		}
		list, err := ask(s, "KV/Range", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision}, &pb.RangeResponse{})
		if err != nil {
			return nil, err
		}
		if int(list.Count) != len(state) || len(list.Kvs) != len(state) {
			return nil, fmt.Errorf("%s: at %+d are %d keys (count %d), by the events %d", s.name, revision-s.base, len(list.Kvs), list.Count, len(state))
		}
		for i, kv := range list.Kvs {
			if !proto.Equal(kv, state[string(kv.Key)]) || i > 0 && bytes.Compare(list.Kvs[i-1].Key, kv.Key) >= 0 {
				return nil, fmt.Errorf("%s: at %+d is %s, by the events %s", s.name, revision-s.base, render(kv, s.base), render(state[string(kv.Key)], s.base))
			}
		}
	}
	for _, r := range racers {
		for _, line := range r.lines {
			lines = append(lines, fmt.Sprintf("client %d: %s", r.number, line))
		}
	}
	return lines, nil
}
