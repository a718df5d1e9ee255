"""StreamLeads and StreamLogs: rows with all that belongs to them, whole and resumable."""

from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from domainflow.campaign.v1.campaign_pb2 import PHASE_DNS_VALIDATION
from domainflow.campaign.v1.event_pb2 import CampaignUpdated, Event, PhaseChanged
from domainflow.query.v1 import stream_pb2 as pb
from domainflow.validation.v1.lead_pb2 import Lead
from tests.query.conftest import CONTACTS, Analysis, Made, Query, Writer
from tests.refusals import read

QUALIFIED, LOW_SCORE, DNS_TIMEOUT = 1, 2, 8


async def campaign_with_leads(writer: Writer, size: int = 60) -> Made:
    made = await writer.campaign(size)
    await writer.settle_http(made, dict.fromkeys(range(0, size, 2), 1))
    await writer.settle_analysis(made, {n: Analysis(n * 10) for n in range(0, size, 4)})
    reasons = (QUALIFIED, LOW_SCORE, DNS_TIMEOUT)
    await writer.settle_leads(made, {n: reasons[n % 3] for n in range(size)})
    return made


async def streamed(call: Any) -> tuple[list[Any], pb.BulkSummary]:
    messages = [message async for message in call]
    kinds = [message.WhichOneof("kind") for message in messages]
    assert kinds == [*["batch"] * (len(messages) - 1), "summary"]
    return [message.batch for message in messages[:-1]], messages[-1].summary


def resumed(request: Any, cursor: str) -> Any:
    changed = type(request)()
    changed.CopyFrom(request)
    changed.cursor = cursor
    return changed


@pytest.mark.parametrize("statuses", [[], [2], [1, 4], [3]])
async def test_leads_come_with_their_page_score_and_contacts(
    query: Query, writer: Writer, statuses: list[int]
) -> None:
    made = await campaign_with_leads(writer)
    request = pb.StreamLeadsRequest(campaign_ids=[str(made)], statuses=statuses, batch_size=7)
    batches, summary = await streamed(query.stub.StreamLeads(request))
    status_of = {QUALIFIED: 1, LOW_SCORE: 2, DNS_TIMEOUT: 4}
    expected = []
    for n in range(60):
        reason = (QUALIFIED, LOW_SCORE, DNS_TIMEOUT)[n % 3]
        if status_of[reason] not in (statuses or [1]):
            continue
        row = pb.LeadRow(position=n, name=f"name-{n}.example")
        if n % 2 == 0:
            row.final_url = f"https://www.name-{n}.example/"
        if n % 4 == 0:
            row.score = n * 10 / 1000
        if reason == QUALIFIED:
            row.lead.MergeFrom(Lead.FromString(CONTACTS))
        row.lead.status, row.lead.reason = status_of[reason], reason
        row.lead.check_time.FromMicroseconds(1_780_000_000_123_456 + n)
        expected.append(row)
    assert [row for batch in batches for row in batch.leads] == expected
    assert summary.row_count == len(expected)
    assert all(len(batch.leads) <= 7 for batch in batches)


async def test_leads_of_many_campaigns_resume_after_every_batch(
    query: Query, writer: Writer
) -> None:
    made = [await campaign_with_leads(writer, size) for size in (30, 9)]
    ids = [str(made[0]), str(uuid4()), str(await writer.campaign(5)), str(made[1])]
    request = pb.StreamLeadsRequest(campaign_ids=ids, batch_size=3, campaign_limit=7)
    batches, summary = await streamed(query.stub.StreamLeads(request))
    found = [(batch.campaign_id, row.position) for batch in batches for row in batch.leads]
    assert found == [
        *((ids[0], n) for n in range(0, 21, 3)),
        *((ids[3], n) for n in range(0, 9, 3)),
    ]
    assert list(summary.unreachable) == [ids[1]]
    for count, batch in enumerate(batches, start=1):
        rest, again = await streamed(query.stub.StreamLeads(resumed(request, batch.cursor)))
        assert [row.position for b in rest for row in b.leads] == [
            row.position for b in batches[count:] for row in b.leads
        ]
        assert again.unreachable == summary.unreachable


@pytest.mark.parametrize("field", list(pb.LeadRow.DESCRIPTOR.fields_by_name))
async def test_each_field_of_a_lead_can_be_had_alone(
    query: Query, writer: Writer, field: str
) -> None:
    made = await campaign_with_leads(writer)
    request = pb.StreamLeadsRequest(
        campaign_ids=[str(made)], read_mask=FieldMask(paths=[field]), batch_size=50
    )
    [batch], _ = await streamed(query.stub.StreamLeads(request))
    assert {each.name for row in batch.leads for each, _ in row.ListFields()} == {field}
    assert len(batch.leads) == 20


async def test_leads_too_large_for_one_message_come_in_several(
    query: Query, writer: Writer
) -> None:
    made = await campaign_with_leads(writer)
    large = Lead(contacts=[{"snippet": "x" * 300_000}]).SerializeToString()
    await writer.connection.execute("UPDATE leads SET contacts = $1 WHERE position < 12", large)
    request = pb.StreamLeadsRequest(campaign_ids=[str(made)])
    messages = [message async for message in query.stub.StreamLeads(request)]
    assert max(message.ByteSize() for message in messages) < 2**20
    positions = [row.position for message in messages for row in message.batch.leads]
    assert positions == list(range(0, 60, 3))


async def append(writer: Writer, made: Made, event: Event) -> None:
    await writer.connection.execute(
        "SELECT append_event($1, $2)", made.no, event.SerializeToString()
    )


async def campaign_with_events(writer: Writer, count: int = 20) -> Made:
    made = await writer.campaign(1)
    for n in range(count):
        if n % 4:
            event = Event(campaign_updated=CampaignUpdated(reason=f"number {n}"))
        else:
            event = Event(phase_changed=PhaseChanged(phase=PHASE_DNS_VALIDATION, run=n + 1))
        await append(writer, made, event)
    return made


async def test_events_come_whole_and_in_order(query: Query, writer: Writer) -> None:
    made = await campaign_with_events(writer)
    request = pb.StreamLogsRequest(campaign_ids=[str(made)], batch_size=6)
    batches, summary = await streamed(query.stub.StreamLogs(request))
    stored = await writer.connection.fetch(
        "SELECT revision, create_time, body FROM events ORDER BY revision"
    )
    expected = []
    for row in stored:
        event = Event(campaign_id=str(made), revision=row["revision"])
        event.create_time.FromDatetime(row["create_time"])
        event.MergeFromString(row["body"])
        expected.append(event)
    assert [event for batch in batches for event in batch.events] == expected
    assert [len(batch.events) for batch in batches] == [6, 6, 6, 2]
    assert summary.row_count == summary.freshness.revision == 20


async def test_events_of_some_kinds_after_a_revision_resume_anywhere(
    query: Query, writer: Writer
) -> None:
    made, other = [await campaign_with_events(writer, count) for count in (30, 9)]
    ids = [str(made), str(uuid4()), str(other)]
    request = pb.StreamLogsRequest(
        campaign_ids=ids,
        kinds=["phase_changed"],
        after_revision=3,
        batch_size=3,
        campaign_limit=4,
    )
    batches, summary = await streamed(query.stub.StreamLogs(request))
    found = [(event.campaign_id, event.revision) for b in batches for event in b.events]
    assert found == [*((ids[0], n) for n in (5, 9, 13, 17)), *((ids[2], n) for n in (5, 9))]
    assert list(summary.unreachable) == [ids[1]]
    for count, batch in enumerate(batches, start=1):
        rest, _ = await streamed(query.stub.StreamLogs(resumed(request, batch.cursor)))
        assert [event.revision for b in rest for event in b.events] == [
            event.revision for b in batches[count:] for event in b.events
        ]


async def test_events_recorded_after_the_stream_came_stay_out_of_it(
    query: Query, writer: Writer
) -> None:
    made = await campaign_with_events(writer)
    request = pb.StreamLogsRequest(campaign_ids=[str(made)], batch_size=5)
    call = query.stub.StreamLogs(request)
    first = (await call.read()).batch
    await append(writer, made, Event(campaign_updated=CampaignUpdated(reason="late")))
    batches, _ = await streamed(query.stub.StreamLogs(resumed(request, first.cursor)))
    assert [event.revision for batch in batches for event in batch.events] == list(range(6, 21))
    call.cancel()


async def test_a_campaign_that_is_being_deleted_is_listed(query: Query, writer: Writer) -> None:
    made, other = await campaign_with_events(writer), await campaign_with_events(writer)
    ids = [str(made), str(other)]
    first = (await query.stub.StreamLogs(pb.StreamLogsRequest(campaign_ids=ids)).read()).batch
    assert first.campaign_id == ids[0]
    await writer.connection.execute(
        "UPDATE campaigns SET delete_time = now() WHERE no = $1", made.no
    )
    for call in (
        query.stub.StreamLogs(pb.StreamLogsRequest(campaign_ids=ids)),
        query.stub.StreamLeads(pb.StreamLeadsRequest(campaign_ids=ids)),
        query.stub.StreamEnriched(pb.StreamEnrichedRequest(campaign_ids=ids)),
    ):
        batches, summary = await streamed(call)
        assert {batch.campaign_id for batch in batches} <= {ids[1]}
        assert list(summary.unreachable) == [ids[0]]


async def test_unknown_kinds_and_fields_are_refused_by_name(query: Query, writer: Writer) -> None:
    made = str(await writer.campaign(1))
    for call, field, word in (
        (
            query.stub.StreamLogs(
                pb.StreamLogsRequest(campaign_ids=[made], kinds=["phase_changed", "phase_chaned"])
            ),
            "kinds[1]",
            "phase_chaned",
        ),
        (
            query.stub.StreamLeads(
                pb.StreamLeadsRequest(
                    campaign_ids=[made], read_mask=FieldMask(paths=["lead.contacts"])
                )
            ),
            "read_mask",
            "lead.contacts",
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=word) as caught:
            await streamed(call)
        assert read(caught.value).fields == {field}
