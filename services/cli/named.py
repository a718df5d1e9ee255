"""Commands about what is stored under a name: personas, keyword sets, profiles, pools of proxies.

One kind differs from another in its messages and in what a list shows; the rest is here.
"""

import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar
from uuid import UUID

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.markup import escape

from domainflow.validation.v1 import validation_service_pb2_grpc
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
from services.cli.dns_options import PAGE_SIZE, read_text
from services.cli.exits import ExitCode, Failure
from services.cli.options import JsonOption
from services.cli.progress import counted

M = TypeVar("M", bound=Message)

NAME = typer.Argument(metavar="NAME|ID", help="Its name or id.")
NameArgument = Annotated[str, NAME]
DescriptionOption = Annotated[str, typer.Option(help="At most 2,000 characters.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Check only, store nothing.")]
EtagOption = Annotated[str, typer.Option(help="Refuse if it changed since this etag was read.")]
FileOption = Annotated[
    str,
    typer.Option(
        metavar="FILE|-",
        help="What it says, as JSON; - is standard input. `get --content` writes such a file.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is stored under a name. `verb` and `verbs`: as RPCs call one and several of them."""

    # In sentences; the plural takes an s.
    noun: str
    verb: str
    verbs: str
    # Of the message, and of requests: "http_persona", "http_personas".
    field: str
    fields: str
    # Where the messages of requests are.
    messages: ModuleType
    # The field that files hold; empty: `parts` of the message.
    content: str = "settings"
    parts: Sequence[str] = ()
    # Columns of a list besides id and name, and the time of the change and the description.
    headings: Sequence[str] = ()
    columns: Callable[[Any], Sequence[str]] = lambda _: ()

    def request(self, name: str, **values: Any) -> Any:
        """A message such as GetHttpPersonaRequest, for "Get{}Request"."""
        verb = self.verbs if name.startswith(("List", "Export", "Import")) else self.verb
        return getattr(self.messages, name.format(verb))(**values)

    def call(self, stub: Any, name: str) -> Any:
        """An RPC such as GetHttpPersona, for "Get{}"."""
        verb = self.verbs if name.startswith(("List", "Export", "Import")) else self.verb
        return getattr(stub, name.format(verb))

    @property
    def id_field(self) -> str:
        return f"{self.field}_id"

    async def all(self, stub: Any) -> list[Any]:
        """All there are, by name."""
        found: list[Any] = []
        request = self.request("List{}Request", page_size=PAGE_SIZE)
        while True:
            page = await self.call(stub, "List{}")(request, timeout=DEADLINE)
            found += getattr(page, self.fields)
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    async def id_of(self, stub: Any, name: str) -> str:
        """The id of what is meant: by id, else by name. Raises Failure."""
        try:
            return str(UUID(name))
        except ValueError:
            pass
        for each in await self.all(stub):
            if each.name == name:
                return str(getattr(each, self.id_field))
        raise Failure(f"no {self.noun} is called {name!r}", ExitCode.FAILURE)

    async def get(self, stub: Any, name: str) -> Any:
        """What is meant, by id or name. Raises Failure."""
        request = self.request("Get{}Request", **{self.id_field: await self.id_of(stub, name)})
        answer = await self.call(stub, "Get{}")(request, timeout=DEADLINE)
        return getattr(answer, self.field)

    def new(self, **values: Any) -> Any:
        """One of them that is not stored yet."""
        return getattr(self.request("Create{}Request"), self.field).__class__(**values)

    def read(self, thing: Any, file: str) -> None:
        """Write into one of them what a file says. Raises Failure."""
        if self.content:
            field = getattr(thing, self.content)
            field.CopyFrom(read_message(file, field.__class__))
            return
        given = read_message(file, thing.__class__)
        self._keep_parts(given)
        for part in self.parts:
            thing.ClearField(part)
        thing.MergeFrom(given)

    def written(self, thing: Any) -> str:
        """What `read` takes, as JSON."""
        shown = thing.__class__()
        shown.CopyFrom(thing)
        if self.content:
            shown = getattr(thing, self.content)
        else:
            self._keep_parts(shown)
        return json_format.MessageToJson(shown, preserving_proto_field_name=True)

    def _keep_parts(self, thing: Any) -> None:
        for field, _ in thing.ListFields():
            if field.name not in self.parts:
                thing.ClearField(field.name)


def add_commands(group: typer.Typer, kind: Kind) -> None:
    """Add list, get, create, update, delete, export and import to a group, but for those that it
    has already."""
    present = {command.name for command in group.registered_commands}
    s = f"{kind.noun}s"
    for name, make, text in (
        ("list", _list, f"List {s} by name: a table on a terminal, NDJSON otherwise."),
        ("get", _get, f"Print one {kind.noun} as JSON."),
        ("create", _create, f"Create one {kind.noun} and print its id."),
        ("update", _update, "Change it: what is not given stays. Campaigns keep what they have."),
        ("delete", _delete, f"Delete a {kind.noun}. Campaigns keep what they have."),
        ("export", _export, f"Write {s} as one JSON document, which `import` takes."),
        ("import", _import, f"Create the {s} of a document, all or none."),
    ):
        missing = not hasattr(kind.messages, f"Export{kind.verbs}Request")
        if name in present or (name in ("export", "import") and missing):
            continue
        group.command(name, help=text)(make(kind))


def read_message(file: str, kind: type[M]) -> M:
    """The message in a file of JSON. Raises Failure."""
    try:
        return json_format.Parse(read_text(file), kind())
    # The last one for numbers without end.
    except (json_format.ParseError, ArithmeticError) as problem:
        raise Failure(f"{file}: {problem}", ExitCode.USAGE) from None


def with_stub(
    server: str, data: Path, work: Callable[[Any], Coroutine[Any, Any, Any]], code: bool = False
) -> None:
    """Run `work` with a stub of ValidationService; with `code` end as it says."""

    async def connect() -> Any:
        async with connected(locate(server, data)) as channel:
            return await work(validation_service_pb2_grpc.ValidationServiceStub(channel))

    ended = run(connect())
    if code:
        raise typer.Exit(ended)


async def ids_of(channel: grpc.aio.Channel, kind: Kind, names: Sequence[str]) -> list[str]:
    """The ids of those that are meant, by id or name. Raises Failure."""
    stub = validation_service_pb2_grpc.ValidationServiceStub(channel)
    return [await kind.id_of(stub, name) for name in names]


def _list(kind: Kind) -> Callable[..., None]:
    def command(
        json: Annotated[bool, typer.Option("--json", help="NDJSON on standard output.")] = False,
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        async def work(stub: Any) -> None:
            found = await kind.all(stub)
            if json or not terminal.is_watched():
                for each in found:
                    terminal.emit(terminal.as_json(each))
                return
            headings = ("id", "name", *kind.headings, "changed", "description")
            shown = terminal.table("", headings, right=kind.headings)
            for each in found:
                shown.add_row(
                    getattr(each, kind.id_field),
                    escape(each.name),
                    *kind.columns(each),
                    f"{each.update_time.ToDatetime():%Y-%m-%d %H:%M} UTC",
                    escape(each.description),
                )
            terminal.show(shown)

        with_stub(server, data, work)

    return command


def _get(kind: Kind) -> Callable[..., None]:
    flags = ("--content", "--settings") if kind.content == "settings" else ("--content",)

    def command(
        name: NameArgument,
        content: Annotated[
            bool, typer.Option(*flags, help="What it says alone, as --file takes it.")
        ] = False,
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        async def work(stub: Any) -> None:
            found = await kind.get(stub, name)
            whole = json_format.MessageToJson(found, preserving_proto_field_name=True)
            terminal.emit(kind.written(found) if content else whole)

        with_stub(server, data, work)

    return command


def _create(kind: Kind) -> Callable[..., None]:
    def command(
        name: Annotated[str, typer.Option(help="What people call it; unique.")],
        file: FileOption = "",
        description: DescriptionOption = "",
        check: CheckOption = False,
        json: JsonOption = False,
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        async def work(stub: Any) -> None:
            made = kind.new(name=name, description=description)
            if file:
                kind.read(made, file)
            await create(stub, kind, made, check=check, json=json)

        with_stub(server, data, work)

    return command


async def create(stub: Any, kind: Kind, thing: Any, *, check: bool, json: bool) -> None:
    """Store it, and print its id."""
    request = kind.request(
        "Create{}Request",
        **{kind.field: thing, "request_id": str(uuid.uuid4()), "validate_only": check},
    )
    made = getattr(await kind.call(stub, "Create{}")(request, timeout=DEADLINE), kind.field)
    if check:
        terminal.say("nothing is wrong with it; nothing is stored")
    elif json:
        terminal.emit(terminal.as_json(made))
    else:
        terminal.emit(getattr(made, kind.id_field))


def _update(kind: Kind) -> Callable[..., None]:
    def command(
        name: NameArgument,
        file: FileOption = "",
        new_name: Annotated[str | None, typer.Option("--name", help="New name.")] = None,
        description: Annotated[str | None, typer.Option(help="New description.")] = None,
        etag: EtagOption = "",
        json: JsonOption = False,
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        if not file and new_name is None and description is None:
            raise typer.BadParameter("give --file, --name or --description")

        async def work(stub: Any) -> None:
            changed = await kind.get(stub, name)
            # What stays is what was just read: refuse, should it change meanwhile.
            changed.etag = etag or changed.etag
            if file:
                kind.read(changed, file)
            if new_name is not None:
                changed.name = new_name
            if description is not None:
                changed.description = description
            request = kind.request("Update{}Request", **{kind.field: changed})
            answer = await kind.call(stub, "Update{}")(request, timeout=DEADLINE)
            stored = getattr(answer, kind.field)
            terminal.say(f"{stored.name} is as given")
            if json:
                terminal.emit(terminal.as_json(stored))

        with_stub(server, data, work)

    return command


def _delete(kind: Kind) -> Callable[..., None]:
    def command(
        name: NameArgument,
        etag: EtagOption = "",
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        async def work(stub: Any) -> None:
            values = {kind.id_field: await kind.id_of(stub, name), "etag": etag}
            request = kind.request("Delete{}Request", **values)
            await kind.call(stub, "Delete{}")(request, timeout=DEADLINE)
            terminal.say("deleted")

        with_stub(server, data, work)

    return command


def _export(kind: Kind) -> Callable[..., None]:
    def command(
        names: Annotated[
            list[str] | None, typer.Argument(metavar="[NAME|ID]...", help="Which. Default: all.")
        ] = None,
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        async def work(stub: Any) -> None:
            ids = [await kind.id_of(stub, each) for each in names or []]
            request = kind.request("Export{}Request", **{f"{kind.id_field}s": ids})
            answer = await kind.call(stub, "Export{}")(request, timeout=DEADLINE)
            terminal.emit(answer.document)

        with_stub(server, data, work)

    return command


def _import(kind: Kind) -> Callable[..., None]:
    def command(
        file: Annotated[str, typer.Argument(metavar="FILE|-", help="The document.")],
        replace: Annotated[
            bool, typer.Option("--replace", help="Replace those of the same name.")
        ] = False,
        check: CheckOption = False,
        json: JsonOption = False,
        server: ServerOption = "",
        data: DataOption = DATA_FOLDER,
    ) -> None:
        async def work(stub: Any) -> None:
            request = kind.request(
                "Import{}Request", document=read_text(file), replace=replace, validate_only=check
            )
            answer = await kind.call(stub, "Import{}")(request, timeout=DEADLINE)
            count, replaced = len(getattr(answer, kind.fields)), answer.replaced_count
            verb = "would be imported" if check else "imported"
            terminal.say(f"{verb}: {counted(count, kind.noun)}, {replaced:,} replaced")
            if json:
                terminal.emit(terminal.as_json(answer))

        with_stub(server, data, work)

    return command
