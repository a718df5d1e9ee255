"""Follows delegations from the root, to ask a name's own servers when resolvers disagree.

A name costs a question or two once its registry's servers are known, and 30 or ten seconds at most.
Only servers at global addresses are asked, unless the root servers themselves are elsewhere: a zone
must not be able to point us into a private network.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import cycle, islice
from random import SystemRandom

import dns.exception
import dns.flags
import dns.message
import dns.rdatatype

from services.validation.dns import wire
from services.validation.dns.delegation import MUTE, Referral, Said, reachable, read
from services.validation.dns.facts import at_or_below
from services.validation.dns.plan import Delegations
from services.validation.dns.suffixes import registrable
from services.validation.dns.together import together
from services.validation.dns.verdict import (
    FORMERR,
    NOTIMP,
    SERVFAIL,
    AuthorityStep,
    Evidence,
    Outcome,
    Verdict,
    is_final,
)

# Names followed at once, and questions to one server at once: they serve everybody.
WALKS = 50
PER_SERVER = 20
# Questions about one name, and seconds.
QUESTIONS = 30
PATIENCE = 10.0
# Seconds to wait for an answer.
TIMEOUT = 1.0
# Times a zone is asked about one name, through as many of its servers as there are.
ZONE_TRIES = (3, 6)
# Zones whose servers are remembered, and seconds at most; servers remembered.
ZONES = 10_000
REMEMBERED = 86_400.0
SERVERS = 10_000
# Seconds for which a mute server is asked last, and for which nobody is asked after the roots were.
MUTED = 60.0
# Servers without an address along whose addresses are looked up.
LOOKED_UP = 4

_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class _Zone:
    # "" is the root.
    name: str
    addresses: tuple[str, ...]
    # By the loop's clock.
    expires: float
    # How it was found.
    path: tuple[AuthorityStep, ...]
    # Of the root, whose servers may each have one.
    ports: tuple[int, ...] = ()


class _Server:
    __slots__ = ("muted_until", "slots")

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(PER_SERVER)
        self.muted_until = 0.0


@dataclass(slots=True)
class _Walk:
    """One name on its way."""

    steps: list[AuthorityStep] = field(default_factory=list)
    questions: int = 0
    server: str = ""
    tcp: bool = False
    # The zone the name itself belongs to, as far as known.
    zone: str = ""


class Authority:
    """The servers of all zones, from the root on. One event loop only; holds no socket between
    questions.

    `look_up` asks a recursive resolver for the addresses of name servers.
    """

    def __init__(
        self,
        delegations: Delegations,
        look_up: Callable[[Sequence[str]], Awaitable[list[Outcome]]],
        *,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        self._look_up = look_up
        self._timeout = timeout
        self._patience = patience
        self._port = delegations.port
        hosts = tuple(host for host, _ in delegations.root_servers)
        ports = tuple(port for _, port in delegations.root_servers)
        self._root = _Zone("", hosts, float("inf"), (), ports)
        self._private = any(not ip_address(host).is_global for host in hosts)
        self._zones: OrderedDict[str, _Zone] = OrderedDict()
        self._servers: OrderedDict[tuple[str, int], _Server] = OrderedDict()
        self._slots = asyncio.Semaphore(WALKS)
        # Zone and the label below it -> set when the first to ask knows.
        self._asking: dict[tuple[str, str], asyncio.Event] = {}
        self._unreachable_until = 0.0

    async def ask(self, names: Sequence[str], qtype: int) -> list[Outcome]:
        """What the authority of each says, in order; TIMEOUT where nobody could be asked.

        `resolver` is the server that decided, `evidence` holds the walk and what it told of the
        registrable domain.
        """
        outcomes: dict[int, Outcome] = {}
        left = iter(enumerate(names))

        async def walk() -> None:
            for index, name in left:
                async with self._slots:
                    outcomes[index] = await self._walk(name, qtype)

        await together(*(walk() for _ in range(min(WALKS, len(names)))))
        return [outcomes[index] for index in range(len(names))]

    async def _walk(self, name: str, qtype: int) -> Outcome:
        walk = _Walk()
        clock = asyncio.get_running_loop().time
        started = clock()
        said = MUTE
        try:
            async with asyncio.timeout(self._patience):
                said = await self._follow(walk, name, qtype)
        except TimeoutError:
            pass
        domain = registrable(name)
        known = True if domain and at_or_below(walk.zone, domain) else None
        return Outcome(
            name,
            said.verdict,
            said.rcode,
            said.addresses,
            said.chain,
            said.ttl,
            walk.server,
            walk.questions,
            int((clock() - started) * 1e6),
            walk.tcp,
            said.authority,
            Evidence(registered=known, delegated=known, walk=tuple(walk.steps)),
        )

    async def _follow(self, walk: _Walk, name: str, qtype: int) -> Said:
        """Down the delegations of the name, and of what it is an alias of."""
        at = name
        chain: tuple[str, ...] = ()
        ttl = -1
        while True:
            zone = self._closest(at)
            walk.steps += [step for step in zone.path if step not in walk.steps]
            if not chain:
                walk.zone = zone.name
            said = await self._ask_zone(walk, zone, at, qtype)
            if said is None:
                continue
            ttl = min(filter(lambda it: it >= 0, (ttl, said.ttl)), default=-1)
            if chain and is_final(said.verdict):
                passed = (name, *chain)
                looped = any(target in passed for target in said.chain)
                chain += said.chain
                if looped or len(chain) > wire.CHAIN_LIMIT:
                    return Said(Verdict.CNAME_LOOP, 0, (), chain[: wire.CHAIN_LIMIT], ttl)
            else:
                chain = said.chain
            if not said.onward:
                return Said(said.verdict, said.rcode, said.addresses, chain, ttl, said.authority)
            at = said.onward

    async def _ask_zone(self, walk: _Walk, zone: _Zone, name: str, qtype: int) -> Said | None:
        """What one of the zone's servers says, a failure when none says more; None: a zone that is
        closer to the name is known now.

        Of many names below the same child one is asked about first: the others will know the
        child's servers then.
        """
        depth = zone.name.count(".") + 1 if zone.name else 0
        key = zone.name, name.split(".")[-1 - depth :][0]
        asking = self._asking.get(key)
        if asking is not None:
            await asking.wait()
            if self._closest(name) is not zone:
                return None
        event = self._asking.setdefault(key, asyncio.Event())
        try:
            said = await self._ask_servers(walk, zone, name, qtype)
            if isinstance(said, Referral):
                await self._remember(zone, said, walk.steps[-1])
                return None
            return said
        finally:
            self._asking.pop(key, None)
            event.set()

    async def _ask_servers(
        self, walk: _Walk, zone: _Zone, name: str, qtype: int
    ) -> Referral | Said:
        worst = MUTE
        if zone is self._root and asyncio.get_running_loop().time() < self._unreachable_until:
            return worst
        before = walk.questions
        servers = self._in_order(zone)
        fewest, most = ZONE_TRIES
        for host, port in islice(cycle(servers), min(most, max(fewest, len(servers)))):
            if walk.questions >= QUESTIONS:
                break
            walk.questions += 1
            label = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            response, tcp = await self._ask_server(host, port, name, qtype)
            said = MUTE if response is None else read(response, name, qtype, zone.name)
            rcode = -1 if response is None else int(response.rcode())
            walk.steps.append(AuthorityStep(zone.name or ".", label, rcode, _in_words(said)))
            if response is not None:
                walk.server, walk.tcp = label, tcp
            if isinstance(said, Referral) or is_final(said.verdict):
                return said
            if worst.rcode != SERVFAIL and said.rcode >= 0:
                worst = said
        if worst is MUTE and zone is self._root and walk.questions > before:
            self._unreachable_until = asyncio.get_running_loop().time() + MUTED
        return worst

    # Zones

    def _closest(self, name: str) -> _Zone:
        """The deepest zone known that the name is in."""
        now = asyncio.get_running_loop().time()
        at = name
        while at:
            zone = self._zones.get(at)
            if zone is not None:
                if zone.expires > now:
                    self._zones.move_to_end(at)
                    return zone
                del self._zones[at]
            at = at.partition(".")[2]
        return self._root

    async def _remember(self, parent: _Zone, referral: Referral, step: AuthorityStep) -> None:
        """Note where the servers of a zone are, looking up what did not come along."""
        if referral.zone in self._zones:
            return
        addresses = [address for _, address in referral.glue]
        if not addresses:
            named = referral.servers[:LOOKED_UP]
            for outcome in await self._look_up(named):
                addresses += outcome.addresses
        now = asyncio.get_running_loop().time()
        path = (*parent.path, step)
        servers = reachable(addresses, private=self._private)
        # A zone that lets nothing be kept is kept for the walks under way, and so is one whose
        # servers could not be found: they may be the next time.
        life = max(referral.ttl, self._patience) if servers else self._patience
        expires = now + min(life, REMEMBERED)
        self._zones[referral.zone] = _Zone(referral.zone, servers, expires, path)
        while len(self._zones) > ZONES:
            self._zones.popitem(last=False)

    def _in_order(self, zone: _Zone) -> list[tuple[str, int]]:
        """Its servers, in any order, those over IPv6 and those that were mute at the end."""
        now = asyncio.get_running_loop().time()
        ports = zone.ports or (self._port,) * len(zone.addresses)
        servers = list(zip(zone.addresses, ports, strict=True))
        _random.shuffle(servers)

        def standing(address: tuple[str, int]) -> tuple[bool, bool]:
            server = self._servers.get(address)
            return server is not None and server.muted_until > now, ":" in address[0]

        return sorted(servers, key=standing)

    # Questions

    async def _ask_server(
        self, host: str, port: int, name: str, qtype: int
    ) -> tuple[dns.message.Message | None, bool]:
        """Its answer, None without any, and whether it came over TCP."""
        server = self._servers.setdefault((host, port), _Server())
        self._servers.move_to_end((host, port))
        while len(self._servers) > SERVERS:
            self._servers.popitem(last=False)
        kind = dns.rdatatype.RdataType.make(qtype)
        query = dns.message.make_query(name, kind, use_edns=0, payload=wire.EDNS_SIZE)
        query.flags = dns.flags.Flag(0)
        try:
            async with server.slots:
                response = await self._exchange(host, port, query)
                if response.rcode() in (FORMERR, NOTIMP) and response.edns < 0:
                    query.use_edns(False)
                    response = await self._exchange(host, port, query)
                truncated = bool(response.flags & dns.flags.TC)
                if truncated:
                    response = await self._exchange_over_tcp(host, port, query)
        except (OSError, EOFError, dns.exception.DNSException, ValueError):
            # TimeoutError is an OSError.
            server.muted_until = asyncio.get_running_loop().time() + MUTED
            return None, False
        server.muted_until = 0.0
        return response, truncated

    async def _exchange(
        self, host: str, port: int, query: dns.message.Message
    ) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[dns.message.Message] = loop.create_future()
        # A socket, and so a port, of its own for each question: that and the id are what a forger
        # has to guess. Connected: the kernel drops what comes from elsewhere.
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Listener(query, answer), remote_addr=(host, port)
        )
        try:
            transport.sendto(query.to_wire())
            async with asyncio.timeout(self._timeout):
                return await answer
        finally:
            transport.close()

    async def _exchange_over_tcp(
        self, host: str, port: int, query: dns.message.Message
    ) -> dns.message.Message:
        packet = query.to_wire()
        async with asyncio.timeout(2 * self._timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(len(packet).to_bytes(2, "big") + packet)
                length = int.from_bytes(await reader.readexactly(2), "big")
                response = dns.message.from_wire(
                    await reader.readexactly(length), ignore_trailing=True
                )
            finally:
                writer.close()
        if not query.is_response(response):
            raise ValueError("an answer to another question")
        return response


class _Listener(asyncio.DatagramProtocol):
    """Takes the first datagram that answers the question."""

    def __init__(
        self, query: dns.message.Message, answer: "asyncio.Future[dns.message.Message]"
    ) -> None:
        self._query = query
        self._answer = answer

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            response = dns.message.from_wire(data, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            return
        if self._query.is_response(response) and not self._answer.done():
            self._answer.set_result(response)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


def _in_words(said: Referral | Said) -> str:
    if isinstance(said, Referral):
        return said.zone
    if said is MUTE:
        return "no answer"
    if said.onward:
        return f"alias of {said.onward}"
    if said.verdict is Verdict.ERROR:
        return "does not serve the zone"
    return " ".join((said.verdict.name, *said.addresses[:8]))
