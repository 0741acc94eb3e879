// The attacks through etcd's own services: keys, watches, leases, hashes and times of answers.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// attacker has one endpoint of its own tenant, and attacks through it.
type attacker struct {
	p        *plan
	endpoint string
	tape     *tape
	c        *clientv3.Client
	bare     *grpc.ClientConn
	n        int // calls and streams
	watches  []clientv3.WatchChan
	seen     int
}

// own keys begin with it, and everything that is not the attacker's doing would be something else.
const own = "a/"

// note keeps a call's outcome to be searched, and returns it as words.
func (a *attacker) note(err error) string {
	a.n++
	if err == nil {
		return "OK"
	}
	s := status.Convert(err)
	a.tape.keep(err.Error())
	for _, d := range s.Details() {
		a.tape.keep(fmt.Sprint(d))
	}
	return s.Code().String() + ": " + s.Message()
}

// same fails unless what is the other tenant's gets the answer that what nobody has gets.
func (a *attacker) same(what string, theirs, nobodys string) {
	if theirs != nobodys {
		fail("attack: %s: of the other tenant's %q, of nobody's %q", what, theirs, nobodys)
	}
}

// nobodys is an id like theirs, which nobody has.
func nobodys(theirs int64) int64 { return theirs ^ 0x55aa55aa55 }

func (a *attacker) kv() {
	kv := pb.NewKVClient(a.bare)
	ctx, cancel := within(60 * time.Second)
	defer cancel()
	for i := range 30 {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "%s%03d", own, i), Value: []byte("mine")})
		must(err)
	}
	prefix := a.p.Known.Keys[1]
	names := []string{"\x00", "", "/", "/registry/", prefix, a.p.Known.Keys[0], a.p.Name, a.p.Name + "/", "../" + a.p.Name + "/", own + "../../" + a.p.Name,
		"' OR 1=1 --", "\"; DROP TABLE keyspace; --", "%", "_%", "\xff", "\x00\x00", strings.Repeat("\xff", 4096), own, own + "999", "keyspaces/" + a.p.Name}
	ends := []string{"", "\x00", "\xff", "/registry0", prefix + "\xff", strings.Repeat("\xff", 4096), own, "b"}
	revisions := []int64{0, 1, 2, 20, a.p.Known.Revision - 1, a.p.Known.Revision, a.p.Known.Revision + 1, -1, 1 << 62}
	for _, key := range names {
		for _, end := range ends {
			for _, revision := range revisions {
				r := &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), Revision: revision, Serializable: a.n%2 == 0, CountOnly: a.n%5 == 0, KeysOnly: a.n%7 == 0,
					SortOrder: pb.RangeRequest_SortOrder(a.n % 3), SortTarget: pb.RangeRequest_SortTarget(a.n % 5), MinModRevision: int64(a.n % 2), Limit: int64(a.n % 4)}
				got, err := kv.Range(ctx, r)
				a.note(err)
				for _, kv := range got.GetKvs() {
					if !strings.HasPrefix(string(kv.Key), own) {
						fail("attack: a range of %q to %q at %d has %q", key, end, revision, kv.Key)
					}
				}
				if got.GetCount() > 31 {
					fail("attack: %d keys from %q to %q", got.Count, key, end)
				}
			}
			a.stream(ctx, kv, &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
		}
	}

	// Nested: everything within everything, and comparisons with what the other one has, whose outcome would tell.
	all := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}}}
	nested := all
	for range 20 {
		nested = &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: []byte(a.p.Known.Keys[0]), Target: pb.Compare_CREATE, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_CreateRevision{}}},
			Success: []*pb.RequestOp{all, nested}, Failure: []*pb.RequestOp{nested, all}}}}
	}
	_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{nested}})
	a.note(err)
	for _, key := range a.p.Known.Keys {
		for _, end := range []string{"", "/registry0"} {
			r, err := kv.Txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{
				{Key: []byte(key), RangeEnd: []byte(end), Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{}}}})
			a.note(err)
			if err == nil && !r.Succeeded {
				fail("attack: a comparison sees a key at %q", key)
			}
		}
	}

	lease := func(id int64) string {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(own + "leased"), Lease: id})
		return a.note(err)
	}
	for _, id := range a.p.Known.Leases {
		a.same("a put with a lease", lease(id), lease(nobodys(id)))
	}
	for _, revision := range revisions {
		_, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: revision, Physical: true})
		a.note(err)
	}
	_, err = kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true})
	a.note(err)
}

func (a *attacker) stream(ctx context.Context, kv pb.KVClient, r *pb.RangeRequest) {
	stream, err := kv.RangeStream(ctx, r)
	for err == nil {
		_, err = stream.Recv()
	}
	if err == io.EOF {
		err = nil
	}
	a.note(err)
}

// openWatches has streams that stay open while the other tenant writes.
func (a *attacker) openWatches() {
	ctx := clientv3.WithRequireLeader(context.Background())
	for _, options := range [][]clientv3.OpOption{
		{clientv3.WithFromKey(), clientv3.WithRev(1), clientv3.WithPrevKV(), clientv3.WithFragment(), clientv3.WithProgressNotify()},
		{clientv3.WithFromKey(), clientv3.WithCreatedNotify()},
		{clientv3.WithFromKey(), clientv3.WithRev(a.p.Known.Revision)},
		{clientv3.WithFromKey(), clientv3.WithRev(a.p.Known.Revision + 1), clientv3.WithPrevKV()},
	} {
		a.watches = append(a.watches, a.c.Watch(ctx, "\x00", options...))
	}
	a.watches = append(a.watches, a.c.Watch(ctx, a.p.Known.Keys[1], clientv3.WithPrefix(), clientv3.WithPrevKV()),
		a.c.Watch(ctx, a.p.Known.Keys[0], clientv3.WithRev(1)))
	a.n += len(a.watches)
}

// rawWatches names the other's watch ids: creates, cancels and asks for the progress of them.
func (a *attacker) rawWatches() {
	ask := func(id int64) string {
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		stream, err := pb.NewWatchClient(a.bare).Watch(ctx)
		must(err)
		send := func(r *pb.WatchRequest) { must(stream.Send(r)) }
		send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
		send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
		send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: []byte{0}, RangeEnd: []byte{0}, WatchId: id, StartRevision: 1 << 60, PrevKv: true}}})
		send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
		// What came up to the answer to the creation, ids left out.
		var words []string
		for {
			r, err := stream.Recv()
			if err != nil {
				fail("attack: a watch: %v", err)
			}
			for _, e := range r.Events {
				fail("attack: a watch from the future has an event of %q", e.Kv.Key)
			}
			words = append(words, fmt.Sprint(r.Created, r.Canceled, r.CompactRevision, r.CancelReason))
			if r.Created {
				a.n++
				return strings.Join(words, "; ")
			}
		}
	}
	for _, id := range append(a.p.Known.WatchIDs, -1) {
		if id == 0 {
			continue // chosen by the server
		}
		a.same(fmt.Sprintf("watch %d", id), ask(id), ask(id+1000))
	}
}

func (a *attacker) leases() {
	c := pb.NewLeaseClient(a.bare)
	ctx, cancel := within(30 * time.Second)
	defer cancel()
	revoke := func(id int64) string {
		_, err := c.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
		return a.note(err)
	}
	live := func(id int64) string {
		r, err := c.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		return a.note(err) + fmt.Sprint(r.GetTTL(), r.GetGrantedTTL(), r.GetKeys(), r.GetID() == id)
	}
	keep := func(id int64) string {
		stream, err := c.LeaseKeepAlive(ctx)
		must(err)
		must(stream.Send(&pb.LeaseKeepAliveRequest{ID: id}))
		r, err := stream.Recv()
		_ = stream.CloseSend()
		return a.note(err) + fmt.Sprint(r.GetTTL(), r.GetID() == id)
	}
	grant := func(id int64) string {
		r, err := c.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 60})
		return a.note(err) + fmt.Sprint(r.GetTTL(), r.GetID() == id, r.GetError())
	}
	for _, theirs := range a.p.Known.Leases {
		nobodys := nobodys(theirs)
		a.same("keep-alive of a lease", keep(theirs), keep(nobodys))
		a.same("time to live of a lease", live(theirs), live(nobodys))
		a.same("revocation of a lease", revoke(theirs), revoke(nobodys))
		// One of the same id is another lease.
		a.same("grant of a lease", grant(theirs), grant(nobodys))
		a.same("time to live of a lease", live(theirs), live(nobodys))
		a.same("keep-alive of a lease", keep(theirs), keep(nobodys))
		a.same("revocation of a lease", revoke(theirs), revoke(nobodys))
	}
	r, err := c.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	must(err)
	if len(r.Leases) != 0 {
		fail("attack: leases that nobody here has: %v", r.Leases)
	}
}

func (a *attacker) cluster() {
	c, m := pb.NewClusterClient(a.bare), pb.NewMaintenanceClient(a.bare)
	ctx, cancel := within(60 * time.Second)
	defer cancel()
	for _, linearizable := range []bool{true, false} {
		r, err := c.MemberList(ctx, &pb.MemberListRequest{Linearizable: linearizable})
		must(err)
		if r.Header.ClusterId == a.p.Known.Cluster || r.Header.MemberId == a.p.Known.Member || len(r.Members) != 1 {
			fail("attack: the other's member is ours: %v", r)
		}
	}
	for what, call := range map[string]func(id uint64) error{
		"removal": func(id uint64) error {
			_, err := c.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
			return err
		},
		"update": func(id uint64) error {
			_, err := c.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: id, PeerURLs: []string{"http://127.0.0.1:1"}})
			return err
		},
		"promotion": func(id uint64) error { _, err := c.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id}); return err },
		"leadership": func(id uint64) error {
			_, err := m.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: id})
			return err
		},
		"alarms": func(id uint64) error {
			_, err := m.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET, MemberID: id})
			return err
		},
		"an alarm": func(id uint64) error {
			_, err := m.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: pb.AlarmType_NOSPACE})
			if err == nil {
				_, err = m.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: id, Alarm: pb.AlarmType_NOSPACE})
			}
			return err
		},
	} {
		a.same(what, a.note(call(a.p.Known.Member)), a.note(call(uint64(nobodys(int64(a.p.Known.Member))))))
	}
	_, err := m.Status(ctx, &pb.StatusRequest{})
	a.note(err)
	_, err = m.Hash(ctx, &pb.HashRequest{})
	a.note(err)
	for _, revision := range []int64{0, 1, 20, a.p.Known.Revision, -1} {
		_, err = m.HashKV(ctx, &pb.HashKVRequest{Revision: revision})
		a.note(err)
	}
	_, err = m.Defragment(ctx, &pb.DefragmentRequest{})
	a.note(err)
	snapshot, err := m.Snapshot(ctx, &pb.SnapshotRequest{})
	for err == nil {
		_, err = snapshot.Recv()
	}
	if err == io.EOF {
		err = nil
	}
	a.note(err)
}

// pretend calls as if for another tenant: by authority, headers and paths.
func (a *attacker) pretend() {
	ctx, cancel := within(60 * time.Second)
	defer cancel()
	all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	ask := func(name string) string {
		var words []string
		for _, authority := range []string{name, name + ":2379", name + ".tenants", "tenants/" + name, "unix:/run/stokehold/tenants/" + name + ".sock"} {
			r, err := pb.NewKVClient(a.bare).Range(ctx, all, grpc.CallAuthority(authority))
			words = append(words, a.note(err), fmt.Sprint(len(r.GetKvs())))
		}
		for _, header := range []string{"tenant", "x-tenant", "stokehold-tenant", "x-forwarded-host", "x-forwarded-client-cert", "x-ssl-client-s-dn", "forwarded",
			"authorization", "token", "x-remote-user", "x-real-ip", "x-original-url"} {
			with := metadata.AppendToOutgoingContext(ctx, header, name)
			r, err := pb.NewKVClient(a.bare).Range(with, all)
			words = append(words, a.note(err), fmt.Sprint(len(r.GetKvs())))
			_, err = pb.NewAuthClient(a.bare).Authenticate(with, &pb.AuthenticateRequest{Name: name, Password: name})
			words = append(words, a.note(err))
		}
		for _, path := range []string{"/" + name + "/etcdserverpb.KV/Range", "//etcdserverpb.KV/Range", "/etcdserverpb.KV/../" + name, "/tenants/" + name,
			"/" + name + ".KV/Range", "/etcdserverpb.KV/Range?tenant=" + name, "/stokehold.control.v1.Control/Status", "/stokehold.control.v1.Control/ListTenants",
			"/stokehold.control.v1.Control/DeleteTenant", "/v3electionpb.Election/Leader", "/v3lockpb.Lock/Lock", "/etcdserverpb.KV/range"} {
			err := a.bare.Invoke(ctx, path, all, &pb.RangeResponse{})
			words = append(words, a.note(err))
			if status.Code(err) == codes.OK {
				fail("attack: %s was answered", path)
			}
		}
		// What was asked for may stand in the answer.
		return strings.ReplaceAll(strings.Join(words, "; "), name, "NAME")
	}
	a.same("a name", ask(a.p.Name), ask(a.p.Absent))
}

// look empties the watches: what they saw is the attacker's own.
func (a *attacker) look() {
	for i, w := range a.watches {
		for more := true; more; {
			select {
			case r, open := <-w:
				more = open
				for _, e := range r.Events {
					a.seen++
					if text := e.Kv.String() + e.PrevKv.String(); strings.Contains(text, a.p.Marker) {
						fail("attack: watch %d saw %s", i, text)
					}
				}
				if r.Err() != nil {
					a.note(r.Err())
				}
			case <-time.After(100 * time.Millisecond):
				more = false
			}
		}
	}
}

func (a *attacker) revision() int64 {
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	r, err := a.c.Get(ctx, own)
	must(err)
	return r.Header.Revision
}

func attack(p *plan) {
	must(json.Unmarshal(line(), &p.Known))
	t := &tape{}
	var attackers []*attacker
	for _, endpoint := range p.Endpoints {
		a := &attacker{p: p, endpoint: endpoint, tape: t}
		a.c, a.bare = p.connect(endpoint, t)
		parts := map[string]func(){"kv": a.kv, "leases": a.leases, "cluster": a.cluster, "pretend": a.pretend, "watches": a.rawWatches,
			"probe": a.probe, "http1": a.http1, "tls": a.tls, "generic": a.generic, "files": a.files}
		order := []string{"kv", "leases", "cluster", "pretend", "watches", "probe", "http1", "tls", "generic", "files"}
		a.openWatches()
		if len(p.Parts) > 0 {
			order = p.Parts
		}
		for _, part := range order {
			parts[part]()
		}
		a.look()
		if a.seen == 0 && len(p.Parts) == 0 {
			fail("attack: the watches saw nothing of the own tenant: they prove nothing")
		}
		attackers = append(attackers, a)
	}
	revision := attackers[0].revision()
	say("attacked")

	line()
	n, seen := 0, 0
	for _, a := range attackers {
		a.look()
		if r := a.revision(); r != revision {
			fail("attack: the revision went from %d to %d while only the other one wrote", revision, r)
		}
		n += a.n
		seen += a.seen
	}
	found, size := t.search(p.Marker)
	for _, f := range found {
		fail("attack: the other tenant's: %s", f)
	}
	// The search finds what is there.
	if mine, _ := t.search(own + "001"); len(mine) == 0 && len(p.Parts) == 0 {
		fail("attack: the search has not found even the own keys")
	}
	say(fmt.Sprintf("%d calls, %d events, %d bytes on %d connections: nothing", n, seen, size, len(t.conns)))
}
