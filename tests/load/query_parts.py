"""What `make bench-query` measures, in five parts: each figure and its yardstick in turns."""

import asyncio
import random
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import asyncpg
from google.protobuf.field_mask_pb2 import FieldMask

from domainflow.query.v1 import database_pb2, stream_pb2, summary_pb2
from domainflow.query.v1 import query_service_pb2 as pb
from services.suite.postgres import binaries
from tests.load.bare_server import PAGE
from tests.load.comparison import Measurement
from tests.load.dataset import RESOLVED, Dataset
from tests.load.query_server import QueryServer

PAGE_SIZE = 100
DEPTHS = (1, 10, 100, 1_000)
ORDERS = {
    "position": pb.DOMAIN_ORDER_POSITION,
    "name": pb.DOMAIN_ORDER_NAME,
    "score": pb.DOMAIN_ORDER_SCORE,
    "settled": pb.DOMAIN_ORDER_SETTLE_TIME,
}
USERS, QUERIES = 20, 100
ROUNDS_OF_MEMORY, WARM_UP = 1_000, 200
# How often a figure and its yardstick take turns.
TURNS = 5
# At least so many rows are streamed and copied at a time.
ROWS_OF_STREAMS = 200_000
# Tables of fewer rows are read whole, and rightly so.
SMALL_TABLE = 10_000

_OFFSET = PAGE.replace("$2", "0").replace("LIMIT $3", "LIMIT $2 OFFSET $3")
_NAMES = "SELECT name FROM domains WHERE campaign_no = {no}"
_ENRICHED = """SELECT d.position, d.name, r.verdict, r.addresses, r.check_time_us, h.verdict,
        h.status_code, h.final_url, h.title, p.score, l.status, l.reason
    FROM domains d
    LEFT JOIN dns_results r ON r.campaign_no = {no} AND r.run = 1 AND r.position = d.position
    LEFT JOIN http_results h ON h.campaign_no = {no} AND h.run = 1 AND h.position = d.position
    LEFT JOIN page_analyses p ON p.campaign_no = {no} AND p.run = 1 AND p.position = d.position
    LEFT JOIN leads l ON l.campaign_no = {no} AND l.run = 1 AND l.position = d.position
    WHERE d.campaign_no = {no}"""


@dataclass(frozen=True, slots=True)
class Bench:
    """The running service, and what the yardsticks ask: a bare server, a bare connection."""

    data: Dataset
    server: QueryServer
    query: Any
    bare: Any
    connection: "asyncpg.Connection[asyncpg.Record]"

    @property
    def campaign_id(self) -> str:
        return str(self.data.large)

    def page(self, **asked: Any) -> pb.ListDomainsRequest:
        if not {"first", "last"} & asked.keys():
            asked.setdefault("page_size", PAGE_SIZE)
        return pb.ListDomainsRequest(campaign_id=self.campaign_id, **asked)

    async def bare_page(self, first: int, size: int = PAGE_SIZE) -> None:
        page = await self.bare.ListDomains(
            pb.ListDomainsRequest(
                campaign_id=self.campaign_id, start_position=first, page_size=size
            )
        )
        assert page.domains


async def page_depth(bench: Bench) -> list[Measurement]:
    """One page, by how many come before it."""
    cases: list[tuple[str, int, pb.ListDomainsRequest]] = []
    for name, order in ORDERS.items():
        cases += [
            (f"by {name}, page {depth:,}", depth, request)
            for depth, request in await _deep(bench, order)
        ]
    found = bench.page(
        filter={"dns_verdicts": [RESOLVED]}, start_position=bench.data.large_count // 2
    )
    cases.append(("resolved, in the middle", 0, found))
    return [
        {
            **await _page_against(bench, f"page, {name}", request),
            "order": name.partition(",")[0].removeprefix("by "),
            "depth": depth,
            "target": "p95 < 5 ms",
        }
        for name, depth, request in cases
    ]


async def _page_against(bench: Bench, name: str, request: pb.ListDomainsRequest) -> Measurement:
    return await _against(
        name, lambda: bench.query.ListDomains(request), lambda: bench.bare_page(0)
    )


async def _deep(bench: Bench, order: int) -> list[tuple[int, pb.ListDomainsRequest]]:
    """Requests for pages at each depth there is, and for the last one."""
    found = []
    request = bench.page(order=order)
    for depth in range(1, max(DEPTHS) + 1):
        page = await bench.query.ListDomains(request)
        if depth in DEPTHS:
            found.append((depth, request))
        if not page.next_page_token:
            break
        request = bench.page(order=order, page_token=page.next_page_token)
    total = (await bench.query.ListDomains(bench.page(order=order))).total_size
    last = bench.page(order=order, last=PAGE_SIZE)
    return [*found, (-(-total // PAGE_SIZE), last)]


async def result_sets(bench: Bench) -> list[Measurement]:
    """10,000 rows in pages of 1,000; whole campaigns as streams."""

    async def ten_pages() -> None:
        request = bench.page(page_size=1_000)
        for _ in range(10):
            page = await bench.query.ListDomains(request)
            if not page.next_page_token:
                break
            request = bench.page(page_size=1_000, page_token=page.next_page_token)

    async def ten_bare_pages() -> None:
        for first in range(0, min(10_000, bench.data.large_count), 1_000):
            await bench.bare_page(first, 1_000)

    columns = list(stream_pb2.EnrichedBatch.DESCRIPTOR.fields_by_name)[3:]
    names = pb.StreamDomainsRequest(campaign_ids=[bench.campaign_id], batch_size=5_000)
    enriched = stream_pb2.StreamEnrichedRequest(
        campaign_ids=[bench.campaign_id], read_mask=FieldMask(paths=columns)
    )
    return [
        await _against("10 pages of 1,000", ten_pages, ten_bare_pages, calls=8),
        await _stream_against(bench, "names", lambda: bench.query.StreamDomains(names), _NAMES),
        await _stream_against(
            bench, "enriched rows", lambda: bench.query.StreamEnriched(enriched), _ENRICHED
        ),
    ]


async def _stream_against(
    bench: Bench, what: str, call: Callable[[], Any], statement: str
) -> Measurement:
    """Rows a second of a stream, and of psql writing the same rows to nowhere."""
    # Of few rows so many times: the start of a process is not what is measured.
    times = max(1, ROWS_OF_STREAMS // bench.data.large_count)
    count = bench.data.large_count * times
    copy = f"COPY ({statement.format(no=bench.data.large_no)}) TO STDOUT"
    command = [str(binaries() / "psql"), "--no-psqlrc", "--dbname", bench.data.database_url]
    command += ["--command", copy] * times
    rates: list[tuple[float, float]] = []
    for _ in range(TURNS):
        received = 0
        begun = time.perf_counter()
        for _ in range(times):
            async for message in call():
                received += message.batch.domain_count
        streamed = count / (time.perf_counter() - begun)
        assert received == count, f"{received} of {count} {what}"
        begun = time.perf_counter()
        await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
        rates.append((streamed, count / (time.perf_counter() - begun)))
    return _faster(f"stream of {what}", f"{what}/s", rates, "psql COPY TO STDOUT")


async def many_users(bench: Bench) -> list[Measurement]:
    """20 users who ask 100 things each, one after the other, all at the same time."""
    rates, times = [], []
    for turn in range(3):
        begun = time.perf_counter()
        took = await asyncio.gather(*(_user(bench, turn * USERS + user) for user in range(USERS)))
        service = USERS * QUERIES / (time.perf_counter() - begun)
        times += [each for one in took for each in one]
        rates.append((service, await _bare_users(bench, turn)))
    measured = _faster("20 users x 100 queries", "queries/s", rates, "pages of a bare server")
    return [{**measured, "p50_ms": _at(times, 0.5), "p95_ms": _at(times, 0.95)}]


async def _user(bench: Bench, seed: int) -> list[float]:
    """Milliseconds of each of the queries, which are of every kind."""
    dice = random.Random(seed)
    times = []
    for _ in range(QUERIES):
        call = _any_query(bench, dice)
        begun = time.perf_counter()
        await call
        times.append((time.perf_counter() - begun) * 1000)
    return times


def _any_query(bench: Bench, dice: random.Random) -> Awaitable[Any]:
    position = dice.randrange(bench.data.large_count)
    query, campaign_id = bench.query, bench.campaign_id
    match dice.randrange(8):
        case 0:
            found = {"dns_verdicts": [RESOLVED]}
            return query.ListDomains(bench.page(filter=found, start_position=position))
        case 1:
            return query.ListDomains(bench.page(order=pb.DOMAIN_ORDER_SCORE, descending=True))
        case 2:
            prefix = {"name_prefix": f"name-{dice.randrange(4096):03x}"}
            return query.ListDomains(bench.page(filter=prefix, order=pb.DOMAIN_ORDER_NAME))
        case 3:
            return query.GetDomain(pb.GetDomainRequest(campaign_id=campaign_id, position=position))
        case 4:
            return query.GetDomainSummary(pb.GetDomainSummaryRequest(campaign_id=campaign_id))
        case 5:
            return query.GetFunnel(summary_pb2.GetFunnelRequest(campaign_id=campaign_id))
        case _:
            return query.ListDomains(bench.page(start_position=position))


async def _bare_users(bench: Bench, seed: int) -> float:
    """Pages a second of the bare server for as many users, who ask for nothing else."""
    dice = random.Random(seed)

    async def ask() -> None:
        for _ in range(QUERIES):
            await bench.bare_page(dice.randrange(bench.data.large_count))

    begun = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(USERS)))
    return USERS * QUERIES / (time.perf_counter() - begun)


async def index_use(bench: Bench) -> list[Measurement]:
    """Which share of the scans that the service's queries cause goes by an index."""
    before = await _scans(bench)
    for user in range(5):
        await _user(bench, 1_000 + user)
    for _, request in [
        each for order in ORDERS.values() for each in await _deep_ends(bench, order)
    ]:
        await bench.query.ListDomains(request)
    async for _ in bench.query.StreamDomains(
        pb.StreamDomainsRequest(campaign_ids=[bench.campaign_id])
    ):
        pass
    after = await _scans(bench)
    gained = {
        table: (after[table][0] - index, after[table][1] - whole)
        for table, (index, whole) in before.items()
    }
    by_index = sum(index for index, _ in gained.values())
    every = by_index + sum(whole for _, whole in gained.values())
    if not every:
        # So few rows that no table counts.
        return []
    share = by_index / every
    return [
        {
            "name": "index use",
            "value": share * 100,
            "unit": "% of scans",
            "ratio": None,
            "lower_is_better": False,
            "target": "share > 95",
            "scans": every,
            "whole": {table: whole for table, (_, whole) in gained.items() if whole},
        }
    ]


async def _deep_ends(bench: Bench, order: int) -> list[tuple[int, pb.ListDomainsRequest]]:
    return [(1, bench.page(order=order)), (0, bench.page(order=order, last=PAGE_SIZE))]


async def _scans(bench: Bench) -> dict[str, tuple[int, int]]:
    """Scans by index and of everything, by table, when the server has counted all that ended."""
    seen: dict[str, tuple[int, int]] = {}
    while True:
        status = await bench.query.GetDatabaseStatus(database_pb2.GetDatabaseStatusRequest())
        now = {
            use.table: (use.index_scan_count, use.sequential_scan_count)
            for use in status.index_uses
            if use.row_count >= SMALL_TABLE
        }
        if now == seen:
            return now
        seen = now
        # A connection reports at most once a second, an idle one after ten.
        await asyncio.sleep(11)


async def memory(bench: Bench) -> list[Measurement]:
    """Resident memory of the service before and after 1,000 rounds of queries."""
    dice = random.Random(7)

    async def rounds(count: int) -> float:
        """Resident memory after so many."""
        for number in range(count):
            for _ in range(3):
                await _any_query(bench, dice)
            if number % 10 == 0:
                await bench.query.ListDomains(bench.page(page_size=1_000))
        return bench.server.rss_mb()

    before = await rounds(WARM_UP)
    after = await rounds(ROUNDS_OF_MEMORY)
    return [
        {
            "name": "memory",
            "value": after,
            "unit": f"MB after {ROUNDS_OF_MEMORY:,} rounds",
            "yardstick": {"name": "before", "value": before, "unit": "MB"},
            "ratio": after / before,
            "lower_is_better": True,
            "target": "ratio <= 1.1",
        }
    ]


PARTS = (page_depth, result_sets, many_users, index_use, memory)
# Lines of these do not depend on how fast the machine is.
STRICT = ("index use", "memory")


async def _against(
    name: str,
    call: Callable[[], Awaitable[object]],
    bare: Callable[[], Awaitable[object]],
    calls: int = 40,
) -> Measurement:
    """Milliseconds of a call and of its yardstick, one after the other each time.

    The ratio is the median of the turns' ratios, each of lower quartiles: what else the machine
    does adds time to some calls and takes none away, so the fast ones tell what a call costs.
    """
    for _ in range(5):
        await call()
        await bare()
    times: list[float] = []
    bare_times: list[float] = []
    ratios = []
    for _ in range(TURNS):
        pairs = [(await _timed(call), await _timed(bare)) for _ in range(calls)]
        took, bare_took = ([pair[i] for pair in pairs] for i in (0, 1))
        ratios.append(_at(took, 0.25) / _at(bare_took, 0.25))
        times += took
        bare_times += bare_took
    return {
        "name": name,
        "value": _at(times, 0.95),
        "unit": "ms (p95)",
        "yardstick": {"name": "bare server", "value": _at(bare_times, 0.95), "unit": "ms (p95)"},
        "ratio": median(ratios),
        "lower_is_better": True,
        "p50": median(times),
        "bare_p50": median(bare_times),
        "turns": ratios,
    }


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await call()
    return (time.perf_counter() - begun) * 1000


def _faster(
    name: str, unit: str, rates: Sequence[tuple[float, float]], yardstick: str
) -> Measurement:
    return {
        "name": name,
        "value": median(rate for rate, _ in rates),
        "unit": unit,
        "yardstick": {"name": yardstick, "value": median(bare for _, bare in rates), "unit": unit},
        "ratio": median(rate / bare for rate, bare in rates),
        "lower_is_better": False,
        "turns": [rate / bare for rate, bare in rates],
    }


def _at(times: Sequence[float], share: float) -> float:
    return sorted(times)[int(len(times) * share)]


async def by_offset(bench: Bench) -> list[tuple[int, float]]:
    """Depth and milliseconds of pages by OFFSET, which nobody here uses: the plot's other curve."""
    pages = -(-bench.data.large_count // PAGE_SIZE)
    depths = sorted({*(depth for depth in (*DEPTHS, 10_000) if depth < pages), pages})
    return [(depth, median([await _by_offset(bench, depth) for _ in range(3)])) for depth in depths]


async def _by_offset(bench: Bench, depth: int) -> float:
    no, skip = bench.data.large_no, (depth - 1) * PAGE_SIZE
    return await _timed(lambda: bench.connection.fetch(_OFFSET, no, PAGE_SIZE, skip))
