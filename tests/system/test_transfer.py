"""
Moving in from another etcd, and out to one: `stokectl tenant import` from a real etcd and from kine, `tenant export` into an etcd. If these fail, a
control plane that is moved finds other keys, revisions or leases than it left.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import time

import credentials
import pytest
import servers
import servers_mariadb
import test_credentials
from conftest import (COMPLAINTS, etcdctl, free_port, program, real_etcd, running, scratch, wait_for)


@contextlib.contextmanager
def kine_backend(name):
    """kine's --endpoint for a server that runs; none is its SQLite."""
    if name == "SQLite":
        yield []
    elif name == "PostgreSQL":
        with servers.PostgreSQL() as server:
            yield ["--endpoint", f"postgres://admin:secret@{server.endpoint}/kine?sslmode=disable"]
    else:
        with servers_mariadb.MariaDB() as server:
            yield ["--endpoint", f"mysql://admin:secret@tcp({server.endpoint})/kine"]


@contextlib.contextmanager
def kine(backend):
    with kine_backend(backend) as arguments, scratch() as directory:
        port = free_port()
        with open(directory / "log", "wb") as log:
            process = subprocess.Popen(
                [program("kine"), "--listen-address", f"127.0.0.1:{port}", "--metrics-bind-address", "0", *arguments],
                cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            endpoint = f"http://127.0.0.1:{port}"
            wait_for("kine answers", lambda: etcdctl(endpoint, "get", "/x", check=False).returncode == 0, 60, 0.2)
            yield endpoint
        finally:
            process.terminate()
            process.wait(20)


def everything(endpoint, prefix=""):
    """Key: (value, create revision, mod revision, version, lease), and the revision."""
    reply = json.loads(etcdctl(endpoint, "get", prefix, "--prefix", "-w", "json").stdout)
    return ({kv["key"]: (kv.get("value", ""), kv["create_revision"], kv["mod_revision"], kv.get("version", 0), kv.get("lease", 0))
             for kv in reply.get("kvs", [])}, reply["header"]["revision"])


def renamed(keys, prefix, new_prefix):
    import base64
    out = {}
    for key, value in keys.items():
        raw = base64.b64decode(key)
        assert raw.startswith(prefix)
        out[base64.b64encode(new_prefix + raw[len(prefix):]).decode()] = value
    return out


def transfer(daemon, name):
    return daemon.ask("transfer", "list", name)["transfers"][0]


def wait_phase(daemon, name, *phases):
    return wait_for(f"the transfer of {name} is {phases}", lambda: transfer(daemon, name)["phase"] in phases and transfer(daemon, name), 60)


def fill(endpoint, prefix="/registry/"):
    """Keys that were made, changed, deleted, with leases; some larger than a page."""
    for i in range(40):
        etcdctl(endpoint, "put", f"{prefix}a/{i:03}", f"value {i}")
    for i in range(0, 40, 3):
        etcdctl(endpoint, "put", f"{prefix}a/{i:03}", f"changed {i}")
    for i in range(0, 40, 7):
        etcdctl(endpoint, "del", f"{prefix}a/{i:03}")
    lease = etcdctl(endpoint, "lease", "grant", "3600").stdout.split()[1]
    etcdctl(endpoint, "put", f"{prefix}leased", "x", "--lease", lease)
    # A lease that nothing hangs on.
    idle = etcdctl(endpoint, "lease", "grant", "7200").stdout.split()[1]
    for i in range(6):
        etcdctl(endpoint, "put", f"{prefix}big/{i}", stdin=chr(97 + i) * 700_000)
    # Several keys of one revision.
    etcdctl(endpoint, "txn", stdin=f"\nput {prefix}t/1 one\nput {prefix}t/2 two\ndel {prefix}a/001\n\n\n")
    return lease, idle


def test_an_etcd_is_imported_and_followed(daemon, etcd):
    lease, idle = fill(etcd)
    begun = daemon.stokectl("tenant", "import", "moved", "--from", etcd, "--detach").stdout
    assert "has begun" in begun
    wait_phase(daemon, "moved", "Following")
    assert daemon.ask("tenant", "show", "moved")["phase"] == "Installing"
    # What is written meanwhile comes along: changes, deletions, several keys at once, a lease that is new.
    etcdctl(etcd, "put", "/registry/a/002", "while it was followed")
    etcdctl(etcd, "del", "/registry/a/003")
    later = etcdctl(etcd, "lease", "grant", "1800").stdout.split()[1]
    etcdctl(etcd, "put", "/registry/later", "y", "--lease", later)
    etcdctl(etcd, "txn", stdin=f"\nput /registry/t/1 uno\ndel /registry/t/2\nput /registry/t/3 tre --lease={later}\n\n\n")
    wait_for("the changes are carried", lambda: int(transfer(daemon, "moved")["events"]) >= 6)
    said = daemon.stokectl("tenant", "import", "moved", "--finish").stdout
    assert "It is served." in said
    tenant = daemon.endpoint("moved")
    assert everything(tenant) == everything(etcd)
    here, there = (sorted(etcdctl(e, "lease", "list").stdout.split()[3:]) for e in (tenant, etcd))
    assert here == there and {lease, idle, later} <= set(here)
    times = json.loads(etcdctl(tenant, "lease", "timetolive", lease, "--keys", "-w", "json").stdout)
    assert times["granted-ttl"] == 3600 and len(times["keys"]) == 1
    # Watches go on from any revision behind the first reading; below it the history is gone, as after a compaction.
    assert "required revision has been compacted" in etcdctl(tenant, "get", "/registry/a/002", "--rev", "5", check=False).stderr
    before = everything(etcd)[1]
    assert f'"revision":{before + 1}' in etcdctl(tenant, "put", "/registry/new", "z", "-w", "json").stdout
    # And over a restart.
    daemon.restart()
    wait_for("the tenant answers", lambda: etcdctl(tenant, "get", "/registry/new", check=False).stdout == "/registry/new\nz\n")
    etcdctl(tenant, "del", "/registry/new")
    want, _ = everything(etcd)
    assert everything(tenant)[0] == want


def test_one_of_several_prefixes_is_imported(daemon, etcd):
    """Kamaji's way: each tenant has a prefix in one etcd, whose other tenants go on writing."""
    lease, _ = fill(etcd, "/berlin/")
    paris = etcdctl(etcd, "lease", "grant", "3600").stdout.split()[1]
    etcdctl(etcd, "put", "/paris/a", "not ours", "--lease", paris)
    said = daemon.stokectl("tenant", "import", "berlin", "--from", etcd, "--prefix", "/berlin/", "--to-prefix", "/registry/",
                           "--finish").stdout
    assert "It is served." in said
    keys, revision = everything(etcd, "/berlin/")
    got, got_revision = everything(daemon.endpoint("berlin"))
    assert got == renamed(keys, b"/berlin/", b"/registry/")
    # Nor are others' leases ours to know.
    assert etcdctl(daemon.endpoint("berlin"), "lease", "list").stdout.split()[3:] == [lease]
    assert got_revision <= revision
    assert got_revision >= max(v[2] for v in keys.values())


@pytest.mark.parametrize("backend", ["SQLite", "PostgreSQL", "MariaDB"])
def test_a_kine_is_imported(daemon, backend):
    name = f"kine-{backend.lower()}"
    with kine(backend) as source:
        lease = etcdctl(source, "lease", "grant", "3600").stdout.split()[1]
        for i in range(30):
            body = f'create("/registry/k/{i:03}") = "0"\n\nput /registry/k/{i:03} value{i}\n\n\n'
            etcdctl(source, "txn", stdin=body.replace("create(", "mod("))
        daemon.stokectl("tenant", "import", name, "--from", source, "--detach")
        wait_phase(daemon, name, "Following")
        etcdctl(source, "txn", stdin='mod("/registry/k/new") = "0"\n\nput /registry/k/new followed\n\n\n')
        wait_for("the change is carried", lambda: int(transfer(daemon, name)["events"]) >= 1)
        daemon.stokectl("tenant", "import", name, "--finish")
        there, revision = everything(source, "/registry/")
        here, here_revision = everything(daemon.endpoint(name), "/registry/")
        assert len(there) >= 31
        # kine counts no versions, and a living key has one.
        assert {k: v[:3] for k, v in here.items()} == {k: v[:3] for k, v in there.items()}
        assert all(v[3] >= 1 for v in here.values())
        assert here_revision == revision
        assert lease


def test_nothing_is_left_of_an_import_that_is_aborted(daemon, etcd):
    fill(etcd, "/abort/")
    daemon.stokectl("tenant", "import", "aborted", "--from", etcd, "--detach")
    wait_phase(daemon, "aborted", "Following")
    assert "nothing is left" in daemon.stokectl("tenant", "import", "aborted", "--abort").stdout
    wait_for("the tenant is gone", lambda: daemon.stokectl("tenant", "show", "aborted", check=False).returncode == 3)
    assert transfer(daemon, "aborted")["phase"] == "Failed"
    # The name is free again.
    daemon.stokectl("tenant", "import", "aborted", "--from", etcd, "--prefix", "/abort/", "--finish")
    assert everything(daemon.endpoint("aborted"))[0] == everything(etcd, "/abort/")[0]


def test_nothing_is_left_of_an_import_when_the_daemon_dies(daemon, etcd):
    fill(etcd, "/dies/")
    daemon.stokectl("tenant", "import", "dead", "--from", etcd, "--detach")
    wait_phase(daemon, "dead", "Following")
    daemon.kill()
    daemon.start()
    wait_for("the tenant is gone", lambda: daemon.stokectl("tenant", "show", "dead", check=False).returncode == 3)
    assert daemon.stokectl("tenant", "import", "dead", "--finish", check=False).returncode == 3


def test_a_daemon_that_stops_takes_its_imports_with_it(daemon, etcd):
    fill(etcd, "/stops/")
    daemon.stokectl("tenant", "import", "stopped", "--from", etcd, "--detach")
    wait_phase(daemon, "stopped", "Following")
    daemon.restart()
    wait_for("the tenant is gone", lambda: daemon.stokectl("tenant", "show", "stopped", check=False).returncode == 3)


def test_a_source_that_is_written_to_is_not_finished(daemon, etcd):
    etcdctl(etcd, "put", "/busy/a", "1")
    daemon.stokectl("tenant", "import", "busy", "--from", etcd, "--prefix", "/busy/", "--detach")
    wait_phase(daemon, "busy", "Following")
    writer = subprocess.Popen(["bash", "-c", f'while :; do {program("etcdctl")} --endpoints {etcd} put /busy/b $RANDOM >/dev/null; done'],
                              start_new_session=True)
    try:
        wait_for("changes come", lambda: int(transfer(daemon, "busy")["events"]) >= 3)
        finishing = subprocess.Popen([program("stokectl"), "--root", str(daemon.root), "tenant", "import", "busy", "--finish"],
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_phase(daemon, "busy", "Finishing")
        time.sleep(2)
        assert finishing.poll() is None
    finally:
        os.killpg(writer.pid, 9)
        writer.wait()
    out, err = finishing.communicate(timeout=60)
    assert finishing.returncode == 0, err
    assert everything(daemon.endpoint("busy"))[0] == everything(etcd, "/busy/")[0]
    assert not COMPLAINTS.search(err)


def test_whoever_waits_for_the_tenant_may_write_at_once(daemon, etcd):
    """API servers that try again and again are there before what was imported is compared: what they write is theirs, and no reason to throw it away."""
    for i in range(60):
        etcdctl(etcd, "txn", stdin="\n" + "".join(f"put /early/{i:03}/{j:02} {'v' * 2000}\n" for j in range(100)) + "\n\n")
    tenant = daemon.endpoint("early")
    daemon.stokectl("tenant", "import", "early", "--from", etcd, "--prefix", "/early/", "--detach")
    wait_phase(daemon, "early", "Following")
    writers = [subprocess.Popen(["bash", "-c", f"until [ -S {tenant[7:]} ]; do sleep 0.002; done; while :; do {program('etcdctl')} --endpoints {tenant} put /early/new/{i} $RANDOM; done"],
                                start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for i in range(3)]
    try:
        said = daemon.stokectl("tenant", "import", "early", "--finish").stdout
        assert "It is served." in said
        wait_for("something was written", lambda: etcdctl(tenant, "get", "/early/new/", "--prefix", "--keys-only").stdout.strip())
    finally:
        for writer in writers:
            os.killpg(writer.pid, 9)
            writer.wait()
    want = everything(etcd, "/early/")[0]
    got = everything(tenant)[0]
    assert {k: got.get(k) for k in want} == want


@pytest.mark.parametrize("arguments, code, words", [
    (("--from", "http://127.0.0.1:1", "--finish"), 1, "127.0.0.1:1"),
    (("--from", "ftp://x:1",), 2, "not an endpoint"),
    (("--from", "http://127.0.0.1",), 2, "no port"),
    ((), 2, "needs --from"),
])
def test_what_cannot_be_imported(shared_stopwatch, arguments, code, words):
    daemon = shared_stopwatch
    result = daemon.stokectl("tenant", "import", "never", *arguments, check=False)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    wait_for("nothing is left", lambda: daemon.stokectl("tenant", "show", "never", check=False).returncode == 3)


@pytest.fixture(scope="module")
def shared_stopwatch():
    with running() as d:
        yield d.start()


def test_a_tenant_is_exported_and_followed(daemon):
    tenant = daemon.tenant("leaving")
    lease, _ = fill(tenant)
    with real_etcd() as target:
        etcdctl(target, "put", "/elsewhere/x", "stays")
        daemon.stokectl("tenant", "export", "leaving", "--to", target, "--prefix", "/registry/", "--detach")
        wait_phase(daemon, "leaving", "Following")
        etcdctl(tenant, "put", "/registry/a/002", "while it was followed")
        etcdctl(tenant, "del", "/registry/a/004")
        etcdctl(tenant, "txn", stdin="\nput /registry/t/1 uno\ndel /registry/t/2\n\n\n")
        said = daemon.stokectl("tenant", "export", "leaving", "--finish").stdout
        assert "has what tenant leaving had" in said
        here, there = everything(tenant, "/registry/")[0], everything(target, "/registry/")[0]
        assert {k: (v[0], v[4]) for k, v in here.items()} == {k: (v[0], v[4]) for k, v in there.items()}
        assert json.loads(etcdctl(target, "lease", "timetolive", lease, "-w", "json").stdout)["granted-ttl"] == 3600
        assert etcdctl(target, "get", "/elsewhere/x").stdout == "/elsewhere/x\nstays\n"
        # Again: only if what is there may go.
        refused = daemon.stokectl("tenant", "export", "leaving", "--to", target, "--prefix", "/registry/", "--finish", check=False)
        assert refused.returncode == 1 and "--overwrite" in refused.stderr
        daemon.stokectl("tenant", "export", "leaving", "--to", target, "--prefix", "/registry/", "--overwrite", "--finish")
        assert {k: v[0] for k, v in everything(target, "/registry/")[0].items()} == {k: v[0] for k, v in here.items()}
    assert pathlib.Path(daemon.root).exists()


def test_leases_are_kept_alive_while_they_are_exported(daemon):
    """As long as the tenant's clients keep them alive there; one that has ended there ends at the target, too."""
    tenant = daemon.tenant("leased")
    kept, ended = (etcdctl(tenant, "lease", "grant", seconds).stdout.split()[1] for seconds in ("4", "30"))
    etcdctl(tenant, "put", "/registry/kept", "x", "--lease", kept)
    with subprocess.Popen([program("etcdctl"), "--endpoints", tenant, "lease", "keep-alive", kept], stdout=subprocess.DEVNULL) as alive:
        try:
            etcdctl(tenant, "put", "/registry/ended", "y", "--lease", ended)
            with real_etcd() as target:
                daemon.stokectl("tenant", "export", "leased", "--to", target, "--detach")
                wait_phase(daemon, "leased", "Following")
                etcdctl(tenant, "lease", "revoke", ended)
                time.sleep(9)
                assert etcdctl(target, "get", "/registry/kept").stdout == "/registry/kept\nx\n"
                daemon.stokectl("tenant", "export", "leased", "--finish")
                assert etcdctl(target, "get", "", "--prefix", "--keys-only").stdout.split() == ["/registry/kept"]
        finally:
            alive.kill()


def test_over_tls_with_client_certificates():
    """From a real etcd that wants certificates, and into one; and from another daemon's TLS port, as it tells its clients."""
    with running() as source, running() as target:
        port = credentials.with_authority(source)
        source.start()
        target.start()
        tenant = source.tenant("berlin")
        fill(tenant)
        files = source.root / "client"
        source.stokectl("tenant", "credentials", "berlin", "--for", "etcdctl", "--directory", str(files))
        tls = ("--cacert", f"{files}/ca.crt", "--cert", f"{files}/client.crt", "--key", f"{files}/client.key")
        url = f"https://localhost:{port}"
        # Without a certificate, with a foreign authority, with another name: each says why, and nothing is left.
        for wrong, words in (((), "certificate"), (tls[:2], "certificate"), (tls + ("--server-name", "elsewhere.example"), "certificate")):
            result = target.stokectl("tenant", "import", "never", "--from", url, *wrong, "--finish", check=False)
            assert result.returncode == 1 and words in result.stderr.lower(), result.stderr
        assert target.stokectl("tenant", "import", "never", "--from", url, "--cert", tls[3], check=False).returncode == 2
        target.stokectl("tenant", "import", "berlin", "--from", url, *tls, "--finish")
        assert everything(target.endpoint("berlin")) == everything(tenant)
        key = (files / "client.key").read_text().splitlines()[1]
        assert key not in target.log() and key not in source.log()
        with test_credentials.etcd_with(source.root / "tls") as secure:
            wait_for("etcd answers", lambda: etcdctl(secure, "--cacert", tls[1], "--cert", tls[3], "--key", tls[5], "get", "x",
                                                     check=False).returncode == 0, 60, 0.2)
            target.stokectl("tenant", "export", "berlin", "--to", secure, *tls, "--finish")
            there = json.loads(etcdctl(secure, "--cacert", tls[1], "--cert", tls[3], "--key", tls[5], "get", "", "--prefix", "-w", "json").stdout)
            assert {kv["key"]: kv.get("value", "") for kv in there["kvs"]} == {k: v[0] for k, v in everything(tenant)[0].items()}


def test_an_import_of_an_export_is_the_same(daemon):
    """From tenant to tenant through their sockets: revisions are kept where there is room for them."""
    tenant = daemon.tenant("one")
    fill(tenant)
    daemon.stokectl("tenant", "import", "two", "--from", f"unix://{daemon.root}/run/tenants/one.sock", "--finish")
    assert everything(daemon.endpoint("two")) == everything(tenant)


def test_a_snapshot_of_an_etcd_is_imported(daemon, etcd):
    """With its history, leases and revisions; one tenant's keys alone, renamed; nothing of a file that is damaged."""
    lease, idle = fill(etcd, "/snap/")
    middle = everything(etcd)[1]
    etcdctl(etcd, "put", "/snap/a/002", "after")
    other = etcdctl(etcd, "lease", "grant", "3600").stdout.split()[1]
    etcdctl(etcd, "put", "/other/a", "not ours", "--lease", other)
    with scratch() as folder:
        file = folder / "etcd.snapshot"
        etcdctl(etcd, "snapshot", "save", str(file))
        said = daemon.stokectl("tenant", "import", "snap", "--from-snapshot", str(file)).stdout
        assert "Tenant snap was imported" in said
        tenant = daemon.endpoint("snap")
        assert everything(tenant) == everything(etcd)
        assert etcdctl(tenant, "get", "/snap/a/002", "--rev", str(middle)).stdout == etcdctl(etcd, "get", "/snap/a/002", "--rev", str(middle)).stdout
        assert {lease, idle} <= set(etcdctl(tenant, "lease", "list").stdout.split()[3:])
        daemon.stokectl("tenant", "import", "part", "--from-snapshot", str(file), "--prefix", "/snap/", "--to-prefix", "/registry/")
        assert everything(daemon.endpoint("part"))[0] == renamed(everything(etcd, "/snap/")[0], b"/snap/", b"/registry/")
        assert etcdctl(daemon.endpoint("part"), "lease", "list").stdout.split()[3:] == [lease]
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (folder / "damaged").write_bytes(damaged)
        result = daemon.stokectl("tenant", "import", "never", "--from-snapshot", str(folder / "damaged"), check=False)
        assert result.returncode == 1 and daemon.stokectl("tenant", "show", "never", check=False).returncode == 3
        result = daemon.stokectl("tenant", "import", "never", "--from-snapshot", str(file), "--prefix", "/nobody/", check=False)
        assert result.returncode == 1 and "no key begins with" in result.stderr
        daemon.restart()
        wait_for("the tenant answers", lambda: everything(tenant) == everything(etcd))
