"""A fetcher that may reach loopback, and a resolver of names the tests invent."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from services.chassis.http_settings import HttpSettings
from services.validation.http.addresses import AddressPolicy
from services.validation.http.dialing import Trust
from services.validation.http.fetch import Fetcher
from tests.validation.http.servers import authority

LOOPBACK = AddressPolicy.parse(allowed=["127.0.0.0/8"])


class Names:
    """Every name is at 127.0.0.1 unless a test says otherwise. Answers of one name may change from
    question to question."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[str, ...]]] = {}
        self.asked: list[str] = []

    async def resolve(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        answers = self.answers.get(host, [("127.0.0.1",)])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def fetcher(names: Names) -> AsyncIterator[Fetcher]:
    async with fetching(names) as fetcher:
        yield fetcher


@contextlib.asynccontextmanager
async def fetching(names: Names, **changes) -> AsyncIterator[Fetcher]:
    changes = {
        "policy": LOOPBACK,
        "roots": authority().pem,
        "proxy_trust": Trust(authority().pem),
        **changes,
    }
    async with Fetcher(names.resolve, **changes) as fetcher:
        yield fetcher


def plain(port: int, *more: int, **changes) -> HttpSettings:
    """Asks in http alone."""
    changes = {"respect_robots": False, "total_timeout": 10, **changes}
    return HttpSettings(schemes=("http",), http_ports=(port, *more), **changes)


def secured(port: int, http: int = 80, **changes) -> HttpSettings:
    """Asks in https, and in http if its port is given."""
    changes = {"respect_robots": False, "total_timeout": 10, **changes}
    schemes = ("https",) if http == 80 else ("https", "http")
    return HttpSettings(schemes=schemes, https_ports=(port,), http_ports=(http,), **changes)
