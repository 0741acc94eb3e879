"""
Definitions: Kamaji's manifests and our own, taken as they are, re-read when they change; a mistake is one line with file, line and reason,
and changes nothing.
"""

import re
import shutil
import subprocess

import pytest

from conftest import TREE, etcdctl, plugins_directory, wait_for

INCLUDE = TREE / "include"
# A driver for the ABI that comes after this one.
FUTURE = """
#include <stokehold/driver.h>
__attribute__((visibility("default"))) const struct stoke_driver stoke_driver = {
        .magic = STOKE_DRIVER_MAGIC, .abi_major = STOKE_ABI_MAJOR + 1, .size = sizeof(struct stoke_driver), .name = "Future", .version = "1"};
"""
TENANT = """apiVersion: stokehold/v1alpha1
kind: Tenant
metadata:
  name: {name}
spec: {spec}
"""


def datastore(name, extra="", driver="SQLite"):
    return f"""apiVersion: stokehold/v1alpha1
kind: DataStore
metadata:
  name: {name}
spec:
  driver: {driver}
{extra or f"  path: {name}" + chr(10)}"""


def names(d, kind):
    return {x["name"]: x for x in d.ask(kind, "list")[f"{kind}s"]}


def test_tenant_and_datastore_from_files(daemon):
    """What is in Git is what runs: a datastore and a tenant on it, from one file with several documents."""
    daemon.define("a.yaml", datastore("gold") + "---\n" + TENANT.format(name="one", spec="{datastore: gold, quota: 64Mi}"))
    assert daemon.reload_errors() == []
    endpoint = daemon.wait_tenant("one")
    assert etcdctl(endpoint, "put", "a", "1").stdout == "OK\n"
    tenant = daemon.ask("tenant", "show", "one")
    assert tenant["datastore"] == "gold" and tenant["quotaBytes"] == 64 << 20 and re.search(r"a\.yaml:\d+$", tenant["source"])
    assert names(daemon, "datastore")["gold"]["usedBy"] == ["one"]


def test_tenant_without_datastore_goes_to_the_default(daemon):
    """Most tenants name none; they must land somewhere, and where the operator said."""
    daemon.define("a.yaml", datastore("gold", "  path: gold\n  default: true\n") + "---\n" + TENANT.format(name="one", spec="{}"))
    assert daemon.reload_errors() == []
    daemon.wait_tenant("one")
    assert daemon.ask("tenant", "show", "one")["datastore"] == "gold"


def test_changed_files_are_read_by_themselves(daemon):
    """A file that is put in place is in force within seconds, without a command."""
    daemon.define("a.yaml", TENANT.format(name="one", spec="{}"))
    wait_for("the tenant is there", lambda: "one" in names(daemon, "tenant"), 10)
    daemon.define("b.yaml", TENANT.format(name="two", spec="{}"))
    wait_for("the second is there", lambda: "two" in names(daemon, "tenant"), 10)
    daemon.undefine("b.yaml")
    wait_for("the second has gone", lambda: "two" not in names(daemon, "tenant"), 20)
    assert "one" in names(daemon, "tenant")


def test_hangup_reloads(daemon):
    """SIGHUP is what systemd and old habits send."""
    daemon.define("late.yaml", TENANT.format(name="late", spec="{}"))
    daemon.hangup()
    wait_for("the tenant is there", lambda: "late" in names(daemon, "tenant"), 10)
    assert daemon.process.poll() is None


MISTAKES = {
    "YAML syntax": ("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: [}\n", 3, ""),
    "no mapping": ("- a\n- b\n", 1, ""),
    "unknown kind": ("apiVersion: stokehold/v1alpha1\nkind: Teapot\nmetadata: {name: a}\n", 2, "Teapot"),
    "unknown apiVersion": ("apiVersion: stokehold/v9\nkind: Tenant\nmetadata: {name: a}\nspec: {}\n", 1, "stokehold/v9"),
    "no kind": ("apiVersion: stokehold/v1alpha1\nmetadata: {name: a}\n", 1, "kind"),
    "no name": ("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {}\nspec: {}\n", None, "name"),
    "bad name": ("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata:\n  name: Not_A_Name\nspec: {}\n", 4, "name"),
    "path as a name": ("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata:\n  name: ../../etc\nspec: {}\n", 4, "name"),
    "unknown field": ("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: a}\nspec:\n  datastroe: gold\n", 5, "datastroe"),
    "wrong type": ("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: a}\nspec:\n  datastore: [gold]\n", 5, "datastore"),
    "bad quantity": ("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: a}\nspec:\n  quota: much\n", 5, "quota"),
    "dangling datastore": ("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: a}\nspec:\n  datastore: none\n", 5, "none"),
    "unknown driver": ("apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: a}\nspec:\n  driver: Oracle\n", 5, "Oracle"),
    "missing driver": ("apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: a}\nspec:\n  default: true\n", None, "driver"),
    "one name twice": (datastore("a") + "---\n" + datastore("a"), None, "a"),
    "anchors": ("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: &m {name: a}\nspec: {}\n", 3, ""),
    "a key twice": ("apiVersion: stokehold/v1alpha1\nkind: Tenant\nkind: Tenant\nmetadata: {name: a}\nspec: {}\n", 3, "kind"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(shared, mistake):
    """A mistake is told with its file and line, and what was in force stays so."""
    text, line, word = MISTAKES[mistake]
    shared.define("good.yaml", datastore("good") + "---\n" + TENANT.format(name="good", spec="{datastore: good}"))
    assert shared.reload_errors() == []
    endpoint = shared.wait_tenant("good")
    # What a mistake before this one had defined may still be closing.
    wait_for("only the good datastore is there", lambda: "a" not in names(shared, "datastore"))
    before = names(shared, "tenant").keys(), names(shared, "datastore").keys()
    shared.define("wrong.yaml", text)
    try:
        errors = shared.reload_errors()
        assert len(errors) == 1, errors
        assert "\n" not in errors[0] and word in errors[0]
        found = re.search(r"wrong\.yaml:(\d+): .{4,}", errors[0])
        assert found, errors
        assert line is None or int(found.group(1)) == line, errors
        if mistake != "one name twice":
            assert (names(shared, "tenant").keys(), names(shared, "datastore").keys()) == before
        assert any("wrong.yaml" in p for p in shared.status()["problems"])
        assert etcdctl(endpoint, "put", "a", "1").stdout == "OK\n"
    finally:
        shared.undefine("wrong.yaml")
        assert shared.reload_errors() == []
    assert not shared.status()["problems"]


def test_datastore_in_use_cannot_be_removed(daemon):
    """A file that was deleted by mistake must not take the data of a tenant with it."""
    daemon.define("store.yaml", datastore("gold"))
    daemon.define("tenant.yaml", TENANT.format(name="one", spec="{datastore: gold}"))
    assert daemon.reload_errors() == []
    endpoint = daemon.wait_tenant("one")
    etcdctl(endpoint, "put", "a", "1")
    daemon.undefine("store.yaml")
    errors = daemon.reload_errors()
    assert len(errors) == 1 and "gold" in errors[0], errors
    assert etcdctl(endpoint, "get", "a").stdout == "a\n1\n"
    assert "gold" in names(daemon, "datastore")


def test_driver_cannot_be_changed(daemon):
    """As in Kamaji: data would be left behind in the other database."""
    daemon.define("store.yaml", datastore("gold"))
    assert daemon.reload_errors() == []
    daemon.define("store.yaml", datastore("gold", "  endpoints: [127.0.0.1:5432]\n", driver="PostgreSQL"))
    errors = daemon.reload_errors()
    assert len(errors) == 1 and re.search(r"store\.yaml:\d+: ", errors[0]), errors
    assert names(daemon, "datastore")["gold"]["driver"] == "SQLite"


# A manifest in one of Kamaji's shapes, of ours; and what kubectl get -o yaml makes of it. No driver for it is here, and that is all that
# may be said.
KAMAJI = """apiVersion: kamaji.clastix.io/v1alpha1
kind: DataStore
metadata:
  name: bronze
spec:
  driver: PostgreSQL
  endpoints:
    - db.example.svc:5432
  basicAuth:
    username:
      content: cm9vdA==
    password:
      secretReference: {name: bronze-auth, namespace: databases, keyPath: password}
  tlsConfig:
    certificateAuthority:
      certificate:
        secretReference: {name: bronze-ca, namespace: databases, keyPath: ca.crt}
"""


@pytest.mark.parametrize("text", [KAMAJI, KAMAJI.replace("  name: bronze\n", "  annotations: null\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n"
                                  "  generation: 2\n  labels: null\n  name: bronze\n  resourceVersion: \"12\"\n  uid: 5c9b6f4e-1f8a-4f0e-9a51-0c2b7b1c9d10\n", 1)
                                  + "status:\n  ready: true\n  usedBy:\n  - a/b\n"])
def test_kamajis_manifest_is_understood(daemon, text):
    """A platform's manifests are taken unchanged; what they refer to must be there."""
    daemon.define("kamaji.yaml", text)
    errors = daemon.reload_errors()
    assert len(errors) == 1 and "databases/bronze-auth, keyPath password" in errors[0], errors
    for name, key in (("bronze-auth", "password"), ("bronze-ca", "ca.crt")):
        folder = daemon.root / "secrets" / "databases" / name
        folder.mkdir(parents=True)
        (folder / key).write_text("x")
    assert daemon.reload_errors() == []
    shown = next(d for d in daemon.ask("datastore", "list")["datastores"] if d["name"] == "bronze")
    assert shown["driver"] == "PostgreSQL" and not shown["ready"], shown  # there is no such server


def test_manifest_with_status(daemon):
    """show -o yaml is what kubectl would print: the definition with ready, usedBy and conditions."""
    daemon.define("a.yaml", datastore("gold") + "---\n" + TENANT.format(name="one", spec="{datastore: gold}"))
    assert daemon.reload_errors() == []
    daemon.wait_tenant("one")
    text = daemon.stokectl("datastore", "show", "gold", "-o", "yaml").stdout
    for line in ("kind: DataStore", "  name: gold", "  driver: SQLite", "status:", "  ready: true", "  usedBy:"):
        assert re.search(f"^{line}", text, re.M), text
    assert re.search(r"type: kamaji\.clastix\.io/DataStoreValidation", text) and re.search(r"^\s*-? *\"?one\"?$|- one", text, re.M), text
    # It can be put back as it is.
    daemon.define("a.yaml", text + "\n---\n" + daemon.stokectl("tenant", "show", "one", "-o", "yaml").stdout)
    assert daemon.reload_errors() == []


def built_plugin():
    return plugins_directory() / "sqlite.so"


def test_plugin_dropped_in_while_running(stopped):
    """A new driver needs no restart, which would interrupt every tenant."""
    stopped.plugins = stopped.root / "plugins"
    stopped.plugins.mkdir(mode=0o755)
    stopped.start(wait=False)
    wait_for("stokectl is answered", lambda: stopped.stokectl("status", check=False).returncode == 0)
    assert stopped.ask("driver", "list")["drivers"] == []
    stopped.define("a.yaml", datastore("gold", "  path: gold\n  default: true\n"))
    assert len(stopped.reload_errors()) >= 1
    shutil.copy(built_plugin(), stopped.plugins / "sqlite.so")
    (stopped.plugins / "sqlite.so").chmod(0o755)
    assert stopped.reload_errors() == []
    assert [d["name"] for d in stopped.ask("driver", "list")["drivers"]] == ["SQLite"]
    wait_for("the datastore is ready", lambda: names(stopped, "datastore")["gold"]["ready"])
    wait_for("the registry is open", lambda: not stopped.status()["problems"])
    assert etcdctl(stopped.tenant("one", "--datastore", "gold"), "put", "a", "1").stdout == "OK\n"


def test_refused_plugins(stopped):
    """A text file, a foreign library, one of another ABI, one that anybody may write: each is skipped, with the reason, and none is run."""
    stopped.plugins = stopped.root / "plugins"
    stopped.plugins.mkdir(mode=0o755)
    good = stopped.plugins / "sqlite.so"
    shutil.copy(built_plugin(), good)
    good.chmod(0o755)
    (stopped.plugins / "text.so").write_text("not a library\n")
    shutil.copy(built_plugin(), stopped.plugins / "open.so")
    (stopped.plugins / "open.so").chmod(0o777)

    def compile_plugin(name, source):
        subprocess.run(["cc", "-shared", "-fPIC", "-I", str(INCLUDE), "-o", str(stopped.plugins / name), "-x", "c", "-"], input=source,
                       text=True, check=True)
        (stopped.plugins / name).chmod(0o755)
    compile_plugin("foreign.so", "int answer(void) { return 42; }\n")
    found = dict.fromkeys(["text.so", "open.so", "foreign.so"])
    compile_plugin("future.so", FUTURE)
    found["future.so"] = None
    stopped.start()
    refused = {r["path"].rsplit("/", 1)[-1]: r["reason"] for r in stopped.ask("driver", "list")["refused"]}
    assert set(refused) == set(found) and all(len(r) > 5 for r in refused.values()), refused
    assert "ABI" in refused["future.so"], refused
    assert [d["name"] for d in stopped.ask("driver", "list")["drivers"]] == ["SQLite"]
    for name in found:
        assert name in stopped.log()
