"""The truth table: stable, keyed, and in the proportions asked for."""

from collections import Counter

import pytest

from services.sandbox.truth import (
    AAAA,
    CNAME_LOOP,
    NO_DATA,
    NS,
    NXDOMAIN,
    RESOLVED,
    SERVFAIL,
    SOA,
    WILDCARD,
    ZONE_HOST,
    ZONE_SERVER,
    A,
    Behaviour,
    Mix,
    Wildcard,
    truth,
    wildcard_kind,
)

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


def wildcards(kind: Wildcard) -> list[str]:
    """Names with a wildcard of that kind below them."""
    parents = [name for name in NAMES if truth(name, 1, MIX).behaviour is Behaviour.WILDCARD]
    return [name for name in parents if wildcard_kind(truth(name, 1, MIX).number) is kind]


def test_every_name_below_a_plain_wildcard_has_its_addresses():
    parent = wildcards(Wildcard.PLAIN)[0]
    above = truth(parent, 1, MIX)

    for child in (f"a.{parent}", f"zz9.{parent}", f"a.b.c.{parent}", f"{'r' * 28}.{parent}"):
        below = truth(child, 1, MIX)
        assert (below.verdict, below.addresses) == (WILDCARD, above.addresses)
    assert above.verdict == RESOLVED


def test_a_few_names_below_a_wildcard_are_their_own():
    children = [f"{word}.{parent}" for parent in wildcards(Wildcard.PLAIN) for word in "abcdef"]
    found = [truth(child, 1, MIX) for child in children]
    own = [it for it in found if it.verdict == RESOLVED]

    assert 0.02 < len(own) / len(found) < 0.08
    assert all(it.addresses != truth(it.zone, 1, MIX).addresses for it in own)


def test_an_answer_below_a_pool_has_some_of_its_addresses():
    below = truth(f"x.{wildcards(Wildcard.POOL)[0]}", 1, MIX)

    assert (len(set(below.addresses)), below.shown) == (40, 2)


def test_the_first_character_chooses_the_answer_below_some_wildcards():
    parent = wildcards(Wildcard.LETTER)[0]
    answers = {word: truth(f"{word}.{parent}", 1, MIX).addresses for word in ("ab", "ac", "bc")}

    assert answers["ab"] == answers["ac"] != answers["bc"]


def test_the_target_of_an_alias_wildcard_exists():
    parent = wildcards(Wildcard.ALIAS)[0]
    below = truth(f"x.{parent}", 1, MIX)
    target = truth(below.chain[0], 1, MIX)

    assert (target.verdict, target.addresses, target.chain) == (RESOLVED, below.addresses, ())


@pytest.mark.parametrize("tld", ["ws", "ph"])
def test_what_is_not_registered_is_parked_where_the_top_is_a_wildcard(tld):
    found = [truth(f"name{number}.{tld}", 1, MIX) for number in range(3000)]
    parking = truth(f"{'r' * 28}.{tld}", 1, MIX).addresses
    absent = [it for it in found if not it.registered]
    parked = [it for it in found if it.registered and it.addresses == parking]

    assert {(it.verdict, it.addresses, it.zone) for it in absent} == {(WILDCARD, parking, tld)}
    assert truth(f"www.{absent[0].name}", 1, MIX).addresses == parking
    assert parked
    assert all(it.verdict == RESOLVED and it.soa for it in parked)


def test_random_labels_and_what_is_below_them_do_not_exist():
    for parent in ("com", next(name for name in NAMES if truth(name, 1, MIX).verdict == NO_DATA)):
        found = [truth(f"{number:028}.{parent}", 1, MIX) for number in range(200)]
        assert {(it.verdict, it.zone) for it in found} == {(NXDOMAIN, parent)}
    assert truth(f"www.{'r' * 28}.com", 1, MIX).verdict == NXDOMAIN


def test_zones_are_as_registered_as_their_domains():
    for name in NAMES[:2000]:
        known = truth(name, 1, MIX)
        child = truth(f"x.{name}", 1, MIX)
        assert known.registered == (known.behaviour is not Behaviour.NXDOMAIN)
        assert known.zone == child.zone == (name if known.registered else "example")
        assert bool(known.ns) == known.registered
        if not known.registered:
            assert child.verdict == NXDOMAIN
        for server in known.ns:
            if server != ZONE_SERVER:
                assert truth(server, 1, MIX).addresses == (ZONE_HOST,)
    assert truth(ZONE_SERVER, 1, MIX).addresses == (ZONE_HOST,)
    assert truth("com", 1, MIX).ns
    assert truth(".", 1, MIX).soa


def test_each_name_on_a_chain_leads_to_its_end():
    for behaviour in (Behaviour.CHAIN, Behaviour.DANGLING, Behaviour.LOOP):
        for name in [it for it in NAMES if truth(it, 1, MIX).behaviour is behaviour][:20]:
            start = truth(name, 1, MIX)
            for place, hop in enumerate(start.chain):
                known = truth(hop, 1, MIX)
                assert (known.verdict, known.addresses) == (start.verdict, start.addresses)
                if behaviour is not Behaviour.LOOP:
                    assert known.chain == start.chain[place + 1 :]


def test_the_verdict_depends_on_the_types_asked_for():
    only = truth(next(n for n in NAMES if truth(n, 1, MIX).behaviour is Behaviour.V6_ONLY), 1, MIX)
    broken = next(n for n in NAMES if truth(n, 1, MIX).behaviour is Behaviour.V6_BROKEN)

    assert [only.verdict_of(types) for types in ((A,), (A, AAAA), (AAAA,))] == [
        NO_DATA,
        RESOLVED,
        RESOLVED,
    ]
    assert [truth(broken, 1, MIX).verdict_of(types) for types in ((A, AAAA), (AAAA,))] == [
        RESOLVED,
        SERVFAIL,
    ]
    assert only.addresses_of((A, AAAA)) == only.records(AAAA)


def test_canaries_are_answered_as_outside():
    assert truth("example.com", 5, MIX).verdict == RESOLVED
    assert truth("dnssec-failed.org", 5, MIX).behaviour is Behaviour.BOGUS
    assert truth("example.com", 5, MIX).records(SOA)
    assert truth("example.com", 5, MIX).records(NS)


def test_evidence_fits_the_verdict():
    for name in NAMES:
        known = truth(name, 3, MIX)
        assert bool(known.addresses) == (known.verdict == RESOLVED)
        assert all(address.startswith("127.") for address in known.addresses)
        assert len(set(known.addresses)) == len(known.addresses)
        assert len(known.chain) <= 4
        if known.verdict == CNAME_LOOP:
            assert known.chain[-1] in (name, *known.chain[:-1])
