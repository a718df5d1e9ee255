"""Claims, names, results and worker rows. All SQL of this service; one method is one transaction.

Chunks are changed through the ledger functions only (services/schema/migrations/0002_ledger.sql).
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from domainflow.campaign.v1 import campaign_pb2, event_pb2
from services.chassis.postgres import Pool
from services.validation.dns.verdict import Verdict
from services.validation.results import COLUMNS, ChunkResults

# A claim that is not held for this long belongs to nobody.
LEASE = timedelta(seconds=15)
SEEN_WITHIN = timedelta(minutes=1)
# Seconds before a chunk whose attempt failed is handed out again; doubles with each attempt.
FIRST_DELAY, LONGEST_DELAY = 0.5, 60.0
# Characters of a cause that are kept: it is told in events, which are short.
MAX_CAUSE = 300


@dataclass(frozen=True, slots=True)
class ChunkKey:
    """Identifies a chunk of the ledger."""

    campaign_no: int
    phase: int
    run: int
    first_position: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A chunk in this worker's hands. `attempt` is the fence: only the newest claim may settle."""

    key: ChunkKey
    attempt: int
    name_count: int
    # domainflow.campaign.v1.CampaignConfiguration, as bytes.
    configuration: bytes


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process as it last reported."""

    worker_id: str
    pool: str
    host: str
    pid: int
    start_time: datetime
    report_time: datetime
    chunks_in_flight: int
    settled_count: int


class Store:
    """The tables of the validation service."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def claim(self, key: ChunkKey, worker_id: str) -> Claim | None:
        """Take a chunk; None when it is settled, held by somebody else, or not to be done now."""
        row = await self._pool.fetchrow(
            """SELECT attempt, name_count, configuration
               FROM claim_chunk($1, $2, $3, $4, $5, $6)""",
            *_arguments(key),
            worker_id,
            LEASE,
        )
        return Claim(key, *row) if row else None

    async def hold(self, claims: Sequence[Claim]) -> set[Claim]:
        """Keep claims alive; returns those that are lost, whose work is to be dropped.

        A chunk that somebody is changing just now is left for the next time: this statement locks
        many rows, and must not wait for one of them.
        """
        if not claims:
            return set()
        by_fence = {(*_arguments(claim.key), claim.attempt): claim for claim in claims}
        rows = await self._pool.fetch(
            # Materialized: the rows are locked, or skipped, before the function touches them.
            """WITH free AS MATERIALIZED (
                   SELECT campaign_no, phase, run, first_position, h.attempt
                   FROM unnest($1::int[], $2::smallint[], $3::int[], $4::int[], $5::int[])
                       AS h (campaign_no, phase, run, first_position, attempt)
                   JOIN chunks c USING (campaign_no, phase, run, first_position)
                   FOR NO KEY UPDATE OF c SKIP LOCKED)
               SELECT campaign_no, phase, run, first_position, attempt,
                   hold_chunk(campaign_no, phase, run, first_position, attempt, $6)
               FROM free""",
            *zip(*by_fence, strict=True),
            LEASE,
        )
        return {by_fence[row[:5]] for row in rows if not row[5]}

    async def release(self, claim: Claim) -> None:
        """Give a claim back unfinished: anybody may have it at once."""
        await self._pool.execute(_RELEASE, *_arguments(claim.key), claim.attempt, timedelta())

    async def fail(self, claim: Claim, cause: str) -> None:
        """Give a claim back whose attempt failed: later with each attempt, and on record."""
        delay = min(FIRST_DELAY * 2 ** min(claim.attempt - 1, 30), LONGEST_DELAY)
        event = event_pb2.Event(
            chunk_retried=event_pb2.ChunkRetried(
                phase=campaign_pb2.Phase.ValueType(claim.key.phase),
                run=claim.key.run,
                first_position=claim.key.first_position,
                attempt=claim.attempt,
                cause=cause[:MAX_CAUSE],
            )
        )
        async with self._pool.acquire() as connection, connection.transaction():
            ours = await connection.fetchval(
                _RELEASE, *_arguments(claim.key), claim.attempt, timedelta(seconds=delay)
            )
            if ours:
                await connection.execute(
                    "SELECT append_event($1, $2)", claim.key.campaign_no, event.SerializeToString()
                )

    async def names(self, claim: Claim) -> list[str]:
        """Return the chunk's names in order of position."""
        first = claim.key.first_position
        joined: str | None = await self._pool.fetchval(
            # One string: splitting it costs a tenth of decoding a row per name.
            r"""SELECT string_agg(name, E'\n' ORDER BY position) FROM domains
                WHERE campaign_no = $1 AND position >= $2 AND position < $3""",
            claim.key.campaign_no,
            first,
            first + claim.name_count,
        )
        return joined.split("\n") if joined else []

    async def settle(self, claim: Claim, results: ChunkResults) -> bool:
        """Store a chunk's results: rows, ledger mark, counts and event in one transaction.

        False when somebody else settled it, the claim is lost, or the phase does not run any more;
        then nothing is stored.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(
                "SELECT elapsed FROM settle_chunk($1, $2, $3, $4, $5, $6, $7)",
                *_arguments(claim.key),
                claim.attempt,
                results.counts,
                results.sha256,
            )
            if row is None:
                return False
            await connection.copy_to_table(
                "dns_results", source=_once(results.rows), columns=COLUMNS, format="binary"
            )
            event = _settled_event(claim, results, row["elapsed"])
            await connection.execute(
                "SELECT append_event($1, $2)", claim.key.campaign_no, event.SerializeToString()
            )
            return True

    async def report(
        self, worker_id: str, pool: str, host: str, pid: int, in_flight: int, settled: int
    ) -> None:
        """Say that a worker lives and what it has done."""
        await self._pool.execute(
            """INSERT INTO workers (worker_id, pool, host, pid, chunks_in_flight, settled_count)
               VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (worker_id) DO UPDATE SET report_time = now(),
                   chunks_in_flight = excluded.chunks_in_flight,
                   settled_count = excluded.settled_count""",
            worker_id,
            pool,
            host,
            pid,
            in_flight,
            settled,
        )

    async def sign_off(self, worker_id: str) -> None:
        """Forget a worker that ended in order."""
        await self._pool.execute("DELETE FROM workers WHERE worker_id = $1", worker_id)

    async def workers(self) -> list[WorkerRow]:
        """Return the workers seen within the last minute, oldest first, and forget the others."""
        await self._pool.execute(
            "DELETE FROM workers WHERE report_time < now() - $1::interval", SEEN_WITHIN
        )
        rows = await self._pool.fetch(
            """SELECT worker_id, pool, host, pid, start_time, report_time, chunks_in_flight,
                   settled_count
               FROM workers ORDER BY start_time, worker_id"""
        )
        return [WorkerRow(*row) for row in rows]


_RELEASE = "SELECT release_chunk($1, $2, $3, $4, $5, $6)"


def _arguments(key: ChunkKey) -> tuple[int, int, int, int]:
    return key.campaign_no, key.phase, key.run, key.first_position


async def _once(rows: bytes) -> AsyncIterator[bytes]:
    yield rows


def _settled_event(claim: Claim, results: ChunkResults, elapsed: timedelta) -> event_pb2.Event:
    settled = event_pb2.ChunkSettled(
        phase=campaign_pb2.Phase.ValueType(claim.key.phase),
        run=claim.key.run,
        first_position=claim.key.first_position,
        name_count=claim.name_count,
        attempt=claim.attempt,
        outcomes=[
            campaign_pb2.OutcomeCount(outcome=Verdict(number).name, count=count)
            for number, count in enumerate(results.counts, 1)
            if count
        ],
    )
    settled.duration.FromTimedelta(elapsed)
    return event_pb2.Event(chunk_settled=settled)
