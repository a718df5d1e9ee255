"""The suppression list through a real port, and as workers ask it."""

from collections.abc import Sequence

import pytest

from domainflow.validation.v1.suppression_pb2 import (
    SUPPRESSION_SCOPE_FETCH,
    SUPPRESSION_SCOPE_LEADS,
    AddSuppressionsRequest,
    AddSuppressionsResponse,
    CheckSuppressionsRequest,
    ListSuppressionsRequest,
    RemoveSuppressionsRequest,
    Suppression,
)
from domainflow.validation.v1.validation_service_pb2_grpc import ValidationServiceStub
from services.chassis.config import BadEnvironment
from services.chassis.postgres import Pool
from services.validation.content.suppression import hashed, parse_entry
from services.validation.store import Store
from services.validation.suppression_store import (
    OF_ENTRIES,
    Scope,
    Suppressions,
    suppression_salt,
)
from tests.refusals import refused

Stub = ValidationServiceStub
SALT = b"sixteen bytes at least"


@pytest.fixture
def store(pool: Pool) -> Store:
    return Store(pool, SALT)


async def add(stub: Stub, *entries: str | Suppression, **more: bool) -> AddSuppressionsResponse:
    given = [it if isinstance(it, Suppression) else Suppression(entry=it) for it in entries]
    return await stub.AddSuppressions(AddSuppressionsRequest(suppressions=given, **more))


async def checked(stub: Stub, *values: str) -> list[str]:
    """The entry that suppresses each of the values; empty: none does."""
    response = await stub.CheckSuppressions(CheckSuppressionsRequest(values=values))
    assert [it.value for it in response.checked_suppressions] == list(values)
    return [it.suppression.entry for it in response.checked_suppressions]


async def listed(stub: Stub, size: int = 100, prefix: str = "") -> list[list[str]]:
    """Entries by page."""
    pages, token = [], ""
    while True:
        request = ListSuppressionsRequest(page_size=size, page_token=token, prefix=prefix)
        response = await stub.ListSuppressions(request)
        pages.append([it.entry for it in response.suppressions])
        token = response.next_page_token
        if not token:
            return pages


async def test_names_and_addresses_are_checked_by_what_was_added(stub: Stub) -> None:
    secret = str(hashed(parse_entry("Secret@example.net"), SALT))
    secret_name = str(hashed(parse_entry("hidden.org"), SALT))

    await add(stub, "Müller.de", ".co.uk", "Info@Example.com", "@shop.com", secret, secret_name)

    assert await checked(
        stub,
        *("www.müller.de", "a@xn--mller-kva.de", "firm.co.uk", "firm.uk"),
        *("INFO@example.com", "example.com", "x@eu.shop.com", "eu.shop.com"),
        *("secret@EXAMPLE.net", "other@example.net", "www.hidden.org", "x@hidden.org"),
    ) == [
        *("xn--mller-kva.de", "xn--mller-kva.de", ".co.uk", ""),
        *("info@example.com", "", "@shop.com", ""),
        *(secret, "", secret_name, secret_name),
    ]


async def test_the_most_specific_entry_answers_and_says_who_asked(stub: Stub) -> None:
    await add(
        stub,
        Suppression(entry="example.com", reason="by letter"),
        Suppression(entry="www.example.com", scope=SUPPRESSION_SCOPE_FETCH, reason="by mail"),
    )

    response = await stub.CheckSuppressions(
        CheckSuppressionsRequest(values=["a.www.example.com", "example.com"])
    )

    [first, second] = [it.suppression for it in response.checked_suppressions]
    assert (first.entry, first.reason) == ("www.example.com", "by mail")
    assert (first.scope, second.scope) == (SUPPRESSION_SCOPE_FETCH, SUPPRESSION_SCOPE_LEADS)
    assert (second.reason, first.HasField("create_time")) == ("by letter", True)


async def test_an_entry_that_is_there_gets_the_new_scope_and_reason(stub: Stub) -> None:
    first = await add(stub, "a.com", "b.com", "A.com")
    again = await add(
        stub, Suppression(entry="b.com", scope=SUPPRESSION_SCOPE_FETCH, reason="again"), "c.com"
    )
    dry = await add(stub, "c.com", "d.com", validate_only=True)

    assert (first.created_count, first.present_count) == (2, 1)
    assert (again.created_count, again.present_count) == (1, 1)
    assert (dry.created_count, dry.present_count) == (1, 1)
    response = await stub.ListSuppressions(ListSuppressionsRequest())
    assert [(it.entry, it.scope, it.reason) for it in response.suppressions] == [
        ("a.com", SUPPRESSION_SCOPE_LEADS, ""),
        ("b.com", SUPPRESSION_SCOPE_FETCH, "again"),
        ("c.com", SUPPRESSION_SCOPE_LEADS, ""),
    ]


async def test_all_bad_entries_are_named_and_none_is_stored(stub: Stub) -> None:
    refusal = await refused(
        add(
            stub,
            "fine.com",
            "co.uk",
            Suppression(entry="a@b.com", scope=SUPPRESSION_SCOPE_FETCH),
            "a b@c.com",
            Suppression(entry="c.com", reason="a\0b"),
            "domain:abc",
        )
    )

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    assert refusal.fields == {
        "suppressions[1].entry",
        "suppressions[2].scope",
        "suppressions[3].entry",
        "suppressions[4].reason",
        "suppressions[5].entry",
    }
    assert "write .co.uk" in refusal.message
    assert await listed(stub) == [[]]


async def test_faults_of_every_kind_are_named_at_once(stub: Stub) -> None:
    bad = [
        Suppression(entry="a b.com"),
        Suppression(entry="fine.com", scope=7),
        Suppression(entry="fine.com", reason="r" * 1001),
    ]

    added = await refused(add(stub, *bad))
    removed = await refused(
        stub.RemoveSuppressions(RemoveSuppressionsRequest(entries=["", "a b.com"]))
    )

    assert added.fields == {
        "suppressions[0].entry",
        "suppressions[1].scope",
        "suppressions[2].reason",
    }
    assert removed.fields == {"entries[0]", "entries[1]"}


class TestWithoutSalt:
    @pytest.fixture
    def store(self, pool: Pool) -> Store:
        return Store(pool)

    async def test_hashed_entries_are_refused(self, stub: Stub) -> None:
        refusal = await refused(add(stub, "a.com", "domain:" + "0" * 64))

        assert refusal.fields == {"suppressions[1].entry"}
        assert "DOMAINFLOW_SUPPRESSION_SALT" in refusal.message


def test_a_salt_comes_from_the_environment_and_is_long() -> None:
    assert suppression_salt({}) == b""
    assert suppression_salt({"DOMAINFLOW_SUPPRESSION_SALT": SALT.decode()}) == SALT
    with pytest.raises(BadEnvironment, match="5 bytes, fewer than 16"):
        suppression_salt({"DOMAINFLOW_SUPPRESSION_SALT": "short"})


async def test_entries_are_removed_in_whatever_form_they_are_given(stub: Stub, pool: Pool) -> None:
    await add(stub, "example.com", "Info@example.com", ".co.uk", "stays.com")
    # Stored when nobody's suffix; one by now.
    await pool.execute("INSERT INTO suppressions VALUES ('github.io', 1, '')")

    request = RemoveSuppressionsRequest(
        entries=["EXAMPLE.com.", "INFO@example.com", "co.uk", "github.io", "not-there.com"]
    )
    assert (await stub.RemoveSuppressions(request)).removed_count == 4
    assert await listed(stub) == [["stays.com"]]
    refusal = await refused(
        stub.RemoveSuppressions(RemoveSuppressionsRequest(entries=["stays.com", "a b.com"]))
    )
    assert refusal.fields == {"entries[1]"}
    assert await listed(stub) == [["stays.com"]]


async def test_the_list_is_paged_by_entry_and_prefix(stub: Stub) -> None:
    names = [f"name-{n:02}.com" for n in range(25)]
    await add(stub, *names, "@name.com", ".name")

    assert await listed(stub, 10, "Name-") == [names[:10], names[10:20], names[20:]]
    assert await listed(stub, 27) == [[".name", "@name.com", *names]]
    assert await listed(stub, prefix="name-2") == [names[20:]]
    assert await listed(stub, prefix="x") == [[]]
    request = ListSuppressionsRequest(page_size=10, prefix="name-")
    token = (await stub.ListSuppressions(request)).next_page_token
    refusal = await refused(
        stub.ListSuppressions(ListSuppressionsRequest(page_token=token, prefix="other"))
    )
    assert refusal.reason == "INVALID_TOKEN"


async def test_a_page_of_long_reasons_fits_into_an_answer(stub: Stub) -> None:
    entries = [Suppression(entry=f"{n}.com", reason="ü" * 500) for n in range(3_000)]
    await add(stub, *entries)

    pages = await listed(stub, 10_000)

    assert sorted(entry for page in pages for entry in page) == sorted(it.entry for it in entries)
    assert len(pages) > 1


async def test_what_is_neither_name_nor_address_is_not_checked(stub: Stub) -> None:
    request = CheckSuppressionsRequest(values=["a.com", "no name", "a@", "x@localhost"])

    refusal = await refused(stub.CheckSuppressions(request))

    assert refusal.fields == {"values[1]", "values[2]", "values[3]"}


async def test_only_entries_that_forbid_fetching_keep_names_from_being_fetched(
    stub: Stub, store: Store
) -> None:
    await add(
        stub,
        Suppression(entry="wide.com", scope=SUPPRESSION_SCOPE_FETCH),
        "narrow.wide.com",
        "leads.com",
    )
    names = ["a.narrow.wide.com", "leads.com", "wide.com", "free.com"]

    fetch = await store.suppressions.of_names(names, Scope.FETCH)
    leads = await store.suppressions.of_names(names)

    assert {name: it.entry for name, it in fetch.items()} == {
        "a.narrow.wide.com": "wide.com",
        "wide.com": "wide.com",
    }
    assert {name: it.entry for name, it in leads.items()} == {
        "a.narrow.wide.com": "narrow.wide.com",
        "leads.com": "leads.com",
        "wide.com": "wide.com",
    }


async def test_two_thousand_names_are_looked_up_by_the_index_in_a_long_list(
    pool: Pool, store: Store
) -> None:
    await pool.execute(
        """INSERT INTO suppressions
           SELECT 'name-' || n || '.com', 1, '' FROM generate_series(1, 100000) AS n"""
    )
    names = [f"www.name-{n}.com" for n in range(99_000, 101_000)]

    found = await Suppressions(pool).of_names(names)

    assert len(found) == 1_001
    assert found["www.name-100000.com"].entry == "name-100000.com"
    # Whether anything is known of the table or not.
    for known in (False, True):
        if known:
            await pool.execute("ANALYZE suppressions")
        plan = await explained(pool, [name.removeprefix("www.") for name in names])
        assert any("suppressions_pkey" in line for line in plan), plan
        assert not any("Seq Scan" in line for line in plan), plan


async def explained(pool: Pool, entries: Sequence[str]) -> list[str]:
    return [row[0] for row in await pool.fetch(f"EXPLAIN {OF_ENTRIES}", entries, 1)]
