"""Small servers on loopback that say exactly what a test wants, and certificates for them."""

import asyncio
import contextlib
import functools
import socket
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# What to write for a request; what it returns is written, and the connection closed.
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[bytes | None]]


@dataclass
class Site:
    port: int
    # Heads of the requests, in order.
    requests: list[str] = field(default_factory=list)
    connections: int = 0


@contextlib.asynccontextmanager
async def serving(
    answer: Answer | bytes, *, tls: ssl.SSLContext | None = None, keep: bool = False
) -> AsyncIterator[Site]:
    """`keep`: whether a connection takes further requests."""
    site = Site(0)
    tasks: set[asyncio.Task] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        site.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                site.requests.append(head.decode("latin-1"))
                said = answer if isinstance(answer, bytes) else await answer(head, writer)
                if said:
                    writer.write(said)
                await writer.drain()
                if not keep:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def accepting(act: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]):
    """A server that acts as soon as somebody connects; yields its port."""
    tasks: set[asyncio.Task] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await act(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def handshaking(tls: ssl.SSLContext) -> Iterator[int]:
    """A server that does one handshake and no more, and tells the other side why it failed, as
    asyncio's does not; yields its port."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            taken, _ = listener.accept()
            with taken, contextlib.suppress(OSError), tls.wrap_socket(taken, server_side=True):
                pass
            taken.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def page(
    body: bytes = b"<p>hello</p>", *, status: str = "200 OK", headers: tuple[str, ...] = ()
) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/html", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def redirect(location: str, *, status: str = "302 Found", headers: tuple[str, ...] = ()) -> bytes:
    return page(b"", status=status, headers=(f"Location: {location}", *headers))


async def never() -> None:
    """Stays until the test is over."""
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Authority:
    """An authority of the tests' own."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def server(self, *names: str, **changes) -> ssl.SSLContext:
        """A server's side of TLS with a certificate for the names."""
        return _server(issue(self, *names, **changes))


@functools.cache
def authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(key, _certificate(key, "Test authority", None, (), -1, 30))


def issue(
    by: Authority | None, *names: str, since: int = -1, until: int = 30
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A certificate for names, valid between days from now; signed by itself without `by`."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, _certificate(key, names[0], by, names, since, until)


def self_signed(*names: str) -> ssl.SSLContext:
    return _server(issue(None, *names))


def _certificate(key, subject, by, names, since, until) -> x509.Certificate:
    now = datetime.now(UTC)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, subject),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(by.certificate.subject if by else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=since))
        .not_valid_after(now + timedelta(days=until))
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        sans = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(sans, critical=False)
    return builder.sign(by.key if by else key, hashes.SHA256())


def _server(made: tuple[ec.EllipticCurvePrivateKey, x509.Certificate]) -> ssl.SSLContext:
    key, certificate = made
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "server.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(file)
    return context
