"""`domainflow backup` and `domainflow restore`: the suite's database to a folder, and back."""

import os
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from services.cli import terminal
from services.cli.connection import DATA_FOLDER, DataOption, run
from services.cli.exits import Failure
from services.cli.suite_state import data_argument
from services.suite import backup as backups
from services.suite.backup import Backup, BackupFailed
from services.suite.copies import Progress as OnProgress


def backup(
    target: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The backup: a folder that does not exist yet.")
    ],
    data: DataOption = DATA_FOLDER,
    logical: Annotated[
        bool,
        typer.Option(
            "--logical",
            help="Take a dump, which other servers and versions can restore, rather than the"
            " server's files. With DATABASE_URL it is always a dump.",
        ),
    ] = False,
) -> None:
    """Copy the database and the suite's keys to a folder while campaigns run.

    The folder has secrets and is readable by its owner only. The queue is not in it: it is made
    anew from the tables. Of a suite that is stopped, the database is started for it. With
    DATABASE_URL set, that database is backed up.
    """
    with _bar("backup") as progress:
        made = run(
            _explained(
                backups.back_up(
                    data, target, database_url=_url(), logical=logical, on_progress=progress
                )
            )
        )
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    terminal.say(f"{_described(made)}: {size / 2**20:,.0f} MB in {target}")
    terminal.say(f"bring it back with: {terminal.program()} restore {target} --data NEW_FOLDER")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="A backup.")],
    data: DataOption = DATA_FOLDER,
) -> None:
    """Make a data folder of a backup, and see that its database works.

    The data folder must not have a database yet. With DATABASE_URL set, a dump goes to that
    database, which must be empty. Campaigns that ran at the time go on at the next start; what
    came after the backup is done again.
    """
    with _bar("restore") as progress:
        restored = run(
            _explained(backups.restore(source, data, database_url=_url(), on_progress=progress))
        )
    terminal.say(f"{_described(restored)}: restored to {data}")
    terminal.say(f"start it with: {terminal.program()} up{data_argument(data)}")


async def _explained(work: Awaitable[Backup]) -> Backup:
    try:
        return await work
    except (BackupFailed, asyncpg.PostgresError, asyncpg.InterfaceError) as failure:
        raise Failure(str(failure)) from None


def _url() -> str | None:
    return os.environ.get("DATABASE_URL") or None


def _described(made: Backup) -> str:
    when = datetime.fromtimestamp(made.create_time, UTC)
    return (
        f"{made.campaign_count:,} campaigns with {made.name_count:,} names"
        f" as of {when:%Y-%m-%d %H:%M:%S} UTC"
    )


@contextmanager
def _bar(what: str) -> Iterator[OnProgress]:
    """A bar on standard error, where somebody looks at it."""
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    eyes = terminal.eyes()
    with Progress(*columns, console=eyes, transient=True, disable=not eyes.is_terminal) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)
