package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	loadPrefix = "/registry/load/"
	nWriters   = 16
	nKeysEach  = 20
)

// entry is one line of the log: a write that was acknowledged at a revision, one whose outcome is not known (revision 0), or an event
// that the watcher saw.
type entry struct {
	What     string `json:"what"` // "put", "delete", "event-put", "event-delete"
	Key      string `json:"key"`
	Value    string `json:"value,omitempty"`
	Revision int64  `json:"revision"`
	Previous int64  `json:"previous,omitempty"` // event: prev_kv's revision
}

// load writes with transactions on keys that each belong to one writer, and watches them all, until SIGTERM. The log is complete: what
// the daemon acknowledged is in it before the writer goes on.
func load(c *clientv3.Client, path string, seed uint64) {
	file, err := os.Create(path)
	if err != nil {
		fail("%v", err)
	}
	var lock sync.Mutex
	out := json.NewEncoder(file)
	write := func(e entry) {
		lock.Lock()
		defer lock.Unlock()
		if err := out.Encode(e); err != nil {
			fail("%s: %v", path, err)
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var writers, watcher sync.WaitGroup
	watchCtx, stopWatch := context.WithCancel(context.Background())
	var acked, seen int64
	progress := func(rev int64, which *int64) {
		lock.Lock()
		*which = max(*which, rev)
		lock.Unlock()
	}

	watcher.Add(1)
	go func() {
		defer watcher.Done()
		for r := range c.Watch(watchCtx, loadPrefix, clientv3.WithPrefix(), clientv3.WithRev(1), clientv3.WithPrevKV()) {
			if err := r.Err(); err != nil {
				if watchCtx.Err() == nil {
					fail("watch: %v", err)
				}
				return
			}
			for _, e := range r.Events {
				w := entry{What: "event-put", Key: string(e.Kv.Key), Value: string(e.Kv.Value), Revision: e.Kv.ModRevision}
				if e.Type == mvccpb.DELETE {
					w.What = "event-delete"
				}
				if e.PrevKv != nil {
					w.Previous = e.PrevKv.ModRevision
				}
				write(w)
			}
			if len(r.Events) > 0 {
				progress(r.Events[len(r.Events)-1].Kv.ModRevision, &seen)
			}
		}
	}()

	for w := 0; w < nWriters; w++ {
		writers.Add(1)
		go func() {
			defer writers.Done()
			random := rand.New(rand.NewPCG(seed, uint64(w)))
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("%s%02d/%02d", loadPrefix, w, random.IntN(nKeysEach))
				e := entry{What: "put", Key: key, Value: fmt.Sprintf("%d.%d.%0*d", w, n, random.IntN(2000), 0)}
				op := clientv3.OpPut(key, e.Value)
				if random.IntN(5) == 0 {
					e.What, e.Value = "delete", ""
					op = clientv3.OpDelete(key)
				}
				call, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				r, err := c.Txn(call).Then(op).Commit()
				cancel()
				if err == nil {
					e.Revision = r.Header.Revision
					if e.What == "delete" && r.Responses[0].GetResponseDeleteRange().Deleted == 0 {
						e.What = "delete-nothing"
					}
					progress(e.Revision, &acked)
				}
				write(e)
				if err != nil {
					time.Sleep(20 * time.Millisecond)
				}
			}
		}()
	}
	writers.Wait()

	// The watch goes on over restarts by itself; let it see the last write.
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		lock.Lock()
		done := seen >= acked
		lock.Unlock()
		if done {
			break
		}
	}
	stopWatch()
	watcher.Wait()
	if err := file.Close(); err != nil {
		fail("%v", err)
	}
}

// verify reads the whole history back, from revision 1, and compares: each acknowledged write is there, at its revision, with its value;
// nothing is there that was not written; revisions rise; a watch that lived through all of it saw the same history, each event once, with the
// right previous revision; and the keys now are what the history makes them.
func verify(c *clientv3.Client, path string) {
	file, err := os.Open(path)
	if err != nil {
		fail("%v", err)
	}
	var entries []entry
	scan := bufio.NewScanner(file)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		var e entry
		if err := json.Unmarshal(scan.Bytes(), &e); err != nil {
			fail("%s: %v", path, err)
		}
		entries = append(entries, e)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	now, err := c.Get(ctx, loadPrefix, clientv3.WithPrefix())
	if err != nil {
		fail("read back: %v", err)
	}
	history, err := readHistory(ctx, c, now.Header.Revision)
	if err != nil {
		fail("history: %v", err)
	}

	type id struct {
		key   string
		rev   int64
		value string
		what  string
	}
	there := map[id]bool{}
	state := map[string]entry{}
	var last int64
	for _, e := range history {
		if e.Revision <= last {
			fail("revision %d after %d", e.Revision, last)
		}
		last = e.Revision
		if before := state[e.Key]; e.Previous != before.Revision {
			fail("%s at %d: the previous revision is said to be %d, and was %d", e.Key, e.Revision, e.Previous, before.Revision)
		}
		if e.What == "delete" {
			delete(state, e.Key)
		} else {
			state[e.Key] = e
		}
		there[id{e.Key, e.Revision, e.Value, e.What}] = true
	}

	var lost, nAcked, nUnknown, nWatched int
	written := map[string]bool{} // values are unique
	for _, e := range entries {
		switch {
		case e.What == "event-put" || e.What == "event-delete":
			if nWatched >= len(history) {
				fail("the watch saw %s at %d, which is not in the history", e.Key, e.Revision)
			}
			h := history[nWatched]
			if "event-"+h.What != e.What || h.Key != e.Key || h.Revision != e.Revision || h.Value != e.Value || h.Previous != e.Previous {
				fail("event %d: the watch saw %s %s at %d, the history has %s %s at %d", nWatched, e.What, e.Key, e.Revision, h.What, h.Key, h.Revision)
			}
			nWatched++
		case e.Revision == 0:
			nUnknown++
			written[e.Key+e.Value] = true
		case e.What == "delete-nothing":
		default:
			nAcked++
			written[e.Key+e.Value] = true
			if !there[id{e.Key, e.Revision, e.Value, e.What}] {
				lost++
				fmt.Fprintf(os.Stderr, "lost: %s of %s, acknowledged at revision %d\n", e.What, e.Key, e.Revision)
			}
		}
	}
	for _, e := range history {
		if !written[e.Key+e.Value] {
			fail("%s at %d was never written", e.Key, e.Revision)
		}
	}
	if len(now.Kvs) != len(state) {
		fail("%d keys, and the history makes %d", len(now.Kvs), len(state))
	}
	for _, kv := range now.Kvs {
		if e := state[string(kv.Key)]; e.Revision != kv.ModRevision || e.Value != string(kv.Value) {
			fail("%s is of revision %d, and in the history of %d", kv.Key, kv.ModRevision, e.Revision)
		}
	}
	if nWatched != len(history) {
		fail("the watch saw %d of %d events", nWatched, len(history))
	}
	fmt.Printf("%d acknowledged, %d lost, %d unknown, %d events, revision %d\n", nAcked, lost, nUnknown, len(history), now.Header.Revision)
	if lost > 0 {
		os.Exit(1)
	}
}

func readHistory(ctx context.Context, c *clientv3.Client, end int64) ([]entry, error) {
	var history []entry
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	// A last write shows where the history ends.
	mark, err := c.Put(ctx, loadPrefix+"~", "end")
	if err != nil {
		return nil, err
	}
	for r := range c.Watch(watch, loadPrefix, clientv3.WithPrefix(), clientv3.WithRev(1), clientv3.WithPrevKV()) {
		if err := r.Err(); err != nil {
			return nil, err
		}
		for _, e := range r.Events {
			if e.Kv.ModRevision >= mark.Header.Revision {
				_, err := c.Delete(ctx, loadPrefix+"~")
				return history, err
			}
			if string(e.Kv.Key) == loadPrefix+"~" {
				continue
			}
			w := entry{What: "put", Key: string(e.Kv.Key), Value: string(e.Kv.Value), Revision: e.Kv.ModRevision}
			if e.Type == mvccpb.DELETE {
				w.What = "delete"
			}
			if e.PrevKv != nil {
				w.Previous = e.PrevKv.ModRevision
			}
			history = append(history, w)
		}
	}
	return nil, errors.New("the watch ended")
}
