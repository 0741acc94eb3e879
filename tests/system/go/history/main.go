// history drives tenants' endpoints with many clients at once, records all they see, and checks it against etcd's rules: what was
// acknowledged is there once, at its revision; reads and watches show what the log makes of the keys; nothing comes back from the past.
//
//	history run   LOG SEED ENDPOINT…   until SIGTERM; then checks and writes the record to LOG. SIGUSR1 says: all daemons are dead now
//	history check LOG                  checks a record again
//	history proof NAME                 checks a history made by hand that must be refused (or, for "good…", accepted)
//
// Exit: 0 if nothing was found; 1 with what was found on stderr.
package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	settle    = 60 * time.Second
	nWatchers = 6
)

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func connect(endpoint string) *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{endpoint},
		DialTimeout: 20 * time.Second,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{
			// A daemon that comes back is found at once.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 300 * time.Millisecond},
				MinConnectTimeout: 3 * time.Second,
			}),
		},
	})
	if err != nil {
		fail("%s: %v", endpoint, err)
	}
	return c
}

func run(path string, seed uint64, endpoints []string) {
	r := &recorder{base: time.Now()}
	r.h.Seed, r.h.Endpoints = seed, len(endpoints)
	next := 0
	newWorker := func(shared *leases) *worker {
		w := &worker{recorder: r, c: connect(endpoints[next%len(endpoints)]), id: next, random: rand.New(rand.NewPCG(seed, uint64(next))),
			known: map[string]KV{}, shared: shared}
		next++
		return w
	}
	stopping, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	marks := make(chan os.Signal, 100)
	signal.Notify(marks, syscall.SIGUSR1)
	go func() {
		for range marks {
			r.mark()
		}
	}()

	shared := &leases{}
	scribe := newWorker(nil)
	first, err := scribe.c.Get(stopping, "\x00", clientv3.WithFromKey())
	if err != nil {
		fail("first read: %v", err)
	}
	r.h.First, r.h.Base = first.Header.Revision, fromKVs(first.Kvs)
	var seen, end atomic.Int64
	log := &Watch{Client: scribe.id, Key: "\x00", End: "\x00", From: r.h.First + 1, Prev: true}
	r.watch(log)
	var watchers, writers sync.WaitGroup
	watching, stopWatching := context.WithCancel(context.Background())
	roaming, stopRoaming := context.WithCancel(watching)
	watchers.Go(func() { follow(watching, r, scribe.c, log, nil, &seen, &end) })
	for range nWatchers {
		w := newWorker(nil)
		watchers.Go(func() { w.watcher(watching, roaming, &end) })
	}
	for range nWorkers {
		w := newWorker(shared)
		writers.Go(func() {
			for stopping.Err() == nil {
				w.step(context.Background())
			}
		})
	}
	compactor := newWorker(shared)
	writers.Go(func() { compactor.compact(stopping, &seen) })
	fmt.Println("running")
	writers.Wait()

	// A last write that all watches must come to, and a last look at everything.
	var last Call
	for until := time.Now().Add(settle); last.Outcome != Done && time.Now().Before(until); {
		last = compactor.kv(context.Background(), Call{Then: []Op{compactor.put(prefix + "last")}}, true)
	}
	if last.Outcome != Done {
		fail("the last write failed for %v: %s", settle, last.Error)
	}
	compactor.kv(context.Background(), Call{Then: []Op{{Do: "range", Key: "\x00", End: "\x00"}}}, true)
	end.Store(last.Header)
	stopRoaming()
	time.AfterFunc(settle, stopWatching)
	watchers.Wait()
	if err := r.h.write(path); err != nil {
		fail("%s: %v", path, err)
	}
	report(&r.h)
}

func report(h *History) {
	c := check(h)
	kinds := map[string]int{}
	for i := range h.Calls {
		if call := &h.Calls[i]; call.Outcome == Unknown {
			kinds[call.Error]++
		}
	}
	fmt.Printf("%d answered, %d unknown (%d of them happened), %d events to %d, %d leases expired, %d watches, %d marks; %d errors\n",
		c.nDone, c.nUnknown, c.nLanded, c.nEvents, c.last, c.nExpired, len(h.Watches), len(h.Marks), len(c.found))
	for _, f := range c.found {
		if len(f) > 3000 {
			f = f[:3000] + "…"
		}
		fmt.Fprintln(os.Stderr, f)
	}
	if len(c.found) > 0 {
		os.Exit(1)
	}
}

func main() {
	switch {
	case len(os.Args) >= 5 && os.Args[1] == "run":
		seed, err := strconv.ParseUint(os.Args[3], 10, 64)
		if err != nil {
			fail("seed: %v", err)
		}
		run(os.Args[2], seed, os.Args[4:])
	case len(os.Args) == 3 && os.Args[1] == "check":
		h, err := readHistory(os.Args[2])
		if err != nil {
			fail("%s: %v", os.Args[2], err)
		}
		report(h)
	case len(os.Args) == 3 && os.Args[1] == "proof":
		proof(os.Args[2])
	default:
		fail("usage: history run LOG SEED ENDPOINT… | check LOG | proof NAME")
	}
}
