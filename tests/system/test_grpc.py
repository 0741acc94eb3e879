"""
The gRPC server, by Google's own client for Python: health, reflection, deadlines, cancellation, large messages, unknown methods.
"""

import concurrent.futures
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proto import Proto


@pytest.fixture(scope="module")
def proto(shared):
    shared.tenant("demo")
    return Proto(shared)


@pytest.fixture
def channel(shared, proto):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"unix:{shared.root}/run/tenants/demo.sock", options=options) as c:
        yield c


def test_health(channel):
    """Probes and load balancers ask grpc.health.v1; a wrong answer takes a good tenant out."""
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    assert stub.Check(health_pb2.HealthCheckRequest(service="etcdserverpb.KV"), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as e:
        stub.Check(health_pb2.HealthCheckRequest(service="no.such"), timeout=10)
    assert e.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_reflection(proto):
    """grpcurl and the like find out by themselves what a tenant offers."""
    assert {"etcdserverpb.KV", "etcdserverpb.Watch", "etcdserverpb.Lease", "etcdserverpb.Maintenance", "etcdserverpb.Cluster",
            "grpc.health.v1.Health"} <= set(proto.services)
    assert {"key", "range_end", "limit", "revision"} <= set(proto.classes["RangeRequest"].DESCRIPTOR.fields_by_name)


def test_put_and_range(proto, channel):
    """Any gRPC client can use a tenant, not only Go's."""
    put = proto.stub(channel, "KV", "Put")(proto("PutRequest", key=b"k", value=b"v"), timeout=10)
    get = proto.stub(channel, "KV", "Range")(proto("RangeRequest", key=b"k"), timeout=10)
    assert get.kvs[0].value == b"v" and get.kvs[0].mod_revision == put.header.revision


@pytest.mark.parametrize("method", ["/etcdserverpb.KV/Nothing", "/no.such/Method", "/x", "/"])
@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
def test_unknown_method(channel, method, kind):
    """A client of a later etcd must read UNIMPLEMENTED and fall back, not see its connection reset."""
    call = getattr(channel, kind)(method)
    with pytest.raises(grpc.RpcError) as e:
        answer = call(b"", timeout=10) if kind == "unary_unary" else call(iter([b""]), timeout=10)
        list(answer)
    assert e.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("message", [b"\xff\xff\xff\xff", b"\x0a\x7f", b"\x0a\xff\xff\xff\xff\x0f" + b"x" * 10])
def test_malformed_message(channel, message):
    """Bytes that are no message are the caller's fault, and told so."""
    with pytest.raises(grpc.RpcError) as e:
        channel.unary_unary("/etcdserverpb.KV/Range")(message, timeout=10)
    assert e.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)


def test_deeply_nested_message(channel):
    """60 KB of nested transactions must be refused; they crashed a decoder without a limit."""
    message = b""
    for _ in range(3000):
        # TxnRequest.success (2) of RequestOp.request_txn (4)
        for tag in (b"\x22", b"\x12"):
            size, n = b"", len(message)
            while n > 127:
                size += bytes([n & 127 | 128])
                n >>= 7
            message = tag + size + bytes([n]) + message
    with pytest.raises(grpc.RpcError) as e:
        channel.unary_unary("/etcdserverpb.KV/Txn")(message, timeout=10)
    assert e.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
    test_health(channel)


def test_large_answers_with_flow_control(proto, channel):
    """A list of 40 MB to a client that reads slowly must come whole, while others are served."""
    put = proto.stub(channel, "KV", "Put")
    for i in range(40):
        put(proto("PutRequest", key=b"big/%02d" % i, value=bytes([i]) * (1 << 20)), timeout=30)
    get = proto.stub(channel, "KV", "Range")
    request = proto("RangeRequest", key=b"big/", range_end=b"big0")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        lists = [pool.submit(get, request, timeout=60) for _ in range(4)]
        assert get(proto("RangeRequest", key=b"none"), timeout=10).count == 0
        for f in lists:
            r = f.result()
            assert r.count == 40 and all(kv.value == bytes([i]) * (1 << 20) for i, kv in enumerate(r.kvs))


def test_cancelled_streams(proto, channel):
    """Clients that go away in the middle leave nothing behind that fails others."""
    stream = proto.stub(channel, "KV", "RangeStream")
    for _ in range(30):
        call = stream(proto("RangeRequest", key=b"\x00", range_end=b"\x00"), timeout=10)
        call.cancel()
    assert proto.stub(channel, "KV", "Range")(proto("RangeRequest", key=b"k"), timeout=10).header.revision > 0


def test_deadline(proto, channel):
    """A call with a deadline ends by then, whatever happens."""
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as e:
        for _ in range(1000):
            proto.stub(channel, "KV", "Range")(proto("RangeRequest", key=b"\x00", range_end=b"\x00"), timeout=0.001)
    assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - begin < 60
    assert proto.stub(channel, "KV", "Range")(proto("RangeRequest", key=b"k"), timeout=10).header.revision > 0


def test_control_has_reflection_too(shared):
    """A tool for the control socket can be written without our files."""
    with grpc.insecure_channel(f"unix:{shared.control_socket}") as c:
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
        assert "stokehold.control.v1.Control" in ProtoReflectionDescriptorDatabase(c).get_services()
