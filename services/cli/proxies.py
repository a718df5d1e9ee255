"""`domainflow proxies ...` and `domainflow proxy-pool ...`: what requests for pages go through."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from domainflow.validation.v1 import proxy_pb2 as pb
from services.cli import terminal
from services.cli.connection import DATA_FOLDER, DEADLINE, DataOption, ServerOption
from services.cli.dns_options import PAGE_SIZE, read_text
from services.cli.exits import ExitCode, Failure
from services.cli.http_personas import TEST_DEADLINE
from services.cli.kinds import PROXY_POOLS
from services.cli.named import CheckOption, add_commands, with_stub
from services.cli.options import JsonOption
from services.cli.progress import counted

# Proxies that one call tests.
_TESTED = 100
_CHANGED = 1000

ProxiesArgument = Annotated[
    list[str],
    typer.Argument(metavar="URL|ID...", help="Proxies, as `proxies list` shows them."),
]


def group() -> typer.Typer:
    """The commands below `domainflow proxies`."""
    made = typer.Typer(no_args_is_help=True, help="Proxies that requests for pages go through.")
    made.command("list")(list_proxies)
    made.command("import")(import_)
    made.command("test")(try_out)
    made.command("enable", help="Use proxies again.")(_switch(disabled=False))
    made.command("disable", help="Leave proxies in their pools, and do not use them.")(
        _switch(disabled=True)
    )
    made.command("delete")(delete)
    return made


def pool_group() -> typer.Typer:
    """The commands below `domainflow proxy-pool`."""
    made = typer.Typer(
        no_args_is_help=True,
        help="Proxies that are used by turns. `proxies import --pool` fills them.",
    )
    add_commands(made, PROXY_POOLS)
    return made


def list_proxies(
    json: Annotated[bool, typer.Option("--json", help="NDJSON on standard output.")] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """List proxies with how they do: a table on a terminal, NDJSON otherwise."""

    async def work(stub: Any) -> None:
        found = await _all(stub)
        if json or not terminal.is_watched():
            for each in found:
                terminal.emit(terminal.as_json(each))
        else:
            terminal.show(_table(found))

    with_stub(server, data, work)


def import_(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-",
            help="One proxy a line: scheme://user:password@host:port, host:port, or"
            " host:port:user:password.",
        ),
    ],
    scheme: Annotated[str, typer.Option(help="Of lines without one: http, https or socks5.")] = "",
    pool: Annotated[
        str, typer.Option(metavar="NAME|ID", help="The pool that they are added to.")
    ] = "",
    check: CheckOption = False,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Import proxies as people have them; ends with 1 when a line is none."""

    async def work(stub: Any) -> ExitCode:
        request = pb.ImportProxiesRequest(
            document=read_text(file),
            default_scheme=scheme,
            proxy_pool_id=await PROXY_POOLS.id_of(stub, pool) if pool else "",
            validate_only=check,
        )
        answer = await stub.ImportProxies(request, timeout=DEADLINE)
        verb = "would be new" if check else "new"
        terminal.say(
            f"proxies: {answer.created_count:,} {verb}, {answer.present_count:,} known already,"
            f" {answer.duplicate_count:,} repeated"
        )
        for line in answer.rejected_lines:
            terminal.say(f"  line {line.line_number:,}: {line.reason}")
        unnamed = answer.rejected_count - len(answer.rejected_lines)
        if unnamed > 0:
            terminal.say(f"  and {counted(unnamed, 'line')} more")
        if json:
            terminal.emit(terminal.as_json(answer))
        return ExitCode.FAILURE if answer.rejected_count else ExitCode.OK

    with_stub(server, data, work, code=True)


def try_out(
    url: Annotated[str, typer.Argument(metavar="URL", help="What is asked for through each.")],
    proxies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROXY]...", help="Proxies by URL or id. Default: all."),
    ] = None,
    json: JsonOption = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Ask for a URL through each proxy now; ends with 1 if one fails. Stores nothing."""

    async def work(stub: Any) -> ExitCode:
        chosen = await _chosen(stub, proxies) if proxies else await _all(stub)
        tests: list[pb.ProxyTest] = []
        for at in range(0, len(chosen), _TESTED):
            ids = [each.proxy_id for each in chosen[at : at + _TESTED]]
            request = pb.TestProxiesRequest(proxy_ids=ids, url=url)
            tests += (await stub.TestProxies(request, timeout=TEST_DEADLINE)).proxy_tests
        if json or not terminal.is_watched():
            for test in tests:
                terminal.emit(terminal.as_json(test))
        else:
            shown = terminal.table(
                "", ("proxy", "works", "status", "took", "why"), right=("status", "took")
            )
            for each, test in zip(chosen, tests, strict=True):
                shown.add_row(
                    escape(each.url),
                    "yes" if test.worked else "no",
                    str(test.status_code or ""),
                    f"{test.duration.ToTimedelta().total_seconds() * 1000:,.0f} ms",
                    escape(test.failure),
                )
            terminal.show(shown)
        failed = sum(not test.worked for test in tests)
        terminal.say(f"{len(tests) - failed:,} of {len(tests):,} work")
        return ExitCode.FAILURE if failed else ExitCode.OK

    with_stub(server, data, work, code=True)


def delete(
    proxies: ProxiesArgument,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Delete proxies, also from their pools."""

    async def work(stub: Any) -> None:
        chosen = await _chosen(stub, proxies)
        count = 0
        for at in range(0, len(chosen), _CHANGED):
            ids = [each.proxy_id for each in chosen[at : at + _CHANGED]]
            request = pb.BulkDeleteProxiesRequest(proxy_ids=ids)
            count += (await stub.BulkDeleteProxies(request, timeout=DEADLINE)).deleted_count
        terminal.say(f"{count:,} deleted")

    with_stub(server, data, work)


def _switch(*, disabled: bool) -> Any:
    def command(
        proxies: ProxiesArgument,
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        async def work(stub: Any) -> None:
            chosen = await _chosen(stub, proxies)
            count = 0
            for at in range(0, len(chosen), _CHANGED):
                ids = [each.proxy_id for each in chosen[at : at + _CHANGED]]
                request = pb.BulkUpdateProxiesRequest(proxy_ids=ids, disabled=disabled)
                count += (await stub.BulkUpdateProxies(request, timeout=DEADLINE)).updated_count
            terminal.say(f"{count:,} {'disabled' if disabled else 'enabled'}")

        with_stub(server, data, work)

    return command


async def _all(stub: Any) -> list[pb.Proxy]:
    found: list[pb.Proxy] = []
    request = pb.ListProxiesRequest(page_size=PAGE_SIZE)
    while True:
        page = await stub.ListProxies(request, timeout=DEADLINE)
        found += page.proxies
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def _chosen(stub: Any, given: list[str]) -> list[pb.Proxy]:
    """Those that are meant, by id or URL, each once. Raises Failure."""
    found: dict[str, pb.Proxy] = {}
    known = await _all(stub)
    for text in given:
        meant = [each for each in known if text in (each.proxy_id, each.url)]
        if not meant:
            raise Failure(f"there is no proxy {text}", ExitCode.FAILURE)
        found.update((each.proxy_id, each) for each in meant)
    return list(found.values())


def _table(proxies: list[pb.Proxy]) -> Table:
    figures = ("weight", "used", "worked", "failed")
    headings = ("id", "proxy", "user", "health", *figures, "last failure")
    shown = terminal.table("", headings, right=figures)
    for each in proxies:
        status = each.status
        health = terminal.label(pb.ProxyHealth.Name(status.health), "PROXY_HEALTH_")
        shown.add_row(
            each.proxy_id,
            escape(each.url),
            escape(each.user),
            "disabled" if each.disabled else health if status.health else "(not used)",
            str(each.weight or 1),
            f"{status.use_count:,}",
            f"{status.worked_count:,}",
            f"{status.failed_count:,}",
            escape(status.last_failure),
        )
    return shown
