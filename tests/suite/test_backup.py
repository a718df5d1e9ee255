"""Backups of a database that is written to, and what becomes of damaged ones."""

import asyncio
import gzip
import json
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from services.schema import migrate
from services.suite.backup import Backup, BackupFailed, Kind, back_up, read, restore
from services.suite.lock import FolderInUse, FolderLock
from services.suite.postgres import EmbeddedPostgres
from services.suite.private import write_private
from tests.conftest import _execute, drop_database

pytestmark = pytest.mark.postgres

ROUND = 50
# What has to do with the suite rather than with its server.
SECRETS = ("page-token-key", "secret-keys", "suppression-salt")


@asynccontextmanager
async def _suite(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A data folder as a running suite has it, as far as a backup is concerned."""
    lock = FolderLock(folder)
    try:
        async with EmbeddedPostgres(folder / "postgres") as server:
            await migrate(server.url)
            for secret in SECRETS:
                (folder / secret).write_text(f"the {secret}\n")
            parts = {"postgres": {"port": server.port}}
            state = {"pid": os.getpid(), "database_url": server.url, "parts": parts}
            write_private(folder / "suite.json", json.dumps(state))
            yield server
    finally:
        lock.release()


@asynccontextmanager
async def _written_to(url: str) -> AsyncIterator[None]:
    """Two tables to which the same number of rows is added, always in one transaction."""
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def write() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE one (n int); CREATE TABLE other (n int)")
        while not ended.is_set():
            async with connection.transaction():
                for table in ("one", "other"):
                    await connection.execute(
                        f"INSERT INTO {table} SELECT generate_series(1, {ROUND})"
                    )
            begun.set()
        await connection.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        await begun.wait()
        yield
        ended.set()


async def _rows(url: str) -> tuple[int, int]:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM one), (SELECT count(*) FROM other)"
        )
        assert row is not None
        return row[0], row[1]
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_backup_of_a_busy_database_is_whole_and_restores(
    data_folder: Path, kind: Kind
) -> None:
    target, again = data_folder / "backup", data_folder / "again"
    shares: list[float] = []
    async with _suite(data_folder / "suite") as server:
        url = server.url
        async with _written_to(server.url):
            before = (await _rows(server.url))[0]
            made = await back_up(
                data_folder / "suite",
                target,
                logical=kind is Kind.DUMP,
                on_progress=shares.append,
            )
        after = (await _rows(server.url))[0]
    shutil.rmtree(data_folder / "suite")

    assert made.kind is kind
    assert await restore(target, again) == made == read(target)

    for secret in SECRETS:
        assert (again / secret).read_text() == f"the {secret}\n"
    async with EmbeddedPostgres(again / "postgres") as server:
        one, other = await _rows(server.url)
        # Whole transactions, none from before missing, and those with the password of before.
        assert one == other
        assert before <= one <= after
        assert one % ROUND == 0
        assert urlsplit(server.url).password == urlsplit(url).password
        assert await migrate(server.url) == []
    if kind is Kind.CLUSTER:
        assert shares == sorted(shares)
        assert shares[-1] == 1


def test_only_its_owner_may_read_a_backup(kept_backup: Path) -> None:
    for path in (kept_backup, *kept_backup.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    names = {path.name for path in kept_backup.iterdir()}
    assert names == {"backup.json", "cluster", "postgres-password", *SECRETS}


async def test_a_dump_goes_to_a_server_of_others_if_its_database_is_empty(
    data_folder: Path, postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    await _execute(database_url, "CREATE TABLE one AS SELECT 1; CREATE TABLE other AS SELECT 1")
    await back_up(data_folder / "nothing", data_folder / "backup", database_url=database_url)
    elsewhere = urlsplit(postgres_server.url)._replace(path="/elsewhere").geturl()
    await _execute(postgres_server.url, "CREATE DATABASE elsewhere STRATEGY FILE_COPY")
    try:
        await restore(data_folder / "backup", data_folder / "again", database_url=elsewhere)
        assert await _rows(elsewhere) == (1, 1)
        with pytest.raises(BackupFailed, match="has tables"):
            await restore(data_folder / "backup", data_folder / "again", database_url=elsewhere)
    finally:
        await drop_database(postgres_server.url, "elsewhere")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept_backup() -> AsyncIterator[Path]:
    """Made once, of a suite that is stopped; whoever damages it takes a copy."""
    with tempfile.TemporaryDirectory(prefix="domainflow-test-") as name:
        folder = Path(name)
        async with _suite(folder / "suite"):
            pass
        await back_up(folder / "suite", folder / "backup")
        yield folder / "backup"


@pytest.fixture
def small_backup(kept_backup: Path, data_folder: Path) -> Path:
    shutil.copytree(kept_backup, data_folder / "backup")
    return data_folder / "backup"


def _damaged(archive: Path) -> None:
    """One bit of a page of a table, under a compression that notices nothing."""
    content = bytearray(gzip.decompress(archive.read_bytes()))
    content[content.index(b"0001_campaigns.sql")] ^= 1
    archive.write_bytes(gzip.compress(bytes(content), 1))


async def test_a_stopped_suite_is_backed_up_too(kept_backup: Path, data_folder: Path) -> None:
    assert await restore(kept_backup, data_folder / "again") == read(kept_backup)


async def test_damage_is_found_before_anything_is_made_of_it(small_backup: Path) -> None:
    again = small_backup.parent / "again"
    archive = small_backup / "cluster" / "base.tar.gz"
    good = archive.read_bytes()

    _damaged(archive)
    with pytest.raises(BackupFailed, match="1 files are missing or damaged, such as base/"):
        await restore(small_backup, again)
    archive.write_bytes(good[: len(good) // 2])
    with pytest.raises(BackupFailed, match=r"base.tar.gz cannot be read"):
        await restore(small_backup, again)
    (small_backup / "backup.json").unlink()
    with pytest.raises(BackupFailed, match="is no backup"):
        await restore(small_backup, again)

    assert not (again / "postgres").exists()


async def test_nothing_that_is_there_is_overwritten(kept_backup: Path) -> None:
    suite = kept_backup.parent / "suite"

    with pytest.raises(BackupFailed, match="has a database"):
        await restore(kept_backup, suite)
    with pytest.raises(BackupFailed, match="exists already"):
        await back_up(suite, kept_backup)
    # It may be further than the backup, and would be taken for a copy of what is restored.
    (kept_backup.parent / "other" / "replica").mkdir(parents=True)
    with pytest.raises(BackupFailed, match="has a replica"):
        await restore(kept_backup, kept_backup.parent / "other")
    assert not (kept_backup.parent / "other" / "postgres").exists()
    lock = FolderLock(suite)
    with pytest.raises(FolderInUse):
        await restore(kept_backup, suite)
    lock.release()

    assert isinstance(read(kept_backup), Backup)


async def test_a_backup_that_fails_leaves_nothing_behind(data_folder: Path) -> None:
    async with _suite(data_folder / "suite") as server:
        # Too many for pg_basebackup to find a place.
        await _execute(server.administrator_url, "ALTER SYSTEM SET max_wal_senders = 0")
        await server.stop()
        await server.start()

        with pytest.raises(BackupFailed, match=r"pg_basebackup failed: .*max_wal_senders"):
            await back_up(data_folder / "suite", data_folder / "backup")

    assert os.listdir(data_folder) == ["suite"]
    with pytest.raises(BackupFailed, match="no suite ever ran"):
        await back_up(data_folder / "nothing", data_folder / "backup")
