"""`domainflow campaign ...`: steer, look, account for. What else there is has files of its own."""

import uuid
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from services.cli import receipt as receipts
from services.cli import terminal
from services.cli.catalogue import (
    archive,
    configure,
    duplicate,
    list_campaigns,
    unarchive,
    update,
)
from services.cli.connection import (
    DATA_FOLDER,
    DEADLINE,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)
from services.cli.create import create, upload_names
from services.cli.delete import delete
from services.cli.exits import ExitCode, Failure
from services.cli.figures import funnel, rejections, tlds
from services.cli.follow import follow, say_next
from services.cli.options import CampaignArgument, JsonOption, PhaseArgument, ReasonOption
from services.cli.preview import preview
from services.cli.progress import phase_label, status_label
from services.cli.suite_state import door_argument
from services.cli.watch import FINAL_STATUSES


def group() -> typer.Typer:
    """The commands below `domainflow campaign`."""
    made = typer.Typer(no_args_is_help=True, help="Create, steer and watch campaigns.")
    made.command("create")(create)
    made.command("preview")(preview)
    made.command("upload")(upload_names)
    made.command("start", help="Start the current phase.")(
        _step(campaign_service_pb2.StartCampaignRequest, "StartCampaign")
    )
    made.command("pause", help="Stop handing out work; what is settled stays settled.")(
        _step(campaign_service_pb2.PauseCampaignRequest, "PauseCampaign")
    )
    made.command("resume", help="Go on with a paused phase.")(
        _step(campaign_service_pb2.ResumeCampaignRequest, "ResumeCampaign")
    )
    made.command("cancel", help="End the campaign for good; what is settled stays readable.")(
        _step(campaign_service_pb2.CancelCampaignRequest, "CancelCampaign")
    )
    made.command("retry", help="Go on with a phase that failed; what is settled stays settled.")(
        _step(campaign_service_pb2.RetryCampaignRequest, "RetryCampaign")
    )
    made.command("skip", help="Leave out a phase that has not started or that failed.")(
        _phase_step(campaign_service_pb2.SkipPhaseRequest, "SkipPhase")
    )
    made.command(
        "rerun", help="Do a phase again; its results are shown until the new ones are complete."
    )(_phase_step(campaign_service_pb2.RerunPhaseRequest, "RerunPhase"))
    made.command("configure")(configure)
    made.command("list")(list_campaigns)
    made.command("update")(update)
    made.command("archive")(archive)
    made.command("unarchive")(unarchive)
    made.command("duplicate")(duplicate)
    made.command("delete")(delete)
    made.command("watch")(watch)
    made.command("phases")(phases)
    made.command("receipt")(receipt)
    made.command("funnel")(funnel)
    made.command("rejections")(rejections)
    made.command("tlds")(tlds)
    return made


def _step(request_type: Callable[..., object], rpc: str) -> Callable[..., None]:
    """One command of those that differ in nothing but the RPC."""

    def command(
        campaign_id: CampaignArgument,
        reason: ReasonOption = "",
        json: JsonOption = False,
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        request = request_type(campaign_id=campaign_id, reason=reason, request_id=str(uuid.uuid4()))
        run(_take_step(rpc, request, json=json, address=lambda: locate(server, data)))

    return command


def _phase_step(request_type: Callable[..., object], rpc: str) -> Callable[..., None]:
    """As `_step`, of a phase that is named."""

    def command(
        campaign_id: CampaignArgument,
        phase: PhaseArgument,
        reason: ReasonOption = "",
        json: JsonOption = False,
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        request = request_type(
            campaign_id=campaign_id,
            phase=phase.number,
            reason=reason,
            request_id=str(uuid.uuid4()),
        )
        run(_take_step(rpc, request, json=json, address=lambda: locate(server, data)))

    return command


async def _take_step(rpc: str, request: object, *, json: bool, address: Callable[[], str]) -> None:
    async with connected(address()) as channel:
        stub: Any = campaign_service_pb2_grpc.CampaignServiceStub(channel)
        campaign = (await getattr(stub, rpc)(request, timeout=DEADLINE)).campaign
    terminal.say(f"{phase_label(campaign.current_phase)}: {status_label(campaign.status)}")
    if json:
        terminal.emit(terminal.as_json(campaign))


def watch(
    campaign_id: CampaignArgument,
    json: Annotated[
        bool, typer.Option("--json", help="Every message as NDJSON on standard output.")
    ] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Watch a campaign to its end; Ctrl-C leaves it running.

    A cut connection is taken up where it was cut; no event is shown twice. Exit code 0 when the
    campaign completed, 3 when it was cancelled or deleted, 4 when a phase failed.
    """

    door = door_argument(server, data)

    async def work() -> ExitCode:
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            code = await follow(stub, campaign_id, json=json)
            if code is ExitCode.OK:
                say_next(campaign_id, door)
            return code

    code = run(
        work(),
        lambda: f"the campaign goes on; look again: domainflow campaign watch {campaign_id}{door}",
    )
    raise typer.Exit(code)


def phases(
    campaign_id: CampaignArgument,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show where every phase stands and what can be done now."""

    async def work() -> None:
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            answer = await stub.GetCampaignPhases(
                campaign_service_pb2.GetCampaignPhasesRequest(campaign_id=campaign_id),
                timeout=DEADLINE,
            )
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(answer))
            return
        headings = ("phase", "status", "run", "settled", "names", "possible now")
        shown = terminal.table("", headings, right=("run", "settled", "names"))
        for state in answer.phases:
            possible = [
                terminal.label(campaign_pb2.PhaseAction.Name(step.action), "PHASE_ACTION_")
                for step in answer.available_transitions
                if step.phase == state.phase
            ]
            status = status_label(state.status)
            shown.add_row(
                phase_label(state.phase),
                escape(f"{status}: {state.failure}" if state.failure else status),
                str(state.run),
                f"{state.settled_count:,}",
                f"{state.name_count:,}",
                ", ".join(possible),
            )
        terminal.show(shown)

    run(work())


def receipt(
    campaign_id: CampaignArgument,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Account for every name: outcomes, their sum, and a hash over names and outcomes.

    Exit code 1 when the receipt of a campaign that is over does not balance.
    """

    async def work() -> None:
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            answer = await stub.GetReceipt(
                campaign_service_pb2.GetReceiptRequest(campaign_id=campaign_id), timeout=DEADLINE
            )
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(answer.receipt))
        else:
            receipts.show(answer.receipt, terminal.paper())
        over = all(phase.status in FINAL_STATUSES for phase in answer.receipt.phases)
        if over and not answer.receipt.balanced:
            raise Failure("the receipt does not balance")

    run(work())
