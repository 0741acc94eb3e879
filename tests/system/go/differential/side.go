package main

// One side of the comparison: an etcd or a tenant, its connections, and what a running program knows of it. Programs are run one after
// the other on the same servers: before each, everything is removed, both sides are brought to the same revision, and what lies before it
// is compacted away, so that they are as equal as two new ones.

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const callTimeout = 60 * time.Second

// What is still missing after this is missing: many times what the slowest build takes.
var settleTimeout = 60 * time.Second

type side struct {
	name      string
	real      bool // an etcd
	endpoints []string
	fault     *fault // for proofs: what this side does wrong
	clients   map[int]*grpc.ClientConn

	// Of the running program.
	base, revision int64 // where it began, and the newest revision that an answer told
	compacted      int64 // the last that was asked for and granted
	compactions    map[int64]bool
	member         uint64
	cluster        uint64
	slots          map[int]int64
	slotOf         map[int64]int
	short          map[int64]time.Time // leases that may expire while the program runs, and since when they are granted
	keepAlives     map[int]*keepAliveStream
	hash           uint32 // the last that HashKV told
	racers         []*grpc.ClientConn
	restarted      bool
	unsynced       bool // a watch was created that etcd has to catch up

	mu      sync.Mutex // of what the streams' receivers touch
	changed chan struct{}
	oracle  *watchStream
	history []*historyEvent // all events since base, as the oracle had them
	streams map[int]*watchStream
	order   []*watchStream
}

// anySpread: a side's clients are spread over several endpoints.
var anySpread bool

func newSide(name, endpoints string, real bool) *side {
	anySpread = anySpread || strings.Contains(endpoints, ",")
	return &side{name: name, real: real, endpoints: strings.Split(endpoints, ","), clients: map[int]*grpc.ClientConn{}, changed: make(chan struct{}, 1)}
}

// The connection of a logical client: each has its own, and they are spread over the endpoints.
func (s *side) client(n int) (*grpc.ClientConn, error) {
	if c := s.clients[n]; c != nil {
		return c, nil
	}
	endpoint := s.endpoints[n%len(s.endpoints)]
	target := strings.TrimPrefix(endpoint, "http://")
	if strings.HasPrefix(endpoint, "unix://") {
		target = "unix:" + strings.TrimPrefix(endpoint, "unix://")
	}
	c, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		// A daemon that comes back is found at once.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: 3 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32), grpc.WaitForReady(true)))
	if err != nil {
		return nil, err
	}
	s.clients[n] = c
	return c, nil
}

func (s *side) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// wait until the condition holds, which is looked at under the lock; false: not in time.
func (s *side) wait(condition func() bool) bool {
	timer := time.NewTimer(settleTimeout)
	defer timer.Stop()
	for {
		s.mu.Lock()
		holds := condition()
		s.mu.Unlock()
		if holds {
			return true
		}
		select {
		case <-s.changed:
		case <-timer.C:
			return false
		}
	}
}

// ask makes a call of the harness's own.
func ask[T proto.Message](s *side, call string, request proto.Message, response T) (T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	c, err := s.client(0)
	if err != nil {
		return response, err
	}
	if err := c.Invoke(ctx, "/etcdserverpb."+call, request, response); err != nil {
		return response, fmt.Errorf("%s: %s: %w", s.name, call, err)
	}
	return response, nil
}

func (s *side) closeStreams() {
	for _, w := range s.order {
		w.cancel()
	}
	if s.oracle != nil {
		s.oracle.cancel()
	}
	for _, k := range s.keepAlives {
		k.cancel()
	}
	// The streams' receivers hold on to what was theirs; nothing of it is looked at again.
	s.mu.Lock()
	s.oracle, s.streams, s.order = nil, map[int]*watchStream{}, nil
	s.mu.Unlock()
	s.keepAlives = map[int]*keepAliveStream{}
	s.unsynced = false
}

// clear ends what the last program left.
func (s *side) clear() error {
	s.closeStreams()
	s.history, s.restarted = nil, false
	s.slots, s.slotOf, s.short = map[int]int64{}, map[int64]int{}, map[int64]time.Time{}

	status, err := ask(s, "Maintenance/Status", &pb.StatusRequest{}, &pb.StatusResponse{})
	if err != nil {
		return err
	}
	s.member, s.cluster = status.Header.MemberId, status.Header.ClusterId
	alarms, err := ask(s, "Maintenance/Alarm", &pb.AlarmRequest{}, &pb.AlarmResponse{})
	if err != nil {
		return err
	}
	for _, a := range alarms.Alarms {
		if _, err := ask(s, "Maintenance/Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: a.MemberID, Alarm: a.Alarm}, &pb.AlarmResponse{}); err != nil {
			return err
		}
	}
	return nil
}

func (s *side) empty() error {
	leases, err := ask(s, "Lease/LeaseLeases", &pb.LeaseLeasesRequest{}, &pb.LeaseLeasesResponse{})
	if err != nil {
		return err
	}
	for _, l := range leases.Leases {
		// One that has just expired is as good.
		_, _ = ask(s, "Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: l.ID}, &pb.LeaseRevokeResponse{})
	}
	r, err := ask(s, "KV/DeleteRange", &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, &pb.DeleteRangeResponse{})
	if err != nil {
		return err
	}
	s.revision = r.Header.Revision
	return nil
}

var resetKey = []byte("reset")

func (s *side) advance(n int64) error {
	for range n {
		r, err := ask(s, "KV/Put", &pb.PutRequest{Key: resetKey}, &pb.PutResponse{})
		if err != nil {
			return err
		}
		s.revision = r.Header.Revision
	}
	return nil
}

// begin ends the reset: everything goes but the newest revision, which is the removal of the one key, and the oracle is opened.
func (s *side) begin(fresh bool) error {
	s.compacted, s.compactions = 0, map[int64]bool{}
	if !fresh {
		if err := s.empty(); err != nil {
			return err
		}
		if _, err := ask(s, "KV/Compact", &pb.CompactionRequest{Revision: s.revision, Physical: true}, &pb.CompactionResponse{}); err != nil {
			return err
		}
		s.compacted = s.revision
		s.compactions[s.revision] = true
		s.history = []*historyEvent{removal(s.revision)}
	}
	s.base = s.revision
	if err := s.catchUp(); err != nil {
		return err
	}
	return s.openOracle(s.base + 1)
}

// catchUp reads through every endpoint. A daemon that writes before it has seen another's compaction may not be able to tell what became of
// its write, and answers "unavailable": by design, and nothing to compare.
func (s *side) catchUp() error {
	for i := range s.endpoints {
		if !anySpread {
			break
		}
		for begun := time.Now(); ; {
			err := s.read(i)
			if err == nil {
				break
			}
			// A daemon that waits in vain for its datastore says so after some seconds; under a heavy load that need not mean much.
			if status.Code(err) != codes.Unavailable || time.Since(begun) > settleTimeout {
				return fmt.Errorf("%s: %s: after %s: %w", s.name, s.endpoints[i], time.Since(begun), err)
			}
			time.Sleep(50 * time.Millisecond)
			fmt.Printf("%s: %s: after %s: %v; asked again\n", s.name, s.endpoints[i], time.Since(begun), err)
		}
	}
	return nil
}

func (s *side) read(client int) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	c, err := s.client(client)
	if err != nil {
		return err
	}
	return c.Invoke(ctx, "/etcdserverpb.KV/Range", &pb.RangeRequest{Key: resetKey}, &pb.RangeResponse{})
}

// reset brings all sides to the same state. fresh: they are new, and are taken as they are.
func reset(sides []*side, fresh bool) error {
	var highest int64
	for _, s := range sides {
		if err := s.clear(); err != nil {
			return err
		}
		if fresh {
			status, err := ask(s, "Maintenance/Status", &pb.StatusRequest{}, &pb.StatusResponse{})
			if err != nil {
				return err
			}
			s.revision = status.Header.Revision
		} else if err := s.empty(); err != nil {
			return err
		}
		highest = max(highest, s.revision)
	}
	for _, s := range sides {
		if fresh && s.revision != 1 {
			return fmt.Errorf("%s is not new: it is at revision %d", s.name, s.revision)
		}
		if !fresh {
			if err := s.advance(highest + 1 - s.revision); err != nil {
				return err
			}
		}
	}
	for _, s := range sides {
		if err := s.begin(fresh); err != nil {
			return err
		}
		if s.base != sides[0].base {
			return fmt.Errorf("%s is at revision %d where %s is at %d", s.name, s.base, sides[0].name, sides[0].base)
		}
	}
	return nil
}

// slowWatchers is how many watches etcd has yet to catch up: it does so each 100 ms and does not tell the client when it is done.
func (s *side) slowWatchers() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.endpoints[0]+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	n, found := 0, false
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if figure, ok := strings.CutPrefix(lines.Text(), "etcd_debugging_mvcc_slow_watcher_total "); ok {
			if n, err = strconv.Atoi(figure); err != nil {
				return 0, err
			}
			found = true
		}
	}
	_, _ = io.Copy(io.Discard, response.Body)
	if !found {
		return 0, fmt.Errorf("%s tells no figure of slow watchers", s.endpoints[0])
	}
	return n, lines.Err()
}
