"""A query service over a real database, behind a real port, and campaigns made by SQL."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest

from domainflow.query.v1.query_service_pb2_grpc import (
    QueryServiceStub,
    add_QueryServiceServicer_to_server,
)
from domainflow.validation.v1.dns_pb2 import DNS_AGREEMENT_CONFIRMED, DnsEvidence
from services.chassis.postgres import Pool, open_pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard
from services.query.columns import Columns, ColumnStore
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
            async def columns(self, *arguments: Any, **named: Any) -> Columns:
                columns = await super().columns(*arguments, **named)
                counter.names_read += len(columns.positions)
                return columns

        service = QueryService(reads=Reads(pool), seal=Seal([KEY]))
        service.column_store = CountingStore  # type: ignore[misc]
        server = grpc.aio.server(
            interceptors=[CallGuard(rules=RULES, max_calls=50, max_streams=50)]
        )
        add_QueryServiceServicer_to_server(service, server)
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
                """UPDATE chunks SET state = 'done', outcome_counts = $4, done_time = now()
                WHERE campaign_no = $1 AND phase = 2 AND run = $3 AND first_position = $2
                  AND name_count = $5 AND state <> 'done'""",
                made.no,
                first,
                run,
                counts,
                len(verdicts),
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
