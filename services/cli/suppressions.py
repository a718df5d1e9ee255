"""`domainflow suppressions ...`: who does not want to be a lead, or to be asked."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape

from domainflow.validation.v1 import suppression_pb2 as pb
from services.cli import terminal
from services.cli.connection import DATA_FOLDER, DEADLINE, DataOption, ServerOption
from services.cli.dns_options import read_text
from services.cli.exits import ExitCode
from services.cli.named import CheckOption, with_stub

# Entries of one call: the service takes 10,000, and its requests have room for so many.
_BATCH = 5_000
_CHECKED = 1_000
_PAGE_SIZE = 10_000


class Scope(StrEnum):
    """What an entry keeps from happening, as it is typed."""

    LEADS = "leads"
    FETCH = "fetch"


EntriesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ENTRY]...",
        help="example.com (with all below it), .co.uk (all below it), info@example.com,"
        " @example.com, or hashed: domain:HASH, email:HASH, email_domain:HASH.",
    ),
]
FileOption = Annotated[
    str, typer.Option(metavar="FILE|-", help="Entries, one a line; lines with # do not count.")
]


def group() -> typer.Typer:
    """The commands below `domainflow suppressions`."""
    made = typer.Typer(no_args_is_help=True, help="Who does not want to be a lead, or to be asked.")
    made.command("add")(add)
    made.command("remove")(remove)
    made.command("list")(list_entries)
    made.command("check")(check_values)
    return made


def add(
    entries: EntriesArgument = None,
    file: FileOption = "",
    scope: Annotated[
        Scope,
        typer.Option(
            case_sensitive=False,
            help="leads: no lead, and no contact of one; fetch: not asked either, names only.",
        ),
    ] = Scope.LEADS,
    reason: Annotated[str, typer.Option(help="Who asked for it and why.")] = "",
    check: CheckOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Add entries. Workers follow within seconds. Of a long list, those before a refusal stay."""
    given = _given(entries, file)
    number = pb.SuppressionScope.Value(f"SUPPRESSION_SCOPE_{scope.name}")

    async def work(stub: Any) -> None:
        created = present = 0
        for batch in _batches(given, _BATCH):
            request = pb.AddSuppressionsRequest(
                suppressions=[pb.Suppression(entry=e, scope=number, reason=reason) for e in batch],
                validate_only=check,
            )
            answer = await stub.AddSuppressions(request, timeout=DEADLINE)
            created += answer.created_count
            present += answer.present_count
        verb = "would be new" if check else "new"
        terminal.say(f"{created:,} {verb}, {present:,} there already")

    with_stub(server, data, work)


def remove(
    entries: EntriesArgument = None,
    file: FileOption = "",
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Remove entries; those that are not there are passed over."""
    given = _given(entries, file)

    async def work(stub: Any) -> None:
        removed = 0
        for batch in _batches(given, _BATCH):
            request = pb.RemoveSuppressionsRequest(entries=batch)
            removed += (await stub.RemoveSuppressions(request, timeout=DEADLINE)).removed_count
        terminal.say(f"{removed:,} of {len(given):,} entries removed")

    with_stub(server, data, work)


def list_entries(
    prefix: Annotated[str, typer.Option(help="Only entries that begin so.")] = "",
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Write the list: a line an entry on a terminal, NDJSON otherwise."""

    async def work(stub: Any) -> None:
        request = pb.ListSuppressionsRequest(page_size=_PAGE_SIZE, prefix=prefix)
        while True:
            page = await stub.ListSuppressions(request, timeout=DEADLINE)
            for each in page.suppressions:
                line = f"{each.entry}  {_scope(each)}  {each.reason}".rstrip()
                terminal.emit(line if terminal.is_watched() else terminal.as_json(each))
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    with_stub(server, data, work)


def check_values(
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME|ADDRESS]...", help="What is looked up.")
    ] = None,
    file: FileOption = "",
    json: Annotated[bool, typer.Option("--json", help="NDJSON on standard output.")] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Say which names and addresses are suppressed, and by which entry; ends with 1 if one is."""
    given = _given(values, file)

    async def work(stub: Any) -> ExitCode:
        checked: list[pb.CheckedSuppression] = []
        for batch in _batches(given, _CHECKED):
            request = pb.CheckSuppressionsRequest(values=batch)
            answer = await stub.CheckSuppressions(request, timeout=DEADLINE)
            checked += answer.checked_suppressions
        if json or not terminal.is_watched():
            for each in checked:
                terminal.emit(terminal.as_json(each))
        else:
            shown = terminal.table("", ("value", "suppressed by", "scope", "reason"))
            for each in checked:
                entry = each.suppression
                scope = _scope(entry) if entry.entry else ""
                row = (each.value, entry.entry or "(no entry)", scope, entry.reason)
                shown.add_row(*map(escape, row))
            terminal.show(shown)
        found = any(each.HasField("suppression") for each in checked)
        return ExitCode.FAILURE if found else ExitCode.OK

    with_stub(server, data, work, code=True)


def _given(entries: list[str] | None, file: str) -> list[str]:
    lines = [line.strip() for line in read_text(file).splitlines()] if file else []
    given = [*(entries or ()), *(line for line in lines if line and not line.startswith("#"))]
    if not given:
        raise typer.BadParameter("give entries, or --file")
    return given


def _batches(given: list[str], size: int) -> Iterator[list[str]]:
    return (given[at : at + size] for at in range(0, len(given), size))


def _scope(entry: pb.Suppression) -> str:
    return terminal.label(pb.SuppressionScope.Name(entry.scope), "SUPPRESSION_SCOPE_")
