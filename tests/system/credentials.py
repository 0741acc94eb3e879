"""
What tests of client certificates share: an authority made by stokectl, a daemon that issues with it, and what stokectl says to paste, used as a
person would use it.
"""

import os
import re
import shlex
import subprocess

from conftest import COMPLAINTS, free_port, program


def stokectl(*arguments, check=True):
    """Without a daemon."""
    result = subprocess.run([program("stokectl"), *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
    assert not COMPLAINTS.search(result.stderr), result.stderr
    assert not check or result.returncode == 0, f"{' '.join(arguments)}: {result.returncode}: {result.stderr}"
    return result


def make_authority(directory, *hosts):
    return stokectl("authority", "create", "--directory", str(directory), *[w for h in hosts or ["localhost"] for w in ("--host", h)])


def settings(directory, port=None, **more):
    """The section tls for files of make_authority(); without a port no one listens."""
    lines = ["tls:", f'  address: "127.0.0.1:{port}"' if port else "  address: off",
             f"  certificate: {directory}/server.crt", f"  key: {directory}/server.key"]
    if port:
        lines.append(f"  advertise: [https://localhost:{port}]")
    lines += [f"  {k}: {v}" for k, v in more.items()]
    lines += ["  authority:", f"    certificate: {directory}/ca.crt", f"    key: {directory}/ca.key", f"    revocations: {directory}/ca.crl"]
    return "\n".join(lines) + "\n"


def with_authority(daemon):
    """Gives a daemon that is stopped an authority and a TLS port; the port."""
    port = free_port()
    make_authority(daemon.root / "tls")
    (daemon.root / "stokehold.yaml").write_text(settings(daemon.root / "tls", port))
    return port


def openssl(*arguments, check=True):
    result = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert not check or result.returncode == 0, f"openssl {arguments}: {result.stderr}{result.stdout}"
    return result.stdout if check else result


def certificate_text(path):
    return openssl("x509", "-in", path, "-noout", "-text", "-certopt", "no_sigdump,no_pubkey")


def in_shell(pasted, *command, check=True, timeout=60):
    """Pastes all that was printed into a shell, and runs the command there."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCDCTL_")}
    result = subprocess.run(["sh", "-c", f"set -eu\n{pasted}\n{shlex.join(map(str, command))}"], capture_output=True, text=True, timeout=timeout,
                            env=environment, stdin=subprocess.DEVNULL, check=False)
    assert not check or result.returncode == 0, f"{command}: {result.stderr}{result.stdout}"
    return result


def flags(pasted):
    """The flags among what was printed, as an argument list."""
    words = shlex.split(pasted.replace("\\\n", " "), comments=True)
    return [w for w in words if w.startswith("--")]


def serial_of(pasted):
    return re.search(r"Certificate ([0-9A-F]+), until", pasted).group(1)
