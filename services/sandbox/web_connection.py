"""Connections of the sandbox's web servers: what is asked, and the truth about it as it is done."""

import asyncio
import math
import socket
import ssl
import struct
import time
import zlib
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus
from itertools import repeat
from typing import TYPE_CHECKING, cast

from .web_pages import body, content_type, opening
from .web_truth import ENDLESS_WAITS, Web, WebTruth
from .web_wire import (
    BROTLI_BLOCK,
    FLOOD,
    GZIP_BLOCK,
    Asked,
    bomb,
    chunk,
    endless,
    number_of,
    packed_brotli,
    packed_gzip,
    parse,
    server_name,
)

if TYPE_CHECKING:
    from .web_server import SandboxWeb

_HEAD_LIMIT = 16 << 10
# Bytes written before others have their turn.
_TURN = 256 << 10
_LINGER_NOT = struct.pack("ii", 1, 0)
_ALERT = b"\x15\x03\x03\x00\x02\x02"
_PROTOCOL_VERSION, _UNRECOGNIZED_NAME = b"\x46", b"\x70"
_PLAIN_ON_TLS = b"<html><body>The plain HTTP request was sent to HTTPS port</body></html>"
_NOT_HTTP = (
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"220 mail.sandbox ESMTP\r\n",
    bytes(range(256)),
    b"<html><body>A page without a head</body></html>",
)
_PHRASES = {it.value: it.phrase for it in HTTPStatus}


class Connection(asyncio.Protocol):
    """One connection in plain."""

    tls = False

    def __init__(self, server: "SandboxWeb") -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._local = ""
        self._paused = False
        # What is sent whenever there is room: a page without end.
        self._endless: Iterator[bytes] | None = None
        # Whether nothing is answered any more.
        self._deaf = False
        self.heard = server.tick
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # Of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._local = transport.get_extra_info("sockname")[0]
        # Where the listener is bound to more than loopback.
        if not peer or peer[0][:4] not in ("127.", "::1") or not self._server.admit(self):
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._endless = None
        self._server.forget(self)
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.heard = self._server.tick
        self._take(data)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._endless is not None:
            self._pump()

    # What is sent

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Once all is sent."""
        self._deaf = True
        self._endless = None
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Break off at once, without a farewell."""
        self._deaf = True
        if self._transport is not None:
            _linger_not(self._transport)
            self._transport.abort()

    def expire(self) -> None:
        """Close, or reset what was closed and is not taken."""
        if self._transport is not None and self._transport.is_closing():
            self.reset()
        else:
            self.close()

    def _stream(self, chunks: Iterator[bytes]) -> None:
        """Send these as fast as they are taken, then close."""
        self._deaf = True
        self._endless = chunks
        self._pump()

    def _pump(self) -> None:
        sent = 0
        while self._endless is not None and not self._paused:
            chunk = next(self._endless, None)
            if chunk is None:
                self.close()
                return
            self.send(chunk)
            sent += len(chunk)
            if sent >= _TURN:
                asyncio.get_running_loop().call_soon(self._pump)
                return

    def _drip(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            if not self._paused:
                self.send(b"1\r\n.\r\n")
            loop = asyncio.get_running_loop()
            loop.call_later(self._server.settings.drip, self._drip)

    # What is asked

    def _take(self, data: bytes) -> None:
        if self._deaf:
            return
        received = self._received + data if self._received else data
        while not self._deaf:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                if len(received) > _HEAD_LIMIT:
                    self._answer(431, last=True)
                break
            asked = parse(received[:end])
            received = received[end + 4 :]
            self._server.stats.requests += 1
            if asked is None:
                self._answer(400, last=True)
            elif asked.method not in ("GET", "HEAD"):
                self._answer(405, ("Allow: GET, HEAD",), last=True)
            else:
                self._respond(asked)
        self._received = received

    def _respond(self, asked: Asked) -> None:
        server = self._server
        known = server.world.truth(asked.host)
        if known is None or not self._is_at(known):
            server.stats.misdirected += 1
            self._answer(421, asked=asked)
            return
        behaviour = known.behaviour
        if behaviour is Web.MUTE or behaviour is Web.TLS_STALL:
            self._deaf = True
        elif behaviour is Web.RESET or (behaviour is Web.HTTPS_ONLY and not self.tls):
            if behaviour is Web.RESET and known.variant(2):
                self.send(b"HTTP/1.1 200 OK\r\nContent-Type: te")
            self.reset()
        elif behaviour is Web.NOT_HTTP:
            self.send(_NOT_HTTP[known.variant(len(_NOT_HTTP))])
            self.close()
        elif asked.path == "/robots.txt":
            text = known.robots.encode()
            self._answer(200 if text else 404, ("Content-Type: text/plain",), text, asked)
        elif known.upgraded and not self.tls:
            self._redirect(301, server.url(known.name, asked.path, tls=True), asked)
        elif known.truncated or behaviour is Web.HEADER_FLOOD:
            self._respond_at_length(known, asked)
        elif left := server.left(known):
            after = f"{max(1, math.ceil(left))}"
            if known.dated:
                after = formatdate(math.ceil(time.time() + left), usegmt=True)
            self._answer(known.first_status, (f"Retry-After: {after}",), asked=asked)
        elif known.has_page:
            self._respond_with_page(known, asked)
        else:
            self._respond_without_page(known, asked)

    def _is_at(self, known: WebTruth) -> bool:
        """Whether the name is at the address asked; any that truths never have will do."""
        if self._local in known.addresses:
            return True
        first, second = self._local.split(".")[:2] if "." in self._local else ("", "0")
        return first != "127" or not 64 <= int(second) < 128

    def _respond_with_page(self, known: WebTruth, asked: Asked) -> None:
        behaviour, path = known.behaviour, asked.path
        if behaviour is Web.MOVED_TO_WWW:
            self._redirect(known.first_status, self._url(known.away, path), asked)
            return
        home = "/"
        if behaviour is Web.CHAIN:
            home = known.landing[1]
            place = 0 if path == "/" else number_of(path, "/hop/")
            if 0 <= place < known.hops:
                self._redirect(known.first_status, self._hop(known, f"/hop/{place + 1}"), asked)
                return
        page = known.page
        assert page is not None
        anywhere = behaviour in (Web.PARKED, Web.SOFT_404)
        if path == home or anywhere:
            self._page(known, asked, body(known))
        elif path == page.contact_path:
            self._page(known, asked, body(known, path))
        else:
            self._answer(404, asked=asked)

    def _page(self, known: WebTruth, asked: Asked, content: bytes) -> None:
        page = known.page
        assert page is not None
        headers = [f"Content-Type: {content_type(page.charset)}"]
        if known.compressed and asked.gzip:
            packer = zlib.compressobj(1, wbits=31)
            content = packer.compress(content) + packer.flush()
            headers.append("Content-Encoding: gzip")
        self._answer(200, headers, content, asked, framing=known.number >> 60 & 15)

    def _respond_without_page(self, known: WebTruth, asked: Asked) -> None:
        behaviour, status = known.behaviour, known.first_status
        headers: tuple[str, ...] = ()
        if behaviour is Web.LOOP:
            ways = {"/": "/a", "/a": "/b"}
            self._redirect(status, self._hop(known, ways.get(asked.path, "/")), asked)
        elif behaviour is Web.ENDLESS_CHAIN:
            place = max(0, number_of(asked.path, "/far/"))
            self._redirect(status, self._hop(known, f"/far/{place + 1}"), asked)
        elif behaviour is Web.MOVED_PRIVATE:
            port = self._server.http_port
            self._redirect(status, f"http://{known.away}:{port}/latest/meta-data/", asked)
        elif behaviour is Web.MOVED_NOWHERE:
            self._redirect(status, self._url(known.away, "/"), asked)
        elif behaviour is Web.REFUSED:
            port = self._server.closed_port
            url = self._server.url(known.name, "/", tls=False, port=port)
            self._redirect(status, url, asked)
        else:
            if behaviour is Web.RATE_LIMITED:
                wait = ENDLESS_WAITS[known.variant(len(ENDLESS_WAITS))]
                headers = (f"Retry-After: {wait}",) if wait else ()
            elif behaviour is Web.UNAUTHORIZED:
                headers = ('WWW-Authenticate: Basic realm="sandbox"',)
            self._answer(status, headers, asked=asked)

    def _respond_at_length(self, known: WebTruth, asked: Asked) -> None:
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
        behaviour = known.behaviour
        if behaviour is Web.HEADER_FLOOD:
            self._stream(iter((head, *repeat(FLOOD, 256))))
            return
        page = known.page
        assert page is not None
        head += f"Content-Type: {content_type(page.charset)}\r\n".encode()
        start = opening(known)
        if asked.method == "HEAD":
            self.send(head + b"\r\n")
            self.close()
        elif behaviour is Web.CUT:
            self.send(head + b"Content-Length: %d\r\n\r\n" % (2 * len(start)) + start)
            self.close()
        elif behaviour is Web.GZIP_BOMB and asked.gzip:
            self._stream(
                bomb(head + b"Content-Encoding: gzip\r\n\r\n" + packed_gzip(start), GZIP_BLOCK)
            )
        elif behaviour is Web.BROTLI_BOMB and asked.brotli:
            packed = packed_brotli(start + b" " * 64)
            self._stream(bomb(head + b"Content-Encoding: br\r\n\r\n" + packed, BROTLI_BLOCK))
        else:
            head += b"Transfer-Encoding: chunked\r\n\r\n" + chunk(start)
            if behaviour is Web.DRIP:
                self._deaf = True
                self.send(head)
                self._drip()
            else:
                self._stream(endless(head))

    def _url(self, host: str, path: str) -> str:
        return self._server.url(host, path, tls=self.tls)

    def _hop(self, known: WebTruth, path: str) -> str:
        """Relative for one name in two."""
        return path if known.number >> 58 & 1 else self._url(known.name, path)

    def _redirect(self, status: int, location: str, asked: Asked) -> None:
        self._answer(status, (f"Location: {location}",), b"Elsewhere.", asked)

    def _answer(
        self,
        status: int,
        headers: list[str] | tuple[str, ...] = (),
        content: bytes = b"",
        asked: Asked | None = None,
        *,
        last: bool = False,
        framing: int = 15,
    ) -> None:
        """`framing` 0-2 sends the page in chunks, 3 until the end of the connection."""
        last = last or asked is None or asked.last or framing == 3
        parts = [f"HTTP/1.1 {status} {_PHRASES.get(status, 'Odd')}", "Server: sandbox", *headers]
        if framing < 3:
            parts.append("Transfer-Encoding: chunked")
        elif framing > 3:
            parts.append(f"Content-Length: {len(content)}")
        if last:
            parts.append("Connection: close")
        parts.append("\r\n")
        head = "\r\n".join(parts).encode("latin-1")
        if asked is not None and asked.method == "HEAD":
            self.send(head)
        elif framing < 3:
            middle = len(content) // 2
            chunks = [chunk(it) for it in (content[:middle], content[middle:]) if it]
            self.send(b"".join((head, *chunks, b"0\r\n\r\n")))
        else:
            self.send(head + content)
        if last:
            self.close()


class TlsConnection(Connection):
    """One connection over TLS: what becomes of it is decided when the ClientHello says for whom.

    TLS is done here, with buffers, because the servers of asyncio shake hands by themselves.
    """

    tls = True

    def __init__(self, server: "SandboxWeb") -> None:
        super().__init__(server)
        self._hello: bytes | None = b""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._secure: ssl.SSLObject | None = None
        self._shaken = False
        self._farewell_said = False

    def data_received(self, data: bytes) -> None:
        self.heard = self._server.tick
        if self._deaf:
            return
        if self._hello is not None:
            self._hello += data
            data = self._hello
            name = server_name(data)
            if name is None:
                if len(data) > _HEAD_LIMIT:
                    self.reset()
                return
            self._hello = None
            if not self._begin(name, data):
                return
        self._incoming.write(data)
        try:
            self._read()
        except ssl.SSLError:
            # The client does not like the certificate, or speaks no TLS; an alert may be due.
            self._flush()
            super().close()

    def _begin(self, name: str, hello: bytes) -> bool:
        """Choose the certificate. False when there is no handshake."""
        if hello[0] != 0x16:
            head = f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(_PLAIN_ON_TLS)}\r\n"
            super().send(head.encode() + b"Connection: close\r\n\r\n" + _PLAIN_ON_TLS)
            super().close()
            return False
        known = self._server.world.truth(name) if name else None
        behaviour = known.behaviour if known else Web.PAGE
        variant = known.variant(3) if known else 0
        if behaviour is Web.TLS_STALL:
            self._deaf = True
        elif behaviour in (Web.TLS_REFUSED, Web.PLAIN_ONLY) and variant == 0:
            self.reset()
        elif behaviour is Web.TLS_REFUSED or (behaviour is Web.PLAIN_ONLY and variant == 1):
            tls_refused = behaviour is Web.TLS_REFUSED
            super().send(_ALERT + (_PROTOCOL_VERSION if tls_refused else _UNRECOGNIZED_NAME))
            super().close()
        elif behaviour is Web.PLAIN_ONLY:
            super().send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            super().close()
        else:
            context = self._server.certificates.context(known.name if known else "", behaviour)
            self._secure = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
            return True
        return False

    def _read(self) -> None:
        secure = self._secure
        assert secure is not None
        try:
            if not self._shaken:
                secure.do_handshake()
                self._shaken = True
                self._server.stats.handshakes += 1
            while data := secure.read(65536):
                self._take(data)
            # The client is done.
            self.close()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLZeroReturnError:
            self.close()

    def send(self, data: bytes) -> None:
        if self._secure is None or self._transport is None:
            return
        left = memoryview(data)
        while left:
            left = left[self._secure.write(left) :]
        self._flush()

    def close(self) -> None:
        if self._secure is not None and self._shaken and not self._farewell_said:
            self._farewell_said = True
            try:
                self._secure.unwrap()
            except ssl.SSLError:
                # The client's farewell is not waited for.
                pass
            self._flush()
        super().close()

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())


def _linger_not(transport: asyncio.Transport) -> None:
    found = transport.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
