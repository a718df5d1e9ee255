"""Pages a second when a million stored vectors are scored anew: a rerun of the analysis with
another profile, watched, nothing fetched. Against INSERT ... SELECT of the rows that came of it, in
the same run: the least that storing them takes.

Two thousand scores are compared with what the breakdown says. BENCH_SHARE makes it all smaller.
"""

import asyncio
import random
import time
from typing import Any

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2
from domainflow.validation.v1 import scoring_pb2
from services.sandbox.web_text import LANGUAGES
from services.validation.content.features import Features
from services.validation.content.scoring import explain
from services.validation.scoring_plans import scoring_profile_of
from tests.load.busy_suite import COMPLETED, Busy, Load, busy_suite, scaled, seconds
from tests.load.processes import cpu, cpu_of_family, peak_rss_mb

PAGES = scaled(1_000_000, least=20_000)
ANALYSIS = campaign_pb2.PHASE_CONTENT_ANALYSIS
# Names of a chunk of the phases that are made up.
CHUNK = 5_000
VECTORS, COMPARED = 997, 2_000
KEYWORDS = [keyword for language in LANGUAGES for keyword in language.keywords][:16]
ANOTHER = scoring_pb2.ScoringSettings(
    weights=scoring_pb2.ScoringWeights(
        keyword_density=0.2, unique_keyword_coverage=0.4, title_keyword=0.3, tf_lite=0.1
    ),
    parked_penalty_factor=0.25,
    full_density=5,
)


class NotExact(AssertionError):
    """A score is not what the breakdown says."""


def run() -> list[dict[str, Any]]:
    return [result for workers in (1, 2) for result in asyncio.run(_measure(workers))]


async def _measure(workers: int) -> list[dict[str, Any]]:
    async with busy_suite(1, analysis_workers=workers) as busy:
        load = await busy.create(
            PAGES,
            # Nobody is asked.
            "127.0.0.1:9",
            http=campaign_pb2.HttpConfiguration(),
            analysis=campaign_pb2.AnalysisConfiguration(),
        )
        await load.generated()
        await _fetched(load)
        await load.start()
        first = await load.completed(ANALYSIS)
        await _configure(load)
        pids = [busy.pid(name) for name in busy.suite.processes if name.startswith("analysis-w")]
        postgres = busy.pid("postgres")
        before = sum(map(cpu, pids)), cpu_of_family(postgres)
        watching = asyncio.create_task(_told(load))
        await load.busy.campaigns.RerunPhase(
            campaign_service_pb2.RerunPhaseRequest(campaign_id=load.campaign_id, phase=ANALYSIS)
        )
        await _until_run(load, 2)
        after = sum(map(cpu, pids)), cpu_of_family(postgres)
        again = await load.state(ANALYSIS)
        told = await watching
        rss = max(map(peak_rss_mb, pids))
        await _compare(load)
        copied = await _copied(busy, load)
    value, yardstick = PAGES / seconds(again), PAGES / copied
    return [
        {
            "name": f"rescore, {workers} worker{'s'[: workers - 1]}",
            "value": value,
            "unit": "pages/s",
            "yardstick": {"name": "INSERT ... SELECT", "value": yardstick, "unit": "pages/s"},
            "ratio": value / yardstick,
            "target": None,
            "pages": PAGES,
            "seconds": seconds(again),
            "first_seconds": seconds(first),
            "progress_messages": told,
            "worker_cpu_seconds": after[0] - before[0],
            "postgres_cpu_seconds": after[1] - before[1],
            "worker_rss_mb": rss,
        }
    ]


async def _fetched(load: Load) -> None:
    """As if DNS and HTTP had gone through every name, and each had a page."""
    database, no, names = load.busy.database, load.no, load.names
    dice = random.Random(1)
    vectors = [_vector(dice).to_bytes() for _ in range(VECTORS)]
    async with database.transaction():
        await database.execute(
            """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count,
                tcp, duration_us, check_time_us, ttl, addresses, registered, delegated)
            SELECT $1, 1, g, 1, 0, 1, false, 1500, 1790000000000000 + g, 300, '127.64.0.1', true,
                true
            FROM generate_series(0, $2 - 1) g""",
            no,
            names,
        )
        await database.execute(
            """INSERT INTO http_results (campaign_no, run, position, verdict, status_code,
                attempt_count, duration_us, check_time_us, final_url, title, language, content_size,
                content_sha256)
            SELECT $1, 1, g, 1, 200, 1, 90000, 1790000000000000 + g, 'https://name.example/',
                'A title of a page', 'en', 20000, sha256(g::text::bytea)
            FROM generate_series(0, $2 - 1) g""",
            no,
            names,
        )
        await database.execute(
            """INSERT INTO pages (campaign_no, run, position, kind, features, keywords, hit_counts,
                keyword_match)
            SELECT $1, 1, g, 1, ($3::bytea[])[g % cardinality($3::bytea[]) + 1],
                CASE WHEN g % 3 > 0 THEN ARRAY[($4::text[])[g % 16 + 1],
                    ($4::text[])[(g + 5) % 16 + 1]] END,
                CASE WHEN g % 3 > 0 THEN ARRAY[1 + g % 5, 1] END, g % 3 > 0
            FROM generate_series(0, $2 - 1) g""",
            no,
            names,
            vectors,
            KEYWORDS,
        )
        # Sparse where those of that phase are.
        await database.execute(
            """INSERT INTO chunks (campaign_no, phase, run, first_position, last_position,
                name_count, state, attempt, outcome_counts, done_time, tld_counts)
            SELECT $1, phase, 1, first, CASE phase WHEN 3 THEN least(first + $3, $2) - 1 END,
                least($3, $2 - first), 'done', 1, ARRAY[least($3, $2 - first)], now(),
                jsonb_build_object('com', jsonb_build_object('1', least($3, $2 - first)))
            FROM unnest(ARRAY[2, 3]) phase, generate_series(0, $2 - 1, $3) first""",
            no,
            names,
            CHUNK,
        )
        await database.execute(
            """UPDATE phases SET status = 'COMPLETED', run = 1, result_run = 1, name_count = $2,
                planned = true, start_time = now(), end_time = now(),
                source_run = CASE phase WHEN 3 THEN 1 END
            WHERE campaign_no = $1 AND phase IN (2, 3)""",
            no,
            names,
        )
        await database.execute(
            "UPDATE campaigns SET current_phase = 4, status = 'CONFIGURED' WHERE no = $1", no
        )
    await database.execute("VACUUM ANALYZE http_results, pages")


def _vector(dice: random.Random) -> Features:
    unique = dice.randrange(6)
    hits = unique * dice.randint(1, 9)
    return Features(
        hit_count=hits,
        unique_count=unique,
        top_hit_count=max(hits - unique + 1, 0) if unique else 0,
        byte_size=dice.randint(500, 250_000),
        text_size=dice.randint(100, 100_000),
        word_count=dice.randint(20, 20_000),
        link_count=dice.randrange(200),
        heading_count=dice.randrange(20),
        fetch_time=1_790_000_000 - dice.randrange(3_000_000),
        parked_confidence=dice.choice((0, 0, 0, 0, 400, 950)),
        anchor_share=dice.randrange(1_000),
        repetition_index=dice.randrange(500),
        flags=dice.randrange(4),
    )


async def _configure(load: Load) -> None:
    await load.busy.campaigns.ConfigurePhase(
        campaign_service_pb2.ConfigurePhaseRequest(
            campaign_id=load.campaign_id,
            phase=ANALYSIS,
            configuration=campaign_pb2.CampaignConfiguration(
                analysis=campaign_pb2.AnalysisConfiguration(settings=ANOTHER)
            ),
        )
    )


async def _until_run(load: Load, run: int) -> None:
    while True:
        state = await load.state(ANALYSIS)
        if state.run == run and state.status == COMPLETED:
            return
        await asyncio.sleep(0.05)


async def _told(load: Load) -> int:
    """Messages of progress that a watch gets of the rerun, whose last one has all pages."""
    told = 0
    request = campaign_service_pb2.WatchCampaignsRequest(campaign_ids=[load.campaign_id])
    async for message in load.busy.campaigns.WatchCampaigns(request):
        progress = message.progress
        if message.WhichOneof("kind") == "progress" and progress.run == 2:
            told += 1
            if progress.settled_count == load.names:
                return told
    raise NotExact("the watch ended before the rerun did")


async def _compare(load: Load) -> None:
    """Scores of some pages, wherever they stand, with their breakdowns."""
    profile = scoring_profile_of(ANOTHER)
    dice = random.Random(2)
    rows = await load.busy.database.fetch(
        # A look-up each: of tables this young nothing is known, and a join reads all of them.
        """SELECT (SELECT features FROM pages
                WHERE campaign_no = $1 AND run = 1 AND position = wanted) AS features,
            (SELECT score FROM page_analyses
                WHERE campaign_no = $1 AND run = 2 AND position = wanted) AS score,
            (SELECT score_time FROM scorings WHERE campaign_no = $1 AND run = 2) AS score_time
        FROM unnest($2::int[]) AS wanted""",
        load.no,
        dice.sample(range(load.names), COMPARED),
    )
    if missing := sum(row["score"] is None for row in rows):
        raise NotExact(f"{missing} pages of {COMPARED} have no score")
    for features, score, score_time in rows:
        right = explain(Features.from_bytes(features), profile, now=score_time).score
        if score != right:
            raise NotExact(f"{score} is stored for {right}")


async def _copied(busy: Busy, load: Load) -> float:
    """Seconds to store the same rows once more, indexes and all, by one statement a table."""
    database = busy.database
    tables = ("page_analyses", "keyword_hits")
    for table in tables:
        await database.execute(f"CREATE TABLE copied_{table} (LIKE {table} INCLUDING ALL)")
    began = time.monotonic()
    for table in tables:
        await database.execute(
            f"""INSERT INTO copied_{table}
            SELECT * FROM {table} WHERE campaign_no = $1 AND run = 2 ORDER BY position""",
            load.no,
        )
    return time.monotonic() - began
