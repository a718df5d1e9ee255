"""Reports on resolvers: what is kept, who is shown, and what is forgotten."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from domainflow.validation.v1 import dns_settings_pb2
from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1.resolver_pb2 import (
    RESOLVER_STATE_ADMITTED,
    RESOLVER_STATE_QUARANTINED,
    RESOLVER_STATE_SUSPECT,
    ResolverReport,
)
from services.chassis.postgres import Pool
from services.validation.dns.health import Health, Rules
from services.validation.dns.resolvers import Resolver
from services.validation.dns.stats import ResolverState, ResolverStats
from services.validation.engines import Engines
from services.validation.resolver_news import ResolverNews
from services.validation.resolver_reports import (
    LIST_BYTES,
    KnownResolver,
    Reporter,
    ResolverReports,
    reports,
)
from services.validation.resolver_service import ResolverService
from services.validation.store import Store
from tests.eventually import eventually

ONE = Resolver("192.0.2.1", operated_by="somebody")


def known(*, suspect: bool = False, quarantined: bool = False, wrong: int = 0) -> KnownResolver:
    stats = ResolverStats(
        str(ONE), suspect, 10, 8, 2, 4, 8_000_000, servfail=3, refused=1, window=50, loss=0.25
    )
    health = Health(ONE, Rules())
    health.agreed, health.disagreed, health.wrong = 5, 4, wrong
    health.opinions.add(5, wrong)
    if quarantined:
        health.state, health.reason, health.retry_at = ResolverState.QUARANTINED, "it lies", 1e9
    return KnownResolver(stats, health)


def report(resolver: str, score: float) -> ResolverReport:
    return ResolverReport(resolver=resolver, score=score)


async def labels(store: ResolverReports, **filters: str) -> list[str]:
    return [it.resolver for it in await store.list(**filters)]


def test_what_several_engines_know_of_a_resolver_is_one_report() -> None:
    (told,) = reports([known(), known(quarantined=True, wrong=3)], Reporter("w", "host"))

    assert (told.resolver, told.operator) == ("192.0.2.1:53", "somebody")
    assert (told.worker_id, told.host) == ("w", "host")
    assert told.transport == dns_settings_pb2.DNS_TRANSPORT_UDP
    assert (told.state, told.reason) == (RESOLVER_STATE_QUARANTINED, "it lies")
    assert told.HasField("retry_time")
    assert told.score == 0.7
    counts = told.question_count, told.answer_count, told.timeout_count
    assert counts == (20, 16, 4)
    assert (told.servfail_count, told.refused_count) == (6, 2)
    assert (told.agree_count, told.disagree_count, told.wrong_count) == (10, 8, 3)
    assert told.latency.ToMicroseconds() == 2000
    assert (told.loss, told.window) == (0.25, 100)


def test_who_is_mute_is_suspect_and_says_why() -> None:
    (well,) = reports([known()], Reporter("w", "host"))
    (mute,) = reports([known(suspect=True)], Reporter("w", "host"))

    assert (well.state, well.reason) == (RESOLVER_STATE_ADMITTED, "")
    assert mute.state == RESOLVER_STATE_SUSPECT
    assert mute.reason


def test_who_cannot_be_connected_to_says_why() -> None:
    mute = known(suspect=True)
    stats = replace(mute.stats, trouble="certificate verify failed")
    (told,) = reports([KnownResolver(stats, mute.health)], Reporter("w", "host"))

    assert told.reason.endswith("; certificate verify failed")


async def test_a_report_replaces_the_one_before_and_the_worst_comes_first(store: Store) -> None:
    reports = store.resolvers
    await reports.report("w1", [report("a", 0.9), report("b", 0.5)])
    await reports.report("w2", [report("a", 0.1)])
    assert await labels(reports) == ["a", "b", "a"]

    await reports.report("w1", [report("c", 0.3)])

    assert await labels(reports) == ["a", "c"]
    assert await labels(reports, worker_id="w1") == ["c"]
    assert await labels(reports, resolver="a") == ["a"]


async def test_a_list_is_no_longer_than_clients_take(store: Store) -> None:
    told = [report(f"192.0.2.{n}:53", n / 100) for n in range(100)]
    for each in told:
        each.reason = "x" * 50_000
    await store.resolvers.report("w", told)

    listed = await labels(store.resolvers)

    assert listed == [it.resolver for it in told[: len(listed)]]
    assert len(listed) == LIST_BYTES // (told[99].ByteSize() + 20)


async def test_who_signed_off_or_has_been_silent_for_long_is_not_shown(
    pool: Pool, store: Store
) -> None:
    reports = store.resolvers
    for worker in ("w1", "w2", "w3"):
        await reports.report(worker, [report(worker, 1.0)])
    await reports.sign_off("w1")
    # Written before this reader began to look.
    await pool.execute(
        """UPDATE resolver_reports SET report_time = now() - interval '61 s'
           WHERE worker_id = 'w2'"""
    )

    assert await labels(ResolverReports(pool)) == ["w3"]


@pytest.fixture
async def telling(store: Store, engines: Engines) -> AsyncIterator[asyncio.Task[None]]:
    news = ResolverNews(engines, store, Reporter("serve-here", "here"), period=0.05)
    task = asyncio.create_task(news.tell())
    yield task
    task.cancel()
    await asyncio.wait([task])


async def test_a_process_says_nothing_more_once_it_has_ended(
    pool: Pool, store: Store, telling: asyncio.Task[None]
) -> None:
    await store.resolvers.report("serve-here", [report("a", 1.0)])

    async def replaced() -> None:
        # By that of engines that nobody uses.
        assert await labels(store.resolvers) == []

    await eventually(replaced)
    await store.resolvers.report("another", [report("b", 1.0)])
    telling.cancel()
    await asyncio.wait([telling])

    assert await labels(store.resolvers) == ["b"]


async def test_a_database_that_is_away_only_delays_reports(
    pool: Pool, store: Store, telling: asyncio.Task[None]
) -> None:
    await pool.execute("ALTER TABLE resolver_reports RENAME TO away")
    await store.pools.workers()
    await pool.execute("ALTER TABLE away RENAME TO resolver_reports")
    await store.resolvers.report("serve-here", [report("a", 1.0)])

    async def replaced() -> None:
        assert await labels(store.resolvers) == []

    await eventually(replaced)
    assert not telling.done()


async def test_reports_are_listed_by_the_service(store: Store) -> None:
    await store.resolvers.report("w1", [report("a", 0.5)])
    await store.resolvers.report("w2", [report("b", 0.75)])
    service = ResolverService()
    service._resolvers = store.resolvers

    everything = await service.ListResolvers(pb.ListResolversRequest(), None)
    some = await service.ListResolvers(pb.ListResolversRequest(worker_id="w2"), None)

    assert [(it.resolver, it.score) for it in everything.resolvers] == [("a", 0.5), ("b", 0.75)]
    assert all(it.HasField("report_time") for it in everything.resolvers)
    assert [it.resolver for it in some.resolvers] == ["b"]
