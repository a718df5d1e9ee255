"""How a page is made: where its candidates come from, and how many of them it may look at.

A page walks along one index, the one of its order or that of the rarest field of its filter, looks
the rest of the filter up by position, and stops when it is full or has looked at enough. So every
combination of filter and order is as fast on the last page as on the first; one that few domains
match gives short pages instead of slow ones.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias


class Order(IntEnum):
    """Numbers as in the contract."""

    POSITION = 1
    NAME = 2
    SCORE = 3
    SETTLE_TIME = 4


class Key(NamedTuple):
    """Where a domain stands in an order: the score or the revision of its chunk, and its position.

    In order of name it is the position, which leads to the name, and before it 1 + the block of
    the order where that is known, the short way; 0 where it is not.
    """

    major: int
    position: int


@dataclass(frozen=True, slots=True)
class DomainFilter:
    """Which domains: fields are joined by AND, the entries of one by OR. Scores in thousandths."""

    dns_verdicts: tuple[int, ...] = ()
    dns_pending: bool = False
    http_verdicts: tuple[int, ...] = ()
    lead_statuses: tuple[int, ...] = ()
    lead_reasons: tuple[int, ...] = ()
    min_score: int | None = None
    max_score: int | None = None
    tlds: tuple[str, ...] = ()
    prefix: str = ""
    contains: str = ""
    keywords: tuple[str, ...] = ()
    warnings: tuple[int, ...] = ()
    has_warnings: bool | None = None

    @property
    def scored(self) -> bool:
        return self.min_score is not None or self.max_score is not None

    @property
    def scores(self) -> tuple[int, int]:
        """The lowest and the highest score."""
        lowest = 0 if self.min_score is None else self.min_score
        return lowest, 1_000 if self.max_score is None else self.max_score

    @property
    def warning_mask(self) -> int:
        """As page_analyses.warnings; 0: whichever."""
        return sum(1 << (warning - 1) for warning in self.warnings)


class Facts(Protocol):
    """What is known of a domain, by the names that services.query.pages gives it."""

    def __getitem__(self, name: str, /) -> Any: ...


# Asked of what is known of a domain, and of what the phases after DNS found, if anything.
Test: TypeAlias = Callable[[Facts, Facts | None], bool]


def tests_of(chosen: DomainFilter) -> list[Test]:
    """What a domain has to pass to be let through: a test for each field that is set."""
    tests: list[Test] = []
    verdicts, tlds, prefix, contains = (
        frozenset(chosen.dns_verdicts),
        frozenset(chosen.tlds),
        chosen.prefix,
        chosen.contains,
    )
    if verdicts:
        tests.append(lambda d, _: d["verdict"] in verdicts)
    if chosen.dns_pending:
        tests.append(lambda d, _: d["verdict"] is None)
    if tlds:
        tests.append(lambda d, _: d["name"].rpartition(".")[2] in tlds)
    if prefix:
        tests.append(lambda d, _: d["name"].startswith(prefix))
    if contains:
        tests.append(lambda d, _: contains in d["name"])
    tests += [_of_later(test) for test in _later_tests(chosen)]
    return tests


def _of_later(test: Callable[[Facts], bool]) -> Test:
    return lambda _, later: later is not None and test(later)


def _later_tests(chosen: DomainFilter) -> Iterator[Callable[[Facts], bool]]:
    for field, values in (
        ("http_verdict", frozenset(chosen.http_verdicts)),
        ("lead_status", frozenset(chosen.lead_statuses)),
        ("lead_reason", frozenset(chosen.lead_reasons)),
    ):
        if values:
            yield partial(_is_one_of, field, values)
    lowest, highest = chosen.scores
    if chosen.scored:
        yield lambda d: d["score"] is not None and lowest <= d["score"] <= highest
    mask, warned = chosen.warning_mask, chosen.has_warnings
    if mask:
        yield lambda d: bool((d["warnings"] or 0) & mask)
    if warned is not None:
        yield lambda d: d["warnings"] is not None and bool(d["warnings"]) is warned
    keywords = frozenset(chosen.keywords)
    if keywords:
        yield lambda d: not keywords.isdisjoint(d["keywords"] or ())


def _is_one_of(field: str, values: frozenset[int], domain: Facts) -> bool:
    return domain[field] in values


class Kind(Enum):
    """An index that leads to domains in order of position; in a filter, what it asks about."""

    NAMES = 1
    PENDING = 2
    DNS = 3
    HTTP = 4
    STATUS = 5
    REASON = 6
    ANALYSED = 7
    WARNED = 8
    KEYWORD = 9


@dataclass(frozen=True, slots=True)
class Source:
    """The domains with one of these values in such an index.

    `size` is how many there are: counted where `counted`, otherwise supposed.
    """

    kind: Kind
    values: tuple[int | str, ...]
    size: int
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the counters say of a campaign: names, and names by outcome of each phase as it is shown
    (entry i counts outcome i + 1). `tld_names`: names below the top-level domains that were asked
    for, where they are counted. `revision`: of the last change to any of these phases' results."""

    names: int
    dns: Sequence[int] = ()
    http: Sequence[int] = ()
    analysis: Sequence[int] = ()
    leads: Sequence[int] = ()
    tld_names: int | None = None
    revision: int = 0

    @property
    def settled(self) -> int:
        return sum(self.dns)

    @property
    def analysed(self) -> int:
        """Domains with a score: with a keyword (outcome 1) and without (2)."""
        return sum(self.analysis[:2])


# Status of each reason of a lead decision, as in the contract.
STATUS_OF_REASON = {1: 1, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, 7: 3, 8: 4, 9: 3, 10: 4, 11: 3}
# The outcome that lets a name into the next phase.
_RESOLVED, _OK = 1, 1

# A set of so many domains at most is put in order whole, once for all its pages. A walk along the
# order would look at so many others between two of them that its pages were all but empty.
SMALL = 3_000
# While DNS verdicts come in, that would be once for every page.
SMALL_WHILE_SETTLING = 400
# Candidates that a page looks at, for 1.5 ms at most: a lookup that is near the one before costs
# 1.2 us, one at a place of its own 3 to 8 us, a name that is read along the way 0.3 us.
_NEAR, _FAR, _ALONG = 500, 100, 1_500
# Along a copy in the order of the page, where a look-up costs 1 us and a test 2.
RANKED = 200
# Domains of which there is one in so many, or fewer, are each at a place of their own.
_SPARSE = 8
# Names a chunk, about. More of a top-level domain than that have some in every chunk.
_CHUNK = 5_000
# Shares that no counter knows: supposed for the size of the first window only.
_KEYWORD, _WARNED, _TLD, _TEXT = 0.1, 0.1, 0.3, 0.02
# From this share of hits on, looking all candidates up whole is cheaper than sorting them out.
MOSTLY = 0.8


def sources(chosen: DomainFilter, sizes: Sizes) -> list[Source]:
    """Indexes that lead to the domains of this filter in order of position, the shortest first.

    NAMES is the last resort and always there.
    """
    found = []
    if chosen.dns_pending:
        found.append(Source(Kind.PENDING, (), sizes.names - sizes.settled))
    if chosen.dns_verdicts:
        found.append(Source(Kind.DNS, chosen.dns_verdicts, _sum(sizes.dns, chosen.dns_verdicts)))
    if chosen.http_verdicts:
        size = _sum(sizes.http, chosen.http_verdicts)
        found.append(Source(Kind.HTTP, chosen.http_verdicts, size))
    if chosen.lead_statuses:
        reasons = tuple(r for r, s in STATUS_OF_REASON.items() if s in chosen.lead_statuses)
        found.append(Source(Kind.STATUS, chosen.lead_statuses, _sum(sizes.leads, reasons)))
    if chosen.lead_reasons:
        size = _sum(sizes.leads, chosen.lead_reasons)
        found.append(Source(Kind.REASON, chosen.lead_reasons, size))
    analysed = sizes.analysed
    if chosen.keywords:
        size = int(analysed * _KEYWORD)
        found.append(Source(Kind.KEYWORD, chosen.keywords, size, counted=False))
    if chosen.warnings or chosen.has_warnings:
        found.append(Source(Kind.WARNED, (), int(analysed * _WARNED), counted=False))
    if chosen.scored or chosen.has_warnings is False:
        found.append(Source(Kind.ANALYSED, (), analysed))
    found.sort(key=lambda source: source.size)
    return [*found, Source(Kind.NAMES, (), sizes.names)]


def exact_total(chosen: DomainFilter, order: Order, sizes: Sizes) -> int | None:
    """How many domains there are to list, where the counters know."""
    if order is not Order.POSITION and order is not Order.NAME:
        if chosen.dns_pending:
            return 0
        if order is Order.SCORE:
            return sizes.analysed if chosen == DomainFilter() else None
        if chosen == DomainFilter():
            return sizes.settled
        only_dns = chosen == DomainFilter(dns_verdicts=chosen.dns_verdicts)
        return _sum(sizes.dns, chosen.dns_verdicts) if only_dns else None
    first, *more = sources(chosen, sizes)
    if chosen == DomainFilter():
        return sizes.names
    if chosen == DomainFilter(tlds=chosen.tlds):
        return sizes.tld_names
    alone = len(more) == 1 and not (chosen.tlds or chosen.prefix or chosen.contains)
    if alone and first.counted and first.kind is not Kind.ANALYSED:
        return first.size
    return None


def supposed_share(chosen: DomainFilter, sizes: Sizes, source: Source) -> float:
    """Which share of the domains of `source` the rest of the filter probably lets through."""
    share = 1.0
    for other in sources(chosen, sizes)[:-1]:
        if (other.kind, other.values) != (source.kind, source.values):
            share *= _share(other, source, sizes)
    if chosen.scored:
        lowest, highest = chosen.scores
        share *= max(0.01, (highest - lowest + 1) / 1_001)
    if chosen.warnings and source.kind is Kind.WARNED:
        share *= 0.5
    if chosen.has_warnings is False:
        share *= 1 - _WARNED
    if chosen.tlds:
        known = sizes.tld_names is not None and sizes.names > 0
        share *= (sizes.tld_names or 0) / sizes.names if known else _TLD
    if chosen.prefix or chosen.contains:
        share *= _TEXT
    return max(share, 0.001)


def _share(other: Source, source: Source, sizes: Sizes) -> float:
    asked, given = _PHASE[other.kind], _PHASE[source.kind]
    if asked < given:
        # An earlier phase: whoever came so far has passed it.
        passing = {2: _RESOLVED, 3: _OK}.get(asked)
        return 0.99 if passing is None or passing in other.values else 0.01
    if asked == given:
        everybody = {2: sizes.settled, 3: sum(sizes.http), 4: sizes.analysed}.get(asked)
        return min(1.0, other.size / max(1, everybody or sum(sizes.leads)))
    # A later phase: only those that passed this one got there.
    passing = {2: _RESOLVED, 3: _OK}.get(given)
    if passing is not None and passing not in source.values:
        return 0.01
    return min(1.0, other.size / max(1, source.size))


_PHASE = {
    Kind.NAMES: 1,
    Kind.PENDING: 2,
    Kind.DNS: 2,
    Kind.HTTP: 3,
    Kind.ANALYSED: 4,
    Kind.WARNED: 4,
    Kind.KEYWORD: 4,
    Kind.STATUS: 5,
    Kind.REASON: 5,
}


def skips_chunks(sizes: Sizes) -> bool:
    """Whether the names below the top-level domains that are asked for may be so few that whole
    chunks have none."""
    return sizes.tld_names is None or sizes.tld_names * _CHUNK < sizes.names


def allowance(order: Order, source: Source, sizes: Sizes, tables: int) -> int:
    """How many candidates one page may look at, each in so many tables."""
    if source.kind is Kind.NAMES or source.kind is Kind.PENDING:
        return _ALONG if order in (Order.POSITION, Order.SETTLE_TIME) else _FAR // max(1, tables)
    if order in (Order.NAME, Order.SCORE) or source.size * _SPARSE < sizes.names:
        return _FAR // max(1, tables)
    return _NEAR // max(1, tables)


def window(need: int, share: float, allowed: int) -> int:
    """How many candidates to look at for so many hits."""
    wanted = need if share >= 1 else math.ceil(need / share * 1.1) + 4
    return max(1, min(allowed, wanted))


def after_prefix(prefix: str) -> str:
    """The first text behind all that begin so, bytewise."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _sum(counts: Sequence[int], numbers: Sequence[int]) -> int:
    return sum(counts[number - 1] for number in numbers if number <= len(counts))
