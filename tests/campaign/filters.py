"""Random filters of campaigns: the condition, the text that says it, what it means in Python."""

import operator
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from services.campaign.campaign import Campaign, Mode, Phase, Priority, Status
from services.campaign.filter import And, Comparison, Condition, Not, Operator, Or

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
# Few, and what patterns of SQL would take for something else.
NAMES = ("shop", "Shop", "shop 100%", "a_b", "axb", 'say "hi"', "back\\slash", "naïve", "it's", "%")
COUNTS = (0, 1, 1000, 999_999, 1_000_000)
TIMES = tuple(BEGIN + timedelta(hours=hour, microseconds=1) for hour in range(6))

_SCALE = [each for each in Operator if each is not Operator.HAS]
_EQUALITY = [Operator.EQUAL, Operator.UNEQUAL]


def _compare(
    field: str, operators: list[Operator], values: st.SearchStrategy[Any]
) -> st.SearchStrategy[Condition]:
    return st.builds(Comparison, st.just(field), st.sampled_from(operators), values)


comparisons = st.one_of(
    _compare("name", _EQUALITY, st.sampled_from(NAMES)),
    _compare("name", [Operator.HAS], st.sampled_from([*NAMES, "", "_", "ho", '"', "\\"])),
    _compare("status", _EQUALITY, st.sampled_from([status.value for status in Status])),
    _compare("current_phase", _EQUALITY, st.sampled_from([int(phase) for phase in Phase])),
    _compare("mode", _EQUALITY, st.sampled_from([mode.value for mode in Mode])),
    _compare("priority", _EQUALITY, st.sampled_from([each.value for each in Priority])),
    _compare("name_count", _SCALE, st.sampled_from(COUNTS)),
    _compare("create_time", _SCALE, st.sampled_from(TIMES)),
    _compare("update_time", _SCALE, st.sampled_from(TIMES)),
)


def _several(conditions: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    some = st.lists(conditions, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, conditions), st.builds(And, some), st.builds(Or, some))


conditions: st.SearchStrategy[Condition] = st.recursive(comparisons, _several, max_leaves=8)


def said(condition: Condition) -> str:
    """The condition as a caller writes it, every joint in parentheses."""
    match condition:
        case Comparison(field, how, value):
            return f"{field} {how} {_said(field, value)}"
        case Not(inner):
            return f"NOT {said(inner)}"
        case And(several):
            return f"({' AND '.join(map(said, several))})"
        case Or(several):
            return f"({' OR '.join(map(said, several))})"


def _said(field: str, value: Any) -> str:
    if field == "current_phase":
        return Phase(value).name
    if isinstance(value, datetime):
        return f'"{value.isoformat()}"'
    if field == "name":
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


_MEANING = {
    Operator.EQUAL: operator.eq,
    Operator.UNEQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.MORE: operator.gt,
    Operator.AT_LEAST: operator.ge,
    Operator.HAS: operator.contains,
}


def meets(campaign: Campaign, condition: Condition) -> bool:
    match condition:
        case Comparison("status", how, value):
            return _MEANING[how](campaign.current.status, value)
        case Comparison("current_phase", how, value):
            return _MEANING[how](campaign.current.phase, value)
        case Comparison(field, how, value):
            return _MEANING[how](getattr(campaign, field), value)
        case Not(inner):
            return not meets(campaign, inner)
        case And(several):
            return all(meets(campaign, each) for each in several)
        case Or(several):
            return any(meets(campaign, each) for each in several)
