"""
A driver without a daemon, one call at a time: tests/drivers/shell.c as an object. Each object is a daemon of its own to the datastore.
"""

import errno
import os
import re
import secrets
import subprocess
import threading

from conftest import BUILD, COMPLAINTS

STALE, FORKED, COMPACTED, MISSING, UNKNOWN, ENDED = 1, 2, 3, 4, 6, 7


class Answer:
    """`result`: as in driver.h; `lines`: what was visited."""

    def __init__(self, result, reason, lines):
        self.result = result
        self.reason = reason
        self.lines = lines

    def __repr__(self):
        name = errno.errorcode.get(-self.result, self.result)
        return f"<{name} \"{self.reason}\" {self.lines[:5]}>"

    @property
    def ok(self):
        return self.result == 0


class Shell:
    def __init__(self, plugin, endpoints, username="admin", password="secret", **settings):
        environment = dict(os.environ)
        environment.setdefault("ASAN_OPTIONS", "detect_leaks=1")
        words = [f"endpoint={e}" for e in endpoints] + [f"{k}={v}" for k, v in settings.items()]
        self.process = subprocess.Popen(
            [str(BUILD / "tests" / "drivers" / "driver-shell"), str(BUILD / "plugins" / f"{plugin}.so"), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        self.errors = []
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reader.start()
        self.opened = self._read()
        if self.opened.ok:
            if username:
                self("secret", "username", username)
            if password:
                self("secret", "password", password)

    def _read(self):
        lines = []
        while line := self.process.stdout.readline():
            if match := re.match(r"= (-?\d+) ?(.*)", line):
                return Answer(int(match[1]), match[2], lines)
            lines.append(line.removeprefix("- ").rstrip("\n"))
        raise AssertionError("the driver died: " + "".join(self.errors[-40:]))

    def send(self, *words):
        self.process.stdin.write(" ".join(str(w) for w in words) + "\n")
        self.process.stdin.flush()

    def receive(self):
        return self._read()

    def __call__(self, *words):
        self.send(*words)
        return self._read()

    def must(self, *words):
        answer = self(*words)
        assert answer.ok, f"{words}: {answer}"
        return answer

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0, "".join(self.errors)
        self.reader.join()
        assert not COMPLAINTS.search("".join(self.errors)), "".join(self.errors)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.process.kill()
            self.process.wait()
        else:
            self.close()


def keyspace(name="ks"):
    return f"{name}/{secrets.token_hex(16)}"


FIRST = "1/" + 48 * "0"  # the end of what `create` made
