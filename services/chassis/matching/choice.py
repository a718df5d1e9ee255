"""Keywords as callers choose them: stored sets, words and rules together, with their expressions.

Campaigns check a choice and validation carries it out: both have to mean the same by it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from domainflow.validation.v1 import keyword_pb2 as pb
from services.chassis.errors import FieldViolation, InvalidFields
from services.chassis.matching.expressions import (
    Expression,
    ExpressionRefused,
    evaluate,
    parse,
)
from services.chassis.matching.folding import fold
from services.chassis.matching.keyword_rules import DEFAULT_CONTEXT
from services.chassis.matching.keywords import (
    SNIPPETS,
    CompiledRules,
    PageHits,
    Rule,
    RuleKind,
    RulesRefused,
    ad_hoc_rules,
    compile_rules,
    scan,
)

# Bytes of the rules and the expression of a set as a message: one that is stored fits into an
# answer, and as JSON into a document.
MAX_SET_BYTES = 1_572_864
# Fields of Rule that the message calls otherwise.
_PROTO_NAMES = {"context": "context_characters"}


@dataclass(frozen=True, slots=True)
class Keywords:
    """What is looked for, ready to scan pages, by any thread; made by `compile_choice`."""

    compiled: CompiledRules
    # Any of them makes the page a hit.
    expressions: tuple[Expression, ...]
    # So does any hit of one of these rules.
    loose: frozenset[str]

    def __bool__(self) -> bool:
        """Whether anything is looked for."""
        return bool(self.compiled.rules)

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self.compiled.rules

    def scan(self, text: str, title: str = "", *, snippets: int = SNIPPETS) -> PageHits:
        """What the rules hit on a page of visible `text`, with its `title` apart."""
        return scan(self.compiled, text, title, snippets=snippets)

    def matches(self, hits: PageHits) -> bool:
        """Whether a page with these hits is a hit as a whole."""
        return self.matches_names(hits.names)

    def matches_names(self, names: frozenset[str]) -> bool:
        """As `matches`, by the names of the rules that hit."""
        return not self.loose.isdisjoint(names) or any(
            evaluate(expression, names) for expression in self.expressions
        )


def rule_of(rule: pb.KeywordRule) -> Rule:
    """A rule of a message, unchecked."""
    return Rule(
        rule.name,
        rule.pattern,
        kind=RuleKind.REGEX if rule.kind == pb.KEYWORD_KIND_REGEX else RuleKind.LITERAL,
        case_sensitive=rule.case_sensitive,
        whole_word=rule.whole_word,
        category=rule.category,
        context=rule.context_characters if rule.HasField("context_characters") else DEFAULT_CONTEXT,
    )


def check_choice(
    choice: pb.KeywordChoice, path: str, *, needed: bool = False
) -> Iterator[FieldViolation]:
    """What is wrong with a choice that stands at `path`, as far as it costs little: the rest is
    found by `compile_choice`, in a thread. `needed`: it has to look for something."""
    if needed and not (choice.keyword_set_ids or choice.rules or _has_words(choice.keywords)):
        yield FieldViolation(path, "looks for nothing: no set, no rule and no keyword")
    if choice.expression and not (choice.keyword_set_ids or choice.rules or choice.keywords):
        yield FieldViolation(f"{path}.expression", "has no rules to speak of")


def compile_choice(
    choice: pb.KeywordChoice, sets: Sequence[pb.KeywordSet], path: str = "keywords"
) -> Keywords:
    """Make a choice ready, with its stored sets in the order of `keyword_set_ids`.

    Takes up to seconds for ten thousand rules: call it in a thread. Raises InvalidFields.
    """
    rules: list[Rule] = []
    places: list[Callable[[str], str]] = []
    for number, each in enumerate(sets):
        rules += map(rule_of, each.rules)
        places += [_at(f"{path}.keyword_set_ids[{number}]")] * len(each.rules)
    words = ad_hoc_rules(choice.keywords)
    rules += words
    places += [_at(f"{path}.keywords[{number}]") for number in _numbers_of(choice.keywords)]
    rules += map(rule_of, choice.rules)
    places += [_rule_at(f"{path}.rules[{number}]") for number in range(len(choice.rules))]
    expression = None
    refusals: list[InvalidFields] = []
    if choice.expression:
        try:
            names = {rule.name for rule in rules}
            expression = _parsed(choice.expression, names, f"{path}.expression")
        except InvalidFields as refused:
            refusals.append(refused)
    try:
        compiled = _compiled(rules, places, path, same_patterns=True)
    except InvalidFields as refused:
        refusals.insert(0, refused)
    if refusals:
        raise InvalidFields(each for refused in refusals for each in refused.violations)
    if expression is not None:
        return Keywords(compiled, (expression,), frozenset())
    expressions = []
    loose = {rule.name for rule in words}
    loose.update(rule.name for rule in choice.rules)
    for number, each in enumerate(sets):
        of_set = {rule.name for rule in each.rules}
        if each.expression:
            at = f"{path}.keyword_set_ids[{number}]"
            expressions.append(_parsed(each.expression, of_set, at))
        else:
            loose |= of_set
    return Keywords(compiled, tuple(expressions), frozenset(loose))


def check_set(
    keyword_set: pb.KeywordSet,
    path: str = "keyword_set",
    *,
    rule_paths: Sequence[str] | None = None,
    expression_path: str = "",
) -> Iterator[FieldViolation]:
    """What is wrong with the rules and the expression of a set that stands at `path`: compiles
    them, which takes up to seconds for ten thousand. Bears what breaks the contract's rules.

    `rule_paths` and `expression_path`: where these stand, if not in the set.
    """
    rules = [rule_of(rule) for rule in keyword_set.rules]
    size = sum(rule.ByteSize() + 4 for rule in keyword_set.rules)
    size += len(keyword_set.expression.encode())
    if size > MAX_SET_BYTES:
        problem = f"take {size:,} bytes together; at most {MAX_SET_BYTES:,}"
        yield FieldViolation(f"{path}.rules", problem)
        return
    if rule_paths is None:
        rule_paths = [f"{path}.rules[{number}]" for number in range(len(rules))]
    try:
        _compiled(rules, list(map(_rule_at, rule_paths)), f"{path}.rules", same_patterns=False)
    except InvalidFields as refused:
        yield from refused.violations
    if keyword_set.expression:
        names = {rule.name for rule in rules}
        try:
            _parsed(keyword_set.expression, names, expression_path or f"{path}.expression")
        except InvalidFields as refused:
            yield from refused.violations


def _compiled(
    rules: Sequence[Rule],
    places: Sequence[Callable[[str], str]],
    path: str,
    *,
    same_patterns: bool,
) -> CompiledRules:
    try:
        return compile_rules(rules, same_patterns=same_patterns)
    except RulesRefused as refused:
        violations = []
        for problem in refused.problems:
            at = "" if problem.position is None else f", at {problem.position}"
            description = problem.description + at
            if problem.other is not None:
                other = rules[problem.other].name
                description += f" {other!r}, {places[problem.other]('')}"
            if problem.index is None:
                violations.append(FieldViolation(path, description))
                continue
            field = places[problem.index](problem.field)
            violations.append(FieldViolation(field, f"{problem.name!r}: {description}"))
        raise InvalidFields(violations) from None


def _parsed(text: str, names: set[str], path: str) -> Expression:
    try:
        return parse(text, names)
    except ExpressionRefused as refused:
        raise InvalidFields([FieldViolation(path, str(refused))]) from None


def _rule_at(place: str) -> Callable[[str], str]:
    def field_of(field: str) -> str:
        return f"{place}.{_PROTO_NAMES.get(field, field)}" if field else place

    return field_of


def _at(place: str) -> Callable[[str], str]:
    return lambda _: place


def _has_words(words: Sequence[str]) -> bool:
    return any(fold(" ".join(word.split())) for word in words)


def _numbers_of(words: Sequence[str]) -> list[int]:
    """Where in the list each rule of `ad_hoc_rules` stands."""
    seen: dict[str, int] = {}
    for number, word in enumerate(words):
        if key := fold(" ".join(word.split())):
            seen.setdefault(key, number)
    return list(seen.values())
