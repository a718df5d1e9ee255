"""What is stored under a name, through a real port: each kind is kept, listed, changed alike."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from domainflow.validation.v1 import http_persona_pb2, keyword_pb2, scoring_pb2
from domainflow.validation.v1.http_settings_pb2 import HttpSettings
from domainflow.validation.v1.keyword_pb2 import KeywordRule
from domainflow.validation.v1.scoring_pb2 import ScoringSettings
from domainflow.validation.v1.validation_service_pb2_grpc import ValidationServiceStub
from services.chassis.errors import ResourceNotFound
from services.validation.named_store import Stored
from services.validation.store import Store
from tests.refusals import refused

Stub = ValidationServiceStub


@dataclass(frozen=True, slots=True)
class Kind:
    """The calls about one kind."""

    field: str
    name: str
    messages: Any
    # Fields of two things that differ.
    one: dict[str, Any]
    other: dict[str, Any]

    def thing(self, name: str, **more: Any) -> Any:
        return getattr(self.messages, self.name)(name=name, **(self.one | more))

    def request(self, call: str, **fields: Any) -> Any:
        return getattr(self.messages, f"{call}Request")(**fields)

    async def call(self, stub: Stub, verb: str, **fields: Any) -> Any:
        call = f"{verb}{self.name}{'s' if verb == 'List' else ''}"
        return await getattr(stub, call)(self.request(call, **fields))

    async def create(self, stub: Stub, name: str, **fields: Any) -> Any:
        answer = await self.call(stub, "Create", **{self.field: self.thing(name)}, **fields)
        return getattr(answer, self.field)

    async def get(self, stub: Stub, thing_id: str) -> Any:
        answer = await self.call(stub, "Get", **{f"{self.field}_id": thing_id})
        return getattr(answer, self.field)

    async def update(self, stub: Stub, thing: Any, **fields: Any) -> Any:
        answer = await self.call(stub, "Update", **{self.field: thing}, **fields)
        return getattr(answer, self.field)

    async def delete(self, stub: Stub, thing: Any) -> None:
        thing_id = self.id(thing)
        await self.call(stub, "Delete", **{f"{self.field}_id": thing_id, "etag": thing.etag})

    async def names(self, stub: Stub) -> list[str]:
        answer = await self.call(stub, "List")
        return [each.name for each in getattr(answer, f"{self.field}s")]

    def id(self, thing: Any) -> str:
        found: str = getattr(thing, f"{self.field}_id")
        return found


KINDS = [
    Kind(
        "http_persona",
        "HttpPersona",
        http_persona_pb2,
        {"settings": HttpSettings(window=5)},
        {"settings": HttpSettings(window=6)},
    ),
    Kind(
        "keyword_set",
        "KeywordSet",
        keyword_pb2,
        {"rules": [KeywordRule(name="a", pattern="b")]},
        {"rules": [KeywordRule(name="a", pattern="c")]},
    ),
    Kind(
        "scoring_profile",
        "ScoringProfile",
        scoring_pb2,
        {"settings": ScoringSettings(full_coverage=7)},
        {"settings": ScoringSettings(full_coverage=8)},
    ),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.field)


@each_kind
async def test_a_thing_is_kept_changed_and_deleted_as_it_was_seen(stub: Stub, kind: Kind) -> None:
    tried = await kind.create(stub, "one", validate_only=True)
    assert (tried.name, await kind.names(stub)) == ("one", [])

    made = await kind.create(stub, "one")
    assert made == await kind.get(stub, kind.id(made))
    assert made.etag == '"1"'
    for field, value in kind.one.items():
        assert getattr(made, field) == value

    changed = kind.thing("two", description="d", **kind.other)
    setattr(changed, f"{kind.field}_id", kind.id(made))
    changed.etag = made.etag
    await kind.update(stub, changed, validate_only=True)
    updated = await kind.update(stub, changed)
    again = await refused(kind.update(stub, changed))
    changed.etag = updated.etag
    unchanged = await kind.update(stub, changed)

    assert (updated.name, updated.description, updated.etag) == ("two", "d", '"2"')
    assert updated.create_time == made.create_time
    assert (again.code, again.reason) == ("ABORTED", "ETAG_MISMATCH")
    assert again.metadata == {"resource": kind.field, "id": kind.id(made), "etag": '"2"'}
    assert unchanged == updated == await kind.get(stub, kind.id(made))

    assert (await refused(kind.delete(stub, made))).reason == "ETAG_MISMATCH"
    await kind.delete(stub, updated)
    for call in (kind.get(stub, kind.id(made)), kind.update(stub, changed)):
        gone = await refused(call)
        assert (gone.code, gone.reason) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")
        assert gone.metadata == {"resource": kind.field, "id": kind.id(made)}


@each_kind
async def test_a_name_is_taken_once_however_many_ask_for_it(stub: Stub, kind: Kind) -> None:
    request_id = str(uuid4())

    first, *others = await asyncio.gather(
        *(kind.create(stub, "one", request_id=request_id) for _ in range(5))
    )
    refusals = await asyncio.gather(*(refused(kind.create(stub, "one")) for _ in range(5)))
    second = await kind.create(stub, "two")
    second.name = "one"
    renamed = await refused(kind.update(stub, second))
    reused = await refused(kind.create(stub, "three", request_id=request_id))

    assert all(other == first for other in others)
    for refusal in (*refusals, renamed):
        assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "RESOURCE_EXISTS")
        assert refusal.metadata == {"resource": kind.field, "name": "one", "id": kind.id(first)}
    assert reused.reason == "REQUEST_ID_REUSED"
    assert await kind.names(stub) == ["one", "two"]


@each_kind
async def test_what_is_so_already_is_not_replaced(stub: Stub, store: Store, kind: Kind) -> None:
    things = {
        "http_persona": store.http_personas,
        "keyword_set": store.keyword_sets,
        "scoring_profile": store.scoring_profiles,
    }[kind.field]
    same, changed = [await kind.create(stub, name) for name in ("same", "changed")]
    given = [(await things.get(UUID(kind.id(each)))).new for each in (same, changed)]
    given[1] = replace(given[1], description="d")
    seen: list[tuple[int, list[int]]] = []

    def answer(stored: Sequence[Stored], replaced: int) -> bytes:
        seen.append((replaced, [each.version for each in stored]))
        return b""

    for _ in range(2):
        await things.import_all(given, answer, replace=True, validate_only=False)

    assert seen == [(1, [1, 2]), (0, [1, 2])]
    assert await kind.get(stub, kind.id(same)) == same


async def test_a_version_that_never_was_is_named_by_itself(store: Store, stub: Stub) -> None:
    kind = KINDS[1]
    made = await kind.create(stub, "one")

    with pytest.raises(ResourceNotFound) as caught:
        await store.keyword_sets.version(UUID(kind.id(made)), 7)

    assert caught.value.metadata == {"resource": kind.field, "id": kind.id(made), "version": "7"}
    assert caught.value.message == f"no keyword set has the id {kind.id(made)} in version 7"


@each_kind
async def test_things_are_listed_by_name_page_by_page(stub: Stub, kind: Kind) -> None:
    for name in ("b", "a", "ä", "c"):
        await kind.create(stub, name)

    first = await kind.call(stub, "List", page_size=2)
    second = await kind.call(stub, "List", page_size=2, page_token=first.next_page_token)
    forged = await refused(kind.call(stub, "List", page_token=first.next_page_token[:-2]))

    assert [each.name for each in getattr(first, f"{kind.field}s")] == ["a", "b"]
    assert [each.name for each in getattr(second, f"{kind.field}s")] == ["c", "ä"]
    assert not second.next_page_token
    assert forged.reason == "INVALID_TOKEN"


@each_kind
async def test_a_bad_thing_is_refused_by_field(stub: Stub, kind: Kind) -> None:
    bad = kind.thing(" ", description="\0")

    created = await refused(kind.call(stub, "Create", **{kind.field: bad}))
    updated = await refused(kind.update(stub, bad))

    texts = {f"{kind.field}.name", f"{kind.field}.description"}
    assert (created.reason, created.fields) == ("INVALID_FIELDS", texts)
    assert updated.fields == texts | {f"{kind.field}.{kind.field}_id"}
