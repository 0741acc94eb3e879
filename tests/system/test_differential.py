"""
The same random programs of calls against a real etcd and against a tenant, answers compared field by field (go/differential). If it fails, a
client can tell the two apart: what was built against etcd may break here.

The short form takes three quarters of a minute. By hand, for half an hour, with a new etcd and new tenants each five minutes:

    STOKEHOLD_DIFFERENTIAL_SECONDS=1800 tests/run test_differential

What fails is shown as a list of steps, made small, with the program's seed and as a file for `differential -replay`.
"""

import os
import re
import subprocess

import pytest

from conftest import TREE, program, real_etcd, running
from test_sql_servers import DIALECTS, daemons, datastore, server_of, tenant_everywhere

FAULTS = re.findall(r'^\t\{"([a-z-]+)"', (TREE / "tests/system/go/differential/fault.go").read_text(), re.M)
SECONDS = int(os.environ.get("STOKEHOLD_DIFFERENTIAL_SECONDS", "14"))
BATCH = 300


def differential(directory, *arguments, daemon=None):
    """daemon: restarted whenever it asks for that."""
    file, errors, out = directory / "program.json", directory / "errors", ""
    restarts = ["-restarts"] if daemon else []
    with open(errors, "w", encoding="utf-8") as stderr, subprocess.Popen(
            [program("differential"), "-save", str(file), *restarts, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True) as p:
        try:
            for line in p.stdout:
                if line == "restart\n":
                    daemon.restart()
                    print("", file=p.stdin, flush=True)
                else:
                    out += line
        except BaseException:
            p.kill()
            raise
    print(out)
    saved = f"\n{file}:\n{file.read_text()}" if file.exists() else ""
    assert p.returncode == 0, errors.read_text() + saved[:20000]
    return out


def alike(out):
    return int(re.search(r"^(\d+) programs of \d+ steps alike", out, re.M).group(1))


def test_random_programs(seed, tmp_path):
    """Every call of every service, odd values, several clients and streams, restarts in between: the same answers and events, and equal hashes on
    two tenants."""
    left, first = SECONDS, seed
    while left > 0:
        seconds = min(left, BATCH)
        with real_etcd() as etcd, running() as daemon:
            daemon.start()
            out = differential(tmp_path, "-seed", str(first), "-seconds", str(seconds), "-fresh", "-concurrent", "8", "-count", "-twin", daemon.tenant("twin"),
                               etcd, daemon.tenant("first"), daemon=daemon)
        # Programs that are all refused would compare nothing.
        for call in ("KV/Put", "KV/Txn", "KV/Range", "KV/DeleteRange", "Watch/Watch"):
            assert re.search(rf"^ *\d+  {call}: OK$", out, re.M), out
        first, left = first + alike(out), left - seconds


def test_clients_on_several_endpoints(shared, etcd, seed, tmp_path):
    """Clients of one tenant that come in by different endpoints see one etcd."""
    endpoints = shared.tenant("several") + f",unix://{shared.root}/run/tenants/several/etcd.sock"
    differential(tmp_path, "-seed", str(seed), "-programs", "10", etcd, endpoints)


@pytest.mark.parametrize("name", FAULTS)
def test_finds(shared, etcd, seed, tmp_path, name):
    """A comparison that finds nothing, or shows a page of steps, would be of no use: mistakes put in on purpose are found and made small."""
    differential(tmp_path, "-seed", str(seed), "-seconds", "120", "-fault", name, etcd, shared.tenant(f"fault-{name}"))


@pytest.mark.parametrize("driver", DIALECTS)
def test_clients_on_two_daemons(driver, etcd, seed, tmp_path):
    """Clients of one tenant at two daemons, on a database server: still one etcd."""
    with server_of(driver) as server, daemons(2, datastore(driver, [server.endpoint], more="  system: true\n")) as found:
        differential(tmp_path, "-seed", str(seed), "-programs", "6", etcd, ",".join(tenant_everywhere(found)))
