"""What an error of aiohttp or the system says about the other side: a verdict and words. Errors
that are this machine's own are raised instead: they say nothing about a name."""

import asyncio
import errno
import re
import socket
import ssl
from ipaddress import ip_address
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from services.validation.http.verdict import Verdict, nearer

# What asking a server may raise about the server.
ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, UnicodeError)
# A response that was not begun or broke off.
_SAYS = {
    errno.ECONNREFUSED: (Verdict.CONNECTION_REFUSED, "connection refused"),
    errno.ECONNRESET: (Verdict.CONNECTION_RESET, "connection reset"),
    errno.ECONNABORTED: (Verdict.CONNECTION_RESET, "connection aborted"),
    errno.EPIPE: (Verdict.CONNECTION_RESET, "connection closed"),
    errno.ENOTCONN: (Verdict.CONNECTION_RESET, "connection closed"),
    errno.ETIMEDOUT: (Verdict.TIMEOUT, "connection timed out"),
    errno.EHOSTUNREACH: (Verdict.UNREACHABLE, "no route to host"),
    errno.ENETUNREACH: (Verdict.UNREACHABLE, "network unreachable"),
    errno.EHOSTDOWN: (Verdict.UNREACHABLE, "host down"),
    errno.ENETDOWN: (Verdict.UNREACHABLE, "network down"),
    errno.EAFNOSUPPORT: (Verdict.UNREACHABLE, "no IPv6 here"),
    # Of ports there are enough: see OutgoingSocket.
    errno.EADDRNOTAVAIL: (Verdict.UNREACHABLE, "no local address to connect from"),
    errno.EACCES: (Verdict.UNREACHABLE, "a firewall forbids it"),
    errno.EPERM: (Verdict.UNREACHABLE, "a firewall forbids it"),
}
_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# Of connecting, at once: the way is lost, or there never was one.
_NO_WAY = frozenset((errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH))
_NUMBERS = re.compile(r"\[Errno (\d+)\]")


class MachineExhausted(Exception):
    """This machine has no socket, port, memory or network left for a request; nothing is known
    about the name."""


class OutgoingSocket(socket.socket):
    """A socket to connect with, whose error says whether it is the machine that lacks something.

    The system has one number for no port left and for a family without a local address (connect(2),
    EADDRNOTAVAIL): the one says nothing about the other side, the other will not change. And one
    for a network that is lost and for an address that nobody has a way to.
    """

    def connect(self, address: Any) -> None:
        """Raises OSError, of the number ENOBUFS where all ports to this address are taken, or where
        the way to the IPv4 internet is lost that this process once had."""
        try:
            super().connect(address)
        except (BlockingIOError, InterruptedError):
            _WAY.note(self.family, address)
            raise
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL and _has_way(self.family, address):
                raise OSError(errno.ENOBUFS, "no local port left to connect from") from error
            # At once: no router and no host has said so.
            if error.errno in _NO_WAY and _WAY.is_lost(self.family, address):
                raise OSError(errno.ENOBUFS, "this machine has lost its network") from error
            raise
        _WAY.note(self.family, address)


class _Way:
    """Whether this machine has lost its way to the IPv4 internet.

    Where it never had one, as machines with IPv6 alone or without a way out, sites are not to be
    reached, which will not change: waiting for it would never end.
    """

    def __init__(self) -> None:
        # One of the internet that there was a way to, and its port.
        self._known: tuple[str, int] | None = None

    def note(self, family: int, address: Any) -> None:
        """There is a way to this address."""
        if self._known is None and family == socket.AF_INET and ip_address(address[0]).is_global:
            self._known = address

    def is_lost(self, family: int, address: Any) -> bool:
        """Of an address of the internet that there was no way to a moment ago. Raises OSError."""
        if self._known is None or family != socket.AF_INET or not ip_address(address[0]).is_global:
            return False
        # It may be the only one; or the way may just have come back.
        return not _has_way(family, self._known) or _has_way(family, address)


_WAY = _Way()


def _has_way(family: int, address: Any) -> bool:
    """Whether this machine has a route to that address, and one to come from: datagrams need the
    same, and have ports of their own. Raises OSError where nothing is left to find out with."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            datagrams.connect(address)
    except OSError as error:
        if error.errno in _OURS:
            raise
        return False
    return True


def classify(error: BaseException) -> tuple[Verdict, str]:
    """Raises MachineExhausted."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Verdict.PROXY_ERROR, f"the proxy answered {error.status}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return Verdict.PROXY_ERROR, f"the proxy: {_of_system(error.os_error)[1]}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Verdict.TLS_CERTIFICATE, distrust_of(error)
    if secured := _tls_error(error):
        return Verdict.TLS_HANDSHAKE, _tls_words(secured)
    if isinstance(error, asyncio.TimeoutError):
        return Verdict.TIMEOUT, "timed out"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return Verdict.CONNECTION_RESET, "connection closed without an answer"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _of_system(error.os_error)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, aiohttp.ClientPayloadError):
        cause = error.__cause__
        if isinstance(cause, OSError) or "ConnectionReset" in str(error):
            return Verdict.CONNECTION_RESET, "connection cut in the body"
        return Verdict.PROTOCOL_ERROR, _words(error)
    if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        return Verdict.PROTOCOL_ERROR, f"no HTTP: {_words(error)}"
    return Verdict.PROTOCOL_ERROR, _words(error)


def distrust_of(error: aiohttp.ClientConnectorCertificateError) -> str:
    """Why no trusted authority vouches for a certificate, in OpenSSL's words."""
    cause = error.certificate_error
    return str(getattr(cause, "verify_message", "") or cause)[:200]


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """With TLS 1.3 a server may refuse after the handshake, in place of an answer."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    seen = error if isinstance(error, ssl.SSLError) else error.__cause__
    return seen if isinstance(seen, ssl.SSLError) else None


def _tls_words(error: ssl.SSLError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else _words(error)


def _of_system(error: OSError) -> tuple[Verdict, str]:
    """Of several addresses that failed, the one that came nearest speaks."""
    if error.errno is not None:
        return _of_number(error.errno, error)
    best: tuple[Verdict, str] | None = None
    for number in _NUMBERS.findall(str(error)):
        found = _of_number(int(number), error)
        if best is None or nearer(found[0], best[0]):
            best = found
    if best is not None:
        return best
    if isinstance(error, ConnectionError):
        return Verdict.CONNECTION_RESET, "connection closed"
    return Verdict.UNREACHABLE, _words(error)


def _of_number(number: int, error: OSError) -> tuple[Verdict, str]:
    if number in _OURS:
        raise MachineExhausted(str(error)) from error
    return _SAYS.get(number, (Verdict.UNREACHABLE, _words(error)))


def _words(error: BaseException) -> str:
    message = getattr(error, "message", "") or str(error) or type(error).__name__
    return " ".join(str(message).split())[:200]
