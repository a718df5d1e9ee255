"""Real servers for tests: PostgreSQL and NATS, started once a session and only when asked for."""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import settings

from services.suite.nats import EmbeddedNats
from services.suite.postgres import EmbeddedPostgres

_MARKED_BY = {
    "postgres": {"postgres_server", "database_url"},
    "nats": {"nats_server", "nats_url"},
}
# By how long their files take.
_LONGEST_FIRST = (
    "tests/system/test_kills.py",
    "tests/system/",
    "tests/suite/",
    "tests/validation/",
    "tests/query/",
    "tests/campaign/",
)
_TEMPLATE = "migrated"
_numbers = itertools.count(1)
# Where files are memory, and how much of it there has to be to spare, in bytes.
_MEMORY = Path("/dev/shm")
_MEMORY_NEEDED = 10 * 2**30
_IN_MEMORY = "domainflow-tests-"
# What is in the shared server need not outlive the machine, and thousands of databases are made
# and dropped: each would wait for the disk, and go through all of a large buffer.
_THROWAWAY = """\
fsync = off
full_page_writes = off
shared_buffers = 128MB
min_wal_size = 64MB
max_wal_size = 512MB
scram_iterations = 1
"""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        _put_temporary_files_in_memory(config)
    for marker in _MARKED_BY:
        config.addinivalue_line("markers", f"{marker}: needs a real {marker} server")
    # On a busy machine any example may be slow; the time limit of the whole test remains.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


def _put_temporary_files_in_memory(config: pytest.Config) -> None:
    """Those of this session and of all that it starts, where there is plenty of memory.

    A clone of the migrated database is more than a thousand files: on a disk's file system, most of
    the time of the tests that use one goes into making and removing them.
    """
    if "TMPDIR" in os.environ or not _MEMORY.is_dir():
        return
    _remove_leftovers()
    if min(shutil.disk_usage(_MEMORY).free, _memory_available()) < _MEMORY_NEEDED:
        return
    folder = tempfile.mkdtemp(prefix=f"{_IN_MEMORY}{os.getpid()}-", dir=_MEMORY)
    os.environ["TMPDIR"], tempfile.tempdir = folder, None
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def _memory_available() -> int:
    """Bytes that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _remove_leftovers() -> None:
    """What sessions that were killed could not take away."""
    for folder in _MEMORY.glob(f"{_IN_MEMORY}*"):
        owner = folder.name.removeprefix(_IN_MEMORY).partition("-")[0]
        if not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _place(item: pytest.Item) -> int:
    """Where the item's file stands in the order of _LONGEST_FIRST."""
    for place, beginning in enumerate(_LONGEST_FIRST):
        if item.nodeid.startswith(beginning):
            return place
    return len(_LONGEST_FIRST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever uses a server's fixture carries its marker. The longest files come first."""
    # Of processes that run files side by side, one would end with a long one alone.
    items.sort(key=_place)
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        for marker, fixtures in _MARKED_BY.items():
            if used & fixtures:
                item.add_marker(marker)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Not pytest's own folder: it keeps the last three, and a cluster is 60 MB."""
    folder = Path(tempfile.mkdtemp(prefix="domainflow-test-"))
    yield folder
    shutil.rmtree(folder)


class _ThrowawayPostgres(EmbeddedPostgres):
    def _configuration(self) -> str:
        return super()._configuration() + _THROWAWAY


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(server_folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Shared by all tests: whoever wants to kill a server starts his own."""
    async with _ThrowawayPostgres(server_folder / "postgres") as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_server(server_folder: Path) -> AsyncIterator[EmbeddedNats]:
    """Shared by all tests: use streams and subjects of your own."""
    async with EmbeddedNats(server_folder / "nats") as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """Name of a database with every migration applied, to be cloned and never connected to."""
    from services.schema import migrate

    await _execute(postgres_server.url, f"CREATE DATABASE {_TEMPLATE}")
    template = _of_database(postgres_server.url, _TEMPLATE)
    await migrate(template)
    # Whoever connects first makes the cache of the catalogue: clones come with it.
    await _execute(template, "SELECT 1")
    return _TEMPLATE


@pytest_asyncio.fixture
async def database_url(
    postgres_server: EmbeddedPostgres, migrated_template: str
) -> AsyncIterator[str]:
    """A migrated database of this test alone."""
    name = f"test_{next(_numbers)}"
    # FILE_COPY: a fifth of the time that the default way takes for a database this small.
    clone = f"CREATE DATABASE {name} TEMPLATE {migrated_template} STRATEGY FILE_COPY"
    await _execute(postgres_server.url, clone)
    yield _of_database(postgres_server.url, name)
    await drop_database(postgres_server.url, name)


@pytest.fixture
def nats_url(nats_server: EmbeddedNats) -> str:
    return nats_server.url


def _of_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


async def drop_database(url: str, name: str) -> None:
    """Drop a database whoever is connected; the server's own cleaners may only be waited for."""
    for _ in range(50):
        try:
            await _execute(url, f"DROP DATABASE {name} WITH (FORCE)")
            return
        except asyncpg.InsufficientPrivilegeError:
            await asyncio.sleep(0.1)
    await _execute(url, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
