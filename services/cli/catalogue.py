"""`domainflow campaign list, update, configure, archive, unarchive, duplicate`."""

import sys
import uuid
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from rich.markup import escape

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from services.cli import dns_options, http_options, terminal
from services.cli.connection import (
    DATA_FOLDER,
    DEADLINE,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)
from services.cli.dns_options import (
    OpinionOption,
    PersonaOption,
    RecordTypeOption,
    SettingsOption,
)
from services.cli.exits import ExitCode, Failure
from services.cli.options import (
    CampaignArgument,
    JsonOption,
    Mode,
    PhaseArgument,
    PhaseWord,
    Priority,
    ReasonOption,
)
from services.cli.progress import phase_label, status_label

_PARTS = {
    PhaseWord.GENERATION: "generation",
    PhaseWord.DNS: "dns",
    PhaseWord.HTTP: "http",
    PhaseWord.ANALYSIS: "analysis",
    PhaseWord.LEADS: "lead",
}


def list_campaigns(
    limit: Annotated[int, typer.Option(min=1, help="Most campaigns to show.")] = 50,
    filter: Annotated[
        str,
        typer.Option(
            help="Which campaigns, such as"
            " 'status = RUNNING AND (name : \"shop\" OR name_count > 1000000)'. Fields: name,"
            " status, current_phase, mode, priority, create_time, update_time, name_count."
        ),
    ] = "",
    order: Annotated[
        str,
        typer.Option(
            help="create_time, update_time, name or name_count; ' desc' after it for descending."
        ),
    ] = "create_time desc",
    every: Annotated[
        bool, typer.Option("--all", help="Archived ones and those being deleted too.")
    ] = False,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """List campaigns, newest first: a table on a terminal, NDJSON otherwise."""

    async def work() -> None:
        campaigns: list[campaign_pb2.Campaign] = []
        request = campaign_service_pb2.ListCampaignsRequest(
            filter=filter, order_by=order, show_archived=every, show_deleted=every
        )
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            while len(campaigns) < limit:
                request.page_size = min(limit - len(campaigns), 1000)
                page = await stub.ListCampaigns(request, timeout=DEADLINE)
                campaigns += page.campaigns
                request.page_token = page.next_page_token
                if not request.page_token:
                    break
        if json or not terminal.is_watched():
            for campaign in campaigns:
                terminal.emit(terminal.as_json(campaign))
            return
        headings = ("id", "name", "phase", "status", "names", "priority", "created")
        shown = terminal.table("", headings, right=("names",))
        for campaign in campaigns:
            shown.add_row(
                campaign.campaign_id,
                escape(campaign.name),
                phase_label(campaign.current_phase),
                _condition(campaign),
                f"{campaign.name_count:,}",
                terminal.label(campaign_pb2.Priority.Name(campaign.priority), "PRIORITY_"),
                f"{campaign.create_time.ToDatetime():%Y-%m-%d %H:%M} UTC",
            )
        terminal.show(shown)

    run(work())


def _condition(campaign: campaign_pb2.Campaign) -> str:
    status = status_label(campaign.status)
    if campaign.HasField("deletion"):
        return f"{status}, being deleted"
    return f"{status}, archived" if campaign.HasField("archive_time") else status


def update(
    campaign_id: CampaignArgument,
    name: Annotated[str | None, typer.Option(help="New name; 1 to 200 characters.")] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(case_sensitive=False, help="Whether each phase starts by itself from now on."),
    ] = None,
    priority: Annotated[
        Priority | None,
        typer.Option(case_sensitive=False, help="How much of the workers it gets; at once."),
    ] = None,
    rate_limit: Annotated[
        int | None,
        typer.Option(
            min=0, max=1_000_000, help="Names per second at most; 0 takes the limit away; at once."
        ),
    ] = None,
    etag: Annotated[
        str, typer.Option(help="Refuse if the campaign changed since this etag was read.")
    ] = "",
    reason: ReasonOption = "",
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Change a campaign's name, mode, priority or rate limit, also while it runs."""
    if (name, mode, priority, rate_limit) == (None, None, None, None):
        raise typer.BadParameter("give --name, --mode, --priority or --rate-limit")
    request = campaign_service_pb2.UpdateCampaignRequest(
        campaign_id=campaign_id, etag=etag, reason=reason, request_id=str(uuid.uuid4())
    )
    if name is not None:
        request.name = name
    if mode is not None:
        request.mode = campaign_pb2.CampaignMode.Value(f"CAMPAIGN_MODE_{mode}")
    if priority is not None:
        request.priority = campaign_pb2.Priority.Value(f"PRIORITY_{priority}")
    if rate_limit is not None:
        request.name_rate_limit = rate_limit

    async def work() -> None:
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            campaign = (await stub.UpdateCampaign(request, timeout=DEADLINE)).campaign
        terminal.say(_settings(campaign))
        if json:
            terminal.emit(terminal.as_json(campaign))

    run(work())


def _settings(campaign: campaign_pb2.Campaign) -> str:
    mode = terminal.label(campaign_pb2.CampaignMode.Name(campaign.mode), "CAMPAIGN_MODE_")
    priority = terminal.label(campaign_pb2.Priority.Name(campaign.priority), "PRIORITY_")
    limit = campaign.name_rate_limit
    rate = f"{limit:,} names/s at most" if limit else "no rate limit"
    return f"{campaign.name}: {mode}, priority {priority}, {rate}"


def configure(
    campaign_id: CampaignArgument,
    phase: PhaseArgument,
    file: Annotated[
        str,
        typer.Option(
            metavar="FILE|-",
            help="The phase's part of the configuration as JSON, such as"
            ' {"resolvers": ["192.0.2.1"], "timeout": "0.5s"}; - is standard input.',
        ),
    ] = "",
    resolver: Annotated[
        list[str] | None,
        typer.Option(metavar="IP[:PORT]", help="DNS: resolver to ask; repeat for more."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="DNS: seconds one query waits, 0.05 to 30; 0: default.")
    ] = 0,
    attempts: Annotated[
        int, typer.Option(min=0, max=20, help="DNS: queries per name; 0: default.")
    ] = 0,
    persona: PersonaOption = "",
    settings: SettingsOption = "",
    record_type: RecordTypeOption = None,
    second_opinion: OpinionOption = None,
    chunk_size: Annotated[
        int,
        typer.Option(help="DNS: names per unit of work, 100 to 5,000; 0: decided by the suite."),
    ] = 0,
    http_persona: http_options.HttpPersonaOption = "",
    http_settings: http_options.HttpSettingsOption = "",
    keyword: http_options.KeywordOption = None,
    keyword_set: http_options.KeywordSetOption = None,
    expression: http_options.ExpressionOption = "",
    profile: http_options.ProfileOption = "",
    scoring: http_options.ScoringOption = "",
    match_score: http_options.MatchScoreOption = None,
    thresholds: http_options.ThresholdsOption = "",
    etag: Annotated[
        str, typer.Option(help="Refuse if the campaign changed since this etag was read.")
    ] = "",
    reason: ReasonOption = "",
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Set or replace the configuration of a phase that does not run, as a whole.

    Each phase by its options or by --file, generation by --file: what is not given gets its
    default.

    Example, to score pages anew without fetching them:

        domainflow campaign configure ID analysis --profile strict

        domainflow campaign rerun ID analysis
    """
    is_dns_asked = bool(
        (resolver or timeout or attempts or chunk_size)
        or (persona or settings or record_type or second_opinion)
    )
    if is_dns_asked and (file or phase is not PhaseWord.DNS):
        raise typer.BadParameter("the options of DNS go with the phase dns, and not with --file")
    http_options.check_pairs(
        persona=http_persona, settings=http_settings, profile=profile, scoring=scoring
    )
    of_http = bool(http_persona or http_settings or keyword or keyword_set or expression)
    for given, its in (
        (of_http, PhaseWord.HTTP),
        (bool(profile or scoring), PhaseWord.ANALYSIS),
        (match_score is not None or bool(thresholds), PhaseWord.LEADS),
    ):
        if given and (file or phase is not its):
            raise typer.BadParameter(
                f"the options of {its} go with the phase {its}, and not with --file"
            )
    if not file and phase is PhaseWord.GENERATION:
        raise typer.BadParameter(f"{phase} needs --file")
    request = campaign_service_pb2.ConfigurePhaseRequest(
        campaign_id=campaign_id,
        phase=phase.number,
        etag=etag,
        reason=reason,
        request_id=str(uuid.uuid4()),
    )
    # A part that is empty is still there.
    request.configuration.SetInParent()
    if phase is PhaseWord.DNS:
        dns = request.configuration.dns
        dns.SetInParent()
        dns.resolvers.extend(resolver or [])
        dns.attempt_limit = attempts
        dns.chunk_size = chunk_size
        if timeout:
            dns.timeout.FromNanoseconds(round(timeout * 1e9))

    async def work() -> None:
        if file:
            _read_part(request.configuration, phase, file)
        elif phase is PhaseWord.DNS:
            dns_options.apply(
                request.configuration.dns,
                persona=persona,
                settings=settings,
                record_types=record_type,
                second_opinion=second_opinion,
            )
        async with connected(locate(server, data)) as channel:
            if persona:
                found = await dns_options.persona_id(channel, persona)
                request.configuration.dns.dns_persona_id = found
            if not file and phase in _PARTS and phase is not PhaseWord.GENERATION:
                getattr(request.configuration, _PARTS[phase]).SetInParent()
            await http_options.asked(
                channel,
                request.configuration.http,
                persona=http_persona,
                settings=http_settings,
                keywords=keyword,
                sets=keyword_set,
                expression=expression,
            )
            await http_options.scored(
                channel, request.configuration.analysis, profile=profile, scoring=scoring
            )
            http_options.decided(
                request.configuration.lead, match_score=match_score, thresholds=thresholds
            )
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            campaign = (await stub.ConfigurePhase(request, timeout=DEADLINE)).campaign
        terminal.say(f"{phase_label(phase.number)} is configured")
        if json:
            terminal.emit(terminal.as_json(campaign))

    run(work())


def _read_part(
    configuration: campaign_pb2.CampaignConfiguration, phase: PhaseWord, file: str
) -> None:
    text = sys.stdin.read() if file == "-" else Path(file).read_text()
    part = getattr(configuration, _PARTS[phase]) if phase in _PARTS else configuration
    part.SetInParent()
    try:
        json_format.Parse(text, part)
    except json_format.ParseError as problem:
        raise Failure(f"{file}: {problem}", ExitCode.USAGE) from None


def archive(
    campaign_id: CampaignArgument,
    reason: ReasonOption = "",
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Put a campaign away that neither runs nor is paused: lists leave it out."""

    async def work() -> None:
        request = campaign_service_pb2.ArchiveCampaignRequest(
            campaign_id=campaign_id, reason=reason, request_id=str(uuid.uuid4())
        )
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            await stub.ArchiveCampaign(request, timeout=DEADLINE)
        terminal.say("archived; `campaign list --all` shows it")

    run(work())


def unarchive(
    campaign_id: CampaignArgument,
    reason: ReasonOption = "",
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Take a campaign out of the archive."""

    async def work() -> None:
        request = campaign_service_pb2.UnarchiveCampaignRequest(
            campaign_id=campaign_id, reason=reason, request_id=str(uuid.uuid4())
        )
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            await stub.UnarchiveCampaign(request, timeout=DEADLINE)
        terminal.say("not archived any more")

    run(work())


def duplicate(
    campaign_id: CampaignArgument,
    name: Annotated[
        str, typer.Option(help="Name of the copy. Default: the old one and ' (copy)'.")
    ] = "",
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Create a campaign like another one and print its id; it gets names that no other has.

    It is not started.
    """

    async def work() -> None:
        request = campaign_service_pb2.DuplicateCampaignRequest(
            campaign_id=campaign_id, name=name, request_id=str(uuid.uuid4())
        )
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            campaign = (await stub.DuplicateCampaign(request, timeout=DEADLINE)).campaign
        terminal.emit(terminal.as_json(campaign) if json else campaign.campaign_id)

    run(work())
