"""Whose turn it is with the database, and that pages need none."""

import asyncio
from collections.abc import Callable
from time import monotonic

import pytest

from domainflow.campaign.v1.campaign_pb2 import (
    PRIORITY_HIGH,
    PRIORITY_LOW,
    PRIORITY_NORMAL,
    PRIORITY_UNSPECIFIED,
)
from domainflow.query.v1 import query_service_pb2 as pb
from services.query.pace import PATIENCE as RANGES
from services.query.pace import SPARSE, WIDEST, Pace
from services.query.turns import PATIENCE, Turns
from tests.query.conftest import Query, Writer


async def let_everything_run() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


class Crowd:
    """Those who want turns, in the order in which they got them; each ends his when it is told."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.order: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def want(self, name: str, priority: int) -> None:
        self.ends[name] = asyncio.Event()

        async def take() -> None:
            async with self._turns.turn(priority):
                self.order.append(name)
                await self.ends[name].wait()

        self.tasks[name] = asyncio.create_task(take())
        await let_everything_run()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        await let_everything_run()

    async def end_all(self) -> None:
        for end in self.ends.values():
            end.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_priorities_go_first_and_within_one_the_first_comer() -> None:
    crowd = Crowd(Turns(3))
    await crowd.want("holder", PRIORITY_LOW)
    for name, priority in (
        ("low", PRIORITY_LOW),
        ("normal", PRIORITY_NORMAL),
        ("unspecified", PRIORITY_UNSPECIFIED),
        ("high", PRIORITY_HIGH),
        ("another high", PRIORITY_HIGH),
    ):
        await crowd.want(name, priority)
    expected = ["holder", "high", "another high", "normal", "unspecified", "low"]
    for name in expected:
        assert crowd.order[-1] == name
        await crowd.end(name)
    assert crowd.order == expected


async def test_a_low_priority_gets_a_turn_after_so_many_others() -> None:
    crowd = Crowd(Turns(3))
    await crowd.want("holder", PRIORITY_HIGH)
    await crowd.want("low", PRIORITY_LOW)
    for n in range(3 * PATIENCE):
        await crowd.want(f"high {n}", PRIORITY_HIGH)
    while "low" not in crowd.order:
        await crowd.end(crowd.order[-1])
    assert len(crowd.order) == PATIENCE + 2
    await crowd.end_all()


@pytest.mark.parametrize("connections", [1, 2, 3, 10])
async def test_two_connections_are_left_to_pages(connections: int) -> None:
    crowd = Crowd(Turns(connections))
    for n in range(12):
        await crowd.want(str(n), PRIORITY_NORMAL)
    assert len(crowd.order) == max(1, connections - 2)
    await crowd.end_all()


async def test_whoever_gives_up_leaves_his_turn_to_the_next() -> None:
    crowd = Crowd(Turns(3))
    await crowd.want("holder", PRIORITY_NORMAL)
    for name in ("first", "second", "third"):
        await crowd.want(name, PRIORITY_NORMAL)
    crowd.tasks["first"].cancel()
    # The second is cancelled in the very moment in which it is granted.
    crowd.tasks["holder"].add_done_callback(lambda _: crowd.tasks["second"].cancel())
    crowd.ends["holder"].set()
    await let_everything_run()
    assert crowd.order[-1] == "third"
    await crowd.end("third")
    await crowd.want("fourth", PRIORITY_LOW)
    assert crowd.order[-1] == "fourth"
    await crowd.end_all()


async def test_short_calls_do_not_wait_behind_streams(query: Query, writer: Writer) -> None:
    """Streams wait for names, all that may; a summary, which needs none, comes meanwhile."""
    made = await writer.campaign(20)
    request = pb.StreamDomainsRequest(
        campaign_ids=[str(made)], columns=[pb.DOMAIN_COLUMN_DNS_VERDICT], priority=PRIORITY_HIGH
    )
    partition = await writer.connection.fetchval(
        "SELECT tableoid::regclass::text FROM domains WHERE campaign_no = $1 LIMIT 1", made.no
    )
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with writer.connection.transaction():
        await writer.connection.execute(f"LOCK TABLE {partition} IN ACCESS EXCLUSIVE MODE")
        streams = [asyncio.create_task(_summary(query, request)) for _ in range(6)]
        # As many as may.
        while await writer.connection.fetchval(waits) < query.pool.get_max_size() - 2:
            pass
        call = pb.GetDomainSummaryRequest(campaign_id=str(made))
        summary = await query.stub.GetDomainSummary(call)
        assert summary.name_count == 20
    summaries = await asyncio.gather(*streams)
    assert {summary.domain_count for summary in summaries} == {20}
    assert max(s.performance.queue_duration.ToMicroseconds() for s in summaries) > 0


async def test_streams_that_look_campaigns_up_leave_connections_to_pages_too(
    query: Query, writer: Writer
) -> None:
    made = [await writer.campaign(20) for _ in range(2)]
    request = pb.StreamDomainsRequest(campaign_ids=map(str, made), dns_verdicts=[1])
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with writer.connection.transaction():
        # Which verdicts are how many is asked before anything is searched.
        await writer.connection.execute("LOCK TABLE ledger_totals IN ACCESS EXCLUSIVE MODE")
        streams = [asyncio.create_task(_summary(query, request)) for _ in range(6)]
        for _ in range(20):
            while await writer.connection.fetchval(waits) < query.pool.get_max_size() - 2:
                pass
            page = pb.GetDomainRequest(campaign_id=str(made[0]), position=7)
            assert (await query.stub.GetDomain(page)).domain.position == 7
    assert [summary.domain_count for summary in await asyncio.gather(*streams)] == [0] * 6


async def test_the_duration_is_that_of_the_whole_call(query: Query, writer: Writer) -> None:
    request = pb.StreamDomainsRequest(campaign_ids=[str(await writer.campaign(1))])
    async with writer.connection.transaction():
        # What a call asks first waits for it.
        await writer.connection.execute("LOCK TABLE campaigns IN ACCESS EXCLUSIVE MODE")
        stream = asyncio.create_task(_summary(query, request))
        while not await writer.connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted"
        ):
            pass
        begun = monotonic()
        await writer.connection.fetchval("SELECT count(*) FROM generate_series(1, 300000)")
        waited = monotonic() - begun
    duration = (await stream).performance.duration
    assert duration.ToMicroseconds() >= waited * 1e6


async def _summary(query: Query, request: pb.StreamDomainsRequest) -> pb.StreamSummary:
    messages = [message async for message in query.stub.StreamDomains(request)]
    return messages[-1].summary


def test_few_are_looked_up_along_the_index_and_many_by_reading_everything() -> None:
    pace = Pace(100, indexed=True)
    assert pace.driven
    pace.found_along_the_index(100, 100 * SPARSE)
    assert pace.driven
    pace.found_along_the_index(100, 100 * SPARSE - 1)
    assert not pace.driven
    pace.found_in_range(20, 100)
    assert (pace.driven, pace.step) == (False, 500)
    for _ in range(RANGES):
        pace.found_in_range(0, 500)
    assert (pace.driven, pace.step) == (True, 100 * WIDEST)


def test_without_an_index_only_the_step_changes() -> None:
    pace = Pace(100, indexed=False)
    steps: list[int] = []
    found: Callable[[int, int], None] = pace.found_in_range
    for matches in (100, 50, 10, 1, 0, 100):
        found(matches, 100)
        steps.append(pace.step)
    assert steps == [100, 200, 1000, 1000, 1000, 100]
    assert not pace.driven
