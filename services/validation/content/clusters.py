"""Pages that are the same but for the name: fingerprints, and groups of them. Pure.

A page has two fingerprints: a sketch of its words (similar pages have similar ones) and a hash of
its tags (equal only when the tags are). Both are the same in every process and version, because
they are stored and compared for years: another way of making them is a new FINGERPRINT_VERSION.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from zlib import crc32

from services.validation.content.markup import Document

FINGERPRINT_VERSION = 1
# Words of the text that count, from its beginning.
MAX_WORDS = 1_000
# Words in a row that are one feature.
SHINGLE = 3
# Bytes of a sketch, one for each of 16 smallest hashes.
SKETCH_SIZE = 16
# Equal bytes from which on pages are near: of pages that differ in one piece of a tenth 97 % are,
# of 4,300 pairs of unrelated ones none.
NEAR = 10
BANDS = 8
# Pages with fewer words are near when words and tags are equal: too few to be similar.
MIN_WORDS = 20

# Digits are masked: dates, prices, counters and request numbers tell no two templates apart.
_WORD = re.compile(r"[^\W\d_]+|\d+")
_MASK = (1 << 64) - 1
# 2^64 divided by the golden ratio: spreads the bits of a checksum (Knuth, volume 3, 6.4).
_SPREAD = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Fingerprint:
    # 16 bytes; zeros for a page without words.
    sketch: bytes
    # 64 bits of the names of the tags in order, signed as a bigint is; 0 for a page without tags.
    tags: int
    # Words that counted, at most 1,000.
    word_count: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """A group of pages that are near its first one."""

    first: Fingerprint
    # Pages counted into it.
    size: int


def fingerprint(page: Document, name: str = "") -> Fingerprint:
    """Of a page's title and text, with `name` and its first label masked; and of its tags."""
    words = _words(f"{page.title} {page.text}", name)
    tags = int.from_bytes(_digest(page.outline, 8), "big", signed=True) if page.outline else 0
    return Fingerprint(_sketch(words), tags, len(words))


def similarity(one: bytes, other: bytes) -> int:
    """Equal bytes of two sketches, 0 to 16: the share of the features that both pages have."""
    return sum(map(int.__eq__, one, other))


def are_near(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two pages are the same but for the name and some words.

    Pages of fewer than 20 words are when words and tags are equal.
    """
    if one.word_count < MIN_WORDS or other.word_count < MIN_WORDS:
        return one.sketch == other.sketch and one.tags == other.tags
    return similarity(one.sketch, other.sketch) >= NEAR


def bands(page: Fingerprint) -> tuple[int, ...]:
    """Keys of which near pages share two at least: six unequal bytes cannot spoil eight pairs.

    Eight below 2^19, or for a page of few words one of 64 bits, signed. For a table of groups: one
    row a key with the group's first fingerprint; a page's candidates are the rows of its keys, and
    `are_near` decides among them.
    """
    if page.word_count < MIN_WORDS:
        both = page.sketch + page.tags.to_bytes(8, "big", signed=True)
        return (int.from_bytes(blake2b(both, digest_size=8).digest(), "big", signed=True),)
    sketch = page.sketch
    return tuple(
        at >> 1 << 16 | sketch[at] << 8 | sketch[at + 1] for at in range(0, SKETCH_SIZE, 2)
    )


class ClusterIndex:
    """Groups the pages of one worker. Holds at most `capacity` groups; the coldest go first.

    A group takes about 3 KB. Not safe for threads.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        if capacity < 1:
            raise ValueError("a cluster index holds one group at least")
        self._capacity = capacity
        # The coldest first.
        self._sizes: OrderedDict[Fingerprint, int] = OrderedDict()
        self._bands: dict[int, dict[Fingerprint, None]] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, page: Fingerprint) -> Cluster:
        """Count a page into the nearest group, or begin one with it."""
        keys = bands(page)
        first = self._nearest(page, keys)
        if first is None:
            first = page
            self._sizes[page] = 0
            for key in keys:
                self._bands.setdefault(key, {})[page] = None
            if len(self._sizes) > self._capacity:
                self._forget()
        self._sizes[first] += 1
        self._sizes.move_to_end(first)
        return Cluster(first, self._sizes[first])

    def _nearest(self, page: Fingerprint, keys: tuple[int, ...]) -> Fingerprint | None:
        if page in self._sizes:
            return page
        best, most = None, -1
        for key in keys:
            for other in self._bands.get(key, ()):
                if are_near(page, other):
                    equal = similarity(page.sketch, other.sketch)
                    if equal > most:
                        best, most = other, equal
        return best

    def _forget(self) -> None:
        coldest, _ = self._sizes.popitem(last=False)
        for key in bands(coldest):
            group = self._bands[key]
            del group[coldest]
            if not group:
                del self._bands[key]


def _words(text: str, name: str) -> list[str]:
    # 16 characters a word are more than any language has on average.
    text = text[: MAX_WORDS * 16].lower()
    if name:
        name = name.lower().rstrip(".").removeprefix("www.")
        text = text.replace(name, " 0 ")
        label = name.partition(".")[0]
        # A label of a letter or two is in every other word.
        if len(label) > 3:
            text = text.replace(label, " 0 ")
    # Most texts have enough words in their first half; the last one there may be cut.
    words = _WORD.findall(text[: MAX_WORDS * 8])
    if len(words) <= MAX_WORDS:
        words = _WORD.findall(text)
    return ["0" if it.isdigit() else it for it in words[:MAX_WORDS]]


def _sketch(words: list[str]) -> bytes:
    """One byte each of the 16 smallest hashes of a set of shingles, one in each sixteenth.

    MinHash by one permutation (Li, Owen and Zhang 2012); an empty sixteenth takes over its next
    one's (Shrivastava and Li 2014).
    """
    if not words:
        return bytes(SKETCH_SIZE)
    padded = [*words, *[""] * (SHINGLE - len(words))]
    hashes = {
        crc32(f"{a} {b} {c}".encode()) * _SPREAD & _MASK
        for a, b, c in zip(padded, padded[1:], padded[2:], strict=False)
    }
    # The smallest of each sixteenth is the last one written.
    smallest = {it >> 60: it for it in sorted(hashes, reverse=True)}
    filled = [smallest.get(at) for at in range(SKETCH_SIZE)]
    sketch = bytearray()
    for at in range(SKETCH_SIZE):
        ahead = 0
        while (value := filled[(at + ahead) % SKETCH_SIZE]) is None:
            ahead += 1
        # The upper bits are small in all: the smallest hash of many. The lower ones are not.
        sketch.append(((value >> 12) + ahead * 101) & 0xFF)
    return bytes(sketch)


def _digest(text: str, size: int) -> bytes:
    return blake2b(text.encode(), digest_size=size).digest()
