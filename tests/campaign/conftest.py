"""A store over a real database."""

from collections.abc import AsyncIterator

import pytest

from services.campaign.store import Store
from services.chassis.postgres import Pool, open_pool


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(database_url, application_name="campaign", max_size=12) as pool:
        yield pool


@pytest.fixture
def store(pool: Pool) -> Store:
    return Store(pool)
