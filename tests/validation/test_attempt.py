"""Attempts at chunks of HTTP: one that this machine cannot make, and one in another process."""

import asyncio
import contextlib
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from domainflow.campaign.v1.campaign_pb2 import DnsConfiguration
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.sandbox.web_server import NETWORK, SandboxWeb, SandboxWebSettings
from services.sandbox.web_truth import Web
from services.validation.attempt import End, NotPrepared, check_and_settle, stored_items
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers
from services.validation.http.verdict import Verdict
from services.validation.http_probe import HttpProbe
from services.validation.http_rows import HttpOutcome
from services.validation.isolation import Isolation
from services.validation.keyword_library import KeywordLibrary
from services.validation.pacing import Pace
from services.validation.probe import Check
from services.validation.site_store import Candidate
from services.validation.store import ChunkKey, Claim, Store
from tests.campaigns import hand_out
from tests.eventually import eventually
from tests.validation.fetching import (
    NAMES_MIX,
    NETWORKS,
    fetching,
    http_configuration,
    names_of,
)


@pytest.fixture
async def web() -> AsyncIterator[SandboxWeb]:
    async with SandboxWeb(SandboxWebSettings(mix=NAMES_MIX)) as server:
        yield server


class WatchedProbe(HttpProbe):
    """Knows how many preparations are in use."""

    prepared = 0

    @contextlib.asynccontextmanager
    async def prepare(self, claim: Claim) -> AsyncIterator[Check[Candidate, HttpOutcome]]:
        async with super().prepare(claim) as check:
            self.prepared += 1
            yield check
            self.prepared -= 1


@pytest.fixture
async def http_probe(store: Store, engines: Engines) -> AsyncIterator[WatchedProbe]:
    async with Fetchers(engines, suppressions=store.suppressions) as fetchers:
        library = KeywordLibrary(store.keyword_sets)
        yield WatchedProbe(engines, fetchers, library, networks=NETWORKS)


@pytest.fixture
async def claim(
    campaign_store: CampaignStore, store: Store, web: SandboxWeb, dns: DnsConfiguration
) -> Claim:
    names = names_of(web.world, 3, Web.PAGE)
    # It does not resolve, so the chunk has a gap.
    names.insert(1, f"{'a' * 30}.com")
    running = await fetching(campaign_store, store, web.world, names, http_configuration(web), dns)
    (key,) = await hand_out(campaign_store, [running])
    claim = await store.claim(
        ChunkKey(key.campaign_no, int(key.phase), key.run, key.first_position), "w"
    )
    assert claim is not None
    return claim


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def warm_up(probe: HttpProbe, claim: Claim) -> None:
    """What has to be open before the first name is asked for stays open for a while."""
    async with probe.prepare(claim):
        pass


async def test_a_machine_without_descriptors_blames_no_name(
    store: Store, http_probe: WatchedProbe, claim: Claim
) -> None:
    items = await stored_items(store, http_probe, claim)
    await warm_up(http_probe, claim)
    pace = Pace(0, time.monotonic())

    with pytest.raises(NotPrepared, match="Too many open files"), no_descriptor_left():
        await check_and_settle(store, http_probe, claim, items, pace)

    assert (http_probe.waiting(), http_probe.in_flight) == (0, 0)
    assert await check_and_settle(store, http_probe, claim, items, pace) is End.SETTLED


async def test_names_wait_until_the_machine_has_descriptors_again(
    store: Store, pool: Pool, http_probe: WatchedProbe, claim: Claim
) -> None:
    items = await stored_items(store, http_probe, claim)
    await warm_up(http_probe, claim)

    async def nobody_is_asked() -> None:
        assert (http_probe.prepared, http_probe.waiting(), http_probe.in_flight) == (1, 0, 0)

    with no_descriptor_left():
        attempt = asyncio.create_task(
            check_and_settle(store, http_probe, claim, items, Pace(0, time.monotonic()))
        )
        await eventually(nobody_is_asked)
        assert not attempt.done()
    await attempt

    rows = await pool.fetch("SELECT verdict, attempt_count FROM http_results")
    assert [tuple(row) for row in rows] == [(Verdict.OK, 1)] * 3


async def test_a_chunk_of_some_names_is_settled_by_a_process_of_its_own(
    store: Store, pool: Pool, claim: Claim, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HTTP_ALLOWED_NETWORKS", NETWORK)
    command = (sys.executable, "-m", "services.validation.alone", "http")

    assert await Isolation(command).attempt(claim, lambda: 60) is End.SETTLED

    rows = await pool.fetch("SELECT position, verdict FROM http_results ORDER BY position")
    assert [tuple(row) for row in rows] == [(0, Verdict.OK), (2, Verdict.OK), (3, Verdict.OK)]


async def test_what_is_in_memory_counts_until_it_is_stored(
    store: Store, pool: Pool, engines: Engines, claim: Claim
) -> None:
    async def waits() -> None:
        assert await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")

    async with Fetchers(engines) as fetchers:
        library = KeywordLibrary(store.keyword_sets)
        probe = WatchedProbe(engines, fetchers, library, networks=NETWORKS)
        items = await stored_items(store, probe, claim)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT take_turn($1)", claim.key.campaign_no)
            attempt = asyncio.create_task(
                check_and_settle(store, probe, claim, items, Pace(0, time.monotonic()))
            )
            await eventually(waits)
            assert probe.prepared == 1
        assert await attempt is End.SETTLED

    assert probe.prepared == 0
