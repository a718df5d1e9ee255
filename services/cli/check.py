"""`domainflow check`: verdicts on names now, without a campaign."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import grpc
import typer
from rich.markup import escape
from rich.table import Table

from domainflow.campaign.v1 import campaign_pb2
from domainflow.validation.v1 import dns_settings_pb2, page_pb2, validation_service_pb2_grpc
from domainflow.validation.v1 import validation_service_pb2 as pb
from services.cli import dns_options, evidence, export, http_options, terminal, upload
from services.cli.connection import (
    DATA_FOLDER,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)

BATCH = 100


def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names to check.")
    ] = None,
    file: Annotated[
        str,
        typer.Option(metavar="FILE|-", help="Names to check, one a line; - is standard input."),
    ] = "",
    resolver: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS[:PORT]",
            help="Resolver to ask, over UDP; repeat for more. Default: those of the machine the"
            " service runs on.",
        ),
    ] = None,
    persona: Annotated[
        str, typer.Option(metavar="NAME|ID", help="The DNS persona whose settings apply.")
    ] = "",
    http: Annotated[
        bool, typer.Option("--http", help="Fetch the pages of names that resolve, too.")
    ] = False,
    http_persona: http_options.HttpPersonaOption = "",
    http_settings: http_options.HttpSettingsOption = "",
    keyword: http_options.KeywordOption = None,
    keyword_set: http_options.KeywordSetOption = None,
    expression: http_options.ExpressionOption = "",
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Ask DNS about names now, as campaigns do, and store nothing; with --http fetch pages too.

    A table at the end on a terminal; NDJSON with all evidence otherwise, each name as soon as it is
    settled.

    Example:

        domainflow check example.com example.net

        domainflow check example.com --http --keyword shop

        domainflow check --file names.txt | jq -r 'select(.dns.verdict == "DNS_VERDICT_BOGUS")'
    """
    if not names and not file:
        raise typer.BadParameter("give names, or --file")
    if persona and resolver:
        raise typer.BadParameter("--persona brings its own resolvers")
    http_options.check_pairs(persona=http_persona, settings=http_settings)
    http = http or bool(http_persona or http_settings or keyword or keyword_set or expression)
    start = pb.ValidateStart()
    start.settings.resolvers.extend(
        dns_settings_pb2.DnsResolver(address=address) for address in resolver or []
    )

    async def work() -> None:
        watched = terminal.is_watched()
        found: list[pb.ValidatedName] = []
        # Before the stream is: what goes wrong in the midst of its requests just cancels it.
        descriptor = upload.opened(file) if file else -1
        async with connected(locate(server, data)) as channel:
            if persona:
                start.Clear()
                start.dns_persona_id = await dns_options.persona_id(channel, persona)
            if http:
                await _ask_for_pages(
                    channel,
                    start.http,
                    persona=http_persona,
                    settings=http_settings,
                    keywords=keyword,
                    sets=keyword_set,
                    expression=expression,
                )
            stub = validation_service_pb2_grpc.ValidationServiceStub(channel)
            async for answer in _answers(stub, start, _requests(start, names or [], descriptor)):
                for name in answer.results.names:
                    if watched:
                        found.append(name)
                    else:
                        terminal.emit(terminal.as_json(name))
                if answer.HasField("summary"):
                    summary = answer.summary
        if watched:
            terminal.show(_pages(found) if http else _table(found))
        terminal.say(_told(summary))

    run(work())


async def _ask_for_pages(channel: grpc.aio.Channel, check: pb.HttpCheck, **typed: Any) -> None:
    """Write what was typed into a check. Raises Failure."""
    configuration = campaign_pb2.HttpConfiguration()
    await http_options.asked(channel, configuration, **typed)
    check.SetInParent()
    check.http_persona_id = configuration.http_persona_id
    for field in ("settings", "keywords"):
        if configuration.HasField(field):
            getattr(check, field).CopyFrom(getattr(configuration, field))


async def _answers(
    stub: Any, start: pb.ValidateStart, requests: AsyncIterator[pb.ValidateDomainsRequest]
) -> AsyncIterator[pb.ValidateDomainsResponse]:
    """What the service says. Raises what it refuses the stream for."""
    try:
        async for answer in stub.ValidateDomains(requests):
            yield answer
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.INTERNAL:
            # A call that ends while we write to it has lost its status here. With nothing more to
            # write it is told.
            async for _ in stub.ValidateDomains(_requests(start, [], -1)):
                pass
        raise


async def _requests(
    start: pb.ValidateStart, names: list[str], descriptor: int
) -> AsyncIterator[pb.ValidateDomainsRequest]:
    yield pb.ValidateDomainsRequest(start=start)
    for request in _batches(names):
        yield request
    if descriptor < 0:
        return
    # Sent as they come: whoever writes into the pipe may take his time.
    async for lines, _ in upload.read_lines(descriptor):
        for request in _batches([line for line in lines if line.strip()]):
            yield request


def _batches(names: list[str]) -> Iterator[pb.ValidateDomainsRequest]:
    for at in range(0, len(names), BATCH):
        yield pb.ValidateDomainsRequest(batch=pb.NameBatch(names=names[at : at + BATCH]))


def _table(found: list[pb.ValidatedName]) -> Table:
    headings = ("name", "verdict", "addresses", "agreement", "resolver", "tries", "why")
    made = terminal.table("", headings, right=("tries",))
    for name in found:
        if name.rejected:
            made.add_row(escape(name.name), "(no name)", "", "", "", "", escape(name.rejected))
            continue
        dns = name.dns
        made.add_row(
            name.name,
            export.verdict_name(dns.verdict),
            ", ".join(dns.addresses),
            evidence.agreement(dns),
            escape(dns.resolver),
            str(dns.attempt_count),
            escape(dns.evidence.reason),
        )
    return made


def _pages(found: list[pb.ValidatedName]) -> Table:
    headings = ("name", "DNS", "HTTP", "status", "page", "hits", "title", "why")
    made = terminal.table("", headings, right=("status",))
    for name in found:
        http, page = name.http, name.page
        kind = page_pb2.PageKind.Name(page.kind) if name.HasField("page") else ""
        hits = [f"{it.rule} {it.hit_count + it.title_hit_count}" for it in page.rule_hits[:5]]
        made.add_row(
            escape(name.name),
            "(no name)" if name.rejected else export.verdict_name(name.dns.verdict),
            evidence.http_verdict_name(http.verdict) if name.HasField("http") else "",
            str(http.status_code or ""),
            terminal.label(kind, "PAGE_KIND_"),
            escape(", ".join(hits)),
            escape(http.title),
            escape(name.rejected or http.evidence.reason or name.dns.evidence.reason),
        )
    return made


def _told(summary: pb.ValidateSummary) -> str:
    counts = [
        f"{count.count:,} {export.verdict_name(count.verdict)}" for count in summary.verdict_counts
    ]
    counts += [
        f"{count.count:,} HTTP {evidence.http_verdict_name(count.verdict)}"
        for count in summary.http_verdict_counts
    ]
    if summary.rejected_count:
        counts.append(f"{summary.rejected_count:,} no names")
    seconds = summary.duration.ToTimedelta().total_seconds()
    return f"{summary.name_count:,} names in {seconds:.1f} s: {', '.join(counts) or 'none'}"
