"""
The PostgreSQL driver against real servers that are restarted, replicated, filled up, paused, demoted and reconfigured under it. What the
laws (tests/drivers) say of every driver is not repeated here.
"""

import errno
import re
import subprocess
import time

import pytest

from by_hand import ENDED, FIRST, MISSING, STALE, UNKNOWN, ByHand, keyspace, seq_of
from conftest import as_root, wait_for
from servers import Certificates, PgBouncer, PostgreSQL, Proxy


@pytest.fixture(scope="module")
def server():
    with PostgreSQL() as s:
        s.sql("CREATE ROLE plain LOGIN PASSWORD 'plain' CREATEDB CREATEROLE")
        yield s


def by_hand(*servers, username="admin", password="secret", **settings):
    return ByHand("postgresql", [s.endpoint for s in servers], {"username": username, "password": password}, **settings)


def made(s, name="ks", session=0):
    """A keyspace with its first record."""
    ks = keyspace(name)
    s.ok("create", session, ks)
    return ks


def append(s, ks, end=FIRST, n=1, size=10, session=0):
    return s.ask("append", session, ks, n, size, end)


def severities(s):
    return {name: severity for name, severity, _ in s.checked()}


def end_of(loaded):
    return loaded.split("end ")[-1]


# ---- names

def test_hostile_names_are_only_names(server):
    """A quote in a name is no way out of it."""
    database, role = 'we"ird\';DROP--', 'ro"le\';DROP--'
    server.sql(f"CREATE ROLE \"{role.replace(chr(34), 2 * chr(34))}\" LOGIN PASSWORD 'p' CREATEDB")
    with by_hand(server, username=role, password="p", database=database) as s:
        s.ok("connect", 0)
        ks = made(s, "a-name-of-63-bytes-is-the-longest-that-a-keyspace-may-have-0000")
        assert append(s, ks).ok
        assert s.ok("list", 0) == ks
        for name in ('a";DROP', "A", "-a", "a.b", "a'b"):
            assert s.ask("create", 0, keyspace(name)).result == -errno.EINVAL
            assert s.ask("ends", 0, keyspace(name)).lines == ["0:none"]
        s.ok("drop", 0, ks)
        s.ok("disconnect", 0)
    assert database in server.sql("SELECT datname FROM pg_database")


def test_two_long_names_are_two_keyspaces(server):
    name = "a-name-of-63-bytes-is-the-longest-that-a-keyspace-may-have-000"
    with by_hand(server) as s:
        s.ok("connect", 0)
        incarnation = keyspace().split("/")[1]
        one, two = f"{name}0/{incarnation}", f"{name}1/{incarnation}"
        s.ok("create", 0, one)
        s.ok("create", 0, two)
        assert append(s, one, n=3).ok
        assert [word.split("/")[0] for word in s.ok("ends", 0, one, two).split()] == ["0:4", "1:1"]
        s.ok("drop", 0, one)
        assert [word.split("/")[0] for word in s.ok("ends", 0, one, two).split()] == ["0:none", "1:1"]
        s.ok("drop", 0, two)


def test_ends_of_many_with_some_missing(server):
    with by_hand(server) as s:
        s.ok("connect", 0)
        all_of = [keyspace(f"many-{i}") for i in range(130)]
        for ks in all_of[::2]:
            s.ok("create", 0, ks)
        found = s.ok("ends", 0, *all_of).split()
        assert found == [f"{i}:{FIRST}" if i % 2 == 0 else f"{i}:none" for i in range(130)]
        for ks in all_of[::2]:
            s.ok("drop", 0, ks)


def test_a_format_of_the_future_is_refused(server):
    with by_hand(server, database="future") as s:
        s.ok("connect", 0)
        made(s)
        server.sql("UPDATE stokehold.format SET current = 2", "future")
        s.ok("connect", 1)
        server.sql("UPDATE stokehold.format SET current = 3, min_reader = 2", "future")
        refused = s.ask("connect", 2)
        assert refused.result == -errno.EPROTONOSUPPORT and "format 3" in refused.reason


# ---- durability

@pytest.mark.parametrize("setting, severity, words", [
    ({}, 0, "each commit synced"),
    ({"fsync": "off"}, 2, "fsync is off"),
    ({"full_page_writes": "off"}, 1, "full_page_writes"),
    ({"synchronous_commit": "off"}, 1, "synchronous_commit is off"),
])
def test_check_tells_of_durability(setting, severity, words):
    with PostgreSQL(setting) as server, by_hand(server) as s:
        assert severities(s)["durability"] == severity
        assert words in s.ok("check")


def test_commits_are_durable_whatever_the_server_is_set_to():
    """With synchronous_commit off, and a writer of the log that sleeps long, what is not synced dies with the processes."""
    with PostgreSQL({"synchronous_commit": "off", "wal_writer_delay": "10s"}) as server:
        with by_hand(server) as s:
            s.ok("connect", 0)
            ks = made(s)
            end = FIRST
            for _ in range(5):
                end = append(s, ks, end, n=20).text
            server.kill()
            server.start()
            assert end_of(s.ok("load", 0, ks, FIRST)) == end


def test_a_commit_that_was_not_replicated_is_unknown():
    with PostgreSQL() as server, by_hand(server) as s:
        s.ok("connect", 0)
        ks = made(s)
        for role_setting in (None, "error"):  # also where the server is told not to send warnings
            if role_setting:
                server.sql(f"ALTER ROLE admin SET client_min_messages = {role_setting}")
                s.ok("disconnect", 0)
                s.ok("connect", 0)
            end = end_of(s.ok("load", 0, ks, FIRST))
            server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            server.sql("SELECT pg_reload_conf()")
            time.sleep(0.5)
            s.send("append", 0, ks, 1, 10, end)
            wait_for("the wait for a standby", lambda: server.sql(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
            answer = s.receive()
            assert answer.result == UNKNOWN and "replicated" in answer.reason
            server.sql("ALTER SYSTEM RESET synchronous_standby_names")
            server.sql("SELECT pg_reload_conf()")
            time.sleep(0.5)


# ---- failover

def test_a_standby_is_passed_over_and_taken_when_promoted():
    with PostgreSQL() as primary, PostgreSQL(of=primary) as standby:
        with by_hand(standby, primary) as s:
            s.ok("connect", 0)
            ks = made(s)
            answer = append(s, ks, n=5)
            assert answer.ok
            assert f"endpoint 127.0.0.1:{primary.port}," in s.ok("check")
            end = answer.text
            wait_for("the standby has it", lambda: standby.sql(
                "SELECT count(*) FROM pg_stat_wal_receiver") == ["1"] and standby.sql(
                    "SELECT pg_last_wal_replay_lsn()") == primary.sql("SELECT pg_current_wal_lsn()"))
            # Alone, the standby is not good enough, for reading neither.
            primary.kill()
            for refused in (s.ask("ends", 0, ks), s.ask("load", 0, ks, FIRST), append(s, ks, end), s.ask("connect", 1)):
                assert refused.result < 0 and refused.reason
            standby.promote()
            wait_for("the promoted one serves", lambda: s.ask("ends", 0, ks).ok)
            assert end_of(s.ok("load", 0, ks, FIRST)) == end
            assert append(s, ks, end).ok


def test_reads_through_an_address_that_moves_to_a_standby_fail():
    """A pooler keeps the client's connection while what is behind it changes."""
    with PostgreSQL() as primary, PostgreSQL(of=primary) as standby, PgBouncer(primary) as pooler:
        with by_hand(pooler) as s:
            s.ok("connect", 0)
            ks = made(s)
            end = append(s, ks).text
            wait_for("the standby has it", lambda: standby.sql(
                "SELECT pg_last_wal_replay_lsn()") == primary.sql("SELECT pg_current_wal_lsn()"))
            pooler.move_to(standby)
            for words in (("ends", 0, ks), ("load", 0, ks, FIRST), ("values", 0, ks, 2)):
                answer = s.ask(*words)
                assert answer.result < 0, f"{words}: {answer}"
            assert append(s, ks, end).result < 0
            pooler.move_to(primary)
            wait_for("it serves again", lambda: s.ask("ends", 0, ks).ok)
            assert append(s, ks, end).ok


def test_a_standby_that_lags_does_not_say_that_a_keyspace_is_missing():
    with PostgreSQL() as primary, PostgreSQL(of=primary) as standby, PgBouncer(primary) as pooler:
        with by_hand(pooler) as s:
            s.ok("connect", 0)
            first = made(s)
            wait_for("the standby has it", lambda: standby.sql(
                "SELECT pg_last_wal_replay_lsn()") == primary.sql("SELECT pg_current_wal_lsn()"))
            standby.sql("SELECT pg_wal_replay_pause()")
            ks = made(s)
            append(s, ks)
            pooler.move_to(standby)
            for words in (("load", 0, ks, FIRST), ("values", 0, ks, 2), ("append", 0, ks, 1, 1, FIRST), ("stat", 0, ks),
                          ("compact", 0, ks, 2, 1), ("ends", 0, ks), ("ends", 0, first), ("drop", 0, ks), ("create", 0, ks)):
                answer = s.ask(*words)
                assert answer.result < 0, f"{words}: {answer}"


def test_a_disk_that_is_full():
    server = PostgreSQL()
    place = server.root / "small"
    place.mkdir()
    subprocess.run(as_root("mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)), check=True)
    try:
        with server:
            subprocess.run(as_root("chown", f"{server.user}:", str(place)), check=True)
            server.sql(f"CREATE TABLESPACE small LOCATION '{place}'")
            server.sql("CREATE DATABASE small TABLESPACE small")
            with by_hand(server, database="small") as s:
                s.ok("connect", 0)
                ks, end = made(s), FIRST
                while (answer := append(s, ks, end, n=100, size=5000)).ok:
                    end = answer.text
                assert answer.result == -errno.ENOSPC and "53100" in answer.reason
                assert s.ok("ends", 0, ks) == f"0:{end}"  # as promised, nothing of it was written
                subprocess.run(as_root("mount", "-o", "remount,size=64m", str(place)), check=True)
                assert append(s, ks, end, n=100, size=5000).ok
    finally:
        server.kill()
        subprocess.run(as_root("umount", str(place)), check=True)
        server.close()


def test_read_only(server):
    with by_hand(server, database="readonly") as s:
        s.ok("connect", 0)
        ks = made(s)
        server.sql("ALTER DATABASE readonly SET default_transaction_read_only = on")
        assert s.ask("connect", 1).result == -errno.EROFS
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'readonly'")
        answer = wait_for("it is noticed", lambda: (a := append(s, ks)).result == -errno.EROFS and a)
        assert "read-only" in answer.reason
        server.sql("ALTER DATABASE readonly RESET default_transaction_read_only")
        assert append(s, ks).ok


# ---- servers that do not answer

def test_restarted_refusing_paused_and_cut_off():
    with PostgreSQL() as server:
        proxy = Proxy(server.endpoint)
        with ByHand("postgresql", [proxy.endpoint]) as s:
            s.ok("connect", 0)
            ks = made(s)
            end = append(s, ks).text
            # A restart between two calls is not even noticed.
            server.stop()
            server.start()
            end = append(s, ks, end).text
            proxy.cut()
            end = append(s, ks, end).text
            # Refused: an error at once, which promises that nothing was written.
            server.stop()
            began = time.monotonic()
            answer = append(s, ks, end)
            assert answer.result == -errno.ENOTCONN and answer.reason and time.monotonic() - began < 5
            server.start()
            end = append(s, ks, end).text
            # Paused: by the deadline, unknown once sent.
            server.pause()
            s.ok("deadline", 700)
            began = time.monotonic()
            assert append(s, ks, end).result == UNKNOWN
            assert s.ask("ends", 0, ks).result == -errno.ETIMEDOUT
            assert time.monotonic() - began < 6
            server.resume()
            s.ok("deadline", 10000)
            # What had been sent may have landed; the next append tells, and then it has not, for good.
            seen = wait_for("it resumes", lambda: (a := s.ask("load", 0, ks, end)).ok and a)
            if seen.text.startswith("0 records"):
                answer = append(s, ks, end)
                assert answer.result in (0, STALE)
        proxy.close()


def test_a_full_server_is_busy():
    with PostgreSQL({"max_connections": 6, "superuser_reserved_connections": 2}) as server:
        server.sql("CREATE ROLE guest LOGIN PASSWORD 'guest' CREATEDB")
        with by_hand(server, username="guest", password="guest") as s:
            results = [s.ask("connect", i) for i in range(8)]
            assert [r.result for r in results] == 4 * [0] + 4 * [-errno.EBUSY]
            assert "53300" in results[-1].reason
            s.ok("disconnect", 0)
            wait_for("there is room again", lambda: s.ask("connect", 0).ok)
            assert s.ask("check").result == -errno.EBUSY  # its own connection has no place


def test_a_role_that_may_not(server):
    server.sql("CREATE ROLE nobody LOGIN PASSWORD 'nobody'")
    server.sql("CREATE DATABASE closed")
    with by_hand(server, username="nobody", password="nobody", database="closed") as s:
        s.ok("connect", 0)
        assert severities(s)["role"] == 2
        answer = s.ask("create", 0, keyspace())
        assert answer.result == -errno.EACCES and "42501" in answer.reason
    with by_hand(server, username="nobody", password="nobody", database="absent") as s:
        answer = s.ask("connect", 0)
        assert answer.result == -errno.EACCES
    # One that was given a schema need not be able to make it.
    server.sql("CREATE SCHEMA stokehold AUTHORIZATION nobody", "closed")
    with by_hand(server, username="nobody", password="nobody", database="closed") as s:
        s.ok("connect", 0)
        assert severities(s)["role"] == 0
        assert append(s, made(s)).ok


# ---- credentials

def test_a_password_is_read_anew_for_each_connection(server):
    server.sql("CREATE ROLE rotating LOGIN PASSWORD 'first' CREATEDB")
    with by_hand(server, username="rotating", password="first", database="rotating") as s:
        s.ok("connect", 0)
        ks = made(s)
        server.sql("ALTER ROLE rotating PASSWORD 'second'")
        assert append(s, ks).ok  # what is connected stays so
        refused = s.ask("connect", 1)
        assert refused.result == -errno.EACCES and "28P01" in refused.reason
        assert "first" not in refused.reason
        s.secret("password", "second")
        s.ok("connect", 1)
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'")
        wait_for("dialled anew", lambda: s.ask("ends", 0, ks).ok)


def test_tls_with_a_client_certificate(tmp_path):
    tls, other = Certificates(tmp_path / "ours"), Certificates(tmp_path / "theirs")
    with PostgreSQL(tls=tls, hba="hostssl all all 127.0.0.1/32 cert\n") as server:
        with by_hand(server, password=None) as s:
            s.secret("ca-certificate", tls.ca)
            assert s.ask("connect", 0).result < 0  # no certificate of ours
            s.secret("client-certificate", tls.client_certificate)
            s.secret("client-private-key", tls.client_key)
            s.ok("connect", 0)
            assert append(s, made(s)).ok
            assert "TLSv1.3" in s.ok("check")
            # Another authority's server is not ours.
            s.secret("ca-certificate", other.ca)
            refused = s.ask("connect", 1)
            assert refused.result < 0 and "certificate verify failed" in refused.reason
            # Certificates are rotated as passwords are.
            s.secret("ca-certificate", tls.ca)
            s.ok("connect", 1)
        with ByHand("postgresql", [f"localhost.localdomain:{server.port}", f"ip6-localhost:{server.port}"],
                    {"password": None}) as s:
            s.secret("ca-certificate", tls.ca)
            assert s.ask("connect", 0).result < 0  # not a name of the certificate's, or of nothing


def test_dedicated_credentials_without_superuser_rights(server):
    with by_hand(server, username="plain", password="plain", database="central", credentials="Dedicated") as s:
        s.ok("connect", 0)
        assert severities(s)["role"] == 0
        ks, other = keyspace("one"), keyspace("two")
        for _ in range(2):  # idempotent
            s.ok("create", 0, ks)
        s.ok("create", 0, other)
        digits = ks.split("/")[1]
        account = re.sub("(.{8})(.{4})(.{4})(.{4})(.{12})", r"\1-\2-\3-\4-\5", digits)
        assert server.sql(f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{account}'") == [account]
        assert server.sql(f"SELECT rolsuper, rolcanlogin FROM pg_roles WHERE rolname = '{account}'") == ["f|t"]
        assert server.sql(f"SELECT has_database_privilege('{account}', '{account}', 'CREATE')") == ["t"]
        end = append(s, ks, n=4).text
        assert sorted(s.ok("list", 0).split()) == sorted([ks, other])
        assert s.ok("ends", 0, ks, other, keyspace()) == f"0:{end} 1:{FIRST} 2:none"
        # A session in its scope, also before it is made.
        s.ok("connect", 1, ks)
        s.ok("connect", 2, keyspace())
        assert append(s, ks, end, session=1).ok
        # The tenant's password follows the datastore's by itself.
        server.sql("ALTER ROLE plain PASSWORD 'rotated'")
        s.secret("password", "rotated")
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' "
                   "AND pid <> pg_backend_pid()")
        wait_for("dialled with the new one", lambda: s.ask("load", 0, ks, FIRST).ok)
        # An installation that is aborted leaves nothing; one that is committed is a keyspace, and its id ends with it.
        third, identity = keyspace("three"), keyspace().split("/")[1]
        s.ok("begin", 0, third, identity)
        s.ok("feed", 0, third, identity, 5, 5)
        assert f"{third}+" in s.ok("list", 0).split()
        s.ok("abort", 0, third, identity)
        identity = keyspace().split("/")[1]
        s.ok("begin", 0, third, identity)
        s.ok("feed", 0, third, identity, 5, 5)
        s.ok("commit", 0, third, identity, 9)
        assert s.ok("ends", 0, third).startswith("0:9/")
        for each in (ks, other, third):
            for _ in range(2):
                s.ok("drop", 0, each)
            assert s.ask("load", 0, each, FIRST).result == MISSING
        assert s.ask("begin", 0, third, identity).result == ENDED
        assert s.ok("list", 0) == ""
        assert server.sql("SELECT count(*) FROM pg_database WHERE datname LIKE '________-____-____-____-____________'") == ["0"]
        assert server.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE '________-____-____-____-____________'") == ["0"]


def test_dedicated_credentials_need_rights_and_a_key(server):
    server.sql("CREATE ROLE weak LOGIN PASSWORD 'weak' CREATEDB")
    with by_hand(server, username="weak", password="weak", database="weak", credentials="Dedicated") as s:
        s.ok("connect", 0)
        assert severities(s)["role"] == 2
        assert s.ask("create", 0, keyspace()).result == -errno.EACCES


# ---- poolers and notifications

def test_a_write_wakes_another_daemon_and_not_its_own(server):
    with by_hand(server) as one, by_hand(server) as two:
        for s in (one, two):
            s.ok("connect", 0)
            s.ok("connect", 1)
        ks = made(one, "told")
        two.send("wait", 1, 10000)
        time.sleep(1.5)  # listeners are looked for once a second
        end = append(one, ks).text
        if not (heard := two.receive()).lines:
            two.send("wait", 1, 10000)
            end = append(one, ks, end).text
            heard = two.receive()
        assert heard.ok and set(heard.lines) == {"told"}
        one.send("wait", 1, 2500)
        two.ask("append", 0, ks, 1, 10, end)
        heard = one.receive()
        assert heard.ok and set(heard.lines) == {"told"}
        one.ok("drop", 0, ks)


def test_its_own_writes_wake_nobody_here(server):
    with by_hand(server) as s, by_hand(server) as listener:
        s.ok("connect", 0)
        s.ok("connect", 1)
        listener.ok("connect", 0)
        listener.send("wait", 0, 10000)
        ks = made(s, "own")
        s.ask("wait", 1, 1)  # listens from here on
        time.sleep(1.2)
        assert append(s, ks).ok
        assert set(listener.receive().lines) == {"own"}
        heard = s.ask("wait", 1, 500)
        assert heard.ok and heard.lines == []


def test_a_pooler_of_transactions(server):
    with PgBouncer(server) as pooler, by_hand(pooler, database="pooled") as s, \
            by_hand(server, database="pooled") as direct:
        s.ok("connect", 0)
        s.ok("connect", 1)
        ks = made(s, "pooled")
        assert "through a pooler" in s.ok("check")
        assert s.ask("wait", 1, 300).result == -errno.EOPNOTSUPP
        # It does not hear, but is heard.
        direct.ok("connect", 0)
        direct.send("wait", 0, 10000)
        end = FIRST
        for _ in range(39):
            end = append(s, ks, end).text
            time.sleep(0.05)
        assert set(direct.receive().lines) == {"pooled"}
        pooler.kill()
        assert append(s, ks, end).result in (-errno.ENOTCONN, UNKNOWN)
        pooler.start()
        wait_for("it serves again", lambda: s.ask("ends", 0, ks).ok)


def test_an_isolation_that_would_break_the_fence(server):
    with by_hand(server, database="isolated") as s:
        s.ok("connect", 0)
        ks = made(s)
        server.sql("ALTER DATABASE isolated SET default_transaction_isolation = 'serializable'")
        s.ok("connect", 1)
        assert append(s, ks, session=1).ok
        with PgBouncer(server) as pooler, by_hand(pooler, database="isolated") as pooled:
            refused = pooled.ask("connect", 0)
            assert refused.result == -errno.EPROTONOSUPPORT and "default_transaction_isolation" in refused.reason


# ---- compaction

class Holder:
    """Somebody else's transaction."""

    def __init__(self, server, database):
        self.process = subprocess.Popen(
            ["psql", "-XAtq", "-d", server.url(f"dbname={database}")], stdin=subprocess.PIPE, text=True)

    def run(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(20) == 0


def table_of(ks):
    return f'stokehold."{ks.replace("/", "-")}"'


def test_compaction_waits_for_what_was_begun_before(server):
    with by_hand(server, database="fenced") as s:
        s.ok("connect", 0)
        ks = made(s)
        end = append(s, ks, n=20).text
        holder = Holder(server, "fenced")
        holder.run(f"BEGIN; INSERT INTO {table_of(ks)} SELECT seq + 1, revision, kind, create_revision, version, lease, "
                   f"origin, hash, key, value FROM {table_of(ks)} ORDER BY seq DESC LIMIT 1;")
        wait_for("it holds on", lambda: server.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = 'fenced'") == ["1"])
        began = time.monotonic()
        answer = s.ask("compact", 0, ks, 21, 2, 3)
        assert answer.result == -errno.ETIMEDOUT and 0.5 < time.monotonic() - began < 5
        assert s.ok("load", 0, ks).startswith("21 records")
        holder.run("ROLLBACK;")
        holder.close()
        s.ok("compact", 0, ks, 21, 2, 3)
        assert s.ok("load", 0, ks).startswith("19 records")
        # Never the last record, nor from the mark on.
        assert s.ask("compact", 0, ks, 21, 21).result == -errno.EINVAL
        assert append(s, ks, end).ok


@pytest.mark.parametrize("before", [0, 6])
@pytest.mark.parametrize("pooled", [False, True])
def test_an_append_that_waited_for_the_fence_sees_what_was_done_behind_it(server, pooled, before):
    """Records that were written and deleted meanwhile leave room inside the log: a snapshot from before the wait would fill it."""
    with PgBouncer(server) as pooler, by_hand(pooler if pooled else server, database="waited") as s:
        s.ok("connect", 0)
        ks, end = made(s), FIRST
        for _ in range(before):  # from the third on it is a prepared statement, where there is no pooler
            end = append(s, ks, end).text
        holder = Holder(server, "waited")
        holder.run(f"BEGIN; LOCK TABLE {table_of(ks)} IN SHARE ROW EXCLUSIVE MODE;")
        wait_for("the lock", lambda: server.sql(
            "SELECT count(*) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock' AND granted") == ["1"])
        s.send("append", 0, ks, 2, 10, end)
        wait_for("it waits", lambda: server.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == ["1"])
        last = seq_of(end)
        holder.run(f"INSERT INTO {table_of(ks)} SELECT seq + n, revision, kind, create_revision, version, lease, "
                   f"origin, hash, key, value FROM {table_of(ks)}, generate_series(1, 3) n WHERE seq = {last}; "
                   f"DELETE FROM {table_of(ks)} WHERE seq IN ({last + 1}, {last + 2}); COMMIT;")
        holder.close()
        assert s.receive().result == STALE
        assert s.ok("keys", 0, ks).split()[-1].startswith(f"{last + 3}:")
        s.ok("drop", 0, ks)


def test_limits_follow_the_server(server):
    with by_hand(server, database="limited") as s:
        s.ok("connect", 0)
        ks = made(s)
        wide = [int(n) for n in s.ok("limits", 0, ks).split()]
        server.sql("ALTER DATABASE limited SET temp_file_limit = '8MB'")
        s.ok("connect", 1)
        tight = [int(n) for n in s.ok("limits", 1, ks).split()]
        assert tight[1] == 4 << 20 < wide[1] and tight[0] <= tight[1]
        assert append(s, ks, n=4, size=(tight[1] >> 2) - 10, session=1).ok
