"""Connections of aiohttp to addresses that were resolved once and judged, and to no others.

A fetch resolves a host, judges the addresses and pins them in a Dial. aiohttp asks that Dial where
to connect to, and each socket is judged again in the moment it is made for one address: a second
answer of DNS, an address in a URL or in a redirect cannot get around it. Name indication and the
Host header stay those of the URL.
"""

import asyncio
import errno
import functools
import os
import socket
import ssl
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from aiohttp import (
    ClientConnectionError,
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientConnectorSSLError,
    ClientError,
    ClientRequest,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.http_exceptions import HttpProcessingError

from services.chassis.http_settings import TlsVersion
from services.validation.http.certificates import Connection as TlsConnection
from services.validation.http.failures import OutgoingSocket
from services.validation.http.proxies import Proxy
from services.validation.http.tunnels import Progress, Tunnels

if TYPE_CHECKING:
    from aiohttp.client import ClientTimeout
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


class Clock:
    """Ends what the running task does at a time of the loop's clock, which may be moved, by
    TimeoutError.

    As asyncio.timeout, at a third of its cost: moved to a later time the timer stays, and looks
    again when it fires. Two of three fetches never see it fire.
    """

    __slots__ = ("_at", "_cancelling", "_expired", "_loop", "_set_for", "_task", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        self._loop = loop
        self._at = self._set_for = at
        self._expired = False

    def move(self, at: float) -> None:
        self._at = at
        if at < self._set_for and not self._expired:
            self._timer.cancel()
            self._set()

    def __enter__(self) -> "Clock":
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._set()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling:
            # Cancelled by this clock and by nobody else.
            if kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from error

    def _set(self) -> None:
        self._set_for = self._at
        self._timer = self._loop.call_at(self._at, self._ring)

    def _ring(self) -> None:
        # A loop's clock may be coarser than its timers.
        if self._loop.time() < self._at - 0.001:
            self._set()
            return
        self._expired = True
        self._task.cancel()


class Dial:
    """Where one request may connect to, and what came of it."""

    __slots__ = (
        "address",
        "addresses",
        "arrived",
        "clock",
        "connected_at",
        "first_byte_at",
        "first_byte_timeout",
        "fresh",
        "head_limit",
        "head_size",
        "latest",
        "progress",
        "proxy",
        "refusal",
        "tls",
    )

    def __init__(
        self,
        addresses: tuple[str, ...],
        *,
        head_limit: int,
        clock: Clock,
        first_byte_timeout: float,
        latest: float,
        proxy: Proxy | None = None,
        arrived: Callable[[str], None] | None = None,
    ) -> None:
        # Judged addresses of the host, text form.
        self.addresses = addresses
        # What the connection goes through, and how far that came.
        self.proxy = proxy
        self.progress = Progress()
        # Told the address that the connection was made to.
        self.arrived = arrived
        self.head_limit = head_limit
        # Runs from the connection to the headers' end; `latest` is when the whole fetch ends.
        self.clock = clock
        self.first_byte_timeout = first_byte_timeout
        self.latest = latest
        # Whether a connection was made for it; else one was kept from a request before.
        self.fresh = False
        # Why an address was refused at the last moment.
        self.refusal = ""
        # Of the connection: the other end, and times of the performance counter (a loop's clock may
        # count milliseconds); 0.0 until then.
        self.address = ""
        self.connected_at = 0.0
        self.first_byte_at = 0.0
        self.head_size = 0
        self.tls: TlsConnection | None = None

    def connected(self, connection: Connection, now: float, *, is_secured: bool) -> None:
        self.connected_at = time.perf_counter()
        self.clock.move(min(now + self.first_byte_timeout, self.latest))
        transport = connection.transport
        if transport is None:
            return
        if self.proxy is not None:
            self.address = cast("_Responses", connection.protocol).told
        elif self.fresh and len(self.addresses) == 1:
            self.address = self.addresses[0]
        elif peer := transport.get_extra_info("peername"):
            self.address = peer[0]
        if self.arrived is not None and self.address:
            self.arrived(self.address)
        # Of http through a proxy with TLS, that is the proxy's.
        secured = transport.get_extra_info("ssl_object") if is_secured else None
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
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": 0,
                "proto": 0,
                "flags": 0,
            }
            for address in dialled.get().addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


class _Responses(ResponseHandler):
    """Reads responses whose heads have a limit in bytes: aiohttp's own are per field."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._dial: Dial | None = None
        # The address that a proxy was told.
        self.told = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The base's asks the system not to hold small packets back: both kinds of loop have.
        self.transport = cast("asyncio.Transport", transport)

    def set_response_params(self, **params: Any) -> None:
        self._dial = dialled.get()
        super().set_response_params(**params)

    def feed_data(self, data: Any, size: int = 0) -> None:
        # The head is complete. Those of interim responses before it count with it: there is no
        # limit to their number (RFC 9110, 15.2).
        if not is_interim(data[0].code):
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
                dial.first_byte_at = time.perf_counter()
            dial.head_size += len(data)
        super().data_received(data)
        if self._dial is not None and self._dial.head_size > self._dial.head_limit:
            self.set_exception(HeadTooLarge("more headers than allowed"))
            if self.transport is not None:
                self.transport.abort()


def is_interim(status: int) -> bool:
    """Whether another response follows to the same request."""
    return 100 <= status <= 199 and status != 101


class PinnedConnector(TCPConnector):
    """Connects where the Dial of the running request says, if the judge agrees."""

    def __init__(self, judge: Callable[[str], str | None], tunnels: Tunnels) -> None:
        """`judge`: why an address may not be connected to, or None if it may."""
        super().__init__(
            resolver=_Pinned(),
            # One fetch, one answer: a cache would outlive the judgement.
            use_dns_cache=False,
            # Whoever fetches bounds it: by turns at each host, and by how much it starts.
            limit=0,
            keepalive_timeout=KEEP_ALIVE,
            socket_factory=self._socket,
        )
        self._judge = judge
        self._tunnels = tunnels
        responses = functools.partial(_Responses, loop=self._loop)
        self._factory = cast("functools.partial[ResponseHandler]", responses)

    async def connect(
        self, req: "ClientRequest", traces: list["Trace"], timeout: "ClientTimeout"
    ) -> Connection:
        # As the base's, without its limits and its clock.
        key = req.connection_key
        connection = await self._get(key, traces)
        while connection is not None and _spoke(connection):
            connection.close()
            connection = await self._get(key, traces)
        if connection is None:
            protocol = await self._create_connection(req, traces, timeout)
            if self._closed:
                protocol.close()
                raise ClientConnectionError("the connector is closed")
            self._acquired.add(protocol)
            connection = Connection(self, key, protocol, self._loop)
        dialled.get().connected(connection, self._loop.time(), is_secured=req.is_ssl())
        return connection

    async def _create_connection(
        self, req: "ClientRequest", traces: list["Trace"], timeout: "ClientTimeout"
    ) -> ResponseHandler:
        dial = dialled.get()
        if dial.proxy is None:
            if len(dial.addresses) == 1:
                return await self._connected(req, dial.addresses[0])
            # One after the other, a quarter of a second apart.
            return await super()._create_connection(req, traces, timeout)
        assert req.port is not None
        dial.fresh = True
        transport, address = await self._tunnels.open(
            dial.proxy, dial.addresses, req.port, dial.progress
        )
        if req.is_ssl():
            _, protocol = await self._start_tls_connection(transport, req, timeout)
        else:
            protocol = self._factory()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
        cast("_Responses", protocol).told = address
        return protocol

    async def _connected(self, req: "ClientRequest", address: str) -> ResponseHandler:
        """A connection to the only address there is, which most hosts have: as the base's, which
        takes twice the time of it to race one address."""
        assert req.port is not None
        loop, place = self._loop, (address, req.port)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        context = self._get_ssl_context(req)
        host = (req.url.raw_host or "").rstrip(".")
        try:
            sock = self._socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place))
            try:
                sock.setblocking(False)
                try:
                    sock.connect(place)
                except BlockingIOError:
                    await _writable(loop, sock)
                    if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        raise OSError(number, os.strerror(number)) from None
            except BaseException:
                sock.close()
                raise
            # From here on the socket is the transport's.
            _, protocol = await loop.create_connection(
                self._factory, sock=sock, ssl=context, server_hostname=host if context else None
            )
        except ssl.SSLCertVerificationError as error:
            raise ClientConnectorCertificateError(req.connection_key, error) from error
        except ssl.SSLError as error:
            raise ClientConnectorSSLError(req.connection_key, error) from error
        except OSError as error:
            if error.errno is None and isinstance(error, TimeoutError):
                raise
            raise ClientConnectorError(req.connection_key, error) from error
        return protocol

    def _socket(self, info: AddrInfoType) -> socket.socket:
        """Called for each address right before it is connected to."""
        family, kind, protocol, _, (address, *_) = info
        dial = dialled.get()
        reason = self._judge(address)
        if not reason and address not in dial.addresses:
            reason = f"{address} was not resolved for this request"
        if reason:
            dial.refusal = reason
            raise OSError(errno.EACCES, reason)
        dial.fresh = True
        return OutgoingSocket(family, kind, protocol)


def _spoke(connection: Connection) -> bool:
    """Whether something came while a connection was kept: it would be taken for the answer."""
    return connection.protocol is None or connection.protocol.should_close


async def _writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Wait until a socket is connected, or cannot be: loop.sock_connect takes uvloop four times as
    long."""
    ended = loop.create_future()
    loop.add_writer(sock, _end, ended)
    try:
        await ended
    finally:
        loop.remove_writer(sock)


def _end(future: asyncio.Future[None]) -> None:
    # Called again until nobody listens any more.
    if not future.done():
        future.set_result(None)


class Trust:
    """TLS contexts by lowest version and by how much a certificate matters. Making one reads the
    system's authorities from disk: tens of milliseconds, once each."""

    def __init__(self, roots: str = "") -> None:
        """`roots`: certificates (PEM) of authorities trusted beside the system's."""
        self._roots = roots
        self._contexts: dict[tuple[TlsVersion, bool, bool], ssl.SSLContext] = {}
        # All that start at once need the same.
        self._making = asyncio.Lock()

    async def context(
        self, floor: TlsVersion, *, verified: bool, named: bool = False
    ) -> ssl.SSLContext:
        """`verified`: only a trusted certificate; `named`: and only one for the host."""
        key = floor, verified, named
        if found := self._contexts.get(key):
            return found
        async with self._making:
            if key not in self._contexts:
                made = await asyncio.to_thread(_make_context, self._roots, *key)
                self._contexts[key] = made
            return self._contexts[key]


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
