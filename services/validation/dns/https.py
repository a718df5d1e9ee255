"""DNS over HTTPS: RFC 8484 messages, or JSON where a resolver speaks only that.

To the engine a channel is like its UDP sockets: a question goes in, a datagram comes out. The
address is the resolver's own and never looked up; the host of its URL is what the certificate is
checked against.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from services.validation.dns import json_answers
from services.validation.dns.resolvers import Resolver, Transport
from services.validation.dns.streams import (
    CONNECT_TIMEOUT,
    IDLE,
    IDS_LOW,
    LastingChannel,
    padded,
    trust,
)
from services.validation.dns.upstream import CHANNEL_LIMITS, Channel, Upstream

# Questions of a channel that may wait until there is room for another request.
WAITING_LIMIT = 512
# Seconds for a request. One that nobody waits for any more ends earlier if others need its place.
REQUEST_TIMEOUT = 10.0
RESPONSE_LIMIT = 65535

_WIRE_TYPE = "application/dns-message"
# The third is what https://dns.google/resolve sent for years.
_JSON_TYPES = frozenset(("application/dns-json", "application/json", "application/x-javascript"))


class Unusable(ValueError):
    """The response is no answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go, and how they are addressed."""

    # With the resolver's address for a host.
    url: URL
    # As the server knows itself.
    host: str
    tls_name: str

    @classmethod
    def of(cls, resolver: Resolver) -> "Endpoint":
        """Raises ValueError for a URL that is none of HTTPS."""
        path = "/resolve" if resolver.transport is Transport.HTTPS_JSON else "/dns-query"
        name = resolver.tls_name or resolver.host
        url = URL(resolver.url) if resolver.url else URL.build(scheme="https", host=name, path=path)
        if url.scheme != "https" or not url.host:
            raise ValueError(f"no URL of HTTPS: {resolver.url!r:.200}")
        pinned = url.with_user(None).with_host(resolver.host).with_port(resolver.port)
        host = url.host_port_subcomponent or url.host
        return cls(pinned.with_fragment(None), host, resolver.tls_name or url.host)


class HttpsChannel(LastingChannel):
    """Requests over HTTP/1.1, and the connections that serve one after the other."""

    def __init__(
        self, upstream: Upstream, cases: list[bytes], drain: Callable[[Channel], None]
    ) -> None:
        super().__init__(upstream, cases, drain)
        self._endpoint = Endpoint.of(upstream.resolver)
        self._limit = CHANNEL_LIMITS[upstream.resolver.transport]
        self._json = upstream.resolver.transport is Transport.HTTPS_JSON
        self._tls = trust(upstream.resolver.ca_pem)
        self._session: aiohttp.ClientSession | None = None
        # Ids of questions that wait for a place, and requests by id, oldest first.
        self._waiting: deque[bytes] = deque()
        self._requests: dict[bytes, asyncio.Task[None]] = {}
        self._resumption: asyncio.TimerHandle | None = None
        # Of these, those that have a connection.
        self._sent: set[bytes] = set()
        # Whether an answer came since a connection broke off last.
        self._answering = False

    def close(self) -> None:
        super().close()
        self._waiting.clear()
        if self._resumption is not None:
            self._resumption.cancel()
        # One that has not begun yet would open a session.
        for request in self._requests.values():
            request.cancel()
        if self._requests or self._session is not None:
            loop = asyncio.get_running_loop()
            self.upstream.ending(loop.create_task(self._end(list(self._requests.values()))))

    async def _end(self, requests: Sequence[asyncio.Task[None]]) -> None:
        await asyncio.gather(*requests, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _send(self, packet: bytes) -> int:
        if len(self._waiting) >= WAITING_LIMIT:
            self._forget_settled()
            if len(self._waiting) >= WAITING_LIMIT:
                raise BlockingIOError
        key = packet[:2]
        self._asked[key] = packet
        self._waiting.append(key)
        self._start()
        if len(self.ids) < IDS_LOW:
            self._refill()
        return len(packet)

    def _forget_settled(self) -> None:
        gone = [key for key in self._waiting if key not in self.pending]
        for key in gone:
            del self._asked[key]
        self._waiting = deque(key for key in self._waiting if key in self.pending)

    # Requests

    def _start(self) -> None:
        """Begin the requests there is room for."""
        while self._waiting and self._resumption is None:
            key = self._waiting[0]
            if key in self.pending:
                if len(self._requests) >= self._limit:
                    self._make_room()
                    return
                request = self._request(key, self._asked[key])
                self._requests[key] = asyncio.get_running_loop().create_task(request)
            else:
                del self._asked[key]
            self._waiting.popleft()

    def _make_room(self) -> None:
        """End the oldest request if nobody waits for it; its end starts the next."""
        for key, request in self._requests.items():
            # Those before it still connect; the connection will serve another.
            if key in self._sent:
                if key not in self.pending:
                    request.cancel()
                return

    async def _request(self, key: bytes, packet: bytes) -> None:
        try:
            response = await self._exchange(key, packet)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self._lost(error)
        except aiohttp.ClientConnectionError as error:
            # A server that answers others may end a connection now and then.
            if self._answering:
                self._answering = False
                self._note(error)
            else:
                self._lost(error)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Whoever answers so is there, but it is no answer: the question waits out its time.
            self._note(error)
        else:
            self._answering = True
            self._answered()
            self._take(key + response[2:])
            self._deliver()
        finally:
            del self._requests[key]
            self._sent.discard(key)
            if not self._closed:
                del self._asked[key]
                self._start()

    async def _exchange(self, key: bytes, packet: bytes) -> bytes:
        try:
            return await self._ask(key, packet)
        except aiohttp.ServerDisconnectedError:
            # Most likely a connection that was closed while it was idle.
            return await self._ask(key, packet)

    async def _ask(self, key: bytes, packet: bytes) -> bytes:
        """The response, with any id. Raises ClientError, OSError, ValueError."""
        if self._session is None:
            self._session = self._new_session()
        url, headers = self._endpoint.url, {"Host": self._endpoint.host}
        if self._json:
            name, qtype, unchecked = json_answers.asked(packet)
            url = url.update_query(name=name or ".", type=str(qtype), cd="1" if unchecked else "0")
            headers["Accept"] = "application/dns-json"
            method, body = "GET", None
        else:
            headers["Accept"] = headers["Content-Type"] = _WIRE_TYPE
            # Zero as the id, because caches on the way compare whole messages.
            method, body = "POST", padded(b"\0\0" + packet[2:])
        async with self._session.request(
            method,
            url,
            data=body,
            headers=headers,
            ssl=self._tls,
            server_hostname=self._endpoint.tls_name,
            allow_redirects=False,
            trace_request_ctx=key,
        ) as response:
            if response.status != 200:
                raise Unusable(f"HTTP status {response.status}")
            known = _JSON_TYPES if self._json else (_WIRE_TYPE,)
            if response.content_type not in known:
                raise Unusable(f"content of type {response.content_type[:80]!r}")
            content = await _read(response)
        if self._json:
            return json_answers.to_wire(content, packet)
        if len(content) < 12:
            raise Unusable("too short for a message")
        return content

    def _new_session(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(self._note_sent)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limit, keepalive_timeout=IDLE),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
            # A compressed answer could unfold to any size.
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            trace_configs=[trace],
        )

    async def _note_sent(
        self, _: aiohttp.ClientSession, context: Any, __: aiohttp.TraceRequestHeadersSentParams
    ) -> None:
        self._sent.add(context.trace_request_ctx)

    def _lost(self, error: Exception) -> None:
        """Pause, unless a pause has begun: many requests fail together."""
        if self._closed or self._resumption is not None:
            return
        self._fail(error)
        self._resumption = asyncio.get_running_loop().call_later(self._pause, self._resume)

    def _resume(self) -> None:
        self._resumption = None
        self._start()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > RESPONSE_LIMIT:
            raise Unusable("more than a message holds")
    return bytes(content)


def open_https_channel(
    upstream: Upstream, _: int, cases: list[bytes], drain: Callable[[Channel], None]
) -> Channel:
    """A channel over HTTPS. One that sends nowhere if URL or certificates cannot be read."""
    try:
        return HttpsChannel(upstream, cases, drain)
    except (OSError, ValueError) as error:
        upstream.trouble = str(error)
        return Channel(upstream, None, 64, cases)
