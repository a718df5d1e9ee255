"""`domainflow http-persona ...`: named ways of asking for pages."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from domainflow.validation.v1 import http_persona_pb2 as pb
from domainflow.validation.v1 import http_settings_pb2
from services.cli import evidence, terminal
from services.cli.connection import DATA_FOLDER, DataOption, ServerOption
from services.cli.kinds import HTTP_PERSONAS
from services.cli.named import FileOption, add_commands, read_message, with_stub
from services.cli.options import JsonOption

# Seconds a test may take: the service ends it before.
TEST_DEADLINE = 40.0


def group() -> typer.Typer:
    """The commands below `domainflow http-persona`."""
    made = typer.Typer(
        no_args_is_help=True, help="Named ways of asking for pages: keep, test, export and import."
    )
    made.command("test")(try_out)
    add_commands(made, HTTP_PERSONAS)
    return made


def try_out(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Names whose pages are asked for; 1-10.")
    ],
    persona: Annotated[
        str, typer.Option(metavar="NAME|ID", help="The persona. Default: every default.")
    ] = "",
    file: FileOption = "",
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Ask for the pages of a few names now, and show how it went. Stores nothing."""
    if persona and file:
        raise typer.BadParameter("give --persona or --file")

    async def work(stub: Any) -> None:
        request = pb.TestHttpPersonaRequest(names=names)
        if file:
            request.settings.CopyFrom(read_message(file, http_settings_pb2.HttpSettings))
        if persona:
            request.http_persona_id = await HTTP_PERSONAS.id_of(stub, persona)
        answer = await stub.TestHttpPersona(request, timeout=TEST_DEADLINE)
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(answer))
        else:
            terminal.show(_table(answer))

    with_stub(server, data, work)


def _table(answer: pb.TestHttpPersonaResponse) -> Table:
    headings = ("name", "verdict", "status", "address", "took", "url", "why")
    shown = terminal.table("", headings, right=("status", "took"))
    for page in answer.tested_pages:
        http = page.http
        shown.add_row(
            escape(page.name),
            evidence.http_verdict_name(http.verdict),
            str(http.status_code or ""),
            http.evidence.address,
            f"{http.duration.ToTimedelta().total_seconds() * 1000:,.0f} ms",
            escape(http.final_url),
            escape(http.evidence.reason),
        )
    return shown
