"""Every setting has an effect, seen by the servers that are asked.

From settings as a caller sends them, through plan and examiner, to questions on the wire. A field
of the contract without a proof here fails the last test.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from google.protobuf.duration_pb2 import Duration

from domainflow.validation.v1 import dns_pb2
from domainflow.validation.v1 import dns_settings_pb2 as pb
from services.sandbox.dns_transports import Identity, identity
from services.validation.dns.examiner import Examiner
from services.validation.dns.parents import ORDINARY_PROBES
from services.validation.dns.resolvers import Transport, system_resolvers
from services.validation.dns.verdict import Outcome, Verdict
from services.validation.plans import plan_of_settings
from tests.validation.dns.transports import Servers, every_transport

NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
# Longer than any test may take: what is asked again, is not because of this.
LONG = Duration(seconds=30)


# What proves which fields.

_proofs: dict[str, list[str]] = {}
Proof = TypeVar("Proof", bound=Callable[..., Any])


def proves(*fields: str) -> Callable[[Proof], Proof]:
    """Marks a test as the proof that these fields have an effect."""

    def mark(test: Proof) -> Proof:
        for each in fields:
            _proofs.setdefault(each, []).append(test.__name__)
        return test

    return mark


# A server that keeps account of what it is asked.


@dataclass(frozen=True)
class Asked:
    name: str
    qtype: str
    # Seconds of the monotonic clock.
    at: float
    checking_disabled: bool


# What is said about a name: a response code, or an address; None says nothing.
Answer = Callable[[Asked], int | str | dns.rrset.RRset | None]


@dataclass
class Peer(asyncio.DatagramProtocol):
    """A resolver, or an authority, that answers as it is told."""

    answer: Answer = lambda asked: "198.51.100.7"
    # Seconds until each answer.
    delay: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    # Questions unanswered at once, at most so far.
    most_open: int = 0
    open: int = 0
    transport: Any = None

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.transport.get_extra_info("sockname")[:2])

    def resolver(self, **more: Any) -> pb.DnsResolver:
        return pb.DnsResolver(address=self.address, **more)

    def times(self, name: str) -> list[float]:
        # What is asked unchecked tells whether signatures are broken, and is no repetition.
        return [it.at for it in self.asked if it.name == name and not it.checking_disabled]

    def gaps(self, name: str) -> list[float]:
        times = self.times(name)
        return [later - sooner for sooner, later in pairwise(times)]

    def names(self) -> list[str]:
        return [it.name for it in self.asked if not it.checking_disabled]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, client: Any) -> None:
        question = dns.message.from_wire(data)
        (asked,) = question.question
        record = Asked(
            asked.name.to_text(omit_final_dot=True).lower(),
            dns.rdatatype.to_text(asked.rdtype),
            time.monotonic(),
            bool(question.flags & dns.flags.CD),
        )
        self.asked.append(record)
        said = self.answer(record)
        if said is None:
            return
        response = dns.message.make_response(question)
        response.flags |= dns.flags.AA
        if isinstance(said, int):
            response.set_rcode(dns.rcode.Rcode(said))
        elif isinstance(said, dns.rrset.RRset):
            # A referral: the servers of a zone, all at one address.
            response.flags &= ~dns.flags.AA
            response.authority.append(said)
            glue = dns.rrset.from_text(said[0].target, 60, "IN", "A", "127.0.0.1")
            response.additional.append(glue)
        elif record.qtype == "A":
            response.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", said))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self._send, response, client)
        else:
            self._send(response, client)

    def _send(self, response: dns.message.Message, client: Any) -> None:
        self.open -= 1
        self.transport.sendto(response.to_wire(), client)


Open = Callable[..., Any]


@pytest.fixture
async def peer() -> AsyncIterator[Open]:
    """`await peer(answer, ...)` opens one on a port of its own."""
    async with AsyncExitStack() as stack:

        async def start(answer: Answer | None = None, **more: Any) -> Peer:
            made = Peer(**({"answer": answer} if answer else {}), **more)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                lambda: made, local_addr=("127.0.0.1", 0)
            )
            stack.callback(transport.close)
            return made

        yield start


# Asking as settings say. Whatever a test is not about is switched off.


def settings_of(*resolvers: pb.DnsResolver, **more: Any) -> pb.DnsSettings:
    plain: dict[str, Any] = {
        "timeout": LONG,
        "second_opinion": pb.SecondOpinion(policy=pb.SecondOpinion.POLICY_NONE),
        "wildcard_detection": pb.WildcardDetection(disabled=True),
        "authority": pb.AuthoritySettings(disabled=True),
        "canaries_disabled": True,
    }
    return pb.DnsSettings(resolvers=resolvers, **(plain | more))


@asynccontextmanager
async def examining(settings: pb.DnsSettings) -> AsyncIterator[Examiner]:
    async with Examiner(plan_of_settings(settings)) as examiner:
        yield examiner


async def examine(settings: pb.DnsSettings, *names: str) -> list[Outcome]:
    async with examining(settings) as examiner:
        return await examiner.examine(names)


def names(count: int) -> Sequence[str]:
    return [f"name{number}.example" for number in range(count)]


def ms(milliseconds: int) -> Duration:
    made = Duration()
    made.FromMilliseconds(milliseconds)
    return made


# Whom to ask.


@proves("DnsSettings.resolvers", "DnsResolver.address")
async def test_the_resolvers_named_are_asked_and_no_others(peer: Open) -> None:
    one, two, other = await peer(), await peer(), await peer()

    async with examining(settings_of(one.resolver(), two.resolver())) as examiner:
        for name in names(20):
            await examiner.examine([name])

    assert sorted(one.names() + two.names()) == sorted(names(20))
    assert one.asked
    assert two.asked
    assert not other.asked


@proves("DnsSettings.strategy", "DnsResolver.weight")
async def test_the_strategy_says_who_is_next(peer: Open) -> None:
    async def shares(strategy: pb.DnsStrategy.ValueType) -> tuple[list[int], str]:
        servers = [await peer() for _ in range(2)]
        settings = settings_of(
            servers[0].resolver(weight=1), servers[1].resolver(weight=19), strategy=strategy
        )
        async with examining(settings) as examiner:
            for name in names(100):
                await examiner.examine([name])
        order = sorted((each.at, str(i)) for i, it in enumerate(servers) for each in it.asked)
        return [len(it.asked) for it in servers], "".join(i for _, i in order)

    in_turn, order = await shares(pb.DNS_STRATEGY_ROUND_ROBIN)
    assert in_turn == [50, 50]
    assert "00" not in order
    by_default, _ = await shares(pb.DNS_STRATEGY_UNSPECIFIED)
    assert by_default == [50, 50]
    # Once in 10^15 it is otherwise.
    at_random, order = await shares(pb.DNS_STRATEGY_RANDOM)
    assert min(at_random) >= 10
    assert "00" in order
    weighted, _ = await shares(pb.DNS_STRATEGY_WEIGHTED)
    assert 0 <= weighted[0] <= 30
    failover, _ = await shares(pb.DNS_STRATEGY_FAILOVER)
    assert failover == [100, 0]


@proves("DnsResolver.operator", "DnsSettings.second_opinion", "SecondOpinion.policy")
async def test_somebody_else_is_asked_according_to_the_policy(peer: Open) -> None:
    policy = pb.SecondOpinion

    async def questions(asked: pb.SecondOpinion.Policy.ValueType, operator: str) -> Counter[str]:
        def answer(asked: Asked) -> str | int:
            return "198.51.100.7" if asked.name == "good.example" else NXDOMAIN

        def odd(asked: Asked) -> str | int:
            return SERVFAIL if asked.name == "odd.example" else answer(asked)

        one, two = await peer(odd), await peer(odd)
        settings = settings_of(
            one.resolver(operator="one"),
            two.resolver(operator=operator),
            second_opinion=policy(policy=asked),
            attempt_limit=1,
        )
        await examine(settings, "good.example", "absent.example", "odd.example")
        return Counter(one.names() + two.names())

    every = {"good.example", "absent.example", "odd.example"}
    expected: dict[pb.SecondOpinion.Policy.ValueType, set[str]] = {
        policy.POLICY_NONE: set(),
        policy.POLICY_ODD: {"odd.example"},
        policy.POLICY_POSITIVES_AND_ODD: {"odd.example", "good.example"},
        policy.POLICY_UNSPECIFIED: {"odd.example", "good.example"},
        policy.POLICY_ALL: every,
    }
    for asked, again in expected.items():
        counted = await questions(asked, "two")
        assert {name for name in every if counted[name] > 1} == again, asked
    # Of one operator there is nobody else.
    counted = await questions(policy.POLICY_UNSPECIFIED, "one")
    assert set(counted.values()) == {1}


@proves("SecondOpinion.positive_percent")
async def test_so_many_positives_in_a_hundred_get_a_second_opinion(peer: Open) -> None:
    one, two = await peer(), await peer()
    settings = settings_of(
        one.resolver(operator="one"),
        two.resolver(operator="two"),
        second_opinion=pb.SecondOpinion(positive_percent=20),
    )

    await examine(settings, *names(200))

    counted = Counter(one.names() + two.names())
    again = sum(count > 1 for count in counted.values())
    # A hash of the name chooses: the same ones every time.
    assert 20 <= again <= 60


# How they are asked.


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    async with every_transport() as servers:
        yield servers


TRANSPORTS = {
    Transport.UDP: pb.DNS_TRANSPORT_UDP,
    Transport.TCP: pb.DNS_TRANSPORT_TCP,
    Transport.TLS: pb.DNS_TRANSPORT_TLS,
    Transport.HTTPS: pb.DNS_TRANSPORT_HTTPS,
    Transport.HTTPS_JSON: pb.DNS_TRANSPORT_HTTPS_JSON,
}


def over(servers: Servers, transport: Transport, **changed: Any) -> pb.DnsResolver:
    made = servers.resolver(transport)
    known = {
        "address": f"{made.host}:{made.port}",
        "transport": TRANSPORTS[transport],
        "url": made.url,
        "tls_name": made.tls_name,
        "ca_pem": made.ca_pem,
    }
    return pb.DnsResolver(**(known | changed))


async def is_answered(resolver: pb.DnsResolver, *, within: Duration = LONG) -> bool:
    (outcome,) = await examine(
        settings_of(resolver, timeout=within, attempt_limit=1), "example.com"
    )
    return outcome.verdict is Verdict.RESOLVED


async def is_left_unanswered(resolver: pb.DnsResolver) -> bool:
    return not await is_answered(resolver, within=ms(700))


@proves("DnsResolver.transport")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_questions_travel_as_told(servers: Servers, transport: Transport) -> None:
    settings = settings_of(over(servers, transport), timeout=Duration(seconds=10))

    (outcome,) = await examine(settings, "example.com")

    assert outcome.verdict is Verdict.RESOLVED
    assert outcome.tcp is (transport is not Transport.UDP)
    opened = {
        Transport.TCP: servers.tcp.connections,
        Transport.TLS: servers.tls.connections,
    }
    assert {each for each, count in opened.items() if count} == {transport} & opened.keys()
    assert outcome.resolver == str(plan_of_settings(settings).resolvers[0])


@proves("DnsResolver.transport")
def test_the_machines_resolvers_are_asked_where_they_are_meant() -> None:
    system = pb.DnsResolver(transport=pb.DNS_TRANSPORT_SYSTEM)

    assert plan_of_settings(settings_of(system)).resolvers == system_resolvers()


@proves("DnsResolver.url")
async def test_the_url_is_the_one_requested(servers: Servers) -> None:
    right = over(servers, Transport.HTTPS)
    wrong = over(servers, Transport.HTTPS, url=right.url.replace("dns-query", "elsewhere"))

    assert await is_answered(right)
    assert await is_left_unanswered(wrong)


@proves("DnsResolver.tls_name")
async def test_the_certificate_has_to_be_of_the_name(servers: Servers) -> None:
    assert await is_answered(over(servers, Transport.TLS))
    assert await is_answered(over(servers, Transport.TLS, tls_name=""))
    assert await is_left_unanswered(over(servers, Transport.TLS, tls_name="other.sandbox"))


@proves("DnsResolver.ca_pem")
@pytest.mark.parametrize("transport", [Transport.TLS, Transport.HTTPS])
async def test_only_certificates_that_are_trusted_will_do(
    servers: Servers, transport: Transport
) -> None:
    stranger: Identity = identity()

    assert await is_answered(over(servers, transport))
    for ca in ("", stranger.ca):
        assert await is_left_unanswered(over(servers, transport, ca_pem=ca))


# How hard.


@proves("DnsSettings.window")
async def test_no_more_names_are_in_flight_than_the_window(peer: Open) -> None:
    narrow, wide = await peer(delay=0.02), await peer(delay=0.02)

    await examine(settings_of(narrow.resolver(), window=5), *names(40))
    await examine(settings_of(wide.resolver()), *names(40))

    assert narrow.most_open == 5
    assert wide.most_open > 5


@proves("DnsSettings.in_flight_limit", "DnsResolver.in_flight_limit")
async def test_no_more_questions_are_open_than_allowed(peer: Open) -> None:
    ours, theirs = await peer(delay=0.02), await peer(delay=0.02)
    settings = settings_of(ours.resolver(in_flight_limit=2), theirs.resolver(), in_flight_limit=4)

    await examine(settings, *names(60))

    assert ours.most_open == 2
    assert theirs.most_open == 4


@proves("DnsSettings.rate_limit", "DnsResolver.rate_limit")
async def test_no_more_questions_a_second_are_asked_than_allowed(peer: Open) -> None:
    all_alike, own = await peer(), await peer()

    await asyncio.gather(
        examine(settings_of(all_alike.resolver(), rate_limit=40), *names(40)),
        examine(settings_of(own.resolver(rate_limit=40), rate_limit=1000), *names(40)),
    )

    for server in (all_alike, own):
        span = server.asked[-1].at - server.asked[0].at
        # But for what may be caught up with.
        assert span > 0.7


# How patiently.


@proves("DnsSettings.timeout")
async def test_a_question_waits_for_its_answer_as_long_as_told(peer: Open) -> None:
    # Longer than by default.
    slow = await peer(lambda asked: None if len(slow.asked) == 1 else "198.51.100.7")

    (outcome,) = await examine(settings_of(slow.resolver(), timeout=ms(1500)), "a.example")

    assert outcome.verdict is Verdict.RESOLVED
    # It is heard a moment after it is sent.
    assert slow.gaps("a.example")[0] >= 1.2


@proves("DnsSettings.attempt_limit")
@pytest.mark.parametrize("limit", [1, 3])
async def test_a_mute_name_is_asked_about_as_often_as_told(peer: Open, limit: int) -> None:
    mute = await peer(lambda asked: None if asked.name == "mute.example" else NXDOMAIN)
    settings = settings_of(mute.resolver(), timeout=ms(300), attempt_limit=limit)

    outcomes = await examine(settings, "mute.example", "other.example")

    assert [it.verdict for it in outcomes] == [Verdict.TIMEOUT, Verdict.NXDOMAIN]
    assert len(mute.times("mute.example")) == limit


@proves("DnsSettings.retry_lanes", "RetryLane.reason", "RetryLane.attempt_limit", "RetryLane.delay")
async def test_each_reason_to_ask_again_has_its_own_lane(peer: Open) -> None:
    codes = {"failed.example": SERVFAIL, "refused.example": REFUSED}
    server = await peer(lambda asked: codes[asked.name])
    lanes = [
        pb.RetryLane(reason=pb.RetryLane.REASON_SERVFAIL, attempt_limit=2, delay=ms(300)),
        pb.RetryLane(
            reason=pb.RetryLane.REASON_REFUSED, attempt_limit=5, delay=ms(0), max_delay=ms(0)
        ),
    ]

    outcomes = await examine(settings_of(server.resolver(), retry_lanes=lanes), *codes)

    assert [it.verdict for it in outcomes] == [Verdict.SERVFAIL, Verdict.REFUSED]
    assert len(server.times("failed.example")) == 2
    assert len(server.times("refused.example")) == 5
    # By default 50 ms.
    assert server.gaps("failed.example")[0] >= 0.29


@proves("RetryLane.max_delay")
async def test_delays_double_up_to_their_limit(peer: Open) -> None:
    server = await peer(lambda asked: SERVFAIL)

    async def gaps(name: str, limit: Duration | None) -> list[float]:
        lane = pb.RetryLane(
            reason=pb.RetryLane.REASON_SERVFAIL, attempt_limit=4, delay=ms(200), max_delay=limit
        )
        await examine(settings_of(server.resolver(), retry_lanes=[lane]), name)
        return server.gaps(name)

    doubled, bounded = await asyncio.gather(
        gaps("doubled.example", None), gaps("bounded.example", ms(200))
    )

    assert doubled[2] >= 0.75
    assert all(gap >= 0.19 for gap in bounded)
    assert sum(bounded) < sum(doubled)


@proves("RetryLane.reason")
async def test_silence_has_a_lane_too(peer: Open) -> None:
    mute = await peer(lambda asked: None if asked.name == "mute.example" else NXDOMAIN)
    lane = pb.RetryLane(reason=pb.RetryLane.REASON_TIMEOUT, attempt_limit=2, delay=ms(500))
    settings = settings_of(mute.resolver(), timeout=ms(300), retry_lanes=[lane])

    await examine(settings, "mute.example", "other.example")

    assert len(mute.times("mute.example")) == 2
    assert mute.gaps("mute.example")[0] >= 0.6


# What is asked.


@proves("DnsSettings.record_types")
async def test_every_type_asked_for_is_asked_about(peer: Open) -> None:
    server = await peer(lambda asked: "198.51.100.7" if asked.name == "here.example" else NXDOMAIN)
    types = [dns_pb2.RECORD_TYPE_MX, dns_pb2.RECORD_TYPE_AAAA, dns_pb2.RECORD_TYPE_A]

    await examine(
        settings_of(server.resolver(), record_types=types), "here.example", "absent.example"
    )

    asked = {name: [] for name in ("here.example", "absent.example")}
    for each in server.asked:
        asked[each.name].append(each.qtype)
    assert asked["here.example"][0] == "A"
    assert sorted(asked["here.example"]) == ["A", "AAAA", "MX"]
    assert asked["absent.example"] == ["A"]


@proves("DnsSettings.wildcard_detection", "WildcardDetection.disabled")
async def test_random_names_are_asked_about_unless_detection_is_disabled(peer: Open) -> None:
    async def verdict(disabled: bool) -> tuple[Verdict, int]:
        server = await peer()
        detection = pb.WildcardDetection(disabled=disabled)
        settings = settings_of(server.resolver(), wildcard_detection=detection)
        (outcome,) = await examine(settings, "www.shop.com")
        return outcome.verdict, len(server.asked)

    assert await verdict(True) == (Verdict.RESOLVED, 1)
    detected, questions = await verdict(False)
    assert detected is Verdict.WILDCARD
    assert questions > 1


@proves("WildcardDetection.probe_limit")
async def test_no_more_random_names_are_asked_about_than_told(peer: Open) -> None:
    async def probes(limit: int) -> int:
        # Answers keep changing, and the name's own is none of them.
        server = await peer(
            lambda asked: (
                "203.0.113.1"
                if asked.name == "www.shop.com"
                else f"198.51.100.{len(server.asked) % 2}"
            )
        )
        detection = pb.WildcardDetection(probe_limit=limit)
        settings = settings_of(server.resolver(), wildcard_detection=detection)
        await examine(settings, "www.shop.com")
        below = [name for name in server.names() if name.endswith(".shop.com")]
        return len(set(below) - {"www.shop.com"})

    few, many = await probes(4), await probes(40)

    # The first few begin with different characters; the limit is of those with the same.
    assert few <= 4 + ORDINARY_PROBES
    assert few < many <= 40 + ORDINARY_PROBES


@pytest.fixture
async def opposed(peer: Open) -> tuple[Peer, Peer]:
    """Two resolvers that contradict each other."""
    return await peer(lambda asked: "198.51.100.7"), await peer(lambda asked: NXDOMAIN)


def disputed(opposed: tuple[Peer, Peer], authority: pb.AuthoritySettings) -> pb.DnsSettings:
    one, two = opposed
    return settings_of(
        one.resolver(operator="one"),
        two.resolver(operator="two"),
        second_opinion=pb.SecondOpinion(policy=pb.SecondOpinion.POLICY_ALL),
        authority=authority,
        strategy=pb.DNS_STRATEGY_FAILOVER,
    )


@proves(
    "DnsSettings.authority",
    "AuthoritySettings.disabled",
    "AuthoritySettings.root_servers",
    "AuthoritySettings.port",
)
async def test_delegations_are_followed_from_the_root_servers_given(
    peer: Open, opposed: tuple[Peer, Peer]
) -> None:
    zone = await peer(lambda asked: "198.51.100.9")
    referral = dns.rrset.from_text("com.", 60, "IN", "NS", "ns.nic.com.")
    root = await peer(lambda asked: referral)
    authority = pb.AuthoritySettings(
        root_servers=[root.address], port=int(zone.address.partition(":")[2])
    )

    (followed,) = await examine(disputed(opposed, authority), "shop.com")
    asked = len(root.asked), len(zone.asked)
    authority.disabled = True
    (unsettled,) = await examine(disputed(opposed, authority), "shop.com")

    assert root.asked
    assert zone.asked
    assert followed.verdict is Verdict.RESOLVED
    assert followed.evidence is not None
    assert followed.evidence.walk[0].server == root.address
    assert (len(root.asked), len(zone.asked)) == asked
    assert unsettled.evidence is not None
    assert not unsettled.evidence.walk


# Canaries.

GOOD, ABSENT = pb.Canary.KIND_GOOD, pb.Canary.KIND_NXDOMAIN


def watched(*resolvers: pb.DnsResolver, **more: Any) -> pb.DnsSettings:
    made = settings_of(*resolvers, **more)
    made.canaries_disabled = bool(more.get("canaries_disabled"))
    return made


@proves("DnsSettings.canaries", "DnsSettings.canaries_disabled", "Canary.name")
async def test_canaries_are_asked_before_anything_else(peer: Open) -> None:
    canaries = [
        pb.Canary(kind=GOOD, name="good.example"),
        pb.Canary(kind=ABSENT, name="*.absent.example"),
    ]

    def answer(asked: Asked) -> str | int:
        return NXDOMAIN if asked.name.endswith(".absent.example") else "198.51.100.7"

    told, default, disabled = await peer(answer), await peer(answer), await peer(answer)
    await examine(watched(told.resolver(), canaries=canaries), "a.example")
    await examine(watched(default.resolver()), "a.example")
    await examine(
        watched(disabled.resolver(), canaries=canaries, canaries_disabled=True), "a.example"
    )

    first = set(told.names()[:2])
    assert "good.example" in first
    (random,) = first - {"good.example"}
    assert random.endswith(".absent.example")
    assert random != "*.absent.example"
    assert "a.example" in told.names()
    assert "example.com" in default.names()
    assert disabled.names() == ["a.example"]


@proves("Canary.kind")
@pytest.mark.parametrize(("kind", "expected"), [(GOOD, 0), (ABSENT, 1)], ids=["good", "absent"])
async def test_what_is_known_of_a_canary_tells_whom_to_rely_on(
    peer: Open, kind: pb.Canary.Kind.ValueType, expected: int
) -> None:
    def positive(asked: Asked) -> str | int:
        return "198.51.100.7"

    def negative(asked: Asked) -> str | int:
        return NXDOMAIN

    servers = [await peer(positive), await peer(negative)]
    settings = watched(
        *(it.resolver() for it in servers),
        canaries=[pb.Canary(kind=kind, name="canary.example")],
        canary_period=Duration(seconds=1),
    )

    async with examining(settings) as examiner:
        for number in range(10_000):
            before = [len(it.asked) for it in servers]
            await examiner.examine([f"name{number}-{each}.example" for each in range(8)])
            ordinary = [
                sum(name != "canary.example" for name in it.names()[count:])
                for it, count in zip(servers, before, strict=True)
            ]
            if ordinary[1 - expected] == 0:
                break
            await asyncio.sleep(0.02)

    assert ordinary[expected] == 8


@proves("Canary.kind")
async def test_a_canary_with_broken_signatures_is_asked_about_unchecked_too(peer: Open) -> None:
    server = await peer(
        lambda asked: (
            SERVFAIL
            if asked.name == "broken.example" and not asked.checking_disabled
            else "198.51.100.7"
        )
    )
    canaries = [pb.Canary(kind=pb.Canary.KIND_BOGUS, name="broken.example")]

    async with examining(watched(server.resolver(), canaries=canaries)) as examiner:
        while not any(it.checking_disabled for it in server.asked):
            await examiner.examine(["a.example"])
            await asyncio.sleep(0.01)

    assert {it.name for it in server.asked if it.checking_disabled} == {"broken.example"}


@proves("DnsSettings.canary_period")
async def test_canaries_are_asked_again_each_period(peer: Open) -> None:
    often, seldom = await peer(), await peer()

    async def use(server: Peer, period: Duration | None) -> AsyncIterator[None]:
        settings = watched(
            server.resolver(),
            canaries=[pb.Canary(kind=GOOD, name="good.example")],
            canary_period=period,
        )
        async with examining(settings) as examiner:
            while True:
                await examiner.examine(["a.example"])
                yield

    one, other = use(often, Duration(seconds=1)), use(seldom, None)
    while len(often.times("good.example")) < 2:
        await anext(one)
        await anext(other)
        await asyncio.sleep(0.02)
    await one.aclose()
    await other.aclose()

    # Not at once; how much less than a second depends on how late the first one was heard.
    assert often.gaps("good.example")[0] >= 0.2
    assert len(seldom.times("good.example")) == 1


# All of them.


def fields_of(*messages: Any) -> Iterator[str]:
    for message in messages:
        for each in message.DESCRIPTOR.fields:
            yield f"{message.DESCRIPTOR.name}.{each.name}"


def test_no_setting_is_without_a_proof() -> None:
    settings = set(
        fields_of(
            pb.DnsSettings,
            pb.DnsResolver,
            pb.SecondOpinion,
            pb.WildcardDetection,
            pb.RetryLane,
            pb.AuthoritySettings,
            pb.Canary,
        )
    )

    assert _proofs.keys() == settings
