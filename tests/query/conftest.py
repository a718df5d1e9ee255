"""A query service over a real database, behind a real port, and campaigns made by SQL."""

import hashlib
import json
from collections import Counter as Multiset
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest

from domainflow.query.v1.query_service_pb2_grpc import QueryServiceStub
from domainflow.validation.v1.dns_pb2 import DNS_AGREEMENT_CONFIRMED, DnsEvidence
from domainflow.validation.v1.lead_pb2 import (
    CONTACT_KIND_EMAIL,
    LEAD_REASON_QUALIFIED,
    Contact,
    Lead,
)
from services.chassis.postgres import Pool, open_pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard
from services.query.columns import Columns, ColumnStore
from services.query.passing import add_query_service
from services.query.reads import Reads
from services.query.service import RULES, QueryService
from services.validation.results import COLUMNS

KEY = b"k" * 32


@dataclass(slots=True)
class Counter:
    """Counts the names that were read for streams."""

    names_read: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """The service under test, from both sides."""

    stub: QueryServiceStub
    store: Counter
    pool: Pool


@pytest.fixture
async def query(database_url: str) -> AsyncIterator[Query]:
    pool = await open_pool(database_url, application_name="query", max_size=4, read_only=True)
    async with pool:
        counter = Counter()

        class CountingStore(ColumnStore):
            async def batches(self, *arguments: Any, **named: Any) -> list[Columns] | None:
                batches = await super().batches(*arguments, **named)
                counter.names_read += sum(len(batch.positions) for batch in batches or [])
                return batches

            async def spans(self, *arguments: Any, **named: Any) -> list[Columns | None]:
                batches = await super().spans(*arguments, **named)
                counter.names_read += sum(len(batch.positions) for batch in batches if batch)
                return batches

        service = QueryService(reads=Reads(pool), seal=Seal([KEY]))
        service.column_store = CountingStore  # type: ignore[misc]
        server = grpc.aio.server(
            interceptors=[CallGuard(rules=RULES, max_calls=50, max_streams=50)]
        )
        add_query_service(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Query(QueryServiceStub(channel), counter, pool)
        await server.stop(0)


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator["Writer"]:
    connection = await asyncpg.connect(database_url)
    yield Writer(connection)
    await connection.close()


@dataclass(frozen=True, slots=True)
class Made:
    """A campaign in the tables."""

    id: UUID
    no: int

    def __str__(self) -> str:
        return str(self.id)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the analysis found in a page: the score in thousandths, numbers of PageWarning, hits by
    keyword."""

    score: int
    warnings: Sequence[int] = ()
    keywords: Mapping[str, int] = field(default_factory=dict)

    @property
    def hits(self) -> list[tuple[str, int]]:
        """The most frequent keyword first."""
        return sorted(self.keywords.items(), key=lambda hit: (-hit[1], hit[0]))


class Writer:
    """Plays the services that write: makes campaigns, plans their chunks, settles them."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.connection = connection

    async def campaign(self, names: int | Sequence[str]) -> Made:
        """A campaign whose DNS phase was never started, with these names or so many."""
        if isinstance(names, int):
            names = [f"name-{number}.example" for number in range(names)]
        campaign_id = uuid4()
        no = await self.connection.fetchval(
            """INSERT INTO campaigns
                (id, name, mode, initial_phase, final_phase, configuration, name_count)
            VALUES ($1, 'a campaign', 'STEP_BY_STEP', 1, 2, '', $2) RETURNING no""",
            campaign_id,
            len(names),
        )
        await self.connection.executemany(
            "INSERT INTO phases (campaign_no, phase, status) VALUES ($1, $2, 'NOT_STARTED')",
            [(no, 1), (no, 2)],
        )
        await self.connection.copy_records_to_table(
            "domains", records=[(no, position, name) for position, name in enumerate(names)]
        )
        return Made(campaign_id, no)

    async def add_names(self, made: Made, names: Sequence[str]) -> None:
        async with self.connection.transaction():
            before = await self.connection.fetchval(
                """UPDATE campaigns SET name_count = name_count + $2 WHERE no = $1
                RETURNING name_count - $2""",
                made.no,
                len(names),
            )
            await self.connection.copy_records_to_table(
                "domains", records=[(made.no, before + n, name) for n, name in enumerate(names)]
            )

    async def plan(self, made: Made, names: int, chunk: int, *, run: int = 1) -> None:
        """Start the DNS phase and put chunks for the first `names` names into the ledger."""
        await self.connection.execute(
            """UPDATE phases SET status = 'RUNNING', run = $2, result_run = $2
            WHERE campaign_no = $1 AND phase = 2""",
            made.no,
            run,
        )
        await self.connection.execute(
            """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state)
            SELECT $1, 2, $4, first, least($3, $2 - first), 'ready'
            FROM generate_series(0, $2 - 1, $3) first""",
            made.no,
            names,
            chunk,
            run,
        )

    async def queue(self, made: Made, first: int, *, run: int = 1) -> None:
        await self.connection.execute(
            """UPDATE chunks SET state = 'queued'
            WHERE campaign_no = $1 AND phase = 2 AND run = $3 AND first_position = $2""",
            made.no,
            first,
            run,
        )

    async def settle(
        self, made: Made, first: int, verdicts: Sequence[int], *, run: int = 1
    ) -> None:
        """Settle the chunk that begins at `first` with these verdicts, in one transaction."""
        counts = [verdicts.count(number) for number in range(1, 11)]
        async with self.connection.transaction():
            changed = await self.connection.execute(
                """UPDATE chunks SET state = 'done', outcome_counts = $4, done_time = now(),
                    tld_counts = $6
                WHERE campaign_no = $1 AND phase = 2 AND run = $3 AND first_position = $2
                  AND name_count = $5 AND state <> 'done'""",
                made.no,
                first,
                run,
                counts,
                len(verdicts),
                await self._tld_counts(made, dict(enumerate(verdicts, first))),
            )
            assert changed == "UPDATE 1"
            await self.connection.copy_records_to_table(
                "dns_results",
                records=[
                    result(made.no, run, first + offset, verdict)
                    for offset, verdict in enumerate(verdicts)
                ],
                columns=COLUMNS,
            )
            await self._event(made)

    async def finish_generation(self, made: Made) -> None:
        """No name will be added any more."""
        await self.connection.execute(
            "UPDATE phases SET status = 'COMPLETED' WHERE campaign_no = $1 AND phase = 1", made.no
        )

    async def count_names(self, made: Made, chunk: int) -> None:
        """Enter the names into the ledger as the generation does, in chunks of so many."""
        await self.connection.execute(
            """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state,
                attempt, done_time, outcome_counts, tld_counts)
            SELECT $1, 1, (SELECT run FROM phases WHERE campaign_no = $1 AND phase = 1),
                min(first), sum(counted), 'done', 1, now(), ARRAY[sum(counted)::int],
                jsonb_object_agg(tld, jsonb_build_object('1', counted))
            FROM (
                SELECT position / $2 AS number, split_part(name, '.', -1) AS tld,
                    count(*) AS counted, position / $2 * $2 AS first
                FROM domains WHERE campaign_no = $1 GROUP BY 1, 2, 4
            ) counted GROUP BY number""",
            made.no,
            chunk,
        )

    async def order_names(self, made: Made, *, block: int = 4_096) -> None:
        """Finish the generation and store the order of the names, so many a block."""
        await self.finish_generation(made)
        async with self.connection.transaction():
            await self.connection.execute(
                """INSERT INTO name_orders (campaign_no, block, first_name, positions)
                SELECT $1, number / $2, (array_agg(name ORDER BY number))[1],
                    array_agg(position ORDER BY number)
                FROM (
                    SELECT name, position, row_number() OVER (ORDER BY name, position) - 1 AS number
                    FROM domains WHERE campaign_no = $1
                ) ordered GROUP BY number / $2""",
                made.no,
                block,
            )
            await self.connection.execute(
                """INSERT INTO derivations
                    (campaign_no, kind, source_version, name_count, finish_time)
                SELECT no, 'name_order', name_count::text, name_count, now()
                FROM campaigns WHERE no = $1""",
                made.no,
            )

    async def settle_http(
        self, made: Made, verdicts: Mapping[int, int], *, run: int = 1, shown: bool = True
    ) -> None:
        """Settle a chunk of the HTTP phase: the names at these positions with these verdicts."""
        await self._settle_later(
            made,
            3,
            run,
            verdicts,
            shown,
            [http_row(made.no, run, *each) for each in verdicts.items()],
        )
        await self.connection.execute(
            """INSERT INTO pages (campaign_no, run, position, kind, features)
            SELECT $1, $2, position, 1, '' FROM unnest($3::int[]) AS position""",
            made.no,
            run,
            [position for position, verdict in verdicts.items() if verdict == 1],
        )

    async def settle_analysis(
        self, made: Made, found: Mapping[int, Analysis], *, run: int = 1, shown: bool = True
    ) -> None:
        """Settle a chunk of the analysis. Outcome 1: with a keyword, 2: without."""
        outcomes = {position: 1 if each.keywords else 2 for position, each in found.items()}
        rows = [
            (
                made.no,
                run,
                position,
                each.score,
                sum(1 << (warning - 1) for warning in each.warnings),
                1_770_000_000_123_456 + position,
                [keyword for keyword, _ in each.hits] or None,
                [count for _, count in each.hits] or None,
                bool(each.keywords),
                # The first scoring of the run.
                0,
            )
            for position, each in found.items()
        ]
        hits = [
            (made.no, run, keyword, position, count)
            for position, each in found.items()
            for keyword, count in each.hits
        ]
        await self._settle_later(made, 4, run, outcomes, shown, rows, hits)

    async def settle_leads(
        self, made: Made, reasons: Mapping[int, int], *, run: int = 1, shown: bool = True
    ) -> None:
        """Settle a chunk of the lead decisions, by LeadReason; QUALIFIED has a contact."""
        rows = [
            (
                made.no,
                run,
                position,
                LEAD_STATUS_OF[reason],
                reason,
                1_780_000_000_123_456 + position,
                CONTACTS if reason == LEAD_REASON_QUALIFIED else None,
            )
            for position, reason in reasons.items()
        ]
        await self._settle_later(made, 5, run, reasons, shown, rows)

    async def show(self, made: Made, phase: int, run: int) -> None:
        """The results of this run of the phase are those that are shown from now on."""
        async with self.connection.transaction():
            await self.connection.execute(
                """INSERT INTO phases (campaign_no, phase, status, run, result_run)
                VALUES ($1, $2, 'RUNNING', $3, $3)
                ON CONFLICT (campaign_no, phase) DO UPDATE
                SET status = 'RUNNING', run = excluded.run, result_run = excluded.result_run""",
                made.no,
                phase,
                run,
            )
            await self._event(made)

    async def _settle_later(
        self,
        made: Made,
        phase: int,
        run: int,
        outcomes: Mapping[int, int],
        shown: bool,
        rows: Sequence[tuple[object, ...]],
        hits: Sequence[tuple[object, ...]] = (),
    ) -> None:
        if not outcomes:
            return
        if shown:
            await self.show(made, phase, run)
        counted = Multiset(outcomes.values())
        async with self.connection.transaction():
            await self.connection.execute(
                """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state,
                    attempt, done_time, outcome_counts, tld_counts)
                VALUES ($1, $2, $3, $4, $5, 'done', 1, now(), $6, $7)""",
                made.no,
                phase,
                run,
                min(outcomes),
                len(outcomes),
                [counted[number] for number in range(1, max(counted) + 1)],
                await self._tld_counts(made, outcomes),
            )
            await self._copy({3: "http_results", 4: "page_analyses", 5: "leads"}[phase], rows)
            await self._copy("keyword_hits", hits)
            await self._event(made)

    async def _copy(self, table: str, rows: Iterable[tuple[object, ...]]) -> None:
        await self.connection.copy_records_to_table(table, records=list(rows))

    async def _tld_counts(self, made: Made, outcomes: Mapping[int, int]) -> str:
        names = await self.connection.fetch(
            """SELECT position, name FROM domains
            WHERE campaign_no = $1 AND position = ANY($2::int[])""",
            made.no,
            list(outcomes),
        )
        counts: dict[str, Multiset[str]] = {}
        for position, name in names:
            counted = counts.setdefault(name.rpartition(".")[2], Multiset())
            counted[str(outcomes[position])] += 1
        return json.dumps(counts)

    async def _event(self, made: Made) -> None:
        """What every writer does last: it moves the campaign's revision."""
        await self.connection.execute("SELECT append_event($1, '')", made.no)


# Status by reason of a lead decision, as in the contract.
LEAD_STATUS_OF = {1: 1, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, 7: 3, 8: 4, 9: 3, 10: 4, 11: 3}
CONTACTS = Lead(
    contacts=[
        Contact(
            kind=CONTACT_KIND_EMAIL, value="info@name.example", source_url="https://name.example/"
        )
    ]
).SerializeToString()
EVIDENCE = DnsEvidence(reason="said by two").SerializeToString()


def result(no: int, run: int, position: int, verdict: int) -> tuple[object, ...]:
    """A row of dns_results: only resolved names have addresses, only TIMEOUT has no answer."""
    resolved, mute = verdict == 1, verdict == 6
    return (
        no,
        run,
        position,
        verdict,
        -1 if mute else 3 if verdict == 2 else 0,
        2,
        False,
        1_500_250,
        1_750_000_000_123_456 + position,
        300 if resolved else None,
        None if mute else "192.0.2.53:53",
        f"198.51.100.{position % 250},2001:db8::1" if resolved else None,
        "alias.example,target.example" if resolved and position % 2 else None,
        "example" if verdict == 2 else None,
        DNS_AGREEMENT_CONFIRMED if resolved else None,
        None if mute else resolved,
        None if mute else resolved,
        EVIDENCE if resolved else None,
    )


def http_row(no: int, run: int, position: int, verdict: int) -> tuple[object, ...]:
    """A row of http_results: only OK has a page, only 9 (NOT_FOUND) another response."""
    ok = verdict == 1
    return (
        no,
        run,
        position,
        verdict,
        200 if ok else 404 if verdict == 9 else None,
        1,
        250_500,
        1_760_000_000_123_456 + position,
        f"https://www.name-{position}.example/" if ok else None,
        f"Page {position}" if ok and position % 2 == 0 else None,
        "en-GB" if ok and position % 3 == 0 else None,
        10_000 + position if ok else None,
        hashlib.sha256(str(position).encode()).digest() if ok else None,
        ok and position % 50 == 0,
        None,
    )
