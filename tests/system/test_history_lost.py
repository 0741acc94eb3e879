"""
A datastore that goes back: a backup is restored under the daemon's feet. Served as it is, acknowledged writes vanish without a word and a
revision names two states; so the tenant is stopped until an operator accepts the loss, and then goes on where no client has been.
"""

import re
import shutil

from conftest import etcdctl, wait_for


def files(daemon):
    return sorted((daemon.root / "state" / "datastores" / "embedded").glob("demo-*.db*"))


def condition(daemon):
    return daemon.ask("tenant", "show", "demo")["condition"]


def test_a_restored_backup_is_noticed_and_recovered_from(daemon):
    """Kept knowledge of the log survives restarts; nothing is served from the old state, and recovery makes every client list anew."""
    endpoint = daemon.tenant()
    for i in range(20):
        etcdctl(endpoint, "put", f"/k{i % 5}", f"{i}")
    daemon.stop()
    backup = daemon.root / "backup"
    backup.mkdir()
    for f in files(daemon):
        shutil.copy2(f, backup)

    daemon.start()
    for i in range(20, 40):
        etcdctl(endpoint, "put", f"/k{i % 5}", f"{i}")
    lease = etcdctl(endpoint, "lease", "grant", "600").stdout.split()[1]
    daemon.restart()
    served = etcdctl(endpoint, "get", "/k4", "-w", "json").stdout
    revision = int(re.search(r'"revision":(\d+)', served).group(1))

    daemon.stop()
    for f in files(daemon):
        f.unlink()
    for f in backup.iterdir():
        shutil.copy2(f, daemon.root / "state" / "datastores" / "embedded")
    daemon.start()
    refused = etcdctl(endpoint, "get", "/k4", check=False)
    assert refused.returncode != 0 and "corrupt cluster" in refused.stderr, refused
    shown = wait_for("the loss is shown", lambda: condition(daemon) == "HistoryLost" and daemon.ask("tenant", "show", "demo"))
    assert f"revision {revision};" in shown["reason"] and "revision 21" in shown["reason"], shown["reason"]
    assert any("demo" in p for p in daemon.status()["problems"])
    # It stays so, whoever restarts the daemon.
    daemon.restart()
    assert etcdctl(endpoint, "put", "/k4", "x", check=False).returncode != 0
    wait_for("the loss is still known", lambda: condition(daemon) == "HistoryLost")

    assert daemon.stokectl("tenant", "recover", "demo", check=False).returncode == 2
    daemon.stokectl("tenant", "recover", "demo", "--accept-loss")
    again = etcdctl(endpoint, "get", "/k4", "-w", "json").stdout
    assert int(re.search(r'"revision":(\d+)', again).group(1)) > revision + 100_000
    assert etcdctl(endpoint, "get", "/k4", "--print-value-only").stdout.strip() == "19"
    assert etcdctl(endpoint, "lease", "timetolive", lease).stdout.strip().endswith("already expired")
    old = etcdctl(endpoint, "get", "/k4", "--rev", str(revision), check=False)
    assert "required revision has been compacted" in old.stderr
    watch = etcdctl(endpoint, "watch", "/k", "--prefix", "--rev", str(revision), check=False)
    assert "required revision has been compacted" in watch.stderr + watch.stdout
    etcdctl(endpoint, "put", "/k4", "new")
    daemon.restart()
    assert etcdctl(endpoint, "get", "/k4", "--print-value-only").stdout.strip() == "new"
    assert condition(daemon) == "Serving"
    # Nothing is lost now, so there is nothing to recover.
    assert daemon.stokectl("tenant", "recover", "demo", "--accept-loss", check=False).returncode == 4
