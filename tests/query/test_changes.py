"""StreamChanges: whoever applies what it tells has what the tables have."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import uuid4

import asyncpg
import grpc
import pytest

from domainflow.query.v1 import stream_pb2 as pb
from tests.query.conftest import Made, Query, Writer
from tests.refusals import read as read_refusal

RESOLVED, NXDOMAIN, TIMEOUT = 1, 2, 6
DNS, HTTP = 2, 3
# (phase, position) -> outcome.
Known = dict[tuple[int, int], int]


async def changes(
    query: Query,
    made: Made,
    since: int = 0,
    *,
    cut: random.Random | None = None,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
    **more: int,
) -> tuple[list[pb.ChangeBatch], int]:
    """All batches since a revision, and the one to go on from; with `cut`, from a client that now
    and then loses its connection, and `meanwhile` happens until it has another."""
    request = pb.StreamChangesRequest(campaign_id=str(made), since_revision=since, **more)
    batches: list[pb.ChangeBatch] = []
    while True:
        call = query.stub.StreamChanges(request)
        sent = 0
        async for message in call:
            if message.WhichOneof("kind") == "summary":
                assert message.summary.row_count == sent
                assert message.summary.freshness.revision >= since
                return batches, message.summary.revision
            batch = message.batch
            assert batch.domain_count == len(batch.positions) == len(batch.names)
            assert batch.revision > since
            batches.append(batch)
            sent += batch.domain_count
            request.cursor = batch.cursor
            if cut and cut.random() < 0.3:
                break
        call.cancel()
        if meanwhile:
            await meanwhile()


def apply(known: Known, batches: Sequence[pb.ChangeBatch]) -> None:
    for batch in batches:
        for position, outcome in zip(batch.positions, batch.outcomes, strict=True):
            if outcome:
                known[batch.phase, position] = outcome
            else:
                known.pop((batch.phase, position), None)


async def stored(writer: Writer, made: Made) -> Known:
    """What the shown runs have, from the tables of results."""
    known: Known = {}
    for phase, table in ((DNS, "dns_results"), (HTTP, "http_results")):
        for position, verdict in await writer.connection.fetch(
            f"""SELECT position, verdict FROM {table} JOIN phases USING (campaign_no)
            WHERE campaign_no = $1 AND phase = $2 AND {table}.run = result_run""",
            made.no,
            phase,
        ):
            known[phase, position] = verdict
    return known


async def take_back(connection: asyncpg.Connection, made: Made, first: int, run: int) -> bool:
    """As withdraw_chunks does with a chunk that rests on a liar's word."""
    async with connection.transaction():
        count = await connection.fetchval(
            """UPDATE chunks SET state = 'ready', outcome_counts = NULL, done_time = NULL
            WHERE campaign_no = $1 AND phase = 2 AND run = $3 AND first_position = $2
              AND state = 'done'
            RETURNING name_count""",
            made.no,
            first,
            run,
        )
        if count is None:
            return False
        await connection.execute(
            """DELETE FROM dns_results WHERE campaign_no = $1 AND run = $2
            AND position >= $3 AND position < $4""",
            made.no,
            run,
            first,
            first + count,
        )
        await connection.execute("SELECT append_event($1, '')", made.no)
    return True


async def begin_run(writer: Writer, made: Made, names: int, chunk: int, run: int) -> None:
    """Chunks of a run whose results are not shown yet."""
    await writer.connection.execute(
        """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state)
        SELECT $1, 2, $4, first, least($3, $2 - first), 'ready'
        FROM generate_series(0, $2 - 1, $3) first""",
        made.no,
        names,
        chunk,
        run,
    )


async def test_everything_comes_in_order_of_settlement(query: Query, writer: Writer) -> None:
    made = await writer.campaign(30)
    await writer.plan(made, 30, 10)
    await writer.settle(made, 20, [RESOLVED] * 10)
    await writer.settle(made, 0, [NXDOMAIN] * 10)
    batches, revision = await changes(query, made, batch_size=4)
    assert [p for batch in batches for p in batch.positions] == [*range(20, 30), *range(10)]
    assert [name for batch in batches for name in batch.names][:2] == [
        "name-20.example",
        "name-21.example",
    ]
    assert max(len(batch.positions) for batch in batches) == 4
    known: Known = {}
    apply(known, batches)
    assert known == await stored(writer, made)

    assert await changes(query, made, revision) == ([], revision)
    await writer.settle(made, 10, [TIMEOUT] * 10)
    later, _ = await changes(query, made, revision)
    assert [list(batch.positions) for batch in later] == [[*range(10, 20)]]


async def test_what_was_taken_back_is_told_also_of_a_chunk_that_was_split_since(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(20)
    await writer.plan(made, 20, 20)
    await writer.settle(made, 0, [RESOLVED] * 20)
    _, revision = await changes(query, made)
    assert await take_back(writer.connection, made, 0, 1)
    await writer.connection.execute(
        "UPDATE chunks SET state = 'queued', attempt = 1, claim_time = now()"
    )
    await writer.connection.execute("SELECT split_chunk($1, 2::smallint, 1, 0, 1, 1)", made.no)
    await writer.settle(made, 0, [NXDOMAIN] * 10)

    batches, _ = await changes(query, made, revision)
    found = {
        p: o for batch in batches for p, o in zip(batch.positions, batch.outcomes, strict=True)
    }
    assert found == {**dict.fromkeys(range(10), NXDOMAIN), **dict.fromkeys(range(10, 20), 0)}


async def test_what_is_taken_back_of_some_names_only_is_told_of_no_others(
    query: Query, writer: Writer
) -> None:
    """As a dead letter that is handed out again, the last chunk of its run so far."""
    made = await writer.campaign(30)
    await writer.plan(made, 30, 30)
    await writer.settle(made, 0, [RESOLVED] * 30)
    await writer.settle_http(made, {3: 21, 5: 21})
    _, revision = await changes(query, made)
    async with writer.connection.transaction():
        await writer.connection.execute("DELETE FROM http_results")
        await writer.connection.execute(
            """UPDATE chunks SET last_position = 5, state = 'ready', outcome_counts = NULL
            WHERE phase = 3"""
        )
        await writer.connection.execute("SELECT append_event($1, '')", made.no)

    batches, _ = await changes(query, made, revision)

    assert [(list(batch.positions), list(batch.outcomes)) for batch in batches] == [
        ([3, 4, 5], [0, 0, 0])
    ]


async def test_a_rerun_is_one_change_of_everything_in_the_moment_it_is_shown(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(20)
    await writer.plan(made, 20, 10)
    for first in (0, 10):
        await writer.settle(made, first, [RESOLVED] * 10)
    await writer.settle_http(made, dict.fromkeys(range(0, 20, 2), 1))
    known: Known = {}
    batches, revision = await changes(query, made)
    apply(known, batches)

    await begin_run(writer, made, 20, 10, 2)
    for first in (0, 10):
        await writer.settle(made, first, [NXDOMAIN] * 9 + [TIMEOUT], run=2)
    batches, meanwhile = await changes(query, made, revision)
    assert batches == []
    await writer.show(made, DNS, 2)
    # Of a phase that settles some names only: those that the new run has nothing of lose theirs.
    await writer.settle_http(made, {9: 9}, run=2, shown=False)
    await writer.show(made, HTTP, 2)
    batches, _ = await changes(query, made, meanwhile, batch_size=7)
    apply(known, batches)
    assert known == await stored(writer, made)
    assert {position for phase, position in known if phase == HTTP} == {9}

    fresh: Known = {}
    apply(fresh, (await changes(query, made))[0])
    assert fresh == known


async def test_whoever_asks_since_before_revisions_were_kept_is_told_everything(
    query: Query, writer: Writer
) -> None:
    """Of what is older, the true revisions are not known (0005_query.sql)."""
    made = await writer.campaign(20)
    await writer.plan(made, 20, 10)
    await writer.settle(made, 0, [RESOLVED] * 10)
    await writer.connection.execute("SELECT append_event($1, '')", made.no)
    _, upgraded = await changes(query, made)
    await writer.connection.execute(
        "UPDATE phases SET shown_revision = $2 WHERE campaign_no = $1 AND phase = 2",
        made.no,
        upgraded,
    )
    batches, _ = await changes(query, made, upgraded - 1)
    assert [p for batch in batches for p in batch.positions] == [*range(10)]
    await writer.settle(made, 10, [NXDOMAIN] * 10)
    batches, _ = await changes(query, made, upgraded)
    assert [p for batch in batches for p in batch.positions] == [*range(10, 20)]


async def test_only_the_phase_that_was_asked_for(query: Query, writer: Writer) -> None:
    made = await writer.campaign(10)
    await writer.plan(made, 10, 10)
    await writer.settle(made, 0, [RESOLVED] * 10)
    await writer.settle_http(made, {3: 1, 5: 9})
    batches, _ = await changes(query, made, phase=HTTP)
    assert [(b.phase, list(b.positions), list(b.outcomes)) for b in batches] == [
        (HTTP, [3, 5], [1, 9])
    ]


@pytest.mark.parametrize("seed", range(4))
async def test_applying_all_changes_gives_the_tables_whatever_happens(
    query: Query, writer: Writer, seed: int
) -> None:
    """Settlements, withdrawals and reruns, told to a client that loses its connection: they go on
    until it is back."""
    dice = random.Random(seed)
    size, chunk = 60, 6
    made = await writer.campaign(size)
    await writer.plan(made, size, chunk)
    known: Known = {}
    revision, run = 0, 1

    async def happen() -> None:
        nonlocal run
        match dice.choice(["settle", "settle", "settle", "take back", "rerun", "http"]):
            case "settle":
                await settle_one(writer, made, dice)
            case "take back":
                await take_back(writer.connection, made, dice.randrange(0, size, chunk), run)
            case "rerun" if run < 3:
                run += 1
                await begin_run(writer, made, size, chunk, run)
                for first in range(0, size, chunk):
                    await writer.settle(made, first, dice.choices([1, 2, 6], k=chunk), run=run)
                await writer.show(made, DNS, run)
            case "http":
                await http_run(writer, made, size, dice)

    for _ in range(10):
        for _ in range(dice.randrange(7)):
            await happen()
        meanwhile = dice.choice([happen, None])
        batch_size = dice.choice([1, 5, 50, 0])
        batches, revision = await changes(
            query, made, revision, cut=dice, meanwhile=meanwhile, batch_size=batch_size
        )
        apply(known, batches)
        assert meanwhile or known == await stored(writer, made)
    batches, _ = await changes(query, made, revision, cut=dice)
    apply(known, batches)
    assert known == await stored(writer, made)


async def settle_one(writer: Writer, made: Made, dice: random.Random) -> None:
    chunks = await writer.connection.fetch(
        """SELECT chunks.run, first_position, chunks.name_count FROM chunks JOIN phases
            USING (campaign_no, phase)
        WHERE campaign_no = $1 AND phase = 2 AND state <> 'done' AND chunks.run = result_run""",
        made.no,
    )
    if chunks:
        run, first, count = dice.choice(chunks)
        await writer.settle(made, first, dice.choices([1, 2, 6], k=count), run=run)


async def http_run(writer: Writer, made: Made, size: int, dice: random.Random) -> None:
    """One more run of the HTTP phase, over some of the names."""
    run = 1 + await writer.connection.fetchval(
        "SELECT coalesce(max(run), 0) FROM chunks WHERE campaign_no = $1 AND phase = 3", made.no
    )
    half = size // 2
    for names in (range(half), range(half, size)):
        some: Mapping[int, int] = {n: dice.choice([1, 9]) for n in names if dice.random() < 0.3}
        await writer.settle_http(made, some, run=run, shown=run == 1)
    if run > 1:
        await writer.show(made, HTTP, run)


async def test_no_change_is_missed_while_four_settle_at_once(
    query: Query, writer: Writer, database_url: str
) -> None:
    size, chunk = 400, 10
    made = await writer.campaign(size)
    await writer.plan(made, size, chunk)

    async def work(number: int) -> None:
        dice = random.Random(number)
        connection = await asyncpg.connect(database_url)
        mine = Writer(connection)
        for first in range(number * chunk, size, 4 * chunk):
            await mine.settle(made, first, dice.choices([1, 2, 6], k=chunk))
            if dice.random() < 0.3:
                await take_back(connection, made, first, 1)
                await mine.settle(made, first, dice.choices([1, 2, 6], k=chunk))
        await connection.close()

    known: Known = {}
    revision = 0
    async with asyncio.TaskGroup() as group:
        working = [group.create_task(work(number)) for number in range(4)]
        while not all(task.done() for task in working):
            batches, revision = await changes(query, made, revision)
            apply(known, batches)
    batches, _ = await changes(query, made, revision)
    apply(known, batches)
    assert known == await stored(writer, made)
    assert len(known) == size


async def refused(query: Query, **arguments: object) -> str:
    request = pb.StreamChangesRequest(**arguments)  # type: ignore[arg-type]
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        _ = [message async for message in query.stub.StreamChanges(request)]
    return read_refusal(refusal.value).reason


async def test_a_stream_that_cannot_be_is_refused(query: Query, writer: Writer) -> None:
    made, other = await writer.campaign(10), await writer.campaign(10)
    await writer.plan(made, 10, 10)
    await writer.settle(made, 0, [RESOLVED] * 10)
    [batch], revision = await changes(query, made)
    assert await refused(query, campaign_id=str(uuid4())) == "CAMPAIGN_NOT_FOUND"
    newest = {"campaign_id": str(made), "since_revision": revision + 1}
    assert await refused(query, **newest) == "REVISION_OUT_OF_RANGE"
    for changed in ({"campaign_id": str(other)}, {"since_revision": 1}, {"phase": HTTP}):
        arguments: dict[str, object] = {"campaign_id": str(made), "cursor": batch.cursor, **changed}
        assert await refused(query, **arguments) == "INVALID_TOKEN"

    await writer.connection.execute("UPDATE campaigns SET delete_time = now()")
    assert await refused(query, campaign_id=str(made)) == "CAMPAIGN_NOT_FOUND"
