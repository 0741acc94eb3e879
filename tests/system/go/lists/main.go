// lists drives one endpoint of the etcd API with lists of a large prefix, or with gets, and tells what they cost.
//
//	lists fill  ENDPOINT OBJECTS SIZE               makes the objects, with random values
//	lists cost  ENDPOINT PID ROUNDS SHAPE...        the server's CPU for one list of each shape, as JSON
//	lists loop  ENDPOINT SHAPE                      lists until it is stopped
//	lists gets  ENDPOINT SECONDS                    gets of random objects, 500 a second; latencies, as JSON
//	lists stall ENDPOINT                            a RangeStream whose reader reads nothing until it is stopped
//
// Shapes: pages (of 500, at the first page's revision), once, stream, count, sorted (by mod revision, descending), past (a count at the
// oldest revision that is there), past-pages.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"math"
	mrand "math/rand/v2"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	prefix = "/registry/pods/"
	end    = "/registry/pods0"
	page   = 500
)

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func must(err error) {
	if err != nil {
		fail("lists: %v", err)
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	must(err)
	return n
}

func connect(endpoint string, options ...grpc.DialOption) pb.KVClient {
	target := strings.TrimPrefix(endpoint, "http://")
	if strings.HasPrefix(endpoint, "unix://") {
		target = "unix:" + strings.TrimPrefix(endpoint, "unix://")
	}
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	c, err := grpc.NewClient(target, options...)
	must(err)
	return pb.NewKVClient(c)
}

func key(i int) []byte {
	return fmt.Appendf(nil, "%snamespace-%d/name-%08d", prefix, i%50, i)
}

func fill(kv pb.KVClient, objects, size int) {
	batch := max(1, min(100, 1<<20/max(size, 1)))
	for first := 0; first < objects; first += batch {
		txn := &pb.TxnRequest{}
		for i := first; i < min(first+batch, objects); i++ {
			value := make([]byte, size)
			rand.Read(value)
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
				RequestPut: &pb.PutRequest{Key: key(i), Value: value}}})
		}
		_, err := kv.Txn(context.Background(), txn)
		must(err)
	}
}

// list makes one list and tells how many objects it had.
func list(kv pb.KVClient, shape string) int {
	ctx := context.Background()
	r := &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(end)}
	switch shape {
	case "once":
		answer, err := kv.Range(ctx, r)
		must(err)
		return len(answer.Kvs)
	case "sorted":
		r.SortTarget, r.SortOrder = pb.RangeRequest_MOD, pb.RangeRequest_DESCEND
		answer, err := kv.Range(ctx, r)
		must(err)
		return len(answer.Kvs)
	case "count", "past":
		r.CountOnly = true
		if shape == "past" {
			r.Revision = 2 + objectsPast
		}
		answer, err := kv.Range(ctx, r)
		must(err)
		return int(answer.Count)
	case "stream":
		stream, err := kv.RangeStream(ctx, r)
		must(err)
		n := 0
		for {
			answer, err := stream.Recv()
			if err == io.EOF {
				return n
			}
			must(err)
			n += len(answer.RangeResponse.Kvs)
		}
	case "pages", "past-pages":
		r.Limit = page
		if shape == "past-pages" {
			r.Revision = 2 + objectsPast
		}
		for n := 0; ; {
			answer, err := kv.Range(ctx, r)
			must(err)
			n += len(answer.Kvs)
			if !answer.More {
				return n
			}
			if r.Revision == 0 {
				r.Revision = answer.Header.Revision
			}
			r.Key = append(answer.Kvs[len(answer.Kvs)-1].Key, 0)
		}
	}
	fail("no shape is called %q", shape)
	return 0
}

// The revision at which past shapes look, beyond the first.
var objectsPast = int64(40)

// cpu is what the process has used, in ticks of 10 ms.
func cpu(pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	return float64(number(fields[11])+number(fields[12])) / 100
}

func print(v any) {
	text, err := json.Marshal(v)
	must(err)
	fmt.Println(string(text))
}

func cost(kv pb.KVClient, pid, rounds int, shapes []string) {
	for _, shape := range shapes {
		objects := list(kv, shape) // not measured: whatever a first one brings into memory
		before, begin := cpu(pid), time.Now()
		for range rounds {
			if n := list(kv, shape); n != objects {
				fail("%s: %d objects, then %d", shape, objects, n)
			}
		}
		print(map[string]any{"shape": shape, "objects": objects, "cpu_ms": 1000 * (cpu(pid) - before) / float64(rounds),
			"ms": float64(time.Since(begin).Milliseconds()) / float64(rounds)})
	}
}

func gets(kv pb.KVClient, seconds int) {
	const rate, workers = 500, 8
	answer, err := kv.Range(context.Background(), &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(end), CountOnly: true})
	must(err)
	all := make(chan []float64)
	for w := range workers {
		go func() {
			var took []float64
			begin := time.Now()
			// Each is counted from when it was due, so that a stall is not hidden by the gets that it kept from being sent.
			for i := w; i < rate*seconds; i += workers {
				due := begin.Add(time.Duration(i) * time.Second / rate)
				time.Sleep(time.Until(due))
				_, err := kv.Range(context.Background(), &pb.RangeRequest{Key: key(mrand.IntN(int(answer.Count)))})
				must(err)
				took = append(took, float64(time.Since(due).Microseconds())/1000)
			}
			all <- took
		}()
	}
	var took []float64
	for range workers {
		took = append(took, <-all...)
	}
	sort.Float64s(took)
	at := func(p float64) float64 { return took[int(p*float64(len(took)-1))] }
	print(map[string]any{"gets": len(took), "p50_ms": at(.5), "p90_ms": at(.9), "p99_ms": at(.99), "max_ms": at(1)})
}

func main() {
	if len(os.Args) < 3 {
		fail("usage: lists fill|cost|loop|gets|stall ENDPOINT ...")
	}
	endpoint, rest := os.Args[2], os.Args[3:]
	switch os.Args[1] {
	case "fill":
		fill(connect(endpoint), number(rest[0]), number(rest[1]))
	case "cost":
		cost(connect(endpoint), number(rest[0]), number(rest[1]), rest[2:])
	case "loop":
		for kv := connect(endpoint); ; {
			list(kv, rest[0])
		}
	case "gets":
		gets(connect(endpoint), number(rest[0]))
	case "stall":
		_, err := connect(endpoint, grpc.WithInitialWindowSize(1<<16), grpc.WithInitialConnWindowSize(1<<16)).RangeStream(
			context.Background(), &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(end)})
		must(err)
		select {}
	default:
		fail("unknown command %q", os.Args[1])
	}
}
