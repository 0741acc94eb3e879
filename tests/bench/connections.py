#!/usr/bin/env python3
"""
What an idle connection costs: memory of the daemon with N connections to one tenant, each with a Watch stream and one watch on it.

    tests/bench/connections.py BUILD [N [unix|tcp|tls]]

BUILD is a release build; N is 10,000, over a Unix socket, unless said otherwise. It speaks HTTP/2 by hand, so that ten thousand clients fit beside
the daemon. Prints a line of JSON: proportional set size before, after, and what was added for each connection, in KiB; the kernel's own
memory for sockets is not in it.
"""

import json
import pathlib
import resource
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
from certificates import Authority  # pylint: disable=wrong-import-position

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def watch_request(key):
    create = b"\x0a" + bytes([len(key)]) + key + b"\x20\x01"  # key, progress_notify
    message = b"\x0a" + bytes([len(create)]) + create
    return b"\x00" + struct.pack(">I", len(message)) + message


def opening(i):
    headers = b"".join([literal(b":method", b"POST"), literal(b":scheme", b"http"), literal(b":path", b"/etcdserverpb.Watch/Watch"),
                        literal(b":authority", b"localhost"), literal(b"content-type", b"application/grpc"), literal(b"te", b"trailers")])
    return PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 4, 1, headers) + frame(DATA, 0, 1, watch_request(b"/registry/%d" % i)) + \
        frame(SETTINGS, 1, 0, b"")


def created(connection):
    """Reads until the watch is there: its answer is the first DATA frame."""
    buffer = b""
    while True:
        while len(buffer) >= 9:
            size, kind = int.from_bytes(buffer[:3], "big"), buffer[3]
            if len(buffer) < 9 + size:
                break
            if kind == DATA and size:
                return
            buffer = buffer[9 + size:]
        piece = connection.recv(4096)
        if not piece:
            raise RuntimeError("the daemon closed a connection")
        buffer += piece


def pss_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError("no Pss")


def main():
    build, n = pathlib.Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 10000
    over = sys.argv[3] if len(sys.argv) > 3 else "unix"
    resource.setrlimit(resource.RLIMIT_NOFILE, (n + 200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with tempfile.TemporaryDirectory(prefix="shc-") as directory:
        root = pathlib.Path(directory)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        (root / "stokehold.yaml").write_text("coreDumps: true\n", encoding="utf-8")  # or its memory is shown to root alone
        (root / "definitions.d").mkdir()
        (root / "definitions.d" / "t.yaml").write_text("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: t}\n"
                                                       f'spec: {{endpoint: {{tcp: "127.0.0.1:{port}"}}}}\n', encoding="utf-8")
        if over == "tls":
            (root / "definitions.d" / "t.yaml").write_text("apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata: {name: t}\n"
                                                           "spec: {endpoint: {clientNames: [t]}}\n", encoding="utf-8")
            ca = Authority(root / "ca")
            server, client = ca.server(), ca.client("t")
            (root / "stokehold.yaml").write_text(f'tls: {{address: "127.0.0.1:{port}", certificate: "{server.certificate}", '
                                                 f'key: "{server.key}", clientCA: "{ca.certificate}"}}\n', encoding="utf-8")
            context = ssl.create_default_context(cafile=ca.certificate)
            context.load_cert_chain(*client.files)
            context.set_alpn_protocols(["h2"])
        with open(root / "log", "wb") as log, subprocess.Popen([build / "stokehold", "--root", root], stdout=log, stderr=log) as daemon:
            try:
                path = root / "run" / "tenants" / "t.sock"
                while not path.exists():
                    time.sleep(0.05)

                def connect(i):
                    if over == "unix":
                        c = socket.socket(socket.AF_UNIX)
                        c.connect(str(path))
                    else:
                        c = socket.create_connection(("127.0.0.1", port))
                    if over == "tls":
                        c = context.wrap_socket(c, server_hostname="localhost")
                    c.sendall(opening(i))
                    return c
                while True:
                    try:
                        connections = [connect(0)]
                        break
                    except ConnectionRefusedError:
                        time.sleep(0.05)
                created(connections[0])
                before = pss_kib(daemon.pid)
                for i in range(1, n + 1):
                    connections.append(connect(i))
                    created(connections[-1])
                time.sleep(1)
                after = pss_kib(daemon.pid)
                print(json.dumps({"connections": n, "over": over, "before_kib": before, "after_kib": after,
                                  "kib_each": round((after - before) / n, 2)}))
                for c in connections:
                    c.close()
            finally:
                daemon.terminate()


main()
