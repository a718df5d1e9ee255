"""Deleting campaigns: begun at once, done behind the scenes, whatever ends in between."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2 as rpc
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub as Stub
from services.campaign.campaign import Action
from services.campaign.deletion import Deletions, Eraser, Position
from services.campaign.store import Store
from services.chassis.postgres import Pool, open_pool
from tests.campaigns import act, create, from_upload, generating, history, kinds, new_campaign
from tests.eventually import eventually
from tests.refusals import refused

# Tables with rows of a campaign.
TABLES = (
    "chunks counter_checks dead_letters derivations dns_results domains events http_results"
    " keyword_hits leads ledger_totals name_orders page_analyses pages parked_chunks phases"
    " scorings tld_totals upload_names upload_rejections uploads"
).split()
# Those whose few rows go with the campaign itself and are not counted.
WITH_THE_CAMPAIGN = set(
    "campaigns counter_checks derivations ledger_totals phases scorings"
    " upload_rejections uploads".split()
)


async def rows(pool: Pool, no: int) -> dict[str, int]:
    """How many rows each table has of a campaign."""
    counts = {
        table: await pool.fetchval(f"SELECT count(*) FROM {table} WHERE campaign_no = $1", no)
        for table in TABLES
    }
    return {
        **counts,
        "campaigns": await pool.fetchval("SELECT count(*) FROM campaigns WHERE no = $1", no),
        "segments": await pool.fetchval(
            """SELECT count(*) FROM segments s JOIN derivations d ON d.id = s.derivation_id
               WHERE d.campaign_no = $1""",
            no,
        ),
    }


async def full_campaign(store: Store, pool: Pool, names: int = 500, runs: int = 2) -> UUID:
    """A campaign with rows in every table, of which no phase runs."""
    running = await generating(store, new_campaign(from_upload()))
    await act(store, running.campaign_id, Action.CANCEL)
    await fill(pool, running.campaign_no, names, runs)
    return running.campaign_id


async def fill(pool: Pool, no: int, names: int, runs: int = 1) -> None:
    await pool.execute("UPDATE campaigns SET name_count = $2 WHERE no = $1", no, names)
    await pool.execute(
        """INSERT INTO phases (campaign_no, phase, status, run)
           SELECT $1, phase, 'CANCELLED', $2 FROM generate_series(2, 5) phase
           ON CONFLICT (campaign_no, phase) DO UPDATE SET run = excluded.run""",
        no,
        runs,
    )
    await pool.execute(
        """INSERT INTO domains SELECT $1, n, 'name-' || n || '.example'
           FROM generate_series(0, $2::int - 1) n""",
        no,
        names,
    )
    await pool.execute(
        """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count, tcp,
               duration_us, check_time_us)
           SELECT $1, run, n, 1 + n % 3, 0, 1, false, 1000, 0
           FROM generate_series(1, $3::int) run, generate_series(0, $2::int - 1) n""",
        no,
        names,
        runs,
    )
    await fill_later_phases(pool, no, names // 10, runs)
    await fill_derived(pool, no, names, runs)
    await pool.execute(
        """INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state,
               outcome_counts)
           SELECT $1, phase, run, n, 100, 'done', '{100}'
           FROM (VALUES (1, 1), (2, 1), (2, $3::int)) AS p (phase, run),
                generate_series(0, $2::int - 1, 100) n
           ON CONFLICT DO NOTHING""",
        no,
        names,
        runs,
    )
    await pool.execute(
        """INSERT INTO dead_letters (campaign_no, phase, run, position, name, cause, failure_count)
           SELECT $1, 2, 1, n, 'name', 'cause', 3 FROM generate_series(0, 9) n
           ON CONFLICT DO NOTHING""",
        no,
    )
    # As of a phase that failed, and may go on.
    await pool.execute(
        "INSERT INTO parked_chunks VALUES ($1, 3, $2, 0, 1, '') ON CONFLICT DO NOTHING", no, runs
    )
    await pool.execute(
        """INSERT INTO upload_names SELECT $1, 'name-' || n FROM generate_series(1, $2::int) n
           ON CONFLICT DO NOTHING""",
        no,
        names,
    )
    await pool.execute(
        """INSERT INTO uploads (campaign_no, upload_id, accepted_count) VALUES ($1, $2, $3)
           ON CONFLICT DO NOTHING""",
        no,
        uuid4(),
        names,
    )
    await pool.execute(
        """INSERT INTO upload_rejections
           SELECT $1, n, 'line', 'reason' FROM generate_series(1, 5) n ON CONFLICT DO NOTHING""",
        no,
    )
    await pool.execute(
        """INSERT INTO reservations (campaign_id, pattern_id, first_offset, name_count)
           SELECT id, $2, 0, 5 FROM campaigns WHERE no = $1 ON CONFLICT DO NOTHING""",
        no,
        await pool.fetchval(
            """INSERT INTO patterns (id) VALUES (sha256('x')) ON CONFLICT (id) DO UPDATE
               SET id = excluded.id RETURNING id"""
        ),
    )


async def fill_later_phases(pool: Pool, no: int, names: int, runs: int) -> None:
    """What the phases behind DNS store; two keywords a page, so that positions repeat."""
    every = "FROM generate_series(1, $3::int) run, generate_series(0, $2::int - 1) n"
    for statement in (
        f"""INSERT INTO http_results (campaign_no, run, position, verdict, attempt_count,
            duration_us, check_time_us) SELECT $1, run, n, 1, 1, 1000, 0 {every}""",
        f"""INSERT INTO pages (campaign_no, run, position, kind, features)
            SELECT $1, run, n, 1, '' {every}""",
        f"""INSERT INTO page_analyses (campaign_no, run, position, score, check_time_us)
            SELECT $1, run, n, n % 1000, 0 {every}""",
        f"""INSERT INTO scorings (campaign_no, run, scoring, source_run, score_time, body)
            SELECT DISTINCT $1::int, run, 0, run, 0, ''::bytea {every}""",
        f"""INSERT INTO keyword_hits (campaign_no, run, keyword, position, hit_count)
            SELECT $1, run, keyword, n, 1 {every}, (VALUES ('one'), ('two')) k (keyword)""",
        f"""INSERT INTO leads (campaign_no, run, position, status, reason, check_time_us)
            SELECT $1, run, n, 1, 1, 0 {every}""",
        f"""INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state,
            outcome_counts) SELECT $1, phase, run, 0, count(*), 'done', '{{1}}'
            {every}, generate_series(3, 5) phase GROUP BY phase, run""",
    ):
        await pool.execute(statement, no, names, runs)


async def fill_derived(pool: Pool, no: int, names: int, runs: int) -> None:
    """What triggers and the query service's maintainer store."""
    await pool.execute(
        """INSERT INTO tld_totals (campaign_no, phase, run, tld)
           SELECT $1, phase, run, 'tld-' || n
           FROM (VALUES (1, 1), (2, 1), (2, $2::int)) AS p (phase, run), generate_series(1, 30) n
           ON CONFLICT DO NOTHING""",
        no,
        runs,
    )
    await pool.execute(
        """INSERT INTO name_orders (campaign_no, block, first_name, positions)
           SELECT $1, n, 'name', '{1,2,3}' FROM generate_series(0, $2::int / 100) n""",
        no,
        names,
    )
    await pool.execute(
        """WITH made AS (
               INSERT INTO derivations (campaign_no, kind, source_version, name_count)
               SELECT $1, kind, '', 0
               FROM (VALUES ('name_order'), ('names'), ('enriched'), ('pages'),
                   ('pages_by_name'), ('pages_by_score')) k (kind)
               RETURNING id)
           INSERT INTO segments (derivation_id, first_position, name_count, payload)
           SELECT id, n * 8, 8, 'x' FROM made, generate_series(0, 20) n""",
        no,
    )
    await pool.execute(
        """INSERT INTO counter_checks (campaign_no, revision, row_count, drift_count, body)
           VALUES ($1, 1, 1, 0, '')""",
        no,
    )


def delete(campaign_id: object, **more: Any) -> rpc.DeleteCampaignRequest:
    return rpc.DeleteCampaignRequest(campaign_id=str(campaign_id), **more)


def delete_all(campaign_ids: Sequence[object], **more: Any) -> rpc.DeleteCampaignsRequest:
    return rpc.DeleteCampaignsRequest(campaign_ids=[str(each) for each in campaign_ids], **more)


@asynccontextmanager
async def erasing(store: Store, portion: int = 1000) -> AsyncIterator[None]:
    """A campaign service's eraser at work."""
    eraser = asyncio.create_task(Eraser(store.deletions, portion=portion).erase())
    try:
        yield
    finally:
        eraser.cancel()
        await asyncio.wait([eraser])


async def until_gone(pool: Pool, *numbers: int) -> None:
    async def gone() -> None:
        assert not await pool.fetch(
            "SELECT FROM deletions WHERE campaign_no = ANY($1) AND finish_time IS NULL", numbers
        )

    await eventually(gone, within=30)


async def begin(store: Store, campaign_id: UUID) -> None:
    await store.deletions.begin(
        campaign_id, etag="", force=False, reason="", key=None, answer=lambda campaign: b""
    )


# What begins.


async def test_deletion_begins_at_once_and_is_shown(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    campaign_id = await full_campaign(store, pool)
    before = await store.get(campaign_id)

    answer = await campaigns.DeleteCampaign(delete(campaign_id, reason="done with it"))

    deletion = answer.campaign.deletion
    assert deletion.HasField("request_time")
    left = await rows(pool, before.no)
    total = sum(left.values()) - left["keyword_hits"]
    assert 0.8 * total < deletion.row_count < 1.2 * total
    assert deletion.deleted_count == 0
    assert answer.campaign.etag != before.etag
    shown = await campaigns.GetCampaign(rpc.GetCampaignRequest(campaign_id=str(campaign_id)))
    assert shown.campaign == answer.campaign
    assert not (await campaigns.ListCampaigns(rpc.ListCampaignsRequest())).campaigns
    listed = await campaigns.ListCampaigns(rpc.ListCampaignsRequest(show_deleted=True))
    assert listed.campaigns[0].deletion == deletion
    event = (await history(store, before.no))[-1].deletion_started
    assert (event.actor, event.reason) == ("caller", "done with it")


async def test_progress_is_shown_until_the_campaign_is_gone(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    campaign_id = await full_campaign(store, pool)
    no = (await store.get(campaign_id)).no
    await campaigns.DeleteCampaign(delete(campaign_id))
    shown = []
    position, last = Position(), False

    while not last:
        answer = await campaigns.GetCampaign(rpc.GetCampaignRequest(campaign_id=str(campaign_id)))
        shown.append(answer.campaign.deletion)
        portion = await store.deletions.delete_portion(no, position, 300)
        assert sum(portion.rows.values()) <= 300
        position, last = portion.position, portion.last

    counts = [deletion.deleted_count for deletion in shown]
    assert counts == sorted(counts)
    assert len(set(counts)) > 5
    assert all(deletion.deleted_count <= deletion.row_count for deletion in shown)
    read = campaigns.GetCampaign(rpc.GetCampaignRequest(campaign_id=str(campaign_id)))
    assert (await refused(read)).reason == "CAMPAIGN_NOT_FOUND"


async def test_running_campaign_is_deleted_only_by_force(campaigns: Stub, store: Store) -> None:
    running = await generating(store)

    refusal = await refused(campaigns.DeleteCampaign(delete(running.campaign_id)))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "CAMPAIGN_ACTIVE")
    assert (await store.get(running.campaign_id)).delete_time is None
    answer = await campaigns.DeleteCampaign(delete(running.campaign_id, force=True))
    assert answer.campaign.status == pb.PHASE_STATUS_CANCELLED
    told = await kinds(store, running.campaign_no)
    assert told[-3:] == ["1 CANCELLED", "campaign_finished", "deletion_started"]


async def test_stale_etag_aborts_the_deletion(campaigns: Stub, store: Store) -> None:
    campaign = await create(store)
    await act(store, campaign, Action.CANCEL)

    refusal = await refused(campaigns.DeleteCampaign(delete(campaign.id, etag=campaign.etag)))

    assert refusal.reason == "ETAG_MISMATCH"
    assert (await store.get(campaign.id)).delete_time is None


async def test_repeated_deletion_has_one_answer_and_a_trial_no_effect(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    campaign = await create(store)
    request = delete(campaign.id, request_id=str(uuid4()), validate_only=True)
    answer = await campaigns.DeleteCampaign(request)
    assert answer.campaign.HasField("deletion")
    assert await store.get(campaign.id) == campaign
    request.validate_only = False

    answers = await asyncio.gather(*(campaigns.DeleteCampaign(request) for _ in range(5)))

    assert all(each == answers[0] for each in answers)
    async with erasing(store):
        await until_gone(pool, campaign.no)
    assert await campaigns.DeleteCampaign(request) == answers[0]
    again = await refused(campaigns.DeleteCampaign(delete(campaign.id)))
    assert again.reason == "CAMPAIGN_NOT_FOUND"


async def test_bulk_deletion_leaves_out_what_it_cannot_delete(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    fine, archived, gone = [await create(store) for _ in range(3)]
    running = await generating(store)
    await campaigns.ArchiveCampaign(rpc.ArchiveCampaignRequest(campaign_id=str(archived.id)))
    await campaigns.DeleteCampaign(delete(gone.id))
    unknown = uuid4()
    ids = [running.campaign_id, archived.id, unknown, fine.id, gone.id]

    answer = await campaigns.DeleteCampaigns(delete_all(ids))

    assert [each.campaign_id for each in answer.campaigns] == [str(archived.id), str(fine.id)]
    assert all(each.HasField("deletion") for each in answer.campaigns)
    assert [(each.campaign_id, each.reason) for each in answer.refused] == [
        (str(running.campaign_id), "CAMPAIGN_ACTIVE"),
        (str(unknown), "CAMPAIGN_NOT_FOUND"),
        (str(gone.id), "CAMPAIGN_DELETED"),
    ]
    assert all(each.message for each in answer.refused)
    assert (await kinds(store, running.campaign_no))[-1] != "deletion_started"

    forced = await campaigns.DeleteCampaigns(delete_all([running.campaign_id], force=True))

    assert forced.campaigns[0].status == pb.PHASE_STATUS_CANCELLED
    assert (await kinds(store, running.campaign_no))[-1] == "deletion_started"


async def test_repeated_bulk_deletion_has_one_answer(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    made = [await create(store) for _ in range(3)]
    ids = [campaign.id for campaign in made]
    request = delete_all(ids, request_id=str(uuid4()), validate_only=True)
    assert len((await campaigns.DeleteCampaigns(request)).campaigns) == 3
    assert not await pool.fetch("SELECT FROM deletions")
    request.validate_only = False

    answers = await asyncio.gather(*(campaigns.DeleteCampaigns(request) for _ in range(5)))

    assert all(answer == answers[0] for answer in answers)
    assert [each.campaign_id for each in answers[0].campaigns] == [str(each) for each in ids]


async def test_bulk_deletions_that_overlap_delete_each_campaign_once(
    campaigns: Stub, store: Store
) -> None:
    made = [(await generating(store)).campaign_id for _ in range(6)]

    answers = await asyncio.gather(
        *(campaigns.DeleteCampaigns(delete_all(ids, force=True)) for ids in (made, made[::-1]))
    )

    assert sorted(len(answer.campaigns) for answer in answers) == [0, 6]
    assert {each.reason for answer in answers for each in answer.refused} == {"CAMPAIGN_DELETED"}


async def test_a_thousand_campaigns_are_deleted_in_one_call(
    campaigns: Stub, store: Store, pool: Pool
) -> None:
    await pool.execute(
        """WITH made AS (
               INSERT INTO campaigns (id, name, mode, initial_phase, final_phase, configuration)
               SELECT gen_random_uuid(), 'one of many', 'STEP_BY_STEP', 1, 1, ''
               FROM generate_series(1, 1000) RETURNING no)
           INSERT INTO phases (campaign_no, phase, status) SELECT no, 1, 'CONFIGURED' FROM made"""
    )
    ids = [row["id"] for row in await pool.fetch("SELECT id FROM campaigns ORDER BY id")]
    begun = time.monotonic()

    answer = await campaigns.DeleteCampaigns(delete_all(ids), timeout=20)

    print(f"1,000 deletions begun in {time.monotonic() - begun:.3f} s")  # noqa: T201
    assert [each.campaign_id for each in answer.campaigns] == [str(each) for each in ids]
    assert await pool.fetchval("SELECT count(*) FROM deletions") == 1000
    assert await pool.fetchval("SELECT count(*) FROM events") == 1000


# What goes on behind.


async def test_every_table_with_rows_of_campaigns_is_known_here(pool: Pool) -> None:
    tables = await pool.fetch(
        """SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
           WHERE a.attname = 'campaign_no' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
             AND c.relnamespace = 'public'::regnamespace
             -- The latter has no rows but those of transactions that go on.
             AND c.relname NOT IN ('deletions', 'uncounted')
           ORDER BY 1"""
    )

    assert [row[0] for row in tables] == TABLES


async def test_nothing_is_left_of_a_campaign_but_the_names_it_took(
    store: Store, pool: Pool
) -> None:
    campaign_id = await full_campaign(store, pool)
    no = (await store.get(campaign_id)).no
    assert all((await rows(pool, no)).values())
    await begin(store, campaign_id)

    async with erasing(store):
        await until_gone(pool, no)

    assert not any((await rows(pool, no)).values())
    assert await pool.fetchval(
        "SELECT count(*) FROM reservations WHERE campaign_id = $1", campaign_id
    )
    deletion = await pool.fetchrow("SELECT * FROM deletions WHERE campaign_no = $1", no)
    assert deletion is not None
    assert deletion["campaign_id"] == campaign_id
    assert deletion["deleted_count"] == deletion["row_count"] > 0


async def aim_at_partitions_of(pool: Pool, no: int) -> None:
    """Let the next campaign come into the same partitions."""
    await pool.execute(
        """SELECT setval(pg_get_serial_sequence('campaigns', 'no'), min(n) - 1)
           FROM generate_series(1, 16) remainder,
               generate_series((SELECT max(no) + 1 FROM campaigns), $1::int + 10000) n
           WHERE satisfies_hash_partition('domains'::regclass, 16, remainder - 1, $1::int)
             AND satisfies_hash_partition('domains'::regclass, 16, remainder - 1, n)""",
        no,
    )


async def test_a_neighbour_in_the_same_partitions_is_untouched(store: Store, pool: Pool) -> None:
    campaign_id = await full_campaign(store, pool)
    no = (await store.get(campaign_id)).no
    await aim_at_partitions_of(pool, no)
    other = (await store.get(await full_campaign(store, pool))).no
    assert await partition(pool, no) == await partition(pool, other)
    # What is kept of a run that is over would go in time.
    await pool.execute("UPDATE phases SET status = 'FAILED' WHERE campaign_no = $1", other)
    before = await rows(pool, other)
    await begin(store, campaign_id)

    async with erasing(store):
        await until_gone(pool, no)

    assert await rows(pool, other) == before
    assert await pool.fetchval("SELECT count(*) FROM deletions WHERE campaign_no = $1", other) == 0


async def test_deletion_goes_on_where_a_crash_left_it(
    store: Store, pool: Pool, database_url: str
) -> None:
    campaign_id = await full_campaign(store, pool, names=3000)
    no = (await store.get(campaign_id)).no
    await begin(store, campaign_id)
    async with await open_pool(database_url, application_name="doomed", max_size=2) as doomed:
        eraser = asyncio.create_task(Eraser(Deletions(doomed), portion=100).erase())
        for past in (500, 2000, 4000, 7000, 11000):

            async def is_past(count: int = past) -> None:
                assert await _deleted(pool, no) > count

            await eventually(is_past, within=30)
            # Killed in the middle of whatever it does; it has to see for itself what was done.
            await pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'doomed' AND datname = current_database()"
            )
        eraser.cancel()
        await asyncio.wait([eraser])
        assert eraser.cancelled()
    left = await rows(pool, no)
    assert left["campaigns"] == 1
    assert sum(left.values()) < 6000

    async with erasing(store):
        await until_gone(pool, no)

    assert not any((await rows(pool, no)).values())


async def _deleted(pool: Pool, no: int) -> int:
    return await pool.fetchval("SELECT deleted_count FROM deletions WHERE campaign_no = $1", no)


async def test_every_row_is_counted_once_however_often_it_was_interrupted(
    store: Store, pool: Pool
) -> None:
    campaign_id = await full_campaign(store, pool)
    no = (await store.get(campaign_id)).no
    await begin(store, campaign_id)
    counted = sum(
        count for table, count in (await rows(pool, no)).items()
        if table not in WITH_THE_CAMPAIGN
    )  # fmt: skip

    last = False
    while not last:
        # As after a restart: nothing is known but the tables.
        last = (await store.deletions.delete_portion(no, Position(), 130)).last

    assert await _deleted(pool, no) == counted


async def test_two_services_delete_the_same_campaigns_without_harm(
    store: Store, pool: Pool
) -> None:
    ids = [await full_campaign(store, pool) for _ in range(3)]
    numbers = [(await store.get(each)).no for each in ids]
    counted = []
    for campaign_id, no in zip(ids, numbers, strict=True):
        await begin(store, campaign_id)
        left = await rows(pool, no)
        counted.append(sum(left[table] for table in left if table not in WITH_THE_CAMPAIGN))

    async with erasing(store, portion=100), erasing(store, portion=70):
        await until_gone(pool, *numbers)

    assert [await _deleted(pool, no) for no in numbers] == counted
    for no in numbers:
        assert not any((await rows(pool, no)).values())


async def test_late_event_of_a_deleted_campaign_is_not_kept(store: Store, pool: Pool) -> None:
    campaign_id = await full_campaign(store, pool)
    no = (await store.get(campaign_id)).no
    await begin(store, campaign_id)
    portion = await store.deletions.delete_portion(no, Position(), 100_000)
    assert portion.last

    assert await pool.fetchval("SELECT append_event($1, '')", no) is None

    assert (await rows(pool, no))["events"] == 0


async def test_history_that_is_partly_gone_says_so(store: Store, pool: Pool) -> None:
    campaign = await create(store)
    for _ in range(20):
        await pool.execute("SELECT append_event($1, '')", campaign.no)
    await begin(store, campaign.id)
    position = Position()

    while not await pool.fetchval("SELECT forgotten_revision FROM campaigns"):
        position = (await store.deletions.delete_portion(campaign.no, position, 5)).position

    forgotten = await pool.fetchval("SELECT forgotten_revision FROM campaigns")
    assert await pool.fetchval("SELECT min(revision) FROM events") == forgotten + 1


async def partition(pool: Pool, no: int) -> str:
    return await pool.fetchval(
        "SELECT tableoid::regclass::text FROM dns_results WHERE campaign_no = $1 LIMIT 1", no
    )


async def test_space_of_deleted_campaigns_is_used_again(store: Store, pool: Pool) -> None:
    heaps, totals = [], []
    for _ in range(4):
        campaign_id = await full_campaign(store, pool, names=20_000, runs=1)
        no = (await store.get(campaign_id)).no
        table = await partition(pool, no)
        heaps.append(await pool.fetchval("SELECT pg_relation_size($1::regclass)", table))
        totals.append(await pool.fetchval("SELECT pg_total_relation_size($1::regclass)", table))
        await aim_at_partitions_of(pool, no)
        await begin(store, campaign_id)
        async with erasing(store, portion=5000):
            await until_gone(pool, no)
            await eventually(partial(vacuumed, pool, table, len(heaps)), within=30)

    assert max(heaps) < 1.1 * heaps[0], heaps
    # Pages of indexes are used again one vacuum later.
    assert max(totals) < 1.1 * totals[1], totals


async def vacuumed(pool: Pool, table: str, times: int) -> None:
    # Not n_dead_tup: what was deleted is added to it up to seconds later, also behind a vacuum.
    vacuums = await pool.fetchval(
        "SELECT vacuum_count + autovacuum_count FROM pg_stat_user_tables WHERE relname = $1", table
    )
    assert vacuums >= times


async def test_deletion_that_fails_stops_no_other(store: Store, pool: Pool) -> None:
    bad, good = await full_campaign(store, pool), await full_campaign(store, pool)
    numbers = [(await store.get(each)).no for each in (bad, good)]
    await begin(store, bad)
    await begin(store, good)
    await pool.execute(
        f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'damaged'; END $$;
            CREATE TRIGGER refuse BEFORE DELETE ON domains FOR EACH ROW
            WHEN (OLD.campaign_no = {numbers[0]}) EXECUTE FUNCTION refuse()"""
    )

    async with erasing(store):
        await until_gone(pool, numbers[1])

    assert (await rows(pool, numbers[0]))["domains"] == 500


async def test_what_is_kept_of_chunks_goes_in_portions_when_their_run_is_over(
    store: Store, pool: Pool
) -> None:
    kept, over = [
        (await generating(store, new_campaign(from_upload()))).campaign_no for _ in range(2)
    ]
    # Those of a phase that failed may be taken up again.
    await pool.execute("UPDATE phases SET status = 'FAILED', run = 2 WHERE campaign_no = $1", kept)
    await pool.execute("UPDATE phases SET status = 'CANCELLED' WHERE campaign_no = $1", over)
    await pool.executemany(
        "INSERT INTO parked_chunks VALUES ($1, 1, $2, $3, 1, 'finished')",
        [(no, run, first) for no, run in ((kept, 1), (kept, 2), (over, 1)) for first in range(3)],
    )

    portions = [await store.deletions.delete_progress(limit=400) for _ in range(4)]

    assert portions == [2, 2, 2, 0]
    left = await pool.fetch("SELECT DISTINCT campaign_no, run FROM parked_chunks")
    assert [tuple(row) for row in left] == [(kept, 2)]


async def test_the_service_removes_what_is_kept_of_runs_that_are_over(
    store: Store, pool: Pool
) -> None:
    running = await generating(store, new_campaign(from_upload()))
    no = running.campaign_no
    await pool.execute("INSERT INTO parked_chunks VALUES ($1, 1, 1, 0, 1, 'finished')", no)
    await act(store, running.campaign_id, Action.CANCEL)

    async def gone() -> None:
        assert await pool.fetchval("SELECT count(*) FROM parked_chunks") == 0

    async with erasing(store):
        await eventually(gone)


async def test_finished_deletions_are_forgotten_after_their_time(store: Store, pool: Pool) -> None:
    made = [await create(store) for _ in range(3)]
    for campaign in made:
        await begin(store, campaign.id)
        await store.deletions.delete_portion(campaign.no, Position(), 1000)
    await pool.execute(
        "UPDATE deletions SET finish_time = now() - interval '25 hours' WHERE campaign_no = $1",
        made[0].no,
    )
    await pool.execute(
        """UPDATE deletions SET finish_time = NULL, request_time = now() - interval '99 hours'
           WHERE campaign_no = $1""",
        made[1].no,
    )

    async with erasing(store):

        async def forgotten() -> None:
            left = await pool.fetch("SELECT campaign_no FROM deletions ORDER BY 1")
            assert [row[0] for row in left] == [made[1].no, made[2].no]

        await eventually(forgotten)
