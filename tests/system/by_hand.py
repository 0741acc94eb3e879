"""
A driver without a daemon, one call at a time: tests/drivers/by_hand.c as an object. Each is a process, so each is a daemon of its own to the
datastore.
"""

import errno
import os
import re
import subprocess
import threading
from secrets import token_hex

from conftest import COMPLAINTS, plugins_directory, program

STALE, FORKED, COMPACTED, MISSING, BUSY, UNKNOWN, ENDED, STOPPED = range(1, 9)

FIRST = "1/" + 48 * "0"  # the end of what `create` made


class Answer:
    """`result`: as in driver.h; `ms`: how long it took; `lines`: what it tells, `text`: in one."""

    def __init__(self, result, ms, reason, lines):
        self.result = result
        self.ms = ms
        self.reason = reason
        self.lines = lines

    def __repr__(self):
        name = errno.errorcode.get(-self.result, self.result)
        return f"<{name} after {self.ms} ms \"{self.reason}\" {self.lines[:5]}>"

    @property
    def ok(self):
        return self.result == 0

    @property
    def text(self):
        return " ".join(self.lines)


class ByHand:
    """A secret that is None is not there; one that is a path is that file's content."""

    def __init__(self, plugin, endpoints, secrets=None, **settings):
        environment = dict(os.environ)
        environment.setdefault("ASAN_OPTIONS", "detect_leaks=1:exitcode=99")
        self.process = subprocess.Popen(
            [program("driver-by-hand"), str(plugins_directory() / f"{plugin}.so")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        self.errors = []
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reader.start()
        for endpoint in endpoints:
            self.ok("endpoint", endpoint)
        for name, value in settings.items():
            self.ok("setting", name, value)
        for name, value in ({"username": "admin", "password": "secret"} | (secrets or {})).items():
            if value is not None:
                self.secret(name, value)
        opened = self.ask("open")
        if not opened.ok:
            self.close()
            raise AssertionError(f"open: {opened}")

    def secret(self, name, value):
        self.ok("secret-file" if isinstance(value, os.PathLike) else "secret", name, value)

    def send(self, *words):
        """One command, whose answer is received later."""
        self.process.stdin.write(" ".join(str(w) for w in words) + "\n")
        self.process.stdin.flush()

    def receive(self):
        lines = []
        while line := self.process.stdout.readline():
            if match := re.match(r"= (-?\d+) (\d+) (.*)", line):
                return Answer(int(match[1]), int(match[2]), match[3], lines)
            lines.append(line.removeprefix("- ").rstrip("\n"))
        self.process.wait(10)
        self.reader.join()
        raise AssertionError(f"it ended with {self.process.returncode}: {''.join(self.errors[-40:])}")

    def ask(self, *words):
        """One command; whatever comes of it."""
        self.send(*words)
        return self.receive()

    def ok(self, *words):
        """One that must be done: what it tells."""
        answer = self.ask(*words)
        assert answer.ok, f"{words}: {answer}"
        return answer.text

    def refused(self, line, *results):
        """One that must fail in one of these ways (errno names, or outcomes)."""
        wanted = [-getattr(errno, r) if isinstance(r, str) else r for r in results]
        answer = self.ask(line)
        assert answer.result in wanted, f"{line}: {answer}, not {results}"
        return answer

    def checked(self):
        """What check() reports: (name, severity, value)."""
        answer = self.ask("check")
        assert answer.ok, answer
        return [(name, int(severity), value) for severity, name, value in (line.split(" ", 2) for line in answer.lines)]

    def close(self):
        self.process.stdin.close()
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.reader.join()
        self.process.stdout.close()
        errors = "".join(self.errors)
        assert status == 0 and not COMPLAINTS.search(errors), f"it ended with {status}: {errors}"

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.process.kill()
            self.process.wait()
        else:
            self.close()


def keyspace(name="ks"):
    return f"{name}/{token_hex(16)}"


def seq_of(end):
    """END, or the last word of what ends in one."""
    return int(end.split("/")[0].split(":")[-1].split(" ")[-1])
