package main

// Runs a program on both sides, step by step: a step is sent to all sides at once, and is over when all that it makes has arrived on
// their watches. What a side answered to a step is a list of lines, which is all that is compared.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A lease that may expire by itself makes a program's answers a matter of time as soon as its least time may be over.
const (
	shortLease = 30 // seconds
	leastTime  = 1500 * time.Millisecond
)

// difference is what a failing program ends with.
type difference struct {
	at      int
	step    *step
	answers [][]string // of each side
	sides   []*side
}

type verdict struct {
	difference *difference
	void       bool // it took too long for its leases: nothing is known
}

func (d *difference) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "step %d: %s\n", d.at, d.step)
	for i, s := range d.sides {
		fmt.Fprintf(&b, "  %s:\n", s.name)
		for _, line := range d.answers[i] {
			mark := ' '
			if !slices.Contains(d.answers[len(d.sides)-1-i], line) {
				mark = '*'
			}
			fmt.Fprintf(&b, "   %c %s\n", mark, line)
		}
		if len(d.answers[i]) == 0 {
			b.WriteString("     nothing\n")
		}
	}
	return b.String()
}

// tally counts how etcd answered: that most programs get somewhere.
var tally = map[string]int{}

func count(each *step, answer []string) {
	kind := "OK"
	if len(answer) > 0 {
		if m := errorLine.FindStringSubmatch(answer[0]); m != nil {
			kind = m[0]
		}
	}
	tally[each.call+": "+kind]++
}

var errorLine = regexp.MustCompile(`^[A-Z][A-Za-z]+ ".*"$`)

// run executes a program. Both sides must have been reset.
func run(p *program, sides []*side) verdict {
	for i, each := range p.steps {
		for _, s := range sides {
			if s.late(each) {
				return verdict{void: true}
			}
		}
		if each.call == callRestart {
			if err := restart(sides); err != nil {
				fail("%v", err)
			}
			continue
		}
		answers := make([][]string, len(sides))
		var group sync.WaitGroup
		for n, s := range sides {
			group.Go(func() { answers[n] = s.step(each) })
		}
		group.Wait()
		count(each, answers[0])
		// Where the server chose leases, they are in the hash.
		if len(sides) > 2 && len(sides[1].slots) == 0 && sides[1].hash != sides[2].hash {
			return verdict{difference: &difference{i, each, [][]string{{fmt.Sprint(sides[1].hash)}, {fmt.Sprint(sides[2].hash)}}, sides[1:]}}
		}
		for n := range sides[1:] {
			if !slices.Equal(answers[0], answers[n+1]) {
				for _, s := range sides {
					if s.late(nil) {
						return verdict{void: true}
					}
				}
				return verdict{difference: &difference{i, each, [][]string{answers[0], answers[n+1]}, []*side{sides[0], sides[n+1]}}}
			}
		}
	}
	return verdict{}
}

// late: a lease may have expired by itself by now. To wait for that is what a wait is for.
func (s *side) late(next *step) bool {
	for id, since := range s.short {
		if next != nil && next.call == callWait && s.resolve(next.request).(*pb.LeaseTimeToLiveRequest).ID == id {
			continue
		}
		if time.Since(since) > leastTime {
			return true
		}
	}
	return false
}

func (s *side) step(each *step) []string {
	var lines []string
	s.hash = 0
	fail := func(err error) { lines = append(lines, "harness: "+err.Error()) }
	switch each.call {
	case callWatch, callWatchClose:
		if err := s.watchStep(each); err != nil {
			fail(err)
		}
	case callKeepAlive, callKeepAliveClose:
		lines = s.keepAliveStep(each)
	case callRangeStream, callSnapshot:
		lines = s.streamed(each)
	case callWait:
		lines = s.waitExpired(each)
	default:
		lines = s.unary(each)
	}
	if reason := s.exempt(each); reason != "" {
		lines = []string{"not compared: " + reason}
	}
	lines = append(lines, s.settle()...)
	return append(lines, s.watchLines()...)
}

// ---- unary calls

func outcome(err error) string {
	st := status.Convert(err)
	return fmt.Sprintf("%s %q", st.Code(), st.Message())
}

func (s *side) unary(each *step) []string {
	_, out, err := messageTypes(each.call)
	if err != nil {
		return []string{"harness: " + err.Error()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	c, err := s.client(each.client)
	if err != nil {
		return []string{"harness: " + err.Error()}
	}
	request, response := s.resolve(each.request), out.New().Interface()
	if anySpread {
		notSerializable(request.ProtoReflect())
	}
	if reason := s.unsent(request); reason != "" {
		return []string{"not sent: " + reason}
	}
	sent := time.Now()
	if err := c.Invoke(ctx, "/etcdserverpb."+each.call, request, response); err != nil {
		return []string{s.fault.onError(outcome(err))}
	}
	s.fault.onResponse(each.call, response)
	if err := s.learn(each, request, response, sent); err != nil {
		return []string{"harness: " + err.Error()}
	}
	orderTies(request, response)
	return []string{s.normalised(each.call, response)}
}

// learn keeps what later steps need.
func (s *side) learn(each *step, request, response proto.Message, sent time.Time) error {
	if r, ok := response.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		s.revision = max(s.revision, r.GetHeader().GetRevision())
	}
	switch r := response.(type) {
	case *pb.CompactionResponse:
		s.compacted = max(s.compacted, request.(*pb.CompactionRequest).Revision)
		s.compactions[s.compacted] = true
		if err := s.catchUp(); err != nil {
			return err
		}
	case *pb.LeaseGrantResponse:
		if request.(*pb.LeaseGrantRequest).ID == 0 {
			s.slots[each.slot], s.slotOf[r.ID] = r.ID, each.slot
		}
		if r.TTL < shortLease {
			s.short[r.ID] = sent
		}
	case *pb.HashKVResponse:
		s.hash = r.Hash
	case *pb.LeaseRevokeResponse:
		delete(s.short, request.(*pb.LeaseRevokeRequest).ID)
	}
	return nil
}

// ---- streams of answers

func (s *side) streamed(each *step) []string {
	_, out, err := messageTypes(each.call)
	if err != nil {
		return []string{"harness: " + err.Error()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	c, err := s.client(each.client)
	if err != nil {
		return []string{"harness: " + err.Error()}
	}
	request := s.resolve(each.request)
	if anySpread {
		notSerializable(request.ProtoReflect())
	}
	stream, err := c.NewStream(ctx, streamDesc, "/etcdserverpb."+each.call)
	if err == nil {
		err = stream.SendMsg(request)
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = stream.CloseSend()
	}
	whole, n := &pb.RangeResponse{}, 0
	var snapshot snapshotFile
	var lines []string
	for err == nil {
		response := out.New().Interface()
		if err = stream.RecvMsg(response); err != nil {
			break
		}
		n++
		if piece, ok := response.(*pb.SnapshotResponse); ok {
			snapshot.add(piece)
		}
		if chunk, ok := response.(*pb.RangeStreamResponse); ok {
			if whole.Header != nil {
				lines = append(lines, "a chunk after the one with the header")
			}
			r := chunk.GetRangeResponse()
			whole.Kvs = append(whole.Kvs, r.GetKvs()...)
			whole.Header, whole.More, whole.Count = r.GetHeader(), r.GetMore(), r.GetCount()
			if whole.Header == nil && (r.GetMore() || r.GetCount() != 0) {
				lines = append(lines, "more or count without a header")
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		// How much of it came before is a matter of time.
		return append(lines, outcome(err))
	}
	if each.call == callSnapshot {
		return append(lines, s.snapshotLines(&snapshot)...)
	}
	s.revision = max(s.revision, whole.Header.GetRevision())
	s.fault.onResponse(each.call, whole)
	return append(lines, s.normalised(each.call, whole))
}

// ---- keep-alives

type keepAliveStream struct {
	stream grpc.ClientStream
	cancel context.CancelFunc
}

func (s *side) keepAliveStep(each *step) []string {
	k := s.keepAlives[each.stream]
	if k == nil {
		c, err := s.client(each.client)
		if err != nil {
			return []string{"harness: " + err.Error()}
		}
		ctx, cancel := context.WithCancel(context.Background())
		stream, err := c.NewStream(ctx, streamDesc, "/etcdserverpb."+callKeepAlive)
		if err != nil {
			cancel()
			return []string{outcome(err)}
		}
		k = &keepAliveStream{stream, cancel}
		s.keepAlives[each.stream] = k
	}
	if each.call == callKeepAliveClose {
		_ = k.stream.CloseSend()
	} else if request := s.resolve(each.request); k.stream.SendMsg(request) == nil {
		if id := request.(*pb.LeaseKeepAliveRequest).ID; !s.short[id].IsZero() {
			s.short[id] = time.Now()
		}
	}
	// An answer, or the stream's end, comes of either.
	timer := time.AfterFunc(callTimeout, k.cancel)
	defer timer.Stop()
	response := &pb.LeaseKeepAliveResponse{}
	if err := k.stream.RecvMsg(response); err != nil {
		delete(s.keepAlives, each.stream) // the next one opens it anew
		return []string{"ended: " + endText(err)}
	}
	s.fault.onResponse(each.call, response)
	s.revision = max(s.revision, response.Header.GetRevision())
	return []string{s.normalised(each.call, response)}
}

// waitExpired waits until a lease is gone.
func (s *side) waitExpired(each *step) []string {
	request := s.resolve(each.request).(*pb.LeaseTimeToLiveRequest)
	if _, ok := s.short[request.ID]; !ok {
		return []string{"it will not expire"}
	}
	for deadline := time.Now().Add(settleTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		r, err := ask(s, "Lease/LeaseTimeToLive", request, &pb.LeaseTimeToLiveResponse{})
		if err != nil {
			return []string{outcome(err)}
		}
		if r.TTL == -1 {
			delete(s.short, request.ID)
			s.revision = max(s.revision, r.Header.GetRevision())
			return []string{s.normalised(each.call, r)}
		}
	}
	return []string{"it does not expire"}
}

// ---- watches

func (s *side) watchStep(each *step) error {
	w := s.streams[each.stream]
	if w == nil {
		var err error
		if w, err = s.openStream(each.client, each.stream); err != nil {
			return err
		}
		s.mu.Lock()
		s.streams[each.stream] = w
		s.order = append(s.order, w)
		s.mu.Unlock()
	}
	s.mu.Lock()
	closed := w.halfClosed
	w.halfClosed = closed || each.call == callWatchClose
	s.mu.Unlock()
	if closed {
		return nil // nothing can be sent on it any more; what is watched goes on
	}
	if each.call == callWatchClose {
		return w.stream.CloseSend()
	}
	return w.request(s.resolve(each.request).(*pb.WatchRequest))
}

// watchLines tells what arrived on the watches since the last step.
func (s *side) watchLines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	show := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, w := range append([]*watchStream{s.oracle}, s.order...) {
		name := fmt.Sprintf("stream %d", w.number)
		if w == s.oracle {
			name = "all keys"
		}
		for n, each := range w.watches {
			if each.loose != "" {
				continue
			}
			for ; each.answered < len(each.answers); each.answered++ {
				show("%s, watch %d: %s", name, n, s.normalised(callWatch, each.answers[each.answered]))
			}
			for ; each.shown < len(each.events); each.shown++ {
				show("%s, watch %d: %s", name, n, s.normalised(callWatch, each.events[each.shown]))
			}
		}
		for _, revision := range w.progress {
			if !w.loose {
				show("%s: progress %+d", name, revision-s.base)
			}
		}
		w.progress, w.wanted = nil, 0
		if w.end != nil {
			show("%s: ended: %s", name, endText(w.end))
		}
	}
	return lines
}
