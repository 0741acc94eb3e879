package main

// Watch streams of one side, and what must arrive on them. The oracle is a watch of all keys since the program's begin: what it
// has been sent says for every other watch what that must be sent, exactly; so a step is over when all of it has arrived, and
// whatever comes besides is wrong. This holds on each side by itself: Filter, Ordered, Unique, Atomic, Reliable, PrevKV.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const noWatch = -1

var streamDesc = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

type historyEvent struct{ event *mvccpb.Event }

func removal(revision int64) *historyEvent {
	return &historyEvent{&mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: resetKey, ModRevision: revision}}}
}

// watch is one create request and all that came of it.
type watch struct {
	request *pb.WatchCreateRequest
	id      int64 // once created
	from    int64 // the first revision that it must tell
	active  bool
	// It begins below what is compacted: it must be cancelled.
	doomed bool
	// Why what it is sent is not compared: see differences.go.
	loose string

	answers  []*pb.WatchResponse // created, canceled
	events   []*mvccpb.Event
	open     bool  // the last response was a fragment: more of the revision follows
	header   int64 // the highest header of a response with events or of progress
	wrong    []string
	next     int // of the history: what is looked at next
	expected []*mvccpb.Event
	shown    int // of events, for the report of a step
	answered int // of answers, likewise
}

type watchStream struct {
	side   *side
	number int
	stream grpc.ClientStream
	cancel context.CancelFunc

	// Under the side's lock.
	watches  []*watch // in the order of the requests
	byID     map[int64]*watch
	created  int // answers to create requests
	cancels  int // answers that are outstanding
	progress []int64
	wanted   int // answers to progress requests that must come
	// Watches that the server cancelled and the client has not: etcd keeps them in its books.
	zombies    map[int64]bool
	loose      bool // how often progress is told is not compared any more: differences.go says why
	unexpected []string
	end        error // io.EOF: with OK
	halfClosed bool
}

func (s *side) openStream(client, number int) (*watchStream, error) {
	c, err := s.client(client)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := c.NewStream(ctx, streamDesc, "/etcdserverpb.Watch/Watch")
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%s: a watch stream: %w", s.name, err)
	}
	w := &watchStream{side: s, number: number, stream: stream, cancel: cancel, byID: map[int64]*watch{}, zombies: map[int64]bool{}}
	go w.receive()
	return w, nil
}

func (w *watchStream) receive() {
	for {
		response := &pb.WatchResponse{}
		err := w.stream.RecvMsg(response)
		w.side.mu.Lock()
		if err != nil {
			w.end = err
		} else {
			w.side.fault.onWatch(response)
			w.take(response)
		}
		w.side.mu.Unlock()
		w.side.notify()
		if err != nil {
			return
		}
	}
}

func (w *watchStream) take(r *pb.WatchResponse) {
	switch {
	case r.Created:
		if w.created == len(w.watches) {
			w.unexpected = append(w.unexpected, "created, where nothing was asked: "+render(r, w.side.base))
			return
		}
		created := w.watches[w.created]
		w.created++
		created.answers = append(created.answers, r)
		if !r.Canceled {
			created.id, created.active = r.WatchId, true
			w.byID[r.WatchId] = created
		}
	case r.Canceled:
		cancelled := w.byID[r.WatchId]
		if cancelled == nil {
			w.unexpected = append(w.unexpected, "canceled, but there is no such watch: "+render(r, w.side.base))
			return
		}
		cancelled.answers = append(cancelled.answers, r)
		if r.CompactRevision != 0 {
			w.zombies[r.WatchId] = true
		} else {
			w.cancels--
		}
		cancelled.active = false
	case len(r.Events) == 0 && r.WatchId == noWatch:
		w.progress = append(w.progress, r.Header.GetRevision())
		for _, each := range w.byID {
			each.header = max(each.header, r.Header.GetRevision())
			if each.active && each.request.StartRevision > r.Header.GetRevision() {
				w.unexpected = append(w.unexpected, fmt.Sprintf("progress %+d, where watch %d begins at %+d", r.Header.GetRevision()-w.side.base, each.id, each.request.StartRevision-w.side.base))
			}
		}
	case w.byID[r.WatchId] == nil:
		w.unexpected = append(w.unexpected, "of no watch: "+render(r, w.side.base))
	default:
		w.byID[r.WatchId].takeEvents(r, w.side.base)
	}
}

func (w *watch) takeEvents(r *pb.WatchResponse, base int64) {
	complain := func(format string, args ...any) {
		w.wrong = append(w.wrong, fmt.Sprintf(format, args...)+" in "+render(r, base))
	}
	if !w.active {
		complain("events of a watch that was cancelled")
	}
	for i, e := range r.Events {
		revision := e.Kv.GetModRevision()
		if len(w.events) > 0 {
			last := w.events[len(w.events)-1].Kv.GetModRevision()
			if revision < last {
				complain("%+d after %+d", revision-base, last-base)
			} else if i == 0 && revision == last && !w.open {
				complain("events of %+d in two responses", revision-base)
			}
		}
		if revision <= w.header && !(i == 0 && w.open) && (i == 0 || r.Events[i-1].Kv.GetModRevision() != revision) {
			complain("an event of %+d after a header of %+d", revision-base, w.header-base)
		}
		if revision > r.Header.GetRevision() {
			complain("an event of %+d under a header of %+d", revision-base, r.Header.GetRevision()-base)
		}
		w.events = append(w.events, e)
	}
	if w.open = r.Fragment; !r.Fragment {
		w.header = max(w.header, r.Header.GetRevision())
	} else if w.request != nil && !w.request.Fragment {
		complain("a fragment that nobody wanted")
	}
}

// ---- the oracle

func (s *side) openOracle(from int64) error {
	w, err := s.openStream(0, 0)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.oracle = w
	s.mu.Unlock()
	if err := w.create(&pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from, PrevKv: true}); err != nil {
		return err
	}
	if !s.wait(func() bool { return w.created > 0 || w.end != nil }) {
		return fmt.Errorf("%s: a watch of all keys is not created", s.name)
	}
	return nil
}

// readHistory takes over what the oracle has been sent. Under the lock.
func (s *side) readHistory() {
	o := s.oracle.watches[0]
	for ; o.next < len(o.events); o.next++ {
		s.history = append(s.history, &historyEvent{o.events[o.next]})
	}
}

// expect adds what the history has for a watch. Under the lock.
func (s *side) expect(w *watch) {
	for ; w.next < len(s.history); w.next++ {
		e := s.history[w.next].event
		if w.doomed || !w.active || e.Kv.ModRevision < w.from || !watches(w.request, e.Kv.Key) {
			continue
		}
		if (e.Type == mvccpb.Event_PUT && slices.Contains(w.request.Filters, pb.WatchCreateRequest_NOPUT)) ||
			(e.Type == mvccpb.Event_DELETE && slices.Contains(w.request.Filters, pb.WatchCreateRequest_NODELETE)) {
			continue
		}
		if !w.request.PrevKv && e.PrevKv != nil {
			e = proto.Clone(e).(*mvccpb.Event)
			e.PrevKv = nil
		}
		w.expected = append(w.expected, e)
	}
}

func watches(r *pb.WatchCreateRequest, key []byte) bool {
	from := r.Key
	if len(from) == 0 {
		from = []byte{0}
	}
	switch {
	case len(r.RangeEnd) == 0:
		return bytes.Equal(key, from)
	case len(r.RangeEnd) == 1 && r.RangeEnd[0] == 0:
		return bytes.Compare(key, from) >= 0
	}
	return bytes.Compare(key, from) >= 0 && bytes.Compare(key, r.RangeEnd) < 0
}

// ---- requests

func (w *watchStream) send(r *pb.WatchRequest) error {
	if err := w.stream.SendMsg(r); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil // of a stream that has ended the end is told
}

func (w *watchStream) create(r *pb.WatchCreateRequest) error {
	s := w.side
	if anySpread && r.StartRevision == 0 { // what is "now" at an endpoint that is behind is its own
		r.StartRevision = s.revision + 1
	}
	created := &watch{request: r, from: r.StartRevision}
	if r.StartRevision <= 0 {
		created.from = s.revision + 1
	}
	if r.StartRevision > 0 && r.StartRevision <= s.revision {
		created.doomed = r.StartRevision < s.compacted
		s.unsynced = true
		if r.StartRevision == s.compacted && r.PrevKv {
			created.loose, w.loose = prevKvAtCompaction, true // one side may have cancelled it
		}
	}
	s.mu.Lock()
	w.watches = append(w.watches, created)
	s.mu.Unlock()
	return w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

func (w *watchStream) request(r *pb.WatchRequest) error {
	s := w.side
	if c := r.GetCreateRequest(); c != nil {
		return w.create(c)
	}
	s.mu.Lock()
	if c := r.GetCancelRequest(); c != nil {
		if cancelled := w.byID[c.WatchId]; cancelled != nil && (cancelled.active || w.zombies[c.WatchId]) {
			w.cancels++
			cancelled.active = false
		}
		delete(w.zombies, c.WatchId)
	}
	if r.GetProgressRequest() != nil {
		if w.tellsProgress() {
			w.wanted++
		} else {
			w.loose = true
		}
	}
	s.mu.Unlock()
	return w.send(r)
}

// tellsProgress: there is a watch, and all have begun. Under the lock.
func (w *watchStream) tellsProgress() bool {
	any := false
	for _, each := range w.watches {
		if each.active {
			any = true
			if each.request.StartRevision > w.side.revision {
				return false
			}
		}
	}
	return any && len(w.zombies) == 0
}

// ---- the end of a step

// missing says what has yet to arrive; "" if nothing. Under the lock.
func (s *side) missing() string {
	if s.oracle.end != nil {
		return ""
	}
	s.readHistory()
	if told := s.told(); told < s.revision {
		return fmt.Sprintf("the watch of all keys is at %+d, an answer told %+d", told-s.base, s.revision-s.base)
	}
	for _, w := range s.order {
		if w.end != nil {
			continue
		}
		if w.created < len(w.watches) {
			return fmt.Sprintf("stream %d: %d watches were asked for, %d answered", w.number, len(w.watches), w.created)
		}
		if w.cancels > 0 {
			return fmt.Sprintf("stream %d: no answer to a cancel", w.number)
		}
		if len(w.progress) < w.wanted && !w.loose {
			return fmt.Sprintf("stream %d: no answer to a request for progress", w.number)
		}
		for _, each := range w.watches {
			s.expect(each)
			if each.loose != "" {
				continue
			}
			if each.doomed && each.active {
				return fmt.Sprintf("stream %d, watch %d: begins at %+d, which is compacted, and is not cancelled", w.number, each.id, each.from-s.base)
			}
			if len(each.events) < len(each.expected) {
				return fmt.Sprintf("stream %d, watch %d: no event %s", w.number, each.id, render(each.expected[len(each.events)], s.base))
			}
		}
	}
	return ""
}

// The revision up to which the history is known.
func (s *side) told() int64 {
	if len(s.history) == 0 {
		return s.base
	}
	return max(s.base, s.history[len(s.history)-1].event.Kv.ModRevision)
}

// settle waits until all has arrived that must; what is wrong is returned.
func (s *side) settle() []string {
	var wrong []string
	last := ""
	if !s.wait(func() bool { last = s.missing(); return last == "" }) {
		wrong = append(wrong, "missing: "+last)
	}
	if s.real && s.unsynced {
		for deadline := time.Now().Add(settleTimeout); ; time.Sleep(5 * time.Millisecond) {
			n, err := s.slowWatchers()
			if err == nil && n == 0 {
				break
			}
			if time.Now().After(deadline) {
				wrong = append(wrong, fmt.Sprintf("%d watches are not caught up (%v)", n, err))
				break
			}
		}
	}
	s.unsynced = false

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range append([]*watchStream{s.oracle}, s.order...) {
		wrong = append(wrong, w.unexpected...)
		w.unexpected = nil
		for _, each := range w.watches {
			if each.loose == "" {
				wrong = append(wrong, each.check(w, s.base)...)
			}
			each.wrong = nil
		}
	}
	return wrong
}

func (w *watch) check(stream *watchStream, base int64) []string {
	var wrong []string
	for _, complaint := range w.wrong {
		wrong = append(wrong, fmt.Sprintf("stream %d, watch %d: %s", stream.number, w.id, complaint))
	}
	if stream.number == 0 {
		return wrong
	}
	for i, e := range w.events {
		if i >= len(w.expected) {
			wrong = append(wrong, fmt.Sprintf("stream %d, watch %d: one event too many: %s", stream.number, w.id, render(e, base)))
		} else if !proto.Equal(e, w.expected[i]) {
			wrong = append(wrong, fmt.Sprintf("stream %d, watch %d: %s where the watch of all keys has %s", stream.number, w.id, render(e, base), render(w.expected[i], base)))
		}
	}
	return wrong
}

func endText(err error) string {
	if errors.Is(err, io.EOF) {
		return "OK"
	}
	st := status.Convert(err)
	return fmt.Sprintf("%s %q", st.Code(), st.Message())
}
