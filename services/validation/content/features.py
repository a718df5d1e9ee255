"""What is kept of a page so that it can be scored again without fetching it. Pure."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import IntFlag
from typing import Self

from services.validation.content.clusters import Fingerprint
from services.validation.content.markup import Document

# First byte of an encoded vector. A field added at the end is a new version; old ones are read with
# its default.
VECTOR_VERSION = 1
_SHARE = 1_000
# Words under which stuffing is not told: too few to say.
_MIN_WORDS = 50


class Flag(IntFlag):
    TITLE_HIT = 1
    PARKED = 2
    TRUNCATED = 4
    LOGIN_FORM = 8
    STRUCTURED_DATA = 16


@dataclass(frozen=True, slots=True)
class Features:
    """The feature vector of a page. Shares and confidences are in thousandths, 0 to 1,000."""

    # Hits of all keywords, and how many different keywords were hit.
    hit_count: int = 0
    unique_count: int = 0
    # Hits of the most frequent keyword.
    top_hit_count: int = 0
    # Bytes of the body, decompressed.
    byte_size: int = 0
    # Characters and words of the visible text.
    text_size: int = 0
    word_count: int = 0
    link_count: int = 0
    external_link_count: int = 0
    heading_count: int = 0
    # Unix seconds; 0 when unknown.
    fetch_time: int = 0
    # When the page was last changed, as the header or the page itself says; 0 when neither does.
    modified_time: int = 0
    parked_confidence: int = 0
    # How far keywords are repeated to be found: 0 up to a twentieth of the words being hits, 1,000
    # from a fifth on.
    stuffing_penalty: int = 0
    # Share of the runs of four words of a page's beginning that came before, as the fingerprint
    # reads them: without digits and the name, whatever the case.
    repetition_index: int = 0
    # Share of the text that is in links.
    anchor_share: int = 0
    # PageKind of the classification.
    page_kind: int = 1
    flags: int = 0
    # 64 bits of the tags, signed: pages of one template have the same.
    tags: int = 0

    def to_tuple(self) -> tuple[int, ...]:
        """The fields in order, as `from_tuple`, the encoding and `Scorer` take them."""
        return tuple([getattr(self, name) for name in _NAMES])

    @classmethod
    def from_tuple(cls, values: tuple[int, ...]) -> Self:
        """Of as many fields as there are: those that an older version did not have are default."""
        return cls(*values)

    def to_bytes(self) -> bytes:
        """The version, then the fields, little endian. What is too large becomes the largest."""
        values = self.to_tuple()
        return _LAYOUT.pack(VECTOR_VERSION, *map(min, map(max, values, _LEAST), _MOST))

    @classmethod
    def from_bytes(cls, encoded: bytes) -> Self:
        """Read a vector of this version or a later one. ValueError when it is neither."""
        return cls.from_tuple(tuple_of(encoded))


_NAMES = tuple(Features.__dataclass_fields__)
# Version, then one letter a field: I 32 bits, H 16, B 8, q 64 signed.
_FORMAT = "<BIHIIIIHHHqqHHHHBHq"
_LAYOUT = struct.Struct(_FORMAT)
_RANGES = {
    "B": (0, 2**8 - 1),
    "H": (0, 2**16 - 1),
    "I": (0, 2**32 - 1),
    "q": (-(2**63), 2**63 - 1),
}
_LEAST = tuple(_RANGES[it][0] for it in _FORMAT[2:])
_MOST = tuple(_RANGES[it][1] for it in _FORMAT[2:])


def tuple_of(encoded: bytes) -> tuple[int, ...]:
    """The fields of an encoded vector; what later versions added is left off.

    ValueError when it is no vector.
    """
    if len(encoded) < _LAYOUT.size or encoded[0] < VECTOR_VERSION:
        raise ValueError("no feature vector, or one of an unknown version")
    values: tuple[int, ...] = _LAYOUT.unpack_from(encoded)
    return values[1:]


def features_of(
    page: Document,
    *,
    hit_counts: Mapping[str, int],
    title_hit: bool,
    parked_confidence: float,
    page_kind: int,
    is_parked: bool,
    fingerprint: Fingerprint,
    fetch_time: int,
    last_modified: str = "",
    truncated: bool = False,
) -> Features:
    """The vector of one page.

    `hit_counts` is by keyword, those without a hit may be left out; `fetch_time` Unix seconds;
    `last_modified` the header. A time later than the fetch is not believed.
    """
    counts = [it for it in hit_counts.values() if it > 0]
    hits = sum(counts)
    # Folded: one space between words.
    words = page.text.count(" ") + 1 if page.text else 0
    modified = unix_time(last_modified) or unix_time(page.modified)
    flags = Flag(0)
    if title_hit:
        flags |= Flag.TITLE_HIT
    if is_parked:
        flags |= Flag.PARKED
    if truncated or page.is_cut:
        flags |= Flag.TRUNCATED
    if page.has_password_field:
        flags |= Flag.LOGIN_FORM
    if page.json_ld or page.microdata:
        flags |= Flag.STRUCTURED_DATA
    return Features(
        hit_count=hits,
        unique_count=len(counts),
        top_hit_count=max(counts, default=0),
        byte_size=page.byte_size,
        text_size=len(page.text),
        word_count=words,
        link_count=len(page.links),
        external_link_count=sum(not it.same_host for it in page.links),
        heading_count=len(page.headings),
        fetch_time=fetch_time,
        modified_time=modified if 0 < modified <= fetch_time else 0,
        parked_confidence=round(parked_confidence * _SHARE),
        stuffing_penalty=stuffing_penalty(hits, words),
        repetition_index=fingerprint.repetition,
        anchor_share=round(page.anchor_share * _SHARE),
        page_kind=page_kind,
        flags=int(flags),
        tags=fingerprint.tags,
    )


def stuffing_penalty(hits: int, words: int) -> int:
    """In thousandths: 0 up to a twentieth of the words being hits, rising to 1,000 at a fifth."""
    if words < _MIN_WORDS:
        return 0
    return max(0, min(_SHARE, (20 * hits - words) * _SHARE // (3 * words)))


def unix_time(text: str) -> int:
    """Seconds of a date as HTTP (RFC 9110) or ISO 8601 write it, UTC unless told; 0 for others."""
    text = text.strip()
    if not text or len(text) > 60:
        return 0
    try:
        if text[:4].isdigit():
            when = datetime.fromisoformat(text)
        else:
            when = parsedate_to_datetime(text)
        return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0
