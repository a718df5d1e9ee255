"""Standard error for eyes, standard output for data, and how figures are written for people."""

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def eyes() -> Console:
    """The console on standard error. Made anew, because tests and callers swap the stream."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line of plain text on standard error."""
    eyes().print(escape(text))


def complain(text: str) -> None:
    """The one line that says why a command failed."""
    eyes().print(f"[bold red]error:[/] {escape(text)}")


def emit(line: str) -> None:
    """One line of data on standard output, visible to its reader at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def paper() -> Console:
    """The console on standard output, for a person who looks at it."""
    return Console(file=sys.stdout, highlight=False)


def show(table: Table) -> None:
    paper().print(table)


def is_watched() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty()


def table(title: str, headings: Iterable[str], *, right: Iterable[str] = ()) -> Table:
    made = Table(
        title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2)
    )
    for heading in headings:
        made.add_column(heading, justify="right" if heading in set(right) else "left")
    return made


def as_json(message: Message) -> str:
    """One line of JSON, the same that the door answers over HTTP."""
    fields = MessageToDict(message, always_print_fields_with_no_presence=True)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def span(seconds: float) -> str:
    """`0:07`, `12:34`, `3:04:05`."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def label(enum_name: str, prefix: str) -> str:
    """`PHASE_DNS_VALIDATION` without `PHASE_` as people write it: `DNS validation`."""
    words = enum_name.removeprefix(prefix).replace("_", " ").lower()
    return " ".join({"dns": "DNS", "http": "HTTP"}.get(word, word) for word in words.split())


def program() -> str:
    """What to type for this command, so that a command that is shown can be run as it stands."""
    called = Path(sys.argv[0])
    if called.name != "domainflow" or shutil.which("domainflow"):
        return "domainflow"
    return os.path.relpath(called)
