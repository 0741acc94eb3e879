package main

// What is compared, and what is known to differ and may: each with its reason. Everything else that differs is a mistake.

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Fields that are not compared.
var fields = []struct{ call, field, reason string }{
	{"Maintenance/Status", "dbSize", "the size of a file of bbolt; of a tenant's records"},
	{"Maintenance/Status", "dbSizeInUse", "the same"},
	{"Maintenance/Status", "dbSizeQuota", "how the server was started: etcd's default against the tenant's"},
	{"Maintenance/Status", "raftIndex", "of etcd's Raft; the end of a tenant's log"},
	{"Maintenance/Status", "raftAppliedIndex", "the same"},
	{"Maintenance/Status", "raftTerm", "elections of this etcd"},
	{"Maintenance/Hash", "hash", "of a whole file of bbolt"},
	{"Maintenance/HashKV", "hash", "of etcd's own encoding; Stokehold's is compared between tenants (-twin)"},
	{"Cluster/MemberList", "name", "a member's name is its administrator's choice"},
	{"Cluster/MemberList", "peerURLs", "addresses"},
	{"Cluster/MemberList", "clientURLs", "addresses"},
}

// exempt tells why the answer to a request is not compared; "" if it is.
func (s *side) exempt(each *step) string {
	if r, ok := each.request.(*pb.RangeRequest); ok && each.call == callRangeStream && r.SortOrder == pb.RangeRequest_NONE && r.SortTarget != pb.RangeRequest_KEY {
		return "etcd sorts each chunk by itself and goes on behind its last key, so that keys are lost or come twice; Stokehold leaves them in their order"
	}
	if r, ok := each.request.(*pb.HashKVRequest); ok && s.compactions[s.resolve(r).(*pb.HashKVRequest).Revision] {
		return "etcd remembers the hashes that it made while it compacted, and answers them also when their revisions are compacted"
	}
	return ""
}

const (
	// etcd tells such an event without the previous value that was asked for, Stokehold never: it cancels.
	prevKvAtCompaction = "a watch with prev_kv from the compacted revision on: the previous value is compacted away"
)

// Beside the tables:
//   - Boundaries of responses on a watch, and of chunks of a RangeStream: both are free to choose them. Which events of a watch may share
//     a response, and what its header may say, is checked on each side by itself (watch.go).
//   - The order of the keys of a lease: etcd's is that of a Go map.
//   - Whether a request for progress is answered late, where it was not answered at once: etcd decides when it comes, and
//     forgets it; on a stream with a watch that was cancelled by compaction it never answers. Stokehold decides behind its read barrier.
//   - Which compaction HashKV names at the compacted revision: etcd answers what it remembers of it, with the one before.
//   - The order of leases by their ends after a restart of Stokehold: their time begins anew, as it does when an etcd is restarted.
//   - How much of a lease's time is left, as far as it is the time that the program takes.
//   - With several endpoints: the revision in headers of what is answered without asking the others, as by members of an etcd that are behind;
//     and serializable reads are sent as others.
//   - Not asked for: what would change the etcd for good (AuthEnable with a root user, MemberAdd, Downgrade to the version before).

// unsent tells why a request is sent to no side; "" if it is sent.
func (s *side) unsent(request proto.Message) string {
	switch r := request.(type) {
	case *pb.CompactionRequest:
		if r.Revision == 0 && s.compacted == 0 {
			return "etcd counts what was never compacted as compacted at -1, so 0 can be compacted once; a tenant begins at 0"
		}
	case *pb.TxnRequest:
		if deadly(r) {
			return "etcd dies of it"
		}
		if s.comparesChosen(r) {
			return "which of two leases with chosen ids is the lesser is chance"
		}
	}
	return ""
}

func (s *side) comparesChosen(t *pb.TxnRequest) bool {
	for _, c := range t.Compare {
		if _, chosen := s.slotOf[c.GetLease()]; chosen && c.Target == pb.Compare_LEASE && (c.Result == pb.Compare_LESS || c.Result == pb.Compare_GREATER) {
			return true
		}
	}
	return slices.ContainsFunc(slices.Concat(t.Success, t.Failure), func(op *pb.RequestOp) bool {
		return op.GetRequestTxn() != nil && s.comparesChosen(op.GetRequestTxn())
	})
}

// deadly: a put behind a delete of its key in the same transaction; of deletes only those "from a key on" get that far, others are refused as
// overlaps. If the put takes over a value or a lease, etcd dies at once, and whenever it reads its log; and the value of any is lost if
// the transaction's revision is compacted at, and etcd dies when the key is read.
func deadly(t *pb.TxnRequest) bool {
	var dies bool
	var look func(ops []*pb.RequestOp, from []byte) []byte
	look = func(ops []*pb.RequestOp, from []byte) []byte {
		least := func(key []byte) {
			if key != nil && (from == nil || bytes.Compare(key, from) < 0) {
				from = key
			}
		}
		for _, op := range ops {
			if d := op.GetRequestDeleteRange(); string(d.GetRangeEnd()) == "\x00" {
				least(d.Key)
			}
			if p := op.GetRequestPut(); p != nil && from != nil && bytes.Compare(p.Key, from) >= 0 {
				dies = true
			}
			if nested := op.GetRequestTxn(); nested != nil {
				success, failure := look(nested.Success, from), look(nested.Failure, from)
				least(success)
				least(failure)
			}
		}
		return from
	}
	look(t.Success, nil)
	look(t.Failure, nil)
	return dies
}

// normalised writes an answer without what differs between any two servers.
func (s *side) normalised(call string, response proto.Message) string {
	response = proto.Clone(response)
	m := mapping{
		signed: func(_ protoreflect.FieldDescriptor, n int64) int64 { return s.logical(n) },
		unsigned: func(n uint64) uint64 {
			if n == s.member {
				return memberID
			}
			return n
		},
		text: func(text string) string { return strings.ReplaceAll(text, fmt.Sprint(s.member), "MEMBER") },
	}
	if r, ok := response.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		s.normaliseHeader(r.GetHeader(), call)
	}
	for _, f := range fields {
		if f.call == call {
			clearField(response.ProtoReflect(), protoreflect.Name(f.field))
		}
	}
	switch r := response.(type) {
	case *pb.HashKVResponse:
		if s.compactions[r.HashRevision] {
			r.CompactRevision = 0
		}
	case *pb.LeaseLeasesResponse:
		if s.restarted {
			slices.SortFunc(r.Leases, func(a, b *pb.LeaseStatus) int { return cmp.Compare(s.logical(a.ID), s.logical(b.ID)) })
		}
	case *pb.LeaseTimeToLiveResponse:
		slices.SortFunc(r.Keys, slices.Compare)
		if r.TTL >= 0 && r.TTL <= r.GrantedTTL && r.TTL >= r.GrantedTTL-int64(callTimeout.Seconds()) {
			r.TTL = r.GrantedTTL
		}
	}
	m.apply(response.ProtoReflect())
	return render(response, s.base)
}

// logical is the placeholder of a lease that the server chose; any other number stays.
func (s *side) logical(n int64) int64 {
	if slot, ok := s.slotOf[n]; ok {
		return firstSlot + int64(slot)
	}
	return n
}

// normaliseHeader puts the same into every header that names this cluster and member and any term.
func (s *side) normaliseHeader(h *pb.ResponseHeader, call string) {
	if h == nil {
		return
	}
	if anySpread && !strings.HasPrefix(call, "KV/") {
		h.Revision = 0
	}
	if h.ClusterId == s.cluster && s.cluster != 0 {
		h.ClusterId = 1
	}
	if h.RaftTerm != 0 {
		h.RaftTerm = 1
	}
}

func clearField(m protoreflect.Message, name protoreflect.Name) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.Name() == name && field.ContainingMessage().Name() != "ResponseHeader":
			m.Clear(field)
		case field.Kind() == protoreflect.MessageKind && field.IsList():
			for i := range v.List().Len() {
				clearField(v.List().Get(i).Message(), name)
			}
		case field.Kind() == protoreflect.MessageKind && !field.IsMap():
			clearField(v.Message(), name)
		}
		return true
	})
}

// notSerializable takes the serializable reads out of a request: on several endpoints they may be behind.
func notSerializable(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.Name() == "serializable":
			m.Clear(field)
		case field.Kind() == protoreflect.MessageKind && field.IsList():
			for i := range v.List().Len() {
				notSerializable(v.List().Get(i).Message())
			}
		case field.Kind() == protoreflect.MessageKind && !field.IsMap():
			notSerializable(v.Message())
		}
		return true
	})
}
