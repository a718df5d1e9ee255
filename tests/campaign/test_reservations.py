"""Names of a pattern belong to one campaign, whoever comes at once, stops half-way or is gone."""

import asyncio
from dataclasses import dataclass
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1.campaign_service_pb2 import StartCampaignRequest
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub as Stub
from services.campaign.allotment import MAX_OFFSET
from services.campaign.campaign import Action, Mode, Phase, Status
from services.campaign.configuration import asked_names
from services.campaign.generation import generate
from services.campaign.ingest import digest
from services.campaign.outcomes import phase_receipt
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.chassis.errors import InvalidFields, NamesReserved
from services.chassis.postgres import Pool, open_pool
from tests.campaigns import (
    GENERATION,
    act,
    answer,
    create,
    from_pattern,
    from_upload,
    generating,
    history,
    new_campaign,
)
from tests.refusals import refused

ONLY_GENERATION = [Phase.DOMAIN_GENERATION]


def asking(
    name_count: int = 0,
    first_offset: int | None = None,
    *,
    overlap_allowed: bool = False,
    constant: str = "x",
    length: int = 2,
    characters: str = "abc",
) -> pb.CampaignConfiguration:
    """So many names of `length` variable characters, then the constant and .com."""
    configuration = from_pattern(
        length=length,
        characters=characters,
        first_offset=first_offset,
        name_count=name_count,
        overlap_allowed=overlap_allowed,
    )
    configuration.generation.pattern.constant = constant
    return configuration


async def started(store: Store, configuration: pb.CampaignConfiguration) -> RunningPhase:
    return await generating(store, new_campaign(configuration, phases=ONLY_GENERATION))


async def range_of(store: Store, running: RunningPhase) -> tuple[int, int]:
    """First offset and number of names."""
    taken = await store.reservations.taken(running.campaign_id)
    return taken.first_offset, taken.name_count


async def missing(store: Store, running: RunningPhase) -> int:
    return (await store.get(running.campaign_id)).current.missing_count


async def make(store: Store, running: RunningPhase, count: int) -> None:
    """Store the first `count` names of the campaign's range, as generation does."""
    asked = asked_names(running.configuration)
    assert asked is not None
    first, _ = await range_of(store, running)
    names = [asked.pattern.name(first + number) for number in range(count)]
    assert await store.names.append_names(running, 0, names, digest(names))


async def test_fifty_starts_at_once_neither_overlap_nor_leave_a_gap(database_url: str) -> None:
    """Of a pattern with fewer names than they ask for: the last ones go short, and say so."""
    async with await open_pool(database_url, application_name="race", max_size=50) as pool:
        store = Store(pool)
        made = [
            await create(store, new_campaign(asking(5, length=5), phases=ONLY_GENERATION))
            for _ in range(50)
        ]
        # Every start has a connection of its own and waits for nobody to give one back.
        connections = [await pool.acquire() for _ in range(50)]
        for connection in connections:
            await pool.release(connection)

        await asyncio.gather(*(act(store, campaign, Action.START) for campaign in made))

        ranges, short = [], []
        for campaign in made:
            running = await store.names.running_phase(campaign.id, GENERATION)
            assert await generate(store, running)
            ranges.append(await range_of(store, running))
            if lacking := await missing(store, running):
                short.append(lacking)
        position = 0
        for first, count in sorted(ranges):
            assert first == position
            position += count
        assert position == 3**5
        assert sorted(short) == [2, 5]
        assert sorted(count for _, count in ranges) == [0, 3, *[5] * 48]
        stored = await pool.fetch("SELECT name FROM domains")
        assert len(stored) == len({row["name"] for row in stored}) == 3**5


async def test_starts_cancels_and_generators_at_once_leave_every_name_to_one_campaign(
    store: Store, pool: Pool
) -> None:
    made = [
        await create(store, new_campaign(asking(9, length=5), phases=ONLY_GENERATION))
        for _ in range(20)
    ]

    async def live(number: int) -> RunningPhase:
        campaign = made[number]
        await act(store, campaign, Action.START)
        running = await store.names.running_phase(campaign.id, GENERATION)
        generating = asyncio.create_task(generate(store, running))
        if number % 2:
            await act(store, campaign, Action.CANCEL)
        await generating
        return running

    lived = await asyncio.gather(*map(live, range(20)))

    ranges = sorted([await range_of(store, running) for running in lived])
    taken = [offset for first, count in ranges for offset in range(first, first + count)]
    assert len(taken) == len(set(taken)) >= 10 * 9
    # What was kept is what was stored, name by name.
    asked = asked_names(lived[0].configuration)
    assert asked is not None
    rows = await pool.fetch("SELECT name FROM domains")
    assert sorted(asked.pattern.offset(row["name"]) for row in rows) == sorted(taken)


async def test_who_comes_later_gets_what_follows(store: Store, pool: Pool) -> None:
    running = [await started(store, asking(count)) for count in (4, 3)]

    assert [await range_of(store, each) for each in running] == [(0, 4), (4, 3)]
    for each in running:
        assert await generate(store, each)
    rows = await pool.fetch("SELECT name FROM domains ORDER BY campaign_no, position")
    assert [row["name"][:2] for row in rows] == ["aa", "ab", "ac", "ba", "bb", "bc", "ca"]


async def test_an_exhausted_pattern_completes_short_and_says_so(store: Store) -> None:
    await started(store, asking(7))
    short, empty = [await started(store, asking(4)) for _ in range(2)]
    everything = await started(store, asking())

    told = []
    for running in (short, empty, everything):
        assert await generate(store, running)
        assert await store.ledger.complete(running)
        accounts = await store.accounts(running.campaign_id)
        state = accounts.campaign.current
        assert state.status is Status.COMPLETED
        receipt = phase_receipt(state, accounts.tallies[0], accounts.digests[0], None)
        (event,) = [
            event.names_reserved
            for event in await history(store, running.campaign_no)
            if event.HasField("names_reserved")
        ]
        assert event.name_count == receipt.name_count == state.name_count
        assert event.missing_count == receipt.missing_count == state.missing_count
        assert receipt.unsettled_count == 0
        told.append((event.first_offset, event.name_count, event.missing_count))
    assert told == [(7, 2, 2), (9, 0, 4), (9, 0, 9)]


async def test_a_sequence_goes_on_without_a_single_name(store: Store) -> None:
    await started(store, asking())
    new = new_campaign(asking(), mode=Mode.FULL_SEQUENCE)
    running = await generating(store, new)

    assert await generate(store, running)
    assert await store.ledger.complete(running)

    assert (await store.get(new.id)).current.phase is Phase.DNS_VALIDATION


async def test_patterns_of_one_meaning_share_their_names_and_others_do_not(store: Store) -> None:
    await started(store, asking(4))
    same = asking(2)
    same.generation.pattern.type = pb.PATTERN_TYPE_BOTH
    same.generation.pattern.character_set = "AabBc"
    other = asking(2, characters="acb")

    assert await range_of(store, await started(store, same)) == (4, 2)
    assert await range_of(store, await started(store, other)) == (0, 2)


async def test_a_chosen_range_that_somebody_has_is_refused_with_what_is_free(
    campaigns: Stub, store: Store
) -> None:
    owner = await started(store, asking(4, 2))
    late = await create(store, new_campaign(asking(2, 1)))

    start = StartCampaignRequest(campaign_id=str(late.id), request_id=str(uuid4()))
    refusal = await refused(campaigns.StartCampaign(start))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "NAMES_RESERVED")
    assert refusal.metadata == {
        "campaign_id": str(late.id),
        "other_campaign_id": str(owner.campaign_id),
        "first_offset": "1",
        "next_free_offset": "6",
    }
    assert (await store.get(late.id)).current.status is Status.CONFIGURED
    # The same request succeeds when the range is free.
    await act(store, owner.campaign_id, Action.CANCEL)
    answer = await campaigns.StartCampaign(start)
    assert answer.campaign.status == pb.PHASE_STATUS_RUNNING


async def test_a_chosen_range_beside_that_of_another_is_taken(store: Store) -> None:
    await started(store, asking(4, 2))

    assert await range_of(store, await started(store, asking(2, 0))) == (0, 2)
    # All to the end.
    assert await range_of(store, await started(store, asking(0, 6))) == (6, 3)


async def test_names_exist_twice_only_where_it_is_allowed(store: Store) -> None:
    await started(store, asking(4))

    twice = await started(store, asking(6, overlap_allowed=True))
    chosen = await started(store, asking(2, 3, overlap_allowed=True))
    after = await started(store, asking(2))

    assert await range_of(store, twice) == (0, 6)
    assert await range_of(store, chosen) == (3, 2)
    # They count as taken for whoever does not want them twice.
    assert await range_of(store, after) == (6, 2)


async def test_a_cancelled_campaign_keeps_what_it_stored_and_gives_back_the_rest(
    store: Store,
) -> None:
    running = await started(store, asking(8))
    await make(store, running, 3)

    await act(store, running.campaign_id, Action.PAUSE)
    await act(store, running.campaign_id, Action.CANCEL)

    assert await range_of(store, running) == (0, 3)
    assert await range_of(store, await started(store, asking(2))) == (3, 2)


async def test_a_failed_generation_that_is_left_out_gives_back_what_it_did_not_make(
    store: Store,
) -> None:
    running = await started(store, asking(8))
    await make(store, running, 3)
    await store.ledger.fail(running, "disk full")
    # It may be retried.
    assert await range_of(store, running) == (0, 8)

    await act(store, running.campaign_id, Action.SKIP, phase=GENERATION)

    assert await range_of(store, running) == (0, 3)
    assert await range_of(store, await started(store, asking(2))) == (3, 2)


@pytest.mark.parametrize("failed", [True, False])
async def test_a_deleted_campaign_gives_back_what_it_did_not_make(
    store: Store, failed: bool
) -> None:
    running = await started(store, asking(8))
    await make(store, running, 3)
    if failed:
        await store.ledger.fail(running, "disk full")

    await store.deletions.begin(
        running.campaign_id, etag="", force=not failed, reason="", key=None, answer=answer
    )

    assert await range_of(store, running) == (0, 3)


async def test_a_campaign_cancelled_before_its_first_name_has_taken_nothing(store: Store) -> None:
    running = await started(store, asking(2, 7))

    await act(store, running.campaign_id, Action.CANCEL)

    assert not await generate(store, running)
    assert await range_of(store, await started(store, asking(9))) == (0, 9)


async def test_a_campaign_that_never_started_takes_nothing(store: Store) -> None:
    waiting = await create(store, new_campaign(asking(5)))
    await act(store, waiting, Action.CANCEL)

    assert await range_of(store, await started(store, asking(2))) == (0, 2)


async def test_names_of_a_deleted_campaign_stay_taken(store: Store, pool: Pool) -> None:
    running = await started(store, asking(5))
    await pool.execute("DELETE FROM campaigns WHERE no = $1", running.campaign_no)

    assert await range_of(store, await started(store, asking(2))) == (5, 2)


async def test_a_pattern_of_more_names_than_64_bits_count_is_taken_to_its_last_offset(
    store: Store,
) -> None:
    def huge(count: int, first: int | None = None) -> pb.CampaignConfiguration:
        return asking(count, first, length=40)

    await started(store, huge(3, MAX_OFFSET - 5))
    last = await started(store, huge(5))

    assert await range_of(store, last) == (MAX_OFFSET - 2, 2)
    assert await missing(store, last) == 3
    assert await generate(store, last)


async def test_a_pattern_that_is_not_accepted_any_more_does_not_start(store: Store) -> None:
    configuration = asking()
    configuration.generation.pattern.ClearField("tlds")
    campaign = await create(store, new_campaign(configuration))

    with pytest.raises(InvalidFields) as refusal:
        await act(store, campaign, Action.START)

    assert [violation.field for violation in refusal.value.violations] == [
        "configuration.generation.pattern.tlds"
    ]
    assert (await store.get(campaign.id)).current.status is Status.CONFIGURED


async def test_campaigns_of_the_version_before_keep_their_names(store: Store, pool: Pool) -> None:
    """It knew no ranges, and let them overlap."""
    first = await started(store, asking(4, overlap_allowed=True))
    assert await generate(store, first)
    assert await store.ledger.complete(first)
    cancelled = await started(store, asking(5, 2, overlap_allowed=True))
    await make(store, cancelled, 3)
    await act(store, cancelled.campaign_id, Action.CANCEL)
    half = await started(store, asking(3, 3, overlap_allowed=True))
    await make(store, half, 1)
    await started(store, from_upload())
    await create(store, new_campaign(asking(1)))
    await pool.execute("DELETE FROM reservations")

    assert await store.reservations.adopt() == 3
    assert await store.reservations.adopt() == 0

    found = [await range_of(store, running) for running in (first, cancelled, half)]
    assert found == [(0, 4), (2, 3), (3, 3)]
    half = await store.names.running_phase(half.campaign_id, GENERATION)
    assert await generate(store, half)
    assert (await store.get(half.campaign_id)).name_count == 3
    assert await range_of(store, await started(store, asking(2))) == (6, 2)


async def test_a_campaign_that_an_older_service_started_meanwhile_goes_on(
    store: Store, pool: Pool
) -> None:
    running = await started(store, asking(4))
    await pool.execute("DELETE FROM reservations")

    assert await generate(store, running)

    assert (await store.get(running.campaign_id)).name_count == 4
    assert await range_of(store, await started(store, asking(2))) == (4, 2)


@dataclass
class Holder:
    """A campaign of the model."""

    running: RunningPhase
    first: int
    count: int
    stored: int = 0
    cancelled: bool = False


commands = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(0, 12), st.none() | st.integers(0, 26)),
        st.tuples(st.just("store"), st.integers(0, 9), st.integers(1, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.none()),
    ),
    min_size=4,
    max_size=14,
)


@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(walk=commands)
async def test_ranges_stay_apart_whatever_is_started_and_cancelled(
    store: Store, walk: list[tuple[str, int, int | None]]
) -> None:
    constant, total = f"x{uuid4().hex}", 27
    holders: list[Holder] = []

    for command, number, argument in walk:
        if command == "start":
            await start(store, holders, asking(number, argument, length=3, constant=constant))
        elif number < len(holders) and not holders[number].cancelled:
            holder = holders[number]
            if command == "store":
                more = min(argument or 0, holder.count - holder.stored)
                if more:
                    names = [f"{constant}-{number}-{holder.stored + i}.com" for i in range(more)]
                    first = holder.stored
                    assert await store.names.append_names(
                        holder.running, first, names, digest(names)
                    )
                    holder.stored += more
            else:
                await act(store, holder.running.campaign_id, Action.CANCEL)
                holder.count, holder.cancelled = holder.stored, True
        taken = [await range_of(store, holder.running) for holder in holders]
        assert taken == [(holder.first, holder.count) for holder in holders]
        offsets = [offset for first, count in taken for offset in range(first, first + count)]
        assert len(offsets) == len(set(offsets))
        assert all(0 <= offset < total for offset in offsets)


async def start(
    store: Store, holders: list[Holder], configuration: pb.CampaignConfiguration
) -> None:
    """Start one more, and compare with what it should get."""
    source, total = configuration.generation.pattern, 27
    had = [(h.first, h.first + h.count) for h in holders if h.count]
    if source.HasField("first_offset"):
        first = source.first_offset
        wanted = min(source.name_count or total, total - first)
        missing_count = 0
        if source.name_count > total - first:
            # Refused when it is created.
            return
        if any(begin < first + wanted and first < end for begin, end in had):
            with pytest.raises(NamesReserved):
                await started(store, configuration)
            return
    else:
        first = max((end for _, end in had), default=0)
        asked = source.name_count or total
        wanted = min(asked, total - first)
        missing_count = asked - wanted
    running = await started(store, configuration)
    assert await missing(store, running) == missing_count
    holders.append(Holder(running, first, wanted))
