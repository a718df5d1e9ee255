"""ListDomains out of copies for pages: what the tables say, and never what they said before."""

import asyncio
import random
from typing import Any

import asyncpg
from hypothesis import given
from hypothesis import strategies as st

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.query.campaigns import read_campaigns
from services.query.derived import source_version
from services.query.maintenance.segments import read_segments
from services.query.packed import PACK_SIZE, pack, unpack
from services.query.ranked_pages import DIRECTORY, RankedPages
from services.query.sealed import BY_NAME, BY_SCORE, PAGES
from tests.eventually import eventually
from tests.query.conftest import Analysis, Made, Query, Writer
from tests.query.test_filters import ORDERS, any_filter, campaign_of_two_runs

RESOLVED, NXDOMAIN = 1, 2
LARGE, ORDERED = 2_003, 1_003


async def copy(query: Query, writer: Writer, made: Made) -> int:
    """In every order, as the maintainer does it; the copy in order of position."""
    campaign = (await read_campaigns(query.pool, [made.id]))[made.id]
    ranked = RankedPages(query.pool)
    scored = await ranked.scored_count(made.no, campaign.runs.analysis)
    copied = await one_copy(query, writer, made, PAGES, campaign.name_count)
    # The order of names is not made of all these campaigns.
    if await ranked.names(made.no, 0, 1):
        await one_copy(query, writer, made, BY_NAME, campaign.name_count)
    by_score = await one_copy(query, writer, made, BY_SCORE, scored)
    directory = await ranked.make_directory(made.no, campaign.runs.analysis)
    await writer.connection.execute(
        "INSERT INTO segments VALUES ($1, $2, $3, $4)", by_score, *DIRECTORY, directory.pack()
    )
    return copied


async def one_copy(query: Query, writer: Writer, made: Made, kind: str, count: int) -> int:
    campaign = (await read_campaigns(query.pool, [made.id]))[made.id]
    copied: int = await writer.connection.fetchval(
        """INSERT INTO derivations (campaign_no, kind, source_version, name_count)
        VALUES ($1, $2, $3, $4) RETURNING id""",
        made.no,
        kind,
        await source_version(query.pool, made.no, kind),
        count,
    )
    segments = await read_segments(query.pool, campaign, kind, 0, count)
    assert segments is not None
    await writer.connection.executemany(
        "INSERT INTO segments VALUES ($1, $2, $3, $4)",
        [(copied, each.first_position, each.name_count, each.payload) for each in segments],
    )
    await writer.connection.execute(
        "UPDATE derivations SET finish_time = now() WHERE id = $1", copied
    )
    return copied


async def settle_down(query: Query, writer: Writer, made: Made) -> None:
    """Let the service see that there is a copy, and that nothing changes."""
    await writer._event(made)
    for _ in range(3):
        await query.stub.ListDomains(pb.ListDomainsRequest(campaign_id=str(made)))


async def mark(writer: Writer, made: Made) -> None:
    """Change rows behind everybody's back, so that whatever is read of them shows."""
    for table in ("http_results", "page_analyses", "leads", "dns_results"):
        await writer.connection.execute(
            f"UPDATE {table} SET check_time_us = 999 WHERE campaign_no = $1", made.no
        )


async def listed(query: Query, request: pb.ListDomainsRequest) -> pb.ListDomainsResponse:
    return await query.stub.ListDomains(request)


async def waits_for_a_lock(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")


async def walked(query: Query, made: Made, **asked: Any) -> list[pb.Domain]:
    """All pages, there and back; on the way back they are the same."""
    request = pb.ListDomainsRequest(campaign_id=str(made), **asked)
    pages, found = [], list[pb.Domain]()
    while True:
        page = await query.stub.ListDomains(request)
        pages.append(list(page.domains))
        found += page.domains
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    back = list[pb.Domain]()
    while page.previous_page_token:
        request.page_token = page.previous_page_token
        page = await query.stub.ListDomains(request)
        back = [*page.domains, *back]
    assert [*back, *pages[-1]] == found or len(pages) == 1
    return found


async def test_pages_of_a_copy_are_those_of_the_tables(query: Query, writer: Writer) -> None:
    dice = random.Random(20261122)
    made = await campaign_of_two_runs(writer, dice)
    cases: list[dict[str, Any]] = [
        {
            "filter": any_filter(dice) if n % 8 else DomainFilter(),
            "order": dice.choice(ORDERS),
            "descending": dice.random() < 0.5,
            "page_size": dice.choice([20, 60]),
        }
        for n in range(60)
    ]
    expected = [await walked(query, made, **case) for case in cases]
    assert len({len(found) for found in expected}) > 15

    await copy(query, writer, made)
    await settle_down(query, writer, made)
    await mark(writer, made)

    for case, domains in zip(cases, expected, strict=True):
        assert await walked(query, made, **case) == domains, case


async def test_many_candidates_are_asked_of_the_tables_and_read_from_the_copy(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign([f"name-{n}.{'org' if n % 9 else 'com'}" for n in range(LARGE)])
    await writer.order_names(made, block=400)
    await writer.plan(made, LARGE, LARGE)
    await writer.settle(made, 0, [RESOLVED if n % 50 else NXDOMAIN for n in range(LARGE)])
    await writer.settle_http(made, dict.fromkeys(range(0, LARGE, 2), 1))
    await writer.settle_analysis(made, {n: Analysis(n % 1_000) for n in range(0, LARGE, 2)})
    cases: list[dict[str, Any]] = [
        {"filter": chosen, "order": order}
        for order in ORDERS
        for chosen in (
            DomainFilter(name_contains="77"),
            DomainFilter(tlds=["com"], dns_verdicts=[RESOLVED]),
            DomainFilter(http_verdicts=[1], min_score=0.5),
        )
    ]
    expected = [await walked(query, made, **case) for case in cases]

    await copy(query, writer, made)
    await settle_down(query, writer, made)
    await mark(writer, made)

    for case, domains in zip(cases, expected, strict=True):
        found = await walked(query, made, **case)
        assert [d.position for d in found] == [d.position for d in domains]
        assert found == domains, case


async def test_chunks_settled_in_any_order_are_walked_as_the_tables_tell(
    query: Query, writer: Writer
) -> None:
    names, chunk = 230, 10
    made = await writer.campaign(names)
    await writer.plan(made, names, chunk)
    firsts = list(range(0, names, chunk))
    random.Random(7).shuffle(firsts)
    for first in firsts:
        await writer.settle(made, first, [RESOLVED if n % 3 else NXDOMAIN for n in range(chunk)])
    cases: list[dict[str, Any]] = [
        {
            "filter": chosen,
            "order": pb.DOMAIN_ORDER_SETTLE_TIME,
            "descending": descending,
            "page_size": size,
        }
        for chosen in (
            DomainFilter(),
            DomainFilter(dns_verdicts=[NXDOMAIN]),
            DomainFilter(name_contains="1"),
        )
        for descending in (False, True)
        for size in (7, 30)
    ]
    expected = [await walked(query, made, **case) for case in cases]

    await copy(query, writer, made)
    await settle_down(query, writer, made)
    await mark(writer, made)

    assert [d.position // chunk * chunk for d in expected[0]][::chunk] == firsts
    for case, domains in zip(cases, expected, strict=True):
        assert await walked(query, made, **case) == domains, case


async def many_in_three_orders(
    writer: Writer, dice: random.Random
) -> tuple[Made, list[dict[str, Any]]]:
    """A campaign of which no filter below is for few, and what is asked of it by name and score."""
    names = [f"n{n * 7919 % ORDERED:04}.{'org' if n % 9 else 'com'}" for n in range(ORDERED)]
    made = await writer.campaign(names)
    await writer.order_names(made, block=100)
    await writer.plan(made, ORDERED, ORDERED)
    await writer.settle(made, 0, [RESOLVED if n % 3 else NXDOMAIN for n in range(ORDERED)])
    scores = {n: Analysis(n * 31 % 17 * 50) for n in range(0, ORDERED, 2)}
    await writer.settle_analysis(made, scores)
    cases: list[dict[str, Any]] = [
        {"filter": chosen, "order": order, "descending": descending, "page_size": size}
        for order in (pb.DOMAIN_ORDER_NAME, pb.DOMAIN_ORDER_SCORE)
        for chosen, size, descending in (
            (DomainFilter(), 130, False),
            (DomainFilter(), 200, True),
            (DomainFilter(tlds=["com"]), 30, dice.random() < 0.5),
            (DomainFilter(name_prefix="n07"), 30, False),
            (DomainFilter(name_prefix="n02"), 30, True),
            (DomainFilter(min_score=0.1, max_score=0.65), 100, dice.random() < 0.5),
            (DomainFilter(min_score=0.3, max_score=0.3, name_contains="1"), 9, True),
        )
    ]
    return made, cases


async def test_pages_by_name_and_score_are_of_the_copy_in_that_order_alone(
    query: Query, writer: Writer
) -> None:
    made, cases = await many_in_three_orders(writer, random.Random(4))
    expected = [await walked(query, made, **case) for case in cases]
    copied = await copy(query, writer, made)
    await settle_down(query, writer, made)
    await mark(writer, made)
    await writer.connection.execute("DELETE FROM segments WHERE derivation_id = $1", copied)

    for case, domains in zip(cases, expected, strict=True):
        assert await walked(query, made, **case) == domains, case


async def test_walks_repeat_and_skip_nothing_while_copies_come_and_go(
    query: Query, writer: Writer
) -> None:
    dice = random.Random(1122)
    made, cases = await many_in_three_orders(writer, dice)
    expected = [await walked(query, made, **case) for case in cases]
    await copy(query, writer, made)
    await writer.connection.execute(
        "CREATE TABLE kept AS SELECT s.* FROM segments s JOIN derivations d ON id = derivation_id"
        " WHERE kind LIKE 'pages_%'"
    )

    async def change() -> None:
        """Of the copies in other orders something is missing, all, or nothing."""
        await writer.connection.execute(
            "DELETE FROM segments WHERE derivation_id IN (SELECT derivation_id FROM kept)"
        )
        await writer.connection.execute(
            "INSERT INTO segments SELECT * FROM kept WHERE first_position < $1",
            dice.choice([-1, 0, dice.randrange(ORDERED), ORDERED, ORDERED]),
        )
        if dice.random() < 0.3:
            await settle_down(query, writer, made)

    for case, domains in zip(cases, expected, strict=True):
        request = pb.ListDomainsRequest(campaign_id=str(made), **case)
        pages = list[list[pb.Domain]]()
        back = list[list[pb.Domain]]()
        while True:
            await change()
            page = await listed(query, request)
            pages.append(list(page.domains))
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        while page.previous_page_token:
            await change()
            request.page_token = page.previous_page_token
            page = await listed(query, request)
            back.append(list(page.domains))
        assert [d for each in pages for d in each] == domains, case
        assert [d for each in reversed(back) for d in each] == [
            d for each in pages[:-1] for d in each
        ], case


async def test_a_page_by_name_of_a_domain_that_other_orders_lead_to_is_found(
    query: Query, writer: Writer
) -> None:
    made, _ = await many_in_three_orders(writer, random.Random(5))
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=40, order=pb.DOMAIN_ORDER_NAME)
    page = await listed(query, request)
    await copy(query, writer, made)
    await settle_down(query, writer, made)
    await writer.connection.execute("DELETE FROM name_orders WHERE campaign_no = $1", made.no)
    await writer.connection.execute("DELETE FROM derivations WHERE kind = 'name_order'")
    # Into other blocks: the token names one that the domain is not in any more.
    await writer.order_names(made, block=30)
    found = [d.name for d in page.domains]
    while page.next_page_token:
        request.page_token = page.next_page_token
        page = await listed(query, request)
        found += [d.name for d in page.domains]
    assert found == sorted(found)
    assert len(set(found)) == len(found) == ORDERED


async def test_a_change_of_results_shows_at_once(query: Query, writer: Writer) -> None:
    made = await writer.campaign(30)
    await writer.plan(made, 30, 10)
    for first in range(0, 30, 10):
        await writer.settle(made, first, [RESOLVED] * 10)
    await copy(query, writer, made)
    await settle_down(query, writer, made)

    async with writer.connection.transaction():
        await writer.connection.execute(
            """UPDATE chunks SET state = 'ready', outcome_counts = NULL
               WHERE campaign_no = $1 AND phase = 2 AND first_position = 10""",
            made.no,
        )
        await writer.connection.execute(
            "DELETE FROM dns_results WHERE campaign_no = $1 AND position BETWEEN 10 AND 19", made.no
        )
        await writer.connection.execute("SELECT append_event($1, '')", made.no)
    for _ in range(3):
        open_ones = [d.position for d in await walked(query, made) if not d.dns.verdict]
        assert open_ones == list(range(10, 20))

    await writer.settle(made, 10, [NXDOMAIN] * 10)
    for _ in range(3):
        gone = [d.position for d in await walked(query, made) if d.dns.verdict == NXDOMAIN]
        assert gone == list(range(10, 20))


async def test_pages_of_a_copy_that_is_being_removed_come_from_the_tables(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(100)
    await writer.plan(made, 100, 100)
    await writer.settle(made, 0, [RESOLVED] * 100)
    copied = await copy(query, writer, made)
    await settle_down(query, writer, made)
    await mark(writer, made)
    assert not any(d.dns.check_time.nanos == 999_000 for d in await walked(query, made))

    await writer.connection.execute(
        "DELETE FROM segments WHERE derivation_id = $1 AND first_position >= 48", copied
    )

    found = await walked(query, made, page_size=40)
    assert [d.position for d in found] == list(range(100))
    assert [d.position for d in found if d.dns.check_time.nanos != 999_000] == list(range(40))


async def test_a_page_is_of_one_moment_also_where_a_copy_stops_being_true_meanwhile(
    query: Query, writer: Writer, database_url: str
) -> None:
    made = await writer.campaign(30)
    await writer.plan(made, 30, 10)
    for first in range(0, 30, 10):
        await writer.settle(made, first, [RESOLVED] * 10)
    await copy(query, writer, made)
    request = pb.ListDomainsRequest(
        campaign_id=str(made), filter=DomainFilter(dns_verdicts=[NXDOMAIN])
    )
    # From the second time on that the campaign is found the same, there may be a copy of it.
    await query.stub.ListDomains(request)

    watching = await asyncpg.connect(database_url)
    async with writer.connection.transaction():
        await writer.connection.execute("LOCK segments IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(listed(query, request))
        await eventually(lambda: waits_for_a_lock(watching))
        await writer.connection.execute(
            """UPDATE chunks SET state = 'ready', outcome_counts = NULL
               WHERE campaign_no = $1 AND phase = 2 AND first_position = 10""",
            made.no,
        )
        await writer.connection.execute(
            "DELETE FROM dns_results WHERE campaign_no = $1 AND position BETWEEN 10 AND 19", made.no
        )
        await writer.settle(made, 10, [NXDOMAIN] * 10)
    page = await reading
    await watching.close()

    assert {d.dns.verdict for d in page.domains} <= {NXDOMAIN}


async def test_a_walk_keeps_to_its_run_and_not_to_the_copy(query: Query, writer: Writer) -> None:
    made = await writer.campaign(60)
    await writer.plan(made, 60, 60)
    await writer.settle(made, 0, [RESOLVED] * 60)
    request = pb.ListDomainsRequest(campaign_id=str(made), page_size=30)
    request.page_token = (await query.stub.ListDomains(request)).next_page_token
    await writer.plan(made, 60, 60, run=2)
    await writer.settle(made, 0, [NXDOMAIN] * 60, run=2)
    await copy(query, writer, made)
    await settle_down(query, writer, made)

    second = await query.stub.ListDomains(request)
    anew = await walked(query, made)

    assert {d.dns.verdict for d in second.domains} == {RESOLVED}
    assert {d.dns.verdict for d in anew} == {NXDOMAIN}


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=PACK_SIZE))
def test_what_is_packed_is_unpacked(domains: list[bytes]) -> None:
    payload = pack(domains)
    assert unpack(payload, range(len(domains))) == domains
    assert unpack(payload, [len(domains) - 1, 0]) == [domains[-1], domains[0]]
    assert not any(unpack(payload, range(len(domains), PACK_SIZE)))
