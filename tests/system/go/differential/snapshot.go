package main

// What is in a snapshot: both sides' files are opened with bbolt and must have the same keys with the same history, leases and alarms. An etcd may
// not have deleted yet what is compacted, so what no reader sees is left out here; and how the changes of one revision are numbered is not
// compared where a compaction took some of them.

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"slices"

	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"google.golang.org/protobuf/proto"
)

type snapshotEntry struct {
	main, sub int64
	tombstone bool
	kv        *mvccpb.KeyValue
}

// snapshotFile gathers a stream's messages, and looks at what they say of themselves.
type snapshotFile struct {
	data      []byte
	remaining []uint64
}

func (f *snapshotFile) add(r *pb.SnapshotResponse) {
	f.data = append(f.data, r.Blob...)
	f.remaining = append(f.remaining, r.RemainingBytes)
}

func (f *snapshotFile) problems() []string {
	var found []string
	n := len(f.data)
	if n < sha256.Size || n%512 != sha256.Size {
		return []string{fmt.Sprintf("a snapshot of %d bytes has no checksum", n)}
	}
	if sum := sha256.Sum256(f.data[:n-sha256.Size]); !bytes.Equal(sum[:], f.data[n-sha256.Size:]) {
		found = append(found, "a snapshot's checksum is wrong")
	}
	if !slices.IsSortedFunc(f.remaining, func(a, b uint64) int { return cmp.Compare(b, a) }) || f.remaining[len(f.remaining)-1] != 0 {
		found = append(found, fmt.Sprintf("remaining bytes that do not fall to 0: %v", f.remaining))
	}
	return found
}

func revisionOf(b []byte) (main, sub int64) {
	return int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:]))
}

func (s *side) snapshotLines(f *snapshotFile) []string {
	if found := f.problems(); found != nil {
		return found
	}
	file, err := os.CreateTemp("", "snapshot")
	if err != nil {
		return []string{"harness: " + err.Error()}
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err = file.Write(f.data[:len(f.data)-sha256.Size]); err != nil {
		return []string{"harness: " + err.Error()}
	}
	db, err := bbolt.Open(file.Name(), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return []string{"bbolt does not open a snapshot: " + err.Error()}
	}
	defer db.Close()
	var lines []string
	if err = db.View(func(tx *bbolt.Tx) error {
		for wrong := range tx.Check() {
			lines = append(lines, "bbolt finds: "+wrong.Error())
		}
		lines = append(lines, s.entryLines(tx)...)
		return nil
	}); err != nil {
		lines = append(lines, "bbolt cannot read a snapshot: "+err.Error())
	}
	return lines
}

func (s *side) entryLines(tx *bbolt.Tx) []string {
	var compacted int64
	meta := tx.Bucket([]byte("meta"))
	for _, name := range []string{"finishedCompactRev", "scheduledCompactRev"} {
		if v := meta.Get([]byte(name)); len(v) > 0 {
			main, _ := revisionOf(v)
			compacted = max(compacted, main)
		}
	}
	var entries []snapshotEntry
	newest := map[string]int{}
	var lines []string
	if err := tx.Bucket([]byte("key")).ForEach(func(k, v []byte) error {
		e := snapshotEntry{tombstone: len(k) == 18, kv: &mvccpb.KeyValue{}}
		e.main, e.sub = revisionOf(k)
		if err := proto.Unmarshal(v, e.kv); err != nil {
			return err
		}
		if e.main <= compacted {
			newest[string(e.kv.Key)] = len(entries)
		}
		entries = append(entries, e)
		return nil
	}); err != nil {
		return []string{"a key that is none: " + err.Error()}
	}
	if compacted > s.base {
		lines = append(lines, fmt.Sprintf("compacted %+d", compacted-s.base))
	}
	for i, e := range entries {
		if e.main <= compacted && (newest[string(e.kv.Key)] != i || (e.tombstone && e.main < compacted)) {
			continue
		}
		if e.main <= s.base {
			continue
		}
		what := "put"
		if e.tombstone {
			what = "delete"
		}
		sub := fmt.Sprint(e.sub)
		if e.main <= compacted {
			sub = "?"
		}
		e.kv.Lease = s.logical(e.kv.Lease)
		lines = append(lines, fmt.Sprintf("%s %+d.%s %s", what, e.main-s.base, sub, render(e.kv, s.base)))
	}
	return append(lines, s.leaseLines(tx)...)
}

func (s *side) leaseLines(tx *bbolt.Tx) []string {
	leases, alarms := map[int64]string{}, []string{}
	if err := tx.Bucket([]byte("lease")).ForEach(func(k, v []byte) error {
		l := &leasepb.Lease{}
		if err := proto.Unmarshal(v, l); err != nil {
			return err
		}
		if _, short := s.short[l.ID]; !short {
			leases[s.logical(l.ID)] = fmt.Sprintf("lease TTL %d", l.TTL)
		}
		return nil
	}); err != nil {
		return []string{"a lease that is none: " + err.Error()}
	}
	if err := tx.Bucket([]byte("alarm")).ForEach(func(k, _ []byte) error {
		a := &pb.AlarmMember{}
		if err := proto.Unmarshal(k, a); err != nil {
			return err
		}
		alarms = append(alarms, "alarm "+s.normalised("Maintenance/Snapshot", a))
		return nil
	}); err != nil {
		return []string{"an alarm that is none: " + err.Error()}
	}
	var lines []string
	for _, id := range slices.Sorted(maps.Keys(leases)) {
		lines = append(lines, fmt.Sprintf("%d %s", id, leases[id]))
	}
	slices.Sort(alarms)
	return append(lines, alarms...)
}
