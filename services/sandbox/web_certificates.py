"""Certificates of the sandbox's web servers: an authority, and leaves made when a name is met.

A wildcard for a whole top-level domain would do for millions of names, but OpenSSL takes none
("*.com"). So each leaf is for a family: a name and all that differ from it in one character, at the
place in which names that came before differed. Names of a pattern come in such families, and to
load a certificate costs OpenSSL a millisecond. All leaves share one key.
"""

import os
import ssl
import sys
import tempfile
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from string import ascii_lowercase, digits
from typing import IO

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .web_truth import Web

# That of WRONG_HOST; and of whoever asks for no name, or one that has no web server.
ELSEWHERE, NOBODY = "shared.hosting.example", "nobody.sandbox"
_CLASSES = (digits, ascii_lowercase)
_DAY = timedelta(days=1)


class Certificates:
    """Server contexts by name. `limit` is of contexts kept; each takes some 20 KB."""

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._ca_key = ec.generate_private_key(ec.SECP256R1())
        self._ca_name = _named("Sandbox web authority")
        # Python takes a certificate and its key from files only.
        self._key_file, self._leaf_file = _File("key"), _File("leaf")
        self._key_file.write(
            self._key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        now = datetime.now(UTC)
        ca = (
            _certificate(self._ca_name, self._ca_name, self._ca_key, now - _DAY, now + 30 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._ca_key, hashes.SHA256())
        )
        # To be trusted; PEM.
        self.ca = ca.public_bytes(serialization.Encoding.PEM).decode("ascii")
        # By kind and family, the most recently met last.
        self._contexts: OrderedDict[tuple[Web, str], ssl.SSLContext] = OrderedDict()
        # By length of the first label and what follows it: the label met last, and how often one
        # differed from the one before in each character alone.
        self._met: OrderedDict[tuple[int, str], tuple[str, list[int]]] = OrderedDict()
        self._elsewhere = self._load(Web.PAGE, [ELSEWHERE])
        self._nobody = self._load(Web.PAGE, [NOBODY])

    def close(self) -> None:
        """Contexts stay good, and no more are made."""
        self._key_file.close()
        self._leaf_file.close()

    def context(self, name: str, behaviour: Web) -> ssl.SSLContext:
        """For a name that has a web server; `name` "" for one that has none."""
        if not name:
            return self._nobody
        if behaviour is Web.WRONG_HOST:
            return self._elsewhere
        kind = behaviour if behaviour in (Web.EXPIRED, Web.SELF_SIGNED) else Web.PAGE
        label, _, rest = name.partition(".")
        place = self._place(label, rest)
        before, after = label[:place], f"{label[place + 1 :]}.{rest}"
        family = kind, f"{before}*{after}"
        contexts = self._contexts
        found = contexts.get(family)
        if found is None:
            characters = next((it for it in _CLASSES if label[place] in it), label[place])
            others = [f"{before}{it}{after}" for it in characters if it != label[place]]
            found = contexts[family] = self._load(kind, [name, *others])
            if len(contexts) > self._limit:
                contexts.popitem(last=False)
        else:
            contexts.move_to_end(family)
        return found

    def _place(self, label: str, rest: str) -> int:
        """In which character the names of a family differ: most often one did from the last."""
        key = len(label), rest
        last, votes = self._met.get(key) or (label, [0] * len(label))
        differing = [at for at, it in enumerate(last) if it != label[at]]
        if len(differing) == 1:
            votes[differing[0]] += 1
        self._met[key] = label, votes
        if len(self._met) > self._limit:
            self._met.popitem(last=False)
        # The last of several.
        return max(range(len(label)), key=lambda at: (votes[at], at))

    def _load(self, kind: Web, names: list[str]) -> ssl.SSLContext:
        now = datetime.now(UTC)
        ends = now - 10 * _DAY if kind is Web.EXPIRED else now + 30 * _DAY
        subject = _named(names[0][:64])
        own = kind is Web.SELF_SIGNED
        issuer = subject if own else self._ca_name
        certificate = (
            _certificate(subject, issuer, self._key, now - 20 * _DAY, ends)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(it) for it in names]), False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key if own else self._ca_key, hashes.SHA256())
        )
        self._leaf_file.write(certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._leaf_file.path, self._key_file.path)
        context.set_alpn_protocols(["http/1.1"])
        # Nobody comes twice.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        return context


class _File:
    """A file that is written again and again, in memory where the system has that (Linux)."""

    def __init__(self, name: str) -> None:
        if sys.platform == "linux":
            self._file: IO[bytes] = open(os.memfd_create(name), "wb", buffering=0)
            self.path = f"/proc/self/fd/{self._file.fileno()}"
        else:
            self._file = tempfile.NamedTemporaryFile(buffering=0, suffix=name)
            self.path = self._file.name

    def write(self, content: bytes) -> None:
        """In place of what was there."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(content)

    def close(self) -> None:
        self._file.close()


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    starts: datetime,
    ends: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
    )
