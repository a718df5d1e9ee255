"""`domainflow dns-persona ...`: named ways of asking DNS."""

import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from google.protobuf import json_format
from rich.markup import escape
from rich.table import Table

from domainflow.validation.v1 import (
    dns_pb2,
    dns_persona_pb2,
    resolver_pb2,
    validation_service_pb2_grpc,
)
from domainflow.validation.v1 import validation_service_pb2 as pb
from services.cli import terminal
from services.cli.connection import (
    DATA_FOLDER,
    DEADLINE,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)
from services.cli.dns_options import PAGE_SIZE, persona_id, read_settings, read_text
from services.cli.exits import ExitCode, Failure
from services.cli.options import JsonOption
from services.cli.progress import counted

# Seconds a test may take: the service ends it before.
TEST_DEADLINE = 40.0

PersonaArgument = Annotated[
    str, typer.Argument(metavar="NAME|ID", help="Name or id of the persona.")
]
FileOption = Annotated[
    str,
    typer.Option(
        metavar="FILE|-",
        help='Settings as JSON, such as {"resolvers": [{"address": "9.9.9.9"}], "timeout":'
        ' "0.5s"}; - is standard input. `dns-persona get --settings` writes such a file.',
    ),
]
EtagOption = Annotated[
    str, typer.Option(help="Refuse if the persona changed since this etag was read.")
]
Stub: TypeAlias = "validation_service_pb2_grpc.ValidationServiceAsyncStub"


def group() -> typer.Typer:
    """The commands below `domainflow dns-persona`."""
    made = typer.Typer(
        no_args_is_help=True, help="Named ways of asking DNS: keep, test, export and import them."
    )
    made.command("list")(list_personas)
    made.command("get")(get)
    made.command("create")(create)
    made.command("update")(update)
    made.command("delete")(delete)
    made.command("test")(try_out)
    made.command("export")(export)
    made.command("import")(import_)
    return made


def list_personas(
    json: Annotated[bool, typer.Option("--json", help="NDJSON on standard output.")] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """List personas by name: a table on a terminal, NDJSON otherwise."""

    async def work(stub: Stub, _: Any) -> None:
        personas: list[dns_persona_pb2.DnsPersona] = []
        request = pb.ListDnsPersonasRequest(page_size=PAGE_SIZE)
        while True:
            page = await stub.ListDnsPersonas(request, timeout=DEADLINE)
            personas += page.dns_personas
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        if json or not terminal.is_watched():
            for persona in personas:
                terminal.emit(terminal.as_json(persona))
            return
        shown = terminal.table(
            "", ("id", "name", "resolvers", "changed", "description"), right=("resolvers",)
        )
        for persona in personas:
            count = len(persona.settings.resolvers)
            shown.add_row(
                persona.dns_persona_id,
                escape(persona.name),
                f"{count:,}" if count else "the machine's",
                f"{persona.update_time.ToDatetime():%Y-%m-%d %H:%M} UTC",
                escape(persona.description),
            )
        terminal.show(shown)

    _run(server, data, work)


def get(
    persona: PersonaArgument,
    settings: Annotated[
        bool, typer.Option("--settings", help="Its settings alone, as --file takes them.")
    ] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Print a persona as JSON."""

    async def work(stub: Stub, channel: Any) -> None:
        found = await _found(stub, channel, persona)
        terminal.emit(
            json_format.MessageToJson(
                found.settings if settings else found, preserving_proto_field_name=True
            )
        )

    _run(server, data, work)


def create(
    name: Annotated[str, typer.Option(help="What people call it; unique.")],
    file: FileOption = "",
    description: Annotated[str, typer.Option(help="At most 2,000 characters.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Check only, store nothing.")] = False,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Create a persona and print its id. Without --file it asks the resolvers of each machine."""

    async def work(stub: Stub, _: Any) -> None:
        request = pb.CreateDnsPersonaRequest(
            dns_persona=dns_persona_pb2.DnsPersona(name=name, description=description),
            request_id=str(uuid.uuid4()),
            validate_only=check,
        )
        if file:
            request.dns_persona.settings.CopyFrom(read_settings(file))
        made = (await stub.CreateDnsPersona(request, timeout=DEADLINE)).dns_persona
        if check:
            terminal.say("nothing is wrong with it; nothing is stored")
        elif json:
            terminal.emit(terminal.as_json(made))
        else:
            terminal.emit(made.dns_persona_id)

    _run(server, data, work)


def update(
    persona: PersonaArgument,
    file: FileOption = "",
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    description: Annotated[str | None, typer.Option(help="New description.")] = None,
    etag: EtagOption = "",
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Change a persona: what is not given stays. Campaigns keep the settings they have."""
    if not file and name is None and description is None:
        raise typer.BadParameter("give --file, --name or --description")

    async def work(stub: Stub, channel: Any) -> None:
        changed = await _found(stub, channel, persona)
        # What stays is what was just read: refuse, should it change meanwhile.
        changed.etag = etag or changed.etag
        if file:
            changed.settings.CopyFrom(read_settings(file))
        if name is not None:
            changed.name = name
        if description is not None:
            changed.description = description
        request = pb.UpdateDnsPersonaRequest(dns_persona=changed)
        stored = (await stub.UpdateDnsPersona(request, timeout=DEADLINE)).dns_persona
        terminal.say(f"{stored.name} is as given")
        if json:
            terminal.emit(terminal.as_json(stored))

    _run(server, data, work)


def delete(
    persona: PersonaArgument,
    etag: EtagOption = "",
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Delete a persona. Campaigns keep the settings they have."""

    async def work(stub: Stub, channel: Any) -> None:
        request = pb.DeleteDnsPersonaRequest(
            dns_persona_id=await persona_id(channel, persona), etag=etag
        )
        await stub.DeleteDnsPersona(request, timeout=DEADLINE)
        terminal.say("deleted")

    _run(server, data, work)


def try_out(
    persona: Annotated[
        str, typer.Argument(metavar="[NAME|ID]", help="Name or id of a persona, or --file.")
    ] = "",
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name to ask about, too; repeat for up to 10."),
    ] = None,
    file: FileOption = "",
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Ask every resolver of a persona what is known already, now; ends with 1 if one fails."""
    if bool(persona) == bool(file):
        raise typer.BadParameter("give a persona, or --file")

    async def work(stub: Stub, channel: Any) -> None:
        request = pb.TestDnsPersonaRequest(names=name or [])
        if file:
            request.settings.CopyFrom(read_settings(file))
        else:
            request.dns_persona_id = await persona_id(channel, persona)
        answer = await stub.TestDnsPersona(request, timeout=TEST_DEADLINE)
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(answer))
        else:
            terminal.show(_table(answer))
        if not answer.passed:
            failed = "one resolver or more would not be used"
            raise Failure(failed, ExitCode.FAILURE)

    _run(server, data, work)


def export(
    persona: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|ID]...", help="Which. Default: all."),
    ] = None,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Write personas as one JSON document, which `dns-persona import` takes."""

    async def work(stub: Stub, channel: Any) -> None:
        ids = [await persona_id(channel, each) for each in persona or []]
        request = pb.ExportDnsPersonasRequest(dns_persona_ids=ids)
        terminal.emit((await stub.ExportDnsPersonas(request, timeout=DEADLINE)).document)

    _run(server, data, work)


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The document.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace personas of the same name.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Check only, store nothing.")] = False,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Create the personas of a document, all or none."""

    async def work(stub: Stub, _: Any) -> None:
        text = read_text(file)
        request = pb.ImportDnsPersonasRequest(document=text, replace=replace, validate_only=check)
        answer = await stub.ImportDnsPersonas(request, timeout=DEADLINE)
        count, replaced = len(answer.dns_personas), answer.replaced_count
        verb = "would be imported" if check else "imported"
        terminal.say(f"{verb}: {counted(count, 'persona')}, {replaced:,} replaced")
        if json:
            terminal.emit(terminal.as_json(answer))

    _run(server, data, work)


def _run(server: str, data: Path, work: Callable[[Stub, Any], Coroutine[Any, Any, None]]) -> None:
    async def connect() -> None:
        async with connected(locate(server, data)) as channel:
            await work(validation_service_pb2_grpc.ValidationServiceStub(channel), channel)

    run(connect())


async def _found(stub: Stub, channel: Any, persona: str) -> dns_persona_pb2.DnsPersona:
    request = pb.GetDnsPersonaRequest(dns_persona_id=await persona_id(channel, persona))
    return (await stub.GetDnsPersona(request, timeout=DEADLINE)).dns_persona


def _table(answer: pb.TestDnsPersonaResponse) -> Table:
    headings = ("resolver", "operator", "state", "score", "answers in", "validates", "because")
    asked = (
        [it.name for it in answer.resolver_tests[0].checked_names]
        if len(answer.resolver_tests)
        else []
    )
    shown = terminal.table("", (*headings, *map(escape, asked)), right=("score", "answers in"))
    for each in answer.resolver_tests:
        report = each.report
        latency = report.latency.ToTimedelta().total_seconds() * 1000
        state = resolver_pb2.ResolverState.Name(report.state)
        shown.add_row(
            escape(report.resolver),
            escape(report.operator),
            terminal.label(state, "RESOLVER_STATE_"),
            f"{report.score:.2f}",
            f"{latency:,.1f} ms" if latency else "",
            "yes" if report.validates else "no",
            escape(report.reason),
            *(
                dns_pb2.DnsVerdict.Name(it.dns.verdict).removeprefix("DNS_VERDICT_")
                for it in each.checked_names
            ),
        )
    return shown
