"""Copies of the database while it is in use, and databases made of copies.

A backup is a folder, readable by its owner only, for it holds every secret of the suite:

| file | |
|---|---|
| backup.json | what it is; written last, so a folder without it is no backup |
| cluster/ | the server's files, as pg_basebackup writes them, with the log that they need; or |
| dump/ | the database as pg_dump writes it, for servers of others and other versions |
| postgres-password, page-token-key | with them URLs and page tokens go on being valid |
| secret-keys, suppression-salt | with them stored passwords open, and hashed entries apply |

The queue is not in it: tasks are handed out again from the tables.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import asyncpg

from services.suite.copies import (
    CopyFailed,
    Progress,
    copy_cluster,
    dump,
    load_dump,
    unpack_cluster,
)
from services.suite.lock import FolderInUse, FolderLock
from services.suite.postgres import EmbeddedPostgres
from services.suite.private import write_private
from services.suite.process import StartFailed

FORMAT = 1
_MANIFEST = "backup.json"
# Where a secret is in the data folder, and its name in a backup.
_SECRETS = {
    Path("postgres/password"): "postgres-password",
    Path("page-token-key"): "page-token-key",
    Path("secret-keys"): "secret-keys",
    Path("suppression-salt"): "suppression-salt",
}
# Of these, those that have nothing to do with the embedded server.
_KEYS = tuple(place for place in _SECRETS if place.parent == Path())


class BackupFailed(Exception):
    """A backup was not made, or nothing was made of one; the text says why and what to do."""


class Kind(StrEnum):
    CLUSTER = "cluster"
    DUMP = "dump"


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup says of itself. Counts and bytes are those of the database when it began."""

    format: int
    kind: Kind
    # Seconds since 1970 UTC: nothing that was committed before is missing.
    create_time: float
    server_version: str
    migrations: tuple[str, ...]
    campaign_count: int
    name_count: int
    database_bytes: int


@dataclass(frozen=True, slots=True)
class Source:
    """A running server. `url` is its database's; `administrator_url` is there for ours alone."""

    url: str
    administrator_url: str | None = None


def nobody(_: float) -> None:
    """Nobody looks at the progress."""


async def back_up(
    data_folder: Path,
    target: Path,
    *,
    database_url: str | None = None,
    logical: bool = False,
    on_progress: Progress = nobody,
) -> Backup:
    """Write a backup of the suite of `data_folder` to the new folder `target`.

    The suite may run, and goes on; of one that is stopped the database alone is started for it.
    The database is that of `database_url`, if given, or the one that the suite uses. `logical`
    takes a dump also where the server is ours. Raises BackupFailed, with nothing left at `target`,
    and asyncpg's own errors.
    """
    kind = Kind.DUMP if logical or database_url is not None else Kind.CLUSTER
    async with _source(data_folder, database_url) as source:
        backup = await _described(source, kind)
        partial = _fresh(target)
        try:
            # Compressed it takes a third or less; how much less, nobody knows before.
            _need_room(partial, backup.database_bytes, "a backup of this database")
            if source.administrator_url is not None and kind is Kind.CLUSTER:
                await copy_cluster(source.administrator_url, partial / "cluster", on_progress)
            else:
                await dump(source.url, partial / "dump")
            _finish(backup, data_folder, partial, target)
        except CopyFailed as failure:
            raise BackupFailed(str(failure)) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return backup


async def restore(
    source: Path,
    data_folder: Path,
    *,
    database_url: str | None = None,
    on_progress: Progress = nobody,
) -> Backup:
    """Make a data folder of a backup, start its database once to see that it works, and stop it.

    The folder must not have a database or a replica yet. With `database_url`, a dump goes to that
    database, which must be empty, and only the keys to the folder. Raises BackupFailed, with
    nothing left of a database in the folder, FolderInUse and asyncpg's own errors.
    """
    backup = read(source)
    lock = FolderLock(data_folder)
    try:
        if database_url is not None:
            await _load(source, backup, database_url)
            _give_secrets(source, data_folder, only=_KEYS)
        else:
            await _make_server(source, backup, data_folder, on_progress)
    except CopyFailed as failure:
        raise BackupFailed(str(failure)) from None
    except StartFailed as failure:
        raise BackupFailed(f"the restored server does not start: {failure}") from None
    finally:
        lock.release()
    return backup


def read(source: Path) -> Backup:
    """What the backup in a folder is. Raises BackupFailed where there is none."""
    try:
        stored: dict[str, Any] = json.loads((source / _MANIFEST).read_text())
        if stored["format"] != FORMAT:
            raise BackupFailed(f"{source} is of format {stored['format']}, not {FORMAT}")
        return Backup(
            **{
                **stored,
                "kind": Kind(stored["kind"]),
                "migrations": tuple(stored["migrations"]),
            }
        )
    except FileNotFoundError:
        raise BackupFailed(f"{source} is no backup: it has no {_MANIFEST}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BackupFailed(f"{source / _MANIFEST} is damaged: {error}") from None


@asynccontextmanager
async def _source(data_folder: Path, database_url: str | None) -> AsyncIterator[Source]:
    """The server to copy from, started if it has to be."""
    if database_url is not None:
        yield Source(database_url)
        return
    if not (data_folder / "suite.lock").exists():
        raise BackupFailed(f"no suite ever ran on {data_folder}")
    try:
        lock = FolderLock(data_folder)
    except FolderInUse:
        yield _running(data_folder)
        return
    try:
        if not (data_folder / "postgres" / "data").exists():
            raise BackupFailed(
                f"{data_folder} has no database: set DATABASE_URL as when its suite was started"
            )
        async with EmbeddedPostgres(data_folder / "postgres") as server:
            yield Source(server.url, server.administrator_url)
    finally:
        lock.release()


def _running(data_folder: Path) -> Source:
    """The embedded server of the suite that runs on a folder."""
    starting = BackupFailed(f"the suite on {data_folder} is still starting")
    try:
        state = json.loads((data_folder / "suite.json").read_text())
    except FileNotFoundError:
        raise starting from None
    if not state["database_url"]:
        raise starting
    part = state["parts"].get("postgres")
    if part is None:
        raise BackupFailed("this suite uses a server of yours: set DATABASE_URL to it")
    password = (data_folder / "postgres" / "password").read_text().strip()
    administrator = f"postgresql://postgres:{password}@127.0.0.1:{part['port']}/postgres"
    return Source(state["database_url"], administrator)


def _fresh(target: Path) -> Path:
    """An empty folder beside the target, which it becomes when the backup is whole."""
    if target.exists():
        raise BackupFailed(f"{target} exists already: a backup is a new folder")
    partial = target.with_name(target.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(mode=0o700, parents=True)
    return partial


def _finish(backup: Backup, data_folder: Path, partial: Path, target: Path) -> None:
    for place, name in _SECRETS.items():
        if (data_folder / place).exists():
            write_private(partial / name, (data_folder / place).read_text())
    write_private(partial / _MANIFEST, json.dumps(asdict(backup), indent=2) + "\n")
    for path in (partial, *partial.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    partial.rename(target)


async def _described(source: Source, kind: Kind) -> Backup:
    connection = await asyncpg.connect(source.url)
    try:
        migrations = await connection.fetch("SELECT name FROM migrations ORDER BY name")
        row = await connection.fetchrow(
            """SELECT extract(epoch FROM clock_timestamp())::float AS create_time,
                current_setting('server_version') AS server_version,
                (SELECT count(*) FROM campaigns) AS campaign_count,
                (SELECT coalesce(sum(name_count), 0)::bigint FROM campaigns) AS name_count,
                pg_database_size(current_database()) AS database_bytes"""
        )
        assert row is not None
        return Backup(
            format=FORMAT, kind=kind, migrations=tuple(name for (name,) in migrations), **dict(row)
        )
    except asyncpg.UndefinedTableError:
        raise BackupFailed("the database has no tables of ours yet") from None
    finally:
        await connection.close()


async def _make_server(
    source: Path, backup: Backup, data_folder: Path, on_progress: Progress
) -> None:
    folder = data_folder / "postgres"
    if folder.exists():
        raise BackupFailed(f"{data_folder} has a database: restore to a folder of its own")
    if (data_folder / "replica").exists():
        # It has followed the lost server further than the backup goes, and has its identity.
        raise BackupFailed(f"{data_folder} has a replica: restore to a folder of its own")
    _need_room(data_folder, backup.database_bytes, "the restored database")
    folder.mkdir()
    try:
        _give_secrets(source, data_folder)
        server = EmbeddedPostgres(folder)
        if backup.kind is Kind.CLUSTER:
            cluster = folder / "data.restored"
            size = backup.database_bytes
            # In a thread: it is all reading, hashing and writing.
            await asyncio.to_thread(unpack_cluster, source / "cluster", cluster, size, on_progress)
            server.adopt(cluster)
        async with server:
            if backup.kind is Kind.DUMP:
                await _load(source, backup, server.url)
            await _check(server.url, backup)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


async def _load(source: Path, backup: Backup, url: str) -> None:
    if backup.kind is not Kind.DUMP:
        raise BackupFailed(
            "a copy of a server's files is restored to a data folder; for a server of yours, take"
            " a backup with --logical"
        )
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT 1 FROM pg_tables WHERE schemaname = 'public' LIMIT 1"
        if await connection.fetchval(query):
            raise BackupFailed("the database has tables: restore to an empty one")
    finally:
        await connection.close()
    await load_dump(source / "dump", url)


async def _check(url: str, backup: Backup) -> None:
    """That the tables can be read and are those of the backup."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT name FROM migrations")
        if missing := set(backup.migrations) - {row[0] for row in rows}:
            raise BackupFailed(f"the restored database lacks {sorted(missing)[0]}")
        await connection.fetch("SELECT id, name, status FROM campaigns")
    finally:
        await connection.close()


def _give_secrets(source: Path, data_folder: Path, only: Collection[Path] | None = None) -> None:
    for place, name in _SECRETS.items():
        if (source / name).exists() and (only is None or place in only):
            write_private(data_folder / place, (source / name).read_text())


def _need_room(folder: Path, size: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise BackupFailed(
            f"{what} needs {size / 2**20:,.0f} MB and {folder} has {free / 2**20:,.0f} MB free"
        )
