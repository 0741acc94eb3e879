package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

const (
	prefix    = "h/"
	nKeys     = 24
	nWorkers  = 10
	perCall   = 3 * time.Second
	leaseSecs = 2
)

// worker is one client with a connection of its own; it makes one call at a time.
type worker struct {
	*recorder
	c      *clientv3.Client
	id     int
	random *rand.Rand
	n      int
	known  map[string]KV // what it last saw, for compares
	leases []int64
	shared *leases
}

// leases that all workers attach keys to and revoke.
type leases struct {
	lock sync.Mutex
	ids  []int64
}

func (l *leases) add(id int64) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if l.ids = append(l.ids, id); len(l.ids) > 6 {
		l.ids = l.ids[1:] // left to expire
	}
}

func (l *leases) pick(r *rand.Rand) int64 {
	l.lock.Lock()
	defer l.lock.Unlock()
	if len(l.ids) == 0 {
		return 0
	}
	return l.ids[r.IntN(len(l.ids))]
}

// outcome says what an error means for a call. Only an error of etcd's own that is given before anything is done is a refusal.
func outcome(err error) (string, string) {
	if err == nil {
		return Done, ""
	}
	var e rpctypes.EtcdError
	if !errors.As(rpctypes.Error(err), &e) {
		return Unknown, err.Error()
	}
	switch e.Code() {
	case codes.NotFound, codes.OutOfRange, codes.InvalidArgument, codes.FailedPrecondition:
	default:
		return Unknown, err.Error()
	}
	switch rpctypes.Error(err) {
	case rpctypes.ErrCompacted:
		return Refused, Compacted
	case rpctypes.ErrLeaseNotFound:
		return Refused, LeaseNotFound
	}
	return Refused, err.Error()
}

func toOp(op Op) clientv3.Op {
	var o []clientv3.OpOption
	if op.End == "\x00" {
		o = append(o, clientv3.WithFromKey())
	} else if op.End != "" {
		o = append(o, clientv3.WithRange(op.End))
	}
	if op.Prev {
		o = append(o, clientv3.WithPrevKV())
	}
	switch op.Do {
	case "put":
		if op.Lease != 0 {
			o = append(o, clientv3.WithLease(clientv3.LeaseID(op.Lease)))
		}
		return clientv3.OpPut(op.Key, op.Value, o...)
	case "delete":
		return clientv3.OpDelete(op.Key, o...)
	}
	o = append(o, clientv3.WithRev(op.Rev), clientv3.WithLimit(op.Limit))
	if op.Serial {
		o = append(o, clientv3.WithSerializable())
	}
	if op.CountOnly {
		o = append(o, clientv3.WithCountOnly())
	}
	return clientv3.OpGet(op.Key, o...)
}

func toOps(ops []Op) (out []clientv3.Op) {
	for _, op := range ops {
		out = append(out, toOp(op))
	}
	return
}

func toCompares(compares []Compare) (out []clientv3.Cmp) {
	for _, c := range compares {
		switch c.Target {
		case "mod":
			out = append(out, clientv3.Compare(clientv3.ModRevision(c.Key), c.Result, c.Number))
		case "create":
			out = append(out, clientv3.Compare(clientv3.CreateRevision(c.Key), c.Result, c.Number))
		case "version":
			out = append(out, clientv3.Compare(clientv3.Version(c.Key), c.Result, c.Number))
		case "value":
			out = append(out, clientv3.Compare(clientv3.Value(c.Key), c.Result, c.Text))
		}
	}
	return
}

func answerOf(r *etcdserverpb.ResponseOp) Answer {
	if g := r.GetResponseRange(); g != nil {
		return Answer{KVs: fromKVs(g.Kvs), Count: g.Count, More: g.More}
	}
	if d := r.GetResponseDeleteRange(); d != nil {
		return Answer{KVs: fromKVs(d.PrevKvs), Deleted: d.Deleted}
	}
	a := Answer{}
	if p := r.GetResponsePut(); p != nil && p.PrevKv != nil {
		a.KVs = []KV{fromKV(p.PrevKv)}
	}
	return a
}

// kv makes a call: as a transaction, or plainly where it is one operation without compares.
func (w *worker) kv(ctx context.Context, call Call, plain bool) Call {
	ctx, cancel := context.WithTimeout(ctx, perCall)
	defer cancel()
	call.Client, call.What, call.Start = w.id, "kv", w.now()
	var err error
	if plain {
		var r clientv3.OpResponse
		r, err = w.c.Do(ctx, toOp(call.Then[0]))
		switch {
		case err != nil:
		case r.Put() != nil:
			call.Header = r.Put().Header.Revision
			call.Answers = []Answer{{}}
			if r.Put().PrevKv != nil {
				call.Answers[0].KVs = []KV{fromKV(r.Put().PrevKv)}
			}
		case r.Del() != nil:
			call.Header = r.Del().Header.Revision
			call.Answers = []Answer{{KVs: fromKVs(r.Del().PrevKvs), Deleted: r.Del().Deleted}}
		default:
			g := r.Get()
			call.Header = g.Header.Revision
			call.Answers = []Answer{{KVs: fromKVs(g.Kvs), Count: g.Count, More: g.More}}
		}
		call.Succeeded = true
	} else {
		var r *clientv3.TxnResponse
		if r, err = w.c.Txn(ctx).If(toCompares(call.Compares)...).Then(toOps(call.Then)...).Else(toOps(call.Else)...).Commit(); err == nil {
			call.Header, call.Succeeded = r.Header.Revision, r.Succeeded
			for _, a := range r.Responses {
				call.Answers = append(call.Answers, answerOf(a))
			}
		}
	}
	call.End = w.now()
	call.Outcome, call.Error = outcome(err)
	w.call(call)
	if call.Outcome == Done {
		for _, a := range call.Answers {
			for _, kv := range a.KVs {
				w.known[kv.Key] = kv
			}
		}
	} else {
		time.Sleep(20 * time.Millisecond)
	}
	return call
}

func (w *worker) key() string { return fmt.Sprintf("%s%02d", prefix, w.random.IntN(nKeys)) }

func (w *worker) put(key string) Op {
	w.n++
	return Op{Do: "put", Key: key, Value: fmt.Sprintf("%d.%d.%0*d", w.id, w.n, w.random.IntN(300), 0), Prev: w.random.IntN(3) == 0}
}

// span is a single key, or a range in one of its forms.
func (w *worker) span() (string, string) {
	switch w.random.IntN(4) {
	case 0:
		return prefix, clientv3.GetPrefixRangeEnd(prefix)
	case 1:
		return w.key(), "\x00"
	case 2:
		a, b := w.key(), w.key()
		if a > b {
			a, b = b, a
		}
		return a, b + "x"
	}
	return w.key(), ""
}

func (w *worker) step(ctx context.Context) {
	key := w.key()
	get := Op{Do: "range", Key: key}
	flip := w.random.IntN(2) == 0
	switch n := w.random.IntN(100); {
	case n < 10:
		w.kv(ctx, Call{Then: []Op{w.put(key)}}, flip)
	case n < 25: // create
		w.kv(ctx, Call{Compares: []Compare{{Key: key, Target: []string{"mod", "create", "version"}[n%3], Result: "="}}, Then: []Op{w.put(key)}, Else: []Op{get}}, false)
	case n < 42: // compare and set, or delete, as Kubernetes does
		if _, ok := w.known[key]; !ok {
			w.kv(ctx, Call{Then: []Op{get}}, true)
		}
		then := w.put(key)
		if w.random.IntN(3) == 0 {
			then = Op{Do: "delete", Key: key, Prev: flip}
		}
		w.kv(ctx, Call{Compares: []Compare{{Key: key, Target: "mod", Result: "=", Number: w.known[key].Mod}}, Then: []Op{then}, Else: []Op{get}}, false)
	case n < 47: // a compare of another kind
		compare := Compare{Key: key, Target: "value", Result: []string{"=", "!=", "<", ">"}[w.random.IntN(4)], Text: w.known[key].Value}
		if flip {
			compare = Compare{Key: key, Target: "version", Result: compare.Result, Number: int64(w.random.IntN(4))}
		}
		w.kv(ctx, Call{Compares: []Compare{compare}, Then: []Op{w.put(w.key()), get}, Else: []Op{get}}, false)
	case n < 52:
		op := Op{Do: "delete", Prev: w.random.IntN(2) == 0}
		op.Key = key
		if w.random.IntN(3) == 0 {
			op.Key, op.End = w.span()
		}
		w.kv(ctx, Call{Then: []Op{op}}, flip)
	case n < 60: // several operations, one revision; no key twice
		var ops []Op
		for _, i := range w.random.Perm(nKeys)[:1+w.random.IntN(5)] {
			k := fmt.Sprintf("%s%02d", prefix, i)
			switch w.random.IntN(4) {
			case 0:
				ops = append(ops, Op{Do: "delete", Key: k, Prev: flip})
			case 1:
				from, end := w.span()
				ops = append(ops, Op{Do: "range", Key: from, End: end})
			default:
				ops = append(ops, w.put(k))
			}
		}
		w.kv(ctx, Call{Then: ops}, false)
	case n < 80: // reads
		op := Op{Do: "range", Serial: n < 68, CountOnly: n%7 == 0}
		op.Key, op.End = w.span()
		if flip {
			op.Limit = int64(1 + w.random.IntN(8))
		}
		if n > 74 {
			op.Rev = max(w.h.First, w.highest()-int64(w.random.IntN(600)))
		}
		w.kv(ctx, Call{Then: []Op{op}}, true)
	case n < 92: // leases
		w.lease(ctx, n, key)
	default:
		time.Sleep(time.Duration(w.random.IntN(20)) * time.Millisecond)
	}
}

func (w *worker) lease(ctx context.Context, n int, key string) {
	lease := w.shared.pick(w.random)
	call := Call{Client: w.id, Lease: lease, Start: w.now()}
	limited, cancel := context.WithTimeout(ctx, perCall)
	defer cancel()
	var err error
	switch {
	case n == 80 || lease == 0:
		var r *clientv3.LeaseGrantResponse
		call.What = "grant"
		if r, err = w.c.Grant(limited, leaseSecs+int64(w.random.IntN(3))); err == nil {
			call.Lease, call.TTL, call.Header = int64(r.ID), r.TTL, r.Revision
		}
	case n == 81 && w.random.IntN(3) == 0:
		var r *clientv3.LeaseRevokeResponse
		call.What = "revoke"
		if r, err = w.c.Revoke(limited, clientv3.LeaseID(lease)); err == nil {
			call.Header = r.Header.Revision
		}
	case n < 85:
		var r *clientv3.LeaseKeepAliveResponse
		call.What = "keepalive"
		if r, err = w.c.KeepAliveOnce(limited, clientv3.LeaseID(lease)); err == nil {
			call.TTL, call.Header = r.TTL, r.Revision
		}
	default:
		op := w.put(key)
		op.Lease = lease
		w.kv(ctx, Call{Then: []Op{op}}, n%2 == 0)
		return
	}
	call.End = w.now()
	call.Outcome, call.Error = outcome(err)
	w.call(call)
	if call.What == "grant" && err == nil {
		w.shared.add(call.Lease)
	}
}

// compact follows the log's watch at a distance, so that the log itself is whole.
func (w *worker) compact(ctx context.Context, seen *atomic.Int64) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(300+w.random.IntN(700)) * time.Millisecond):
		}
		rev := seen.Load() - int64(w.random.IntN(400))
		if rev < 1 {
			continue
		}
		call := Call{Client: w.id, What: "compact", Rev: rev, Start: w.now()}
		limited, cancel := context.WithTimeout(ctx, perCall)
		var options []clientv3.CompactOption
		if w.random.IntN(2) == 0 {
			options = append(options, clientv3.WithCompactPhysical())
		}
		_, err := w.c.Compact(limited, rev, options...)
		cancel()
		call.End = w.now()
		call.Outcome, call.Error = outcome(err)
		w.call(call)
	}
}
