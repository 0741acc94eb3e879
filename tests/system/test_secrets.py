"""
Secrets: each password, key and content of a definition carries a marker, failures of all kinds are provoked, and then all is searched that somebody
else may come to read: what commands print, the log at its most talkative, metrics, errors of bad definitions, the registry, the state directory, what
the databases keep, /proc, and what a crash leaves behind. If these fail, a password ends in a ticket, a log server or a backup.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import pathlib
import re
import signal
import subprocess
import urllib.request
from secrets import token_hex
from uuid import UUID

import pytest

import servers
from certificates import Authority
from conftest import Daemon, etcdctl, free_port, program, running, wait_for
from installed import DAEMON, Installed, as_user, needs_root
from servers_mariadb import MariaDB


class Markers:
    """What is secret, by name, and what it may look like."""

    def __init__(self):
        self.needles = {}

    def add(self, name, data):
        data = data if isinstance(data, bytes) else data.encode()
        forms = {data, binascii.hexlify(data), binascii.hexlify(data).upper()}
        for shift in range(3):  # base64 of it within something longer: without what its neighbours take part in
            forms.add(base64.b64encode(b"\0" * shift + data)[4 * (shift > 0):-4])
            forms.add(base64.urlsafe_b64encode(b"\0" * shift + data)[4 * (shift > 0):-4])
        self.needles[name] = {f for f in forms if len(f) >= 16}
        return data.decode(errors="replace")

    def new(self, name):
        return self.add(name, f"Zq{token_hex(10)}")

    def key(self, name, pem):
        """A private key's PEM: each of its lines counts, and its bytes."""
        lines = [line for line in pem.splitlines() if line and "-----" not in line]
        self.add(name, base64.b64decode("".join(lines))[8:40])
        for i, line in enumerate(lines):
            if len(line) >= 32:
                self.needles[f"{name}, line {i}"] = {line.encode()}
        return pem

    def found(self, data):
        data = data if isinstance(data, bytes) else data.encode()
        return [name for name, forms in self.needles.items() if any(f in data for f in forms)]

    def check(self, where, data):
        found = self.found(data)
        assert not found, f"{where} has {found}: {data[:4000]}"


def content(text):
    return "{content: %s}" % base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def store(name, driver, endpoint, password, user="keeper", more="", tls=""):
    return (f"---\napiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {{name: {name}}}\nspec:\n  driver: {driver}\n  endpoints: [\"{endpoint}\"]\n"
            f"{more}  basicAuth: {{username: {content(user)}, password: {password}}}\n{tls}")


def tls_config(ca=None, certificate=None, key=None):
    text = "  tlsConfig:\n"
    if ca:
        text += f"    certificateAuthority: {{certificate: {content(ca)}, privateKey: {content(key or ca)}}}\n"
    if certificate:
        text += f"    clientCertificate: {{certificate: {content(certificate)}, privateKey: {content(key)}}}\n"
    return text


def test_the_search_itself():
    """A search that finds nothing anywhere proves nothing."""
    m = Markers()
    text = m.new("one")
    pem = "-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(os.urandom(120)).decode() + "\n-----END PRIVATE KEY-----\n"
    m.key("key", pem)
    for before in ("", "a", "ab", "abc"):
        assert m.found(before + text + "x") == ["one"]
        assert m.found(base64.b64encode((before + text + "tail").encode())) == ["one"]
        assert m.found((before + text).encode().hex()) == ["one"]
    assert "key" in m.found(base64.b64decode(pem.splitlines()[1])) and m.found(pem) and not m.found("nothing of the kind")


MISTAKES = """
basicAuth: {username: {content: YQ==}, password: SECRET}
basicAuth: {username: {content: YQ==}, password: {content: "SECRET!"}}
basicAuth: {username: {content: YQ==}, password: {content: [SECRET]}}
basicAuth: {username: {content: YQ==}, password: !SECRET}
basicAuth: {username: {content: YQ==}, password: !SECRET x}
basicAuth: {username: {content: YQ==}, password: {content: *SECRET}}
basicAuth: {username: {content: YQ==}, password: {content: *SECRET }}
basicAuth: {username: {content: YQ==}, password: &SECRET x}
basicAuth: {username: {content: YQ==}, password: {content: "SECRET}}
basicAuth: {username: {content: YQ==}, password: {content: 'SECRET' x}}
basicAuth: {username: {content: YQ==}, password: {content: SECRET: SECRET}}
basicAuth: {username: {content: YQ==}, password: {content: %SECRET}}
basicAuth: {username: {content: YQ==}, password: {content: @SECRET}}
basicAuth: {username: {content: YQ==}, password: {content: YQ==, content: SECRET}}
basicAuth: [SECRET]
basicAuth: SECRET
password: SECRET
tlsConfig: {certificateAuthority: {certificate: SECRET}}
tlsConfig: {certificateAuthority: {certificate: {content: "-----SECRET"}}}
endpoints: ["postgresql://admin:SECRET@127.0.0.1:5432/db"]
endpoints: ["127.0.0.1:5432/db?password=SECRET"]
endpoints: ["host=127.0.0.1 password=SECRET"]
default: SECRET
pool: {sessions: SECRET}
pool: SECRET
"""

BAD_SECRETS = """
data: {a: "SECRET!"}
data: {a: {b: SECRET}}
data: [SECRET]
data: SECRET
stringData: {a: [SECRET]}
stringData: {a: SECRET: x}
stringData: {a: !SECRET}
stringData: {a: !SECRET }
stringData: {a: *SECRET}
stringData: {a: &SECRET x}
stringData: {a: "SECRET}
stringData: {a: |SECRET}
stringData: SECRET
secret: SECRET
"""


SETTINGS = """
password: SECRET
tls: SECRET
tls: {password: SECRET}
tls: {address: SECRET, certificate: a, key: b}
tls: {address: "127.0.0.1:1", certificate: a, key: "-----BEGIN PRIVATE KEY-----SECRET"}
tls: {address: "127.0.0.1:1", certificate: a, key: "-----BEGIN PRIVATE KEY-----\\nSECRET\\n-----END PRIVATE KEY-----"}
tls: {address: "127.0.0.1:1", certificate: a, key: [SECRET]}
tls: {address: "127.0.0.1:1", certificate: a, key: !SECRET }
tls: {address: "127.0.0.1:1", certificate: a, key: b, authority: {certificate: a, key: "-----SECRET"}}
tls: {address: "127.0.0.1:1", certificate: a, key: b, authority: {certificate: a, password: SECRET}}
cache: SECRET
coreDumps: SECRET
"""


class Port:
    """The TLS port's files: the server's key and that of the CA with which the daemon signs."""

    def __init__(self, root, markers):
        self.folder = root / "tls"
        self.folder.mkdir()
        self.port = free_port()
        self.authority = Authority(root / "authority")
        self.put("ca.crt", self.authority.certificate)
        for name, certificate, key in (("server", *self.authority.server().files), ("authority", self.authority.certificate, self.authority.key)):
            self.put(f"{name}.crt", certificate)
            self.put(f"{name}.key", key)
            markers.key(f"the {name}'s key", pathlib.Path(key).read_text())

    def put(self, name, file):
        self.write(name, pathlib.Path(file).read_text())

    def write(self, name, text):
        (self.folder / ".new").write_text(text)
        (self.folder / ".new").chmod(0o600)
        (self.folder / ".new").rename(self.folder / name)

    @property
    def settings(self):
        return (f"tls: {{address: \"127.0.0.1:{self.port}\", certificate: tls/server.crt, key: tls/server.key, clientCA: tls/ca.crt, "
                "authority: {certificate: tls/authority.crt, key: tls/authority.key}}\n")


def break_the_port(daemon, markers, port):
    """Keys that cannot be used, while what was in force stays; and settings with a secret in the wrong place."""
    bad = f"-----BEGIN PRIVATE KEY-----\n{markers.new('a bad key of the port')}\n-----END PRIVATE KEY-----\n"
    for name, text in (("server.key", bad), ("server.key", port.authority.client("x").key.read_text()), ("authority.key", bad), ("ca.crt", bad),
                       ("server.crt", bad), ("authority.crt", bad)):
        before = (port.folder / name).read_text()
        if text != bad:
            markers.key("another's key", text)
        port.write(name, text)
        yield f"reload with a bad {name}", "\n".join(daemon.reload_errors())
        status = daemon.stokectl("status").stdout
        assert "tls." in status, (name, status)
        yield f"status with a bad {name}", status
        r = daemon.stokectl("tenant", "credentials", "t-mysql", "--for", "etcdctl", "--directory", str(daemon.root / "issued"), "--yes", check=False)
        assert (r.returncode == 0) == (not name.startswith("authority")), (name, r)
        yield f"credentials with a bad {name}", r.stderr + r.stdout
        port.write(name, before)
    settings = daemon.root / "stokehold.yaml"
    good = settings.read_text()
    for text in SETTINGS.strip().splitlines():
        settings.write_text(text.replace("SECRET", markers.new(repr(text))) + "\n")
        errors = daemon.reload_errors()
        assert errors, text
        yield f"reload with {text}", "\n".join(errors)
        r = subprocess.run([program("stokehold"), "--root", str(daemon.root), "--check"], capture_output=True, text=True, check=False, timeout=60)
        assert r.returncode
        yield f"--check with {text}", r.stderr + r.stdout
    settings.write_text(good)
    assert not any("stokehold.yaml" in e for e in daemon.reload_errors())


def spoil(daemon, markers):
    """Files with a mistake each and a secret in it; how many."""
    n = 0
    for head, lines in (("apiVersion: stokehold/v1alpha1\nkind: DataStore\nmetadata: {name: bad%d}\nspec:\n  driver: PostgreSQL\n  ", MISTAKES),
                        ("apiVersion: v1\nkind: Secret\nmetadata: {name: bad%d, namespace: x}\n", BAD_SECRETS)):
        for line in lines.strip().splitlines():
            n += 1
            daemon.define(f"bad{n}.yaml", head % n + line.replace("SECRET", markers.new(f"{line!r}")) + "\n")
    return n


@contextlib.contextmanager
def databases(markers, tmp_path):
    """A PostgreSQL and a MariaDB with a user whose password is secret."""
    with servers.PostgreSQL() as postgresql, MariaDB() as mariadb:
        password = markers.new("the databases' password")
        postgresql.sql(f"CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{password}'")
        mariadb.sql(f"CREATE USER keeper@'%' IDENTIFIED BY '{password}'; GRANT ALL PRIVILEGES ON *.* TO keeper@'%' WITH GRANT OPTION")
        yield postgresql, mariadb, password, servers.Certificates(tmp_path / "certificates")


def define_all(daemon, markers, postgresql, mariadb, password, certificates):
    wrong = {n: content(markers.new(n)) for n in ("a wrong password", "another wrong password", "a password for nobody")}
    key = markers.key("a client's key", pathlib.Path(certificates.client_key).read_text())
    authority_key = markers.key("a CA's key", pathlib.Path(certificates.ca_key).read_text())
    ca, certificate = (pathlib.Path(p).read_text() for p in (certificates.ca, certificates.client_certificate))
    bad_pem = f"-----BEGIN PRIVATE KEY-----\n{markers.new('a bad key')}\n-----END PRIVATE KEY-----\n"
    bad_ca = f"-----BEGIN CERTIFICATE-----\n{markers.new('a bad CA')}\n-----END CERTIFICATE-----\n"
    reference = "{secretReference: {name: %s, namespace: ns, keyPath: %s}}"
    folder = daemon.root / "secrets" / "ns" / "file"
    folder.mkdir(parents=True)
    (folder / "password").write_text(markers.new("a password in a file") + "\n")
    (folder / "large").write_text(markers.new("a file that is too large") * 50000)
    credentials = daemon.root / "credentials"
    credentials.mkdir()
    (credentials / "ns.unit.password").write_text(markers.new("a password of systemd's"))
    daemon.environment["CREDENTIALS_DIRECTORY"] = str(credentials)
    document = markers.new("a Secret's data"), markers.new("a Secret's stringData")
    last = markers.new("what kubectl applied last")
    daemon.define("good.yaml", "".join([
        f"apiVersion: v1\nkind: Secret\nmetadata: {{name: document, namespace: ns}}\ndata: {{data: {base64.b64encode(document[0].encode()).decode()}}}\n"
        f"stringData: {{text: {document[1]}}}\n",
        store("postgresql", "PostgreSQL", postgresql.endpoint, content(password), more="  default: true\n  system: true\n"),
        store("mysql", "MySQL", mariadb.endpoint, content(password)),
        store("postgresql-dedicated", "PostgreSQL", postgresql.endpoint, content(password), more="  credentials: Dedicated\n"),
        store("mysql-dedicated", "MySQL", mariadb.endpoint, content(password),
              more="  credentials: Dedicated\n  parameters: {database: dedicated}\n"),
        store("postgresql-wrong", "PostgreSQL", postgresql.endpoint, wrong["a wrong password"]),
        store("mysql-wrong", "MySQL", mariadb.endpoint, wrong["another wrong password"]),
        store("nobody", "PostgreSQL", "127.0.0.1:1", wrong["a password for nobody"]),
        store("data", "PostgreSQL", postgresql.endpoint, reference % ("document", "data")),
        store("text", "MySQL", mariadb.endpoint, reference % ("document", "text")),
        store("file", "PostgreSQL", postgresql.endpoint, reference % ("file", "password")),
        store("large", "MySQL", mariadb.endpoint, reference % ("file", "large")),
        store("unit", "MySQL", mariadb.endpoint, reference % ("unit", "password")),
        store("missing", "MySQL", mariadb.endpoint, reference % ("document", "nothing")),
        store("postgresql-no-tls", "PostgreSQL", postgresql.endpoint, content(password), tls=tls_config(ca, certificate, key)),
        store("mysql-no-tls", "MySQL", mariadb.endpoint, content(password), tls=tls_config(ca, certificate, key)),
        store("authority", "MySQL", mariadb.endpoint, content(password), tls=tls_config(ca, None, authority_key)),
        store("postgresql-bad-pem", "PostgreSQL", postgresql.endpoint, content(password), tls=tls_config(bad_ca, certificate, bad_pem)),
        store("mysql-bad-pem", "MySQL", mariadb.endpoint, content(password), tls=tls_config(None, bad_ca, bad_pem)),
        store("mysql-bad-key", "MySQL", mariadb.endpoint, content(password), tls=tls_config(None, certificate, bad_pem)),
        store("parameters", "MySQL", mariadb.endpoint, content(password),
              more=f"  parameters: {{password: {markers.new('a parameter')}, ssl_key: {markers.new('another parameter')}}}\n"),
        store("applied", "PostgreSQL", postgresql.endpoint, content(password)).replace(
            "{name: applied}", "{name: applied, annotations: {kubectl.kubernetes.io/last-applied-configuration: '%s'}}" % last),
    ]))


def derived(markers, password, tenant):
    """A Dedicated tenant's own password, as the drivers make it."""
    mac = hmac.new(password.encode(), b"stokehold tenant credentials" + UUID(tenant["incarnation"]).bytes, hashlib.sha256).digest()
    text = base64.urlsafe_b64encode(mac).decode().rstrip("=")
    markers.needles[f"the own password of {tenant['name']}"] = {text[:32].encode()}
    return text


def everything_printed(daemon, forms=("table", "json", "yaml")):
    """All that looking prints, in each form; datastores are dialled for the last one alone."""
    d = daemon
    stores = [s["name"] for s in d.ask("datastore", "list")["datastores"]]
    tenants = [t["name"] for t in d.ask("tenant", "list")["tenants"]]
    for form in forms:
        commands = [["status"], ["driver", "list"], ["datastore", "list"], ["tenant", "list"], *(["datastore", "show", s] for s in stores),
                    *(["tenant", "show", t] for t in tenants)]
        if form == forms[-1]:
            commands += [["datastore", "check", s] for s in stores]
        for command in commands:
            r = d.stokectl(*command, "-o", form, check=False)
            yield f"stokectl {' '.join(command)} -o {form}", r.stdout + r.stderr


def files_left(daemon):
    own = {daemon.root / name for name in ("definitions.d", "secrets", "credentials", "tls", "authority")}
    for path in daemon.root.rglob("*"):
        if path.is_file() and not own & set(path.parents):
            yield str(path.relative_to(daemon.root)), path.read_bytes()


def of_process(pid):
    for name in ("environ", "cmdline", "comm", "status", "maps", "limits"):
        yield f"/proc/PID/{name}", pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            yield f"/proc/PID/fd/{fd.name}", os.readlink(fd)


def test_nothing_is_told(stopped, tmp_path):
    """Whatever fails, and whoever looks at it."""
    d = stopped
    m = Markers()
    port = free_port()
    tls = Port(d.root, m)
    (d.root / "stokehold.yaml").write_text(f"metrics:\n  listen: tcp:127.0.0.1:{port}\nlog: {{level: debug, slowRequest: 1ms}}\n{tls.settings}")
    with databases(m, tmp_path) as (postgresql, mariadb, password, certificates):
        define_all(d, m, postgresql, mariadb, password, certificates)
        n_bad = spoil(d, m)
        d.start()

        # Tenants wherever they can be, and where they cannot.
        values = Markers()
        made = []
        for s in ("postgresql", "mysql", "postgresql-dedicated", "mysql-dedicated", "postgresql-wrong", "mysql-bad-pem", "nobody", "missing"):
            r = d.stokectl("tenant", "create", f"t-{s}", "--datastore", s, check=False)
            m.check(f"tenant create on {s}", r.stdout + r.stderr)
            if r.returncode == 0:
                made.append(f"t-{s}")
        assert made[:4] == [f"t-{s}" for s in ("postgresql", "mysql", "postgresql-dedicated", "mysql-dedicated")], made
        dedicated = [d.ask("tenant", "show", f"t-{s}-dedicated") for s in ("postgresql", "mysql")]
        own = [derived(m, password, tenant) for tenant in dedicated]
        # So that what is searched is what is used.
        role = dedicated[0]["incarnation"]
        subprocess.run(["psql", "-XAtq", "-d", f"host=127.0.0.1 port={postgresql.port} user={role} password={own[0]} dbname={role}", "-c", "SELECT 1"],
                       check=True, capture_output=True, stdin=subprocess.DEVNULL)
        for t in made:
            etcdctl(d.endpoint(t), "put", "k", values.new(f"a value of {t}") * 10)
            refused = values.new(f"a value refused on {t}")
            for command, stdin in ((["get", "k", "--rev=100"], None), (["put", "k", "--lease=12"], refused), (["put", "k"], refused * 100000),
                                   (["txn"], f'mod("k") = "1"\n\nput k {refused}\n\nput j {refused}\nput j {refused}\n\n')):
                r = etcdctl(d.endpoint(t), *command, check=False, stdin=stdin)
                assert r.returncode
                m.check(f"etcdctl {command[0]}", r.stdout + r.stderr)

        errors = d.reload_errors()
        m.check("reload", "\n".join(errors))
        told = {re.search(r"bad(\d+)\.yaml", e).group(1) for e in errors if "bad" in e}
        assert len(told) == n_bad, f"some are no mistakes: {set(map(str, range(1, n_bad + 1))) - told}"
        r = subprocess.run([program("stokehold"), "--root", str(d.root), "--plugins", str(d.plugins), "--check"], capture_output=True,
                           check=False, timeout=60)
        assert r.returncode == 1
        m.check("stokehold --check", r.stdout + r.stderr)
        for where, text in break_the_port(d, m, tls):
            m.check(where, text)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            m.check("metrics", response.read())

        # What worked fails: the password is another, the servers go away.
        postgresql.sql("ALTER ROLE keeper PASSWORD 'another'")
        mariadb.sql("ALTER USER keeper@'%' IDENTIFIED BY 'another'")
        postgresql.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> 'admin' AND pid <> pg_backend_pid()")
        for t in made:
            r = etcdctl(d.endpoint(t), "put", "k", values.new(f"a value not put on {t}"), "--command-timeout=3s", check=False)
            m.check(f"etcdctl put on {t}", r.stdout + r.stderr)
        for where, text in everything_printed(d):
            m.check(where, text)
            values.check(where, text)
        for where, text in of_process(d.process.pid):
            m.check(where, text)

        for server in (postgresql, mariadb):
            server.kill()
            stored = [(f"{server.name}'s {p.relative_to(server.data)}", p.read_bytes()) for p in server.data.rglob("*") if p.is_file()]
            assert any(values.found(data) for _, data in stored), "what was put is not there"
            for where, data in stored:
                m.check(where, data)
        d.process.send_signal(signal.SIGSEGV)
        d.process.wait(60)
        d.process = None
        for where, text in files_left(d):
            m.check(where, text)
        assert any(where.startswith("state/") for where, _ in files_left(d))
        values.check("the log", d.log())
        assert re.search(r" debug ", d.log()), "the log is not at its most talkative"
        # It comes up without its databases, and says so.
        d.start()
        for where, text in everything_printed(d, ("yaml",)):
            m.check(where, text)
        d.log_path.write_text(re.sub(r"ERROR: AddressSanitizer: SEGV[^\n]*", "", d.log()))  # the one that was asked for


def core_pattern():
    return pathlib.Path("/proc/sys/kernel/core_pattern").read_text(encoding="ascii").strip()


class Dumping(Daemon):
    """In its own folder, where the kernel may write a dump as large as it likes."""

    def command(self):
        return ["sh", "-c", f'cd {self.root} && ulimit -c unlimited && exec "$@"', "sh", *super().command()]


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "not-allowed"])
def test_core_dump(allowed):
    """A crash leaves no copy of the memory, in which passwords are, unless that was asked for."""
    if core_pattern().startswith(("|", "/")):
        pytest.skip(f"core_pattern is {core_pattern()!r}: dumps are not written where the test could look")
    m = Markers()
    password = m.new("a password")
    with running(Dumping) as d:
        # The sanitizer would keep the kernel from dumping by a limit.
        d.environment["ASAN_OPTIONS"] = "detect_leaks=0:disable_coredump=0:handle_abort=0:handle_segv=0"
        if allowed:
            (d.root / "stokehold.yaml").write_text("coreDumps: true\n")
        d.define("secret.yaml", f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: x}}\nstringData: {{password: {password}}}\n" +
                 store("nobody", "PostgreSQL", "127.0.0.1:1", "{secretReference: {name: s, namespace: x, keyPath: password}}"))
        d.start()
        d.process.send_signal(signal.SIGABRT)
        assert d.process.wait(120) == -signal.SIGABRT
        d.process = None
        cores = [p for p in d.root.iterdir() if p.name.startswith("core")]
        if not allowed:
            assert not cores
            return
        assert len(cores) == 1
        with open(cores[0], "rb") as f:
            rest = b""
            found = []
            while block := f.read(1 << 24):
                found += m.found(rest + block)
                rest = block[-200:]
        assert found, "there is no secret in the memory: then the other half of this test proves nothing"


def test_process_is_closed(tmp_path):
    """Another process of the daemon's user cannot look into it; a reload with coreDumps opens it, for who looks for a fault. And client certificates,
    which drivers hand to their libraries as files in memory, work all the same."""
    needs_root()
    certificates = servers.Certificates(tmp_path / "c")
    tmp_path.chmod(0o755)
    ca, certificate, key = (pathlib.Path(p).read_text() for p in (certificates.ca, certificates.client_certificate, certificates.client_key))
    with servers.PostgreSQL(tls=certificates, hba="hostssl all all 127.0.0.1/32 cert\n") as postgresql, MariaDB(tls=certificates) as mariadb, \
            running(Installed) as d:
        mariadb.sql("CREATE USER cert@'%' IDENTIFIED BY 'unused' REQUIRE SUBJECT '/CN=admin'; GRANT ALL PRIVILEGES ON *.* TO cert@'%' WITH GRANT OPTION")
        d.define("stores.yaml", store("postgresql", "PostgreSQL", postgresql.endpoint, content("-"), user="admin", tls=tls_config(ca, certificate, key)) +
                 store("mysql", "MySQL", mariadb.endpoint, content("unused"), user="cert", tls=tls_config(ca, certificate, key)))
        d.start()

        def readable():
            # The daemon is the last of a chain of programs that replaced each other.
            r = as_user(DAEMON, DAEMON, [], ["cat", f"/proc/{d.process.pid}/environ"])
            assert r.returncode == 0 or "denied" in r.stderr, r.stderr
            return r.returncode == 0
        assert not readable()
        for name in ("postgresql", "mysql"):
            check = d.ask("datastore", "check", name)
            assert check["ok"], check
        d.stokectl("tenant", "create", "demo", "--datastore", "postgresql")
        settings = d.root / "stokehold.yaml"
        text = settings.read_text()
        settings.write_text(text + "coreDumps: true\n")
        assert d.reload_errors() == []
        assert readable()
        settings.write_text(text)
        assert d.reload_errors() == []
        assert not readable()
