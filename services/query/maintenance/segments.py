"""Reads domains the way streams and pages do, and makes segments of them."""

from services.chassis.postgres import Pool
from services.query.batches import ALL, NAMES_ONLY, domain_payload, enriched_payload
from services.query.campaigns import Campaign, read_campaigns
from services.query.columns import ColumnStore
from services.query.derived import page_copies
from services.query.domain_rows import DomainRows
from services.query.domain_wire import domain_wire
from services.query.maintenance.job import CampaignGone
from services.query.packed import PACK_SIZE, pack, pack_ranked
from services.query.pages import Pages
from services.query.ranked_pages import RankedPages
from services.query.sealed import BY_NAME, BY_SCORE, NAMES, PAGES, SEGMENT_SIZE, Segment


class NamesMissing(Exception):
    """Not every position of the campaign has a name, or is in a copy that is true: the table is
    damaged."""


async def read_campaign(pool: Pool, no: int) -> Campaign:
    """The campaign as it is now. Raises CampaignGone."""
    campaign_id = await pool.fetchval("SELECT id FROM campaigns WHERE no = $1", no)
    found = await read_campaigns(pool, [campaign_id])
    if not found:
        raise CampaignGone(no)
    return found[campaign_id]


async def read_segments(
    pool: Pool, campaign: Campaign, kind: str, first: int, end: int, *, copy_id: int = 0
) -> list[Segment] | None:
    """Positions, or ranks, first..end-1 as segments of this kind, those for streams as they fit a
    message. `copy_id`: the copy that they are for. None: what they are made of is not true.

    Raises CampaignGone and NamesMissing.
    """
    if kind in (BY_NAME, BY_SCORE):
        return await _ranked(pool, campaign, kind, first, end, copy_id)
    if kind == PAGES:
        return await _packed(pool, campaign, first, end)
    paths, payload = (NAMES_ONLY, domain_payload) if kind == NAMES else (ALL, enriched_payload)
    columns = await ColumnStore(pool).columns(campaign.no, campaign.runs, first, end, paths)
    if columns is None:
        raise CampaignGone(campaign.no)
    if len(columns.positions) != end - first:
        raise NamesMissing(f"only {len(columns.positions)} of positions {first} to {end - 1}")
    return [
        Segment(piece.positions[0], len(piece.positions), payload(piece))
        for piece in columns.fitting(SEGMENT_SIZE)
    ]


async def _packed(pool: Pool, campaign: Campaign, first: int, end: int) -> list[Segment]:
    found = await DomainRows(pool).at(campaign.no, campaign.runs, range(first, end))
    if len(found) != end - first:
        await read_campaign(pool, campaign.no)
        raise NamesMissing(f"only {len(found)} of positions {first} to {end - 1}")
    segments = []
    for start in range(first, end, PACK_SIZE):
        positions = range(start, min(start + PACK_SIZE, end))
        payload = pack([domain_wire(*found[position]) for position in positions])
        segments.append(Segment(start, len(positions), payload))
    return segments


async def _ranked(
    pool: Pool, campaign: Campaign, kind: str, first: int, end: int, copy_id: int
) -> list[Segment] | None:
    """Out of the copy in order of position: a tenth of reading the tables anew."""
    copies = await page_copies(pool, campaign.no)
    if copies is None:
        return None
    ranked = RankedPages(pool)
    if kind == BY_NAME:
        positions = await ranked.names(campaign.no, first, end)
    else:
        positions = await ranked.scored(campaign.no, campaign.runs.analysis, copy_id, first, end)
    copied = await Pages(pool).packed(campaign.no, copies.id, positions)
    if copied is None or len(positions) != end - first:
        if await page_copies(pool, campaign.no) != copies:
            return None
        raise NamesMissing(f"only {len(positions)} of ranks {first} to {end - 1}, or not copied")
    segments = []
    for start in range(0, len(positions), PACK_SIZE):
        these = positions[start : start + PACK_SIZE]
        payload = pack_ranked(these, [copied.domains[position] for position in these])
        segments.append(Segment(first + start, len(these), payload))
    return segments
