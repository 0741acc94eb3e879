"""
A daemon with a TLS port, and clients of it: etcdctl, grpcio, and HTTP/1.1 by hand.
"""

import contextlib
import http.client
import shutil
import socket
import ssl

import grpc

from certificates import Authority
from conftest import Daemon, etcdctl, free_port


class TlsDaemon(Daemon):
    """Its files are in root/tls, put there whole, as configuration tools do; its CA in root/ca."""

    def __init__(self, root, more="", **keywords):
        super().__init__(root, **keywords)
        self.port = free_port()
        self.metrics_port = free_port()
        self.files = self.root / "tls"
        self.files.mkdir()
        self.ca = Authority(self.root / "ca")
        self.install("server", self.ca.server())
        self.put("ca.crt", self.ca.certificate)
        self.put("ca.crl", self.ca.revocations())
        self.configure(more)

    def configure(self, more="", address=None):
        (self.root / "stokehold.yaml").write_text(f"""metrics: {{listen: "tcp:127.0.0.1:{self.metrics_port}"}}
tls:
  address: "{address or f'127.0.0.1:{self.port}'}"
  certificate: tls/server.crt
  key: tls/server.key
  clientCA: tls/ca.crt
  clientRevocations: tls/ca.crl
{more}""")

    def put(self, name, file):
        temporary = self.files / f".{name}.new"
        shutil.copyfile(file, temporary)
        temporary.rename(self.files / name)

    def install(self, name, certificate):
        self.put(f"{name}.crt", certificate.certificate)
        self.put(f"{name}.key", certificate.key)

    def declare(self, name, *client_names, more=""):
        """A tenant; `more` goes under its endpoint."""
        names = ", ".join(f'"{n}"' for n in client_names)
        self.define(f"{name}.yaml", f"""apiVersion: stokehold/v1alpha1
kind: Tenant
metadata: {{name: {name}}}
spec:
  endpoint:
    clientNames: [{names}]
{more}""")

    # ---- clients

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def etcdctl(self, certificate, *arguments, check=True, timeout=30):
        return etcdctl(self.url, "--cacert", str(self.ca.certificate), "--cert", str(certificate.certificate), "--key", str(certificate.key),
                       "--dial-timeout=5s", "--command-timeout=5s", *arguments, check=check, timeout=timeout)

    @contextlib.contextmanager
    def channel(self, certificate):
        """A connection of its own."""
        credentials = grpc.ssl_channel_credentials(self.ca.certificate.read_bytes(), certificate.key.read_bytes(),
                                                   certificate.certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{self.port}", credentials,
                                 [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500),
                                  ("grpc.initial_reconnect_backoff_ms", 100)]) as channel:
            yield channel

    def context(self, certificate=None, alpn=("http/1.1",), version=None):
        context = ssl.create_default_context(cafile=str(self.ca.certificate))
        if version:
            context.minimum_version = context.maximum_version = version
        if certificate:
            context.load_cert_chain(*certificate.files)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def connect(self, certificate=None, **options):
        raw = socket.create_connection(("127.0.0.1", self.port), 15)
        try:
            return self.context(certificate, **options).wrap_socket(raw, server_hostname="localhost")
        except BaseException:
            raw.close()
            raise

    def refusal(self, certificate=None, **options):
        """What a client hears that is not let in; None: it is. With TLS 1.3 it hears it at its first reading."""
        try:
            with self.connect(certificate, **options) as s:
                s.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return None if s.recv(64).startswith(b"HTTP/1.1 200") else "closed"
        except ssl.SSLError as e:
            return e.reason or str(e)
        except ConnectionResetError:
            return "reset"

    def served_serial(self, certificate):
        """Of the certificate that the port shows."""
        with self.connect(certificate) as s:
            return s.getpeercert()["serialNumber"]

    def get(self, path, certificate=None):
        """HTTP/1.1 over TLS: status and body."""
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=15, context=self.context(certificate))
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def probe(self, path):
        """HTTP/1.1 at the metrics listener."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=15)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name):
        return float(next(line for line in self.probe("/metrics")[1].splitlines() if line.startswith(f"{name} ")).split()[1])

    def problems(self):
        return [p for p in self.status().get("problems", []) if "tls" in p or "clientCA" in p or "client name" in p]


class Watch:
    """A Watch stream over a channel, which does not come back by itself."""

    def __init__(self, proto, channel, key):
        self.stream = proto.stub(channel, "Watch", "Watch")(self._requests(proto, key), timeout=300)
        assert next(self.stream).created

    @staticmethod
    def _requests(proto, key):
        yield proto("WatchRequest", create_request=proto("WatchCreateRequest", key=key))

    def value(self):
        """Of the next event."""
        return next(self.stream).events[0].kv.value

    def end(self):
        """The status that it ends with; waits for it."""
        try:
            while True:
                next(self.stream)
        except grpc.RpcError as e:
            return e.code()
        except StopIteration:
            return grpc.StatusCode.OK
