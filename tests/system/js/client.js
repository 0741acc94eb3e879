// The JavaScript client of etcd from npm on one endpoint: node client.js ENDPOINT. Exit 0 and "done", or the failed assertion.
'use strict';

const assert = require('assert');
const { Etcd3 } = require('etcd3');

const endpoint = process.argv[2];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function keys(c) {
        await c.put('a').value('1');
        await c.put('b').value('2');
        assert.strictEqual(await c.get('a').string(), '1');
        assert.strictEqual(await c.get('none').string(), null);
        assert.deepStrictEqual(await c.getAll().strings(), { a: '1', b: '2' });
        const first = await c.if('a', 'Value', '==', '1').then(c.put('a').value('3')).else(c.get('a')).commit();
        const second = await c.if('a', 'Value', '==', '1').then(c.put('a').value('4')).else(c.get('a')).commit();
        assert(first.succeeded && !second.succeeded);
        await c.delete().key('b');
        assert.deepStrictEqual(await c.getAll().strings(), { a: '3' });
}

async function watchAndLease(c) {
        const watcher = await c.watch().key('leased').create();
        const seen = [];
        watcher.on('put', (kv) => seen.push('put ' + kv.value.toString()));
        watcher.on('delete', () => seen.push('delete'));
        const lease = c.lease(30);
        await lease.put('leased').value('x');
        await lease.revoke();
        for (let i = 0; i < 500 && seen.length < 2; i++) await pause(10);
        assert.deepStrictEqual(seen, ['put x', 'delete']);
        await watcher.cancel();
}

async function locks() {
        let inside = 0, rounds = 0;
        await Promise.all([1, 2, 3].map(async () => {
                const c = new Etcd3({ hosts: endpoint });
                for (let i = 0; i < 4;) {
                        const lock = c.lock('lock').ttl(10);
                        try {
                                await lock.acquire();
                        } catch (e) {
                                assert.strictEqual(e.constructor.name, 'EtcdLockFailedError');
                                await pause(10);
                                continue;
                        }
                        assert.strictEqual(++inside, 1);
                        await pause(3);
                        inside--, rounds++, i++;
                        await lock.release();
                }
                c.close();
        }));
        assert.strictEqual(rounds, 12);
}

async function memory(c) {
        await c.put('count').value('0');
        await Promise.all([1, 2, 3].map(async () => {
                for (let i = 0; i < 5; i++) {
                        await c.stm({ retries: 100 }).transact(async (t) => {
                                await t.put('count').value(Number(await t.get('count')) + 1);
                        });
                }
        }));
        assert.strictEqual(await c.get('count').number(), 15);
}

async function main() {
        const c = new Etcd3({ hosts: endpoint });
        await keys(c.namespace('space/'));
        assert.strictEqual(await c.get('space/a').string(), '3');
        await watchAndLease(c);
        await locks();
        await memory(c);
        c.close();
        console.log('done');
}

main().catch((e) => {
        console.error(e);
        process.exit(1);
});
