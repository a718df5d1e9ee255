"""`domainflow dns-persona ...`: named ways of asking DNS."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from domainflow.validation.v1 import dns_pb2, dns_settings_pb2, resolver_pb2
from domainflow.validation.v1 import validation_service_pb2 as pb
from services.cli import terminal
from services.cli.connection import DATA_FOLDER, DataOption, ServerOption
from services.cli.exits import ExitCode, Failure
from services.cli.kinds import DNS_PERSONAS
from services.cli.named import FileOption, add_commands, read_message, with_stub
from services.cli.options import JsonOption

# Seconds a test may take: the service ends it before.
TEST_DEADLINE = 40.0


def group() -> typer.Typer:
    """The commands below `domainflow dns-persona`."""
    made = typer.Typer(
        no_args_is_help=True, help="Named ways of asking DNS: keep, test, export and import them."
    )
    made.command("test")(try_out)
    add_commands(made, DNS_PERSONAS)
    return made


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

    async def work(stub: Any) -> None:
        request = pb.TestDnsPersonaRequest(names=name or [])
        if file:
            request.settings.CopyFrom(read_message(file, dns_settings_pb2.DnsSettings))
        else:
            request.dns_persona_id = await DNS_PERSONAS.id_of(stub, persona)
        answer = await stub.TestDnsPersona(request, timeout=TEST_DEADLINE)
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(answer))
        else:
            terminal.show(_table(answer))
        if not answer.passed:
            failed = "one resolver or more would not be used"
            raise Failure(failed, ExitCode.FAILURE)

    with_stub(server, data, work)


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
