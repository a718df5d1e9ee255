"""A database of one's own that has seen no migration."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from services.suite.postgres import EmbeddedPostgres
from tests.conftest import _execute, drop_database


@pytest.fixture
async def empty_url(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    await _execute(postgres_server.url, "CREATE DATABASE unmigrated STRATEGY FILE_COPY")
    yield urlsplit(postgres_server.url)._replace(path="/unmigrated").geturl()
    await drop_database(postgres_server.url, "unmigrated")
