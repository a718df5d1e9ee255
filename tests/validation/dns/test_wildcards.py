import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from services.sandbox.dns_server import Faults, SandboxDns, SandboxDnsSettings
from services.sandbox.truth import TLD_WILDCARDS, Behaviour, Mix, World
from services.validation.dns import wire
from services.validation.dns.engine import Engine
from services.validation.dns.plan import Examination, Plan
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Verdict
from services.validation.dns.wildcards import Recent, Wildcards, random_label

LIMIT = 24
# The scripted servers are slow, and what they are asked is counted.
PATIENT = EngineSettings(window=100, timeout=2.0, soft_tries=2)
# A name and a type to records, each "owner type data"; [] stands for no data, None for NXDOMAIN.
# An integer is another rcode.
Lookup = Callable[[str, str], list[str] | int | None]


class Server:
    """Answers as `lookup` says, and remembers what it was asked."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        # Each name once: a question may be repeated on the way.
        self.asked: dict[str, None] = {}

    def __call__(self, data: bytes) -> list[bytes]:
        question = dns.message.from_wire(data)
        name = question.question[0].name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.question[0].rdtype)
        self.asked[name] = None
        answer = dns.message.make_response(question, recursion_available=True)
        said = self._lookup(name, kind)
        if said is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif isinstance(said, int):
            answer.set_rcode(said)
        else:
            for record in said:
                owner, rtype, data_text = record.split(" ", 2)
                answer.answer.append(dns.rrset.from_text(owner + ".", 60, "IN", rtype, data_text))
        return [answer.to_wire()]

    def below(self, parent: str) -> list[str]:
        """Random children of `parent` that were asked about."""
        return [
            name
            for name in self.asked
            if name.endswith(f".{parent}")
            and len(name.removesuffix(f".{parent}")) == len(random_label("a"))
        ]


@pytest.fixture
def judging(scripted):
    """Look-ups in, one per operator; servers, an engine and Wildcards out."""

    @asynccontextmanager
    async def open_all(*lookups, on_lie=None):
        async with AsyncExitStack() as stack:
            servers = [Server(lookup) for lookup in lookups]
            resolvers = [
                replace(await stack.enter_async_context(scripted(server)), operated_by=f"op{place}")
                for place, server in enumerate(servers)
            ]
            plan = Plan(tuple(resolvers), PATIENT, Examination(wildcard_probes=LIMIT))
            engine = await stack.enter_async_context(Engine(plan.resolvers, plan.engine))
            yield servers, engine, Wildcards(engine, plan, on_lie)

    return open_all


async def judged(engine, wildcards, *names, qtype=wire.A):
    outcomes = await wildcards.judge(await engine.resolve(names, qtype=qtype))
    return {outcome.name: outcome for outcome in outcomes}


def verdicts(outcomes):
    return {name: outcome.verdict for name, outcome in outcomes.items()}


def under(parent: str, explicit: dict[str, str], *made_up: str) -> Lookup:
    """A zone with a wildcard, as RFC 4592 has it."""

    def lookup(name: str, kind: str) -> list[str] | None:
        if name in explicit:
            return [f"{name} A {explicit[name]}"] if kind == "A" else []
        if any(name.endswith(f".{it}") for it in explicit) or not name.endswith(f".{parent}"):
            return None
        return [f"{name} A {address}" for address in made_up] if kind == "A" else []

    return lookup


async def test_names_below_a_wildcard_are_told_from_those_that_exist(judging):
    zone = under(
        "example.com", {"own.example.com": "192.0.2.9", "www.example.com": "192.0.2.1"}, "192.0.2.1"
    )
    async with judging(zone) as (_, engine, wildcards):
        found = await judged(
            engine, wildcards, "a.example.com", "own.example.com", "www.example.com"
        )
    assert verdicts(found) == {
        "a.example.com": Verdict.WILDCARD,
        "own.example.com": Verdict.RESOLVED,
        # Its address is the wildcard's, but no wildcard reaches below it: it has records.
        "www.example.com": Verdict.RESOLVED,
    }
    wild = found["a.example.com"]
    assert wild.addresses == ("192.0.2.1",)
    assert wild.evidence.wildcard.parent == "example.com"
    assert wild.evidence.wildcard.answers == ("192.0.2.1",)
    assert wild.evidence.reason
    assert found["www.example.com"].evidence.reason


async def test_a_parent_without_a_wildcard_costs_a_question_per_first_letter_and_three_at_most(
    judging,
):
    existing = {f"{first}{number}.example.com" for first in "abcdefg" for number in range(9)}
    existing.add("www.example.org")

    def lookup(name, kind):
        return [f"{name} A 192.0.2.1"] if name in existing else None

    async with judging(lookup) as ((server,), engine, wildcards):
        found = await judged(engine, wildcards, *existing)
        assert set(verdicts(found).values()) == {Verdict.RESOLVED}
        assert all(outcome.evidence is None for outcome in found.values())
        assert len(server.below("example.com")) == 3
        assert len(server.below("example.org")) == 1
        await judged(engine, wildcards, *existing)
        assert len(server.below("example.com")) == 3
        assert len(server.below("example.org")) == 1


async def test_a_thousand_parents_are_asked_about_at_once_and_never_again_by_others(judging):
    names = [f"www.domain{number}.com" for number in range(1000)]

    def lookup(name, kind):
        return [f"{name} A 192.0.2.1"] if name.startswith("www.") else None

    async with judging(lookup) as ((server,), engine, wildcards):
        outcomes = await engine.resolve(names)
        asked = len(server.asked)
        both = await asyncio.gather(wildcards.judge(outcomes), wildcards.judge(outcomes))
        assert both == [outcomes, outcomes]
        assert len(server.asked) - asked == len(names)


async def test_a_wildcard_costs_no_more_than_its_limit_for_each_first_letter(judging):
    counter = iter(range(10**6))

    def lookup(name, kind):
        number = next(counter) % 250
        return [f"{name} A 198.51.100.{number}"] if name.endswith(".example.com") else None

    async with judging(lookup) as ((server,), engine, wildcards):
        for _ in range(3):
            await judged(
                engine, wildcards, *[f"{it}{n}.example.com" for it in "abc" for n in range(20)]
            )
        asked = Counter(name[0] for name in server.below("example.com"))
        # One more to see whether existence can be proven.
        assert max(asked.values()) <= LIMIT + 1
        # That and two for each name: one below it, and whether it is a zone.
        deeper = [name for name in server.asked if name.count(".") == 3]
        assert len(deeper) <= 3 * 60 + 1
        assert len(server.asked) <= sum(asked.values()) + 3 * 3 * 60 + 10


async def test_a_wildcard_of_a_registry_hides_no_name_with_a_zone_of_its_own(judging):
    registered = {"taken.ws": "192.0.2.1", "other.ws": "192.0.2.7"}

    def lookup(name, kind):
        if kind == "SOA":
            return [f"{name} SOA ns.{name}. root. 1 2 3 4 5"] if name in registered else []
        return [f"{name} A {registered.get(name, '192.0.2.1')}"]

    async with judging(lookup) as (_, engine, wildcards):
        found = await judged(engine, wildcards, "free.ws", "taken.ws", "other.ws")
    assert verdicts(found) == {
        "free.ws": Verdict.WILDCARD,
        "taken.ws": Verdict.RESOLVED,
        "other.ws": Verdict.RESOLVED,
    }


async def test_below_a_name_that_is_not_registered_it_is_the_registrys_wildcard(judging):
    def lookup(name, kind):
        if kind == "SOA":
            return [f"{name} SOA ns.{name}. root. 1 2 3 4 5"] if name == "taken.ws" else []
        return [f"{name} A 192.0.2.1"]

    async with judging(lookup) as (_, engine, wildcards):
        found = await judged(engine, wildcards, "www.free.ws", "a.b.free.ws", "www.taken.ws")
    assert set(verdicts(found).values()) == {Verdict.WILDCARD}
    parents = {name: outcome.evidence.wildcard.parent for name, outcome in found.items()}
    assert parents == {"www.free.ws": "ws", "a.b.free.ws": "ws", "www.taken.ws": "taken.ws"}
    assert found["www.free.ws"].evidence.reason.endswith("the wildcard of ws")


async def test_a_zone_with_a_wildcard_of_its_own_exists_below_answers_that_vary(judging):
    counter = iter(range(10**6))

    def lookup(name, kind):
        if name == "own.example.com" or name.endswith(".own.example.com"):
            zone = kind == "SOA" and name == "own.example.com"
            soa = ["own.example.com SOA ns.example.com. root. 1 2 3 4 5"]
            return soa if zone else [f"{name} A 192.0.2.9"]
        return [f"{name} A 198.51.100.{next(counter) % 250}"] if kind == "A" else []

    async with judging(lookup) as (_, engine, wildcards):
        found = verdicts(await judged(engine, wildcards, "own.example.com", "not.example.com"))
    assert found == {"own.example.com": Verdict.RESOLVED, "not.example.com": Verdict.WILDCARD}


async def test_a_zone_record_that_every_name_gets_proves_nothing(judging):
    def lookup(name, kind):
        if kind == "SOA":
            return [f"{name} SOA ns.{name}. root. 1 2 3 4 5"]
        return [f"{name} A 192.0.2.1"]

    async with judging(lookup) as (_, engine, wildcards):
        found = await judged(engine, wildcards, "free.ws")
    assert verdicts(found) == {"free.ws": Verdict.WILDCARD}


async def test_a_wildcard_further_up_is_found_through_the_immediate_parent(judging):
    zone = under("example.com", {"b.example.com": "192.0.2.2"}, "192.0.2.1")
    async with judging(zone) as (_, engine, wildcards):
        found = await judged(engine, wildcards, "x.y.z.example.com", "b.example.com")
    assert verdicts(found) == {
        "x.y.z.example.com": Verdict.WILDCARD,
        "b.example.com": Verdict.RESOLVED,
    }


async def test_answers_that_vary_are_a_wildcard_all_the_same(judging):
    """Five of sixty addresses each time; one name has records of its own."""
    draw = random.Random(4)
    pool = [f"198.51.100.{number}" for number in range(60)]

    def lookup(name, kind):
        if name == "own.example.com":
            return ["own.example.com A 192.0.2.9"]
        if name.endswith(".own.example.com"):
            return None
        return [f"{name} A {address}" for address in draw.sample(pool, 5)]

    names = [f"n{number}.example.com" for number in range(200)]
    async with judging(lookup) as (_, engine, wildcards):
        found = verdicts(await judged(engine, wildcards, *names, "own.example.com"))
    assert found.pop("own.example.com") is Verdict.RESOLVED
    assert set(found.values()) == {Verdict.WILDCARD}


async def test_two_addresses_in_turn_are_one_wildcard(judging):
    draw = random.Random(4)

    def lookup(name, kind):
        if name == "own.example.com":
            return ["own.example.com A 192.0.2.9"]
        return [f"{name} A 198.51.100.{draw.choice((1, 2))}"]

    names = [f"n{number}.example.com" for number in range(200)]
    async with judging(lookup) as (_, engine, wildcards):
        found = verdicts(await judged(engine, wildcards, *names, "own.example.com"))
    assert found.pop("own.example.com") is Verdict.RESOLVED
    assert set(found.values()) == {Verdict.WILDCARD}


async def test_an_address_that_depends_on_the_first_letter_is_still_a_wildcards(judging):
    def lookup(name, kind):
        if name == "own.example.com":
            return ["own.example.com A 192.0.2.9"]
        return [f"{name} A 198.51.100.{ord(name[0])}"]

    names = [f"{first}{n}.example.com" for first in "abco7" for n in range(3)]
    async with judging(lookup) as ((server,), engine, wildcards):
        found = verdicts(await judged(engine, wildcards, *names, "own.example.com"))
        asked = Counter(name[0] for name in server.below("example.com"))
    assert found.pop("own.example.com") is Verdict.RESOLVED
    assert set(found.values()) == {Verdict.WILDCARD}
    assert max(asked.values()) <= LIMIT + 1


async def test_a_wildcard_for_some_first_letters_leaves_the_others_alone(judging):
    existing = {"blog.example.com", "mail.example.com"}

    def lookup(name, kind):
        if name.startswith("a") or name in existing:
            return [f"{name} A 192.0.2.1"]
        return None

    async with judging(lookup) as (_, engine, wildcards):
        found = verdicts(await judged(engine, wildcards, "any.example.com", *existing))
    assert found.pop("any.example.com") is Verdict.WILDCARD
    assert set(found.values()) == {Verdict.RESOLVED}


@pytest.mark.parametrize("target", ["pool.example.net", "{label}.example.net"])
async def test_an_alias_made_by_a_wildcard_is_one_whatever_is_behind_it(judging, target):
    counter = iter(range(10**6))

    def lookup(name, kind):
        to = target.format(label=name.partition(".")[0])
        if name == "own.example.com":
            to = "elsewhere.example.net"
        return [f"{name} CNAME {to}.", f"{to} A 198.51.100.{next(counter) % 250}"]

    async with judging(lookup) as (_, engine, wildcards):
        found = await judged(engine, wildcards, "a.example.com", "own.example.com")
    assert verdicts(found) == {
        "a.example.com": Verdict.WILDCARD,
        "own.example.com": Verdict.RESOLVED,
    }
    assert found["a.example.com"].evidence.wildcard.answers == (target.format(label="*"),)


async def test_a_wildcard_of_ipv6_addresses_is_found(judging):
    def lookup(name, kind):
        if name == "own.example.com":
            return ["own.example.com AAAA 2001:db8::9"] if kind == "AAAA" else []
        return [f"{name} AAAA 2001:db8::1"] if kind == "AAAA" else []

    async with judging(lookup) as (_, engine, wildcards):
        found = await judged(engine, wildcards, "a.example.com", "own.example.com", qtype=wire.AAAA)
    assert verdicts(found) == {
        "a.example.com": Verdict.WILDCARD,
        "own.example.com": Verdict.RESOLVED,
    }


async def test_a_resolver_that_invents_answers_makes_no_wildcard(judging):
    lies = []

    def honest(name, kind):
        return [f"{name} A 192.0.2.1"] if name.startswith("www.") else None

    def liar(name, kind):
        return [f"{name} A 192.0.2.{1 if name.startswith('www.') else 66}"]

    names = [f"www.domain{number}.com" for number in range(50)]
    async with judging(honest, liar, on_lie=lies.append) as ((_, lying), engine, wildcards):
        found = await judged(engine, wildcards, *names)
        label = engine.stats().resolvers[1].resolver
        invented = sum(len(lying.below(f"domain{number}.com")) for number in range(50))
    assert set(verdicts(found).values()) == {Verdict.RESOLVED}
    assert set(lies) == {label}
    assert 0 < len(lies) < invented


async def test_a_resolver_is_no_liar_because_another_denies_some_domains(judging):
    lies = []

    def blocking(name, kind):
        return [f"{name} A 192.0.2.1"] if name.startswith("www.domain") else None

    def plain(name, kind):
        wild = name.startswith("www.") or name.endswith(".malware.com")
        return [f"{name} A 192.0.2.1"] if wild else None

    names = [f"www.domain{number}.com" for number in range(50)]
    names += [f"{first}.malware.com" for first in "abcdefghi"]
    async with judging(blocking, plain, on_lie=lies.append) as (_, engine, wildcards):
        await judged(engine, wildcards, *names)
    assert lies == []


async def test_judging_twice_says_the_same(judging):
    zone = under("example.com", {"own.example.com": "192.0.2.9"}, "192.0.2.1")
    async with judging(zone) as (_, engine, wildcards):
        once = await wildcards.judge(await engine.resolve(["a.example.com", "own.example.com"]))
        assert await wildcards.judge(once) == once


async def test_a_wildcard_that_two_operators_show_is_one(judging):
    """Each gives another address, as where answers depend on who asks."""

    def at(host: int) -> Lookup:
        def lookup(name, kind):
            host_of = 9 if name == "own.example.com" else host
            return [f"{name} A 192.0.2.{host_of}"]

        return lookup

    names = [f"n{number}.example.com" for number in range(40)]
    async with judging(at(1), at(2)) as (_, engine, wildcards):
        found = verdicts(await judged(engine, wildcards, *names, "own.example.com"))
    assert found.pop("own.example.com") is Verdict.RESOLVED
    assert set(found.values()) == {Verdict.WILDCARD}


async def test_a_wildcard_is_one_although_the_other_operator_gives_no_answer(judging):
    zone = under("example.com", {"www.example.com": "192.0.2.1"}, "192.0.2.99")
    async with judging(zone, lambda *_: 5) as ((one, _), engine, wildcards):
        outcomes = await judged(engine, wildcards, "made-up.example.com", "www.example.com")

        # It may be back soon, and know better.
        again = await judged(engine, wildcards, "made-up.example.com")

    assert one.below("example.com")
    assert verdicts(again) == {"made-up.example.com": Verdict.WILDCARD}
    assert verdicts(outcomes) == {
        "made-up.example.com": Verdict.WILDCARD,
        "www.example.com": Verdict.RESOLVED,
    }


async def test_operators_that_are_out_are_not_asked_whether_a_wildcard_is_one(judging):
    zone = under("example.com", {}, "192.0.2.99")
    async with judging(zone, zone) as (servers, engine, wildcards):
        others = [it for it in engine.stats().resolvers if it.operator == "op1"]
        engine.quarantine(replace(Resolver.parse(others[0].resolver), operated_by="op1"))
        outcomes = await judged(engine, wildcards, "made-up.example.com")
        again = await judged(engine, wildcards, "another.example.com")

    assert verdicts(outcomes) == {"made-up.example.com": Verdict.WILDCARD}
    assert verdicts(again) == {"another.example.com": Verdict.WILDCARD}
    assert not servers[1].asked


async def test_a_name_stays_resolved_where_its_parent_gives_no_answer(judging):
    def lookup(name, kind):
        return [f"{name} A 192.0.2.1"] if name == "www.example.com" else 2

    async with judging(lookup, lookup) as (servers, engine, wildcards):
        outcome = (await judged(engine, wildcards, "www.example.com"))["www.example.com"]
        assert outcome.verdict is Verdict.RESOLVED
        assert "could not be checked" in outcome.evidence.reason
        assert outcome.evidence.wildcard is None
        # It is not asked about again at once.
        asked = sum(len(server.asked) for server in servers)
        await judged(engine, wildcards, "www.example.com")
        assert sum(len(server.asked) for server in servers) <= asked + 1


async def test_other_verdicts_pass_untouched(judging):
    def lookup(name, kind):
        return {"no": [], "bad": 2}.get(name.partition(".")[0])

    async with judging(lookup) as ((server,), engine, wildcards):
        outcomes = await engine.resolve(["no.example.com", "bad.example.com", "not.example.com"])
        asked = len(server.asked)
        assert await wildcards.judge(outcomes) == outcomes
        assert len(server.asked) == asked


async def test_the_worlds_wildcards_are_found_through_loss_failures_and_a_liar():
    """Children of wildcards of every kind, of ordinary domains, and of two that are registries."""
    mix = Mix(wildcard=20.0, mute=0, slow=0, servfail=0, refused=0, unusable=0, bogus=0)
    world = World(7, mix)
    domains = [f"domain{number}.com" for number in range(2000)]
    wild = [it for it in domains if world.truth(it).behaviour is Behaviour.WILDCARD][:60]
    plain = [it for it in domains if world.truth(it).behaviour is Behaviour.RESOLVES][:60]
    names = [f"{word}.{it}" for word in ("www", "mail", "a", "b1", "x.y") for it in (*wild, *plain)]
    names += [f"{word}.{it}" for it in wild[:4] for word in map("host{}".format, range(100))]
    names += [f"shop{number}.{tld}" for tld in TLD_WILDCARDS for number in range(400)]
    names += [f"www.shop{number}.ws" for number in range(40)]
    faults = Faults(loss=0.05, servfail=0.05)
    async with AsyncExitStack() as stack:
        resolvers = []
        for place in range(3):
            lying = replace(faults, lying=place == 2)
            server = SandboxDns(SandboxDnsSettings(seed=7, fault_seed=place, mix=mix, faults=lying))
            await stack.enter_async_context(server)
            resolvers.append(Resolver(*server.address, operated_by=f"op{place}"))
        plan = Plan(tuple(resolvers), EngineSettings(timeout=0.3, tries=12, soft_tries=12))
        engine = await stack.enter_async_context(Engine(plan.resolvers, plan.engine))
        wildcards = Wildcards(engine, plan)
        outcomes = await wildcards.judge(await engine.resolve(names))
    wrong = [
        (outcome, world.truth(outcome.name))
        for outcome in outcomes
        # What the liar says of names that do not exist is for a second opinion to find out.
        if outcome.verdict in (Verdict.RESOLVED, Verdict.WILDCARD)
        and world.truth(outcome.name).verdict in (Verdict.RESOLVED, Verdict.WILDCARD)
        and outcome.verdict != world.truth(outcome.name).verdict
    ]
    assert wrong == []
    assert sum(outcome.verdict is Verdict.WILDCARD for outcome in outcomes) > 500


def test_only_what_was_used_last_is_remembered():
    recent = Recent(10)
    for number in range(100):
        recent.put(number, number)
        assert recent.get(0) == 0
    assert recent.get(99) == 99
    assert recent.get(50) is None
    assert len(recent) <= 20
