"""`domainflow dead-letters`: what is asked for, and what is shown."""

import json
from collections.abc import Callable
from typing import Any

from typer.testing import CliRunner

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from services.cli.__main__ import app

CAMPAIGN = "01890000-0000-7000-8000-000000000001"


class Letters(campaign_service_pb2_grpc.CampaignServiceServicer):
    """Three letters on two pages; remembers every request."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def ListDeadLetters(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        letters = [
            campaign_pb2.DeadLetter(campaign_id=CAMPAIGN, position=i, name=f"n{i}.com")
            for i in range(3)
        ]
        if request.page_token:
            return campaign_service_pb2.ListDeadLettersResponse(dead_letters=letters[2:])
        return campaign_service_pb2.ListDeadLettersResponse(
            dead_letters=letters[:2], next_page_token="more"
        )

    def RedriveDeadLetters(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return campaign_service_pb2.RedriveDeadLettersResponse(count=1200)

    def DiscardDeadLetters(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return campaign_service_pb2.DiscardDeadLettersResponse(count=2)


def test_every_page_is_listed(serve: Callable[..., str]) -> None:
    letters = Letters()
    address = serve(campaigns=letters)

    listed = CliRunner().invoke(app(), ["dead-letters", "list", CAMPAIGN, "--server", address])

    assert listed.exit_code == 0, listed.stderr
    assert [json.loads(line)["name"] for line in listed.stdout.splitlines()] == [
        "n0.com",
        "n1.com",
        "n2.com",
    ]
    assert letters.requests[0].state == campaign_pb2.DEAD_LETTER_STATE_OPEN
    assert letters.requests[1].page_token == "more"


def test_the_limit_ends_the_list(serve: Callable[..., str]) -> None:
    letters = Letters()
    arguments = ["--server", serve(campaigns=letters), "--limit", "2", "--state", "all"]

    listed = CliRunner().invoke(app(), ["dead-letters", "list", *arguments])

    assert len(listed.stdout.splitlines()) == 2
    (request,) = letters.requests
    assert (request.campaign_id, request.page_size, request.state) == ("", 2, 0)


def test_letters_are_redriven_by_position_or_all(serve: Callable[..., str]) -> None:
    letters = Letters()
    arguments = ["--server", serve(campaigns=letters), "--reason", "fixed"]

    done = CliRunner().invoke(app(), ["dead-letters", "redrive", CAMPAIGN, "4", "7", *arguments])
    everything = CliRunner().invoke(app(), ["dead-letters", "redrive", CAMPAIGN, *arguments])

    assert (done.exit_code, everything.exit_code) == (0, 0)
    assert "1,200 redriven" in done.stderr
    some, all_of_them = letters.requests
    assert (list(some.positions), list(all_of_them.positions)) == ([4, 7], [])
    assert (some.phase, some.reason) == (campaign_pb2.PHASE_DNS_VALIDATION, "fixed")
    assert some.request_id != all_of_them.request_id


def test_letters_are_discarded(serve: Callable[..., str]) -> None:
    letters = Letters()
    arguments = ["--server", serve(campaigns=letters), "--phase", "http"]

    done = CliRunner().invoke(app(), ["dead-letters", "discard", CAMPAIGN, *arguments])

    assert done.exit_code == 0
    assert "2 discarded" in done.stderr
    assert letters.requests[0].phase == campaign_pb2.PHASE_HTTP_VALIDATION
