"""`domainflow campaign preview`, and the options it shares with `create`."""

import json
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from typer.testing import CliRunner, Result

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from services.cli.__main__ import app
from services.cli.preview import summary

OPTIONS = [
    "--pattern", "both", "--prefix-length", "2", "--suffix-length", "1", "--chars", "abc",
    "--constant", "x", "--tld", ".com", "--tld", ".net", "--count", "5",
]  # fmt: skip


class Previews(campaign_service_pb2_grpc.CampaignServiceServicer):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[campaign_service_pb2.PreviewPatternRequest] = []
        self.created: list[campaign_pb2.PatternSource] = []

    def PreviewPattern(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return answer(sample=["aaxa.com", "aaxa.net"])

    def CreateCampaign(self, request: Any, context: Any) -> Any:
        self.created.append(request.configuration.generation.pattern)
        campaign = campaign_pb2.Campaign(campaign_id="01890000-0000-7000-8000-000000000001")
        return campaign_service_pb2.CreateCampaignResponse(campaign=campaign)


def answer(**changed: Any) -> campaign_service_pb2.PreviewPatternResponse:
    fields: dict[str, Any] = {
        "combination_count": 54,
        "exact_combination_count": "54",
        "next_free_offset": 10,
        "free_count": 44,
        "first_offset": 10,
        "name_count": 5,
        "campaign_count": 2,
        "last_name": "aaxc.net",
        "storage_bytes": 1_234_567,
        "generation_duration": Duration(seconds=7),
        "dns_duration": Duration(seconds=3700),
    }
    return campaign_service_pb2.PreviewPatternResponse(**(fields | changed))


def domainflow(*arguments: str) -> Result:
    return CliRunner().invoke(app(), ["campaign", *arguments])


def test_a_preview_puts_the_sample_alone_on_standard_output(serve: Any) -> None:
    result = domainflow("preview", *OPTIONS, "--server", serve(campaigns=Previews()))

    assert (result.exit_code, result.stdout) == (0, "aaxa.com\naaxa.net\n")
    assert "54 names; 44 are free, from offset 10 on (2 campaigns before)" in result.stderr
    assert "gets 5 names from offset 10 on, the last one aaxc.net" in result.stderr
    assert "1.23 MB of disk; 0:07 to generate, 1:01:40 to ask DNS" in result.stderr


def test_a_preview_as_json_is_one_line(serve: Any) -> None:
    result = domainflow("preview", *OPTIONS, "--json", "--server", serve(campaigns=Previews()))

    assert json.loads(result.stdout)["exactCombinationCount"] == "54"


@pytest.mark.parametrize(
    ("more", "first", "overlap"),
    [([], None, False), (["--first-offset", "0"], 0, False), (["--allow-overlap"], None, True)],
)
def test_a_preview_asks_for_what_create_asks_for(
    serve: Any, more: list[str], first: int | None, overlap: bool
) -> None:
    previews = Previews()
    server = serve(campaigns=previews)

    assert domainflow("preview", *OPTIONS, *more, "--server", server).exit_code == 0
    created = domainflow("create", "--name", "n", "--no-start", *OPTIONS, *more, "--server", server)

    assert created.exit_code == 0
    (request,), (source,) = previews.requests, previews.created
    assert request.pattern == source
    assert source.HasField("first_offset") == (first is not None)
    assert (source.first_offset, source.overlap_allowed) == (first or 0, overlap)


def test_a_pattern_without_tld_is_wrong_usage() -> None:
    assert domainflow("preview", "--pattern", "prefix", "--prefix-length", "2").exit_code == 2


@pytest.mark.parametrize(
    ("changed", "warning"),
    [
        ({}, ""),
        ({"exhaustion_warning": True}, "warning: hardly any names are left after that"),
        (
            {"exhaustion_warning": True, "missing_count": 3, "name_count": 0},
            "warning: 3 fewer names than asked for",
        ),
    ],
)
def test_a_preview_warns_of_a_pattern_that_ends(changed: dict[str, Any], warning: str) -> None:
    said = summary(answer(**changed))

    assert [line for line in said if line.startswith("warning")] == ([warning] if warning else [])
    assert ("a campaign started now gets no names" in said) == (changed.get("name_count") == 0)
