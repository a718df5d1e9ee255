"""Keywords as callers choose them: what makes a page a hit, and where faults stand."""

import pytest

from domainflow.validation.v1.keyword_pb2 import (
    KEYWORD_KIND_REGEX,
    KeywordChoice,
    KeywordRule,
    KeywordSet,
)
from services.chassis.errors import InvalidFields
from services.chassis.matching.choice import (
    MAX_SET_BYTES,
    Keywords,
    check_choice,
    check_set,
    compile_choice,
)
from services.chassis.matching.keyword_rules import DEFAULT_CONTEXT, Rule, RuleKind


def rules(*patterns: str) -> list[KeywordRule]:
    return [KeywordRule(name=pattern, pattern=pattern) for pattern in patterns]


def matches(keywords: Keywords, text: str, title: str = "") -> bool:
    return keywords.matches(keywords.scan(text, title))


def fields(choice: KeywordChoice, *sets: KeywordSet) -> dict[str, str]:
    with pytest.raises(InvalidFields) as refused:
        compile_choice(choice, sets)
    return {each.field: each.description for each in refused.value.violations}


def test_any_rule_makes_a_page_a_hit_where_nothing_else_is_said() -> None:
    choice = KeywordChoice(keywords=["alpha"], rules=rules("beta"))
    keywords = compile_choice(choice, [KeywordSet(rules=rules("gamma"))])

    for word in ("ALPHA", "beta", "gamma"):
        assert matches(keywords, f"a {word} b")
        assert matches(keywords, "", word)
    assert not matches(keywords, "delta")


def test_a_set_with_an_expression_is_a_hit_as_that_says() -> None:
    spoken = KeywordSet(rules=rules("alpha", "beta"), expression="alpha AND NOT beta")
    loose = KeywordSet(rules=rules("gamma"))
    keywords = compile_choice(KeywordChoice(keywords=["delta"]), [spoken, loose])

    assert matches(keywords, "alpha")
    assert not matches(keywords, "beta")
    assert not matches(keywords, "alpha beta")
    assert matches(keywords, "alpha beta gamma")
    assert matches(keywords, "alpha beta delta")


def test_the_expression_of_the_choice_takes_the_place_of_all_others() -> None:
    one = KeywordSet(rules=rules("alpha", "beta"), expression="alpha")
    choice = KeywordChoice(keywords=["New York"], expression='beta AND "New York"')
    keywords = compile_choice(choice, [one])

    assert not matches(keywords, "alpha")
    assert matches(keywords, "beta in new york")
    assert keywords.matches_names(frozenset({"beta", "New York"}))


def test_a_rule_is_read_as_it_was_written() -> None:
    given = KeywordRule(
        name="a",
        pattern="b+",
        kind=KEYWORD_KIND_REGEX,
        case_sensitive=True,
        whole_word=True,
        category="c",
        context_characters=0,
    )
    plain = KeywordRule(name="p", pattern="q")

    read = compile_choice(KeywordChoice(rules=[given, plain]), []).rules

    assert read == (
        Rule("a", "b+", RuleKind.REGEX, True, True, "c", context=0),
        Rule("p", "q", context=DEFAULT_CONTEXT),
    )


def test_nothing_chosen_looks_for_nothing() -> None:
    keywords = compile_choice(KeywordChoice(keywords=[" ", "\u200b"]), [])

    assert not keywords
    assert not matches(keywords, "anything")


def test_sets_may_look_for_the_same_under_two_names() -> None:
    one, two = KeywordSet(rules=rules("alpha")), KeywordSet(rules=rules("alpha"))
    two.rules[0].name = "other"

    assert matches(compile_choice(KeywordChoice(), [one, two]), "alpha")


def test_faults_stand_where_the_choice_has_them() -> None:
    one = KeywordSet(rules=rules("alpha"))
    choice = KeywordChoice(
        keywords=["beta", " ", "Beta", "beta\0", "alpha"],
        rules=[
            KeywordRule(name="r", pattern="a(b", kind=KEYWORD_KIND_REGEX),
            KeywordRule(name="s", pattern="x", category="line\nend"),
            KeywordRule(name="", pattern="y"),
        ],
    )

    found = fields(choice, one)

    assert found["keywords.rules[0].pattern"] == "'r': missing ) for this (, at 1"
    assert set(found) == {
        "keywords.keywords[3]",
        "keywords.keywords[4]",
        "keywords.rules[0].pattern",
        "keywords.rules[1].category",
        "keywords.rules[2].name",
    }


def test_names_that_two_sets_have_are_told_of_the_second_one() -> None:
    one, two = KeywordSet(rules=rules("alpha", "beta")), KeywordSet(rules=rules("beta"))

    assert set(fields(KeywordChoice(), one, two)) == {"keywords.keyword_set_ids[1]"}


def test_an_expression_is_told_where_it_stands() -> None:
    choice = KeywordChoice(keywords=["alpha"], expression="alpha AND beta")

    assert fields(choice) == {"keywords.expression": "no rule is named 'beta' at 10"}
    assert fields(KeywordChoice(), KeywordSet(rules=rules("a"), expression="a OR")) == {
        "keywords.keyword_set_ids[0]": "a rule, NOT or ( expected at 4"
    }


def test_too_many_rules_together_are_too_many() -> None:
    sets = [
        KeywordSet(rules=[KeywordRule(name=f"{s}-{n}", pattern=f"{s} {n}") for n in range(5001)])
        for s in range(2)
    ]

    assert fields(KeywordChoice(), *sets) == {"keywords": "10,002 rules; at most 10,000"}


def test_a_choice_may_have_to_look_for_something() -> None:
    def told(choice: KeywordChoice, *, needed: bool) -> list[str]:
        return [each.field for each in check_choice(choice, "at", needed=needed)]

    assert told(KeywordChoice(), needed=True) == ["at"]
    assert told(KeywordChoice(keywords=["  "]), needed=True) == ["at"]
    assert told(KeywordChoice(), needed=False) == []
    assert told(KeywordChoice(keywords=["a"], expression="a"), needed=True) == []
    assert told(KeywordChoice(expression="a"), needed=False) == ["at.expression"]


def test_every_fault_of_a_set_is_told_at_once() -> None:
    keyword_set = KeywordSet(
        rules=[
            *rules("alpha", "alpha"),
            KeywordRule(name="x", pattern="a**", kind=KEYWORD_KIND_REGEX),
            KeywordRule(name="y", pattern="z", context_characters=201),
        ],
        expression="alpha AND gone",
    )

    found = {each.field: each.description for each in check_set(keyword_set, "set")}

    assert found["set.rules[2].pattern"].endswith("at 1")
    assert set(found) == {
        "set.rules[1].name",
        "set.rules[1].pattern",
        "set.rules[2].pattern",
        "set.rules[3].context_characters",
        "set.expression",
    }


def test_a_set_is_bounded_in_bytes() -> None:
    long = [
        KeywordRule(name=f"{n:05}" + "ä" * 90, pattern=str(n), category="ö" * 100)
        for n in range(5000)
    ]

    (told,) = check_set(KeywordSet(rules=long), "set")

    assert told.field == "set.rules"
    assert f"{MAX_SET_BYTES:,}" in told.description


def test_a_bad_rule_does_not_hide_a_bad_expression() -> None:
    choice = KeywordChoice(rules=[KeywordRule(name="a", pattern=" ")], expression="a AND b")

    assert fields(choice).keys() == {"keywords.rules[0].pattern", "keywords.expression"}
