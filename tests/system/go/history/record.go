package main

import (
	"encoding/json"
	"os"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// What clients saw. Times are nanoseconds on one clock, that of the process that ran all clients.

type KV struct {
	Key     string
	Value   string `json:",omitempty"`
	Create  int64  `json:",omitempty"`
	Mod     int64  `json:",omitempty"`
	Version int64  `json:",omitempty"`
	Lease   int64  `json:",omitempty"`
}

type Compare struct {
	Key    string
	Target string // "mod", "create", "version", "value"
	Result string // "=", "!=", "<", ">"
	Number int64  `json:",omitempty"`
	Text   string `json:",omitempty"`
}

// Op is one operation of a transaction, or a call of its own.
type Op struct {
	Do        string // "put", "delete", "range"
	Key       string
	End       string `json:",omitempty"`
	Value     string `json:",omitempty"` // of a put: used once in a history, so that its event tells whose it is
	Lease     int64  `json:",omitempty"`
	Rev       int64  `json:",omitempty"`
	Limit     int64  `json:",omitempty"`
	Serial    bool   `json:",omitempty"`
	Prev      bool   `json:",omitempty"`
	CountOnly bool   `json:",omitempty"`
}

type Answer struct {
	KVs     []KV  `json:",omitempty"` // of a put and a delete: the previous ones
	Deleted int64 `json:",omitempty"`
	Count   int64 `json:",omitempty"`
	More    bool  `json:",omitempty"`
}

// Outcomes of a call.
const (
	Done    = "done"    // answered
	Refused = "refused" // an error that says that it did not happen
	Unknown = "unknown" // an error that says nothing of the kind
)

// The refusals that must be justified.
const (
	Compacted     = "compacted"
	LeaseNotFound = "lease not found"
)

type Call struct {
	Client    int
	What      string // "kv", "compact", "grant", "revoke", "keepalive"
	Start     int64
	End       int64
	Outcome   string
	Error     string    `json:",omitempty"`
	Header    int64     `json:",omitempty"` // the revision in the answer's header
	Compares  []Compare `json:",omitempty"`
	Then      []Op      `json:",omitempty"`
	Else      []Op      `json:",omitempty"`
	Succeeded bool      `json:",omitempty"`
	Answers   []Answer  `json:",omitempty"`
	Rev       int64     `json:",omitempty"` // of a compaction
	Lease     int64     `json:",omitempty"`
	TTL       int64     `json:",omitempty"` // seconds; as answered
}

type Event struct {
	Delete bool `json:",omitempty"`
	KV     KV
	Prev   *KV `json:",omitempty"`
}

type Response struct {
	At     int64
	Header int64
	Events []Event `json:",omitempty"` // none: a progress notification
}

type Watch struct {
	Client    int
	Key, End  string
	From      int64 // 0: from the revision after Created
	Created   int64 `json:",omitempty"` // the header's revision when it was made
	Prev      bool  `json:",omitempty"`
	NoPut     bool  `json:",omitempty"`
	NoDelete  bool  `json:",omitempty"`
	Start     int64
	Responses []Response
	Compacted int64 `json:",omitempty"` // cancelled with this compact revision
	EndedAt   int64
	Complete  bool `json:",omitempty"` // was there to the end, and had its time to see all
}

// History is everything of one run. Watches[0] is the log's: all keys from First on, with previous values.
type History struct {
	Seed      uint64
	Endpoints int
	First     int64 // the revision before the first call
	Base      []KV  // the keys at First
	Calls     []Call
	Watches   []*Watch
	Marks     []int64 // when all daemons were known to be dead
}

type recorder struct {
	lock  sync.Mutex
	base  time.Time
	h     History
	acked int64 // the highest revision that an answer showed
}

func (r *recorder) now() int64 { return int64(time.Since(r.base)) }

func (r *recorder) call(c Call) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.h.Calls = append(r.h.Calls, c)
	if c.Outcome == Done {
		r.acked = max(r.acked, c.Header)
	}
}

func (r *recorder) watch(w *Watch) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.h.Watches = append(r.h.Watches, w)
}

func (r *recorder) highest() int64 {
	r.lock.Lock()
	defer r.lock.Unlock()
	return r.acked
}

func (r *recorder) mark() {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.h.Marks = append(r.h.Marks, r.now())
}

func (h *History) write(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(f).Encode(h); err != nil {
		return err
	}
	return f.Close()
}

func readHistory(path string) (*History, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := &History{}
	return h, json.NewDecoder(f).Decode(h)
}

func fromKV(kv *mvccpb.KeyValue) KV {
	return KV{string(kv.Key), string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}
}

func fromKVs(kvs []*mvccpb.KeyValue) []KV {
	var out []KV
	for _, kv := range kvs {
		out = append(out, fromKV(kv))
	}
	return out
}
