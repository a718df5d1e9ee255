"""`domainflow campaign create` and `upload`: from options to a campaign with names."""

import os
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import grpc
import typer

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, campaign_service_pb2_grpc
from services.cli import dns_options, http_options, terminal, upload
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
from services.cli.follow import follow, say_next
from services.cli.options import Mode, PhaseWord, Priority
from services.cli.pattern_options import (
    LETTERS,
    CharsOption,
    ConstantOption,
    CountOption,
    FirstOffsetOption,
    OverlapOption,
    PatternType,
    PrefixLengthOption,
    SuffixLengthOption,
    TldOption,
    source,
)
from services.cli.progress import Tally
from services.cli.retry import Patience
from services.cli.suite_state import door_argument

if TYPE_CHECKING:
    from domainflow.campaign.v1.campaign_service_pb2_grpc import CampaignServiceAsyncStub


def create(
    name: Annotated[str, typer.Option(help="What people call it; 1 to 200 characters.")],
    pattern: Annotated[
        PatternType | None,
        typer.Option(
            case_sensitive=False,
            help="Make names: variable characters before the constant, after it, or both.",
        ),
    ] = None,
    prefix_length: PrefixLengthOption = 0,
    suffix_length: SuffixLengthOption = 0,
    chars: CharsOption = LETTERS,
    constant: ConstantOption = "",
    tld: TldOption = None,
    first_offset: FirstOffsetOption = None,
    count: CountOption = 0,
    allow_overlap: OverlapOption = False,
    from_file: Annotated[
        str,
        typer.Option(
            metavar="FILE|-", help="Upload names instead, one per line; - is standard input."
        ),
    ] = "",
    dns: Annotated[bool, typer.Option("--dns/--no-dns", help="Ask DNS about every name.")] = True,
    resolver: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IP[:PORT]",
            help="Recursive resolver to ask; repeat for more. Default: those of each worker's"
            " machine.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds one query waits for its answer, 0.05 to 30; 0: default.")
    ] = 0,
    attempts: Annotated[
        int, typer.Option(min=0, max=20, help="Queries per name before TIMEOUT; 0: default, 6.")
    ] = 0,
    persona: PersonaOption = "",
    settings: SettingsOption = "",
    record_type: RecordTypeOption = None,
    second_opinion: OpinionOption = None,
    chunk_size: Annotated[
        int, typer.Option(help="Names per unit of work, 100 to 5,000; 0: default, 2,000.")
    ] = 0,
    through: http_options.ThroughOption = PhaseWord.DNS,
    http_persona: http_options.HttpPersonaOption = "",
    http_settings: http_options.HttpSettingsOption = "",
    keyword: http_options.KeywordOption = None,
    keyword_set: http_options.KeywordSetOption = None,
    expression: http_options.ExpressionOption = "",
    profile: http_options.ProfileOption = "",
    scoring: http_options.ScoringOption = "",
    match_score: http_options.MatchScoreOption = None,
    thresholds: http_options.ThresholdsOption = "",
    mode: Annotated[
        Mode,
        typer.Option(
            case_sensitive=False, help="Whether each phase starts by itself after the one before."
        ),
    ] = Mode.FULL_SEQUENCE,
    priority: Annotated[
        Priority, typer.Option(case_sensitive=False, help="How much of the workers it gets.")
    ] = Priority.NORMAL,
    rate_limit: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Names per second at most; 0: no limit.")
    ] = 0,
    start: Annotated[bool, typer.Option(help="Start it at once.")] = True,
    watch: Annotated[bool, typer.Option(help="Then watch it to its end.")] = False,
    request_id: Annotated[
        str,
        typer.Option(
            metavar="UUID",
            help="Makes repeats of this very command harmless: same id, same campaign, and an"
            " upload goes on where it stopped. Default: a new one.",
        ),
    ] = "",
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Create a campaign, print its id on standard output, and start it.

    Names are made from a pattern (--pattern) or uploaded (--from-file). With --pattern PREFIX
    --prefix-length 3 --constant shop --tld .com --tld .net the names run from aaashop.com,
    aaashop.net, aabshop.com to zzzshop.net: 35,152 of them. A campaign gets those that no other
    campaign of the same pattern has taken; `campaign preview` says which those are.

    Examples:

        domainflow campaign create --name shops --watch \\
            --pattern PREFIX --prefix-length 3 --constant shop --tld .com

        zcat names.gz | domainflow campaign create --name list --from-file -

        domainflow campaign create --name leads --from-file names.txt --watch \\
            --through leads --keyword-set shops --profile strict
    """
    if (pattern is None) == (not from_file):
        raise typer.BadParameter("give either --pattern or --from-file")
    http_options.check_pairs(
        persona=http_persona, settings=http_settings, profile=profile, scoring=scoring
    )
    is_http, is_scored, is_decided = (
        through.number >= word.number
        for word in (PhaseWord.HTTP, PhaseWord.ANALYSIS, PhaseWord.LEADS)
    )
    of_http = bool(http_persona or http_settings or keyword or keyword_set or expression)
    for is_there, given, word in (
        (is_http, of_http, PhaseWord.HTTP),
        (is_scored, bool(profile or scoring), PhaseWord.ANALYSIS),
        (is_decided, match_score is not None or bool(thresholds), PhaseWord.LEADS),
    ):
        if given and not is_there:
            raise typer.BadParameter(f"options of {word} need --through {word}, or further")
    if through is PhaseWord.GENERATION:
        dns = False
    elif is_http and not dns:
        raise typer.BadParameter("--no-dns does not go with pages: skip the phase instead")
    if not dns and (resolver or persona or settings or record_type or second_opinion):
        raise typer.BadParameter("options of DNS mean nothing with --no-dns")
    try:
        base = uuid.UUID(request_id) if request_id else uuid.uuid4()
    except ValueError:
        raise typer.BadParameter(f"--request-id {request_id!r} is no UUID") from None
    generation = campaign_pb2.GenerationConfiguration(upload=campaign_pb2.UploadSource())
    if pattern is not None:
        generation = campaign_pb2.GenerationConfiguration(
            pattern=source(
                pattern,
                prefix_length=prefix_length,
                suffix_length=suffix_length,
                chars=chars,
                constant=constant,
                tlds=tld,
                first_offset=first_offset,
                count=count,
                allow_overlap=allow_overlap,
            )
        )
    configuration = campaign_pb2.CampaignConfiguration(generation=generation)
    if dns:
        configuration.dns.SetInParent()
        configuration.dns.resolvers.extend(resolver or [])
        configuration.dns.attempt_limit = attempts
        configuration.dns.chunk_size = chunk_size
        if timeout:
            configuration.dns.timeout.FromNanoseconds(round(timeout * 1e9))
    request = campaign_service_pb2.CreateCampaignRequest(
        name=name,
        configuration=configuration,
        mode=campaign_pb2.CampaignMode.Value(f"CAMPAIGN_MODE_{mode}"),
        priority=campaign_pb2.Priority.Value(f"PRIORITY_{priority}"),
        name_rate_limit=rate_limit,
        request_id=str(base),
    )
    created: list[str] = []
    door = door_argument(server, data)

    async def work() -> ExitCode:
        # Opened before anything is created: a wrong path must not leave a campaign behind.
        descriptor = upload.opened(from_file) if from_file else -1
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            if dns:
                asked = request.configuration.dns
                dns_options.apply(
                    asked,
                    persona=persona,
                    settings=settings,
                    record_types=record_type,
                    second_opinion=second_opinion,
                )
                if persona:
                    asked.dns_persona_id = await dns_options.persona_id(channel, persona)
            if is_http:
                request.configuration.http.SetInParent()
                await http_options.asked(
                    channel,
                    request.configuration.http,
                    persona=http_persona,
                    settings=http_settings,
                    keywords=keyword,
                    sets=keyword_set,
                    expression=expression,
                )
            if is_scored:
                request.configuration.analysis.SetInParent()
                await http_options.scored(
                    channel, request.configuration.analysis, profile=profile, scoring=scoring
                )
            if is_decided:
                request.configuration.lead.SetInParent()
                http_options.decided(
                    request.configuration.lead, match_score=match_score, thresholds=thresholds
                )
            answer = await stub.CreateCampaign(request, timeout=DEADLINE)
            campaign_id = answer.campaign.campaign_id
            created.append(campaign_id)
            terminal.emit(campaign_id)
            if not start:
                terminal.say(f"not started; next: domainflow campaign start {campaign_id}{door}")
                return ExitCode.OK
            await stub.StartCampaign(
                campaign_service_pb2.StartCampaignRequest(
                    campaign_id=campaign_id, request_id=str(uuid.uuid5(base, "start"))
                ),
                timeout=DEADLINE,
            )
            if from_file:
                try:
                    await _send(stub, campaign_id, str(uuid.uuid5(base, "upload")), descriptor)
                except (grpc.aio.AioRpcError, Failure):
                    terminal.say(
                        f"go on with: domainflow campaign upload {campaign_id} {from_file}{door}"
                    )
                    raise
            if not watch:
                terminal.say(f"started; next: domainflow campaign watch {campaign_id}{door}")
                return ExitCode.OK
            code = await follow(stub, campaign_id)
            if code is ExitCode.OK:
                say_next(campaign_id, door, leads=is_decided)
            return code

    def how_to_go_on() -> str:
        if not created:
            return "interrupted; nothing is known to have been created"
        if from_file:
            step = f"{terminal.program()} campaign upload {created[0]} {from_file}{door}"
            return f"interrupted; if not all was uploaded, go on with: {step}"
        return f"interrupted; the campaign goes on: domainflow campaign watch {created[0]}{door}"

    raise typer.Exit(run(work(), how_to_go_on))


def upload_names(
    campaign_id: Annotated[str, typer.Argument(metavar="ID", help="Campaign id.")],
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The whole list, one per line.")],
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Supply the names of a campaign created without them, or go on with a cut upload.

    Always name the whole list: lines that the service has already are skipped.
    """

    async def work() -> None:
        descriptor = upload.opened(file)
        async with connected(locate(server, data)) as channel:
            stub = campaign_service_pb2_grpc.CampaignServiceStub(channel)
            answer = await stub.GetUpload(
                campaign_service_pb2.GetUploadRequest(campaign_id=campaign_id), timeout=DEADLINE
            )
            upload_id = answer.upload.upload_id or str(uuid.uuid4())
            await _send(stub, campaign_id, upload_id, descriptor)

    run(work(), lambda: "interrupted; the same command goes on")


async def _send(
    stub: "CampaignServiceAsyncStub", campaign_id: str, upload_id: str, descriptor: int
) -> None:
    """Upload with a bar, then say what became of the lines."""
    size = os.fstat(descriptor).st_size
    with Tally(terminal.eyes(), "lines", total=size or None) as tally:

        async def groups() -> AsyncIterator[list[str]]:
            async for lines, read in upload.read_lines(descriptor):
                tally.move(done=read)
                yield lines

        outcome = await upload.upload(
            stub,
            campaign_id,
            upload_id,
            groups(),
            Patience(on_wait=tally.trouble),
            on_progress=lambda now: tally.move(count=now.upload.next_offset),
        )
    done = outcome.upload
    terminal.say(
        f"uploaded {done.next_offset:,} lines: {done.accepted_count:,} names,"
        f" {done.duplicate_count:,} repeated, {done.rejected_count:,} rejected"
    )
    for line in outcome.rejected_lines:
        terminal.say(f"  line {line.offset + 1:,}: {line.reason}: {line.line}")
    unnamed = done.rejected_count - len(outcome.rejected_lines)
    if unnamed > 0:
        terminal.say(f"  and {unnamed:,} rejected lines more")
