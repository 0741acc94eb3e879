// isolation tries from one tenant whatever the API of etcd has to reach another, while a witness on that other one looks whether it was touched.
//
//	isolation witness   the tenant that is attacked
//	isolation attack    the tenant that attacks
//	isolation knock     at the TLS port with certificates that are refused (knock.go)
//
// All take a line of JSON (struct plan) on stdin, and go on with each further line:
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
	"net"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// plan is what the test tells.
type plan struct {
	Endpoints []string // of the own tenant: unix:///path, http://host:port, https://host:port
	CA        string   // files, for https
	Cert      string
	Key       string
	Others    []string // of the other tenant, to take a TLS session from: certificate, key
	Knocking  []string // certificates with their keys in the same files, for knock
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

// connect makes a connection of the stock client, and a bare one, both through the tape.
func (p *plan) connect(endpoint string, t *tape) (*clientv3.Client, *grpc.ClientConn) {
	// TLS is the dialer's, so that the tape has what was in it.
	dialer := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		c, err := p.dial(ctx, endpoint, "h2")
		if err != nil {
			return nil, err
		}
		return t.record(c), nil
	})
	config := clientv3.Config{
		Endpoints:          []string{strings.Replace(endpoint, "https://", "http://", 1)},
		DialTimeout:        20 * time.Second,
		MaxCallSendMsgSize: 16 << 20,
		MaxCallRecvMsgSize: math.MaxInt32,
		Logger:             zap.NewNop(),
		DialOptions:        []grpc.DialOption{dialer},
	}
	client, err := clientv3.New(config)
	must(err)
	bare, err := grpc.NewClient("passthrough:///tenant", dialer, grpc.WithTransportCredentials(insecure.NewCredentials()),
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
	roles := map[string]func(*plan){"witness": witness, "attack": attack, "knock": knock}
	if len(os.Args) != 2 || roles[os.Args[1]] == nil {
		fail("usage: isolation witness | attack | knock")
	}
	must(json.Unmarshal(line(), &p))
	roles[os.Args[1]](&p)
}
