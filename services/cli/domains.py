"""`domainflow domains ...`: pages for people, exports for machines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.markup import escape
from rich.table import Table

from domainflow.query.v1 import query_service_pb2, query_service_pb2_grpc
from domainflow.validation.v1 import dns_pb2
from services.cli import evidence, export, terminal
from services.cli.connection import (
    DATA_FOLDER,
    DEADLINE,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)
from services.cli.exits import Failure
from services.cli.progress import Tally
from services.cli.retry import Patience

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
    made = typer.Typer(no_args_is_help=True, help="Read what is known of the names.")
    made.command("list")(list_domains)
    made.command("get")(get_domain)
    made.command("export")(export_domains)
    return made


def list_domains(
    campaign_id: Annotated[str, typer.Argument(metavar="ID", help="Campaign id.")],
    verdict: VerdictOption = None,
    pending: Annotated[
        bool, typer.Option("--pending", help="Only names without a verdict yet.")
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
    """Show one page of a campaign's names: a table on a terminal, NDJSON otherwise."""
    request = query_service_pb2.ListDomainsRequest(
        campaign_id=campaign_id,
        page_size=page_size,
        page_token=page_token,
        dns_verdicts=_verdicts(verdict),
        dns_pending=pending,
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
        terminal.say(f"{len(page.domains):,} of {page.total_size:,}")
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
        export.Format, typer.Option(case_sensitive=False, help="Form of the rows.")
    ] = export.Format.NDJSON,
    verdict: VerdictOption = None,
    columns: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Of campaign_id, position, name, dns_verdict, addresses. Default: name,"
            " dns_verdict, addresses, and campaign_id first with several campaigns.",
        ),
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write here instead of standard output; the name appears when all is there.",
        ),
    ] = None,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Stream all names of campaigns, in order of position, as NDJSON or CSV.

    A cut connection is taken up where it was cut: no row twice, none left out. Exit code 0 only
    when every row was written (or the reader of the pipe had enough).

    Example:

        domainflow domains export ID --verdict RESOLVED --columns name --format csv
    """
    wanted = _columns(columns, len(campaign_ids))
    request = export.request(campaign_ids, wanted, _verdicts(verdict))

    async def work() -> None:
        summaries: list[query_service_pb2.StreamSummary] = []
        count = 0
        # Rows that scroll by on the same terminal are progress enough.
        live = output is not None or not terminal.is_watched()
        async with connected(locate(server, data)) as channel:
            stub = query_service_pb2_grpc.QueryServiceStub(channel)
            with (
                _destination(output) as sink,
                Tally(terminal.eyes(), "rows", live=live) as tally,
            ):
                sink.write(export.header(format, wanted))
                async for batch in export.stream(
                    stub,
                    request,
                    Patience(on_wait=tally.trouble),
                    on_summary=summaries.append,
                ):
                    sink.write(export.rows(format, wanted, batch))
                    count += batch.domain_count
                    tally.move(count=count)
                sink.flush()
        terminal.say(f"{count:,} rows")
        missing = [campaign_id for summary in summaries for campaign_id in summary.unreachable]
        if missing:
            raise Failure(f"no such campaign: {', '.join(missing)}")

    run(work(), lambda: "interrupted; the rows so far are not all")


@contextmanager
def _destination(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that gets its name only when everything is in it."""
    if output is None:
        yield sys.stdout
        return
    unfinished = output.with_name(output.name + ".part")
    with unfinished.open("w", encoding="utf-8", newline="") as stream:
        yield stream
    unfinished.replace(output)


def _table(page: query_service_pb2.ListDomainsResponse) -> Table:
    headings = ("position", "name", "verdict", "addresses", "resolver", "tries")
    made = terminal.table("", headings, right=("position", "tries"))
    for domain in page.domains:
        dns = domain.dns
        known = domain.HasField("dns")
        made.add_row(
            f"{domain.position:,}",
            domain.name,
            export.verdict_name(dns.verdict) if known else "(pending)",
            ", ".join(dns.addresses),
            escape(dns.resolver),
            str(dns.attempt_count) if known else "",
        )
    return made


def _verdicts(names: list[str] | None) -> "list[dns_pb2.DnsVerdict.ValueType]":
    try:
        return [export.verdict_number(name) for name in dict.fromkeys(names or [])]
    except ValueError as error:
        raise typer.BadParameter(f"--verdict: {error}") from None


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
