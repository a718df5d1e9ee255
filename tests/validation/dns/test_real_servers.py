"""Independent servers, and the same answers as dnspython's own resolver gets of them."""

import pytest

from services.validation.dns.verdict import Verdict
from tests import real_servers
from tests.second_resolver import agrees, ask_dnspython, examine

# Some 2,000 names.
DOMAINS = 1_500

pytestmark = pytest.mark.skipif(
    bool(real_servers.missing()), reason=f"knot, nsd and unbound: {real_servers.missing()}"
)


async def test_verdicts_and_addresses_are_those_of_dnspythons_resolver() -> None:
    asked = dict(real_servers.names(DOMAINS))
    with real_servers.internet(DOMAINS) as where:
        outcomes = await examine(list(asked), where)
        others = await ask_dnspython(list(asked), where.resolvers[0])

    wrong = [
        f"{outcome}; dnspython: {other}"
        for outcome, other in zip(outcomes, others, strict=True)
        if not agrees(outcome, other, wildcard=asked[outcome.name])
    ]
    assert wrong == []
    assert {outcome.verdict for outcome in outcomes} == {
        Verdict.RESOLVED,
        Verdict.NXDOMAIN,
        Verdict.NO_DATA,
        Verdict.SERVFAIL,
        Verdict.WILDCARD,
        Verdict.BOGUS,
    }
