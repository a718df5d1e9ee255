"""The servers behind the sandbox's resolvers: a root, a registry and a name server, with referrals.

Each at an address of its own (`ROOT_HOST`, `TLD_HOST`, `ZONE_HOST` of `truth.py`) and all on one
port, because a delegation names addresses only. Linux listens on all of 127.0.0.0/8; elsewhere the
addresses have to be given to the loopback interface first.

The root delegates every top-level domain to the registry's server. That one delegates the domains
that are registered, and says NXDOMAIN of others, or where they are parked. The name server tells
the truth about what is delegated, misbehaving where a name's behaviour says so, and REFUSED of all
else. None recurses, validates or lies.
"""

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from dataclasses import replace
from errno import EADDRINUSE
from socket import inet_aton
from struct import Struct
from types import TracebackType
from typing import Self

from .dns_server import (
    REFUSED,
    SandboxDns,
    SandboxDnsSettings,
    encode,
    header_of,
    name_of,
    question_end,
)
from .truth import (
    NS,
    ROOT_HOST,
    ROOT_SERVER,
    SOA,
    TLD_HOST,
    TLD_SERVER,
    ZONE_HOST,
    ZONE_SERVER,
    A,
    Behaviour,
)

_RECORD = Struct("!HHIH")
_TTL = 3600
_OPT_RECORD = b"\x00" + _RECORD.pack(41, 1232, 0, 0)
_HOSTS = {ROOT_SERVER: ROOT_HOST, TLD_SERVER: TLD_HOST, ZONE_SERVER: ZONE_HOST}
_TRIES = 20


class AuthorityServer(SandboxDns, ABC):
    """One of the three; which, the subclasses say."""

    def respond(self, question: bytes, *, udp: bool) -> tuple[bytes, float]:
        end = question_end(question)
        if not end or question[2] & 0xF8 or question[4:6] != b"\x00\x01":
            return b"", 0.0
        name = name_of(question).lower()
        response, wait = self.speak(question, end, name, udp=udp)
        if not response or response[3] & 0x0F == REFUSED:
            return response, wait
        # Recursion is not available, and what is not a referral is authoritative.
        first = response[2] if _is_referral(response) else response[2] | 0x04
        return response[:2] + bytes((first, response[3] & 0x7F)) + response[4:], wait

    @abstractmethod
    def speak(self, question: bytes, end: int, name: str, *, udp: bool) -> tuple[bytes, float]:
        """The response as a resolver would give it, and the seconds before it."""


class RootServer(AuthorityServer):
    """Refers to the registry, whatever the top-level domain."""

    def speak(self, question: bytes, end: int, name: str, *, udp: bool) -> tuple[bytes, float]:
        if not name or name == ROOT_SERVER:
            return self.answer(question, end, self.world.truth(name), udp=udp)
        return _referral(question, end, name.rpartition(".")[2], TLD_SERVER), 0.0


class RegistryServer(AuthorityServer):
    """Refers to the name server of a domain, if that is registered."""

    def speak(self, question: bytes, end: int, name: str, *, udp: bool) -> tuple[bytes, float]:
        known = self.world.truth(name)
        labels = name.split(".")
        if len(labels) < 2 or not known.registered or name == TLD_SERVER:
            # A top-level domain, or what is not registered: there is nobody else to ask.
            return self.answer(question, end, known, udp=udp)
        domain = ".".join(labels[-2:])
        (server,) = self.world.servers(domain)
        return _referral(question, end, domain, server), 0.0


class NameServer(AuthorityServer):
    """Knows every zone that is delegated."""

    def speak(self, question: bytes, end: int, name: str, *, udp: bool) -> tuple[bytes, float]:
        known = self.world.truth(name)
        if not known.registered or "." not in known.zone:
            refused = header_of(question, REFUSED) + question[12:end]
            return refused, 0.0
        if known.behaviour is Behaviour.BOGUS:
            # Whoever asks here checks signatures himself: answered as if checking were disabled.
            question = question[:3] + bytes((question[3] | 0x10,)) + question[4:]
        return self.answer(question, end, known, udp=udp)


class AuthorityTree:
    """All three, open inside `async with`. `settings.host` is not used."""

    def __init__(self, settings: SandboxDnsSettings | None = None) -> None:
        self.settings = settings or SandboxDnsSettings()
        self.root: AuthorityServer
        self.registry: AuthorityServer
        self.name_server: AuthorityServer
        self._stack = AsyncExitStack()

    @property
    def root_address(self) -> tuple[str, int]:
        """Where to begin; the port is that of all three."""
        return self.root.address

    @property
    def questions(self) -> int:
        """Heard by all three."""
        servers = (self.root, self.registry, self.name_server)
        return sum(server.stats.questions for server in servers)

    async def __aenter__(self) -> Self:
        for attempt in range(_TRIES):
            async with AsyncExitStack() as stack:
                try:
                    await self._open(stack)
                except OSError as error:
                    # The port that was free at one address may be taken at the next.
                    if error.errno != EADDRINUSE or self.settings.port or attempt == _TRIES - 1:
                        raise
                else:
                    self._stack = stack.pop_all()
                    break
        return self

    async def _open(self, stack: AsyncExitStack) -> None:
        at_root = replace(self.settings, host=ROOT_HOST)
        self.root = await stack.enter_async_context(RootServer(at_root))
        shared = replace(self.settings, port=self.root.address[1])
        registry = RegistryServer(replace(shared, host=TLD_HOST))
        self.registry = await stack.enter_async_context(registry)
        name_server = NameServer(replace(shared, host=ZONE_HOST))
        self.name_server = await stack.enter_async_context(name_server)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()


def _referral(question: bytes, end: int, zone: str, server: str) -> bytes:
    """To the server of a zone that the name asked for is in; with its address where it must be."""
    target = encode(server)
    owner = (0xC000 + end - 6 - len(zone)).to_bytes(2, "big")
    edns = len(question) > end
    # Only what lies below the zone that speaks is given along; the top is below the root.
    glue = server.endswith("." + zone) or "." not in zone
    header = header_of(question, 0, 0, 1, glue + edns)
    body = owner + _RECORD.pack(NS, 1, _TTL, len(target)) + target
    if glue:
        address = inet_aton(_HOSTS.get(server, ZONE_HOST))
        body += target + _RECORD.pack(A, 1, _TTL, 4) + address
    return header + question[12:end] + body + (_OPT_RECORD if edns else b"")


def _is_referral(response: bytes) -> bool:
    """Of the responses made here: no answer, and an authority record that is not SOA."""
    if response[6:10] != b"\x00\x00\x00\x01":
        return False
    at = question_end(response)
    at += 2 if response[at] else 1
    return int.from_bytes(response[at : at + 2], "big") != SOA
