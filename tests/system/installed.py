"""
The daemon as an installation runs it, under --config and as a user of its own, without touching the machine: in a mount namespace with its own
/etc/group and journal. For root only, since others cannot be several users.
"""

import os
import pathlib
import socket
import struct
import subprocess

import pytest

from conftest import Daemon, program

DAEMON, ADMIN, VIEW = 61000, 61001, 61002  # the daemon's uid and gid; the groups' gids


def needs_root():
    """Leaves the test out, with the reason, where it cannot be done."""
    if os.geteuid() != 0:
        pytest.skip("needs root: processes of several users and groups")
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/srv"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"needs a mount namespace: {tried.stderr.strip()}")


class Journal:
    """journald's socket, as a file to be put in its place; the entries that came, each a dictionary."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.path.chmod(0o666)
        self.entries = []

    def read(self):
        while True:
            try:
                data = self.socket.recv(1 << 17)
            except BlockingIOError:
                return self.entries
            entry = {}
            while data:
                line, _, data = data.partition(b"\n")
                name, has_value, value = line.partition(b"=")
                if not has_value:  # a value with a newline in it: its length, and the value
                    size = struct.unpack("<Q", data[:8])[0]
                    value, data = data[8:8 + size], data[8 + size + 1:]
                entry[name.decode()] = value.decode(errors="replace")
            self.entries.append(entry)

    def close(self):
        self.socket.close()


class Installed(Daemon):
    """`members`: of the admins' group, as /etc/group lists them."""

    def __init__(self, root, settings="", members=""):
        super().__init__(root)
        for name in ("state", "run"):
            (self.root / name).mkdir()
            os.chown(self.root / name, DAEMON, DAEMON)
        (self.root / "stokehold.yaml").write_text(
            f"paths: {{definitions: {self.definitions}, secrets: {self.root}/secrets, state: {self.root}/state, runtime: {self.root}/run, "
            f"plugins: /srv/plugins}}\nmetrics: {{listen: off}}\n{settings}", encoding="utf-8")
        groups = pathlib.Path("/etc/group").read_text(encoding="utf-8")
        (self.root / "group").write_text(f"{groups}stokehold-admin:x:{ADMIN}:{members}\nstokehold-view:x:{VIEW}:\n", encoding="utf-8")
        self.journal = None

    def use_journal(self):
        """From the next start on the log goes there."""
        self.journal = Journal(self.root / "journal")
        self.log_path.touch()
        st = self.log_path.stat()
        self.environment["JOURNAL_STREAM"] = f"{st.st_dev}:{st.st_ino}"
        return self.journal

    def command(self):
        script = f"""mount --bind {self.root}/group /etc/group
            mount -t tmpfs -o mode=755 tmpfs /srv
            mkdir /srv/plugins
            cp {self.plugins}/*.so /srv/plugins
            if [ -S {self.root}/journal ]; then
                mount -t tmpfs -o mode=755 tmpfs /run
                mkdir -p /run/systemd/journal
                ln -s {self.root}/journal /run/systemd/journal/socket
            fi
            exec setpriv --reuid={DAEMON} --regid={DAEMON} --clear-groups {program(self.executable)} --config {self.root}/stokehold.yaml"""
        return ["unshare", "-m", "sh", "-ec", script]


def as_user(uid, gid, groups, command, **options):
    groups = ["--groups=" + ",".join(map(str, groups))] if groups else ["--clear-groups"]
    return subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={gid}", *groups, *command], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=120, check=False, **options)
