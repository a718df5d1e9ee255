"""How chunks are sized: within limits, explained, and not at every flutter of the figures."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.campaign.chunking import (
    DNS,
    HTTP,
    MOST_CHUNKS,
    STORED,
    Limits,
    Load,
    chunk_size,
    portion,
)

HEALTHY = Load(names_left=5_000_000, workers=2, names_per_second=20_000, latency=0.02)

loads = st.builds(
    Load,
    names_left=st.integers(0, 10**9),
    workers=st.integers(0, 100),
    names_per_second=st.one_of(st.just(0.0), st.floats(0.001, 1e6)),
    loss=st.floats(0, 1),
    latency=st.floats(0, 60),
    name_rate_limit=st.one_of(st.just(0), st.integers(1, 10**6)),
)
limits = st.sampled_from([DNS, HTTP, STORED])
presents = st.one_of(st.just(0), st.integers(DNS.smallest, DNS.largest))


@given(loads, presents, limits)
def test_every_size_is_within_the_limits_and_has_a_reason(
    load: Load, present: int, of_pool: Limits
) -> None:
    present = min(max(present, of_pool.smallest), of_pool.largest) if present else 0
    decision = chunk_size(load, present, of_pool)
    assert of_pool.smallest <= decision.size <= of_pool.largest
    assert decision.reason
    assert len(decision.reason) < 300


@given(loads, presents)
def test_what_was_decided_stays_while_the_figures_do(load: Load, present: int) -> None:
    size = chunk_size(load, present).size
    assert chunk_size(load, size).size == size


@given(loads, st.floats(0.85, 1.15))
def test_a_flutter_changes_nothing(load: Load, flutter: float) -> None:
    size = chunk_size(replace(load, loss=0.0, latency=0.0)).size
    other = replace(load, loss=0.0, latency=0.0, names_per_second=load.names_per_second * flutter)
    assert chunk_size(other, size).size == size


@given(loads, st.floats(0, 1), st.floats(0, 60))
def test_slow_sites_make_no_smaller_chunks(load: Load, loss: float, latency: float) -> None:
    worse = replace(load, loss=loss, latency=latency)
    assert chunk_size(worse, limits=HTTP).size == chunk_size(load, limits=HTTP).size


@given(loads, st.floats(0, 1), st.floats(0, 60))
def test_loss_and_latency_never_make_chunks_larger(load: Load, loss: float, latency: float) -> None:
    worse = replace(load, loss=max(load.loss, loss), latency=max(load.latency, latency))
    assert chunk_size(worse).size <= chunk_size(load).size


@given(loads, st.integers(1, 10**6))
def test_a_rate_limit_never_makes_chunks_larger(load: Load, limit: int) -> None:
    unlimited = replace(load, name_rate_limit=0)
    limited = chunk_size(replace(load, name_rate_limit=limit)).size
    assert limited <= chunk_size(unlimited).size
    assert limited <= max(limit, DNS.smallest)


@given(st.integers(1, 64), st.integers(1, 10**6))
def test_a_small_campaign_has_work_for_every_worker(workers: int, names: int) -> None:
    size = chunk_size(replace(HEALTHY, workers=workers, names_left=names)).size
    assert size == DNS.smallest or names / size >= 4 * workers


def test_a_long_and_healthy_campaign_has_large_chunks() -> None:
    decision = chunk_size(HEALTHY)
    assert decision.size == DNS.largest
    assert "10,000 names/s each" in decision.reason


def test_a_slow_pool_has_chunks_of_some_seconds() -> None:
    assert chunk_size(replace(HEALTHY, names_per_second=1_000)).size == 1_500


def test_before_anything_is_measured_chunks_have_their_usual_size() -> None:
    assert chunk_size(replace(HEALTHY, names_per_second=0)).size == DNS.default


def test_the_reason_is_what_made_the_chunk_smaller() -> None:
    assert "7.0% of questions lost" in chunk_size(replace(HEALTHY, loss=0.07)).reason
    assert chunk_size(replace(HEALTHY, loss=0.07)).size == DNS.largest // 2
    assert chunk_size(replace(HEALTHY, loss=0.5)).size == DNS.largest // 4
    assert "800 ms" in chunk_size(replace(HEALTHY, latency=0.8)).reason
    assert "limit of 500 names/s" in chunk_size(replace(HEALTHY, name_rate_limit=500)).reason
    assert "1,000 names are left" in chunk_size(replace(HEALTHY, names_left=1_000)).reason


@given(
    loads,
    st.integers(DNS.smallest, DNS.largest),
    st.integers(-1_000, 200_000),
    st.integers(1, 1_000),
)
def test_a_portion_is_never_empty_and_never_long(
    load: Load, size: int, room: int, campaigns: int
) -> None:
    assert 1 <= portion(load, size, room, campaigns) <= MOST_CHUNKS


@given(st.integers(DNS.smallest, DNS.largest), st.integers(1, 20_000), st.integers(1, 100))
def test_a_portion_fills_its_share_of_the_room(size: int, room: int, campaigns: int) -> None:
    names = portion(HEALTHY, size, room, campaigns) * size
    assert names >= min(room // campaigns, MOST_CHUNKS * size)


def test_a_limited_campaign_is_planned_for_two_seconds_of_its_limit() -> None:
    assert portion(replace(HEALTHY, name_rate_limit=500), 500, 4_000, 1) == 2


def test_chunks_of_pages_with_many_keywords_are_small() -> None:
    """Storing hits takes its time, in one transaction that a pause waits for."""
    slow = Load(names_left=1_000_000, workers=2, names_per_second=800)
    assert chunk_size(slow, 5_000, STORED).size == 1_200
    assert chunk_size(replace(slow, names_per_second=20_000), 1_200, STORED).size == 5_000
