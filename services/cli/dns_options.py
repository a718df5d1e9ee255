"""Options that say how DNS is asked, for the commands that create or configure a campaign."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import UUID

import grpc
import typer
from google.protobuf import json_format

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import dns_pb2, dns_settings_pb2, validation_service_pb2_grpc
from domainflow.validation.v1 import validation_service_pb2 as pb
from services.cli.connection import DEADLINE
from services.cli.exits import ExitCode, Failure

PAGE_SIZE = 1000


class RecordType(StrEnum):
    """A type of record as it is typed."""

    A = "a"
    AAAA = "aaaa"
    NS = "ns"
    SOA = "soa"
    MX = "mx"


class Opinion(StrEnum):
    """What another operator's resolver is asked about too, as it is typed."""

    NONE = "none"
    ODD = "odd"
    POSITIVES = "positives"
    ALL = "all"


_POLICIES = {
    Opinion.NONE: dns_settings_pb2.SecondOpinion.POLICY_NONE,
    Opinion.ODD: dns_settings_pb2.SecondOpinion.POLICY_ODD,
    Opinion.POSITIVES: dns_settings_pb2.SecondOpinion.POLICY_POSITIVES_AND_ODD,
    Opinion.ALL: dns_settings_pb2.SecondOpinion.POLICY_ALL,
}

PersonaOption = Annotated[
    str,
    typer.Option(
        "--persona",
        metavar="NAME|ID",
        help="DNS persona whose settings are copied (`domainflow dns-persona list`).",
    ),
]
SettingsOption = Annotated[
    str,
    typer.Option(
        "--settings",
        metavar="FILE|-",
        help="DNS settings as JSON (DnsSettings), for all that has no option of its own; - is"
        " standard input.",
    ),
]
RecordTypeOption = Annotated[
    list[RecordType] | None,
    typer.Option(
        "--record-type",
        case_sensitive=False,
        help="Type of record to ask for; repeat for more. Default: a.",
    ),
]
OpinionOption = Annotated[
    Opinion | None,
    typer.Option(
        "--second-opinion",
        case_sensitive=False,
        help="What a resolver of another operator is asked about too: odd answers, positives"
        " (addresses and odd answers), all. Default: positives where there are two operators.",
    ),
]


def read_text(file: str) -> str:
    """What a file says; of standard input for "-". Raises OSError, and Failure for no text."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Failure(f"{file} is no text in UTF-8", ExitCode.USAGE) from None
    # Spreadsheets begin with a mark.
    return text.removeprefix("\ufeff")


def read_settings(file: str) -> dns_settings_pb2.DnsSettings:
    """The settings in a file. Raises Failure."""
    try:
        return json_format.Parse(read_text(file), dns_settings_pb2.DnsSettings())
    # The last one for numbers without end.
    except (json_format.ParseError, ArithmeticError) as problem:
        raise Failure(f"{file}: {problem}", ExitCode.USAGE) from None


def apply(
    dns: campaign_pb2.DnsConfiguration,
    *,
    persona: str,
    settings: str,
    record_types: list[RecordType] | None,
    second_opinion: Opinion | None,
) -> None:
    """Write what was typed into a configuration, but for the persona, which has to be looked up.

    Raises Failure for a file that cannot be used.
    """
    if persona and (settings or record_types or second_opinion):
        raise typer.BadParameter("--persona brings its own settings")
    if settings:
        dns.settings.CopyFrom(read_settings(settings))
    if record_types:
        del dns.settings.record_types[:]
        dns.settings.record_types.extend(
            dns_pb2.RecordType.Value(f"RECORD_TYPE_{each.name}") for each in record_types
        )
    if second_opinion is not None:
        dns.settings.second_opinion.policy = _POLICIES[second_opinion]


async def persona_id(channel: grpc.aio.Channel, persona: str) -> str:
    """The id of the persona that is meant: by id, else by name. Raises Failure."""
    try:
        return str(UUID(persona))
    except ValueError:
        pass
    stub = validation_service_pb2_grpc.ValidationServiceStub(channel)
    request = pb.ListDnsPersonasRequest(page_size=PAGE_SIZE)
    while True:
        page = await stub.ListDnsPersonas(request, timeout=DEADLINE)
        for each in page.dns_personas:
            if each.name == persona:
                return each.dns_persona_id
        request.page_token = page.next_page_token
        if not request.page_token:
            raise Failure(f"no DNS persona is called {persona!r}", ExitCode.FAILURE)
