"""The whole examination of names whose truth is known, through resolvers that fail and lie."""

import asyncio
import sys
from itertools import islice

import pytest
import uvloop

from services.validation.dns.examiner import Examiner
from services.validation.dns.plan import Plan
from tests import accuracy

NAMES = 100_000
BATCH = 2000

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux", reason="the sandbox's authority needs all of 127.0.0.0/8"
    ),
    pytest.mark.timeout(240),
]


def test_no_verdict_is_wrong_whatever_the_resolvers_do() -> None:
    with accuracy.bad_resolvers() as plan:
        account = uvloop.run(_examine(plan))

    assert account.seen == NAMES
    assert account.wrong == 0, str(account)


async def _examine(plan: Plan) -> accuracy.Account:
    account = accuracy.Account()
    left = accuracy.names(NAMES)

    async def ask() -> None:
        while batch := list(islice(left, BATCH)):
            account.take(batch, await examiner.examine(batch))

    async with Examiner(plan) as examiner:
        # All at once: the slowest names of each batch take as long as those of all.
        await asyncio.gather(*(ask() for _ in range(NAMES // BATCH)))
    return account
