// client drives one tenant's endpoint with etcd's own Go client, as an API server does.
//
//	client shapes ENDPOINT NAME             one check of shapes.go; exit 0, or 1 with the reason on stderr
//	client informer ENDPOINT PREFIX         see informer.go
//	client put-loop ENDPOINT NAME SECONDS   writes as one client can, and prints how often
package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

func connect(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:            []string{endpoint},
		DialTimeout:          20 * time.Second,
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		MaxCallSendMsgSize:   16 << 20,
		MaxCallRecvMsgSize:   math.MaxInt32,
		Logger:               zap.NewNop(),
		DialOptions: []grpc.DialOption{
			// A daemon that comes back is found at once.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 300 * time.Millisecond},
				MinConnectTimeout: 3 * time.Second,
			}),
		},
	})
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func main() {
	arguments := map[string]int{"shapes": 1, "informer": 1, "put-loop": 2}
	if n, known := arguments[os.Args[min(1, len(os.Args)-1)]]; !known || len(os.Args) != 3+n {
		fail("usage: client shapes ENDPOINT NAME | informer ENDPOINT PREFIX | put-loop ENDPOINT NAME SECONDS")
	}
	c, err := connect(os.Args[2])
	if err != nil {
		fail("%s: %v", os.Args[2], err)
	}
	defer c.Close()

	switch os.Args[1] {
	case "shapes":
		for _, s := range shapes {
			if s.name == os.Args[3] {
				ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
				defer cancel()
				if err := s.run(&test{c, ctx, fmt.Sprintf("/registry/%s/%d/", s.name, time.Now().UnixNano())}); err != nil {
					fail("%s: %v", s.name, err)
				}
				return
			}
		}
		fail("no check is called %q", os.Args[3])
	case "informer":
		err = inform(c, os.Args[3])
	case "put-loop":
		err = putLoop(c, os.Args[3], os.Args[4])
	}
	if err != nil {
		fail("%v", err)
	}
}
