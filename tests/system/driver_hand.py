"""
A driver by hand: tests/drivers/hand.c, driven line by line. Each is a process, so each is a daemon of its own.
"""

import collections
import errno
import os
import subprocess
import threading

STALE, FORKED, COMPACTED, MISSING, BUSY, UNKNOWN, ENDED, STOPPED = range(1, 9)

Answer = collections.namedtuple("Answer", "result ms text")


class DriverHand:
    def __init__(self, program, plugin, endpoints, daemon="d", secrets=None, settings=None):
        environment = dict(os.environ)
        environment.setdefault("ASAN_OPTIONS", "detect_leaks=1:exitcode=99")
        self.process = subprocess.Popen([program, str(plugin)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        bufsize=1, env=environment)
        self.lock = threading.Lock()
        self.ok(f"daemon {daemon}")
        for endpoint in endpoints:
            self.ok(f"endpoint {endpoint}")
        for name, value in (settings or {}).items():
            self.ok(f"setting {name} {value}")
        for name, value in ({"username": "admin", "password": "secret"} | (secrets or {})).items():
            self.secret(name, value)
        self.ok("open")

    def secret(self, name, value):
        self.ok(f"secret-file {name} {value}" if str(value).startswith("/") else f"secret {name} {value}")

    def ask(self, line):
        """One command; whatever comes of it."""
        with self.lock:
            self.process.stdin.write(line + "\n")
            answer = self.process.stdout.readline()
        if not answer:
            raise AssertionError(f"{line}: it ended with {self.process.wait(10)}")
        result, ms, text = answer.rstrip("\n").split(" ", 2)
        return Answer(int(result), int(ms), text.strip())

    def ok(self, line):
        """One that must be done: what it tells."""
        answer = self.ask(line)
        assert answer.result == 0, f"{line}: {answer}"
        return answer.text

    def refused(self, line, *results):
        """One that must fail in one of these ways (errno names, or outcomes)."""
        wanted = [-getattr(errno, r) if isinstance(r, str) else r for r in results]
        answer = self.ask(line)
        assert answer.result in wanted, f"{line}: {answer}, not {results}"
        return answer

    def checked(self):
        """What check() reports: (name, severity, value)."""
        text = self.ok("check")
        return [tuple(item.split("|", 2)) for item in text.strip("[]").split("][")]

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                status = self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
            assert status == 0, f"it ended with {status}"
