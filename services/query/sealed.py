"""Batches as bytes: what a sealed segment holds, and how a response is made of one without parsing.

Messages of protobuf that stand one behind the other are one message: repeated fields are joined, of
other fields the last one counts. So a segment holds the repeated fields of its batch only, and what
differs from call to call is put around it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Kinds of derivations with segments. NAMES: DomainBatch.names alone. ENRICHED: every column of
# EnrichedBatch. Neither has campaign_id, domain_count or cursor. PAGES: whole Domains (packed.py).
# BY_NAME, BY_SCORE: the same in the order of name and of score; `first_position` is a rank in it.
# Copies outlive the version that made them: whoever changes what is in one gives it another name.
NAMES, ENRICHED, PAGES = "names", "enriched", "pages"
BY_NAME, BY_SCORE = "pages_by_name", "pages_by_score"

# Domains in a segment for streams: it ends at the next position that this divides, or before, so
# that it fits a message.
SEGMENT_SIZE = 5_000

# Below the 1 MiB that proxies buffer; the rest is for the cursor and the id. No payload is larger.
MESSAGE_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Segment:
    """Domains one after the other: `name_count` of them, the first one at `first_position`."""

    first_position: int
    name_count: int
    payload: bytes


def tiles(segments: Sequence[Segment], first: int, end: int) -> bool:
    """Whether the segments, in order, are the positions first..end-1, all of them and no others."""
    for segment in segments:
        if segment.first_position != first:
            return False
        first += segment.name_count
    return first == end


def grouped(segments: Sequence[Segment], size: int) -> Iterator[list[Segment]]:
    """The segments in groups that each fit a message, of at most `size` domains if they can."""
    group: list[Segment] = []
    count = length = 0
    for segment in segments:
        count += segment.name_count
        length += len(segment.payload)
        if group and (count > size or length > MESSAGE_LIMIT):
            yield group
            group, count, length = [], segment.name_count, len(segment.payload)
        group.append(segment)
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class Envelope:
    """Numbers of the fields around the rows of a batch; the batch is field 1 of its response."""

    campaign_id: int
    cursor: int
    # None: the batch has no such field.
    domain_count: int | None = None

    def response(
        self, payloads: Sequence[bytes], *, campaign_id: str, count: int, cursor: str
    ) -> bytes:
        """A response with one batch of `count` rows, which are in `payloads`."""
        head = text(self.campaign_id, campaign_id)
        if self.domain_count is not None:
            head += number(self.domain_count, count)
        tail = text(self.cursor, cursor)
        size = len(head) + sum(map(len, payloads)) + len(tail)
        return b"".join((b"\x0a", varint(size), head, *payloads, tail))


DOMAIN_BATCH = Envelope(campaign_id=1, domain_count=2, cursor=7)
ENRICHED_BATCH = Envelope(campaign_id=1, domain_count=2, cursor=3)
# Rows are field 2 of both.
LEAD_BATCH = LOG_BATCH = Envelope(campaign_id=1, cursor=3)


def varint(value: int) -> bytes:
    """A number that is not negative, as the wire has it."""
    if value < 0x80:
        return bytes((value,))
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def text(field: int, value: str) -> bytes:
    return delimited(field, value.encode())


def delimited(field: int, content: bytes) -> bytes:
    """A field of a text, of bytes, of a message, or of packed numbers."""
    return varint(field << 3 | 2) + varint(len(content)) + content
