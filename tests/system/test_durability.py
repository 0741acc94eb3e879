"""
What was acknowledged stays: over kill -9 under load, over a restart, over a stop. If these fail, an API server's objects vanish or come back.
"""

import json
import random
import re
import subprocess
import time

from conftest import client, etcdctl, program

KILLS = 20


def revision(endpoint):
    return json.loads(etcdctl(endpoint, "get", "x", "-w", "json").stdout)["header"]["revision"]


def test_kill_9_under_load_loses_nothing(daemon, seed):
    """20 times kill -9 while 16 clients write and one watches: no acknowledged write is lost, none appears twice or at another
    revision, the revision never goes back, and the watch goes on without a gap."""
    endpoint = daemon.tenant("killed")
    log = daemon.root / "load.log"
    pause = random.Random(seed)
    last = 0
    with subprocess.Popen([program("client"), "load", endpoint, str(log), str(seed)], stderr=subprocess.PIPE, text=True) as load:
        try:
            for _ in range(KILLS):
                time.sleep(pause.uniform(0.1, 1.0))
                assert load.poll() is None, load.stderr.read()
                daemon.kill()
                daemon.start()
                now = revision(endpoint)
                assert now >= last, f"revision {now} after {last}"
                last = now
            time.sleep(0.5)
        finally:
            load.terminate()
        _, errors = load.communicate(timeout=60)
        assert load.returncode == 0, errors
    r = client("verify", endpoint, str(log))
    assert r.returncode == 0, f"seed {seed}: {r.stderr}"
    print(r.stdout)
    assert int(re.match(r"(\d+) acknowledged, 0 lost", r.stdout).group(1)) > 100, r.stdout


def test_restart_keeps_everything(daemon):
    """After an upgrade's restart an API server must find its objects, their history for its watches, and its leases."""
    endpoint = daemon.tenant("kept")
    lease = re.search(r"lease (\w+) granted", etcdctl(endpoint, "lease", "grant", "1000").stdout).group(1)
    for i in range(5):
        etcdctl(endpoint, "put", "k", str(i))
    etcdctl(endpoint, "put", "leased", "x", f"--lease={lease}")
    etcdctl(endpoint, "del", "k")
    etcdctl(endpoint, "compaction", "3")
    before = revision(endpoint)
    member = etcdctl(endpoint, "member", "list", "-w", "json").stdout
    daemon.restart()
    assert revision(endpoint) == before
    assert etcdctl(endpoint, "get", "k", "--rev=4").stdout == "k\n2\n"
    assert "compacted" in etcdctl(endpoint, "get", "k", "--rev=2", check=False).stderr
    keys = etcdctl(endpoint, "lease", "timetolive", lease, "--keys").stdout
    assert "granted with TTL(1000s)" in keys and "leased" in keys
    left = int(re.search(r"remaining\((\d+)s\)", keys).group(1))
    assert 900 < left <= 1000
    with subprocess.Popen([program("etcdctl"), "--endpoints", endpoint, "watch", "k", "--rev=4"], stdout=subprocess.PIPE, text=True) as p:
        lines = [p.stdout.readline().strip() for _ in range(11)]
        p.terminate()
    assert lines == ["PUT", "k", "2", "PUT", "k", "3", "PUT", "k", "4", "DELETE", "k"]
    assert json.loads(etcdctl(endpoint, "member", "list", "-w", "json").stdout)["members"] == json.loads(member)["members"]
    etcdctl(endpoint, "put", "k", "new")
    assert revision(endpoint) == before + 1


def test_lease_expires_over_a_restart(daemon):
    """A lease whose time passes while the daemon is down must still end: a dead API server's endpoint must go."""
    endpoint = daemon.tenant("expiring")
    lease = re.search(r"lease (\w+) granted", etcdctl(endpoint, "lease", "grant", "3").stdout).group(1)
    etcdctl(endpoint, "put", "leased", "x", f"--lease={lease}")
    daemon.kill()
    time.sleep(1)
    daemon.start()
    # Counted anew from the load, never early.
    assert etcdctl(endpoint, "get", "leased").stdout == "leased\nx\n"
    time.sleep(5)
    assert etcdctl(endpoint, "get", "leased").stdout == ""


def test_deleted_tenant_is_gone_and_its_name_free(daemon):
    """A tenant made again under an old name must not find the old one's secrets."""
    endpoint = daemon.tenant("again")
    etcdctl(endpoint, "put", "secret", "x")
    daemon.stokectl("tenant", "delete", "again", "--yes")
    assert not (daemon.root / "run" / "tenants" / "again.sock").exists()
    endpoint = daemon.tenant("again")
    assert etcdctl(endpoint, "get", "secret").stdout == ""
    assert revision(endpoint) == 1


def test_tenants_do_not_see_each_other(daemon):
    """Two tenants share a daemon, never a key."""
    one, two = daemon.tenant("one"), daemon.tenant("two")
    etcdctl(one, "put", "k", "1")
    etcdctl(two, "put", "k", "2")
    etcdctl(two, "put", "k", "3")
    assert etcdctl(one, "get", "--prefix", "").stdout == "k\n1\n"
    assert revision(one) == 2 and revision(two) == 3
