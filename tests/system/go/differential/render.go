package main

// Messages as text: to compare answers (the text has every field that is set) and to show programs. Revisions are written as they
// stand to the program's begin ("+3"), long byte strings by their length and a hash.

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const longBytes = 48

func renderBytes(b []byte) string {
	if sizedValue.Match(b) || len(b) <= longBytes {
		return strconv.Quote(string(b))
	}
	hash := sha256.Sum256(b)
	return fmt.Sprintf("%s…(%d bytes, %x)", strconv.Quote(string(b[:8])), len(b), hash[:4])
}

func isRevision(field protoreflect.FieldDescriptor) bool {
	return field.Kind() == protoreflect.Int64Kind && strings.Contains(string(field.Name()), "revision")
}

func renderNumber(field protoreflect.FieldDescriptor, n, base int64) string {
	switch {
	case n > baseRevision-baseSpan && n < baseRevision+baseSpan:
		return fmt.Sprintf("%+d", n-baseRevision)
	case n >= firstSlot && n < firstSlot+slotSpan:
		return fmt.Sprintf("#%d", n-firstSlot)
	case base > 0 && n >= base && isRevision(field):
		return fmt.Sprintf("%+d", n-base)
	}
	return strconv.FormatInt(n, 10)
}

func renderValue(b *strings.Builder, field protoreflect.FieldDescriptor, v protoreflect.Value, base int64) {
	switch field.Kind() {
	case protoreflect.MessageKind:
		b.WriteByte('{')
		renderFields(b, v.Message(), base)
		b.WriteByte('}')
	case protoreflect.BytesKind:
		b.WriteString(renderBytes(v.Bytes()))
	case protoreflect.StringKind:
		b.WriteString(strconv.Quote(v.String()))
	case protoreflect.Int64Kind:
		b.WriteString(renderNumber(field, v.Int(), base))
	case protoreflect.Uint64Kind:
		if v.Uint() == memberID {
			b.WriteString("MEMBER")
		} else {
			b.WriteString(strconv.FormatUint(v.Uint(), 10))
		}
	case protoreflect.EnumKind:
		if name := field.Enum().Values().ByNumber(v.Enum()); name != nil {
			b.WriteString(string(name.Name()))
		} else {
			b.WriteString(strconv.Itoa(int(v.Enum())))
		}
	default:
		fmt.Fprint(b, v.Interface())
	}
}

func renderFields(b *strings.Builder, m protoreflect.Message, base int64) {
	separator := ""
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		b.WriteString(separator)
		separator = " "
		if field.IsList() {
			b.WriteString(string(field.Name()) + ":[")
			for j := range m.Get(field).List().Len() {
				if j > 0 {
					b.WriteByte(' ')
				}
				renderValue(b, field, m.Get(field).List().Get(j), base)
			}
			b.WriteByte(']')
			continue
		}
		if b.WriteString(string(field.Name())); field.Kind() != protoreflect.MessageKind {
			b.WriteByte(':')
		}
		renderValue(b, field, m.Get(field), base)
	}
	if n := len(m.GetUnknown()); n > 0 {
		fmt.Fprintf(b, "%sand %d bytes of unknown fields", separator, n)
	}
}

// render writes a message; base is the revision at which the program began, 0 for requests with placeholders.
func render(message proto.Message, base int64) string {
	var b strings.Builder
	renderFields(&b, message.ProtoReflect(), base)
	return b.String()
}

func (s *step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client %d  %s", s.client, s.call)
	if s.stream != 0 {
		fmt.Fprintf(&b, " on stream %d", s.stream)
	}
	if s.request != nil {
		fmt.Fprintf(&b, " {%s}", render(s.request, 0))
	}
	if s.call == "Lease/LeaseGrant" && s.slot > 0 {
		fmt.Fprintf(&b, " as #%d", s.slot)
	}
	return b.String()
}

func (p *program) String() string {
	var b strings.Builder
	for i, s := range p.steps {
		fmt.Fprintf(&b, "%4d  %s\n", i, s)
	}
	return b.String()
}
