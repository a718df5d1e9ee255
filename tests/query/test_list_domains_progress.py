"""Walks of ListDomains through sets that are too large to be put in order whole: each ends, and has
seen all that match, whichever of its pages are short or empty."""

import random
from collections.abc import Mapping
from typing import Any

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.query.page_plan import SMALL
from tests.query.conftest import Analysis, Made, Query, Writer
from tests.query.test_filters import ORACLE, ORDERS, matches
from tests.query.test_list_domains_copied import copy, settle_down

SIZE, CHUNK = 8_000, 1_000
# Half of them out of the tables, half out of a copy.
WALKS = 32


async def large_campaign(writer: Writer, dice: random.Random) -> Made:
    """Names in no order; of most verdicts, reasons and keywords there are more than a small set."""
    made = await writer.campaign(
        [f"{dice.randrange(16**6):06x}{n}.{'com' if n % 3 else 'example'}" for n in range(SIZE)]
    )
    await writer.count_names(made, CHUNK)
    await writer.order_names(made, block=450)
    # The runs are those that ORACLE is about.
    await writer.plan(made, SIZE, CHUNK, run=2)
    firsts = list(range(0, SIZE, CHUNK))
    dice.shuffle(firsts)
    for first in firsts[1:]:
        await writer.settle(made, first, dice.choices([1, 2, 6], [8, 4, 1], k=CHUNK), run=2)
    http = {n: 1 if n % 5 else 9 for n in range(0, SIZE, 2)}
    await writer.settle_http(made, http, run=1)
    words = {0: {"shop": 1, "cart": 2}, 1: {"shop": 1}, 2: {"cart": 1}}
    pages = {
        n: Analysis(
            dice.choice([300, 301, dice.randrange(1001)]),
            warnings=[1] if n % 4 == 0 else [],
            keywords=words.get(dice.randrange(4), {}),
        )
        for n in http
    }
    await writer.settle_analysis(made, pages, run=2)
    await writer.settle_leads(made, {n: dice.choice([1, 7, 7, 8]) for n in pages}, run=2)
    return made


def any_filter(dice: random.Random) -> DomainFilter:
    every: dict[str, Any] = {
        "dns_verdicts": dice.choice([[1], [2], [1, 6], [2, 6]]),
        "http_verdicts": dice.choice([[1], [1, 9]]),
        "lead_statuses": dice.choice([[1, 3], [3, 4]]),
        "lead_reasons": dice.choice([[7, 8], [1, 7]]),
        "min_score": dice.choice([0.1, 0.3, 0.301]),
        "max_score": dice.choice([0.9, 0.302]),
        "tlds": dice.choice([["com"], ["example", "com"], ["org"]]),
        "name_prefix": dice.choice(["a", "f", "00"]),
        "name_contains": dice.choice(["7", "ab", "zz"]),
        "keywords": dice.choice([["shop"], ["shop", "cart"]]),
        "warnings": [1],
        "has_warnings": True,
    }
    if dice.random() < 0.1:
        return DomainFilter(dns_pending=True, **{name: every[name] for name in ["tlds"]})
    fields = dice.sample(list(every), dice.choice([1, 1, 1, 2, 2, 3]))
    return DomainFilter(**{name: every[name] for name in fields})


async def walked(query: Query, made: Made, *, backward: bool, **asked: Any) -> list[int]:
    """Positions on all pages, in the order asked for, whichever way they were read."""
    size = asked.pop("page_size")
    begin = {"last": size} if backward else {"first": size}
    page = await query.stub.ListDomains(
        pb.ListDomainsRequest(campaign_id=str(made), **asked, **begin)
    )
    found = [domain.position for domain in page.domains]
    tokens = set[str]()
    while token := (page.previous_page_token if backward else page.next_page_token):
        assert len(tokens) <= SIZE
        tokens.add(token)
        page = await query.stub.ListDomains(
            pb.ListDomainsRequest(campaign_id=str(made), page_token=token, page_size=size, **asked)
        )
        here = [domain.position for domain in page.domains]
        found = [*here, *found] if backward else [*found, *here]
    return found


async def test_every_walk_ends_and_has_seen_all(query: Query, writer: Writer) -> None:
    dice = random.Random(11)
    made = await large_campaign(writer, dice)
    rows = await writer.connection.fetch(ORACLE, made.no)
    settled: Mapping[int, int] = dict(
        await writer.connection.fetch(
            """SELECT first_position, revision FROM chunks
            WHERE campaign_no = $1 AND phase = 2 AND run = 2 AND state = 'done'""",
            made.no,
        )
    )
    keys: dict[int, Any] = {
        pb.DOMAIN_ORDER_POSITION: lambda row: row["position"],
        pb.DOMAIN_ORDER_NAME: lambda row: row["name"].encode(),
        pb.DOMAIN_ORDER_SCORE: lambda row: (row["score"], row["position"]),
        pb.DOMAIN_ORDER_SETTLE_TIME: lambda row: (
            settled[row["position"] // CHUNK * CHUNK],
            row["position"],
        ),
    }
    needed = {pb.DOMAIN_ORDER_SCORE: "score", pb.DOMAIN_ORDER_SETTLE_TIME: "dns"}
    large = 0
    for n in range(WALKS):
        if n == WALKS // 2:
            await copy(query, writer, made)
            await settle_down(query, writer, made)
        order, chosen = ORDERS[n % 4], any_filter(dice)
        there = [
            row
            for row in rows
            if matches(chosen, row) and row[needed.get(order, "position")] is not None
        ]
        large += len(there) > SMALL
        descending = dice.random() < 0.5
        case = {
            "filter": chosen,
            "order": order,
            "descending": descending,
            "page_size": dice.choice([150, 1_000, 1_000, 1_000]),
        }
        found = await walked(query, made, backward=dice.random() < 0.5, **case)
        there.sort(key=keys[order], reverse=descending)
        assert found == [row["position"] for row in there], (n, case)
    assert large > WALKS // 10
