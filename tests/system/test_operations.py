"""
What an operator watches: metrics, the slow request log, memory that does not grow.
"""

import re
import urllib.request

from conftest import client, etcdctl, free_port, wait_for


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as r:
        assert r.headers["Content-Type"].startswith("text/plain")
        return r.read().decode()


def with_metrics(stopped, extra=""):
    port = free_port()
    (stopped.root / "stokehold.yaml").write_text(f"metrics:\n  listen: tcp:127.0.0.1:{port}\n{extra}")
    stopped.start()
    return port


def test_metrics(stopped):
    """Requests, commits, cache and connections are what alerts are made of; the format must be Prometheus' own."""
    port = with_metrics(stopped)
    endpoint = stopped.tenant("demo")
    for i in range(5):
        etcdctl(endpoint, "put", f"k{i}", "v")
    etcdctl(endpoint, "get", "k1")
    text = scrape(port)
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) [a-zA-Z_:][\w:]* .*|[a-zA-Z_:][\w:]*(\{.*\})? (NaN|[-+]?Inf|[-+]?[\d.]+(e[-+]?\d+)?)', line), line
    for word in ("grpc", "commit", "cache", "connection"):
        assert re.search(rf"^stokehold_\w*{word}", text, re.M), f"nothing about {word}:\n{text}"
    assert 'tenant="demo"' in text
    stopped.stokectl("tenant", "delete", "demo", "--yes")
    wait_for("its metrics have gone", lambda: 'tenant="demo"' not in scrape(port))


def test_slow_requests_are_logged(stopped):
    """Who asks why a request took long finds tenant, method and time in the log, and no key's value."""
    with_metrics(stopped, "log:\n  slowRequest: 1ms\n")
    endpoint = stopped.tenant("demo")
    for i in range(30):
        etcdctl(endpoint, "put", f"k{i}", "confidential" * 10000)
    etcdctl(endpoint, "get", "--prefix", "k")
    wait_for("a slow request is logged", lambda: re.search(r"(?i)slow|took", stopped.log()))
    line = next(x for x in stopped.log().splitlines() if re.search(r"(?i)slow|took", x))
    assert "demo" in line and "confidential" not in stopped.log(), line


def test_quota(daemon):
    """One tenant must not fill the disk of all; it is told with etcd's own words, and can delete and go on."""
    endpoint = daemon.tenant("small", "--quota", "1Mi")
    refused = None
    for i in range(40):
        r = etcdctl(endpoint, "put", f"k{i}", "x" * 60000, check=False)
        if r.returncode:
            refused = r
            break
    assert refused and "database space exceeded" in refused.stderr
    assert etcdctl(endpoint, "get", "k0", "--keys-only").stdout.strip() == "k0"


def test_memory_does_not_grow(daemon):
    """The same work done again must not take more and more memory."""
    endpoint = daemon.tenant("demo")

    def memory():
        return daemon.status()["memoryBytes"]
    for _ in range(2):
        assert client("shapes", endpoint, "big-list").returncode == 0
        etcdctl(endpoint, "del", "--prefix", "/registry/")
    before = memory()
    for _ in range(4):
        assert client("shapes", endpoint, "watch-cancel").returncode == 0
        assert client("shapes", endpoint, "watch-many").returncode == 0
    assert memory() < before + (200 << 20)
