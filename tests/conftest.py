"""Real servers for tests: PostgreSQL and NATS, started once a session and only when asked for."""

import asyncio
import itertools
import os
import shutil
import signal
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
_TEMPLATE = "migrated"
_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKED_BY:
        config.addinivalue_line("markers", f"{marker}: needs a real {marker} server")
    # On a busy machine any example may be slow; the time limit of the whole test remains.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever uses a server's fixture carries its marker. The longest files come first."""
    # Of two processes that run files side by side, one would end with them alone.
    items.sort(key=lambda item: not item.nodeid.startswith("tests/system/"))
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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(server_folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Shared by all tests: whoever wants to kill a server starts his own."""
    folder = server_folder / "postgres"
    async with EmbeddedPostgres(folder) as server:
        # What is in here need not outlive the machine, and hundreds of databases are made and
        # dropped: each would wait for the disk.
        with (folder / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write("\nfsync = off\nfull_page_writes = off\n")
        os.kill(int((folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGHUP)
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
    await migrate(_of_database(postgres_server.url, _TEMPLATE))
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
