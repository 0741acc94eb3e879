"""
One port for all tenants: who is let in, to whom, and for how long; files that are replaced while clients are connected; health.
"""

import datetime
import json
import queue
import random
import socket
import ssl
import subprocess
import sys
import threading
import time

import grpc
import pytest

from certificates import Authority
from conftest import etcdctl, free_port, program, running, wait_for
from proto import Proto
from servers import PostgreSQL
from test_sql_servers import datastore
from tls import TlsDaemon, Watch


@pytest.fixture
def d():
    with running(TlsDaemon) as daemon:
        yield daemon


@pytest.fixture
def two(d):
    """Tenants a and b, by their common names; and their certificates."""
    d.declare("a", "client-a")
    d.declare("b", "client-b")
    d.start()
    d.wait_tenant("a")
    d.wait_tenant("b")
    d.a, d.b = d.ca.client("client-a"), d.ca.client("client-b")
    return d


def closed_within(stream, seconds):
    """The status with which a Watch ends; fails if it goes on."""
    answers = queue.Queue()
    threading.Thread(target=lambda: answers.put(stream.end()), daemon=True).start()
    return answers.get(timeout=seconds)


def put(d, tenant, key, value):
    etcdctl(d.endpoint(tenant), "put", key, value)


# ---- who is led where

def test_tenants_on_one_port(two):
    """Each client reaches its own tenant and no other's data, whatever kind of name it has."""
    assert two.etcdctl(two.a, "put", "k", "of a").stdout == "OK\n"
    assert two.etcdctl(two.b, "put", "k", "of b").stdout == "OK\n"
    assert two.etcdctl(two.a, "get", "k", "--print-value-only").stdout == "of a\n"
    assert etcdctl(two.endpoint("b"), "get", "k", "--print-value-only").stdout == "of b\n"

    two.declare("c", "URI:spiffe://fleet/c", "DNS:c.example")
    assert two.reload_errors() == []
    two.wait_tenant("c")
    by_uri = two.ca.client(None, "URI:spiffe://fleet/c")
    by_dns = two.ca.client("anything", "DNS:c.example,DNS:other.example")
    assert two.etcdctl(by_uri, "put", "k", "of c").stdout == "OK\n"
    assert two.etcdctl(by_dns, "get", "k", "--print-value-only").stdout == "of c\n"
    assert two.etcdctl(two.a, "get", "k", "--print-value-only").stdout == "of a\n"
    # One that could be either's is nobody's.
    assert two.refusal(two.ca.client("client-a", "DNS:c.example"))


def test_who_is_refused(d):
    """Nobody comes in without a good certificate of the CA that the name stands with, and the refusal tells nothing of which names there are."""
    own, foreign = Authority(d.root / "own"), Authority(d.root / "foreign")
    secret = d.root / "secrets" / "default" / "own"
    secret.mkdir(parents=True)
    (secret / "ca.crt").write_bytes(own.certificate.read_bytes())
    d.declare("a", "client-a")
    d.declare("o", "client-o", more="    clientCA: {certificate: {secretReference: {name: own, keyPath: ca.crt}}}\n")
    d.start()
    d.wait_tenant("a")
    d.wait_tenant("o")
    assert d.refusal(d.ca.client("client-a")) is None
    assert d.refusal(own.client("client-o")) is None
    # With TLS 1.2 the alert is part of the handshake, and cannot be overtaken by the end of the connection.
    refused = [d.refusal(c, version=ssl.TLSVersion.TLSv1_2) for c in (
        foreign.client("client-a"), d.ca.client("client-o"), own.client("client-a"), d.ca.client("nobody"), own.client("nobody"),
        d.ca.server("client-a"))]
    assert refused[0] and len(set(refused)) == 1, refused
    assert d.refusal() is not None
    assert d.refusal(d.ca.client("client-a", ends=-60)) is not None
    assert d.refusal(d.ca.client("client-a", starts=3600)) is not None
    assert d.etcdctl(foreign.client("client-a"), "get", "k", check=False).returncode != 0
    # Plain text, at the port that has none.
    with socket.create_connection(("127.0.0.1", d.port), 10) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        s.settimeout(15)
        received = b""
        try:
            while piece := s.recv(1000):
                received += piece
        except ConnectionResetError:
            pass
        assert b"HTTP/1.1 200" not in received
    assert d.refusal(d.ca.client("client-a")) is None


def test_protocols(two):
    """TLS 1.2 and 1.3 with h2 or http/1.1, and nothing else."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for alpn in ("h2", "http/1.1"):
            with two.connect(two.a, alpn=(alpn,), version=version) as s:
                assert s.selected_alpn_protocol() == alpn
    assert two.refusal(two.a, alpn=("spdy/3",)) is not None


def test_http(two):
    """kubeadm and probes ask the client port, with a client's certificate, for /health and /version."""
    two.etcdctl(two.a, "put", "k", "v")
    status, body = two.get("/health", two.a)
    assert status == 200 and json.loads(body) == {"health": "true", "reason": ""}
    status, body = two.get("/version", two.a)
    assert status == 200 and json.loads(body)["etcdserver"].startswith("3.")
    assert two.get("/metrics", two.a)[0] == 404


def test_health_without_a_certificate(two):
    """Probes that have none ask the metrics listener; a tenant that nobody uses is not opened for them."""
    def condition(name):
        return two.ask("tenant", "show", name)["condition"]
    assert condition("b") == "Closed"
    status, body = two.probe("/tenants/b/health")
    assert status == 200 and json.loads(body) == {"health": "true", "reason": ""}
    assert condition("b") == "Closed"
    put(two, "a", "k", "v")
    assert two.probe("/tenants/a/health")[0] == 200
    for path in ("/tenants/nobody/health", "/tenants/a", "/tenants/a/health/", "/tenants//health", "/tenants/a/metrics", "/tenants/"):
        assert two.probe(path)[0] == 404, path
    assert two.probe("/healthz")[0] == 200

    # One whose quota is exceeded is not healthy, unless that is left out of the question, as kubeadm does.
    two.define("q.yaml", "apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: q}\nspec: {quota: 1Mi}\n")
    assert two.reload_errors() == []
    two.wait_tenant("q")
    for i in range(4):
        etcdctl(two.endpoint("q"), "put", str(i), stdin="x" * 700_000, check=False)
    wait_for("the alarm", lambda: "NOSPACE" in etcdctl(two.endpoint("q"), "alarm", "list").stdout)
    status, body = two.probe("/tenants/q/health")
    assert status == 503 and json.loads(body)["health"] == "false" and "NOSPACE" in body
    assert two.probe("/tenants/q/health?exclude=NOSPACE")[0] == 200


def test_endpoints_are_told(two):
    """Who asks where to dial is told the port: by stokectl, and by etcd's own MemberList; but only where a name leads there."""
    two.declare("c")
    assert two.reload_errors() == []
    two.wait_tenant("c")

    def members(name):
        return json.loads(etcdctl(two.endpoint(name), "member", "list", "-w", "json").stdout)["members"][0]["clientURLs"]
    assert two.url in two.ask("tenant", "show", "a")["endpoints"]
    assert "https" not in "".join(two.ask("tenant", "show", "c")["endpoints"])
    wait_for("the members", lambda: two.url in members("a"))
    assert f"unix://{two.root}/run/tenants/a.sock" in members("a")
    assert not any("https" in u for u in members("c"))
    assert two.status()["tlsAddress"] == f"127.0.0.1:{two.port}"
    assert "--etcd-cafile" in two.stokectl("tenant", "show", "a").stdout

    two.configure('  advertise: ["https://etcd.example:2379"]\n')
    assert two.reload_errors() == []
    wait_for("the new address", lambda: "https://etcd.example:2379" in members("a"))
    assert two.ask("tenant", "show", "a")["endpoints"][-1] == "https://etcd.example:2379"


def test_names_of_tenants_without_a_file(d):
    """A tenant made with stokectl is reached by the names given to it, also after a restart, and no other gets them."""
    d.start()
    d.tenant("s", "--client-name", "client-s", "--client-name", "URI:spiffe://fleet/s")
    certificate = d.ca.client(None, "URI:spiffe://fleet/s")
    assert d.etcdctl(certificate, "put", "k", "v").stdout == "OK\n"
    assert d.ask("tenant", "show", "s")["clientNames"] == ["CN:client-s", "URI:spiffe://fleet/s"]
    assert "CN:client-s" in d.stokectl("tenant", "show", "s", "-o", "yaml").stdout
    assert d.stokectl("tenant", "create", "t", "--client-name", "client-s", check=False).returncode == 4
    assert d.stokectl("tenant", "create", "t", "--client-name", "URI:x y", check=False).returncode == 2
    d.restart()
    assert d.etcdctl(d.ca.client("client-s"), "get", "k", "--print-value-only").stdout == "v\n"
    # A file that wants it too comes too late, and says so.
    d.declare("t", "client-s")
    wait_for("the conflict", lambda: any("client-s" in p and "tenant s" in p for p in d.problems()))
    assert d.etcdctl(d.ca.client("client-s"), "get", "k", "--print-value-only").stdout == "v\n"
    # A tenant's own name is its own only where the settings say so.
    d.tenant("plain")
    plain = d.ca.client("plain")
    assert d.refusal(plain) is not None
    d.configure("  tenantNames: true\n")
    assert d.reload_errors() == []
    wait_for("its own name", lambda: d.refusal(plain) is None)
    d.stokectl("tenant", "delete", "s", "--yes")
    wait_for("its name to go", lambda: d.refusal(certificate) is not None)


def test_authority(d):
    """What the daemon's own authority has signed for a tenant reaches it, whatever the tenant's definition says."""
    issuer = Authority(d.root / "issuer")
    d.put("issuer.crt", issuer.certificate)
    d.put("issuer.key", issuer.key)
    d.configure("  authority: {certificate: tls/issuer.crt, key: tls/issuer.key}\n")
    d.declare("a", "client-a")
    d.start()
    d.wait_tenant("a")
    d.tenant("s")

    def issued(authority, tenant, seconds=0):
        made = datetime.datetime.fromisoformat(d.ask("tenant", "show", tenant)["created"]) + datetime.timedelta(seconds=seconds)
        return authority.client(tenant, f"URI:stokehold:tenant:{tenant}:{made.strftime('%Y%m%dT%H%M%SZ')}")
    assert d.etcdctl(issued(issuer, "s"), "put", "k", "v").stdout == "OK\n"
    assert d.refusal(issued(issuer, "a")) is None
    # Not one for another tenant of the name, nor anything else that it or another may have signed.
    assert d.refusal(issued(issuer, "s", -3600)) is not None
    assert d.refusal(issuer.client("client-a")) is not None
    assert d.refusal(issuer.client("s")) is not None
    assert d.refusal(issued(d.ca, "s")) is not None


def test_check(d):
    """stokehold --check finds what would keep the port from opening, before it does."""
    d.declare("a", "client-a", more="    clientCA: {certificate: {content: bm8gY2VydGlmaWNhdGU=}}\n")

    def check():
        return subprocess.run([program("stokehold"), "--root", str(d.root), "--plugins", str(d.plugins), "--check"], capture_output=True, text=True,
                              timeout=30, check=False)
    found = check()
    assert found.returncode == 1 and "tenant a: spec.endpoint.clientCA" in found.stderr and len(found.stderr.splitlines()) == 1, found
    d.declare("a", "client-a")
    assert check().returncode == 0
    d.put("server.key", d.ca.server().key)
    found = check()
    assert found.returncode == 1 and found.stderr.startswith("tls.certificate: "), found


def test_health_of_a_datastore_that_hangs(d):
    """A tenant whose database does not answer is not healthy, and says so before the probe gives up."""
    with PostgreSQL() as server:
        d.define("p.yaml", f"""apiVersion: stokehold/v1alpha1
kind: DataStore
metadata: {{name: pg}}
spec:
  driver: PostgreSQL
  endpoints: ["{server.endpoint}"]
  basicAuth: {{username: {{content: YWRtaW4=}}, password: {{content: c2VjcmV0}}}}
---
apiVersion: stokehold/v1alpha1
kind: Tenant
metadata: {{name: p}}
spec: {{datastore: pg, endpoint: {{clientNames: [client-p]}}}}
""")
        d.start()
        d.wait_tenant("p")
        certificate = d.ca.client("client-p")
        assert d.etcdctl(certificate, "put", "k", "v").stdout == "OK\n"
        assert d.probe("/tenants/p/health")[0] == 200 and d.get("/health", certificate)[0] == 200
        server.pause()
        try:
            status, body = d.probe("/tenants/p/health")
            assert status == 503 and json.loads(body)["health"] == "false"
            assert d.get("/health", certificate)[0] == 503
            assert d.probe("/healthz")[0] == 200
        finally:
            server.resume()
        wait_for("it is healthy again", lambda: d.probe("/tenants/p/health")[0] == 200)


# ---- what is replaced

def test_files_replaced_under_a_watch(two):
    """Renewing certificates, CAs and lists is routine: no client that is good afterwards may notice."""
    proto = Proto(two, "a")
    with two.channel(two.a) as channel:
        watch = Watch(proto, channel, b"k")

        def goes_on(step):
            put(two, "a", "k", step)
            assert watch.value() == step.encode()
        goes_on("first")

        before = two.served_serial(two.a)
        two.install("server", two.ca.server())
        wait_for("the new certificate", lambda: two.served_serial(two.a) != before)
        goes_on("server")

        # A second CA beside the first, as in a rotation.
        other = Authority(two.root / "other")
        both = two.root / "both.crt"
        both.write_bytes(two.ca.certificate.read_bytes() + other.certificate.read_bytes())
        lists = two.root / "both.crl"
        lists.write_bytes(two.ca.revocations().read_bytes() + other.revocations().read_bytes())
        two.put("ca.crt", both)
        two.put("ca.crl", lists)
        wait_for("the second CA", lambda: two.refusal(other.client("client-b")) is None)
        goes_on("ca")

        another = two.ca.client("client-a")
        assert two.refusal(another) is None
        two.ca.revoke(another)
        lists.write_bytes(two.ca.revocations().read_bytes() + other.revocations().read_bytes())
        two.put("ca.crl", lists)
        wait_for("the list", lambda: two.refusal(another) is not None)
        goes_on("list")

        two.declare("a", "client-a", "client-a2")
        wait_for("the name", lambda: two.refusal(two.ca.client("client-a2")) is None)
        goes_on("names")
        two.hangup()
        goes_on("reload")


def test_revocation_ends_the_right_watch(two):
    """A certificate that was stolen must end at once, with all that was opened with it before; nobody else's."""
    proto = Proto(two, "a")
    stolen = two.ca.client("client-a")
    with two.channel(stolen) as lost, two.channel(two.a) as kept, two.channel(two.b) as other:
        gone, stays, neighbour = Watch(proto, lost, b"k"), Watch(proto, kept, b"k"), Watch(proto, other, b"k")
        two.ca.revoke(stolen)
        two.put("ca.crl", two.ca.revocations())
        assert closed_within(gone, 30) == grpc.StatusCode.UNAVAILABLE
        assert two.refusal(stolen) is not None
        put(two, "a", "k", "1")
        put(two, "b", "k", "2")
        assert stays.value() == b"1" and neighbour.value() == b"2"


def test_authority_and_name_taken_away(two):
    """What no longer leads to a tenant ends: a name that was struck out, a CA that was replaced."""
    proto = Proto(two, "a")
    two.declare("a", "client-a", "client-x")
    second = two.ca.client("client-x")
    wait_for("the second name", lambda: two.refusal(second) is None)
    with two.channel(two.a) as kept, two.channel(second) as struck:
        stays, gone = Watch(proto, kept, b"k"), Watch(proto, struck, b"k")
        two.declare("a", "client-a")
        assert closed_within(gone, 30) == grpc.StatusCode.UNAVAILABLE
        put(two, "a", "k", "1")
        assert stays.value() == b"1"

        # Moved to another tenant, a name must not take its open streams along.
        two.declare("a")
        two.declare("b", "client-b", "client-a")
        assert closed_within(stays, 30) == grpc.StatusCode.UNAVAILABLE
    with two.channel(two.b) as channel:
        watch = Watch(proto, channel, b"k")
        other = Authority(two.root / "other")
        two.put("ca.crl", other.revocations())
        two.put("ca.crt", other.certificate)
        assert closed_within(watch, 30) == grpc.StatusCode.UNAVAILABLE
        assert two.refusal(two.b) is not None
        assert two.refusal(other.client("client-b")) is None


def test_certificate_of_a_tenant_that_is_made_anew(two):
    """Who could reach a tenant that was deleted has no claim on the next one of its name."""
    proto = Proto(two, "a")
    with two.channel(two.a) as channel:
        watch = Watch(proto, channel, b"k")
        put(two, "a", "k", "secret")
        assert watch.value() == b"secret"
        two.undefine("a.yaml")
        assert closed_within(watch, 30) == grpc.StatusCode.UNAVAILABLE
    wait_for("the tenant is gone", lambda: two.stokectl("tenant", "show", "a", check=False).returncode == 3)
    wait_for("its name is gone", lambda: two.refusal(two.a) is not None)
    two.declare("a", "somebody-else")
    two.wait_tenant("a")
    assert two.refusal(two.a) is not None


def test_expiry_of_a_client(two):
    """A certificate that ends, ends its connections: within a minute or so."""
    proto = Proto(two, "a")
    short = two.ca.client("client-a", ends=12)
    with two.channel(short) as channel, two.channel(two.a) as other:
        watch, stays = Watch(proto, channel, b"k"), Watch(proto, other, b"k")
        assert closed_within(watch, 90) == grpc.StatusCode.UNAVAILABLE
        assert two.refusal(short) is not None
        put(two, "a", "k", "1")
        assert stays.value() == b"1"


BAD = {
    "server.crt": "tls.certificate",
    "server.key": "tls.certificate",
    "ca.crt": "tls.clientCA",
    "ca.crl": "tls.clientCA",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_changes_nothing(two, name):
    """A file that was cut, or is not there for a moment, is told and changes nothing; put right, it is forgotten."""
    good = (two.files / name).read_bytes()
    for bad in (good[:len(good) // 2], b"", None):
        if bad is None:
            (two.files / name).unlink()
        else:
            broken = two.root / "broken"
            broken.write_bytes(bad)
            two.put(name, broken)
        wait_for(f"{name} is told", lambda: any(p.startswith(BAD[name]) and "what was in force stays" in p for p in two.problems()))
        assert two.refusal(two.a) is None
        assert two.metric("stokehold_tls_problems") == 1
        assert "PRIVATE KEY-----\n" not in two.log()
    again = two.root / "again"
    again.write_bytes(good)
    two.put(name, again)
    wait_for("all is well", lambda: two.problems() == [])
    assert two.refusal(two.a) is None


def test_list_that_is_lost_is_kept_to(two):
    """A revocation list that vanishes does not let anybody in again."""
    two.ca.revoke(two.b)
    two.put("ca.crl", two.ca.revocations())
    wait_for("the list", lambda: two.refusal(two.b) is not None)
    (two.files / "ca.crl").unlink()
    wait_for("it is told", lambda: any("ca.crl" in p for p in two.problems()))
    assert two.refusal(two.b) is not None
    assert two.refusal(two.a) is None


def test_certificate_that_is_about_to_expire(d):
    """An operator hears of it in time: by a metric, and in the status."""
    d.install("server", d.ca.server(days=12.5))
    d.declare("a", "client-a")
    d.start()
    d.wait_tenant("a")
    assert any("expires in 12 days" in p for p in d.problems()), d.status()["problems"]
    ends = d.metric("stokehold_tls_certificate_not_after_seconds")
    assert abs(ends - time.time() - 12.5 * 86400) < 600
    d.install("server", d.ca.server(days=90))
    wait_for("all is well", lambda: d.problems() == [])


def test_start_without_certificate(d):
    """Files that are not there yet keep nobody from using the sockets, and are taken when they come."""
    for name in ("server.crt", "server.key", "ca.crt"):
        (d.files / name).unlink()
    d.declare("a", "client-a")
    d.start()
    endpoint = d.wait_tenant("a")
    assert etcdctl(endpoint, "put", "k", "v").stdout == "OK\n"
    assert any(p.startswith("tls.certificate: ") and "nobody is served" in p for p in d.problems())
    d.put("ca.crt", d.ca.certificate)
    d.install("server", d.ca.server())
    a = d.ca.client("client-a")
    wait_for("the port", lambda: d.refusal(a) is None)
    assert d.problems() == []


def test_port_that_is_taken(d):
    """Another program on the port is told, and keeps nobody from using the sockets."""
    d.declare("a", "client-a")
    with socket.create_server(("127.0.0.1", d.port)):
        d.start()
        d.wait_tenant("a")
        wait_for("it is told", lambda: any(p.startswith("tls.address: ") for p in d.problems()))
    a = d.ca.client("client-a")
    wait_for("the port", lambda: d.refusal(a) is None)
    assert d.problems() == []


# ---- tenants that come and go

def test_tenant_that_cannot_be_served(two):
    """Its client is told so at once, not left hanging; and served when it can be."""
    port = free_port()
    two.define("p.yaml", f"""apiVersion: stokehold/v1alpha1
kind: DataStore
metadata: {{name: away}}
spec:
  driver: PostgreSQL
  endpoints: ["127.0.0.1:{port}"]
  basicAuth: {{username: {{content: YQ==}}, password: {{content: Yg==}}}}
---
apiVersion: stokehold/v1alpha1
kind: Tenant
metadata: {{name: p}}
spec:
  datastore: away
  endpoint: {{clientNames: [client-p]}}
""")
    client = two.ca.client("client-p")
    wait_for("its name", lambda: "p" in [t["name"] for t in two.ask("tenant", "list")["tenants"]])
    proto = Proto(two, "a")

    def refused():
        with two.channel(client) as channel:
            with pytest.raises(grpc.RpcError) as e:
                proto.stub(channel, "KV", "Range")(proto("RangeRequest", key=b"k"), timeout=20)
            return e.value.code() == grpc.StatusCode.UNAVAILABLE and "unhealthy" in e.value.details()
    wait_for("the refusal", refused, 60)
    assert two.probe("/tenants/p/health")[0] == 503
    status, body = two.get("/health", client)
    assert status == 503 and json.loads(body)["health"] == "false"
    # The others do not notice.
    assert two.etcdctl(two.a, "put", "k", "v").stdout == "OK\n"


def test_tenant_served_anew(two):
    """A change of a tenant's definition serves it anew: clients that come meanwhile wait, and are not turned away."""
    stop = threading.Event()
    trouble = []

    def come():
        while not stop.is_set():
            if said := two.refusal(two.a):
                trouble.append(said)
    clients = [threading.Thread(target=come) for _ in range(3)]
    for c in clients:
        c.start()
    try:
        for quota in range(1, 9):
            two.declare("a", "client-a", more=f"  quota: {quota}Gi\n")
            assert two.reload_errors() == []
            wait_for("the new quota", lambda q=quota: int(two.ask("tenant", "show", "a")["quotaBytes"]) == q << 30)
    finally:
        stop.set()
        for c in clients:
            c.join()
    assert not [t for t in trouble if t not in ("closed", "reset")], set(trouble)
    assert two.refusal(two.a) is None


def test_tenants_come_and_go_under_clients(two, seed):
    """Connections that meet their tenant's end, a new policy, or the daemon's stop, at any moment, hurt nobody: neither the daemon nor other tenants."""
    dice = random.Random(seed)
    clients = [two.ca.client(f"client-{i}") for i in range(4)]
    revoked = two.ca.client("client-0")
    stop = threading.Event()
    answers = []

    def come(number):
        mine = random.Random(seed + number)
        while not stop.is_set():
            certificate = mine.choice([*clients, two.a, revoked])
            try:
                with two.connect(certificate, alpn=(mine.choice(("h2", "http/1.1")),)) as s:
                    if mine.random() < 0.5:
                        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"[:mine.randrange(34)])
                    if mine.random() < 0.5:
                        s.settimeout(0.2)
                        s.recv(100)
            except OSError:  # which an SSLError is too
                pass

    def neighbour():
        while not stop.is_set():
            try:
                answers.append(two.refusal(two.b))
            except OSError as e:
                answers.append(str(e))
    threads = [threading.Thread(target=come, args=(n,)) for n in range(6)] + [threading.Thread(target=neighbour)]
    for t in threads:
        t.start()
    try:
        declared = set()
        for step in range(60):
            i = dice.randrange(4)
            match dice.randrange(5):
                case 0 | 1 if i not in declared:
                    two.declare(f"t{i}", f"client-{i}")
                    declared.add(i)
                case 0 | 1:
                    two.undefine(f"t{i}.yaml")
                    declared.discard(i)
                case 2 if i in declared:
                    two.declare(f"t{i}", f"client-{i}", more=f"  quota: {step + 1}Gi\n")
                case 3:
                    two.put("ca.crl", two.ca.revocations())
                case 4:
                    if step == 30:
                        two.ca.revoke(revoked)
                    two.hangup()
            stop.wait(dice.random() * 0.25)
    finally:
        # The daemon ends in the midst of them.
        stop.wait(0.2)
        heard = list(answers)
        two.stop()
        stop.set()
        for t in threads:
            t.join(60)
    assert heard and set(heard) == {None}, set(heard)
    two.start()
    assert two.refusal(two.a) is None


def test_restart_under_many_clients(two):
    """After a restart all API servers come at once, and each is served again."""
    proto = Proto(two, "a")
    n = 200
    arrived = queue.Queue()
    down = threading.Event()

    def client(i):
        with two.channel(two.a if i % 2 else two.b) as channel:
            get = proto.stub(channel, "KV", "Range")
            get(proto("RangeRequest", key=b"k"), timeout=60, wait_for_ready=True)
            arrived.put(i)
            down.wait(60)
            end = time.monotonic() + 60
            while True:
                try:
                    get(proto("RangeRequest", key=b"k"), timeout=20, wait_for_ready=True)
                    break
                except grpc.RpcError:
                    if time.monotonic() > end:
                        raise
            arrived.put(i)
    threads = [threading.Thread(target=client, args=(i,), daemon=True) for i in range(n)]
    for t in threads:
        t.start()
    assert len({arrived.get(timeout=120) for _ in range(n)}) == n
    two.stop()
    down.set()
    two.start()
    assert len({arrived.get(timeout=120) for _ in range(n)}) == n
    for t in threads:
        t.join(30)
        assert not t.is_alive()


def test_every_daemon_lets_in(d):
    """Daemons that share a registry share what is in it: a name given on one of them leads to the tenant on each, and its end is the end on each."""
    with PostgreSQL() as server, running(TlsDaemon) as other:
        for daemon in (d, other):
            daemon.define("datastores.yaml", datastore("PostgreSQL", [server.endpoint], more="  system: true\n"))
            daemon.put("ca.crt", d.ca.certificate)
            daemon.put("ca.crl", d.ca.revocations())
            daemon.start()
        d.tenant("s", "--client-name", "client-s")
        other.wait_tenant("s")
        certificate = d.ca.client("client-s")
        assert d.etcdctl(certificate, "put", "k", "v").stdout == "OK\n"
        wait_for("the other lets it in", lambda: other.refusal(certificate) is None)
        assert other.etcdctl(certificate, "get", "k", "--print-value-only").stdout == "v\n"
        other.stokectl("tenant", "delete", "s", "--yes")
        for daemon in (d, other):
            wait_for("nobody comes in any more", lambda x=daemon: x.refusal(certificate) is not None)


def test_stop_with_open_connections(two):
    """A stop ends streams over TLS as it ends the others: with etcd's word for it."""
    proto = Proto(two, "a")
    with two.channel(two.a) as channel:
        watch = Watch(proto, channel, b"k")
        two.stop()
        assert watch.end() == grpc.StatusCode.UNAVAILABLE


def test_socket_from_systemd(d):
    """systemd keeps the port open over restarts: clients that come meanwhile wait in its queue."""
    d.declare("a", "client-a")
    starter = d.root / "starter"
    starter.write_text(f"""#!{sys.executable}
import fcntl, os, socket, sys
s = socket.create_server(("127.0.0.1", {d.port}), backlog=64)
other = socket.create_server(("127.0.0.1", 0))
high = [fcntl.fcntl(x, fcntl.F_DUPFD, 10) for x in (s, other)]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
for x in high:
    os.close(x)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="tls:other")
os.execv({program("stokehold")!r}, [{program("stokehold")!r}] + sys.argv[1:])
""")
    starter.chmod(0o755)
    d.configure(address="127.0.0.1:1")  # which it may not listen on, and need not
    d.executable = str(starter)
    d.start()
    d.wait_tenant("a")
    a = d.ca.client("client-a")
    assert d.refusal(a) is None
    assert f"https://127.0.0.1:{d.port}" in d.ask("tenant", "show", "a")["endpoints"]
    assert '"other"' in d.log()
