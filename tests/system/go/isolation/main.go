// isolation tries from one tenant whatever the API of etcd has to reach another, while a witness on that other one looks whether it was touched.
//
//	isolation witness   the tenant that is attacked
//	isolation attack    the tenant that attacks
//
// Both take a line of JSON (struct plan) on stdin, and go on with each further line:
//
//	witness: prepares its tenant, prints what an attacker could know or guess of it (struct known), waits; looks whether anything has changed;
//	         then writes for a while, and looks whether its own watch saw just that; prints "untouched", and ends at the end of stdin.
//	attack:  gets that too; attacks, prints "attacked", waits (while the witness writes); looks at what its own streams saw; prints what it did.
//
// All that the attacker receives, on whatever connection, is kept and searched for the witness' marker. Exit: 0, or 1 with the reason on stderr.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// plan is what the test tells.
type plan struct {
	Endpoints []string // of the own tenant: unix:///path, http://host:port, https://host:port
	CA        string   // files, for https
	Cert      string
	Key       string
	Name      string   // the other tenant's
	Absent    string   // a name as long, of a tenant that does not exist
	Marker    string   // in each of its keys or values
	Closed    []string // sockets and files of others, which must not open
	Parts     []string // of the attack; none: all
	Known     known
}

// known is what an attacker could know or guess of the other tenant.
type known struct {
	Member, Cluster uint64
	Leases          []int64
	Revision        int64
	WatchIDs        []int64
	Keys            []string
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func must(err error) {
	if err != nil {
		fail("isolation: %v", err)
	}
}

// transport is what an endpoint needs beyond a connection.
func (p *plan) transport(endpoint string) credentials.TransportCredentials {
	if len(endpoint) < 8 || endpoint[:8] != "https://" {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(p.tls())
}

// connect makes a connection of the stock client, and a bare one, both through the tape.
func (p *plan) connect(endpoint string, t *tape) (*clientv3.Client, *grpc.ClientConn) {
	dialer := grpc.WithContextDialer(t.dialer(endpoint))
	config := clientv3.Config{
		Endpoints:          []string{endpoint},
		DialTimeout:        20 * time.Second,
		MaxCallSendMsgSize: 16 << 20,
		MaxCallRecvMsgSize: math.MaxInt32,
		Logger:             zap.NewNop(),
		DialOptions:        []grpc.DialOption{dialer},
	}
	if len(endpoint) >= 8 && endpoint[:8] == "https://" {
		config.TLS = p.tls()
	}
	client, err := clientv3.New(config)
	must(err)
	bare, err := grpc.NewClient("passthrough:///tenant", dialer, grpc.WithTransportCredentials(p.transport(endpoint)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	must(err)
	return client, bare
}

var stdin = bufio.NewReaderSize(os.Stdin, 1<<16)

func line() []byte {
	text, err := stdin.ReadBytes('\n')
	if err != nil {
		fail("stdin: %v", err)
	}
	return text
}

func say(v any) {
	text, err := json.Marshal(v)
	must(err)
	fmt.Println(string(text))
}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func main() {
	var p plan
	if len(os.Args) != 2 || (os.Args[1] != "witness" && os.Args[1] != "attack") {
		fail("usage: isolation witness | attack")
	}
	must(json.Unmarshal(line(), &p))
	if os.Args[1] == "witness" {
		witness(&p)
	} else {
		attack(&p)
	}
}
