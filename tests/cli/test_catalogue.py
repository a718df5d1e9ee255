"""Commands that list, change, copy and delete campaigns, as a script meets them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from domainflow.campaign.v1 import campaign_pb2 as pb
from domainflow.campaign.v1 import campaign_service_pb2 as rpc
from domainflow.campaign.v1 import campaign_service_pb2_grpc
from services.cli.__main__ import app

CAMPAIGN = "01890000-0000-7000-8000-000000000001"
OTHER = "01890000-0000-7000-8000-000000000002"
ROOT = Path(__file__).parents[2]
COPY = "01890000-0000-7000-8000-000000000003"


class Campaigns(campaign_service_pb2_grpc.CampaignServiceServicer):
    """One campaign, which is gone after `looks` looks at its deletion; remembers every request."""

    def __init__(self, looks: int = 3, refused: tuple[str, ...] = ()) -> None:
        self.requests: list[Any] = []
        self.looks = looks
        self.refused = refused

    def _campaign(self, campaign_id: str = CAMPAIGN, **more: Any) -> pb.Campaign:
        return pb.Campaign(
            campaign_id=campaign_id,
            name="shops",
            mode=pb.CAMPAIGN_MODE_STEP_BY_STEP,
            priority=pb.PRIORITY_HIGH,
            name_rate_limit=1500,
            current_phase=pb.PHASE_DNS_VALIDATION,
            status=pb.PHASE_STATUS_RUNNING,
            **more,
        )

    def ListCampaigns(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return rpc.ListCampaignsResponse(campaigns=[self._campaign()])

    def GetCampaign(self, request: Any, context: Any) -> Any:
        self.looks -= 1
        if self.looks < 0:
            context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        deletion = pb.Deletion(row_count=100, deleted_count=100 - 10 * self.looks)
        return rpc.GetCampaignResponse(campaign=self._campaign(deletion=deletion))

    def DeleteCampaigns(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        begun = [each for each in request.campaign_ids if each not in self.refused]
        return rpc.DeleteCampaignsResponse(
            campaigns=[self._campaign(each, deletion=pb.Deletion(row_count=100)) for each in begun],
            refused=[
                rpc.RefusedCampaign(campaign_id=each, reason="CAMPAIGN_ACTIVE", message="it runs")
                for each in request.campaign_ids
                if each in self.refused
            ],
        )

    def DuplicateCampaign(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return rpc.DuplicateCampaignResponse(campaign=self._campaign(COPY))


def _remembering(response: type[Any]) -> Callable[[Campaigns, Any, Any], Any]:
    def answer(self: Campaigns, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return response(campaign=self._campaign())

    return answer


for _name in (
    "RetryCampaign SkipPhase RerunPhase ConfigurePhase UpdateCampaign ArchiveCampaign"
    " UnarchiveCampaign"
).split():
    setattr(Campaigns, _name, _remembering(getattr(rpc, f"{_name}Response")))


def campaign(serve: Any, campaigns: Campaigns, *arguments: str, input: str = "") -> Result:
    address = serve(campaigns=campaigns)
    return CliRunner().invoke(app(), ["campaign", *arguments, "--server", address], input=input)


def test_list_asks_for_what_was_typed(serve: Any) -> None:
    campaigns = Campaigns()

    result = campaign(
        serve, campaigns, "list", "--filter", 'name : "s"', "--order", "name desc", "--all"
    )

    assert json.loads(result.stdout)["campaignId"] == CAMPAIGN
    (request,) = campaigns.requests
    assert (request.filter, request.order_by) == ('name : "s"', "name desc")
    assert request.show_archived
    assert request.show_deleted


def test_plain_list_leaves_out_what_was_put_away(serve: Any) -> None:
    campaigns = Campaigns()

    campaign(serve, campaigns, "list")

    (request,) = campaigns.requests
    assert (request.filter, request.show_archived, request.show_deleted) == ("", False, False)


def test_update_sends_only_what_was_given(serve: Any) -> None:
    campaigns = Campaigns()

    result = campaign(
        serve, campaigns, "update", CAMPAIGN, "--priority", "high", "--rate-limit", "0",
        "--etag", '"7"', "--reason", "now",
    )  # fmt: skip

    assert result.exit_code == 0
    assert result.stderr == "shops: step by step, priority high, 1,500 names/s at most\n"
    (request,) = campaigns.requests
    assert request.priority == pb.PRIORITY_HIGH
    assert request.HasField("name_rate_limit")
    assert not request.HasField("name")
    assert (request.mode, request.etag, request.reason) == (0, '"7"', "now")
    assert request.request_id


@pytest.mark.parametrize(
    ("command", "request_type"),
    [
        (["retry", CAMPAIGN], rpc.RetryCampaignRequest),
        (["skip", CAMPAIGN, "dns"], rpc.SkipPhaseRequest),
        (["rerun", CAMPAIGN, "DNS"], rpc.RerunPhaseRequest),
        (["archive", CAMPAIGN], rpc.ArchiveCampaignRequest),
        (["unarchive", CAMPAIGN], rpc.UnarchiveCampaignRequest),
    ],
    ids=lambda argument: argument[0] if isinstance(argument, list) else "",
)
def test_command_keeps_the_reason_and_can_be_repeated(
    serve: Any, command: list[str], request_type: type[Any]
) -> None:
    campaigns = Campaigns()

    result = campaign(serve, campaigns, *command, "--reason", "because")

    assert (result.exit_code, result.stdout) == (0, "")
    (request,) = campaigns.requests
    assert isinstance(request, request_type)
    assert (request.campaign_id, request.reason) == (CAMPAIGN, "because")
    assert request.request_id
    if len(command) > 2:
        assert request.phase == pb.PHASE_DNS_VALIDATION


def test_dns_is_configured_by_options(serve: Any) -> None:
    campaigns = Campaigns()

    result = campaign(
        serve, campaigns, "configure", CAMPAIGN, "dns", "--resolver", "192.0.2.1",
        "--timeout", "0.25", "--chunk-size", "500",
    )  # fmt: skip

    assert (result.exit_code, result.stderr) == (0, "DNS validation is configured\n")
    (request,) = campaigns.requests
    assert request.phase == pb.PHASE_DNS_VALIDATION
    assert not request.configuration.HasField("generation")
    dns = request.configuration.dns
    assert (list(dns.resolvers), dns.chunk_size) == (["192.0.2.1"], 500)
    assert dns.timeout.ToMilliseconds() == 250


def test_dns_without_options_gets_its_defaults(serve: Any) -> None:
    campaigns = Campaigns()

    campaign(serve, campaigns, "configure", CAMPAIGN, "dns")

    assert campaigns.requests[0].configuration.HasField("dns")


def test_phase_is_configured_from_a_file(serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    file.write_text('{"pattern": {"type": "PATTERN_TYPE_PREFIX", "tlds": [".com"]}}')
    campaigns = Campaigns()

    result = campaign(serve, campaigns, "configure", CAMPAIGN, "generation", "--file", str(file))

    assert result.exit_code == 0
    generation = campaigns.requests[0].configuration.generation
    assert generation.pattern.type == pb.PATTERN_TYPE_PREFIX


def test_damaged_configuration_is_told_and_not_sent(serve: Any) -> None:
    campaigns = Campaigns()

    result = campaign(
        serve, campaigns, "configure", CAMPAIGN, "dns", "--file", "-", input='{"colour": 1}'
    )

    assert result.exit_code == 2
    assert "colour" in result.stderr
    assert campaigns.requests == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["update", CAMPAIGN],
        ["update", CAMPAIGN, "--priority", "urgent"],
        ["configure", CAMPAIGN, "generation"],
        ["configure", CAMPAIGN, "generation", "--resolver", "192.0.2.1"],
        ["configure", CAMPAIGN, "dns", "--file", "x", "--attempts", "3"],
        ["skip", CAMPAIGN],
        ["skip", CAMPAIGN, "lunch"],
        ["delete"],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[2:]),
)
def test_wrong_usage_ends_with_two_and_sends_nothing(serve: Any, arguments: list[str]) -> None:
    campaigns = Campaigns()

    result = campaign(serve, campaigns, *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert campaigns.requests == []


def test_copy_prints_its_id_alone(serve: Any) -> None:
    campaigns = Campaigns()

    result = campaign(serve, campaigns, "duplicate", CAMPAIGN, "--name", "second")

    assert (result.exit_code, result.stdout) == (0, f"{COPY}\n")
    assert campaigns.requests[0].name == "second"


def test_delete_stays_until_the_campaign_is_gone(serve: Any) -> None:
    campaigns = Campaigns(looks=3)

    result = campaign(serve, campaigns, "delete", CAMPAIGN, "-y", "--force", "--reason", "done")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "deleted: 1 campaign\n"
    assert campaigns.looks < 0
    (request,) = campaigns.requests
    assert (list(request.campaign_ids), request.force) == ([CAMPAIGN], True)
    assert request.reason == "done"


def test_delete_without_waiting_says_that_it_goes_on(serve: Any) -> None:
    campaigns = Campaigns(looks=3)

    result = campaign(serve, campaigns, "delete", CAMPAIGN, OTHER, CAMPAIGN, "--yes", "--no-wait")

    assert result.stderr == "being deleted: 2 campaigns\n"
    assert campaigns.looks == 3
    assert list(campaigns.requests[0].campaign_ids) == [CAMPAIGN, OTHER]


def test_refused_deletion_is_told_and_the_others_are_done(serve: Any) -> None:
    campaigns = Campaigns(looks=0, refused=(OTHER,))

    result = campaign(serve, campaigns, "delete", CAMPAIGN, OTHER, "--yes")

    assert result.exit_code == 1
    assert f"{OTHER}: it runs [CAMPAIGN_ACTIVE]" in result.stderr
    assert "deleted: 1 campaign" in result.stderr


def test_many_campaigns_are_deleted_in_calls_of_a_thousand(serve: Any) -> None:
    campaigns = Campaigns()
    ids = [CAMPAIGN[:-4] + f"{number:04}" for number in range(1500)]

    result = campaign(serve, campaigns, "delete", *ids, "--yes", "--no-wait")

    assert result.stderr == "being deleted: 1,500 campaigns\n"
    assert [len(request.campaign_ids) for request in campaigns.requests] == [1000, 500]


def test_a_script_has_to_say_that_it_means_it(serve: Any) -> None:
    campaigns = Campaigns()

    result = campaign(serve, campaigns, "delete", CAMPAIGN)

    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert not campaigns.requests


@pytest.mark.parametrize(("typed", "asked"), [("n", False), ("y", True)])
def test_on_a_terminal_deletion_is_asked_about(serve: Any, typed: str, asked: bool) -> None:
    campaigns = Campaigns(looks=0)
    keyboard, terminal = os.openpty()
    arguments = ("campaign", "delete", CAMPAIGN, "--server", serve(campaigns=campaigns))
    with subprocess.Popen(
        [sys.executable, "-m", "services.cli", *arguments],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen' / 'python'}"},
    ) as command:
        os.write(keyboard, f"{typed}\n".encode())
        said = command.communicate()[1]
    os.close(keyboard)
    os.close(terminal)

    assert "Delete this campaign and all results?" in said
    assert bool(campaigns.requests) is asked
    assert command.returncode == (0 if asked else 1)


def test_what_campaigns_are_called_is_shown_as_it_is(serve: Any) -> None:
    class Named(Campaigns):
        def ListCampaigns(self, request: Any, context: Any) -> Any:
            campaign = pb.Campaign(name="[/bold] [red]")
            return rpc.ListCampaignsResponse(campaigns=[campaign])

    screen, terminal = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "services.cli", "campaign", "list"],
        stdout=terminal,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "DOMAINFLOW_SERVER": serve(campaigns=Named()),
            "COLUMNS": "200",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen' / 'python'}",
        },
    ) as command:
        said = command.communicate()[1]
    shown = os.read(screen, 100_000).decode()
    os.close(screen)
    os.close(terminal)

    assert command.returncode == 0, said
    assert "[/bold] [red]" in shown
