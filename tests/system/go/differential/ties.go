package main

// The order of keys that a sort takes for equal. etcd's sort is Go's, which keeps their order only among a dozen: of more, their order, and
// which of them a limit lets through, is as it falls. Both sides' answers are brought into one order before they are compared.

import (
	"bytes"
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

const keptInOrder = 12

func orderTies(request, response proto.Message) {
	switch r := request.(type) {
	case *pb.RangeRequest:
		orderRange(r, response.(*pb.RangeResponse))
	case *pb.TxnRequest:
		orderTxn(r, response.(*pb.TxnResponse))
	}
}

func orderTxn(request *pb.TxnRequest, response *pb.TxnResponse) {
	ops := request.Failure
	if response.Succeeded {
		ops = request.Success
	}
	for i, each := range response.Responses {
		if i >= len(ops) {
			return // another mistake, which is shown as it is
		}
		if r, list := ops[i].GetRequestRange(), each.GetResponseRange(); r != nil && list != nil {
			orderRange(r, list)
		}
		if t, nested := ops[i].GetRequestTxn(), each.GetResponseTxn(); t != nil && nested != nil {
			orderTxn(t, nested)
		}
	}
}

func orderRange(request *pb.RangeRequest, list *pb.RangeResponse) {
	if request.SortTarget == pb.RangeRequest_KEY || list.Count <= keptInOrder || len(list.Kvs) == 0 {
		return
	}
	compare := func(a, b *mvccpb.KeyValue) int {
		switch request.SortTarget {
		case pb.RangeRequest_VERSION:
			return cmp.Compare(a.Version, b.Version)
		case pb.RangeRequest_CREATE:
			return cmp.Compare(a.CreateRevision, b.CreateRevision)
		case pb.RangeRequest_MOD:
			return cmp.Compare(a.ModRevision, b.ModRevision)
		}
		return bytes.Compare(a.Value, b.Value) // all equal where only keys are told
	}
	if last := list.Kvs[len(list.Kvs)-1]; list.More {
		list.Kvs = slices.DeleteFunc(list.Kvs, func(kv *mvccpb.KeyValue) bool { return compare(kv, last) == 0 })
	}
	slices.SortStableFunc(list.Kvs, func(a, b *mvccpb.KeyValue) int {
		if order := compare(a, b); order != 0 {
			if request.SortOrder == pb.RangeRequest_DESCEND {
				return -order
			}
			return order
		}
		return bytes.Compare(a.Key, b.Key)
	})
}
