"""Options that say how pages are asked for and what is looked for, for the commands that check,
create and configure."""

from collections.abc import Sequence
from typing import Annotated

import grpc
import typer

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import (
    http_settings_pb2,
    keyword_pb2,
    lead_pb2,
    scoring_pb2,
)
from services.cli.kinds import HTTP_PERSONAS, KEYWORD_SETS, SCORING_PROFILES
from services.cli.named import ids_of, read_message
from services.cli.options import PhaseWord

HttpPersonaOption = Annotated[
    str,
    typer.Option(
        "--http-persona",
        metavar="NAME|ID",
        help="HTTP persona whose settings apply (`domainflow http-persona list`).",
    ),
]
HttpSettingsOption = Annotated[
    str,
    typer.Option(
        "--http-settings",
        metavar="FILE|-",
        help="How pages are asked for, as JSON (HttpSettings); - is standard input.",
    ),
]
KeywordOption = Annotated[
    list[str] | None,
    typer.Option("--keyword", metavar="WORD", help="Word to look for; repeat for more."),
]
KeywordSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keyword-set",
        metavar="NAME|ID",
        help="Stored keyword set to look for (`domainflow keywords list`); repeat for more.",
    ),
]
ExpressionOption = Annotated[
    str,
    typer.Option(
        "--expression",
        help="Which pages are hits: names of rules with AND, OR, NOT and parentheses. Default: any"
        " rule, or the expressions of the sets.",
    ),
]
ProfileOption = Annotated[
    str,
    typer.Option(
        "--profile",
        metavar="NAME|ID",
        help="Scoring profile that applies (`domainflow profiles list`). Default: the defaults.",
    ),
]
ScoringOption = Annotated[
    str,
    typer.Option(
        "--scoring",
        metavar="FILE|-",
        help="How pages are scored, as JSON (ScoringSettings), without a profile.",
    ),
]
MatchScoreOption = Annotated[
    float | None,
    typer.Option(
        "--match-score", help="Score from which on a page is a lead, 0.05 to 0.95. Default: 0.27."
    ),
]
ThresholdsOption = Annotated[
    str,
    typer.Option(
        "--thresholds", metavar="FILE|-", help="What makes a lead, as JSON (LeadThresholds)."
    ),
]
ThroughOption = Annotated[
    PhaseWord,
    typer.Option(
        "--through",
        case_sensitive=False,
        help="The last phase: dns; http, which fetches the pages of names that resolve; analysis,"
        " which scores them; or leads, which decides.",
    ),
]


async def choice(
    channel: grpc.aio.Channel,
    keywords: Sequence[str] | None,
    sets: Sequence[str] | None,
    expression: str = "",
) -> keyword_pb2.KeywordChoice:
    """What is looked for. Raises Failure."""
    return keyword_pb2.KeywordChoice(
        keywords=keywords or (),
        keyword_set_ids=await ids_of(channel, KEYWORD_SETS, sets or ()),
        expression=expression,
    )


async def asked(
    channel: grpc.aio.Channel,
    made: campaign_pb2.HttpConfiguration,
    *,
    persona: str = "",
    settings: str = "",
    keywords: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    expression: str = "",
) -> None:
    """Write what was typed into a configuration of HTTP. Raises Failure."""
    if persona:
        (made.http_persona_id,) = await ids_of(channel, HTTP_PERSONAS, [persona])
    if settings:
        made.settings.CopyFrom(read_message(settings, http_settings_pb2.HttpSettings))
    if keywords or sets or expression:
        made.keywords.CopyFrom(await choice(channel, keywords, sets, expression))


async def scored(
    channel: grpc.aio.Channel,
    made: campaign_pb2.AnalysisConfiguration,
    *,
    profile: str = "",
    scoring: str = "",
) -> None:
    """Write what was typed into a configuration of the analysis. Raises Failure."""
    if profile:
        (made.scoring_profile_id,) = await ids_of(channel, SCORING_PROFILES, [profile])
    if scoring:
        made.settings.CopyFrom(read_message(scoring, scoring_pb2.ScoringSettings))


def decided(
    made: campaign_pb2.LeadConfiguration,
    *,
    match_score: float | None = None,
    thresholds: str = "",
) -> None:
    """Write what was typed into a configuration of leads. Raises Failure."""
    if thresholds:
        made.thresholds.CopyFrom(read_message(thresholds, lead_pb2.LeadThresholds))
    if match_score is not None:
        made.thresholds.match_score = match_score


def check_pairs(
    *, persona: str = "", settings: str = "", profile: str = "", scoring: str = ""
) -> None:
    """Raises BadParameter for what excludes each other."""
    if persona and settings:
        raise typer.BadParameter("--http-persona brings its own settings")
    if profile and scoring:
        raise typer.BadParameter("--profile brings its own settings")
