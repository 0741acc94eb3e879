#!/usr/bin/env python3
"""
What long lists cost, and what they do to a neighbour on the same shard: Stokehold and, for comparison, etcd.

    tests/bench/lists.py BUILD LISTS ETCD [ROUNDS]

BUILD is a release build (meson setup BUILD -Dbuildtype=release), LISTS the program of tests/system/go/lists (go build ./lists), ETCD an
etcd server. Three parts, each a line of JSON:
  cost        CPU of the server for one list of 10,000 objects of 4 KiB, by shape, both servers in turn, ROUNDS times (3)
  neighbour   latency of gets of one tenant while another lists 50,000 objects of 1 KiB in a loop, by shape, both on one shard
  stalled     memory of the server before and while a RangeStream of 400 MiB has a reader that reads nothing
Latencies mean something only on a machine that does nothing else.
"""

import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

SHAPES = ["pages", "once", "stream"]
OFFENDERS = [*SHAPES, "count", "sorted", "past", "past-pages"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def running(*command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def rss_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    raise RuntimeError("no VmRSS")


def show(part, **figures):
    print(json.dumps({"part": part, **figures}), flush=True)


class Lists:
    def __init__(self, program):
        self.program = program

    def run(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def ready(self, endpoint):
        end = time.monotonic() + 30
        while subprocess.run([self.program, "fill", endpoint, "1", "1"], check=False, stderr=subprocess.DEVNULL).returncode:
            if time.monotonic() > end:
                raise RuntimeError(f"{endpoint} does not answer")
            time.sleep(0.1)


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    build, lists, etcd = pathlib.Path(sys.argv[1]), Lists(sys.argv[2]), sys.argv[3]
    rounds = int(sys.argv[4]) if len(sys.argv) == 5 else 3
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = pathlib.Path(folder) / "root"
        (root / "definitions.d").mkdir(parents=True)
        (root / "stokehold.yaml").write_text("shards: 1\n", encoding="utf-8")
        (root / "definitions.d" / "tenants.yaml").write_text("---\n".join(
            f"apiVersion: stokehold/v1alpha1\nkind: Tenant\nmetadata:\n  name: {name}\n"
            for name in ("lister", "large", "getter", "stalled")), encoding="utf-8")
        ours = stack.enter_context(running(build / "stokehold", "--root", root, "--plugins", build / "plugins"))
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        theirs = stack.enter_context(running(
            etcd, "--data-dir", f"{folder}/etcd", "--log-level", "error", "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"))
        at = {name: f"unix://{root}/run/tenants/{name}.sock" for name in ("lister", "large", "getter", "stalled")}
        for endpoint in (*at.values(), client):
            lists.ready(endpoint)

        for endpoint in (at["lister"], client):
            lists.run("fill", endpoint, 10000, 4096)
        for n in range(rounds):
            for name, endpoint, pid in (("stokehold", at["lister"], ours.pid), ("etcd", client, theirs.pid)):
                for figures in lists.run("cost", endpoint, pid, 20, *SHAPES):
                    show("cost", round=n + 1, server=name, **figures)

        lists.run("fill", at["large"], 50000, 1024)
        lists.run("fill", at["getter"], 1000, 1024)
        show("neighbour", offender="none", **lists.run("gets", at["getter"], 4)[0])
        for shape in OFFENDERS:
            # Its client keeps to one core and yields to the one that measures: they share the machine, and what is asked is what the server does to its neighbour.
            with running("taskset", "-c", "1", "nice", "-n", "5", lists.program, "loop", at["large"], shape):
                time.sleep(0.5)
                show("neighbour", offender=shape, **lists.run("gets", at["getter"], 4)[0])

        lists.run("fill", at["stalled"], 4000, 100 * 1024)
        before = rss_mib(ours.pid)
        with running(lists.program, "stall", at["stalled"]):
            time.sleep(2)
            show("stalled", before_mib=before, after_mib=rss_mib(ours.pid))


if __name__ == "__main__":
    main()
