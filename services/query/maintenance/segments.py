"""Reads domains the way streams do, and makes segments of them."""

from collections.abc import Iterator

from domainflow.query.v1 import query_service_pb2 as pb
from services.chassis.postgres import Pool
from services.query.campaigns import Campaign, read_campaigns
from services.query.maintenance.job import CampaignGone
from services.query.sealed import MESSAGE_LIMIT, NAMES, Segment


async def read_campaign(pool: Pool, no: int) -> Campaign:
    """The campaign as it is now. Raises CampaignGone."""
    campaign_id = await pool.fetchval("SELECT id FROM campaigns WHERE no = $1", no)
    found = await read_campaigns(pool, [campaign_id])
    if not found:
        raise CampaignGone(no)
    return found[campaign_id]


async def read_segments(
    pool: Pool, campaign: Campaign, kind: str, first: int, end: int
) -> list[Segment]:
    """Positions first..end-1 as segments of this kind that each fit a message."""
    if kind == NAMES:
        names = await pool.fetchval(_NAMES, campaign.no, first, end)
        return list(_of_names(first, names.split("\n")))
    raise NotImplementedError(kind)


def _of_names(first: int, names: list[str]) -> Iterator[Segment]:
    payload = pb.DomainBatch(names=names).SerializeToString()
    if len(payload) <= MESSAGE_LIMIT or len(names) == 1:
        yield Segment(first, len(names), payload)
        return
    half = len(names) // 2
    yield from _of_names(first, names[:half])
    yield from _of_names(first + half, names[half:])


_NAMES = r"""
SELECT string_agg(name, E'\n') FROM (
    SELECT name FROM domains WHERE campaign_no = $1 AND position >= $2 AND position < $3
    ORDER BY position
) ordered"""
