"""Everything that is decided about how a campaign's names are asked about. Pure."""

from dataclasses import dataclass, field
from enum import IntEnum

from services.validation.dns import wire
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings

# RFC 8499's root servers: a.root-servers.net to m.root-servers.net.
ROOT_SERVERS = (
    "198.41.0.4",
    "170.247.170.2",
    "192.33.4.12",
    "199.7.91.13",
    "192.203.230.10",
    "192.5.5.241",
    "192.112.36.4",
    "198.97.190.53",
    "192.36.148.17",
    "192.58.128.30",
    "193.0.14.129",
    "199.7.83.42",
    "202.12.27.33",
)


class OpinionPolicy(IntEnum):
    """The numbers are those of domainflow.validation.v1.SecondOpinion.Policy."""

    # POSITIVES_AND_ODD where there are resolvers of two operators, else NONE.
    AUTOMATIC = 0
    NONE = 1
    ODD = 2
    POSITIVES_AND_ODD = 3
    ALL = 4


class CanaryKind(IntEnum):
    """The numbers are those of domainflow.validation.v1.Canary.Kind."""

    GOOD = 1
    NXDOMAIN = 2
    BOGUS = 3
    TRUNCATED = 4


@dataclass(frozen=True, slots=True)
class Canary:
    """A question with a known answer; "*" as the first label stands for a random one."""

    kind: CanaryKind
    name: str


CANARIES = (
    Canary(CanaryKind.GOOD, "example.com"),
    Canary(CanaryKind.NXDOMAIN, "*.com"),
    Canary(CanaryKind.BOGUS, "dnssec-failed.org"),
)


@dataclass(frozen=True, slots=True)
class Delegations:
    """Where they begin, and the port of the servers they point to."""

    # Address and port.
    root_servers: tuple[tuple[str, int], ...] = tuple((host, 53) for host in ROOT_SERVERS)
    port: int = 53


@dataclass(frozen=True, slots=True)
class Examination:
    """What is asked about a name besides the first question."""

    # Types to ask for; the first is A, or AAAA where A is not asked for.
    qtypes: tuple[int, ...] = (wire.A,)
    opinion: OpinionPolicy = OpinionPolicy.AUTOMATIC
    # Of the names that resolve, so many in a hundred get a second opinion.
    positive_percent: int = 100
    wildcards: bool = True
    # Random names asked about per parent at most.
    wildcard_probes: int = 24
    # None: delegations are never followed.
    delegations: Delegations | None = field(default_factory=Delegations)
    canaries: tuple[Canary, ...] = CANARIES
    # Seconds.
    canary_period: float = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Whom to ask, how, and what. Equal plans share an engine."""

    resolvers: tuple[Resolver, ...]
    engine: EngineSettings = field(default_factory=EngineSettings)
    examination: Examination = field(default_factory=Examination)
