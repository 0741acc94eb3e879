"""
etcd's snapshots of tenants, as an operator takes them with the stock tools and restores them into a real etcd. If these fail, the backup that somebody
counts on lacks history, keys or leases, is refused by etcd when it is needed, or costs the daemon its memory while it is made.

Beside each tenant stands a real etcd to which the same is done: what is restored must be as that one is, to the hash.
"""

import contextlib
import json
import pathlib
import random
import re
import shutil
import subprocess
import threading
import time

import grpc
import pytest

import servers
from conftest import Daemon, etcdctl, program, real_etcd, running, wait_for
from proto import Proto
from servers_mariadb import MariaDB
from test_history import span
from test_sql_servers import datastore

SERVERS = {"SQLite": None, "PostgreSQL": servers.PostgreSQL, "MySQL": MariaDB}
MIB = 1024 * 1024


@contextlib.contextmanager
def backend(driver):
    """A server of the kind, or none; and the definition of a datastore there."""
    if SERVERS[driver] is None:
        yield None, ""
        return
    with SERVERS[driver]() as server:
        yield server, datastore(driver, [server.endpoint])


@contextlib.contextmanager
def daemon_on(driver, make=Daemon, **options):
    with backend(driver) as (_, text), running(make, **options) as d:
        if text:
            d.define("datastore.yaml", text)
        yield d.start()


def run(*command, check=True, timeout=120, **options):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, check=False, **options)
    assert not check or result.returncode == 0, f"{command}: {result.returncode}: {result.stderr}{result.stdout}"
    return result


def save(endpoint, file, ctl=None):
    environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin"}
    run(ctl or program("etcdctl"), "--endpoints", endpoint, "snapshot", "save", file, env=environment)
    return status(file)


def status(file):
    return json.loads(run(program("etcdutl"), "snapshot", "status", file, "-w", "json").stdout)


def check_pages(file, directory):
    """As bbolt's own tool sees them; it does not know the checksum behind them."""
    data = pathlib.Path(file).read_bytes()
    plain = directory / "plain.db"
    plain.write_bytes(data[:-32])
    assert run(program("bbolt"), "check", plain).stdout.strip() == "OK"


def read(file):
    """What the tree's own reader takes it for, without what is left of leases."""
    lines = run(program("test-snapshot"), "--read", file).stdout.splitlines()
    return [" ".join(line.split(" ")[:7]) for line in lines]


def restored(file):
    """A real etcd on what is restored from the file."""
    def restore(data, peer):
        run(program("etcdutl"), "snapshot", "restore", file, "--data-dir", data, "--name", "e", "--initial-cluster", f"e={peer}",
            "--initial-advertise-peer-urls", peer)
    return real_etcd(restore)


class Api:
    """The few calls that are needed, on anything that is an etcd."""

    def __init__(self, proto, endpoint):
        self.proto = proto
        self.channel = grpc.insecure_channel(endpoint.removeprefix("http://"), options=[("grpc.max_receive_message_length", -1)])

    def __call__(self, service, method, message, timeout=30, **fields):
        return self.proto.stub(self.channel, service, method)(self.proto(message, **fields), timeout=timeout)

    def put(self, key, value, **more):
        return self("KV", "Put", "PutRequest", key=key, value=value, **more).header.revision

    def delete(self, key, end=b""):
        return self("KV", "DeleteRange", "DeleteRangeRequest", key=key, range_end=end).header.revision

    def txn(self, *operations):
        return self("KV", "Txn", "TxnRequest", success=list(operations)).header.revision

    def everything(self, revision=0):
        r = self("KV", "Range", "RangeRequest", key=b"\0", range_end=b"\0", revision=revision)
        return [(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease) for kv in r.kvs]

    def revision(self):
        return self("KV", "Range", "RangeRequest", key=b"x").header.revision

    def compact(self, revision):
        self("KV", "Compact", "CompactionRequest", revision=revision, physical=True)

    def grant(self, lease, ttl):
        self("Lease", "LeaseGrant", "LeaseGrantRequest", ID=lease, TTL=ttl)

    def leases(self):
        """Granted and remaining seconds, and keys, by id."""
        found = {}
        for lease in self("Lease", "LeaseLeases", "LeaseLeasesRequest").leases:
            r = self("Lease", "LeaseTimeToLive", "LeaseTimeToLiveRequest", ID=lease.ID, keys=True)
            found[lease.ID] = r.grantedTTL, r.TTL, sorted(r.keys)
        return found

    def hash(self, revision):
        r = self("Maintenance", "HashKV", "HashKVRequest", revision=revision)
        return r.hash, r.compact_revision

    def events(self, start, end, prev_kv):
        """All from one revision to another."""
        request = self.proto("WatchRequest", create_request=self.proto("WatchCreateRequest", key=b"\0", range_end=b"\0", start_revision=start, prev_kv=prev_kv))
        done = threading.Event()

        def requests():
            yield request
            done.wait(60)

        found = []
        stream = self.proto.stub(self.channel, "Watch", "Watch")(requests(), timeout=60)
        try:
            for response in stream:
                assert not response.canceled, response
                for e in response.events:
                    found.append((e.type, e.kv.key, e.kv.value, e.kv.create_revision, e.kv.mod_revision, e.kv.version, e.kv.lease, e.prev_kv.value))
                if found and found[-1][4] >= end:
                    return found
        finally:
            done.set()
            stream.cancel()


def change(dice, sides, n, keys, leases, txns):
    """The same at random, on all sides."""
    for _ in range(n):
        what, key = dice.random(), b"/k/%d" % dice.randrange(keys)
        value = dice.randbytes(dice.choice([0, 10, 100, 1000, 5000, 30000]))
        lease = dice.choice([0, 0, 0, *leases])
        if what < 0.2:
            revisions = [s.delete(key) for s in sides]
        elif what < 0.23:
            revisions = [s.delete(b"/k/1", b"/k/2") for s in sides] if txns else [s.delete(key) for s in sides]
        elif what < 0.45 and txns:
            names = dice.sample(range(keys), dice.randrange(1, 6))
            operations = [{"request_put": {"key": b"/k/%d" % i, "value": value[:500], "lease": lease}} if dice.random() < 0.7 else
                          {"request_delete_range": {"key": b"/k/%d" % i}} for i in names]
            revisions = [s.txn(*operations) for s in sides]
        else:
            revisions = [s.put(key, value, lease=lease) for s in sides]
        assert len(set(revisions)) == 1, revisions


def fill(dice, sides):
    """Both have a past, a compaction in it, leases, and a history since."""
    leases = [77, 78, 2**62]
    for s in sides:
        for lease in (*leases, 79):
            s.grant(lease, 10000 + lease % 1000)
    change(dice, sides, 150, 40, leases, txns=False)
    compacted = sides[0].revision() - dice.randrange(0, 60)
    for s in sides:
        s.compact(compacted)
    change(dice, sides, 150, 40, leases, txns=True)
    for s in sides:
        s("Lease", "LeaseRevoke", "LeaseRevokeRequest", ID=78)
    return compacted


@pytest.fixture(scope="module")
def proto(shared):
    shared.tenant("proto")
    return Proto(shared, "proto")


def check_same(ours, theirs, compacted):
    """Two etcds that nobody could tell apart."""
    newest = ours.revision()
    assert theirs.revision() == newest
    for revision in range(compacted, newest + 1):
        assert theirs.everything(revision) == ours.everything(revision), f"at revision {revision}"
    for side in (ours, theirs):
        with pytest.raises(grpc.RpcError) as e:
            side.everything(compacted - 1)
        assert e.value.details() == "etcdserver: mvcc: required revision has been compacted"
    # What came before the compacted revision is gone.
    for start, prev_kv in ((compacted, False), (compacted + 1, True)):
        assert theirs.events(start, newest, prev_kv) == ours.events(start, newest, prev_kv)


@pytest.mark.parametrize("driver", SERVERS)
def test_restored_by_etcd(driver, proto, seed, tmp_path):
    """The stock etcdctl saves it, etcdutl restores it, and etcd goes on with it as if it had always been one."""
    dice = random.Random(seed)
    with daemon_on(driver) as d, real_etcd() as twin_endpoint:
        ours, twin = Api(proto, d.tenant("demo")), Api(proto, twin_endpoint)
        compacted = fill(dice, [ours, twin])
        revision, leases = ours.revision(), ours.leases()
        assert {i: (g, k) for i, (g, _, k) in leases.items()} == {i: (g, k) for i, (g, _, k) in twin.leases().items()}
        found = save(d.endpoint("demo"), tmp_path / "ours.db")
        assert (found["revision"], found["totalKey"]) == (revision, len(ours.everything())) and found["version"] == "3.6.0"
        check_pages(tmp_path / "ours.db", tmp_path)
        save(twin_endpoint, tmp_path / "twin.db")
        # Read as logs both are one: our reader on etcd's file, and on ours.
        assert read(tmp_path / "ours.db") == read(tmp_path / "twin.db")
        with restored(tmp_path / "ours.db") as endpoint:
            again = Api(proto, endpoint)
            check_same(ours, again, compacted)
            for at in (revision, (compacted + revision) // 2, compacted + 1):
                assert again.hash(at) == twin.hash(at)
            for lease, (granted, left, keys) in again.leases().items():
                assert (granted, keys) == (leases[lease][0], leases[lease][2])
                # No longer than it was, but for what etcd adds at an election; never all of it anew.
                assert 0 < left <= leases[lease][1] + 10
            assert set(again.leases()) == set(leases)
            # It goes on.
            change(dice, [ours, twin, again], 40, 40, [77], txns=True)
            assert again.hash(0)[0] == twin.hash(0)[0]
            for s in (ours, again):
                s.compact(revision + 1)
            change(dice, [ours, again], 10, 40, [77], txns=True)
            check_same(ours, again, revision + 1)
            # Leases end with their keys.
            for s in (ours, again):
                s("Lease", "LeaseRevoke", "LeaseRevokeRequest", ID=77)
            assert again.everything() == ours.everything()
            revision = ours.revision()

        # From the datastore alone: the same, whoever asks.
        files = [tmp_path / "online.db", tmp_path / "offline.db"]
        save(d.endpoint("demo"), files[0])
        offline = ["offline", "snapshot", "demo", str(files[1])]
        if driver == "SQLite":
            refused = d.stokectl(*offline, check=False)
            assert refused.returncode == 4 and "belongs to the daemon that runs" in refused.stderr, refused
            assert not list(tmp_path.glob("offline*"))
        else:
            # Where daemons share it, beside them; the registry is in a SQLite of this daemon's, so it is told where.
            keyspace = d.ask("tenant", "show", "demo")["incarnation"]
            d.stokectl(*offline, "--datastore", "shared", "--keyspace", f"demo/{keyspace}")
            assert read(files[1]) == read(files[0])
        d.stop()
        files[1].unlink(missing_ok=True)
        assert f"revision {revision}," in d.stokectl(*offline, "--plugins", str(d.plugins)).stdout
        assert read(files[1]) == read(files[0])
        check_pages(files[1], tmp_path)
        assert files[1].stat().st_mode & 0o777 == 0o600
        missing = d.stokectl("offline", "snapshot", "nobody", str(tmp_path / "x.db"), check=False)
        assert missing.returncode == 3 and "no tenant 'nobody'" in missing.stderr, missing
        assert not list(tmp_path.glob("x.db*"))


def test_old_clients(shared, tmp_path):
    """Debian's etcdctl is 3.4's."""
    endpoint = shared.tenant("old")
    for i in range(50):
        etcdctl(endpoint, "put", f"/old/{i}", "v" * 3000)
    assert save(endpoint, tmp_path / "old.db", ctl="/usr/bin/etcdctl")["totalKey"] == 50
    run("/usr/bin/etcdctl", "snapshot", "restore", tmp_path / "old.db", "--data-dir", tmp_path / "data", env={"ETCDCTL_API": "3"})
    assert read(tmp_path / "data" / "member" / "snap" / "db") == read(tmp_path / "old.db")


def test_empty(shared, proto, tmp_path):
    """A tenant that nobody has written to."""
    found = save(shared.tenant("empty"), tmp_path / "empty.db")
    assert found["totalKey"] == 0
    check_pages(tmp_path / "empty.db", tmp_path)
    with restored(tmp_path / "empty.db") as endpoint:
        assert Api(proto, endpoint).put(b"a", b"b") == 2


def test_pages_of_any_log(seed, tmp_path):
    """What the unit tests read themselves, bbolt reads too."""
    for i in range(12):
        out = run(program("test-snapshot"), "--write", tmp_path / "any.db", seed + i).stdout.split()
        check_pages(tmp_path / "any.db", tmp_path)
        # etcdutl takes it from the last key, and there may be none.
        assert status(tmp_path / "any.db")["revision"] in (int(out[0]), 0 if int(out[0]) == 1 else int(out[0])), f"seed {seed + i}"


def test_bumped(shared, proto, tmp_path):
    """What `etcdutl snapshot restore --bump-revision` leaves is read as well: everything compacted, the revision far above."""
    with real_etcd() as endpoint:
        side = Api(proto, endpoint)
        side.put(b"a", b"b")
        save(endpoint, tmp_path / "plain.db")
    run(program("etcdutl"), "snapshot", "restore", tmp_path / "plain.db", "--data-dir", tmp_path / "data", "--bump-revision", "1000", "--mark-compacted")
    lines = read(tmp_path / "data" / "member" / "snap" / "db")
    assert lines[-2].startswith("129 2 2 1 0 x61 x62") and lines[-1].startswith("6 1002 1002 "), lines


def test_offline_without_the_registry(tmp_path):
    """The registry is in a database that is gone: what this host knew last says where a tenant is."""
    local = "---\napiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: local}\nspec: {driver: SQLite}\n"
    with servers.PostgreSQL() as server, running() as d:
        d.define("datastores.yaml", datastore("PostgreSQL", [server.endpoint], more="  system: true\n") + local)
        d.start()
        for tenant, place in (("near", "local"), ("far", "shared")):
            d.stokectl("tenant", "create", tenant, "--datastore", place)
            etcdctl(d.wait_tenant(tenant), "put", "a", "b")

        def offline(tenant):
            return d.stokectl("offline", "snapshot", tenant, str(tmp_path / f"{tenant}.db"), "--plugins", str(d.plugins), check=False)

        # Found in the registry, beside the daemon that has it open.
        assert offline("far").returncode == 0
        # The daemon has written down what it saw.
        wait_for("the copy", lambda: '"near"' in (d.root / "state" / "registry-copy.json").read_text())
        d.stop()
        server.stop()
        found = offline("near")
        assert found.returncode == 0 and "what this host knew of it last is taken" in found.stderr, found
        assert read(tmp_path / "near.db")[1:] == ["129 2 2 1 0 x61 x62"]
        found = offline("far")
        assert found.returncode != 0 and not (tmp_path / "far.db.part").exists(), found
        assert "registry" not in found.stderr.splitlines()[-1], found


# ---- who takes them

def peak(d):
    """KiB."""
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{d.process.pid}/status").read_text()).group(1))


def threads(d):
    found = pathlib.Path(f"/proc/{d.process.pid}/task").glob("*/comm")
    names = []
    for f in found:
        with contextlib.suppress(FileNotFoundError):
            names.append(f.read_text().strip())
    return names.count("snapshot")


def write_objects(side, n, size):
    body = random.Random(1).randbytes(size)
    for i in range(n):
        side.put(b"/objects/%06d" % i, b"%d " % i + body)


@pytest.mark.parametrize("driver", SERVERS)
def test_memory(driver, proto, request, tmp_path):
    """100 MB are saved in a fraction of it (with --long a gigabyte, under 100 MiB)."""
    n = 10000 if request.config.getoption("--long") else 1000
    # Freed memory is kept by the sanitizer's runtime to find later uses of it: not what is measured here.
    with daemon_on(driver, environment={"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99:intercept_tls_get_addr=0:quarantine_size_mb=4"}) as d:
        write_objects(Api(proto, d.tenant("demo")), n, 100 * 1024)
        d.restart()
        side = Api(proto, d.endpoint("demo"))
        wait_for("it is open", lambda: side.revision() == n + 1, 60)
        pathlib.Path(f"/proc/{d.process.pid}/clear_refs").write_text("5")
        before = peak(d)
        try:
            assert save(d.endpoint("demo"), tmp_path / "big.db")["totalKey"] == n
        except Exception:
            print(d.log()[-3000:])
            raise
        grown = peak(d) - before
        assert (tmp_path / "big.db").stat().st_size > n * 100 * 1024
        print(f"{driver}: {(tmp_path / 'big.db').stat().st_size // MIB} MiB saved, peak {before // 1024} -> {(before + grown) // 1024} MiB")
        assert grown < 60 * 1024, f"{grown} KiB"


def test_slow_takers(shared, proto):
    """A client that takes nothing costs a bounded amount of memory, and its neighbours nothing; one that leaves stops the work."""
    endpoint = shared.tenant("slow", "--quota", "1Gi")
    side = Api(proto, endpoint)
    write_objects(side, 300, 100 * 1024)
    d = shared
    assert threads(d) == 0
    before = peak(d)
    channels, streams = [], []
    for _ in range(2):
        # A channel of its own: its connection's window is full then.
        channel = grpc.insecure_channel(endpoint, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)])
        stream = proto.stub(channel, "Maintenance", "Snapshot")(proto("SnapshotRequest"))
        first = next(iter(stream))
        assert first.header.revision == side.revision() and first.remaining_bytes > 30e6
        channels.append(channel)
        streams.append(stream)
    assert threads(d) == 2
    # A third is refused, as etcd refuses what is too much.
    with pytest.raises(grpc.RpcError) as e:
        list(proto.stub(side.channel, "Maintenance", "Snapshot")(proto("SnapshotRequest"), timeout=20))
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    for i in range(200):
        side.put(b"/beside", b"%d" % i)
    side.compact(side.revision())
    assert side.everything()[0][1] == b"199"
    assert peak(d) - before < 60 * 1024
    streams[0].cancel()
    channels[1].close()
    wait_for("nothing is made any more", lambda: threads(d) == 0)
    # What was compacted beside them may be deleted now; and another may be taken.
    responses = list(proto.stub(side.channel, "Maintenance", "Snapshot")(proto("SnapshotRequest"), timeout=60))
    assert len(responses[-1].blob) == 32 and responses[-1].remaining_bytes == 0
    assert sum(len(r.blob) for r in responses) % 512 == 32
    assert [r.remaining_bytes for r in responses] == sorted((r.remaining_bytes for r in responses), reverse=True)


@pytest.mark.parametrize("driver", ["SQLite", "PostgreSQL"])
def test_the_daemon_stops(driver, proto, seed, tmp_path):
    """While snapshots are made: it leaves in order, and what was saved so far is not taken for a snapshot."""
    dice = random.Random(seed)
    with daemon_on(driver) as d:
        write_objects(Api(proto, d.tenant("demo")), 300, 100 * 1024)
        for _ in range(4):
            clients = [subprocess.Popen([program("etcdctl"), "--endpoints", d.endpoint("demo"), "snapshot", "save", tmp_path / f"{i}.db"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for i in range(2)]
            wait_for("they have begun", lambda: threads(d) > 0 or all(c.poll() is not None for c in clients), pause=0.001)
            time.sleep(dice.uniform(0, 0.3))
            d.restart()
            for i, c in enumerate(clients):
                done = c.wait(60) == 0  # one that had not got through before waits for the daemon
                assert done == (tmp_path / f"{i}.db").exists()
                (tmp_path / f"{i}.db").unlink(missing_ok=True)
            assert save(d.endpoint("demo"), tmp_path / "after.db")["totalKey"] == 300


@pytest.mark.parametrize("driver", ["SQLite", "PostgreSQL"])
def test_while_written_and_compacted(driver, proto, seed, request, tmp_path):
    """Each snapshot is one moment: all keys are put in each transaction, so they have one revision in each."""
    with daemon_on(driver) as d:
        side = Api(proto, d.tenant("demo"))
        stop, failures = threading.Event(), []

        def write():
            try:
                n = 0
                while not stop.is_set():
                    n += 1
                    value = b"%d " % n + b"v" * 2000
                    revision = side.txn(*({"request_put": {"key": b"/all/%d" % i, "value": value}} for i in range(20)))
                    if n % 20 == 0:
                        side("KV", "Compact", "CompactionRequest", revision=revision - 3)
            except Exception as e:  # pylint: disable=broad-except
                failures.append(e)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            wait_for("writes", lambda: side.revision() > 3)
            for i in range(span(request, 6, 60)):
                file = tmp_path / f"{i}.db"
                assert save(d.endpoint("demo"), file)["totalKey"] == 20
                last = [line.split() for line in read(file) if line.startswith("129 ")][-20:]
                assert len({r[1] for r in last}) == 1 and len({r[6] for r in last}) == 1
                file.unlink()
        finally:
            stop.set()
            writer.join()
        assert not failures, failures
