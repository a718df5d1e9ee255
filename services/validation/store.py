"""Claims, names and results; one public method is one transaction. Workers and pools: pools.py.

Chunks are changed through the ledger functions only (services/schema/migrations).
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from domainflow.campaign.v1 import campaign_pb2, event_pb2
from services.chassis.postgres import Connection, Pool
from services.chassis.secrets import SecretBox
from services.validation.analysis_store import Analyses
from services.validation.dns.verdict import Verdict
from services.validation.named_store import http_personas, keyword_sets, scoring_profiles
from services.validation.pools import Pools
from services.validation.proxy_pool_store import ProxyPoolStore
from services.validation.proxy_store import ProxyStore
from services.validation.resolver_reports import ResolverReports
from services.validation.results import ChunkResults
from services.validation.site_store import SiteStore
from services.validation.suppression_store import Suppressions

# A claim that is not held for this long belongs to nobody.
LEASE = timedelta(seconds=15)
# Characters of a cause that are kept: it is told in events, which are short.
MAX_CAUSE = 300
# Chunks whose verdicts are taken back in one transaction: their positions are told in one event,
# which stays below 1 KB, and its transaction below a second.
MAX_WITHDRAWN = 100


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
    # Attempts at it that failed, and whose worker was not heard of again.
    failure_count: int = 0
    lost_count: int = 0
    # Names per second that its campaign may ask about, as of the claim; 0: no limit.
    name_rate_limit: int = 0
    # Of a chunk of some names only: the last position, and the run of the earlier phase whose
    # results say which; 0: that phase was left out. A chunk without a last position has every name
    # from its first position on.
    last_position: int | None = None
    source_run: int = 0
    # Earlier attempts that ended with the chunk being set aside.
    park_count: int = 0

    @property
    def parked(self) -> bool:
        """Whether it was set aside before, so that `Store.progress` may know of its names."""
        return self.park_count > 0

    @property
    def label(self) -> str:
        """For people who read logs."""
        key = self.key
        return (
            f"campaign {key.campaign_no}, phase {key.phase}, run {key.run}, "
            f"{self.name_count} names from {key.first_position}, attempt {self.attempt}"
        )


@dataclass(frozen=True, slots=True)
class Held:
    """What holding claims has told."""

    lost: set[Claim]
    # Names per second by campaign number; 0: no limit.
    rates: dict[int, int]


@dataclass(frozen=True, slots=True)
class Settled:
    """A chunk, and the attempt that settled it or is about to."""

    key: ChunkKey
    attempt: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What taking verdicts back has come to."""

    # Names whose verdicts were taken back.
    name_count: int
    # Chunks that may still be stored by the attempt in question.
    open: set[Settled]


class Store:
    """The tables of the validation service."""

    def __init__(
        self, pool: Pool, suppression_salt: bytes = b"", box: SecretBox | None = None
    ) -> None:
        """`suppression_salt` is the key of hashed suppression entries; `box` seals and opens the
        passwords of proxies."""
        self._pool = pool
        self.pools = Pools(pool)
        self.resolvers = ResolverReports(pool)
        self.sites = SiteStore(pool)
        self.suppressions = Suppressions(pool, suppression_salt)
        self.analyses = Analyses(pool)
        self.proxies = ProxyStore(pool, box)
        self.proxy_pools = ProxyPoolStore(pool)
        self.http_personas = http_personas(pool)
        self.keyword_sets = keyword_sets(pool)
        self.scoring_profiles = scoring_profiles(pool)

    async def claim(self, key: ChunkKey, worker_id: str) -> Claim | None:
        """Take a chunk; None when it is settled, held by somebody else, or not to be done now."""
        row = await self._pool.fetchrow(
            """SELECT t.attempt, t.name_count, t.configuration,
                   c.failure_count, c.lost_count, k.name_rate_limit, c.last_position,
                   coalesce(p.source_run, 0) AS source_run, c.park_count
               FROM claim_chunk($1, $2, $3, $4, $5, $6) AS t
               JOIN chunks c ON c.campaign_no = $1 AND c.phase = $2 AND c.run = $3
                   AND c.first_position = $4
               JOIN phases p ON p.campaign_no = $1 AND p.phase = $2
               JOIN campaigns k ON k.no = $1""",
            *_arguments(key),
            worker_id,
            LEASE,
        )
        return Claim(key, *row) if row else None

    async def hold(self, claims: Sequence[Claim]) -> Held:
        """Keep claims alive; returns those that are lost, whose work is to be dropped, and the
        present rates of their campaigns.

        Those of a campaign that was deleted are lost too. A chunk that was settled by its claim is
        not: whoever did it will hear of it. One that somebody is changing just now is left for the
        next time: this statement locks many rows, and must not wait for one of them.
        """
        if not claims:
            return Held(set(), {})
        by_fence = {(*_arguments(claim.key), claim.attempt): claim for claim in claims}
        rows = await self._pool.fetch(
            # Materialized: the rows are locked, or skipped, before the function touches them.
            """WITH claims AS (
                   SELECT * FROM unnest($1::int[], $2::smallint[], $3::int[], $4::int[], $5::int[])
                       AS h (campaign_no, phase, run, first_position, attempt)),
               free AS MATERIALIZED (
                   SELECT campaign_no, phase, run, first_position, h.attempt,
                       c.state = 'done' AND c.attempt = h.attempt AS settled
                   FROM claims h JOIN chunks c USING (campaign_no, phase, run, first_position)
                   FOR NO KEY UPDATE OF c SKIP LOCKED)
               SELECT campaign_no, phase, run, first_position, attempt,
                   settled OR hold_chunk(campaign_no, phase, run, first_position, attempt, $6),
                   name_rate_limit
               FROM free JOIN campaigns ON no = campaign_no
               UNION ALL
               SELECT h.*, false, NULL FROM claims h
               LEFT JOIN chunks c USING (campaign_no, phase, run, first_position)
               WHERE c.campaign_no IS NULL""",
            *zip(*by_fence, strict=True),
            LEASE,
        )
        return Held(
            {by_fence[row[:5]] for row in rows if not row[5]},
            {row[0]: row[6] for row in rows if row[6] is not None},
        )

    async def name_rate_limit(self, campaign_no: int) -> int:
        """Return the campaign's names per second; 0: no limit."""
        limit = await self._pool.fetchval(
            "SELECT name_rate_limit FROM campaigns WHERE no = $1", campaign_no
        )
        return limit or 0

    async def release(self, claim: Claim, delay: float = 0) -> None:
        """Give a claim back unfinished: anybody may have it, `delay` seconds from now."""
        await self._pool.execute(
            _RELEASE, *_arguments(claim.key), claim.attempt, timedelta(seconds=delay)
        )

    async def park(self, claim: Claim, progress: bytes, waiting_count: int, delay: float) -> bool:
        """Set a chunk aside for `delay` seconds, of which `waiting_count` names are not finished.

        `progress` is added to what was kept of it before. False when the claim is not ours any
        more, or the phase does not run; then nothing is kept.
        """
        parked: bool = await self._pool.fetchval(
            "SELECT park_chunk($1, $2, $3, $4, $5, $6, $7, $8)",
            *_arguments(claim.key),
            claim.attempt,
            timedelta(seconds=delay),
            waiting_count,
            progress,
        )
        return parked

    async def progress(self, claim: Claim) -> list[bytes]:
        """Return what was kept of a chunk when it was set aside, the oldest first."""
        rows = await self._pool.fetch(
            """SELECT progress FROM parked_chunks
               WHERE campaign_no = $1 AND phase = $2 AND run = $3 AND first_position = $4
               ORDER BY attempt""",
            *_arguments(claim.key),
        )
        return [row[0] for row in rows]

    async def fail(self, claim: Claim, cause: str, delay: float) -> bool:
        """Give a claim back whose attempt failed, for `delay` seconds from now, and on record.

        False, here and below, when the claim is not ours any more: then nothing is changed.
        """
        event = event_pb2.Event(
            chunk_retried=event_pb2.ChunkRetried(
                phase=_phase(claim),
                run=claim.key.run,
                first_position=claim.key.first_position,
                attempt=_told_attempt(claim),
                cause=cause[:MAX_CAUSE],
            )
        )
        async with self._pool.acquire() as connection, connection.transaction():
            ours: bool = await connection.fetchval(
                "SELECT fail_chunk($1, $2, $3, $4, $5, $6)",
                *_arguments(claim.key),
                claim.attempt,
                timedelta(seconds=delay),
            )
            if ours:
                await _append(connection, claim, event)
            return ours

    async def split(self, claim: Claim, cause: str) -> bool:
        """Replace a chunk whose attempt failed by its halves, which keep its failures."""
        async with self._pool.acquire() as connection, connection.transaction():
            second = await connection.fetchval(
                "SELECT split_chunk($1, $2, $3, $4, $5, $6)",
                *_arguments(claim.key),
                claim.attempt,
                claim.failure_count + 1,
            )
            if second is None:
                return False
            event = event_pb2.Event(
                chunk_split=event_pb2.ChunkSplit(
                    phase=_phase(claim),
                    run=claim.key.run,
                    first_position=claim.key.first_position,
                    name_count=claim.name_count,
                    second_position=second,
                    cause=cause[:MAX_CAUSE],
                )
            )
            await _append(connection, claim, event)
            return True

    async def give_up(self, claim: Claim, results: ChunkResults, name: str, cause: str) -> bool:
        """Settle a chunk of one name as a dead letter, which then waits for somebody's decision."""
        cause = cause[:MAX_CAUSE]
        event = event_pb2.Event(
            name_dead_lettered=event_pb2.NameDeadLettered(
                phase=_phase(claim),
                run=claim.key.run,
                position=claim.key.first_position,
                name=name,
                cause=cause,
            )
        )
        async with self._pool.acquire() as connection, connection.transaction():
            settled = await _settle(connection, claim, results)
            if settled is None:
                return False
            await connection.execute(
                # Failures of earlier rounds stay counted: it was redriven after them.
                """INSERT INTO dead_letters AS d
                       (campaign_no, phase, run, position, name, cause, failure_count)
                   VALUES ($1, $2, $3, $4, $5, $6, $7)
                   ON CONFLICT (campaign_no, phase, run, position) DO UPDATE SET
                       cause = excluded.cause, state = 'OPEN', create_time = now(),
                       failure_count = d.failure_count + excluded.failure_count,
                       resolve_time = NULL, resolve_reason = ''""",
                *_arguments(claim.key),
                name,
                cause,
                claim.failure_count + 1,
            )
            await _append(connection, claim, settled)
            await _append(connection, claim, event)
            return True

    async def withdraw(self, chunks: Sequence[Settled], resolver: str, reason: str) -> Withdrawn:
        """Take back what rests on the word of one resolver; all chunks are of one run.

        At most MAX_WITHDRAWN chunks. Those that are not `done` yet may be stored any moment, and
        are to be looked at again.
        """
        key = chunks[0].key
        firsts = [chunk.key.first_position for chunk in chunks]
        attempts = [chunk.attempt for chunk in chunks]
        arguments = (key.campaign_no, key.phase, key.run, firsts, attempts)
        async with self._pool.acquire() as connection, connection.transaction():
            # First: what is stored between the two statements is looked at once too often.
            open_ = await connection.fetch(
                """SELECT first_position FROM unnest($4::int[], $5::int[])
                       AS w (first_position, attempt)
                   JOIN chunks c USING (first_position, attempt)
                   WHERE c.campaign_no = $1 AND c.phase = $2 AND c.run = $3
                     AND c.state = 'queued'""",
                *arguments,
            )
            rows = await connection.fetch(
                "SELECT * FROM withdraw_chunks($1, $2, $3, $4, $5, $6)", *arguments, resolver
            )
            if rows:
                event = _withdrawn_event(key, rows, resolver, reason)
                await connection.execute(
                    "SELECT append_event($1, $2)", key.campaign_no, event.SerializeToString()
                )
        waiting = {row["first_position"] for row in open_}
        return Withdrawn(
            sum(row["name_count"] for row in rows),
            {chunk for chunk in chunks if chunk.key.first_position in waiting},
        )

    async def names(self, claim: Claim) -> list[str]:
        """Return the names of a chunk that has every position, in order."""
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
            settled = await _settle(connection, claim, results)
            if settled is None:
                return False
            await _append(connection, claim, settled)
            return True


_RELEASE = "SELECT release_chunk($1, $2, $3, $4, $5, $6)"


def _arguments(key: ChunkKey) -> tuple[int, int, int, int]:
    return key.campaign_no, key.phase, key.run, key.first_position


def _phase(claim: Claim) -> campaign_pb2.Phase.ValueType:
    return campaign_pb2.Phase.ValueType(claim.key.phase)


def _told_attempt(claim: Claim) -> int:
    """As people see it: that the chunk was set aside in between does not make it two attempts."""
    return claim.attempt - claim.park_count


async def _append(connection: Connection, claim: Claim, event: event_pb2.Event) -> None:
    await connection.execute(
        "SELECT append_event($1, $2)", claim.key.campaign_no, event.SerializeToString()
    )


async def _settle(
    connection: Connection, claim: Claim, results: ChunkResults
) -> event_pb2.Event | None:
    """Mark the chunk and store its rows; returns the event to append, None when it is not ours."""
    row = await connection.fetchrow(
        "SELECT elapsed FROM settle_chunk($1, $2, $3, $4, $5, $6, $7, $8)",
        *_arguments(claim.key),
        claim.attempt,
        results.counts,
        results.sha256,
        None if results.tlds is None else json.dumps(results.tlds),
    )
    if row is None:
        return None
    for each in results.tables:
        await connection.copy_to_table(
            each.table, source=_once(each.rows), columns=each.columns, format="binary"
        )
    return _settled_event(claim, results, row["elapsed"])


async def _once(rows: bytes) -> AsyncIterator[bytes]:
    yield rows


def _settled_event(claim: Claim, results: ChunkResults, elapsed: timedelta) -> event_pb2.Event:
    settled = event_pb2.ChunkSettled(
        phase=_phase(claim),
        run=claim.key.run,
        first_position=claim.key.first_position,
        name_count=claim.name_count,
        attempt=_told_attempt(claim),
        outcomes=[
            campaign_pb2.OutcomeCount(outcome=outcome, count=count)
            for outcome, count in zip(results.outcomes, results.counts, strict=True)
            if count
        ],
    )
    settled.duration.FromTimedelta(elapsed)
    return event_pb2.Event(chunk_settled=settled)


def _withdrawn_event(
    key: ChunkKey, rows: Sequence[asyncpg.Record], resolver: str, reason: str
) -> event_pb2.Event:
    counts = [0] * len(Verdict)
    for row in rows:
        for index, count in enumerate(row["outcome_counts"]):
            counts[index] += count
    return event_pb2.Event(
        verdicts_withdrawn=event_pb2.VerdictsWithdrawn(
            phase=campaign_pb2.Phase.ValueType(key.phase),
            run=key.run,
            first_positions=sorted(row["first_position"] for row in rows),
            name_count=sum(row["name_count"] for row in rows),
            outcomes=[
                campaign_pb2.OutcomeCount(outcome=verdict.name, count=count)
                for verdict, count in zip(Verdict, counts, strict=True)
                if count
            ],
            resolver=resolver,
            reason=reason[:MAX_CAUSE],
        )
    )
