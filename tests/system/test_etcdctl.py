"""
etcdctl against a tenant and against a real etcd: one script, line by line, and the outputs must be equal. If it fails, what an operator knows
about etcd is wrong for Stokehold.
"""

import json
import re
import signal
import subprocess
import time

import pytest

from conftest import etcdctl, program

# (name, arguments, standard input). {lease} stands for the last lease granted. Both sides begin empty, at revision 1.
SCRIPT = [
    ("get nothing", ["get", "a"], None),
    ("get nothing, json", ["get", "a", "-w", "json"], None),
    ("put", ["put", "a", "1"], None),
    ("put, json", ["put", "a", "2", "-w", "json"], None),
    ("put with the previous value", ["put", "a", "3", "--prev-kv"], None),
    ("put from standard input", ["put", "stdin"], "from\nstdin"),
    ("get", ["get", "a"], None),
    ("get, json", ["get", "a", "-w", "json"], None),
    ("get, fields", ["get", "a", "-w", "fields"], None),
    ("get in hex", ["get", "a", "--hex"], None),
    ("get at a revision", ["get", "a", "--rev=3"], None),
    ("get at a future revision", ["get", "a", "--rev=1000"], None),
    ("put b", ["put", "b", "1"], None),
    ("put b1", ["put", "b1", ""], None),
    ("put c", ["put", "c", "1"], None),
    ("put of an empty key", ["put", "", "x"], None),
    ("get a prefix", ["get", "--prefix", "b"], None),
    ("get all", ["get", "--prefix", ""], None),
    ("get from a key on", ["get", "--from-key", "b1"], None),
    ("get a range", ["get", "a", "c"], None),
    ("keys only", ["get", "--prefix", "", "--keys-only"], None),
    ("count only", ["get", "--prefix", "", "--count-only", "-w", "fields"], None),
    ("limit", ["get", "--prefix", "", "--limit=2", "-w", "json"], None),
    ("sort by value", ["get", "--prefix", "", "--sort-by=value", "--order=descend"], None),
    ("sort by modification", ["get", "--prefix", "", "--sort-by=modify", "--order=ascend", "-w", "json"], None),
    ("serializable", ["get", "a", "--consistency=s"], None),
    ("ignore the value", ["put", "a", "--ignore-value"], None),
    ("ignore the value of nothing", ["put", "none", "--ignore-value"], None),
    ("txn that succeeds", ["txn"], 'value("a") = "3"\n\nput a 4\nget a\n\nget b\n\n'),
    ("txn that fails", ["txn"], 'value("a") = "3"\n\nput a 5\n\nget a\nget b\n\n'),
    ("txn of all compares", ["txn", "-w", "json"], 'mod("a") > "1"\ncreate("b") < "100"\nver("c") = "1"\n\nput d 1\nget --prefix ""\n\nget a\n\n'),
    ("txn of one key twice", ["txn"], '\nput d 1\nput d 2\n\n\n'),
    ("txn that only reads", ["txn", "-w", "json"], '\nget a\n\n\n'),
    ("del", ["del", "b"], None),
    ("del nothing", ["del", "b", "-w", "json"], None),
    ("del a prefix, with values", ["del", "--prefix", "b", "--prev-kv"], None),
    ("the past of a deleted key", ["get", "b", "--rev=9"], None),
    ("lease grant", ["lease", "grant", "100"], None),
    ("put with a lease", ["put", "leased", "1", "--lease={lease}"], None),
    ("put with an unknown lease", ["put", "leased2", "1", "--lease=1234"], None),
    ("lease time to live", ["lease", "timetolive", "{lease}", "--keys"], None),
    ("lease list", ["lease", "list"], None),
    ("lease keep-alive", ["lease", "keep-alive", "--once", "{lease}"], None),
    ("get of a leased key", ["get", "leased", "-w", "json"], None),
    ("lease revoke", ["lease", "revoke", "{lease}"], None),
    ("lease revoke again", ["lease", "revoke", "{lease}"], None),
    ("time to live of a dead lease", ["lease", "timetolive", "{lease}"], None),
    ("the leased key has gone", ["get", "leased"], None),
    ("compaction", ["compaction", "6"], None),
    ("compaction again", ["compaction", "6"], None),
    ("compaction of the future", ["compaction", "1000"], None),
    ("get below the compaction", ["get", "a", "--rev=3"], None),
    ("get at the compaction", ["get", "a", "--rev=6"], None),
    ("compaction, all gone", ["compaction", "12", "--physical"], None),
    ("get all at last", ["get", "--prefix", "", "-w", "json"], None),
    ("health", ["endpoint", "health"], None),
    ("put more", ["put", "p/1", "z"], None),
    ("put yet more", ["put", "p/2", "y", "-w", "fields"], None),
    ("sort by creation", ["get", "--prefix", "p/", "--sort-by=create", "--order=descend"], None),
    ("sort by version", ["get", "--prefix", "p/", "--sort-by=version", "--order=ascend"], None),
    ("sort by key", ["get", "--prefix", "p/", "--sort-by=key", "--order=descend"], None),
    ("value only", ["get", "p/1", "--print-value-only"], None),
    ("bounds of modification", ["get", "--prefix", "", "--min-mod-rev=3", "--max-mod-rev=1000", "-w", "json"], None),
    ("bounds of creation", ["get", "--prefix", "", "--min-create-rev=3", "--max-create-rev=10", "-w", "json"], None),
    ("table of keys", ["get", "p/1", "-w", "table"], None),
    ("ignore the lease", ["put", "p/1", "x", "--ignore-lease", "--prev-kv"], None),
    ("del a range", ["del", "p/1", "p/2", "--prev-kv", "-w", "fields"], None),
    ("del from a key on", ["del", "--from-key", "p/2", "-w", "json"], None),
    ("alarm list", ["alarm", "list"], None),
    ("alarm disarm", ["alarm", "disarm"], None),
    ("user list", ["user", "list"], None),
    ("role list", ["role", "list"], None),
    ("user get", ["user", "get", "root"], None),
    ("auth enable without a root", ["auth", "enable"], None),
    ("defrag", ["defrag"], None),
]


def normal(text, lease):
    """Without what differs between any two etcds."""
    text = re.sub(r'"(cluster_id|member_id|raft_term)":\d+,?', "", text)
    text = re.sub(r'"(ClusterID|MemberID|RaftTerm)" : \d+\n', "", text)
    text = re.sub(r'(http|unix)://[^\s\]]+', "ENDPOINT", text)
    text = re.sub(r'took = \S+', "took = T", text)
    text = re.sub(r'took \S+', "took T", text)
    text = re.sub(r'remaining\((9[5-9]|100)s\)', "remaining(N)", text)
    # etcdctl's own log line names addresses and times.
    text = re.sub(r'^\{"level":.*?"error":"(.*?)"\}$', r'\1', text, flags=re.M)
    if lease:
        text = text.replace(lease, "LEASE").replace(str(int(lease, 16)), "LEASE")
    return text


def run_script(endpoint):
    lease, answers = "", {}
    for name, arguments, stdin in SCRIPT:
        arguments = [a.replace("{lease}", lease) for a in arguments]
        r = etcdctl(endpoint, *arguments, check=False, stdin=stdin)
        granted = re.search(r"lease (\w+) granted", r.stdout)
        if granted:
            lease = granted.group(1)
        answers[name] = (r.returncode, normal(r.stdout, lease), normal(r.stderr, lease))
    return answers


@pytest.fixture(scope="module")
def answers(shared, etcd):
    return run_script(shared.tenant("compared")), run_script(etcd)


@pytest.mark.parametrize("step", [s[0] for s in SCRIPT])
def test_same_answer_as_etcd(answers, step):
    """An operator's etcdctl line must do and print what it does on etcd."""
    ours, theirs = answers
    assert ours[step] == theirs[step]


def watch_script(endpoint):
    command = [program("etcdctl"), "--endpoints", endpoint, "watch", "--prefix", "w/", "--prev-kv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        time.sleep(1)
        etcdctl(endpoint, "put", "w/1", "a")
        etcdctl(endpoint, "put", "elsewhere", "a")
        etcdctl(endpoint, "put", "w/1", "b")
        etcdctl(endpoint, "txn", stdin='\nput w/2 x\nput w/3 y\ndel w/1\n\n\n')
        etcdctl(endpoint, "del", "w/", "--prefix")
        time.sleep(1)
        watch.send_signal(signal.SIGINT)
        out, _ = watch.communicate(timeout=10)
    return out


def test_watch_prints_the_same_as_on_etcd(shared, etcd):
    """Whoever follows a key must see every change, in order, with the value before it."""
    ours, theirs = watch_script(shared.tenant("watched")), watch_script(etcd)
    assert "PUT\n" in theirs and ours == theirs


def test_watch_below_a_compaction(shared, etcd):
    """A follower that was away for too long must be told so, not be left with a gap."""
    endpoint = shared.tenant("compacted")
    answers = []
    for e in (endpoint, etcd):
        for i in range(5):
            etcdctl(e, "put", "w/c", str(i))
        revision = json.loads(etcdctl(e, "get", "w/c", "-w", "json").stdout)["header"]["revision"]
        etcdctl(e, "compaction", str(revision - 1))
        r = etcdctl(e, "watch", "w/c", f"--rev={revision - 3}", check=False)
        answers.append((r.returncode, re.sub(r"compacted revision \d+|\d+", "N", r.stdout + r.stderr)))
    assert answers[0] == answers[1]


def test_lease_expiry_deletes_the_key(shared):
    """What was put for a time must go when it is over (events, locks), not stay for ever."""
    endpoint = shared.tenant("expiring")
    lease = re.search(r"lease (\w+) granted", etcdctl(endpoint, "lease", "grant", "2").stdout).group(1)
    etcdctl(endpoint, "put", "k", "v", f"--lease={lease}")
    assert etcdctl(endpoint, "get", "k").stdout == "k\nv\n"
    time.sleep(4)
    assert etcdctl(endpoint, "get", "k").stdout == ""


def test_status_and_members(shared):
    """kubeadm and k3s ask for these before they use an etcd at all."""
    endpoint = shared.tenant("asked")
    status = json.loads(etcdctl(endpoint, "endpoint", "status", "-w", "json").stdout)[0]["Status"]
    assert re.match(r"3\.\d+\.\d+", status["version"]) and status["header"]["revision"] == 1
    members = json.loads(etcdctl(endpoint, "member", "list", "-w", "json").stdout)["members"]
    assert len(members) == 1 and members[0]["clientURLs"]


def test_lock_and_elect(shared):
    """etcdctl lock is leases, transactions and watches at once: two must never hold the same."""
    endpoint = shared.tenant("locking")
    command = [program("etcdctl"), "--endpoints", endpoint, "lock", "l", "--", "sh", "-c", "date +%s.%N; sleep 1; date +%s.%N"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    times = sorted(tuple(float(x) for x in p.communicate(timeout=60)[0].split()) for p in processes)
    assert all(len(t) == 2 for t in times)
    assert times[0][1] <= times[1][0] and times[1][1] <= times[2][0]
