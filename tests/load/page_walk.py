"""Rows a second of a walk through two million domains by pages of 1,000 over gRPC, in every order
and both directions, while a writer settles chunks.

Counted too: domains that came twice, and domains that were there at the beginning and never came.
The yardstick is a loop of keyset statements over names and DNS results on a bare connection, in the
same run and beside the same writer.
"""

import asyncio
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from domainflow.query.v1 import query_service_pb2 as pb
from tests.load.copying import make_copies
from tests.load.dataset import CHUNK, Dataset, dataset
from tests.load.query_server import QueryServer, query_server

PAGE_SIZE = 1_000
# Chunks that are settled during each walk, and seconds between two of them.
OPENED, EVERY = 40, 0.5
ORDERS = {
    "position": pb.DOMAIN_ORDER_POSITION,
    "name": pb.DOMAIN_ORDER_NAME,
    "score": pb.DOMAIN_ORDER_SCORE,
    "settled": pb.DOMAIN_ORDER_SETTLE_TIME,
}
# Each direction as people ask for it: the order itself, and its pages backward from the end.
WALKS = [(order, backward) for order in ORDERS for backward in (False, True)]


def run() -> list[dict[str, Any]]:
    data = dataset()
    # Its names are to be in order; copies would be untrue with the first chunk that is settled.
    make_copies(data.database_url, seal=False)
    results = []
    with query_server(data.database_url) as server:
        with _writing(data.database_url, data.large_no):
            yardstick = asyncio.run(_keyset(data.database_url, data.large_no))
        for order, backward in WALKS:
            with _writing(data.database_url, data.large_no) as opened:
                results.append(_walk(server, data, order, backward, opened, yardstick))
    wrong = sum(result["repeated"] + result["skipped"] for result in results)
    return [
        *results,
        {
            "name": "page_walk, names that came twice or never, in all walks",
            "value": wrong,
            "unit": "names",
            "target": "names <= 0",
        },
    ]


def _walk(
    server: QueryServer,
    data: Dataset,
    order: str,
    backward: bool,
    opened: list[int],
    yardstick: float,
) -> dict[str, Any]:
    # How often each position came.
    seen = array("B", bytes(data.large_count))
    request = pb.ListDomainsRequest(campaign_id=str(data.large), order=ORDERS[order])
    if backward:
        request.last = PAGE_SIZE
    else:
        request.page_size = PAGE_SIZE
    rows = pages = 0
    total = -1
    begun = time.perf_counter()
    while True:
        page = server.stub.ListDomains(request)
        total = page.total_size if total < 0 else total
        pages += 1
        for domain in page.domains:
            rows += 1
            seen[domain.position] = min(255, seen[domain.position] + 1)
        token = page.previous_page_token if backward else page.next_page_token
        if not token:
            break
        request.ClearField("last")
        request.page_size = PAGE_SIZE
        request.page_token = token
    seconds = time.perf_counter() - begun
    repeated = sum(times > 1 for times in seen)
    if order == "settled":
        # What was settled meanwhile may come or not.
        for first in opened:
            seen[first : first + CHUNK] = array("B", bytes(len(seen[first : first + CHUNK])))
    return {
        "name": f"page_walk, {order}{', backward' if backward else ''}",
        "value": rows / seconds,
        "unit": "rows/s",
        "yardstick": {
            "name": "keyset loop on a bare connection",
            "value": yardstick,
            "unit": "rows/s",
        },
        "ratio": rows / seconds / yardstick,
        "rows": rows,
        "pages": pages,
        "repeated": repeated,
        "skipped": total - sum(times > 0 for times in seen),
    }


async def _keyset(database_url: str, no: int) -> float:
    """Rows a second of names with their DNS results, 1,000 a statement."""
    connection = await asyncpg.connect(database_url)
    try:
        position, rows, begun = -1, 0, time.perf_counter()
        while True:
            found = await connection.fetch(
                """SELECT position, name, verdict, addresses, check_time_us FROM (
                    SELECT position, name FROM domains
                    WHERE campaign_no = $1 AND position > $2 AND position <= $2 + $3
                ) d FULL JOIN (
                    SELECT position, verdict, addresses, check_time_us FROM dns_results
                    WHERE campaign_no = $1 AND run = 1 AND position > $2 AND position <= $2 + $3
                ) r USING (position) ORDER BY position""",
                no,
                position,
                PAGE_SIZE,
            )
            if not found:
                return rows / (time.perf_counter() - begun)
            rows += len(found)
            position = found[-1]["position"]
    finally:
        await connection.close()


@contextmanager
def _writing(database_url: str, no: int) -> Iterator[list[int]]:
    """Take the verdicts of some chunks back, and settle them one by one while others read.

    Gives their first positions. In the end all is as it was, but for the order of settlement.
    """
    opened = asyncio.run(_take_back(database_url, no))
    stop = threading.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(_settle_again(database_url, no, opened, stop)), name="writer"
    )
    thread.start()
    try:
        yield opened
    finally:
        stop.set()
        thread.join()


async def _take_back(database_url: str, no: int) -> list[int]:
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            rows = await connection.fetch(
                """SELECT first_position FROM chunks
                WHERE campaign_no = $1 AND phase = 2 AND run = 1
                ORDER BY md5(first_position::text) LIMIT $2""",
                no,
                OPENED,
            )
            opened = [row["first_position"] for row in rows]
            for table in ("taken_chunks", "taken_results"):
                await connection.execute(f"DROP TABLE IF EXISTS {table}")
            await connection.execute(
                f"""CREATE TABLE taken_chunks AS SELECT first_position, outcome_counts, tld_counts
                FROM chunks WHERE campaign_no = {no} AND phase = 2 AND run = 1
                    AND first_position = ANY('{{{",".join(map(str, opened))}}}'::int[])"""
            )
            await connection.execute(
                f"CREATE TABLE taken_results (LIKE dns_results); INSERT INTO taken_results "
                f"SELECT r.* FROM taken_chunks c, dns_results r WHERE campaign_no = {no} "
                f"AND run = 1 AND position >= first_position "
                f"AND position < first_position + {CHUNK}"
            )
            await connection.execute(
                """DELETE FROM dns_results r USING taken_chunks c WHERE r.campaign_no = $1
                AND r.run = 1 AND position >= first_position AND position < first_position + $2""",
                no,
                CHUNK,
            )
            await connection.execute(
                """UPDATE chunks c SET state = 'ready', outcome_counts = NULL, done_time = NULL
                FROM taken_chunks t WHERE c.campaign_no = $1 AND c.phase = 2 AND c.run = 1
                    AND c.first_position = t.first_position""",
                no,
            )
            await connection.execute("SELECT append_event($1, '')", no)
        await connection.execute("CREATE INDEX ON taken_results (position)")
        return opened
    finally:
        await connection.close()


async def _settle_again(
    database_url: str, no: int, opened: list[int], stop: threading.Event
) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        for first in opened:
            # Spread over the walk; when that is over, all that is left at once.
            stop.wait(EVERY)
            async with connection.transaction():
                await connection.execute(
                    """UPDATE chunks c SET state = 'done', outcome_counts = t.outcome_counts,
                        tld_counts = t.tld_counts, done_time = now()
                    FROM taken_chunks t WHERE c.campaign_no = $1 AND c.phase = 2 AND c.run = 1
                        AND c.first_position = $2 AND t.first_position = $2""",
                    no,
                    first,
                )
                await connection.execute(
                    """INSERT INTO dns_results SELECT * FROM taken_results
                    WHERE position >= $1::int AND position < $1 + $2::int""",
                    first,
                    CHUNK,
                )
                await connection.execute("SELECT append_event($1, '')", no)
    finally:
        await connection.close()
