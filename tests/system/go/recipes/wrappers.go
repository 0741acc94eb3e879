package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/ordering"
)

func namespaced(ctx context.Context, c *clientv3.Client) error {
	kv, watcher := namespace.NewKV(c.KV, "space/"), namespace.NewWatcher(c.Watcher, "space/")
	lease := namespace.NewLease(c.Lease, "space/")
	granted, err := lease.Grant(ctx, 60)
	if err != nil {
		return err
	}
	events := watcher.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(1))
	_, e1 := kv.Put(ctx, "a", "1", clientv3.WithLease(granted.ID))
	t, e2 := kv.Txn(ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).Then(clientv3.OpPut("b", "2"), clientv3.OpGet("", clientv3.WithPrefix())).Commit()
	if err := errors.Join(e1, e2); err != nil {
		return err
	}
	inside, e1 := keys(ctx, kv, "")
	outside, e2 := keys(ctx, c, "space/")
	live, e3 := lease.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
	if err := errors.Join(e1, e2, e3); err != nil {
		return err
	}
	seen := []string{}
	for len(seen) < 2 {
		r := <-events
		if err := r.Err(); err != nil {
			return err
		}
		for _, e := range r.Events {
			seen = append(seen, string(e.Kv.Key))
		}
	}
	return errors.Join(is("succeeded", t.Succeeded, true), is("read in it", string(t.Responses[1].GetResponseRange().Kvs[1].Key), "b"),
		is("inside", inside, []string{"a=1", "b=2"}), is("outside", outside, []string{"space/a=1", "space/b=2"}),
		is("events", seen, []string{"a", "b"}), is("keys of the lease", fmt.Sprintf("%s", live.Keys), "[a]"))
}

// ordered: no revision that this client saw goes back, also not for serializable reads.
func ordered(ctx context.Context, c *clientv3.Client) error {
	kv := ordering.NewKV(c.KV, func(clientv3.Op, clientv3.OpResponse, int64) error { return errors.New("the revision went back") })
	return all(contenders, func(i int, _ *clientv3.Client) error {
		for n := range 20 {
			if _, err := kv.Put(ctx, fmt.Sprint("ordered", i), fmt.Sprint(n)); err != nil {
				return err
			}
			r, err := kv.Get(ctx, fmt.Sprint("ordered", i), clientv3.WithSerializable())
			if err != nil {
				return err
			}
			if err := is("value", string(r.Kvs[0].Value), n); err != nil {
				return err
			}
		}
		return nil
	})
}

// leased: clients that cache keys under leases and take them from each other; none may read what is no longer so.
func leased(ctx context.Context, c *clientv3.Client) error {
	var lock sync.Mutex
	count := 0
	err := all(3, func(_ int, own *clientv3.Client) error {
		kv, done, err := leasing.NewKV(own, "leasing/")
		if err != nil {
			return err
		}
		defer done()
		for range 6 {
			lock.Lock()
			r, err := kv.Get(ctx, "shared")
			if err == nil && count > 0 {
				err = is("read", string(r.Kvs[0].Value), count)
			}
			if err == nil {
				count++
				_, err = kv.Put(ctx, "shared", fmt.Sprint(count))
			}
			lock.Unlock()
			if err != nil {
				return err
			}
		}
		return nil
	})
	left, e := keys(ctx, c, "shared")
	return errors.Join(err, e, is("at last", left, []string{"shared=18"}))
}

func mirrored(ctx context.Context, c *clientv3.Client) error {
	for i := range 25 { // more than one of its pages
		var puts []clientv3.Op
		for j := range 100 {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("mirror/%04d", i*100+j), "x"))
		}
		if _, err := c.Txn(ctx).Then(puts...).Commit(); err != nil {
			return err
		}
	}
	s := mirror.NewSyncer(c, "mirror/", 0)
	base, failures := s.SyncBase(ctx)
	n := 0
	for r := range base {
		n += len(r.Kvs)
	}
	if err := <-failures; err != nil {
		return err
	}
	updates := s.SyncUpdates(ctx)
	_, e1 := c.Put(ctx, "mirror/new", "y")
	_, e2 := c.Delete(ctx, "mirror/0001")
	var seen []string
	for len(seen) < 2 {
		r := <-updates
		if err := r.Err(); err != nil {
			return err
		}
		for _, e := range r.Events {
			seen = append(seen, e.Type.String()+" "+string(e.Kv.Key))
		}
	}
	return errors.Join(e1, e2, is("base", n, 2500), is("updates", seen, []string{"PUT mirror/new", "DELETE mirror/0001"}))
}

func naming(ctx context.Context, c *clientv3.Client) error {
	m, err := endpoints.NewManager(c, "service")
	if err != nil {
		return err
	}
	changes, err := m.NewWatchChannel(ctx)
	if err != nil {
		return err
	}
	e1 := m.AddEndpoint(ctx, "service/1", endpoints.Endpoint{Addr: "127.0.0.1:1"})
	e2 := m.AddEndpoint(ctx, "service/2", endpoints.Endpoint{Addr: "127.0.0.1:2"})
	e3 := m.DeleteEndpoint(ctx, "service/1")
	if err := errors.Join(e1, e2, e3); err != nil {
		return err
	}
	var seen []string
	for len(seen) < 3 {
		select {
		case updates := <-changes:
			for _, u := range updates {
				seen = append(seen, fmt.Sprint(u.Op, u.Key))
			}
		case <-ctx.Done():
			return fmt.Errorf("only %v", seen)
		}
	}
	list, err := m.List(ctx)
	return errors.Join(err, is("updates", seen, []string{"0service/1", "0service/2", "1service/1"}), is("list", list, "map[service/2:{127.0.0.1:2 <nil>}]"))
}
