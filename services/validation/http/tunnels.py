"""Connections through proxies: every request goes through a tunnel to an address that was judged.

A proxy is told addresses, never names, whatever it speaks (CONNECT of HTTP, RFC 9110 9.3.6; SOCKS5,
RFC 1928): what it resolved itself would be judged by nobody. What is said inside is as without a
proxy: origin form, and the name in Host and in TLS. Pages over plain http go through tunnels too: a
proxy that is sent a request in absolute form must replace its Host by the request's target (RFC
9112, 3.2.2), so an address there would bring another site's page.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Any, Protocol, cast

from aiohttp import ClientError

from services.chassis.http_settings import TlsVersion
from services.validation.http.failures import OutgoingSocket, classify
from services.validation.http.proxies import Proxy, Scheme
from services.validation.http.proxy_pool import Result, Use
from services.validation.http.verdict import Verdict

# Bytes of a proxy's answer to CONNECT, headers and all.
MAX_ANSWER = 16 * 1024
# Seconds that the addresses of a proxy's name are kept.
ADDRESS_AGE = 30.0
MAX_REASON = 300
# A proxy's addresses that are tried.
_MAX_ADDRESSES = 4

Context = Callable[[], Awaitable[ssl.SSLContext]]


class ProxySource(Protocol):
    """Where the proxies of fetches come from."""

    def choose(self, avoid: Collection[str] = ()) -> Use | None:
        """The proxy of the next fetch; None while none can be used: then nothing is asked. `avoid`:
        ids of proxies that failed the same fetch before."""

    def give_back(self, use: Use, result: Result, reason: str) -> None:
        """The fetch is over, or its proxy failed: once for each use. `reason`: why it failed."""


class NoProxies:
    """A source that never has one."""

    def choose(self, avoid: Collection[str] = ()) -> Use | None:
        return None

    def give_back(self, use: Use, result: Result, reason: str) -> None:
        raise AssertionError("nothing was chosen")


class ProxyFailure(ClientError):
    """No tunnel: the proxy failed, or says that the site did. The text never has credentials."""

    def __init__(
        self,
        reason: str,
        *,
        result: Result = Result.FAILED,
        verdict: Verdict = Verdict.PROXY_ERROR,
    ) -> None:
        """`verdict` and `result`: what it says of the name, and of the proxy."""
        super().__init__(reason[:MAX_REASON])
        self.reason = reason[:MAX_REASON]
        self.result = result
        self.verdict = verdict


class Progress:
    """How far a tunnel came, for whoever is asked why it took too long."""

    __slots__ = ("asked_at", "is_open")

    def __init__(self) -> None:
        # When the proxy was asked for the tunnel, by the loop's clock; None until then.
        self.asked_at: float | None = None
        self.is_open = False


class _Dialog(asyncio.Protocol):
    """What is said with a proxy before the tunnel is open."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._lost: BaseException | None = None
        self.said = bytearray()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are of no class of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.said += data
        if len(self.said) >= MAX_ANSWER:
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._lost = self._lost or EOFError()
        self._wake()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lost = self._lost or exc or EOFError()
        self._wake()

    async def exactly(self, size: int) -> bytes:
        """The next bytes. Raises ProxyFailure."""
        while len(self.said) < size:
            await self._more()
        return self._take(size)

    async def head(self) -> bytes:
        """The next bytes up to an empty line. Raises ProxyFailure."""
        while (end := self.said.find(b"\r\n\r\n", 0, MAX_ANSWER)) < 0:
            if len(self.said) >= MAX_ANSWER:
                raise ProxyFailure(f"the proxy's answer has more than {MAX_ANSWER:,} bytes")
            await self._more()
        return self._take(end + 4)

    def _take(self, size: int) -> bytes:
        taken = bytes(self.said[:size])
        del self.said[:size]
        return taken

    async def _more(self) -> None:
        if self._lost is None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        elif isinstance(self._lost, OSError):
            raise ProxyFailure(f"the proxy: {classify(self._lost)[1]}")
        else:
            raise ProxyFailure("the proxy closed the connection without an answer")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Tunnels:
    """Opens tunnels through proxies."""

    def __init__(self, judge: Callable[[str], str | None], context: Callable[..., Any]) -> None:
        """`judge`: why an address may not be connected to, or None; proxies' own are judged too.
        `context`: that of a Trust."""
        self._judge = judge
        self._context = context
        # By host: until when, and which.
        self._addresses: dict[str, tuple[float, Sequence[str]]] = {}
        # When each proxy answered last, by the loop's clock.
        self._answered: dict[tuple[str, str, int, str], float] = {}

    def has_answered(self, proxy: Proxy, since: float) -> bool:
        """Whether a proxy answered anybody since a time: then who waits, waits for the site."""
        return self._answered.get(proxy.identity, float("-inf")) >= since

    async def open(
        self, proxy: Proxy, addresses: Sequence[str], port: int, progress: Progress
    ) -> tuple[asyncio.Transport, str]:
        """A transport to one of a site's addresses, in their order, and which it is. Its protocol
        is to be replaced before anything is awaited.

        Raises ProxyFailure and MachineExhausted.
        """
        loop = asyncio.get_running_loop()
        failure = ProxyFailure("nothing to ask for")
        for address in addresses:
            dialog = await self._reach(loop, proxy)
            is_open = False
            try:
                progress.asked_at = loop.time()
                if proxy.scheme is Scheme.SOCKS5:
                    await _ask_socks(dialog, proxy, address, port)
                else:
                    await _ask_connect(dialog, proxy, address, port)
                if dialog.said:
                    raise ProxyFailure("the proxy said more than it was asked")
                is_open = progress.is_open = True
                self._heard(proxy, loop.time())
                return dialog.transport, address
            except ProxyFailure as error:
                failure = error
                if error.result is not Result.FAILED:
                    self._heard(proxy, loop.time())
                if error.verdict is Verdict.PROXY_ERROR:
                    raise
                # It says that this address is not there; another one may be.
            finally:
                if not is_open:
                    dialog.transport.abort()
        raise failure

    def _heard(self, proxy: Proxy, now: float) -> None:
        if len(self._answered) > 4096:
            self._answered.clear()
        self._answered[proxy.identity] = now

    async def _reach(self, loop: asyncio.AbstractEventLoop, proxy: Proxy) -> _Dialog:
        """Connect to a proxy, with TLS where it wants that."""
        connection = await self._connect(loop, proxy)
        try:
            context, name = None, None
            if proxy.scheme is Scheme.HTTPS:
                # It gets a password: only whoever proves to be it.
                context = await self._context(TlsVersion.TLS_1_2, verified=True, named=True)
                name = proxy.host.rstrip(".")
            _, dialog = await loop.create_connection(
                lambda: _Dialog(loop), sock=connection, ssl=context, server_hostname=name
            )
        except ssl.SSLError as error:
            connection.close()
            words = getattr(error, "verify_message", "") or error.reason or "no TLS"
            raise ProxyFailure(f"the proxy: {str(words).lower().replace('_', ' ')}") from error
        except OSError as error:
            connection.close()
            raise ProxyFailure(f"the proxy: {classify(error)[1]}") from error
        except BaseException:
            connection.close()
            raise
        return dialog

    async def _connect(self, loop: asyncio.AbstractEventLoop, proxy: Proxy) -> socket.socket:
        reason = ""
        for address in await self._addresses_of(loop, proxy.host):
            # In the moment it is connected to.
            if refused := self._judge(address):
                reason = reason or refused
                continue
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = None
            try:
                made = OutgoingSocket(family, socket.SOCK_STREAM)
                made.setblocking(False)
                # Both ends talk in small parts at first.
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.sock_connect(made, (address, proxy.port))
                return made
            except OSError as error:
                if made is not None:
                    made.close()
                reason = classify(error)[1]
            except BaseException:
                if made is not None:
                    made.close()
                raise
        raise ProxyFailure(f"the proxy: {reason or 'has no address'}")

    async def _addresses_of(self, loop: asyncio.AbstractEventLoop, host: str) -> Sequence[str]:
        """By the machine's own resolver: a proxy belongs to whoever runs this, and may have a name
        that only his network knows."""
        with contextlib.suppress(ValueError):
            return (str(ip_address(host)),)
        until, addresses = self._addresses.get(host, (0.0, ()))
        if loop.time() >= until:
            try:
                found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                words = getattr(error, "strerror", None) or "is no name"
                raise ProxyFailure(f"the proxy's name: {words}") from error
            addresses = tuple(dict.fromkeys(str(each[4][0]) for each in found))[:_MAX_ADDRESSES]
            if len(self._addresses) > 4096:
                self._addresses.clear()
            self._addresses[host] = loop.time() + ADDRESS_AGE, addresses
        return addresses


async def _ask_connect(dialog: _Dialog, proxy: Proxy, address: str, port: int) -> None:
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.user:
        credentials = f"{proxy.user}:{proxy.password.reveal()}".encode()
        lines.append(f"Proxy-Authorization: Basic {b64encode(credentials).decode()}")
    dialog.transport.write("\r\n".join([*lines, "", ""]).encode("ascii"))
    head = await dialog.head()
    version, _, rest = head.partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/1.") or not status.isdigit() or rest[3:4] not in b" \r":
        raise ProxyFailure("the proxy's answer is no HTTP")
    number = int(status)
    if not 200 <= number <= 299:
        raise _refusal(number, port)


def _refusal(status: int, port: int) -> ProxyFailure:
    if status == 407:
        return ProxyFailure("the proxy does not take these credentials (407)")
    if status == 502:
        return ProxyFailure(
            "the proxy could not reach the site (502)",
            result=Result.UNKNOWN,
            verdict=Verdict.UNREACHABLE,
        )
    if status == 504:
        return ProxyFailure(
            "the proxy waited in vain for the site (504)",
            result=Result.UNKNOWN,
            verdict=Verdict.TIMEOUT,
        )
    if status == 503:
        # Some say so of sites they cannot reach, some of themselves.
        return ProxyFailure("the proxy answered 503", result=Result.UNKNOWN)
    if port != 443:
        # Many let tunnels lead to port 443 only: a rule, and no fault.
        return ProxyFailure(
            f"the proxy lets no tunnel through to port {port} ({status})", result=Result.UNKNOWN
        )
    return ProxyFailure(f"the proxy refused the tunnel ({status})")


# RFC 1928, 6: what a SOCKS5 proxy says of the site, and of itself.
_SOCKS_SITE = {
    3: (Verdict.UNREACHABLE, "network unreachable"),
    4: (Verdict.UNREACHABLE, "host unreachable"),
    5: (Verdict.CONNECTION_REFUSED, "connection refused"),
    6: (Verdict.TIMEOUT, "TTL expired"),
    # An IPv6 address, where it speaks IPv4 only.
    8: (Verdict.UNREACHABLE, "address type not supported"),
}
_SOCKS_SELF = {1: "general failure", 2: "not allowed by its rules", 7: "command not supported"}


async def _ask_socks(dialog: _Dialog, proxy: Proxy, address: str, port: int) -> None:
    # No authentication, and RFC 1929 where there is something to say.
    dialog.transport.write(b"\x05\x02\x00\x02" if proxy.user else b"\x05\x01\x00")
    version, method = await dialog.exactly(2)
    if version != 5:
        raise ProxyFailure("the proxy's answer is no SOCKS5")
    if method == 2 and proxy.user:
        user, password = proxy.user.encode(), proxy.password.reveal().encode()
        dialog.transport.write(
            b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password
        )
        _, status = await dialog.exactly(2)
        if status:
            raise ProxyFailure("the proxy does not take these credentials")
    elif method == 0xFF:
        words = "these credentials" if proxy.user else "anybody without credentials"
        raise ProxyFailure(f"the proxy does not take {words}")
    elif method:
        raise ProxyFailure(f"the proxy wants the method {method}, which was not offered")
    packed = ip_address(address)
    kind = 1 if isinstance(packed, IPv4Address) else 4
    dialog.transport.write(
        b"\x05\x01\x00" + bytes([kind]) + packed.packed + struct.pack(">H", port)
    )
    version, reply, _, kind = await dialog.exactly(4)
    if version != 5:
        raise ProxyFailure("the proxy's answer is no SOCKS5")
    if reply in _SOCKS_SITE:
        verdict, words = _SOCKS_SITE[reply]
        raise ProxyFailure(f"the proxy says: {words}", result=Result.UNKNOWN, verdict=verdict)
    if reply:
        raise ProxyFailure(f"the proxy says: {_SOCKS_SELF.get(reply, f'reply {reply}')}")
    # Where it connects from: of no use, but to be read.
    if kind == 3:
        size = (await dialog.exactly(1))[0]
    elif kind in (1, 4):
        size = 4 if kind == 1 else 16
    else:
        raise ProxyFailure("the proxy's answer is no SOCKS5")
    await dialog.exactly(size + 2)
