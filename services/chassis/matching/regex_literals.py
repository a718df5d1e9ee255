"""What every match of a regular expression must contain: literals to look for before it runs. Pure.

Reads the syntax of RE2 (https://github.com/google/re2/wiki/Syntax) as far as keywords use it. What
it does not understand, it says nothing about, and such a pattern runs over the whole page: a doubt
costs time, never a match. Widths are bytes of UTF-8.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Shorter literals stand nearly everywhere; more or longer ones tell no more.
LEAST_LITERAL = 3
MOST_LITERALS = 16
LONGEST_LITERAL = 40
# So many sets of literals are told of one pattern.
MOST_NEEDED = 3
# A match that begins within this many bytes before a literal is looked for from there.
MOST_LEAD = 48
_DEEPEST = 50

_FLAGS = re.compile(r"\(\?[imsU-]+([:)])")
_NAMED = re.compile(r"\(\?P?<[^=!>][^>]*>")
_REPEAT = re.compile(r"(?:([*+?])|\{(\d+)(?:(,)(\d*))?\})\??")
_MOST_CHARS = re.compile(r"\\(?:[DWS]|P(?:\{[^}]*\}|.)|p\{\^[^}]*\})")
_ESCAPED_CHAR = re.compile(r"\\(?:[dwsntrfva]|p(?:\{[^}]*\}|.)|x(?:\{[^}]*\}|[0-9a-fA-F]{2}))")
_NOTHING = re.compile(r"[\^$]|\\[bBAz]")
_CLASS = re.compile(r"\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]", re.DOTALL)

# Least and most bytes; None: no bound.
_Width = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class Needed:
    """Literals, one of which is in every match."""

    # Folded, ASCII.
    literals: frozenset[str]
    # Bytes between the start of the match and the literal, at least and at most; None: no bound.
    lead: _Width


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a pattern."""

    # All of them are in every match; the best to look for first. Empty: nothing is certain.
    needed: tuple[Needed, ...]
    # Whether a match may go on over any text, as with `.*`.
    sprawls: bool
    # The highest count of a repetition; many states of an automaton are made of it.
    repeated: int


@dataclass(frozen=True, slots=True)
class _Part:
    width: _Width
    # All that it may match, folded; None: too many to say.
    exact: frozenset[str] | None
    needed: tuple[Needed, ...] = ()
    repeated: int = 1
    # Whether it stops soon when repeated: one character of a few.
    narrow: bool = False
    sprawls: bool = False


_EMPTY = _Part((0, 0), frozenset({""}), narrow=True)
_ANY_CHAR = _Part((1, 4), None)
_SOME_CHAR = _Part((1, 4), None, narrow=True)


class _NotUnderstood(Exception):
    pass


def outline(pattern: str) -> Outline | None:
    """What is known of matches of a pattern that RE2 accepts; None for one not understood."""
    if "\\Q" in pattern or "\\C" in pattern:
        return None
    try:
        part, end = _alternatives(pattern, 0, 0)
    except _NotUnderstood:
        return None
    if end != len(pattern):
        return None
    return Outline(_needed_of(part), part.sprawls, part.repeated)


def _alternatives(pattern: str, position: int, depth: int) -> tuple[_Part, int]:
    if depth > _DEEPEST:
        raise _NotUnderstood
    branches = []
    while True:
        branch, position = _sequence(pattern, position, depth)
        branches.append(branch)
        if not pattern.startswith("|", position):
            break
        position += 1
    if len(branches) == 1:
        return branches[0], position
    exact = None
    if all(branch.exact is not None for branch in branches):
        exact = _few(text for branch in branches for text in branch.exact or ())
    return (
        _Part(
            _hull(branch.width for branch in branches),
            exact,
            _either(list(map(_needed_of, branches))),
            max(branch.repeated for branch in branches),
            sprawls=any(branch.sprawls for branch in branches),
        ),
        position,
    )


def _sequence(pattern: str, position: int, depth: int) -> tuple[_Part, int]:
    parts = []
    while position < len(pattern) and pattern[position] not in "|)":
        part, position = _item(pattern, position, depth)
        repeat = _REPEAT.match(pattern, position)
        if repeat:
            part, position = _times(part, *_counts(repeat)), repeat.end()
        parts.append(part)
    return _joined(parts), position


def _item(pattern: str, position: int, depth: int) -> tuple[_Part, int]:
    char = pattern[position]
    if char == "(":
        return _group(pattern, position, depth)
    if char == ".":
        return _ANY_CHAR, position + 1
    for syntax, part in (
        (_NOTHING, _EMPTY),
        (_MOST_CHARS, _ANY_CHAR),
        (_ESCAPED_CHAR, _SOME_CHAR),
    ):
        if found := syntax.match(pattern, position):
            return part, found.end()
    if char == "[":
        found = _CLASS.match(pattern, position)
        if not found:
            raise _NotUnderstood
        return (_ANY_CHAR if _is_broad(found[0]) else _SOME_CHAR), found.end()
    if char == "\\":
        position += 1
        char = pattern[position : position + 1]
        if not char or char.isalnum() or not char.isascii():
            raise _NotUnderstood
    return _letter(char), position + 1


def _is_broad(chars: str) -> bool:
    """Whether a class in brackets may be most characters."""
    return chars.startswith("[^") or "[:^" in chars or _MOST_CHARS.search(chars) is not None


def _letter(char: str) -> _Part:
    if not char.isascii() or (char.isspace() and char != " "):
        return _SOME_CHAR
    # Without case they match the long s and the sign of kelvin, too: two and three bytes.
    longest = {"s": 2, "k": 3}.get(char.lower(), 1)
    return _Part((1, longest), frozenset({char.lower()}), narrow=True)


def _group(pattern: str, position: int, depth: int) -> tuple[_Part, int]:
    if flags := _FLAGS.match(pattern, position):
        if flags[1] == ")":
            return _EMPTY, flags.end()
        inside = flags.end()
    elif named := _NAMED.match(pattern, position):
        inside = named.end()
    elif pattern.startswith("(?:", position):
        inside = position + 3
    elif pattern.startswith("(?", position):
        raise _NotUnderstood
    else:
        inside = position + 1
    part, end = _alternatives(pattern, inside, depth + 1)
    if not pattern.startswith(")", end):
        raise _NotUnderstood
    return part, end + 1


def _counts(repeat: re.Match[str]) -> _Width:
    sign, least, comma, most = repeat.groups()
    if sign:
        return (1 if sign == "+" else 0), (1 if sign == "?" else None)
    return int(least), int(least) if not comma else int(most) if most else None


def _times(part: _Part, least: int, most: int | None) -> _Part:
    low, high = part.width
    longest = None if most is None or high is None else high * most
    if high == 0:
        longest = 0
    exact = None
    if part.exact is not None and most is not None and most <= LONGEST_LITERAL:
        exact = _powers(part.exact, least, most)
    # The first time begins where the whole does.
    needed = _needed_of(part) if least else ()
    repeated = max(part.repeated, 1, least, most or 1)
    sprawls = part.sprawls or (most is None and not part.narrow)
    return _Part((low * least, longest), exact, needed, repeated, sprawls=sprawls)


def _powers(texts: frozenset[str], least: int, most: int) -> frozenset[str] | None:
    power: frozenset[str] | None = frozenset({""})
    found: set[str] = set()
    for count in range(most + 1):
        if power is None:
            return None
        if count >= least:
            found |= power
        if count < most:
            power = _few(head + tail for head in power for tail in texts)
    return _few(found)


def _joined(parts: list[_Part]) -> _Part:
    """Parts one after another."""
    candidates: list[Needed] = []
    all_exact = True
    run = frozenset({""})
    lead: _Width = (0, 0)
    run_lead: _Width = (0, 0)
    for part in parts:
        crossed = None
        if part.exact is not None:
            crossed = _few(head + tail for head in run for tail in part.exact)
        if crossed is not None:
            run = crossed
        else:
            all_exact = False
            candidates += _usable(run, run_lead)
            candidates += [
                Needed(needed.literals, _plus(lead, needed.lead)) for needed in part.needed
            ]
            run = part.exact or frozenset({""})
            run_lead = lead if part.exact else _plus(lead, part.width)
        lead = _plus(lead, part.width)
    candidates += _usable(run, run_lead)
    return _Part(
        lead,
        run if all_exact else None,
        tuple(sorted(candidates, key=_worth, reverse=True)[:MOST_NEEDED]),
        max((part.repeated for part in parts), default=1),
        narrow=len(parts) == 1 and parts[0].narrow,
        sprawls=any(part.sprawls for part in parts),
    )


def _needed_of(part: _Part) -> tuple[Needed, ...]:
    if part.exact is not None:
        return tuple(_usable(part.exact, (0, 0))) or part.needed
    return part.needed


def _usable(literals: frozenset[str], lead: _Width) -> list[Needed]:
    if min(map(len, literals)) < LEAST_LITERAL or any(map(str.isspace, literals)):
        return []
    # Where a longer one stands, the shorter one that it begins with stands, too.
    shortest = frozenset(
        literal
        for literal in literals
        if not any(literal[:size] in literals for size in range(1, len(literal)))
    )
    return [Needed(shortest, lead)]


def _worth(needed: Needed) -> tuple[bool, int, int]:
    return is_near(needed), min(map(len, needed.literals)), -len(needed.literals)


def is_near(needed: Needed) -> bool:
    """Whether a literal tells where its match begins, nearly."""
    least, most = needed.lead
    return most is not None and most - least <= MOST_LEAD


def _either(branches: list[tuple[Needed, ...]]) -> tuple[Needed, ...]:
    if not all(branches):
        return ()
    best = [needed[0] for needed in branches]
    literals = _few(literal for needed in best for literal in needed.literals)
    if literals is None:
        return ()
    return (Needed(literals, _hull(needed.lead for needed in best)),)


def _few(texts: Iterable[str]) -> frozenset[str] | None:
    """The texts, unless they are too many or too long."""
    found = set()
    for text in texts:
        found.add(text)
        if len(found) > MOST_LITERALS or len(text) > LONGEST_LITERAL:
            return None
    return frozenset(found)


def _hull(widths: Iterable[_Width]) -> _Width:
    all_widths = list(widths)
    highs = [high for _, high in all_widths]
    most = None if None in highs else max(high for high in highs if high is not None)
    return min(low for low, _ in all_widths), most


def _plus(one: _Width, other: _Width) -> _Width:
    most = None if one[1] is None or other[1] is None else one[1] + other[1]
    return one[0] + other[0], most
