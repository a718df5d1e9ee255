"""Text in the form in which literals are looked for, and the way back to the text as it was. Pure.

Folded text is NFC(casefold(NFC(text))) with the full case folding of Unicode (CaseFolding.txt, C
and F: ß is ss, ﬁ is fi), and besides:

- every white space is a plain space, one for one: runs are not shortened;
- characters that show nothing (soft hyphen, zero-width space, word joiner, byte order mark) are
  left out;
- i with and without a dot are one letter, whatever their case: in Turkish they are two, but of
  which language a page is, nobody tells.

Offsets are bytes of UTF-8 here. Most pages fold one for one and keep them; the others get a list of
the places where lengths differ.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

IGNORED = "\xad\u200b\u2060\ufeff"
_ASCII = bytes(range(0x80))
_FOLD_ASCII = bytes(
    0x20 if chr(code).isspace() and code < 0x80 else code + 0x20 if 0x41 <= code <= 0x5A else code
    for code in range(256)
)
_NO_IGNORED = dict.fromkeys(map(ord, IGNORED))
# Above this many letters to replace, one slow pass over the text is faster than one for each.
_MOST_REPLACEMENTS = 48
_BEGINNING = 4096
# Vowels and finals of Hangul: the only ones that compose with what stands before them and are no
# marks.
_JAMO = ("\u1161", "\u1175"), ("\u11a8", "\u11c2")


def clean(text: str) -> str:
    """What a literal for which case matters is compared by: all of folding but the case."""
    visible = text.translate(_NO_IGNORED)
    if not visible.isascii() or not visible.isprintable():
        visible = "".join([" " if char.isspace() else char for char in visible])
    return unicodedata.normalize("NFC", visible)


def fold(text: str) -> str:
    """A literal, or a piece of a page, folded."""
    lower = clean(text).replace("\u0130", "i").replace("\u0131", "i").casefold()
    return unicodedata.normalize("NFC", lower)


@lru_cache(8192)
def joins(char: str) -> bool:
    """Whether `char` belongs to the character before it: a mark, or a jamo that composes."""
    # Marks of class 0 compose, too (U+09BE); those that do not are of no harm here.
    return (
        unicodedata.combining(char) != 0
        or unicodedata.category(char) == "Mc"
        or any(first <= char <= last for first, last in _JAMO)
    )


@lru_cache(8192)
def _fold_bytes(piece: str) -> bytes:
    return fold(piece).encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Shifts:
    """Where folded text differs from its original in length: four ascending lists of byte offsets,
    empty where characters became several of the same length together."""

    folded_starts: list[int]
    folded_ends: list[int]
    starts: list[int]
    ends: list[int]
    # Folded offsets within a character.
    inside: frozenset[int]

    def start(self, offset: int) -> int | None:
        """The original offset of what begins at a folded one; None within a character."""
        index = bisect_right(self.folded_starts, offset) - 1
        if index < 0:
            return None if offset in self.inside else offset
        if self.folded_ends[index] <= offset:
            return self.ends[index] + offset - self.folded_ends[index]
        return self.starts[index] if self.folded_starts[index] == offset else None

    def end(self, offset: int) -> int | None:
        """The original offset of what ends before a folded one; None within a character."""
        index = bisect_left(self.folded_starts, offset) - 1
        if index < 0:
            return None if offset in self.inside else offset
        if self.folded_ends[index] <= offset:
            return self.ends[index] + offset - self.folded_ends[index]
        return None


@dataclass(frozen=True, slots=True)
class FoldedText:
    """A text, and what literals are looked for in."""

    # UTF-8; what UTF-8 cannot say (lone surrogates) is a question mark each.
    original: bytes
    folded: bytes
    # None: every offset is the same in both.
    shifts: Shifts | None
    # Whether some character belongs to the one before it.
    has_marks: bool
    # Whether such pairs were composed or put in order: a letter of the original may be no letter of
    # the folded text then.
    composed: bool

    def span(self, start: int, end: int) -> tuple[int, int] | None:
        """The original span of a folded one; None where it does not cover whole characters."""
        if self.shifts is not None:
            first, last = self.shifts.start(start), self.shifts.end(end)
            if first is None or last is None:
                return None
            start, end = first, last
        if self.has_marks and self._continues(end):
            return None
        return start, end

    def _continues(self, offset: int) -> bool:
        """Whether the character at `offset` belongs to the one before it."""
        char = character_at(self.original, offset)
        while char and char in IGNORED:
            offset += len(char.encode())
            char = character_at(self.original, offset)
        return char > "\x7f" and joins(char)


def fold_text(text: str) -> FoldedText:
    """Fold a page. Half a millisecond for 250 KB in few alphabets; linear for any text."""
    original = text.encode("utf-8", "replace")
    folded = original.translate(_FOLD_ASCII)
    if len(original) == len(text):
        return FoldedText(original, folded, None, False, False)
    others = _distinct(original.translate(None, _ASCII).decode())
    has_marks = any(map(joins, others))
    if has_marks and not unicodedata.is_normalized("NFC", text):
        return _compose(original, folded, others)
    swapped, uneven = _split(others)
    if swapped:
        folded = _swap(text, swapped).encode("utf-8", "replace").translate(_FOLD_ASCII)
    shifts = None
    if uneven and all(len(_fold_bytes(char)) == len(char.encode()) for char in uneven):
        # ß alone, mostly: two bytes as ss, too, so that offsets stay.
        folded, shifts = _spell_out(original, folded, uneven)
    elif uneven:
        folded, shifts = _shift(original, folded, uneven, frozenset())
    if has_marks and not unicodedata.is_normalized("NFC", folded.decode()):
        # A capital that composes with its mark only when it is small (Ϊ́).
        return _compose(original, original.translate(_FOLD_ASCII), others)
    return FoldedText(original, folded, shifts, has_marks, False)


def _distinct(chars: str) -> set[str]:
    """The characters of a long text: those of its beginning, and what a regex finds besides.

    A set of 125,000 Cyrillic letters takes 3 ms, this one.
    """
    found = set(chars[:_BEGINNING])
    if len(chars) > _BEGINNING:
        others = "[^" + "".join(map(re.escape, sorted(found))) + "]+"
        found.update(*re.findall(others, chars[_BEGINNING:]))
    return found


def _swap(text: str, swapped: dict[str, str]) -> str:
    if len(swapped) > _MOST_REPLACEMENTS:
        return text.translate({ord(char): lower for char, lower in swapped.items()})
    for char, lower in swapped.items():
        text = text.replace(char, lower)
    return text


def _compose(original: bytes, folded: bytes, others: set[str]) -> FoldedText:
    """Fold what is not ASCII piece by piece, a character and its marks at a time."""
    marks = frozenset(char for char in others if joins(char))
    uneven = {char for char in others if char in marks or _fold_bytes(char) != char.encode()}
    folded, shifts = _shift(original, folded, uneven, marks)
    return FoldedText(original, folded, shifts, True, True)


def _split(chars: set[str]) -> tuple[dict[str, str], set[str]]:
    """Of characters, those that fold to another one of as many bytes, and those of other length."""
    swapped, uneven = {}, set()
    for char in chars:
        encoded = char.encode()
        bytes_ = _fold_bytes(char)
        if bytes_ == encoded:
            continue
        lower = bytes_.decode()
        if len(bytes_) == len(encoded) and len(lower) == 1:
            swapped[char] = lower
        else:
            uneven.add(char)
    return swapped, uneven


def _spell_out(original: bytes, folded: bytes, chars: set[str]) -> tuple[bytes, Shifts]:
    """Replace in `folded` characters by several of as many bytes together."""
    inside: list[int] = []
    for char in chars:
        encoded = char.encode()
        folded = folded.replace(encoded, _fold_bytes(char))
        end = 0
        # Cut where it stands: a search by a regular expression takes ten times as long.
        for piece in original.split(encoded)[:-1]:
            begin = end + len(piece)
            end = begin + len(encoded)
            inside += range(begin + 1, end)
    return folded, Shifts([], [], [], [], frozenset(inside))


def _shift(
    original: bytes, folded: bytes, uneven: set[str], marks: frozenset[str]
) -> tuple[bytes, Shifts]:
    """Replace in `folded`, which has the original's length, what is `uneven`."""
    parts: list[bytes] = []
    position = length = 0
    folded_starts, folded_ends, starts, ends = [], [], [], []
    inside: list[int] = []
    for begin, end, new in _replacements(original, uneven, marks):
        parts += (folded[position:begin], new)
        length += begin - position
        folded_starts.append(length)
        if len(new) > 1:
            inside += range(length + 1, length + len(new))
        length += len(new)
        folded_ends.append(length)
        starts.append(begin)
        ends.append(end)
        position = end
    parts.append(folded[position:])
    return b"".join(parts), Shifts(folded_starts, folded_ends, starts, ends, frozenset(inside))


def _replacements(
    original: bytes, uneven: set[str], marks: frozenset[str]
) -> Iterator[tuple[int, int, bytes]]:
    """Spans of characters, with the marks that belong to them, and what stands there folded."""
    pattern = _one_of(uneven)
    if not marks:
        folds = {char.encode(): _fold_bytes(char) for char in uneven}
        for match in pattern.finditer(original):
            begin, end = match.span()
            yield begin, end, folds[match[0]]
        return
    position = 0
    for begin, end in _runs(pattern, original):
        run = original[begin:end].decode()
        if begin > position and not marks.isdisjoint(run):
            # The character that the first mark belongs to.
            before = _start_of_character(original, begin - 1)
            run = original[before:begin].decode() + run
            begin = before
        for piece in _characters(run, marks):
            last = begin + len(piece.encode())
            yield begin, last, _fold_bytes(piece)
            begin = last
        position = end


def _one_of(chars: set[str]) -> re.Pattern[bytes]:
    """One of some characters in UTF-8. A repeated group would be tried at every byte: slow."""
    lasts: dict[bytes, bytes] = {}
    for char in sorted(chars):
        encoded = char.encode()
        lasts[encoded[:-1]] = lasts.get(encoded[:-1], b"") + encoded[-1:]
    return re.compile(
        b"|".join(
            re.escape(head) + (b"[%s]" % re.escape(last) if len(last) > 1 else re.escape(last))
            for head, last in sorted(lasts.items())
        )
    )


def _runs(pattern: re.Pattern[bytes], data: bytes) -> Iterator[tuple[int, int]]:
    """Where one match follows another without anything between."""
    begin = end = 0
    for match in pattern.finditer(data):
        first, last = match.span()
        if first != end:
            if end > begin:
                yield begin, end
            begin = first
        end = last
    if end > begin:
        yield begin, end


def _characters(run: str, marks: frozenset[str]) -> Iterator[str]:
    """Characters with the marks that belong to them, over what shows nothing."""
    begin, end = 0, 0
    for index, char in enumerate(run):
        if char in marks:
            end = index + 1
        elif char not in IGNORED:
            yield from _one_and_rest(run, begin, end, index)
            begin, end = index, index + 1
    yield from _one_and_rest(run, begin, end, len(run))


def _one_and_rest(run: str, begin: int, end: int, next_: int) -> Iterator[str]:
    if end > begin:
        yield run[begin:end]
    yield from run[max(begin, end) : next_]


def character_at(data: bytes, offset: int) -> str:
    """The character that begins at a byte of UTF-8; "" at the end."""
    first = data[offset : offset + 1]
    if first < b"\x80":
        return first.decode()
    length = 2 if first < b"\xe0" else 3 if first < b"\xf0" else 4
    return data[offset : offset + length].decode()


def character_before(data: bytes, offset: int) -> str:
    """The character that ends before a byte of UTF-8; "" at the start."""
    if not offset:
        return ""
    return data[_start_of_character(data, offset - 1) : offset].decode()


def _start_of_character(data: bytes, offset: int) -> int:
    while data[offset] & 0xC0 == 0x80:
        offset -= 1
    return offset


def character_offsets(data: bytes, offsets: set[int]) -> dict[int, int]:
    """How many characters stand before each byte offset."""
    counted, position, characters = {}, 0, 0
    for offset in sorted(offsets):
        piece = data[position:offset]
        characters += len(piece) if piece.isascii() else len(piece.decode())
        position = offset
        counted[offset] = characters
    return counted
