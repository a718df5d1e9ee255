"""`domainflow dead-letters ...`: names that were given up, and what becomes of them."""

import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from services.cli import terminal
from services.cli.connection import (
    DATA_FOLDER,
    DEADLINE,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)
from services.cli.progress import phase_label

PAGE_SIZE = 1000


class PhaseName(StrEnum):
    """The phases that workers do, as they are typed."""

    DNS = "dns"
    HTTP = "http"

    @property
    def number(self) -> campaign_pb2.Phase.ValueType:
        """The proto value."""
        return campaign_pb2.Phase.Value(f"PHASE_{self.value.upper()}_VALIDATION")


class StateName(StrEnum):
    """What became of a letter, as it is typed."""

    OPEN = "open"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"
    ALL = "all"


CampaignArgument = Annotated[str, typer.Argument(metavar="ID", help="Campaign id.")]
PositionsArgument = Annotated[
    list[int] | None,
    typer.Argument(metavar="[POSITION]...", help="Positions of names. Default: every open letter."),
]
PhaseOption = Annotated[PhaseName, typer.Option(help="Phase whose letters are meant.")]
ReasonOption = Annotated[str, typer.Option(help="Kept with the letters and in the history.")]


def group() -> typer.Typer:
    """The commands below `domainflow dead-letters`."""
    made = typer.Typer(
        no_args_is_help=True, help="Names whose check failed for good: list, redrive, discard."
    )
    made.command("list")(list_letters)
    made.command("redrive", help="Hand names out again: all open ones, or those at POSITION.")(
        _resolution("RedriveDeadLetters", "redriven")
    )
    made.command("discard", help="Leave names as they are: their outcome stays DEAD_LETTER.")(
        _resolution("DiscardDeadLetters", "discarded")
    )
    return made


def list_letters(
    campaign_id: Annotated[
        str, typer.Argument(metavar="[ID]", help="Campaign id. Default: all campaigns.")
    ] = "",
    state: Annotated[StateName, typer.Option(help="Only letters in this state.")] = StateName.OPEN,
    limit: Annotated[int, typer.Option(min=1, help="Most letters to show.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="NDJSON on standard output.")] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """List dead letters: a table on a terminal, NDJSON otherwise."""
    wanted = "UNSPECIFIED" if state is StateName.ALL else state.name
    request = campaign_service_pb2.ListDeadLettersRequest(
        campaign_id=campaign_id,
        state=campaign_pb2.DeadLetterState.Value(f"DEAD_LETTER_STATE_{wanted}"),
    )

    async def work() -> None:
        letters: list[campaign_pb2.DeadLetter] = []
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            while len(letters) < limit:
                request.page_size = min(limit - len(letters), PAGE_SIZE)
                page = await stub.ListDeadLetters(request, timeout=DEADLINE)
                letters += page.dead_letters
                request.page_token = page.next_page_token
                if not request.page_token:
                    break
        if json or not terminal.is_watched():
            for letter in letters:
                terminal.emit(terminal.as_json(letter))
            return
        headings = ("campaign", "phase", "position", "name", "failures", "state", "cause")
        shown = terminal.table("", headings, right=("position", "failures"))
        for letter in letters:
            state_name = campaign_pb2.DeadLetterState.Name(letter.state)
            shown.add_row(
                letter.campaign_id,
                phase_label(letter.phase),
                f"{letter.position:,}",
                letter.name,
                str(letter.failure_count),
                terminal.label(state_name, "DEAD_LETTER_STATE_"),
                escape(letter.cause),
            )
        terminal.show(shown)

    run(work())


def _resolution(rpc: str, done: str) -> Callable[..., None]:
    """One of the two commands that differ in nothing but the RPC."""

    def command(
        campaign_id: CampaignArgument,
        positions: PositionsArgument = None,
        phase: PhaseOption = PhaseName.DNS,
        reason: ReasonOption = "",
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        request = getattr(campaign_service_pb2, f"{rpc}Request")(
            campaign_id=campaign_id,
            phase=phase.number,
            positions=positions or [],
            reason=reason,
            request_id=str(uuid.uuid4()),
        )

        async def work() -> None:
            async with connected(locate(server, data)) as channel:
                stub: Any = campaign_service_pb2_grpc.CampaignServiceStub(channel)
                answer = await getattr(stub, rpc)(request, timeout=DEADLINE)
            terminal.say(f"{answer.count:,} {done}")

        run(work())

    return command
