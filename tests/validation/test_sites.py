"""Sites read over real sockets: what their further pages may do."""

import contextlib
import gc
import zlib
from collections.abc import AsyncIterator

from services.validation.content.crawl import Budget
from services.validation.http.fetch import Fetch
from services.validation.http.verdict import Verdict
from services.validation.http_plans import CrawlPolicy, HttpPlan
from services.validation.sites import Site, SiteReader
from tests.validation.http.conftest import Names, fetching, plain
from tests.validation.http.servers import Site as Server
from tests.validation.http.servers import never, page, redirect, serving

NAME = "site.example"
KNOWN = ("127.0.0.1",)


def links(*urls: str) -> bytes:
    return page("".join(f'<p><a href="{url}">more</a>' for url in urls).encode())


@contextlib.asynccontextmanager
async def reading(names: Names, server: Server, **changes) -> AsyncIterator[SiteReader]:
    changes = {"total_timeout": 1, "connect_timeout": 1, "first_byte_timeout": 1, **changes}
    plan = HttpPlan(
        settings=plain(server.port, **changes),
        crawl_policy=CrawlPolicy.ALWAYS,
        budget=Budget(max_pages=5, max_bytes=100_000),
    )
    async with fetching(names) as fetcher:
        yield SiteReader(fetcher, plan)


def crawled(site: Site) -> dict[str, Verdict]:
    """By the last part of the path that was asked for."""
    return {it.url.rpartition("/")[2]: it.verdict for it in site.crawled}


def paths(server: Server) -> list[str]:
    return [head.split()[1] for head in server.requests]


async def test_the_twin_of_a_name_is_resolved_and_judged_for_itself() -> None:
    names = Names()
    names.answers["www.site.example"] = [("10.0.0.1",)]

    async def answer(head, writer):
        return links(f"http://www.site.example:{server.port}/contact")

    async with serving(answer) as server, reading(names, server) as reader:
        site = await reader.read(NAME, addresses=KNOWN)

    assert crawled(site) == {"contact": Verdict.ADDRESS_NOT_ALLOWED}
    assert names.asked == ["www.site.example"]
    assert paths(server) == ["/"]


async def test_a_further_page_may_do_no_more_than_the_first() -> None:
    async def answer(head, writer):
        path = head.split()[1].decode()
        if path == "/contact":
            return redirect("http://169.254.169.254/latest/meta-data/")
        if path == "/imprint":
            return redirect("http://site.example:22/")
        if path == "/about":
            packer = zlib.compressobj(wbits=31)
            bomb = packer.compress(bytes(64 << 20)) + packer.flush()
            return page(bomb, headers=("Content-Encoding: gzip",))
        if path == "/team":
            await never()
        return links("/contact", "/imprint", "/about", "/team")

    async with serving(answer) as server, reading(Names(), server) as reader:
        site = await reader.read(NAME, addresses=KNOWN)

    verdicts = {it.subject.name.lower(): (it.verdict, it.byte_size) for it in site.crawled}
    assert site.verdict is Verdict.OK
    assert verdicts["contact"] == (Verdict.ADDRESS_NOT_ALLOWED, 0)
    assert verdicts["imprint"] == (Verdict.ADDRESS_NOT_ALLOWED, 0)
    # As much of it as the budget has, and then no further page.
    assert verdicts["about"] == (Verdict.OK, 100_000)
    assert "team" not in verdicts


async def test_further_pages_that_robots_txt_forbids_are_not_asked_for() -> None:
    async def answer(head, writer):
        if head.split()[1] == b"/robots.txt":
            return page(b"User-agent: *\nDisallow: /contact")
        return links("/contact", "/about")

    async with (
        serving(answer) as server,
        reading(Names(), server, respect_robots=True) as reader,
    ):
        site = await reader.read(NAME, addresses=KNOWN)

    assert {it.subject.name.lower(): it.verdict for it in site.crawled} == {
        "contact": Verdict.EXCLUDED,
        "about": Verdict.OK,
    }
    assert paths(server) == ["/robots.txt", "/", "/about"]


async def test_a_site_that_is_asked_too_much_is_asked_for_no_further_page() -> None:
    async def answer(head, writer):
        if head.split()[1] == b"/":
            return links("/contact", "/imprint", "/about")
        return page(status="429 X", headers=("Retry-After: 60",))

    async with serving(answer) as server, reading(Names(), server) as reader:
        site = await reader.read(NAME, addresses=KNOWN)

    assert crawled(site) == {"contact": Verdict.RATE_LIMITED}
    assert paths(server) == ["/", "/contact"]


async def test_pages_that_were_looked_at_are_not_held_while_others_are_asked_for() -> None:
    held = []

    def bodies() -> list[Fetch]:
        return [it for it in gc.get_objects() if type(it) is Fetch and it.body]

    # Of other tests; kept, so that nothing new has the id of one of them.
    others = bodies()
    known = {id(it) for it in others}

    async def answer(head, writer):
        held.append(sum(id(it) not in known for it in bodies()))
        return links("/contact", "/imprint")

    async with serving(answer) as server, reading(Names(), server) as reader:
        await reader.read(NAME, addresses=KNOWN)

    assert paths(server) == ["/", "/contact", "/imprint"]
    assert held == [0, 0, 0]
