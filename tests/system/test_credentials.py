"""
`stokectl tenant credentials` and `stokectl authority`: what they write is read by openssl and believed by a real etcd, and what they must not do they do not.
What a client of a tenant makes of them is in test_credentials_clients.py.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import time

import pytest

from conftest import as_root, free_port, program, scratch, wait_for
from credentials import certificate_text, in_shell, make_authority, openssl, serial_of, settings, stokectl


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def issuing(stopped):
    """A daemon that issues certificates. Nobody listens for them: etcd will."""
    make_authority(stopped.root / "tls")
    (stopped.root / "stokehold.yaml").write_text(settings(stopped.root / "tls"))
    return stopped.start()


def issue(daemon, name, directory, *more, client="etcdctl"):
    return daemon.stokectl("tenant", "credentials", name, "--for", client, "--endpoint", "https://localhost:2379", "--directory", str(directory), *more).stdout


@contextlib.contextmanager
def etcd_with(directory):
    """A real etcd that lets in whom the authority there vouches for. Its address."""
    port, peer = free_port(), free_port()
    with scratch() as data:
        with open(data / "log", "wb") as log:
            process = subprocess.Popen(
                [program("etcd"), "--name", "e", "--data-dir", str(data / "data"), "--log-level", "error", "--listen-client-urls", f"https://127.0.0.1:{port}",
                 "--advertise-client-urls", f"https://127.0.0.1:{port}", "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls",
                 f"http://127.0.0.1:{peer}", "--initial-cluster", f"e=http://127.0.0.1:{peer}", "--cert-file", str(directory / "server.crt"), "--key-file",
                 str(directory / "server.key"), "--client-cert-auth", "--trusted-ca-file", str(directory / "ca.crt")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield f"https://localhost:{port}"
        finally:
            process.terminate()
            process.wait(20)


# ---- the authority


def test_an_authority_in_one_command():
    """A platform without any certificates has all that a TLS port needs, with keys that nobody else can read."""
    with scratch() as root:
        said = make_authority(root / "tls", "stokehold.example", "10.0.0.5", "fd00::5").stdout
        tls = root / "tls"
        assert sorted(os.listdir(tls)) == ["ca.crl", "ca.crt", "ca.key", "server.crt", "server.key"]
        assert [mode(tls / f) for f in ("ca.key", "server.key", "ca.crt", "ca.crl")] == [0o600, 0o600, 0o644, 0o644] and mode(tls) == 0o700
        openssl("verify", "-CAfile", tls / "ca.crt", "-purpose", "sslserver", tls / "server.crt")
        openssl("verify", "-CAfile", tls / "ca.crt", "-CRLfile", tls / "ca.crl", "-crl_check", tls / "server.crt")
        for name in ("stokehold.example", "localhost"):
            openssl("verify", "-CAfile", tls / "ca.crt", "-verify_hostname", name, tls / "server.crt")
        for address in ("10.0.0.5", "fd00::5", "127.0.0.1"):
            openssl("verify", "-CAfile", tls / "ca.crt", "-verify_ip", address, tls / "server.crt")
        assert openssl("verify", "-CAfile", tls / "ca.crt", "-verify_hostname", "other.example", tls / "server.crt", check=False).returncode != 0
        text = certificate_text(tls / "ca.crt")
        assert "CA:TRUE, pathlen:0" in text and "Certificate Sign, CRL Sign" in text

        # What it says to paste is what the daemon takes, as it is.
        (root / "stokehold.yaml").write_text(said.replace(":2379", f":{free_port()}"))
        checked = subprocess.run([program("stokehold"), "--root", str(root), "--check"], capture_output=True, text=True, timeout=60, check=False)
        assert "tls" not in checked.stderr, checked
        os.chmod(tls / "ca.key", 0o604)
        checked = subprocess.run([program("stokehold"), "--root", str(root), "--check"], capture_output=True, text=True, timeout=60, check=False)
        assert checked.returncode == 1 and "tls.authority" in checked.stderr and "mode 0604" in checked.stderr, checked
        os.chmod(tls / "ca.key", 0o600)

        # A second one would make all certificates of the first worthless.
        before = {f: (tls / f).read_bytes() for f in os.listdir(tls)}
        again = stokectl("authority", "create", "--directory", str(tls), check=False)
        assert again.returncode == 4 and "is there already" in again.stderr
        assert before == {f: (tls / f).read_bytes() for f in os.listdir(tls)}


def test_an_authority_for_the_packaged_daemon():
    """Made by root, it can be read by the daemon's group (in a view of /etc/group that has it), and by nobody else, when it is made and ever after."""
    with scratch() as root:
        (root / "group").write_text(pathlib.Path("/etc/group").read_text() + "_stokehold:x:61077:\n")
        command = f"mount --bind {root}/group /etc/group && exec {program('stokectl')} authority \"$@\" --directory {root}/tls"
        for arguments in (["create", "--host", "a"], ["renew"], ["revoke", "AB"]):
            done = subprocess.run(as_root("unshare", "--mount", "sh", "-c", command, "sh", *arguments), capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done
            found = {f: os.lstat(root / "tls" / f) for f in os.listdir(root / "tls")} | {".": os.lstat(root / "tls")}
            assert {s.st_gid for s in found.values()} == {61077} and {s.st_uid for s in found.values()} == {0}
            assert {f: stat.S_IMODE(s.st_mode) for f, s in found.items()} == {
                ".": 0o750, "ca.key": 0o640, "server.key": 0o640, "ca.crt": 0o644, "ca.crl": 0o644, "server.crt": 0o644}
        subprocess.run(as_root("rm", "-rf", str(root / "tls")), check=True)


def test_a_server_certificate_is_renewed():
    with scratch() as root:
        tls = root / "tls"
        make_authority(tls, "stokehold.example", "10.0.0.5")
        names = re.search(r"Subject Alternative Name: *\n *(.*)", certificate_text(tls / "server.crt")).group(1)
        before = {f: (tls / f).read_bytes() for f in os.listdir(tls)}
        stokectl("authority", "renew", "--directory", str(tls), "--days", "90")
        changed = {f for f in os.listdir(tls) if before[f] != (tls / f).read_bytes()}
        assert changed == {"server.crt", "server.key"} and mode(tls / "server.key") == 0o600
        text = certificate_text(tls / "server.crt")
        assert names in text
        openssl("verify", "-CAfile", tls / "ca.crt", "-purpose", "sslserver", tls / "server.crt")
        assert openssl("x509", "-in", tls / "server.crt", "-noout", "-checkend", 91 * 86400, check=False).returncode == 1
        assert openssl("x509", "-in", tls / "server.crt", "-noout", "-checkend", 89 * 86400, check=False).returncode == 0
        stokectl("authority", "renew", "--directory", str(tls), "--host", "new.example")
        text = certificate_text(tls / "server.crt")
        assert "DNS:new.example" in text and "stokehold.example" not in text
        assert stokectl("authority", "renew", "--directory", str(root / "none"), check=False).returncode == 3


# ---- certificates


def test_a_certificate_says_whose_it_is(issuing):
    """The tenant, nothing but the tenant, for a client and no server, for as long as was asked, and never longer than its authority."""
    issuing.tenant("berlin")
    tls, out = issuing.root / "tls", issuing.root / "out"
    said = issue(issuing, "berlin", out, "--days", "30")
    openssl("verify", "-CAfile", tls / "ca.crt", "-purpose", "sslclient", out / "client.crt")
    assert openssl("verify", "-CAfile", tls / "ca.crt", "-purpose", "sslserver", out / "client.crt", check=False).returncode != 0
    text = certificate_text(out / "client.crt")
    assert "Subject: CN = berlin\n" in text and "CA:FALSE" in text and "TLS Web Client Authentication\n" in text
    assert re.search(r"Subject Alternative Name: *\n *URI:stokehold:tenant:berlin:\d{8}T\d{6}Z\n", text), text
    assert openssl("x509", "-in", out / "client.crt", "-noout", "-serial").strip() == f"serial={serial_of(said)}"
    assert openssl("x509", "-in", out / "client.crt", "-noout", "-checkend", 29 * 86400, check=False).returncode == 0
    assert openssl("x509", "-in", out / "client.crt", "-noout", "-checkend", 31 * 86400, check=False).returncode == 1
    assert (out / "ca.crt").read_text() == (tls / "ca.crt").read_text()
    assert mode(out) == 0o700 and mode(out / "client.key") == 0o600
    assert openssl("pkey", "-in", out / "client.key", "-pubout") == openssl("x509", "-in", out / "client.crt", "-noout", "-pubkey")

    long = issue(issuing, "berlin", issuing.root / "long", "--days", "36500")
    assert "when that of the authority ends" in long
    end = "-enddate"
    assert openssl("x509", "-in", issuing.root / "long" / "client.crt", "-noout", end) == openssl("x509", "-in", tls / "ca.crt", "-noout", end)

    # Who, what, which; and nothing of a key anywhere.
    assert re.search(rf'issue credentials of tenant "berlin": certificate {serial_of(said)} for URI:stokehold:tenant:berlin:\S+: done', issuing.log())
    key = "".join((out / "client.key").read_text().splitlines()[1:-1])[-80:]
    everything = issuing.log() + "".join(p.read_text(errors="replace") for p in (issuing.root / "state").rglob("*") if p.is_file())
    assert key not in everything.replace("\n", "") and "PRIVATE KEY" not in everything


def test_a_tenant_made_anew_is_another(issuing):
    """Certificates of a tenant that was deleted must not open the next one of that name."""
    issuing.tenant("berlin")
    issue(issuing, "berlin", issuing.root / "a")
    issuing.stokectl("tenant", "delete", "berlin", "--yes")
    time.sleep(1.1)  # the name has a time with seconds in it
    issuing.tenant("berlin")
    issue(issuing, "berlin", issuing.root / "b")
    one, two = (re.search(r"URI:\S+", certificate_text(issuing.root / d / "client.crt")).group(0) for d in "ab")
    assert one != two
    # It is the tenant's own, whoever asks and whenever.
    issuing.restart()
    issue(issuing, "berlin", issuing.root / "c")
    assert two in certificate_text(issuing.root / "c" / "client.crt")


def test_a_key_stays_where_it_is(issuing):
    """With a request, of a key that stokectl never sees, whatever else the request says."""
    issuing.tenant("berlin")
    root = issuing.root
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", root / "own.key", "-out", root / "own.csr", "-subj", "/O=system:masters/CN=london",
            "-addext", "subjectAltName=URI:stokehold:tenant:london:20260101T000000Z,DNS:london", "-addext", "basicConstraints=critical,CA:TRUE")
    said = issue(issuing, "berlin", root / "out", "--csr", str(root / "own.csr"))
    assert sorted(os.listdir(root / "out")) == ["ca.crt", "client.crt"]
    text = certificate_text(root / "out" / "client.crt")
    assert "CN = berlin\n" in text and "london" not in text and "masters" not in text and "CA:FALSE" in text
    assert openssl("pkey", "-in", root / "own.key", "-pubout") == openssl("x509", "-in", root / "out" / "client.crt", "-noout", "-pubkey")
    assert f"ETCDCTL_KEY={root}/own.key" in said

    openssl("req", "-newkey", "rsa:1024", "-nodes", "-keyout", root / "weak.key", "-out", root / "weak.csr", "-subj", "/CN=berlin")
    (root / "none.csr").write_text("hello\n")
    for name, reason in (("weak", "RSA key of 1024 bits"), ("none", "no certificate request in PEM")):
        r = issuing.stokectl("tenant", "credentials", "berlin", "--for", "k3s", "--endpoint", "https://localhost:2379", "--csr", str(root / f"{name}.csr"), check=False)
        assert r.returncode == 2 and reason in r.stderr, r


def test_nothing_is_overwritten_in_silence(issuing):
    """The key that a running control plane uses."""
    issuing.tenant("berlin")
    out = issuing.root / "out"
    issue(issuing, "berlin", out)
    before = {f: (out / f).read_bytes() for f in os.listdir(out)}
    issued = issuing.log().count("issue credentials")
    r = issuing.stokectl("tenant", "credentials", "berlin", "--for", "k3s", "--endpoint", "https://localhost:2379", "--directory", str(out), check=False, stdin="")
    assert r.returncode == 4 and "--yes" in r.stderr
    assert before == {f: (out / f).read_bytes() for f in os.listdir(out)} and issuing.log().count("issue credentials") == issued
    issue(issuing, "berlin", out, "--yes")
    assert sorted(os.listdir(out)) == ["ca.crt", "client.crt", "client.key"] and before["client.key"] != (out / "client.key").read_bytes()
    assert mode(out / "client.key") == 0o600


# ---- what is printed


def test_a_real_etcd_believes_it(issuing):
    """The certificate, its chain and the names are judged by Go's code, as Kubernetes' are: etcdctl, pasted into a shell, against an etcd."""
    issuing.tenant("berlin")
    root = issuing.root
    with etcd_with(root / "tls") as endpoint:
        def pasted(*more):
            return issuing.stokectl("tenant", "credentials", "berlin", "--for", "etcdctl", "--endpoint", endpoint, *more).stdout
        said = pasted("--directory", str(root / "out"))
        wait_for("etcd answers", lambda: in_shell(said, program("etcdctl"), "put", "a", "1").stdout == "OK\n", 60, 0.3)
        assert "WARN" not in in_shell(said, program("etcdctl"), "get", "a").stderr
        # A key of each kind that one may bring.
        for n, kind in enumerate((["-newkey", "rsa:3072"], ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"], ["-newkey", "ed25519"])):
            openssl("req", *kind, "-nodes", "-keyout", root / f"{n}.key", "-out", root / f"{n}.csr", "-subj", "/CN=x")
            said = pasted("--directory", str(root / f"out{n}"), "--csr", str(root / f"{n}.csr"))
            assert in_shell(said, program("etcdctl"), "get", "a", "--print-value-only").stdout == "1\n"
        # From JSON, as a script would, without a file in between that it did not write itself.
        j = json.loads(pasted("-o", "json"))
        for name in ("authority", "certificate", "key"):
            (root / f"j.{name}").write_text(j[name])
        options = ["--endpoints", ",".join(j["endpoints"]), "--cacert", root / "j.authority", "--cert", root / "j.certificate", "--key", root / "j.key"]
        assert in_shell("", program("etcdctl"), *options, "get", "a", "--print-value-only").stdout == "1\n"
        # With nobody's certificate etcd says no, so all of this says something.
        make_authority(root / "foreign")
        options[-3], options[-1] = root / "foreign" / "server.crt", root / "foreign" / "server.key"
        assert in_shell("", program("etcdctl"), *options, "--command-timeout=2s", "get", "a", check=False).returncode != 0


def test_forms(issuing):
    """Each form as JSON and in text; a key that is in a file is in no output."""
    issuing.tenant("berlin")
    for client in ("kube-apiserver", "kubeadm", "k3s", "etcdctl"):
        out = issuing.root / client
        text = issue(issuing, "berlin", out, client=client)
        j = issuing.ask("tenant", "credentials", "berlin", "--for", client, "--endpoint", "https://a:1", "--endpoint", "https://[::1]:2", "--directory", str(out), "--yes")
        assert j["for"] == client and j["endpoints"] == ["https://a:1", "https://[::1]:2"] and "key" not in j
        assert j["files"] == {"authority": f"{out}/ca.crt", "certificate": f"{out}/client.crt", "key": f"{out}/client.key"}
        assert j["paste"] in text.replace("https://localhost:2379", "https://a:1,https://[::1]:2") or client == "kubeadm"
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert "PRIVATE" not in text and all(any(f"{out}/{f}" in line for line in lines) for f in ("ca.crt", "client.crt", "client.key"))
    # Without a directory everything is printed, once.
    text = issuing.stokectl("tenant", "credentials", "berlin", "--for", "kubeadm", "--endpoint", "https://a:1").stdout
    assert text.count("PRIVATE KEY") == 2 and "caFile: /etc/kubernetes/pki/etcd/ca.crt\n" in text and "# To be saved as /etc/kubernetes/pki/etcd/ca.crt:" in text


def test_wrong_usage(issuing):
    issuing.tenant("berlin")
    for arguments, code, reason in (
            (["berlin"], 2, "--for"), (["berlin", "--for", "minikube"], 2, "none of"), (["nobody", "--for", "k3s"], 3, "no such tenant"),
            (["berlin", "--for", "k3s", "--endpoint", "https://0.0.0.0:1"], 2, "nothing that can be dialled"),
            (["berlin", "--for", "k3s", "--endpoint", "localhost:1"], 2, "https://HOST:PORT"), (["berlin", "--for", "k3s", "--days", "0"], 2, "--days"),
            (["berlin", "--for", "k3s", "--endpoint", "https://a:1", "--csr", "/nowhere"], 3, "/nowhere")):
        r = issuing.stokectl("tenant", "credentials", *arguments, check=False)
        assert r.returncode == code and reason in r.stderr and r.stderr.count("\n") == 1, r
    assert "issue credentials" not in issuing.log()


def test_without_a_port_for_certificates(daemon):
    """The Unix socket needs none; who cannot use one is told what is missing."""
    endpoint = daemon.tenant("berlin")
    said = daemon.stokectl("tenant", "credentials", "berlin", "--for", "etcdctl").stdout
    assert in_shell(said, program("etcdctl"), "put", "a", "1").stdout == "OK\n"
    path = endpoint.replace("berlin.sock", "berlin/etcd.sock")
    assert f"--etcd-servers={path}\n" in daemon.stokectl("tenant", "credentials", "berlin", "--for", "kube-apiserver").stdout
    for client in ("k3s", "kubeadm"):
        r = daemon.stokectl("tenant", "credentials", "berlin", "--for", client, check=False)
        assert r.returncode == 4 and "no TLS port" in r.stderr
    r = daemon.stokectl("tenant", "credentials", "berlin", "--for", "etcdctl", "--days", "3", check=False)
    assert r.returncode == 4
    r = daemon.stokectl("tenant", "credentials", "berlin", "--for", "etcdctl", "--endpoint", "https://a:1", check=False)
    assert r.returncode == 4 and "no authority" in r.stderr and "stokectl authority create" in r.stderr

    port = free_port()
    daemon.define("t.yaml", f"apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {{name: tcp}}\nspec: {{endpoint: {{tcp: '127.0.0.1:{port}'}}}}\n")
    daemon.reload_errors()
    wait_for("it listens", lambda: any(str(port) in e for e in daemon.ask("tenant", "show", "tcp")["endpoints"]))
    assert f"--datastore-endpoint=http://127.0.0.1:{port}\n" in daemon.stokectl("tenant", "credentials", "tcp", "--for", "k3s").stdout
    assert f"- http://127.0.0.1:{port}\n" in daemon.stokectl("tenant", "credentials", "tcp", "--for", "kubeadm").stdout


# ---- authorities that are none


def test_a_wrong_authority_is_refused(issuing):
    """With its reason: to who asks, and in the status, before anybody asks. And a mended file is in use at once, without a reload."""
    issuing.tenant("berlin")
    tls = issuing.root / "tls"
    shutil.copytree(tls, issuing.root / "good")
    make_authority(issuing.root / "other")

    def restore():
        for f in ("ca.crt", "ca.key"):
            shutil.copy2(issuing.root / "good" / f, tls / f)

    def expired():
        # What OpenSSL calls a CA, with an end that has passed.
        database = issuing.root / "database"
        database.mkdir()
        (database / "index").touch()
        (database / "conf").write_text(f"[ca]\ndefault_ca = d\n[d]\ndatabase = {database}/index\nnew_certs_dir = {database}\ndefault_md = sha256\n"
                                       "policy = p\nrand_serial = yes\nx509_extensions = e\n[p]\ncommonName = supplied\n"
                                       "[e]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", tls / "ca.key", "-out", database / "csr", "-subj", "/CN=old")
        openssl("ca", "-config", database / "conf", "-selfsign", "-batch", "-notext", "-keyfile", tls / "ca.key", "-in", database / "csr", "-out", tls / "ca.crt",
                "-startdate", "20200101000000Z", "-enddate", "20210101000000Z")

    def locked():
        openssl("pkey", "-in", issuing.root / "good" / "ca.key", "-aes256", "-passout", "pass:x", "-out", tls / "ca.key")

    cases = [
        (lambda: os.chmod(tls / "ca.key", 0o644), "may be read or written by others (mode 0644)"),
        (lambda: shutil.copy(issuing.root / "other" / "ca.key", tls / "ca.key"), "the key is not the certificate's"),
        (lambda: [shutil.copy(tls / f"server.{x}", tls / f"ca.{x}") for x in ("crt", "key")], "may not sign others"),
        (expired, "has expired"),
        (locked, "passphrase"),
        ((tls / "ca.key").unlink, "No such file"),
        (lambda: (tls / "ca.crt").write_text("nothing\n"), "no certificate in PEM"),
    ]
    for spoil, reason in cases:
        restore()
        spoil()
        if (tls / "ca.key").exists() and "0644" not in reason:
            os.chmod(tls / "ca.key", 0o600)
        r = issuing.stokectl("tenant", "credentials", "berlin", "--for", "k3s", "--endpoint", "https://a:1", check=False)
        assert r.returncode == 4 and reason in r.stderr and "PRIVATE" not in r.stderr, (reason, r)
        assert any("tls.authority" in p and reason in p for p in issuing.status()["problems"]), reason
        restore()
        issue(issuing, "berlin", issuing.root / "out", "--yes")
    # root's own, for the daemon's group.
    if os.geteuid() == 0:
        os.chmod(tls / "ca.key", 0o640)
        issue(issuing, "berlin", issuing.root / "out", "--yes")
    assert not any("tls.authority" in p for p in issuing.status()["problems"])


def test_an_authority_that_ends_soon(stopped):
    """A month before, so that there is time."""
    tls = stopped.root / "tls"
    make_authority(tls)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", tls / "ca.key", "-out", tls / "ca.crt", "-subj", "/CN=short", "-days", "20")
    (stopped.root / "stokehold.yaml").write_text(settings(tls))
    stopped.start()
    assert any(re.search(r"tls\.authority: .*ca\.crt expires in (19|20) days", p) for p in stopped.status()["problems"])


def test_servers_of_another_authority(stopped):
    """The client is given what the server's certificate is checked with, which need not be what vouches for clients."""
    root = stopped.root
    make_authority(root / "tls")
    make_authority(root / "servers")
    for f in ("server.crt", "server.key"):
        shutil.copy(root / "servers" / f, root / "tls" / f)
    yaml = root / "stokehold.yaml"
    yaml.write_text(settings(root / "tls"))
    stopped.start()
    stopped.tenant("berlin")
    # It cannot be known from the files at hand.
    said = stopped.stokectl("tenant", "credentials", "berlin", "--for", "k3s", "--endpoint", "https://a:1", "--directory", str(root / "out")).stdout
    assert "tls.serverCA" in said and sorted(os.listdir(root / "out")) == ["client.crt", "client.key"]
    yaml.write_text(settings(root / "tls", serverCA=root / "servers" / "ca.crt"))
    stopped.reload_errors()
    issue(stopped, "berlin", root / "out", "--yes")
    assert (root / "out" / "ca.crt").read_text() == (root / "servers" / "ca.crt").read_text()
    # A root that stands behind the server's own certificate is one too.
    with open(root / "tls" / "server.crt", "a") as f:
        f.write((root / "servers" / "ca.crt").read_text())
    yaml.write_text(settings(root / "tls"))
    stopped.reload_errors()
    issue(stopped, "berlin", root / "out2")
    assert (root / "out2" / "ca.crt").read_text() == (root / "servers" / "ca.crt").read_text()


# ---- revoking


def test_several_revoke_at_once(tmp_path):
    """Each believes afterwards that its certificate is refused: none may take another's back."""
    make_authority(tmp_path / "tls")
    serials = [f"{i:02X}" for i in range(1, 41)]
    running = [subprocess.Popen([program("stokectl"), "authority", "revoke", "--directory", str(tmp_path / "tls"), serial],
                                stdout=subprocess.DEVNULL) for serial in serials]
    assert [process.wait(60) for process in running] == [0] * len(serials)
    listed = openssl("crl", "-in", tmp_path / "tls" / "ca.crl", "-noout", "-text")
    assert set(re.findall(r"Serial Number: (\w+)", listed)) == set(serials)


def test_revocation_list(issuing):
    """By its number, or by the certificate: only that one, and what was on the list stays."""
    issuing.tenant("berlin")
    tls, root = issuing.root / "tls", issuing.root
    first = serial_of(issue(issuing, "berlin", root / "a"))
    issue(issuing, "berlin", root / "b")
    issue(issuing, "berlin", root / "c")

    def good(name):
        return openssl("verify", "-crl_check", "-CAfile", tls / "ca.crt", "-CRLfile", tls / "ca.crl", root / name / "client.crt", check=False).returncode == 0
    assert good("a") and good("b") and good("c")
    stokectl("authority", "revoke", "--directory", str(tls), first.lower())
    assert not good("a") and good("b") and good("c")
    stokectl("authority", "revoke", "--directory", str(tls), str(root / "b" / "client.crt"))
    assert not good("a") and not good("b") and good("c")
    for word, code in ((first, 4), ("nowhere", 2), (str(tls / "server.crt"), 2), (str(tls / "ca.key"), 2)):
        assert stokectl("authority", "revoke", "--directory", str(tls), word, check=False).returncode == code
    assert openssl("crl", "-in", tls / "ca.crl", "-noout", "-crlnumber").strip() == "crlNumber=0x03"
    # A list of somebody else's is not gone on with.
    make_authority(root / "other")
    shutil.copy(root / "other" / "ca.crl", tls / "ca.crl")
    r = stokectl("authority", "revoke", "--directory", str(tls), "ABCD", check=False)
    assert r.returncode == 1 and "not this authority's" in r.stderr
