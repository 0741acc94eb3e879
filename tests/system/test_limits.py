"""
What keeps one tenant from harming the others: keyspaces that nobody uses are closed, memory has a budget, a tenant that the daemon
crashes with is put away, and each thing that a client may do has its limit.
"""

import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

from conftest import BUILD, etcdctl, free_port, program, running, wait_for


def settings(daemon, text):
    (daemon.root / "stokehold.yaml").write_text(text)


def condition(daemon, name):
    return daemon.ask("tenant", "show", name)["condition"]


def wait_condition(daemon, name, wanted, timeout=30):
    return wait_for(f"{name} is {wanted}", lambda: condition(daemon, name) == wanted, timeout)


# ---- idle keyspaces


def test_idle_keyspace_is_closed(stopped):
    """Hundreds of tenants that are used now and then need the memory of those that are used now; and nothing of theirs is lost."""
    settings(stopped, "tenants: {idleClose: 300ms}\n")
    stopped.start()
    endpoint = stopped.tenant("demo")
    assert condition(stopped, "demo") == "Closed"
    for i in range(5):
        etcdctl(endpoint, "put", "a", str(i))
        wait_condition(stopped, "demo", "Closed")
        shown = stopped.ask("tenant", "show", "demo")
        assert shown["revision"] == 0 and shown["memoryBytes"] == 0
        assert etcdctl(endpoint, "get", "a", "--print-value-only").stdout == f"{i}\n"
        wait_condition(stopped, "demo", "Closed")
    assert json.loads(etcdctl(endpoint, "get", "a", "-w", "json").stdout)["header"]["revision"] == 6
    assert stopped.status()["nTenantsServing"] <= 1


def test_watch_keeps_its_keyspace_open(stopped):
    """An API server that only watches must be told of the next change, however long that takes."""
    settings(stopped, "tenants: {idleClose: 200ms}\n")
    stopped.start()
    endpoint = stopped.tenant("demo")
    etcdctl(endpoint, "put", "a", "1")
    watch = subprocess.Popen([program("etcdctl"), "--endpoints", endpoint, "watch", "a"], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True)
    try:
        wait_for("the watch stands", lambda: stopped.ask("tenant", "show", "demo")["nWatchers"] == 1)
        time.sleep(1.5)
        assert condition(stopped, "demo") == "Serving"
        etcdctl(endpoint, "put", "a", "2")
        assert [watch.stdout.readline() for _ in range(3)] == ["PUT\n", "a\n", "2\n"]
    finally:
        watch.kill()
        watch.wait()
    wait_condition(stopped, "demo", "Closed")


def test_lease_ends_though_nobody_looks(stopped):
    """A key that was to live for two seconds is gone when somebody comes an hour later, and in the history where it belongs."""
    settings(stopped, "tenants: {idleClose: 300ms}\n")
    stopped.start()
    endpoint = stopped.tenant("demo")
    lease = json.loads(etcdctl(endpoint, "lease", "grant", "3", "-w", "json").stdout)["ID"]
    granted = time.monotonic()
    etcdctl(endpoint, "put", "a", "1", f"--lease={lease:x}")
    wait_for("it was closed", lambda: condition(stopped, "demo") == "Closed", 30, 0.02)
    wait_for("its lease has ended", lambda: stopped.ask("tenant", "show", "demo")["nLeases"] == 0, 30)
    assert time.monotonic() - granted >= 3
    wait_condition(stopped, "demo", "Closed")
    answer = json.loads(etcdctl(endpoint, "get", "a", "-w", "json").stdout)
    assert answer.get("kvs", []) == [] and answer["header"]["revision"] == 3


def test_calls_while_it_is_closed(stopped, seed):
    """No call may fail or be answered wrongly because its keyspace was just being closed."""
    settings(stopped, "tenants: {idleClose: 30ms}\n")
    stopped.start()
    endpoint = stopped.tenant("demo")
    dice, wrong = random.Random(seed), []

    def ask(n):
        for i in range(500):
            if wrong or stopped.log().count("keyspace is closed until it is used again") >= 8:
                return
            time.sleep(dice.uniform(0, 0.06))
            r = etcdctl(endpoint, "put", f"k{n}", str(i), check=False)
            if r.returncode != 0:
                wrong.append(r.stderr)
            got = etcdctl(endpoint, "get", f"k{n}", "--print-value-only", check=False)
            if got.stdout != f"{i}\n":
                wrong.append((i, got.stdout, got.stderr))
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong
    assert stopped.log().count("keyspace is closed until it is used again") >= 8


# ---- memory


def fill(endpoint, n):
    """n keys of 200 bytes, in one transaction."""
    etcdctl(endpoint, "txn", stdin="\n" + "".join(f'put k{i:06d}{"x" * 190} v\n' for i in range(n)) + "\n\n")


@contextlib.contextmanager
def watching(daemon, name):
    process = subprocess.Popen([program("etcdctl"), "--endpoints", daemon.endpoint(name), "watch", "k"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("the watch stands", lambda: daemon.ask("tenant", "show", name)["nWatchers"] == 1)
        yield process
    finally:
        process.kill()
        process.wait()


def test_memory_has_a_budget(stopped):
    """A tenant that does not fit is refused, with the figure; those that are in use go on, those that are not make room."""
    settings(stopped, "memory: 8Mi\nshards: 2\nlimits: {txnOperations: 10000}\n")
    stopped.start()
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        endpoint = stopped.tenant(name)
        wait_for("it fits", lambda e=endpoint: etcdctl(e, "get", "x", check=False).returncode == 0, 60)
        fill(endpoint, 6000)
    # Each takes some 2.5 MiB, all fit only because the others were closed.
    shown = [stopped.ask("tenant", "show", name) for name in names]
    assert {t["condition"] for t in shown} == {"Closed", "Serving"}, shown
    status = stopped.status()
    assert status["memoryMaxBytes"] == 8 << 20 and status["keyspaceBytes"] <= 8 << 20
    assert "of 8.0 MiB" in stopped.stokectl("status").stdout

    # Watched, they are in use: as many as fit.
    with contextlib.ExitStack() as stack:
        refused = None
        for name in names:
            if etcdctl(stopped.endpoint(name), "--command-timeout=4s", "get", "x", check=False).returncode == 0:
                stack.enter_context(watching(stopped, name))
            else:
                refused = name
        assert refused, names
        r = etcdctl(stopped.endpoint(refused), "--command-timeout=2s", "get", "x", check=False)
        assert r.returncode != 0, r
        shown = stopped.ask("tenant", "show", refused)
        assert shown["condition"] == "NoMemory" and "MiB of it were loaded" in shown["reason"], shown
        assert any("does not fit into memory" in p for p in stopped.status()["problems"])
        assert "keyspace is refused: it does not fit into memory" in stopped.log()
        for name in names:
            if condition(stopped, name) == "Serving":
                etcdctl(stopped.endpoint(name), "put", "still", "here")
    wait_for("there is room again", lambda: etcdctl(stopped.endpoint(refused), "get", "x", check=False).returncode == 0, 90)


# ---- quarantine


@pytest.fixture
def crashing(tmp_path):
    """A daemon whose driver crashes on demand: crashing.fault(NAME, FUNCTION, how) until crashing.no_fault(...)."""
    plugins, faults = tmp_path / "plugins", tmp_path / "faults"
    plugins.mkdir()
    faults.mkdir()
    shutil.copy(BUILD / "tests" / "drivers" / "driver-crashing.so", plugins / "sqlite.so")
    port = free_port()
    with running(plugins=plugins, environment={"STOKEHOLD_TEST_CRASH": str(faults)}) as d:
        settings(d, f"metrics: {{listen: 'tcp:127.0.0.1:{port}'}}\n")
        d.metrics_port = port
        d.fault = lambda name, function, how="now": (faults / f"{name}.{function}").write_text(how)
        d.no_fault = lambda name, function: (faults / f"{name}.{function}").unlink()
        yield d


def metric(daemon, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.metrics_port}/metrics", timeout=10) as r:
        for line in r.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
    return None


def probe(daemon, name):
    """As a liveness probe asks."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(f"{daemon.root}/run/tenants/{name}.sock")
        s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := s.recv(4096):
            answer += part
    return answer.decode()


def dies(daemon, what):
    """What is done makes it die by SIGABRT; then it is started again, as systemd would."""
    what()
    assert daemon.process.wait(30) == -signal.SIGABRT, daemon.log()[-2000:]
    daemon.start()


def use(daemon, name):
    etcdctl(daemon.endpoint(name), "--command-timeout=3s", "put", "k", "v", check=False)


def test_two_crashes_and_a_tenant_is_put_away(crashing):
    """A tenant whose data makes the daemon crash must not take all others with it, for ever."""
    d = crashing.start()
    for name in ("bad", "good"):
        etcdctl(d.tenant(name), "put", "a", name)
    d.restart()
    d.fault("bad", "load")
    dies(d, lambda: use(d, "bad"))
    assert d.ask("tenant", "show", "bad")["phase"] == "Ready"
    assert "if it does so again" in d.log()
    dies(d, lambda: use(d, "bad"))

    shown = d.ask("tenant", "show", "bad")
    assert shown["phase"] == "Quarantined" and shown["condition"] == "Quarantined"
    assert shown["reason"].count("SIGABRT while it worked for the tenant") == 2, shown
    assert "stokectl tenant resume bad" in shown["reason"]
    assert [line.split()[2] for line in d.stokectl("tenant", "list").stdout.splitlines()[1:]] == ["Quarantined", "Ready"]
    status = d.status()
    assert status["nTenantsQuarantined"] == 1 and any(p.startswith("tenant bad: quarantined: ") for p in status["problems"])
    assert metric(d, 'stokehold_tenant_quarantined{tenant="bad"}') == 1
    r = etcdctl(d.endpoint("bad"), "--command-timeout=2s", "get", "a", check=False)
    assert r.returncode != 0 and "unhealthy cluster" in r.stderr, r
    health = probe(d, "bad")
    assert health.startswith("HTTP/1.1 503 ") and '"health":"false"' in health
    assert etcdctl(d.endpoint("good"), "get", "a", "--print-value-only").stdout == "good\n"

    d.restart()
    assert d.ask("tenant", "show", "bad")["phase"] == "Quarantined"
    d.no_fault("bad", "load")
    assert d.stokectl("tenant", "resume", "good", check=False).returncode == 4
    assert d.stokectl("tenant", "resume", "nobody", check=False).returncode == 3
    assert "served again" in d.stokectl("tenant", "resume", "bad").stdout
    assert d.ask("tenant", "show", "bad")["phase"] == "Ready"
    assert etcdctl(d.endpoint("bad"), "get", "a", "--print-value-only").stdout == "bad\n"
    wait_for("the metric says so", lambda: metric(d, 'stokehold_tenant_quarantined{tenant="bad"}') == 0)
    d.restart()
    assert d.ask("tenant", "show", "bad")["phase"] == "Ready"


def test_crash_while_others_are_busy(crashing):
    """All others work at that moment, and none of them is put away for it."""
    d = crashing.start()
    names = [f"t{i}" for i in range(6)]
    for name in names + ["bad"]:
        etcdctl(d.tenant(name), "put", "a", name)
    stop = threading.Event()

    def work(name):
        while not stop.is_set():
            etcdctl(d.endpoint(name), "--command-timeout=1s", "put", "b", "c", check=False)
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for t in threads:
        t.start()
    try:
        d.fault("bad", "append")
        for _ in range(2):
            dies(d, lambda: use(d, "bad"))
    finally:
        stop.set()
        for t in threads:
            t.join()
    phases = {t["name"]: t["phase"] for t in d.ask("tenant", "list")["tenants"]}
    assert phases == {**{name: "Ready" for name in names}, "bad": "Quarantined"}
    # Deleting it is a way out, too.
    d.stokectl("tenant", "delete", "bad", "--yes")
    d.no_fault("bad", "append")
    etcdctl(d.tenant("bad"), "put", "a", "1")


def test_crash_from_outside_while_one_is_opened(crashing):
    """A watchdog that ends a daemon which hangs: what was being opened is suspected. Who kills it with SIGKILL accuses nobody."""
    d = crashing.start()
    for name in ("slow", "good"):
        etcdctl(d.tenant(name), "put", "a", name)

    def opening():
        d.fault("slow", "load", "wait")
        use_it = threading.Thread(target=use, args=(d, "slow"))
        use_it.start()
        wait_for("it is being opened", lambda: condition(d, "slow") == "Opening")
        etcdctl(d.endpoint("good"), "put", "a", "b")
        return use_it
    d.restart()
    for _ in range(3):
        t = opening()
        d.kill()
        t.join()
        d.start()
    assert d.ask("tenant", "show", "slow")["phase"] == "Ready"
    for _ in range(2):
        t = opening()
        dies(d, lambda: d.process.send_signal(signal.SIGABRT))
        t.join()
    phases = {t["name"]: t["phase"] for t in d.ask("tenant", "list")["tenants"]}
    assert phases == {"slow": "Quarantined", "good": "Ready"}
    assert "while it opened the tenant" in d.ask("tenant", "show", "slow")["reason"]


# ---- limits


def test_limits_of_a_client(stopped):
    """Each is a setting, and crossing it is told in etcd's own words."""
    settings(stopped, "limits: {requestBytes: 64Ki, txnOperations: 3, leases: 2, watches: 2, watchesPerStream: 1, connections: 4}\n")
    stopped.start()
    endpoint = stopped.tenant("demo")

    def refused(text, *arguments, stdin=None):
        r = etcdctl(endpoint, *arguments, check=False, stdin=stdin)
        assert r.returncode != 0 and text in r.stderr, r
    etcdctl(endpoint, "put", "k", stdin="x" * 65000)
    refused("etcdserver: request is too large", "put", "k", stdin="x" * 65536)
    etcdctl(endpoint, "txn", stdin="\nput a 1\nput b 1\nput c 1\n\n\n")
    refused("etcdserver: too many operations in txn request", "txn", stdin="\nput a 1\nput b 1\nput c 1\nput d 1\n\n\n")
    for _ in range(2):
        lease = etcdctl(endpoint, "lease", "grant", "100").stdout.split()[1]
    refused("etcdserver: too many requests", "lease", "grant", "100")
    etcdctl(endpoint, "lease", "revoke", lease)
    etcdctl(endpoint, "lease", "grant", "100")

    with watching(stopped, "demo"):
        second = subprocess.Popen([program("etcdctl"), "--endpoints", endpoint, "watch", "k"], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        try:
            wait_for("two watches stand", lambda: stopped.ask("tenant", "show", "demo")["nWatchers"] == 2)
            r = etcdctl(endpoint, "watch", "k", check=False)
            assert "etcdserver: too many requests" in r.stderr + r.stdout, r
        finally:
            second.kill()
            second.wait()
    wait_for("they are gone", lambda: stopped.ask("tenant", "show", "demo")["nConnections"] == 0)

    open_sockets = []
    try:
        for _ in range(5):
            s = socket.socket(socket.AF_UNIX)
            s.connect(f"{stopped.root}/run/tenants/demo.sock")
            open_sockets.append(s)
        wait_for("four are taken", lambda: stopped.ask("tenant", "show", "demo")["nConnections"] == 4)
        open_sockets[4].settimeout(10)
        assert open_sockets[4].recv(1) == b""
    finally:
        for s in open_sockets:
            s.close()
