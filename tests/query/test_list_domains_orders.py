"""ListDomains in every order with every filter: the same domains as a list in memory gives."""

import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.query.conditions import check_filter
from tests.query.conftest import LEAD_STATUS_OF, Analysis, Made, Query, Writer

POSITION, NAME = pb.DOMAIN_ORDER_POSITION, pb.DOMAIN_ORDER_NAME
SCORE, SETTLE_TIME = pb.DOMAIN_ORDER_SCORE, pb.DOMAIN_ORDER_SETTLE_TIME
ORDERS = [POSITION, NAME, SCORE, SETTLE_TIME]
RESOLVED, NXDOMAIN, TIMEOUT = 1, 2, 6
OK, NOT_FOUND, REFUSED = 1, 9, 3
COUNT, CHUNK = 2_000, 20
TLDS = ["com", "net", "org", "example", "rare"]


@dataclass(slots=True)
class Known:
    """A domain as the test knows it."""

    position: int
    name: str
    dns: int | None = None
    revision: int = 0
    http: int | None = None
    analysis: Analysis | None = None
    lead: int | None = None


@dataclass(slots=True)
class Campaign:
    """A campaign and all of its domains."""

    made: Made
    domains: list[Known] = field(default_factory=list)

    def expected(self, chosen: DomainFilter, order: int, descending: bool) -> list[int]:
        found = [domain for domain in self.domains if lets_through(chosen, domain)]
        if order == SCORE:
            found = [domain for domain in found if domain.analysis]
        if order == SETTLE_TIME:
            found = [domain for domain in found if domain.dns]
        found.sort(key=KEYS[order], reverse=descending)
        return [domain.position for domain in found]


KEYS: dict[int, Callable[[Known], Any]] = {
    POSITION: lambda domain: domain.position,
    NAME: lambda domain: domain.name,
    SCORE: lambda domain: (domain.analysis.score if domain.analysis else 0, domain.position),
    SETTLE_TIME: lambda domain: (domain.revision, domain.position),
}


def lets_through(chosen: DomainFilter, domain: Known) -> bool:
    page = domain.analysis
    warnings = set(page.warnings) if page else set()
    return all(
        (
            not chosen.dns_verdicts or domain.dns in chosen.dns_verdicts,
            not chosen.dns_pending or domain.dns is None,
            not chosen.http_verdicts or domain.http in chosen.http_verdicts,
            not chosen.lead_statuses
            or (domain.lead and LEAD_STATUS_OF[domain.lead] in chosen.lead_statuses),
            not chosen.lead_reasons or domain.lead in chosen.lead_reasons,
            not chosen.HasField("min_score") or (page and page.score >= chosen.min_score * 1000),
            not chosen.HasField("max_score") or (page and page.score <= chosen.max_score * 1000),
            not chosen.tlds or domain.name.rpartition(".")[2] in chosen.tlds,
            domain.name.startswith(chosen.name_prefix),
            chosen.name_contains in domain.name,
            not chosen.keywords or (page and set(page.keywords) & set(chosen.keywords)),
            not chosen.warnings or warnings & set(chosen.warnings),
            not chosen.HasField("has_warnings") or (page and bool(warnings) is chosen.has_warnings),
        )
    )


async def known_campaign(writer: Writer, count: int = COUNT) -> Campaign:
    """Names in no order, chunks settled in no order and two of them open, and all later phases."""
    dice = random.Random(5)
    names = list({f"{dice.randrange(36**5):x}.{dice.choice(TLDS[:4])}" for _ in range(count * 2)})
    names = sorted(names)[:count]
    dice.shuffle(names)
    for position in range(700, 705):
        names[position] = f"{names[position].partition('.')[0]}.rare"
    made = await writer.campaign(names)
    campaign = Campaign(made, [Known(*each) for each in enumerate(names)])
    await writer.count_names(made, CHUNK)
    await writer.order_names(made, block=64)
    await writer.plan(made, count, CHUNK)
    firsts = list(range(0, count, CHUNK))
    dice.shuffle(firsts)
    for first in firsts[2:]:
        verdicts = dice.choices([RESOLVED, NXDOMAIN, TIMEOUT], [60, 37, 3], k=CHUNK)
        await writer.settle(made, first, verdicts)
        revision = await writer.connection.fetchval(
            "SELECT revision FROM campaigns WHERE no = $1", made.no
        )
        for domain, verdict in zip(campaign.domains[first : first + CHUNK], verdicts, strict=True):
            domain.dns, domain.revision = verdict, revision
    for domain in campaign.domains:
        if domain.dns == RESOLVED:
            domain.http = dice.choices([OK, NOT_FOUND, REFUSED], [70, 28, 2])[0]
        if domain.http == OK:
            keywords = {w: dice.randrange(1, 9) for w in ("loan", "bank") if dice.random() < 0.4}
            if dice.random() < 0.01:
                keywords["rare"] = 1
            warnings = [w for w in (1, 2, 4) if dice.random() < 0.04]
            # Few scores: many domains share one.
            domain.analysis = Analysis(dice.randrange(20) * 50, warnings, keywords)
            domain.lead = 1 if domain.analysis.score > 800 else 2 if keywords else 3
    await writer.settle_http(made, {d.position: d.http for d in campaign.domains if d.http})
    await writer.settle_analysis(
        made, {d.position: d.analysis for d in campaign.domains if d.analysis}
    )
    await writer.settle_leads(made, {d.position: d.lead for d in campaign.domains if d.lead})
    return campaign


async def walk(
    query: Query, request: pb.ListDomainsRequest
) -> AsyncIterator[pb.ListDomainsResponse]:
    """This page and all behind it, in the direction that `last` says."""
    backward = bool(request.last)
    page = await query.stub.ListDomains(request)
    yield page
    while token := (page.previous_page_token if backward else page.next_page_token):
        request = led(request, token)
        page = await query.stub.ListDomains(request)
        yield page


def led(request: pb.ListDomainsRequest, token: str) -> pb.ListDomainsRequest:
    changed = pb.ListDomainsRequest()
    changed.CopyFrom(request)
    size = request.first or request.last or request.page_size
    for name in ("first", "last", "after", "before", "start_position"):
        changed.ClearField(name)  # type: ignore[arg-type]
    changed.page_token, changed.page_size = token, size
    return changed


def positions(pages: Sequence[pb.ListDomainsResponse]) -> list[int]:
    return [domain.position for page in pages for domain in page.domains]


FIELDS: dict[str, list[Any]] = {
    "dns_verdicts": [[RESOLVED], [TIMEOUT], [RESOLVED, NXDOMAIN], [9]],
    "http_verdicts": [[OK], [REFUSED], [NOT_FOUND, REFUSED]],
    "lead_statuses": [[1], [2], [1, 2], [4]],
    "lead_reasons": [[1], [2, 3]],
    "min_score": [0.0, 0.5, 0.9501],
    "max_score": [0.0, 0.4, 1.0],
    "tlds": [["com"], ["net", "org"], ["rare"], ["none"]],
    "name_prefix": ["1", "a", "abc"],
    "name_contains": ["7", "a1", ".co"],
    "keywords": [["loan"], ["rare"], ["loan", "bank", "rare"]],
    "warnings": [[1], [2, 4]],
    "has_warnings": [True, False],
}
SINGLE = [{name: value} for name, values in FIELDS.items() for value in values]


def filters() -> list[DomainFilter]:
    """Each field alone with each of its values, and combinations of two to four."""
    dice = random.Random(3)
    combined = [
        {name: dice.choice(FIELDS[name]) for name in dice.sample(sorted(FIELDS), number)}
        for number in (2, 3, 4)
        for _ in range(7)
    ]
    pending = [
        {"dns_pending": True},
        {"dns_pending": True, "tlds": ["com"]},
        {"dns_pending": True, "name_contains": "1"},
    ]
    every = [DomainFilter(**each) for each in [{}, *SINGLE, *pending, *combined]]
    return [each for each in every if not check_filter(each)]


async def test_every_filter_in_every_order_lists_what_a_list_in_memory_gives(
    query: Query, writer: Writer
) -> None:
    campaign = await known_campaign(writer)
    dice = random.Random(4)
    for chosen, order in itertools.product(filters(), ORDERS):
        descending, size = dice.random() < 0.5, dice.choice([90, 250, 1000])
        expected = campaign.expected(chosen, order, descending)
        request = pb.ListDomainsRequest(
            campaign_id=str(campaign.made),
            filter=chosen,
            order=order,
            descending=descending,
        )
        what = f"{chosen} {order} {descending} {size}"
        forward = pb.ListDomainsRequest(first=size)
        forward.MergeFrom(request)
        pages = [page async for page in walk(query, forward)]
        assert positions(pages) == expected, what
        assert pages[0].has_previous is False, what
        assert all(page.has_next for page in pages[:-1]), what
        assert all(page.has_previous or not p for p, page in enumerate(pages) if page.domains)
        assert len({page.total_size for page in pages}) == 1, what
        if not pages[0].total_size_estimated:
            assert pages[0].total_size == len(expected), what
        backward = pb.ListDomainsRequest(last=size)
        backward.MergeFrom(request)
        returned = [page async for page in walk(query, backward)]
        assert positions(returned[::-1]) == expected, what
        assert returned[0].has_next is False, what
