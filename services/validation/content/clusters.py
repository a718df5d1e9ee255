"""Pages that are the same but for the name: fingerprints, and groups of them. Pure.

A page has two fingerprints: a sketch of its words (similar pages have similar ones) and a hash of
its tags (equal only when the tags are). Both are the same in every process and version, because
they are stored and compared for years: another way of making them is a new FINGERPRINT_VERSION.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import xor
from zlib import crc32

from services.validation.content.markup import Document

FINGERPRINT_VERSION = 1
# Characters of the text, and words among them, that count, from its beginning.
MAX_CHARACTERS = 8_000
MAX_WORDS = 1_000
# Words in a row that are one feature.
SHINGLE = 4
# Bytes of a sketch, one for each of 16 smallest hashes.
SKETCH_SIZE = 16
# Equal bytes from which on pages are near: of pages that differ in one piece of a tenth 97 % are,
# of 4,300 pairs of unrelated ones none.
NEAR = 10
BANDS = 8
# Pages with fewer words are near when words and tags are equal: too few to be similar.
MIN_WORDS = 20

# Words under which repetition is not told: too few to say.
_MIN_REPEATED = 50
# Of the smallest hashes so many are put in order: of 120 in sixteen parts, none is in some part in
# one page of a hundred.
_LOWEST = 120

# Digits are left out: dates, prices, counters and request numbers tell no two templates apart.
_DIGITS = b"0123456789"
# What ends a clause where no spaces stand between words.
_EAST_ASIAN_STOPS = tuple(it.encode() for it in "\u3001\u3002\uff0c")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    # 16 bytes; zeros for a page without words.
    sketch: bytes
    # 64 bits of the names of the tags in order, signed as a bigint is; 0 for a page without tags.
    tags: int
    # Words that counted, at most 1,000.
    word_count: int
    # Share of its runs of four words that came before, in thousandths; 0 for a page of fewer than
    # 50. It is no part of what is compared.
    repetition: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A group of pages that are near its first one."""

    first: Fingerprint
    # Pages counted into it.
    size: int


def fingerprint(page: Document, name: str = "") -> Fingerprint:
    """Of a page's title and text, with `name` and its first label masked; and of its tags."""
    words = _words(page.title, page.text, name)
    tags = int.from_bytes(_digest(page.outline, 8), "big", signed=True) if page.outline else 0
    if not words:
        return Fingerprint(bytes(SKETCH_SIZE), tags, 0)
    padded = words + [b""] * (SHINGLE - len(words))
    # No loop of Python's: a checksum goes on from that of the word before, and two of them make a
    # run. So all runs that say the same two words twice are one; there are few.
    pairs = list(map(crc32, padded[1:], map(crc32, padded)))
    runs = list(map(xor, pairs, pairs[2:]))
    different = set(runs)
    repeated = 0
    if len(words) >= _MIN_REPEATED:
        repeated = (len(runs) - len(different)) * 1_000 // len(runs)
    return Fingerprint(_sketch(different), tags, len(words), repeated)


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


def _words(title: str, text: str, name: str) -> list[bytes]:
    content = f"{title} {text[:MAX_CHARACTERS]}".encode("utf-8", "replace").lower()
    if name:
        masked = name.lower().rstrip(".").removeprefix("www.")
        content = content.replace(masked.encode(), b" ")
        label = masked.partition(".")[0]
        # A label of a letter or two is in every other word.
        if len(label) > 3:
            content = content.replace(label.encode(), b" ")
    if not content.isascii():
        for stop in _EAST_ASIAN_STOPS:
            content = content.replace(stop, b" ")
    return content.translate(None, _DIGITS).split()[:MAX_WORDS]


def _sketch(hashes: set[int]) -> bytes:
    """One byte each of 16 smallest hashes of a set of shingles: of those that end in the same four
    bits.

    MinHash by one permutation (Li, Owen and Zhang 2012); an empty sixteenth takes over its next
    one's (Shrivastava and Li 2014).
    """
    smallest: dict[int, int] = {}
    if len(hashes) > 2 * _LOWEST:
        below = (_LOWEST << 32) // len(hashes)
        # The smallest of each sixteenth is the last one written.
        smallest = {it & 15: it for it in sorted([it for it in hashes if it < below], reverse=True)}
    if len(smallest) < SKETCH_SIZE:
        smallest = {it & 15: it for it in sorted(hashes, reverse=True)}
    filled = [smallest.get(at) for at in range(SKETCH_SIZE)]
    sketch = bytearray()
    for at in range(SKETCH_SIZE):
        ahead = 0
        while (value := filled[(at + ahead) % SKETCH_SIZE]) is None:
            ahead += 1
        # The upper bits are small in all: the smallest hash of many. The lower ones are not.
        sketch.append(((value >> 4) + ahead * 101) & 0xFF)
    return bytes(sketch)


def _digest(text: str, size: int) -> bytes:
    return blake2b(text.encode(), digest_size=size).digest()
