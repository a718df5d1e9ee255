"""The commands as a script meets them: arguments, exit codes, what goes to which stream."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from typer.testing import CliRunner, Result

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from domainflow.campaign.v1.event_pb2 import CampaignFinished, Event
from domainflow.query.v1 import query_service_pb2, query_service_pb2_grpc
from services.cli.__main__ import app
from services.cli.up import until_signalled
from tests.cli.processes import process

CAMPAIGN = "01890000-0000-7000-8000-000000000001"
REQUEST = "01890000-0000-7000-8000-000000000009"
PATTERN = ["--pattern", "prefix", "--prefix-length", "2", "--tld", ".com", "--tld", ".net"]


class Campaigns(campaign_service_pb2_grpc.CampaignServiceServicer):
    """One campaign that ends as `status` says; remembers every request."""

    def __init__(
        self,
        status: "campaign_pb2.PhaseStatus.ValueType" = campaign_pb2.PHASE_STATUS_COMPLETED,
        *,
        balanced: bool = True,
    ) -> None:
        self.requests: list[Any] = []
        self.balanced = balanced
        self.lines: list[str] = []
        self.campaign = campaign_pb2.Campaign(
            campaign_id=CAMPAIGN,
            name="shops",
            revision=1,
            current_phase=campaign_pb2.PHASE_DNS_VALIDATION,
            status=status,
            phases=[
                campaign_pb2.PhaseState(
                    phase=campaign_pb2.PHASE_DNS_VALIDATION, status=status, failure="it broke"
                )
            ],
        )

    def CreateCampaign(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        if not request.name.isprintable():
            context.abort_with_status(rpc_status.to_status(refused()))
        return campaign_service_pb2.CreateCampaignResponse(campaign=self.campaign)

    def StartCampaign(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return campaign_service_pb2.StartCampaignResponse(campaign=self.campaign)

    def PauseCampaign(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return campaign_service_pb2.PauseCampaignResponse(campaign=self.campaign)

    def GetCampaign(self, request: Any, context: Any) -> Any:
        return campaign_service_pb2.GetCampaignResponse(campaign=self.campaign)

    def ListCampaigns(self, request: Any, context: Any) -> Any:
        # Three pages of one campaign.
        page = int(request.page_token or 0)
        return campaign_service_pb2.ListCampaignsResponse(
            campaigns=[self.campaign], next_page_token=str(page + 1) if page < 2 else ""
        )

    def GetReceipt(self, request: Any, context: Any) -> Any:
        phase = campaign_pb2.PhaseReceipt(
            phase=campaign_pb2.PHASE_DNS_VALIDATION, status=self.campaign.status
        )
        receipt = campaign_pb2.Receipt(campaign_id=CAMPAIGN, balanced=self.balanced, phases=[phase])
        return campaign_service_pb2.GetReceiptResponse(receipt=receipt)

    def GetUpload(self, request: Any, context: Any) -> Any:
        line = campaign_service_pb2.RejectedLine(offset=1, line="b!", reason="no DNS name")
        return campaign_service_pb2.GetUploadResponse(rejected_lines=[line] if self.lines else None)

    def UploadNames(self, requests: Any, context: Any) -> Any:
        for message in requests:
            self.requests.append(message)
            self.lines += message.lines
        upload = campaign_service_pb2.Upload(
            next_offset=len(self.lines),
            accepted_count=len(self.lines) - 2,
            duplicate_count=1,
            rejected_count=1,
            finished=True,
        )
        return campaign_service_pb2.UploadNamesResponse(upload=upload)

    def WatchCampaigns(self, request: Any, context: Any) -> Iterator[Any]:
        message = campaign_service_pb2.WatchCampaignsResponse
        yield message(state=self.campaign)
        finished = CampaignFinished(status=self.campaign.status)
        yield message(event=Event(campaign_id=CAMPAIGN, revision=2, campaign_finished=finished))


class Rows(query_service_pb2_grpc.QueryServiceServicer):
    def StreamDomains(self, request: Any, context: Any) -> Iterator[Any]:
        message = query_service_pb2.StreamDomainsResponse
        batch = query_service_pb2.DomainBatch(
            domain_count=2,
            names=["a.com", "b.com"],
            dns_verdicts=[1, 2],
            addresses=["192.0.2.1", ""],
        )
        yield message(batch=batch)
        yield message(
            summary=query_service_pb2.StreamSummary(
                domain_count=2, unreachable=[i for i in request.campaign_ids if i != CAMPAIGN]
            )
        )


class Endless(query_service_pb2_grpc.QueryServiceServicer):
    def StreamDomains(self, request: Any, context: Any) -> Iterator[Any]:
        names = [f"name{number}.com" for number in range(5_000)]
        batch = query_service_pb2.DomainBatch(
            domain_count=5_000, names=names, dns_verdicts=[1] * 5_000, addresses=[""] * 5_000
        )
        while True:
            yield query_service_pb2.StreamDomainsResponse(batch=batch)


def refused() -> status_pb2.Status:
    violation = error_details_pb2.BadRequest.FieldViolation(field="name", description="unprintable")
    status = status_pb2.Status(
        code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="a field breaks a rule"
    )
    for detail in (
        error_details_pb2.ErrorInfo(reason="INVALID_FIELDS", domain="domainflow"),
        error_details_pb2.BadRequest(field_violations=[violation]),
    ):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def domainflow(*arguments: str, input: str = "", **environment: str) -> Result:
    return CliRunner().invoke(app(), list(arguments), input=input, env=environment)


@pytest.mark.parametrize(
    "arguments",
    [
        ["campaign", "create"],
        ["campaign", "create", "--name", "x"],
        ["campaign", "create", "--name", "x", *PATTERN, "--from-file", "names.txt"],
        ["campaign", "create", "--name", "x", "--pattern", "PREFIX"],
        ["campaign", "create", "--name", "x", *PATTERN, "--no-dns", "--resolver", "192.0.2.1"],
        ["campaign", "create", "--name", "x", *PATTERN, "--request-id", "seven"],
        ["domains", "export", CAMPAIGN, "--columns", "name,colour"],
        ["domains", "export", CAMPAIGN, "--columns", "name,name"],
        ["domains", "list", CAMPAIGN, "--verdict", "MAYBE"],
        ["demo", "--names", "0"],
        ["nonsense"],
    ],
    ids=lambda arguments: " ".join(arguments[:2] + arguments[-1:]),
)
def test_wrong_usage_ends_with_two_and_no_data(arguments: list[str]) -> None:
    result = domainflow(*arguments)

    assert result.exit_code == 2
    assert result.stdout == ""


def test_every_exit_code_is_in_the_help() -> None:
    text = " ".join(domainflow("--help").output.split())

    for code in (
        "0 done",
        "1 failed",
        "2 wrong",
        "3 the campaign was cancelled",
        "4 a phase failed",
    ):
        assert code in text
    assert "5 the suite is not" in text
    assert "130 interrupted" in text


def test_suite_that_is_not_running_is_told_with_the_command_that_starts_it(tmp_path: Path) -> None:
    result = domainflow("campaign", "list", "--data", str(tmp_path))

    assert result.exit_code == 5
    assert f"domainflow up --data {tmp_path}" in result.stderr


def test_door_that_does_not_answer_ends_with_five() -> None:
    result = domainflow("campaign", "list", DOMAINFLOW_SERVER="127.0.0.1:1")

    assert result.exit_code == 5
    assert result.stderr.startswith("error: nothing answers")
    assert len(result.stderr.splitlines()) == 1


def test_create_prints_the_id_alone_and_starts_it(serve: Any) -> None:
    campaigns = Campaigns()

    result = domainflow(
        "campaign", "create", "--name", "shops", *PATTERN, "--constant", "shop", "--resolver",
        "192.0.2.1", "--resolver", "192.0.2.2:5353", "--timeout", "0.25", "--attempts", "3",
        "--request-id", REQUEST, "--server", serve(campaigns=campaigns),
    )  # fmt: skip

    assert (result.exit_code, result.stdout) == (0, f"{CAMPAIGN}\n")
    created, started = campaigns.requests
    pattern = created.configuration.generation.pattern
    assert pattern.type == campaign_pb2.PATTERN_TYPE_PREFIX
    assert (pattern.prefix_length, pattern.constant) == (2, "shop")
    assert list(pattern.tlds) == [".com", ".net"]
    assert list(created.configuration.dns.resolvers) == ["192.0.2.1", "192.0.2.2:5353"]
    assert created.configuration.dns.timeout.ToMilliseconds() == 250
    assert created.mode == campaign_pb2.CAMPAIGN_MODE_FULL_SEQUENCE
    assert created.request_id == REQUEST
    assert started.campaign_id == CAMPAIGN


def test_generation_only_leaves_dns_out(serve: Any) -> None:
    campaigns = Campaigns()

    domainflow(
        "campaign", "create", "--name", "x", *PATTERN, "--no-dns", "--no-start",
        "--server", serve(campaigns=campaigns),
    )  # fmt: skip

    (created,) = campaigns.requests
    assert not created.configuration.HasField("dns")


def test_dns_without_any_option_is_still_asked_for(serve: Any) -> None:
    campaigns = Campaigns()

    domainflow(
        "campaign", "create", "--name", "x", *PATTERN, "--server", serve(campaigns=campaigns)
    )

    assert campaigns.requests[0].configuration.HasField("dns")


def test_repeated_command_sends_the_same_request_ids(serve: Any) -> None:
    campaigns = Campaigns()
    address = serve(campaigns=campaigns)

    for _ in range(2):
        domainflow(
            "campaign", "create", "--name", "x", *PATTERN, "--request-id", REQUEST,
            "--server", address,
        )  # fmt: skip

    ids = [request.request_id for request in campaigns.requests]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


def test_list_from_a_file_is_uploaded_and_accounted_for(serve: Any, tmp_path: Path) -> None:
    campaigns = Campaigns()
    file = tmp_path / "names.txt"
    file.write_text("a.com\nb!\na.com\nd.com\n")

    result = domainflow(
        "campaign", "create", "--name", "x", "--from-file", str(file),
        "--server", serve(campaigns=campaigns),
    )  # fmt: skip

    assert (result.exit_code, result.stdout) == (0, f"{CAMPAIGN}\n")
    assert campaigns.lines == ["a.com", "b!", "a.com", "d.com"]
    assert "4 lines: 2 names, 1 repeated, 1 rejected" in result.stderr
    assert "line 2: no DNS name: b!" in result.stderr


def test_missing_file_creates_nothing(serve: Any, tmp_path: Path) -> None:
    campaigns = Campaigns()

    result = domainflow(
        "campaign", "create", "--name", "x", "--from-file", str(tmp_path / "none"),
        "--server", serve(campaigns=campaigns),
    )  # fmt: skip

    assert result.exit_code == 1
    assert "No such file" in result.stderr
    assert campaigns.requests == []


def test_refused_argument_names_its_field_and_ends_with_two(serve: Any) -> None:
    result = domainflow(
        "campaign", "create", "--name", "\x07", *PATTERN, "--server", serve(campaigns=Campaigns())
    )

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == ("error: a field breaks a rule [INVALID_FIELDS] name: unprintable\n")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (campaign_pb2.PHASE_STATUS_COMPLETED, 0),
        (campaign_pb2.PHASE_STATUS_CANCELLED, 3),
        (campaign_pb2.PHASE_STATUS_FAILED, 4),
    ],
)
def test_watch_ends_as_the_campaign_ended(
    serve: Any, status: "campaign_pb2.PhaseStatus.ValueType", code: int
) -> None:
    address = serve(campaigns=Campaigns(status))

    result = domainflow("campaign", "watch", CAMPAIGN, "--json", "--server", address)

    assert result.exit_code == code
    kinds = [next(iter(json.loads(line))) for line in result.stdout.splitlines()]
    assert kinds == ["state", "event"]
    assert ("it broke" in result.stderr) == (code == 4)


def test_list_follows_pages_up_to_its_limit(serve: Any) -> None:
    address = serve(campaigns=Campaigns())

    every = domainflow("campaign", "list", "--server", address)
    two = domainflow("campaign", "list", "--limit", "2", "--server", address)

    assert len(every.stdout.splitlines()) == 3
    assert [json.loads(line)["campaignId"] for line in two.stdout.splitlines()] == [CAMPAIGN] * 2


def test_step_tells_the_state_and_keeps_the_reason(serve: Any) -> None:
    campaigns = Campaigns(campaign_pb2.PHASE_STATUS_PAUSED)

    result = domainflow(
        "campaign", "pause", CAMPAIGN, "--reason", "lunch", "--server", serve(campaigns=campaigns)
    )

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "DNS validation: paused\n"
    assert campaigns.requests[0].reason == "lunch"


@pytest.mark.parametrize(("balanced", "code"), [(True, 0), (False, 1)])
def test_receipt_that_does_not_balance_is_a_failure(serve: Any, balanced: bool, code: int) -> None:
    address = serve(campaigns=Campaigns(balanced=balanced))

    result = domainflow("campaign", "receipt", CAMPAIGN, "--server", address)

    assert result.exit_code == code
    assert json.loads(result.stdout)["balanced"] is balanced


def test_export_writes_rows_only_to_standard_output(serve: Any) -> None:
    result = domainflow("domains", "export", CAMPAIGN, "--server", serve(rows=Rows()))

    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"name": "a.com", "dns_verdict": "RESOLVED", "addresses": ["192.0.2.1"]},
        {"name": "b.com", "dns_verdict": "NXDOMAIN", "addresses": []},
    ]
    assert result.stderr == "2 rows\n"


def test_export_of_an_unknown_campaign_fails_after_the_others(serve: Any) -> None:
    other = CAMPAIGN.replace("1", "2")

    result = domainflow("domains", "export", CAMPAIGN, other, "--server", serve(rows=Rows()))

    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert f"no such campaign: {other}" in result.stderr


def test_reader_that_has_enough_ends_the_export_quietly(serve: Any) -> None:
    with process("domains", "export", CAMPAIGN, "--server", serve(rows=Endless())) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        first = command.stdout.readline()
        command.stdout.close()
        said = command.stderr.read()

    assert json.loads(first)["name"] == "name0.com"
    assert (command.returncode, said) == (0, "")


def test_interrupted_watch_leaves_the_campaign_running(serve: Any) -> None:
    class Running(Campaigns):
        def WatchCampaigns(self, request: Any, context: Any) -> Iterator[Any]:
            yield campaign_service_pb2.WatchCampaignsResponse(state=self.campaign)
            context.add_callback(hung_up.set)
            hung_up.wait(30)

    hung_up = threading.Event()
    campaigns = Running(campaign_pb2.PHASE_STATUS_RUNNING)
    address = serve(campaigns=campaigns)
    with process("campaign", "watch", CAMPAIGN, "--json", "--server", address) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.readline()
        command.send_signal(signal.SIGINT)
        said = command.stderr.read()

    assert command.returncode == 130
    assert f"goes on; look again: domainflow campaign watch {CAMPAIGN}" in said
    assert "Traceback" not in said
    assert campaigns.requests == []


async def test_signal_ends_the_work_in_good_order() -> None:
    steps = []

    async def work() -> None:
        try:
            steps.append("works")
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            steps.append("cleans up")

    await until_signalled(work(), lambda: steps.append("at once"))

    assert steps == ["works", "cleans up"]


async def test_second_signal_means_at_once() -> None:
    at_once = asyncio.Event()

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await at_once.wait()

    await until_signalled(work(), at_once.set)

    assert at_once.is_set()
