"""A small share of what `python -m tests.validation.dns.fuzz` does, in the suite."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.validation.dns.fuzz import Packets, check, damage, engine_many, parse_many, subject

PACKETS = Packets(Random(1))


@given(st.sampled_from(PACKETS.subjects), st.binary(max_size=80), st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_follows_a_real_head_is_read_alike_both_ways(asked, noise, data):
    answer = data.draw(st.sampled_from(asked.answers))
    cut = data.draw(st.integers(2, len(answer)))

    check(answer[:cut] + noise, asked, compare=True)


@given(st.integers(), st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=400, deadline=None)
def test_a_damaged_packet_is_read_alike_both_ways(seed, one, other):
    asked = PACKETS.subjects[0]

    check(damage(Random(seed), asked.answers[one], asked.answers[other]), asked, compare=True)


def test_20000_harmful_packets_are_read_rightly_or_not_at_all():
    kinds, _ = parse_many(Random(2), 20_000)

    # All kinds of harm were there.
    assert set(kinds) >= {
        "FOREIGN", "FOLDED", "malformed", "malformed behind the answer", "truncated",
        "taken the quick way", "RESOLVED", "NXDOMAIN", "SERVFAIL", "CNAME_LOOP",
    }  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
async def test_an_engine_under_harmful_packets_says_what_the_parser_says(seed):
    kinds = await engine_many(Random(seed), 3000)

    assert kinds["right"] > 500
    assert kinds["as the packet says"] > 500


def test_real_answers_are_all_read():
    asked = subject("shop.example")

    assert {check(answer, asked, compare=True) for answer in asked.answers} == {
        "taken the quick way", "RESOLVED", "NXDOMAIN", "NO_DATA", "SERVFAIL", "REFUSED",
        "CNAME_LOOP",
    }  # fmt: skip
