package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// putLoop writes one key after the other for so many seconds, and prints how many were acknowledged.
func putLoop(c *clientv3.Client, name, seconds string) error {
	limit, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	end, n := time.Now().Add(time.Duration(limit)*time.Second), 0
	for time.Now().Before(end) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_, err := c.Put(ctx, fmt.Sprintf("/loop/%s/%d", name, n%100), strconv.Itoa(n))
		cancel()
		if err != nil {
			return fmt.Errorf("after %d writes: %w", n, err)
		}
		n++
	}
	fmt.Println(n, "writes")
	return nil
}
