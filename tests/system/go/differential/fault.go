package main

// Faults: what Stokehold's side is made to do wrong, to see that the comparison finds it and the shrinker brings it down to what is needed.

import (
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// fault changes answers on their way. The name stands first on its line: the tests in Python read the list from here.
type fault struct {
	name     string
	response func(call string, r proto.Message)
	watch    func(r *pb.WatchResponse)
	error    func(text string) string
	most     int // steps that the shrunk program may have
}

var faults = []fault{
	{"count-of-a-limited-list", func(_ string, r proto.Message) {
		if list, ok := r.(*pb.RangeResponse); ok && list.More {
			list.Count = int64(len(list.Kvs))
		}
	}, nil, nil, 4},
	{"no-previous-value", func(_ string, r proto.Message) {
		if put, ok := r.(*pb.PutResponse); ok {
			put.PrevKv = nil
		}
	}, nil, nil, 3},
	{"header-of-a-read", func(call string, r proto.Message) {
		if list, ok := r.(*pb.RangeResponse); ok && len(list.Kvs) > 0 {
			list.Header.Revision--
		}
	}, nil, nil, 3},
	{"event-without-previous-value", nil, func(r *pb.WatchResponse) {
		for _, e := range r.Events {
			if e.Type == mvccpb.Event_DELETE {
				e.PrevKv = nil
			}
		}
	}, nil, 3},
	{"text-of-an-error", nil, nil, func(text string) string { return strings.ReplaceAll(text, "future revision", "revision to come") }, 2},
}

func (f *fault) onResponse(call string, r proto.Message) {
	if f != nil && f.response != nil {
		f.response(call, r)
	}
}

func (f *fault) onWatch(r *pb.WatchResponse) {
	if f != nil && f.watch != nil {
		f.watch(r)
	}
}

func (f *fault) onError(text string) string {
	if f != nil && f.error != nil {
		return f.error(text)
	}
	return text
}
