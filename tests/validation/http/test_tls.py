"""Pages over TLS: certificates are evidence, handshakes that fail are verdicts."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from services.chassis.http_settings import TlsVersion
from services.validation.http.certificates import Connection, covers, facts
from services.validation.http.verdict import Verdict
from tests.validation.http.conftest import fetching, secured
from tests.validation.http.servers import (
    accepting,
    authority,
    handshaking,
    issue,
    never,
    page,
    redirect,
    self_signed,
    serving,
)

NAME = "site.example"


async def test_a_valid_certificate_is_told_with_its_facts(fetcher):
    tls = authority().server(NAME, "*.site.example")
    async with serving(page(b"secret"), tls=tls) as site:
        fetch = await fetcher.fetch(NAME, secured(site.port))

    assert (fetch.verdict, fetch.body) == (Verdict.OK, b"secret")
    assert fetch.final_url == f"https://{NAME}:{site.port}/"
    assert (fetch.tls.version, fetch.tls.valid, fetch.tls.problem) == ("TLSv1.3", True, "")
    assert fetch.tls.names == (NAME, "*.site.example")
    assert fetch.tls.issuer == "Tests, Test authority"
    assert fetch.tls.cipher.startswith("TLS_")
    assert fetch.tls.not_before < datetime.now(UTC) < fetch.tls.not_after
    assert site.connections == 1


@pytest.mark.parametrize(
    ("tls", "problem"),
    [
        (lambda: authority().server(NAME, since=-9, until=-2), "expired"),
        (lambda: authority().server(NAME, since=2, until=9), "not valid before"),
        (lambda: authority().server("other.example"), f"not for {NAME}"),
        (lambda: self_signed(NAME), "self-signed certificate"),
    ],
    ids=["expired", "early", "name", "self-signed"],
)
async def test_a_certificate_that_is_not_valid_is_recorded_and_the_page_read(fetcher, tls, problem):
    async with serving(page(b"page"), tls=tls()) as site:
        fetch = await fetcher.fetch(NAME, secured(site.port))

    assert (fetch.verdict, fetch.body, fetch.attempts) == (Verdict.OK, b"page", 1)
    assert not fetch.tls.valid
    assert problem in fetch.tls.problem
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "tls",
    [
        lambda: authority().server(NAME, since=-9, until=-2),
        lambda: authority().server("other.example"),
        lambda: self_signed(NAME),
    ],
    ids=["expired", "name", "self-signed"],
)
async def test_an_enforced_certificate_ends_the_fetch_and_nothing_is_asked(fetcher, tls):
    async with serving(page(), tls=tls()) as site, serving(page()) as plain:
        settings = secured(site.port, plain.port, enforce_certificates=True)
        fetch = await fetcher.fetch(NAME, settings)

    assert (fetch.verdict, fetch.status) == (Verdict.TLS_CERTIFICATE, 0)
    assert site.requests == plain.requests == []


async def test_an_enforced_certificate_that_is_valid_gives_the_page(fetcher):
    async with serving(page(), tls=authority().server(NAME)) as site:
        fetch = await fetcher.fetch(NAME, secured(site.port, enforce_certificates=True))

    assert fetch.verdict is Verdict.OK


async def test_an_unknown_authority_is_not_trusted(names):
    tls = authority().server(NAME)
    async with serving(page(), tls=tls) as site, fetching(names, roots="") as fetcher:
        fetch = await fetcher.fetch(NAME, secured(site.port))

    assert (fetch.verdict, fetch.tls.valid) == (Verdict.OK, False)
    assert "issuer certificate" in fetch.tls.problem


def old_server() -> ssl.SSLContext:
    context = authority().server(NAME)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_a_version_below_the_floor_is_refused_and_one_above_it_spoken(fetcher):
    with handshaking(old_server()) as port:
        above = await fetcher.fetch(NAME, secured(port))
    async with serving(page(), tls=old_server()) as site:
        below = await fetcher.fetch(NAME, secured(site.port, tls_floor=TlsVersion.TLS_1_0))

    assert (above.verdict, "protocol version" in above.reason) == (Verdict.TLS_HANDSHAKE, True)
    assert (below.verdict, below.tls.version) == (Verdict.OK, "TLSv1")


async def test_a_handshake_that_stalls_is_a_timeout(fetcher):
    async def act(reader, writer):
        await never()

    async with accepting(act) as port:
        fetch = await fetcher.fetch(NAME, secured(port, connect_timeout=0.2))

    assert (fetch.verdict, fetch.reason) == (Verdict.TIMEOUT, "the connection took too long")


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28"])
async def test_a_server_that_speaks_no_tls_is_asked_in_http(fetcher, said):
    async def act(reader, writer):
        await reader.read(1)
        writer.write(said)
        await writer.drain()

    async with accepting(act) as port, serving(page(b"plain")) as site:
        fetch = await fetcher.fetch(NAME, secured(port, site.port))

    assert (fetch.verdict, fetch.body) == (Verdict.OK, b"plain")
    assert [trial.verdict for trial in fetch.trials] == [Verdict.TLS_HANDSHAKE, Verdict.OK]
    assert fetch.trials[0].reason
    assert (fetch.attempts, fetch.tls) == (2, None)


async def test_a_connection_cut_in_the_handshake_is_told(fetcher):
    async def act(reader, writer):
        await reader.read(1)

    async with accepting(act) as port:
        fetch = await fetcher.fetch(NAME, secured(port))

    assert fetch.verdict is Verdict.TLS_HANDSHAKE


async def test_the_nearest_failure_speaks_when_both_schemes_fail(fetcher):
    async def answer(head, writer):
        return b"garbage\r\n\r\n"

    async with serving(answer) as plain, accepting(lambda *_: never()) as mute:
        settings = secured(mute, plain.port, connect_timeout=0.2)
        fetch = await fetcher.fetch(NAME, settings)

    assert fetch.verdict is Verdict.PROTOCOL_ERROR
    assert [trial.verdict for trial in fetch.trials] == [Verdict.TIMEOUT, Verdict.PROTOCOL_ERROR]


async def test_an_https_status_is_final_and_http_not_asked(fetcher):
    tls = authority().server(NAME)
    async with serving(page(status="404 X"), tls=tls) as site, serving(page()) as plain:
        fetch = await fetcher.fetch(NAME, secured(site.port, plain.port))

    assert (fetch.verdict, plain.connections) == (Verdict.NOT_FOUND, 0)


async def test_an_https_that_failed_is_not_asked_again_when_http_redirects_to_it(fetcher):
    connections = 0

    async def act(reader, writer):
        nonlocal connections
        connections += 1

    async with accepting(act) as port, serving(redirect(f"https://{NAME}:{port}/")) as plain:
        fetch = await fetcher.fetch(NAME, secured(port, plain.port))

    assert fetch.verdict is Verdict.TLS_HANDSHAKE
    assert connections == 1


async def test_the_name_is_indicated_though_the_address_is_pinned(fetcher, names):
    indicated = []
    tls = authority().server(NAME)
    tls.sni_callback = lambda _socket, name, _context: indicated.append(name)
    async with serving(page(), tls=tls) as site:
        fetch = await fetcher.fetch(NAME, secured(site.port))

    assert indicated == [NAME]
    assert f"Host: {NAME}:{site.port}" in site.requests[0]
    assert fetch.address == "127.0.0.1"


async def test_a_server_that_wants_a_certificate_of_ours_is_told(fetcher):
    tls = authority().server(NAME)
    tls.verify_mode = ssl.CERT_REQUIRED
    # With 1.3 it is told after the handshake, and the request that crosses it may get a reset.
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    with handshaking(tls) as port:
        fetch = await fetcher.fetch(NAME, secured(port))

    assert (fetch.verdict, "alert" in fetch.reason) == (Verdict.TLS_HANDSHAKE, True)


@pytest.mark.parametrize(
    ("names", "host", "covered"),
    [
        (["site.example"], "site.example", True),
        (["site.example"], "www.site.example", False),
        (["*.site.example"], "www.site.example", True),
        (["*.site.example"], "site.example", False),
        (["*.site.example"], "a.b.site.example", False),
        (["*.example"], "site.example", False),
        (["w*.site.example"], "www.site.example", False),
        (["*.0.0.1"], "127.0.0.1", False),
        (["127.0.0.1"], "127.0.0.1", True),
        ([], "site.example", False),
    ],
)
def test_a_certificate_covers_hosts_as_the_standard_says(names, host, covered):
    assert covers(names, host) is covered


def test_a_certificate_that_cannot_be_read_is_not_valid():
    for der in (b"", b"garbage", b"\x30\x82\xff\xff"):
        read = facts(Connection("TLSv1.3", "X", der, ""), NAME, datetime.now(UTC))

        assert (read.valid, read.not_after, read.names) == (False, None, ())
        assert read.problem


def test_a_certificate_is_judged_by_the_time_given():
    _, certificate = issue(authority(), NAME)
    der = certificate.public_bytes(serialization.Encoding.DER)
    connection = Connection("TLSv1.3", "X", der, "")
    later = datetime.now(UTC) + timedelta(days=31)

    assert facts(connection, NAME, datetime.now(UTC)).valid
    assert facts(connection, NAME, later).problem.startswith("expired")
