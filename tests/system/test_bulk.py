"""Two million names: generation and bulk streams that are killed on the way, readers that stall."""

import asyncio
import itertools
import json
import uuid
from functools import partial

import pytest
import pytest_asyncio

from domainflow.campaign.v1 import campaign_service_pb2, event_pb2
from domainflow.query.v1 import query_service_pb2
from services.suite import probe
from tests.eventually import eventually
from tests.system.campaigns import GENERATION, Streamed, Trial, World, expected_names, insist
from tests.system.campaigns import stream_domains as stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = 2_000_000
NAME_AND_POSITION = (
    query_service_pb2.DOMAIN_COLUMN_NAME,
    query_service_pb2.DOMAIN_COLUMN_POSITION,
)
STALLED = 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def generated(world: World) -> Trial:
    """A campaign whose generation was cut by the death of its service, then of the database."""
    trial = await Trial.begin(world, NAMES, dns=False)
    for share, part in ((0.1, "campaign"), (0.3, "postgres"), (0.5, "campaign")):
        await trial.until(partial(_generated, share))
        await trial.is_in_the_middle(GENERATION)
        await world.kill(part).is_back()
    await trial.finished()
    return trial


def _generated(share: float, trial: Trial) -> bool:
    return trial.share(GENERATION) >= share


async def test_killed_generation_goes_on_where_it_was(generated: Trial) -> None:
    # The chunks follow each other without gap or overlap, and none was made twice.
    ends = list(itertools.accumulate(count for _, count in sorted(generated.settled.items())))
    assert [0, *ends[:-1]] == [first for _, first in sorted(generated.settled)]
    assert ends[-1] == NAMES

    stored = await generated.world.rows(
        """SELECT array_agg(position ORDER BY position) AS positions,
               string_agg(name, ' ' ORDER BY position) AS names
           FROM domains WHERE campaign_no = (SELECT no FROM campaigns WHERE id = $1)
           GROUP BY position / 100000 ORDER BY position / 100000""",
        uuid.UUID(generated.campaign_id),
    )
    expected = expected_names(NAMES, generated.constant)
    for number, row in enumerate(stored):
        first = number * 100_000
        assert row["positions"] == list(range(first, first + 100_000)), first
        names = row["names"].split(" ")
        assert all(map(str.__eq__, names, itertools.islice(expected, 100_000))), first
    assert len(stored) == NAMES // 100_000
    # The names of the pattern are distinct by construction, so equal to it means distinct.
    assert next(expected, None) is None


async def test_stream_goes_on_after_the_death_of_its_service(generated: Trial) -> None:
    world = generated.world
    deaths = iter((NAMES // 10, NAMES // 3, NAMES // 2))
    next_death = next(deaths)

    def maybe_kill(streamed: Streamed) -> None:
        nonlocal next_death
        if len(streamed.positions) >= next_death:
            world.kill("query")
            next_death = next(deaths, 2 * NAMES)

    streamed = await stream(generated, columns=NAME_AND_POSITION, on_batch=maybe_kill)

    assert streamed.calls > 3
    assert len(streamed.positions) == len(streamed.names) == NAMES
    assert all(position == i for i, position in enumerate(streamed.positions))
    assert all(map(str.__eq__, streamed.names, expected_names(NAMES, generated.constant)))


async def test_stalled_readers_and_watchers_stop_nobody(generated: Trial) -> None:
    world = generated.world
    # A long history, 5 MB a watcher: who reads nothing of it fills every buffer on the way, also
    # those that grow on an idle machine.
    event = event_pb2.Event(phase_changed=event_pb2.PhaseChanged(reason="x" * 450))
    await world.rows(
        """SELECT count(append_event(k.no, $2)) FROM campaigns k, generate_series(1, 10000)
           WHERE k.id = $1""",
        uuid.UUID(generated.campaign_id),
        event.SerializeToString(),
    )
    read = query_service_pb2.StreamDomainsRequest(campaign_ids=[generated.campaign_id])
    watch = campaign_service_pb2.WatchCampaignsRequest(
        campaign_ids=[generated.campaign_id], resume_revisions={generated.campaign_id: 0}
    )
    stalled = [world.query.StreamDomains(read) for _ in range(STALLED)]
    stalled += [world.campaigns.WatchCampaigns(watch) for _ in range(STALLED)]
    try:
        for stream_call in stalled:
            await stream_call.read()
        await eventually(lambda: _are_held_up(world, "query-streams"), within=30)
        await eventually(lambda: _are_held_up(world, "campaign-streams"), within=30)

        trial = await Trial.begin(world, 5_000)
        await trial.finished()
        for _ in range(20):
            listed = await insist(
                world.query.ListDomains,
                query_service_pb2.ListDomainsRequest(campaign_id=trial.campaign_id),
            )
            assert listed.total_size == 5_000
        assert len((await stream(trial, columns=NAME_AND_POSITION)).names) == 5_000
        # Held up, not cut: the first of each goes on from where it stands.
        assert await stalled[0].read()
        assert await stalled[-1].read()
    finally:
        for stream_call in stalled:
            stream_call.cancel()


async def _are_held_up(world: World, cluster: str) -> None:
    """Assert that the door has stopped reading from a service because nobody takes it off."""
    port = json.loads((world.folder / "ports.json").read_text())["envoy-admin"]
    stat = f"cluster.{cluster}.upstream_flow_control_paused_reading_total"
    _, stats = await probe.http(port, f"/stats?filter=^{stat}$")
    assert int(stats.rpartition(":")[2]) >= STALLED


async def test_reading_goes_on_while_all_streams_are_cancelled(generated: Trial) -> None:
    world = generated.world
    request = query_service_pb2.StreamDomainsRequest(campaign_ids=[generated.campaign_id])
    streams = [world.query.StreamDomains(request) for _ in range(30)]
    await asyncio.gather(*(stream_call.read() for stream_call in streams))
    for stream_call in streams:
        stream_call.cancel()

    # More than the service has connections: those of the cancelled streams came back.
    summary = query_service_pb2.GetDomainSummaryRequest(campaign_id=generated.campaign_id)
    answers = [await insist(world.query.GetDomainSummary, summary) for _ in range(30)]

    assert {answer.name_count for answer in answers} == {NAMES}
