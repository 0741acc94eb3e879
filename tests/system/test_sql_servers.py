"""
Tenants on real PostgreSQL and MariaDB, with one daemon and with several that know nothing of each other but the datastore: what their clients saw
is recorded and checked, while servers are killed, paused and cut off. If these fail, a platform that keeps its control planes in the database it
already runs loses writes there, or sees two truths.
"""

import base64
import contextlib
import random
import re
import signal
import subprocess
import time

import grpc
import pytest

import servers
from conftest import Daemon, etcdctl, program, running, wait_for
from proto import Proto
from servers_mariadb import GaleraNode, MariaDB
from test_history import recorded, span

DIALECTS = {"PostgreSQL": servers.PostgreSQL, "MySQL": MariaDB}


def secret(text):
    return "{content: " + base64.b64encode(text.encode()).decode() + "}"


def datastore(driver, endpoints, name="shared", more="", password="secret", user="admin"):
    return ("apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: %s}\nspec:\n  driver: %s\n  endpoints: [%s]\n"
            "  default: true\n%s  basicAuth: {username: %s, password: %s}\n" % (
                name, driver, ", ".join(f'"{e}"' for e in endpoints), more, secret(user), secret(password)))


@contextlib.contextmanager
def server_of(driver, **options):
    with DIALECTS[driver](**options) as server:
        yield server


@contextlib.contextmanager
def daemons(n, text):
    """So many daemons, each with its own root and the same definitions."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(n):
            d = stack.enter_context(running())
            d.define("datastores.yaml", text)
            d.start()
            found.append(d)
        yield found


def tenant_everywhere(found, name="demo"):
    """Made by one daemon, served by all."""
    found[0].tenant(name)
    return [d.wait_tenant(name) for d in found]


def names(rows):
    return [r.split("|")[0].split("\t")[0] for r in rows]


@pytest.mark.parametrize("driver", DIALECTS)
def test_server_faults(driver, seed, request):
    """Crashes, stalls and cut connections of the database under load: writes end in etcd's errors in time, none is lost, none made twice."""
    dice = random.Random(seed)
    with server_of(driver) as server:
        proxy = servers.Proxy(server.endpoint, seed)
        with daemons(1, datastore(driver, [proxy.endpoint])) as (daemon,):
            with recorded(daemon.root, seed, [daemon.tenant("demo")], 200) as h:
                for _ in range(span(request, 4, 60)):
                    time.sleep(dice.uniform(0.3, 0.9))
                    what = dice.choice(["cut", "cut", "pause", "kill"])
                    if what == "cut":
                        for _ in range(5):
                            proxy.cut(dice.uniform(0.3, 1))
                            time.sleep(dice.uniform(0.01, 0.1))
                    elif what == "pause":
                        server.pause()
                        time.sleep(dice.uniform(0.5, 2.5))
                        server.resume()
                    else:
                        server.kill()
                        time.sleep(dice.uniform(0, 0.5))
                        server.start()
                    assert h.process.poll() is None, h.process.stderr.read()
                time.sleep(1)
        proxy.close()


@pytest.mark.parametrize("driver", DIALECTS)
def test_two_daemons_are_one_etcd(driver, seed, request):
    """Clients of one tenant at two daemons, each of which is killed now and then: one history, in which whoever reads sees what was acknowledged."""
    dice = random.Random(seed)
    with server_of(driver) as server, daemons(2, datastore(driver, [server.endpoint], more="  system: true\n")) as found:
        endpoints = tenant_everywhere(found)
        with recorded(found[0].root, seed, endpoints, 200) as h:
            for _ in range(span(request, 4, 60)):
                time.sleep(dice.uniform(0.5, 1.2))
                d = dice.choice(found)
                if dice.random() < 0.5:
                    d.kill()
                    time.sleep(dice.uniform(0, 0.3))
                    d.start()
                else:
                    d.process.send_signal(signal.SIGSTOP)
                    time.sleep(dice.uniform(0.2, 2))
                    d.process.send_signal(signal.SIGCONT)
                assert h.process.poll() is None, h.process.stderr.read()
            time.sleep(1)


@pytest.mark.parametrize("driver", DIALECTS)
def test_status_of_two_daemons(driver):
    """What one daemon has acknowledged is in the other's Status, though nothing else was asked of it; and while the database does not answer, Status
    does, of what is known."""
    with server_of(driver) as server, daemons(2, datastore(driver, [server.endpoint], more="  system: true\n")) as found:
        endpoints = tenant_everywhere(found)
        proto = Proto(found[0])
        with grpc.insecure_channel(endpoints[0]) as writing, grpc.insecure_channel(endpoints[1]) as looking:
            put, alarm = proto.stub(writing, "KV", "Put"), proto.stub(writing, "Maintenance", "Alarm")
            status = proto.stub(looking, "Maintenance", "Status")
            for n in range(30):
                revision = put(proto("PutRequest", key=b"/k", value=b"%d" % n), timeout=20).header.revision
                assert status(proto("StatusRequest"), timeout=20).header.revision >= revision
                for action, errors in ((1, ["alarm:CORRUPT"]), (2, [])):
                    alarm(proto("AlarmRequest", action=action, alarm=2), timeout=20)
                    assert list(status(proto("StatusRequest"), timeout=20).errors) == errors
            server.pause()
            try:
                for _ in range(3):
                    assert status(proto("StatusRequest"), timeout=7).header.revision == revision
            finally:
                server.resume()


@pytest.mark.parametrize("driver", DIALECTS)
def test_server_faults_under_two_daemons(driver, seed, request):
    """The same while the database fails under both."""
    dice = random.Random(seed)
    with server_of(driver) as server:
        proxies = [servers.Proxy(server.endpoint, seed + i) for i in range(2)]
        with contextlib.ExitStack() as stack:
            found = []
            for proxy in proxies:
                d = stack.enter_context(running())
                d.define("datastores.yaml", datastore(driver, [proxy.endpoint], more="  system: true\n"))
                found.append(d)
            found[0].start()
            found[1].start()
            # Their files differ in an endpoint alone, but differ: the tenant is made by command.
            endpoints = tenant_everywhere(found)
            with recorded(found[0].root, seed, endpoints, 200) as h:
                for _ in range(span(request, 4, 60)):
                    time.sleep(dice.uniform(0.3, 0.9))
                    if dice.random() < 0.6:
                        for _ in range(5):
                            dice.choice(proxies).cut(dice.uniform(0.3, 1))
                            time.sleep(dice.uniform(0.01, 0.1))
                    elif dice.random() < 0.5:
                        server.pause()
                        time.sleep(dice.uniform(0.5, 2))
                        server.resume()
                    else:
                        server.kill()
                        server.start()
                    assert h.process.poll() is None, h.process.stderr.read()
                time.sleep(1)
        for proxy in proxies:
            proxy.close()


@pytest.mark.parametrize("driver", DIALECTS)
def test_written_here_seen_there(driver):
    """A write on one daemon is read at once on another, and its watchers there are told: an API server behind each must not see the past."""
    with server_of(driver) as server, daemons(2, datastore(driver, [server.endpoint], more="  system: true\n")) as found:
        a, b = tenant_everywhere(found)
        watch = subprocess.Popen([program("etcdctl"), "--endpoints", b, "watch", "k", "--prefix", "--progress-notify"],
                                 stdout=subprocess.PIPE, text=True)
        try:
            etcdctl(b, "get", "k")
            for i in range(10):
                etcdctl(a, "put", f"k{i}", f"{i}")
                assert etcdctl(b, "get", f"k{i}", "--print-value-only").stdout.strip() == f"{i}"
                etcdctl(b, "put", f"l{i}", f"{i}")
                assert etcdctl(a, "get", f"l{i}", "--print-value-only").stdout.strip() == f"{i}"
            seen = [watch.stdout.readline().strip() for _ in range(30)]
            assert seen == [w for i in range(10) for w in ("PUT", f"k{i}", f"{i}")]
        finally:
            watch.kill()
            watch.wait()
        # One deletes, both forget it.
        found[1].stokectl("tenant", "delete", "demo", "--yes")
        wait_for("the tenant is gone everywhere", lambda: not any(d.ask("tenant", "list")["tenants"] for d in found))
        assert "HistoryLost" not in "".join(d.log() for d in found)


@pytest.mark.parametrize("driver", DIALECTS)
def test_four_writers_starve_none(driver, seed):
    """Each of four daemons that write one tenant gets on: compare-and-set must not mean that the fastest always wins."""
    with server_of(driver) as server, daemons(4, datastore(driver, [server.endpoint], more="  system: true\n")) as found:
        endpoints = tenant_everywhere(found)
        processes = [subprocess.Popen([program("client"), "put-loop", e, f"w{i}", "4"], stdout=subprocess.PIPE, text=True)
                     for i, e in enumerate(endpoints)]
        done = [int(p.communicate(timeout=60)[0].split()[0]) for p in processes]
        print(f"seed {seed}: {done} writes in 4 s")
        assert min(done) * 20 >= max(done) and min(done) >= 5, done


def test_many_tenants_on_few_connections():
    """200 tenants on a PostgreSQL that allows 20 connections: kine would need hundreds."""
    with servers.PostgreSQL(settings={"max_connections": 20}) as server, daemons(1, datastore("PostgreSQL", [server.endpoint])) as (d,):
        d.define("tenants.yaml", "".join(f"---\napiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {{name: t{i}}}\n" for i in range(200)))
        assert d.reload_errors() == []
        wait_for("all tenants are ready", lambda: d.status()["nTenants"] == 200 and
                 all(t["phase"] == "Ready" for t in d.ask("tenant", "list")["tenants"]), 60)
        for i in range(0, 200, 4):
            etcdctl(d.endpoint(f"t{i}"), "put", "k", f"{i}")
        for i in range(0, 200, 4):
            assert etcdctl(d.endpoint(f"t{i}"), "get", "k", "--print-value-only").stdout.strip() == f"{i}"
        used = int(server.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")[0]) - 1
        assert used <= 10, used


@pytest.mark.parametrize("driver, settings", [("PostgreSQL", {"fsync": "off"}), ("MySQL", {"innodb_flush_log_at_trx_commit": "2"})])
def test_unsafe_server_is_refused(driver, settings):
    """A database that acknowledges what a crash loses gets no tenants, unless somebody has said that he knows."""
    with server_of(driver, settings=settings) as server, daemons(1, datastore(driver, [server.endpoint])) as (d,):
        check = d.stokectl("datastore", "check", "shared", check=False)
        assert re.search(r"durability +problem", check.stdout), check.stdout
        refused = d.stokectl("tenant", "create", "demo", check=False)
        assert refused.returncode == 4 and "acknowledged" in refused.stderr and "allowUnsafe" in refused.stderr, refused
        assert not d.ask("datastore", "list")["datastores"][1]["ready"]
        d.define("datastores.yaml", datastore(driver, [server.endpoint], more="  allowUnsafe: true\n"))
        assert d.reload_errors() == []
        etcdctl(d.tenant("demo"), "put", "k", "v")


@pytest.mark.parametrize("driver", DIALECTS)
def test_rotated_password(driver):
    """Credentials change while the daemon runs: new connections take the new ones, nothing is restarted."""
    with server_of(driver) as server, running() as d:
        folder = d.root / "secrets" / "ns" / "db"
        folder.mkdir(parents=True)
        (folder / "user").write_text("admin")
        (folder / "password").write_text("secret")
        reference = "{secretReference: {namespace: ns, name: db, keyPath: %s}}"
        d.define("datastores.yaml", "apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: shared}\nspec:\n"
                 f"  driver: {driver}\n  endpoints: [\"{server.endpoint}\"]\n  default: true\n"
                 f"  basicAuth: {{username: {reference % 'user'}, password: {reference % 'password'}}}\n")
        d.start()
        endpoint = d.tenant("demo")
        etcdctl(endpoint, "put", "k", "1")
        server.sql("ALTER ROLE admin PASSWORD 'other'" if driver == "PostgreSQL" else "ALTER USER admin@'%' IDENTIFIED BY 'other'")
        (folder / "password").write_text("other")
        if driver == "PostgreSQL":
            server.run("psql", "-XAtq", "-d", server.url().replace("secret", "other"), "-c",
                       "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
        else:
            server.stop()
            server.spawn("mariadbd", "--no-defaults", *(f"--{k}={v}" for k, v in server.options().items()))
        wait_for("writes go on", lambda: etcdctl(endpoint, "put", "k", "2", check=False).returncode == 0, 40)
        assert etcdctl(endpoint, "get", "k", "--print-value-only").stdout.strip() == "2"


@pytest.mark.parametrize("driver", DIALECTS)
def test_keys_are_bytes(driver):
    """ClusterRoles `Foo` and `foo` are two, a key may hold any byte, and be as long as a request may be."""
    with server_of(driver) as server, daemons(1, datastore(driver, [server.endpoint])) as (d,):
        endpoint = d.tenant("demo")
        odd = ["Foo", "foo", "foo ", "fo\u00f6", "foo%", "fo_", "\\", "'", "\"; DROP TABLE x; --", "k" * 20000]
        for i, key in enumerate(odd):
            etcdctl(endpoint, "put", "--", key, f"{i}")
        d.restart()
        for i, key in enumerate(odd):
            assert etcdctl(endpoint, "get", "--print-value-only", "--", key).stdout == f"{i}\n", key
        result = subprocess.run([program("client"), "shapes", endpoint, "binary-keys"], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr


def revision_of(answer):
    return int(re.search(r'"revision":(\d+)', answer.stdout).group(1))


@pytest.mark.parametrize("n", [1, 2])
def test_promoted_replica_that_lagged_is_history_lost(n):
    """Failover to a replica that has not got the last commits: nothing is served from the older state until the loss was accepted, on one daemon
    for all, and then the revision goes on above all that was served."""
    with servers.PostgreSQL() as primary, servers.PostgreSQL(of=primary) as replica:
        text = datastore("PostgreSQL", [primary.endpoint, replica.endpoint], more="  system: true\n" if n > 1 else "")
        with daemons(n, text) as found:
            endpoints = tenant_everywhere(found)
            etcdctl(endpoints[0], "put", "k", "before")
            wait_for("the replica has it", lambda: primary.sql(
                "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()") == ["1"])
            replica.kill()
            for i in range(30):
                etcdctl(endpoints[i % n], "put", "k", f"{i}")
            revision = max(revision_of(etcdctl(e, "get", "k", "-w", "json")) for e in endpoints)
            primary.kill()
            replica.start()
            replica.promote()
            for d, e in zip(found, endpoints):
                wait_for("the loss is noticed", lambda e=e: "corrupt" in etcdctl(e, "get", "k", check=False, timeout=60).stderr, 60)
                shown = d.ask("tenant", "show", "demo")
                assert shown["condition"] == "HistoryLost" and f"revision {revision}" in shown["reason"], shown
            found[0].stokectl("tenant", "recover", "demo", "--accept-loss")
            for e in endpoints:
                wait_for("it is served again", lambda e=e: etcdctl(e, "get", "k", "--print-value-only", check=False).stdout.strip() == "before")
            served = [revision_of(etcdctl(e, "put", "k", "after", "-w", "json")) for e in endpoints]
            assert min(served) > revision and len(set(served)) == n
            assert "required revision has been compacted" in etcdctl(endpoints[-1], "get", "k", "--rev", str(revision), check=False).stderr


def test_daemons_through_a_pooler():
    """PgBouncer in between: no notices, but the same answers, and watchers learn within a second or so."""
    with servers.PostgreSQL() as server, servers.PgBouncer(server) as pooler:
        with daemons(2, datastore("PostgreSQL", [pooler.endpoint], more="  system: true\n")) as found:
            a, b = tenant_everywhere(found)
            watch = subprocess.Popen([program("etcdctl"), "--endpoints", b, "watch", "k", "--prefix"], stdout=subprocess.PIPE, text=True)
            try:
                etcdctl(b, "get", "k")
                for i in range(5):
                    etcdctl(a, "put", f"k{i}", f"{i}")
                    assert etcdctl(b, "get", f"k{i}", "--print-value-only").stdout.strip() == f"{i}"
                seen = [watch.stdout.readline().strip() for _ in range(15)]
                assert seen == [w for i in range(5) for w in ("PUT", f"k{i}", f"{i}")]
            finally:
                watch.kill()
                watch.wait()


def test_a_daemon_on_each_galera_node(seed):
    """A Galera pair, and a daemon beside each node: one history, though no node is the first."""
    nodes = GaleraNode.cluster(2)
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.callback(node.close)
        found = []
        for node in nodes:
            d = stack.enter_context(running())
            d.define("datastores.yaml", datastore("MySQL", [node.endpoint], more="  system: true\n"))
            found.append(d.start())
        endpoints = tenant_everywhere(found)
        with recorded(found[0].root, seed, endpoints, 100) as h:
            for d in found:
                time.sleep(1)
                d.process.send_signal(signal.SIGSTOP)
                time.sleep(0.5)
                d.process.send_signal(signal.SIGCONT)
                assert h.process.poll() is None, h.process.stderr.read()
            time.sleep(1)
