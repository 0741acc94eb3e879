package main

// Programs: lists of steps, as they are made, kept in files and run. A request is protobuf's own message, in files as its text format, so
// that a failing program can be read and edited.
//
// What a side or a run decides (the revision at which a program begins, ids of leases that the server chooses, the member's id) stands in a
// request as a placeholder: a number in a range that nothing else uses, filled in when the step is sent. Large values are written "!1000!".

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const (
	// baseRevision+n is n revisions after the program's begin.
	baseRevision = int64(1) << 40
	baseSpan     = int64(1) << 20
	// firstSlot+n is the lease that the server chose for the grant with slot n.
	firstSlot = int64(1) << 50
	slotSpan  = int64(1) << 10
	// memberID is the answering member's.
	memberID = uint64(1) << 52
)

// Calls that are no unary methods; all others are "Service/Method" of etcdserverpb.
const (
	callWatch          = "Watch/Watch"
	callWatchClose     = "Watch/close" // half-closes the stream
	callKeepAlive      = "Lease/LeaseKeepAlive"
	callKeepAliveClose = "Lease/close"
	callRangeStream    = "KV/RangeStream"
	callSnapshot       = "Maintenance/Snapshot"
	callWait           = "wait"    // until the lease has expired; takes a LeaseTimeToLiveRequest
	callRestart        = "restart" // of Stokehold
)

type step struct {
	client  int // whose connection; clients are spread over the endpoints
	stream  int // of Watch and LeaseKeepAlive: which stream
	slot    int // of a grant without an id: the number under which later steps know the lease
	call    string
	request proto.Message // nil: none is sent
}

type program struct {
	seed  uint64
	steps []*step
}

// messageTypes tells the types of a call's request and response.
func messageTypes(call string) (protoreflect.MessageType, protoreflect.MessageType, error) {
	switch call {
	case callWait:
		call = "Lease/LeaseTimeToLive"
	case callWatchClose, callKeepAliveClose, callRestart:
		return nil, nil, nil
	}
	for i := range pb.File_rpc_proto.Services().Len() {
		service := pb.File_rpc_proto.Services().Get(i)
		for j := range service.Methods().Len() {
			m := service.Methods().Get(j)
			if string(service.Name())+"/"+string(m.Name()) != call {
				continue
			}
			in, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
			if err != nil {
				return nil, nil, err
			}
			out, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
			return in, out, err
		}
	}
	return nil, nil, fmt.Errorf("no call is named %q", call)
}

// ---- files

type stepFile struct {
	Client  int    `json:"client"`
	Stream  int    `json:"stream,omitempty"`
	Slot    int    `json:"slot,omitempty"`
	Call    string `json:"call"`
	Request string `json:"request,omitempty"`
}

type programFile struct {
	Seed  uint64     `json:"seed"`
	Steps []stepFile `json:"steps"`
}

func (p *program) save(path string) error {
	f := programFile{Seed: p.seed}
	for _, s := range p.steps {
		line := stepFile{Client: s.client, Stream: s.stream, Slot: s.slot, Call: s.call}
		if s.request != nil {
			line.Request = prototext.MarshalOptions{}.Format(s.request)
		}
		f.Steps = append(f.Steps, line)
	}
	text, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func loadProgram(path string) (*program, error) {
	var f programFile
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	p := &program{seed: f.Seed}
	for i, line := range f.Steps {
		s := &step{client: line.Client, stream: line.Stream, slot: line.Slot, call: line.Call}
		in, _, err := messageTypes(line.Call)
		if err != nil {
			return nil, fmt.Errorf("%s: step %d: %w", path, i, err)
		}
		if in != nil {
			s.request = in.New().Interface()
			if err := prototext.Unmarshal([]byte(line.Request), s.request); err != nil {
				return nil, fmt.Errorf("%s: step %d: %w", path, i, err)
			}
		}
		p.steps = append(p.steps, s)
	}
	return p, nil
}

// ---- placeholders

var sizedValue = regexp.MustCompile(`^!(\d{1,8})!$`)

// large is a value of so many bytes.
func large(size int) []byte { return fmt.Appendf(nil, "!%d!", size) }

func expand(value []byte) []byte {
	m := sizedValue.FindSubmatch(value)
	if m == nil {
		return value
	}
	n, _ := strconv.Atoi(string(m[1]))
	grown := make([]byte, n)
	for i := range grown {
		grown[i] = byte('a' + i%23)
	}
	return grown
}

// mapping replaces numbers, byte strings and texts, wherever in a message they stand.
type mapping struct {
	signed   func(field protoreflect.FieldDescriptor, n int64) int64
	unsigned func(n uint64) uint64
	bytes    func(b []byte) []byte
	text     func(s string) string
}

func (m *mapping) value(field protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.Int64Kind:
		if m.signed != nil {
			return protoreflect.ValueOfInt64(m.signed(field, v.Int()))
		}
	case protoreflect.Uint64Kind:
		if m.unsigned != nil {
			return protoreflect.ValueOfUint64(m.unsigned(v.Uint()))
		}
	case protoreflect.BytesKind:
		if m.bytes != nil {
			return protoreflect.ValueOfBytes(m.bytes(v.Bytes()))
		}
	case protoreflect.StringKind:
		if m.text != nil {
			return protoreflect.ValueOfString(m.text(v.String()))
		}
	case protoreflect.MessageKind:
		m.apply(v.Message())
	}
	return v
}

func (m *mapping) apply(message protoreflect.Message) {
	message.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
		case field.IsList():
			for i := range v.List().Len() {
				if element := m.value(field, v.List().Get(i)); field.Kind() != protoreflect.MessageKind {
					v.List().Set(i, element)
				}
			}
		case field.Kind() == protoreflect.MessageKind:
			m.apply(v.Message())
		default:
			message.Set(field, m.value(field, v))
		}
		return true
	})
}

// resolve fills in the placeholders for one side.
func (s *side) resolve(message proto.Message) proto.Message {
	filled := proto.Clone(message)
	m := mapping{
		signed: func(_ protoreflect.FieldDescriptor, n int64) int64 {
			switch {
			case n > baseRevision-baseSpan && n < baseRevision+baseSpan:
				return s.base + n - baseRevision
			case n >= firstSlot && n < firstSlot+slotSpan:
				if id, ok := s.slots[int(n-firstSlot)]; ok {
					return id
				}
			}
			return n
		},
		unsigned: func(n uint64) uint64 {
			if n == memberID {
				return s.member
			}
			return n
		},
		bytes: expand,
	}
	m.apply(filled.ProtoReflect())
	return filled
}
