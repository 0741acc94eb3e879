"""
Real MariaDB servers for tests, as servers.py has PostgreSQL: alone, as a replica of another, or as the nodes of a Galera cluster.
"""

import contextlib
import pathlib
import shutil
import subprocess

from servers import Server, free_port

GALERA = pathlib.Path("/usr/lib/galera/libgalera_smm.so")


class MariaDB(Server):
    """
    A MariaDB server. The superuser is "admin", "secret" its password. `settings` are options of mariadbd (underscores or dashes).
    `of`: a replica of that one, read-only. `tls`: servers.Certificates.
    """

    user = "mysql"
    name = "mariadb"

    def __init__(self, settings=None, of=None, tls=None, folder=None):
        super().__init__(folder)
        self.settings = dict(settings or {})
        self.of = of
        self.tls = tls
        self.data = self.root / "data"

    @property
    def socket_path(self):
        return self.root / "socket"

    def options(self):
        options = {
            "datadir": self.data, "socket": self.socket_path, "port": self.port, "bind-address": "127.0.0.1",
            "pid-file": self.root / "pid", "innodb-buffer-pool-size": "64M", "innodb-log-file-size": "64M",
            "skip-name-resolve": "ON", "tmpdir": self.root}
        if self.of:
            options |= {"server-id": 1000 + self.port, "read-only": "ON", "log-bin": "binlog", "log-slave-updates": "ON"}
        if self.tls:
            options |= {"ssl-ca": self.root / "ca.crt", "ssl-cert": self.root / "server.crt", "ssl-key": self.root / "server.key"}
        return options | {k.replace("_", "-"): v for k, v in self.settings.items()}

    def make(self):
        self.data.mkdir()
        if self.as_user:
            shutil.chown(self.data, self.user)
        first = self.root / "first.sql"
        first.write_text(
            "FLUSH PRIVILEGES;\nCREATE USER admin@'%' IDENTIFIED BY 'secret';\nGRANT ALL PRIVILEGES ON *.* TO admin@'%' WITH GRANT OPTION;\n",
            encoding="utf-8")
        first.chmod(0o644)
        self.run("mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--skip-test-db",
                 "--auth-root-authentication-method=normal", f"--extra-file={first}")

    def start(self, *more):
        if not self.data.exists():
            self.make()
            for file in (self.tls.server_key, self.tls.server_certificate, self.tls.ca) if self.tls else ():
                shutil.copy(file, self.root)
                if self.as_user:
                    shutil.chown(self.root / file.name, self.user)
        arguments = [f"--{k}={v}" for k, v in self.options().items()]
        self.spawn("mariadbd", "--no-defaults", *arguments, *more)
        self.wait_until(self.answers)
        if self.of and not self.sql("SHOW SLAVE STATUS"):
            self.follow()

    def follow(self):
        self.sql(f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={self.of.port}, MASTER_USER='admin', "
                 "MASTER_PASSWORD='secret', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE")

    def answers(self):
        return subprocess.run(["mariadb", *self.credentials(), "-e", "SELECT 1"], check=False,
                              stdin=subprocess.DEVNULL, capture_output=True).returncode == 0

    def credentials(self):
        return ["--no-defaults", f"--socket={self.socket_path}", "-uadmin", "-psecret", "--connect-timeout=5"]

    def sql(self, text, check=True):
        """As the superuser; the answer's lines, fields between tabs."""
        done = subprocess.run(["mariadb", *self.credentials(), "-NBe", text], check=False, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace")
        if check and done.returncode != 0:
            raise RuntimeError(f"{text}: {done.stderr}")
        return done.stdout.splitlines()

    def hold(self):
        """A client that does nothing but hold a connection."""
        return subprocess.Popen(["mariadb", *self.credentials(), "-e", "SELECT SLEEP(1000)"], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @contextlib.contextmanager
    def transaction(self, statement):
        """A transaction that stays open, having run the statement."""
        client = subprocess.Popen(["mariadb", *self.credentials(), "-N", "--unbuffered"], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        client.stdin.write(f"START TRANSACTION; {statement}; SELECT 'ready';\n")
        client.stdin.flush()
        while client.stdout.readline().strip() != "ready":
            if client.poll() is not None:
                raise RuntimeError(f"{statement}: the client ended")
        try:
            yield
        finally:
            client.stdin.close()
            client.wait(10)

    def promote(self):
        self.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF")


class GaleraNode(MariaDB):
    """A node of a Galera cluster on loopback: GaleraNode.cluster(n) makes and starts one."""

    name = "galera"

    def __init__(self, peers, settings=None, folder=None):
        super().__init__(settings, folder=folder)
        self.galera_port = free_port()
        self.ist_port = free_port()
        self.peers = peers  # shared by all nodes

    def options(self):
        address = ",".join(f"127.0.0.1:{p.galera_port}" for p in self.peers)
        return super().options() | {
            "wsrep-on": "ON", "wsrep-provider": GALERA, "wsrep-cluster-name": "test", "wsrep-node-name": f"n{self.port}",
            "wsrep-cluster-address": f"gcomm://{address}", "wsrep-sst-method": "rsync",
            "wsrep-sst-receive-address": f"127.0.0.1:{free_port()}", "wsrep-node-address": f"127.0.0.1:{self.galera_port}",
            "wsrep-provider-options":
                f"gmcast.listen_addr=tcp://127.0.0.1:{self.galera_port};ist.recv_addr=127.0.0.1:{self.ist_port};"
                "gcache.size=32M;pc.recovery=false",
            "binlog-format": "ROW", "innodb-autoinc-lock-mode": 2}

    @classmethod
    def cluster(cls, n, settings=None):
        peers = []
        for _ in range(n):
            peers.append(cls(peers, settings))
        peers[0].start("--wsrep-new-cluster")
        for node in peers[1:]:
            node.start()
            node.wait_until(lambda node=node: node.sql("SHOW STATUS LIKE 'wsrep_local_state_comment'", check=False)
                            == ["wsrep_local_state_comment\tSynced"], timeout=120)
        return peers
