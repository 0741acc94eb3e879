// An informer that keeps a copy of a prefix and checks it; see the type.

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// An informer as Kubernetes has them: lists, watches from there, keeps a copy, and lists anew only when it is told that what it needs was
// compacted. It says "listed" at each listing; told anything on stdin, it waits until its copy is what a list gives, and prints a line of JSON. A
// revision that goes back, an event that does not follow, or a copy that stays different is an error.
type informer struct {
	c        *clientv3.Client
	prefix   string
	copy     map[string]string
	revision int64 // all up to it is in the copy
	highest  int64 // seen in any header; a list must be of this one at least
	watched  int64 // seen in the watch's last header; what was under way beside a list may be older than that
	lists    int
	events   int
}

func (i *informer) see(revision int64) error {
	if revision < i.highest {
		return fmt.Errorf("revision %d after %d", revision, i.highest)
	}
	i.highest = revision
	return nil
}

func (i *informer) get(ctx context.Context) (*clientv3.GetResponse, error) {
	for {
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		r, err := i.c.Get(one, i.prefix, clientv3.WithPrefix())
		cancel()
		if err == nil || ctx.Err() != nil {
			return r, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (i *informer) list(ctx context.Context) error {
	r, err := i.get(ctx)
	if err != nil {
		return err
	}
	if err := i.see(r.Header.Revision); err != nil {
		return err
	}
	if r.Header.Revision < i.revision {
		return fmt.Errorf("a list of revision %d, where %d was known", r.Header.Revision, i.revision)
	}
	i.copy = map[string]string{}
	for _, kv := range r.Kvs {
		i.copy[string(kv.Key)] = string(kv.Value)
	}
	i.revision = r.Header.Revision
	i.lists++
	fmt.Println("listed")
	return nil
}

func (i *informer) apply(r clientv3.WatchResponse) error {
	if r.Header.Revision < i.watched {
		return fmt.Errorf("a watch's revision %d after %d", r.Header.Revision, i.watched)
	}
	i.watched = r.Header.Revision
	i.highest = max(i.highest, i.watched)
	for _, e := range r.Events {
		if e.Kv.ModRevision <= i.revision {
			return fmt.Errorf("an event of revision %d, where %d was known", e.Kv.ModRevision, i.revision)
		}
		if e.Type == clientv3.EventTypeDelete {
			delete(i.copy, string(e.Kv.Key))
		} else {
			i.copy[string(e.Kv.Key)] = string(e.Kv.Value)
		}
		i.events++
	}
	if n := len(r.Events); n > 0 {
		i.revision = r.Events[n-1].Kv.ModRevision
	}
	return nil
}

// Whether the copy is what there is, as far as it can be known by now.
func (i *informer) same(r *clientv3.GetResponse) bool {
	if len(r.Kvs) != len(i.copy) {
		return false
	}
	for _, kv := range r.Kvs {
		if i.copy[string(kv.Key)] != string(kv.Value) {
			return false
		}
	}
	return true
}

// Watches from what is known. Done: the copy was asked for, and is right.
func (i *informer) watch(ctx context.Context, asked <-chan bool, deadline *time.Time) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := i.c.Watch(ctx, i.prefix, clientv3.WithPrefix(), clientv3.WithRev(i.revision+1))
	for {
		select {
		case r, ok := <-events:
			if !ok {
				return false, nil // the client gave it up; a list follows
			}
			if r.CompactRevision != 0 && r.CompactRevision <= i.revision {
				return false, fmt.Errorf("compacted at %d, where %d was asked for", r.CompactRevision, i.revision+1)
			}
			if r.CompactRevision != 0 || r.Canceled {
				return false, nil
			}
			if err := i.apply(r); err != nil {
				return false, err
			}
		case <-asked:
			*deadline = time.Now().Add(20 * time.Second)
		case <-time.After(50 * time.Millisecond):
		}
		if deadline.IsZero() {
			continue
		}
		r, err := i.get(ctx)
		if err == nil {
			err = i.see(r.Header.Revision)
		}
		if err != nil {
			return false, err
		}
		if i.same(r) {
			return true, json.NewEncoder(os.Stdout).Encode(map[string]int64{"lists": int64(i.lists), "events": int64(i.events),
				"revision": r.Header.Revision, "keys": int64(len(i.copy))})
		}
		if time.Now().After(*deadline) {
			return false, fmt.Errorf("the copy has %d keys as of %d, the list %d as of %d, and they stay different",
				len(i.copy), i.revision, len(r.Kvs), r.Header.Revision)
		}
	}
}

func (i *informer) run(ctx context.Context, asked <-chan bool) error {
	var deadline time.Time
	for {
		if err := i.list(ctx); err != nil {
			return err
		}
		if done, err := i.watch(ctx, asked, &deadline); done || err != nil {
			return err
		}
	}
}

func inform(c *clientv3.Client, prefix string) error {
	asked := make(chan bool, 1)
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		asked <- true
	}()
	i := &informer{c: c, prefix: prefix}
	return i.run(context.Background(), asked)
}
