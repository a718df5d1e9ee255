"""Filters and orders as people type them: understood, or refused with the place and the remedy."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.campaign.filter import (
    MAX_COMPARISONS,
    MAX_DEPTH,
    And,
    BadFilter,
    Comparison,
    Condition,
    Not,
    Operator,
    Or,
    Order,
    parse_filter,
    parse_order,
)
from tests.campaign.filters import conditions, said

RUNNING = Comparison("status", Operator.EQUAL, "RUNNING")
SHOP = Comparison("name", Operator.HAS, "shop")
MILLION = Comparison("name_count", Operator.MORE, 1_000_000)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("status=RUNNING", RUNNING),
        ("status = PHASE_STATUS_RUNNING", RUNNING),
        ('status = "RUNNING"', RUNNING),
        ("name:shop", SHOP),
        ("name : 'shop'", SHOP),
        (
            'status = RUNNING AND (name : "shop" OR name_count > 1000000)',
            And((RUNNING, Or((SHOP, MILLION)))),
        ),
        ("NOT status = RUNNING", Not(RUNNING)),
        ("NOT(NOT(status=RUNNING))", Not(Not(RUNNING))),
        ("name = AND_more", Comparison("name", Operator.EQUAL, "AND_more")),
        ('name = "AND"', Comparison("name", Operator.EQUAL, "AND")),
        (r'name = "a\"b\\c\d"', Comparison("name", Operator.EQUAL, 'a"b\\cd')),
        ("name_count >= -1", Comparison("name_count", Operator.AT_LEAST, -1)),
        ("current_phase != DNS_VALIDATION", Comparison("current_phase", Operator.UNEQUAL, 2)),
        ("mode = FULL_SEQUENCE", Comparison("mode", Operator.EQUAL, "FULL_SEQUENCE")),
        ("priority != LOW", Comparison("priority", Operator.UNEQUAL, "LOW")),
        (
            'create_time < "2026-11-22T10:00:00.5+02:00"',
            Comparison(
                "create_time", Operator.LESS, datetime(2026, 11, 22, 8, 0, 0, 500_000, tzinfo=UTC)
            ),
        ),
        (
            "update_time >= '2026-11-22t08:00:00.123456000z'",
            Comparison(
                "update_time",
                Operator.AT_LEAST,
                datetime(2026, 11, 22, 8, 0, 0, 123_456, tzinfo=UTC),
            ),
        ),
        ("", None),
        (" \t\n", None),
    ],
)
def test_filter_is_understood(text: str, condition: Condition | None) -> None:
    assert parse_filter(text) == condition


def test_or_binds_tighter_than_and_as_the_standard_has_it() -> None:
    text = "status = RUNNING AND name : shop OR name_count > 1000000"

    assert parse_filter(text) == And((RUNNING, Or((SHOP, MILLION))))


@given(conditions)
def test_what_is_written_out_is_read_back(condition: Condition) -> None:
    assert parse_filter(said(condition)) == condition


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("colour = red", "at character 1: 'colour' is no field; expected one of name, status,"),
        ("Status = RUNNING", "at character 1: 'Status' is no field"),
        ("status : RUNNING", "at character 8: expected = != after status, found ':'"),
        ("status RUNNING", "at character 8: expected = != after status, found 'RUNNING'"),
        ("name < b", "at character 6: expected = != : after name, found '<'"),
        ("status = RUNING", "at character 10: 'RUNING' is no status; expected one of NOT_STARTED"),
        ("priority = URGENT", "'URGENT' is no priority; expected one of HIGH, NORMAL, LOW"),
        ("name =", "at character 7: expected a value, found the end"),
        ("name = AND", "at character 8: expected a value, found 'AND'"),
        ("name = (a)", "at character 8: expected a value, found '('"),
        ('name = "a', "at character 8: expected a value, found a quote that is not closed"),
        ("name ! a", "at character 6: expected = != : after name, found '! a'"),
        ("name = a name = b", "at character 10: expected AND, OR or the end, found 'name'"),
        ("name = a)", "at character 9: expected AND, OR or the end, found ')'"),
        ("(name = a", "at character 10: expected AND, OR or a closing parenthesis, found the end"),
        ("name = a AND", "at character 13: expected a field, NOT or an opening parenthesis"),
        ("AND", "at character 1: expected a field, NOT or an opening parenthesis, found 'AND'"),
        ("()", "at character 2: expected a field, NOT or an opening parenthesis, found ')'"),
        ("name_count > many", "at character 14: expected a whole number below 2^63, found 'many'"),
        ("name_count > 1.5", "expected a whole number"),
        ("name_count > 9223372036854775808", "expected a whole number"),
        ("name_count > ²", "expected a whole number"),
        ("create_time > 2026", "at character 15: expected a time in quotes such as"),
        ('create_time > "2026-11-22"', "expected a time in quotes such as"),
        ('create_time > "2026-11-22T10:00:00"', "expected a time in quotes such as"),
        ('create_time > "2026-11-22T10:00:00.1234567Z"', "to the microsecond"),
        ('create_time > "2026-13-22T10:00:00Z"', "there is no such time"),
        ('create_time > "0001-01-01T00:00:00+01:00"', "there is no such time"),
        ('name = "a\0b"', "at character 8: a NUL character"),
        ("(" * (MAX_DEPTH + 1) + "name = a", f"more than {MAX_DEPTH} levels"),
        ("NOT " * (MAX_DEPTH + 1) + "name = a", f"more than {MAX_DEPTH} levels"),
        (" OR ".join(["name=a"] * (MAX_COMPARISONS + 1)), f"more than {MAX_COMPARISONS} compar"),
    ],
    ids=lambda text: text[:40],
)
def test_refusal_says_where_and_what_is_expected(text: str, told: str) -> None:
    with pytest.raises(BadFilter) as refusal:
        parse_filter(text)

    assert told in str(refusal.value)


def test_as_many_levels_and_comparisons_as_allowed_are_understood() -> None:
    assert parse_filter("(" * MAX_DEPTH + "name = a" + ")" * MAX_DEPTH)
    assert parse_filter(" OR ".join(["name=a"] * MAX_COMPARISONS))


WORDS = ["name", "status", "create_time", "RUNNING", '"2026-11-22T10:00:00Z"', "AND", "OR", "NOT"]
SIGNS = ["=", "!=", "!", ":", "<=", "(", ")", '"', "'", "\\", "\0", "1", "\ud7ff", " ", "\u2003"]
pieces = st.sampled_from([*WORDS, *SIGNS])


@given(st.one_of(st.text(max_size=100), st.lists(pieces, max_size=40).map(" ".join)))
def test_no_text_is_worse_than_refused(text: str) -> None:
    for parse in (parse_filter, parse_order):
        told = ""
        try:
            parse(text)
        except BadFilter as refusal:
            told = str(refusal)
        assert len(told) < 300


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("", Order("create_time", descending=True)),
        ("name", Order("name", descending=False)),
        ("  name_count   desc ", Order("name_count", descending=True)),
        ("update_time desc", Order("update_time", descending=True)),
        ("create_time", Order("create_time", descending=False)),
    ],
)
def test_order_is_understood(text: str, order: Order) -> None:
    assert parse_order(text) == order


@pytest.mark.parametrize(
    "text", ["colour", "status", "name asc", "name, no", "desc", "name desc x"]
)
def test_refused_order_names_those_there_are(text: str) -> None:
    with pytest.raises(BadFilter, match="expected one of create_time, update_time, name, name_cou"):
        parse_order(text)
