package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// follow watches until it is cancelled or has been sent everything to the revision that end holds (0: not yet known).
func follow(ctx context.Context, r *recorder, c *clientv3.Client, w *Watch, options []clientv3.OpOption, seen, end *atomic.Int64) {
	if w.End == "\x00" {
		options = append(options, clientv3.WithFromKey())
	} else if w.End != "" {
		options = append(options, clientv3.WithRange(w.End))
	}
	if w.Prev {
		options = append(options, clientv3.WithPrevKV())
	}
	if w.NoPut {
		options = append(options, clientv3.WithFilterPut())
	}
	if w.NoDelete {
		options = append(options, clientv3.WithFilterDelete())
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	w.Start = r.now()
	ch := c.Watch(ctx, w.Key, append(options, clientv3.WithRev(w.From), clientv3.WithCreatedNotify())...)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	reached := int64(0)
	for {
		select {
		case resp, ok := <-ch:
			if !ok {
				w.EndedAt = r.now()
				return
			}
			if err := resp.Err(); err != nil {
				w.EndedAt = r.now()
				if errors.Is(err, rpctypes.ErrCompacted) {
					w.Compacted = resp.CompactRevision
				}
				return
			}
			if resp.Created {
				if w.Created == 0 {
					w.Created = resp.Header.Revision
				}
				continue
			}
			one := Response{At: r.now(), Header: resp.Header.Revision}
			for _, e := range resp.Events {
				event := Event{Delete: e.Type == mvccpb.DELETE, KV: fromKV(e.Kv)}
				if e.PrevKv != nil {
					prev := fromKV(e.PrevKv)
					event.Prev = &prev
				}
				one.Events = append(one.Events, event)
			}
			w.Responses = append(w.Responses, one)
			reached = max(reached, one.Header)
			if seen != nil {
				seen.Store(reached)
			}
		case <-tick.C:
			if at := end.Load(); at > 0 {
				if reached >= at || w.From > at { // what begins behind the end is told of nothing
					w.Complete, w.EndedAt = true, r.now()
					return
				}
				c.RequestProgress(ctx)
			}
		}
	}
}

// watcher makes one watch after another, at a random point of the past or where the last one stopped; once roaming is over, one more
// that stays to the end.
func (w *worker) watcher(ctx, roaming context.Context, end *atomic.Int64) {
	first := w.h.First + 1
	from := first
	for ctx.Err() == nil {
		record := &Watch{Client: w.id, From: from, Prev: w.random.IntN(2) == 0, NoPut: w.random.IntN(8) == 0, NoDelete: w.random.IntN(8) == 0}
		record.Key, record.End = w.span()
		var options []clientv3.OpOption
		if w.random.IntN(2) == 0 {
			options = append(options, clientv3.WithProgressNotify())
		}
		if w.random.IntN(3) == 0 {
			options = append(options, clientv3.WithFragment())
		}
		limited, cancel := context.WithTimeout(roaming, time.Duration(200+w.random.IntN(6000))*time.Millisecond)
		asking, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		asks := w.random.IntN(2) == 0
		go func() {
			defer close(done)
			for asks {
				select {
				case <-asking.Done():
					return
				case <-time.After(150 * time.Millisecond):
					w.c.RequestProgress(clientv3.WithRequireLeader(limited))
				}
			}
		}()
		never := &atomic.Int64{}
		if end.Load() > 0 { // the last one stays
			cancel()
			limited, cancel = context.WithCancel(ctx)
			never = end
		}
		follow(limited, w.recorder, w.c, record, options, nil, never)
		cancel()
		stop()
		<-done
		w.watch(record)
		if never == end && record.Compacted == 0 {
			return
		}
		switch w.random.IntN(4) {
		case 0:
			from = 0
		case 1:
			from = max(first, w.highest()-int64(w.random.IntN(1000)))
		default:
			from = max(first, w.highest()-int64(w.random.IntN(50)))
			if n := len(record.Responses); n > 0 {
				from = record.Responses[n-1].Header + 1
			}
		}
		if record.Compacted > 0 {
			from = record.Compacted + 1
		}
	}
}
