package main

// Restarts in the middle of a program: what Stokehold has in memory is made anew from its log, and must be the same. The etcd goes on. Whoever
// started this program restarts the daemon: it is asked by a line "restart" on stdout, and answers with a line on stdin.

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var stdin = bufio.NewReader(os.Stdin)

// withRestarts puts restarts into some programs; all else stays where it is.
func withRestarts(p *program) *program {
	r := rand.New(rand.NewPCG(p.seed, 0x7e57))
	if r.IntN(3) > 0 {
		return p
	}
	for range 1 + r.IntN(2) {
		p.steps = slices.Insert(p.steps, r.IntN(len(p.steps)+1), &step{call: callRestart})
	}
	return p
}

// restart ends the streams of all sides, restarts Stokehold, and watches on where the history ends.
func restart(sides []*side) error {
	for _, s := range sides {
		s.closeStreams()
	}
	fmt.Println("restart")
	if _, err := stdin.ReadString('\n'); err != nil {
		return fmt.Errorf("nobody restarts it: %w", err)
	}
	for _, s := range sides {
		s.restarted = true
		if _, err := ask(s, "KV/Range", &pb.RangeRequest{Key: resetKey}, &pb.RangeResponse{}); err != nil {
			return err
		}
		if err := s.openOracle(s.revision + 1); err != nil {
			return err
		}
	}
	return nil
}
