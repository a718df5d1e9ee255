"""Domains whole, as the tables have them."""

import pytest

from services.query.campaigns import Runs
from services.query.conditions import Arguments
from services.query.domain_rows import DomainRows
from services.query.domain_wire import domain_bytes
from tests.query.conftest import Analysis, Query, Writer

RESOLVED = 1
NAMES = 600
RUNS = Runs(1, 1, 1, 1)
# As many in a row as one connection has not the same of as another.
SOME = f"""SELECT (pg_backend_pid() * 37 + g * 5) % {NAMES} AS position, g AS rank
    FROM generate_series(0, $2::int - 1) g ORDER BY g"""


@pytest.mark.parametrize("limit", [20, 80])
@pytest.mark.parametrize("runs", [RUNS, Runs(1), Runs(1, 1)])
async def test_found_domains_are_whole_although_connections_find_others(
    query: Query, writer: Writer, limit: int, runs: Runs
) -> None:
    made = await writer.campaign(NAMES)
    await writer.plan(made, NAMES, NAMES)
    await writer.settle(made, 0, [RESOLVED] * NAMES)
    await writer.settle_http(made, dict.fromkeys(range(NAMES), 1))
    await writer.settle_analysis(made, {p: Analysis(p) for p in range(0, NAMES, 2)})
    await writer.settle_leads(made, dict.fromkeys(range(0, NAMES, 2), 2))
    rows = DomainRows(query.pool)
    expected = await rows.at(made.no, runs, list(range(NAMES)))

    found, known = await rows.found(
        made.no, runs, SOME, ["rank"], Arguments(made.no, limit), limit=limit
    )

    assert [row["rank"] for row in found] == list(range(limit))
    assert {row["position"] for row in found} == set(known)
    for position, domain in known.items():
        assert domain_bytes(*domain) == domain_bytes(*expected[position])
