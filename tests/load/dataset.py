"""A finished campaign of two million names with DNS results, made once a run of the query benches.

Everything is made inside the server; a fixed share of each verdict at fixed positions.
"""

import asyncio
import atexit
import functools
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from services.schema import migrate
from services.suite.postgres import EmbeddedPostgres

LARGE, SMALL = 2_000_000, 100_000
CHUNK = 5_000
# Position modulo 100 -> verdict: 45 % resolved, 3 % timed out, the rest NXDOMAIN.
_VERDICT = "CASE WHEN g % 100 < 45 THEN 1 WHEN g % 100 < 48 THEN 6 ELSE 2 END::smallint"
RARE_VERDICT = 6

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where the two campaigns are."""

    database_url: str
    large: UUID
    large_no: int
    small: UUID


@functools.cache
def dataset() -> Dataset:
    """Start a server of our own, fill it, and stop it when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="domainflow-load-"))
    server = EmbeddedPostgres(folder)
    loop = _background_loop()
    _on(loop, server.start())

    def remove() -> None:
        _on(loop, server.stop())
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return _on(loop, fill(server.url))


async def fill(database_url: str) -> Dataset:
    await migrate(database_url)
    connection = await asyncpg.connect(database_url)
    try:
        large, large_no = await _campaign(connection, LARGE)
        small, _ = await _campaign(connection, SMALL)
        await connection.execute("VACUUM ANALYZE domains, dns_results, chunks, campaigns, phases")
    finally:
        await connection.close()
    return Dataset(database_url, large, large_no, small)


async def _campaign(
    connection: "asyncpg.Connection[asyncpg.Record]", names: int
) -> tuple[UUID, int]:
    row = await connection.fetchrow(
        """INSERT INTO campaigns
            (id, name, mode, initial_phase, final_phase, configuration, name_count)
        VALUES (uuidv7(), 'load', 'STEP_BY_STEP', 1, 2, '', $1) RETURNING no, id""",
        names,
    )
    assert row is not None
    no, campaign_id = row
    await connection.execute(
        """INSERT INTO phases (campaign_no, phase, status, run, result_run, name_count, planned)
        SELECT $1, phase, 'COMPLETED', 1, 1, $2, true FROM generate_series(1, 2) phase""",
        no,
        names,
    )
    await connection.execute(
        """INSERT INTO domains (campaign_no, position, name)
        SELECT $1, g, 'name-' || lpad(to_hex(g), 6, '0') || '.example'
        FROM generate_series(0, $2 - 1) g""",
        no,
        names,
    )
    await connection.execute(
        f"""INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count, tcp,
            duration_us, check_time_us, ttl, resolver, addresses)
        SELECT $1, 1, g, verdict, CASE verdict WHEN 2 THEN 3 WHEN 6 THEN -1 ELSE 0 END, 1, false,
            1500, 1750000000000000 + g, 300, '192.0.2.53:53',
            CASE verdict WHEN 1 THEN '198.51.100.7,2001:db8::' || g % 1000 END
        FROM (SELECT g, {_VERDICT} AS verdict FROM generate_series(0, $2 - 1) g) made""",
        no,
        names,
    )
    await connection.execute(
        f"""INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state, attempt,
            done_time, outcome_counts)
        SELECT $1, 2, 1, lo, {CHUNK}, 'done', 1, now(),
            ARRAY[{CHUNK} * 45 / 100, {CHUNK} * 52 / 100, 0, 0, 0, {CHUNK} * 3 / 100, 0, 0, 0, 0]
        FROM generate_series(0, $2 - 1, {CHUNK}) lo""",
        no,
        names,
    )
    return UUID(str(campaign_id)), no


def _background_loop() -> asyncio.AbstractEventLoop:
    """A loop in a thread that lives as long as this process: the server's supervisor needs one."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="dataset", daemon=True).start()
    return loop


def _on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result()
