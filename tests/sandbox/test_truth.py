"""The truth table: stable, keyed, and in the proportions asked for."""

from collections import Counter

import pytest

from services.sandbox.truth import CNAME_LOOP, RESOLVED, Behaviour, Mix, truth

MIX = Mix()
NAMES = [f"name{number}.example" for number in range(20_000)]


def test_the_truth_about_a_name_does_not_change():
    # A change here makes every recorded seed worthless.
    known = truth("name2.example", 1, MIX)

    assert known == truth("NAME2.Example.", 1, MIX)
    assert (known.behaviour, known.addresses) == (Behaviour.RESOLVES, ("127.101.79.230",))


def test_another_seed_is_another_world():
    first = [truth(name, 1, MIX).behaviour for name in NAMES[:1000]]
    second = [truth(name, 2, MIX).behaviour for name in NAMES[:1000]]

    assert first != second


def test_behaviours_come_in_the_proportions_of_the_mix():
    counts = Counter(truth(name, 7, MIX).behaviour for name in NAMES)

    assert set(counts) == set(Behaviour)
    assert counts[Behaviour.NXDOMAIN] == pytest.approx(0.55 * len(NAMES), rel=0.05)
    assert counts[Behaviour.RESOLVES] == pytest.approx(0.35 * len(NAMES), rel=0.05)
    assert counts[Behaviour.MUTE] < 0.005 * len(NAMES)


def test_a_weight_of_zero_makes_a_behaviour_impossible():
    mix = Mix(nxdomain=0, unusable=0)

    found = {truth(name, 1, mix).behaviour for name in NAMES}

    assert found == set(Behaviour) - {Behaviour.NXDOMAIN, Behaviour.UNUSABLE}


@pytest.mark.parametrize("weights", [{"mute": -1.0}, dict.fromkeys(Mix.__slots__, 0.0)])
def test_a_senseless_mix_is_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        truth("x.example", 1, Mix(**weights))


def test_every_name_below_a_wildcard_resolves_like_it():
    parent = next(name for name in NAMES if truth(name, 1, MIX).behaviour is Behaviour.WILDCARD)
    above = truth(parent, 1, MIX)

    for child in (f"a.{parent}", f"zz9.{parent}", f"a.b.c.{parent}"):
        assert truth(child, 1, MIX) == above
    assert above.verdict == RESOLVED


def test_evidence_fits_the_verdict():
    for name in NAMES:
        known = truth(name, 3, MIX)
        assert bool(known.addresses) == (known.verdict == RESOLVED)
        assert all(address.startswith("127.") for address in known.addresses)
        assert len(set(known.addresses)) == len(known.addresses)
        assert len(known.chain) <= 4
        if known.verdict == CNAME_LOOP:
            assert known.chain[-1] in (name, *known.chain[:-1])
