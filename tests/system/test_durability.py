"""
What was acknowledged stays over a restart and a stop (under load: test_history.py). If these fail, an API server's objects vanish or come back.
"""

import json
import re
import subprocess
import time

from conftest import etcdctl, program


def revision(endpoint):
    return json.loads(etcdctl(endpoint, "get", "x", "-w", "json").stdout)["header"]["revision"]


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
