"""`domainflow check`: verdicts on names now, without a campaign."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from domainflow.validation.v1 import dns_settings_pb2, validation_service_pb2_grpc
from domainflow.validation.v1 import validation_service_pb2 as pb
from services.cli import evidence, export, terminal
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
        Path | None,
        typer.Option(metavar="FILE", help="Names to check, one a line; - is standard input."),
    ] = None,
    resolver: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS[:PORT]",
            help="Resolver to ask, over UDP; repeat for more. Default: those of the machine the"
            " service runs on.",
        ),
    ] = None,
    persona: Annotated[
        str, typer.Option(metavar="ID", help="The DNS persona whose settings apply.")
    ] = "",
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Ask DNS about names now, as campaigns do, and store nothing.

    A table on a terminal, NDJSON with all evidence otherwise; verdicts appear as they are settled.

    Example:

        domainflow check example.com example.net

        domainflow check --file names.txt | jq -r 'select(.dns.verdict == "DNS_VERDICT_BOGUS")'
    """
    if not names and file is None:
        raise typer.BadParameter("give names, or --file")
    if persona and resolver:
        raise typer.BadParameter("--persona brings its own resolvers")
    settings = dns_settings_pb2.DnsSettings(
        resolvers=[dns_settings_pb2.DnsResolver(address=address) for address in resolver or []]
    )
    start = pb.ValidateStart(dns_persona_id=persona)
    if not persona:
        start.settings.CopyFrom(settings)

    async def work() -> None:
        watched = terminal.is_watched()
        found: list[pb.ValidatedName] = []
        async with connected(locate(server, data)) as channel:
            stub = validation_service_pb2_grpc.ValidationServiceStub(channel)
            async for answer in stub.ValidateDomains(_requests(start, names or [], file)):
                for name in answer.results.names:
                    if watched:
                        found.append(name)
                    else:
                        terminal.emit(terminal.as_json(name))
                if answer.HasField("summary"):
                    summary = answer.summary
        if watched:
            terminal.show(_table(found))
        terminal.say(_told(summary))

    run(work())


async def _requests(
    start: pb.ValidateStart, names: list[str], file: Path | None
) -> AsyncIterator[pb.ValidateDomainsRequest]:
    yield pb.ValidateDomainsRequest(start=start)
    lines = _lines(names, file)
    # In a thread: whoever writes into the pipe may take his time, and answers come meanwhile.
    while batch := await asyncio.to_thread(lambda: list(islice(lines, BATCH))):
        yield pb.ValidateDomainsRequest(batch=pb.NameBatch(names=batch))


def _lines(names: list[str], file: Path | None) -> Iterator[str]:
    yield from names
    if file is None:
        return
    if str(file) == "-":
        yield from (name for line in sys.stdin if (name := line.strip()))
        return
    with file.open(encoding="utf-8", errors="replace") as stream:
        yield from (name for line in stream if (name := line.strip()))


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


def _told(summary: pb.ValidateSummary) -> str:
    counts = [
        f"{count.count:,} {export.verdict_name(count.verdict)}" for count in summary.verdict_counts
    ]
    if summary.rejected_count:
        counts.append(f"{summary.rejected_count:,} no names")
    seconds = summary.duration.ToTimedelta().total_seconds()
    return f"{summary.name_count:,} names in {seconds:.1f} s: {', '.join(counts) or 'none'}"
