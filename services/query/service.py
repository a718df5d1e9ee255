"""QueryService: requests in, rows out as protobuf. No domain layer: there is nothing to decide."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import grpc

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.query_service_pb2_grpc import QueryServiceServicer
from domainflow.validation.v1.dns_pb2 import (
    DNS_AGREEMENT_UNSPECIFIED,
    DNS_FACT_NO,
    DNS_FACT_UNSPECIFIED,
    DNS_FACT_YES,
    DNS_VERDICT_CNAME_LOOP,
    DNS_VERDICT_NO_DATA,
    DNS_VERDICT_NXDOMAIN,
    DNS_VERDICT_RESOLVED,
    DNS_VERDICT_WILDCARD,
    DnsResult,
)
from services.chassis.errors import CampaignNotFound, DomainNotFound, FieldViolation
from services.chassis.seal import Seal, binding
from services.chassis.server import Rules
from services.query.page_token import PagePlace, StreamPlace
from services.query.store import NAME, POSITION, Columns, Filter, Store

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1_000
DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE = 5_000, 10_000
# Two chunks keep PostgreSQL busy while a message is packed and sent; more only costs memory.
PREFETCHED_CHUNKS = 2
# Where one domain in so many matches, both ways of a filtered stream take as long.
SPARSE = 5

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")


class QueryService(QueryServiceServicer):
    """Implements domainflow.query.v1.QueryService."""

    def __init__(self, store: Store, seal: Seal) -> None:
        self._store = store
        self._seal = seal

    async def ListDomains(
        self, request: pb.ListDomainsRequest, context: Context
    ) -> pb.ListDomainsResponse:
        chosen = Filter(tuple(request.dns_verdicts), request.dns_pending)
        bound = _page_binding(request)
        place = PagePlace(forward=True, position=request.start_position)
        if request.page_token:
            place = PagePlace.open(self._seal, request.page_token, bound)
        no, name_count, total = await self._total(request.campaign_id, chosen)

        size = _coerced(request.page_size, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        first, end = (place.position, name_count) if place.forward else (0, place.position)
        # One more than the page shows whether anything follows it.
        rows = await self._store.domains(
            no, chosen, first, min(end, name_count), limit=size + 1, forward=place.forward
        )
        more = len(rows) > size
        if more:
            rows = rows[:-1] if place.forward else rows[1:]
        first, end = place.position, place.position
        if rows:
            first, end = rows[0]["position"], rows[-1]["position"] + 1
        if place.forward:
            after = more
            before = await self._store.any_domain(no, chosen, 0, min(first, name_count))
        else:
            after = await self._store.any_domain(no, chosen, end, name_count)
            before = more
        return pb.ListDomainsResponse(
            domains=[_domain(row) for row in rows],
            next_page_token=PagePlace(True, end).seal(self._seal, bound) if after else "",
            previous_page_token=PagePlace(False, first).seal(self._seal, bound) if before else "",
            total_size=total,
        )

    async def GetDomain(
        self, request: pb.GetDomainRequest, context: Context
    ) -> pb.GetDomainResponse:
        campaign = await self._store.campaign(UUID(request.campaign_id))
        if campaign is None:
            raise CampaignNotFound(request.campaign_id)
        row = await self._store.domain(campaign.no, request.position)
        if row is None:
            raise DomainNotFound(request.campaign_id, request.position)
        domain = _domain(row)
        if row["evidence"]:
            domain.dns.evidence.MergeFromString(row["evidence"])
        return pb.GetDomainResponse(domain=domain)

    async def _total(self, campaign_id: str, chosen: Filter) -> tuple[int, int, int]:
        """Number, names and matching names of the campaign."""
        if chosen == Filter():
            campaign = await self._store.campaign(UUID(campaign_id))
            if campaign is None:
                raise CampaignNotFound(campaign_id)
            return campaign.no, campaign.name_count, campaign.name_count
        counters = await self._store.counters(UUID(campaign_id))
        if counters is None:
            raise CampaignNotFound(campaign_id)
        total = sum(counters.by_verdict.get(verdict, 0) for verdict in chosen.verdicts)
        campaign = counters.campaign
        return campaign.no, campaign.name_count, counters.pending if chosen.pending else total

    async def StreamDomains(
        self, request: pb.StreamDomainsRequest, context: Context
    ) -> AsyncIterator[pb.StreamDomainsResponse]:
        bound = _stream_binding(request)
        place = None
        if request.cursor:
            place = StreamPlace.open(self._seal, request.cursor, bound)
        columns = frozenset(request.columns or [NAME])
        batch_size = _coerced(request.batch_size, DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE)
        unreachable = await self._unreachable(request.campaign_ids[: place.index if place else 0])
        sent = 0
        source = self._chunks(request, place, columns, batch_size, unreachable)
        async with aclosing(ahead(source, PREFETCHED_CHUNKS)) as chunks:
            async for index, end, chunk in chunks:
                for piece in chunk.fitting(batch_size):
                    sent += len(piece.positions)
                    resume = StreamPlace(index, piece.positions[-1] + 1, end)
                    yield _batch(
                        request.campaign_ids[index],
                        piece,
                        positions=POSITION in columns,
                        cursor=resume.seal(self._seal, bound),
                    )
        yield pb.StreamDomainsResponse(
            summary=pb.StreamSummary(domain_count=sent, unreachable=unreachable)
        )

    async def _unreachable(self, campaign_ids: Sequence[str]) -> list[str]:
        """Those of the campaigns that do not exist, or are being deleted."""
        existing = await self._store.existing([UUID(each) for each in campaign_ids])
        return [each for each in campaign_ids if UUID(each) not in existing]

    async def _chunks(
        self,
        request: pb.StreamDomainsRequest,
        place: StreamPlace | None,
        columns: frozenset[int],
        size: int,
        unreachable: list[str],
    ) -> AsyncGenerator[tuple[int, int, Columns], None]:
        """Chunks with the index of their campaign and the number of names it had when reached."""
        verdicts = request.dns_verdicts
        for index in range(place.index if place else 0, len(request.campaign_ids)):
            try:
                no, end, matching = await self._total(
                    request.campaign_ids[index], Filter(tuple(verdicts))
                )
            except CampaignNotFound:
                unreachable.append(request.campaign_ids[index])
                continue
            # As many positions as hold about `size` matching domains; few matches are looked up
            # one by one instead.
            step = size
            if verdicts:
                step = size * end // matching if matching else 0
            position = 0
            if place and place.index == index:
                position, end = place.position, place.end
            while position < end:
                if 0 < step <= size * SPARSE:
                    past = min(position + step, end)
                    chunk = await self._store.columns(no, position, past, columns, verdicts)
                    position = past
                else:
                    chunk = await self._store.first_columns(
                        no, verdicts, position, end, columns, limit=size
                    )
                    full = len(chunk.positions) == size
                    position = chunk.positions[-1] + 1 if full else end
                # Asked afterwards: a deletion says so before it takes the first row away.
                if gone := await self._unreachable([request.campaign_ids[index]]):
                    unreachable += gone
                    break
                if chunk.positions:
                    yield index, end, chunk

    async def GetDomainSummary(
        self, request: pb.GetDomainSummaryRequest, context: Context
    ) -> pb.GetDomainSummaryResponse:
        counters = await self._store.counters(UUID(request.campaign_id))
        if counters is None:
            raise CampaignNotFound(request.campaign_id)
        return pb.GetDomainSummaryResponse(
            name_count=counters.campaign.name_count,
            dns_verdict_counts=[
                pb.DnsVerdictCount(verdict=verdict, count=count)  # type: ignore[arg-type]
                for verdict, count in counters.by_verdict.items()
            ],
            dns_pending_count=counters.pending,
        )


async def ahead(source: AsyncGenerator[T, None], depth: int) -> AsyncGenerator[T, None]:
    """The items of `source`, of which up to `depth` are made before they are asked for.

    A consumer that stands still stops the making. Closing this generator ends it.
    """
    made: asyncio.Queue[T | None] = asyncio.Queue()
    places = asyncio.Semaphore(depth)

    async def make() -> None:
        while True:
            await places.acquire()
            try:
                made.put_nowait(await anext(source))
            except StopAsyncIteration:
                return

    maker = asyncio.create_task(make())
    maker.add_done_callback(lambda _: made.put_nowait(None))
    try:
        while (item := await made.get()) is not None:
            places.release()
            yield item
        await maker
    finally:
        maker.cancel()
        await asyncio.wait([maker])
        if not maker.cancelled():
            maker.exception()  # seen: who closes early does not want it
        await source.aclose()


def _check_list(request: pb.ListDomainsRequest) -> list[FieldViolation]:
    violations = []
    if request.page_token and request.start_position:
        violations.append(FieldViolation("start_position", "not together with page_token"))
    if request.dns_pending and request.dns_verdicts:
        violations.append(FieldViolation("dns_pending", "not together with dns_verdicts"))
    return violations


# What the contract's own rules cannot say; serve() checks both together.
RULES: Rules = {pb.ListDomainsRequest: _check_list}


def _page_binding(request: pb.ListDomainsRequest) -> bytes:
    # By taking away what may change, a field that the contract gains is bound from its first day.
    bound = pb.ListDomainsRequest()
    bound.CopyFrom(request)
    for free in ("page_size", "page_token", "start_position"):
        bound.ClearField(free)
    bound.dns_verdicts.sort()
    return binding("ListDomains", bound.SerializeToString(deterministic=True))


def _stream_binding(request: pb.StreamDomainsRequest) -> bytes:
    bound = pb.StreamDomainsRequest()
    bound.CopyFrom(request)
    for free in ("cursor", "batch_size"):
        bound.ClearField(free)
    bound.dns_verdicts.sort()
    bound.columns.sort()
    return binding("StreamDomains", bound.SerializeToString(deterministic=True))


def _coerced(asked: int, default: int, largest: int) -> int:
    return min(asked or default, largest)


def _batch(
    campaign_id: str, piece: Columns, *, positions: bool, cursor: str
) -> pb.StreamDomainsResponse:
    # Filled in place: a batch made apart would be copied into the response.
    response = pb.StreamDomainsResponse()
    batch = response.batch
    batch.campaign_id = campaign_id
    batch.domain_count = len(piece.positions)
    batch.names.extend(piece.names)
    if positions:
        batch.positions.extend(piece.positions)
    batch.dns_verdicts.extend(piece.verdicts)  # type: ignore[arg-type]  # plain numbers
    batch.addresses.extend(piece.addresses)
    batch.cursor = cursor
    return response


def _domain(row: asyncpg.Record) -> pb.Domain:
    domain = pb.Domain(position=row["position"], name=row["name"])
    if row["verdict"] is not None:
        _fill(domain.dns, row)
    return domain


def _fill(result: DnsResult, row: asyncpg.Record) -> None:
    result.verdict = row["verdict"]
    result.rcode = row["rcode"]
    if row["addresses"]:
        result.addresses.extend(row["addresses"].split(","))
    if row["cname_chain"]:
        result.cname_chain.extend(row["cname_chain"].split(","))
    if row["ttl"] is not None:
        result.ttl.seconds = row["ttl"]
        result.ttl.SetInParent()
    result.resolver = row["resolver"] or ""
    result.attempt_count = row["attempt_count"]
    result.duration.FromMicroseconds(row["duration_us"])
    result.duration.SetInParent()
    result.check_time.FromMicroseconds(row["check_time_us"])
    result.tcp = row["tcp"]
    result.authority = row["authority"] or ""
    result.agreement = row["agreement"] or DNS_AGREEMENT_UNSPECIFIED
    result.registered, result.delegated = _FACTS[row["registered"]], _FACTS[row["delegated"]]
    result.resolving = _RESOLVING.get(row["verdict"], DNS_FACT_UNSPECIFIED)


_FACTS = {None: DNS_FACT_UNSPECIFIED, False: DNS_FACT_NO, True: DNS_FACT_YES}
# Of the other verdicts it could not be found out.
_RESOLVING = {
    DNS_VERDICT_RESOLVED: DNS_FACT_YES,
    DNS_VERDICT_NXDOMAIN: DNS_FACT_NO,
    DNS_VERDICT_NO_DATA: DNS_FACT_NO,
    DNS_VERDICT_WILDCARD: DNS_FACT_NO,
    DNS_VERDICT_CNAME_LOOP: DNS_FACT_NO,
}
