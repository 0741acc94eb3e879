"""
Watches by Google's Python client: what a stream promises beyond its events. Progress at the interval that is set, a slow reader that costs
its neighbours nothing and the daemon little, fragments, and one stream with many watches.
"""

import os
import queue
import threading
import time

import grpc
import pytest

from conftest import wait_for
from proto import Proto

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Stream:
    """A Watch stream whose answers are read by a thread, or (read=False) by nobody until read_on()."""

    def __init__(self, proto, channel, read=True):
        self.proto = proto
        self.requests = queue.Queue()
        self.answers = queue.Queue()
        self.call = proto.stub(channel, "Watch", "Watch")(iter(self.requests.get, None))
        self.thread = threading.Thread(target=self.run, daemon=True)
        if read:
            self.read_on()

    def read_on(self):
        self.thread.start()

    def run(self):
        try:
            for answer in self.call:
                self.answers.put(answer)
        except grpc.RpcError:
            pass

    def create(self, key, **fields):
        self.requests.put(self.proto("WatchRequest", create_request=self.proto("WatchCreateRequest", key=key, **fields)))

    def next(self, timeout=20):
        return self.answers.get(timeout=timeout)

    def until(self, condition, timeout=30):
        """All answers up to the first that fulfils the condition."""
        found, end = [], time.monotonic() + timeout
        while not found or not condition(found[-1]):
            found.append(self.next(max(0.1, end - time.monotonic())))
        return found

    def close(self):
        self.call.cancel()
        if self.thread.ident:
            self.thread.join(10)


@pytest.fixture
def tenant(stopped):
    (stopped.root / "stokehold.yaml").write_text("tenants: {progressNotify: 200ms}\ncache: 16Mi\n")
    # What was freed counts no longer.
    stopped.environment["ASAN_OPTIONS"] = "detect_leaks=1:abort_on_error=0:exitcode=99:intercept_tls_get_addr=0:quarantine_size_mb=1"
    stopped.start()
    stopped.tenant("demo")
    with grpc.insecure_channel(f"unix:{stopped.root}/run/tenants/demo.sock", options=OPTIONS) as channel:
        yield stopped, Proto(stopped), channel


def put(proto, channel, key, value):
    return proto.stub(channel, "KV", "Put")(proto("PutRequest", key=key, value=value), timeout=30).header.revision


def test_progress_comes_by_itself_and_never_ahead(tenant):
    """A watch cache resumes from a notification's revision: one that is ahead of its events loses them, one that never comes makes it relist."""
    _, proto, channel = tenant
    told, quiet = Stream(proto, channel), Stream(proto, channel)
    told.create(b"a", range_end=b"b", progress_notify=True)
    quiet.create(b"a", range_end=b"b")
    assert told.next().created and quiet.next().created
    last = 0
    for i in range(20):
        last = put(proto, channel, b"a%d" % i, b"x")
        put(proto, channel, b"z", b"elsewhere")
    seen, notified = 0, 0
    for answer in told.until(lambda a: not a.events and a.header.revision > last):
        if answer.events:
            assert answer.events[0].kv.mod_revision > notified
            seen = answer.events[-1].kv.mod_revision
        else:
            assert answer.watch_id == 0 and not answer.canceled
            assert answer.header.revision <= last or seen == last
            notified = answer.header.revision
    # It goes on while nothing happens, with the same revision.
    assert [told.next().header.revision for _ in range(3)] == [last + 1] * 3
    got = []
    while len(got) < 20:
        got += quiet.next().events
    assert quiet.answers.empty(), "a watch that asked for none was notified"
    told.close()
    quiet.close()


def test_a_slow_reader_costs_little_and_delays_nobody(tenant):
    """One client that stops reading must not hold up the others, nor fill the daemon's memory; when it reads on, nothing is missing."""
    daemon, proto, channel = tenant
    with grpc.insecure_channel(f"unix:{daemon.root}/run/tenants/demo.sock", options=[*OPTIONS, ("test.own", 1)]) as own:
        slow, fast = Stream(proto, own, read=False), Stream(proto, channel)
        slow.create(b"k", range_end=b"l", prev_kv=True)
        fast.create(b"k", range_end=b"l")
        assert fast.next().created
        before = resident(daemon)
        n, value = 160, b"v" * (1 << 20)
        for i in range(n):
            put(proto, channel, b"k%d" % (i % 4), value[:-4] + b"%04d" % i)
        got = [e for a in fast.until(lambda a: a.events and a.events[-1].kv.value.endswith(b"%04d" % (n - 1))) for e in a.events]
        assert [int(e.kv.value[-4:]) for e in got] == list(range(n))
        # 160 MiB of events, twice that with their previous values, of which the cache holds 16.
        assert resident(daemon) - before < 96 << 20
        slow.read_on()
        late = [e for a in slow.until(lambda a: a.events and a.events[-1].kv.value.endswith(b"%04d" % (n - 1)), 60) for e in a.events]
        assert [int(e.kv.value[-4:]) for e in late] == list(range(n))
        assert all(e.prev_kv.value[-4:] == b"%04d" % (i - 4) for i, e in enumerate(late) if i >= 4)
        slow.close()
        fast.close()


def resident(daemon):
    with open(f"/proc/{daemon.process.pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_fragments_and_whole_revisions(tenant):
    """A revision of 3 MiB is one answer, or, where the client asked for it, fragments below its limit that all but the last say that more follows."""
    _, proto, channel = tenant
    pieces, whole = Stream(proto, channel), Stream(proto, channel)
    pieces.create(b"f", range_end=b"g", fragment=True)
    whole.create(b"f", range_end=b"g")
    assert pieces.next().created and whole.next().created
    for i in range(12):
        put(proto, channel, b"f%02d" % i, b"x" * (256 << 10))
    delete = proto.stub(channel, "KV", "DeleteRange")(proto("DeleteRangeRequest", key=b"f", range_end=b"g"), timeout=30)
    assert delete.deleted == 12
    with_prev = Stream(proto, channel)
    with_prev.create(b"f", range_end=b"g", fragment=True, prev_kv=True, start_revision=delete.header.revision)
    assert with_prev.next().created
    answers = with_prev.until(lambda a: a.events and not a.fragment)
    assert len(answers) > 1 and all(a.fragment for a in answers[:-1])
    assert sorted(e.kv.key for a in answers for e in a.events) == [b"f%02d" % i for i in range(12)]
    assert all(e.kv.mod_revision == delete.header.revision and len(e.prev_kv.value) == 256 << 10 for a in answers for e in a.events)
    deletions = whole.until(lambda a: a.events and a.events[-1].type == 1)[-1]
    assert len(deletions.events) == 12 and not deletions.fragment
    for s in (pieces, whole, with_prev):
        s.close()


def test_many_watches_on_one_stream(tenant):
    """An API server's client multiplexes all its watches: each gets its own events alone, and one answer to a progress request speaks for all."""
    _, proto, channel = tenant
    stream, n = Stream(proto, channel), 500
    for i in range(n):
        stream.create(b"m%03d" % i, watch_id=i + 1)
    created = [stream.next() for _ in range(n)]
    assert [a.watch_id for a in created] == list(range(1, n + 1)) and all(a.created for a in created)
    revisions = {i: put(proto, channel, b"m%03d" % i, b"%d" % i) for i in range(0, n, 7)}
    stream.requests.put(proto("WatchRequest", progress_request={}))
    answers = stream.until(lambda a: a.watch_id == -1)
    assert {a.watch_id - 1: a.events[0].kv.mod_revision for a in answers[:-1]} == revisions
    assert answers[-1].header.revision >= max(revisions.values())
    wait_for("nothing else", stream.answers.empty)
    stream.close()
