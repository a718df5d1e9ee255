"""Names through PostgreSQL's COPY."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from services.campaign.ingest import digest
from services.campaign.names import _copy_domains
from services.chassis.postgres import Pool


async def test_names_come_back_as_they_were_copied(pool: Pool) -> None:
    names = ["a.com", "xn--bcher-kva.de", "a" * 63 + ".com", "0.a"]

    async with pool.acquire() as connection:
        await _copy_domains(connection, 7, 2**31 - 5, names)

    rows = await pool.fetch("SELECT campaign_no, position, name FROM domains ORDER BY position")
    assert [tuple(row) for row in rows] == [
        (7, 2**31 - 5 + index, name) for index, name in enumerate(names)
    ]


async def test_no_names_are_no_rows(pool: Pool) -> None:
    async with pool.acquire() as connection:
        await _copy_domains(connection, 7, 0, [])

    assert await pool.fetchval("SELECT count(*) FROM domains") == 0


@given(st.lists(st.from_regex(r"\A[a-z]{1,9}\.com\Z"), min_size=1))
def test_the_digest_is_taken_over_one_line_a_name(names: list[str]) -> None:
    lines = "".join(f"{name} GENERATED\n" for name in names)

    assert digest(names).sha256 == hashlib.sha256(lines.encode()).digest()
