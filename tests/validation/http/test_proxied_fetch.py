"""Pages fetched through real proxies: what they are told, and what is made of their failures."""

import asyncio
from dataclasses import replace

import pytest
import uvloop

from services.chassis.secrets import Secret
from services.validation.http.addresses import AddressPolicy
from services.validation.http.proxies import Proxy, Scheme
from services.validation.http.proxy_pool import Health, HealthRules, Result, Strategy
from services.validation.http.verdict import Verdict
from tests.validation.http.conftest import fetching, plain, secured
from tests.validation.http.proxies import Source, proxying
from tests.validation.http.servers import (
    accepting,
    authority,
    never,
    page,
    redirect,
    self_signed,
    serving,
)

NAME = "site.example"
ALL = [Scheme.HTTP, Scheme.HTTPS, Scheme.SOCKS5]


def own_tls(scheme: Scheme):
    """A proxy's own side of TLS, for its host in `proxy()`."""
    return authority().server("localhost") if scheme is Scheme.HTTPS else None


def host_of(scheme: Scheme) -> str:
    return "localhost" if scheme is Scheme.HTTPS else "127.0.0.1"


async def fetch_through(names, source, settings, **changes):
    async with fetching(names, proxies=source, **changes) as fetcher:
        return await fetcher.fetch(NAME, settings)


# What a proxy is told


@pytest.mark.parametrize("user", ["", "somebody"])
@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize("is_secured", [False, True])
async def test_a_page_comes_through_every_kind_of_proxy(names, scheme, is_secured, user):
    tls = authority().server(NAME) if is_secured else None
    password = "pass:wörd" if user else ""
    async with (
        serving(page(), tls=tls) as site,
        proxying(scheme, user=user, password=password, tls=own_tls(scheme)) as server,
    ):
        source = Source(server.proxy(host_of(scheme)))
        settings = (secured if is_secured else plain)(site.port)
        fetch = await fetch_through(names, source, settings)

    assert (fetch.verdict, fetch.body) == (Verdict.OK, b"<p>hello</p>")
    assert fetch.proxy == f"{scheme}://{host_of(scheme)}:{server.port}"
    # Told the address, not the name; the site is told the name, in origin form.
    assert server.places == [f"127.0.0.1:{site.port}"]
    assert NAME not in "".join(server.heads)
    [head] = site.requests
    assert head.startswith("GET / HTTP/1.1\r\n")
    assert f"Host: {NAME}:{site.port}\r\n" in head
    assert "Proxy-" not in head
    assert (fetch.address, fetch.tls is not None) == ("127.0.0.1", is_secured)
    assert fetch.tls is None or (fetch.tls.valid and fetch.tls.names == (NAME,))
    assert source.results == [("0", Result.WORKED, "")]


async def test_one_connection_serves_the_requests_of_a_fetch(names):
    async def answer(head, writer):
        return redirect("/there") if b"GET / " in head else page()

    async with serving(answer, keep=True) as site, proxying() as server:
        source = Source(server.proxy())
        fetch = await fetch_through(names, source, plain(site.port, respect_robots=True))

    assert fetch.verdict is Verdict.OK
    assert len(site.requests) == 3
    assert server.connections == 1
    assert fetch.address == "127.0.0.1"


async def test_a_connection_is_kept_for_requests_through_its_proxy_alone(names):
    async with serving(page(), keep=True) as site, proxying() as one, proxying() as other:
        source = Source(one.proxy(), other.proxy())
        async with fetching(names, proxies=source) as fetcher:
            for _ in range(4):
                await fetcher.fetch(NAME, plain(site.port))

    assert len(site.requests) == 4
    assert (one.connections, other.connections) == (1, 1)


async def test_a_certificate_that_is_not_trusted_is_recorded_through_a_proxy_too(names):
    async with serving(page(), tls=self_signed(NAME)) as site, proxying() as server:
        fetch = await fetch_through(names, Source(server.proxy()), secured(site.port))

    assert fetch.verdict is Verdict.OK
    assert fetch.tls is not None
    assert not fetch.tls.valid


async def test_the_next_address_is_asked_for_when_a_proxy_cannot_reach_one(names):
    names.answers[NAME] = [("127.0.0.9", "127.0.0.1")]
    for scheme in (Scheme.HTTP, Scheme.SOCKS5):
        async with serving(page()) as site, proxying(scheme) as server:
            fetch = await fetch_through(names, Source(server.proxy()), plain(site.port))

        assert (fetch.verdict, fetch.address) == (Verdict.OK, "127.0.0.1")
        assert server.places == [f"127.0.0.9:{site.port}", f"127.0.0.1:{site.port}"]


# Safety


async def test_a_proxy_is_never_told_an_address_that_is_not_allowed(names):
    names.answers[NAME] = [("10.0.0.1",)]
    async with proxying() as server:
        fetch = await fetch_through(names, Source(server.proxy()), plain(80))

    assert fetch.verdict is Verdict.ADDRESS_NOT_ALLOWED
    assert server.connections == 0


@pytest.mark.parametrize("target", ["http://169.254.169.254/", "http://metadata.example/"])
async def test_a_redirect_to_a_metadata_address_does_not_reach_the_proxy(names, target):
    names.answers["metadata.example"] = [("169.254.169.254",)]
    async with serving(lambda *_: said(redirect(target))) as site, proxying() as server:
        settings = plain(site.port, 80)
        fetch = await fetch_through(names, Source(server.proxy()), settings)

    assert fetch.verdict is Verdict.ADDRESS_NOT_ALLOWED
    assert server.places == [f"127.0.0.1:{site.port}"]


async def test_a_proxy_that_redirects_is_not_followed(names):
    async def instead(place):
        return redirect("http://169.254.169.254/latest/meta-data/")

    async with proxying(instead=instead) as server:
        fetch = await fetch_through(names, Source(server.proxy()), secured(443))

    assert (fetch.verdict, fetch.redirects, fetch.status) == (Verdict.PROXY_ERROR, (), 0)
    assert server.connections == 1


async def test_a_proxy_at_an_address_that_is_not_allowed_is_not_connected_to(names):
    async with serving(page()) as site, proxying() as server:
        policy = AddressPolicy.parse(allowed=["127.0.0.1/32"])
        elsewhere = server.proxy("127.0.0.2")
        fetch = await fetch_through(names, Source(elsewhere), plain(site.port), policy=policy)

    assert fetch.verdict is Verdict.PROXY_ERROR
    assert fetch.reason == "the proxy: 127.0.0.2 is in 127.0.0.0/8 (Loopback)"
    assert server.connections == 0


async def test_a_proxy_gets_its_password_only_when_it_proves_to_be_it(names):
    async with serving(page()) as site:
        for tls in (self_signed("localhost"), authority().server("other.example")):
            async with proxying(Scheme.HTTPS, user="u", password="p", tls=tls) as server:
                source = Source(server.proxy("localhost"))
                fetch = await fetch_through(names, source, plain(site.port))

            assert fetch.verdict is Verdict.PROXY_ERROR
            assert server.heads == []
            assert [result for _, result, _ in source.results] == [Result.FAILED]


async def test_what_is_trusted_for_sites_is_not_trusted_for_proxies(names):
    async with serving(page()) as site:
        tls = authority().server("localhost")
        async with proxying(Scheme.HTTPS, user="u", password="p", tls=tls) as server:
            source = Source(server.proxy("localhost"))
            settings = plain(site.port)
            fetch = await fetch_through(names, source, settings, proxy_trust=None)

    assert fetch.verdict is Verdict.PROXY_ERROR
    assert "certificate" in fetch.reason
    assert server.heads == []


async def test_without_a_usable_proxy_nothing_is_asked(names):
    async with serving(page()) as site:
        fetch = await fetch_through(names, Source(), plain(site.port))

    assert (fetch.verdict, fetch.reason) == (
        Verdict.PROXY_ERROR,
        "no proxy of the pool can be used now",
    )
    assert site.connections == 0
    assert fetch.proxy == ""


# Failures of proxies


def saying(text: bytes):
    async def instead(place):
        return text

    return instead


async def said(text: bytes) -> bytes:
    return text


FAILURES = [
    (Scheme.HTTP, b"HTTP/1.1 407 No\r\n\r\n", "credentials (407)"),
    (Scheme.HTTP, b"HTTP/1.1 403 No\r\n\r\n", "refused the tunnel (403)"),
    (Scheme.HTTP, b"HTTP/1.1 500 No\r\n\r\n", "refused the tunnel (500)"),
    (Scheme.HTTP, b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP"),
    (Scheme.HTTP, b"HTTP/1.1 2000 OK\r\n\r\n", "no HTTP"),
    (Scheme.HTTP, b"HTTP/1.1 200 OK\r\n\r\nand more", "more than it was asked"),
    (Scheme.HTTP, b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000, "more than 16,384 bytes"),
    (Scheme.HTTP, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", "more than 16,384"),
    (Scheme.HTTP, b"HTTP/1.1 200", "without an answer"),
    (Scheme.HTTP, b"", "without an answer"),
    (Scheme.SOCKS5, b"\x05\x01\x00\x01" + bytes(6), "general failure"),
    (Scheme.SOCKS5, b"\x05\x02\x00\x01" + bytes(6), "not allowed by its rules"),
    (Scheme.SOCKS5, b"\x05\x99\x00\x01" + bytes(6), "reply 153"),
    (Scheme.SOCKS5, b"HTTP/1.1 400 Bad\r\n\r\n", "no SOCKS5"),
    (Scheme.SOCKS5, b"\x05\x00\x00\x07" + bytes(6), "no SOCKS5"),
    (Scheme.SOCKS5, b"\x05\x00\x00\x01" + bytes(60), "more than it was asked"),
    (Scheme.SOCKS5, b"\x05\x00", "without an answer"),
]


@pytest.mark.parametrize(("scheme", "answer", "reason"), FAILURES)
async def test_a_failure_of_the_proxy_is_no_verdict_on_the_site(names, scheme, answer, reason):
    async with proxying(scheme, instead=saying(answer)) as server:
        source = Source(server.proxy())
        fetch = await fetch_through(names, source, secured(443, http=8080))

    assert fetch.verdict is Verdict.PROXY_ERROR
    assert reason in fetch.reason
    assert fetch.proxy == server.proxy().label
    # Once, although https and http were to be asked for, and no other was there.
    assert source.results == [("0", Result.FAILED, fetch.reason)]
    assert server.connections == 1


@pytest.mark.parametrize("scheme", [Scheme.HTTP, Scheme.SOCKS5])
async def test_wrong_credentials_are_the_proxys_failure(names, scheme):
    async with proxying(scheme, user="u", password="right") as server:
        for change in ({"password": "wrong"}, {"user": "", "password": ""}):
            source = Source(server.proxy(**change))
            fetch = await fetch_through(names, source, plain(80))

            assert fetch.verdict is Verdict.PROXY_ERROR
            assert "does not take" in fetch.reason
            assert "wrong" not in repr(source.results)


OF_THE_SITE = [
    (Scheme.HTTP, b"HTTP/1.1 502 No\r\n\r\n", Verdict.UNREACHABLE),
    (Scheme.HTTP, b"HTTP/1.1 504 No\r\n\r\n", Verdict.TIMEOUT),
    (Scheme.HTTP, b"HTTP/1.1 503 No\r\n\r\n", Verdict.PROXY_ERROR),
    (Scheme.SOCKS5, b"\x05\x03\x00\x01" + bytes(6), Verdict.UNREACHABLE),
    (Scheme.SOCKS5, b"\x05\x04\x00\x01" + bytes(6), Verdict.UNREACHABLE),
    (Scheme.SOCKS5, b"\x05\x05\x00\x01" + bytes(6), Verdict.CONNECTION_REFUSED),
    (Scheme.SOCKS5, b"\x05\x06\x00\x01" + bytes(6), Verdict.TIMEOUT),
]


@pytest.mark.parametrize(("scheme", "answer", "verdict"), OF_THE_SITE)
async def test_what_a_proxy_says_of_the_site_counts_neither_way(names, scheme, answer, verdict):
    async with proxying(scheme, instead=saying(answer)) as server:
        source = Source(server.proxy())
        fetch = await fetch_through(names, source, secured(443))

    assert fetch.verdict is verdict
    assert [result for _, result, _ in source.results] == [Result.UNKNOWN]


async def test_a_proxy_that_lets_tunnels_lead_to_443_only_is_not_taken_out(names):
    async with proxying(instead=saying(b"HTTP/1.1 403 Forbidden\r\n\r\n")) as server:
        source = Source(server.proxy())
        fetch = await fetch_through(names, source, plain(80))

    assert (fetch.verdict, fetch.reason) == (
        Verdict.PROXY_ERROR,
        "the proxy lets no tunnel through to port 80 (403)",
    )
    assert [result for _, result, _ in source.results] == [Result.UNKNOWN]


async def test_who_lets_a_request_not_through_is_passed_over_for_it(names):
    for answer in (b"HTTP/1.1 403 No\r\n\r\n", b"HTTP/1.1 503 No\r\n\r\n"):
        async with (
            serving(page()) as site,
            proxying(instead=saying(answer)) as strict,
            proxying() as free,
        ):
            source = Source(strict.proxy(), free.proxy())
            fetch = await fetch_through(names, source, plain(site.port))

        assert fetch.verdict is Verdict.OK
        assert [result for _, result, _ in source.results] == [Result.UNKNOWN, Result.WORKED]


async def test_who_lets_http_not_through_is_asked_for_https(names):
    async def instead(place):
        return b"HTTP/1.1 403 No\r\n\r\n" if place.endswith(":8080") else None

    tls = authority().server(NAME)
    async with serving(page(), tls=tls) as site, proxying(instead=instead) as server:
        source = Source(server.proxy())
        settings = replace(secured(site.port, http=8080), schemes=("http", "https"))
        fetch = await fetch_through(names, source, settings)

    assert [trial.verdict for trial in fetch.trials] == [Verdict.PROXY_ERROR, Verdict.OK]


async def test_a_proxy_that_drips_its_answer_has_no_more_time_than_others(names):
    async def drip(reader, writer):
        while True:
            writer.write(b"H")
            await asyncio.sleep(0.05)

    async with accepting(drip) as port:
        source = Source(Proxy(Scheme.HTTP, "127.0.0.1", port))
        fetch = await fetch_through(names, source, plain(80, connect_timeout=0.3))

    assert (fetch.verdict, fetch.reason) == (Verdict.PROXY_ERROR, "the proxy did not answer")


def test_tls_within_tls_works_on_the_loop_of_the_product(names):
    async def fetch(scheme: Scheme):
        async with (
            serving(page(), tls=authority().server(NAME)) as site,
            proxying(scheme, user="u", password="p", tls=own_tls(scheme)) as server,
        ):
            source = Source(server.proxy(host_of(scheme)))
            over_http = await fetch_through(names, source, plain(site.port))
            return over_http, await fetch_through(names, source, secured(site.port))

    for scheme in ALL:
        over_http, found = uvloop.run(fetch(scheme))

        # A site that speaks TLS hangs up on http.
        assert over_http.verdict in (Verdict.CONNECTION_RESET, Verdict.PROTOCOL_ERROR)
        assert (found.verdict, found.body) == (Verdict.OK, b"<p>hello</p>")
        assert found.tls.valid


async def test_a_site_that_hangs_up_behind_a_proxy_says_nothing_about_the_proxy(names):
    async def hang_up(reader, writer):
        await reader.read(1)

    async with accepting(hang_up) as port, proxying() as server:
        source = Source(server.proxy())
        fetch = await fetch_through(names, source, plain(port))

    assert fetch.verdict is Verdict.CONNECTION_RESET
    assert [result for _, result, _ in source.results] == [Result.UNKNOWN]


async def test_a_mute_proxy_failed_and_one_that_answers_others_waits_for_a_site(names):
    async def instead(place):
        if place.startswith("127.0.0.9:"):
            await never()
        return None

    names.answers["mute.example"] = [("127.0.0.9",)]
    async with serving(page()) as site, proxying(instead=instead) as server:
        settings = plain(site.port, connect_timeout=0.5)
        source = Source(server.proxy(), rules=HealthRules(failures=100))
        async with fetching(names, proxies=source) as fetcher:
            alone = await fetcher.fetch("mute.example", settings)
            waiting = asyncio.create_task(fetcher.fetch("mute.example", settings))
            while not waiting.done():
                assert (await fetcher.fetch(NAME, settings)).verdict is Verdict.OK
            beside = await waiting

    assert (alone.verdict, alone.reason) == (Verdict.PROXY_ERROR, "the proxy did not answer")
    assert beside.verdict is Verdict.TIMEOUT
    failed = [reason for _, result, reason in source.results if result is Result.FAILED]
    assert failed == ["the proxy did not answer"]


async def test_a_proxy_without_a_listener_fails(names):
    async with proxying() as server:
        gone = server.proxy()
    source = Source(gone)
    fetch = await fetch_through(names, source, plain(80))

    assert (fetch.verdict, fetch.reason) == (
        Verdict.PROXY_ERROR,
        "the proxy: connection refused",
    )


async def test_a_proxy_whose_name_is_nowhere_fails(names):
    source = Source(Proxy(Scheme.HTTP, "proxy.invalid", 8080))
    fetch = await fetch_through(names, source, plain(80))

    assert fetch.verdict is Verdict.PROXY_ERROR
    assert fetch.reason.startswith("the proxy's name: ")


async def test_a_fetch_whose_proxy_fails_goes_through_another(names):
    async with serving(page()) as site, proxying() as good, proxying() as bad:
        refused = replace(bad.proxy(), user="u", password=Secret("p"), port=1)
        source = Source(refused, good.proxy())
        fetch = await fetch_through(names, source, plain(site.port))

    assert (fetch.verdict, fetch.proxy) == (Verdict.OK, good.proxy().label)
    assert [result for _, result, _ in source.results] == [Result.FAILED, Result.WORKED]


async def test_a_fetch_that_is_given_up_gives_its_proxy_back(names):
    asked = asyncio.Event()

    async def instead(place):
        asked.set()
        await never()

    async with proxying(instead=instead) as server:
        source = Source(server.proxy())
        fetching_it = asyncio.create_task(fetch_through(names, source, plain(80)))
        await asked.wait()
        fetching_it.cancel()
        await asyncio.wait([fetching_it])

    assert source.results == [("0", Result.UNKNOWN, "")]


# Strategies and health, over the wire


async def carried(names, strategy, count, weights=()):
    """How many of `count` fetches each of three proxies carried."""
    async with (
        serving(page()) as site,
        proxying() as one,
        proxying() as two,
        proxying() as three,
    ):
        servers = (one, two, three)
        source = Source(*(it.proxy() for it in servers), strategy=strategy, weights=weights)
        async with fetching(names, proxies=source) as fetcher:
            for _ in range(count):
                await fetcher.fetch(NAME, plain(site.port))
        return [len(it.places) for it in servers]


async def test_proxies_are_used_by_turns(names):
    assert await carried(names, Strategy.ROUND_ROBIN, 9) == [3, 3, 3]


async def test_proxies_are_used_by_weight(names):
    assert await carried(names, Strategy.WEIGHTED, 12, (4, 1, 1)) == [8, 2, 2]


async def test_the_proxy_with_the_least_under_way_is_used(names):
    asked, held = asyncio.Event(), asyncio.Event()

    async def instead(place):
        asked.set()
        await held.wait()

    async with serving(page()) as site, proxying(instead=instead) as busy, proxying() as free:
        source = Source(busy.proxy(), free.proxy(), strategy=Strategy.LEAST_USED)
        async with fetching(names, proxies=source) as fetcher:
            first = asyncio.create_task(fetcher.fetch(NAME, plain(site.port)))
            await asked.wait()
            for _ in range(3):
                await fetcher.fetch(NAME, plain(site.port))
            held.set()
            await first

    assert (len(busy.places), len(free.places)) == (1, 3)


async def test_a_proxy_that_was_killed_is_taken_out_and_comes_back_after_trials(names):
    rules = HealthRules(failures=2, successes=2, first_delay=30, max_delay=60)
    async with serving(page()) as site, proxying() as steady:
        async with proxying() as server:
            source = Source(server.proxy(), steady.proxy(), rules=rules)
        async with fetching(names, proxies=source) as fetcher:

            async def fetches(count: int) -> None:
                for _ in range(count):
                    fetch = await fetcher.fetch(NAME, plain(site.port))
                    # Whoever meets the dead one goes through the other.
                    assert fetch.verdict is Verdict.OK

            await fetches(6)
            assert health_of(source) == [Health.DOWN, Health.UP]
            failures = [reason for _, result, reason in source.results if result is Result.FAILED]
            assert failures == ["the proxy: connection refused"] * 2

            # A trial that fails keeps it out, for twice as long.
            source.ahead += 31
            await fetches(2)
            source.ahead += 31
            await fetches(2)
            assert health_of(source) == [Health.DOWN, Health.UP]

            async with proxying(port=server.port) as back:
                source.ahead += 31
                await fetches(8)
                assert health_of(source) == [Health.UP, Health.UP]
                assert len(back.places) >= 3
    steps = [(change.before, change.after) for change in source.changes]
    assert steps == [
        (Health.UP, Health.DOWN),
        (Health.DOWN, Health.ON_TRIAL),
        (Health.ON_TRIAL, Health.DOWN),
        (Health.DOWN, Health.ON_TRIAL),
        (Health.ON_TRIAL, Health.UP),
    ]


def health_of(source: Source) -> list[Health]:
    return [condition.health for condition in source.pool.conditions()]
