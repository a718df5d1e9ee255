"""The sandbox's web servers, asked over the wire by asyncio, ssl and aiohttp."""

import asyncio
import json
import signal
import socket
import ssl
import sys
import zlib
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, cast

import aiohttp
import brotli
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from services.sandbox.truth import Mix
from services.sandbox.web_content import TEMPLATES
from services.sandbox.web_pages import body, opening
from services.sandbox.web_server import SandboxWeb, SandboxWebSettings
from services.sandbox.web_truth import PRIVATE_HOSTS, Web, WebTruth, WebWorld
from tests.eventually import eventually

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux listens on all of 127.0.0.0/8"
)
WORLD = WebWorld(1)
# All with enough names to find each behaviour in.
KNOWN = [it for number in range(30_000) if (it := WORLD.truth(f"name{number}.com")) is not None]
ANYONE = ssl.create_default_context()
ANYONE.check_hostname, ANYONE.verify_mode = False, ssl.CERT_NONE
STOCK = (Web.PARKED, Web.FOR_SALE, Web.UNDER_CONSTRUCTION, Web.LOGIN, Web.SOFT_404, Web.TEMPLATE)
STATUSES = (
    Web.NOT_FOUND, Web.GONE, Web.UNAUTHORIZED, Web.FORBIDDEN, Web.RATE_LIMITED, Web.LEGAL_REASONS,
    Web.SERVER_ERROR, Web.ODD_STATUS,
)  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[SandboxWeb]:
    async with SandboxWeb(SandboxWebSettings(drip=0.01)) as opened:
        yield opened


def named(behaviour: Web, count: int = 1) -> list[WebTruth]:
    return [it for it in KNOWN if it.behaviour is behaviour][:count]


def one(behaviour: Web) -> WebTruth:
    return named(behaviour)[0]


class Resolver(AbstractResolver):
    """Answers with the truth."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        known = WORLD.truth(host)
        if known is None:
            raise OSError(f"{host} does not exist")
        return [
            ResolveResult(
                hostname=host, host=it, port=port, family=socket.AF_INET, proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for it in known.addresses
        ]  # fmt: skip

    async def close(self) -> None:
        pass


@asynccontextmanager
async def browser(server: SandboxWeb) -> AsyncIterator[aiohttp.ClientSession]:
    trust = ssl.create_default_context(cadata=server.ca)
    connector = aiohttp.TCPConnector(ssl=trust, resolver=Resolver())
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


def url(server: SandboxWeb, known: WebTruth, path: str = "/", scheme: str = "") -> str:
    tls = (scheme or known.scheme) == "https"
    return server.url(known.name, path, tls=tls)


@asynccontextmanager
async def connected(
    server: "SandboxWeb | Ports", known: WebTruth, *, tls: bool
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the first address of a name, whatever its certificate."""
    reader, writer = await asyncio.open_connection(
        known.addresses[0],
        server.https_port if tls else server.http_port,
        ssl=ANYONE if tls else None,
        server_hostname=known.name if tls else None,
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


class Ports(NamedTuple):
    """Those of a process."""

    http_port: int
    https_port: int


def request(known: WebTruth, path: str = "/", *headers: str, method: str = "GET") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", f"Host: {known.name}", *headers, "", "")
    return "\r\n".join(lines).encode()


async def asked(
    server: "SandboxWeb | Ports", known: WebTruth, *headers: str, tls: bool, path: str = "/"
) -> tuple[bytes, bytes]:
    """Head and the rest of all that comes until the end of the connection."""
    async with connected(server, known, tls=tls) as (reader, writer):
        writer.write(request(known, path, "Connection: close", *headers))
        head, _, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
        return head, rest


def header(head: bytes, name: str) -> str:
    found = [it for it in head.decode().split("\r\n") if it.lower().startswith(f"{name.lower()}:")]
    return found[0].partition(":")[2].strip() if found else ""


# Pages


@pytest.mark.parametrize(
    "behaviour",
    [Web.PAGE, *STOCK, Web.MOVED_TO_WWW, Web.CHAIN, Web.PLAIN_ONLY, Web.HTTPS_ONLY, Web.ROBOTS],
)
async def test_the_page_of_the_truth_comes_where_it_says(
    server: SandboxWeb, behaviour: Web
) -> None:
    async with browser(server) as session:
        for known in named(behaviour, 8):
            host, path = known.landing
            async with session.get(url(server, known)) as response:
                assert (response.status, await response.read()) == (200, body(known))
                due = server.url(host, path, tls=known.scheme == "https")
                assert str(response.url) == due
                assert len(response.history) == known.hops
                assert [it.status for it in response.history[:1]] == [known.first_status][
                    : known.hops
                ]


async def test_pages_come_in_all_framings_and_packed_to_whoever_takes_that(
    server: SandboxWeb,
) -> None:
    framings = set()
    async with browser(server) as session:
        for known in named(Web.PAGE, 120):
            async with session.get(url(server, known)) as response:
                heads = response.headers
                assert ("Content-Encoding" in heads) == known.compressed
                framings.add(heads.get("Transfer-Encoding", "length" * ("Content-Length" in heads)))
                assert await response.read() == body(known)
            unpacked = {"Accept-Encoding": "identity"}
            async with session.get(url(server, known), headers=unpacked) as response:
                assert "Content-Encoding" not in response.headers
    assert framings == {"chunked", "length", ""}


async def test_who_asks_in_plain_is_sent_to_tls_by_most(server: SandboxWeb) -> None:
    sent = 0
    async with browser(server) as session:
        for known in named(Web.PAGE, 40):
            async with session.get(url(server, known, scheme="http")) as response:
                assert await response.read() == body(known)
                assert (response.url.scheme == "https") == known.upgraded
                sent += known.upgraded
    assert 20 < sent < 40


async def test_contacts_may_be_on_a_page_of_their_own(server: SandboxWeb) -> None:
    apart = next(it for it in named(Web.PAGE, 500) if it.page and it.page.contact_path != "/")
    without = next(it for it in named(Web.PAGE, 500) if it.page and it.page.contact_path == "/")
    async with browser(server) as session:
        async with session.get(url(server, apart, "/contact")) as response:
            assert await response.read() == body(apart, "/contact")
        for path in ("/contact", "/favicon.ico"):
            async with session.get(url(server, without, path)) as response:
                assert response.status == 404


async def test_what_pretends_to_find_anything_does_so(server: SandboxWeb) -> None:
    async with browser(server) as session:
        for known in (one(Web.SOFT_404), one(Web.PARKED)):
            async with session.get(url(server, known, "/nothing/here")) as response:
                assert (response.status, await response.read()) == (200, body(known))


async def test_many_names_have_the_page_of_a_template(server: SandboxWeb) -> None:
    found: dict[str, set[bytes]] = {}
    async with browser(server) as session:
        for known in named(Web.TEMPLATE, 60):
            async with session.get(url(server, known)) as response:
                text = (await response.read()).replace(known.name.encode(), b"")
                found.setdefault(known.template, set()).add(text)
    assert len(found) == TEMPLATES
    assert all(len(it) == 1 for it in found.values())


# Statuses


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("behaviour", STATUSES)
async def test_a_status_is_that_of_the_truth(server: SandboxWeb, behaviour: Web, tls: bool) -> None:
    for known in named(behaviour, 10):
        head, _ = await asked(server, known, tls=tls)
        assert head.split(b" ")[1] == b"%d" % known.status()
        assert (behaviour is Web.UNAUTHORIZED) == bool(header(head, "WWW-Authenticate"))
        assert not header(head, "Location")


async def test_some_limit_for_ever_and_say_so_in_different_ways(server: SandboxWeb) -> None:
    said = set()
    for known in named(Web.RATE_LIMITED, 30):
        head, _ = await asked(server, known, tls=False)
        said.add(header(head, "Retry-After"))
    assert said == {"", "86400", "nonsense", "-1"}


@pytest.mark.parametrize("behaviour", [Web.LIMITED_AT_FIRST, Web.BUSY_AT_FIRST])
async def test_who_comes_again_after_retry_after_gets_the_page(
    server: SandboxWeb, behaviour: Web
) -> None:
    dated = next(it for it in named(behaviour, 100) if it.dated and it.wait == 1)
    numbered = next(it for it in named(behaviour, 100) if not it.dated and it.wait == 1)
    for known in (dated, numbered):
        for _ in range(3):
            head, _ = await asked(server, known, tls=False)
            assert int(head.split(b" ")[1]) == known.first_status
            if known is numbered:
                assert header(head, "Retry-After") == "1"
            else:
                due = parsedate_to_datetime(header(head, "Retry-After")) - datetime.now(UTC)
                assert due.total_seconds() <= 3

    async with browser(server) as session:

        async def all_have_pages() -> None:
            for known in (dated, numbered):
                async with session.get(url(server, known)) as response:
                    assert response.status == 200
                    assert await response.read() == body(known)

        await eventually(all_have_pages)


# Redirects that come to nothing


@pytest.mark.parametrize("behaviour", [Web.LOOP, Web.ENDLESS_CHAIN])
async def test_redirects_without_end_have_none(server: SandboxWeb, behaviour: Web) -> None:
    async with browser(server) as session:
        for known in named(behaviour, 4):
            with pytest.raises(aiohttp.TooManyRedirects) as failure:
                await session.get(url(server, known), max_redirects=20)
            places = [str(it.url) for it in failure.value.history]
            assert len(set(places)) == (3 if behaviour is Web.LOOP else len(places))


async def test_some_lead_to_where_nobody_should_go(server: SandboxWeb) -> None:
    hosts = set()
    for known in named(Web.MOVED_PRIVATE, 200):
        head, _ = await asked(server, known, tls=False)
        assert int(head.split(b" ")[1]) == known.status()
        target = f"http://{known.away}:{server.http_port}/latest/meta-data/"
        assert header(head, "Location") == target
        hosts.add(known.away)
    assert len(hosts) > 10
    assert hosts <= set(PRIVATE_HOSTS)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_some_lead_to_a_name_that_does_not_exist(server: SandboxWeb, tls: bool) -> None:
    known = one(Web.MOVED_NOWHERE)
    head, _ = await asked(server, known, tls=tls)

    assert header(head, "Location") == server.url(known.away, "/", tls=tls)
    assert WORLD.truth(known.away) is None


async def test_some_lead_to_where_connections_are_refused(server: SandboxWeb) -> None:
    async with browser(server) as session:
        for known in named(Web.REFUSED, 3):
            with pytest.raises(aiohttp.ClientConnectorError) as failure:
                await session.get(url(server, known))
            assert isinstance(failure.value.os_error, ConnectionRefusedError)


# Connections that come to nothing


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_some_reset_the_connection(server: SandboxWeb, tls: bool) -> None:
    for known in named(Web.RESET, 4):
        with pytest.raises(ConnectionResetError):
            await asked(server, known, tls=tls)


async def test_whoever_has_tls_only_resets_the_connection_in_plain(server: SandboxWeb) -> None:
    with pytest.raises(ConnectionResetError):
        await asked(server, one(Web.HTTPS_ONLY), tls=False)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_some_never_answer(server: SandboxWeb, tls: bool) -> None:
    async with connected(server, one(Web.MUTE), tls=tls) as (reader, writer):
        writer.write(request(one(Web.MUTE)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)


async def test_some_never_answer_in_the_handshake(server: SandboxWeb) -> None:
    known = one(Web.TLS_STALL)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), connected(server, known, tls=True):
            pass
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await asked(server, known, tls=False)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_some_speak_something_else(server: SandboxWeb, tls: bool) -> None:
    said = set()
    for known in named(Web.NOT_HTTP, 30):
        head, rest = await asked(server, known, tls=tls)
        assert not head.startswith(b"HTTP/")
        said.add(head + rest)
    assert len(said) == 4


# Pages without end


async def received(reader: asyncio.StreamReader, count: int) -> tuple[bytes, bytes]:
    """Head, and so many bytes after it."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(count)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_some_drip(server: SandboxWeb, tls: bool) -> None:
    known = one(Web.DRIP)
    start = opening(known)
    async with connected(server, known, tls=tls) as (reader, writer):
        writer.write(request(known))
        _, found = await received(reader, len(start) + 5)
        assert start in found
        await reader.readuntil(b"1\r\n.\r\n" * 5)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_some_have_no_end(server: SandboxWeb, tls: bool) -> None:
    known = one(Web.ENDLESS)
    async with connected(server, known, tls=tls) as (reader, writer):
        writer.write(request(known))
        _, found = await received(reader, 4 << 20)
        assert opening(known) in found[:5000]


@pytest.mark.parametrize(
    ("behaviour", "coding", "count", "due"),
    [(Web.GZIP_BOMB, "gzip", 20_000, 8 << 20), (Web.BROTLI_BOMB, "br", 3_000, 32 << 20)],
)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_some_are_bombs(
    server: SandboxWeb, behaviour: Web, coding: str, count: int, due: int, tls: bool
) -> None:
    known = one(behaviour)
    if coding == "gzip":
        unpack = zlib.decompressobj(31).decompress
    else:
        unpack = brotli.Decompressor().process
    async with connected(server, known, tls=tls) as (reader, writer):
        writer.write(request(known, "/", "Accept-Encoding: gzip, deflate, br"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert header(head, "Content-Encoding") == coding
        packed = await reader.readexactly(len(opening(known)) + count)
        if coding == "br":
            # The page comes as it is; then sixteen megabytes in 26 bytes.
            packed = packed[: 3 + len(opening(known)) + 64 + 2 * 26]
    text = unpack(packed)
    assert text.startswith(opening(known))
    assert len(text) > due
    assert set(text[-due // 2 :]) == {32}


@pytest.mark.parametrize("behaviour", [Web.GZIP_BOMB, Web.BROTLI_BOMB])
async def test_bombs_are_endless_pages_to_whoever_takes_no_coding(
    server: SandboxWeb, behaviour: Web
) -> None:
    known = one(behaviour)
    async with connected(server, known, tls=False) as (reader, writer):
        writer.write(request(known))
        head, found = await received(reader, 100_000)
        assert not header(head, "Content-Encoding")
        assert opening(known) in found


async def test_some_send_headers_without_measure(server: SandboxWeb) -> None:
    known = one(Web.HEADER_FLOOD)
    head, rest = await asked(server, known, tls=False)
    assert (len(head) > 16_000_000, rest) == (True, b"")
    async with browser(server) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(url(server, known))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_some_end_before_their_end(server: SandboxWeb, tls: bool) -> None:
    known = one(Web.CUT)
    head, rest = await asked(server, known, tls=tls)

    assert rest == opening(known)
    assert int(header(head, "Content-Length")) > len(rest)


async def test_what_nobody_reads_is_not_kept_ready(server: SandboxWeb) -> None:
    known = one(Web.ENDLESS)
    async with connected(server, known, tls=False) as (_, writer):
        cast(asyncio.Transport, writer.transport).pause_reading()
        writer.write(request(known))

        async def paused() -> None:
            (connection,) = server._open
            assert connection._paused

        await eventually(paused)
        (connection,) = server._open
        assert connection._transport is not None
        assert connection._transport.get_write_buffer_size() < 1 << 20


# TLS


@pytest.mark.parametrize(
    ("behaviour", "code"), [(Web.EXPIRED, 10), (Web.SELF_SIGNED, 18), (Web.WRONG_HOST, 62)]
)
async def test_some_certificates_are_wrong(server: SandboxWeb, behaviour: Web, code: int) -> None:
    async with browser(server) as session:
        for known in named(behaviour, 3):
            for scheme in ("https", "http"):
                with pytest.raises(aiohttp.ClientConnectorCertificateError) as failure:
                    await session.get(url(server, known, scheme=scheme))
                reason = failure.value.certificate_error
                assert isinstance(reason, ssl.SSLCertVerificationError)
                assert reason.verify_code == code
            async with session.get(url(server, known), ssl=False) as response:
                assert await response.read() == body(known)


async def test_names_differing_in_a_place_share_a_certificate(server: SandboxWeb) -> None:
    async with browser(server) as session:
        for known in named(Web.PAGE, 150):
            async with session.get(url(server, known)) as response:
                assert response.status == 200
    # Of ten names that differ in the last digit two or three have a page of their own.
    assert len(server.certificates._contexts) < 90


@pytest.mark.parametrize("variant", [0, 1, 2])
async def test_some_have_no_tls(server: SandboxWeb, variant: int) -> None:
    known = next(it for it in named(Web.PLAIN_ONLY, 100) if it.variant(3) == variant)
    reasons = (ConnectionResetError, ssl.SSLError, ssl.SSLError)
    with pytest.raises(reasons[variant]) as failure:
        await asked(server, known, tls=True)
    said = ("", "UNRECOGNIZED_NAME", "WRONG_VERSION_NUMBER")[variant]
    assert not said or getattr(failure.value, "reason", "").endswith(said)


async def test_some_refuse_the_handshake(server: SandboxWeb) -> None:
    found = set()
    for known in named(Web.TLS_REFUSED, 8):
        with pytest.raises((ConnectionResetError, ssl.SSLError)) as failure:
            await asked(server, known, tls=True)
        found.add(getattr(failure.value, "reason", None))
        head, _ = await asked(server, known, tls=False)
        assert header(head, "Location") == url(server, known)
    assert found == {None, "TLSV1_ALERT_PROTOCOL_VERSION"}


async def test_a_client_hello_may_come_in_pieces(server: SandboxWeb) -> None:
    known = one(Web.PAGE)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cadata=server.ca)
    secure = context.wrap_bio(incoming, outgoing, server_hostname=known.name)
    with pytest.raises(ssl.SSLWantReadError):
        secure.do_handshake()
    hello = outgoing.read()
    reader, writer = await asyncio.open_connection(known.addresses[0], server.https_port)
    for at in range(0, len(hello), 40):
        writer.write(hello[at : at + 40])
        await writer.drain()
        await asyncio.sleep(0)
    while True:
        incoming.write(await reader.read(65536))
        try:
            secure.do_handshake()
        except ssl.SSLWantReadError:
            continue
        break
    writer.transport.abort()

    assert secure.version() == "TLSv1.3"


async def test_plain_requests_and_noise_on_the_tls_port_are_refused(server: SandboxWeb) -> None:
    for said in (request(one(Web.PAGE)), b"\x00" * 100, b"\x16\x03\x01\x00\x05\x02abcd"):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.https_port)
        writer.write(said)
        answer = await reader.read(-1)
        writer.close()
        assert answer.startswith((b"HTTP/1.1 400", b"\x15"))


async def test_without_a_name_there_is_a_certificate_for_nobody(server: SandboxWeb) -> None:
    trust = ssl.create_default_context(cadata=server.ca)
    _, writer = await asyncio.open_connection(
        "127.0.0.1", server.https_port, ssl=trust, server_hostname="nobody.sandbox"
    )
    writer.close()
    await writer.wait_closed()


# Requests


async def test_robots_txt_is_there_whatever_becomes_of_the_page(server: SandboxWeb) -> None:
    kinds = {*Web} - {Web.MUTE, Web.RESET, Web.NOT_HTTP, Web.TLS_STALL, Web.HTTPS_ONLY}
    said = set()
    for kind in kinds:
        for known in named(kind, 5):
            head, rest = await asked(server, known, tls=False, path="/robots.txt")
            assert int(head.split(b" ")[1]) == (200 if known.robots else 404)
            assert rest.decode() == known.robots
            said.add(known.robots)
    assert len(said) == 4
    assert "Disallow: /\n" in one(Web.ROBOTS).robots


async def test_names_are_at_their_addresses_only(server: SandboxWeb) -> None:
    here, there = named(Web.NOT_FOUND, 2)
    for known, host, status in (
        (here, here.addresses[0], b"404"),
        (here, there.addresses[0], b"421"),
        # Not an address of a truth: whoever embeds the server asks where he likes.
        (here, "127.0.0.1", b"404"),
    ):
        reader, writer = await asyncio.open_connection(host, server.http_port)
        writer.write(request(known, "/", "Connection: close"))
        assert (await reader.read(-1)).split(b" ")[1] == status
        writer.close()
    assert server.stats.misdirected == 1


async def test_requests_follow_each_other_on_a_connection(server: SandboxWeb) -> None:
    known = one(Web.NOT_FOUND)
    for tls in (False, True):
        async with connected(server, known, tls=tls) as (reader, writer):
            writer.write(request(known) * 3 + request(known, "/", method="HEAD"))
            for _ in range(4):
                assert b" 404 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(request(known, "/", "Connection: close"))
            assert b" 404 " in await reader.read(-1)
    assert server.stats.requests == 10


async def test_a_head_request_has_no_page(server: SandboxWeb) -> None:
    async with browser(server) as session:
        for known in (*named(Web.PAGE, 20), one(Web.ENDLESS), one(Web.CUT)):
            async with session.head(url(server, known)) as response:
                assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/2\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\n\r\nabcde", b"400"),
        (b"PUT / HTTP/1.1\r\nHost: a.com\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"421"),
        (b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", b"421"),
        (b"X" * 20_000, b"431"),
    ],
)
async def test_what_is_no_request_for_a_page_is_refused(
    server: SandboxWeb, said: bytes, status: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    writer.write(said)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()

    assert head.split(b" ")[1] == status


async def test_connections_over_the_limit_are_reset() -> None:
    known = one(Web.NOT_FOUND)
    async with (
        SandboxWeb(SandboxWebSettings(limit=1)) as server,
        connected(server, known, tls=False) as (reader, writer),
    ):
        writer.write(request(known))
        await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await asked(server, known, tls=False)
        assert (server.connections, server.stats.rejected) == (1, 1)


async def test_connections_that_say_nothing_are_closed() -> None:
    known = one(Web.MUTE)
    async with (
        SandboxWeb(SandboxWebSettings(idle=0.5)) as server,
        connected(server, known, tls=False) as (reader, writer),
    ):
        writer.write(request(known))
        assert await reader.read(-1) == b""


async def test_other_mixes_are_other_webs() -> None:
    none = dict.fromkeys(Web.__members__, 0.0)
    mix = type(SandboxWebSettings().web)(
        **{kind.lower(): share for kind, share in (none | {"GONE": 1.0}).items()}
    )
    async with SandboxWeb(SandboxWebSettings(mix=Mix(nxdomain=0), web=mix)) as server:
        known = server.world.truth(one(Web.PAGE).name)
        assert known is not None
        head, _ = await asked(server, known, tls=False)
        assert head.split(b" ")[1] == b"410"


async def test_the_process_serves_names_at_the_addresses_its_dns_gives() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.sandbox", "--seed", "1", "--web", "--die-with-parent",
        stdout=PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = json.loads(await process.stdout.readline())
        web = said["web"]
        assert web["network"] == "127.64.0.0/10"
        assert len(said["dns"]) == 1
        known = one(Web.PAGE)
        trust = ssl.create_default_context(cadata=web["ca_pem"])
        connector = aiohttp.TCPConnector(ssl=trust, resolver=Resolver())
        async with aiohttp.ClientSession(connector=connector) as session:
            address = f"https://{known.name}:{web['https_port']}/"
            async with session.get(address) as response:
                assert await response.read() == body(known)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(known.addresses[0], web["closed_port"])
        # It runs on uvloop, whose transports are others.
        ports = Ports(web["http_port"], web["https_port"])
        for tls in (False, True):
            for resetting in named(Web.RESET, 4):
                with pytest.raises(ConnectionResetError):
                    await asked(ports, resetting, tls=tls)
            assert (await asked(ports, one(Web.CUT), tls=tls))[1] == opening(one(Web.CUT))
            endless = one(Web.ENDLESS)
            async with connected(ports, endless, tls=tls) as (reader, writer):
                writer.write(request(endless))
                await reader.readexactly(4 << 20)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
