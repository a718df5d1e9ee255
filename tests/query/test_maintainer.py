"""The maintainer: what it derives, whatever ends it in between, and that it leaves nothing."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from asyncpg.transaction import Transaction

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1 import stream_pb2, summary_pb2
from services.campaign.deletion import Deletions, Eraser, Position
from services.chassis.config import BadEnvironment
from services.chassis.postgres import Pool, open_pool
from services.query.derived import source_version
from services.query.maintainer import LOCK, Maintainer, Settings, jobs_of, read
from services.query.maintenance.copies import Sealing, UntrueCopies
from services.query.maintenance.drift import DriftCheck
from services.query.maintenance.job import CampaignGone, Hands, Job, hold_campaign
from services.query.maintenance.name_order import BLOCK_SIZE, NameOrder
from services.query.maintenance.retention import OldFigures, Orphans
from services.query.maintenance.tld_backfill import TldBackfill
from services.query.packed import unpack, unpack_ranked
from services.query.ranked_pages import DIRECTORY
from services.query.ranks import ScoreRanks
from services.query.sealed import SEGMENT_SIZE, Segment, tiles
from tests.eventually import eventually
from tests.meters import measured
from tests.query.conftest import Analysis, Made, Query, Writer

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(database_url, application_name="test", max_size=8) as pool:
        yield pool


@pytest.fixture
async def hands(pool: Pool) -> AsyncIterator[Hands]:
    """What a job has in hand."""
    async with pool.acquire() as connection:
        yield Hands(connection, pool)


async def done(job: Job, hands: Hands) -> list[int]:
    """Do all there is to do; the campaigns, in turns."""
    turns = []
    while (no := await job.find(hands, [])) is not None:
        turns.append(no)
        await job.work(hands, no)
    return turns


async def maintained(database_url: str) -> bool:
    """All that is due is done, by a maintainer that starts anew."""
    return await Maintainer(database_url, jobs_of(Settings(database_url))).once()


def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "services.query", "maintain", *arguments],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen/python")]),
            **environment,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def process(database_url: str) -> Iterator["subprocess.Popen[str]"]:
    running = start(DATABASE_URL=database_url)
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=30)


# The order of names.


async def test_names_are_put_in_order_once_all_are_there(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    names = [f"{n * 7919 % 1000:03}-é.example".encode("idna").decode() for n in range(1000)]
    made = await writer.campaign(names)
    assert await done(NameOrder(), hands) == []

    await writer.finish_generation(made)

    assert await done(NameOrder(), hands) == [made.no]
    assert await order_of(pool, made) == sorted(range(1000), key=lambda p: (names[p], p))
    firsts = await pool.fetch("SELECT first_name FROM name_orders ORDER BY block")
    assert [row[0] for row in firsts] == sorted(names)[::BLOCK_SIZE]
    (derivation,) = await pool.fetch("SELECT * FROM derivations")
    assert (derivation["kind"], derivation["name_count"]) == ("name_order", 1000)
    assert derivation["finish_time"] is not None


async def order_of(pool: Pool, made: Made) -> list[int]:
    blocks = await pool.fetch(
        "SELECT block, positions FROM name_orders WHERE campaign_no = $1 ORDER BY block", made.no
    )
    assert [row["block"] for row in blocks] == list(range(len(blocks)))
    return [position for row in blocks for position in row["positions"]]


async def test_equal_names_are_in_order_of_position(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made = await writer.campaign(["b.example", "a.example", "b.example", "a.example"])
    await writer.finish_generation(made)

    await done(NameOrder(), hands)

    assert await order_of(pool, made) == [1, 3, 0, 2]


async def test_campaign_without_names_has_an_order_too(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made = await writer.campaign(0)
    await writer.finish_generation(made)

    assert await done(NameOrder(), hands) == [made.no]

    assert await pool.fetchval("SELECT count(*) FROM derivations") == 1


async def test_small_campaigns_do_not_wait_for_large_ones(writer: Writer, hands: Hands) -> None:
    sizes = [300, 5, 40]
    made = [await writer.campaign(size) for size in sizes]
    for each in made:
        await writer.finish_generation(each)

    assert await done(NameOrder(), hands) == [made[1].no, made[2].no, made[0].no]


# Copies for streams.


async def finished(writer: Writer, names: int = 12_000) -> Made:
    """A campaign that is over, with results."""
    made = await writer.campaign(names)
    await writer.plan(made, names, names)
    await writer.settle(made, 0, [1 + n % 3 for n in range(names)])
    await end(writer, made)
    return made


async def end(writer: Writer, made: Made) -> None:
    await writer.connection.execute(
        "UPDATE phases SET status = 'COMPLETED' WHERE campaign_no = $1", made.no
    )
    await writer.connection.execute(
        "UPDATE campaigns SET status = 'COMPLETED' WHERE no = $1", made.no
    )


async def copies(pool: Pool, made: Made, kind: str) -> list[asyncpg.Record]:
    return await pool.fetch(
        "SELECT * FROM derivations WHERE campaign_no = $1 AND kind = $2 ORDER BY id",
        made.no,
        kind,
    )


async def segments(pool: Pool, copy_id: int) -> list[Segment]:
    rows = await pool.fetch(
        """SELECT first_position, name_count, payload FROM segments
           WHERE derivation_id = $1 ORDER BY 1""",
        copy_id,
    )
    return [Segment(*row) for row in rows]


async def sealed(pool: Pool, made: Made, kind: str) -> bytes:
    """All of the one copy there is, which must be whole and true."""
    (copy,) = await copies(pool, made, kind)
    assert copy["finish_time"] is not None
    assert copy["source_version"] == await source_version(pool, made.no, kind)
    stored = await segments(pool, copy["id"])
    assert tiles(stored, 0, copy["name_count"])
    return b"".join(segment.payload for segment in stored)


async def paged(pool: Pool, made: Made) -> list[tuple[int, str, int]]:
    """Position, name and DNS verdict of every domain in the copy for pages."""
    await sealed(pool, made, "pages")
    (copy,) = await copies(pool, made, "pages")
    found = [
        domain
        for segment in await segments(pool, copy["id"])
        for domain in unpack(segment.payload, range(segment.name_count))
    ]
    domains = pb.ListDomainsResponse.FromString(b"".join(found)).domains
    return [(domain.position, domain.name, domain.dns.verdict) for domain in domains]


async def test_campaign_that_is_over_is_copied(writer: Writer, pool: Pool, hands: Hands) -> None:
    made = await finished(writer)

    await done(Sealing(least_names=1), hands)

    names = pb.DomainBatch.FromString(await sealed(pool, made, "names")).names
    assert names == [f"name-{n}.example" for n in range(12_000)]
    batch = stream_pb2.EnrichedBatch.FromString(await sealed(pool, made, "enriched"))
    assert batch.names == names
    assert list(batch.positions) == list(range(12_000))
    assert list(batch.dns_verdicts) == [1 + n % 3 for n in range(12_000)]
    assert set(batch.http_verdicts) == {0}
    assert await paged(pool, made) == [(n, names[n], 1 + n % 3) for n in range(12_000)]
    (copy,) = await copies(pool, made, "enriched")
    starts = [segment.first_position for segment in await segments(pool, copy["id"])]
    assert starts == [0, SEGMENT_SIZE, 2 * SEGMENT_SIZE]


async def test_small_and_unfinished_campaigns_are_not_copied(writer: Writer, hands: Hands) -> None:
    await finished(writer, 99)
    running = await writer.campaign(200)
    await writer.finish_generation(running)
    await writer.plan(running, 200, 100)

    assert await done(Sealing(least_names=100), hands) == []


async def test_long_names_make_segments_that_fit_a_message(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    names = [f"{n:05}." + "x" * 60 + ("." + "y" * 60) * 3 + ".com" for n in range(SEGMENT_SIZE)]
    made = await writer.campaign(names)
    await end(writer, made)

    await done(Sealing(least_names=1), hands)

    assert pb.DomainBatch.FromString(await sealed(pool, made, "names")).names == names
    for kind in ("names", "enriched"):
        (copy,) = await copies(pool, made, kind)
        stored = await segments(pool, copy["id"])
        assert len(stored) > 1
        assert all(len(segment.payload) <= 1_000_000 for segment in stored)


async def test_rerun_gets_a_new_copy_and_the_old_one_goes(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made = await finished(writer)
    await done(Sealing(least_names=1), hands)
    (names,), (old,) = await copies(pool, made, "names"), await copies(pool, made, "enriched")

    await writer.plan(made, 12_000, 12_000, run=2)
    await writer.settle(made, 0, [2] * 12_000, run=2)
    await end(writer, made)

    assert await done(UntrueCopies(sealing=True), hands)
    assert await copies(pool, made, "enriched") == []
    assert await segments(pool, old["id"]) == []
    await done(Sealing(least_names=1), hands)
    batch = stream_pb2.EnrichedBatch.FromString(await sealed(pool, made, "enriched"))
    assert list(batch.dns_verdicts) == [2] * 12_000
    # Names are what they were.
    assert await copies(pool, made, "names") == [names]


async def test_verdict_that_is_taken_back_makes_a_copy_untrue(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made = await writer.campaign(20)
    await writer.plan(made, 20, 10)
    await writer.settle(made, 0, [1] * 10)
    await writer.settle(made, 10, [2] * 10)
    await end(writer, made)
    await done(Sealing(least_names=1), hands)
    before = await sealed(pool, made, "enriched")

    async with writer.connection.transaction():
        await writer.connection.execute(
            """UPDATE chunks SET state = 'ready', outcome_counts = NULL
               WHERE campaign_no = $1 AND phase = 2 AND first_position = 0""",
            made.no,
        )
        await writer.connection.execute(
            "DELETE FROM dns_results WHERE campaign_no = $1 AND position < 10", made.no
        )
        await writer.connection.execute("SELECT append_event($1, '')", made.no)

    assert await done(UntrueCopies(sealing=True), hands)
    await writer.settle(made, 0, [3] * 10)
    await done(Sealing(least_names=1), hands)
    await done(UntrueCopies(sealing=True), hands)
    assert await sealed(pool, made, "enriched") != before


async def test_copy_that_was_overtaken_is_never_finished(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made = await finished(writer)
    one_by_one = Sealing(least_names=1, piece=0)
    for _ in range(4):
        await one_by_one.work(hands, made.no)
    (begun,) = await copies(pool, made, "enriched")
    assert begun["finish_time"] is None
    assert len(await segments(pool, begun["id"])) == 1

    await writer.plan(made, 12_000, 12_000, run=2)
    await writer.settle(made, 0, [2] * 12_000, run=2)
    await end(writer, made)
    await done(one_by_one, hands)
    await done(UntrueCopies(sealing=True), hands)

    batch = stream_pb2.EnrichedBatch.FromString(await sealed(pool, made, "enriched"))
    assert list(batch.dns_verdicts) == [2] * 12_000
    assert begun["id"] != (await copies(pool, made, "enriched"))[0]["id"]


async def test_copies_go_where_none_are_wanted(writer: Writer, pool: Pool, hands: Hands) -> None:
    made = await finished(writer, 100)
    await done(Sealing(least_names=1), hands)
    await done(NameOrder(), hands)

    await done(UntrueCopies(sealing=False), hands)

    assert await pool.fetchval("SELECT count(*) FROM segments") == 0
    assert [row[0] for row in await pool.fetch("SELECT kind FROM derivations")] == ["name_order"]
    assert await order_of(pool, made) != []


async def test_copy_that_was_partly_removed_is_gone_on_with(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made = await finished(writer, 30 * SEGMENT_SIZE)
    await done(Sealing(least_names=1), hands)
    whole = await sealed(pool, made, "names")
    removing = UntrueCopies(sealing=False)
    no = await removing.find(hands, [])
    assert no is not None
    await removing.work(hands, no)
    assert await pool.fetchval("SELECT count(*) FROM derivations WHERE finish_time IS NULL") == 1

    await done(Sealing(least_names=1), hands)

    assert await sealed(pool, made, "names") == whole


async def ranked(pool: Pool, made: Made, kind: str) -> list[tuple[int, str]]:
    """Position and name of every domain of the one copy there is in such an order."""
    (copy,) = await copies(pool, made, kind)
    assert copy["finish_time"] is not None
    stored = [each for each in await segments(pool, copy["id"]) if each.first_position >= 0]
    assert tiles(stored, 0, copy["name_count"])
    found = list[tuple[int, str]]()
    for segment in stored:
        positions, wire = unpack_ranked(segment.payload)
        domains = pb.ListDomainsResponse.FromString(b"".join(wire)).domains
        assert [domain.position for domain in domains] == positions
        assert len(positions) == segment.name_count
        found += [(domain.position, domain.name) for domain in domains]
    return found


async def scored(writer: Writer, names: int) -> tuple[Made, dict[int, int]]:
    """A campaign that is over, and the score by position of every third domain."""
    made = await finished(writer, names)
    scores = {n: n * 7919 % 1001 for n in range(1, names, 3)}
    await writer.settle_analysis(made, {n: Analysis(score) for n, score in scores.items()})
    await end(writer, made)
    return made, scores


async def test_copies_for_pages_are_made_in_the_order_of_names_and_of_scores_piece_by_piece(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    names = 2 * SEGMENT_SIZE + 3
    made, scores = await scored(writer, names)
    one_by_one = Sealing(least_names=1, piece=0)

    await done(one_by_one, hands)
    assert await copies(pool, made, "pages_by_name") == []
    await done(NameOrder(), hands)
    await done(one_by_one, hands)

    by_name = await ranked(pool, made, "pages_by_name")
    assert by_name == sorted(((n, f"name-{n}.example") for n in range(names)), key=lambda e: e[1])
    by_score = await ranked(pool, made, "pages_by_score")
    in_order = sorted(scores, key=lambda n: (scores[n], n))
    assert [position for position, _ in by_score] == in_order
    (copy,) = await copies(pool, made, "pages_by_score")
    first, *_ = await segments(pool, copy["id"])
    assert (first.first_position, first.name_count) == DIRECTORY
    directory = ScoreRanks.open(first.payload)
    assert directory.count == len(scores)
    assert list(directory.scores(range(len(scores)))) == [scores[n] for n in in_order]


async def test_copy_by_score_that_was_partly_removed_is_gone_on_with(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made, _ = await scored(writer, 4_000)
    await done(Sealing(least_names=1), hands)
    whole = await ranked(pool, made, "pages_by_score")
    (copy,) = await copies(pool, made, "pages_by_score")
    for left in (5 * 8, 0):
        await pool.execute("UPDATE derivations SET finish_time = NULL WHERE id = $1", copy["id"])
        await pool.execute(
            "DELETE FROM segments WHERE derivation_id = $1 AND first_position >= $2",
            copy["id"],
            left,
        )

        await done(Sealing(least_names=1), hands)

        assert await ranked(pool, made, "pages_by_score") == whole


async def test_copy_by_score_of_a_campaign_without_scores_is_empty(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made = await finished(writer, 20)

    await done(Sealing(least_names=1), hands)

    assert await ranked(pool, made, "pages_by_score") == []


async def test_streams_send_the_copy_as_they_would_send_the_tables(
    writer: Writer, hands: Hands, query: Query
) -> None:
    made = await finished(writer)
    await writer.settle_http(made, {3: 1, 70: 9, 11_999: 1})
    await end(writer, made)
    plain = await enriched(query, made)
    assert plain[1] == 0

    await done(Sealing(least_names=1), hands)

    copied = await enriched(query, made)
    assert copied == (plain[0], 12_000)


async def enriched(query: Query, made: Made) -> tuple[bytes, int]:
    """All batches as one, and how many of the rows came out of a copy."""
    joined = stream_pb2.EnrichedBatch()
    copied = 0
    async for response in query.stub.StreamEnriched(
        stream_pb2.StreamEnrichedRequest(campaign_ids=[str(made)])
    ):
        joined.MergeFrom(response.batch)
        copied += response.summary.performance.sealed_row_count
    for of_call in ("cursor", "domain_count"):
        joined.ClearField(of_call)
    return joined.SerializeToString(), copied


# Outcomes by top-level domain.


async def test_chunks_of_older_workers_are_counted_by_top_level_domain(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    names = [f"name-{n}.{('com', 'net', 'co.uk')[n % 3]}" for n in range(3000)]
    made = await writer.campaign(names)
    await writer.plan(made, 3000, 100)
    for first in range(0, 2900, 100):
        await writer.settle(made, first, [1 + (first + n) % 4 for n in range(100)])
    counted, totals = await tlds(pool)
    assert len(totals) == 3
    await pool.execute("UPDATE chunks SET tld_counts = NULL")
    assert {row["settled_count"] for row in (await tlds(pool))[1]} == {0}

    assert await done(TldBackfill(), hands) == [made.no, made.no]

    assert await tlds(pool) == (counted, totals)


async def tlds(pool: Pool) -> tuple[list[asyncpg.Record], list[asyncpg.Record]]:
    return (
        await pool.fetch("SELECT first_position, tld_counts FROM chunks ORDER BY 1"),
        await pool.fetch("SELECT * FROM tld_totals ORDER BY tld"),
    )


async def test_generated_chunks_are_counted_too(writer: Writer, pool: Pool, hands: Hands) -> None:
    made = await writer.campaign(["a.com", "b.com", "c.net"])
    await pool.execute(
        """INSERT INTO chunks
               (campaign_no, phase, run, first_position, name_count, state, outcome_counts)
           VALUES ($1, 1, 1, 0, 3, 'done', '{3}')""",
        made.no,
    )

    await done(TldBackfill(), hands)

    found = await pool.fetch("SELECT tld, settled_count FROM tld_totals ORDER BY 1")
    assert [tuple(row) for row in found] == [("com", 2), ("net", 1)]


async def test_large_chunks_are_counted_a_few_at_a_time(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made = await writer.campaign(["a.com"])
    await pool.execute(
        """INSERT INTO chunks
               (campaign_no, phase, run, first_position, name_count, state, outcome_counts)
           SELECT $1, 1, 1, n * 100000, 100000, 'done', '{100000}' FROM generate_series(0, 4) n""",
        made.no,
    )

    assert await done(TldBackfill(), hands) == [made.no] * 3


# Counters.


async def checks(pool: Pool) -> dict[int, int]:
    return dict(await pool.fetch("SELECT campaign_no, drift_count FROM counter_checks"))


async def test_counters_of_a_campaign_that_is_over_are_checked_once(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made = await finished(writer, 500)
    running = await writer.campaign(10)
    await writer.plan(running, 10, 10)
    job = DriftCheck()

    await done(job, hands)

    assert await checks(pool) == {made.no: 0}
    assert await done(job, hands) == []


async def test_running_campaign_is_checked_from_time_to_time(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    running = await writer.campaign(20)
    await writer.plan(running, 20, 10)
    await writer.settle(running, 0, [1] * 10)
    job = DriftCheck(timedelta(hours=6))
    assert await done(job, hands) == []

    await pool.execute("UPDATE campaigns SET create_time = now() - interval '7 hours'")
    await done(job, hands)
    assert await checks(pool) == {running.no: 0}
    await writer.settle(running, 10, [1] * 10)
    assert await done(job, hands) == []
    await pool.execute("UPDATE counter_checks SET check_time = now() - interval '7 hours'")

    assert await done(job, hands)


async def test_drift_is_stored_and_told(
    writer: Writer, pool: Pool, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    before = drifts_metered()
    made = await finished(writer, 300)
    await pool.execute(
        "UPDATE ledger_totals SET outcome_counts[2] = outcome_counts[2] + 1 WHERE campaign_no = $1",
        made.no,
    )

    await done(DriftCheck(), hands)

    assert await checks(pool) == {made.no: 1}
    body = await pool.fetchval("SELECT body FROM counter_checks")
    (drift,) = summary_pb2.CheckCountersResponse.FromString(body).drifts
    assert (drift.counted, drift.actual) == (101, 100)
    assert "says 101 instead of 100" in caplog.text
    assert drifts_metered() == before + 1


def drifts_metered() -> float:
    metric = measured().get("domainflow.query.counter_drift")
    return sum(getattr(point, "value", 0) for point in metric.data.data_points) if metric else 0


# What nobody needs any more.


async def test_figures_are_kept_for_their_time(pool: Pool, hands: Hands) -> None:
    await pool.execute(
        """INSERT INTO query_performance
           SELECT now() - n * interval '1 day', 'p', 'm', 1, 1, 1, 1, '{1}'
           FROM generate_series(0, 20) n"""
    )
    await pool.execute(
        """INSERT INTO pool_history SELECT now() - n * interval '1 day', 'p', 1, 1, 1, 1, 1
           FROM generate_series(0, 20) n"""
    )
    await pool.execute(
        """INSERT INTO slow_queries (end_time, method, duration_us, statement, plan)
           SELECT now() - n * interval '1 day', 'm', 1, '', '' FROM generate_series(0, 20) n"""
    )
    await pool.execute(
        """INSERT INTO pool_reports VALUES ('gone', now() - interval '2 minutes', ''),
           ('here', now() - interval '30 seconds', '')"""
    )

    await done(OldFigures(), hands)

    for table in ("query_performance", "pool_history", "slow_queries"):
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 7, table
    assert await pool.fetchval("SELECT process FROM pool_reports") == "here"


async def test_derived_rows_of_nobody_are_removed(writer: Writer, pool: Pool, hands: Hands) -> None:
    kept = await finished(writer, 1000)
    for job in (NameOrder(), Sealing(least_names=1), DriftCheck()):
        await done(job, hands)
    before = await derived(pool, kept.no)
    assert all(before.values())
    await pool.execute(
        """INSERT INTO derivations (campaign_no, kind, source_version, name_count)
           VALUES (4711, 'names', '', 1), (4712, 'names', '', 1)"""
    )
    await pool.execute("INSERT INTO name_orders VALUES (4711, 0, 'a', '{1}')")
    # Left by a campaign service of a version that knew nothing of them.
    await pool.execute("INSERT INTO ledger_totals VALUES (4711, 1, 1), (4711, 2, 1), (4712, 1, 1)")
    await pool.execute("INSERT INTO tld_totals SELECT 4711, 2, 1, n FROM generate_series(1, 700) n")
    await pool.execute(
        "INSERT INTO counter_checks VALUES (4713, 1, now(), 1, 0, ''), (4714, 1, now(), 1, 0, '')"
    )
    await pool.execute("INSERT INTO segments SELECT 10000, n, 1, '' FROM generate_series(1, 700) n")

    assert await done(Orphans(), hands)

    for table in ("ledger_totals", "tld_totals"):
        nos = await pool.fetch(f"SELECT DISTINCT campaign_no FROM {table}")
        assert [row[0] for row in nos] == [kept.no], table
    assert await derived(pool, kept.no) == before
    for table in before:
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == before[table], table


async def derived(pool: Pool, no: int) -> dict[str, int]:
    """Derived rows of a campaign, by table."""
    counts = {
        table: await pool.fetchval(f"SELECT count(*) FROM {table} WHERE campaign_no = $1", no)
        for table in ("name_orders", "derivations", "counter_checks")
    }
    counts["segments"] = await pool.fetchval(
        """SELECT count(*) FROM segments
           WHERE derivation_id IN (SELECT id FROM derivations WHERE campaign_no = $1)""",
        no,
    )
    return counts


# Deletion.


async def begin_deletion(pool: Pool, no: int) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE campaigns SET delete_time = now() WHERE no = $1", no)
        await connection.execute(
            "INSERT INTO deletions (campaign_no, campaign_id, row_count) SELECT no, id, 0"
            " FROM campaigns WHERE no = $1",
            no,
        )


@asynccontextmanager
async def erasing(pool: Pool) -> AsyncIterator[None]:
    eraser = asyncio.create_task(Eraser(Deletions(pool)).erase())
    try:
        yield
    finally:
        eraser.cancel()
        await asyncio.wait([eraser])


async def test_nothing_is_derived_of_a_campaign_that_is_being_deleted(
    writer: Writer, pool: Pool, hands: Hands
) -> None:
    made = await finished(writer, 100)
    await begin_deletion(pool, made.no)

    for job in (NameOrder(), Sealing(least_names=1), DriftCheck()):
        assert await job.find(hands, []) is None
        with pytest.raises(CampaignGone):
            await job.work(hands, made.no)

    assert not any((await derived(pool, made.no)).values())


async def test_deletion_waits_for_what_is_just_being_derived(writer: Writer, pool: Pool) -> None:
    made = await finished(writer, 100)
    async with pool.acquire() as connection:
        open_ = connection.transaction()
        await open_.start()
        await hold_campaign(connection, made.no)
        await connection.execute("INSERT INTO name_orders VALUES ($1, 0, 'a', '{1}')", made.no)
        await begin_deletion(pool, made.no)
        deletion = asyncio.create_task(
            Deletions(pool).delete_portion(made.no, Position(), 1_000_000)
        )

        async def waits() -> None:
            assert await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0

        await eventually(waits)
        await open_.commit()
    assert (await deletion).last

    assert await pool.fetchval("SELECT count(*) FROM name_orders") == 0


async def test_deletions_beside_a_maintainer_leave_nothing(
    writer: Writer, pool: Pool, database_url: str
) -> None:
    jobs: list[Job] = [NameOrder(), Sealing(least_names=1, piece=0), DriftCheck()]
    maintainer = asyncio.create_task(Maintainer(database_url, jobs).maintain())
    async with erasing(pool):
        made = [await finished(writer, 200) for _ in range(10)]

        async def some_are_derived() -> None:
            assert await pool.fetchval("SELECT count(*) FROM name_orders") > 0

        await eventually(some_are_derived)
        for each in made:
            await begin_deletion(pool, each.no)

        async def gone() -> None:
            assert await pool.fetchval("SELECT count(*) FROM campaigns") == 0

        await eventually(gone, within=30)
    maintainer.cancel()
    await asyncio.wait([maintainer])

    for table in ("name_orders", "derivations", "segments", "counter_checks", "ledger_totals"):
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 0, table


# The process.


# A table that each job writes to, in order of their turns: who cannot have it stands in the middle
# of its job.
WRITTEN = ("name_orders", "query_performance", "chunks", "segments", "counter_checks")


async def test_killed_in_the_middle_of_every_job_it_does_them_again(
    writer: Writer, pool: Pool, database_url: str
) -> None:
    made = await finished(writer, 50_000)
    await pool.execute("UPDATE chunks SET tld_counts = NULL")
    await pool.execute(
        """INSERT INTO query_performance
           VALUES (now() - interval '8 days', 'p', 'm', 1, 1, 1, 1, '{1}')"""
    )
    async with AsyncExitStack() as locked:
        barred = {table: await locked.enter_async_context(bar(pool, table)) for table in WRITTEN}
        for table in WRITTEN:
            with process(database_url) as running:
                await eventually(partial(is_stuck, pool, table), within=30)
                running.kill()
            # Also of one that waits inside of a statement.
            await eventually(partial(work, pool, 0), within=30)
            await barred[table].rollback()

    assert await maintained(database_url)

    assert await order_of(pool, made) == sorted(range(50_000), key=lambda n: f"name-{n}.example")
    names = pb.DomainBatch.FromString(await sealed(pool, made, "names")).names
    assert names == [f"name-{n}.example" for n in range(50_000)]
    batch = stream_pb2.EnrichedBatch.FromString(await sealed(pool, made, "enriched"))
    assert list(batch.dns_verdicts) == [1 + n % 3 for n in range(50_000)]
    assert await paged(pool, made) == [(n, names[n], 1 + n % 3) for n in range(50_000)]
    assert await pool.fetchval("SELECT sum(settled_count) FROM tld_totals") == 50_000
    assert await checks(pool) == {made.no: 0}
    assert await pool.fetchval("SELECT count(*) FROM query_performance") == 0


@asynccontextmanager
async def bar(pool: Pool, table: str) -> AsyncIterator[Transaction]:
    """Let nobody write to the table, until rolled back."""
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await connection.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        yield transaction


async def is_stuck(pool: Pool, table: str) -> None:
    assert await pool.fetchval(
        "SELECT count(*) FROM pg_locks WHERE relation = $1::regclass AND NOT granted", table
    )


async def work(pool: Pool, count: int) -> None:
    assert await holders(pool) == count


async def holders(pool: Pool) -> int:
    """Maintainers that work."""
    return await pool.fetchval(
        """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND (classid::bigint << 32 | objid::bigint) = $1""",
        LOCK,
    )


async def test_one_of_two_works_and_the_other_takes_over(
    writer: Writer, pool: Pool, database_url: str
) -> None:
    with process(database_url) as first:
        await eventually(partial(work, pool, 1), within=30)
        with process(database_url) as second:

            async def both_are_there() -> None:
                assert (
                    await pool.fetchval(
                        """SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database()
                         AND application_name = 'domainflow-maintainer'"""
                    )
                    == 2
                )

            await eventually(both_are_there, within=30)
            await derived_by_somebody(writer, pool)
            # Another one has nothing to do.
            assert await maintained(database_url)
            assert await holders(pool) == 1

            first.kill()
            await derived_by_somebody(writer, pool)
            second.send_signal(signal.SIGTERM)
            _, said = second.communicate(timeout=30)
            assert second.returncode == 0
            assert "maintenance begins" in said
            assert "Traceback" not in said


async def derived_by_somebody(writer: Writer, pool: Pool) -> None:
    made = await writer.campaign(3)
    await writer.finish_generation(made)

    async def in_order() -> None:
        assert (await derived(pool, made.no))["name_orders"] == 1

    await eventually(in_order, within=30)


async def test_lost_connection_is_made_anew(writer: Writer, pool: Pool, database_url: str) -> None:
    maintainer = asyncio.create_task(
        Maintainer(database_url, jobs_of(Settings(database_url))).maintain()
    )
    try:
        await derived_by_somebody(writer, pool)
        ended = await pool.fetchval(
            """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE application_name LIKE 'domainflow-maintainer%'
                 AND datname = current_database()"""
        )
        assert ended
        await derived_by_somebody(writer, pool)
    finally:
        maintainer.cancel()
        await asyncio.wait([maintainer])
    assert maintainer.cancelled()


# With the last three a server may be on its way out; this one stays, and would say it for ever.
@pytest.mark.parametrize("state", ["raise_exception", "disk_full", "query_canceled", "53400"])
async def test_campaign_that_fails_stops_no_other(
    writer: Writer, pool: Pool, database_url: str, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    bad, good = await writer.campaign(3), await writer.campaign(4)
    for each in (bad, good):
        await writer.finish_generation(each)
    await pool.execute(
        f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'damaged' USING ERRCODE = '{state}'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON name_orders FOR EACH ROW
            WHEN (NEW.campaign_no = {bad.no}) EXECUTE FUNCTION refuse()"""
    )

    assert not await maintained(database_url)

    assert (await derived(pool, good.no))["name_orders"] == 1
    assert not any((await derived(pool, bad.no)).values())
    assert "damaged" in caplog.text


async def test_job_that_cannot_even_look_stops_no_other(
    writer: Writer, pool: Pool, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = await writer.campaign(3)
    await writer.finish_generation(made)
    await pool.execute("DROP TABLE slow_queries")

    assert not await maintained(database_url)

    assert (await derived(pool, made.no))["name_orders"] == 1
    assert "old figures" in caplog.text


def test_unknown_role_is_refused() -> None:
    refused = start("--twice", DATABASE_URL="x")
    _, said = refused.communicate(timeout=30)
    usage = "usage: python -m services.query [serve | maintain [--once]]\n"
    assert (refused.returncode, said) == (2, usage)


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({}, "DATABASE_URL is not set"),
        ({"QUERY_SEAL": "no"}, "QUERY_SEAL='no' is neither on nor off"),
        ({"QUERY_COUNTER_CHECK_HOURS": "0"}, "QUERY_COUNTER_CHECK_HOURS is not above 0"),
    ],
)
def test_setting_without_sense_is_refused(environment: dict[str, str], complaint: str) -> None:
    named = {"DATABASE_URL": "x", **environment} if environment else {}

    with pytest.raises(BadEnvironment, match=complaint):
        read(named)
