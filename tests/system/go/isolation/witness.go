// The tenant that is attacked: its own streams and state must not show that anybody is there.

package main

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// observer has the witness' streams, which stay open all the time.
type observer struct {
	p      *plan
	c      *clientv3.Client
	watch  clientv3.WatchChan
	raw    pb.Watch_WatchClient // with an id of its own choice
	alive  <-chan *clientv3.LeaseKeepAliveResponse
	leases []int64
	keys   []string
}

const guessed = "/registry/secrets/known"

func (o *observer) key(i int) string { return fmt.Sprintf("/registry/secrets/%s-%d", o.p.Marker, i) }

func (o *observer) value(i int) string {
	return strings.Repeat(fmt.Sprintf("%s=%d;", o.p.Marker, i), 20)
}

func (o *observer) prepare(bare *grpc.ClientConn) {
	ctx, cancel := within(30 * time.Second)
	defer cancel()
	for _, ttl := range []int64{600, 5} {
		lease, err := o.c.Grant(ctx, ttl)
		must(err)
		o.leases = append(o.leases, int64(lease.ID))
	}
	alive, err := o.c.KeepAlive(context.Background(), clientv3.LeaseID(o.leases[1]))
	must(err)
	o.alive = alive
	for i := range 60 {
		var options []clientv3.OpOption
		if i < 6 {
			options = append(options, clientv3.WithLease(clientv3.LeaseID(o.leases[i%2])))
		}
		_, err := o.c.Put(ctx, o.key(i), o.value(i), options...)
		must(err)
	}
	_, err = o.c.Put(ctx, guessed, o.value(1000))
	must(err)
	_, err = o.c.Delete(ctx, o.key(59))
	must(err)
	_, err = o.c.Compact(ctx, 20)
	must(err)
	o.watch = o.c.Watch(context.Background(), "\x00", clientv3.WithFromKey(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	o.raw, err = pb.NewWatchClient(bare).Watch(context.Background())
	must(err)
	must(o.raw.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, WatchId: 77}}}))
	created, err := o.raw.Recv()
	must(err)
	if !created.Created || created.WatchId != 77 {
		fail("witness: no watch: %v", created)
	}
	if r := <-o.watch; !r.Created {
		fail("witness: no watch: %v", r)
	}
}

// state is all that must not change by somebody else's doing.
func (o *observer) state() string {
	ctx, cancel := within(20 * time.Second)
	defer cancel()
	var text strings.Builder
	all, err := o.c.Get(ctx, "\x00", clientv3.WithFromKey())
	must(err)
	fmt.Fprintf(&text, "revision %d\n", all.Header.Revision)
	for _, kv := range all.Kvs {
		fmt.Fprintf(&text, "%q %q %d %d %d %d\n", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	}
	hash, err := o.c.HashKV(ctx, o.c.Endpoints()[0], 0)
	must(err)
	fmt.Fprintf(&text, "hash %d, compacted at %d\n", hash.Hash, hash.CompactRevision)
	leases, err := o.c.Leases(ctx)
	must(err)
	sort.Slice(leases.Leases, func(i, j int) bool { return leases.Leases[i].ID < leases.Leases[j].ID })
	for _, l := range leases.Leases {
		ttl, err := o.c.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		must(err)
		fmt.Fprintf(&text, "lease %d of %d s: %q\n", l.ID, ttl.GrantedTTL, ttl.Keys)
		if ttl.TTL <= 0 {
			fail("witness: lease %d has run out", l.ID)
		}
	}
	members, err := o.c.MemberList(ctx)
	must(err)
	fmt.Fprintf(&text, "members %v\n", members.Members)
	alarms, err := o.c.AlarmList(ctx)
	must(err)
	fmt.Fprintf(&text, "alarms %v\n", alarms.Alarms)
	status, err := o.c.AuthStatus(ctx)
	must(err)
	fmt.Fprintf(&text, "auth %v %d\n", status.Enabled, status.AuthRevision)
	_, err = o.c.Get(ctx, guessed, clientv3.WithRev(20))
	must(err) // the history is there
	return text.String()
}

func (o *observer) quiet() {
	select {
	case r, open := <-o.watch:
		fail("witness: the watch saw something (open: %v): %v, %v", open, r.Events, r.Err())
	default:
	}
	for {
		select {
		case _, open := <-o.alive:
			if !open {
				fail("witness: the lease's stream has ended")
			}
			continue
		default:
		}
		break
	}
}

// work writes, and returns once the own watches have seen just that.
func (o *observer) work() {
	ctx, cancel := within(60 * time.Second)
	defer cancel()
	var want [][]byte
	for i := range 200 {
		key := o.key(100 + i%40)
		switch i % 8 {
		case 7:
			r, err := o.c.Delete(ctx, key)
			must(err)
			if r.Deleted == 0 {
				continue
			}
		case 5:
			lease, err := o.c.Grant(ctx, 300)
			must(err)
			_, err = o.c.Put(ctx, key, o.value(i), clientv3.WithLease(lease.ID))
			must(err)
			_, err = o.c.Revoke(ctx, lease.ID)
			must(err)
			want = append(want, []byte(key))
		default:
			_, err := o.c.Txn(ctx).If(clientv3.Compare(clientv3.Value(guessed), "=", o.value(1000))).
				Then(clientv3.OpPut(key, o.value(i)), clientv3.OpGet(guessed)).Commit()
			must(err)
		}
		want = append(want, []byte(key))
	}
	var seen [][]byte
	for len(seen) < len(want) {
		select {
		case r := <-o.watch:
			must(r.Err())
			for _, e := range r.Events {
				seen = append(seen, e.Kv.Key)
			}
		case <-ctx.Done():
			fail("witness: %d of %d events", len(seen), len(want))
		}
	}
	if !bytes.Equal(bytes.Join(want, []byte{0}), bytes.Join(seen, []byte{0})) {
		fail("witness: the watch saw something else than what was written:\n%q\n%q", want, seen)
	}
	for n := 0; n < len(want); {
		r, err := o.raw.Recv()
		must(err)
		if r.Canceled {
			fail("witness: watch %d was cancelled: %v", r.WatchId, r)
		}
		n += len(r.Events)
	}
}

func witness(p *plan) {
	t := &tape{}
	client, bare := p.connect(p.Endpoints[0], t)
	o := &observer{p: p, c: client}
	o.prepare(bare)
	before := o.state()
	ctx, cancel := within(20 * time.Second)
	defer cancel()
	members, err := client.MemberList(ctx)
	must(err)
	now, err := client.Get(ctx, guessed)
	must(err)
	say(known{Member: members.Header.MemberId, Cluster: members.Header.ClusterId, Leases: o.leases, Revision: now.Header.Revision,
		WatchIDs: []int64{0, 77}, Keys: []string{guessed, "/registry/secrets/"}})

	line()
	o.quiet()
	if after := o.state(); after != before {
		fail("witness: touched:\n%s\n%s", before, after)
	}
	o.work()
	o.quiet()
	say("untouched")
	line()
}
