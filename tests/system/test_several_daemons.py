"""
Several daemons on one real PostgreSQL, with no configuration that names the others: tenants that are made, served, deleted by any of them, also when one
is killed in the middle; which registry governs a datastore; definitions that differ; the upgrade to a new format; and the copy that serves while
the registry is away. If these fail, two daemons hold two truths, or a platform's tenants are gone with one host.
"""

import concurrent.futures
import contextlib
import random
import re
import signal
import subprocess
import time

import pytest

import servers
from conftest import etcdctl, program, running, wait_for
from test_history import span
from test_sql_servers import datastore, server_of

TENANT = "apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: %s}\nspec: {quota: %s}\n"
LOCAL = "---\napiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: local}\nspec: {driver: SQLite}\n"


def shared(server, more="", spec=""):
    return datastore(server.driver, [server.endpoint], more="  system: true\n" + spec) + more


@contextlib.contextmanager
def several(n, text, **options):
    """So many daemons with the same definitions, not started."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(running(**options)) for _ in range(n)]
        for d in found:
            d.define("datastores.yaml", text)
        yield found


def started(found):
    """All at the same moment."""
    for d in found:
        d.start(wait=False)
    for d in found:
        d.wait_ready()
    return found


def stored(server, text):
    return server.sql(text, **({"database": "stokehold"} if server.driver == "PostgreSQL" else {}))


def keyspaces(server):
    """The names of the keyspaces that the database holds."""
    return sorted(stored(server, "SELECT name FROM stokehold.keyspaces"))


def tenants(d):
    return {t["name"]: t for t in d.ask("tenant", "list")["tenants"]}


def problems(d):
    return "\n".join(d.status()["problems"])


def has_no_noise(found):
    for d in found:
        assert "HistoryLost" not in d.log() and "history was lost" not in d.log(), d.log()[-4000:]


@pytest.fixture(scope="module", params=["PostgreSQL", "MySQL"])
def database(request):
    with server_of(request.param) as server:
        server.driver = request.param
        yield server


@pytest.fixture
def server(database):
    """The one server of its kind of this file, empty."""
    yield database
    database.sql("DROP DATABASE IF EXISTS stokehold" + (" WITH (FORCE)" if database.driver == "PostgreSQL" else ""))


@pytest.fixture
def postgresql():
    """One of the test's own."""
    with servers.PostgreSQL() as server:
        server.driver = "PostgreSQL"
        yield server


@pytest.mark.sample(1)
def test_started_at_the_same_moment(server):
    """Daemons that find an empty database together make one registry, whoever is first; what one makes all serve."""
    with several(3, shared(server)) as found:
        started(found)
        assert len({d.status()["registry"] for d in found}) == 1
        assert keyspaces(server).count("registry") == 1, keyspaces(server)
        wait_for("they know each other", lambda: all(len(d.status()["daemons"]) == 3 for d in found))
        endpoints = [found[0].tenant("demo")] + [d.wait_tenant("demo") for d in found[1:]]
        for i, e in enumerate(endpoints):
            etcdctl(e, "put", f"k{i}", f"{i}")
        for e in endpoints:
            assert etcdctl(e, "get", "k", "--prefix", "--print-value-only").stdout.split() == ["0", "1", "2"]
        shown = found[0].stokectl("status").stdout
        assert "shared" in shown and shown.count("this one") == 1 and len(re.findall(r" 0\.1\.0 ", shown)) == 3, shown
        # One that leaves is missed at once, one that is killed after half a minute.
        found[2].stop()
        wait_for("it has left", lambda: len(found[0].status()["daemons"]) == 2, 5)
        found[1].kill()
        wait_for("its lease has ended", lambda: len(found[0].status()["daemons"]) == 1, 60)
        assert found[0].stokectl("tenant", "create", "more").returncode == 0
        found[1].start()
        found[2].start()
        assert set(tenants(found[1])) == set(tenants(found[2])) == {"demo", "more"}


def test_deleted_under_clients(server):
    """A tenant that is deleted through one daemon while clients hold on to it at another: they are told that it is away, and nobody calls it lost."""
    with several(2, shared(server)) as found:
        started(found)
        for round_ in range(2):
            here = found[0].tenant("demo")
            there = found[1].wait_tenant("demo")
            etcdctl(there, "put", "k", "v")
            loop = subprocess.Popen([program("client"), "put-loop", there, "w", "30"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            watch = subprocess.Popen([program("etcdctl"), "--endpoints", there, "watch", "k", "--prefix"], stdout=subprocess.PIPE, text=True)
            try:
                wait_for("it writes", lambda: "/loop/w" in etcdctl(here, "get", "/loop/w", "--prefix", "--keys-only", "--limit=1").stdout)
                found[round_ % 2].stokectl("tenant", "delete", "demo", "--yes")
                wait_for("both have forgotten it", lambda: not tenants(found[0]) and not tenants(found[1]))
                assert "demo" not in keyspaces(server)
                assert etcdctl(there, "get", "k", check=False, timeout=30).returncode != 0
            finally:
                for p in (loop, watch):
                    p.kill()
                    assert "corrupt" not in (p.communicate()[1] or "")
        has_no_noise(found)


def test_killed_in_between(server, seed, request):
    """Tenants come and go while daemons are killed at random: whatever was begun is finished by another, and the database holds what is listed."""
    dice = random.Random(seed)
    wanted = {}
    with several(3, shared(server)) as found, concurrent.futures.ThreadPoolExecutor(4) as pool:
        started(found)

        def change(name):
            d = dice.choice(found)
            if wanted.get(name):
                result = d.stokectl("tenant", "delete", name, "--yes", "--timeout", "10s", check=False)
            else:
                result = d.stokectl("tenant", "create", name, "--timeout", "10s", check=False)
            return name, result

        for _ in range(span(request, 6, 40)):
            names = dice.sample([f"t{i}" for i in range(8)], 4)
            futures = [pool.submit(change, n) for n in names]
            time.sleep(dice.uniform(0, 0.4))
            victim = dice.choice(found)
            victim.kill()
            time.sleep(dice.uniform(0, 1))
            for f in futures:
                name, result = f.result()
                wanted[name] = None if result.returncode not in (0, 3, 4) else name in tenants(next(d for d in found if d is not victim))
            victim.start()

        def settled():
            lists = [tenants(d) for d in found]
            assert all(t["phase"] == "Ready" for one in lists for t in one.values()), lists
            assert all({n: t["incarnation"] for n, t in one.items()} == {n: t["incarnation"] for n, t in lists[0].items()} for one in lists), lists
            held = [k for k in keyspaces(server) if re.fullmatch(r"t\d", k)]
            assert sorted(held) == sorted(lists[0]), (held, sorted(lists[0]))
            return True
        wait_for("all agree with each other and with the database", settled, 60, 0.3)
        for name in tenants(found[0]):
            etcdctl(found[0].endpoint(name), "put", "k", name)
            for d in found:
                assert etcdctl(d.endpoint(name), "get", "k", "--print-value-only").stdout.strip() == name
        has_no_noise(found)


def test_other_registry_is_refused(server):
    """Two platforms on one database by mistake: the second serves nothing there until somebody says that it shall."""
    with several(2, shared(server)) as (a, a2), several(1, datastore(server.driver, [server.endpoint])) as (b,):
        started([a, a2])
        a.tenant("demo")
        a2.wait_tenant("demo")
        b.start()
        wait_for("it has looked", lambda: "GovernedByAnotherRegistry" in problems(b))
        refused = b.stokectl("tenant", "create", "theirs", check=False)
        assert refused.returncode == 4 and "governed by another registry" in refused.stderr, refused
        shown = b.ask("datastore", "show", "shared")
        assert not shown["ready"] and shown["conditions"][0]["reason"] == "GovernedByAnotherRegistry", shown
        assert "stokectl datastore claim shared" in problems(b)
        assert b.stokectl("datastore", "claim", "nowhere", check=False).returncode == 3
        assert b.stokectl("datastore", "claim", "embedded", check=False).returncode == 2
        assert b.stokectl("datastore", "claim", "shared").stdout == "Datastore shared is governed by this registry.\n"
        assert "claim datastore \"shared\"" in b.log()
        etcdctl(b.tenant("theirs"), "put", "k", "v")
        for d in (a, a2):
            d.stokectl("datastore", "check", "shared")
            wait_for("it serves nothing there", lambda d=d: "governed by another registry" in tenants(d)["demo"]["reason"])
        a.stokectl("datastore", "claim", "shared")
        for d in (a, a2):
            d.stokectl("datastore", "check", "shared")
            etcdctl(d.wait_tenant("demo"), "put", "k", "v")


def test_definitions_differ(server):
    """Hosts whose files say different things: what is in force stays, each says in which objects, and an operator decides."""
    with several(2, shared(server)) as (a, b):
        for d in (a, b):
            d.define("t.yaml", TENANT % ("filed", "1Gi"))
        started([a, b])
        assert a.status()["definitionsGeneration"] == b.status()["definitionsGeneration"] == 1
        assert a.wait_tenant("filed") and b.wait_tenant("filed")
        a.define("u.yaml", TENANT % ("more", "1Gi"))
        assert a.reload_errors() == []
        assert a.status()["definitionsGeneration"] == 2
        b.wait_tenant("more")
        wait_for("it is told", lambda: 'Tenant "more": is in force, and in no file here' in problems(b))
        b.define("t.yaml", TENANT % ("filed", "2Gi"))
        errors = b.reload_errors()
        assert 'Tenant "filed": says something else here than what is in force' in errors, errors
        assert tenants(a)["filed"]["quotaBytes"] == tenants(b)["filed"]["quotaBytes"] == 1 << 30
        result = b.stokectl("reload", "--enforce")
        assert result.stdout == "Reloaded.\n"
        wait_for("the one of a is gone", lambda: "more" not in tenants(a) and "more" not in tenants(b))
        assert tenants(b)["filed"]["quotaBytes"] == 2 << 30
        assert 'Tenant "filed"' in problems(a) and not problems(b)
        a.undefine("u.yaml")
        a.define("t.yaml", TENANT % ("filed", "2Gi"))
        assert a.reload_errors() == []
        assert tenants(a)["filed"]["quotaBytes"] == 2 << 30
        # After a restart of all, the files hold as they are.
        for d in (a, b):
            d.stop()
        started([a, b])
        assert not problems(a) and not problems(b) and a.status()["definitionsGeneration"] == 3


def test_upgrade(server):
    """Daemons of two versions side by side; what is new is used when the last old one has gone, and it cannot come back."""
    with several(1, shared(server)) as (old,), several(1, shared(server), executable="stokehold-next") as (new,):
        old.start()
        old.tenant("demo")
        new.start()
        etcdctl(new.wait_tenant("demo"), "put", "k", "v")
        assert etcdctl(old.endpoint(), "get", "k", "--print-value-only").stdout == "v\n"
        assert (new.status()["format"], new.status()["currentFormat"]) == (1, 2)
        assert "2 after stokectl upgrade finalize" in new.stokectl("status").stdout
        refused = new.stokectl("upgrade", "finalize", check=False)
        assert refused.returncode == 4 and "cannot do format 2" in refused.stderr and "0.1.0" in refused.stderr, refused
        old.stop()
        wait_for("it has left", lambda: len(new.status()["daemons"]) == 1)
        assert new.stokectl("upgrade", "finalize").stdout == "Format 2 is in use.\n"
        assert new.status()["format"] == 2
        old.start(wait=False)
        wait_for("it says why not", lambda: "the format in use is 2, and this version reads and writes 1 to 1" in problems(old))
        assert etcdctl(old.endpoint(), "get", "k", check=False, timeout=20).returncode != 0
        assert old.stokectl("tenant", "create", "x", check=False).returncode == 4
        etcdctl(new.endpoint(), "put", "k", "w")
        new.restart()
        assert etcdctl(new.endpoint(), "get", "k", "--print-value-only").stdout == "w\n"


def test_dedicated_credentials(postgresql):
    """Where each tenant has a database and a user of its own, the daemons' own keyspaces are found by all daemons as well."""
    with several(2, shared(postgresql, spec="  credentials: Dedicated\n")) as found:
        started(found)
        assert len({d.status()["registry"] for d in found}) == 1
        endpoints = [found[0].tenant("demo"), found[1].wait_tenant("demo")]
        etcdctl(endpoints[0], "put", "k", "v")
        assert etcdctl(endpoints[1], "get", "k", "--print-value-only").stdout == "v\n"
        found[0].restart()
        found[1].stokectl("tenant", "delete", "demo", "--yes")
        wait_for("both have forgotten it", lambda: not tenants(found[0]) and not tenants(found[1]))
        has_no_noise(found)


def test_registry_away(postgresql):
    """The database with the registry is down when a host boots: what does not live there is served from the copy, nothing is changed, and all is as it
    should be when the database is back."""
    with several(1, shared(postgresql, LOCAL)) as (d,):
        d.start()
        local = d.tenant("here", "--datastore", "local")
        etcdctl(local, "put", "k", "v")
        etcdctl(d.tenant("there"), "put", "k", "v")
        d.stop()
        assert (d.root / "state" / "registry-copy.json").stat().st_mode & 0o777 == 0o600
        assert "secret" not in (d.root / "state" / "registry-copy.json").read_text()
        postgresql.kill()
        try:
            d.start()
            assert etcdctl(local, "get", "k", "--print-value-only").stdout == "v\n"
            assert "served as its copy" in problems(d) and "registry's copy" in d.stokectl("status").stdout
            refused = d.stokectl("tenant", "create", "new", "--datastore", "local", check=False)
            assert refused.returncode == 6 and "registry is not open" in refused.stderr, refused
            assert d.stokectl("tenant", "delete", "here", "--yes", check=False).returncode == 6
        finally:
            postgresql.start()
        wait_for("all is well", lambda: not problems(d), 40)
        assert etcdctl(d.endpoint("there"), "get", "k", "--print-value-only").stdout == "v\n"
        assert d.tenant("new", "--datastore", "local")
        assert etcdctl(local, "get", "k", "--print-value-only").stdout == "v\n"


def test_registry_gone_back(postgresql):
    """An old backup of the registry is restored: tenants that it does not know are not made anew, empty, before somebody has said so."""
    with several(1, shared(postgresql)) as (d,):
        d.start()
        etcdctl(d.tenant("early"), "put", "k", "v")
        table = postgresql.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'stokehold' AND tablename LIKE 'registry-%'", database="stokehold")[0]
        end = int(postgresql.sql(f'SELECT max(seq) FROM stokehold."{table}"', database="stokehold")[0])
        d.define("t.yaml", TENANT % ("filed", "1Gi"))
        assert d.reload_errors() == []
        etcdctl(d.wait_tenant("filed"), "put", "k", "v")
        before = tenants(d)["filed"]["incarnation"]
        time.sleep(6)  # what is known is written down every few seconds
        for running_ in (True, False):
            if not running_:
                d.stop()
            postgresql.sql(f'DELETE FROM stokehold."{table}" WHERE seq > {end}', database="stokehold")
            if not running_:
                d.start()
            wait_for("it is noticed", lambda: "registry:" in problems(d) and "nothing can be changed" in problems(d), 30)
            assert etcdctl(d.endpoint("filed"), "get", "k", "--print-value-only").stdout == "v\n"
            assert tenants(d)["filed"]["incarnation"] == before
            assert d.stokectl("tenant", "create", "x", check=False).returncode == 6
        assert d.stokectl("registry", "recover", check=False).returncode == 2
        d.stokectl("registry", "recover", "--accept-loss")
        wait_for("the definition's tenant is made anew", lambda: tenants(d)["filed"]["incarnation"] != before and tenants(d)["filed"]["phase"] == "Ready")
        assert etcdctl(d.endpoint("filed"), "get", "k", "--print-value-only").stdout == ""
        assert etcdctl(d.endpoint("early"), "get", "k", "--print-value-only").stdout == "v\n"
        assert d.stokectl("registry", "recover", "--accept-loss", check=False).returncode == 4


@pytest.mark.long
def test_away_longer_than_its_lease(postgresql):
    """A daemon that stood still for a minute is dead to the others, and one of them again when it moves; what was deleted meanwhile it serves no more."""
    with several(2, shared(postgresql)) as (a, b):
        started([a, b])
        a.tenant("one")
        a.tenant("two")
        b.wait_tenant("two")
        b.process.send_signal(signal.SIGSTOP)
        try:
            wait_for("its lease has ended", lambda: len(a.status()["daemons"]) == 1, 90)
            a.stokectl("tenant", "delete", "one", "--yes")
            a.tenant("three")
        finally:
            b.process.send_signal(signal.SIGCONT)
        wait_for("it is back", lambda: len(a.status()["daemons"]) == 2, 30)
        wait_for("it has caught up", lambda: set(tenants(b)) == {"two", "three"} and all(t["phase"] == "Ready" for t in tenants(b).values()))
        etcdctl(b.endpoint("three"), "put", "k", "v")
        has_no_noise([a, b])


def test_renewal_is_cheap(postgresql):
    """Daemons that do nothing write no more than a small record each in ten seconds."""
    with several(2, shared(postgresql)) as found:
        started(found)
        wait_for("they know each other", lambda: all(len(d.status()["daemons"]) == 2 for d in found))
        table = postgresql.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'stokehold' AND tablename LIKE 'registry-%'", database="stokehold")
        assert len(table) == 1, table

        def written():
            return int(postgresql.sql(f'SELECT max(seq) FROM stokehold."{table[0]}"', database="stokehold")[0])
        time.sleep(2)
        before = written()
        time.sleep(22)
        assert 2 <= written() - before <= 2 * 3, written() - before
        assert all(len(d.status()["daemons"]) == 2 for d in found)
