"""Names for machines: StreamDomains."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.chassis.errors import FieldViolation
from services.query.batches import DOMAIN_TAG, NAMES_ONLY, domain_payload
from services.query.bulk import begin_bulk
from services.query.columns import ColumnStore
from services.query.conditions import conditions_of
from services.query.domain_source import DomainSource
from services.query.part import Context, Part, coerced
from services.query.reads import check_consistency
from services.query.sealed import DOMAIN_BATCH, NAMES, SEGMENT_SIZE

# Names are small: as many a message as there may be, for what a message costs by itself is as much.
DEFAULT_BATCH_SIZE = MAX_BATCH_SIZE = 10_000

_PATHS = {
    pb.DOMAIN_COLUMN_NAME: "names",
    pb.DOMAIN_COLUMN_POSITION: "positions",
    pb.DOMAIN_COLUMN_DNS_VERDICT: "dns_verdicts",
    pb.DOMAIN_COLUMN_ADDRESSES: "addresses",
}


class StreamService(Part):
    """StreamDomains."""

    column_store = ColumnStore

    async def StreamDomains(  # type: ignore[override]  # bytes pass (passing.py)
        self, request: pb.StreamDomainsRequest, context: Context
    ) -> AsyncIterator[pb.StreamDomainsResponse | bytes]:
        columns = frozenset(_PATHS[each] for each in request.columns) or NAMES_ONLY
        conditions = conditions_of(DomainFilter(dns_verdicts=request.dns_verdicts))
        size = coerced(request.batch_size, DEFAULT_BATCH_SIZE, MAX_BATCH_SIZE)
        bulk = await begin_bulk(
            "StreamDomains", request, self._reads, self._seal, self._turns, DOMAIN_BATCH
        )
        if columns == NAMES_ONLY and not conditions and size >= SEGMENT_SIZE:
            bulk.copies = NAMES
        bulk.counted = bool(conditions)
        source = DomainSource(
            bulk,
            self.column_store(bulk.read.pool),
            columns,
            conditions,
            domain_payload,
            size,
            tag=DOMAIN_TAG,
        )
        async with aclosing(bulk.responses(source.work())) as responses:
            async for response in responses:
                yield response
        yield pb.StreamDomainsResponse(
            summary=pb.StreamSummary(
                domain_count=bulk.costs.rows,
                unreachable=bulk.unreachable,
                performance=bulk.costs.performance(),
                freshness=bulk.freshness(),
            )
        )


def check_stream(request: pb.StreamDomainsRequest) -> list[FieldViolation]:
    return check_consistency(request.consistency, len(request.campaign_ids))
