"""
Many clients at once, while the daemon is killed, stopped, paused or left alone: all they saw is recorded and checked against etcd's rules
(go/history). If these fail, an API server loses objects, meets conflicts that are none, or acts on a past that is over.
"""

import contextlib
import random
import re
import signal
import subprocess
import time

import pytest

from conftest import TREE, program

PROOFS = re.findall(r'^\t\{"([a-z-]+)"', (TREE / "tests/system/go/history/proof.go").read_text(), re.M)


@pytest.mark.parametrize("name", PROOFS)
def test_checker(name):
    """A checker that finds nothing in a broken history would hide what the tests below are for."""
    r = subprocess.run([program("history"), "proof", name], capture_output=True, text=True, timeout=30, check=False)
    assert r.returncode == 0, r.stderr


class History:
    """`history run` on endpoints; its record is beside the daemon's files."""

    def __init__(self, directory, seed, endpoints):
        self.log, self.seed = directory / "history.json", seed
        self.process = subprocess.Popen([program("history"), "run", str(self.log), str(seed), *endpoints],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "running\n", self.process.stderr.read()

    def dead(self):
        """All daemons have ended: what has no answer yet has happened, or never will."""
        self.process.send_signal(signal.SIGUSR1)

    def check(self, at_least):
        self.process.terminate()
        out, errors = self.process.communicate(timeout=300)
        print(out)
        assert self.process.returncode == 0, f"seed {self.seed}: {out}{errors}"
        assert int(re.match(r"(\d+) answered", out).group(1)) >= at_least, out


@contextlib.contextmanager
def recorded(directory, seed, endpoints, at_least=100):
    h = History(directory, seed, endpoints)
    try:
        yield h
        h.check(at_least)
    finally:
        if h.process.poll() is None:
            h.process.kill()
            h.process.communicate()


def span(request, short, long):
    return long if request.config.getoption("--long") else short


def test_calm(daemon, seed, request):
    """No fault at all: every answer and event as etcd's rules have it."""
    with recorded(daemon.root, seed, [daemon.tenant("calm")], 1000):
        time.sleep(span(request, 6, 120))


def test_kill_9(daemon, seed, request):
    """20 times kill -9 under load: no acknowledged write is lost, none appears twice or at another revision, watches go on without a gap."""
    endpoint, pause = daemon.tenant("killed"), random.Random(seed)
    with recorded(daemon.root, seed, [endpoint]) as h:
        for _ in range(span(request, 20, 200)):
            time.sleep(pause.uniform(0.1, 0.8))
            assert h.process.poll() is None, h.process.stderr.read()
            daemon.kill()
            h.dead()
            time.sleep(0.02)
            daemon.start()
        time.sleep(0.5)


def test_restarts(daemon, seed, request):
    """An upgrade restarts the daemon under load: it must answer or refuse, and forget nothing."""
    endpoint, pause = daemon.tenant("restarted"), random.Random(seed)
    with recorded(daemon.root, seed, [endpoint]) as h:
        for _ in range(span(request, 5, 60)):
            time.sleep(pause.uniform(0.3, 1.0))
            daemon.stop()
            h.dead()
            time.sleep(0.02)
            daemon.start()
        time.sleep(0.5)


def test_pauses(daemon, seed, request):
    """A host that stands still for seconds: calls run into their deadlines, leases' times pass, and nothing may be half done."""
    endpoint, pause = daemon.tenant("paused"), random.Random(seed)
    with recorded(daemon.root, seed, [endpoint]):
        for _ in range(span(request, 2, 20)):
            time.sleep(pause.uniform(0.5, 1.5))
            daemon.process.send_signal(signal.SIGSTOP)
            try:
                time.sleep(pause.uniform(2.0, 4.5))
            finally:
                daemon.process.send_signal(signal.SIGCONT)
        time.sleep(1)


def test_two_connections_see_one_history(daemon, seed):
    """Clients of one keyspace by several endpoints: a revision means the same to all of them."""
    endpoint = daemon.tenant("several")
    direct = f"unix://{daemon.root}/run/tenants/several/etcd.sock"
    with recorded(daemon.root, seed, [endpoint, direct], 300):
        time.sleep(3)


def test_the_same_of_etcd(etcd, seed, tmp_path):
    """What is asked of Stokehold is what etcd does: the checker must find nothing there but etcd's known looseness with headers."""
    h = History(tmp_path, seed, [etcd])
    try:
        time.sleep(3)
        h.process.terminate()
        out, errors = h.process.communicate(timeout=120)
    finally:
        h.process.kill()
    assert int(re.match(r"(\d+) answered", out).group(1)) > 300, out
    # A watch that catches up is told etcd's present revision before it has been sent all of it, and a keep-alive is answered with a header that was
    # taken before.
    others = [e for e in errors.splitlines() if not re.search(r"header \d+ (is ahead|after)|keepalive begun at .* was answered at revision", e)]
    assert not others, f"seed {seed}: {errors}"
