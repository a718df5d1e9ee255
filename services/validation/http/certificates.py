"""What a server's certificate says, and whether it is valid for the name and the time. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

# Names of a certificate kept as evidence; some have hundreds.
MAX_NAMES = 20
# Certificates that are remembered, and bytes of each: one of 100 KB may have thousands of names.
_REMEMBERED, _REMEMBERED_SIZE = 256, 8 * 1024


@dataclass(frozen=True, slots=True)
class Connection:
    """What the handshake left: cheap to take from every connection."""

    # "TLSv1.3".
    version: str
    cipher: str
    # The server's certificate, DER; empty without one.
    certificate: bytes
    # Why no trusted authority vouches for the certificate, in OpenSSL's words; empty if one does.
    distrust: str


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """Evidence of the last https response."""

    version: str
    cipher: str
    # None where the certificate could not be read.
    not_before: datetime | None
    not_after: datetime | None
    # Names and addresses it is for, at most MAX_NAMES.
    names: tuple[str, ...]
    # Organisation and common name of who issued it; empty when it does not say.
    issuer: str
    # Whether a browser would take it for the host at that time, and if not why, in words.
    valid: bool
    problem: str


class _Read(NamedTuple):
    """What a certificate says, whoever asks."""

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    issuer: str


def facts(connection: Connection, host: str, now: datetime) -> TlsFacts:
    """For the host asked for; `now` with a time zone."""
    try:
        short = len(connection.certificate) <= _REMEMBERED_SIZE
        read = _remembered if short else _read
        names, not_before, not_after, issuer = read(connection.certificate)
    except (ValueError, x509.DuplicateExtension) as error:
        problem = connection.distrust or f"the certificate cannot be read: {error}"[:200]
        return TlsFacts(connection.version, connection.cipher, None, None, (), "", False, problem)
    problem = ""
    if now > not_after:
        problem = f"expired {not_after:%Y-%m-%d}"
    elif now < not_before:
        problem = f"not valid before {not_before:%Y-%m-%d}"
    elif not covers(names, host):
        problem = f"not for {host}"
    elif connection.distrust:
        problem = connection.distrust
    return TlsFacts(
        connection.version,
        connection.cipher,
        not_before,
        not_after,
        names[:MAX_NAMES],
        issuer,
        not problem,
        problem,
    )


def covers(names: Sequence[str], host: str) -> bool:
    """Whether one of a certificate's names is the host (RFC 9525): a star stands for the whole
    leftmost label, and not for all names of a top-level domain."""
    parent = host.lower().partition(".")[2]
    literal = ":" in host or host.replace(".", "").isdigit()
    wild = "*." + parent if "." in parent and not literal else host
    return host.lower() in names or wild in names


def _read(certificate: bytes) -> _Read:
    """Raises ValueError and DuplicateExtension."""
    read = x509.load_der_x509_certificate(certificate)
    return _Read(
        tuple(_names(read)),
        read.not_valid_before_utc,
        read.not_valid_after_utc,
        _said(read.issuer),
    )


# Further pages of a site come with its certificate again, and so do sites of one host.
_remembered = lru_cache(maxsize=_REMEMBERED)(_read)


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    names: list[str] = []
    for name in extension.value:
        if isinstance(name, x509.DNSName):
            names.append(name.value.lower().rstrip("."))
        elif isinstance(name, x509.IPAddress):
            names.append(str(ip_address(str(name.value).split("/")[0])))
    return names


def _said(name: x509.Name) -> str:
    said = []
    for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME):
        said += [str(attribute.value) for attribute in name.get_attributes_for_oid(oid)[:1]]
    return ", ".join(dict.fromkeys(said))[:200]
