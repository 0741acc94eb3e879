"""
Real database servers for tests: each private, in a folder of its own, on loopback, as an unprivileged user, killed with whoever started it.
Used by the fixtures of tests/system and, through tests/drivers/with-*, by the driver laws.
"""

import atexit
import contextlib
import ctypes
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; after the change of user, which clears it


class Server:
    """One server process and its folder. `user`: whom it runs as where the tests run as root."""

    user = "nobody"
    name = "server"

    def __init__(self, folder=None):
        self.root = pathlib.Path(folder or tempfile.mkdtemp(prefix=f"stokehold-{self.name}-"))
        self.own_folder = folder is None
        self.port = free_port()
        self.process = None
        self.log_path = self.root / "server.log"
        self.as_user = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.user)
            self.as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            self.root.mkdir(parents=True, exist_ok=True)
            os.chown(self.root, entry.pw_uid, entry.pw_gid)
        atexit.register(self.close)

    @property
    def endpoint(self):
        return f"127.0.0.1:{self.port}"

    def run(self, *command, **options):
        """A program of the server's, as its user."""
        return subprocess.run(
            [str(c) for c in command], check=True, cwd=self.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, **self.as_user, **options)

    def keep(self, file, name):
        """A copy of a file in the server's folder, readable by it alone."""
        copy = self.root / name
        shutil.copyfile(file, copy)
        copy.chmod(0o600)
        if self.as_user:
            os.chown(copy, self.as_user["user"], self.as_user["group"])

    def spawn(self, *command):
        log = open(self.log_path, "a", encoding="utf-8")
        self.process = subprocess.Popen(
            [str(c) for c in command], cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, preexec_fn=_die_with_parent, **self.as_user)
        log.close()

    def wait_until(self, ready, timeout=60):
        end = time.monotonic() + timeout
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                tail = self.log_path.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self.name} did not start: {self.process.poll()}\n{tail}")
            time.sleep(0.05)

    def pids(self):
        """The process and its children, which servers with a process a connection have."""
        if not self.process or self.process.poll() is not None:
            return []
        found = [self.process.pid]
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                        found.append(int(entry.name))
        return found

    def signal_all(self, number):
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def pause(self):
        self.signal_all(signal.SIGSTOP)

    def resume(self):
        self.signal_all(signal.SIGCONT)

    @staticmethod
    def kill_one(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill(self):
        """As a crash: nothing of it runs any more on return."""
        if not self.process:
            return
        pids = self.pids()
        if pids:
            os.kill(pids[0], signal.SIGSTOP)  # or it would make new ones
            pids = self.pids()
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        while any(self._runs(pid) for pid in pids):
            time.sleep(0.01)

    @staticmethod
    def _runs(pid):
        with contextlib.suppress(OSError, IndexError):
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    def stop(self, number=signal.SIGTERM, timeout=30):
        if not self.process:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def close(self):
        self.kill()
        if self.own_folder:
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.close()


class PostgreSQL(Server):
    """
    A PostgreSQL cluster. The superuser is "admin", "secret" its password. `settings` go into postgresql.conf, `hba` replaces pg_hba.conf
    (default: SCRAM on loopback). `of`: a streaming replica of that one.
    """

    user = "postgres"
    name = "postgresql"
    binaries = pathlib.Path("/usr/lib/postgresql/15/bin")

    def __init__(self, settings=None, hba=None, of=None, tls=None, folder=None):
        super().__init__(folder)
        self.settings = dict(settings or {})
        self.hba = hba
        self.of = of
        self.tls = tls
        self.data = self.root / "data"

    def make(self):
        if self.of:
            self.run(self.binaries / "pg_basebackup", "-D", self.data, "-d", self.of.url("replication=database"), "-R",
                     "-X", "stream", "-c", "fast", "-N")
        else:
            password = self.root / "password"
            password.write_text("secret\n", encoding="utf-8")
            password.chmod(0o644)
            self.run(self.binaries / "initdb", "-D", self.data, "-U", "admin", f"--pwfile={password}", "-A",
                     "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "max_connections": 60,
            "shared_buffers": "32MB", "hot_standby": "on", "log_min_messages": "warning"}
        if self.tls:
            for name, file in (("server.crt", self.tls.server_certificate), ("server.key", self.tls.server_key),
                               ("ca.crt", self.tls.ca)):
                self.keep(file, name)
            settings |= {"ssl": "on", "ssl_cert_file": self.root / "server.crt", "ssl_key_file": self.root / "server.key",
                         "ssl_ca_file": self.root / "ca.crt"}
        settings |= self.settings
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as f:
            f.writelines(f"{k} = '{v}'\n" for k, v in settings.items())
        hba = self.hba or ("host all all 127.0.0.1/32 scram-sha-256\n"
                           "host replication all 127.0.0.1/32 scram-sha-256\n")
        (self.data / "pg_hba.conf").write_text(hba, encoding="utf-8")

    def start(self):
        if not self.data.exists():
            self.make()
        self.spawn(self.binaries / "postgres", "-D", self.data)
        self.wait_until(lambda: subprocess.run(
            [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "admin"],
            check=False).returncode == 0)

    def stop(self, number=signal.SIGINT, timeout=30):  # "fast"
        super().stop(number, timeout)

    def url(self, more=""):
        return f"host=127.0.0.1 port={self.port} user=admin password=secret dbname=postgres {more}"

    def sql(self, text, database="postgres", check=True):
        """As the superuser; the answer's lines, fields between "|"."""
        done = subprocess.run(
            ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.url(f"dbname={database}"), "-c", text], check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"{text}: {done.stderr}")
        return done.stdout.splitlines()

    def promote(self):
        self.run(self.binaries / "pg_ctl", "promote", "-D", self.data, "-w")


class PgBouncer(Server):
    """A pooler of transactions before a PostgreSQL, with the same users and passwords."""

    user = "postgres"
    name = "pgbouncer"

    def __init__(self, before, pool_mode="transaction", pool_size=4, folder=None):
        super().__init__(folder)
        self.before = before
        self.pool_mode = pool_mode
        self.pool_size = pool_size

    def move_to(self, server, database="stokehold"):
        """As a virtual address does: the clients' connections stay."""
        self.before = server
        self._configure()
        self.process.send_signal(signal.SIGHUP)
        self.wait_until(lambda: subprocess.run(
            ["psql", "-XAtq", "-d", f"host=127.0.0.1 port={self.port} user=admin password=secret dbname={database}", "-c",
             "SELECT inet_server_port()"], check=False, stdin=subprocess.DEVNULL, capture_output=True,
            text=True).stdout.strip() == str(server.port))

    def _configure(self):
        (self.root / "users").write_text('"admin" "secret"\n', encoding="utf-8")
        (self.root / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={self.before.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {self.root}/users\n"
            f"pool_mode = {self.pool_mode}\ndefault_pool_size = {self.pool_size}\nmax_client_conn = 200\n"
            "server_login_retry = 1\n", encoding="utf-8")

    def start(self):
        self._configure()
        self.spawn("/usr/sbin/pgbouncer", self.root / "pgbouncer.ini")

        def answers():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False
        self.wait_until(answers)


class PooledPostgreSQL(PostgreSQL):
    """With a pooler before it, which dies with every other crash."""

    def __init__(self, settings=None, **options):
        super().__init__(settings, **options)
        self.pooler = PgBouncer(self, pool_size=8)
        self.crashes = 0

    @property
    def endpoint(self):
        return self.pooler.endpoint

    def start(self):
        super().start()
        if not self.pooler.process:
            self.pooler.start()

    def kill(self):
        super().kill()
        self.crashes += 1
        if self.crashes % 2:
            self.pooler.kill()

    def close(self):
        self.pooler.close()
        super().close()


class Certificates:
    """A certificate authority, a server's certificate for localhost, and a client's for a user; made by openssl."""

    def __init__(self, folder, user="admin"):
        self.root = pathlib.Path(folder)
        self.root.mkdir(parents=True, exist_ok=True)
        self.ca, self.ca_key = self._self_signed("ca")
        self.server_certificate, self.server_key = self._signed("server", "localhost", "DNS:localhost,IP:127.0.0.1")
        self.client_certificate, self.client_key = self._signed("client", user)

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, cwd=self.root, capture_output=True)

    def _self_signed(self, name):
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                      "-subj", f"/CN=test {name}", "-keyout", f"{name}.key", "-out", f"{name}.crt")
        return self.root / f"{name}.crt", self.root / f"{name}.key"

    def _signed(self, name, subject, alternative=None):
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={subject}",
                      "-keyout", f"{name}.key", "-out", f"{name}.csr")
        extensions = []
        if alternative:
            (self.root / f"{name}.ext").write_text(f"subjectAltName={alternative}\n", encoding="utf-8")
            extensions = ["-extfile", f"{name}.ext"]
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days",
                      "2", "-out", f"{name}.crt", *extensions)
        return self.root / f"{name}.crt", self.root / f"{name}.key"


class Proxy:
    """A TCP proxy that cuts its connections when told to, at any byte; `target` is an endpoint, and may be changed."""

    def __init__(self, target, seed=0):
        self.target = target
        self.dice = random.Random(seed)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.pairs = set()
        self.refusing = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self):
        return f"127.0.0.1:{self.port}"

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            host, port = self.target.rsplit(":", 1)
            try:
                if self.refusing:
                    raise OSError
                far = socket.create_connection((host, int(port)), 5)
            except OSError:
                near.close()
                continue
            pair = (near, far)
            for s in pair:
                s.settimeout(None)
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.pairs.add(pair)
            threading.Thread(target=self._carry, args=(near, far, pair), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, pair), daemon=True).start()

    def _carry(self, source, target, pair):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        self._end(pair)

    def _end(self, pair):
        with self.lock:
            self.pairs.discard(pair)
        for s in pair:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    def cut(self, share=1.0):
        """Ends so many of the connections, in the middle of whatever they carry."""
        with self.lock:
            chosen = [p for p in self.pairs if self.dice.random() < share]
        for pair in chosen:
            self._end(pair)
        return len(chosen)

    def close(self):
        self.listener.close()
        self.cut()
