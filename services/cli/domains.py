"""`domainflow domains ...`: pages for people, exports for machines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.markup import escape
from rich.table import Table

from domainflow.query.v1 import query_service_pb2, query_service_pb2_grpc
from domainflow.query.v1.filter_pb2 import DomainFilter
from domainflow.validation.v1 import dns_pb2, http_pb2, lead_pb2
from services.cli import export, filter_options, lazy, session_export, terminal
from services.cli.connection import (
    DATA_FOLDER,
    DEADLINE,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)
from services.cli.exits import ExitCode, Failure
from services.cli.kept import Kept
from services.cli.progress import Tally
from services.cli.retry import Patience
from services.cli.rows_bar import RowsBar

VerdictOption = Annotated[
    list[str] | None,
    typer.Option(
        "--verdict",
        metavar="VERDICT",
        help="Only names with this DNS verdict, such as RESOLVED or NXDOMAIN; repeat for more.",
    ),
]


def group() -> typer.Typer:
    """The commands below `domainflow domains`."""
    return lazy.group(
        {
            "list": "services.cli.domains:list_domains",
            "get": "services.cli.domains:get_domain",
            "export": "services.cli.domains:export_domains",
            "changes": "services.cli.changes:changes",
            "diff": "services.cli.changes:diff",
            "leads": "services.cli.leads:leads",
        },
        no_args_is_help=True,
        help="Read what is known of the names.",
    )


def list_domains(
    campaign_id: Annotated[str, typer.Argument(metavar="ID", help="Campaign id.")],
    verdict: VerdictOption = None,
    pending: Annotated[
        bool, typer.Option("--pending", help="Only names without a verdict yet.")
    ] = False,
    http: filter_options.HttpOption = None,
    lead: filter_options.LeadOption = None,
    reason: filter_options.ReasonOption = None,
    min_score: filter_options.MinScoreOption = None,
    max_score: filter_options.MaxScoreOption = None,
    tld: filter_options.TldOption = None,
    prefix: filter_options.PrefixOption = "",
    contains: filter_options.ContainsOption = "",
    keyword: filter_options.KeywordOption = None,
    warning: filter_options.WarningOption = None,
    warnings: filter_options.WarningsOption = None,
    order: Annotated[
        filter_options.OrderWord, typer.Option(case_sensitive=False, help="In which order.")
    ] = filter_options.OrderWord.POSITION,
    desc: Annotated[
        bool, typer.Option("--desc", help="The other way round: the highest first.")
    ] = False,
    page_size: Annotated[
        int, typer.Option(min=1, max=1000, help="Most names to show, 1 to 1,000.")
    ] = 100,
    page_token: Annotated[
        str, typer.Option(help="Token of another page, as this command tells it.")
    ] = "",
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show one page of a campaign's names: a table on a terminal, NDJSON otherwise.

    With a filter that few names match a page may be short and still have a next one.

    Example:

        domainflow domains list ID --lead QUALIFIED --tld com --order score --desc
    """
    request = query_service_pb2.ListDomainsRequest(
        campaign_id=campaign_id,
        page_size=page_size,
        page_token=page_token,
        filter=filter_options.domain_filter(
            verdict=verdict,
            pending=pending,
            http=http,
            lead=lead,
            reason=reason,
            min_score=min_score,
            max_score=max_score,
            tld=tld,
            prefix=prefix,
            contains=contains,
            keyword=keyword,
            warning=warning,
            warnings=warnings,
        ),
        order=filter_options.ORDERS[order],
        descending=desc,
    )

    async def work() -> None:
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            page = await stub.ListDomains(request, timeout=DEADLINE)
        if terminal.is_watched():
            terminal.show(_table(page))
        else:
            for domain in page.domains:
                terminal.emit(terminal.as_json(domain))
        about = "about " if page.total_size_estimated else ""
        terminal.say(f"{len(page.domains):,} of {about}{page.total_size:,}")
        for word, token in (("next", page.next_page_token), ("previous", page.previous_page_token)):
            if token:
                terminal.say(f"{word} page: --page-token {token}")

    run(work())


def get_domain(
    campaign_id: Annotated[str, typer.Argument(metavar="ID", help="Campaign id.")],
    position: Annotated[int, typer.Argument(min=0, help="Position of the name.")],
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show one name with all that stands behind its verdict; JSON unless on a terminal."""
    from services.cli import evidence

    request = query_service_pb2.GetDomainRequest(campaign_id=campaign_id, position=position)

    async def work() -> None:
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            answer = await stub.GetDomain(request, timeout=DEADLINE)
        if not terminal.is_watched():
            terminal.emit(terminal.as_json(answer.domain))
            return
        for table in evidence.tables(answer.domain):
            terminal.show(table)

    run(work())


def export_domains(
    campaign_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Campaign ids.")],
    format: Annotated[
        export.Format,
        typer.Option(case_sensitive=False, help="Form of the rows; Parquet with --output."),
    ] = export.Format.NDJSON,
    verdict: VerdictOption = None,
    pending: Annotated[
        bool, typer.Option("--pending", help="Only names without a verdict yet.")
    ] = False,
    http: filter_options.HttpOption = None,
    lead: filter_options.LeadOption = None,
    reason: filter_options.ReasonOption = None,
    min_score: filter_options.MinScoreOption = None,
    max_score: filter_options.MaxScoreOption = None,
    tld: filter_options.TldOption = None,
    prefix: filter_options.PrefixOption = "",
    contains: filter_options.ContainsOption = "",
    keyword: filter_options.KeywordOption = None,
    warning: filter_options.WarningOption = None,
    warnings: filter_options.WarningsOption = None,
    columns: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Of campaign_id, position, name, dns_verdict, addresses, and with --output of "
            + ", ".join(c for c in session_export.COLUMNS if c not in {*export.Column})
            + ". Default: name, dns_verdict, addresses, or all for Parquet, and campaign_id first"
            " with several campaigns.",
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write here instead of standard output; the name appears when all is there. Until"
            " then rows are kept in FILE.parts, and the same command goes on after them.",
        ),
    ] = None,
    streams: Annotated[
        int, typer.Option(min=1, max=16, help="Streams read side by side, with --output.")
    ] = 2,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only go on with what is kept in FILE.parts.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, whatever is kept in FILE.parts.")
    ] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Stream all names of campaigns, in order of position, as NDJSON, CSV or Parquet.

    A cut connection is taken up where it was cut: no row twice, none left out. Exit code 0 only
    when every row was written (or the reader of the pipe had enough).

    Example:

        domainflow domains export ID --verdict RESOLVED --columns name --format csv

        domainflow domains export ID --format parquet --output names.parquet --streams 4
    """
    chosen = filter_options.domain_filter(
        verdict=verdict,
        pending=pending,
        http=http,
        lead=lead,
        reason=reason,
        min_score=min_score,
        max_score=max_score,
        tld=tld,
        prefix=prefix,
        contains=contains,
        keyword=keyword,
        warning=warning,
        warnings=warnings,
    )
    if output is None:
        if format is export.Format.PARQUET or resume or restart:
            raise typer.BadParameter("Parquet, --resume and --restart are for --output FILE")
        if chosen != DomainFilter(dns_verdicts=chosen.dns_verdicts):
            raise typer.BadParameter("filters other than --verdict are for --output FILE")
        verdicts = list(chosen.dns_verdicts)
        _export_to_pipe(campaign_ids, format, verdicts, columns, lambda: locate(server, data))
        return
    if resume and restart:
        raise typer.BadParameter("--resume and --restart: one of them")
    every = format is export.Format.PARQUET
    distinct = tuple(dict.fromkeys(campaign_ids))
    asked = session_export.Asked(
        campaign_ids=distinct,
        columns=_file_columns(columns, len(distinct), every=every),
        filter=chosen,
        form=format,
        streams=streams,
    )
    _export_to_file(asked, output, locate(server, data), resume=resume, restart=restart)


def _export_to_pipe(
    campaign_ids: list[str],
    format: export.Format,
    verdicts: "list[dns_pb2.DnsVerdict.ValueType]",
    columns: str,
    address: Callable[[], str],
) -> None:
    wanted = _columns(columns, len(campaign_ids))
    request = export.request(campaign_ids, wanted, verdicts)

    async def work() -> None:
        summaries: list[query_service_pb2.StreamSummary] = []
        count = 0
        # Rows that scroll by on the same terminal are progress enough.
        live = not terminal.is_watched()
        async with connected(address()) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            with Tally(terminal.eyes(), "rows", live=live) as tally:
                sys.stdout.write(export.header(format, wanted))
                async for batch in export.stream(
                    stub,
                    request,
                    Patience(on_wait=tally.trouble),
                    on_summary=summaries.append,
                ):
                    sys.stdout.write(export.rows(format, wanted, batch))
                    count += batch.domain_count
                    tally.move(count=count)
                sys.stdout.flush()
        terminal.say(f"{count:,} rows")
        missing = [campaign_id for summary in summaries for campaign_id in summary.unreachable]
        if missing:
            raise Failure(f"no such campaign: {', '.join(missing)}")

    run(work(), lambda: "interrupted; the rows so far are not all")


def _export_to_file(
    asked: session_export.Asked, output: Path, address: str, *, resume: bool, restart: bool
) -> None:
    kept = Kept(output)
    shown: list[RowsBar] = []

    def bar(total: int, estimated: bool) -> RowsBar:
        shown.append(RowsBar(terminal.eyes(), total, estimated=estimated))
        return shown[-1]

    def how_to_go_on() -> str:
        if not shown:
            return ""
        return (
            f"{shown[-1].count:,} rows are kept in {kept.folder}: the same command goes on after"
            " them, with --restart it begins anew"
        )

    async def work() -> None:
        async with connected(address) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            try:
                count = await session_export.export(
                    stub,
                    asked,
                    kept,
                    resume=resume,
                    restart=restart,
                    bar=bar,
                    patience=lambda shown: Patience(on_wait=shown.trouble),
                )
            except grpc.aio.AioRpcError:
                if how := how_to_go_on():
                    terminal.say(how)
                raise
        terminal.say(f"{count:,} rows in {output}")

    with _held(kept):
        run(work(), lambda: f"interrupted; {how_to_go_on()}" if shown else "interrupted")


@contextmanager
def _held(kept: Kept) -> Iterator[None]:
    try:
        with kept.held():
            yield
    except Failure as failure:
        terminal.complain(str(failure))
        raise typer.Exit(failure.code) from None
    except OSError as error:
        terminal.complain(f"{error.strerror or error}: {error.filename or kept.output}")
        raise typer.Exit(ExitCode.FAILURE) from None


def _table(page: query_service_pb2.ListDomainsResponse) -> Table:
    headings = ["position", "name", "verdict", "addresses", "resolver", "tries"]
    # What later phases found: where there is any of it.
    later = any(domain.HasField("http") or domain.HasField("lead") for domain in page.domains)
    if later:
        headings += ["http", "score", "lead"]
    made = terminal.table("", headings, right=("position", "tries", "score"))
    for domain in page.domains:
        dns = domain.dns
        known = domain.HasField("dns")
        cells = [
            f"{domain.position:,}",
            domain.name,
            export.verdict_name(dns.verdict) if known else "(pending)",
            ", ".join(dns.addresses),
            escape(dns.resolver),
            str(dns.attempt_count) if known else "",
        ]
        if later:
            cells += [
                filter_options.word(http_pb2.HttpVerdict, domain.http.verdict),
                f"{domain.analysis.score:.3f}" if domain.HasField("analysis") else "",
                filter_options.word(lead_pb2.LeadReason, domain.lead.reason),
            ]
        made.add_row(*cells)
    return made


def _columns(text: str, campaigns: int) -> tuple[export.Column, ...]:
    if not text:
        several = (export.Column.CAMPAIGN_ID,) if campaigns > 1 else ()
        return several + export.DEFAULT_COLUMNS
    try:
        chosen = tuple(export.Column(name.strip()) for name in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(
            f"--columns: {error}; there are {', '.join(export.Column)}"
        ) from None
    if len(set(chosen)) < len(chosen):
        raise typer.BadParameter("--columns: each column once")
    return chosen


def _file_columns(text: str, campaigns: int, *, every: bool) -> tuple[str, ...]:
    """As typed; else those of standard output, or `every` one."""
    if not text and not every:
        return tuple(_columns(text, campaigns))
    known = (session_export.CAMPAIGN_ID, *session_export.COLUMNS)
    if not text:
        return known if campaigns > 1 else known[1:]
    chosen = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in chosen if name not in known]:
        raise typer.BadParameter(f"--columns: no {unknown[0]!r}; there are {', '.join(known)}")
    if len(set(chosen)) < len(chosen):
        raise typer.BadParameter("--columns: each column once")
    return chosen
