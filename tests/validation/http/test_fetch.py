"""Pages fetched over real sockets: what servers do, and what is made of it."""

import asyncio
import gc
import gzip
import random
import socket
import struct
import tracemalloc
import zlib

import brotli
import pytest

from services.validation.http.addresses import AddressPolicy
from services.validation.http.fetch import Fetcher, HostExcluded, Redirect
from services.validation.http.retry import LaneName, lane_of
from services.validation.http.turns import Turns
from services.validation.http.verdict import Truncation, Verdict
from services.validation.http_plans import HttpPlan
from services.validation.windows import Windows
from tests.validation.http.conftest import LOOPBACK, Names, fetching, plain
from tests.validation.http.servers import accepting, never, page, redirect, serving

NAME = "site.example"


def path_of(head: bytes) -> str:
    return head.split()[1].decode()


async def test_a_page_comes_with_its_evidence(fetcher):
    answer = page(b"<p>hello</p>", headers=("Server: test", "Content-Language: de"))
    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.status, fetch.body) == (Verdict.OK, 200, b"<p>hello</p>")
    assert fetch.final_url == f"http://{NAME}:{site.port}/"
    assert (fetch.redirects, fetch.truncation, fetch.tls) == ((), Truncation.NONE, None)
    assert (fetch.headers.content_type, fetch.headers.server) == ("text/html", "test")
    assert fetch.headers.content_language == "de"
    assert (fetch.address, fetch.attempts, fetch.reason) == ("127.0.0.1", 1, "")
    assert 0 < fetch.connect_us < fetch.duration_us
    assert 0 < fetch.first_byte_us < fetch.duration_us


async def test_a_request_says_who_asks_and_whom(fetcher):
    async with serving(page()) as site:
        settings = plain(
            site.port, user_agent="me/1 (+https://me.example/)", headers=(("X-A", "b"),)
        )
        await fetcher.fetch(NAME, settings)

    [head] = site.requests
    assert head.startswith("GET / HTTP/1.1\r\n")
    assert f"Host: {NAME}:{site.port}\r\n" in head
    assert "User-Agent: me/1 (+https://me.example/)\r\n" in head
    assert "X-A: b\r\n" in head
    assert "Accept-Language: en,*;q=0.5\r\n" in head
    assert "Accept-Encoding: gzip, deflate, br\r\n" in head
    assert "Cookie" not in head


async def test_a_persona_without_headers_sends_none_of_its_own(fetcher):
    async with serving(page(b"hello")) as site:
        await fetcher.fetch(NAME, plain(site.port, headers=(), accept_language=""))

    [head] = site.requests
    assert "\r\nAccept:" not in head
    assert "Accept-Language" not in head


@pytest.mark.parametrize("status", [404, 410, 401, 403, 429, 451, 500, 503, 418])
async def test_a_status_that_is_not_allowed_is_a_verdict_without_a_page(fetcher, status):
    answer = page(b"<p>gone</p>", status=f"{status} X", headers=("Retry-After: 120",))
    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.verdict not in (Verdict.OK, Verdict.PROTOCOL_ERROR)
    assert (fetch.status, fetch.body, fetch.retry_after) == (status, b"", 120.0)
    assert fetch.reason == f"status {status}"


async def test_an_allowed_status_gives_its_page(fetcher):
    async with serving(page(b"parked", status="403 No")) as site:
        settings = plain(site.port, allowed_statuses=frozenset({403}))
        fetch = await fetcher.fetch(NAME, settings)

    assert (fetch.verdict, fetch.body) == (Verdict.OK, b"parked")


async def test_a_second_port_is_asked_when_the_first_refuses(fetcher):
    async with serving(page()) as site:
        fetch = await fetcher.fetch(NAME, plain(closed_port(), site.port))

    assert fetch.verdict is Verdict.OK
    assert [trial.verdict for trial in fetch.trials] == [Verdict.CONNECTION_REFUSED, Verdict.OK]
    assert fetch.attempts == 2


# Redirects


async def test_redirects_are_followed_and_kept_as_evidence(fetcher):
    async def answer(head, writer):
        steps = {"/": redirect("/a", status="301 X"), "/a": redirect("b?c", status="308 X")}
        return steps.get(path_of(head), page(b"end"))

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    base = f"http://{NAME}:{site.port}"
    assert fetch.verdict is Verdict.OK
    assert fetch.redirects == (Redirect(f"{base}/", 301), Redirect(f"{base}/a", 308))
    assert fetch.final_url == f"{base}/b?c"


@pytest.mark.parametrize("status", [300, 304, 305, 306, 399])
async def test_another_status_with_a_location_is_not_followed(fetcher, status):
    async with serving(redirect("/a", status=f"{status} X")) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.status) == (Verdict.STATUS_NOT_ALLOWED, status)
    assert len(site.requests) == 1


async def test_a_redirect_in_a_circle_ends_at_once(fetcher):
    async def answer(head, writer):
        return redirect("/b" if path_of(head) == "/" else "/")

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.status) == (Verdict.TOO_MANY_REDIRECTS, 302)
    assert len(site.requests) == 2
    assert fetch.final_url.endswith("/b")
    assert len(fetch.redirects) == 1


async def test_redirects_without_end_stop_at_the_limit(fetcher):
    async def answer(head, writer):
        return redirect(path_of(head) + "x")

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.verdict is Verdict.TOO_MANY_REDIRECTS
    assert len(site.requests) == 11
    assert len(fetch.redirects) == 10


async def test_a_persona_that_follows_nothing_sees_the_redirect_itself(fetcher):
    async with serving(redirect("https://other.example/")) as site:
        settings = plain(site.port, max_redirects=0, allowed_statuses=frozenset({302}))
        fetch = await fetcher.fetch(NAME, settings)

    assert (fetch.verdict, fetch.status) == (Verdict.OK, 302)
    assert fetch.headers.location == "https://other.example/"


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a00:1]/",
        "http://private.example/",
    ],
)
async def test_a_redirect_to_an_address_that_is_not_public_is_not_followed(
    fetcher, names, location
):
    names.answers["private.example"] = [("192.168.0.1",)]
    async with serving(redirect(location)) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port, 80))

    assert (fetch.verdict, fetch.status) == (Verdict.ADDRESS_NOT_ALLOWED, 302)
    assert fetch.final_url == f"http://{NAME}:{site.port}/"
    assert fetch.headers.location == location


async def test_a_redirect_to_a_port_that_is_not_allowed_is_not_followed(fetcher):
    async with (
        serving(page()) as other,
        serving(redirect(f"http://x.example:{other.port}")) as site,
    ):
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.verdict is Verdict.ADDRESS_NOT_ALLOWED
    assert str(other.port) in fetch.reason
    assert other.connections == 0


@pytest.mark.parametrize(
    "location",
    [
        "ftp://other.example/",
        "javascript:alert(1)",
        "http://2130706433/",
        "http://127.1/",
        "http://[",
        "/" + "x" * 2001,
        "http://" + "a" * 3000 + ".example/",
    ],
)
async def test_a_redirect_to_what_may_not_be_asked_for_is_told(fetcher, location):
    async with serving(redirect(location)) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.status) == (Verdict.PROTOCOL_ERROR, 302)
    assert len(site.requests) == 1


async def test_credentials_in_a_redirect_are_not_sent(fetcher):
    async def answer(head, writer):
        port = writer.get_extra_info("sockname")[1]
        if path_of(head) == "/":
            return redirect(f"http://user:secret@other.example:{port}/in#top")
        return page()

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.final_url == f"http://other.example:{site.port}/in"
    assert "uthorization" not in site.requests[1]
    assert f"Host: other.example:{site.port}" in site.requests[1]


async def test_a_redirect_to_an_internationalised_host_asks_for_its_a_labels(fetcher, names):
    async def answer(head, writer):
        port = writer.get_extra_info("sockname")[1]
        if b"xn--" in head:
            return page(b"ok")
        return redirect(f"http://bücher.example:{port}/ß")

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.body == b"ok"
    assert fetch.final_url == f"http://xn--bcher-kva.example:{site.port}/%C3%9F"
    assert names.asked == [NAME, "xn--bcher-kva.example"]


@pytest.mark.parametrize("cookies", [True, False])
async def test_a_cookie_lives_along_the_redirects_of_one_fetch(fetcher, cookies):
    async def answer(head, writer):
        if b"Cookie: seen=1" in head:
            return page(b"in")
        return redirect("/", headers=("Set-Cookie: seen=1; Path=/",))

    async with serving(answer) as site:
        first = await fetcher.fetch(NAME, plain(site.port, cookies=cookies))
        await fetcher.fetch(NAME, plain(site.port, cookies=cookies))

    assert first.verdict is (Verdict.OK if cookies else Verdict.TOO_MANY_REDIRECTS)
    assert "Cookie" not in site.requests[2 if cookies else 1]


async def test_a_cookie_with_a_line_end_in_disguise_is_not_sent(fetcher):
    async def answer(head, writer):
        if b"Cookie: seen=1" in head:
            return page(b"in")
        disguised = r'Set-Cookie: made="1\015\012X-Made: up"; Path=/'
        return redirect("/", headers=(disguised, "Set-Cookie: seen=1; Path=/"))

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.verdict is Verdict.OK
    assert all("X-Made" not in request for request in site.requests)


# Addresses


async def test_a_name_at_a_private_address_is_not_asked(fetcher, names):
    names.answers[NAME] = [("10.0.0.1", "fd00::1")]

    fetch = await fetcher.fetch(NAME, plain(80))

    assert fetch.verdict is Verdict.ADDRESS_NOT_ALLOWED
    assert "10.0.0.0/8" in fetch.reason
    assert (fetch.address, fetch.status) == ("", 0)


async def test_of_several_addresses_only_the_public_ones_are_used(fetcher, names):
    names.answers[NAME] = [("10.0.0.1", "127.0.0.1")]
    async with serving(page()) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.address) == (Verdict.OK, "127.0.0.1")


async def test_a_name_is_resolved_once_so_that_it_cannot_be_bound_anew(fetcher, names):
    names.answers[NAME] = [("127.0.0.1",), ("10.0.0.1",)]

    async def answer(head, writer):
        return page(b"end") if path_of(head) == "/a" else redirect("/a")

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.body) == (Verdict.OK, b"end")
    assert names.asked == [NAME]


async def test_a_name_that_is_bound_anew_between_fetches_is_refused(fetcher, names):
    names.answers[NAME] = [("127.0.0.1",), ("169.254.169.254",)]
    async with serving(page()) as site:
        settings = plain(site.port)
        first = await fetcher.fetch(NAME, settings)
        second = await fetcher.fetch(NAME, settings)

    assert first.verdict is Verdict.OK
    assert second.verdict is Verdict.ADDRESS_NOT_ALLOWED


async def test_addresses_that_are_known_are_not_asked_for_but_judged(fetcher, names):
    async with serving(page()) as site:
        good = await fetcher.fetch(NAME, plain(site.port), addresses=["127.0.0.1"])
        bad = await fetcher.fetch(NAME, plain(site.port), addresses=["10.0.0.1"])

    assert (good.verdict, bad.verdict) == (Verdict.OK, Verdict.ADDRESS_NOT_ALLOWED)
    assert names.asked == []


async def test_an_address_in_a_url_is_judged_too(fetcher):
    async with serving(page()) as site:
        good = await fetcher.fetch_url(f"http://127.0.0.1:{site.port}/x", plain(site.port))
        bad = await fetcher.fetch_url(f"http://10.0.0.1:{site.port}/x", plain(site.port))

    assert (good.verdict, bad.verdict) == (Verdict.OK, Verdict.ADDRESS_NOT_ALLOWED)


async def test_loopback_is_refused_unless_allowed(names):
    async with serving(page()) as site, fetching(names, policy=AddressPolicy()) as fetcher:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.verdict is Verdict.ADDRESS_NOT_ALLOWED
    assert site.connections == 0


async def test_a_name_without_an_address_is_unreachable(fetcher, names):
    names.answers[NAME] = [()]

    fetch = await fetcher.fetch(NAME, plain(80))

    assert (fetch.verdict, fetch.reason) == (Verdict.UNREACHABLE, f"{NAME} has no address")


async def test_what_the_resolver_cannot_say_is_a_verdict(names):
    async def fails(host):
        raise (TimeoutError if host == "mute.example" else OSError)("no answer")

    names.resolve = fails
    async with fetching(names) as fetcher:
        mute = await fetcher.fetch("mute.example", plain(80))
        failing = await fetcher.fetch(NAME, plain(80))

    assert (mute.verdict, failing.verdict) == (Verdict.TIMEOUT, Verdict.UNREACHABLE)


# Bodies


@pytest.mark.parametrize(
    ("coding", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress)],
)
async def test_a_compressed_page_is_decoded(fetcher, coding, encode):
    body = b"<p>hello</p>" * 2000
    async with serving(page(encode(body), headers=(f"Content-Encoding: {coding}",))) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.body) == (Verdict.OK, body)
    assert fetch.truncation is Truncation.NONE


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_a_bomb_is_cut_at_the_limit_in_bounded_memory(fetcher, coding):
    piece = bytes(1 << 20)
    if coding == "br":
        packer = brotli.Compressor(quality=1)
        parts = [packer.process(piece) for _ in range(64)] + [packer.finish()]
    else:
        packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
        parts = [packer.compress(piece) for _ in range(64)] + [packer.flush()]
    answer = page(b"".join(parts), headers=(f"Content-Encoding: {coding}",))
    async with serving(answer) as site:
        await fetcher.fetch(NAME, plain(site.port))
        tracemalloc.start()
        fetch = await fetcher.fetch(NAME, plain(site.port))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert (fetch.verdict, fetch.truncation) == (Verdict.OK, Truncation.SIZE)
    assert fetch.body == bytes(256 * 1024)
    assert peak < 8 << 20


@pytest.mark.parametrize("framing", ["close", "chunked", "length"])
async def test_an_endless_body_is_cut_at_the_limit(fetcher, framing):
    headers = {
        "close": "X: y",
        "chunked": "Transfer-Encoding: chunked",
        "length": "Content-Length:",
    }
    header = headers[framing] + (f" {1 << 40}" if framing == "length" else "")

    async def answer(head, writer):
        writer.write(f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode())
        data = b"1000\r\n" + b"x" * 4096 + b"\r\n" if framing == "chunked" else b"x" * 4096
        while True:
            writer.write(data)
            await writer.drain()

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.truncation) == (Verdict.OK, Truncation.SIZE)
    assert fetch.body == b"x" * 256 * 1024


async def test_a_coding_that_takes_bytes_and_gives_none_is_left(fetcher):
    async def answer(head, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n")
        # Stored blocks of no bytes.
        block = b"\x00\x00\x00\xff\xff" * 1000
        writer.write(b"\x78\x9c")
        while True:
            writer.write(block)
            await writer.drain()

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.truncation, fetch.body) == (Verdict.OK, Truncation.SIZE, b"")


async def test_a_page_of_exactly_the_limit_is_whole(fetcher):
    async with serving(page(b"x" * 2048)) as site:
        whole = await fetcher.fetch(NAME, plain(site.port, body_limit=2048))
        cut = await fetcher.fetch(NAME, plain(site.port, body_limit=2047))

    assert (len(whole.body), whole.truncation) == (2048, Truncation.NONE)
    assert (len(cut.body), cut.truncation) == (2047, Truncation.SIZE)


@pytest.mark.parametrize(
    ("coding", "body"),
    [("gzip", b"<p>not gzip</p>"), ("br", b"\xff<p>not br</p>"), ("zstd", b"x")],
)
async def test_a_body_that_cannot_be_decoded_is_a_protocol_error(fetcher, coding, body):
    async with serving(page(body, headers=(f"Content-Encoding: {coding}",))) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.status) == (Verdict.PROTOCOL_ERROR, 200)


@pytest.mark.parametrize(
    "said",
    [
        # Cut before the length that was announced.
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<p>part",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n<p>part\r\n",
    ],
    ids=["length", "chunked"],
)
async def test_a_body_that_breaks_off_is_used_and_marked(fetcher, said):
    async with serving(said) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.truncation) == (Verdict.OK, Truncation.BROKEN)
    assert fetch.body == b"<p>part"


async def test_bytes_beyond_the_announced_length_are_not_of_the_page(fetcher):
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npageHTTP/1.1 500 forged\r\n\r\n"
    async with serving(said, keep=True) as site:
        settings = plain(site.port)
        first = await fetcher.fetch(NAME, settings)
        second = await fetcher.fetch(NAME, settings)

    assert (first.body, second.body) == (b"page", b"page")


@pytest.mark.parametrize("first", [b"", b"7\r\n<p>part\r\n"], ids=["at once", "later"])
@pytest.mark.parametrize("cut", [True, False])
async def test_garbage_where_a_chunk_should_begin_is_a_protocol_error(fetcher, first, cut):
    async def answer(head, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + first)
        if cut:
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"not a chunk\r\n")
        await never()

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.body) == (Verdict.PROTOCOL_ERROR, b"")


# Clocks


async def test_a_server_that_never_answers_is_a_timeout(fetcher):
    async def answer(head, writer):
        await never()

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port, first_byte_timeout=0.1))

    assert fetch.verdict is Verdict.TIMEOUT
    assert fetch.reason == "the response's headers took too long"
    assert (fetch.address, fetch.status) == ("127.0.0.1", 0)


@pytest.mark.parametrize("drip", [b"H", b"X: y\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_headers_that_drip_do_not_stop_the_clock(fetcher, drip):
    async def answer(head, writer):
        if drip.startswith(b"X"):
            writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(drip if drip != b"H" else b"")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port, first_byte_timeout=0.2))

    assert (fetch.verdict, fetch.status) == (Verdict.TIMEOUT, 0)


async def test_a_page_that_is_not_whole_in_time_is_used_and_marked(fetcher):
    async def answer(head, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n<p>part")
        while True:
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(b".")

    async with serving(answer) as site:
        settings = plain(site.port, connect_timeout=0.2, first_byte_timeout=0.3, total_timeout=0.3)
        fetch = await fetcher.fetch(NAME, settings)

    assert (fetch.verdict, fetch.truncation) == (Verdict.OK, Truncation.TIME)
    assert fetch.body.startswith(b"<p>part.")


async def test_headers_without_a_page_in_time_are_a_timeout_with_a_status(fetcher):
    async def answer(head, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await never()

    async with serving(answer) as site:
        settings = plain(site.port, connect_timeout=0.2, first_byte_timeout=0.2, total_timeout=0.2)
        fetch = await fetcher.fetch(NAME, settings)

    assert (fetch.verdict, fetch.status, fetch.body) == (Verdict.TIMEOUT, 200, b"")


async def test_a_server_that_does_not_accept_is_a_timeout(fetcher):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        # They fill the queue, which nobody empties.
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        fetch = await fetcher.fetch(NAME, plain(port, connect_timeout=0.2))
        for one in waiting:
            one.close()

    assert (fetch.verdict, fetch.reason) == (Verdict.TIMEOUT, "the connection took too long")


# Connections and protocol


async def test_a_refused_connection_is_told(fetcher):
    fetch = await fetcher.fetch(NAME, plain(closed_port()))

    assert (fetch.verdict, fetch.reason) == (Verdict.CONNECTION_REFUSED, "connection refused")
    assert fetch.address == ""


async def test_of_several_addresses_one_that_answers_is_enough(fetcher, names):
    names.answers[NAME] = [("127.0.0.2", "127.0.0.1")]
    async with serving(page()) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.address) == (Verdict.OK, "127.0.0.1")


async def test_several_addresses_that_refuse_are_a_refusal(fetcher, names):
    names.answers[NAME] = [("127.0.0.2", "127.0.0.1", "127.0.0.3")]

    fetch = await fetcher.fetch(NAME, plain(closed_port()))

    assert fetch.verdict is Verdict.CONNECTION_REFUSED


def reset(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_a_reset_connection_is_told_and_not_asked_again(fetcher):
    async def answer(head, writer):
        reset(writer)

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.verdict is Verdict.CONNECTION_RESET
    assert (site.connections, fetch.attempts) == (1, 1)


async def test_a_connection_closed_without_an_answer_is_told_and_not_asked_again(fetcher):
    async def answer(head, writer):
        return None

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.verdict is Verdict.CONNECTION_RESET
    assert site.connections == 1


async def test_a_reset_in_the_body_keeps_what_came(fetcher):
    async def answer(head, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n<p>part")
        await writer.drain()
        await asyncio.sleep(0.05)
        reset(writer)

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.truncation) == (Verdict.OK, Truncation.BROKEN)
    assert fetch.body == b"<p>part"


@pytest.mark.parametrize(
    "said",
    [
        b"220 mail.example ESMTP\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"HTTP/2.7.1 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"<html>no head</html>\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_told(fetcher, said):
    async with serving(said) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.status) == (Verdict.PROTOCOL_ERROR, 0)
    assert fetch.reason


@pytest.mark.parametrize(
    "line",
    [b"X-Filler: " + b"y" * 1000 + b"\r\n", b"X: y\r\n", b"y" * 1000],
    ids=["large", "small", "one"],
)
async def test_a_flood_of_headers_ends_in_bounded_memory(fetcher, line):
    async def answer(head, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(line * 20)
            await writer.drain()

    async with serving(answer) as site:
        tracemalloc.start()
        fetch = await fetcher.fetch(NAME, plain(site.port))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert fetch.verdict is Verdict.PROTOCOL_ERROR
    assert peak < 8 << 20


async def test_headers_have_a_limit_together(fetcher):
    answer = page(headers=tuple(f"X-{number}: {'y' * 1000}" for number in range(30)))
    async with serving(answer) as site:
        fits = await fetcher.fetch(NAME, plain(site.port))
        cut = await fetcher.fetch(NAME, plain(site.port, header_limit=16 * 1024))

    assert (fits.verdict, cut.verdict) == (Verdict.OK, Verdict.PROTOCOL_ERROR)
    assert "headers" in cut.reason


async def test_a_flood_of_interim_responses_ends_at_the_limit_of_headers(fetcher):
    sent = 0

    async def answer(head, writer):
        nonlocal sent
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" * 100)
            sent += 1
            await writer.drain()

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (fetch.verdict, fetch.reason) == (Verdict.PROTOCOL_ERROR, "more headers than allowed")
    assert sent < 2000


async def test_a_page_after_interim_responses_is_a_page(fetcher):
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2
    async with serving(interim + page(b"x" * 200_000)) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port, header_limit=1024))

    assert (fetch.verdict, fetch.status, len(fetch.body)) == (Verdict.OK, 200, 200_000)


async def test_a_large_page_that_comes_with_its_headers_is_no_flood(fetcher):
    async with serving(page(b"x" * 200_000)) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port, header_limit=1024))

    assert (fetch.verdict, len(fetch.body)) == (Verdict.OK, 200_000)


async def test_header_bytes_that_are_no_text_do_no_harm(fetcher):
    said = b"HTTP/1.1 200 OK\r\nServer: \xff\xfe\r\nContent-Type: text/\xc3\xbc\r\n\r\nx"
    async with serving(said) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.headers.server == "\ufffd\ufffd"
    assert fetch.headers.content_type == "text/ü"


async def test_a_kept_connection_serves_the_next_request(fetcher):
    async def answer(head, writer):
        return redirect("/a") if path_of(head) == "/" else page()

    async with serving(answer, keep=True) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert (site.connections, len(site.requests)) == (1, 2)
    assert fetch.address == "127.0.0.1"
    assert fetch.connect_us == 0


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(fetcher):
    async def answer(head, writer):
        if path_of(head) == "/":
            return redirect("/a")
        if len(site.requests) == 2:
            writer.transport.abort()
            return None
        return page()

    async with serving(answer, keep=True) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port))

    assert fetch.verdict is Verdict.OK
    assert site.connections == 2


async def test_what_a_kept_connection_says_unasked_is_no_answer(fetcher):
    said = asyncio.Event()

    async def answer(head, writer):
        if site.connections > 1:
            return page(b"asked for")
        # When the first answer was read and the connection is kept.
        asyncio.get_running_loop().call_later(0.05, speak, writer)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"

    def speak(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nunasked")
        said.set()

    async with serving(answer, keep=True) as site:
        first = await fetcher.fetch(NAME, plain(site.port))
        await said.wait()
        # It arrives within some turns of the loop.
        for _ in range(10):
            await asyncio.sleep(0)
        second = await fetcher.fetch(NAME, plain(site.port))

    assert (first.body, second.body) == (b"first", b"asked for")
    assert site.connections == 2


async def test_a_persona_without_keep_alive_says_so(fetcher):
    async with serving(page()) as site:
        await fetcher.fetch(NAME, plain(site.port, keep_alive=False))

    assert "Connection: close\r\n" in site.requests[0]


# Courtesy


async def test_a_host_is_asked_by_no_more_at_once_than_the_persona_says(fetcher):
    there = most = 0

    async def answer(head, writer):
        nonlocal there, most
        there += 1
        most = max(most, there)
        await asyncio.sleep(0.01)
        there -= 1
        return page()

    async with serving(answer) as site:
        settings = plain(site.port, host_concurrency=2)
        fetches = await asyncio.gather(*(fetcher.fetch(NAME, settings) for _ in range(10)))

    assert {fetch.verdict for fetch in fetches} == {Verdict.OK}
    assert most == 2


async def test_an_address_is_asked_by_no_more_at_once_whatever_the_name(names):
    there = most = 0
    turns = Turns()

    async def answer(head, writer):
        nonlocal there, most
        there += 1
        most = max(most, there)
        await asyncio.sleep(0.01)
        there -= 1
        return page()

    async with serving(answer) as site, fetching(names, turns=turns) as fetcher:
        settings = plain(site.port, address_concurrency=3)
        await asyncio.gather(*(fetcher.fetch(f"n{n}.example", settings) for n in range(12)))

    assert most == 3
    assert len(turns) == 0


async def test_waiting_for_a_turn_does_not_count_against_the_time(fetcher):
    async def answer(head, writer):
        await asyncio.sleep(0.1)
        return page()

    async with serving(answer) as site:
        settings = plain(
            site.port,
            host_concurrency=1,
            connect_timeout=0.3,
            first_byte_timeout=0.3,
            total_timeout=0.3,
        )
        fetches = await asyncio.gather(*(fetcher.fetch(NAME, settings) for _ in range(6)))

    assert {fetch.verdict for fetch in fetches} == {Verdict.OK}


async def test_who_waits_for_a_turn_lets_others_have_his_place(names):
    windows, plan, asked, go_on = Windows(), HttpPlan(window=2), asyncio.Event(), asyncio.Event()

    async def answer(head, writer):
        asked.set()
        await go_on.wait()
        return page()

    async def fetched(fetcher, settings, name):
        place = await windows.enter(plan)
        try:
            return await fetcher.fetch(name, settings, place=place)
        finally:
            place.leave()

    async with serving(answer) as site, fetching(names) as fetcher:
        settings = plain(site.port, address_concurrency=1)
        first, second = [
            asyncio.create_task(fetched(fetcher, settings, f"{n}.example")) for n in "ab"
        ]
        await asked.wait()
        # The other one waits for the address and does not keep this one waiting.
        elsewhere = await windows.enter(plan)
        assert len(site.requests) == 1
        go_on.set()
        assert (await first).verdict is Verdict.OK
        assert (await second).verdict is Verdict.OK
        elsewhere.leave()

    assert windows.in_flight == 0


async def test_a_fetch_counts_where_it_is_connected_to(names):
    turns, asked, go_on = Turns(), asyncio.Event(), asyncio.Event()
    first, second = ("address", "127.0.0.9"), ("address", "127.0.0.1")
    # Nobody listens at the first.
    names.answers[NAME] = [("127.0.0.9", "127.0.0.1")]

    async def answer(head, writer):
        asked.set()
        await go_on.wait()
        return page()

    async with serving(answer) as site, fetching(names, turns=turns) as fetcher:
        settings = plain(site.port, address_concurrency=1, address_rate=1000)
        fetch = asyncio.create_task(fetcher.fetch(NAME, settings))
        await asked.wait()
        assert (turns.enter(second, 1), turns.enter(first, 1)) == (False, True)
        turns.give(first)
        go_on.set()
        assert (await fetch).address == "127.0.0.1"

    assert turns.enter(second, 1)


# Consent


def robots(answer: bytes):
    async def served(head, writer):
        return answer if path_of(head) == "/robots.txt" else page(b"page")

    return served


@pytest.mark.parametrize(
    ("answer", "verdict", "requests"),
    [
        (page(b"User-agent: *\nDisallow: /"), Verdict.EXCLUDED, 1),
        (page(b"User-agent: domainflow\nDisallow: /"), Verdict.EXCLUDED, 1),
        (page(b"User-agent: *\nDisallow: /private"), Verdict.OK, 2),
        (page(status="404 X"), Verdict.OK, 2),
        (page(status="403 X"), Verdict.OK, 2),
        (page(status="500 X"), Verdict.SERVER_ERROR, 1),
        (page(status="429 X"), Verdict.RATE_LIMITED, 1),
        (redirect("http://10.0.0.1/robots.txt"), Verdict.OK, 2),
        (redirect("/robots.txt"), Verdict.OK, 7),
        (b"", Verdict.CONNECTION_RESET, 1),
    ],
)
async def test_robots_txt_is_obeyed(fetcher, answer, verdict, requests):
    async with serving(robots(answer)) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port, 80, respect_robots=True))

    assert fetch.trials[0].verdict is verdict
    assert len(site.requests) == requests
    assert site.requests[0].startswith("GET /robots.txt ")
    assert (fetch.body == b"page") == (verdict is Verdict.OK)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_robots_txt_that_is_asked_too_much_says_when_to_come_again(fetcher, status):
    answer = page(status=f"{status} X", headers=("Retry-After: 120",))
    async with serving(robots(answer)) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port, respect_robots=True))

    assert (fetch.status, fetch.retry_after) == (status, 120)
    assert fetch.final_url == f"http://{NAME}:{site.port}/robots.txt"
    assert lane_of(fetch.verdict, fetch.status) is LaneName.RATE_LIMITED
    assert fetch.body == b""


async def test_a_robots_txt_that_is_asked_too_much_is_not_asked_for_by_everybody(fetcher):
    async def answer(head, writer):
        await asyncio.sleep(0.05)
        return page(status="429 X", headers=("Retry-After: 120",))

    async with serving(answer) as site:
        settings = plain(site.port, respect_robots=True)
        fetches = await asyncio.gather(*(fetcher.fetch(NAME, settings) for _ in range(5)))
        asked = len(site.requests)
        later = await fetcher.fetch(NAME, settings)

    told = {(each.verdict, each.status, each.retry_after) for each in (*fetches, later)}
    assert told == {(Verdict.RATE_LIMITED, 429, 120)}
    # Who comes later asks for himself.
    assert (asked, len(site.requests)) == (1, 2)


async def test_what_led_to_a_robots_txt_that_is_asked_too_much_is_told(fetcher):
    async def answer(head, writer):
        port = writer.get_extra_info("sockname")[1]
        if b"Host: other" in head:
            return page(status="429 X", headers=("Retry-After: 7",))
        if path_of(head) == "/robots.txt":
            return page(status="404 X")
        return redirect(f"http://other.example:{port}/")

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port, respect_robots=True))

    assert (fetch.verdict, fetch.retry_after) == (Verdict.RATE_LIMITED, 7)
    assert [(each.url, each.status) for each in fetch.redirects] == [
        (f"http://{NAME}:{site.port}/", 302)
    ]


class Noted:
    """A place that says whether its name is aside."""

    def __init__(self) -> None:
        self.is_aside = False
        self.steps = 0

    def step_aside(self) -> None:
        self.is_aside = True
        self.steps += 1

    async def come_back(self) -> None:
        self.is_aside = False


class NamesOf(Names):
    """Notes at each question who of the places' names is aside."""

    def __init__(self, *places: Noted) -> None:
        super().__init__()
        self.places = places
        self.aside: list[list[bool]] = []

    async def resolve(self, host):
        self.aside.append([place.is_aside for place in self.places])
        return await super().resolve(host)


async def test_whoever_waited_for_anothers_robots_txt_has_his_place_again_to_resolve():
    places = Noted(), Noted()
    names = NamesOf(*places)
    async with fetching(names) as fetcher, serving(robots(page(b"User-agent: *"))) as site:
        settings = plain(site.port, respect_robots=True)
        await asyncio.gather(*(fetcher.fetch(NAME, settings, place=place) for place in places))

    assert [place.steps for place in places] == [0, 1]
    assert names.aside == [[False, False]] * 2


async def test_waiting_for_anothers_robots_txt_does_not_count_against_the_time(fetcher):
    waits = 0.2

    async def answer(head, writer):
        if path_of(head) == "/robots.txt":
            await asyncio.sleep(waits)
            return page(b"User-agent: *\nDisallow: /no")
        await asyncio.sleep(waits)
        return page()

    async with serving(answer) as site:
        patient, hasty = (
            plain(
                site.port,
                respect_robots=True,
                connect_timeout=limit,
                first_byte_timeout=limit,
                total_timeout=limit,
            )
            for limit in (5, 1.5 * waits)
        )
        fetches = await asyncio.gather(fetcher.fetch(NAME, patient), fetcher.fetch(NAME, hasty))

    assert [fetch.verdict for fetch in fetches] == [Verdict.OK, Verdict.OK]


async def test_a_robots_txt_that_does_not_come_is_not_asked_for_by_one_after_the_other(fetcher):
    async def answer(head, writer):
        await never()

    async with serving(answer) as site:
        settings = plain(site.port, respect_robots=True, first_byte_timeout=0.2)
        fetches = await asyncio.gather(*(fetcher.fetch(NAME, settings) for _ in range(5)))
        asked = len(site.requests)
        later = await fetcher.fetch(NAME, settings)

    assert {fetch.verdict for fetch in (*fetches, later)} == {Verdict.TIMEOUT}
    assert (asked, len(site.requests)) == (1, 2)


@pytest.mark.parametrize("hostile", ["endless", "bomb", "headers"])
async def test_a_hostile_robots_txt_ends_in_bounded_memory(fetcher, hostile):
    bomb = gzip.compress(bytes(64 << 20))

    async def answer(head, writer):
        if path_of(head) != "/robots.txt":
            return page(b"page")
        if hostile == "bomb":
            return page(bomb, headers=("Content-Encoding: gzip",))
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"\r\n" * (hostile == "endless"))
        line = b"Disallow: /x\n" if hostile == "endless" else b"X: y\r\n"
        while True:
            writer.write(line * 1000)
            await writer.drain()

    async with serving(answer) as site:
        tracemalloc.start()
        fetch = await fetcher.fetch(NAME, plain(site.port, respect_robots=True))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert fetch.verdict is (Verdict.PROTOCOL_ERROR if hostile == "headers" else Verdict.OK)
    assert peak < 16 << 20


async def test_robots_txt_is_asked_for_once_of_many_at_once(fetcher):
    async with serving(robots(page(b"User-agent: *\nDisallow: /no"))) as site:
        settings = plain(site.port, respect_robots=True)
        fetches = [fetcher.fetch(NAME, settings, path=path) for path in ("/a", "/no", "/b")]
        verdicts = [fetch.verdict for fetch in await asyncio.gather(*fetches)]

    assert verdicts == [Verdict.OK, Verdict.EXCLUDED, Verdict.OK]
    assert sum("/robots.txt" in head for head in site.requests) == 1


async def test_the_robots_txt_of_a_redirects_host_is_obeyed(fetcher):
    async def answer(head, writer):
        port = writer.get_extra_info("sockname")[1]
        if b"Host: other" in head:
            return page(b"User-agent: *\nDisallow: /")
        if path_of(head) == "/robots.txt":
            return page(status="404 X")
        return redirect(f"http://other.example:{port}/")

    async with serving(answer) as site:
        fetch = await fetcher.fetch(NAME, plain(site.port, respect_robots=True))

    assert (fetch.verdict, fetch.status) == (Verdict.EXCLUDED, 302)


@pytest.mark.parametrize("path", ["/", "/robots.txt"])
async def test_a_host_that_does_not_want_to_be_asked_is_not_even_along_a_redirect(path):
    async def resolve(host):
        if host == "never.example":
            raise HostExcluded(f"{host} is on a list")
        return ("127.0.0.1",)

    async def answer(head, writer):
        port = writer.get_extra_info("sockname")[1]
        leads = path_of(head) == path
        return redirect(f"http://never.example:{port}/") if leads else page(status="404 X")

    async with Fetcher(resolve, policy=LOOPBACK) as fetcher, serving(answer) as site:
        settings = plain(site.port, respect_robots=path != "/")
        listed = await fetcher.fetch("never.example", settings)
        led = await fetcher.fetch(NAME, settings)

    assert (listed.verdict, listed.reason) == (Verdict.EXCLUDED, "never.example is on a list")
    # A robots.txt that lies there is none.
    assert led.verdict is (Verdict.EXCLUDED if path == "/" else Verdict.NOT_FOUND)
    assert all("never" not in head.partition("Host:")[2] for head in site.requests)


async def test_a_fetch_that_is_cancelled_leaves_nobody_waiting(names):
    turns, asked = Turns(), asyncio.Event()

    async def answer(head, writer):
        asked.set()
        await never()

    async with serving(answer) as site, fetching(names, turns=turns) as fetcher:
        settings = plain(site.port, host_concurrency=1)
        fetches = [asyncio.create_task(fetcher.fetch(NAME, settings)) for _ in range(3)]
        await asyncio.wait_for(asked.wait(), 10)
        for fetch in fetches:
            fetch.cancel()
        await asyncio.wait(fetches)

    assert all(fetch.cancelled() for fetch in fetches)
    assert len(turns) == 0


async def test_a_page_does_not_wait_for_the_collector_of_garbage(fetcher, names):
    # The first of them refuses.
    names.answers[NAME] = [("127.0.0.9", "127.0.0.1")]
    async with serving(page(b"a page as no other")) as site:
        gc.collect()
        gc.disable()
        try:
            body = (await fetcher.fetch(NAME, plain(site.port))).body
            # What it was put together of.
            lists = [it for it in gc.get_objects() if type(it) is list and len(it) == 1]
        finally:
            gc.enable()

    assert body == b"a page as no other"
    assert not [it for it in lists if type(it[0]) is bytes and it[0] == body]


async def test_whoever_speaks_before_he_is_asked_is_no_http_server(fetcher):
    async def act(reader, writer):
        writer.write(b"220 ready\r\n" * 10)
        await writer.drain()
        await never()

    async with accepting(act) as port:
        fetch = await fetcher.fetch(NAME, plain(port, first_byte_timeout=2))

    assert fetch.verdict in (Verdict.PROTOCOL_ERROR, Verdict.CONNECTION_RESET)


async def test_no_response_however_damaged_is_an_error(fetcher):
    seed = 20261122
    chance = random.Random(seed)
    coded = gzip.compress(b"<p>hello</p>" * 50)
    whole = [
        page(b"<p>hello</p>", headers=("Set-Cookie: a=b", "Retry-After: soon")),
        page(coded, headers=("Content-Encoding: gzip",)),
        page(coded, headers=("Content-Encoding: br",)),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
        redirect("//\u00e4[::1]:99/%zz?#", headers=("Set-Cookie: =;=,;Path",)),
    ]

    async def answer(head, writer):
        said = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(said))
            said[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        return bytes(said)

    async with serving(answer) as site:
        settings = plain(
            site.port, connect_timeout=1, first_byte_timeout=1, total_timeout=1, max_redirects=2
        )
        for _ in range(300):
            fetch = await fetcher.fetch(NAME, settings)
            assert fetch.verdict in Verdict, seed
            assert (fetch.verdict is Verdict.OK) == (fetch.reason == ""), (seed, fetch)


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
