"""
Backups, restores and clones, of tenants that are used meanwhile, on every driver. If these fail, the day on which a backup is needed is the day on which it
turns out not to be one; or a restore leaves clients with what is no more.
"""

import contextlib
import json
import os
import pathlib
import re
import stat
import subprocess
import threading
import time
import types
import urllib.request

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from conftest import as_root, etcdctl, free_port, program, running, wait_for
from test_migration import DRIVERS, drop_all, fill, hash_kv, placed, pool, revision, time_to_live  # pylint: disable=unused-import
from test_several_daemons import several, started

ELSEWHERE = [("SQLite", "PostgreSQL"), ("PostgreSQL", "MySQL"), ("MySQL", "SQLite")]
CHUNK = 128 * 1024


def backup(d, path, name="demo", *more):
    return json.loads(d.stokectl("tenant", "backup", name, str(path), "-o", "json", *more).stdout)


@contextlib.contextmanager
def load(endpoint, names=("w1", "w2")):
    """Writers that go on until it ends. (What they write is theirs: put-loop's keys.)"""
    found = [subprocess.Popen([program("client"), "put-loop", endpoint, name, "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
             for name in names]
    try:
        yield found
    finally:
        for p in found:
            p.terminate()
            p.wait(10)


class Informer:
    """etcd's own client, used as Kubernetes does: list, watch, list anew when told that history is gone."""

    def __init__(self, endpoint, prefix):
        self.process = subprocess.Popen([program("client"), "informer", endpoint, prefix], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "listed\n"

    def end(self):
        """Its copy is what there is: figures. (It fails if a revision went back, or the copy stays different.)"""
        out, err = self.process.communicate("end\n", timeout=60)
        assert self.process.returncode == 0, err
        return json.loads(out.splitlines()[-1])

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def informers(*places):
    found = [Informer(*p) for p in places]
    try:
        yield found
    finally:
        for i in found:
            i.close()


class Control:
    """The control protocol itself, for what stokectl is too careful to do."""

    def __init__(self, d):
        self.channel = grpc.insecure_channel(f"unix:{d.control_socket}")
        pool_ = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self.messages = types.SimpleNamespace(**{
            m.name: message_factory.GetMessageClass(m) for method in pool_.FindServiceByName("stokehold.control.v1.Control").methods
            for m in (method.input_type, method.output_type)})

    def restore(self, requests):
        m = self.messages
        call = self.channel.stream_stream(
            "/stokehold.control.v1.Control/RestoreTenant", request_serializer=m.RestoreTenantRequest.SerializeToString,
            response_deserializer=m.RestoreTenantResponse.FromString)
        return call(requests)

    def begin(self, name, over=False):
        return self.messages.RestoreTenantRequest(begin={"name": name, "over": over})

    def data(self, piece):
        return self.messages.RestoreTenantRequest(data=piece)

    def requests(self, name, content, over=False):
        yield self.begin(name, over)
        for i in range(0, len(content), CHUNK):
            yield self.data(content[i:i + CHUNK])

    def close(self):
        self.channel.close()


@contextlib.contextmanager
def control(d):
    c = Control(d)
    try:
        yield c
    finally:
        c.close()


def pool_server(pool, driver):
    """Empty, as `placed` makes them."""
    server = DRIVERS[driver](pool, "a")[1]
    if server.process is None:
        server.start()
    drop_all(pool)
    return server


def tenants(d):
    return {t["name"]: t for t in d.ask("tenant", "list")["tenants"]}


# ---- what is in it

@pytest.mark.parametrize("source,target", ELSEWHERE)
def test_a_backup_under_load_restores_elsewhere(pool, source, target):
    """All that was written when the command was given is in it, with its history, as of one revision."""
    with placed(pool, source, target) as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        fill(endpoint)
        etcdctl(endpoint, "compact", str(revision(endpoint) // 2))
        lease = re.search(r"lease (\w+) granted", etcdctl(endpoint, "lease", "grant", "1000").stdout).group(1)
        etcdctl(endpoint, "put", "/leased", "x", "--lease", lease)
        etcdctl(endpoint, "del", "/fill/3")
        with load(endpoint):
            wait_for("writers write", lambda: etcdctl(endpoint, "get", "/loop/", "--prefix", "--keys-only").stdout)
            etcdctl(endpoint, "put", "/last", "before")
            before = revision(endpoint)
            made = backup(d, d.root / "file")
            etcdctl(endpoint, "put", "/after", "the backup")
        assert made["revision"] >= before and made["records"] > 0 and made["leases"] == 1
        assert d.ask("tenant", "verify-backup", str(d.root / "file")) == made

        d.stokectl("tenant", "restore", "again", str(d.root / "file"), "--datastore", "b")
        again = d.endpoint("again")
        assert tenants(d)["again"]["datastore"] == "b"
        assert hash_kv(again)[:2] == hash_kv(endpoint, made["revision"])[:2]
        assert revision(again) == made["revision"]
        assert etcdctl(again, "get", "/last", "--print-value-only").stdout.strip() == "before"
        assert not etcdctl(again, "get", "/after").stdout
        assert not etcdctl(again, "get", "/fill/3").stdout
        assert 900 < time_to_live(again, lease) <= 1000
        # History as it was: from just above what was compacted on, and not below.
        assert "compacted" in etcdctl(again, "get", "/last", f"--rev={made['compacted'] - 1}", check=False).stderr
        assert etcdctl(again, "get", "/fill/3", f"--rev={made['compacted'] + 1}").returncode == 0
        etcdctl(again, "put", "/goes", "on")
        assert revision(again) == made["revision"] + 1
        etcdctl(again, "lease", "revoke", lease)
        assert not etcdctl(again, "get", "/leased").stdout
        # It outlives its daemon's restart, and compaction of what came in.
        etcdctl(again, "compact", str(revision(again)))
        found = hash_kv(again)
        d.restart()
        assert hash_kv(d.wait_tenant("again"))[0] == found[0]


def test_leases_have_the_time_they_had(daemon):
    """A lease that was half over is half over after the restore, and ends on time; it can be kept alive."""
    endpoint = daemon.tenant()
    grant = lambda ttl: re.search(r"lease (\w+) granted", etcdctl(endpoint, "lease", "grant", str(ttl)).stdout).group(1)  # noqa: E731
    short, long, kept = grant(8), grant(500), grant(500)
    for name, lease in (("short", short), ("long", long), ("kept", kept)):
        etcdctl(endpoint, "put", f"/{name}", "x", "--lease", lease)
    wait_for("time goes by", lambda: time_to_live(endpoint, long) < 496)
    at_most = time_to_live(endpoint, long)
    backup(daemon, daemon.root / "file")
    daemon.stokectl("tenant", "restore", "again", str(daemon.root / "file"))
    again = daemon.endpoint("again")
    assert time_to_live(again, long) <= at_most
    etcdctl(again, "lease", "keep-alive", "--once", kept)
    assert time_to_live(again, kept) > 497
    wait_for("the short one ends", lambda: not etcdctl(again, "get", "/short").stdout)
    assert etcdctl(again, "get", "/long").stdout
    # The file says what it said: restored later, the time counts from there.
    daemon.stokectl("tenant", "restore", "later", str(daemon.root / "file"))
    assert etcdctl(daemon.endpoint("later"), "get", "/short").stdout
    daemon.restart()
    assert time_to_live(daemon.wait_tenant("again"), long) <= at_most


def test_clone(pool):
    with placed(pool, "SQLite", "PostgreSQL") as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        fill(endpoint)
        with load(endpoint):
            made = json.loads(d.stokectl("tenant", "clone", "demo", "copy", "--datastore", "b", "-o", "json").stdout)
            at = made["revision"] or revision(d.endpoint("copy"))
        copy = d.endpoint("copy")
        assert hash_kv(copy)[0] == hash_kv(endpoint, at)[0]
        cluster = lambda e: json.loads(etcdctl(e, "get", "x", "-w", "json").stdout)["header"]["cluster_id"]  # noqa: E731
        assert cluster(copy) != cluster(endpoint)
        etcdctl(copy, "put", "/only", "here")
        assert not etcdctl(endpoint, "get", "/only").stdout
        assert d.stokectl("tenant", "clone", "demo", "copy", check=False).returncode == 4
        assert d.stokectl("tenant", "clone", "nobody", "else", check=False).returncode == 3
        assert set(tenants(d)) == {"demo", "copy"}


# ---- over a tenant that is served

@pytest.mark.parametrize("driver", list(DRIVERS))
def test_a_restore_over_a_served_tenant(pool, driver):
    """Whoever was connected throughout ends with what was restored: watches are told that their history is gone, no revision goes back."""
    with placed(pool, driver, driver) as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        fill(endpoint)
        made = backup(d, d.root / "file")
        fill(endpoint, n=100, size=100)
        etcdctl(endpoint, "put", "/new", "goes away")
        served = revision(endpoint)
        log = open(d.root / "watched", "wb")  # pylint: disable=consider-using-with
        watch = subprocess.Popen([program("etcdctl"), "--endpoints", endpoint, "watch", "/", "--prefix"], stdout=log, stderr=log)
        try:
            with informers((endpoint, "/"), (endpoint, "/fill/")) as (all_, some):
                with load(endpoint) as writers:
                    wait_for("writers write", lambda: revision(endpoint) > served + 20)
                    d.stokectl("tenant", "restore", "demo", str(d.root / "file"), "--over", "--yes")
                    wait_for("writers go on", lambda: etcdctl(endpoint, "get", "/loop/", "--prefix", "--keys-only").stdout)
                    assert not etcdctl(endpoint, "get", "/new").stdout
                    assert all(w.poll() is None for w in writers), [w.stderr.read() for w in writers]
                figures = [all_.end(), some.end()]
            assert all(f["lists"] >= 2 for f in figures), figures
            assert min(f["revision"] for f in figures) > served
            wait_for("the watch is told", lambda: b"compacted" in (d.root / "watched").read_bytes())
        finally:
            watch.kill()
            watch.wait()
            log.close()
        shown = d.ask("tenant", "show", "demo")
        assert shown["compacted"] > served and shown["incarnation"] != made["incarnation"]
        assert "compacted" in etcdctl(endpoint, "get", "/new", f"--rev={served}", check=False).stderr
        # What it had before is kept, but nothing goes back to it.
        assert d.stokectl("migration", "undo", "demo", check=False).returncode == 4
        # Again, and from its own later backup, and over a restart.
        backup(d, d.root / "file2")
        d.stokectl("tenant", "restore", "demo", str(d.root / "file2"), "--over", "--yes")
        found = revision(endpoint)
        assert found > shown["revision"]
        d.restart()
        assert revision(d.wait_tenant("demo")) >= found


@pytest.mark.parametrize("how", ["deleted", "deleted, and restarted", "lost with all datastores"])
def test_a_restore_of_what_was_served_before(daemon, how):
    """An API server that was not told: what it has seen of a tenant that is gone is not told it anew, when the tenant is restored by its name."""
    endpoint = daemon.tenant()
    fill(endpoint, n=100)
    backup(daemon, daemon.root / "file")
    etcdctl(endpoint, "put", "/new", "goes away")
    served = revision(endpoint)
    with informers((endpoint, "/")) as (informer,):
        if how.startswith("deleted"):
            daemon.stokectl("tenant", "delete", "demo", "--yes")
        if how != "deleted":
            daemon.stop()
        if how.startswith("lost"):
            for lost in ("datastores/*/*.db*", "registry*.json"):
                assert [p.unlink() for p in (daemon.root / "state").glob(lost)]
        if how != "deleted":
            daemon.start()
        assert not tenants(daemon)
        daemon.stokectl("tenant", "restore", "demo", str(daemon.root / "file"))
        figures = informer.end()
    assert figures["lists"] == 2 and figures["revision"] > served, figures
    assert not etcdctl(endpoint, "get", "/new").stdout
    assert "compacted" in etcdctl(endpoint, "get", "/new", f"--rev={served}", check=False).stderr
    # A name that was never served: as it was in the backup.
    daemon.stokectl("tenant", "restore", "other", str(daemon.root / "file"))
    assert revision(daemon.endpoint("other")) < served


def test_a_restore_above_what_is_said(daemon):
    """What only the operator knows: a tenant that was served by another host."""
    fill(daemon.tenant(), n=100)
    backup(daemon, daemon.root / "file")
    daemon.stokectl("tenant", "restore", "other", str(daemon.root / "file"), "--above", "5000000")
    assert revision(daemon.endpoint("other")) > 5000000
    assert "compacted" in etcdctl(daemon.endpoint("other"), "get", "/", "--prefix", "--rev=5000001", check=False).stderr
    daemon.stokectl("tenant", "restore", "demo", str(daemon.root / "file"), "--over", "--yes", "--above", "70000000")
    assert revision(daemon.endpoint()) > 70000000
    for wrong in ("0", "-1", "x", "4611686018427387904"):
        assert daemon.stokectl("tenant", "restore", "third", str(daemon.root / "file"), "--above", wrong, check=False).returncode == 2
    with control(daemon) as c:
        for begin in ({"above": -1}, {"above": 2**62}, {"deletion_policy": "Keep"}):
            with pytest.raises(grpc.RpcError) as e:
                list(c.restore(iter([c.messages.RestoreTenantRequest(begin={"name": "third", **begin})])))
            assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT, begin
    assert "third" not in tenants(daemon)


@pytest.mark.sample(1)
@pytest.mark.parametrize("driver", ["PostgreSQL", "MySQL"])
def test_a_restore_reaches_the_clients_of_every_daemon(pool, driver):
    """Those that are connected to a daemon which has no part in it, too."""
    server = pool_server(pool, driver)
    with several(2, DRIVERS[driver](pool, "a")[0] + "  system: true\n  default: true\n") as found:
        started(found)
        found[0].tenant()
        ends = [d.wait_tenant("demo") for d in found]
        fill(ends[0])
        backup(found[0], found[0].root / "file")
        etcdctl(ends[1], "put", "/fill/new", "goes away")
        served = revision(ends[1])
        with informers(*((e, "/") for e in ends)) as readers:
            with load(ends[0], ["w1"]) as one, load(ends[1], ["w2"]) as two:
                wait_for("writers write", lambda: revision(ends[1]) > served + 20, timeout=60)
                found[0].stokectl("tenant", "restore", "demo", str(found[0].root / "file"), "--over", "--yes")
                wait_for("writers of both go on", lambda: all(
                    etcdctl(e, "get", f"/loop/w{i}/", "--prefix", "--keys-only").stdout for e in ends for i in (1, 2)), timeout=60)
                assert all(w.poll() is None for w in one + two), [w.stderr.read() for w in one + two if w.poll() is not None]
            figures = [r.end() for r in readers]
        assert all(f["lists"] >= 2 and f["revision"] > served for f in figures), figures
        # A writer's last put may land when it has gone itself: between the two, then.
        assert figures[0]["revision"] != figures[1]["revision"] or figures[0]["keys"] == figures[1]["keys"]
        for e in ends:
            assert not etcdctl(e, "get", "/fill/new").stdout
        at = revision(ends[0])
        assert hash_kv(ends[0], at) == hash_kv(ends[1], at)
        # One that was there when it began has gone: the other one undoes it.
        with control(found[0]) as c:
            gone = threading.Event()

            def requests():
                yield c.begin("demo", over=True)
                yield c.data((found[0].root / "file").read_bytes()[:1000])
                gone.wait(90)
            answers = c.restore(requests())
            try:
                wait_for("it has begun", lambda: found[1].ask("migration", "show", "demo")["phase"] == "Copying", timeout=60)
                found[0].kill()
            finally:
                gone.set()
            del answers
        wait_for("it is undone", lambda: found[1].ask("migration", "show", "demo")["phase"] == "Failed", timeout=90)
        etcdctl(ends[1], "put", "/fill/still", "here")
        found[0].start()
    assert server


# ---- damage, and what fails

def test_a_file_that_is_damaged_is_not_restored(daemon):
    """By stokectl, which reads it first; nor by the daemon, should it come to it: nothing is left, and the tenant has what it had."""
    endpoint = daemon.tenant()
    fill(endpoint)
    file, bad = daemon.root / "file", daemon.root / "bad"
    backup(daemon, file)
    content = file.read_bytes()
    etcdctl(endpoint, "put", "/later", "x")
    places = [0, 20, 60, len(content) // 2, len(content) - 60, len(content) - 1]
    damaged = [content[:i] + bytes([content[i] ^ 1]) + content[i + 1:] for i in places]
    damaged += [content[:n] for n in (0, 10, 100, len(content) // 2, len(content) - 1)] + [content + b"x", content[16:]]
    with control(daemon) as c:
        for n, wrong in enumerate(damaged):
            bad.write_bytes(wrong)
            r = daemon.stokectl("tenant", "restore", "again", str(bad), check=False)
            assert r.returncode == 1 and "bad:" in r.stderr, r
            assert daemon.stokectl("tenant", "verify-backup", str(bad), check=False).returncode == 1
            for name, over in (("again", False), ("demo", True)):
                with pytest.raises(grpc.RpcError) as e:
                    list(c.restore(c.requests(name, wrong, over)))
                assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT, (n, e.value)
            wait_for("nothing is left of it", lambda: "again" not in tenants(daemon))
        assert etcdctl(endpoint, "get", "/later", "--print-value-only").stdout.strip() == "x"
        wait_for("what was begun is undone", lambda: daemon.ask("migration", "show", "demo")["phase"] == "Failed")
        assert not list((daemon.root / "state").rglob("*again*"))
        assert list(c.restore(c.requests("again", content)))[-1].tenant.name == "again"
    assert hash_kv(daemon.endpoint("again"))[0] == hash_kv(endpoint, revision(endpoint) - 1)[0]


def test_files_are_private_and_not_overwritten(daemon, tmp_path):
    endpoint = daemon.tenant()
    file = tmp_path / "file"
    before = os.umask(0)
    try:
        backup(daemon, file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = file.read_bytes()
    etcdctl(endpoint, "put", "/x", "y")
    r = daemon.stokectl("tenant", "backup", "demo", str(file), check=False)
    assert r.returncode == 4 and file.read_bytes() == first
    backup(daemon, file, "demo", "--force")
    assert file.read_bytes() != first
    assert daemon.stokectl("tenant", "backup", "nobody", str(tmp_path / "other"), check=False).returncode == 3
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_no_file(daemon, tmp_path):
    """The file is there whole or not at all."""
    endpoint = daemon.tenant()
    for i in range(40):
        etcdctl(endpoint, "put", f"/{i}", os.urandom(10000).hex())
    little = tmp_path / "little"
    little.mkdir()
    subprocess.run(as_root("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(little)), check=True)
    try:
        subprocess.run(as_root("chmod", "0777", str(little)), check=True)
        r = daemon.stokectl("tenant", "backup", "demo", str(little / "file"), check=False)
        assert r.returncode == 1 and "No space left" in r.stderr, r
        assert not list(little.iterdir())
    finally:
        subprocess.run(as_root("umount", str(little)), check=True)
    backup(daemon, tmp_path / "file")


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("driver", list(DRIVERS))
def test_kill_9_in_the_middle_of_a_restore(pool, driver, over):
    """What was half there is never served, and goes by itself."""
    with placed(pool, driver, driver) as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        for i in range(20):
            etcdctl(endpoint, "put", f"/{i}", os.urandom(50000).hex())
        backup(d, d.root / "file")
        etcdctl(endpoint, "put", "/later", "x")
        content = (d.root / "file").read_bytes()
        with control(d) as c:
            go_on = threading.Event()

            def requests():
                yield c.messages.RestoreTenantRequest(begin={"name": "demo" if over else "again", "over": over, "datastore": "" if over else "a"})
                for i in range(0, len(content) * 2 // 3, CHUNK):
                    yield c.data(content[i:i + CHUNK])
                go_on.wait(60)
            try:
                answers = c.restore(requests())
                wait_for("it has begun", lambda: tenants(d).get("again", {}).get("phase") == "Installing" or
                         (over and d.ask("migration", "show", "demo")["phase"] == "Copying"))
                assert next(answers).taken > 0
                d.kill()
            finally:
                go_on.set()
        d.start()
        wait_for("only what was there is", lambda: set(tenants(d)) == {"demo"})
        assert etcdctl(d.wait_tenant("demo"), "get", "/later", "--print-value-only").stdout.strip() == "x"
        if over:
            wait_for("it is undone", lambda: d.ask("migration", "show", "demo")["phase"] == "Failed")
        # And it can be done once more.
        d.stokectl("tenant", "restore", "again", str(d.root / "file"), "--datastore", "a")
        assert not etcdctl(d.endpoint("again"), "get", "/later").stdout


def test_a_client_that_goes_away_undoes_its_restore(daemon):
    endpoint = daemon.tenant()
    fill(endpoint)
    backup(daemon, daemon.root / "file")
    content = (daemon.root / "file").read_bytes()
    with control(daemon) as c:
        gone = threading.Event()

        def requests():
            yield c.begin("again")
            yield c.data(content[:len(content) // 2])
            gone.wait(60)
        answers = c.restore(requests())
        try:
            wait_for("it has begun", lambda: "again" in tenants(daemon))
            answers.cancel()
        finally:
            gone.set()
        wait_for("nothing is left of it", lambda: "again" not in tenants(daemon))
    daemon.stokectl("tenant", "restore", "again", str(daemon.root / "file"))


def test_a_tenant_that_is_deleted_ends_its_backup(daemon):
    """Whoever reads a tenant does not keep it from going."""
    endpoint = daemon.tenant()
    for i in range(60):
        etcdctl(endpoint, "put", f"/{i}", os.urandom(50000).hex())
    with control(daemon) as c:
        m = c.messages
        answers = c.channel.unary_stream(
            "/stokehold.control.v1.Control/BackupTenant", request_serializer=m.BackupTenantRequest.SerializeToString,
            response_deserializer=m.BackupTenantResponse.FromString)(m.BackupTenantRequest(name="demo"))
        assert next(answers).about.tenant == "demo"
        daemon.stokectl("tenant", "delete", "demo", "--yes")
        try:
            for _ in answers:
                pass
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.ABORTED, e
    assert not tenants(daemon)


@pytest.mark.parametrize("retention", ["0s", "10m"])
def test_a_tenant_that_moves_is_backed_up_whole_or_not_at_all(pool, retention):
    """A backup that has begun before the move is of before the move; if its source is dropped under it, it says so."""
    with placed(pool, "PostgreSQL", "SQLite") as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        for i in range(400):
            etcdctl(endpoint, "put", f"/{i % 300}", os.urandom(25000).hex())
        before = revision(endpoint)
        found = hash_kv(endpoint)[0]
        with control(d) as c:
            m = c.messages
            answers = c.channel.unary_stream(
                "/stokehold.control.v1.Control/BackupTenant", request_serializer=m.BackupTenantRequest.SerializeToString,
                response_deserializer=m.BackupTenantResponse.FromString)(m.BackupTenantRequest(name="demo"))
            assert next(answers).about.revision == before
            d.stokectl("tenant", "migrate", "demo", "--to", "b", "--retention", retention)
            etcdctl(endpoint, "put", "/after", "the move")
            try:
                content = b"".join(a.data for a in answers)
            except grpc.RpcError as e:
                assert retention == "0s" and e.code() == grpc.StatusCode.UNAVAILABLE, e
                content = None
        if content:
            (d.root / "file").write_bytes(content)
            d.stokectl("tenant", "restore", "again", str(d.root / "file"), "--datastore", "b")
            assert hash_kv(d.endpoint("again"))[0] == found
        # And the tenant can be backed up where it is now.
        backup(d, d.root / "now")
        etcdctl(endpoint, "compact", str(revision(endpoint)))


@pytest.mark.parametrize("what", ["backup", "restore", "over", "clone"])
def test_the_daemon_stops_in_the_middle(daemon, what):
    """It stops as it always does, and what was not complete has gone when it is back."""
    endpoint = daemon.tenant()
    for i in range(60):
        etcdctl(endpoint, "put", f"/{i}", os.urandom(50000).hex())
    backup(daemon, daemon.root / "file")
    content = (daemon.root / "file").read_bytes()
    before = hash_kv(endpoint)[0]
    with control(daemon) as c:
        m, gone = c.messages, threading.Event()

        def requests():
            yield c.begin("demo" if what == "over" else "again", what == "over")
            yield c.data(content[:CHUNK])
            gone.wait(60)

        def stream(method, request, response):
            return c.channel.unary_stream(f"/stokehold.control.v1.Control/{method}", request_serializer=type(request).SerializeToString,
                                          response_deserializer=response.FromString)(request)
        try:
            if what == "backup":
                answers = stream("BackupTenant", m.BackupTenantRequest(name="demo"), m.BackupTenantResponse)
                next(answers)
            elif what == "clone":
                answers = stream("CloneTenant", m.CloneTenantRequest(name="demo", clone="again"), m.CloneTenantResponse)
            else:
                answers = c.restore(requests())
                wait_for("it has begun", lambda: "again" in tenants(daemon) or
                         (what == "over" and daemon.ask("migration", "show", "demo")["phase"] == "Copying"))
            daemon.stop()
        finally:
            gone.set()
            answers.cancel()
    daemon.start()
    wait_for("what was not complete has gone", lambda: all(t["phase"] == "Ready" for t in tenants(daemon).values()))
    if what == "over":
        wait_for("it is undone", lambda: daemon.ask("migration", "show", "demo")["phase"] == "Failed")
    for name in tenants(daemon):
        assert hash_kv(daemon.endpoint(name))[0] == before


def test_a_clone_that_is_given_up(pool):
    """Nothing is left of it, however far it was; and it is not what keeps its source from going."""
    with placed(pool, "SQLite", "PostgreSQL") as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        for i in range(40):
            etcdctl(endpoint, "put", f"/{i}", os.urandom(50000).hex())
        for pause in (0, 0.005, 0.02, 0.05, 0.1, 0.2):
            p = subprocess.Popen([program("stokectl"), "--root", str(d.root), "tenant", "clone", "demo", "again", "--datastore", "b"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for("it has begun", lambda: "again" in tenants(d) or p.poll() is not None)
            time.sleep(pause)
            p.kill()
            p.wait()
            wait_for("it is there or not", lambda: tenants(d).get("again", {"phase": "Ready"})["phase"] == "Ready")
            if "again" in tenants(d):
                assert hash_kv(d.endpoint("again"))[0] == hash_kv(endpoint)[0]
                d.stokectl("tenant", "delete", "again", "--yes")
        p = subprocess.Popen([program("stokectl"), "--root", str(d.root), "tenant", "clone", "demo", "again", "--datastore", "b"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("it has begun", lambda: "again" in tenants(d) or p.poll() is not None)
        d.stokectl("tenant", "delete", "demo", "--yes")
        p.wait(30)
        wait_for("it is there or not", lambda: all(t["phase"] == "Ready" for t in tenants(d).values()))


# ---- by the clock

def test_backups_by_the_clock(stopped, tmp_path):
    """They are made, the oldest go, what fails is seen, and the age of the last good one is a metric."""
    place = tmp_path / "backups"
    place.mkdir()
    port = free_port()
    (stopped.root / "stokehold.yaml").write_text(f"metrics:\n  listen: tcp:127.0.0.1:{port}\n")
    stopped.define("demo.yaml", "apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: demo}\nspec:\n"
                                f"  backup: {{every: 1s, keep: 3, directory: {place}}}\n")
    d = stopped.start()
    endpoint = d.wait_tenant("demo")
    etcdctl(endpoint, "put", "/x", "1")
    there = lambda: sorted(f.name for f in place.iterdir() if f.suffix == ".stokearc")  # noqa: E731
    wait_for("three are there", lambda: len(there()) == 3)
    first = there()[0]
    wait_for("the oldest goes", lambda: first not in there())
    assert len(there()) <= 4
    for f in place.iterdir():
        assert stat.S_IMODE(f.stat().st_mode) == 0o600
    name = there()[-1]
    assert re.fullmatch(r"demo\.\d{8}T\d{6}Z\.r\d+\.stokearc", name)
    assert d.ask("tenant", "verify-backup", str(place / name))["tenant"] == "demo"
    shown = d.ask("tenant", "show", "demo")
    assert shown["lastBackup"] and shown["lastBackupBytes"] > 0 and not shown["backupFailure"]

    def metric(which):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            return float(re.search(rf'stokehold_tenant_backup_{which}{{tenant="demo"}} (\S+)', answer.read().decode()).group(1))
    wait_for("the age is a metric", lambda: 0 <= metric("age_seconds") < 600)
    assert metric("bytes") > 0 and metric("duration_seconds") > 0 and metric("failed") == 0

    kept = there()
    place.rename(tmp_path / "away")
    wait_for("the failure is seen", lambda: "No such file" in d.ask("tenant", "show", "demo")["backupFailure"])
    assert any("no backup could be made" in p for p in d.status()["problems"])
    wait_for("the failure is a metric", lambda: metric("failed") == 1)
    (tmp_path / "away").rename(place)
    wait_for("it goes on", lambda: not d.ask("tenant", "show", "demo")["backupFailure"] and there()[-1] > kept[-1])
    # Half a file that a crash has left goes with the next good one.
    (place / "demo.20200101T000000Z.r1.stokearc.tmp").write_text("half")
    wait_for("it goes", lambda: not (place / "demo.20200101T000000Z.r1.stokearc.tmp").exists())
    last = there()[-1]
    d.restart()
    wait_for("another one is made", lambda: there()[-1] > last)
    # Without the setting none are.
    d.define("demo.yaml", "apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: demo}\n")
    wait_for("it is read", lambda: "backup" not in d.ask("tenant", "show", "demo")["source"] and not d.reload_errors())
    d.stokectl("tenant", "restore", "again", str(place / there()[-1]))
    assert etcdctl(d.endpoint("again"), "get", "/x", "--print-value-only").stdout.strip() == "1"


def test_one_of_several_daemons_makes_them(pool, tmp_path):
    """Not each its own; and another one goes on when that has gone."""
    place = tmp_path / "backups"
    place.mkdir()
    server = pool_server(pool, "PostgreSQL")
    text = DRIVERS["PostgreSQL"](pool, "a")[0] + "  system: true\n  default: true\n"
    text += ("---\napiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: demo}\nspec:\n"
             f"  backup: {{every: 1s, keep: 5, directory: {place}}}\n")
    with several(2, text) as found:
        started(found)
        for d in found:
            d.wait_tenant("demo")
        there = lambda: sorted(f.name for f in place.iterdir() if f.suffix == ".stokearc")  # noqa: E731
        wait_for("some are there", lambda: len(there()) == 5)
        makes = lambda d: bool(d.ask("tenant", "show", "demo")["lastBackup"])  # noqa: E731
        wait_for("one makes them", lambda: [makes(d) for d in found].count(True) == 1)
        first = next(d for d in found if makes(d))
        first.stop()
        last = there()[-1]
        wait_for("the other one goes on", lambda: there()[-1] > last, timeout=60)
        assert "backed up to" in next(d for d in found if d is not first).log()
    assert server


# ---- how much of it

@pytest.mark.long
def test_half_a_gigabyte_in_little_memory(pool):
    """A tenant of 500 MB is backed up, restored and cloned by a daemon whose memory does not grow with it."""
    with placed(pool, "SQLite", "PostgreSQL") as d:
        d.stop()
        (d.root / "stokehold.yaml").write_text("memory: 64Mi\n")
        d.start()
        endpoint = d.tenant("demo", "--datastore", "a", "--quota", "4Gi")
        for i in range(512):
            etcdctl(endpoint, "txn", stdin="\n" + "".join(f"put /{i}/{j} {os.urandom(65536).hex()}\n" for j in range(8)) + "\n\n")
        peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{d.process.pid}/status").read_text()).group(1)) // 1024  # noqa: E731
        d.restart()
        hash_kv(endpoint)
        before = peak()
        began = time.monotonic()
        made = backup(d, d.root / "file")
        print(f"backup: {made['bytes'] >> 20} MiB in {time.monotonic() - began:.1f} s, peak {before} -> {peak()} MiB")
        assert made["bytes"] >= 500 << 20
        began = time.monotonic()
        d.stokectl("tenant", "restore", "again", str(d.root / "file"), "--datastore", "b", "--quota", "4Gi")
        print(f"restore: in {time.monotonic() - began:.1f} s, peak {peak()} MiB")
        began = time.monotonic()
        d.stokectl("tenant", "clone", "demo", "copy", "--datastore", "b", "--quota", "4Gi")
        print(f"clone: in {time.monotonic() - began:.1f} s, peak {peak()} MiB")
        assert peak() < before + 150
        assert hash_kv(d.endpoint("again"))[0] == hash_kv(d.endpoint("copy"))[0] == hash_kv(endpoint)[0]
