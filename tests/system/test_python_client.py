"""
A Python client of etcd from PyPI (aetcd): its keys, transactions, leases, watches and locks, over TCP and over the Unix socket. Not only Go's
client has to be content with a tenant.
"""

import asyncio

import aetcd
import pytest

from conftest import free_port, running


@pytest.fixture(scope="module")
def served():
    with running() as d:
        port = free_port()
        d.define("t.yaml", f"""apiVersion: stokehold/v1alpha1
kind: Tenant
metadata:
  name: python
spec:
  endpoint:
    tcp: 127.0.0.1:{port}
""")
        d.start()
        d.wait_tenant("python")
        # The client joins the two with a colon: what comes out must be an address of gRPC's.
        yield {"tcp": {"host": "127.0.0.1", "port": port}, "unix": {"host": "unix", "port": f"{d.root}/run/tenants/python.sock"}}


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_keys_and_transactions(served, kind):
    """Put, get, ranges, delete, and a transaction of either branch."""
    async def run():
        async with aetcd.Client(timeout=10, **served[kind]) as c:
            await c.delete_prefix(b"t/")
            await c.put(b"t/a", b"1")
            await c.put(b"t/b", b"2")
            assert (await c.get(b"t/a")).value == b"1" and await c.get(b"t/none") is None
            assert [kv.value for kv in await c.get_prefix(b"t/")] == [b"1", b"2"]
            t = c.transactions
            done, _ = await c.transaction(compare=[t.value(b"t/a") == b"1", t.version(b"t/none") == 0],
                                          success=[t.put(b"t/c", b"3"), t.delete(b"t/b")], failure=[t.put(b"t/c", b"wrong")])
            assert done
            done, answers = await c.transaction(compare=[t.value(b"t/a") > b"5"], success=[], failure=[t.get(b"t/c")])
            assert not done and answers
            assert await c.replace(b"t/a", b"1", b"4") and not await c.replace(b"t/a", b"1", b"5")
            assert [(kv.key, kv.value) for kv in await c.get_prefix(b"t/")] == [(b"t/a", b"4"), (b"t/c", b"3")]
            assert (await c.delete(b"t/a")) and await c.get(b"t/a") is None
    asyncio.run(run())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_leases_and_watches(served, kind):
    """A key goes with its lease, and a watch tells it."""
    async def run():
        async with aetcd.Client(timeout=10, **served[kind]) as c:
            lease = await c.lease(60)
            watch = await c.watch(b"w/leased")
            await c.put(b"w/leased", b"x", lease=lease)
            assert 0 < await lease.remaining_ttl() <= 60 and await lease.keys() == [b"w/leased"]
            await lease.refresh()
            await lease.revoke()
            seen = []
            async for event in watch:
                seen.append((event.kind, event.kv.key))
                if len(seen) == 2:
                    break
            assert seen == [(aetcd.EventKind.PUT, b"w/leased"), (aetcd.EventKind.DELETE, b"w/leased")]
            await watch.cancel()
            assert await c.get(b"w/leased") is None
    asyncio.run(asyncio.wait_for(run(), 30))


def test_locks(served):
    """Never two hold a lock, and each that waits comes to hold it."""
    async def run():
        inside, rounds = [0], [0]

        async def contender():
            async with aetcd.Client(timeout=20, **served["tcp"]) as c:
                for _ in range(4):
                    lock = c.lock(b"lock", ttl=20)
                    assert await lock.acquire(timeout=20)
                    inside[0] += 1
                    assert inside[0] == 1
                    await asyncio.sleep(0.005)
                    rounds[0] += 1
                    inside[0] -= 1
                    assert await lock.release()
        await asyncio.gather(*(contender() for _ in range(4)))
        assert rounds[0] == 16
    asyncio.run(asyncio.wait_for(run(), 60))
