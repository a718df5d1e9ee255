"""GET requests over connections of the connector: what a session of aiohttp does for them that a
fetch needs, at a third of its cost.

A session copies the headers, looks for cookies, redirects and credentials, and makes a request and
a response of many methods. Here the head is bytes, made beforehand but for the target, the host and
the cookie.
"""

import asyncio
import re
import ssl
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from aiohttp import ClientConnectionResetError, ClientRequest, ClientTimeout, StreamReader
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from multidict import CIMultiDictProxy
from yarl import URL

from services.validation.http.dialing import Dial, PinnedConnector, is_interim

# Bytes of a body that wait to be read before the server has to.
_BUFFER = 256 * 1024
_MAX_HEADERS = 512
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# Whoever fetches has clocks of his own.
_NO_CLOCKS = ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)


def head_of(headers: Iterable[tuple[str, str]]) -> bytes:
    """Lines of a request's head. ValueError for a header that would be more than its own line."""
    lines = []
    for name, value in headers:
        if not is_one_line(name) or not is_one_line(value):
            raise ValueError(f"the header {name!r} has control characters")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("utf-8", "ignore")


def is_one_line(text: str) -> bool:
    """Whether a text may be a part of a header."""
    return _CONTROL.search(text) is None


class Response(NamedTuple):
    """A head, and the body as it comes."""

    status: int
    headers: CIMultiDictProxy[str]
    # As they came.
    raw_headers: tuple[tuple[bytes, bytes], ...]
    content: StreamReader
    connection: Connection

    def release(self) -> None:
        """Keep the connection for the next request if all of the body came, else close it."""
        self.connection.release()


class Client:
    """Sends requests. One event loop only."""

    def __init__(self, connector: PinnedConnector) -> None:
        self._connector = connector
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Close all connections."""
        await self._connector.close()

    async def get(
        self, url: URL, dial: Dial, context: ssl.SSLContext | bool, head: bytes
    ) -> Response:
        """Ask for a URL where the running task's `dial` says. `context`: for https. `head`: lines
        after that of the host.

        The response is to be released. Raises what the connector does, errors of aiohttp and of the
        system, and what the dial's clock raises.
        """
        request = _Request(url, context, dial, self._loop)
        connection = await self._connector.connect(request, [], _NO_CLOCKS)
        try:
            protocol = connection.protocol
            assert protocol is not None
            protocol.set_response_params(
                read_until_eof=True,
                # Decoded by whoever fetches: aiohttp's limits the memory, not how much comes out.
                auto_decompress=False,
                read_bufsize=_BUFFER,
                max_line_size=dial.head_limit,
                max_field_size=dial.head_limit,
                max_headers=_MAX_HEADERS,
            )
            transport = protocol.transport
            if transport is None or transport.is_closing():
                raise ClientConnectionResetError("Cannot write to closing transport")
            begin = f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n"
            transport.write(b"%b%b\r\n" % (begin.encode(), head))
            message, content = await protocol.read()
            while is_interim(message.code):
                message, content = await protocol.read()
        except BaseException:
            connection.close()
            raise
        return Response(message.code, message.headers, message.raw_headers, content, connection)


class _Request(ClientRequest):
    """As much of a request as the connector asks one for."""

    def __init__(
        self,
        url: URL,
        context: ssl.SSLContext | bool,
        dial: Dial,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        # Not the base's: the head is made elsewhere.
        self.url = self.original_url = url
        self.loop = loop
        self.proxy = self.proxy_auth = self.proxy_headers = self.server_hostname = None
        self._ssl = context
        # A connection is kept for requests through the same proxy only.
        proxy = None if dial.proxy is None else cast("Any", dial.proxy.identity)
        self._key = ConnectionKey(
            url.raw_host or "",
            url.port,
            url.scheme == "https",
            context,
            proxy,
            None,
            None,
            None,
        )

    @property
    def connection_key(self) -> ConnectionKey:
        return self._key
