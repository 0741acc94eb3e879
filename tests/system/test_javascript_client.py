"""
The JavaScript client of etcd from npm (js/client.js): keys, namespaces, transactions, watches, leases, locks, transactional memory.
"""

import os
import pathlib
import subprocess

from conftest import TOOLS, TREE, free_port


def test_javascript_client(stopped):
    """Programs in Node find in a tenant the etcd that they know."""
    port = free_port()
    stopped.define("t.yaml", f"""apiVersion: stokehold/v1alpha1
kind: Tenant
metadata: {{name: js}}
spec:
  endpoint:
    tcp: 127.0.0.1:{port}
""")
    stopped.start()
    stopped.wait_tenant("js")
    modules = pathlib.Path(os.environ.get("STOKEHOLD_JS", TOOLS.parent / "js")) / "node_modules"
    assert (modules / "etcd3").is_dir(), f"{modules}: tests/run installs it"
    r = subprocess.run(["node", str(TREE / "tests/system/js/client.js"), f"http://127.0.0.1:{port}"], capture_output=True, text=True,
                       timeout=90, env=dict(os.environ, NODE_PATH=str(modules)), check=False)
    assert r.returncode == 0 and r.stdout == "done\n", r.stderr
