"""`python -m tests.load.page_server [DISTANCE]`: DNS and web servers for names that all have pages.

Prints one JSON line once they answer. Pages are the sandbox's own, made beforehand, and a name's is
chosen by its checksum: what a request costs here is the kernel's work, TLS and little else, so that
it is not what a measurement measures. Every name below `DOMAIN` resolves, to addresses of its own
in 127.64.0.0/10; one certificate is valid for them all.
"""

import asyncio
import json
import os
import signal
import ssl
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import cast
from zlib import crc32

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.sandbox.dns_server import Faults, SandboxDns, SandboxDnsSettings
from services.sandbox.truth import Mix
from services.sandbox.web_pages import body, content_type
from services.sandbox.web_server import ANY_LOOPBACK, NETWORK, _bound
from services.sandbox.web_truth import Web, WebWorld

DOMAIN = "pages.example"
# All resolve at once: names are asked for their pages, not for their faults.
MIX = Mix(
    **dict.fromkeys(Mix.__dataclass_fields__, 0.0) | {"resolves": 1.0},
)
NO_FAULTS = Faults(loss=0.0, servfail=0.0, late=0.0, bogus=0.0)
PAGES = 512
ROBOTS = b"User-agent: *\nDisallow: /admin/\n"


def page_bodies(number: int = PAGES) -> list[tuple[str, bytes]]:
    """Content types and bodies as sites have them: half of them have less than 20 KB."""
    return list(islice(_bodies(), number))


def page_of(host: bytes) -> int:
    """Which of the pages a name has."""
    return crc32(host) % PAGES


def _bodies() -> Iterator[tuple[str, bytes]]:
    world = WebWorld(1)
    for number in count():
        known = world.truth(f"name{number}.com")
        if known is not None and known.behaviour is Web.PAGE and known.page is not None:
            yield content_type(known.page.charset), body(known)


class Connection(asyncio.Protocol):
    """Answers whatever asks, in the order it was asked."""

    def __init__(
        self, pages: list[bytes], robots: bytes, delay: float = 0.0, handshakes: float = 0.0
    ) -> None:
        """`delay`: seconds before each answer; `handshakes`: more of them before the first."""
        self._pages, self._robots, self._delay = pages, robots, delay
        self._handshakes = handshakes
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, self._received = self._received[:end].lower(), self._received[end + 4 :]
            if head.startswith(b"get /robots.txt"):
                answer = self._robots
            else:
                at = head.index(b"\r\nhost: ") + 8
                host = head[at:].partition(b"\r\n")[0].partition(b":")[0]
                answer = self._pages[page_of(host)]
            assert self._transport
            if self._delay:
                loop = asyncio.get_running_loop()
                delay, self._handshakes = self._delay + self._handshakes, 0.0
                loop.call_later(delay, self._transport.write, answer)
            else:
                self._transport.write(answer)


def _response(kind: str, content: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _identity() -> tuple[str, ssl.SSLContext]:
    """The authority to trust, PEM, and the server's own certificate."""
    now = datetime.now(UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of a bench")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DOMAIN)])

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
        )

    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName(f"*.{DOMAIN}"), x509.DNSName(DOMAIN)])
    leaf = (
        builder(name, key.public_key())
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "identity.pem"
        private = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + leaf.public_bytes(pem))
        context.load_cert_chain(file)
    return ca.public_bytes(pem).decode(), context


async def serve(distance: float) -> None:
    """Until SIGTERM. `distance`: seconds to here and back. An answer takes one of them, and the
    first of a connection the handshakes' besides: one of TCP, one of TLS 1.3."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    pages = [_response(kind, content) for kind, content in page_bodies()]
    made = partial(Connection, pages, _response("text/plain", ROBOTS), distance)
    ca, context = _identity()
    plain, tls = _bound(ANY_LOOPBACK, 0), _bound(ANY_LOOPBACK, 0)
    await loop.create_server(partial(made, distance), sock=plain, backlog=4096)
    await loop.create_server(partial(made, 2 * distance), sock=tls, backlog=4096, ssl=context)
    async with SandboxDns(SandboxDnsSettings(mix=MIX, faults=NO_FAULTS)) as dns:
        said = {
            "dns": "{}:{}".format(*dns.address),
            "http_port": plain.getsockname()[1],
            "https_port": tls.getsockname()[1],
            "network": NETWORK,
            "pid": os.getpid(),
            "ca_pem": ca,
            "page_bytes": sum(map(len, pages)) / len(pages),
        }
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        await ended.wait()


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0))
