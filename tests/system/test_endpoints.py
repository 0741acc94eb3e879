"""
Tenants' endpoints: sockets that a pod can mount, TCP on loopback, who may connect, how connections end.
"""

import os
import re
import socket
import stat
import subprocess
import threading

import grpc
import pytest

from conftest import Daemon, as_root, etcdctl, free_port, program, scratch, wait_for
from proto import Proto


def test_socket_and_its_link(daemon):
    """The two paths of the documentation are there: the directory to mount, the link to name."""
    daemon.tenant("demo")
    tenants = daemon.root / "run" / "tenants"
    assert stat.S_ISSOCK((tenants / "demo" / "etcd.sock").lstat().st_mode)
    assert (tenants / "demo.sock").is_symlink()
    assert etcdctl(f"unix://{tenants}/demo/etcd.sock", "put", "a", "1").stdout == "OK\n"
    assert daemon.ask("tenant", "show", "demo")["endpoints"]


def test_socket_made_anew_under_a_mount(daemon):
    """A pod that mounted its tenant's directory must reach the daemon after a restart, without a restart of its own."""
    daemon.tenant("demo")
    directory = daemon.root / "run" / "tenants" / "demo"
    with scratch() as mount:
        script = (f"mount --bind {directory} {mount} && read go && "
                  f"{program('etcdctl')} --endpoints unix://{mount}/etcd.sock put a 1 && read go && "
                  f"{program('etcdctl')} --endpoints unix://{mount}/etcd.sock get a")
        with subprocess.Popen(as_root("unshare", "-m", "sh", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pod:
            pod.stdin.write("\n")
            pod.stdin.flush()
            assert pod.stdout.readline() == "OK\n"
            daemon.restart()
            pod.stdin.write("\n")
            pod.stdin.flush()
            assert pod.communicate(timeout=30)[0] == "a\n1\n"
            assert pod.returncode == 0


def test_socket_after_kill_9(daemon):
    """The socket file that a killed daemon left behind must not keep the next one from serving."""
    endpoint = daemon.tenant("demo")
    daemon.kill()
    daemon.start()
    assert etcdctl(endpoint, "put", "a", "1").stdout == "OK\n"


def test_tcp_on_loopback(stopped):
    """A client that cannot use Unix sockets has a port of its own."""
    port = free_port()
    stopped.define("t.yaml", f"""apiVersion: stokehold/v1alpha1
kind: Tenant
metadata: {{name: tcp}}
spec:
  endpoint:
    tcp: 127.0.0.1:{port}
""")
    stopped.start()
    stopped.wait_tenant("tcp")
    assert etcdctl(f"http://127.0.0.1:{port}", "put", "a", "1").stdout == "OK\n"
    assert any(str(port) in e for e in stopped.ask("tenant", "show", "tcp")["endpoints"])


def test_tcp_beyond_loopback_is_refused(daemon):
    """Without TLS, etcd's data must not be offered to a network by a slip in a file."""
    daemon.define("t.yaml", """apiVersion: stokehold/v1alpha1
kind: Tenant
metadata: {name: tcp}
spec:
  endpoint:
    tcp: 0.0.0.0:2379
""")
    errors = daemon.reload_errors()
    assert len(errors) == 1 and "loopback" in errors[0] and re.search(r"t\.yaml:\d+: ", errors[0])


def connects(path, uid):
    """Whether a put by that uid is done."""
    command = as_root("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", program("etcdctl"),
                      "--endpoints", f"unix://{path}", "--dial-timeout=2s", "--command-timeout=2s", "put", "a", "1")
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def test_list_of_peers(daemon):
    """Only the uids that a tenant lists may use its socket, even if the file's mode lets others in."""
    daemon.define("t.yaml", """apiVersion: stokehold/v1alpha1
kind: Tenant
metadata: {name: peers}
spec:
  endpoint:
    mode: "0666"
    peers: [65534]
""")
    assert daemon.reload_errors() == []
    daemon.wait_tenant("peers")
    directory = daemon.root / "run" / "tenants" / "peers"
    # The test's folders let everybody through; only the list is tried here.
    for d in (daemon.root, daemon.root / "run", daemon.root / "run" / "tenants", directory):
        os.chmod(d, 0o755)
    assert connects(directory / "etcd.sock", 65534)
    assert not connects(directory / "etcd.sock", 65533)


def test_two_daemons_on_one_root_are_refused(daemon):
    """A second daemon started by mistake must not write into the first one's files."""
    endpoint = daemon.tenant("demo")
    second = subprocess.run([program("stokehold"), "--root", str(daemon.root), "--plugins", str(daemon.plugins)],
                            capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode not in (0, 99) and second.stderr.strip(), second
    assert etcdctl(endpoint, "put", "a", "1").stdout == "OK\n"


def test_graceful_stop(daemon):
    """A stop must end running watches with etcd's word for it, so that clients go elsewhere at once, and lose no call."""
    daemon.tenant("demo")
    proto = Proto(daemon)
    with grpc.insecure_channel(f"unix:{daemon.root}/run/tenants/demo.sock") as channel:
        requests = threading.Event()

        def create():
            yield proto("WatchRequest", create_request=proto("WatchCreateRequest", key=b"k"))
            requests.wait(30)
        stream = proto.stub(channel, "Watch", "Watch")(create())
        assert next(stream).created
        daemon.stop()
        with pytest.raises(grpc.RpcError) as e:
            next(stream)
        requests.set()
        assert e.value.code() == grpc.StatusCode.UNAVAILABLE and "server stopped" in e.value.details()


def test_many_connections(daemon):
    """An API server opens one connection for each resource type; a hundred must be no trouble, nor must their sudden end."""
    daemon.tenant("demo")
    path = str(daemon.root / "run" / "tenants" / "demo.sock")
    for _ in range(3):
        sockets = []
        for _ in range(150):
            s = socket.socket(socket.AF_UNIX)
            s.connect(path)
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            sockets.append(s)
        for s in sockets:
            s.close()
    assert etcdctl(daemon.endpoint("demo"), "put", "a", "1").stdout == "OK\n"
    wait_for("the connections are forgotten", lambda: daemon.status()["nConnections"] == 0)


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 1000, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
                                     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff"])
def test_garbage_on_the_socket(shared, garbage):
    """Whatever a stray program writes to a tenant's socket, the tenant's clients are served."""
    name = f"garbage{len(garbage)}"
    endpoint = shared.tenant(name)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(shared.root / "run" / "tenants" / f"{name}.sock"))
        try:
            s.sendall(garbage)
            s.settimeout(2)
            while s.recv(65536):
                pass
        except (TimeoutError, OSError):
            pass
    assert etcdctl(endpoint, "put", "a", "1").stdout == "OK\n"


def test_path_too_long_is_said(tmp_path):
    """A socket's path has at most 107 bytes; somebody whose root is deeper must read that, not see a tenant that cannot be reached."""
    with scratch() as top:
        root = top / ("d" * 80)
        d = Daemon(root)
        process = subprocess.run([program("stokehold"), "--root", str(root), "--plugins", str(d.plugins)], capture_output=True, text=True,
                                 timeout=30, check=False) if len(str(root / "run" / "control.sock")) > 107 else None
        if process is None:
            d.start()
            try:
                r = d.stokectl("tenant", "create", "a" * 60, check=False)
                assert r.returncode != 0 and "107" in r.stderr, r
            finally:
                d.stop()
        else:
            assert process.returncode != 0 and "107" in process.stderr
