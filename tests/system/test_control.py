"""
stokectl and the control socket: exit codes that scripts build on, output that people and programs read, and who may use it.
"""

import json
import os
import re

import pytest

from conftest import as_root, etcdctl, program, scratch, wait_for
import subprocess

NOBODY = 65534


def test_exit_codes(daemon):
    """A script must tell 'not there' from 'not reachable' from 'not allowed' without reading texts."""
    def code(*arguments):
        r = daemon.stokectl(*arguments, check=False)
        assert r.returncode == 0 or re.fullmatch(r"stokectl: [^\n]+\n", r.stderr), r
        return r.returncode
    assert code("status") == 0
    assert code("tenant", "create", "one") == 0
    assert code("tenant", "create", "one") == 4
    assert code("tenant", "show", "two") == 3
    assert code("tenant", "delete", "two", "--yes") == 3
    assert code("datastore", "show", "two") == 3
    assert code("datastore", "check", "two") == 3
    assert code("tenant", "create", "two", "--datastore", "none") in (3, 2)
    assert code("tenant", "create", "Not_A_Name") == 2
    assert code("tenant", "create", "../x") == 2
    assert code("tenant", "delete", "one") == 2  # nobody to ask
    assert code("log-level", "loud") == 2
    assert code("frobnicate") == 2
    assert code("tenant") == 2
    assert code("tenant", "list", "--quota", "1Gi") == 2
    assert code("tenant", "list", "-o", "xml") == 2
    assert code("tenant", "create", "x", "--quota", "much") == 2
    assert code("status", "--timeout", "soon") == 2
    assert code() == 2
    assert code("tenant", "delete", "one", "--yes") == 0
    daemon.stop()
    assert code("status") == 6


def test_tenant_of_a_file_is_not_deleted_by_hand(daemon):
    """It would come back at the next reload; who wants it gone is told where it is defined."""
    daemon.define("t.yaml", "apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: filed}\nspec: {}\n")
    assert daemon.reload_errors() == []
    daemon.wait_tenant("filed")
    r = daemon.stokectl("tenant", "delete", "filed", "--yes", check=False)
    assert r.returncode == 4 and "t.yaml" in r.stderr, r
    assert daemon.stokectl("tenant", "create", "filed", check=False).returncode == 4


COMMANDS = ["status", "reload", "log-level", "driver", "driver list", "datastore", "datastore list", "datastore show", "datastore check",
            "datastore claim", "upgrade", "upgrade finalize", "registry", "registry recover", "tenant",
            "tenant list", "tenant show", "tenant create", "tenant delete", "tenant recover", "tenant resume", ""]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    """Help needs no daemon, and fits a terminal."""
    r = subprocess.run([program("stokectl"), *command.split(), "--help"], capture_output=True, text=True, timeout=10, check=False)
    assert r.returncode == 0 and r.stdout.startswith(f"Usage: stokectl {command}".rstrip()) and not r.stderr
    assert all(len(line) <= 100 for line in r.stdout.splitlines()), r.stdout


def test_version():
    """What one is asked first when reporting a bug."""
    r = subprocess.run([program("stokectl"), "--version"], capture_output=True, text=True, timeout=10, check=True)
    assert re.fullmatch(r"stokectl \d+\.\d+\.\d+\n", r.stdout)
    r = subprocess.run([program("stokehold"), "--version"], capture_output=True, text=True, timeout=10, check=True)
    assert re.search(r"\d+\.\d+\.\d+", r.stdout)


def test_no_daemon():
    """The first mistake of all is told with what to do about it."""
    with scratch() as root:
        r = subprocess.run([program("stokectl"), "--root", str(root), "status"], capture_output=True, text=True, timeout=10, check=False)
        assert r.returncode == 6 and "is stokehold running?" in r.stderr


def test_formats(daemon):
    """Tables for people, JSON and YAML for programs, all with the same in them."""
    endpoint = daemon.tenant("demo", "--quota", "1Gi")
    etcdctl(endpoint, "put", "a", "1")

    def counted():
        return daemon.ask("tenant", "show", "demo")["nKeys"] == 1
    wait_for("the figures are there", counted)
    shown = daemon.ask("tenant", "show", "demo")
    assert shown["revision"] == 2 and shown["quotaBytes"] == 1 << 30 and shown["condition"] == "Serving"
    table = daemon.stokectl("tenant", "list").stdout.splitlines()
    assert table[0].split()[:3] == ["NAME", "DATASTORE", "PHASE"] and table[1].split()[0] == "demo" and "\033" not in "".join(table)
    yaml = daemon.stokectl("tenant", "list", "-o", "yaml").stdout
    assert re.search(r"^- name: demo$|^  name: demo$", yaml, re.M), yaml
    assert f"--etcd-servers={shown['endpoints'][0]}" in daemon.stokectl("tenant", "show", "demo").stdout
    for command in (["status"], ["driver", "list"], ["datastore", "list"], ["tenant", "list"]):
        assert isinstance(daemon.ask(*command), dict)
        assert daemon.stokectl(*command).stdout and daemon.stokectl(*command, "-o", "yaml").stdout
    store = daemon.ask("datastore", "list")["datastores"][0]["name"]
    assert "SQLite" in daemon.stokectl("datastore", "show", store).stdout
    check = daemon.ask("datastore", "check", store)
    assert check["ok"] and {i["name"] for i in check["items"]}
    assert daemon.stokectl("datastore", "check", store).stdout


def test_deletion_keeps_data_where_asked(daemon):
    """--keep-data is what stands between a slip and a lost cluster."""
    endpoint = daemon.tenant("kept")
    etcdctl(endpoint, "put", "a", "1")
    daemon.stokectl("tenant", "delete", "kept", "--yes", "--keep-data")
    files = [p for p in (daemon.root / "state").rglob("*") if p.is_file() and "kept" in str(p)]
    assert files, list((daemon.root / "state").rglob("*"))


def test_foreign_user_is_refused(daemon):
    """Another user of the machine must not see tenants, let alone delete them, even if the socket's mode lets him in."""
    daemon.tenant("demo")
    for d in (daemon.root, daemon.root / "run"):
        os.chmod(d, 0o755)
    os.chmod(daemon.control_socket, 0o666)
    for command in (["status"], ["tenant", "list"], ["tenant", "delete", "demo", "--yes"], ["reload"], ["log-level", "debug"]):
        r = daemon.stokectl(*command, check=False, user=NOBODY)
        assert r.returncode in (5, 6) and "demo" not in r.stdout and re.fullmatch(r"stokectl: [^\n]+\n", r.stderr), r
    assert "demo" in {t["name"] for t in daemon.ask("tenant", "list")["tenants"]}


def test_control_socket_is_closed_to_others(daemon):
    """As it is made, nobody else can even connect."""
    r = daemon.stokectl("status", check=False, user=NOBODY)
    assert r.returncode == 5, r


def test_log_level_at_run_time(daemon):
    """Who looks for a fault turns the log up without a restart, which would hide the fault."""
    assert daemon.stokectl("log-level").stdout == "info\n"
    assert "debug" in daemon.stokectl("log-level", "debug").stdout
    assert daemon.status()["logLevel"] == "debug"
    daemon.stokectl("log-level", "info")
    assert json.loads(daemon.stokectl("status", "-o", "json").stdout)["logLevel"] == "info"
