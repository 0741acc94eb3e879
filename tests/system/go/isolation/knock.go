// The attacks at the TLS port: handshakes that claim another name, and what those are told whose certificate is refused.

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// tls tries to be taken for the other tenant by what a client may choose in a handshake: the server's name, and the session that it goes on with.
func (a *attacker) tls() {
	if !strings.HasPrefix(a.endpoint, "https://") {
		return
	}
	u, err := url.Parse(a.endpoint)
	must(err)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, name := range []string{a.p.Name, a.p.Absent, a.p.Name + ".tenants", "attacker", ""} {
			config := a.p.tls()
			config.ServerName, config.InsecureSkipVerify = name, true
			config.MinVersion, config.MaxVersion = version, version
			a.all(u.Host, config)
		}
		if len(a.p.Others) == 0 {
			continue
		}
		// Sessions that the other tenant's client was given are at hand: tickets are not bound to a certificate by themselves.
		theirs, err := tls.LoadX509KeyPair(a.p.Others[0], a.p.Others[1])
		must(err)
		config := a.p.tls()
		config.MinVersion, config.MaxVersion = version, version
		config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
		mine := config.Certificates
		config.Certificates = []tls.Certificate{theirs}
		for range 2 {
			c := a.shake(u.Host, config)
			_, _ = io.WriteString(c, "GET /version HTTP/1.1\r\nHost: x\r\n\r\n") // tickets come with what is read
			if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != 200 {
				fail("attack: the other's certificate gets %v, %v", r, err)
			}
			c.Close()
		}
		config.Certificates = mine
		for range 2 {
			c := a.shake(u.Host, config)
			if c.ConnectionState().DidResume {
				fail("attack: the other's session goes on with the own certificate")
			}
			c.Close()
		}
		config.NextProtos = []string{"h2"}
		a.all(u.Host, config)
	}
}

func (a *attacker) shake(host string, config *tls.Config) *tls.Conn {
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	d := tls.Dialer{Config: config}
	c, err := d.DialContext(ctx, "tcp", host)
	must(err)
	a.n++
	return c.(*tls.Conn)
}

// all reads everything on a connection of such a handshake: it must be the attacker's own.
func (a *attacker) all(host string, config *tls.Config) {
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	config.NextProtos = []string{"h2"}
	conn, err := grpc.NewClient("passthrough:///tenant", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			d := tls.Dialer{Config: config}
			c, err := d.DialContext(ctx, "tcp", host)
			if err != nil {
				return nil, err
			}
			return a.tape.record(c), nil
		}))
	must(err)
	defer conn.Close()
	r, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	must(err)
	if a.n++; r.Header.MemberId == a.p.Known.Member || r.Header.ClusterId == a.p.Known.Cluster {
		fail("attack: with the server's name %q the other tenant answers", config.ServerName)
	}
}

// refusal is what a client with one certificate was told.
type refusal struct {
	Cert    string
	Version string
	Words   []string // what it was told, without repetition
	Sizes   []int    // bytes that came until then, without repetition
	Fastest float64  // milliseconds until then
	Median  float64
	// That the server said it would take certificates of.
	Authorities int
}

type counted struct {
	net.Conn
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n += n
	return n, err
}

// knock shakes hands with each of the certificates in turn, several times, and prints what each was told.
func knock(p *plan) {
	u, err := url.Parse(p.Endpoints[0])
	must(err)
	var all []*refusal
	times := map[*refusal][]float64{}
	byCert := map[string]*refusal{}
	for round := range 12 {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, cert := range p.Knocking {
				key := fmt.Sprint(cert, version)
				r := byCert[key]
				if r == nil {
					r = &refusal{Cert: cert, Version: tls.VersionName(version)}
					byCert[key] = r
					all = append(all, r)
				}
				pair, err := tls.LoadX509KeyPair(cert, cert)
				must(err)
				config := p.tls()
				config.GetClientCertificate = func(wanted *tls.CertificateRequestInfo) (*tls.Certificate, error) {
					r.Authorities = max(r.Authorities, len(wanted.AcceptableCAs))
					return &pair, nil
				}
				config.Certificates, config.NextProtos = nil, []string{"h2"}
				config.MinVersion, config.MaxVersion = version, version
				words, n, took := once(u.Host, config)
				if !has(r.Words, words) {
					r.Words = append(r.Words, words)
				}
				if round > 0 { // the first warms up
					times[r] = append(times[r], took)
				}
				if !has(r.Sizes, n) {
					r.Sizes = append(r.Sizes, n)
				}
			}
		}
	}
	for _, r := range all {
		sort.Float64s(times[r])
		sort.Ints(r.Sizes)
		r.Fastest, r.Median = times[r][0], times[r][len(times[r])/2]
	}
	say(all)
}

func has[T comparable](list []T, one T) bool {
	for _, other := range list {
		if other == one {
			return true
		}
	}
	return false
}

func once(host string, config *tls.Config) (words string, n int, took float64) {
	start := time.Now()
	c, err := net.DialTimeout("tcp", host, 10*time.Second)
	must(err)
	defer c.Close()
	must(c.SetDeadline(time.Now().Add(10 * time.Second)))
	count := &counted{Conn: c}
	secure := tls.Client(count, config)
	err = secure.Handshake()
	if err == nil { // in TLS 1.3 the client is done before the server has looked
		_, err = secure.Read(make([]byte, 1))
	}
	took = float64(time.Since(start).Microseconds()) / 1000
	if err != nil {
		words = err.Error()
	}
	return words, count.n, took
}
