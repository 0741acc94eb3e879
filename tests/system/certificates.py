"""
Certificate authorities for the tests of the TLS port, by the openssl command line: servers' and clients' certificates with any names and times,
and revocation lists.
"""

import datetime
import pathlib
import subprocess


def _time(seconds):
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return when.strftime("%Y%m%d%H%M%SZ")


class Certificate:
    """A file with a certificate and one with its key."""

    def __init__(self, certificate, key, ca):
        self.certificate = certificate
        self.key = key
        self.ca = ca

    @property
    def files(self):
        return str(self.certificate), str(self.key)


class Authority:
    """A CA in a folder of its own."""

    def __init__(self, folder, name="test CA"):
        self.root = pathlib.Path(folder)
        self.root.mkdir(parents=True)
        self.count = 0
        (self.root / "index").touch()
        (self.root / "serial").write_text("1000\n")
        (self.root / "crlnumber").write_text("1000\n")
        (self.root / "config").write_text(f"""[ca]
default_ca = this
[this]
database = {self.root}/index
serial = {self.root}/serial
crlnumber = {self.root}/crlnumber
new_certs_dir = {self.root}
certificate = {self.root}/ca.crt
private_key = {self.root}/ca.key
default_md = sha256
default_days = 100
default_crl_days = 30
policy = any
unique_subject = no
copy_extensions = none
[any]
commonName = optional
organizationName = optional
[req]
distinguished_name = nothing
prompt = no
[nothing]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
""")
        self.certificate = self.root / "ca.crt"
        self.key = self.root / "ca.key"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "200", "-subj", f"/CN={name}",
                      "-config", self.root / "config", "-extensions", "authority", "-keyout", self.key, "-out", self.certificate)

    def _openssl(self, *arguments):
        done = subprocess.run(["openssl", *map(str, arguments)], cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def _sign(self, name, subject, alternative, usage, starts, ends):
        self.count += 1
        base = f"{name}-{self.count}"
        key, request, certificate, extensions = (self.root / f"{base}.{end}" for end in ("key", "csr", "crt", "ext"))
        self._openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject, "-config",
                      self.root / "config", "-keyout", key, "-out", request)
        extensions.write_text(f"basicConstraints=CA:FALSE\nextendedKeyUsage={usage}\n" +
                              (f"subjectAltName={alternative}\n" if alternative else ""))
        self._openssl("ca", "-batch", "-notext", "-config", self.root / "config", "-in", request, "-out", certificate, "-extfile",
                      extensions, "-startdate", _time(starts), "-enddate", _time(ends))
        return Certificate(certificate, key, self.certificate)

    def server(self, name="stokehold", alternative="DNS:localhost,IP:127.0.0.1", days=90.0):
        return self._sign("server", f"/CN={name}", alternative, "serverAuth", -3600, days * 86400)

    def client(self, name=None, alternative=None, starts=-3600, ends=86400):
        return self._sign("client", f"/CN={name}" if name else "/O=test", alternative, "clientAuth", starts, ends)

    def revoke(self, certificate):
        self._openssl("ca", "-config", self.root / "config", "-revoke", certificate.certificate)

    def revocations(self):
        """The list as of now; its file."""
        self.count += 1
        file = self.root / f"list-{self.count}.crl"
        self._openssl("ca", "-gencrl", "-config", self.root / "config", "-out", file)
        return file
