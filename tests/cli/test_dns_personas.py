"""Commands about personas, as a script meets them."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2_grpc
from domainflow.campaign.v1 import campaign_service_pb2 as rpc
from domainflow.validation.v1 import dns_pb2, resolver_pb2, validation_service_pb2_grpc
from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1.dns_persona_pb2 import DnsPersona
from domainflow.validation.v1.dns_settings_pb2 import DnsResolver, DnsSettings, SecondOpinion
from services.cli.__main__ import app

PERSONA = "01890000-0000-7000-8000-000000000001"
SETTINGS = DnsSettings(resolvers=[DnsResolver(address="192.0.2.1")], attempt_limit=2)


class Validation(validation_service_pb2_grpc.ValidationServiceServicer):
    """Two personas on two pages; remembers every request but lists."""

    def __init__(self, *, passed: bool = True, code: grpc.StatusCode | None = None) -> None:
        self.requests: list[Any] = []
        self.passed = passed
        self.code = code

    def _remember(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        if self.code is not None:
            context.abort(self.code, "so it is")

    def _persona(self, name: str = "fast", persona_id: str = PERSONA) -> DnsPersona:
        return DnsPersona(
            dns_persona_id=persona_id, name=name, description="d", settings=SETTINGS, etag='"3"'
        )

    def ListDnsPersonas(self, request: Any, context: Any) -> Any:
        if not request.page_token:
            other = self._persona("a", PERSONA[:-1] + "2")
            return pb.ListDnsPersonasResponse(dns_personas=[other], next_page_token="next")
        return pb.ListDnsPersonasResponse(dns_personas=[self._persona()])

    def GetDnsPersona(self, request: Any, context: Any) -> Any:
        return pb.GetDnsPersonaResponse(dns_persona=self._persona())

    def CreateDnsPersona(self, request: Any, context: Any) -> Any:
        self._remember(request, context)
        return pb.CreateDnsPersonaResponse(dns_persona=self._persona())

    def UpdateDnsPersona(self, request: Any, context: Any) -> Any:
        self._remember(request, context)
        return pb.UpdateDnsPersonaResponse(dns_persona=request.dns_persona)

    def DeleteDnsPersona(self, request: Any, context: Any) -> Any:
        self._remember(request, context)
        return pb.DeleteDnsPersonaResponse()

    def TestDnsPersona(self, request: Any, context: Any) -> Any:
        self._remember(request, context)
        report = resolver_pb2.ResolverReport(resolver="192.0.2.1:53")
        test = pb.ResolverTest(report=report)
        return pb.TestDnsPersonaResponse(resolver_tests=[test], passed=self.passed)

    def ExportDnsPersonas(self, request: Any, context: Any) -> Any:
        self._remember(request, context)
        return pb.ExportDnsPersonasResponse(document='{"format": "x"}')

    def ImportDnsPersonas(self, request: Any, context: Any) -> Any:
        self._remember(request, context)
        return pb.ImportDnsPersonasResponse(dns_personas=[self._persona()], replaced_count=1)


class Campaigns(campaign_service_pb2_grpc.CampaignServiceServicer):
    """Takes campaigns; remembers every request."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def CreateCampaign(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return rpc.CreateCampaignResponse(campaign=campaign_pb2.Campaign(campaign_id=PERSONA))

    def ConfigurePhase(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return rpc.ConfigurePhaseResponse(campaign=campaign_pb2.Campaign(campaign_id=PERSONA))


def persona(serve: Any, validation: Validation, *arguments: str, input: str = "") -> Result:
    address = serve(validation=validation)
    return CliRunner().invoke(app(), ["dns-persona", *arguments, "--server", address], input=input)


def test_every_page_of_personas_is_listed(serve: Any) -> None:
    result = persona(serve, Validation(), "list")

    assert [json.loads(line)["name"] for line in result.stdout.splitlines()] == ["a", "fast"]


def test_settings_that_are_written_can_be_read_back(serve: Any) -> None:
    validation = Validation()

    written = persona(serve, validation, "get", "fast", "--settings").stdout
    result = persona(serve, validation, "create", "--name", "new", "--file", "-", input=written)

    assert (result.exit_code, result.stdout) == (0, f"{PERSONA}\n")
    (request,) = validation.requests
    assert request.dns_persona == DnsPersona(name="new", settings=SETTINGS)
    assert request.request_id
    assert not request.validate_only


def test_what_an_update_does_not_give_stays(serve: Any) -> None:
    validation = Validation()

    result = persona(serve, validation, "update", "fast", "--name", "faster")

    assert result.exit_code == 0
    changed = validation.requests[0].dns_persona
    assert (changed.name, changed.description, changed.settings) == ("faster", "d", SETTINGS)
    assert (changed.dns_persona_id, changed.etag) == (PERSONA, '"3"')


def test_a_persona_is_deleted_by_name(serve: Any) -> None:
    validation = Validation()

    result = persona(serve, validation, "delete", "fast")

    assert (result.exit_code, result.stderr) == (0, "deleted\n")
    assert validation.requests[0].dns_persona_id == PERSONA


@pytest.mark.parametrize("arguments", [["update", PERSONA, "--name", "n"], ["delete", PERSONA]])
def test_what_would_complain_of_itself_is_sent_once(serve: Any, arguments: list[str]) -> None:
    validation = Validation(code=grpc.StatusCode.UNAVAILABLE)

    result = persona(serve, validation, *arguments)

    assert result.exit_code == 5
    assert len(validation.requests) == 1


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_a_test_ends_as_the_resolvers_do(serve: Any, passed: bool, code: int) -> None:
    validation = Validation(passed=passed)

    result = persona(serve, validation, "test", "fast", "--name", "example.com")

    assert result.exit_code == code
    assert json.loads(result.stdout)["passed"] is passed
    (request,) = validation.requests
    assert (request.dns_persona_id, list(request.names)) == (PERSONA, ["example.com"])


def test_settings_that_are_not_stored_can_be_tested(serve: Any) -> None:
    validation = Validation()

    persona(serve, validation, "test", "--file", "-", input='{"attempt_limit": 2}')

    assert validation.requests[0].settings == DnsSettings(attempt_limit=2)


def test_documents_go_out_and_in(serve: Any, tmp_path: Path) -> None:
    validation = Validation()
    file = tmp_path / "personas.json"

    exported = persona(serve, validation, "export", "fast")
    file.write_text(exported.stdout)
    imported = persona(serve, validation, "import", str(file), "--replace")

    assert json.loads(exported.stdout) == {"format": "x"}
    assert imported.stderr == "imported: 1 DNS persona, 1 replaced\n"
    first, second = validation.requests
    assert list(first.dns_persona_ids) == [PERSONA]
    assert json.loads(second.document) == {"format": "x"}
    assert second.replace


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["update", "fast"], 2),
        (["test"], 2),
        (["test", "fast", "--file", "x"], 2),
        (["create", "--name", "n", "--file", "-"], 2),
        (["get", "slow"], 1),
    ],
)
def test_wrong_usage_sends_nothing(serve: Any, arguments: list[str], code: int) -> None:
    validation = Validation()

    result = persona(serve, validation, *arguments, input='{"colour": 1}')

    assert (result.exit_code, result.stdout) == (code, "")
    assert validation.requests == []


def campaign(serve: Any, campaigns: Campaigns, *arguments: str, input: str = "") -> Result:
    address = serve(campaigns=campaigns, validation=Validation())
    return CliRunner().invoke(app(), ["campaign", *arguments, "--server", address], input=input)


CREATE = ("create", "--name", "n", "--pattern", "PREFIX", "--prefix-length", "1", "--constant", "x",
          "--tld", ".com", "--no-start")  # fmt: skip


def test_a_campaign_is_created_with_a_persona_by_its_name(serve: Any) -> None:
    campaigns = Campaigns()

    result = campaign(serve, campaigns, *CREATE, "--persona", "fast", "--attempts", "3")

    assert result.exit_code == 0, result.stderr
    dns = campaigns.requests[0].configuration.dns
    assert dns == campaign_pb2.DnsConfiguration(dns_persona_id=PERSONA, attempt_limit=3)


def test_options_go_before_the_settings_of_a_file(serve: Any) -> None:
    campaigns = Campaigns()
    options = ("--settings", "-", "--record-type", "AAAA", "--record-type", "mx",
               "--second-opinion", "none")  # fmt: skip
    text = '{"attempt_limit": 2, "record_types": ["RECORD_TYPE_A"]}'

    created = campaign(serve, campaigns, *CREATE, *options, input=text)
    configured = campaign(serve, campaigns, "configure", PERSONA, "dns", *options, input=text)

    assert (created.exit_code, configured.exit_code) == (0, 0), created.stderr
    for request in campaigns.requests:
        assert request.configuration.dns.settings == DnsSettings(
            attempt_limit=2,
            record_types=[dns_pb2.RECORD_TYPE_AAAA, dns_pb2.RECORD_TYPE_MX],
            second_opinion=SecondOpinion(policy=SecondOpinion.POLICY_NONE),
        )


@pytest.mark.parametrize(
    "options",
    [
        ["--persona", "fast", "--record-type", "aaaa"],
        ["--persona", "fast", "--settings", "x.json"],
        ["--no-dns", "--second-opinion", "all"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_create_nothing(serve: Any, options: list[str]) -> None:
    campaigns = Campaigns()

    result = campaign(serve, campaigns, *CREATE, *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert campaigns.requests == []
