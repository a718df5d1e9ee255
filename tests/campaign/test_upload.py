"""Uploaded lists: repeated, cut, finished twice; and what was left out of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from domainflow.campaign.v1.campaign_service_pb2 import (
    GetUploadRequest,
    GetUploadResponse,
    UploadNamesRequest,
)
from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceStub as Stub
from services.campaign.campaign import Action, Status
from services.campaign.names import KEPT_REJECTIONS
from services.campaign.rows import RunningPhase
from services.campaign.store import Store
from services.chassis.errors import CampaignNotFound
from services.chassis.postgres import Pool
from tests.campaigns import act, from_upload, generating, new_campaign
from tests.refusals import refused


@pytest.fixture
async def running(store: Store) -> RunningPhase:
    return await generating(store, new_campaign(from_upload()))


@pytest.fixture
def ids(running: RunningPhase) -> dict[str, str]:
    return {"campaign_id": str(running.campaign_id), "upload_id": str(uuid4())}


def part(ids: dict[str, str], offset: int, *lines: str, finish: bool = False) -> UploadNamesRequest:
    return UploadNamesRequest(**ids, offset=offset, lines=lines, finish=finish)


async def send(campaigns: Stub, *parts: UploadNamesRequest) -> Any:
    async def stream() -> AsyncIterator[UploadNamesRequest]:
        for each in parts:
            yield each

    return await campaigns.UploadNames(stream())


async def report(campaigns: Stub, ids: dict[str, str]) -> GetUploadResponse:
    return await campaigns.GetUpload(GetUploadRequest(campaign_id=ids["campaign_id"]))


async def names(pool: Pool) -> list[str]:
    rows = await pool.fetch("SELECT position, name FROM domains ORDER BY position")
    assert [row["position"] for row in rows] == list(range(len(rows)))
    return [row["name"] for row in rows]


@pytest.mark.parametrize("status", [Status.RUNNING, Status.PAUSED, Status.COMPLETED])
async def test_a_repeated_end_is_answered_as_the_first_was(
    campaigns: Stub,
    store: Store,
    pool: Pool,
    running: RunningPhase,
    ids: dict[str, str],
    status: Status,
) -> None:
    """Whatever became of the phase since."""
    last = part(ids, 2, "c.com", "?", finish=True)
    first = await send(campaigns, part(ids, 0, "a.com", "a.com"), last)
    if status is Status.PAUSED:
        await act(store, running.campaign_id, Action.PAUSE)
    if status is Status.COMPLETED:
        assert await store.ledger.complete(running)

    again = await send(campaigns, last)
    without_lines = await send(campaigns, part(ids, 4, finish=True))

    assert first == again
    assert without_lines.upload == first.upload
    assert first.upload.finished
    assert await names(pool) == ["a.com", "c.com"]
    assert (await store.get(running.campaign_id)).phases[0].status is status


async def test_an_end_sent_many_times_at_once_ends_the_list_once(
    campaigns: Stub, store: Store, pool: Pool, running: RunningPhase, ids: dict[str, str]
) -> None:
    last = part(ids, 0, "a.com", "b.com", finish=True)

    answers = await asyncio.gather(*(send(campaigns, last) for _ in range(8)))

    assert all(answer == answers[0] for answer in answers)
    assert await names(pool) == ["a.com", "b.com"]
    assert (await store.get(running.campaign_id)).current.name_count == 2


async def test_a_finished_list_takes_neither_other_lines_nor_another_end(
    campaigns: Stub, store: Store, running: RunningPhase, ids: dict[str, str]
) -> None:
    await send(campaigns, part(ids, 0, "a.com", "b.com", finish=True))
    assert await store.ledger.complete(running)

    stored = await refused(send(campaigns, part(ids, 0, "a.com")))
    more = await refused(send(campaigns, part(ids, 2, "c.com")))
    shorter = await refused(send(campaigns, part(ids, 1, finish=True)))
    longer = await refused(send(campaigns, part(ids, 2, "c.com", finish=True)))
    another = await refused(send(campaigns, part(ids | {"upload_id": str(uuid4())}, 0)))

    assert (stored.code, stored.reason) == ("ALREADY_EXISTS", "UPLOAD_OFFSET_STORED")
    assert shorter.reason == "UPLOAD_OFFSET_STORED"
    assert stored.metadata == shorter.metadata == {**ids, "next_offset": "2"}
    assert [more.reason, longer.reason, another.reason] == ["UPLOAD_CLOSED"] * 3
    assert another.metadata == ids


async def test_an_end_in_the_wrong_place_ends_nothing(
    campaigns: Stub, running: RunningPhase, ids: dict[str, str]
) -> None:
    await send(campaigns, part(ids, 0, "a.com", "b.com"))

    early = await refused(send(campaigns, part(ids, 1, finish=True)))
    late = await refused(send(campaigns, part(ids, 3, "d.com", finish=True)))

    assert (early.reason, late.reason) == ("UPLOAD_OFFSET_STORED", "UPLOAD_OFFSET_GAP")
    upload = (await report(campaigns, ids)).upload
    assert (upload.next_offset, upload.finished) == (2, False)


async def test_an_unfinished_list_of_a_cancelled_campaign_takes_no_end(
    campaigns: Stub, store: Store, running: RunningPhase, ids: dict[str, str]
) -> None:
    await send(campaigns, part(ids, 0, "a.com"))
    await act(store, running.campaign_id, Action.CANCEL)

    refusal = await refused(send(campaigns, part(ids, 1, finish=True)))

    assert (refusal.reason, refusal.metadata["status"]) == ("TRANSITION_NOT_ALLOWED", "CANCELLED")


async def test_a_list_whose_campaign_went_meanwhile_is_told_so(
    campaigns: Stub, store: Store, pool: Pool, running: RunningPhase, ids: dict[str, str]
) -> None:
    await store.names.append_upload(running, UUID(ids["upload_id"]), 0, ["a.com"])
    await act(store, running.campaign_id, Action.CANCEL)
    await pool.execute("DELETE FROM campaigns WHERE no = $1", running.campaign_no)

    # As a stream does that began before.
    with pytest.raises(CampaignNotFound):
        await store.names.append_upload(running, UUID(ids["upload_id"]), 1, ["b.com"])


async def test_a_list_that_goes_on_after_a_failure_has_no_name_twice(
    campaigns: Stub, store: Store, running: RunningPhase, ids: dict[str, str]
) -> None:
    await send(campaigns, part(ids, 0, "a.com"))
    await store.ledger.fail(running, "disk full")
    await store.names.forget_uploaded(1000)
    await act(store, running.campaign_id, Action.RETRY)

    await send(campaigns, part(ids, 1, "a.com", "b.com"))

    upload = (await report(campaigns, ids)).upload
    assert (upload.accepted_count, upload.duplicate_count) == (2, 1)


async def test_a_list_goes_on_after_a_pause(
    campaigns: Stub, store: Store, pool: Pool, running: RunningPhase, ids: dict[str, str]
) -> None:
    await send(campaigns, part(ids, 0, "a.com"))
    await act(store, running.campaign_id, Action.PAUSE)
    refusal = await refused(send(campaigns, part(ids, 1, "b.com")))
    await act(store, running.campaign_id, Action.RESUME)

    await send(campaigns, part(ids, 1, "b.com", finish=True))

    assert refusal.metadata["status"] == "PAUSED"
    assert await names(pool) == ["a.com", "b.com"]


async def test_a_list_ends_at_a_thousand_million_lines(
    campaigns: Stub, ids: dict[str, str]
) -> None:
    beyond = await refused(send(campaigns, part(ids, 999_999_999, "a.com", "b.com")))
    within = await refused(send(campaigns, part(ids, 999_999_998, "a.com", "b.com")))

    assert (beyond.code, beyond.fields) == ("INVALID_ARGUMENT", {"lines"})
    assert within.reason == "UPLOAD_OFFSET_GAP"


async def test_rejected_lines_are_reported_however_the_stream_was_cut(
    campaigns: Stub, ids: dict[str, str]
) -> None:
    async def cut() -> AsyncIterator[UploadNamesRequest]:
        yield part(ids, 0, "a.com", "no name")
        yield part(ids, 2, "b", "b.com")
        raise ConnectionError

    with pytest.raises((ConnectionError, asyncio.CancelledError, grpc.aio.AioRpcError)):
        await campaigns.UploadNames(cut())
    # Both parts, one or none may have arrived before the cut; the client asks.
    lines = ["a.com", "no name", "b", "b.com", "x\0y"]
    known = (await report(campaigns, ids)).upload.next_offset
    await send(campaigns, part(ids, known, *lines[known:], finish=True))

    answer = await report(campaigns, ids)

    assert [(line.offset, line.line) for line in answer.rejected_lines] == [
        (1, "no name"),
        (2, "b"),
        (4, "x\ufffdy"),
    ]
    assert all(line.reason for line in answer.rejected_lines)
    assert answer.upload.rejected_count == 3


async def test_the_first_thousand_rejected_lines_are_kept_and_a_hundred_are_shown(
    campaigns: Stub, store: Store, pool: Pool, running: RunningPhase, ids: dict[str, str]
) -> None:
    for first in range(0, 1400, 700):
        await send(campaigns, part(ids, first, *[f"{'_' * 400}{first}"] * 700))

    answer = await report(campaigns, ids)

    assert answer.upload.rejected_count == 1400
    assert [line.offset for line in answer.rejected_lines] == list(range(100))
    assert {len(line.line) for line in answer.rejected_lines} == {300}
    kept = await store.names.rejections(running.campaign_no, 2000)
    assert [line.offset for line in kept] == list(range(KEPT_REJECTIONS))


async def test_lines_in_other_scripts_become_a_labels_or_say_why_not(
    campaigns: Stub, pool: Pool, ids: dict[str, str]
) -> None:
    answer = await send(
        campaigns,
        part(
            ids,
            0,
            "Bücher.DE",
            "xn--bcher-kva.de",
            "例え。テスト",
            # Cyrillic and Latin letters in one label are two scripts, and a name.
            "\u0430pple.com",
            # Right-to-left and left-to-right letters in one label are none.
            "שaא.com",
            "☃\u200d.com",
            f"{'ü' * 300}.com",
        ),
    )

    assert await names(pool) == ["xn--bcher-kva.de", "xn--r8jz45g.xn--zckzah", "xn--pple-43d.com"]
    assert answer.upload.duplicate_count == 1
    assert [line.offset for line in answer.rejected_lines] == [4, 5, 6]
    assert "304 characters" in answer.rejected_lines[2].reason


async def test_uploaded_names_are_counted_below_their_top_level_domain(
    campaigns: Stub, pool: Pool, ids: dict[str, str]
) -> None:
    await send(
        campaigns,
        part(ids, 0, "a.com", "b.com", "c.example", "?"),
        part(ids, 4, "a.com", "d.com", "e.co.uk"),
    )
    rows = await pool.fetch("SELECT tld, settled_count FROM tld_totals ORDER BY tld")
    assert [tuple(row) for row in rows] == [("com", 3), ("example", 1), ("uk", 1)]
