package main

// Transactions: compares, branches, nested ones, and those that must be refused.

import (
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func (g *generator) txn() *pb.TxnRequest {
	if g.one(25) {
		return g.longTxn()
	}
	return g.txnOf(3)
}

func (g *generator) txnOf(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	// Overlaps are refused as a whole; most transactions shall get further than that.
	taken := map[string]bool{}
	r.Success = g.ops(depth, taken)
	if g.one(2) {
		r.Failure = g.ops(depth, map[string]bool{})
	}
	return r
}

func (g *generator) ops(depth int, taken map[string]bool) []*pb.RequestOp {
	var ops []*pb.RequestOp
	for range g.IntN(5) {
		switch n := g.IntN(24); {
		case n < 9:
			put := g.put()
			if taken[string(put.Key)] && !g.one(6) {
				continue
			}
			taken[string(put.Key)] = true
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		case n < 15:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest()}})
		case n < 19:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.deleteRange()}})
		case n < 23 && depth > 0:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txnOf(depth - 1)}})
		case g.one(4):
			ops = append(ops, &pb.RequestOp{}) // nothing is asked for
		}
	}
	return ops
}

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{Key: g.key(), Result: pb.Compare_CompareResult(g.IntN(4)), Target: pb.Compare_CompareTarget(g.IntN(5))}
	if g.one(4) {
		c.RangeEnd = g.span(c.Key)
	}
	target := c.Target
	if g.one(15) {
		target = pb.Compare_CompareTarget(g.IntN(5)) // a number for another target
	}
	switch target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: g.small()}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.compared()}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.compared()}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: g.leaseID()}
	}
	if g.one(15) {
		c.TargetUnion = nil
	}
	if g.one(40) {
		c.Result = pick(g, pb.Compare_CompareResult(4), -1, 99)
	}
	if g.one(40) {
		c.Target = pick(g, pb.Compare_CompareTarget(5), -1, 99)
	}
	return c
}

func (g *generator) small() int64 {
	if g.one(10) {
		return pick(g, int64(-1), math.MaxInt64, math.MinInt64)
	}
	return g.Int64N(4)
}

func (g *generator) compared() int64 {
	if g.one(3) {
		return 0
	}
	return g.revision()
}

// longTxn is about as long as one may be.
func (g *generator) longTxn() *pb.TxnRequest {
	r := &pb.TxnRequest{}
	n := pick(g, 127, 128, 129)
	for i := range n {
		key := []byte{'n', byte(i)}
		if g.one(40) {
			key = []byte{'n', byte(g.IntN(n))}
		}
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte{byte(i)}}}}
		if g.one(8) {
			op = &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}
		}
		r.Success = append(r.Success, op)
	}
	switch g.IntN(5) {
	case 0: // deletes instead, all of one key where it is so
		for _, op := range r.Success {
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte{'n', byte(g.IntN(n))}}}
		}
	case 1: // nested: each level counts by itself against what is left
		inner := r
		half := n / 2
		r = &pb.TxnRequest{Success: append([]*pb.RequestOp{}, inner.Success[half:]...)}
		inner.Success = inner.Success[:half]
		r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: inner}})
	case 2: // compares
		for range pick(g, 128, 129) {
			r.Compare = append(r.Compare, &pb.Compare{Key: []byte("a"), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: -1}})
		}
	}
	return r
}
