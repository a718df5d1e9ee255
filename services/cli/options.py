"""Arguments and options that several commands have in common."""

from enum import StrEnum
from typing import Annotated

import typer

from domainflow.campaign.v1 import campaign_pb2

CampaignArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Campaign id, as `campaign create` prints it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
ReasonOption = Annotated[str, typer.Option(help="Kept in the campaign's history.")]


class PhaseWord(StrEnum):
    """A phase as it is typed."""

    GENERATION = "generation"
    DNS = "dns"
    HTTP = "http"
    ANALYSIS = "analysis"
    LEADS = "leads"

    @property
    def number(self) -> campaign_pb2.Phase.ValueType:
        """The proto value."""
        return _NUMBERS[self]


_NUMBERS = {
    PhaseWord.GENERATION: campaign_pb2.PHASE_DOMAIN_GENERATION,
    PhaseWord.DNS: campaign_pb2.PHASE_DNS_VALIDATION,
    PhaseWord.HTTP: campaign_pb2.PHASE_HTTP_VALIDATION,
    PhaseWord.ANALYSIS: campaign_pb2.PHASE_CONTENT_ANALYSIS,
    PhaseWord.LEADS: campaign_pb2.PHASE_LEAD_EXTRACTION,
}

PhaseArgument = Annotated[
    PhaseWord, typer.Argument(metavar="PHASE", case_sensitive=False, help="Which phase.")
]


class Mode(StrEnum):
    """Who starts the next phase."""

    FULL_SEQUENCE = "FULL_SEQUENCE"
    STEP_BY_STEP = "STEP_BY_STEP"


class Priority(StrEnum):
    """How much of the workers a campaign gets."""

    HIGH = "HIGH"
    NORMAL = "NORMAL"
    LOW = "LOW"
