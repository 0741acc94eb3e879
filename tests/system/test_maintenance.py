"""
Maintenance, Cluster and Auth, call by call against a real etcd: the same requests on both sides, answers compared field by field; then what an
operator does when a tenant is full. If it fails, tools that look after an etcd (backup jobs, operators, probes) go astray on a tenant.
"""

import json
import re

import grpc
import pytest

from conftest import etcdctl, wait_for
from proto import Proto


def script():
    """(service, method, fields). MEMBER stands for the member's id. Both sides begin empty."""
    put, nested = {"key": b"k", "value": b"v"}, lambda **op: {"success": [{"request_txn": {"success": [op]}}]}
    writes = [
        ("KV", "Put", put),
        ("KV", "Put", {}),
        ("KV", "Put", {"key": b"leased", "lease": 99}),
        ("KV", "Txn", {"success": [{"request_range": {"key": b"k0"}}]}),
        ("KV", "Txn", {"success": [{"request_put": put}]}),
        ("KV", "Txn", {"success": [{"request_range": {"key": b"k0"}}], "failure": [{"request_put": put}]}),
        ("KV", "Txn", nested(request_put=put)),
        ("KV", "Txn", {"success": [{"request_delete_range": {"key": b"k2"}}]}),
        ("KV", "Range", {"key": b"k0"}),
        ("KV", "Range", {"key": b"k0", "serializable": True}),
        ("KV", "DeleteRange", {"key": b"k1"}),
        ("KV", "Compact", {"revision": 2}),
        ("Lease", "LeaseGrant", {"TTL": 100, "ID": 5}),
        ("Lease", "LeaseGrant", {"TTL": 99999999999999, "ID": 6}),
        ("Lease", "LeaseRevoke", {"ID": 5}),
        ("Lease", "LeaseTimeToLive", {"ID": 5}),
        ("Lease", "LeaseLeases", {}),
    ]
    get, activate, deactivate = 0, 1, 2
    status = ("Maintenance", "Status", {})

    def alarm(action, kind=0, member=0):
        return "Maintenance", "Alarm", {"action": action, "alarm": kind, "memberID": member}

    yield from [("KV", "Put", {"key": b"k%d" % i, "value": b"v"}) for i in range(3)]
    yield from [alarm(get, kind) for kind in (0, 1, 2, 7)]
    yield from [alarm(activate, 0, "MEMBER"), alarm(deactivate, 0, "MEMBER"), alarm(deactivate, 1, "MEMBER"), alarm(get)]
    yield from [alarm(activate, 1, "MEMBER"), alarm(activate, 1, "MEMBER"), status, *writes]
    yield from [alarm(get), alarm(get, 1), alarm(get, 2), alarm(get, 1, 77), alarm(activate, 1, 77), alarm(activate, 1, 0)]
    yield from [alarm(deactivate, 1, 77), alarm(deactivate, 1, 78), ("KV", "Put", put), alarm(deactivate, 1, 0), alarm(deactivate, 1, "MEMBER")]
    yield from [("KV", "Put", put), alarm(activate, 2, "MEMBER"), status, *writes, alarm(deactivate, 2, "MEMBER")]
    yield from [alarm(activate, 7, "MEMBER"), status, alarm(get, 7), *writes, alarm(deactivate, 7, "MEMBER"), alarm(get), status, *writes]
    yield from [("Maintenance", "HashKV", {"revision": r}) for r in (0, -1, 1, 3, 4, 5, 1000)]
    yield from [("Maintenance", "Hash", {}), ("Maintenance", "Defragment", {})]
    yield from [("Maintenance", "MoveLeader", {"targetID": i}) for i in (0, 5, "MEMBER")]
    for version in ("", "3", "3.7", "3.7.0", "3.8.0", "3.5.0", "4.0", "x", "v3.6.0", "3.7.0.1", "-1.2", "3.x", " 3.7", "3.7 ", "3.5.0-rc.1"):
        yield from [("Maintenance", "Downgrade", {"action": action, "version": version}) for action in (0, 1, 2, 7)]
    yield from [("Cluster", "MemberList", {"linearizable": linearizable}) for linearizable in (False, True)]
    yield from [("Cluster", "MemberRemove", {"ID": i}) for i in (0, 5, "MEMBER")]
    yield from [("Cluster", "MemberUpdate", {"ID": 5, "peerURLs": urls}) for urls in ([], ["http://1.2.3.4:5"])]
    yield from [("Cluster", "MemberPromote", {"ID": i}) for i in (5, "MEMBER")]
    yield from [("Cluster", "MemberAdd", {"peerURLs": urls}) for urls in ([], ["bad"], ["http://1.2.3.4"], ["http://1.2.3.4:5/x"])]
    yield from [("Auth", method, {}) for method in ("AuthStatus", "AuthEnable", "AuthDisable", "Authenticate", "UserList", "RoleList", "UserAdd",
                                                     "UserGet", "UserDelete", "UserChangePassword", "UserGrantRole", "UserRevokeRole", "RoleAdd",
                                                     "RoleGet", "RoleDelete", "RoleGrantPermission", "RoleRevokePermission")]
    for name in ("root", "u"):
        yield from [("Auth", "Authenticate", {"name": name, "password": "p"}), ("Auth", "UserGet", {"name": name}),
                    ("Auth", "UserDelete", {"name": name}), ("Auth", "UserChangePassword", {"name": name, "password": "p"}),
                    ("Auth", "UserGrantRole", {"user": name, "role": "root"}), ("Auth", "UserRevokeRole", {"name": name, "role": "root"}),
                    ("Auth", "RoleGet", {"role": name}), ("Auth", "RoleDelete", {"role": name}),
                    ("Auth", "RoleRevokePermission", {"role": name, "key": b"x"})]
        yield from [("Auth", "RoleGrantPermission", {"name": name, "perm": {"key": key, "range_end": end}})
                    for key, end in ((b"", b""), (b"a", b""), (b"a", b"b"), (b"b", b"a"), (b"b", b"\0"), (b"a", b"a"))]


SIZES = {"dbSize", "dbSizeInUse", "dbSizeQuota", "raftIndex", "raftAppliedIndex", "cluster_id", "raft_term", "raftTerm"}


def flat(message, member, method):
    """Fields as text, without what differs between any two etcds."""
    for field, value in message.ListFields():
        if field.name in SIZES or (method.startswith("Hash") and field.name == "hash") or (method == "MemberList" and field.name in (
                "peerURLs", "clientURLs", "name")):
            continue
        for v in value if field.is_repeated else [value]:
            if field.message_type:
                yield field.name, sorted(flat(v, member, method))
            else:
                yield field.name, re.sub(r"  +", " ", str(v).replace(str(member), "MEMBER"))


def run(proto, target):
    answers = []
    with grpc.insecure_channel(target) as channel:
        member = proto.stub(channel, "Maintenance", "Status")(proto("StatusRequest"), timeout=20).leader
        for service, method, fields in script():
            fields = {k: member if v == "MEMBER" else v for k, v in fields.items()}
            stub = proto.stub(channel, service, method)
            request = proto.pool.FindServiceByName(f"etcdserverpb.{service}").methods_by_name[method].input_type.name
            try:
                answer = sorted(flat(stub(proto(request, **fields), timeout=20), member, method), key=str)
            except grpc.RpcError as e:
                answer = e.code().name, e.details()
            answers.append(answer)
    return answers


def test_same_answers_as_etcd(shared, etcd):
    """Whoever looks after an etcd by its API must find each call as it is there."""
    endpoint = shared.tenant("called")
    proto = Proto(shared, "called")
    ours, theirs = run(proto, endpoint), run(proto, etcd.removeprefix("http://"))
    for (service, method, fields), a, b in zip(script(), ours, theirs, strict=True):
        assert a == b, f"{service}/{method} {fields}"


OURS = [
    ("Maintenance", "Downgrade", {"action": 0, "version": "3.6"}, ("INVALID_ARGUMENT", "etcdserver: invalid downgrade target version")),
    ("Maintenance", "Downgrade", {"action": 1, "version": "3.6"}, ("INVALID_ARGUMENT", "etcdserver: invalid downgrade target version")),
    ("Cluster", "MemberAdd", {"peerURLs": ["http://1.2.3.4:5"]}, ("UNKNOWN", "etcdserver: re-configuration failed due to not enough started members")),
    ("Cluster", "MemberAdd", {"peerURLs": ["http://1.2.3.4:5"], "isLearner": True}, ("FAILED_PRECONDITION", "etcdserver: too many learner members in cluster")),
    ("Auth", "UserAdd", {"name": "u", "password": "p"}, ("FAILED_PRECONDITION", "etcdserver: authentication is not enabled")),
    ("Auth", "RoleAdd", {"name": "r"}, ("FAILED_PRECONDITION", "etcdserver: authentication is not enabled")),
    ("Maintenance", "Alarm", {"action": 9, "alarm": 1}, ("UNKNOWN", "etcdserver: unknown method")),
]


@pytest.fixture(scope="module")
def refusing(shared):
    return shared.tenant("refusing")


@pytest.mark.parametrize("service, method, fields, expected", OURS)
def test_what_a_tenant_cannot_do_is_refused(shared, refusing, service, method, fields, expected):
    """What is not offered (another version, more members, users) is refused with an error of etcd's, not accepted for show."""
    proto = Proto(shared, "refusing")
    with grpc.insecure_channel(refusing) as channel:
        request = proto.pool.FindServiceByName(f"etcdserverpb.{service}").methods_by_name[method].input_type.name
        with pytest.raises(grpc.RpcError) as e:
            proto.stub(channel, service, method)(proto(request, **fields), timeout=20)
    assert (e.value.code().name, e.value.details()) == expected


def test_a_full_tenant_and_its_way_back(daemon):
    """The operator's way out of NOSPACE, as etcd's documentation has it: delete, compact, defragment, disarm. The alarm must hold meanwhile, over a
    restart too."""
    endpoint = daemon.tenant("full", "--quota", "64Ki")
    value, refused = "x" * 1000, None
    for i in range(200):
        refused = etcdctl(endpoint, "put", f"k{i}", value, check=False)
        if refused.returncode:
            break
    assert 30 < i <= 65 and "etcdserver: mvcc: database space exceeded" in refused.stderr
    listed = etcdctl(endpoint, "alarm", "list").stdout
    assert re.fullmatch(r"memberID:\d+\s+alarm:NOSPACE\s*", listed)
    status = json.loads(etcdctl(endpoint, "endpoint", "status", "-w", "json").stdout)[0]["Status"]
    assert len(status["errors"]) == 1 and "alarm:NOSPACE" in status["errors"][0] and status["dbSizeQuota"] == 65536
    assert etcdctl(endpoint, "endpoint", "health", check=False).returncode != 0
    wait_for("the alarm shows", lambda: "NOSPACE" in daemon.ask("tenant", "show", "full").get("reason", ""))

    daemon.restart()
    assert etcdctl(endpoint, "alarm", "list").stdout == listed
    assert etcdctl(endpoint, "put", "k", "small", check=False).returncode
    assert etcdctl(endpoint, "lease", "grant", "60", check=False).returncode
    etcdctl(endpoint, "del", "k", "--prefix")
    revision = json.loads(etcdctl(endpoint, "get", "k", "-w", "json").stdout)["header"]["revision"]
    etcdctl(endpoint, "compaction", str(revision), "--physical")
    etcdctl(endpoint, "defrag")
    assert etcdctl(endpoint, "put", "k", "small", check=False).returncode
    assert "NOSPACE" in etcdctl(endpoint, "alarm", "disarm").stdout
    assert etcdctl(endpoint, "alarm", "list").stdout == ""
    etcdctl(endpoint, "put", "k", "small")
    assert etcdctl(endpoint, "endpoint", "health").returncode == 0


def test_hashes_are_the_same_after_compaction_and_restart(daemon):
    """Operators compare hashes to find corruption: one that changes by itself is an alarm for nothing."""
    endpoint = daemon.tenant("hashed")
    for i in range(20):
        etcdctl(endpoint, "put", f"k{i % 3}", str(i))
    etcdctl(endpoint, "del", "k1")
    etcdctl(endpoint, "compaction", "10", "--physical")

    def hashes():
        answers = [json.loads(etcdctl(endpoint, "endpoint", "hashkv", "--rev", str(r), "-w", "json").stdout)[0]["HashKV"]
                   for r in (0, 10, 15, 22)]
        return [(a["hash"], a["compact_revision"], a["hash_revision"]) for a in answers]
    before = hashes()
    assert before[0] == before[3] and len({h for h, _, _ in before}) == 3
    daemon.restart()
    assert hashes() == before
    assert "compacted" in etcdctl(endpoint, "endpoint", "hashkv", "--rev", "9", check=False).stderr


def test_move_leader_and_downgrade_by_etcdctl(daemon):
    """etcdctl's own words for what a tenant cannot do."""
    endpoint = daemon.tenant("moved")
    status = json.loads(etcdctl(endpoint, "endpoint", "status", "-w", "json").stdout)[0]["Status"]
    assert status["version"] == "3.7.3" and status["storageVersion"] == "3.7.0"
    assert etcdctl(endpoint, "move-leader", f"{status['leader']:x}").returncode == 0
    assert "bad leader transferee" in etcdctl(endpoint, "move-leader", "1234", check=False).stderr
    assert "invalid downgrade target version" in etcdctl(endpoint, "downgrade", "validate", "3.5", check=False).stderr
    assert etcdctl(endpoint, "downgrade", "cancel").returncode == 0
