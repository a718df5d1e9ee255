"""A filter of domains as SQL on single tables: a domain matches when every table agrees.

Never a join: what is asked of one table becomes one set of positions, read along one index, and the
sets are intersected. So no plan can become a loop over two ranges, whatever is known of the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

from domainflow.campaign.v1.campaign_pb2 import (
    PHASE_DNS_VALIDATION,
    PHASE_HTTP_VALIDATION,
    PHASE_LEAD_EXTRACTION,
)
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.chassis.errors import FieldViolation
from services.query.campaigns import Runs
from services.query.outcomes import LEAD_STATUSES

DOMAINS, DNS, HTTP, ANALYSES, HITS, LEADS = (
    "domains",
    "dns_results",
    "http_results",
    "page_analyses",
    "keyword_hits",
    "leads",
)
# Whose rows belong to a run: which of Runs that is.
RUN_OF = {DNS: 0, HTTP: 1, ANALYSES: 2, HITS: 2, LEADS: 3}
# Reasons by status of a lead decision: the ledger counts reasons.
_REASONS = {
    int(status): tuple(int(each) for each, its in LEAD_STATUSES.items() if its == status)
    for status in set(LEAD_STATUSES.values())
}
# Fields of a filter that go with dns_pending.
_WITH_PENDING = {"dns_pending", "tlds", "name_prefix", "name_contains"}


@dataclass(frozen=True, slots=True)
class Condition:
    """What a row of a table has to be: SQL with one {} for the number of its parameter.

    `indexed`: an index finds such rows in order of position, given a single one of the `values` in
    place of the parameter, or as it is without any.
    """

    sql: str
    values: tuple[object, ...] = ()
    indexed: bool = False
    # Phase and outcomes of the ledger that count such rows; None: nobody counts them.
    counted: tuple[int, tuple[int, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """By table. `pending`: and no DNS result at all."""

    by_table: Mapping[str, Sequence[Condition]]
    pending: bool = False

    def __bool__(self) -> bool:
        return self.pending or bool(self.by_table)

    def driver(
        self, runs: Runs, outcome_counts: Mapping[tuple[int, int], Sequence[int]]
    ) -> tuple[str, Condition] | None:
        """The indexed condition that the fewest rows meet, as far as the ledger can tell, by phase
        and run. Those that nobody counts come first: a keyword or a warning is for few."""
        found: list[tuple[int, str, Condition]] = []
        for table, conditions in self.by_table.items():
            for condition in conditions:
                if not condition.indexed:
                    continue
                count = 0
                if condition.counted is not None:
                    phase, outcomes = condition.counted
                    counts = outcome_counts.get((phase, runs[RUN_OF[table]]), ())
                    count = sum(counts[n - 1] for n in outcomes if n <= len(counts))
                found.append((count, table, condition))
        if not found:
            return None
        _, table, condition = min(found, key=lambda each: each[0])
        return table, condition


def conditions_of(chosen: DomainFilter) -> Conditions:
    """The conditions of a filter that keeps the rules of the contract."""
    made: dict[str, list[Condition]] = {}

    def want(table: str, condition: Condition) -> None:
        made.setdefault(table, []).append(condition)

    for table, column, values, phase in (
        (DNS, "verdict", chosen.dns_verdicts, PHASE_DNS_VALIDATION),
        (HTTP, "verdict", chosen.http_verdicts, PHASE_HTTP_VALIDATION),
        (LEADS, "reason", chosen.lead_reasons, PHASE_LEAD_EXTRACTION),
        (LEADS, "status", chosen.lead_statuses, PHASE_LEAD_EXTRACTION),
    ):
        if values:
            numbers = tuple(map(int, values))
            outcomes = numbers
            if column == "status":
                outcomes = tuple(reason for status in numbers for reason in _REASONS[status])
            want(
                table,
                Condition(
                    f"{column} = ANY({{}}::smallint[])",
                    numbers,
                    indexed=True,
                    counted=(int(phase), outcomes),
                ),
            )
    if chosen.keywords:
        want(HITS, Condition("keyword = ANY({}::text[])", tuple(chosen.keywords), indexed=True))
    # Scores are thousandths; what is next to one in binary means it.
    if chosen.HasField("min_score"):
        want(ANALYSES, _score(f">= {ceil(round(chosen.min_score * 1000, 6))}"))
    if chosen.HasField("max_score"):
        want(ANALYSES, _score(f"<= {floor(round(chosen.max_score * 1000, 6))}"))
    if chosen.warnings:
        mask = sum(1 << (number - 1) for number in set(chosen.warnings))
        # The second half is what the index knows.
        want(ANALYSES, Condition(f"warnings & {mask} <> 0 AND warnings <> 0", indexed=True))
    if chosen.HasField("has_warnings"):
        if chosen.has_warnings:
            want(ANALYSES, Condition("warnings <> 0", indexed=True))
        else:
            want(ANALYSES, Condition("warnings = 0"))
    if chosen.tlds:
        want(DOMAINS, Condition("split_part(name, '.', -1) = ANY({}::text[])", tuple(chosen.tlds)))
    if chosen.name_prefix:
        want(DOMAINS, Condition("starts_with(name, {}::text)", (chosen.name_prefix,)))
    if chosen.name_contains:
        want(DOMAINS, Condition("strpos(name, {}::text) > 0", (chosen.name_contains,)))
    return Conditions(made, chosen.dns_pending)


def _score(bound: str) -> Condition:
    # What is always true is in no index: for a thousand positions the planner would rather read the
    # whole index of scores, which has all else that is asked for (89 instead of 10 ms).
    return Condition(f"score {bound} AND check_time_us >= 0")


def check_filter(chosen: DomainFilter, field: str = "filter") -> list[FieldViolation]:
    """What the contract's own rules cannot say of a filter."""
    violations = [
        FieldViolation(f"{field}.keywords[{n}]", "has a NUL character, which no table takes")
        for n, keyword in enumerate(chosen.keywords)
        if "\0" in keyword
    ]
    both = chosen.HasField("min_score") and chosen.HasField("max_score")
    if both and chosen.min_score > chosen.max_score:
        violations.append(FieldViolation(f"{field}.min_score", "not above max_score"))
    if chosen.warnings and chosen.HasField("has_warnings") and not chosen.has_warnings:
        violations.append(FieldViolation(f"{field}.has_warnings", "not false with warnings"))
    if chosen.dns_pending:
        violations += [
            FieldViolation(f"{field}.dns_pending", f"not together with {each.name}")
            for each, _ in chosen.ListFields()
            if each.name not in _WITH_PENDING
        ]
    return violations


class Arguments:
    """The arguments of a statement, numbered as they are mentioned."""

    def __init__(self, *first: object) -> None:
        self.values = list(first)

    def number(self, value: object) -> str:
        self.values.append(value)
        return f"${len(self.values)}"

    def where(self, condition: Condition) -> str:
        """The condition with its parameter, if it has one."""
        if not condition.values:
            return condition.sql
        if "ANY(" in condition.sql:
            return condition.sql.format(self.number(list(condition.values)))
        return condition.sql.format(self.number(condition.values[0]))


def matching(conditions: Conditions, bound: str, runs: Runs, arguments: Arguments) -> str:
    """SQL of the positions within `bound` that match; `bound` is SQL that every table understands.

    Each table in it has one row a position, but for keywords, of which INTERSECT leaves one.
    """
    sets = []
    if conditions.pending:
        sets.append(_positions(DOMAINS, bound, runs, (), arguments))
    for table, wanted in conditions.by_table.items():
        sets.append(_positions(table, bound, runs, wanted, arguments))
    matched = " INTERSECT ".join(sets)
    if len(sets) == 1 and HITS in conditions.by_table:
        matched = f"SELECT DISTINCT position FROM ({matched}) hits"
    if conditions.pending:
        matched = f"({matched}) EXCEPT {_positions(DNS, bound, runs, (), arguments)}"
    return matched


def driven(
    table: str, condition: Condition, bound: str, runs: Runs, limit: str, arguments: Arguments
) -> str:
    """SQL of the first positions within `bound` whose row in `table` meets an indexed condition.

    One index scan a value, merged: each reads no further than the merge needs.
    """
    single = condition.sql.replace("ANY({}::smallint[])", "{}::smallint").replace(
        "ANY({}::text[])", "{}::text"
    )
    run = arguments.number(runs[RUN_OF[table]])
    branches = " UNION ALL ".join(
        f"""(SELECT position FROM {table} WHERE {bound} AND run = {run}
        AND {single.format(*value)} ORDER BY position LIMIT {limit})"""
        for value in [[arguments.number(v)] for v in condition.values] or [[]]
    )
    distinct = "DISTINCT " if table == HITS else ""
    return f"SELECT {distinct}position FROM ({branches}) merged ORDER BY position LIMIT {limit}"


def _positions(
    table: str, bound: str, runs: Runs, wanted: Sequence[Condition], arguments: Arguments
) -> str:
    where = [bound]
    if table in RUN_OF:
        where.append(f"run = {arguments.number(runs[RUN_OF[table]])}")
    where += [arguments.where(condition) for condition in wanted]
    return f"SELECT position FROM {table} WHERE {' AND '.join(where)}"
