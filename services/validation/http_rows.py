"""Outcomes of HTTP -> rows of http_results and pages in COPY's binary format, counts, digest. Pure.

A name's columns are encoded as soon as they are known: a chunk may wait long for the last of its
names, and bytes take a tenth of the memory.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.chassis.tlds import tld_counts
from services.validation.http.verdict import Verdict
from services.validation.results import ChunkResults, TableRows

RESULTS, PAGES = "http_results", "pages"
RESULT_COLUMNS = (
    "campaign_no",
    "run",
    "position",
    "verdict",
    "attempt_count",
    "duration_us",
    "check_time_us",
    "status_code",
    "final_url",
    "title",
    "language",
    "content_size",
    "content_sha256",
    "truncated",
    "evidence",
)
PAGE_COLUMNS = (
    "campaign_no",
    "run",
    "position",
    "kind",
    "features",
    "keywords",
    "hit_counts",
    "keyword_match",
    "evidence",
)
_HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
# Field count; length and value of campaign_no, run and position.
_KEY = struct.Struct(">hiiiiii")
# Length and value of verdict, attempt_count, duration_us and check_time_us.
_FIXED = struct.Struct(">" + "ih" * 2 + "ii" + "iq")
_INT = struct.Struct(">ii")
_SMALLINT = struct.Struct(">ih")
_LENGTH = struct.Struct(">i")
_NULL = _LENGTH.pack(-1)
_FALSE, _TRUE = _LENGTH.pack(1) + b"\0", _LENGTH.pack(1) + b"\1"
# Dimensions, whether there are nulls, type of the elements, their number, and the first's index.
_ARRAY = struct.Struct(">iiIii")
_TEXT_OID, _INT_OID = 25, 23
_MAX_INT, _MAX_SMALLINT = 2**31 - 1, 2**15 - 1
_OUTCOMES = tuple(verdict.name for verdict in Verdict)
_NUMBERS = {verdict.name: int(verdict) for verdict in Verdict}


@dataclass(frozen=True, slots=True)
class ResultFields:
    """Columns of http_results that say what came. Texts have no line ends and no NUL."""

    # 0, empty or False where there is none.
    status: int = 0
    final_url: str = ""
    title: str = ""
    language: str = ""
    # None without a page.
    content_size: int | None = None
    sha256: bytes = b""
    truncated: bool = False
    evidence: bytes = b""


@dataclass(frozen=True, slots=True)
class PageFields:
    """Columns of pages."""

    kind: int
    features: bytes
    # Rules that hit, and how often each.
    hit_counts: Sequence[tuple[str, int]]
    # None where nothing was looked for.
    is_match: bool | None
    evidence: bytes


class HttpOutcome(NamedTuple):
    """A name's verdict and its encoded columns."""

    position: int
    name: str
    verdict: Verdict
    attempts: int
    duration_us: int
    # The columns of http_results from status_code on, and of pages from kind on; no page: None.
    result: bytes
    page: bytes | None

    @property
    def size(self) -> int:
        """Bytes, roughly."""
        return 300 + len(self.result) + len(self.page or b"")


def encoded_result(fields: ResultFields) -> bytes:
    """The columns of http_results from status_code on."""
    size = fields.content_size
    return b"".join(
        (
            _SMALLINT.pack(2, fields.status) if fields.status else _NULL,
            _text(fields.final_url),
            _text(fields.title),
            _text(fields.language),
            _NULL if size is None else _INT.pack(4, min(size, _MAX_INT)),
            _bytes(fields.sha256),
            _TRUE if fields.truncated else _FALSE,
            _bytes(fields.evidence),
        )
    )


def encoded_page(fields: PageFields) -> bytes:
    """The columns of pages from kind on; the most frequent rules first."""
    hits = sorted(fields.hit_counts, key=lambda it: (-it[1], it[0]))
    names = b"".join(_element(name.encode()) for name, _ in hits)
    counts = b"".join(_INT.pack(4, min(count, _MAX_INT)) for _, count in hits)
    is_match = fields.is_match
    return b"".join(
        (
            _SMALLINT.pack(2, fields.kind),
            _bytes(fields.features),
            _array(_TEXT_OID, len(hits), names),
            _array(_INT_OID, len(hits), counts),
            _NULL if is_match is None else _TRUE if is_match else _FALSE,
            _bytes(fields.evidence),
        )
    )


def chunk_rows(
    campaign_no: int, run: int, outcomes: Sequence[HttpOutcome], check_time_us: int
) -> ChunkResults:
    """Put the rows of a chunk together, in the order of its names."""
    counts = [0] * len(Verdict)
    results, pages, lines = [_HEADER], [_HEADER], []
    for outcome in outcomes:
        position, name, verdict, attempts, duration, result, page = outcome
        counts[verdict - 1] += 1
        lines.append(f"{name} {verdict.name}\n")
        results.append(_KEY.pack(len(RESULT_COLUMNS), 4, campaign_no, 4, run, 4, position))
        # fmt: off
        results.append(_FIXED.pack(2, verdict, 2, min(attempts, _MAX_SMALLINT), 4,
                                   min(duration, _MAX_INT), 8, check_time_us))
        # fmt: on
        results.append(result)
        if page is not None:
            pages.append(_KEY.pack(len(PAGE_COLUMNS), 4, campaign_no, 4, run, 4, position))
            pages.append(page)
    tables = [TableRows(RESULTS, RESULT_COLUMNS, b"".join((*results, _TRAILER)))]
    if len(pages) > 1:
        tables.append(TableRows(PAGES, PAGE_COLUMNS, b"".join((*pages, _TRAILER))))
    text = "".join(lines)
    return ChunkResults(
        tables,
        _OUTCOMES,
        counts,
        hashlib.sha256(text.encode()).digest(),
        tld_counts(text, _NUMBERS),
    )


def _text(value: str) -> bytes:
    """Empty ones are null."""
    return _element(value.encode()) if value else _NULL


def _bytes(value: bytes) -> bytes:
    return _element(value) if value else _NULL


def _element(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


def _array(oid: int, count: int, elements: bytes) -> bytes:
    """Null without elements."""
    if not count:
        return _NULL
    return _element(_ARRAY.pack(1, 0, oid, count, 1) + elements)
