// recipes runs what comes with etcd's Go client (package concurrency, the recipes, and the wrappers of KV, Lease and Watch) on an
// endpoint, with several contenders each, and looks whether each kept its promise.
//
//	recipes ENDPOINT NAME    exit 0, or 1 with the reason on stderr
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"
	"go.uber.org/zap"
)

const contenders = 5

var endpoint string

// The name stands first on its line: the tests in Python read the list from here.
var recipes = []struct {
	name string
	run  func(context.Context, *clientv3.Client) error
}{
	{"mutex", mutex},
	{"mutex-try", tryMutex},
	{"election", election},
	{"session-orphan", orphan},
	{"session-close", closeSession},
	{"stm-serializable-snapshot", func(x context.Context, c *clientv3.Client) error {
		return stm(x, c, concurrency.SerializableSnapshot, true)
	}},
	{"stm-serializable", func(x context.Context, c *clientv3.Client) error { return stm(x, c, concurrency.Serializable, true) }},
	{"stm-repeatable-reads", func(x context.Context, c *clientv3.Client) error { return stm(x, c, concurrency.RepeatableReads, true) }},
	{"stm-read-committed", func(x context.Context, c *clientv3.Client) error { return stm(x, c, concurrency.ReadCommitted, false) }},
	{"barrier", barrier},
	{"double-barrier", doubleBarrier},
	{"queue", queue},
	{"priority-queue", priorityQueue},
	{"rwmutex", rwMutex},
	{"namespace", namespaced},
	{"ordering", ordered},
	{"leasing", leased},
	{"mirror", mirrored},
	{"naming", naming},
}

func connect() *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 20 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return c
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: recipes ENDPOINT NAME")
		os.Exit(1)
	}
	endpoint = os.Args[1]
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	time.AfterFunc(75*time.Second, func() {
		fmt.Fprintln(os.Stderr, "no end in 75 s")
		os.Exit(1)
	})
	for _, r := range recipes {
		if r.name == os.Args[2] {
			if err := r.run(ctx, connect()); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", r.name, err)
				os.Exit(1)
			}
			return
		}
	}
	fmt.Fprintf(os.Stderr, "no recipe is called %q\n", os.Args[2])
	os.Exit(1)
}

// all runs a function once for each contender, each with a connection of its own, at once.
func all(n int, f func(i int, c *clientv3.Client) error) error {
	failures := make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			c := connect()
			defer c.Close()
			failures[i] = f(i, c)
		})
	}
	wait.Wait()
	return errors.Join(failures...)
}

func withSession(f func(int, *concurrency.Session) error) func(int, *clientv3.Client) error {
	return func(i int, c *clientv3.Client) error {
		s, err := concurrency.NewSession(c, concurrency.WithTTL(10))
		if err != nil {
			return err
		}
		defer s.Close()
		return f(i, s)
	}
}

func is(what string, got, want any) error {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("%s: %v, not %v", what, got, want)
	}
	return nil
}

func keys(ctx context.Context, c clientv3.KV, prefix string) (out []string, err error) {
	r, err := c.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	for _, kv := range r.Kvs {
		out = append(out, string(kv.Key)+"="+string(kv.Value))
	}
	return out, nil
}

func mutex(ctx context.Context, c *clientv3.Client) error {
	const rounds = 10
	count := 0 // guarded by nothing but the mutex
	var inside atomic.Int32
	err := all(contenders, withSession(func(_ int, s *concurrency.Session) error {
		m := concurrency.NewMutex(s, "mutex")
		for range rounds {
			if err := m.Lock(ctx); err != nil {
				return err
			}
			if inside.Add(1) != 1 {
				return errors.New("two hold the mutex")
			}
			seen := count
			time.Sleep(time.Millisecond)
			count = seen + 1
			owner, err := s.Client().Txn(ctx).If(m.IsOwner()).Then(clientv3.OpPut("guarded", strconv.Itoa(count))).Commit()
			if err != nil || !owner.Succeeded {
				return fmt.Errorf("who holds it is not its owner: %v", err)
			}
			inside.Add(-1)
			if err := m.Unlock(ctx); err != nil {
				return err
			}
		}
		return nil
	}))
	left, e := keys(ctx, c, "mutex/")
	return errors.Join(err, e, is("count", count, contenders*rounds), is("keys left", left, []string{}))
}

func tryMutex(ctx context.Context, _ *clientv3.Client) error {
	var got, refused atomic.Int32
	ready := make(chan struct{}, contenders)
	all := all(contenders, withSession(func(_ int, s *concurrency.Session) error {
		m := concurrency.NewMutex(s, "try")
		err := m.TryLock(ctx)
		switch {
		case err == nil:
			got.Add(1)
		case errors.Is(err, concurrency.ErrLocked):
			refused.Add(1)
		default:
			return err
		}
		ready <- struct{}{}
		for len(ready) < contenders { // all have tried before the session that has it ends
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	}))
	return errors.Join(all, is("got it", got.Load(), 1), is("refused", refused.Load(), contenders-1))
}

func election(ctx context.Context, c *clientv3.Client) error {
	var inside atomic.Int32
	var lock sync.Mutex
	var terms []string
	watching, stop := context.WithCancel(ctx)
	defer stop()
	session, err := concurrency.NewSession(c)
	if err != nil {
		return err
	}
	observed := make(chan string, 100)
	go func() {
		for r := range concurrency.NewElection(session, "election").Observe(watching) {
			observed <- string(r.Kvs[0].Value)
		}
	}()
	err = all(contenders, withSession(func(i int, s *concurrency.Session) error {
		e := concurrency.NewElection(s, "election")
		if err := e.Campaign(ctx, fmt.Sprint("candidate ", i)); err != nil {
			return err
		}
		if inside.Add(1) != 1 {
			return errors.New("two are elected")
		}
		name := fmt.Sprint("leader ", i)
		if err := e.Proclaim(ctx, name); err != nil {
			return err
		}
		leader, err := e.Leader(ctx)
		if err != nil {
			return err
		}
		lock.Lock()
		terms = append(terms, name)
		lock.Unlock()
		if err := is("leader", string(leader.Kvs[0].Value), name); err != nil {
			return err
		}
		for said := ""; said != name; { // an observer is told of each
			select {
			case said = <-observed:
			case <-ctx.Done():
				return fmt.Errorf("nobody observed %q", name)
			}
		}
		inside.Add(-1)
		return e.Resign(ctx)
	}))
	_, none := concurrency.NewElection(session, "election").Leader(ctx)
	return errors.Join(err, is("terms", len(terms), contenders), is("leader at last", none, concurrency.ErrElectionNoLeader))
}

func orphan(ctx context.Context, c *clientv3.Client) error {
	s, err := concurrency.NewSession(c, concurrency.WithTTL(2))
	if err != nil {
		return err
	}
	if _, err := c.Put(ctx, "orphan", "x", clientv3.WithLease(s.Lease())); err != nil {
		return err
	}
	time.Sleep(3 * time.Second) // kept alive
	kept, err := keys(ctx, c, "orphan")
	if err != nil {
		return err
	}
	s.Orphan()
	events := c.Watch(ctx, "orphan")
	select {
	case r := <-events:
		return errors.Join(r.Err(), is("kept", kept, []string{"orphan=x"}), is("event", r.Events[0].Type, "DELETE"))
	case <-ctx.Done():
		return errors.New("the orphan's key stayed")
	}
}

func closeSession(ctx context.Context, c *clientv3.Client) error {
	s, err := concurrency.NewSession(c)
	if err != nil {
		return err
	}
	if _, err := c.Put(ctx, "session", "x", clientv3.WithLease(s.Lease())); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	<-s.Done()
	left, err := keys(ctx, c, "session")
	return errors.Join(err, is("keys left", left, []string{}))
}

// stm moves money between accounts. Where reads are not repeated at the commit, one account may be read at two times, so then each
// contender has accounts of its own.
func stm(ctx context.Context, c *clientv3.Client, isolation concurrency.Isolation, shared bool) error {
	const accounts, each = 4, 100
	name := func(who, i int) string {
		if shared {
			who = 0
		}
		return fmt.Sprintf("stm/%d/%d", who, i)
	}
	for who := range contenders {
		for i := range accounts {
			if _, err := c.Put(ctx, name(who, i), strconv.Itoa(each)); err != nil {
				return err
			}
		}
	}
	err := all(contenders, func(who int, c *clientv3.Client) error {
		for n := range 12 {
			from, to := name(who, (who+n)%accounts), name(who, (who+n*3+1)%accounts)
			if from == to {
				continue
			}
			if _, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
				a, e1 := strconv.Atoi(s.Get(from))
				b, e2 := strconv.Atoi(s.Get(to))
				s.Put(from, strconv.Itoa(a-7))
				s.Put(to, strconv.Itoa(b+7))
				return errors.Join(e1, e2, is("its own write", s.Get(from), a-7))
			}, concurrency.WithIsolation(isolation), concurrency.WithAbortContext(ctx)); err != nil {
				return err
			}
		}
		return nil
	})
	sum, n := 0, 0
	r, e := c.Get(ctx, "stm/", clientv3.WithPrefix())
	if e != nil {
		return e
	}
	for _, kv := range r.Kvs {
		v, _ := strconv.Atoi(string(kv.Value))
		sum, n = sum+v, n+1
	}
	return errors.Join(err, is("sum", sum, n*each))
}

func barrier(ctx context.Context, c *clientv3.Client) error {
	b := recipe.NewBarrier(c, "barrier")
	if err := b.Hold(); err != nil {
		return err
	}
	if err := recipe.NewBarrier(c, "barrier").Hold(); err == nil {
		return errors.New("held twice")
	}
	var released atomic.Bool
	time.AfterFunc(300*time.Millisecond, func() {
		released.Store(true)
		b.Release()
	})
	return all(contenders, func(_ int, c *clientv3.Client) error {
		if err := recipe.NewBarrier(c, "barrier").Wait(); err != nil {
			return err
		}
		return is("released", released.Load(), true)
	})
}

func doubleBarrier(_ context.Context, c *clientv3.Client) error {
	var entering, leaving atomic.Int32
	return all(contenders, withSession(func(i int, s *concurrency.Session) error {
		b := recipe.NewDoubleBarrier(s, "double", contenders)
		time.Sleep(time.Duration(i) * 30 * time.Millisecond)
		entering.Add(1)
		if err := b.Enter(); err != nil {
			return err
		}
		if err := is("entered", entering.Load(), contenders); err != nil {
			return err
		}
		time.Sleep(time.Duration(i) * 30 * time.Millisecond)
		leaving.Add(1)
		if err := b.Leave(); err != nil {
			return err
		}
		return is("left", leaving.Load(), contenders)
	}))
}

func queue(ctx context.Context, c *clientv3.Client) error {
	const each = 10
	var lock sync.Mutex
	var got []string
	err := all(2*contenders, func(i int, c *clientv3.Client) error {
		q := recipe.NewQueue(c, "queue")
		for n := range each {
			if i%2 == 0 {
				if err := q.Enqueue(fmt.Sprintf("%d.%d", i, n)); err != nil {
					return err
				}
				continue
			}
			v, err := q.Dequeue()
			if err != nil {
				return err
			}
			lock.Lock()
			got = append(got, v)
			lock.Unlock()
		}
		return nil
	})
	slices.Sort(got)
	left, e := keys(ctx, c, "queue")
	return errors.Join(err, e, is("got", len(slices.Compact(got)), contenders*each), is("left", left, []string{}))
}

func priorityQueue(_ context.Context, c *clientv3.Client) error {
	err := all(contenders, func(i int, c *clientv3.Client) error {
		for n := range 4 {
			if err := recipe.NewPriorityQueue(c, "priority").Enqueue(fmt.Sprintf("%02d", (i*7+n*3)%20), uint16((i*7+n*3)%20)); err != nil {
				return err
			}
		}
		return nil
	})
	last := ""
	for range contenders * 4 {
		v, e := recipe.NewPriorityQueue(c, "priority").Dequeue()
		if e != nil || v < last {
			return fmt.Errorf("%q after %q: %v", v, last, errors.Join(e, err))
		}
		last = v
	}
	return err
}

func rwMutex(_ context.Context, _ *clientv3.Client) error {
	var readers, writers atomic.Int32
	return all(contenders+2, withSession(func(i int, s *concurrency.Session) error {
		m := recipe.NewRWMutex(s, "rw")
		for range 5 {
			if i < 2 {
				if err := m.Lock(); err != nil {
					return err
				}
				if writers.Add(1) != 1 || readers.Load() != 0 {
					return fmt.Errorf("a writer with %d writers and %d readers", writers.Load(), readers.Load())
				}
				time.Sleep(2 * time.Millisecond)
				writers.Add(-1)
				if err := m.Unlock(); err != nil {
					return err
				}
				continue
			}
			if err := m.RLock(); err != nil {
				return err
			}
			readers.Add(1)
			if writers.Load() != 0 {
				return errors.New("a reader beside a writer")
			}
			time.Sleep(2 * time.Millisecond)
			readers.Add(-1)
			if err := m.RUnlock(); err != nil {
				return err
			}
		}
		return nil
	}))
}
