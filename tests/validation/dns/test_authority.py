"""Following delegations: root, registry and zone servers on addresses of their own."""

import asyncio
from random import Random

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest

from services.validation.dns import facts, wire
from services.validation.dns.authority import PER_SERVER, QUESTIONS, Authority
from services.validation.dns.delegation import Referral, reachable, read
from services.validation.dns.engine import Engine
from services.validation.dns.verdict import Verdict
from tests.eventually import eventually
from tests.validation.dns import zones
from tests.validation.dns.replies import QUICK, until
from tests.validation.dns.zones import Zone, served

ROOT, COM, SHOP, NET = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"


def world() -> dict[str, Zone]:
    return {
        ROOT: Zone(
            "",
            children={
                "com": [("a.servers.com", COM)],
                "net": [("a.servers.net", NET)],
            },
        ),
        COM: Zone("com", children={"shop.com": [("ns.shop.com", SHOP)]}),
        SHOP: Zone(
            "shop.com",
            {
                ("shop.com", "A"): ["192.0.2.1", "192.0.2.2"],
                ("www.shop.com", "CNAME"): ["shop.com"],
                ("cdn.shop.com", "CNAME"): ["host.net"],
                ("gone.shop.com", "CNAME"): ["gone.net"],
                ("round.shop.com", "CNAME"): ["about.shop.com"],
                ("about.shop.com", "CNAME"): ["round.shop.com"],
                ("mail.shop.com", "MX"): ["10 mx.shop.com."],
            },
        ),
        NET: Zone("net", {("host.net", "A"): ["192.0.2.9"]}),
    }


async def nobody(names):
    raise AssertionError(f"nobody has to be looked up: {names}")


def authority(delegations, look_up=nobody, **settings) -> Authority:
    return Authority(delegations, look_up, **{"timeout": 5.0, **settings})


async def test_a_name_is_followed_from_the_root_to_its_own_servers(scripted):
    async with served(scripted, world()) as delegations:
        (outcome,) = await authority(delegations).ask(["shop.com"], wire.A)

    assert (outcome.verdict, outcome.addresses) == (Verdict.RESOLVED, ("192.0.2.1", "192.0.2.2"))
    assert outcome.resolver == f"{SHOP}:{delegations.port}"
    assert [(it.zone, it.answer) for it in outcome.evidence.walk] == [
        (".", "com"),
        ("com", "shop.com"),
        ("shop.com", "RESOLVED 192.0.2.1 192.0.2.2"),
    ]
    assert facts.of(outcome) == (True, True)


async def test_a_registry_says_what_is_not_registered(scripted):
    async with served(scripted, world()) as delegations:
        (outcome,) = await authority(delegations).ask(["free.com"], wire.A)

    assert (outcome.verdict, outcome.authority) == (Verdict.NXDOMAIN, "com")
    assert facts.of(outcome) == (False, False)


@pytest.mark.parametrize(
    ("name", "verdict", "authority_zone"),
    [
        ("x.shop.com", Verdict.NXDOMAIN, "shop.com"),
        ("mail.shop.com", Verdict.NO_DATA, "shop.com"),
        ("gone.shop.com", Verdict.NXDOMAIN, "net"),
        ("round.shop.com", Verdict.CNAME_LOOP, ""),
    ],
)
async def test_what_has_no_address_below_a_registered_domain_is_told_apart(
    scripted, name, verdict, authority_zone
):
    async with served(scripted, world()) as delegations:
        (outcome,) = await authority(delegations).ask([name], wire.A)

    assert (outcome.verdict, outcome.authority) == (verdict, authority_zone)
    assert facts.of(outcome) == (True, True)


async def test_aliases_are_followed_into_other_zones(scripted):
    async with served(scripted, world()) as delegations:
        outcomes = await authority(delegations).ask(["www.shop.com", "cdn.shop.com"], wire.A)

    assert [(it.verdict, it.chain, it.addresses[-1]) for it in outcomes] == [
        (Verdict.RESOLVED, ("shop.com",), "192.0.2.2"),
        (Verdict.RESOLVED, ("host.net",), "192.0.2.9"),
    ]


async def test_many_names_of_one_registry_ask_the_root_once(scripted):
    everything = world()
    async with served(scripted, everything) as delegations:
        asked = [f"name{number}.com" for number in range(120)]
        outcomes = await authority(delegations).ask(asked, wire.A)

    assert {it.verdict for it in outcomes} == {Verdict.NXDOMAIN}
    assert [it.name for it in outcomes] == asked
    assert everything[ROOT].asked.total() == 1
    assert everything[COM].asked.total() == 120
    assert {it.evidence.walk[0].zone for it in outcomes} == {"."}


async def test_servers_that_are_mute_or_do_not_serve_the_zone_are_passed_over(scripted):
    everything = world()
    mute, lame = "127.0.0.6", "127.0.0.7"
    everything[mute] = Zone("", instead=lambda _: [])
    everything[lame] = Zone("", children={"com": [("a.servers.com", COM)]})
    everything[COM].children["shop.com"] = [
        ("ns1.shop.com", mute),
        ("ns2.shop.com", lame),
        ("ns.shop.com", SHOP),
    ]
    async with served(scripted, everything) as delegations:
        outcomes = await authority(delegations, timeout=0.3).ask(["shop.com"] * 8, wire.A)

    assert {it.verdict for it in outcomes} == {Verdict.RESOLVED}
    told = {step.answer for it in outcomes for step in it.evidence.walk}
    assert {"no answer", "does not serve the zone"} <= told


async def test_a_zone_whose_servers_all_fail_leaves_the_question_open(scripted):
    everything = world()

    def refuse(query):
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.REFUSED)
        return [response.to_wire()]

    everything[SHOP].instead = refuse
    async with served(scripted, everything) as delegations:
        (outcome,) = await authority(delegations).ask(["shop.com"], wire.A)

    assert (outcome.verdict, outcome.rcode) == (Verdict.REFUSED, 5)
    # Delegated all the same, says the registry.
    assert facts.of(outcome) == (True, True)


async def test_nothing_is_asked_for_a_while_after_the_roots_were_mute(scripted):
    root = Zone("", instead=lambda _: [])
    async with served(scripted, {ROOT: root}) as delegations:
        asks = authority(delegations, timeout=0.02)
        (first,) = await asks.ask(["shop.com"], wire.A)
        (second,) = await asks.ask(["shop.net"], wire.A)

    assert [(it.verdict, it.attempts) for it in (first, second)] == [
        (Verdict.TIMEOUT, 3),
        (Verdict.TIMEOUT, 0),
    ]
    assert root.asked.total() == 3


async def test_roots_that_were_not_asked_are_not_taken_for_mute(scripted):
    """The questions about one name are used up before the root is asked about its alias."""
    everything = world()
    deep = ".".join(["x"] * 60) + ".com"
    alias = Zone("", {(deep, "CNAME"): ["host.net"]})
    depths = iter(range(2, 100))

    def deeper(query):
        depth = next(depths)
        child = ".".join(deep.split(".")[-depth:])
        # After the root's own, QUESTIONS - 2 referrals and an alias.
        zone = Zone("", children={child: [(f"ns.{child}", COM)]}) if depth < QUESTIONS else alias
        return [zone.answer(query).to_wire()]

    everything[COM] = Zone("com", instead=deeper)
    async with served(scripted, everything) as delegations:
        asks = authority(delegations)
        (first,) = await asks.ask([deep], wire.A)
        (second,) = await asks.ask(["host.net"], wire.A)

    assert (first.verdict, first.attempts) == (Verdict.TIMEOUT, QUESTIONS)
    assert second.verdict is Verdict.RESOLVED


async def test_servers_whose_addresses_could_not_be_learned_are_looked_up_again_soon(scripted):
    everything = world()
    everything[COM].children["shop.com"] = [("ns.elsewhere.net", "")]
    known: list[str] = []
    recursive = zones.resolver(lambda it: known or "NXDOMAIN")
    async with (
        served(scripted, everything) as delegations,
        scripted(recursive) as resolver,
        Engine([resolver], QUICK) as engine,
    ):
        asks = authority(delegations, engine.resolve, patience=0.5)
        (lost,) = await asks.ask(["shop.com"], wire.A)
        known.append(SHOP)

        async def found() -> None:
            (outcome,) = await asks.ask(["shop.com"], wire.A)
            assert outcome.verdict is Verdict.RESOLVED

        await eventually(found)

    assert lost.verdict is Verdict.TIMEOUT


async def test_servers_without_an_address_along_are_looked_up(scripted):
    everything = world()
    everything[COM].children["shop.com"] = [("ns.elsewhere.net", "")]
    recursive = zones.resolver(lambda it: [SHOP] if it.name == "ns.elsewhere.net" else "NXDOMAIN")
    async with (
        served(scripted, everything) as delegations,
        scripted(recursive) as resolver,
        Engine([resolver], QUICK) as engine,
    ):
        (outcome,) = await authority(delegations, engine.resolve).ask(["shop.com"], wire.A)

    assert outcome.verdict is Verdict.RESOLVED


async def test_addresses_of_servers_in_other_zones_are_not_taken_from_a_referral(scripted):
    everything = world()
    evil = "127.0.0.8"
    everything[evil] = Zone("shop.com", {("shop.com", "A"): ["192.0.2.66"]})
    everything[COM].children["shop.com"] = [("ns.elsewhere.net", evil)]
    recursive = zones.resolver(lambda it: [SHOP])
    async with (
        served(scripted, everything) as delegations,
        scripted(recursive) as resolver,
        Engine([resolver], QUICK) as engine,
    ):
        (outcome,) = await authority(delegations, engine.resolve).ask(["shop.com"], wire.A)

    assert outcome.addresses == ("192.0.2.1", "192.0.2.2")
    assert not everything[evil].asked


async def test_answers_to_other_questions_are_not_taken(scripted):
    everything = world()
    shop = everything[SHOP]

    def forge(query):
        forged = []
        for change in ("id", "name", "type"):
            other = dns.message.make_query(
                "evil.com" if change == "name" else "shop.com",
                "MX" if change == "type" else "A",
                id=query.id ^ 1 if change == "id" else query.id,
            )
            response = dns.message.make_response(other)
            response.flags |= dns.flags.AA
            response.set_rcode(dns.rcode.NXDOMAIN)
            forged.append(response.to_wire())
        return [b"", b"\0" * 11, *forged, shop.answer(query).to_wire()]

    shop.instead = forge
    async with served(scripted, everything) as delegations:
        (outcome,) = await authority(delegations).ask(["shop.com"], wire.A)

    assert outcome.verdict is Verdict.RESOLVED


async def test_truncated_answers_are_asked_for_over_tcp(scripted):
    everything = world()
    shop = everything[SHOP]

    def truncate(query):
        response = dns.message.make_response(query)
        response.flags |= dns.flags.TC | dns.flags.AA
        return [response.to_wire()]

    shop.instead = truncate

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2), "big")
        query = dns.message.from_wire(await reader.readexactly(length))
        packet = shop.answer(query).to_wire()
        writer.write(len(packet).to_bytes(2, "big") + packet)
        writer.close()

    async with (
        await asyncio.start_server(converse, SHOP, 0) as server,
        served(scripted, everything, server.sockets[0].getsockname()[1]) as delegations,
    ):
        (outcome,) = await authority(delegations).ask(["shop.com"], wire.A)

    assert (outcome.verdict, outcome.tcp) == (Verdict.RESOLVED, True)


async def test_a_server_that_knows_no_edns_is_asked_without(scripted):
    everything = world()
    shop = everything[SHOP]

    def refuse_edns(query):
        if query.edns < 0:
            return None
        response = dns.message.Message(query.id)
        response.flags = dns.flags.QR
        response.set_rcode(dns.rcode.FORMERR)
        return [response.to_wire()]

    shop.instead = refuse_edns
    async with served(scripted, everything) as delegations:
        (outcome,) = await authority(delegations).ask(["shop.com"], wire.A)

    assert outcome.verdict is Verdict.RESOLVED


async def test_delegations_that_lead_on_for_ever_come_to_an_end(scripted):
    """Every server refers to one more label of the name, then to a server that is not there."""
    deep = ".".join(["x"] * 60) + ".com"

    def deeper(query):
        (only,) = query.question
        labels = only.name.to_text(omit_final_dot=True).split(".")
        depth = next(deeper.depths)
        child = ".".join(labels[-depth:])
        zone = Zone("", children={child: [(f"ns.{child}", ROOT)]})
        return [zone.answer(query).to_wire()]

    deeper.depths = iter(range(1, 100))
    async with served(scripted, {ROOT: Zone("", instead=deeper)}) as delegations:
        (outcome,) = await authority(delegations).ask([deep], wire.A)

    assert (outcome.verdict, outcome.attempts) == (Verdict.TIMEOUT, 30)


async def test_no_server_gets_more_than_some_questions_at_once(scripted):
    everything = world()
    com = everything[COM]
    com.instead = lambda _: []
    async with served(scripted, everything) as delegations:
        asks = authority(delegations, timeout=10.0)
        names = [f"name{number}.com" for number in range(40)]
        waiting = asyncio.create_task(asks.ask(names, wire.A))
        await until(lambda: com.asked.total() == PER_SERVER)
        # Those at other servers are not held up, and take the time a 21st would need to show.
        (other,) = await asks.ask(["host.net"], wire.A)
        waiting.cancel()
        await asyncio.wait([waiting])

    assert other.verdict is Verdict.RESOLVED
    assert com.asked.total() == PER_SERVER


def test_zones_cannot_point_into_private_networks():
    addresses = ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "8.8.8.8", "8.8.8.8"]

    assert reachable(addresses, private=False) == ("8.8.8.8",)
    assert reachable(addresses, private=True)[:2] == ("10.0.0.1", "127.0.0.1")


def test_no_answer_however_broken_upsets_the_reader():
    random = Random(1)
    answers = []
    for zone in world().values():
        for name in ("shop.com", "cdn.shop.com", "x.shop.com", "mail.shop.com", "host.net"):
            query = dns.message.make_query(name, "A")
            answers.append((name, zone.name, zone.answer(query).to_wire()))
    readable = 0
    for _ in range(1500):
        name, zone_name, packet = random.choice(answers)
        broken = bytearray(packet)
        for _ in range(random.randint(1, 4)):
            broken[random.randrange(2, len(broken))] = random.randrange(256)
        try:
            response = dns.message.from_wire(bytes(broken), ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            continue
        readable += 1
        said = read(response, name, wire.A, zone_name)
        # Whatever it says, it leads down.
        assert not isinstance(said, Referral) or said.zone.endswith(zone_name)
    assert readable > 100
