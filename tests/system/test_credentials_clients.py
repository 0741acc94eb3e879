"""
What `stokectl tenant credentials` prints, pasted where it says, at a daemon's TLS port: etcdctl here, and with --long kubeadm, kube-apiserver
(test_kube_apiserver.py) and what k3s reaches its datastore with. If these fail, an operator has pasted in vain.
"""

import json
import re
import shutil
import subprocess
import time

import pytest

from conftest import etcdctl, program, scratch, wait_for
from credentials import flags, in_shell, openssl, serial_of, stokectl, with_authority


@pytest.fixture
def tls(stopped):
    with_authority(stopped)
    return stopped.start()


def credentials(daemon, name, client, *more):
    """What is printed for a client, with its files in a folder of their own."""
    wait_for(
        "the port is open", lambda: any(e.startswith("https://") for e in daemon.ask("tenant", "show", name)["endpoints"]))
    return daemon.stokectl("tenant", "credentials", name, "--for", client, "--directory", str(daemon.root / f"{name}-{client}"), *more).stdout


def works(pasted, *command):
    return in_shell(pasted, program("etcdctl"), "--command-timeout=3s", "--dial-timeout=3s", *command, check=False).returncode == 0


def test_etcdctl(tls):
    """A tenant's client reads and watches what is the tenant's, over TLS as over the socket."""
    endpoint = tls.tenant("berlin")
    said = credentials(tls, "berlin", "etcdctl")
    assert in_shell(said, program("etcdctl"), "put", "kettle", "1").stdout == "OK\n"
    assert etcdctl(endpoint, "get", "kettle", "--print-value-only").stdout == "1\n"
    status = json.loads(in_shell(said, program("etcdctl"), "endpoint", "status", "-w", "json").stdout)
    assert status[0]["Endpoint"].startswith("https://localhost:")
    assert "is healthy" in in_shell(said, program("etcdctl"), "endpoint", "health").stderr + in_shell(said, program("etcdctl"), "endpoint", "health").stdout


def test_each_tenant_its_own(tls):
    """Certificates of two tenants, and of one that was before, lead each to its own, or nowhere."""
    said = {}
    for name in ("berlin", "london"):
        tls.tenant(name)
        said[name] = credentials(tls, name, "etcdctl")
        in_shell(said[name], program("etcdctl"), "put", "who", name)
    for name in ("berlin", "london"):
        assert in_shell(said[name], program("etcdctl"), "get", "--prefix", "", "--print-value-only").stdout == f"{name}\n"
    tls.stokectl("tenant", "delete", "berlin", "--yes")
    assert not works(said["berlin"], "get", "who")
    time.sleep(1.1)  # the name has a time with seconds in it
    tls.tenant("berlin")
    new = tls.root / "berlin-etcdctl"
    new.rename(tls.root / "berlin-before")
    said["before"] = said["berlin"].replace(str(new), str(tls.root / "berlin-before"))
    said["berlin"] = credentials(tls, "berlin", "etcdctl")
    assert works(said["berlin"], "put", "who", "the new one") and works(said["london"], "get", "who")
    assert not works(said["before"], "get", "who")
    # Nor is a common name enough, which the authority never signed without the rest.
    tls.restart()
    assert works(said["berlin"], "get", "who") and not works(said["before"], "get", "who")


def test_revoked(tls):
    """A certificate that was lost lets nobody in any more: new connections are refused, and those that are open are closed."""
    tls.tenant("berlin")
    said = credentials(tls, "berlin", "etcdctl")
    other = said.replace(str(tls.root / "berlin-etcdctl"), str(tls.root / "other"))
    shutil.move(tls.root / "berlin-etcdctl", tls.root / "other")
    said = credentials(tls, "berlin", "etcdctl")
    watch = subprocess.Popen(["sh", "-c", f"{other}\nexec {program('etcdctl')} watch key"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for("the watch", lambda: tls.ask("tenant", "show", "berlin")["nWatchers"] == 1)
        stokectl("authority", "revoke", "--directory", str(tls.root / "tls"), serial_of(other))
        wait_for("it is refused", lambda: not works(other, "get", "key"))
        wait_for("the watch is gone", lambda: tls.ask("tenant", "show", "berlin")["nWatchers"] == 0)
        assert works(said, "put", "key", "1")
        assert tls.status()["problems"] == []
    finally:
        watch.kill()
        watch.communicate()


def test_renewed_under_clients(tls):
    """A new certificate of the server's, and a new one of the client's, with connections open: nobody notices."""
    tls.tenant("berlin")
    said = credentials(tls, "berlin", "etcdctl")
    tls_directory = tls.root / "tls"
    before = (tls_directory / "server.crt").read_bytes()
    stokectl("authority", "renew", "--directory", str(tls_directory))
    port = re.search(r"https://localhost:(\d+)", said).group(1)

    def shown():
        return openssl("s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", tls_directory / "ca.crt", "-alpn", "h2", "-showcerts", "-cert",
                       tls.root / "berlin-etcdctl" / "client.crt", "-key", tls.root / "berlin-etcdctl" / "client.key", check=False).stdout
    new = "".join((tls_directory / "server.crt").read_text().splitlines()[1:-1])
    assert before != (tls_directory / "server.crt").read_bytes()
    wait_for("the new certificate is shown", lambda: new in shown().replace("\n", ""), 60)
    assert works(said, "put", "a", "1")
    said = credentials(tls, "berlin", "etcdctl", "--yes")
    assert works(said, "get", "a")


# ---- the long ones


@pytest.mark.long
def test_kubeadm(tls):
    """kubeadm reads the configuration, and asks for the version of its external etcd with the certificate in it."""
    tls.tenant("berlin")
    said = credentials(tls, "berlin", "kubeadm")
    version = subprocess.run([program("kubeadm"), "version", "-o", "short"], capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def kubeadm(text, *arguments):
        with scratch() as directory:
            # Otherwise it looks on the network for the newest one.
            (directory / "kubeadm.yaml").write_text(f"{text}\nkubernetesVersion: {version}\n")
            return subprocess.run([program("kubeadm"), *arguments, "--config", str(directory / "kubeadm.yaml")], capture_output=True, text=True, timeout=120, check=False)

    def etcd_warnings(text):
        # This machine is no node: all else is a warning here. What concerns the etcd must not be among them.
        r = kubeadm(text, "init", "phase", "preflight", "--ignore-preflight-errors=all", "--v=1")
        assert "validating the external etcd version" in r.stderr, r.stderr
        return [line for line in r.stderr.splitlines() if "WARNING" in line and ("Etcd" in line or "etcd" in line or str(tls.root) in line)]

    for text in (said, said.replace("v1beta4", "v1beta3")):
        r = kubeadm(text, "config", "validate")
        assert r.returncode == 0, r.stderr
        assert etcd_warnings(text) == []
    # It would say so.
    wrong = said.replace("/client.", "/other.")
    directory = tls.root / "berlin-kubeadm"
    for x in ("crt", "key"):
        shutil.copy(tls.root / "tls" / f"server.{x}", directory / f"other.{x}")
    assert any("ExternalEtcdVersion" in w for w in etcd_warnings(wrong))


@pytest.mark.long
def test_k3s(tls):
    """k3s hands its datastore's endpoint to kine, keeps its bootstrap data there, and starts its API server with it."""
    tls.tenant("berlin")
    said = credentials(tls, "berlin", "k3s")
    r = in_shell(f"k3s() {{ {program('k3s-datastore')} \"$@\"; }}\n{said}", "true")
    passed_on = r.stdout.split()
    assert sorted(passed_on) == sorted(f.replace("--datastore-endpoint", "--etcd-servers").replace("--datastore-", "--etcd-") for f in flags(said))
    assert tls.ask("tenant", "show", "berlin")["revision"] == 4
    # Not with another's certificate.
    for x in ("crt", "key"):
        shutil.copy(tls.root / "tls" / f"server.{x}", tls.root / "berlin-k3s" / f"client.{x}")
    assert in_shell(f"k3s() {{ {program('k3s-datastore')} \"$@\"; }}\n{said}", "true", check=False).returncode != 0
