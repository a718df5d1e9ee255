"""What DNS said about a name, and how sure an answer makes us. Pure: answers in, verdicts out."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
# Info codes of extended errors (RFC 8914) that say the signatures are broken: bogus, expired, not
# yet valid, keys, signatures, zone key bit or proof of absence missing.
DNSSEC_ERRORS = range(6, 13)


class Verdict(IntEnum):
    """The numbers are those of domainflow.validation.v1.DnsVerdict."""

    RESOLVED = 1
    NXDOMAIN = 2
    NO_DATA = 3
    SERVFAIL = 4
    REFUSED = 5
    TIMEOUT = 6
    WILDCARD = 7
    BOGUS = 8
    CNAME_LOOP = 9
    # Answers came, and none was usable: FORMERR, NOTIMP, malformed, a referral, another rcode.
    ERROR = 10
    # Given by the worker, never by an engine: the check itself failed as often as it was tried.
    DEAD_LETTER = 11


class Agreement(IntEnum):
    """The numbers are those of domainflow.validation.v1.DnsAgreement."""

    NOT_ASKED = 0
    CONFIRMED = 1
    DECIDED_BY_AUTHORITY = 2
    DISPUTED = 3
    UNCONFIRMED = 4


@dataclass(frozen=True, slots=True)
class RecordEvidence:
    """What was said of one type of record. Fields as in Outcome."""

    qtype: int
    verdict: Verdict
    rcode: int
    # Data in presentation form.
    records: tuple[str, ...]
    chain: tuple[str, ...]
    ttl: int
    resolver: str
    attempts: int
    duration_us: int
    tcp: bool
    authority: str


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one resolver said of a name, and how often."""

    resolver: str
    operator: str
    verdict: Verdict
    rcode: int
    addresses: tuple[str, ...]
    count: int = 1
    # Microseconds of the last answer; -1 when unknown.
    duration_us: int = -1
    # Info code of the last answer's extended error (RFC 8914); -1 without one.
    ede: int = -1


@dataclass(frozen=True, slots=True)
class WildcardProof:
    """What a parent answers names with that do not exist."""

    parent: str
    # Addresses and alias targets.
    answers: tuple[str, ...]
    probes: int


@dataclass(frozen=True, slots=True)
class AuthorityStep:
    """One server asked while following a delegation."""

    zone: str
    # "address:port".
    server: str
    # -1 when it was mute.
    rcode: int
    # The zone it points to, or the final answer.
    answer: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was asked beyond the one answer that decides an ordinary name."""

    agreement: Agreement = Agreement.NOT_ASKED
    # Facts of the registrable domain; None while unknown.
    registered: bool | None = None
    delegated: bool | None = None
    records: tuple[RecordEvidence, ...] = ()
    opinions: tuple[Opinion, ...] = ()
    wildcard: WildcardProof | None = None
    walk: tuple[AuthorityStep, ...] = ()
    # In words, where more than one answer decided.
    reason: str = ""


class Outcome(NamedTuple):
    """A verdict with its evidence. A tuple because a million of them are built a minute."""

    name: str
    verdict: Verdict
    # Of the answer that decided; -1 when no readable answer ever came.
    rcode: int
    # In the order of the answer, text form; of other types than A and AAAA, their data.
    addresses: tuple[str, ...]
    # Targets of the CNAME records in the order followed, without the name itself, lower case.
    chain: tuple[str, ...]
    # Seconds, the lowest among the records the verdict rests on; -1 when there were none.
    ttl: int
    # "ip:port" of the resolver that decided, or of the last one asked.
    resolver: str
    # Questions sent, at least 1 unless the name could not be asked for at all.
    attempts: int
    # From the first question to the verdict, in microseconds.
    duration_us: int
    # Whether the deciding answer came over a connection.
    tcp: bool
    # Zone whose SOA record spoke for a negative answer; empty without one.
    authority: str = ""
    # None where the fields above are all there is.
    evidence: Evidence | None = None


class Answer(NamedTuple):
    """What one well-formed response says about the name asked for."""

    rcode: int
    truncated: bool
    # Data of the records of the type asked for.
    addresses: tuple[str, ...]
    chain: tuple[str, ...]
    ttl: int
    # The CNAME chain returns to a name it has passed, or is longer than any resolver follows.
    looped: bool
    # NOERROR without an answer, pointing at other servers: the one asked does not recurse.
    referral: bool
    # Owner of the SOA record that speaks for a negative answer; empty without one.
    authority: str = ""
    # Info code of the extended error (RFC 8914), one of DNSSEC_ERRORS if several; -1 without one.
    ede: int = -1


# What is said when nothing readable comes.
NO_ANSWER = Answer(-1, False, (), (), -1, False, False)

# SERVFAIL speaks about the name, REFUSED about us, an unusable answer about the resolver.
_WEIGHT = {Verdict.ERROR: 1, Verdict.REFUSED: 2, Verdict.SERVFAIL: 3}


def judge(answer: Answer) -> Verdict:
    """The verdict this one answer supports. A truncated answer supports none: ask over TCP."""
    if answer.rcode == NOERROR:
        if answer.looped:
            return Verdict.CNAME_LOOP
        if answer.addresses:
            return Verdict.RESOLVED
        return Verdict.ERROR if answer.referral or answer.truncated else Verdict.NO_DATA
    if answer.rcode == NXDOMAIN:
        return Verdict.NXDOMAIN
    if answer.rcode == SERVFAIL:
        return Verdict.SERVFAIL
    return Verdict.REFUSED if answer.rcode == REFUSED else Verdict.ERROR


def is_final(verdict: Verdict) -> bool:
    """Whether asking again could not tell more."""
    return verdict not in _WEIGHT and verdict is not Verdict.TIMEOUT


def conclude(heard: Mapping[Verdict, int]) -> Verdict:
    """The commonest of answers that are not final; TIMEOUT when there are none.

    Of equally frequent ones, the more informative.
    """
    if not heard:
        return Verdict.TIMEOUT
    return max(heard, key=lambda verdict: (heard[verdict], _WEIGHT[verdict]))
