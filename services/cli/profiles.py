"""`domainflow profiles ...` and `domainflow explain`: how pages are scored, and why a page has its
score."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from domainflow.validation.v1 import analysis_pb2
from domainflow.validation.v1 import scoring_pb2 as pb
from services.cli import http_options, terminal
from services.cli.connection import DATA_FOLDER, DEADLINE, DataOption, ServerOption
from services.cli.kinds import SCORING_PROFILES
from services.cli.named import add_commands, read_message, with_stub
from services.cli.options import CampaignArgument, JsonOption


def group() -> typer.Typer:
    """The commands below `domainflow profiles`."""
    made = typer.Typer(no_args_is_help=True, help="Named ways of scoring pages.")
    add_commands(made, SCORING_PROFILES)
    return made


def explain(
    campaign_id: CampaignArgument,
    position: Annotated[int, typer.Argument(min=0, help="Position of the name.")],
    profile: http_options.ProfileOption = "",
    scoring: http_options.ScoringOption = "",
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Say why a page has its score, or what score another profile would give it. Stores nothing.

    Example:

        domainflow explain ID 17 --profile strict
    """
    http_options.check_pairs(profile=profile, scoring=scoring)

    async def work(stub: Any) -> None:
        request = pb.ExplainScoreRequest(campaign_id=campaign_id, position=position)
        if profile:
            request.scoring_profile_id = await SCORING_PROFILES.id_of(stub, profile)
        if scoring:
            request.settings.CopyFrom(read_message(scoring, pb.ScoringSettings))
        answer = await stub.ExplainScore(request, timeout=DEADLINE)
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(answer))
            return
        terminal.show(table(answer.breakdown, answer.name))
        terminal.say(told(answer.breakdown))

    with_stub(server, data, work)


def table(breakdown: pb.ScoreBreakdown, title: str) -> Table:
    """The parts of a score."""
    right = ("measured", "of 1", "weight", "adds")
    shown = terminal.table(escape(title), ("component", *right), right=right)
    for part in breakdown.components:
        shown.add_row(
            part.component.replace("_", " "),
            f"{part.raw:,.2f}",
            f"{part.normalised:.3f}",
            f"{part.weight:.3f}",
            f"{part.contribution:.3f}",
        )
    return shown


def told(breakdown: pb.ScoreBreakdown) -> str:
    """What it comes to, in a line."""
    said = [f"score {breakdown.score:.3f}"]
    said += [f"times {it.factor:g} for {it.penalty}" for it in breakdown.penalties]
    said += [
        terminal.label(analysis_pb2.PageWarning.Name(it), "PAGE_WARNING_")
        for it in breakdown.warnings
    ]
    if breakdown.scoring_profile_id:
        said.append(f"profile {breakdown.scoring_profile_id} version {breakdown.version}")
    return "; ".join(said)
