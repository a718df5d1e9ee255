"""Chunks in a storm of random steps: one verdict a name, and nobody is asked about what is kept."""

import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from domainflow.campaign.v1 import campaign_pb2 as pb
from services.campaign.campaign import Action
from services.campaign.rows import RunningPhase
from services.campaign.store import Store as CampaignStore
from services.chassis.postgres import Pool
from services.sandbox.web_server import SandboxWeb, SandboxWebSettings
from services.sandbox.web_truth import Web
from services.validation.attempt import CheckFailed, End, check_and_settle, stored_items
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers
from services.validation.http.fetch import nothing_asked
from services.validation.http.verdict import Verdict
from services.validation.http_probe import HttpProbe, _AskedLater, outcome_of
from services.validation.http_rows import HttpOutcome
from services.validation.keyword_library import KeywordLibrary
from services.validation.pacing import Pace
from services.validation.parked import Waiting
from services.validation.probe import Check, Later
from services.validation.site_store import Candidate
from services.validation.sites import Site
from services.validation.store import ChunkKey, Claim, Store
from tests.campaigns import act, hand_out
from tests.validation.fetching import (
    HTTP,
    NAMES_MIX,
    NETWORKS,
    fetching,
    http_configuration,
    names_of,
)

NAMES, CHUNK, STEPS = 60, 12, 250
VERDICTS = (Verdict.TIMEOUT, Verdict.CONNECTION_RESET, Verdict.RATE_LIMITED, Verdict.GONE)


class RandomProbe(HttpProbe):
    """Asks nobody: names come to whatever, wait or fail."""

    dice: random.Random
    poison: Sequence[int]

    def begin(self, dice: random.Random) -> None:
        self.dice = dice
        self.poison = dice.sample(range(NAMES), 2)
        # By run and position, what was stored of names whose chunks were set aside or settled.
        self.kept: dict[tuple[int, int], Verdict] = {}
        # What the last attempt came to.
        self.new: dict[tuple[int, int], Verdict] = {}

    @asynccontextmanager
    async def prepare(self, claim: Claim) -> AsyncIterator[Check[Candidate, HttpOutcome]]:
        run = claim.key.run
        self.new = {}

        def one(item: Candidate) -> HttpOutcome | Later:
            known = self.kept.get((run, item.position))
            assert (item.finished and item.finished.verdict) == known
            if item.finished is not None:
                return item.finished
            if item.position in self.poison:
                raise ValueError("poison")
            if self.dice.random() < 0.3:
                return _AskedLater(time.monotonic() + 50, Waiting(item.position, 1, 5, {}, (), 1))
            verdict = self.new[run, item.position] = self.dice.choice(VERDICTS)
            return outcome_of(item, Site(nothing_asked(item.name, verdict, "")))

        async def check(items: Sequence[Candidate]) -> list[HttpOutcome | Later]:
            return [one(item) for item in items]

        yield check


class Storm:
    """What happens to the chunks of one campaign."""

    def __init__(
        self, campaigns: CampaignStore, store: Store, probe: RandomProbe, running: RunningPhase
    ) -> None:
        self._campaigns = campaigns
        self._ledger = campaigns.ledger
        self._store = store
        self._probe = probe
        self.running = running
        # Claims in hand, and those that are somebody else's by now.
        self._held: list[Claim] = []
        self._lost: list[Claim] = []

    async def step(self) -> None:
        dice = self._probe.dice
        steps = {
            self.hand_out: 35,
            self.attempt: 30,
            self._release: 7,
            self._lose: 6,
            self._come_too_late: 4,
            self._end_some_delays: 12,
            self._pause: 3,
            self._fail: 1,
            self._run_again: 0.5,
        }
        (chosen,) = dice.choices(list(steps), list(steps.values()))
        await chosen()

    def _take(self) -> Claim | None:
        held = self._held
        return held.pop(self._probe.dice.randrange(len(held))) if held else None

    async def hand_out(self, share: int = 2) -> None:
        for key in await hand_out(self._campaigns, [self.running], share=share):
            claim = await self._store.claim(
                ChunkKey(key.campaign_no, int(key.phase), key.run, key.first_position), "w"
            )
            assert claim is not None
            self._held.append(claim)

    async def attempt(self) -> None:
        if (claim := self._take()) is None:
            return
        store, probe = self._store, self._probe
        items = await stored_items(store, probe, claim)
        try:
            end = await check_and_settle(store, probe, claim, items, Pace(0, time.monotonic()))
        except CheckFailed as error:
            if "poison" not in str(error):
                raise
            if claim.failure_count < 2:
                assert await store.fail(claim, "it failed", 0.1)
            elif claim.name_count > 1:
                assert await store.split(claim, "it failed")
            else:
                results = probe.results(claim, [probe.dead_letter(items[0])])
                assert await store.give_up(claim, results, items[0].name, "it failed")
            return
        assert end is not End.NOT_OURS
        assert not probe.new.keys() & probe.kept.keys()
        probe.kept |= probe.new

    async def _release(self) -> None:
        if (claim := self._take()) is not None:
            await self._store.release(claim)

    async def _lose(self) -> None:
        if (claim := self._take()) is not None:
            seen = [
                it
                for it in await self._ledger.queued()
                if it.key.first_position == claim.key.first_position
            ]
            assert await self._ledger.take_back_claims(self.running, seen)
            self._lost.append(claim)

    async def _come_too_late(self) -> None:
        if self._lost:
            claim = self._lost.pop()
            assert not await self._store.park(claim, b"too late", 1, 1)
            assert not await self._store.fail(claim, "too late", 1)
            assert not await self._store.split(claim, "too late")

    async def _end_some_delays(self) -> None:
        await self.end_delays(0.6)

    async def end_delays(self, share: float = 1) -> None:
        delayed = await self._ledger.delayed()
        over = {it: delayed[it][0] for it in delayed if self._probe.dice.random() < share}
        await self._ledger.end_delays(over)

    async def _pause(self) -> None:
        await self._act(Action.PAUSE)
        await self._act(Action.RESUME)

    async def _fail(self) -> None:
        await self._ledger.fail(self.running, "no more")
        await self._act(Action.RETRY)

    async def _run_again(self) -> None:
        await self._act(Action.CANCEL)
        await self._act(Action.RERUN)
        names = self._campaigns.names
        self.running = await names.running_phase(self.running.campaign_id, HTTP)
        await self._ledger.plan_candidates(self.running, CHUNK, 1000)

    async def _act(self, action: Action) -> None:
        await act(self._campaigns, self.running.campaign_id, action, phase=HTTP)
        self._lost += self._held
        self._held = []

    async def check(self, pool: Pool) -> None:
        (work,) = await self._ledger.survey()
        assert 0 <= work.unclaimed <= work.in_flight <= work.out <= NAMES
        # What is kept of this run is of an open chunk; a chunk's rows are of its names.
        assert not await pool.fetchval(
            """SELECT count(*) FROM parked_chunks p
               LEFT JOIN chunks c USING (campaign_no, phase, run, first_position)
               WHERE p.run = $1
                   AND (c.state IS NULL OR c.state = 'done' OR c.park_count = 0)""",
            self.running.run,
        )
        names, done, rows = await pool.fetchrow(
            """SELECT sum(name_count), coalesce(sum(name_count) FILTER (WHERE state = 'done'), 0),
                   (SELECT count(*) FROM http_results WHERE run = $1)
               FROM chunks WHERE phase = 3 AND run = $1""",
            self.running.run,
        )
        assert (names, done) == (NAMES, rows)

    async def finish(self) -> None:
        while self._held:
            await self.attempt()
        while not await self._ledger.complete(self.running):
            await self.end_delays()
            await self.hand_out(1000)
            while self._held:
                await self.attempt()


@pytest.mark.parametrize("seed", range(3))
async def test_every_name_comes_to_one_verdict_and_nothing_that_is_kept_is_asked_again(
    campaign_store: CampaignStore,
    store: Store,
    pool: Pool,
    engines: Engines,
    dns: pb.DnsConfiguration,
    seed: int,
) -> None:
    async with (
        SandboxWeb(SandboxWebSettings(mix=NAMES_MIX)) as web,
        Fetchers(engines) as fetchers,
    ):
        names, http = names_of(web.world, NAMES, Web.PAGE), http_configuration(web)
        running = await fetching(
            campaign_store, store, web.world, names, http, dns, chunk_size=CHUNK
        )
        await pool.execute("UPDATE campaigns SET name_rate_limit = 1000")
        library = KeywordLibrary(store.keyword_sets)
        probe = RandomProbe(engines, fetchers, library, networks=NETWORKS)
        probe.begin(random.Random(seed))
        storm = Storm(campaign_store, store, probe, running)
        for _ in range(STEPS):
            await storm.step()
            await storm.check(pool)
        await storm.finish()

    run = storm.running.run
    rows = await pool.fetch("SELECT position, verdict FROM http_results WHERE run = $1", run)
    assert len(rows) == NAMES
    assert dict(map(tuple, rows)) == {
        position: Verdict.DEAD_LETTER if position in probe.poison else probe.kept[run, position]
        for position in range(NAMES)
    }
    assert await pool.fetchval("SELECT count(*) FROM parked_chunks WHERE run = $1", run) == 0
