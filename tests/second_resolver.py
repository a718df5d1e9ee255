"""The same names through our examiner and through dnspython's own stub resolver."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import dns.asyncresolver
import dns.resolver

from services.validation.dns import wire
from services.validation.dns.examiner import Examiner
from services.validation.dns.plan import Delegations, Examination, Plan
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.verdict import Outcome, Verdict
from tests.real_servers import UNBOUND, Internet

# Questions of dnspython at once.
AT_ONCE = 50
BATCH = 2_000


class Other(NamedTuple):
    """What dnspython makes of a name."""

    verdict: Verdict
    addresses: frozenset[str] = frozenset()
    # Targets of CNAME records in order.
    chain: tuple[str, ...] = ()


def plan(where: Internet) -> Plan:
    """Both resolvers, as if of two operators; A and AAAA; failures asked about again soon."""
    one, two = (Resolver(UNBOUND, port, operated_by=f"unbound {port}") for port in where.resolvers)
    delegations = Delegations(((where.root, where.port),), where.port)
    examination = Examination(qtypes=(wire.A, wire.AAAA), delegations=delegations, canaries=())
    return Plan((one, two), EngineSettings(soft_delay=0.01), examination)


async def examine(names: Sequence[str], where: Internet) -> list[Outcome]:
    """Our outcomes, in order."""
    batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
    async with Examiner(plan(where)) as examiner:
        found = await asyncio.gather(*(examiner.examine(batch) for batch in batches))
    return [outcome for batch in found for outcome in batch]


async def ask_dnspython(names: Sequence[str], port: int) -> list[Other]:
    """What dnspython says of each, in order."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [UNBOUND]
    resolver.port = port
    resolver.lifetime = 30.0
    left = iter(enumerate(names))
    found: dict[int, Other] = {}

    async def ask() -> None:
        for index, name in left:
            found[index] = await _ask_one(resolver, name)

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return [found[index] for index in range(len(names))]


async def _ask_one(resolver: dns.asyncresolver.Resolver, name: str) -> Other:
    addresses: set[str] = set()
    chain: tuple[str, ...] = ()
    for kind in ("A", "AAAA"):
        try:
            answer = await resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN as absent:
            return Other(Verdict.NXDOMAIN, chain=_chain(absent.response(absent.qnames()[0])))
        except dns.resolver.NoNameservers:
            return Other(Verdict.SERVFAIL)
        addresses.update(item.address for item in answer.rrset or ())
        chain = _chain(answer.response)
    return Other(Verdict.RESOLVED if addresses else Verdict.NO_DATA, frozenset(addresses), chain)


def _chain(response: dns.message.QueryMessage) -> tuple[str, ...]:
    cnames = response.resolve_chaining().cnames
    return tuple(cname[0].target.to_text(omit_final_dot=True) for cname in cnames)


def agrees(outcome: Outcome, other: Other, *, wildcard: bool) -> bool:
    """Whether ours says the same, and what dnspython cannot tell: wildcards, broken signatures."""
    if outcome.verdict is Verdict.WILDCARD:
        right = wildcard and other.verdict is Verdict.RESOLVED
    elif outcome.verdict is Verdict.BOGUS:
        right = other.verdict is Verdict.SERVFAIL and outcome.name.endswith(".broken.com")
    else:
        right = outcome.verdict is other.verdict and not wildcard
    return (
        right and frozenset(outcome.addresses) == other.addresses and (outcome.chain == other.chain)
    )
