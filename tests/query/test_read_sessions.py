"""How sessions are divided and what names of streams say."""

import os
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal, binding
from services.query.read_sessions import (
    COLUMNS,
    LEAST_POSITIONS,
    MAX_FILTER_SIZE,
    ReadStream,
    divided,
    unknown_columns,
)

SEAL = Seal([b"k" * 32])


def stream(
    first: int = 0, end: int = 1_000, columns: tuple[str, ...] = COLUMNS, chosen: bytes = b""
) -> ReadStream:
    runs = (1, 2, 3, 2**31 - 1)
    ids = UUID(int=1), UUID(int=2)
    return ReadStream(*ids, 7, 2**40, 1_800_000_000, first, end, runs, columns, chosen)


@given(st.integers(0, 10**9), st.integers(0, 64))
def test_ranges_are_all_positions_once_and_alike(count: int, most: int) -> None:
    ranges = divided(count, most)
    assert [end for _, end in ranges[:-1]] == [first for first, _ in ranges[1:]]
    assert len(ranges) <= max(most, 1)
    if count:
        assert (ranges[0][0], ranges[-1][1]) == (0, count)
        sizes = [end - first for first, end in ranges]
        assert max(sizes) - min(sizes) <= 1
        assert len(ranges) == 1 or min(sizes) >= LEAST_POSITIONS // 2
    else:
        assert ranges == []


@given(st.integers(0, 10**9), st.integers(0, 100_000), st.floats(0, 1, exclude_max=True))
def test_halves_are_the_whole(first: int, size: int, fraction: float) -> None:
    whole = stream(first, first + size)
    halves = whole.split(fraction)
    if halves is None:
        assert size < 2 or fraction * size < 1
        return
    primary, remainder = halves
    assert (primary.first, primary.end, remainder.end) == (whole.first, remainder.first, whole.end)
    assert primary.size
    assert remainder.size


@given(
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.lists(st.sampled_from(COLUMNS), unique=True),
    st.binary(max_size=200),
)
def test_a_name_says_all_of_its_stream(
    first: int, end: int, columns: list[str], chosen: bytes
) -> None:
    made = stream(first, end, tuple(columns), chosen)
    assert ReadStream.open(SEAL, made.seal(SEAL)) == made


def test_names_of_64_streams_with_the_longest_filter_fit_a_message() -> None:
    name = stream(chosen=os.urandom(MAX_FILTER_SIZE)).seal(SEAL)
    assert 64 * (len(name) + 20) < 2**20
    # The limit of the contract.
    assert len(name) < 10_000


@pytest.mark.parametrize(
    "payload", [b"", b"\x01" + bytes(300), b"\x07" + bytes(20), b"\x07" + bytes(84) + b"\x05"]
)
def test_names_of_other_kinds_are_refused(payload: bytes) -> None:
    name = SEAL.seal(payload, binding("ReadSession", b""))
    with pytest.raises(InvalidToken):
        ReadStream.open(SEAL, name)


def test_every_unknown_column_is_named() -> None:
    assert [v.field for v in unknown_columns(["name", "colour", "score", ""])] == [
        "columns[1]",
        "columns[3]",
    ]
