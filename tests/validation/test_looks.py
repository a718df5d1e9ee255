"""When pages are looked at, and who shares turns."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.chassis.matching.keywords import PageHits
from services.validation.http.turns import Turns
from services.validation.http.verdict import Verdict
from services.validation.http_plans import CrawlPolicy, HttpPlan
from services.validation.sites import SiteReader
from tests.validation.http.conftest import Names, fetching, plain
from tests.validation.http.servers import page, serving

AT_ONCE = 12


class Watching:
    """Keywords that note in which turn of the loop they are looked for."""

    def __init__(self) -> None:
        self.turns: list[int] = []
        self._turn = 0

    async def count(self) -> None:
        while True:
            self._turn += 1
            await asyncio.sleep(0)

    def scan(self, text: str, title: str) -> PageHits:
        self.turns.append(self._turn)
        return PageHits((), True)

    def matches(self, hits: PageHits) -> bool:
        return False


@pytest.fixture
async def watching() -> AsyncIterator[Watching]:
    watching = Watching()
    counting = asyncio.create_task(watching.count())
    yield watching
    counting.cancel()


async def test_pages_that_come_together_are_looked_at_in_turns_of_their_own(
    watching: Watching,
) -> None:
    all_here = asyncio.Barrier(AT_ONCE)

    async def answer(head, writer):
        await all_here.wait()
        return page()

    looks = Turns()
    async with serving(answer) as server, fetching(Names()) as fetcher:
        plan = HttpPlan(settings=plain(server.port), crawl_policy=CrawlPolicy.NEVER)
        readers = [SiteReader(fetcher, plan, keywords=watching, looks=looks) for _ in range(2)]
        sites = await asyncio.gather(
            *(readers[number % 2].read(f"n{number}.example") for number in range(AT_ONCE))
        )

    assert {site.verdict for site in sites} == {Verdict.OK}
    assert len(set(watching.turns)) == AT_ONCE


async def test_fetchers_that_share_turns_ask_a_host_no_more_at_once_together() -> None:
    there = most = 0

    async def answer(head, writer):
        nonlocal there, most
        there += 1
        most = max(most, there)
        await asyncio.sleep(0.01)
        there -= 1
        return page()

    turns, names = Turns(), Names()
    async with (
        serving(answer) as server,
        fetching(names, turns=turns) as one,
        fetching(names, turns=turns) as other,
    ):
        settings = plain(server.port, host_concurrency=2)
        fetches = await asyncio.gather(
            *(each.fetch("n.example", settings) for each in (one, other) for _ in range(6))
        )

    assert {fetch.verdict for fetch in fetches} == {Verdict.OK}
    assert most == 2
