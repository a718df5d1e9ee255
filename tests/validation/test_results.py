"""Outcomes through PostgreSQL's COPY."""

import hashlib
from collections import Counter

from services.chassis.postgres import Pool
from services.validation.dns import facts
from services.validation.dns.verdict import (
    Agreement,
    Evidence,
    Opinion,
    Outcome,
    RecordEvidence,
    Verdict,
    WildcardProof,
)
from services.validation.evidence import evidence_to_bytes
from services.validation.results import COLUMNS, chunk_results
from services.validation.store import _once

NAME_253 = ".".join(["a" * 63] * 3 + ["b" * 61])
NOW_US = 1_900_000_000_123_456

OUTCOMES = [
    Outcome(
        "a.com",
        Verdict.RESOLVED,
        0,
        ("192.0.2.1", "2001:db8::1"),
        ("b.com", "c.com"),
        300,
        "[2001:db8::53]:53",
        2,
        1234,
        True,
    ),
    Outcome("b.com", Verdict.TIMEOUT, -1, (), (), -1, "192.0.2.53:53", 20, 2**40, False),
    Outcome("c.com", Verdict.NXDOMAIN, 3, (), (), 0, "192.0.2.53:53", 1, 0, False),
    Outcome(NAME_253, Verdict.CNAME_LOOP, 0, (), (NAME_253,) * 8, 2**32 - 1, "x:1", 1, 1, False),
    Outcome("d.com", Verdict.NXDOMAIN, 3, (), (), 0, "192.0.2.53:53", 1, 0, False, "com", None),
    Outcome(
        "e.com",
        Verdict.WILDCARD,
        0,
        ("192.0.2.1",),
        (),
        60,
        "192.0.2.53:53",
        1,
        0,
        False,
        "",
        Evidence(
            agreement=Agreement.CONFIRMED,
            registered=False,
            delegated=False,
            records=(
                RecordEvidence(
                    28, Verdict.NO_DATA, 0, (), (), -1, "192.0.2.53:53", 1, 5, False, "com"
                ),
            ),
            opinions=(Opinion("192.0.2.54:53", "b", Verdict.RESOLVED, 0, ("192.0.2.1",)),),
            wildcard=WildcardProof("com", ("192.0.2.1",), 3),
            reason="as everything below com",
        ),
    ),
    *(Outcome(f"{v}.com", v, 9, (), (), -1, "192.0.2.53:53", 1, 1, False) for v in Verdict),
]


async def test_outcomes_come_back_as_they_were_copied(pool: Pool) -> None:
    results = chunk_results(7, 3, 2**31 - 100, OUTCOMES, NOW_US, evidence_to_bytes)

    async with pool.acquire() as connection:
        await connection.copy_to_table(
            "dns_results", source=_once(results.tables[0].rows), columns=COLUMNS, format="binary"
        )

    rows = await pool.fetch(f"SELECT {', '.join(COLUMNS)} FROM dns_results ORDER BY position")
    top = 2**31 - 1
    assert [tuple(row) for row in rows] == [
        (
            7,
            3,
            2**31 - 100 + number,
            outcome.verdict,
            outcome.rcode,
            outcome.attempts,
            outcome.tcp,
            min(outcome.duration_us, top),
            NOW_US,
            None if outcome.ttl < 0 else min(outcome.ttl, top),
            None if outcome.rcode < 0 else outcome.resolver,
            ",".join(outcome.addresses) or None,
            ",".join(outcome.chain) or None,
            outcome.authority or None,
            outcome.evidence.agreement if outcome.evidence else None,
            *facts.of(outcome),
            evidence_to_bytes(outcome.evidence) if outcome.evidence else None,
        )
        for number, outcome in enumerate(OUTCOMES)
    ]


def test_every_name_is_counted_under_its_verdict() -> None:
    results = chunk_results(1, 1, 0, OUTCOMES, NOW_US, evidence_to_bytes)

    expected = [sum(o.verdict == verdict for o in OUTCOMES) for verdict in Verdict]
    assert results.counts == expected
    assert sum(results.counts) == len(OUTCOMES)


def test_the_digest_is_taken_over_one_line_a_name() -> None:
    results = chunk_results(1, 1, 0, OUTCOMES, NOW_US, evidence_to_bytes)

    lines = "".join(f"{outcome.name} {outcome.verdict.name}\n" for outcome in OUTCOMES)
    assert results.sha256 == hashlib.sha256(lines.encode()).digest()


def test_the_digest_does_not_depend_on_time_or_evidence() -> None:
    other = [outcome._replace(duration_us=5, attempts=9, ttl=1) for outcome in OUTCOMES]

    one = chunk_results(1, 1, 0, OUTCOMES, NOW_US, evidence_to_bytes)
    assert one.sha256 == chunk_results(2, 5, 9, other, 1, evidence_to_bytes).sha256


def test_every_name_is_counted_below_its_top_level_domain() -> None:
    results = chunk_results(1, 1, 0, OUTCOMES, NOW_US, evidence_to_bytes)

    expected: dict[str, Counter[int]] = {}
    for outcome in OUTCOMES:
        tld = outcome.name.rpartition(".")[2]
        expected.setdefault(tld, Counter())[outcome.verdict] += 1
    assert results.tlds == expected
