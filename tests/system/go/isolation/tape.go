// What all connections received, kept whole, so that the other tenant's marks can be searched for in it.

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// tape keeps every byte that came on its connections, and every error's text.
type tape struct {
	mutex sync.Mutex
	conns []*recorded
	texts []string
}

type recorded struct {
	net.Conn
	tape  *tape
	bytes bytes.Buffer // under the tape's mutex
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.tape.mutex.Lock()
	r.bytes.Write(p[:n])
	r.tape.mutex.Unlock()
	return n, err
}

// keep is for what came on no connection: an error's words, a file's content.
func (t *tape) keep(text string) {
	t.mutex.Lock()
	t.texts = append(t.texts, text)
	t.mutex.Unlock()
}

func (t *tape) record(c net.Conn) net.Conn {
	r := &recorded{Conn: c, tape: t}
	t.mutex.Lock()
	t.conns = append(t.conns, r)
	t.mutex.Unlock()
	return r
}

// dial connects to an endpoint, and speaks one of the protocols over TLS where it is https.
func (p *plan) dial(ctx context.Context, endpoint string, protocols ...string) (net.Conn, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	if u.Scheme == "unix" {
		return d.DialContext(ctx, "unix", u.Path)
	}
	c, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil || u.Scheme != "https" {
		return c, err
	}
	config := p.tls()
	config.NextProtos = protocols
	secure := tls.Client(c, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return secure, nil
}

func (p *plan) tls() *tls.Config {
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(p.CA)
	must(err)
	pool.AppendCertsFromPEM(ca)
	cert, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	must(err)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, ServerName: "localhost"}
}

// forms are the looks of a text in what may come.
func forms(text string) [][]byte {
	found := [][]byte{[]byte(text), []byte(fmt.Sprintf("%x", text)), []byte(fmt.Sprintf("%X", text))}
	for shift := range 3 {
		b := base64.StdEncoding.EncodeToString(append(make([]byte, shift), text...))
		found = append(found, []byte(b[4:len(b)-4]))
	}
	return found
}

// http2Texts takes an HTTP/2 connection's bytes apart: headers, which are compressed on the wire, and the data of each stream in one. Nothing for
// other connections.
func http2Texts(raw []byte) [][]byte {
	framer := http2.NewFramer(io.Discard, bytes.NewReader(raw))
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.SetMaxReadFrameSize(1<<24 - 1)
	data := map[uint32]*bytes.Buffer{}
	var headers bytes.Buffer
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			break
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, field := range f.Fields {
				text, err := url.PathUnescape(field.Value) // grpc-message is percent-encoded
				if err != nil {
					text = field.Value
				}
				fmt.Fprintf(&headers, "%s: %s\n", field.Name, text)
			}
		case *http2.DataFrame:
			if data[f.StreamID] == nil {
				data[f.StreamID] = &bytes.Buffer{}
			}
			data[f.StreamID].Write(f.Data())
		case *http2.GoAwayFrame:
			headers.Write(f.DebugData())
		}
	}
	texts := [][]byte{headers.Bytes()}
	for _, d := range data {
		texts = append(texts, d.Bytes())
	}
	return texts
}

// search returns where the text was received; and how many bytes in all there were to search.
func (t *tape) search(text string) (found []string, n int) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	look := func(where string, data []byte) {
		for _, form := range forms(text) {
			if at := bytes.Index(data, form); at >= 0 {
				found = append(found, fmt.Sprintf("%s: %q", where, data[max(0, at-100):min(len(data), at+200)]))
				return
			}
		}
	}
	for i, c := range t.conns {
		raw := c.bytes.Bytes()
		n += len(raw)
		look(fmt.Sprintf("connection %d", i), raw)
		for _, part := range http2Texts(raw) {
			look(fmt.Sprintf("connection %d, decoded", i), part)
		}
	}
	for _, s := range t.texts {
		n += len(s)
		look("words", []byte(s))
	}
	return found, n
}

func contains(err error, words string) bool {
	return err != nil && strings.Contains(err.Error(), words)
}
