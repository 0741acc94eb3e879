"""
A real kube-apiserver on a tenant: `tests/run --long kube_apiserver`. It is built from k8s.io/kubernetes (go/kubernetes), which takes minutes.
"""

import concurrent.futures
import json
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

from conftest import free_port, program, scratch, wait_for
from credentials import flags, with_authority

TOKEN = "a-token-for-this-test"


class ApiServer:
    def __init__(self, directory, etcd):
        self.port = free_port()
        self.directory = directory
        (directory / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        subprocess.run(["openssl", "genrsa", "-out", str(directory / "sa.key"), "2048"], check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", str(directory / "sa.key"), "-pubout", "-out", str(directory / "sa.pub")], check=True, capture_output=True)
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.command = [
            program("kube-apiserver"), *etcd, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={self.port}",
            f"--cert-dir={directory}/certs", f"--token-auth-file={directory}/tokens.csv", "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={directory}/sa.pub",
            f"--service-account-signing-key-file={directory}/sa.key", "--service-cluster-ip-range=10.0.0.0/24", "--etcd-compaction-interval=20s",
            "--disable-admission-plugins=ServiceAccount"]
        self.process = None

    def start(self):
        with open(self.directory / "apiserver.log", "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for("kube-apiserver is ready", self.ready, 120, 0.5)

    def stop(self):
        self.process.terminate()
        self.process.wait(90)

    def log(self):
        return (self.directory / "apiserver.log").read_text()

    def ready(self):
        assert self.process.poll() is None, self.log()[-3000:]
        return self.call("GET", "/readyz", raw=True) == b"ok"

    def open(self, method, path, body=None, content="application/json", timeout=30):
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", method=method, data=json.dumps(body).encode() if body else None,
                                         headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": content})
        return urllib.request.urlopen(request, timeout=timeout, context=self.context)

    def call(self, method, path, body=None, raw=False, content="application/json"):
        with self.open(method, path, body, content) as r:
            data = r.read()
        return data if raw else json.loads(data)


def config_map(name, value):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": value}}


def flags_for(daemon, manner):
    """What stokectl says to paste: for the Unix socket, or with a certificate for the TLS port."""
    more = []
    if manner == "tls":
        wait_for("the port is open", lambda: any(e.startswith("https://") for e in daemon.ask("tenant", "show", "cluster")["endpoints"]))
        more = ["--directory", str(daemon.root / "cluster")]
    found = flags(daemon.stokectl("tenant", "credentials", "cluster", "--for", "kube-apiserver", *more).stdout)
    assert ("https://" in found[0]) == (manner == "tls") and len(found) == (4 if manner == "tls" else 1)
    return found


@pytest.mark.long
@pytest.mark.parametrize("manner", ["socket", "tls"])
def test_kube_apiserver(stopped, manner):
    """The purpose of it all: an API server starts on a tenant, keeps objects, lists them in pages, watches, conflicts, applies defaults,
    and goes on when the daemon is restarted or killed under it."""
    if manner == "tls":
        with_authority(stopped)
    daemon = stopped.start()
    daemon.tenant("cluster")
    base = "/api/v1/namespaces/default/configmaps"
    with scratch() as directory:
        api = ApiServer(directory, flags_for(daemon, manner))
        api.start()
        try:
            wait_for("the default namespace", lambda: api.call("GET", "/api/v1/namespaces/default"), 60)
            seen = []

            def follow():
                with api.open("GET", f"{base}?watch=true&resourceVersion=0", timeout=120) as r:
                    for line in r:
                        seen.append(json.loads(line))
            threading.Thread(target=follow, daemon=True).start()

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda i: api.call("POST", base, config_map(f"c{i:04d}", str(i))), range(300)))
            pages, token = [], ""
            while True:
                page = api.call("GET", f"{base}?limit=70&continue={token}")
                pages += [i["metadata"]["name"] for i in page["items"] if i["metadata"]["name"].startswith("c0")]
                token = page["metadata"].get("continue", "")
                if not token:
                    break
            assert pages == [f"c{i:04d}" for i in range(300)]

            one = api.call("GET", f"{base}/c0001")
            changed = dict(one, data={"v": "changed"})
            api.call("PUT", f"{base}/c0001", changed)
            with pytest.raises(urllib.error.HTTPError) as e:
                api.call("PUT", f"{base}/c0001", changed)
            assert e.value.code == 409
            with pytest.raises(urllib.error.HTTPError) as e:
                api.call("POST", base, config_map("c0001", "again"))
            assert e.value.code == 409
            api.call("DELETE", f"{base}/c0002")
            wait_for("the watch has seen it all", lambda: sum(1 for s in seen if s["type"] == "ADDED" and s["object"]["metadata"]["name"].startswith("c0")) == 300
                     and any(s["type"] == "MODIFIED" and s["object"]["metadata"]["name"] == "c0001" for s in seen)
                     and any(s["type"] == "DELETED" and s["object"]["metadata"]["name"] == "c0002" for s in seen), 20)

            # An event has a lease.
            api.call("POST", "/api/v1/namespaces/default/events", {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}})
            # A resource of its own gets storage, and a connection, of its own.
            api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "kettles.example.com"},
                "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "kettles", "singular": "kettle", "kind": "Kettle"},
                         "versions": [{"name": "v1", "served": True, "storage": True,
                                       "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}})
            wait_for("the new resource", lambda: api.call("POST", "/apis/example.com/v1/namespaces/default/kettles",
                                                          {"apiVersion": "example.com/v1", "kind": "Kettle", "metadata": {"name": "k"}}), 60, 0.5)

            # A consistent list from the watch cache needs progress in time; without, each takes 3 s and more.
            begin = time.monotonic()
            for _ in range(20):
                assert len(api.call("GET", base)["items"]) >= 299
            assert time.monotonic() - begin < 15

            for again in (daemon.restart, lambda: (daemon.kill(), daemon.start())):
                again()
                wait_for("writes go on", lambda: api.call("PATCH", f"{base}/c0003", {"data": {"v": str(time.time())}}, content="application/merge-patch+json"), 60, 0.3)
                assert api.call("GET", f"{base}/c0001")["data"]["v"] == "changed"

            # The compactor runs each 20 s here.
            wait_for("the history is compacted", lambda: daemon.ask("tenant", "show", "cluster")["compacted"] > 0, 120, 1)
            status = daemon.ask("tenant", "show", "cluster")
            print(f"connections {status['nConnections']}, watches {status['nWatchers']}, keys {status['nKeys']}, revision {status['revision']}")
            assert api.ready()
        finally:
            api.stop()
        assert "panic" not in api.log()
