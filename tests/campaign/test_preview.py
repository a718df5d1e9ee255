"""What a pattern would give, told before anything is taken."""

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1.campaign_service_pb2 import PreviewPatternRequest
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub as Stub
from services.campaign.allotment import MAX_OFFSET, Asked, allot
from services.campaign.pattern import Pattern, parse
from services.campaign.preview import DNS_RATE, GENERATION_RATE
from services.campaign.store import Store
from services.chassis.postgres import Pool
from tests.campaigns import from_pattern, generating, new_campaign
from tests.refusals import refused


def pattern_of(length: int, tlds: list[str] | None = None) -> Pattern:
    made = parse(
        type="PREFIX",
        prefix_length=length,
        suffix_length=0,
        character_set="abc",
        constant="x",
        tlds=tlds or [".com"],
    )
    assert isinstance(made, Pattern)
    return made


counts = st.integers(0, 300)


@given(st.integers(0, 300), st.none() | st.integers(0, 242), counts, st.booleans())
def test_an_allotment_lies_in_the_pattern_and_accounts_for_every_name_asked_for(
    next_free: int, first: int | None, count: int, overlap: bool
) -> None:
    asked = Asked(pattern_of(5), first, count, overlap)

    made = allot(asked, next_free)

    assert 0 <= made.first_offset <= made.end <= 243
    assert made.missing_count >= 0
    wanted = count or 243 - (first or 0)
    assert made.name_count + made.missing_count == wanted
    if first is not None:
        assert made.first_offset == first
    elif overlap:
        assert made.first_offset == 0
    else:
        assert made.first_offset == min(next_free, 243)
    # Nothing is missing that could have been given.
    assert made.missing_count == 0 or made.end == 243


def test_offsets_end_where_64_bits_do() -> None:
    made = allot(Asked(pattern_of(50), None, 10), MAX_OFFSET - 4)

    assert (made.first_offset, made.name_count, made.missing_count) == (MAX_OFFSET - 4, 4, 6)


def source(**changed: Any) -> pb.PatternSource:
    made = from_pattern(length=3, overlap_allowed=False).generation.pattern
    for field, value in changed.items():
        made.ClearField(field)  # type: ignore[arg-type]
        if isinstance(value, list):
            getattr(made, field).extend(value)
        else:
            setattr(made, field, value)
    return made


def preview(**changed: Any) -> PreviewPatternRequest:
    return PreviewPatternRequest(pattern=source(**changed))


async def start(store: Store, **changed: Any) -> None:
    configuration = pb.CampaignConfiguration(
        generation=pb.GenerationConfiguration(pattern=source(**changed))
    )
    await generating(store, new_campaign(configuration))


async def test_a_preview_tells_what_is_left_and_what_would_come(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    await start(store, name_count=4)
    await start(store, name_count=6)

    answer = await campaigns.PreviewPattern(preview(name_count=5))

    assert (answer.combination_count, answer.exact_combination_count) == (27, "27")
    assert (answer.next_free_offset, answer.free_count) == (10, 17)
    assert (answer.first_offset, answer.name_count, answer.missing_count) == (10, 5, 0)
    assert list(answer.sample) == ["babx.com", "bacx.com", "bbax.com", "bbbx.com", "bbcx.com"]
    assert answer.last_name == "bbcx.com"
    assert answer.campaign_count == 2
    # Nothing was taken by looking.
    assert await pool.fetchval("SELECT count(*) FROM reservations") == 2
    assert await campaigns.PreviewPattern(preview(name_count=5)) == answer


async def test_a_preview_and_the_start_after_it_agree(campaigns: Stub, store: Store) -> None:
    for changed in ({"name_count": 20}, {"name_count": 20}, {}, {"overlap_allowed": True}):
        answer = await campaigns.PreviewPattern(preview(**changed))
        configuration = pb.CampaignConfiguration(
            generation=pb.GenerationConfiguration(pattern=source(**changed))
        )
        running = await generating(store, new_campaign(configuration))

        taken = await store.reservations.taken(running.campaign_id)
        state = (await store.get(running.campaign_id)).current
        assert (taken.first_offset, taken.name_count) == (answer.first_offset, answer.name_count)
        assert state.missing_count == answer.missing_count


async def test_an_exhausted_pattern_has_no_sample_and_warns(campaigns: Stub, store: Store) -> None:
    await start(store)

    answer = await campaigns.PreviewPattern(preview(name_count=5))

    assert (answer.free_count, answer.name_count, answer.missing_count) == (0, 0, 5)
    assert (list(answer.sample), answer.last_name) == ([], "")
    assert answer.next_free_offset == answer.first_offset == answer.combination_count
    assert answer.exhaustion_warning
    assert (answer.storage_bytes, answer.dns_duration.ToTimedelta()) == (0, timedelta(0))


async def test_who_leaves_few_names_is_warned(campaigns: Stub) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    for name_count, warned in ((1, False), (26**4 - 10_000, False), (26**4 - 9_999, True)):
        request = preview(prefix_length=4, character_set=letters, name_count=name_count)

        assert (await campaigns.PreviewPattern(request)).exhaustion_warning == warned


async def test_more_names_than_64_bits_count_are_told_in_digits(campaigns: Stub) -> None:
    answer = await campaigns.PreviewPattern(preview(prefix_length=60, name_count=1000))

    assert answer.exact_combination_count == str(3**60)
    assert answer.combination_count == answer.free_count == MAX_OFFSET
    assert len(answer.sample) == 10
    assert not answer.exhaustion_warning


async def test_the_forecast_counts_the_length_of_names_and_uses_documented_rates(
    campaigns: Stub,
) -> None:
    large = {"prefix_length": 13, "name_count": 1_000_000}

    short, long = [
        await campaigns.PreviewPattern(preview(**large, tlds=tlds))
        for tlds in ([".com"], [".commmmmmmmmmmm", ".com"])
    ]

    assert long.storage_bytes - short.storage_bytes == 5_500_000
    assert 100 < short.storage_bytes / 1_000_000 < 500
    assert not short.measured
    assert short.generation_duration.ToTimedelta() == timedelta(seconds=1e6 / GENERATION_RATE)
    assert short.dns_duration.ToTimedelta() == timedelta(seconds=1e6 / DNS_RATE)


async def test_the_forecast_uses_what_was_measured_here(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    """The median of the latest large phases: 1,000 and 100 names a second."""
    for number in range(25):
        running = await generating(store, new_campaign())
        for phase, rate in ((1, 1000), (2, 100)):
            # The oldest five were much slower; one paused for a day; one was too small to tell.
            names = 20_000 if number != 7 else 9_999
            seconds = names / rate if number > 4 else names
            seconds += 86_400 if number == 9 else 0
            await pool.execute(
                """UPDATE phases SET status = 'COMPLETED', name_count = $3,
                       end_time = timestamptz '2026-01-01' + $5 * interval '1 day',
                       start_time = timestamptz '2026-01-01' + $5 * interval '1 day'
                           - $4 * interval '1 second'
                   WHERE campaign_no = $1 AND phase = $2""",
                running.campaign_no,
                phase,
                names,
                seconds,
                number,
            )

    answer = await campaigns.PreviewPattern(preview(prefix_length=13, name_count=1_000_000))

    assert answer.measured
    assert answer.generation_duration.ToTimedelta() == timedelta(seconds=1000)
    assert answer.dns_duration.ToTimedelta() == timedelta(seconds=10_000)


async def test_a_preview_of_a_range_that_somebody_has_is_refused_as_its_start_would_be(
    campaigns: Stub, store: Store
) -> None:
    await start(store, name_count=5)

    refusal = await refused(campaigns.PreviewPattern(preview(first_offset=4, name_count=2)))
    beside = await campaigns.PreviewPattern(preview(first_offset=5, name_count=2))

    assert refusal.reason == "NAMES_RESERVED"
    assert refusal.metadata["next_free_offset"] == "5"
    assert beside.name_count == 2


async def test_a_sample_is_as_long_as_asked_for_and_as_there_is(campaigns: Stub) -> None:
    request = preview()
    for sample_size, shown in ((0, 10), (1, 1), (27, 27), (1000, 27)):
        request.sample_size = sample_size

        assert len((await campaigns.PreviewPattern(request)).sample) == shown


async def test_every_bad_field_of_a_preview_is_named(campaigns: Stub) -> None:
    request = preview(prefix_length=-1, character_set="", constant="a_b", tlds=["com"])
    request.sample_size = 1001

    refusal = await refused(campaigns.PreviewPattern(request))

    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.fields == {
        "sample_size",
        "pattern.prefix_length",
        "pattern.character_set",
        "pattern.constant",
        "pattern.tlds[0]",
    }


async def test_a_range_that_can_never_be_had_is_a_bad_field(campaigns: Stub) -> None:
    for changed, field in (
        ({"first_offset": 27}, "first_offset"),
        ({"first_offset": 20, "name_count": 8}, "name_count"),
        ({"name_count": 28}, "name_count"),
        ({"prefix_length": 60}, "name_count"),
        ({"prefix_length": 60, "first_offset": MAX_OFFSET}, "first_offset"),
    ):
        refusal = await refused(campaigns.PreviewPattern(preview(**changed)))

        assert refusal.fields == {f"pattern.{field}"}


async def test_a_preview_without_a_pattern_is_refused(campaigns: Stub) -> None:
    refusal = await refused(campaigns.PreviewPattern(PreviewPatternRequest()))

    assert "pattern" in refusal.fields
