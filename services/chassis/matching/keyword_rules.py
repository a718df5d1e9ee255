"""Rules of keyword sets: what they say, and what is refused when they are saved. Pure."""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import re2

from services.chassis.matching.folding import clean, fold, joins

MAX_RULES = 10_000
MAX_REGEXES = 500
MAX_NAME = 100
MAX_CATEGORY = 100
MAX_LITERAL = 200
# Of all patterns together, in UTF-8: bounds the automaton.
MAX_PATTERN_BYTES = 400_000
MAX_REGEX = 1_000
# Instructions of RE2's program; a page of n bytes costs at worst the product, in nanoseconds.
MAX_PROGRAM = 5_000
# Bytes that RE2 may keep for one pattern: its programs and its cache of states.
REGEX_MEMORY = 1 << 20
MAX_WEIGHT = 1_000.0
# Characters of a snippet on each side of the hit.
DEFAULT_CONTEXT = 50
MAX_CONTEXT = 200
# So many problems are told at once.
MOST_PROBLEMS = 50


class RuleKind(IntEnum):
    """How a pattern is read."""

    LITERAL = 1
    REGEX = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """What to look for on a page, as a user wrote it; `compile_rules` checks it."""

    # Unique within the rules compiled together, 1 to MAX_NAME characters, without line ends and
    # other control characters: tables keep names of hits one to a line.
    name: str
    # A literal of 1 to MAX_LITERAL characters or a pattern of RE2 of 1 to MAX_REGEX.
    pattern: str
    kind: RuleKind = RuleKind.LITERAL
    case_sensitive: bool = False
    # Only where no letter, digit, mark or _ goes on beyond either end. Scripts that do not part
    # words (Han, kana, Thai, Lao, Khmer, Burmese) end one at every character.
    whole_word: bool = False
    # For grouping; "" for none. At most MAX_CATEGORY characters.
    category: str = ""
    # For scoring; 0 to MAX_WEIGHT.
    weight: float = 1.0
    # Characters of snippets on each side, 0 to MAX_CONTEXT.
    context: int = DEFAULT_CONTEXT


@dataclass(frozen=True, slots=True)
class RuleProblem:
    """Why a rule is refused."""

    # Of the rule in what was compiled, from 0; None: the rules together.
    index: int | None
    name: str
    # Of Rule; "" for the rule as a whole.
    field: str
    description: str
    # Characters of the field before what is wrong; None where it is no place.
    position: int | None = None
    # The rule that the description is about besides, by its place in what was compiled, which says
    # nothing to whoever gave several sets.
    other: int | None = None

    def __str__(self) -> str:
        rule = "rules" if self.index is None else f"rule {self.index} {self.name!r}"
        field = f", {self.field}" if self.field else ""
        place = "" if self.position is None else f" at {self.position}"
        other = "" if self.other is None else f" rule {self.other}"
        return f"{rule}{field}{place}: {self.description}{other}"


class RulesRefused(ValueError):
    """Rules that cannot be compiled. `problems` has the first MOST_PROBLEMS, in order of rules."""

    def __init__(self, problems: Sequence[RuleProblem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def ad_hoc_rules(
    words: Iterable[str], *, context: int = DEFAULT_CONTEXT, category: str = ""
) -> tuple[Rule, ...]:
    """Rules of a plain list of words: literals in any case and anywhere, named as the word.

    White space is trimmed and shortened; blank words and those that differ in case only are left
    out. A word too long for a name keeps the start of it and its number in the list.
    """
    rules: dict[str, Rule] = {}
    for number, word in enumerate(words, 1):
        pattern = " ".join(word.split())
        key = fold(pattern)
        if not key or key in rules:
            continue
        name = pattern if len(pattern) <= MAX_NAME else f"{pattern[: MAX_NAME - 10]} #{number}"
        rules[key] = Rule(name, pattern, context=context, category=category)
    return tuple(rules.values())


def problems_of(rules: Sequence[Rule], *, same_patterns: bool) -> list[RuleProblem]:
    """All that is wrong with rules but what `compile_regex` finds.

    With `same_patterns`, rules may differ in nothing but their names: rules of several sets.
    """
    if len(rules) > MAX_RULES:
        return [_of_all(f"{len(rules):,} rules; at most {MAX_RULES:,}")]
    problems: list[RuleProblem] = []
    regexes = sum(rule.kind is RuleKind.REGEX for rule in rules)
    if regexes > MAX_REGEXES:
        problems.append(_of_all(f"{regexes:,} regular expressions; at most {MAX_REGEXES:,}"))
    size = sum(len(rule.pattern.encode("utf-8", "replace")) for rule in rules)
    if size > MAX_PATTERN_BYTES:
        problems.append(
            _of_all(f"patterns of {size:,} bytes together; at most {MAX_PATTERN_BYTES:,}")
        )
    names: dict[str, int] = {}
    patterns: dict[tuple[object, ...], int] = {}
    for index, rule in enumerate(rules):
        for field, description in _faults(rule):
            problems.append(RuleProblem(index, rule.name, field, description))
        first = names.setdefault(rule.name, index)
        if first != index:
            problems.append(RuleProblem(index, rule.name, "name", "has the name of", other=first))
        same = patterns.setdefault(_identity(rule), index)
        if same != index and not same_patterns:
            said = "has the pattern of"
            problems.append(RuleProblem(index, rule.name, "pattern", said, other=same))
        if len(problems) >= MOST_PROBLEMS:
            break
    return problems


def compile_regex(index: int, rule: Rule) -> "re2._Regexp | RuleProblem":
    """The engine of a regular expression, or why there is none."""
    options = regex_options(rule.case_sensitive)
    try:
        regex = re2.compile(rule.pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        description, position = _explain(rule.pattern, error, options)
        return RuleProblem(index, rule.name, "pattern", description, position)
    largest = max(regex.programsize, regex.reverseprogramsize)
    if largest > MAX_PROGRAM:
        description = f"takes {largest:,} instructions, at most {MAX_PROGRAM:,}: repeat less"
        return RuleProblem(index, rule.name, "pattern", description)
    if _matches_nothing(regex):
        description = "matches the empty text, which is everywhere"
        return RuleProblem(index, rule.name, "pattern", description)
    return regex


def regex_options(case_sensitive: bool, memory: int = REGEX_MEMORY) -> re2.Options:
    options = re2.Options()
    options.case_sensitive = case_sensitive
    options.max_mem = memory
    # What groups capture is not asked for, and without it RE2 needs no slower engine.
    options.never_capture = True
    options.log_errors = False
    return options


def _of_all(description: str) -> RuleProblem:
    return RuleProblem(None, "", "", description)


def _identity(rule: Rule) -> tuple[object, ...]:
    if rule.kind is RuleKind.REGEX:
        pattern = rule.pattern
    else:
        pattern = clean(rule.pattern) if rule.case_sensitive else fold(rule.pattern)
    return rule.kind, pattern, rule.case_sensitive, rule.whole_word


def _faults(rule: Rule) -> Iterator[tuple[str, str]]:
    for field, value, longest in (
        ("name", rule.name, MAX_NAME),
        ("category", rule.category, MAX_CATEGORY),
    ):
        if len(value) > longest:
            yield field, f"{len(value)} characters; at most {longest}"
        if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in value):
            yield field, "holds a line end or another control character"
        if value != value.strip():
            yield field, "begins or ends with white space"
    if not rule.name:
        yield "name", "empty"
    longest = MAX_LITERAL if rule.kind is RuleKind.LITERAL else MAX_REGEX
    if len(rule.pattern) > longest:
        yield "pattern", f"{len(rule.pattern):,} characters; at most {longest:,}"
    elif rule.kind is RuleKind.LITERAL:
        yield from _faults_of_literal(rule.pattern)
    elif not rule.pattern:
        yield "pattern", "empty"
    if not 0 <= rule.weight <= MAX_WEIGHT or math.isnan(rule.weight):
        yield "weight", f"{rule.weight}; 0 to {MAX_WEIGHT:,.0f}"
    if not 0 <= rule.context <= MAX_CONTEXT:
        yield "context", f"{rule.context} characters; 0 to {MAX_CONTEXT}"


def _faults_of_literal(pattern: str) -> Iterator[tuple[str, str]]:
    folded = fold(pattern)
    if not folded.strip():
        yield "pattern", "nothing but white space and characters that do not show"
    elif joins(folded[0]):
        yield "pattern", "begins with a mark that belongs to a character before it"
    elif any(unicodedata.category(char) == "Cs" for char in folded):
        yield "pattern", "holds half of a surrogate pair"


def _matches_nothing(regex: "re2._Regexp") -> bool:
    """Whether it may match an empty span, which depends on a character before and after alone."""
    around = [b"", b"\n", b"a", b"-"]
    return any(
        regex.fullmatch(before + after, len(before), len(before)) is not None
        for before in around
        for after in around
    )


def _explain(pattern: str, error: Exception, options: re2.Options) -> tuple[str, int | None]:
    """What RE2 says, and where: it names the text at fault, not its place."""
    if isinstance(error, UnicodeEncodeError):
        return "holds half of a surrogate pair", error.start
    problem, text = _message(error)
    if problem == "missing )":
        return "missing ) for this (", _open_parenthesis(pattern)
    if problem == "trailing \\":
        return problem, len(pattern) - 1
    if problem.startswith("pattern too large"):
        return "too large: repeat less", None
    description = f"{problem}: {text}" if text and text != pattern else problem
    if text and text != pattern and pattern.endswith(text):
        return description, len(pattern) - len(text)
    # The shortest beginning with the same fault ends where it is.
    for length in range(1, len(pattern) + 1):
        try:
            re2.compile(pattern[:length], options)
        except re2.error as other:
            same, found = _message(other)
            if same != problem:
                continue
            if problem != "unexpected )" and found and pattern[:length].endswith(found):
                return description, length - len(found)
            return description, length - 1
    return description, None


def _message(error: Exception) -> tuple[str, str]:
    raw = error.args[0]
    told = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    problem, _, text = told.partition(": ")
    return problem, text


_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]|[()]", re.DOTALL)


def _open_parenthesis(pattern: str) -> int | None:
    """The place of the last ( that no ) closes."""
    still_open = []
    for token in _TOKEN.finditer(pattern):
        if token[0] == "(":
            still_open.append(token.start())
        elif token[0] == ")" and still_open:
            still_open.pop()
    return still_open[-1] if still_open else None
