"""`domainflow domains leads`."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from typer.testing import CliRunner

from domainflow.query.v1 import query_service_pb2_grpc
from domainflow.query.v1 import stream_pb2 as pb
from domainflow.validation.v1 import lead_pb2
from services.cli.__main__ import app
from services.cli.leads import table


def row(position: int) -> pb.LeadRow:
    made = pb.LeadRow(position=position, name=f"name-{position}.com", score=0.5)
    made.lead.status = lead_pb2.LEAD_STATUS_QUALIFIED
    made.lead.detail = "score 0.500 is at least 0.27"
    made.lead.contacts.add(kind=lead_pb2.CONTACT_KIND_EMAIL, value="info@[a].com")
    return made


class Leading(query_service_pb2_grpc.QueryServiceServicer):
    """Two batches; the first call ends after the first one."""

    def __init__(self, *, unreachable: bool = False) -> None:
        self.requests: list[pb.StreamLeadsRequest] = []
        self.unreachable = unreachable

    def StreamLeads(self, request: Any, context: Any) -> Iterator[pb.StreamLeadsResponse]:
        self.requests.append(request)
        if self.unreachable:
            summary = pb.BulkSummary(unreachable=list(request.campaign_ids))
            yield pb.StreamLeadsResponse(summary=summary)
            return
        for position in range(int(request.cursor or 0), 2):
            batch = pb.LeadBatch(leads=[row(position)], cursor=str(position + 1))
            yield pb.StreamLeadsResponse(batch=batch)
            if len(self.requests) == 1:
                return
        yield pb.StreamLeadsResponse(summary=pb.BulkSummary(row_count=2))


def test_every_lead_is_a_line_with_its_contacts_even_if_the_stream_is_cut(
    serve: Callable[..., str],
) -> None:
    leading = Leading()
    options = ["--lead", "qualified", "--server", serve(rows=leading)]

    result = CliRunner().invoke(app(), ["domains", "leads", "an-id", *options])

    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["name"] for each in rows] == ["name-0.com", "name-1.com"]
    assert rows[0]["lead"]["contacts"][0]["value"] == "info@[a].com"
    assert "2 names" in result.stderr
    assert list(leading.requests[0].statuses) == [lead_pb2.LEAD_STATUS_QUALIFIED]


def test_a_campaign_that_is_not_there_is_no_campaign_without_leads(
    serve: Callable[..., str],
) -> None:
    server = serve(rows=Leading(unreachable=True))

    result = CliRunner().invoke(app(), ["domains", "leads", "an-id", "--server", server])

    assert result.exit_code == 1
    assert "an-id" in result.stderr


def test_a_table_shows_whom_to_talk_to_and_why() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table([row(7)]))
    text = capture.get()

    for part in ("name-7.com", "0.500", "info@[a].com", "score 0.500 is at least 0.27"):
        assert part in text
