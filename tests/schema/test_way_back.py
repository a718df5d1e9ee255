"""Going back: to the very tables of the version before, never past data that only the newer had."""

import re

import asyncpg
import pytest

from services.schema.files import migrations
from services.schema.locks import Patience, TablesInUse
from services.schema.migrate import MigrationUnknown, State, WouldLose, migrate, revert, status
from tests.conftest import _execute
from tests.schema.databases import FILES, LEASE, at_version, executed, planned, schema_of, settle

# Tables, and columns as table.column.
OBJECTS = """WITH tables AS (
        SELECT oid, relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
          AND NOT relispartition)
    SELECT relname FROM tables
    UNION ALL SELECT relname || '.' || attname FROM tables JOIN pg_attribute ON attrelid = oid
    WHERE attnum > 0 AND NOT attisdropped"""


async def test_each_step_back_leads_to_the_tables_of_the_version_before(empty_url: str) -> None:
    at = [await schema_of(empty_url)]
    for name in FILES:
        await at_version(empty_url, name)
        at.append(await schema_of(empty_url))

    for number, name in reversed(list(enumerate(FILES))):
        assert await revert(empty_url) == [name]
        assert await schema_of(empty_url) == at[number], f"after {name} was taken back"

    assert await migrate(empty_url) == FILES
    assert await schema_of(empty_url) == at[-1]


async def test_the_head_of_every_way_back_names_all_that_goes(database_url: str) -> None:
    for migration in reversed(migrations()):
        before = {row[0] for row in await executed(database_url, OBJECTS)}
        await revert(database_url)
        gone = before - {row[0] for row in await executed(database_url, OBJECTS)}

        head = " ".join(line for line in migration.back.splitlines() if line.startswith("--"))
        words = set(re.findall(r"\w+", head))
        # A column is named by its name; those of a table that goes, by the table.
        tables = {name for name in gone if "." not in name}
        columns = {name for name in gone if "." in name and name.split(".")[0] not in tables}
        assert {name for name in tables if name not in words} == set()
        assert {name for name in columns if name.split(".")[1] not in words} == set()


async def test_rows_that_only_the_newer_version_has_are_not_given_up(database_url: str) -> None:
    await _execute(database_url, "INSERT INTO leads VALUES (1, 1, 0, 1, 1, 0, NULL)")
    before = await schema_of(database_url)

    with pytest.raises(WouldLose, match=r"^0005_query\.sql: leads$"):
        await revert(database_url, to="0004")
    # Not the steps that lose nothing either, when a later one does.
    with pytest.raises(WouldLose, match="leads"):
        await revert(database_url, to="0")
    assert await schema_of(database_url) == before

    assert await revert(database_url, to="0004", lose_data=True) == FILES[:3:-1]


async def test_a_value_in_a_newer_column_is_not_given_up(database_url: str) -> None:
    no = await planned(database_url, chunks=1)
    await revert(database_url, to="0004")
    assert await revert(database_url) == [FILES[3]]

    await _execute(database_url, f"UPDATE campaigns SET priority = 'HIGH' WHERE no = {no}")
    with pytest.raises(WouldLose, match="priorities"):
        await revert(database_url)

    await _execute(database_url, "UPDATE campaigns SET priority = 'NORMAL'")
    assert await revert(database_url) == [FILES[2]]
    with pytest.raises(WouldLose, match="campaigns"):
        await revert(database_url, to="0")
    assert (await executed(database_url, "SELECT count(*) FROM chunks"))[0][0] == 1


async def test_what_was_settled_survives_the_way_back_and_forward(database_url: str) -> None:
    no = await planned(database_url, chunks=4)
    worker = await asyncpg.connect(database_url)
    for first in (200, 0):
        await settle(worker, no, first, [40, 60])
    of_runs = "SELECT phase, run, settled_count, outcome_counts, revision FROM ledger_totals"
    before = await executed(database_url, of_runs)

    await revert(database_url, to="0004")
    await settle(worker, no, 100, [1, 99])
    assert await migrate(database_url) == FILES[4:]
    await settle(worker, no, 300, [0, 100])
    await worker.close()

    assert [tuple(row) for row in before] == [(2, 1, 200, [80, 120], 2)]
    after = await executed(database_url, of_runs)
    assert [tuple(row) for row in after] == [(2, 1, 400, [81, 319], 4)]


async def test_what_later_phases_settled_stays_and_what_is_open_of_them_goes(
    database_url: str,
) -> None:
    no = await planned(database_url, chunks=4)
    await executed(
        database_url,
        """INSERT INTO phases (campaign_no, phase, status, run, result_run, planned, source_run)
        VALUES ($1, 3, 'COMPLETED', 1, 1, true, 1), ($1, 4, 'RUNNING', 1, 1, false, 1)""",
        no,
    )
    await executed(
        database_url,
        """INSERT INTO chunks (campaign_no, phase, run, first_position, last_position, name_count,
            state, outcome_counts)
        VALUES ($1, 3, 1, 5, 90, 20, 'done', '{15,5}'), ($1, 3, 1, 91, 399, 30, 'done', '{30}'),
            ($1, 4, 1, 6, 80, 10, 'done', '{10}'), ($1, 4, 1, 91, 380, 20, 'queued', NULL)""",
        no,
    )
    of_runs = "SELECT phase, settled_count, outcome_counts FROM ledger_totals ORDER BY phase"
    before = await executed(database_url, of_runs)
    assert [tuple(row) for row in before] == [(3, 50, [45, 5]), (4, 10, [10])]

    with pytest.raises(WouldLose, match="what is not settled of the later phases"):
        await revert(database_url, to="0005")
    assert await revert(database_url, to="0005", lose_data=True) == FILES[:4:-1]

    assert await executed(database_url, of_runs) == before
    left = await executed(
        database_url, "SELECT first_position FROM chunks WHERE phase > 2 ORDER BY phase, 1"
    )
    assert [row[0] for row in left] == [5, 91, 6]
    statuses = await executed(
        database_url,
        """SELECT p.status, k.current_phase, k.status FROM phases p
        JOIN campaigns k ON k.no = p.campaign_no WHERE p.phase > 2 ORDER BY p.phase""",
    )
    assert [row[0] for row in statuses] == ["COMPLETED", "CANCELLED"]
    assert tuple(statuses[0])[1:] == (4, "CANCELLED")
    assert await migrate(database_url) == FILES[5:]


async def test_chunks_that_were_set_aside_begin_anew_in_the_version_before(
    database_url: str,
) -> None:
    no = await planned(database_url, chunks=1)
    worker = await asyncpg.connect(database_url)
    key = f"{no}, 2::smallint, 1, 0"
    await worker.execute(f"SELECT claim_chunk({key}, 'w', {LEASE})")
    parked = f"SELECT park_chunk({key}, 1, interval '1 hour', 3, 'what is finished')"
    assert await worker.fetchval(parked)

    assert await revert(database_url) == [FILES[6]]

    await settle(worker, no, 0, [100])
    assert await migrate(database_url) == FILES[6:]
    assert await worker.fetchval("SELECT count(*) FROM parked_chunks") == 0
    assert await worker.fetchval("SELECT park_count FROM chunks") == 0
    await worker.close()


async def test_the_version_to_go_back_to_is_named_by_the_beginning_of_its_name(
    database_url: str,
) -> None:
    assert await revert(database_url, to="0003") == FILES[:2:-1]
    assert await revert(database_url, to=FILES[1]) == [FILES[2]]
    assert await revert(database_url, to="0002") == []

    for name in ("0003", "1", "000"):
        with pytest.raises(MigrationUnknown):
            await revert(database_url, to=f"{name}_")
    # Not all that is there: a variable that was not set, or a name cut short.
    for name in ("", "00"):
        with pytest.raises(MigrationUnknown):
            await revert(database_url, to=name)
    assert await revert(database_url, steps=99) == [FILES[1], FILES[0]]


async def test_what_a_newer_version_brought_is_left_to_it(database_url: str) -> None:
    await _execute(database_url, "INSERT INTO migrations VALUES ('9999_later.sql', '')")

    with pytest.raises(MigrationUnknown, match=r"9999_later\.sql"):
        await revert(database_url)


async def test_a_session_in_the_way_of_going_back_is_named(database_url: str) -> None:
    reader = await asyncpg.connect(database_url)
    await reader.execute("BEGIN; SELECT FROM phases")

    with pytest.raises(TablesInUse, match=f"pid {reader.get_server_pid()} "):
        await revert(database_url, patience=Patience(tries=1, lock_seconds=1))

    assert [each.state for each in await status(database_url)] == [State.APPLIED] * len(FILES)
    await reader.close()


async def test_tables_of_the_version_before_serve_it(empty_url: str) -> None:
    await at_version(empty_url, "0002")
    no = await planned(empty_url, chunks=1)
    await migrate(empty_url)
    await revert(empty_url, to="0002")

    worker = await asyncpg.connect(empty_url)
    await settle(worker, no, 0, [100])
    await worker.close()
    done = await executed(empty_url, "SELECT state FROM chunks")
    assert done[0][0] == "done"
