"""Keyword rules over a page: all of them in one pass, with counts, snippets and offsets. Pure.

What a hit is:

- Hits of one rule do not overlap: the leftmost counts, the next is looked for behind it. Hits of
  different rules may overlap.
- Literals are compared folded (folding.py says how), those for which case matters after all of
  folding but the case. A hit covers whole characters: "s" does not hit half of ß, "e" not the e
  of a decomposed é.
- Regular expressions are RE2's, leftmost and then by preference as in Perl, over the text as it
  is: not composed, simple case folding (ß is not ss), \\b and \\w know ASCII alone. Matches without
  a character do not count.
- `whole_word` leaves out hits whose first or last letter goes on beyond the hit, for regular
  expressions after matching.

Literals, and literals that regular expressions cannot do without, are looked for by one automaton
(Aho-Corasick); a regular expression runs where one of its own stands, and over the whole page only
if nothing is known of it or it stands everywhere.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ahocorasick_rs
import re2

from services.chassis.matching.folding import (
    IGNORED,
    FoldedText,
    Shifts,
    character_at,
    character_before,
    character_offsets,
    clean,
    fold,
    fold_text,
)
from services.chassis.matching.keyword_rules import (
    MOST_PROBLEMS,
    Rule,
    RuleKind,
    RuleProblem,
    RulesRefused,
    ad_hoc_rules,
    compile_regex,
    problems_of,
    regex_options,
)
from services.chassis.matching.regex_literals import Needed, is_near, outline

__all__ = [
    "CompiledRules",
    "PageHits",
    "Rule",
    "RuleHits",
    "RuleKind",
    "RuleProblem",
    "RulesRefused",
    "Snippet",
    "ad_hoc_rules",
    "compile_rules",
    "scan",
]

# Snippets of a rule unless asked otherwise, and at most; and of all rules together.
SNIPPETS = 3
MAX_SNIPPETS = 10
MAX_PAGE_SNIPPETS = 500
# Characters of a hit that a snippet shows; its offsets tell the rest.
MAX_SHOWN = 200
# What one page may cost: occurrences of literals, then the page is read no further; matches of
# regular expressions together, and what each may have when they are used up.
MAX_OCCURRENCES = 500_000
MAX_MATCHES = 20_000
LEAST_MATCHES = 20
# Occurrences that one call of the automaton may return: 100 bytes each, for a moment.
_BLOCK_OCCURRENCES = 1 << 16
# A regular expression is tried at so many places; at more, it runs over the page. One that sprawls
# may go far at each.
_MOST_PLACES, _MOST_PLACES_SPRAWLING = 256, 8
# States of an automaton that has a row of transitions each; larger ones are compressed, and a
# third as fast.
_MOST_DFA_BYTES = 100_000
# Regular expressions in one set, and the highest repetition in it: sets multiply states.
_SET_SIZE = 32
_SET_REPEATED = 8
_SET_MEMORY = 8 << 20

# Letters of other lengths that match s and k where case does not matter.
_LONG_S_AND_KELVIN = "\u017f".encode(), "\u212a".encode()

Spans = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Snippet:
    """A hit in its surroundings, as they stand on the page."""

    # Characters from the start of the text, or of the title; `end` is behind the hit.
    start: int
    end: int
    in_title: bool
    # Up to the rule's `context` characters on each side.
    before: str
    # At most MAX_SHOWN characters of the hit.
    hit: str
    after: str


@dataclass(frozen=True, slots=True)
class RuleHits:
    """What a rule hit; never nothing."""

    rule: Rule
    # In the text, and in the title.
    count: int
    title_count: int
    # The first ones, those in the title first.
    snippets: tuple[Snippet, ...]


@dataclass(frozen=True, slots=True)
class PageHits:
    """What rules hit on a page, in the order of the rules."""

    rules: tuple[RuleHits, ...]
    # Whether every hit was counted. Only a page stuffed with hits is not read to its end
    # (MAX_OCCURRENCES, MAX_MATCHES): its counts are lower bounds.
    complete: bool

    @property
    def names(self) -> frozenset[str]:
        """The rules that hit: what expressions are evaluated over."""
        return frozenset(hits.rule.name for hits in self.rules)

    @property
    def count(self) -> int:
        """Hits of all rules, in text and title."""
        return sum(hits.count + hits.title_count for hits in self.rules)


@dataclass(frozen=True, slots=True)
class _Literal:
    """A rule as the automaton's occurrences are judged by it."""

    index: int
    # What the page must say there where case matters, else None.
    exact: str | None
    whole_word: bool
    # Whether every occurrence is a hit: of any case, within words, never overlapping another.
    simple: bool


@dataclass(frozen=True, slots=True)
class _Regex:
    index: int
    engine: Any
    whole_word: bool
    # Sets of literals, by their numbers: one of each set is in every match. With the least and
    # most bytes from the start of the match to it; None: anywhere.
    needed: tuple[tuple[tuple[int, ...], tuple[int, int] | None], ...]
    # Places to try at most.
    most_places: int


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """Rules ready to scan pages, by any thread; made by `compile_rules`."""

    rules: tuple[Rule, ...]
    _automaton: Any
    # Of each literal of the automaton: its bytes, and the rules that it is of.
    _lengths: tuple[int, ...]
    _literals: tuple[tuple[_Literal, ...], ...]
    # Bytes of a page given to the automaton at once.
    _block: int
    _regexes: tuple[_Regex, ...]
    # Of regular expressions of which nothing is known: sets, with the numbers in `_regexes`.
    _sets: tuple[tuple[Any, tuple[int, ...]], ...]


def compile_rules(rules: Sequence[Rule], *, same_patterns: bool = False) -> CompiledRules:
    """Check rules and make them ready: some 200 ms for 5,000 literals and 200 regular expressions.

    Refused are bad fields, names that occur twice, the same pattern under two names (admitted with
    `same_patterns`, for rules of several sets), patterns that RE2 does not know or that match the
    empty text, and too many or too large ones (keyword_rules.py has the limits). Raises
    RulesRefused, which names rules, fields and positions.
    """
    problems = problems_of(rules, same_patterns=same_patterns)
    if any(problem.index is None for problem in problems):
        raise RulesRefused(problems)
    engines = []
    for index, rule in enumerate(rules):
        if rule.kind is RuleKind.REGEX and rule.pattern and len(problems) < MOST_PROBLEMS:
            compiled = compile_regex(index, rule)
            if isinstance(compiled, RuleProblem):
                problems.append(compiled)
            else:
                engines.append((index, compiled))
    if problems:
        problems.sort(key=lambda problem: problem.index or 0)
        raise RulesRefused(problems[:MOST_PROBLEMS])

    numbers: dict[bytes, int] = {}
    owners: list[list[_Literal]] = []

    def number_of(literal: str) -> int:
        key = literal.encode()
        if key not in numbers:
            numbers[key] = len(numbers)
            owners.append([])
        return numbers[key]

    for index, rule in enumerate(rules):
        if rule.kind is RuleKind.LITERAL:
            folded = fold(rule.pattern)
            exact = clean(rule.pattern) if rule.case_sensitive else None
            simple = not (exact or rule.whole_word or _overlaps_itself(folded.encode()))
            owners[number_of(folded)].append(_Literal(index, exact, rule.whole_word, simple))
    regexes: list[_Regex] = []
    alone: list[int] = []
    for index, engine in engines:
        rule = rules[index]
        known = outline(rule.pattern)
        needed = known.needed if known else ()
        if known and not needed and known.repeated <= _SET_REPEATED:
            alone.append(len(regexes))
        regexes.append(
            _Regex(
                index,
                engine,
                rule.whole_word,
                tuple((tuple(sorted(map(number_of, one.literals))), _lead(one)) for one in needed),
                _MOST_PLACES if known and not known.sprawls else _MOST_PLACES_SPRAWLING,
            )
        )
    size = sum(map(len, numbers))
    return CompiledRules(
        tuple(rules),
        ahocorasick_rs.BytesAhoCorasick(
            list(numbers),
            implementation=ahocorasick_rs.Implementation.DFA
            if size <= _MOST_DFA_BYTES
            else ahocorasick_rs.Implementation.ContiguousNFA,
        ),
        tuple(map(len, numbers)),
        tuple(map(tuple, owners)),
        max(_BLOCK_OCCURRENCES // _most_at_once(numbers), max(map(len, numbers), default=1)),
        tuple(regexes),
        tuple(_sets(rules, regexes, alone)),
    )


def scan(
    compiled: CompiledRules, text: str, title: str = "", *, snippets: int = SNIPPETS
) -> PageHits:
    """What the rules hit on a page of visible `text`, with its `title` apart.

    `snippets` of a rule, 0 to MAX_SNIPPETS, and MAX_PAGE_SNIPPETS together. Memory is bounded by
    some ten times the text and 40 MB, whatever the page says.
    """
    snippets = max(0, min(snippets, MAX_SNIPPETS))
    in_title = _Reading(compiled, title, snippets)
    in_text = _Reading(compiled, text, snippets)
    found: list[RuleHits] = []
    left = MAX_PAGE_SNIPPETS
    titles, texts = in_title.hits, in_text.hits
    for index in sorted(titles.keys() | texts.keys()):
        rule = compiled.rules[index]
        title_count, title_spans = titles.get(index, (0, []))
        count, spans = texts.get(index, (0, []))
        most = min(snippets, left)
        shown = [_snippet(title, span, rule.context, True) for span in title_spans[:most]]
        shown += [_snippet(text, span, rule.context, False) for span in spans[: most - len(shown)]]
        left -= len(shown)
        found.append(RuleHits(rule, count, title_count, tuple(shown)))
    return PageHits(tuple(found), in_title.complete and in_text.complete)


class _Reading:
    """One text read: hits by rule, each a count and the first spans, in characters."""

    __slots__ = ("_compiled", "_matches_left", "_most", "_page", "complete", "hits")

    def __init__(self, compiled: CompiledRules, text: str, snippets: int) -> None:
        self._compiled = compiled
        self._most = snippets
        self._matches_left = MAX_MATCHES
        self.complete = True
        self.hits: dict[int, tuple[int, Spans]] = {}
        if not text or not compiled.rules:
            return
        self._page = page = fold_text(text)
        occurrences, self.complete = self._occurrences(page.folded)
        self._read_literals(occurrences)
        if compiled._regexes:
            self._read_regexes(occurrences)
        if len(page.original) != len(text):
            self._count_characters()

    def _occurrences(self, folded: bytes) -> tuple[dict[int, list[int]], bool]:
        """Where each literal stands, by its number: starts, ascending; and whether that is all."""
        compiled = self._compiled
        found: dict[int, list[int]] = {}
        if not compiled._lengths:
            return found, True
        find = compiled._automaton.find_matches_as_indexes
        overlap = max(compiled._lengths) - 1
        left = MAX_OCCURRENCES
        for begin in range(0, len(folded), compiled._block):
            if left <= 0:
                return found, False
            first = max(0, begin - overlap)
            block = folded[first : begin + compiled._block]
            for number, start, end in find(block, overlapping=True):
                # What ends sooner was in the block before.
                if end + first > begin:
                    starts = found.get(number)
                    if starts is None:
                        found[number] = [start + first]
                    else:
                        starts.append(start + first)
                    left -= 1
        return found, True

    def _read_literals(self, occurrences: dict[int, list[int]]) -> None:
        compiled, page, most = self._compiled, self._page, self._most
        inside = page.shifts.inside if page.shifts else frozenset()
        for number, starts in occurrences.items():
            length = compiled._lengths[number]
            # Whether every occurrence is of whole characters, as on nearly every page.
            whole = not page.has_marks and (
                not inside
                or (
                    inside.isdisjoint(starts)
                    and inside.isdisjoint([start + length for start in starts])
                )
            )
            for literal in compiled._literals[number]:
                if whole and literal.simple:
                    spans = [page.span(start, start + length) for start in starts[:most]]
                    self.hits[literal.index] = len(starts), [span for span in spans if span]
                else:
                    self._judge(literal, starts, length)

    def _judge(self, literal: _Literal, starts: list[int], length: int) -> None:
        page = self._page
        count, free, spans = 0, 0, []
        for start in starts:
            if start < free:
                continue
            span = page.span(start, start + length)
            if span is None:
                continue
            if literal.exact is not None and not _says(page, span, literal.exact):
                continue
            if literal.whole_word and not _is_whole(page.original, *span):
                continue
            free = start + length
            count += 1
            if count <= self._most:
                spans.append(span)
        if count:
            self.hits[literal.index] = count, spans

    def _read_regexes(self, occurrences: dict[int, list[int]]) -> None:
        compiled, page = self._compiled, self._page
        shifts, all_known = page.shifts, self.complete
        if page.composed and all_known:
            # Letters of the original, which regular expressions read, are gone from what was
            # folded. Those two would match s and k.
            all_known = not any(one in page.original for one in _LONG_S_AND_KELVIN)
            if all_known:
                occurrences, all_known = self._occurrences(page.original.lower())
                shifts = None
        possible = self._possible_of_sets()
        for number, regex in enumerate(compiled._regexes):
            matches = None
            if not regex.needed:
                if number not in possible:
                    continue
            elif all_known:
                if not all(any(one in occurrences for one in ones) for ones, _ in regex.needed):
                    continue
                matches = self._matches_near(regex, occurrences, shifts)
            if matches is None:
                matches = regex.engine.finditer(page.original)
            self._count_matches(regex, matches)

    def _possible_of_sets(self) -> set[int]:
        compiled = self._compiled
        in_sets = {number for _, members in compiled._sets for number in members}
        possible = set(range(len(compiled._regexes))) - in_sets
        for engine, members in compiled._sets:
            matched = engine.Match(self._page.original) or ()
            # The last of a set matches every text: without it the set ran out of memory.
            if len(members) in matched:
                possible.update(members[one] for one in matched if one < len(members))
            else:
                possible.update(members)
        return possible

    def _matches_near(
        self, regex: _Regex, occurrences: dict[int, list[int]], shifts: Shifts | None
    ) -> Iterator[Any] | None:
        """Matches that begin shortly before the rarest needed literal; None: of too many."""
        rarest, places_to_try = None, regex.most_places
        for ones, lead in regex.needed:
            if lead is not None:
                spread = lead[1] - lead[0] + 1
                count = sum(len(occurrences[one]) for one in ones if one in occurrences)
                if count * spread <= places_to_try:
                    rarest, places_to_try = (ones, lead), count * spread
        if rarest is None:
            return None
        ones, (least, most) = rarest
        places: set[int] = set()
        for one in ones:
            for folded in occurrences.get(one, ()):
                start = folded if shifts is None else shifts.start(folded)
                if start is not None:
                    places.update(range(max(0, start - most), start - least + 1))
        return self._matches_at(regex, sorted(places))

    def _matches_at(self, regex: _Regex, places: list[int]) -> Iterator[Any]:
        data, free = self._page.original, 0
        for place in places:
            # Within a character nothing begins.
            if place < free or data[place] & 0xC0 == 0x80:
                continue
            match = regex.engine.match(data, place)
            if match is not None:
                free = match.end()
                yield match

    def _count_matches(self, regex: _Regex, matches: Iterator[Any]) -> None:
        count, spans = 0, []
        left = max(self._matches_left, LEAST_MATCHES)
        for match in matches:
            start, end = match.span()
            if start == end:
                continue
            if left == 0:
                self.complete = False
                break
            left -= 1
            self._matches_left -= 1
            if regex.whole_word and not _is_whole(self._page.original, start, end):
                continue
            count += 1
            if count <= self._most:
                spans.append((start, end))
        if count:
            self.hits[regex.index] = count, spans

    def _count_characters(self) -> None:
        """Make characters of the bytes of all spans."""
        offsets = {offset for _, spans in self.hits.values() for span in spans for offset in span}
        characters = character_offsets(self._page.original, offsets)
        self.hits = {
            index: (count, [(characters[start], characters[end]) for start, end in spans])
            for index, (count, spans) in self.hits.items()
        }


def _snippet(text: str, span: tuple[int, int], context: int, in_title: bool) -> Snippet:
    start, end = span
    return Snippet(
        start,
        end,
        in_title,
        text[max(0, start - context) : start],
        text[start : min(end, start + MAX_SHOWN)],
        text[end : end + context],
    )


def _says(page: FoldedText, span: tuple[int, int], exact: str) -> bool:
    """Whether the page says exactly this there, but for composition and white space."""
    said = page.original[span[0] : span[1]].decode()
    return said == exact or clean(said) == exact


def _is_whole(data: bytes, start: int, end: int) -> bool:
    """Whether no word goes on beyond the ends of a hit."""
    if _is_of_word(character_at(data, start)):
        before = character_before(data, start)
        while before and before in IGNORED:
            start -= len(before.encode())
            before = character_before(data, start)
        if _is_of_word(before):
            return False
    if _is_of_word(character_before(data, end)):
        after = character_at(data, end)
        while after and after in IGNORED:
            end += len(after.encode())
            after = character_at(data, end)
        return not _is_of_word(after)
    return True


# Scripts that write words without a space between: Thai and Lao, Burmese, Khmer, kana, Han.
_UNPARTED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)


@lru_cache(8192)
def _is_of_word(char: str) -> bool:
    """Whether a word goes on at `char`: a letter, digit, mark or _; not "" or unparted scripts."""
    if not char or any(first <= ord(char) <= last for first, last in _UNPARTED):
        return False
    return char.isalnum() or char == "_" or unicodedata.category(char).startswith("M")


def _overlaps_itself(literal: bytes) -> bool:
    """Whether a beginning of it is an end of it."""
    place = literal.find(literal[:1], 1)
    while place > 0:
        if literal.startswith(literal[place:]):
            return True
        place = literal.find(literal[:1], place + 1)
    return False


def _most_at_once(literals: dict[bytes, int]) -> int:
    """How many literals may end at one place at most: those that are ends of a longer one."""
    return max(
        (sum(literal[begin:] in literals for begin in range(len(literal))) for literal in literals),
        default=1,
    )


def _lead(needed: Needed) -> tuple[int, int] | None:
    least, most = needed.lead
    return (least, most) if most is not None and is_near(needed) else None


def _sets(
    rules: Sequence[Rule], regexes: Sequence[_Regex], alone: Sequence[int]
) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """Sets of regular expressions, those for which case matters apart."""
    for case_sensitive in (False, True):
        members = [
            one for one in alone if rules[regexes[one].index].case_sensitive is case_sensitive
        ]
        for begin in range(0, len(members), _SET_SIZE):
            part = tuple(members[begin : begin + _SET_SIZE])
            options = regex_options(case_sensitive, _SET_MEMORY)
            engine = re2.Set.SearchSet(options)
            for number in part:
                engine.Add(rules[regexes[number].index].pattern)
            # Matches at the end of any text: what is missing then says that memory ran out.
            engine.Add(r"\z")
            try:
                engine.Compile()
            except re2.error:
                # Too large together.
                continue
            yield engine, part
