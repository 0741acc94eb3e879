// What k3s does with --datastore-endpoint=https://…, by the two packages of kine that it does it with: the endpoint is handed to kine, which for an
// etcd gives back addresses and TLS files; and a client of these keeps the cluster's bootstrap data there, before a kube-apiserver is started with the
// same. (k3s itself cannot be built from its module.)
//
//	k3s server --datastore-endpoint=URL[,URL…] [--datastore-cafile=FILE --datastore-certfile=FILE --datastore-keyfile=FILE]
//
// Prints what is passed on to kube-apiserver, a flag a line.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/k3s-io/kine/pkg/client"
	_ "github.com/k3s-io/kine/pkg/drivers/remote"
	"github.com/k3s-io/kine/pkg/endpoint"
	"github.com/k3s-io/kine/pkg/tls"
)

const key = "/bootstrap/0123456789ab"

func run() error {
	if len(os.Args) < 2 || os.Args[1] != "server" {
		return errors.New("the command is not server")
	}
	var files tls.Config
	set := flag.NewFlagSet("server", flag.ContinueOnError)
	url := set.String("datastore-endpoint", "", "")
	set.StringVar(&files.CAFile, "datastore-cafile", "", "")
	set.StringVar(&files.CertFile, "datastore-certfile", "", "")
	set.StringVar(&files.KeyFile, "datastore-keyfile", "", "")
	if err := set.Parse(os.Args[2:]); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return fmt.Errorf("left over: %v", set.Args())
	}

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	config, err := endpoint.Listen(ctx, endpoint.Config{Endpoint: *url, BackendTLSConfig: files})
	if err != nil {
		return err
	}
	if !config.LeaderElect {
		return errors.New("kine does not take it for an etcd")
	}
	c, err := client.New(config)
	if err != nil {
		return err
	}
	defer c.Close()

	// The first server finds nothing and saves; the next one finds it; a changed token saves again and removes the old.
	if _, err := c.Get(ctx, key); !errors.Is(err, client.ErrNotFound) {
		return fmt.Errorf("before the first server: %v", err)
	}
	if err := c.Create(ctx, key, []byte("data")); err != nil {
		return err
	}
	if err := c.Create(ctx, key, []byte("another server's")); err == nil {
		return errors.New("two servers have saved at once")
	}
	list, err := c.List(ctx, "/bootstrap", 0)
	if err != nil || len(list) != 1 || string(list[0].Data) != "data" {
		return fmt.Errorf("list: %v, %v", list, err)
	}
	if err := c.Update(ctx, key, list[0].Modified, []byte("newer")); err != nil {
		return err
	}
	if err := c.Update(ctx, key, list[0].Modified, []byte("too late")); err == nil {
		return errors.New("an update of an old revision was done")
	}
	value, err := c.Get(ctx, key)
	if err != nil || string(value.Data) != "newer" {
		return fmt.Errorf("get: %v, %v", value, err)
	}
	if err := c.Delete(ctx, key, value.Modified); err != nil {
		return err
	}

	fmt.Printf("--etcd-servers=%s\n", strings.Join(config.Endpoints, ","))
	if config.TLSConfig.CAFile != "" {
		fmt.Printf("--etcd-cafile=%s\n--etcd-certfile=%s\n--etcd-keyfile=%s\n", config.TLSConfig.CAFile, config.TLSConfig.CertFile, config.TLSConfig.KeyFile)
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
