"""Outcomes of analysis and leads -> rows in COPY's binary format, counts and digest. Pure.

Arrays of keywords are carried over as the database sent them: they are what the page has.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from services.chassis.leads import STATUS_OF, LeadReason
from services.chassis.tlds import tld_counts
from services.validation.results import ChunkResults, TableRows

ANALYSES, HITS, LEADS = "page_analyses", "keyword_hits", "leads"
ANALYSIS_COLUMNS = (
    "campaign_no",
    "run",
    "position",
    "score",
    "warnings",
    "check_time_us",
    "scoring",
    "with_keyword",
    "keywords",
    "hit_counts",
)
HIT_COLUMNS = ("campaign_no", "run", "position", "hit_count", "keyword")
LEAD_COLUMNS = ("campaign_no", "run", "position", "status", "reason", "check_time_us", "contacts")

_HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
# Field count; length and value of campaign_no and run: the same in every row of a chunk.
_HEAD = struct.Struct(">hiiii")
# Length and value of the columns from position on.
_ANALYSIS = struct.Struct(">ii" + "ih" + "ii" + "iq" + "ih" + "i?")
_HIT = struct.Struct(">ii")
_LEAD = struct.Struct(">ii" + "ih" * 2 + "iq")
_LENGTH = struct.Struct(">i")
_NULL = _LENGTH.pack(-1)
# An array before its elements, as the database sends it: dimensions, nulls, type, number, first.
_ARRAY = struct.Struct(">iiIii")
# An element of hit_counts.
_COUNT_SIZE = 8


class AnalysisOutcome(IntEnum):
    """What the analysis of a page came to."""

    WITH_KEYWORD = 1
    WITHOUT_KEYWORD = 2
    # There is nothing of the page that could be scored. Such a page has no row.
    ERROR = 3


class ScoredPage(NamedTuple):
    """A page and its score."""

    position: int
    name: str
    outcome: AnalysisOutcome
    # Thousandths.
    score: int = 0
    # Bit n - 1 is warning n.
    warnings: int = 0
    # Number of how it was scored.
    scoring: int = 0
    # Arrays as the database sends them; None without any.
    keywords: bytes | None = None
    hit_counts: bytes | None = None


class DecidedName(NamedTuple):
    """A name and the decision on it."""

    position: int
    name: str
    reason: LeadReason
    # domainflow.validation.v1.Lead with contacts and detail only.
    lead: bytes


def analysis_rows(
    campaign_no: int, run: int, pages: Sequence[ScoredPage], check_time_us: int
) -> ChunkResults:
    """Rows of page_analyses and keyword_hits."""
    analyses, hits = [_HEADER], [_HEADER]
    head = _HEAD.pack(len(ANALYSIS_COLUMNS), 4, campaign_no, 4, run)
    hit_head = _HEAD.pack(len(HIT_COLUMNS), 4, campaign_no, 4, run)
    pack, pack_hit, unpack = _ANALYSIS.pack, _HIT.pack, _LENGTH.unpack_from
    for position, _, outcome, score, warnings, scoring, keywords, hit_counts in pages:
        if outcome is AnalysisOutcome.ERROR:
            continue
        analyses.append(head)
        with_keyword = outcome is AnalysisOutcome.WITH_KEYWORD
        # fmt: off
        analyses.append(pack(4, position, 2, score, 4, warnings, 8, check_time_us, 2, scoring,
                             1, with_keyword))
        # fmt: on
        if keywords is None or hit_counts is None:
            analyses += (_NULL, _NULL)
            continue
        analyses += (_element(keywords), _element(hit_counts))
        row_head = hit_head + pack_hit(4, position)
        # Elements of arrays come as fields of rows do: a length, then the value.
        place, counted = _ARRAY.size, _ARRAY.size
        while place < len(keywords):
            end = place + _LENGTH.size + unpack(keywords, place)[0]
            hits += (row_head, hit_counts[counted : counted + _COUNT_SIZE], keywords[place:end])
            place, counted = end, counted + _COUNT_SIZE
    tables = [TableRows(ANALYSES, ANALYSIS_COLUMNS, b"".join((*analyses, _TRAILER)))]
    if len(hits) > 1:
        tables.append(TableRows(HITS, HIT_COLUMNS, b"".join((*hits, _TRAILER))))
    return _results(tables, AnalysisOutcome, [(it.name, it.outcome) for it in pages])


def lead_rows(
    campaign_no: int, run: int, names: Sequence[DecidedName], check_time_us: int
) -> ChunkResults:
    """Rows of leads."""
    rows = [_HEADER]
    head = _HEAD.pack(len(LEAD_COLUMNS), 4, campaign_no, 4, run)
    for position, _, reason, lead in names:
        fixed = _LEAD.pack(4, position, 2, STATUS_OF[reason], 2, reason, 8, check_time_us)
        rows += (head, fixed, _element(lead) if lead else _NULL)
    tables = [TableRows(LEADS, LEAD_COLUMNS, b"".join((*rows, _TRAILER)))]
    return _results(tables, LeadReason, [(it.name, it.reason) for it in names])


def _results(
    tables: Sequence[TableRows], kind: type[IntEnum], outcomes: Sequence[tuple[str, IntEnum]]
) -> ChunkResults:
    counts = [0] * len(kind)
    ends: Mapping[IntEnum, str] = {it: f" {it.name}\n" for it in kind}
    lines = []
    for name, outcome in outcomes:
        counts[outcome - 1] += 1
        lines.append(name + ends[outcome])
    text = "".join(lines)
    return ChunkResults(
        tables,
        tuple(it.name for it in kind),
        counts,
        hashlib.sha256(text.encode()).digest(),
        tld_counts(text, {it.name: int(it) for it in kind}),
    )


def _element(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value
