"""StreamDifferences: what two runs disagree on, and nothing else."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import grpc
import pytest

from domainflow.query.v1 import stream_pb2 as pb
from services.query.change_token import DifferencePlace
from services.query.comparison import Comparison
from services.query.differences import Differences
from tests.query.conftest import Made, Query, Writer
from tests.query.test_changes import begin_run, take_back
from tests.refusals import Refusal, read

RESOLVED, NXDOMAIN, TIMEOUT = 1, 2, 6
DNS, HTTP = 2, 3


async def differences(
    query: Query, made: Made, **more: Any
) -> tuple[list[pb.Difference], pb.DifferenceReport, list[str]]:
    """All differences, the report, and the cursors on the way."""
    request = pb.StreamDifferencesRequest(campaign_id=str(made), **more)
    messages = [message async for message in query.stub.StreamDifferences(request)]
    assert [m.WhichOneof("kind") for m in messages] == [*["batch"] * (len(messages) - 1), "report"]
    found = [each for message in messages[:-1] for each in message.batch.differences]
    assert messages[-1].report.performance.row_count == len(found)
    return found, messages[-1].report, [message.batch.cursor for message in messages[:-1]]


async def two_runs(
    writer: Writer, first: Sequence[int], second: Sequence[int], chunk: int = 10
) -> Made:
    """A campaign whose DNS phase ran twice."""
    made = await writer.campaign(len(first))
    await writer.plan(made, len(first), chunk)
    await begin_run(writer, made, len(first), chunk, 2)
    for run, verdicts in ((1, first), (2, second)):
        for start in range(0, len(first), chunk):
            await writer.settle(made, start, verdicts[start : start + chunk], run=run)
    await writer.show(made, DNS, 2)
    return made


async def test_runs_that_agree_have_no_differences(query: Query, writer: Writer) -> None:
    made = await two_runs(writer, [RESOLVED, NXDOMAIN] * 10, [RESOLVED, NXDOMAIN] * 10)
    await writer.connection.execute(
        """UPDATE dns_results SET resolver = 'another', ttl = 1, duration_us = 7, attempt_count = 9,
            check_time_us = 5, addresses = array_to_string(ARRAY(
                SELECT a FROM unnest(string_to_array(addresses, ',')) a ORDER BY a DESC), ',')
        WHERE run = 2 AND verdict = 1"""
    )
    found, report, _ = await differences(query, made)
    assert found == []
    assert (report.base_run, report.run) == (1, 2)
    assert (report.compared_count, report.equal_count, report.evidence_count) == (20, 20, 0)


async def test_verdicts_and_evidence_that_differ_are_told_apart(
    query: Query, writer: Writer
) -> None:
    first = [RESOLVED] * 10
    second = [RESOLVED] * 8 + [NXDOMAIN, TIMEOUT]
    made = await two_runs(writer, first, second)
    await writer.connection.execute(
        """UPDATE dns_results SET addresses = '192.0.2.99', authority = 'org'
        WHERE run = 2 AND position IN (1, 3)"""
    )
    found, report, _ = await differences(query, made)
    assert [(each.position, each.name) for each in found] == [
        (position, f"name-{position}.example") for position in (1, 3, 8, 9)
    ]
    assert list(found[0].fields) == ["addresses", "authority"]
    assert list(found[0].dns.addresses) == ["192.0.2.99"]
    assert list(found[0].base_dns.addresses) == ["198.51.100.1", "2001:db8::1"]
    assert found[2].fields[0] == "verdict"
    assert (found[2].base_dns.verdict, found[2].dns.verdict) == (RESOLVED, NXDOMAIN)
    assert (report.compared_count, report.equal_count, report.evidence_count) == (10, 6, 2)
    assert {(c.base_verdict, c.verdict, c.count) for c in report.verdict_changes} == {
        (RESOLVED, NXDOMAIN, 1),
        (RESOLVED, TIMEOUT, 1),
    }
    assert report.field_counts["addresses"] == 4
    assert "verdict" not in report.field_counts

    found, report, _ = await differences(query, made, verdicts_only=True)
    assert [each.position for each in found] == [8, 9]
    assert report.evidence_count == 2


async def test_what_one_run_has_not_settled_differs_by_its_verdict_only(
    query: Query, writer: Writer
) -> None:
    made = await writer.campaign(20)
    await writer.plan(made, 20, 10)
    await begin_run(writer, made, 20, 10, 2)
    await writer.settle(made, 0, [RESOLVED] * 10)
    await writer.settle(made, 10, [NXDOMAIN] * 10)
    await writer.settle(made, 0, [RESOLVED] * 10, run=2)
    found, report, _ = await differences(query, made, run=2)
    assert [(each.position, list(each.fields)) for each in found] == [
        (position, ["verdict"]) for position in range(10, 20)
    ]
    assert all(each.HasField("base_dns") and not each.HasField("dns") for each in found)
    assert [(c.base_verdict, c.verdict, c.count) for c in report.verdict_changes] == [
        (NXDOMAIN, 0, 10)
    ]


async def test_a_result_that_is_taken_back_between_two_looks_differs_by_its_verdict_only(
    query: Query, writer: Writer
) -> None:
    made = await two_runs(writer, [RESOLVED] * 10, [RESOLVED] * 10)
    await writer.connection.execute("UPDATE dns_results SET addresses = '192.0.2.99' WHERE run = 2")
    looks = 0

    @asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        nonlocal looks
        looks += 1
        if looks == 2:
            assert await take_back(writer.connection, made, 0, 2)
        yield

    request = pb.StreamDifferencesRequest(campaign_id=str(made))
    place = DifferencePlace(revision=1, base_run=1, run=2, end=10, position=0)
    comparison = Comparison(request, Differences(query.pool), made.no, turn, place)
    found = [each async for some in comparison.found() for each in some]
    assert [(list(each.fields), each.HasField("dns")) for each in found] == [
        (["verdict"], False)
    ] * 10


async def test_pages_are_compared_by_what_was_fetched(query: Query, writer: Writer) -> None:
    made = await writer.campaign(20)
    await writer.settle_http(made, {2: 1, 4: 1, 6: 9})
    await writer.settle_http(made, {2: 1, 4: 9, 6: 9, 8: 1}, run=2)
    await writer.connection.execute(
        "UPDATE http_results SET title = 'other', content_size = 1 WHERE run = 2 AND position = 2"
    )
    found, report, _ = await differences(query, made, phase=HTTP)
    assert [(each.position, each.fields[0]) for each in found] == [
        (2, "title"),
        (4, "verdict"),
        (8, "verdict"),
    ]
    assert found[0].http.title == "other"
    assert (found[1].base_http.status_code, found[1].http.status_code) == (200, 404)
    assert (report.compared_count, report.equal_count) == (4, 1)


async def test_a_stream_resumes_after_every_batch(query: Query, writer: Writer) -> None:
    made = await two_runs(writer, [RESOLVED] * 50, [RESOLVED, NXDOMAIN] * 25)
    found, report, cursors = await differences(query, made, batch_size=4)
    assert [each.position for each in found] == [*range(1, 50, 2)]
    # Whatever is shown by now: a cursor stays with the runs it began with.
    await begin_run(writer, made, 50, 10, 3)
    for start in range(0, 50, 10):
        await writer.settle(made, start, [TIMEOUT] * 10, run=3)
    await writer.show(made, DNS, 3)
    for number, cursor in enumerate(cursors, start=1):
        rest, after, _ = await differences(query, made, cursor=cursor, batch_size=7)
        assert rest == found[4 * number :]
        assert (after.base_run, after.run) == (report.base_run, report.run) == (1, 2)
        assert after.compared_count == 50 - found[min(4 * number, 25) - 1].position - 1

    _, report, _ = await differences(query, made)
    assert (report.base_run, report.run) == (2, 3)
    _, report, _ = await differences(query, made, base_run=1)
    assert (report.base_run, report.run) == (1, 3)


async def refused(query: Query, **arguments: Any) -> Refusal:
    request = pb.StreamDifferencesRequest(**arguments)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        _ = [message async for message in query.stub.StreamDifferences(request)]
    return read(refusal.value)


async def test_runs_that_are_not_there_are_refused(query: Query, writer: Writer) -> None:
    assert (await refused(query, campaign_id=str(uuid4()))).reason == "CAMPAIGN_NOT_FOUND"
    made = await writer.campaign(10)
    unknown = await refused(query, campaign_id=str(made))
    assert (unknown.code, unknown.reason) == ("NOT_FOUND", "RUN_NOT_FOUND")

    await writer.plan(made, 10, 10)
    await writer.settle(made, 0, [RESOLVED] * 10)
    for arguments in ({}, {"run": 2}, {"run": 7, "base_run": 1}, {"phase": HTTP}):
        refusal = await refused(query, campaign_id=str(made), **arguments)
        assert refusal.reason == "RUN_NOT_FOUND", arguments
    for arguments in ({"base_run": 1}, {"base_run": 3, "run": 2}, {"base_run": 1, "run": 1}):
        refusal = await refused(query, campaign_id=str(made), **arguments)
        assert (refusal.reason, refusal.fields) == ("INVALID_FIELDS", {"base_run"}), arguments
