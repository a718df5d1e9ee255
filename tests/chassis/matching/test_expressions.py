import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.matching.expressions import (
    MAX_DEPTH,
    MAX_LENGTH,
    All,
    Any,
    Expression,
    ExpressionRefused,
    Name,
    Not,
    canonical,
    evaluate,
    names_of,
    parse,
)

NAMES = ("a", "or", 'say "no"', "back\\slash", "two words", "C++", "(x)", "Straße", "no\u0301n")


def trees() -> st.SearchStrategy[Expression]:
    def grow(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        def several(kind: type[All] | type[Any]) -> st.SearchStrategy[Expression]:
            others = inner.filter(lambda one: not isinstance(one, kind))
            return st.lists(others, min_size=2, max_size=4).map(lambda all_: kind(tuple(all_)))

        return st.one_of(inner.map(Not), several(All), several(Any))

    return st.recursive(st.sampled_from(NAMES).map(Name), grow, max_leaves=20)


@settings(deadline=None)
@given(trees(), st.frozensets(st.sampled_from(NAMES)))
def test_what_is_written_is_read_back_as_the_same(tree: Expression, hit: frozenset[str]):
    read = parse(canonical(tree), NAMES)

    assert read == tree
    assert evaluate(read, hit) == evaluate(tree, hit)


@settings(deadline=None)
@given(st.text(st.sampled_from('ab or not()"\\ANDORT \n'), max_size=40))
def test_any_text_is_read_or_refused_with_a_position(text: str):
    position = 0
    try:
        tree = parse(text, NAMES)
    except ExpressionRefused as refusal:
        position = refusal.position
    else:
        assert parse(canonical(tree), NAMES) == tree
    assert 0 <= position <= len(text)


@settings(deadline=None)
@given(trees(), st.frozensets(st.sampled_from(NAMES)))
def test_evaluation_agrees_with_the_operators_of_python(tree: Expression, hit: frozenset[str]):
    def in_python(node: Expression) -> str:
        if isinstance(node, Name):
            return str(node.name in hit)
        if isinstance(node, Not):
            return f"(not {in_python(node.operand)})"
        operator = " and " if isinstance(node, All) else " or "
        return "(" + operator.join(map(in_python, node.operands)) + ")"

    assert evaluate(tree, hit) is eval(in_python(tree))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a", "a"),
        ("  ( a )  ", "a"),
        ("a and b", "a AND b"),
        ("a AND (b AND c)", "a AND b AND c"),
        ("(a OR b) OR c", "a OR b OR c"),
        ("a OR b AND c", "a OR b AND c"),
        ("(a OR b) AND c", "(a OR b) AND c"),
        ("not a AND b", "NOT a AND b"),
        ("NOT (a AND b)", "NOT (a AND b)"),
        ("NOT NOT a", "NOT NOT a"),
        ('"a" AND "two words"', 'a AND "two words"'),
        ('"or" OR a', '"or" OR a'),
    ],
)
def test_expressions_have_one_way_to_be_written(text: str, written: str):
    assert str(parse(text, ("a", "b", "c", "or", "two words"))) == written


@pytest.mark.parametrize(
    ("text", "position", "description"),
    [
        ("", 0, "a rule, NOT or ( expected"),
        ("   ", 3, "a rule, NOT or ( expected"),
        ("a b", 2, "AND or OR expected"),
        ("a AND", 5, "a rule, NOT or ( expected"),
        ("a AND OR b", 6, "a rule, NOT or ( expected"),
        ("a AND (b OR c", 6, "( without )"),
        ("a)", 1, ") without ("),
        ("(a b)", 3, "AND, OR or ) expected"),
        ("a OR other", 5, "no rule is named 'other'"),
        ('a OR "other"', 5, "no rule is named 'other'"),
        ("A", 0, "no rule is named 'A'"),
        ('a OR "b', 5, '" without an end, or \\ before neither " nor \\'),
        ("a OR ()", 6, "a rule, NOT or ( expected"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(text: str, position: int, description: str):
    with pytest.raises(ExpressionRefused) as refused:
        parse(text, ("a", "b", "c"))

    assert (refused.value.position, refused.value.description) == (position, description)


@pytest.mark.parametrize(("before", "after"), [("(", ")"), ("NOT ", "")])
def test_deep_expressions_are_refused(before: str, after: str):
    parse(before * MAX_DEPTH + "a" + after * MAX_DEPTH, ("a",))

    with pytest.raises(ExpressionRefused, match="levels"):
        parse(before * (MAX_DEPTH + 1) + "a" + after * (MAX_DEPTH + 1), ("a",))


def test_long_expressions_are_refused():
    with pytest.raises(ExpressionRefused, match="characters"):
        parse("a OR " * (MAX_LENGTH // 5) + "a", ("a",))


def test_the_rules_of_an_expression_are_known():
    assert names_of(parse("a AND NOT (b OR a)", "abc")) == {"a", "b"}
