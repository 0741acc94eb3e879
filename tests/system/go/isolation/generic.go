// The attacks that nobody thought of: every method that the services have, with the other's names, ids and keys in every field.

package main

import (
	"context"
	"io"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// values are what each field of every message is filled with, by its kind.
type values struct {
	text  string
	bytes string
	n     int64
	u     uint64
	enum  int32
	yes   bool
}

func (a *attacker) candidates() []values {
	k := a.p.Known
	return []values{
		{},
		{a.p.Name, "\x00", k.Leases[0], k.Member, 1, true},
		{a.p.Name, k.Keys[0], k.Revision, k.Cluster, 2, true},
		{"root", k.Keys[1], k.Leases[1], k.Member, 0, false},
		{"http://" + a.p.Name + ":2380", "/", k.WatchIDs[1], math.MaxUint64, 1, false},
		{"", "\x00", -1, 1, 3, true},
		{"3.5.0", "\x00", math.MaxInt64, 0, 4, true},
	}
}

// fill sets every field; of a choice the one whose turn it is.
func fill(m protoreflect.Message, v values, turn, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if one := f.ContainingOneof(); one != nil && one.Fields().Get(turn%one.Fields().Len()) != f {
			continue
		}
		set := func() protoreflect.Value {
			switch f.Kind() {
			case protoreflect.StringKind:
				return protoreflect.ValueOfString(v.text)
			case protoreflect.BytesKind:
				return protoreflect.ValueOfBytes([]byte(v.bytes))
			case protoreflect.BoolKind:
				return protoreflect.ValueOfBool(v.yes)
			case protoreflect.EnumKind:
				return protoreflect.ValueOfEnum(protoreflect.EnumNumber(v.enum))
			case protoreflect.Int64Kind:
				return protoreflect.ValueOfInt64(v.n)
			case protoreflect.Int32Kind:
				return protoreflect.ValueOfInt32(int32(v.n))
			case protoreflect.Uint64Kind:
				return protoreflect.ValueOfUint64(v.u)
			case protoreflect.Uint32Kind:
				return protoreflect.ValueOfUint32(uint32(v.u))
			}
			return protoreflect.Value{}
		}
		switch {
		case f.IsMap():
		case f.Message() != nil && depth == 0:
		case f.IsList() && f.Message() != nil:
			list := m.Mutable(f).List()
			e := list.AppendMutable()
			fill(e.Message(), v, turn, depth-1)
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), v, turn, depth-1)
		case f.IsList():
			if e := set(); e.IsValid() {
				m.Mutable(f).List().Append(e)
			}
		default:
			if e := set(); e.IsValid() {
				m.Set(f, e)
			}
		}
	}
}

// generic calls every method of every service, also those that have no line of their own here, with the other's names, ids and keys in every field.
func (a *attacker) generic() {
	services := pb.File_rpc_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			for turn, v := range a.candidates() {
				for choice := range 4 {
					a.call(methods.Get(j), v, turn+choice)
				}
			}
		}
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	m := pb.NewMaintenanceClient(a.bare)
	raised, err := m.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
	must(err)
	for _, alarm := range raised.Alarms {
		_, err := m.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: alarm.Alarm, MemberID: alarm.MemberID})
		must(err)
	}
}

func (a *attacker) call(method protoreflect.MethodDescriptor, v values, turn int) {
	timeout := 5 * time.Second
	if method.IsStreamingClient() {
		timeout = 50 * time.Millisecond // they end only when told to
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	request := dynamicpb.NewMessage(method.Input())
	fill(request, v, turn, 4)
	path := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	stream, err := a.bare.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
	must(err)
	if err = stream.SendMsg(request); err == nil && !method.IsStreamingClient() {
		err = stream.CloseSend()
	}
	for err == nil {
		err = stream.RecvMsg(dynamicpb.NewMessage(method.Output()))
	}
	if err == io.EOF {
		err = nil
	}
	a.note(err)
}
