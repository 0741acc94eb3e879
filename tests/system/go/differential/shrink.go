package main

// Makes a failing program smaller: first steps are taken away, halves before single ones, then fields of the requests that are left, and
// what cannot be taken away is made simpler. Each attempt is a run on both sides from the same state; what counts is only that they differ still.

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

type shrinker struct {
	sides    []*side
	best     *program
	found    *difference
	attempts int
	end      time.Time
}

// try runs a candidate, and takes it if it fails.
func (s *shrinker) try(candidate *program) (bool, error) {
	if time.Now().After(s.end) {
		return false, nil
	}
	s.attempts++
	if err := reset(s.sides, false); err != nil {
		return false, err
	}
	v := run(candidate, s.sides)
	if v.difference == nil {
		return false, nil
	}
	// What comes after the first difference has no part in it.
	s.best = &program{candidate.seed, candidate.steps[:v.difference.at+1]}
	s.found = v.difference
	return true, nil
}

// shrink returns the smallest failing program that it finds within a time; found is how the given one failed.
func shrink(p *program, found *difference, sides []*side, limit time.Duration) (*program, *difference, int, error) {
	// What is missing need not be waited for so long again.
	defer func(before time.Duration) { settleTimeout = before }(settleTimeout)
	settleTimeout = 5 * time.Second
	s := &shrinker{sides: sides, best: &program{p.seed, p.steps[:found.at+1]}, found: found, end: time.Now().Add(limit)}
	// One that does not fail again cannot be made smaller.
	again, err := s.try(s.best)
	if err != nil || !again {
		return s.best, s.found, 0, err
	}
	for {
		before := s.size()
		if err := s.dropSteps(); err != nil {
			return nil, nil, 0, err
		}
		if err := s.simplifySteps(); err != nil {
			return nil, nil, 0, err
		}
		if s.size() >= before || time.Now().After(s.end) {
			return s.best, s.found, s.attempts, nil
		}
	}
}

func (s *shrinker) size() int {
	n := 0
	for _, each := range s.best.steps {
		n += 1000
		if each.request != nil {
			n += len(each.String())
		}
	}
	return n
}

func (s *shrinker) dropSteps() error {
	for n := len(s.best.steps) / 2; n > 0; n /= 2 {
		for at := 0; at < len(s.best.steps); {
			steps := append([]*step{}, s.best.steps[:at]...)
			steps = append(steps, s.best.steps[min(at+n, len(s.best.steps)):]...)
			if len(steps) > 0 {
				taken, err := s.try(&program{s.best.seed, steps})
				if err != nil {
					return err
				}
				if taken {
					continue
				}
			}
			at += n
		}
	}
	return nil
}

func (s *shrinker) simplifySteps() error {
	for at := 0; at < len(s.best.steps); at++ {
		if s.best.steps[at].request == nil {
			continue
		}
		// Each change leads to other changes; those that were tried in vain are passed over.
		for n := 0; at < len(s.best.steps); {
			changed := *s.best.steps[at]
			changed.request = proto.Clone(changed.request)
			if !change(changed.request.ProtoReflect(), &n) {
				break
			}
			steps := append([]*step{}, s.best.steps...)
			steps[at] = &changed
			before := n
			taken, err := s.try(&program{s.best.seed, steps})
			if err != nil {
				return err
			}
			if n = before; !taken {
				n++
			}
		}
	}
	return nil
}

// change makes the nth simplification of a message, counted over all that there are; false if there are not so many. *n stays as it is.
func change(m protoreflect.Message, n *int) bool {
	left := *n
	return changeMessage(m, &left)
}

// turn says whether it is this one's turn.
func turn(left *int) bool {
	*left--
	return *left == -1
}

func changeMessage(m protoreflect.Message, left *int) bool {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		// A union without a member is an odd request of its own: it is left as it is, and its member made simpler.
		inUnion := field.ContainingOneof() != nil && field.Kind() == protoreflect.MessageKind
		if !inUnion && turn(left) {
			m.Clear(field)
			return true
		}
		if field.IsList() {
			list := m.Mutable(field).List()
			for j := range list.Len() {
				if turn(left) {
					for k := j; k+1 < list.Len(); k++ {
						list.Set(k, list.Get(k+1))
					}
					list.Truncate(list.Len() - 1)
					return true
				}
				if field.Kind() == protoreflect.MessageKind && changeMessage(list.Get(j).Message(), left) {
					return true
				}
			}
			continue
		}
		if field.Kind() == protoreflect.MessageKind {
			if changeMessage(m.Mutable(field).Message(), left) {
				return true
			}
			continue
		}
		for _, simpler := range simpler(field, m.Get(field)) {
			if turn(left) {
				m.Set(field, simpler)
				return true
			}
		}
	}
	return false
}

func simpler(field protoreflect.FieldDescriptor, v protoreflect.Value) []protoreflect.Value {
	switch field.Kind() {
	case protoreflect.BytesKind:
		if b := v.Bytes(); len(b) > 1 {
			return []protoreflect.Value{protoreflect.ValueOfBytes([]byte("a")), protoreflect.ValueOfBytes(b[:1])}
		}
	case protoreflect.Int64Kind:
		n := v.Int()
		if n > baseRevision-baseSpan && n < baseRevision+baseSpan && n != baseRevision {
			return []protoreflect.Value{protoreflect.ValueOfInt64(baseRevision), protoreflect.ValueOfInt64(n - 1)}
		}
		if n > 1 && n < baseRevision-baseSpan {
			return []protoreflect.Value{protoreflect.ValueOfInt64(1), protoreflect.ValueOfInt64(n / 2)}
		}
	}
	return nil
}
