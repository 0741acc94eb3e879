// The attacks beside the API: other services of the port, HTTP/1.1, and the files of the daemon.

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
)

// probe asks the services that come with every gRPC server.
func (a *attacker) probe() {
	ctx, cancel := within(30 * time.Second)
	defer cancel()
	health := grpc_health_v1.NewHealthClient(a.bare)
	check := func(name string) string {
		_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: name})
		words := a.note(err)
		short, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		stream, err := health.Watch(short, &grpc_health_v1.HealthCheckRequest{Service: name})
		must(err)
		r, err := stream.Recv()
		return words + a.note(err) + r.GetStatus().String()
	}
	for _, form := range []string{"%s", "tenants/%s", "%s/etcdserverpb.KV", "stokehold.control.v1.Control%.0s"} {
		a.same("health of "+form, check(fmt.Sprintf(form, a.p.Name)), check(fmt.Sprintf(form, a.p.Absent)))
	}

	symbols := []string{"stokehold.control.v1.Control", "stokehold.control.v1.ListTenantsResponse", a.p.Name, "etcdserverpb.KV", ""}
	v1, err := grpc_reflection_v1.NewServerReflectionClient(a.bare).ServerReflectionInfo(ctx)
	must(err)
	alpha, err := grpc_reflection_v1alpha.NewServerReflectionClient(a.bare).ServerReflectionInfo(ctx)
	must(err)
	for _, symbol := range symbols {
		must(v1.Send(&grpc_reflection_v1.ServerReflectionRequest{Host: a.p.Name,
			MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol}}))
		r, err := v1.Recv()
		a.note(err)
		if strings.HasPrefix(symbol, "stokehold") && r.GetErrorResponse() == nil {
			fail("attack: the tenant's endpoint describes %s", symbol)
		}
		must(alpha.Send(&grpc_reflection_v1alpha.ServerReflectionRequest{
			MessageRequest: &grpc_reflection_v1alpha.ServerReflectionRequest_FileByFilename{FileByFilename: symbol + "control.proto"}}))
		_, err = alpha.Recv()
		a.note(err)
	}
	must(v1.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}))
	r, err := v1.Recv()
	must(err)
	for _, s := range r.GetListServicesResponse().GetService() {
		if !strings.HasPrefix(s.Name, "etcdserverpb.") && !strings.HasPrefix(s.Name, "grpc.") {
			fail("attack: the tenant's endpoint has a service %s", s.Name)
		}
	}
}

// raw is one request over a connection of its own; what came until it was closed or nothing more came.
func (a *attacker) raw(request string) string {
	ctx, cancel := within(5 * time.Second)
	defer cancel()
	c, err := a.p.dial(ctx, a.endpoint, "http/1.1")
	must(err)
	defer c.Close()
	c = a.tape.record(c)
	// Most are closed by the server; of the others only what comes at once is compared.
	must(c.SetDeadline(time.Now().Add(1500 * time.Millisecond)))
	_, _ = io.WriteString(c, request)
	answer, _ := io.ReadAll(c)
	a.n++
	return string(answer)
}

// http1 asks on the other protocol of the port.
func (a *attacker) http1() {
	ask := func(name string) string {
		var words []string
		for _, path := range []string{"/health", "/version", "/metrics", "/debug/pprof/", "/debug/vars", "/members", "/v2/keys", "/tenants/" + name + "/health",
			"/" + name + "/health", "/health?tenant=" + name, "/health/../tenants/" + name + "/health", "/tenants/", "//" + name, "*",
			"http://" + name + "/health", "unix:///run/stokehold/tenants/" + name + ".sock"} {
			words = append(words, a.raw(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, name)))
		}
		body := `{"key":"AA==","range_end":"AA=="}`
		for _, path := range []string{"/v3/kv/range", "/v3beta/kv/range", "/etcdserverpb.KV/Range", "/" + name + "/v3/kv/range"} {
			words = append(words, a.raw(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
				path, name, len(body), body)))
		}
		words = append(words, a.raw(fmt.Sprintf("CONNECT %s:2379 HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", name, name)),
			a.raw(fmt.Sprintf("GET /health HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n\r\n", name)),
			a.raw(fmt.Sprintf("GET /health HTTP/1.0\r\nX-Tenant: %s\r\n\r\n", name)))
		for _, w := range words {
			if strings.Contains(w, name) {
				fail("attack: over HTTP/1: %q", w)
			}
		}
		return strings.Join(words, "\n")
	}
	a.same("HTTP/1", ask(a.p.Name), ask(a.p.Absent))
}

// files tries what belongs to others in the file system: none of it opens, and none can be put out of the way.
func (a *attacker) files() {
	for _, path := range a.p.Closed {
		for _, way := range []string{path, filepath.Join("/proc/self/root", path)} {
			a.n++
			if c, err := net.Dial("unix", way); err == nil {
				// Who is let in at first is thrown out at once, without a word.
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				_, _ = io.WriteString(c, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
				got, _ := io.ReadAll(c)
				c.Close()
				if len(got) > 0 {
					fail("attack: %s answers %q", way, got)
				}
			}
			if data, err := os.ReadFile(way); err == nil {
				fail("attack: %s can be read: %q", way, data[:min(len(data), 100)])
			}
			if entries, err := os.ReadDir(way); err == nil {
				fail("attack: %s can be listed: %v", way, entries)
			}
			for what, err := range map[string]error{
				"removed":      os.Remove(way),
				"renamed":      os.Rename(way, way+".gone"),
				"written":      os.WriteFile(filepath.Join(filepath.Dir(way), "new"), nil, 0o666),
				"linked":       os.Symlink("/tmp", filepath.Join(filepath.Dir(way), "link")),
				"made another": os.Chmod(way, 0o777),
			} {
				if err == nil {
					fail("attack: %s or something beside it was %s", way, what)
				}
				if !os.IsNotExist(err) && !os.IsPermission(err) && !bytes.Contains([]byte(err.Error()), []byte("no such device")) {
					a.tape.keep(err.Error())
				}
			}
		}
	}
}
