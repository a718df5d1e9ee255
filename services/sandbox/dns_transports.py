"""The sandbox's resolver behind TLS and HTTPS, with certificates of an authority of its own.

The truth is that of a SandboxDns, and so are lies and delays; its other faults are those of
datagrams. Answers come in the order in which they are ready.
"""

import asyncio
import base64
import binascii
import ipaddress
import json
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .dns_server import SandboxDns

WIRE_TYPE = "application/dns-message"
JSON_TYPE = "application/dns-json"
NAMES = ("dns.sandbox", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Identity:
    """A server's certificate, and the authority to trust for it."""

    # PEM.
    ca: str
    context: ssl.SSLContext


def identity(names: Sequence[str] = NAMES) -> Identity:
    """A certificate for host names and addresses, by a new authority; good for a day or so."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sandbox authority")])
    ca = (
        _certificate(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sandbox resolver")])
    certificate = (
        _certificate(subject, ca_name, key)
        .add_extension(x509.SubjectAlternativeName([_general_name(it) for it in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory(prefix="domainflow-sandbox-") as folder:
        # Python takes a server's key from a file only.
        path = Path(folder) / "server.pem"
        path.touch(0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(path)
    return Identity(ca.public_bytes(serialization.Encoding.PEM).decode("ascii"), context)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks step.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class SandboxDnsOverTls:
    """DNS over TLS, or over TCP without an identity; open inside `async with`."""

    def __init__(
        self,
        server: SandboxDns,
        identity: Identity | None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.connections = 0
        self._dns = server
        self._tls = identity.context if identity else None
        self._bind = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[_Stream] = set()

    @property
    def address(self) -> tuple[str, int]:
        if self._server is None:
            raise RuntimeError("the server is not open")
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def cut(self) -> None:
        """Break all connections off, as a resolver that restarts does."""
        for stream in list(self._open):
            stream.cut()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Stream(self._dns, self._opened, self._open.discard), *self._bind, ssl=self._tls
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        await asyncio.gather(*(stream.lost for stream in self._open))

    def _opened(self, stream: "_Stream") -> None:
        self.connections += 1
        self._open.add(stream)


class _Stream(asyncio.Protocol):
    """One connection: length and message, both ways."""

    def __init__(self, server: SandboxDns, opened: Any, ended: Any) -> None:
        self._dns = server
        self._opened, self._ended = opened, ended
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's over TLS is none by its class.
        self._transport = cast(asyncio.Transport, transport)
        self._opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.lost.set_result(None)
        self._ended(self)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        ready = []
        while len(received) - at >= 2:
            end = at + 2 + int.from_bytes(received[at : at + 2], "big")
            if end > len(received):
                break
            response, wait = respond(self._dns, bytes(received[at + 2 : end]))
            at = end
            if response and wait:
                asyncio.get_running_loop().call_later(wait, self._send, [response])
            elif response:
                ready.append(response)
        del received[:at]
        if ready:
            self._send(ready)

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self, responses: list[bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._dns.stats.answers += len(responses)
            self._transport.write(b"".join([len(it).to_bytes(2, "big") + it for it in responses]))


def respond(server: SandboxDns, question: bytes) -> tuple[bytes, float]:
    """As over TCP: the response, empty for none, and the seconds to wait before it."""
    server.stats.questions += 1
    response, wait = server.respond(question, udp=False)
    return response, wait + server.settings.faults.delay


class SandboxDnsOverHttps:
    """/dns-query for RFC 8484, /resolve for JSON; open inside `async with`."""

    def __init__(
        self,
        server: SandboxDns,
        identity: Identity,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.requests = 0
        self._dns = server
        self._tls = identity.context
        self._bind = (host, port)
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> tuple[str, int]:
        if self._runner is None:
            raise RuntimeError("the server is not open")
        host, port = self._runner.addresses[0][:2]
        return host, port

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/dns-query", self._get)
        app.router.add_post("/dns-query", self._post)
        app.router.add_get("/resolve", self._resolve)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.0, handler_cancellation=True
        )
        await self._runner.setup()
        host, port = self._bind
        await web.TCPSite(self._runner, host, port, ssl_context=self._tls).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _get(self, request: web.Request) -> web.Response:
        text = request.query.get("dns", "")
        try:
            question = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            raise web.HTTPBadRequest from None
        return await self._message(question)

    async def _post(self, request: web.Request) -> web.Response:
        if request.content_type != WIRE_TYPE:
            raise web.HTTPUnsupportedMediaType
        return await self._message(await request.read())

    async def _message(self, question: bytes) -> web.Response:
        return web.Response(body=await self._ask(question), content_type=WIRE_TYPE)

    async def _resolve(self, request: web.Request) -> web.Response:
        query = request.query
        try:
            name = dns.name.from_text(query.get("name", ""))
            kind = query.get("type", "A")
            qtype = dns.rdatatype.from_text(f"TYPE{kind}" if kind.isdecimal() else kind)
        except (dns.exception.DNSException, ValueError):
            raise web.HTTPBadRequest from None
        question = dns.message.make_query(name, qtype, use_edns=True)
        if query.get("cd", "").lower() in ("1", "true"):
            question.flags |= dns.flags.CD
        response = dns.message.from_wire(await self._ask(question.to_wire()))
        return web.Response(text=json.dumps(to_json(response)), content_type=JSON_TYPE)

    async def _ask(self, question: bytes) -> bytes:
        self.requests += 1
        response, wait = respond(self._dns, question)
        if wait:
            await asyncio.sleep(wait)
        if not response:
            if len(question) < 12:
                raise web.HTTPBadRequest
            # A mute name: the client gives up first, and the request is cancelled.
            await asyncio.get_running_loop().create_future()
        self._dns.stats.answers += 1
        return response


def to_json(response: dns.message.Message) -> dict[str, Any]:
    """A response in the form public resolvers give it."""
    flags = response.flags
    question = response.question[0]
    found: dict[str, Any] = {
        "Status": int(response.rcode()),
        "TC": bool(flags & dns.flags.TC),
        "RD": bool(flags & dns.flags.RD),
        "RA": bool(flags & dns.flags.RA),
        "AD": bool(flags & dns.flags.AD),
        "CD": bool(flags & dns.flags.CD),
        "Question": [{"name": question.name.to_text(), "type": int(question.rdtype)}],
    }
    for key, section in (("Answer", response.answer), ("Authority", response.authority)):
        records = [
            {
                "name": rrset.name.to_text(),
                "type": int(rrset.rdtype),
                "TTL": rrset.ttl,
                "data": rdata.to_text(),
            }
            for rrset in section
            for rdata in rrset
        ]
        if records:
            found[key] = records
    return found
