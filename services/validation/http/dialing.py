"""Connections of aiohttp to addresses that were resolved once and judged, and to no others.

A fetch resolves a host, judges the addresses and pins them in a Dial. aiohttp asks that Dial where
to connect to, and each socket is judged again in the moment it is made for one address: a second
answer of DNS, an address in a URL or in a redirect cannot get around it. Name indication and the
Host header stay those of the URL.
"""

import asyncio
import errno
import functools
import socket
import ssl
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from aiohttp import ClientError, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.http_exceptions import HttpProcessingError

from services.validation.http.addresses import PUBLIC_ONLY, AddressPolicy, judge
from services.validation.http.certificates import Connection as TlsConnection
from services.validation.http.settings import TlsVersion

if TYPE_CHECKING:
    from aiohttp.client import ClientTimeout
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

# Addresses of one host that are tried, a quarter of a second after one another (RFC 8305).
MAX_ADDRESSES = 4
# Seconds that an idle connection waits for the next request: redirects and robots.txt come at once,
# and a campaign's next name is at another host.
KEEP_ALIVE = 3.0
# Tells "none given" from None.
_NO_CAUSE = Exception()


class HeadTooLarge(ClientError):
    """More bytes of headers than the persona admits."""


class BrokenFraming(ClientError):
    """The body is not in the transfer coding it claims."""


class Dial:
    """Where one request may connect to, and what came of it."""

    __slots__ = (
        "address",
        "addresses",
        "clock",
        "connected_at",
        "first_byte_at",
        "first_byte_timeout",
        "fresh",
        "head_limit",
        "head_size",
        "latest",
        "refusal",
        "tls",
    )

    def __init__(
        self,
        addresses: tuple[str, ...],
        *,
        head_limit: int,
        clock: asyncio.Timeout,
        first_byte_timeout: float,
        latest: float,
    ) -> None:
        # Judged addresses of the host, text form.
        self.addresses = addresses
        self.head_limit = head_limit
        # Runs from the connection to the headers' end; `latest` is when the whole fetch ends.
        self.clock = clock
        self.first_byte_timeout = first_byte_timeout
        self.latest = latest
        # Whether a connection was made for it; else one was kept from a request before.
        self.fresh = False
        # Why an address was refused at the last moment.
        self.refusal = ""
        # Of the connection: the other end, and times of the loop's clock; 0.0 until then.
        self.address = ""
        self.connected_at = 0.0
        self.first_byte_at = 0.0
        self.head_size = 0
        self.tls: TlsConnection | None = None

    def connected(self, connection: Connection, now: float) -> None:
        self.connected_at = now
        self.clock.reschedule(min(now + self.first_byte_timeout, self.latest))
        transport = connection.transport
        if transport is None:
            return
        if peer := transport.get_extra_info("peername"):
            self.address = peer[0]
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            cipher = secured.cipher()
            self.tls = TlsConnection(
                secured.version() or "",
                cipher[0] if cipher else "",
                secured.getpeercert(binary_form=True) or b"",
                "",
            )


# The request that the running task makes.
dialled: ContextVar[Dial] = ContextVar("dialled")


class _Pinned(AbstractResolver):
    """Answers with the addresses that were judged for the request."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=0, proto=0, flags=0)
            for address in dialled.get().addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


class _Responses(ResponseHandler):
    """Reads responses whose heads have a limit in bytes: aiohttp's own are per field."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._dial: Dial | None = None

    def set_response_params(self, **params: Any) -> None:
        self._dial = dialled.get()
        super().set_response_params(**params)

    def feed_data(self, data: Any, size: int = 0) -> None:
        # A head is complete.
        self._dial = None
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _NO_CAUSE) -> None:
        super().set_exception(exc, exc_cause)
        # aiohttp tells whoever waits for a head alone: who reads a body would wait for its clock.
        if isinstance(exc, HttpProcessingError) and self._payload is not None:
            self._payload.set_exception(BrokenFraming(str(exc_cause)[:200]))

    def data_received(self, data: bytes) -> None:
        dial = self._dial
        if dial is not None:
            if not dial.first_byte_at:
                dial.first_byte_at = self._loop.time()
            dial.head_size += len(data)
        super().data_received(data)
        if self._dial is not None and self._dial.head_size > self._dial.head_limit:
            self.set_exception(HeadTooLarge("more headers than allowed"))
            if self.transport is not None:
                self.transport.abort()


class PinnedConnector(TCPConnector):
    """Connects where the Dial of the running request says, if the policy agrees."""

    def __init__(self, policy: AddressPolicy = PUBLIC_ONLY) -> None:
        super().__init__(
            resolver=_Pinned(),
            # One fetch, one answer: a cache would outlive the judgement.
            use_dns_cache=False,
            # Whoever fetches bounds it: by turns at each host, and by how much it starts.
            limit=0,
            keepalive_timeout=KEEP_ALIVE,
            socket_factory=self._socket,
        )
        self._policy = policy
        responses = functools.partial(_Responses, loop=self._loop)
        self._factory = cast("functools.partial[ResponseHandler]", responses)

    async def connect(
        self, req: "ClientRequest", traces: list["Trace"], timeout: "ClientTimeout"
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        dialled.get().connected(connection, self._loop.time())
        return connection

    def _socket(self, info: AddrInfoType) -> socket.socket:
        """Called for each address right before it is connected to."""
        family, kind, protocol, _, (address, *_) = info
        dial = dialled.get()
        reason = judge(address, self._policy)
        if not reason and address not in dial.addresses:
            reason = f"{address} was not resolved for this request"
        if reason:
            dial.refusal = reason
            raise OSError(errno.EACCES, reason)
        dial.fresh = True
        return socket.socket(family, kind, protocol)


class Trust:
    """TLS contexts by lowest version and by how much a certificate matters. Making one reads the
    system's authorities from disk: tens of milliseconds, once each."""

    def __init__(self, roots: str = "") -> None:
        """`roots`: certificates (PEM) of authorities trusted beside the system's."""
        self._roots = roots
        self._contexts: dict[tuple[TlsVersion, bool, bool], ssl.SSLContext] = {}

    async def context(
        self, floor: TlsVersion, *, verified: bool, named: bool = False
    ) -> ssl.SSLContext:
        """`verified`: only a trusted certificate; `named`: and only one for the host."""
        key = floor, verified, named
        found = self._contexts.get(key)
        if found is None:
            found = await asyncio.to_thread(_make_context, self._roots, *key)
            found = self._contexts.setdefault(key, found)
        return found


def _make_context(roots: str, floor: TlsVersion, verified: bool, named: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = named
    if verified:
        context.load_default_certs()
        if roots:
            context.load_verify_locations(cadata=roots)
    else:
        context.verify_mode = ssl.CERT_NONE
    if floor < TlsVersion.TLS_1_2:
        # OpenSSL 3 knows no signature for the old versions above level 0.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    elif not verified:
        # Short keys are recorded as not trusted; the page can be read all the same.
        context.set_ciphers("DEFAULT:@SECLEVEL=1")
    context.minimum_version = ssl.TLSVersion(floor)
    # Servers without RFC 5746: nothing is sent that renegotiation could attack.
    context.options |= 0x4
    context.set_alpn_protocols(["http/1.1"])
    return context
