package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type test struct {
	c      *clientv3.Client
	ctx    context.Context
	prefix string
}

// The name stands first on its line: the tests in Python read the list from here.
var shapes = []struct {
	name string
	run  func(*test) error
}{
	{"create", create},
	{"update", update},
	{"delete", deleteKey},
	{"get-missing", getMissing},
	{"pages", pages},
	{"list-at-revision", listAtRevision},
	{"count-and-keys", countAndKeys},
	{"range-stream", rangeStream},
	{"compaction", compaction},
	{"watch-events", watchEvents},
	{"watch-resume", watchResume},
	{"watch-atomic", watchAtomic},
	{"watch-progress", watchProgress},
	{"watch-compacted", watchCompacted},
	{"watch-future", watchFuture},
	{"watch-cancel", watchCancel},
	{"watch-many", watchMany},
	{"lease-expiry", leaseExpiry},
	{"lease-revoke", leaseRevoke},
	{"lease-keepalive", leaseKeepalive},
	{"lease-unknown", leaseUnknown},
	{"txn-limits", txnLimits},
	{"txn-compares", txnCompares},
	{"request-too-large", requestTooLarge},
	{"big-values", bigValues},
	{"big-list", bigList},
	{"concurrent-updates", concurrentUpdates},
	{"delete-range", deleteRange},
	{"status", statusProbe},
	{"members", members},
	{"deadline", deadline},
	{"unknown-method", unknownMethod},
	{"sorting", sorting},
	{"binary-keys", binaryKeys},
}

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func (t *test) kube() kubernetes.Interface { return &kubernetes.Client{Client: t.c} }

func (t *test) create(name, value string) (int64, error) {
	r, err := t.kube().OptimisticPut(t.ctx, t.prefix+name, []byte(value), 0, kubernetes.PutOptions{})
	if err != nil {
		return 0, err
	}
	return r.Revision, expect(r.Succeeded, "%s could not be created", name)
}

func create(t *test) error {
	rev, err := t.create("a", "1")
	if err != nil {
		return err
	}
	again, err := t.kube().OptimisticPut(t.ctx, t.prefix+"a", []byte("2"), 0, kubernetes.PutOptions{})
	if err != nil {
		return err
	}
	if err := expect(!again.Succeeded && again.KV == nil, "a second create succeeded or answered a value"); err != nil {
		return err
	}
	if err := expect(again.Revision >= rev, "the revision went back: %d after %d", again.Revision, rev); err != nil {
		return err
	}
	get, err := t.kube().Get(t.ctx, t.prefix+"a", kubernetes.GetOptions{})
	if err != nil {
		return err
	}
	return expect(get.KV != nil && string(get.KV.Value) == "1" && get.KV.ModRevision == rev && get.KV.CreateRevision == rev && get.KV.Version == 1 && string(get.KV.Key) == t.prefix+"a",
		"got %v", get.KV)
}

func update(t *test) error {
	first, err := t.create("a", "1")
	if err != nil {
		return err
	}
	second, err := t.kube().OptimisticPut(t.ctx, t.prefix+"a", []byte("2"), first, kubernetes.PutOptions{GetOnFailure: true})
	if err != nil {
		return err
	}
	if err := expect(second.Succeeded && second.Revision > first, "update failed"); err != nil {
		return err
	}
	conflict, err := t.kube().OptimisticPut(t.ctx, t.prefix+"a", []byte("3"), first, kubernetes.PutOptions{GetOnFailure: true})
	if err != nil {
		return err
	}
	if err := expect(!conflict.Succeeded && conflict.KV != nil && string(conflict.KV.Value) == "2" && conflict.KV.ModRevision == second.Revision && conflict.KV.Version == 2 && conflict.KV.CreateRevision == first,
		"a conflict answered %v", conflict.KV); err != nil {
		return err
	}
	// GuaranteedUpdate of a key that is not there: mod 0 with a failure branch.
	missing, err := t.kube().OptimisticPut(t.ctx, t.prefix+"b", []byte("1"), 0, kubernetes.PutOptions{GetOnFailure: true})
	if err != nil {
		return err
	}
	return expect(missing.Succeeded, "create with a failure branch failed")
}

func deleteKey(t *test) error {
	rev, err := t.create("a", "1")
	if err != nil {
		return err
	}
	stale, err := t.kube().OptimisticDelete(t.ctx, t.prefix+"a", rev-1, kubernetes.DeleteOptions{GetOnFailure: true})
	if err != nil {
		return err
	}
	if err := expect(!stale.Succeeded && stale.KV != nil && stale.KV.ModRevision == rev, "a stale delete answered %v", stale); err != nil {
		return err
	}
	gone, err := t.kube().OptimisticDelete(t.ctx, t.prefix+"a", rev, kubernetes.DeleteOptions{GetOnFailure: true})
	if err != nil {
		return err
	}
	if err := expect(gone.Succeeded && gone.Revision > rev, "delete failed"); err != nil {
		return err
	}
	get, err := t.kube().Get(t.ctx, t.prefix+"a", kubernetes.GetOptions{})
	if err != nil {
		return err
	}
	if err := expect(get.KV == nil && get.Revision >= gone.Revision, "the key is still there"); err != nil {
		return err
	}
	old, err := t.kube().Get(t.ctx, t.prefix+"a", kubernetes.GetOptions{Revision: rev})
	if err != nil {
		return err
	}
	if err := expect(old.KV != nil && string(old.KV.Value) == "1", "the past has changed: %v", old.KV); err != nil {
		return err
	}
	// A key made anew begins at version 1.
	anew, err := t.create("a", "2")
	if err != nil {
		return err
	}
	get, err = t.kube().Get(t.ctx, t.prefix+"a", kubernetes.GetOptions{})
	if err != nil {
		return err
	}
	return expect(get.KV.Version == 1 && get.KV.CreateRevision == anew, "made anew: %v", get.KV)
}

func getMissing(t *test) error {
	get, err := t.kube().Get(t.ctx, t.prefix+"nothing", kubernetes.GetOptions{})
	if err != nil {
		return err
	}
	return expect(get.KV == nil && get.Revision > 0, "got %v at revision %d", get.KV, get.Revision)
}

func (t *test) fill(n int) (int64, error) {
	var rev int64
	for i := 0; i < n; i++ {
		r, err := t.create(fmt.Sprintf("k%04d", i), fmt.Sprintf("value %d", i))
		if err != nil {
			return 0, err
		}
		rev = r
	}
	return rev, nil
}

func pages(t *test) error {
	rev, err := t.fill(25)
	if err != nil {
		return err
	}
	seen, next := 0, ""
	for page := 0; ; page++ {
		opts := kubernetes.ListOptions{Limit: 10, Continue: next}
		if page > 0 {
			opts.Revision = rev
		}
		l, err := t.kube().List(t.ctx, t.prefix, opts)
		if err != nil {
			return err
		}
		if page == 0 {
			rev = l.Revision
		}
		if err := expect(l.Count == int64(25-seen), "page %d: count %d after %d keys", page, l.Count, seen); err != nil {
			return err
		}
		for _, kv := range l.Kvs {
			if err := expect(string(kv.Key) == fmt.Sprintf("%sk%04d", t.prefix, seen) && string(kv.Value) == fmt.Sprintf("value %d", seen), "page %d: %s in place %d", page, kv.Key, seen); err != nil {
				return err
			}
			seen++
		}
		// What is written between pages is not in them.
		if _, err := t.create(fmt.Sprintf("k%04dx", seen), "later"); err != nil {
			return err
		}
		if int64(len(l.Kvs)) == l.Count {
			break
		}
		next = string(l.Kvs[len(l.Kvs)-1].Key) + "\x00"
	}
	if err := expect(seen == 25, "%d keys", seen); err != nil {
		return err
	}
	r, err := t.c.Get(t.ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithLimit(5))
	if err != nil {
		return err
	}
	return expect(r.More && r.Count == 28 && len(r.Kvs) == 5, "more %v count %d", r.More, r.Count)
}

func listAtRevision(t *test) error {
	rev, err := t.fill(5)
	if err != nil {
		return err
	}
	if _, err := t.c.Delete(t.ctx, t.prefix, clientv3.WithPrefix()); err != nil {
		return err
	}
	old, err := t.c.Get(t.ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithRev(rev))
	if err != nil {
		return err
	}
	if err := expect(len(old.Kvs) == 5 && old.Count == 5 && old.Header.Revision > rev, "%d keys in the past", len(old.Kvs)); err != nil {
		return err
	}
	now, err := t.c.Get(t.ctx, t.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if err := expect(len(now.Kvs) == 0, "deleted keys are there"); err != nil {
		return err
	}
	_, err = t.c.Get(t.ctx, t.prefix, clientv3.WithRev(now.Header.Revision+1000))
	return expect(errors.Is(err, rpctypes.ErrFutureRev), "a future revision: %v", err)
}

func countAndKeys(t *test) error {
	if _, err := t.fill(7); err != nil {
		return err
	}
	n, err := t.kube().Count(t.ctx, t.prefix, kubernetes.CountOptions{})
	if err != nil {
		return err
	}
	if err := expect(n == 7, "count %d", n); err != nil {
		return err
	}
	r, err := t.c.Get(t.ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	for _, kv := range r.Kvs {
		if err := expect(len(kv.Value) == 0 && kv.ModRevision > 0, "keys only: %v", kv); err != nil {
			return err
		}
	}
	return expect(len(r.Kvs) == 7, "keys only: %d", len(r.Kvs))
}

func rangeStream(t *test) error {
	rev, err := t.fill(300)
	if err != nil {
		return err
	}
	stream, err := t.c.GetStream(t.ctx, t.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	seen := 0
	var last *etcdserverpb.RangeResponse
	for chunk := range stream {
		if err := chunk.Err(); err != nil {
			return err
		}
		last = chunk.RangeResponse
		for _, kv := range last.Kvs {
			if err := expect(string(kv.Key) == fmt.Sprintf("%sk%04d", t.prefix, seen), "%s in place %d", kv.Key, seen); err != nil {
				return err
			}
			seen++
		}
	}
	if last == nil || last.Header == nil {
		return errors.New("the last chunk has no header")
	}
	return expect(seen == 300 && last.Count == 300 && !last.More && last.Header.Revision >= rev, "%d keys, count %d, revision %d", seen, last.Count, last.Header.Revision)
}

func compaction(t *test) error {
	first, err := t.create("a", "1")
	if err != nil {
		return err
	}
	second, err := t.kube().OptimisticPut(t.ctx, t.prefix+"a", []byte("2"), first, kubernetes.PutOptions{})
	if err != nil {
		return err
	}
	// The API servers agree on who compacts by the version of this key.
	key := "compact_rev_key"
	get, err := t.c.Get(t.ctx, key)
	if err != nil {
		return err
	}
	var version int64
	if len(get.Kvs) > 0 {
		version = get.Kvs[0].Version
	}
	for try := 0; try < 2; try++ {
		r, err := t.c.Txn(t.ctx).If(clientv3.Compare(clientv3.Version(key), "=", version)).
			Then(clientv3.OpPut(key, strconv.FormatInt(second.Revision, 10))).
			Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return err
		}
		if try == 0 {
			if err := expect(r.Succeeded, "the first compactor lost"); err != nil {
				return err
			}
			continue
		}
		kv := r.Responses[0].GetResponseRange().Kvs[0]
		if err := expect(!r.Succeeded && kv.Version == version+1 && string(kv.Value) == strconv.FormatInt(second.Revision, 10), "the second compactor: %v", r); err != nil {
			return err
		}
	}
	if _, err := t.c.Compact(t.ctx, second.Revision); err != nil {
		return err
	}
	if _, err = t.c.Get(t.ctx, t.prefix+"a", clientv3.WithRev(first)); !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("a read below the compaction: %v", err)
	}
	if _, err = t.c.Compact(t.ctx, second.Revision); !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("a second compaction: %v", err)
	}
	if _, err = t.c.Compact(t.ctx, second.Revision+100000); !errors.Is(err, rpctypes.ErrFutureRev) {
		return fmt.Errorf("a future compaction: %v", err)
	}
	at, err := t.c.Get(t.ctx, t.prefix+"a", clientv3.WithRev(second.Revision))
	if err != nil {
		return err
	}
	return expect(len(at.Kvs) == 1 && string(at.Kvs[0].Value) == "2", "at the compacted revision: %v", at.Kvs)
}

// next is the next response that is not the one about the creation.
func next(ctx context.Context, w clientv3.WatchChan) (*clientv3.WatchResponse, error) {
	for {
		select {
		case r, ok := <-w:
			if !ok {
				return nil, errors.New("the watch was closed")
			}
			if r.Created {
				continue
			}
			return &r, nil
		case <-ctx.Done():
			return nil, errors.New("nothing came from the watch")
		}
	}
}

func collect(ctx context.Context, w clientv3.WatchChan, n int) ([]*clientv3.Event, error) {
	var events []*clientv3.Event
	for len(events) < n {
		r, err := next(ctx, w)
		if err != nil {
			return events, fmt.Errorf("%w after %d events", err, len(events))
		}
		if err := r.Err(); err != nil {
			return events, err
		}
		events = append(events, r.Events...)
	}
	return events, nil
}

func checkEvents(events []*clientv3.Event, revs []int64) error {
	if len(events) != 3 {
		return fmt.Errorf("%d events", len(events))
	}
	c, u, d := events[0], events[1], events[2]
	if err := expect(c.IsCreate() && c.PrevKv == nil && string(c.Kv.Value) == "1" && c.Kv.ModRevision == revs[0], "create: %v", c); err != nil {
		return err
	}
	if err := expect(u.IsModify() && u.PrevKv != nil && string(u.PrevKv.Value) == "1" && string(u.Kv.Value) == "2" && u.Kv.ModRevision == revs[1] && u.Kv.Version == 2, "update: %v", u); err != nil {
		return err
	}
	return expect(d.Type == mvccpb.DELETE && d.PrevKv != nil && string(d.PrevKv.Value) == "2" && d.Kv.ModRevision == revs[2] && len(d.Kv.Value) == 0 && d.Kv.Version == 0 && d.Kv.CreateRevision == 0, "delete: %v", d)
}

func (t *test) threeChanges() ([]int64, error) {
	first, err := t.create("a", "1")
	if err != nil {
		return nil, err
	}
	second, err := t.kube().OptimisticPut(t.ctx, t.prefix+"a", []byte("2"), first, kubernetes.PutOptions{})
	if err != nil {
		return nil, err
	}
	third, err := t.kube().OptimisticDelete(t.ctx, t.prefix+"a", second.Revision, kubernetes.DeleteOptions{})
	if err != nil {
		return nil, err
	}
	return []int64{first, second.Revision, third.Revision}, nil
}

// As the watch cache asks for it.
func (t *test) watch(ctx context.Context, rev int64) clientv3.WatchChan {
	return t.c.Watch(clientv3.WithRequireLeader(ctx), t.prefix, clientv3.WithPrefix(), clientv3.WithRev(rev), clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
}

func watchEvents(t *test) error {
	now, err := t.kube().Get(t.ctx, t.prefix, kubernetes.GetOptions{})
	if err != nil {
		return err
	}
	w := t.watch(t.ctx, now.Revision+1)
	if r := <-w; !r.Created {
		return fmt.Errorf("first came %v", r)
	}
	revs, err := t.threeChanges()
	if err != nil {
		return err
	}
	events, err := collect(t.ctx, w, 3)
	if err != nil {
		return err
	}
	return checkEvents(events, revs)
}

func watchResume(t *test) error {
	revs, err := t.threeChanges()
	if err != nil {
		return err
	}
	if _, err := t.c.Put(t.ctx, "/elsewhere"+t.prefix, "x"); err != nil {
		return err
	}
	events, err := collect(t.ctx, t.watch(t.ctx, revs[0]), 3)
	if err != nil {
		return err
	}
	if err := checkEvents(events, revs); err != nil {
		return err
	}
	events, err = collect(t.ctx, t.watch(t.ctx, revs[1]), 2)
	if err != nil {
		return err
	}
	return expect(events[0].Kv.ModRevision == revs[1] && events[0].PrevKv != nil && len(events) == 2, "resumed at %d: %v", revs[1], events)
}

func watchAtomic(t *test) error {
	w := t.watch(t.ctx, 0)
	<-w
	var ops []clientv3.Op
	for i := 0; i < 100; i++ {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%03d", t.prefix, i), "x"))
	}
	txn, err := t.c.Txn(t.ctx).Then(ops...).Commit()
	if err != nil {
		return err
	}
	r, err := next(t.ctx, w)
	if err != nil {
		return err
	}
	if err := expect(len(r.Events) == 100, "%d events of 100 in one response", len(r.Events)); err != nil {
		return err
	}
	for i, e := range r.Events {
		if err := expect(e.Kv.ModRevision == txn.Header.Revision && string(e.Kv.Key) == fmt.Sprintf("%s%03d", t.prefix, i), "event %d: %v", i, e); err != nil {
			return err
		}
	}
	return nil
}

func watchProgress(t *test) error {
	ctx := clientv3.WithRequireLeader(t.ctx)
	w := t.watch(t.ctx, 0)
	<-w
	rev, err := t.create("a", "1")
	if err != nil {
		return err
	}
	if _, err := collect(t.ctx, w, 1); err != nil {
		return err
	}
	other, err := t.c.Put(t.ctx, "/elsewhere"+t.prefix, "x")
	if err != nil {
		return err
	}
	// As a consistent read from the watch cache does, every 100 ms, for at most 3 s.
	begin := time.Now()
	for time.Since(begin) < 3*time.Second {
		if err := t.c.RequestProgress(ctx); err != nil {
			return err
		}
		short, cancel := context.WithTimeout(t.ctx, 100*time.Millisecond)
		r, err := next(short, w)
		cancel()
		if err != nil {
			continue
		}
		if err := expect(r.IsProgressNotify() && r.Header.Revision >= rev, "instead of progress: %v", r); err != nil {
			return err
		}
		if r.Header.Revision >= other.Header.Revision {
			return nil
		}
	}
	return fmt.Errorf("no progress up to %d within 3 s", other.Header.Revision)
}

func watchCompacted(t *test) error {
	rev, err := t.fill(3)
	if err != nil {
		return err
	}
	if _, err := t.c.Compact(t.ctx, rev); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return err
	}
	for r := range t.c.Watch(t.ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithRev(rev-1)) {
		if r.Created {
			continue
		}
		return expect(r.Canceled && r.CompactRevision >= rev && errors.Is(r.Err(), rpctypes.ErrCompacted), "got %v", r)
	}
	return errors.New("the watch was closed without a word")
}

func watchFuture(t *test) error {
	rev, err := t.create("a", "1")
	if err != nil {
		return err
	}
	w := t.watch(t.ctx, rev+2)
	<-w
	if _, err := t.create("b", "1"); err != nil {
		return err
	}
	third, err := t.create("c", "1")
	if err != nil {
		return err
	}
	// Other tests may write meanwhile elsewhere; whatever comes must not be below what was asked for.
	events, err := collect(t.ctx, w, 1)
	if err != nil {
		return err
	}
	return expect(events[0].Kv.ModRevision >= rev+2 && events[len(events)-1].Kv.ModRevision <= third, "got %v", events)
}

func watchCancel(t *test) error {
	stays := t.watch(t.ctx, 0)
	<-stays
	for i := 0; i < 20; i++ {
		ctx, cancel := context.WithCancel(t.ctx)
		w := t.watch(ctx, 0)
		<-w
		cancel()
		for range w {
		}
	}
	if _, err := t.create("a", "1"); err != nil {
		return err
	}
	_, err := collect(t.ctx, stays, 1)
	return err
}

// Each sees every event, in order, once.
func watchMany(t *test) error {
	const nWatchers, nWrites = 50, 200
	var group sync.WaitGroup
	errs := make([]error, nWatchers)
	now, err := t.c.Get(t.ctx, t.prefix)
	if err != nil {
		return err
	}
	for i := range errs {
		w := t.watch(t.ctx, now.Header.Revision+1)
		group.Add(1)
		go func() {
			defer group.Done()
			events, err := collect(t.ctx, w, nWrites)
			if err == nil {
				for k, e := range events {
					if string(e.Kv.Value) != strconv.Itoa(k) {
						err = fmt.Errorf("watcher %d: event %d has value %s", i, k, e.Kv.Value)
						break
					}
				}
			}
			errs[i] = err
		}()
	}
	for k := 0; k < nWrites; k++ {
		if _, err := t.c.Put(t.ctx, fmt.Sprintf("%s%d", t.prefix, k%7), strconv.Itoa(k)); err != nil {
			return err
		}
	}
	group.Wait()
	return errors.Join(errs...)
}

func leaseExpiry(t *test) error {
	lease, err := t.c.Grant(t.ctx, 2)
	if err != nil {
		return err
	}
	w := t.watch(t.ctx, 0)
	<-w
	begin := time.Now()
	for _, name := range []string{"a", "b"} {
		r, err := t.kube().OptimisticPut(t.ctx, t.prefix+name, []byte("1"), 0, kubernetes.PutOptions{LeaseID: lease.ID})
		if err != nil {
			return err
		}
		if err := expect(r.Succeeded, "create failed"); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(t.ctx, 20*time.Second)
	defer cancel()
	events, err := collect(ctx, w, 4)
	if err != nil {
		return err
	}
	// At most a little early: the clock was started after the grant.
	if d := time.Since(begin); d < 1800*time.Millisecond {
		return fmt.Errorf("expired after %v", d)
	}
	a, b := events[2], events[3]
	if err := expect(events[0].Kv.Lease == int64(lease.ID), "put without its lease: %v", events[0]); err != nil {
		return err
	}
	return expect(a.Type == mvccpb.DELETE && b.Type == mvccpb.DELETE && a.Kv.ModRevision == b.Kv.ModRevision && a.PrevKv != nil && b.PrevKv != nil, "expired as %v, %v", a, b)
}

func leaseRevoke(t *test) error {
	lease, err := t.c.Grant(t.ctx, 100)
	if err != nil {
		return err
	}
	if _, err := t.c.Put(t.ctx, t.prefix+"a", "1", clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	ttl, err := t.c.TimeToLive(t.ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	if err := expect(ttl.GrantedTTL == 100 && ttl.TTL > 90 && ttl.TTL <= 100 && len(ttl.Keys) == 1 && string(ttl.Keys[0]) == t.prefix+"a", "time to live: %v", ttl); err != nil {
		return err
	}
	if _, err := t.c.Revoke(t.ctx, lease.ID); err != nil {
		return err
	}
	get, err := t.c.Get(t.ctx, t.prefix+"a")
	if err != nil {
		return err
	}
	if err := expect(len(get.Kvs) == 0, "the key outlived its lease"); err != nil {
		return err
	}
	_, err = t.c.Revoke(t.ctx, lease.ID)
	if err := expect(errors.Is(err, rpctypes.ErrLeaseNotFound), "revoked twice: %v", err); err != nil {
		return err
	}
	ttl, err = t.c.TimeToLive(t.ctx, lease.ID)
	if err != nil {
		return err
	}
	return expect(ttl.TTL == -1, "time to live of a dead lease: %v", ttl)
}

func leaseKeepalive(t *test) error {
	lease, err := t.c.Grant(t.ctx, 2)
	if err != nil {
		return err
	}
	if _, err := t.c.Put(t.ctx, t.prefix+"a", "1", clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(t.ctx)
	alive, err := t.c.KeepAlive(ctx, lease.ID)
	if err != nil {
		cancel()
		return err
	}
	go func() {
		for range alive {
		}
	}()
	time.Sleep(5 * time.Second)
	get, err := t.c.Get(t.ctx, t.prefix+"a")
	cancel()
	if err != nil {
		return err
	}
	return expect(len(get.Kvs) == 1, "a lease that was kept alive expired")
}

func leaseUnknown(t *test) error {
	_, err := t.c.Put(t.ctx, t.prefix+"a", "1", clientv3.WithLease(12345))
	if err := expect(errors.Is(err, rpctypes.ErrLeaseNotFound), "put with an unknown lease: %v", err); err != nil {
		return err
	}
	_, err = t.c.Txn(t.ctx).Then(clientv3.OpPut(t.prefix+"b", "1"), clientv3.OpPut(t.prefix+"a", "1", clientv3.WithLease(12345))).Commit()
	if err := expect(errors.Is(err, rpctypes.ErrLeaseNotFound), "txn with an unknown lease: %v", err); err != nil {
		return err
	}
	get, err := t.c.Get(t.ctx, t.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if err := expect(get.Count == 0, "half of a refused transaction happened"); err != nil {
		return err
	}
	_, err = t.c.KeepAliveOnce(t.ctx, 12345)
	return expect(errors.Is(err, rpctypes.ErrLeaseNotFound), "keep-alive of an unknown lease: %v", err)
}

func txnLimits(t *test) error {
	var ops []clientv3.Op
	for i := 0; i < 129; i++ {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%03d", t.prefix, i), "x"))
	}
	_, err := t.c.Txn(t.ctx).Then(ops...).Commit()
	if err := expect(errors.Is(err, rpctypes.ErrTooManyOps), "129 operations: %v", err); err != nil {
		return err
	}
	if _, err = t.c.Txn(t.ctx).Then(ops[:128]...).Commit(); err != nil {
		return fmt.Errorf("128 operations: %w", err)
	}
	_, err = t.c.Txn(t.ctx).Then(clientv3.OpPut(t.prefix+"d", "1"), clientv3.OpPut(t.prefix+"d", "2")).Commit()
	if err := expect(errors.Is(err, rpctypes.ErrDuplicateKey), "one key twice: %v", err); err != nil {
		return err
	}
	_, err = t.c.Put(t.ctx, "", "x")
	return expect(errors.Is(err, rpctypes.ErrEmptyKey), "an empty key: %v", err)
}

func txnCompares(t *test) error {
	rev, err := t.create("a", "m")
	if err != nil {
		return err
	}
	a := t.prefix + "a"
	for i, c := range []struct {
		cmp  clientv3.Cmp
		want bool
	}{
		{clientv3.Compare(clientv3.Value(a), "=", "m"), true},
		{clientv3.Compare(clientv3.Value(a), "!=", "m"), false},
		{clientv3.Compare(clientv3.Value(a), ">", "l"), true},
		{clientv3.Compare(clientv3.Value(a), "<", "l"), false},
		{clientv3.Compare(clientv3.ModRevision(a), "=", rev), true},
		{clientv3.Compare(clientv3.ModRevision(a), ">", rev), false},
		{clientv3.Compare(clientv3.CreateRevision(a), "<", rev+1), true},
		{clientv3.Compare(clientv3.Version(a), "!=", 1), false},
		{clientv3.Compare(clientv3.Version(t.prefix+"none"), "=", 0), true},
		{clientv3.Compare(clientv3.Value(t.prefix+"none"), "=", ""), false},
		{clientv3.Compare(clientv3.LeaseValue(a), "=", clientv3.LeaseID(0)), true},
		{clientv3.Compare(clientv3.Version(t.prefix), ">", 0).WithPrefix(), true},
	} {
		r, err := t.c.Txn(t.ctx).If(c.cmp).Then(clientv3.OpGet(a)).Else(clientv3.OpGet(a), clientv3.OpGet(a)).Commit()
		if err != nil {
			return fmt.Errorf("compare %d: %w", i, err)
		}
		if err := expect(r.Succeeded == c.want && len(r.Responses) == map[bool]int{true: 1, false: 2}[c.want], "compare %d: %v", i, r.Succeeded); err != nil {
			return err
		}
	}
	// Within a transaction a read sees the writes before it, all at one revision.
	b := t.prefix + "b"
	if _, err := t.create("b", "1"); err != nil {
		return err
	}
	r, err := t.c.Txn(t.ctx).Then(clientv3.OpPut(a, "n"), clientv3.OpGet(a), clientv3.OpDelete(b), clientv3.OpGet(b)).Commit()
	if err != nil {
		return err
	}
	get, gone := r.Responses[1].GetResponseRange(), r.Responses[3].GetResponseRange()
	return expect(len(get.Kvs) == 1 && string(get.Kvs[0].Value) == "n" && get.Kvs[0].ModRevision == r.Header.Revision && r.Responses[2].GetResponseDeleteRange().Deleted == 1 && len(gone.Kvs) == 0,
		"got %v", r.Responses)
}

func requestTooLarge(t *test) error {
	_, err := t.c.Put(t.ctx, t.prefix+"a", strings.Repeat("x", 1600<<10))
	if err := expect(errors.Is(err, rpctypes.ErrRequestTooLarge), "1.6 MiB: %v", err); err != nil {
		return err
	}
	_, err = t.c.Put(t.ctx, t.prefix+"a", strings.Repeat("x", 5<<20))
	if err := expect(status.Code(err) == codes.ResourceExhausted || errors.Is(err, rpctypes.ErrRequestTooLarge), "5 MiB: %v", err); err != nil {
		return err
	}
	_, err = t.c.Put(t.ctx, t.prefix+"a", "small")
	return err
}

func bigValues(t *test) error {
	value := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	for i := 0; i < 8; i++ {
		if _, err := t.c.Put(t.ctx, t.prefix+strconv.Itoa(i), string(value)); err != nil {
			return err
		}
	}
	r, err := t.c.Get(t.ctx, t.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	for _, kv := range r.Kvs {
		if !bytes.Equal(kv.Value, value) {
			return fmt.Errorf("%s came back changed", kv.Key)
		}
	}
	return expect(len(r.Kvs) == 8, "%d of 8", len(r.Kvs))
}

func bigList(t *test) error {
	const nKeys = 2000
	value := strings.Repeat("v", 2048)
	var group sync.WaitGroup
	errs := make([]error, 8)
	for g := range errs {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := g; i < nKeys && errs[g] == nil; i += len(errs) {
				_, errs[g] = t.create(fmt.Sprintf("k%05d", i), value)
			}
		}()
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r, err := t.c.Get(t.ctx, t.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	return expect(len(r.Kvs) == nKeys && r.Count == nKeys && !r.More && string(r.Kvs[nKeys-1].Value) == value, "%d keys, count %d", len(r.Kvs), r.Count)
}

func concurrentUpdates(t *test) error {
	const nWriters, nEach = 8, 50
	if _, err := t.create("n", "0"); err != nil {
		return err
	}
	var group sync.WaitGroup
	errs := make([]error, nWriters)
	for g := range errs {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := 0; i < nEach; {
				get, err := t.kube().Get(t.ctx, t.prefix+"n", kubernetes.GetOptions{})
				if err != nil {
					errs[g] = err
					return
				}
				n, _ := strconv.Atoi(string(get.KV.Value))
				put, err := t.kube().OptimisticPut(t.ctx, t.prefix+"n", []byte(strconv.Itoa(n+1)), get.KV.ModRevision, kubernetes.PutOptions{GetOnFailure: true})
				if err != nil {
					errs[g] = err
					return
				}
				if put.Succeeded {
					i++
				}
			}
		}()
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	get, err := t.kube().Get(t.ctx, t.prefix+"n", kubernetes.GetOptions{})
	if err != nil {
		return err
	}
	return expect(string(get.KV.Value) == strconv.Itoa(nWriters*nEach) && get.KV.Version == nWriters*nEach+1, "counted to %s, version %d", get.KV.Value, get.KV.Version)
}

func deleteRange(t *test) error {
	if _, err := t.fill(10); err != nil {
		return err
	}
	r, err := t.c.Delete(t.ctx, t.prefix+"k0003", clientv3.WithRange(t.prefix+"k0007"), clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	if err := expect(r.Deleted == 4 && len(r.PrevKvs) == 4 && string(r.PrevKvs[0].Value) == "value 3", "deleted %d: %v", r.Deleted, r.PrevKvs); err != nil {
		return err
	}
	none, err := t.c.Delete(t.ctx, t.prefix+"k0003")
	if err != nil {
		return err
	}
	if err := expect(none.Deleted == 0 && none.Header.Revision >= r.Header.Revision, "an empty delete: %v", none); err != nil {
		return err
	}
	get, err := t.c.Get(t.ctx, t.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	return expect(get.Count == 6, "%d keys left", get.Count)
}

func statusProbe(t *test) error {
	if _, err := t.create("a", "1"); err != nil {
		return err
	}
	s, err := t.c.Status(t.ctx, t.c.Endpoints()[0])
	if err != nil {
		return err
	}
	var major, minor, patch int
	if n, _ := fmt.Sscanf(s.Version, "%d.%d.%d", &major, &minor, &patch); n != 3 {
		return fmt.Errorf("version %q is no semantic version", s.Version)
	}
	if err := expect(major == 3 && (minor > 5 || minor == 5 && patch >= 13), "version %s has no reliable progress", s.Version); err != nil {
		return err
	}
	return expect(s.DbSize > 0 && s.Leader != 0 && s.Header.MemberId != 0 && s.Header.Revision > 0, "status %v", s)
}

func members(t *test) error {
	r, err := t.c.MemberList(t.ctx)
	if err != nil {
		return err
	}
	if len(r.Members) < 1 {
		return errors.New("no members")
	}
	m := r.Members[0]
	return expect(m.ID != 0 && m.Name != "" && len(m.ClientURLs) > 0, "member %v", m)
}

func deadline(t *test) error {
	ctx, cancel := context.WithTimeout(t.ctx, time.Microsecond)
	_, err := t.c.Put(ctx, t.prefix+"a", "1")
	cancel()
	if err := expect(err != nil, "a put within a microsecond"); err != nil {
		return err
	}
	_, err = t.c.Put(t.ctx, t.prefix+"a", "2")
	return err
}

func unknownMethod(t *test) error {
	for _, method := range []string{"/etcdserverpb.KV/Nothing", "/no.such.Service/Method"} {
		err := t.c.ActiveConnection().Invoke(t.ctx, method, &etcdserverpb.RangeRequest{Key: []byte("a")}, &etcdserverpb.RangeResponse{})
		if err := expect(status.Code(err) == codes.Unimplemented, "%s: %v", method, err); err != nil {
			return err
		}
	}
	_, err := t.c.Put(t.ctx, t.prefix+"a", "1")
	return err
}

func sorting(t *test) error {
	for _, k := range []string{"b", "a", "c"} {
		if _, err := t.c.Put(t.ctx, t.prefix+k, string('z'-k[0]+'a')); err != nil {
			return err
		}
	}
	for i, c := range []struct {
		target clientv3.SortTarget
		order  clientv3.SortOrder
		want   string
	}{
		{clientv3.SortByKey, clientv3.SortAscend, "abc"},
		{clientv3.SortByKey, clientv3.SortDescend, "cba"},
		{clientv3.SortByModRevision, clientv3.SortAscend, "bac"},
		{clientv3.SortByCreateRevision, clientv3.SortDescend, "cab"},
		{clientv3.SortByValue, clientv3.SortAscend, "cba"},
	} {
		r, err := t.c.Get(t.ctx, t.prefix, clientv3.WithPrefix(), clientv3.WithSort(c.target, c.order))
		if err != nil {
			return err
		}
		got := ""
		for _, kv := range r.Kvs {
			got += string(kv.Key[len(kv.Key)-1])
		}
		if err := expect(got == c.want, "sort %d: %s", i, got); err != nil {
			return err
		}
	}
	return nil
}

func binaryKeys(t *test) error {
	keys := []string{"\x00", "\x00\x00", "_", "%", "\xff", "\xff\xff", "ü", "'\"\\"}
	for _, k := range keys {
		if _, err := t.c.Put(t.ctx, t.prefix+k, k); err != nil {
			return err
		}
	}
	for _, k := range keys {
		r, err := t.c.Get(t.ctx, t.prefix+k)
		if err != nil {
			return err
		}
		if err := expect(len(r.Kvs) == 1 && string(r.Kvs[0].Value) == k, "%q: %v", k, r.Kvs); err != nil {
			return err
		}
	}
	r, err := t.c.Get(t.ctx, t.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	return expect(int(r.Count) == len(keys), "%d keys", r.Count)
}
