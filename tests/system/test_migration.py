"""
A tenant moves between any two datastores while it is used: what its clients saw is recorded and checked, over the switch. If these fail, a platform
that moves a control plane loses writes, leases or watches, or has two truths.

DRIVERS has a line for each driver; the pairs follow by themselves.
"""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import threading
import time

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import servers
from conftest import Daemon, as_root, etcdctl, program, running, scratch, wait_for
from servers_mariadb import MariaDB
from test_history import recorded, span
from test_several_daemons import several, started
from test_sql_servers import datastore


# ---- datastores

def sqlite(_, name):
    return ("apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: %s}\nspec: {driver: SQLite, path: %s}\n" % (name, name)), None


def server(make, driver):
    def place(pool, name):
        key = (driver, name[-1])
        if key not in pool:
            pool[key] = make()
            pool[key].start()
        text = datastore(driver, [pool[key].endpoint], name).replace("  default: true\n", "")
        return text, pool[key]
    return place


DRIVERS = {
    "SQLite": sqlite,
    "PostgreSQL": server(servers.PostgreSQL, "PostgreSQL"),
    "MySQL": server(MariaDB, "MySQL"),
}
PAIRS = list(itertools.product(DRIVERS, DRIVERS))


@pytest.fixture(scope="module")
def pool():
    """Servers that were started, each kind once for sources and once for targets."""
    found = {}
    yield found
    for s in found.values():
        s.close()


def drop_all(pool_):
    for (driver, _), s in pool_.items():
        s.sql("DROP DATABASE IF EXISTS stokehold" + (" WITH (FORCE)" if driver == "PostgreSQL" else ""), check=False)


@contextlib.contextmanager
def placed(pool_, source, target, make=Daemon, **options):
    """A daemon with the datastores "a" and "b"; its registry is its own."""
    with running(make, **options) as d:
        for s in pool_.values():
            if s.process is None:
                s.start()
        drop_all(pool_)
        for name, driver in (("a", source), ("b", target)):
            d.define(f"{name}.yaml", DRIVERS[driver](pool_, name)[0])
        d.start()
        wait_for("both are ready", lambda: all(s["ready"] for s in d.ask("datastore", "list")["datastores"]))
        yield d


# ---- looking

def where(d, name="demo"):
    return d.ask("tenant", "show", name)["datastore"]


def migration(d, name="demo"):
    return d.ask("migration", "show", name)


def revision(endpoint):
    return int(re.search(r'"revision":(\d+)', etcdctl(endpoint, "get", "x", "-w", "json").stdout).group(1))


def hash_kv(endpoint, at=0):
    found = json.loads(etcdctl(endpoint, "endpoint", "hashkv", f"--rev={at}", "-w", "json").stdout)[0]["HashKV"]
    return found["hash"], found.get("compact_revision"), found["hash_revision"] if "hash_revision" in found else None


def cluster(endpoint):
    return json.loads(etcdctl(endpoint, "get", "x", "-w", "json").stdout)["header"]["cluster_id"]


def time_to_live(endpoint, lease):
    found = re.search(r"remaining\((-?\d+)s\)", etcdctl(endpoint, "lease", "timetolive", lease).stdout)
    return int(found.group(1)) if found else None


def migrate(d, to, *more, name="demo", check=True):
    return d.stokectl("tenant", "migrate", name, "--to", to, "--timeout", "80s", *more, check=check)


def fill(endpoint, n=300, size=200):
    for i in range(0, n, 50):
        puts = "".join(f"put /fill/{(i + j) % (n // 2)} {'v' * size}{i + j}\n" for j in range(50))
        etcdctl(endpoint, "txn", stdin=f"\n{puts}\n\n")


def failures(history):
    """The calls that were answered with an error that says nothing of what was done; not the one that was cut off at the end."""
    calls = json.loads(history.log.read_text())["Calls"]
    return [c["Error"] for c in calls if c["Outcome"] == "unknown" and "context canceled" not in c["Error"]]


class Watch:
    """One watch of etcdctl's, open from now on."""

    def __init__(self, endpoint, key):
        self.process = subprocess.Popen([program("etcdctl"), "--endpoints", endpoint, "watch", key, "--prefix"],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def values(self):
        return self.lines[2::3]

    def close(self):
        self.process.kill()
        self.process.wait()


# ---- moving

@pytest.mark.parametrize("source,target", PAIRS, ids=["-".join(p) for p in PAIRS])
def test_pair(pool, source, target, seed, request):
    """Under load: no request fails, the history is one, every event comes once; then, at rest, there and back: nothing has changed."""
    with placed(pool, source, target) as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        fill(endpoint)
        identity = cluster(endpoint)
        with recorded(d.root, seed, [endpoint], 200) as h:
            time.sleep(span(request, 1.5, 10))
            shown = json.loads(migrate(d, "b", "-o", "json").stdout)
            time.sleep(span(request, 1.5, 10))
        assert not failures(h), failures(h)[:5]
        assert shown["phase"] == "Done" and shown["ended"] and shown["from"] == "a" and shown["to"] == "b", shown
        assert 0 < shown["holdMs"] < 5000 and int(shown["records"]) > 0, shown
        assert where(d) == "b" and cluster(endpoint) == identity

        wait_for("the leases that the load left have ended", lambda: "found 0 leases" in etcdctl(endpoint, "lease", "list").stdout, 30)
        lease = etcdctl(endpoint, "lease", "grant", "300").stdout.split()[1]
        etcdctl(endpoint, "put", "held", "by a lease", f"--lease={lease}")
        time.sleep(2)
        watch = Watch(endpoint, "w")
        try:
            wait_for("it watches", lambda: etcdctl(endpoint, "put", "w0", "0") and "0" in watch.values())
            before, hashed = revision(endpoint), hash_kv(endpoint)
            migrate(d, "a")
            assert where(d) == "a" and revision(endpoint) == before and hash_kv(endpoint) == hashed
            assert 200 < time_to_live(endpoint, lease) <= 298
            assert cluster(endpoint) == identity
            etcdctl(endpoint, "put", "w1", "1")
            assert revision(endpoint) == before + 1
            wait_for("the watch goes on", lambda: watch.values()[-1:] == ["1"])
            assert watch.values().count("1") == 1 and watch.process.poll() is None
        finally:
            watch.close()
        d.restart()
        assert etcdctl(endpoint, "get", "w1", "--print-value-only").stdout == "1\n" and cluster(endpoint) == identity


def test_undo(pool):
    """Back to where it was, as long as nothing was written; the former data is there for that and goes when its time is over."""
    with placed(pool, "SQLite", "PostgreSQL") as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        fill(endpoint)
        before, hashed = revision(endpoint), hash_kv(endpoint)
        migrate(d, "b")
        shown = migration(d)
        assert shown["former"] == "a" and shown["formerUntil"], shown
        assert d.stokectl("datastore", "list").returncode == 0
        used = next(s for s in d.ask("datastore", "list")["datastores"] if s["name"] == "a")["usedBy"]
        assert used == ["demo"], used
        d.stokectl("migration", "undo", "demo")
        assert where(d) == "a" and revision(endpoint) == before and hash_kv(endpoint) == hashed
        etcdctl(endpoint, "put", "k", "v")
        wait_for("what was there is dropped", lambda: not pool[("PostgreSQL", "b")].sql(
            "SELECT name FROM stokehold.keyspaces WHERE name = 'demo'", database="stokehold"))
        again = d.stokectl("migration", "undo", "demo", check=False)
        assert again.returncode == 4 and "nothing to go back to" in again.stderr, again

        migrate(d, "b")
        etcdctl(endpoint, "put", "k", "newer")
        refused = d.stokectl("migration", "undo", "demo", check=False)
        assert refused.returncode == 1 and "would be lost" in refused.stderr, refused
        assert where(d) == "b" and etcdctl(endpoint, "get", "k", "--print-value-only").stdout == "newer\n"
        etcdctl(endpoint, "put", "k", "newest")
        assert etcdctl(endpoint, "get", "k", "--print-value-only").stdout == "newest\n"

        # Moved on with no retention: nothing is left behind, and the datastore can be removed.
        migrate(d, "a", "--retention", "0s")
        wait_for("it is dropped", lambda: not pool[("PostgreSQL", "b")].sql(
            "SELECT name FROM stokehold.keyspaces WHERE name = 'demo'", database="stokehold"))
        wait_for("it is used no more", lambda: not next(
            s for s in d.ask("datastore", "list")["datastores"] if s["name"] == "b")["usedBy"])
        d.undefine("b.yaml")
        assert d.reload_errors() == []
        assert etcdctl(endpoint, "get", "k", "--print-value-only").stdout == "newest\n"


def test_refusals(pool):
    """What cannot be is refused before anything is touched, with the reason."""
    with placed(pool, "SQLite", "SQLite") as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        for to, code, text in (("a", 4, "is on datastore a already"), ("nowhere", 3, "no such datastore")):
            refused = migrate(d, to, check=False)
            assert refused.returncode == code and text in refused.stderr, refused
        assert d.stokectl("tenant", "migrate", "nobody", "--to", "b", check=False).returncode == 3
        assert d.stokectl("tenant", "migrate", "demo", check=False).returncode == 2
        assert d.stokectl("migration", "abort", "demo", check=False).returncode == 4
        assert d.stokectl("migration", "undo", "demo", check=False).returncode == 4
        assert d.stokectl("migration", "show", "demo", check=False).returncode == 3
        d.define("c.yaml", datastore("PostgreSQL", ["127.0.0.1:1"], "c").replace("  default: true\n", ""))
        d.reload_errors()
        wait_for("it was dialled", lambda: any("datastore c" in p for p in d.status()["problems"]))
        refused = migrate(d, "c", check=False)
        assert refused.returncode == 4 and "not ready" in refused.stderr, refused
        assert "No tenant was moved" in d.stokectl("migration", "list").stdout
        etcdctl(endpoint, "put", "k", "v")


def test_definition(pool):
    """A definition that names another datastore moves the tenant there; an operator cannot undo what a file says."""
    tenant = "apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: filed}\nspec: {datastore: %s}\n"
    with placed(pool, "SQLite", "SQLite") as d:
        d.define("t.yaml", tenant % "a")
        assert d.reload_errors() == []
        endpoint = d.wait_tenant("filed")
        fill(endpoint)
        before = hash_kv(endpoint)
        refused = migrate(d, "b", name="filed", check=False)
        assert refused.returncode == 4 and "change it there" in refused.stderr, refused
        d.define("t.yaml", tenant % "b")
        assert d.reload_errors() == []
        wait_for("it has moved", lambda: where(d, "filed") == "b" and migration(d, "filed")["phase"] == "Done")
        assert hash_kv(endpoint) == before
        refused = d.stokectl("migration", "undo", "filed", check=False)
        assert refused.returncode == 4 and "change it there" in refused.stderr, refused
        d.restart()
        assert where(d, "filed") == "b" and hash_kv(endpoint) == before


def test_abort_and_join(pool):
    """One that is under way: another who asks for the same joins it, another place is refused, and it can be given up; nothing is left of it."""
    with running() as d:
        (d.root / "stokehold.yaml").write_text("migration: {bandwidth: 64Ki}\n")
        for name in "ab":
            d.define(f"{name}.yaml", sqlite(None, name)[0])
        d.start()
        endpoint = d.tenant("demo", "--datastore", "a")
        fill(endpoint, 2000, 2000)
        migrate(d, "b", "--detach")
        wait_for("it copies", lambda: migration(d)["phase"] == "Copying" and int(migration(d)["bytes"]) > 0)
        shown = d.stokectl("migration", "list").stdout
        assert re.search(r"demo +a +b +Copying", shown), shown
        refused = migrate(d, "embedded", check=False)
        assert refused.returncode == 4 and "is being moved to datastore b" in refused.stderr, refused
        joined = subprocess.Popen([program("stokectl"), "--root", str(d.root), "tenant", "migrate", "demo", "--to", "b"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        detached = subprocess.Popen([program("stokectl"), "--root", str(d.root), "tenant", "migrate", "demo", "--to", "b"],
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(1.5)
        detached.send_signal(signal.SIGINT)
        assert "goes on by itself" in detached.communicate(timeout=20)[1]
        etcdctl(endpoint, "put", "k", "v")
        d.stokectl("migration", "abort", "demo")
        _, errors = joined.communicate(timeout=20)
        assert joined.returncode == 1 and "aborted by request" in errors and "Copying" in errors, errors
        assert where(d) == "a" and migration(d)["phase"] == "Failed"
        etcdctl(endpoint, "put", "k", "v2")
        assert [p for p in (d.root / "state" / "datastores").rglob("demo*") if "/b/" in str(p) and p.suffix == ".db"] == []
        (d.root / "stokehold.yaml").write_text("migration: {bandwidth: 0}\n")
        assert d.reload_errors() == []
        migrate(d, "b")
        assert where(d) == "b" and etcdctl(endpoint, "get", "k", "--print-value-only").stdout == "v2\n"


def test_deleted_meanwhile(pool):
    """A tenant that is deleted while it moves is gone, at both places; and one that has moved takes its former data along."""
    with running() as d:
        (d.root / "stokehold.yaml").write_text("migration: {bandwidth: 64Ki}\n")
        for name in "ab":
            d.define(f"{name}.yaml", sqlite(None, name)[0])
        d.start()

        def files():
            return [p.name for p in d.root.rglob("*") if p.name.startswith(("demo", "small")) and p.suffix == ".db"]
        fill(d.tenant("demo", "--datastore", "a"), 1000, 2000)
        migrate(d, "b", "--detach")
        wait_for("it copies", lambda: int(migration(d)["bytes"]) > 0)
        d.stokectl("tenant", "delete", "demo", "--yes")
        assert files() == [] and d.ask("tenant", "list")["tenants"] == []
        fill(d.tenant("small", "--datastore", "a"), 100, 10)
        migrate(d, "b", name="small")
        assert len(files()) == 2
        d.stokectl("tenant", "delete", "small", "--yes")
        assert files() == [], files()


def test_target_goes_away(pool):
    """A target that dies while it is copied to: the migration fails with the reason, the tenant never notices, and what is left there goes later."""
    with placed(pool, "SQLite", "PostgreSQL") as d:
        (d.root / "stokehold.yaml").write_text("migration: {bandwidth: 256Ki}\n")
        d.reload_errors()
        endpoint = d.tenant("demo", "--datastore", "a")
        fill(endpoint, 2000, 2000)
        migrate(d, "b", "--detach")
        wait_for("it copies", lambda: int(migration(d)["bytes"]) > 0)
        target = pool[("PostgreSQL", "b")]
        target.kill()
        wait_for("it is given up", lambda: migration(d)["phase"] in ("Aborting", "Failed"), 60)
        assert "datastore b" in migration(d)["reason"] or "copying" in migration(d)["reason"], migration(d)
        etcdctl(endpoint, "put", "k", "v")
        assert where(d) == "a"
        target.start()
        wait_for("it is cleaned up", lambda: migration(d)["phase"] == "Failed", 90)
        assert target.sql("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'demo-%'", database="stokehold") == ["0"]
        etcdctl(endpoint, "put", "k", "v2")


def test_target_is_full():
    """A target that has no room: the migration fails with that reason, before any client has waited, and goes when there is room."""
    with scratch() as place:
        subprocess.run(as_root("mount", "-t", "tmpfs", "-o", f"size=1m,uid={os.geteuid()},mode=700", "none", str(place)), check=True)
        try:
            with running() as d:
                d.define("a.yaml", sqlite(None, "a")[0])
                d.define("b.yaml", sqlite(None, "b")[0].replace("path: b", f"path: {place}"))
                d.start()
                endpoint = d.tenant("demo", "--datastore", "a")
                fill(endpoint, 2000, 2000)
                refused = migrate(d, "b", check=False)
                assert refused.returncode == 1 and re.search("full|space", refused.stderr), refused
                assert where(d) == "a" and migration(d)["holdMs"] == 0
                etcdctl(endpoint, "put", "k", "v")
                subprocess.run(as_root("mount", "-o", "remount,size=64m", str(place)), check=True)
                wait_for("nothing is left", lambda: migration(d)["phase"] == "Failed", 90)
                migrate(d, "b")
                assert where(d) == "b" and etcdctl(endpoint, "get", "k", "--print-value-only").stdout == "v\n"
                d.stop()
        finally:
            subprocess.run(as_root("umount", str(place)), check=True)


def test_record_is_too_large():
    """A value that the target's server would not take is told before any client has waited."""
    with running() as d, MariaDB(settings={"max_allowed_packet": "1M"}) as small:
        d.define("a.yaml", sqlite(None, "a")[0])
        d.define("b.yaml", datastore("MySQL", [small.endpoint], "b").replace("  default: true\n", ""))
        d.start()
        wait_for("both are ready", lambda: all(s["ready"] for s in d.ask("datastore", "list")["datastores"]))
        endpoint = d.tenant("demo", "--datastore", "a")
        etcdctl(endpoint, "put", "large", stdin="v" * 1_400_000)
        refused = migrate(d, "b", check=False)
        assert refused.returncode == 1 and re.search(
            r"datastore b: record \d+ has 1400005 bytes, more than the target takes", refused.stderr), refused
        assert where(d) == "a" and migration(d)["holdMs"] == 0
        etcdctl(endpoint, "del", "large")
        etcdctl(endpoint, "put", "k", "v")


def test_asked_again(pool):
    """An idempotency key: who has lost the answer asks again, and is told what became of the first."""
    with placed(pool, "SQLite", "SQLite") as d:
        fill(d.tenant("demo", "--datastore", "a"))
        with grpc.insecure_channel(f"unix:{d.control_socket}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            symbols = descriptor_pool.DescriptorPool(database)
            method = symbols.FindServiceByName("stokehold.control.v1.Control").methods_by_name["MigrateTenant"]
            request, answer = (message_factory.GetMessageClass(m) for m in (method.input_type, method.output_type))
            call = channel.unary_stream("/stokehold.control.v1.Control/MigrateTenant", request_serializer=request.SerializeToString,
                                        response_deserializer=answer.FromString)
            asked = request(name="demo", datastore="b", idempotency_key="k")
            first = list(call(asked))[-1]
            assert first.ended and first.phase == "Done" and first.hold_ms > 0, first
            again = list(call(asked))
            assert len(again) == 1 and again[0].id == first.id
            with pytest.raises(grpc.RpcError) as error:
                list(call(request(name="demo", datastore="a", idempotency_key="k")))
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# ---- crashes

POINTS = ["copying", "sealing", "committed", "switch", "switching"]
UNDOING = ["abort", "unseal", "cleared"]


class Points(Daemon):
    """Dies or stops where STOKEHOLD_TEST_POINT says."""

    def __init__(self, root, **options):
        super().__init__(root, executable="stokehold-points", **options)

    def at(self, point):
        self.environment = {"STOKEHOLD_TEST_POINT": point} if point else {}


@pytest.mark.sample(4)
@pytest.mark.parametrize("point", POINTS + UNDOING + ["former"])
def test_killed_at(pool, point, seed):
    """kill -9 of the daemon at each step: it ends in exactly one place by itself, what was acknowledged is there, and clients go on."""
    with placed(pool, "SQLite", "PostgreSQL", make=Points) as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        fill(endpoint)
        if point in UNDOING:
            (d.root / "stokehold.yaml").write_text("migration: {bandwidth: 32Ki}\n")
            fill(endpoint, 500, 2000)
        d.stop()
        d.at(f"{point}=kill")
        d.start()
        with recorded(d.root, seed, [endpoint], 50) as h:
            time.sleep(0.5)
            asked = subprocess.Popen(
                [program("stokectl"), "--root", str(d.root), "tenant", "migrate", "demo", "--to", "b", "--retention", "0s"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if point in UNDOING:
                wait_for("it copies", lambda: int(migration(d)["bytes"]) > 0)
                d.stokectl("migration", "abort", "demo", check=False)
            d.process.wait(30)
            assert d.process.returncode == -signal.SIGKILL
            d.process = None
            asked.communicate(timeout=20)
            h.dead()
            d.at(None)
            d.start()
            moved = point in ("switching", "former")
            wait_for("it has ended", lambda: migration(d)["ended"], 30)
            assert where(d) == ("b" if moved else "a"), migration(d)
            time.sleep(1)
        wait_for("nothing is left where it is not", lambda: d.ask("datastore", "list")["datastores"] and len(
            [s for s in d.ask("datastore", "list")["datastores"] if "demo" in s["usedBy"]]) == 1, 30)
        tables = pool[("PostgreSQL", "b")].sql("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'demo-%'", database="stokehold")
        assert tables == (["1"] if moved else ["0"])
        etcdctl(endpoint, "put", "k", "v")
        migrate(d, "a" if moved else "b")
        assert etcdctl(endpoint, "get", "k", "--print-value-only").stdout == "v\n"


def shared(pool_, **options):
    """Two daemons, the registry and "a" in one PostgreSQL, "b" in another, which are new."""
    a, b = DRIVERS["PostgreSQL"](pool_, "a")[0], DRIVERS["PostgreSQL"](pool_, "b")[0]
    drop_all(pool_)
    return several(2, a.replace("spec:\n", "spec:\n  system: true\n  default: true\n") + "---\n" + b, **options)


def ready(found):
    for d in found:
        wait_for("both are ready", lambda d=d: all(s["ready"] for s in d.ask("datastore", "list")["datastores"]))
        wait_for("they know each other", lambda d=d: len(d.status()["daemons"]) == 2)


def test_two_daemons(pool, seed, request):
    """Both serve the tenant, one of them moves it: the clients of both go on, in the new place, as if nothing had been."""
    with shared(pool) as found:
        a, b = started(found)
        ready(found)
        endpoints = [a.tenant("demo"), b.wait_tenant("demo")]
        fill(endpoints[0])
        with recorded(a.root, seed, endpoints, 100) as h:
            time.sleep(span(request, 1, 10))
            migrate(b, "b")
            time.sleep(span(request, 1, 10))
        assert not failures(h), failures(h)[:5]
        for d in found:
            assert where(d) == "b"
        for i, e in enumerate(endpoints):
            etcdctl(e, "put", f"k{i}", f"{i}")
        for e in endpoints:
            assert etcdctl(e, "get", "k", "--prefix", "--print-value-only").stdout.split() == ["0", "1"]


def test_paused_daemon(pool, seed):
    """One daemon stands still from before the seal until after the switch: what its clients ask then is answered from the new place, or not at all."""
    with shared(pool) as found:
        a, b = started(found)
        ready(found)
        endpoints = [a.tenant("demo"), b.wait_tenant("demo")]
        fill(endpoints[0])
        with recorded(a.root, seed, endpoints, 50):
            time.sleep(1)
            b.process.send_signal(signal.SIGSTOP)
            try:
                migrate(a, "b")
                time.sleep(0.5)
            finally:
                b.process.send_signal(signal.SIGCONT)
            time.sleep(1.5)
        assert where(b) == "b"
        # And with nobody else who would have told it.
        etcdctl(endpoints[1], "put", "x", "old")
        b.process.send_signal(signal.SIGSTOP)
        try:
            migrate(a, "a")
            etcdctl(endpoints[0], "put", "x", "new")
        finally:
            b.process.send_signal(signal.SIGCONT)
        assert etcdctl(endpoints[1], "get", "x", "--print-value-only").stdout == "new\n"
        etcdctl(endpoints[1], "put", "y", "1")
        assert etcdctl(endpoints[0], "get", "y", "--print-value-only").stdout == "1\n"


@pytest.mark.sample(2)
@pytest.mark.parametrize("point", ["sealing", "committed", "switch", "switching", "unseal"])
def test_taken_over(pool, point, seed):
    """The daemon that moves a tenant is killed and stays away: another undoes it, or finds it done, and serves."""
    with shared(pool, make=Points) as found:
        a, b = found
        a.at(f"{point}=kill")
        if point == "unseal":
            for d in found:
                (d.root / "stokehold.yaml").write_text("migration: {bandwidth: 32Ki}\n")
        started(found)
        ready(found)
        a.tenant("demo")
        endpoint = b.wait_tenant("demo")
        fill(endpoint, 500, 1000)
        with recorded(b.root, seed, [endpoint], 30):
            asked = subprocess.Popen([program("stokectl"), "--root", str(a.root), "tenant", "migrate", "demo", "--to", "b"],
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if point == "unseal":
                wait_for("it copies", lambda: int(migration(a)["bytes"]) > 0)
                a.stokectl("migration", "abort", "demo", check=False)
            a.process.wait(60)
            a.process = None
            asked.communicate(timeout=20)
            wait_for("it has ended", lambda: migration(b)["ended"], 90)
            wait_for("it is served", lambda: etcdctl(endpoint, "get", "k", check=False).returncode == 0, 30)
            time.sleep(0.5)
        assert where(b) == ("b" if point == "switching" else "a")
        etcdctl(endpoint, "put", "k", "v")
        (b.root / "stokehold.yaml").write_text("migration: {bandwidth: 0}\n")
        b.reload_errors()
        migrate(b, "a" if point == "switching" else "b")
        assert etcdctl(endpoint, "get", "k", "--print-value-only").stdout == "v\n"


@pytest.mark.sample(1)
@pytest.mark.parametrize("point", ["sealing", "committed", "switch"])
def test_stopped_owner(pool, point, seed):
    """The daemon that moves a tenant stands still between seal and switch until another has undone that: it may not go on where it was."""
    with shared(pool, make=Points) as found:
        a, b = found
        a.at(f"{point}=stop")
        started(found)
        ready(found)
        a.tenant("demo")
        endpoint = b.wait_tenant("demo")
        fill(endpoint)
        with recorded(b.root, seed, [endpoint], 30):
            asked = subprocess.Popen([program("stokectl"), "--root", str(a.root), "tenant", "migrate", "demo", "--to", "b"],
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                wait_for("it stands", lambda: "T (stopped)" in open(f"/proc/{a.process.pid}/status").read(), 60)
                wait_for("it was undone", lambda: migration(b)["ended"], 90)
                wait_for("it is served", lambda: etcdctl(endpoint, "get", "k", check=False).returncode == 0, 30)
            finally:
                a.process.send_signal(signal.SIGCONT)
            asked.communicate(timeout=60)
            time.sleep(0.5)
        for d in found:
            assert where(d) == "a" and migration(d)["phase"] == "Failed"
        etcdctl(a.endpoint("demo"), "put", "x", "both")
        assert etcdctl(endpoint, "get", "x", "--print-value-only").stdout == "both\n"


def test_servers_die(pool, seed, request):
    """Source or target killed at any moment of a migration, again and again: nothing acknowledged is lost, and it ends in one place."""
    dice = random.Random(seed)
    with placed(pool, "PostgreSQL", "MySQL") as d:
        endpoint = d.tenant("demo", "--datastore", "a")
        fill(endpoint, 1000, 1000)
        both = [pool[("PostgreSQL", "a")], pool[("MySQL", "b")]]
        with recorded(d.root, seed, [endpoint], 50):
            for _ in range(span(request, 2, 20)):
                at = where(d)
                to = "b" if at == "a" else "a"
                migrate(d, to, "--detach", check=False)
                time.sleep(dice.uniform(0, 1.5))
                victim = dice.choice(both)
                victim.kill()
                time.sleep(dice.uniform(0, 2))
                victim.start()
                wait_for("all is well", lambda: migration(d)["ended"] and all(
                    s["ready"] for s in d.ask("datastore", "list")["datastores"]), 120)
                wait_for("it is served", lambda: etcdctl(endpoint, "get", "k", check=False).returncode == 0, 60)
        migrate(d, "a" if where(d) == "b" else "b")


def test_dedicated_credentials(pool):
    """Where each tenant has a database and a user of its own, these are made at the target, and gone from the source."""
    with running() as d, contextlib.ExitStack() as stack:
        found = {}
        for name, driver, make in (("a", "PostgreSQL", servers.PostgreSQL), ("b", "MySQL", MariaDB)):
            found[name] = stack.enter_context(make())
            d.define(f"{name}.yaml", datastore(driver, [found[name].endpoint], name, more="  credentials: Dedicated\n").replace(
                "  default: true\n", ""))
        d.start()
        wait_for("both are ready", lambda: all(s["ready"] for s in d.ask("datastore", "list")["datastores"]))

        def databases(name):
            if name == "a":
                return len(found["a"].sql("SELECT datname FROM pg_database WHERE datname ~ '^[0-9a-f]{8}-'"))
            return len([x for x in found["b"].sql("SHOW DATABASES") if re.match(r"[0-9a-f]{32}$|[0-9a-f]{8}-", x)])
        endpoint = d.tenant("demo", "--datastore", "a")
        base = databases("a"), databases("b")
        fill(endpoint)
        before = hash_kv(endpoint)
        migrate(d, "b", "--retention", "0s")
        assert hash_kv(endpoint) == before and databases("b") == base[1] + 1
        wait_for("nothing is left there", lambda: databases("a") == base[0] - 1)
        etcdctl(endpoint, "put", "k", "v")
        migrate(d, "a", "--retention", "0s")
        assert etcdctl(endpoint, "get", "k", "--print-value-only").stdout == "v\n"
        wait_for("nothing is left there", lambda: databases("b") == base[1])


def test_many_at_once(pool):
    """Several at once share the bandwidth and wait for their turn, and all arrive."""
    with running() as d:
        (d.root / "stokehold.yaml").write_text("migration: {bandwidth: 1Mi, parallel: 2}\n")
        for name in "ab":
            d.define(f"{name}.yaml", sqlite(None, name)[0])
        d.start()
        names = [f"t{i}" for i in range(5)]
        for n in names:
            fill(d.tenant(n, "--datastore", "a"), 200, 1000)
        for n in names:
            migrate(d, "b", "--detach", name=n)
        wait_for("some wait", lambda: any(m["step"] == "waiting for its turn" for m in d.ask("migration", "list")["migrations"]))
        wait_for("all have arrived", lambda: all(where(d, n) == "b" for n in names), 60)
        assert all(m["phase"] == "Done" for m in d.ask("migration", "list")["migrations"])
