"""
The real daemon, run by real clients: fixtures that start `stokehold --root` from the build folder in a folder of its own, ask it through
stokectl and etcdctl, kill it, and read its log. A report of a sanitizer in that log fails the test, and so does an exit other than 0.

The folders come from tests/run: STOKEHOLD_BUILD (the build) and STOKEHOLD_TOOLS (etcd, etcdctl, client).
"""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("STOKEHOLD_BUILD", TREE / "build-tests" / "tree"))
TOOLS = pathlib.Path(os.environ.get("STOKEHOLD_TOOLS", TREE / "build-tests" / "bin"))

COMPLAINTS = re.compile(r"ERROR: \w+Sanitizer|runtime error:|WARNING: ThreadSanitizer|: check failed:|LeakSanitizer: detected")


def program(name):
    """Beside each other in the build folder, or where meson puts them by default."""
    for place in (BUILD / name, BUILD / "core" / name, BUILD / "core" / "ctl" / name, BUILD / "tests" / name,
                  BUILD / "tests" / "drivers" / name, BUILD / "tests" / "unit" / "snapshot" / name, TOOLS / name):
        if place.is_file():
            return str(place)
    raise FileNotFoundError(f"{name}: neither in {BUILD} nor in {TOOLS} (tests/run builds it)")


def plugins_directory():
    flat = BUILD / "plugins"
    return flat if list(flat.glob("*.so")) else flat / "sql"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def as_root(*command):
    return list(command) if os.geteuid() == 0 else ["sudo", "-n", "-E", *command]


def wait_for(what, condition, timeout=20.0, pause=0.05):
    """The condition's first true value; its last exception or "no" after the time."""
    end = time.monotonic() + timeout
    while True:
        error = None
        try:
            value = condition()
            if value:
                return value
        except Exception as e:  # pylint: disable=broad-except
            error = e
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {timeout} s" + (f" ({error})" if error else ""))
        time.sleep(pause)


class Daemon:
    """One `stokehold --root`; made stopped."""

    def __init__(self, root, arguments=(), plugins=None, environment=None, executable="stokehold"):
        self.root = pathlib.Path(root)
        self.arguments = list(arguments)
        self.plugins = pathlib.Path(plugins) if plugins else plugins_directory()
        self.environment = environment or {}
        self.executable = executable
        self.process = None
        self.notified = None
        self.log_path = self.root / "daemon.log"
        self.definitions = self.root / "definitions.d"
        self.definitions.mkdir(parents=True, exist_ok=True)

    # ---- life

    def command(self):
        return [program(self.executable), "--root", str(self.root), "--plugins", str(self.plugins), *self.arguments]

    def start(self, wait=True):
        environment = dict(os.environ)
        # intercept_tls_get_addr: LeakSanitizer misreads the thread-local blocks of libraries that came with a plugin, and crashes on them.
        environment.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99:intercept_tls_get_addr=0")
        environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=0")
        environment.update(self.environment)
        # systemd's protocol: READY=1 comes when every tenant is served.
        notify = self.root / "notify"
        notify.unlink(missing_ok=True)
        if self.notified:
            self.notified.close()
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(notify))
        self.notified.settimeout(0.1)
        notify.chmod(0o666)
        environment["NOTIFY_SOCKET"] = str(notify)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"stokehold ended with {self.process.returncode}")
            return b"READY=1" in self.notified.recv(4096)
        try:
            wait_for("the daemon is ready", ready, 30)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.log()[-4000:]}") from None
        # Nobody reads on: a full queue would hold the daemon up at its next notice.
        self.notified.close()
        return self

    def stop(self, timeout=30):
        """Asks it to stop, as systemd does; it must leave with 0."""
        if self.process is None:
            return
        process, self.process = self.process, None
        if process.poll() is None:
            process.terminate()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            process.wait(10)
            raise AssertionError(f"stokehold did not stop within {timeout} s:\n{self.log()[-4000:]}") from None
        assert status == 0, f"stokehold ended with {status}:\n{self.log()[-8000:]}"

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def restart(self):
        self.stop()
        return self.start()

    def hangup(self):
        self.process.send_signal(signal.SIGHUP)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def check_log(self):
        found = COMPLAINTS.search(self.log())
        assert not found, f"the daemon's log has a report:\n{self.log()[max(0, found.start() - 500):found.start() + 6000]}"

    # ---- asking

    @property
    def control_socket(self):
        return self.root / "run" / "control.sock"

    def stokectl(self, *arguments, check=True, user=None, stdin=None):
        command = [program("stokectl"), "--root", str(self.root), *arguments]
        if user is not None:
            command = as_root("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command)
        # A leak in a client that ends is no user's trouble, and ptrace is not allowed for other users.
        environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0" if user is not None else "detect_leaks=1")
        result = subprocess.run(command, capture_output=True, text=True, timeout=90, input=stdin, env=environment, check=False)
        assert not COMPLAINTS.search(result.stderr), result.stderr
        assert not check or result.returncode == 0, f"{' '.join(arguments)}: {result.returncode}: {result.stderr}{result.stdout}"
        return result

    def ask(self, *arguments):
        return json.loads(self.stokectl(*arguments, "-o", "json").stdout)

    def status(self):
        return self.ask("status")

    def tenant(self, name="demo", *arguments):
        """Makes a tenant; its endpoint."""
        self.stokectl("tenant", "create", name, *arguments)
        return self.endpoint(name)

    def endpoint(self, name="demo"):
        return f"unix://{self.root}/run/tenants/{name}.sock"

    def wait_tenant(self, name):
        def ready():
            return self.ask("tenant", "show", name)["phase"] == "Ready"
        wait_for(f"tenant {name} is ready", ready)
        return self.endpoint(name)

    # ---- definitions

    def define(self, name, text):
        """Puts a file in place whole, as an editor or a configuration tool does."""
        temporary = self.definitions / f".{name}.new"
        temporary.write_text(text)
        temporary.rename(self.definitions / name)

    def undefine(self, name):
        (self.definitions / name).unlink()

    def reload_errors(self):
        result = self.stokectl("reload", "-o", "json", check=False)
        assert result.stdout, result.stderr
        errors = json.loads(result.stdout)["errors"]
        assert result.returncode == (1 if errors else 0), result
        return errors


def etcdctl(endpoint, *arguments, check=True, stdin=None, timeout=30):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCDCTL_")}
    result = subprocess.run([program("etcdctl"), "--endpoints", endpoint, *arguments], capture_output=True, text=True,
                            timeout=timeout, input=stdin, env=environment, check=False)
    assert not check or result.returncode == 0, f"etcdctl {' '.join(arguments)}: {result.stderr}{result.stdout}"
    return result


def client(*arguments, timeout=120):
    return subprocess.run([program("client"), *arguments], capture_output=True, text=True, timeout=timeout, check=False)


@contextlib.contextmanager
def scratch():
    """A folder with a short name: a socket's path has at most 107 bytes."""
    path = tempfile.mkdtemp(prefix="sh-")
    os.chmod(path, 0o755)
    try:
        yield pathlib.Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def running(make=Daemon, **keywords):
    with scratch() as root:
        d = make(root, **keywords)
        try:
            yield d
            d.stop()
        finally:
            if d.process is not None:
                d.kill()
        d.check_log()


@pytest.fixture
def stopped():
    """A daemon of the test's own, not yet started."""
    with running() as d:
        yield d


@pytest.fixture
def daemon(stopped):
    """A daemon of the test's own."""
    return stopped.start()


@pytest.fixture(scope="module")
def shared():
    """One daemon for the tests of a file."""
    with running() as d:
        yield d.start()


@contextlib.contextmanager
def real_etcd(prepare=None):
    """prepare(data directory, peer URL) puts something there first."""
    with scratch() as directory:
        port, peer = free_port(), free_port()
        if prepare:
            prepare(directory / "data", f"http://127.0.0.1:{peer}")
        with open(directory / "log", "wb") as log:
            process = subprocess.Popen(
                [program("etcd"), "--name", "e", "--data-dir", str(directory / "data"), "--log-level", "error",
                 "--listen-client-urls", f"http://127.0.0.1:{port}", "--advertise-client-urls", f"http://127.0.0.1:{port}",
                 "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                 "--initial-cluster", f"e=http://127.0.0.1:{peer}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            endpoint = f"http://127.0.0.1:{port}"
            wait_for("etcd answers", lambda: etcdctl(endpoint, "get", "x", check=False).returncode == 0, 60, 0.2)
            yield endpoint
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def etcd():
    """A real etcd, fresh."""
    with real_etcd() as endpoint:
        yield endpoint


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=None, help="of the random tests")
    parser.addoption("--long", action="store_true", help="also the tests marked long")


def pytest_configure(config):
    # What is started in the background of a shell has it ignored, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "long: takes minutes; left out without --long")
    config.addinivalue_line("markers", "sample(n): only n of its cases, chosen by the seed; all with --long, or where a case is named")
    if config.getoption("--seed") is None:
        config.option.seed = random.SystemRandom().randrange(2**32)


def pytest_report_header(config):
    return f"seed {config.getoption('--seed')} (tests/run --seed N repeats it)"


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        left_out = [i for i in items if i.get_closest_marker("long")]
        items[:] = [i for i in items if not i.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        if not config.option.keyword:
            sample(config, items)


def sample(config, items):
    cases = {}
    for i in items:
        if i.get_closest_marker("sample"):
            cases.setdefault((i.path, i.originalname), []).append(i)
    left_out = set()
    for (_, name), group in sorted(cases.items(), key=lambda x: str(x[0])):
        n = group[0].get_closest_marker("sample").args[0]
        chosen = random.Random(f"{config.option.seed} {name}").sample(group, min(n, len(group)))
        left_out.update(i.nodeid for i in group if i not in chosen)
    if left_out:
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid in left_out])
        items[:] = [i for i in items if i.nodeid not in left_out]


@pytest.fixture
def seed(request):
    value = request.config.getoption("--seed")
    print(f"seed {value}")
    return value
