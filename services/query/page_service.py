"""Pages for people: ListDomains and GetDomain."""

import asyncio
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias
from uuid import UUID

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter as FilterMessage
from services.chassis.errors import (
    DomainNotFound,
    FieldViolation,
    InvalidToken,
    OrderNotReady,
)
from services.chassis.postgres import Beside
from services.chassis.seal import Seal, binding
from services.query.campaigns import Campaign, Runs
from services.query.conditions import check_filter
from services.query.derived import PageCopies
from services.query.domain_rows import DomainRows
from services.query.domain_wire import domain_bytes, domain_wire
from services.query.messages import fill_evidence, filter_of
from services.query.page_plan import DomainFilter, Key, Order, Sizes, exact_total
from services.query.page_reader import (
    Directories,
    Found,
    KeyGone,
    PageReader,
    SettledChunks,
    SmallSets,
    Stretch,
)
from services.query.page_token import Role, WalkPlace
from services.query.pages import Pages
from services.query.part import Context, Part, coerced, the_campaign
from services.query.reads import Read, Reads
from services.query.recent import Recent

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1_000
_Free: TypeAlias = Literal[
    "page_size",
    "page_token",
    "start_position",
    "first",
    "after",
    "last",
    "before",
    "consistency",
]


@dataclass(frozen=True, slots=True)
class _Page:
    """What was read; `other`: something is on the side that the page came from. `copied`: out of a
    copy, or some of it. `revision`: of the campaign when all was read, where that is known."""

    runs: Runs
    stretch: Stretch
    other: bool
    total: int
    estimated: bool
    copied: bool
    revision: int | None


class PageService(Part):
    """ListDomains and GetDomain."""

    def __init__(self, *, reads: Reads, seal: Seal, beside: Beside | None = None) -> None:
        super().__init__(reads=reads, seal=seal, beside=beside)
        self._recent_sizes: Recent[tuple[Sizes, bool]] = Recent(256)
        self._small_sets: SmallSets = Recent(32)
        self._settled_chunks: SettledChunks = Recent(16)
        self._recent_estimates: Recent[int] = Recent(256)
        # As it was, and whether it was the same before.
        self._recent_campaigns: Recent[tuple[Campaign, bool]] = Recent(256)
        self._recent_copies: Recent[tuple[PageCopies | None]] = Recent(256)
        self._directories: Directories = Recent(16)

    async def ListDomains(  # type: ignore[override]  # bytes pass (passing.py)
        self, request: pb.ListDomainsRequest, context: Context
    ) -> bytes:
        begun = time.perf_counter()
        bound = _page_binding(request)
        place = self._place(request, bound)
        read, campaign, page = await self._read(request, place)
        walk = WalkPlace(
            Role.DOMAIN, 0, 0, campaign.revision, page.runs, page.total, estimated=page.estimated
        )
        start, inclusive, _ = _start(request, place)
        answer = self._answer(
            walk, bound, page.stretch, start, inclusive, _is_backward(request, place), page.other
        )
        answer.total_size = page.total
        answer.total_size_estimated = page.estimated
        answer.freshness.CopyFrom(read.freshness)
        found = [each for _, each in page.stretch.domains]
        domains = _wire(found[::-1] if _is_backward(request, place) else found)
        answer.duration.FromMicroseconds(int((time.perf_counter() - begun) * 1e6))
        # Messages one behind the other are one.
        return answer.SerializeToString() + domains

    async def _read(
        self, request: pb.ListDomainsRequest, place: WalkPlace | None
    ) -> tuple[Read, Campaign, _Page]:
        """The page, of the campaign as it is.

        A campaign that was the same the last two times is read as it was then. Its last statement
        tells how it is; if it is not the same any more, that was for nothing. It spares pages a
        tenth. No page of a copy is answered unless the campaign was still the same behind its last
        statement.
        """
        campaign_id = UUID(request.campaign_id)
        least = place.revision if place else 0
        recent, steady = self._recent_campaigns.get(campaign_id) or (None, False)
        page: _Page | BaseException | None = None
        asked_behind = False
        begin = partial(self._reads.begin, request.consistency, campaign_id, least=least)
        if recent is None or not steady or request.HasField("consistency"):
            read = await begin()
        else:
            try:
                page = await self._read_page(request, place, Pages(self._reads.primary), recent)
            except Exception as error:  # raised again unless the campaign has changed
                page = error
            if isinstance(page, _Page) and page.revision == recent.revision >= least:
                return self._reads.begun(recent), recent, page
            read, asked_behind = await begin(), True
        campaign = await the_campaign(read, request.campaign_id)
        self._recent_campaigns.keep(campaign_id, (campaign, campaign == recent))
        if campaign != recent or not isinstance(page, _Page):
            page = await self._read_page(request, place, Pages(read.pool), campaign)
            asked_behind = False
        if page.copied and not asked_behind and page.revision != campaign.revision:
            # What led to the domains may be younger than what the copy has of them.
            page = await self._read_page(
                request, place, Pages(read.pool), campaign, from_tables=True
            )
        return read, campaign, page

    async def _read_page(
        self,
        request: pb.ListDomainsRequest,
        place: WalkPlace | None,
        pages: Pages,
        campaign: Campaign,
        *,
        from_tables: bool = False,
    ) -> _Page:
        runs = _runs(place, campaign)
        message = _filter(request)
        order = Order(request.order or pb.DOMAIN_ORDER_POSITION)
        chosen = filter_of(message)
        sizes, ordered = Sizes(campaign.name_count), False
        if chosen != DomainFilter() or order is not Order.POSITION:
            sizes, ordered = await self._sizes(pages, campaign, runs, chosen.tlds)
        if order is Order.NAME and not (ordered and campaign.generated):
            raise OrderNotReady(request.campaign_id, "name")
        copies = None
        if runs == campaign.runs and not from_tables:
            copies = await self._copies(pages, campaign)
        reader = PageReader(
            pages,
            campaign,
            runs,
            message,
            chosen,
            order,
            sizes,
            self._small_sets,
            self._settled_chunks,
            copies,
            self._directories,
        )

        backward = _is_backward(request, place)
        start, inclusive, other = _start(request, place)
        size = coerced(
            request.first or request.last or request.page_size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
        )
        total, estimated = exact_total(chosen, order, sizes), False
        if total is None and place is not None and place.total >= 0:
            total, estimated = place.total, place.estimated
        what = message.SerializeToString(deterministic=True)
        guess = partial(self._estimate, reader, (campaign, runs, order, what))
        reading = reader.read(
            start, inclusive=inclusive, ascending=backward is request.descending, size=size
        )
        guessed: int | None = None
        try:
            if total is None and reader.among_many:
                stretch, guessed = await asyncio.gather(reading, guess())
            else:
                stretch = await reading
            if other is None:
                # Only a first page that begins in the middle has to ask what is ahead of it.
                assert start is not None
                behind = await reader.read(
                    start, inclusive=not inclusive, ascending=request.descending, size=1
                )
                other = bool(behind.domains) or behind.stopped is not None
        except KeyGone:
            raise InvalidToken(
                "leads to a domain that is not there any more", field=_token_field(request)
            ) from None
        revision = reader.revision
        if total is None:
            total = reader.total
        if total is None:
            total = len(stretch.domains)
            if start is not None or stretch.stopped is not None:
                guessed = await guess() if guessed is None else guessed
                total, estimated = max(total, guessed), True
        return _Page(runs, stretch, other, total, estimated, copies is not None, revision)

    async def _sizes(
        self, pages: Pages, campaign: Campaign, runs: Runs, tlds: Sequence[str]
    ) -> tuple[Sizes, bool]:
        """What the counters say, and whether the order of the names is made.

        The former are the same until the campaign changes. What is not made yet may be at any time.
        """
        key = (campaign.no, campaign.name_count, campaign.revision, runs, tuple(tlds))
        found = self._recent_sizes.get(key)
        if found is None:
            found = await pages.sizes(campaign, runs, tlds)
            sizes, ordered = found
            if ordered and (sizes.tld_names is not None or not tlds):
                self._recent_sizes.keep(key, found)
        return found

    async def _copies(self, pages: Pages, campaign: Campaign) -> PageCopies | None:
        """The copies for pages of the campaign as it is, if there are any.

        They are true for as long as the campaign is the same. Of one that changes there are none.
        """
        if not (self._recent_campaigns.get(campaign.id) or (None, False))[1]:
            return None
        found = self._recent_copies.get(campaign)
        if found is None:
            found = (await pages.copies(campaign.no),)
            self._recent_copies.keep(campaign, found)
        return found[0]

    async def _estimate(self, reader: PageReader, key: Hashable) -> int:
        """About how many domains there are to list, by a sample that is taken once."""
        found = self._recent_estimates.get(key)
        if found is None:
            found = await reader.estimate()
            self._recent_estimates.keep(key, found)
        return found

    def _place(self, request: pb.ListDomainsRequest, bound: bytes) -> WalkPlace | None:
        field = _token_field(request)
        if not field:
            return None
        return WalkPlace.open(self._seal, getattr(request, field), bound, field=field)

    def _answer(
        self,
        walk: WalkPlace,
        bound: bytes,
        stretch: Stretch,
        start: Key | None,
        inclusive: bool,
        backward: bool,
        other: bool,
    ) -> pb.ListDomainsResponse:
        """The page with the ways out of it; `other`: something is on the side it came from."""
        found = list(stretch.domains)
        if backward:
            found.reverse()
        first, last = (found[0][0], found[-1][0]) if found else (start, start)

        def token(role: Role, key: Key | None, more: bool, inclusive: bool = False) -> str:
            if key is None:
                return ""
            place = replace(
                walk,
                role=role,
                major=key.major,
                position=key.position,
                more=more,
                inclusive=inclusive,
            )
            return place.seal(self._seal, bound)

        ahead, back = (Role.PREVIOUS, Role.NEXT) if backward else (Role.NEXT, Role.PREVIOUS)
        onward = token(ahead, stretch.stopped, bool(found) or other)
        # Of an empty page the way back begins where the page did, and with that domain.
        edge = last if backward else first
        returning = (
            token(
                back, edge, bool(found) or stretch.stopped is not None, not found and not inclusive
            )
            if other
            else ""
        )
        forth, back_token = (returning, onward) if backward else (onward, returning)
        return pb.ListDomainsResponse(
            next_page_token=forth,
            previous_page_token=back_token,
            has_next=bool(forth),
            has_previous=bool(back_token),
            start_cursor=token(Role.DOMAIN, first, True) if found else "",
            end_cursor=token(Role.DOMAIN, last, True) if found else "",
            examined_count=stretch.examined,
        )

    async def GetDomain(
        self, request: pb.GetDomainRequest, context: Context
    ) -> pb.GetDomainResponse:
        read = await self._reads.begin(request.consistency, UUID(request.campaign_id))
        campaign = await the_campaign(read, request.campaign_id)
        row = await DomainRows(read.pool).one(campaign.no, campaign.runs, request.position)
        if row is None:
            raise DomainNotFound(request.campaign_id, request.position)
        found = pb.Domain.FromString(domain_bytes(row, row))
        fill_evidence(found, row)
        return pb.GetDomainResponse(domain=found, freshness=read.freshness)


def check_list(request: pb.ListDomainsRequest) -> list[FieldViolation]:
    """Every field that does not go with the others."""
    asked = {
        name: bool(getattr(request, name))
        for name in (
            "page_size",
            "page_token",
            "start_position",
            "first",
            "after",
            "last",
            "before",
            "dns_pending",
            "dns_verdicts",
        )
    }
    asked["filter"] = request.filter != FilterMessage()
    violations = [
        FieldViolation(field, f"not together with {other}")
        for field, others in _NOT_TOGETHER.items()
        for other in others
        if asked[field] and asked[other]
    ]
    if request.start_position and request.order not in (
        pb.DOMAIN_ORDER_UNSPECIFIED,
        pb.DOMAIN_ORDER_POSITION,
    ):
        violations.append(FieldViolation("start_position", "only in order of position"))
    return violations + check_filter(request.filter)


_NOT_TOGETHER = {
    "start_position": ("page_token", "after", "before", "last"),
    "first": ("last", "before", "page_size", "page_token"),
    "after": ("last", "before", "page_token"),
    "last": ("page_size", "page_token"),
    "before": ("page_token",),
    "dns_pending": ("dns_verdicts",),
    "filter": ("dns_verdicts", "dns_pending"),
}


def _page_binding(request: pb.ListDomainsRequest) -> bytes:
    # By taking away what may change, a field that the contract gains is bound from its first day.
    bound = pb.ListDomainsRequest()
    bound.CopyFrom(request)
    for free in _FREE:
        bound.ClearField(free)
    if bound.order == pb.DOMAIN_ORDER_POSITION:
        bound.ClearField("order")
    for each in (
        bound.dns_verdicts,
        *(v for f, v in bound.filter.ListFields() if hasattr(v, "sort")),
    ):
        each.sort()
    if bound.filter == FilterMessage():
        bound.ClearField("filter")
    return binding("ListDomains", bound.SerializeToString(deterministic=True))


_FREE: tuple[_Free, ...] = (
    "page_size",
    "page_token",
    "start_position",
    "first",
    "after",
    "last",
    "before",
    "consistency",
)


def _wire(found: Sequence[Found]) -> bytes:
    """The domains as fields of the response."""
    return b"".join(e if isinstance(e, bytes) else domain_wire(*e) for e in found)


def _token_field(request: pb.ListDomainsRequest) -> str:
    """The field that says where the page begins."""
    return next((f for f in ("page_token", "after", "before") if getattr(request, f)), "")


def _filter(request: pb.ListDomainsRequest) -> FilterMessage:
    """The filter, whichever way it was said."""
    if request.dns_verdicts or request.dns_pending:
        return FilterMessage(dns_verdicts=request.dns_verdicts, dns_pending=request.dns_pending)
    return request.filter


def _runs(place: WalkPlace | None, campaign: Campaign) -> Runs:
    """What the walk began with; of a phase that had no results then, what there is now."""
    if place is None:
        return campaign.runs
    return Runs(*(begun or now for begun, now in zip(place.runs, campaign.runs, strict=True)))


def _is_backward(request: pb.ListDomainsRequest, place: WalkPlace | None) -> bool:
    if place is not None and place.role is not Role.DOMAIN:
        return place.role is Role.PREVIOUS
    return bool(request.last or request.before)


def _start(
    request: pb.ListDomainsRequest, place: WalkPlace | None
) -> tuple[Key | None, bool, bool | None]:
    """The key the page begins behind, whether with it, and whether anything is on its other side;
    None where that is not known."""
    if place is not None:
        # Old tokens do not say; but at the beginning nothing is ahead.
        old = place.total < 0
        return Key(place.major, place.position), place.inclusive, None if old else place.more
    if request.start_position:
        return Key(0, request.start_position), True, None
    return None, False, False
