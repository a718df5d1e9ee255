"""A pattern is a numbered set of names: offset -> name and name -> offset in O(1). Pure.

The offset is written in mixed radix, most significant place first: the variable characters from
left to right, then the
TLD. A place where a hyphen would stand at the edge of the label leaves the hyphen out of its
alphabet.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import product
from math import prod

from services.chassis.domain_name import (
    MAX_LABEL,
    MAX_NAME,
    NotADomainName,
    explain,
    explain_label,
    normalise,
)
from services.chassis.errors import FieldViolation

LDH = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
# Names of the least significant places are kept ready, up to this many, and joined to what stands
# before them.
TAIL_LIMIT = 1 << 15
MAX_TLDS = 1000


class PatternType(StrEnum):
    """Where the variable characters stand."""

    PREFIX = "PREFIX"
    SUFFIX = "SUFFIX"
    BOTH = "BOTH"


@dataclass(frozen=True)
class Pattern:
    """A checked pattern: build it with `parse`, which refuses everything that could make an
    invalid name."""

    prefix_length: int
    suffix_length: int
    characters: str
    constant: str
    tlds: tuple[str, ...]

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The alphabet of each variable place, from left to right."""
        length = self.prefix_length + len(self.constant) + self.suffix_length
        inner = self.characters
        edge = inner.replace("-", "")
        indexes = [
            *range(self.prefix_length),
            *range(length - self.suffix_length, length),
        ]
        return tuple(edge if index in (0, length - 1) else inner for index in indexes)

    @cached_property
    def combinations(self) -> int:
        """Number of names; offsets run from 0 to this minus one. May exceed 64 bits."""
        return prod(map(len, self.places)) * len(self.tlds)

    @cached_property
    def identity(self) -> bytes:
        """32 bytes, equal for patterns that have the same names at the same offsets, however they
        were written.

        Another order of characters or TLDs is another numbering and so another pattern.
        """
        lengths = self.prefix_length, self.suffix_length
        if not self.constant:
            # Nothing stands between the two: where one ends makes no difference.
            lengths = sum(lengths), 0
        characters = self.characters if sum(lengths) else ""
        # No part can contain a line break.
        parts = [*map(str, lengths), characters, self.constant, *self.tlds]
        return hashlib.sha256("\n".join(parts).encode()).digest()

    def name(self, offset: int) -> str:
        """The name at `offset`. Raises IndexError outside of 0 to combinations - 1."""
        if not 0 <= offset < self.combinations:
            raise IndexError(offset)
        rest, tld = divmod(offset, len(self.tlds))
        characters = []
        for alphabet in reversed(self.places):
            rest, digit = divmod(rest, len(alphabet))
            characters.append(alphabet[digit])
        variable = "".join(reversed(characters))
        split = self.prefix_length
        return variable[:split] + self.constant + variable[split:] + self.tlds[tld]

    def offset(self, name: str) -> int:
        """The offset of `name`. Raises ValueError when the pattern does not contain it."""
        length = self.prefix_length + len(self.constant) + self.suffix_length
        label, tld = name[:length], name[length:]
        constant_end = self.prefix_length + len(self.constant)
        if label[self.prefix_length : constant_end] != self.constant or tld not in self.tlds:
            raise ValueError(f"{name!r} is not of this pattern")
        variable = label[: self.prefix_length] + label[constant_end:]
        offset = 0
        for character, alphabet in zip(variable, self.places, strict=True):
            offset = offset * len(alphabet) + alphabet.index(character)
        return offset * len(self.tlds) + self.tlds.index(tld)

    def names(self, offset: int, count: int) -> Iterator[Sequence[str]]:
        """The `count` names from `offset` on, in slices of at most TAIL_LIMIT. O(1) to begin
        anywhere."""
        tails = self._tails
        end = offset + count
        while offset < end:
            block, start = divmod(offset, len(tails))
            part = tails[start : start + end - offset]
            head = self._head(block)
            yield [head + tail for tail in part] if head else part
            offset += len(part)

    @cached_property
    def _tail_places(self) -> int:
        """How many of the least significant places stand in `_tails`."""
        size, places = len(self.tlds), 0
        for alphabet in reversed(self.places):
            if size * len(alphabet) > TAIL_LIMIT:
                break
            size *= len(alphabet)
            places += 1
        return places

    @cached_property
    def _tails(self) -> list[str]:
        kept = len(self.places) - self._tail_places
        in_prefix = max(self.prefix_length - kept, 0)
        constant = self.constant if kept <= self.prefix_length else ""
        return [
            "".join(variable[:in_prefix]) + constant + "".join(variable[in_prefix:]) + tld
            for variable in product(*self.places[kept:])
            for tld in self.tlds
        ]

    def _head(self, block: int) -> str:
        """What stands before the tails: the more significant places, and the constant where it
        lies among them."""
        kept = len(self.places) - self._tail_places
        characters = []
        for alphabet in reversed(self.places[:kept]):
            block, digit = divmod(block, len(alphabet))
            characters.append(alphabet[digit])
        variable = "".join(reversed(characters))
        if kept <= self.prefix_length:
            return variable
        return variable[: self.prefix_length] + self.constant + variable[self.prefix_length :]


def parse(
    *,
    type: str,
    prefix_length: int,
    suffix_length: int,
    character_set: str,
    constant: str,
    tlds: Sequence[str],
) -> Pattern | list[FieldViolation]:
    """The pattern, or everything that is wrong with it. Field names are those of PatternSource."""
    characters = "".join(dict.fromkeys(character_set.lower()))
    folded_tlds, violations = _parse_tlds(tlds)
    length_violations = list(_check_lengths(type, prefix_length, suffix_length))
    # Bounded whatever the request says: a label of 2^31 characters must not come into being.
    before, after = (min(max(length, 0), MAX_LABEL) for length in (prefix_length, suffix_length))
    variable = before + after
    folded_constant, constant_violations = _parse_constant(constant, variable)
    violations += length_violations
    violations += _check_characters(characters, variable)
    violations += constant_violations
    label = before * "a" + folded_constant + after * "a"
    unfit = length_violations or constant_violations
    if not unfit and (problem := explain_label(label)):
        field = "constant" if label else "prefix_length"
        violations.append(FieldViolation(field, f"the label {problem}"))
    for index, tld in enumerate(folded_tlds):
        if tld and not unfit and len(label) + len(tld) > MAX_NAME:
            total = len(label) + len(tld)
            description = f"makes names of {total} characters, more than {MAX_NAME}"
            violations.append(FieldViolation(f"tlds[{index}]", description))
    if violations:
        return violations
    pattern = Pattern(
        prefix_length=prefix_length,
        suffix_length=suffix_length,
        characters=characters if variable else "",
        constant=folded_constant,
        tlds=tuple(folded_tlds),
    )
    if not pattern.combinations:
        description = "has only the hyphen, which cannot stand at the edge of a label"
        return [FieldViolation("character_set", description)]
    return pattern


def _check_lengths(type: str, prefix_length: int, suffix_length: int) -> Iterable[FieldViolation]:
    if type == PatternType.PREFIX and suffix_length:
        yield FieldViolation("suffix_length", "must be 0 for type PREFIX")
    if type == PatternType.SUFFIX and prefix_length:
        yield FieldViolation("prefix_length", "must be 0 for type SUFFIX")
    for field, length in (("prefix_length", prefix_length), ("suffix_length", suffix_length)):
        if not 0 <= length <= MAX_LABEL:
            yield FieldViolation(field, f"must be 0 to {MAX_LABEL}")


def _check_characters(characters: str, variable: int) -> Iterable[FieldViolation]:
    if not characters and variable:
        yield FieldViolation("character_set", "is empty, but there are variable characters")
    if bad := sorted(set(characters) - LDH):
        yield FieldViolation(
            "character_set", f"has characters other than a-z, 0-9 and the hyphen: {''.join(bad)!r}"
        )


def _parse_constant(constant: str, variable: int) -> tuple[str, list[FieldViolation]]:
    folded = constant.lower()
    if not folded.isascii():
        if variable:
            description = "is Unicode, which works only without variable characters"
            return folded, [FieldViolation("constant", description)]
        try:
            return normalise(f"{folded}.invalid").removesuffix(".invalid"), []
        except NotADomainName as problem:
            return folded, [FieldViolation("constant", str(problem))]
    if bad := sorted(set(folded) - LDH):
        description = f"has characters other than letters, digits and the hyphen: {''.join(bad)!r}"
        return folded, [FieldViolation("constant", description)]
    return folded, []


def _parse_tlds(tlds: Sequence[str]) -> tuple[list[str], list[FieldViolation]]:
    folded: list[str] = []
    violations = [] if tlds else [FieldViolation("tlds", "is empty")]
    # The contract's rule speaks about the ones beyond.
    for index, tld in enumerate(tlds[:MAX_TLDS]):
        field = f"tlds[{index}]"
        name = ""
        if not tld.startswith("."):
            violations.append(FieldViolation(field, f"{tld!r} must start with a dot"))
        else:
            try:
                # The label in front is there because a name needs two.
                name = normalise(f"a{tld}")[1:]
            except NotADomainName:
                problem = explain(f"a{tld.lower()}") or "is no internationalised name"
                violations.append(FieldViolation(field, f"{tld!r} {problem}"))
            if name and name in folded:
                violations.append(FieldViolation(field, f"{tld!r} occurs twice"))
        folded.append(name)
    return folded, violations
