"""
Who may look and who may change, as DESIGN.md has it, tried with real processes of several users and groups on the daemon as it is installed; and the
audit of what they did.
"""

import base64
import json
import os
import pathlib
import re
import sys
from secrets import token_hex

import pytest

from conftest import TREE, program, running, wait_for
from installed import ADMIN, DAEMON, VIEW, Installed, as_user, needs_root

# Every method of the service is in one of the two: who adds one says here who may. What a viewer may ask for shows no secret and no tenant's data.
LOOKING = {"Status", "ListDrivers", "ListDatastores", "ListTenants", "CheckDatastore", "ListMigrations", "ShowMigration", "ListTransfers"}
CHANGING = {"CreateTenant", "DeleteTenant", "RecoverTenant", "ResumeTenant", "Reload", "ClaimDatastore", "RecoverRegistry", "FinalizeUpgrade",
            "SetLogLevel", "MigrateTenant", "AbortMigration", "UndoMigration", "BackupTenant", "RestoreTenant", "CloneTenant", "ImportTenant",
            "ExportTenant", "FinishTransfer", "AbortTransfer", "IssueCredentials"}

SOMEBODY, OTHERS = 61100, 61101
NOTHING, LOOK, CHANGE = range(3)
WHO = {
    "root": (0, 0, [], CHANGE),
    "admins, primary group": (SOMEBODY, ADMIN, [], CHANGE),
    "admins, supplementary group": (SOMEBODY, OTHERS, [OTHERS, 61500, ADMIN], CHANGE),
    "admins and viewers": (SOMEBODY, VIEW, [VIEW, ADMIN], CHANGE),
    "viewers, primary group": (SOMEBODY, VIEW, [], LOOK),
    "viewers, supplementary group": (SOMEBODY, OTHERS, [61500, VIEW], LOOK),
    "the daemon's own user": (DAEMON, DAEMON, [], NOTHING),
    "somebody in root's group": (SOMEBODY, 0, [0], NOTHING),
    "nobody": (65534, 65534, [], NOTHING),
    "a user with the number of the admins' group": (ADMIN, OTHERS, [], NOTHING),
    "a member by /etc/group whose process is not": (1, 1, [], NOTHING),
}


def methods():
    text = (TREE / "include" / "stokehold" / "control.proto").read_text(encoding="utf-8")
    found = set(re.findall(r"^ +rpc (\w+)\(", text, re.M))
    assert not found - LOOKING - CHANGING, f"not in this file's lists: {found - LOOKING - CHANGING}"
    return sorted(found)


def ask(daemon, who, *names):
    uid, gid, groups, _ = who
    helper = pathlib.Path(__file__).with_name("ask_control.py")
    # grpcio takes a while to give up on who is refused at the door; the code is all the same.
    done = as_user(uid, gid, groups, [sys.executable, "-B", str(helper), str(daemon.control_socket), *names])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(name="installed", scope="module")
def fixture_installed():
    needs_root()
    marker = f"marker{token_hex(8)}"
    content = base64.b64encode(marker.encode()).decode()
    with running(Installed, members="daemon") as d:
        d.marker = marker
        d.define("secret.yaml", f"""apiVersion: v1
kind: Secret
metadata: {{name: s, namespace: default}}
data: {{password: {content}}}
---
apiVersion: stokehold/v1alpha1
kind: DataStore
metadata: {{name: remote}}
spec:
  driver: PostgreSQL
  endpoints: ["127.0.0.1:1"]
  basicAuth: {{username: {{content: {content}}}, password: {{secretReference: {{name: s, keyPath: password}}}}}}
""")
        d.start()
        d.tenant("demo")
        yield d


@pytest.mark.parametrize("name", WHO)
def test_every_method(installed, name):
    """root and the admins may change, viewers may look and no more, nobody else gets in: whatever process and group it comes from."""
    right = WHO[name][3]
    logged = len(installed.log())
    answers = ask(installed, WHO[name], *methods())
    for method, (code, message, data) in answers.items():
        if right == NOTHING:
            assert code == "UNAVAILABLE" and not data, (method, code, message)
        elif right == LOOK and method in CHANGING:
            assert code == "PERMISSION_DENIED" and "stokehold-admin" in message and not data, (method, code, message)
        else:
            assert code not in ("PERMISSION_DENIED", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN"), (method, code, message)
        if right != NOTHING and method in ("Status", "ListDrivers", "ListDatastores", "ListTenants"):
            assert code == "OK" and data, (method, code, message)
        assert installed.marker not in message + bytes.fromhex(data).decode(errors="replace")
    assert installed.marker not in installed.log()
    if right == CHANGE:  # there is none that changes something in silence
        text = installed.log()[logged:]
        for method in CHANGING & set(methods()) - {"RestoreTenant"}:  # whose first message, if it is empty, asks for nothing
            assert re.search(rf"audit=begun method={method} .*uid={WHO[name][0]} ", text), (method, answers[method])
            assert re.search(rf"audit=(done|failed) method={method} .*result=\w+ uid={WHO[name][0]} ", text), (method, answers[method])


def test_groups_that_are_not_there(installed):
    """Without the groups nobody but root gets in, and what was group 61001 until the reload is nobody's group after."""
    group = installed.root / "group"
    text = group.read_text()
    try:
        # In place: the file is mounted.
        group.write_text("".join(line for line in text.splitlines(True) if "stokehold" not in line))
        assert installed.reload_errors() == []
        for name in ("admins, primary group", "viewers, supplementary group"):
            assert ask(installed, WHO[name], "Status")["Status"][0] == "UNAVAILABLE"
        assert ask(installed, WHO["root"], "Status")["Status"][0] == "OK"
    finally:
        group.write_text(text)
        assert installed.reload_errors() == []
    assert ask(installed, WHO["viewers, supplementary group"], "Status")["Status"][0] == "OK"


def stokectl(daemon, who, *arguments):
    uid, gid, groups, _ = who
    return as_user(uid, gid, groups, [program("stokectl"), "--root", str(daemon.root), *arguments],
                   env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"))


def test_audit():
    """Who changed what, and who tried, is in the journal in fields that can be asked for, whatever the log level is."""
    needs_root()
    with running(Installed, settings="log: {level: error}\n") as d:
        journal = d.use_journal()
        d.start()

        def audited(n):
            found = [e for e in journal.read() if "STOKEHOLD_AUDIT" in e]
            assert len(found) >= n, journal.entries
            return found
        admin, viewer = WHO["admins, supplementary group"], WHO["viewers, primary group"]
        assert stokectl(d, admin, "tenant", "create", "demo").returncode == 0
        assert stokectl(d, admin, "tenant", "create", "demo").returncode == 4
        assert stokectl(d, viewer, "tenant", "delete", "demo", "--yes").returncode == 5
        assert stokectl(d, viewer, "tenant", "list").returncode == 0
        assert stokectl(d, WHO["nobody"], "status").returncode in (5, 6)
        assert d.stokectl("tenant", "delete", "demo", "--yes").returncode == 0
        wait_for("the audit", lambda: audited(8))
        entries = audited(8)
        shown = [(e["STOKEHOLD_AUDIT"], e["STOKEHOLD_METHOD"], e.get("STOKEHOLD_TENANT"), e.get("STOKEHOLD_RESULT"), e["STOKEHOLD_UID"])
                 for e in entries if e["STOKEHOLD_METHOD"] != "connect"]
        admin, viewer = str(admin[0]), str(viewer[0])
        assert shown == [
            ("begun", "CreateTenant", "demo", None, admin), ("done", "CreateTenant", "demo", "OK", admin),
            ("begun", "CreateTenant", "demo", None, admin), ("failed", "CreateTenant", "demo", "ALREADY_EXISTS", admin),
            ("refused", "DeleteTenant", None, "PERMISSION_DENIED", viewer),
            ("begun", "DeleteTenant", "demo", None, "0"), ("done", "DeleteTenant", "demo", "OK", "0")], shown
        for e in entries:
            assert e["PRIORITY"] == "5" and int(e["STOKEHOLD_PID"]) > 0 and e["STOKEHOLD_PEER"] and e["MESSAGE"].startswith("control: ")
        assert entries[-1]["STOKEHOLD_USER"] == "root" and entries[-1]["STOKEHOLD_COMMAND"] == "stokectl"
        assert "STOKEHOLD_USER" not in entries[0]  # has no name
        connects = [e for e in entries if e["STOKEHOLD_METHOD"] == "connect"]
        assert connects and all(e["STOKEHOLD_AUDIT"] == "refused" and e["STOKEHOLD_USER"] == "nobody" for e in connects)
        journal.close()
