"""What a list of campaigns is narrowed to and ordered by: text in (AIP-160, AIP-132), a condition
out. Pure.

    filter     = all { "AND" all }
    all        = one { "OR" one }          OR binds tighter than AND, as AIP-160 has it
    one        = "NOT" one | "(" filter ")" | field operator value

Text of the caller never goes further than into values; what fields there are is decided here.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NoReturn, TypeAlias

from services.campaign.campaign import Mode, Phase, Priority, Status

# Parentheses and NOTs inside each other, and comparisons in all: far beyond what people write, and
# a bound on what one list may cost.
MAX_DEPTH = 20
MAX_COMPARISONS = 100
# Characters of the caller's text that a refusal repeats.
MAX_SHOWN = 40
MAX_NUMBER = 2**63 - 1

DEFAULT_ORDER = "create_time desc"

Value: TypeAlias = str | int | datetime


class BadFilter(ValueError):
    """A filter or an order that cannot be understood; says where, and what is expected."""


class Operator(StrEnum):
    """How a field is compared."""

    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="
    # The value is part of the text.
    HAS = ":"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One field of a campaign against a value of the field's type; phases by their number."""

    field: str
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class Not:
    """What does not meet the condition."""

    condition: "Condition"


@dataclass(frozen=True, slots=True)
class And:
    """What meets every one of at least two conditions."""

    conditions: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """What meets at least one of at least two conditions."""

    conditions: tuple["Condition", ...]


Condition: TypeAlias = Comparison | Not | And | Or


@dataclass(frozen=True, slots=True)
class Order:
    """A field to order by; campaigns that are equal in it follow the order of their creation."""

    field: str
    descending: bool


_EQUALITY = (Operator.EQUAL, Operator.UNEQUAL)
_TEXT = (*_EQUALITY, Operator.HAS)
_SCALE = tuple(operator for operator in Operator if operator is not Operator.HAS)
# The values of fields that have few, as they are called, and what their names may begin with.
_CHOICES: dict[str, tuple[str, dict[str, Value]]] = {
    "status": ("PHASE_STATUS_", {status.value: status.value for status in Status}),
    "current_phase": ("PHASE_", {phase.name: int(phase) for phase in Phase}),
    "mode": ("CAMPAIGN_MODE_", {mode.value: mode.value for mode in Mode}),
    "priority": ("PRIORITY_", {priority.value: priority.value for priority in Priority}),
}
_OPERATORS: dict[str, tuple[Operator, ...]] = {
    "name": _TEXT,
    **dict.fromkeys(_CHOICES, _EQUALITY),
    "create_time": _SCALE,
    "update_time": _SCALE,
    "name_count": _SCALE,
}
ORDER_FIELDS = ("create_time", "update_time", "name", "name_count")


def parse_filter(text: str) -> Condition | None:
    """The condition that the text stands for; none when it is blank. Raises BadFilter."""
    parser = _Parser(text)
    return parser.filter() if text.strip() else None


def parse_order(text: str) -> Order:
    """The order that the text stands for; blank is the newest first. Raises BadFilter."""
    match text.split():
        case []:
            return parse_order(DEFAULT_ORDER)
        case [field] if field in ORDER_FIELDS:
            return Order(field, descending=False)
        case [field, "desc"] if field in ORDER_FIELDS:
            return Order(field, descending=True)
    raise BadFilter(
        f"{_shown(text.strip())} is no order; expected one of {', '.join(ORDER_FIELDS)}, and"
        ' " desc" after it for descending'
    )


@dataclass(frozen=True, slots=True)
class _Token:
    # "word", "string", "(", ")", "operator", "end", or "bad" for what begins none of these.
    kind: str
    text: str
    # Character of the filter, from 1.
    position: int


_TOKEN = re.compile(
    r"""(?P<word>[^\s()<>=!:"']+)
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<operator><=|>=|!=|[<>=:])
    | (?P<open>\() | (?P<close>\))
    | (?P<bad>["'!].*)""",
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(r"\s*")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class _Parser:
    """Reads a filter from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._comparisons = 0
        self._next = self._read()

    def filter(self) -> Condition:
        condition = self._every()
        if self._next.kind != "end":
            self._expected("AND, OR or the end")
        return condition

    def _every(self) -> Condition:
        conditions = [self._any()]
        while self._is_word("AND"):
            self._take()
            conditions.append(self._any())
        return conditions[0] if len(conditions) == 1 else And(tuple(conditions))

    def _any(self) -> Condition:
        conditions = [self._one()]
        while self._is_word("OR"):
            self._take()
            conditions.append(self._one())
        return conditions[0] if len(conditions) == 1 else Or(tuple(conditions))

    def _one(self) -> Condition:
        if not (self._is_word("NOT") or self._next.kind == "("):
            return self._comparison()
        begin = self._take()
        if self._depth == MAX_DEPTH:
            raise _problem(begin, f"more than {MAX_DEPTH} levels of NOT and parentheses")
        self._depth += 1
        condition: Condition
        if begin.kind == "(":
            condition = self._every()
            if self._next.kind != ")":
                self._expected("AND, OR or a closing parenthesis")
            self._take()
        else:
            condition = Not(self._one())
        self._depth -= 1
        return condition

    def _comparison(self) -> Comparison:
        if self._next.kind != "word" or self._next.text in {"AND", "OR"}:
            self._expected("a field, NOT or an opening parenthesis")
        field = self._take()
        allowed = _OPERATORS.get(field.text)
        if allowed is None:
            fields = ", ".join(_OPERATORS)
            raise _problem(field, f"{_shown(field.text)} is no field; expected one of {fields}")
        if self._next.kind != "operator" or self._next.text not in allowed:
            self._expected(f"{' '.join(allowed)} after {field.text}")
        operator = Operator(self._take().text)
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise _problem(field, f"more than {MAX_COMPARISONS} comparisons")
        return Comparison(field.text, operator, self._value(field.text))

    def _value(self, field: str) -> Value:
        token = self._next
        if token.kind not in {"word", "string"} or token.text in {"AND", "OR", "NOT"}:
            self._expected("a value")
        self._take()
        text = token.text
        if token.kind == "string":
            text = re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
        if "\0" in text:
            raise _problem(token, "a NUL character, which no name has")
        if field == "name":
            return text
        if field in _CHOICES:
            return _choice(field, token, text)
        if field == "name_count":
            return _number(token, text)
        return _time(token, text)

    def _is_word(self, word: str) -> bool:
        return self._next.kind == "word" and self._next.text == word

    def _take(self) -> _Token:
        taken, self._next = self._next, self._read()
        return taken

    def _read(self) -> _Token:
        space = _SPACE.match(self._text, self._at)
        at = space.end() if space else self._at
        if at == len(self._text):
            return _Token("end", "", at + 1)
        found = _TOKEN.match(self._text, at)
        # Every character begins one of them.
        assert found is not None
        assert found.lastgroup is not None
        self._at = found.end()
        kind = {"open": "(", "close": ")"}.get(found.lastgroup, found.lastgroup)
        return _Token(kind, found.group(), at + 1)

    def _expected(self, what: str) -> NoReturn:
        token = self._next
        found = "the end" if token.kind == "end" else _shown(token.text)
        if token.kind == "bad" and token.text[0] != "!":
            found = f"a quote that is not closed, {found}"
        raise _problem(token, f"expected {what}, found {found}")


def _choice(field: str, token: _Token, text: str) -> Value:
    prefix, values = _CHOICES[field]
    value = values.get(text.removeprefix(prefix))
    if value is None:
        raise _problem(token, f"{_shown(text)} is no {field}; expected one of {', '.join(values)}")
    return value


def _number(token: _Token, text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19 or int(digits) > MAX_NUMBER:
        raise _problem(token, f"expected a whole number below 2^63, found {_shown(text)}")
    return int(text)


def _time(token: _Token, text: str) -> datetime:
    found = _TIME.fullmatch(text)
    if token.kind != "string" or found is None or (found[3] or "")[6:].strip("0"):
        raise _problem(
            token,
            'expected a time in quotes such as "2026-01-31T09:00:00Z" (RFC 3339, to the'
            f" microsecond), found {_shown(text)}",
        )
    date, clock, fraction, zone = found.groups()
    micros = (fraction or "")[:6].ljust(6, "0")
    zone = "+00:00" if zone in "Zz" else zone
    try:
        return datetime.fromisoformat(f"{date}T{clock}.{micros}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise _problem(token, f"there is no such time as {_shown(text)}") from None


def _problem(token: _Token, description: str) -> BadFilter:
    return BadFilter(f"at character {token.position}: {description}")


def _shown(text: str) -> str:
    shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    return f"{shown!r}"
