"""Boolean expressions over keyword rules: which of them must have hit, which must not. Pure.

    expression = all { "OR" all }
    all        = factor { "AND" factor }
    factor     = "NOT" factor | "(" expression ")" | name
    name       = word | quoted
    word       = characters other than white space, parentheses and "; not AND, OR, NOT
    quoted     = '"' { any character but " and \\ | '\\"' | '\\\\' } '"'

AND, OR and NOT are read in any case and written in capitals; a rule that is named so is quoted. NOT
binds closest, OR least. Names are those of rules, letter for letter.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

MAX_LENGTH = 10_000
# Parentheses and NOTs within one another.
MAX_DEPTH = 50

_TOKEN = re.compile(
    r'\s*(?:(?P<sign>[()])|"(?P<quoted>(?:[^"\\]|\\["\\])*)"|(?P<word>[^\s()"]+)|(?P<end>\Z))'
)
_OPERATORS = ("AND", "OR", "NOT")


class ExpressionRefused(ValueError):
    """An expression that cannot be read. `position`: characters before what is wrong."""

    def __init__(self, description: str, position: int) -> None:
        super().__init__(f"{description} at {position}")
        self.description = description
        self.position = position


class _Binding(IntEnum):
    OR = 1
    AND = 2
    NOT = 3
    NAME = 4


@dataclass(frozen=True, slots=True)
class Name:
    """True where the rule hit."""

    name: str

    def __str__(self) -> str:
        return canonical(self)


@dataclass(frozen=True, slots=True)
class Not:
    operand: "Expression"

    def __str__(self) -> str:
        return canonical(self)


@dataclass(frozen=True, slots=True)
class All:
    """True where every one of two or more is; none of them is an All."""

    operands: tuple["Expression", ...]

    def __str__(self) -> str:
        return canonical(self)


@dataclass(frozen=True, slots=True)
class Any:
    """True where one of two or more is; none of them is an Any."""

    operands: tuple["Expression", ...]

    def __str__(self) -> str:
        return canonical(self)


Expression = Name | Not | All | Any


def parse(text: str, names: Collection[str]) -> Expression:
    """Read an expression over rules of these names.

    Raises ExpressionRefused for other names, faults of grammar, more than MAX_LENGTH characters or
    MAX_DEPTH levels.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionRefused(f"{len(text):,} characters; at most {MAX_LENGTH:,}", MAX_LENGTH)
    reader = _Reader(text, names)
    expression = reader.any(0)
    if reader.kind != "end":
        found = ") without (" if reader.value == ")" else "AND or OR expected"
        raise ExpressionRefused(found, reader.position)
    return expression


def evaluate(expression: Expression, hit: Collection[str]) -> bool:
    """Whether it holds where the rules `hit` and no others did (a set, for speed).

    An expression may hold without any hit ("NOT parked"): evaluate it over () to know.
    """
    match expression:
        case Name(name):
            return name in hit
        case Not(operand):
            return not evaluate(operand, hit)
        case All(operands):
            return all(evaluate(operand, hit) for operand in operands)
        case Any(operands):
            return any(evaluate(operand, hit) for operand in operands)


def names_of(expression: Expression) -> frozenset[str]:
    """The rules that it speaks of."""
    match expression:
        case Name(name):
            return frozenset({name})
        case Not(operand):
            return names_of(operand)
        case All(operands) | Any(operands):
            return frozenset().union(*map(names_of, operands))


def canonical(expression: Expression) -> str:
    """The one way to write it: operators in capitals, only the parentheses and quotes it needs.

    Operands keep their order. `parse` reads it back as the same.
    """
    return _written(expression, _Binding.OR)


def _written(expression: Expression, around: _Binding) -> str:
    match expression:
        case Name(name):
            return _quoted(name)
        case Not(operand):
            return f"NOT {_written(operand, _Binding.NOT)}"
        case All(operands):
            text = " AND ".join(_written(operand, _Binding.NOT) for operand in operands)
            return f"({text})" if around > _Binding.AND else text
        case Any(operands):
            text = " OR ".join(_written(operand, _Binding.AND) for operand in operands)
            return f"({text})" if around > _Binding.OR else text


def _quoted(name: str) -> str:
    token = _TOKEN.fullmatch(name)
    if token and token["word"] == name and name.upper() not in _OPERATORS:
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Reader:
    """Recursive descent over tokens, one ahead."""

    __slots__ = ("_end", "_names", "_text", "kind", "position", "value")

    def __init__(self, text: str, names: Collection[str]) -> None:
        self._text = text
        self._names = names if isinstance(names, (set, frozenset, dict)) else frozenset(names)
        self._end = 0
        self._next()

    def any(self, depth: int) -> Expression:
        operands = [self._all(depth)]
        while self._takes("OR"):
            operands.append(self._all(depth))
        if len(operands) == 1:
            return operands[0]
        return Any(
            tuple(
                inner
                for operand in operands
                for inner in (operand.operands if isinstance(operand, Any) else (operand,))
            )
        )

    def _all(self, depth: int) -> Expression:
        operands = [self._factor(depth)]
        while self._takes("AND"):
            operands.append(self._factor(depth))
        if len(operands) == 1:
            return operands[0]
        return All(
            tuple(
                inner
                for operand in operands
                for inner in (operand.operands if isinstance(operand, All) else (operand,))
            )
        )

    def _factor(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise ExpressionRefused(f"more than {MAX_DEPTH} levels", self.position)
        position = self.position
        if self._takes("NOT"):
            return Not(self._factor(depth + 1))
        if self._takes("("):
            expression = self.any(depth + 1)
            if not self._takes(")"):
                if self.kind == "end":
                    raise ExpressionRefused("( without )", position)
                raise ExpressionRefused("AND, OR or ) expected", self.position)
            return expression
        if self.kind not in ("word", "quoted"):
            raise ExpressionRefused("a rule, NOT or ( expected", position)
        name = self.value
        if name not in self._names:
            raise ExpressionRefused(f"no rule is named {name!r}", position)
        self._next()
        return Name(name)

    def _takes(self, token: str) -> bool:
        taken = self.kind == ("sign" if token in "()" else "operator") and self.value == token
        if taken:
            self._next()
        return taken

    def _next(self) -> None:
        token = _TOKEN.match(self._text, self._end)
        if token is None:
            quote = self._text.index('"', self._end)
            raise ExpressionRefused('" without an end, or \\ before neither " nor \\', quote)
        self._end = token.end()
        self.kind = token.lastgroup or ""
        self.value = token[self.kind]
        self.position = token.start(self.kind) - (self.kind == "quoted")
        if self.kind == "quoted":
            self.value = re.sub(r"\\(.)", r"\1", self.value)
        elif self.kind == "word" and self.value.upper() in _OPERATORS:
            self.kind, self.value = "operator", self.value.upper()
