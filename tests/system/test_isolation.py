"""
One tenant against another, on the same shard and in the same datastore: whatever etcd's API has is tried from the one, whose client may do all with
his own, while the other looks whether it was touched (tests/system/go/isolation). If these fail, a customer reads or breaks another's cluster.
"""

import contextlib
import json
import os
import re
import subprocess
from secrets import token_hex

import pytest

import servers
from conftest import free_port, program, running
from installed import needs_root
from test_sql_servers import datastore

ATTACKER, WITNESS = 61201, 61202


class Side:
    """One end of tests/system/go/isolation: lines of JSON in and out."""

    def __init__(self, role, plan, uid=None):
        command = [program("isolation"), role]
        if uid is not None:
            command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *command]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.tell(plan)

    def tell(self, what):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()

    def hear(self):
        text = self.process.stdout.readline()
        assert text, self.process.stderr.read()[-4000:]
        return json.loads(text)

    def end(self):
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors[-4000:]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def names():
    """The witness' name, and one as long that no tenant has."""
    end = token_hex(4)
    return f"witness-{end}", f"absents-{token_hex(4)}"


def play(attacker_plan, witness_plan, attacker_uid=None, witness_uid=None):
    """The whole of it; what the attacker has done."""
    marker = f"Mk{token_hex(8)}"
    with Side("witness", witness_plan | {"Marker": marker}, witness_uid) as witness, \
            Side("attack", attacker_plan | {"Marker": marker}, attacker_uid) as attacker:
        known = witness.hear()
        attacker.tell(known)
        assert attacker.hear() == "attacked"
        witness.tell("look")
        assert witness.hear() == "untouched"
        attacker.tell("look")
        did = attacker.hear()
        attacker.end()
        witness.tell("end")
        witness.end()
    print(did)
    return did


@pytest.mark.parametrize("part", ["kv", "leases", "cluster", "generic", "files"])
def test_what_can_be_reached_is_found(daemon, part):
    """An attack that finds nothing anywhere proves nothing: a tenant's own client, let loose on it as if on another's, finds it in each way."""
    endpoint = daemon.tenant("demo")
    with Side("witness", {"Endpoints": [endpoint], "Marker": "Mk0123456789abcdef"}) as witness, \
            Side("attack", {"Endpoints": [endpoint], "Marker": "Mk0123456789abcdef", "Name": "demo", "Absent": "none", "Parts": [part],
                            "Closed": [str(daemon.root / "state" / "daemon.lock")]}) as attacker:
        attacker.tell(witness.hear())
        _, errors = attacker.process.communicate(timeout=60)
        assert attacker.process.returncode == 1 and re.match("attack: ", errors), errors
        print(errors[:200])


def check_log(daemon, did):
    calls = int(re.match(r"(\d+) calls", did).group(1))
    assert calls > 1000, did
    assert daemon.process.poll() is None


@pytest.mark.parametrize("where", ["SQLite", "PostgreSQL"])
def test_one_tenant_against_another(where):
    """Over a Unix socket and loopback TCP, as different users of the machine; with SQLite the other's socket is its owner's alone, with PostgreSQL,
    where both are in one database, a list of peers keeps others out whom the file's mode lets in."""
    needs_root()
    name, absent = names()
    port = free_port()
    closed = f"{{owner: {WITNESS}, group: {WITNESS}, mode: \"0600\"}}" if where == "SQLite" else f"{{mode: \"0666\", peers: [{WITNESS}]}}"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.PostgreSQL()) if where == "PostgreSQL" else None
        d = stack.enter_context(running())
        (d.root / "stokehold.yaml").write_text("shards: 1\nlog: {level: debug}\n")
        if server:
            d.define("datastore.yaml", datastore("PostgreSQL", [server.endpoint], more="  system: true\n"))
        os.chmod(d.definitions, 0o700)
        d.define("tenants.yaml", f"""apiVersion: stokehold/v1alpha1
kind: Tenant
metadata: {{name: attacker}}
spec: {{endpoint: {{owner: {ATTACKER}, group: {ATTACKER}, mode: "0600", tcp: "127.0.0.1:{port}"}}}}
---
apiVersion: stokehold/v1alpha1
kind: Tenant
metadata: {{name: {name}}}
spec: {{endpoint: {closed}}}
""")
        d.start()
        for tenant in ("attacker", name):
            d.wait_tenant(tenant)
        shown = {t["name"]: t for t in d.ask("tenant", "list")["tenants"]}
        assert shown["attacker"]["datastore"] == shown[name]["datastore"]
        run = d.root / "run"
        secret = [run / "tenants" / name / "etcd.sock", run / "tenants" / f"{name}.sock", run / "tenants" / "attacker" / ".." / name / "etcd.sock",
                  run / "control.sock", d.root / "state", d.root / "state" / "daemon.lock", d.root / "definitions.d" / "tenants.yaml",
                  *(p for p in (d.root / "state").rglob("*"))]
        did = play({"Endpoints": [f"unix://{run}/tenants/attacker.sock", f"http://127.0.0.1:{port}"], "Name": name, "Absent": absent,
                    "Closed": [str(p) for p in secret]},
                   {"Endpoints": [d.endpoint(name)]}, ATTACKER, WITNESS)
        check_log(d, did)
