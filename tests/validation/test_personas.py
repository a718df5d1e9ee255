"""Personas through a real port: kept, listed, tried, carried elsewhere."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1.dns_persona_pb2 import DnsPersona
from domainflow.validation.v1.dns_settings_pb2 import (
    DNS_TRANSPORT_HTTPS,
    DNS_TRANSPORT_SYSTEM,
    Canary,
    DnsResolver,
    DnsSettings,
    SecondOpinion,
)
from domainflow.validation.v1.resolver_pb2 import (
    RESOLVER_STATE_ADMITTED,
    RESOLVER_STATE_QUARANTINED,
    RESOLVER_STATE_SUSPECT,
)
from domainflow.validation.v1.validation_service_pb2_grpc import (
    ValidationServiceStub,
    add_ValidationServiceServicer_to_server,
)
from services.chassis.postgres import Pool
from services.chassis.seal import Seal
from services.chassis.server import CallGuard
from services.sandbox.dns_server import Faults, SandboxDns, SandboxDnsSettings
from services.sandbox.truth import Behaviour, truth
from services.validation.engines import Engines
from services.validation.persona_store import Personas
from services.validation.service import RULES, ValidationService
from services.validation.store import Store
from tests.refusals import read, refused

Stub = ValidationServiceStub


@pytest.fixture
async def stub(pool: Pool, store: Store, engines: Engines) -> AsyncIterator[Stub]:
    server = grpc.aio.server(interceptors=[CallGuard(rules=RULES, max_calls=10, max_streams=10)])
    service = ValidationService(
        store=store, engines=engines, personas=Personas(pool), seal=Seal([b"k" * 32])
    )
    add_ValidationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield ValidationServiceStub(channel)
    await server.stop(0)


def named(name: str, **settings: Any) -> DnsPersona:
    settings.setdefault("resolvers", [DnsResolver(address="192.0.2.1")])
    return DnsPersona(name=name, settings=DnsSettings(**settings))


async def create(stub: Stub, persona: DnsPersona, **more: Any) -> DnsPersona:
    request = pb.CreateDnsPersonaRequest(dns_persona=persona, **more)
    return (await stub.CreateDnsPersona(request)).dns_persona


async def get(stub: Stub, persona_id: str) -> DnsPersona:
    request = pb.GetDnsPersonaRequest(dns_persona_id=persona_id)
    return (await stub.GetDnsPersona(request)).dns_persona


async def listed(stub: Stub) -> list[str]:
    answer = await stub.ListDnsPersonas(pb.ListDnsPersonasRequest())
    return [persona.name for persona in answer.dns_personas]


# Keeping.


async def test_a_persona_is_kept_as_it_was_given(stub: Stub) -> None:
    given = named("fast", timeout=Duration(nanos=200_000_000), attempt_limit=2)
    given.description = "for the ones nearby"

    made = await create(stub, given)

    assert made == await get(stub, made.dns_persona_id)
    assert (made.name, made.description, made.settings) == (
        given.name,
        given.description,
        given.settings,
    )
    assert made.etag == '"1"'
    assert made.create_time.seconds > 0


async def test_a_repeated_creation_gives_the_first_answer(stub: Stub) -> None:
    request_id = str(uuid4())
    first = await create(stub, named("one"), request_id=request_id)
    await stub.DeleteDnsPersona(pb.DeleteDnsPersonaRequest(dns_persona_id=first.dns_persona_id))

    assert await create(stub, named("one"), request_id=request_id) == first
    assert await listed(stub) == []

    other = pb.CreateDnsPersonaRequest(dns_persona=named("two"), request_id=request_id)
    assert (await refused(stub.CreateDnsPersona(other))).reason == "REQUEST_ID_REUSED"


async def test_a_name_is_taken_once(stub: Stub) -> None:
    first = await create(stub, named("one"))
    second = await create(stub, named("two"))

    again = pb.CreateDnsPersonaRequest(dns_persona=named("one"))
    refusal = await refused(stub.CreateDnsPersona(again))
    renamed = named("one")
    renamed.dns_persona_id = second.dns_persona_id
    other = await refused(stub.UpdateDnsPersona(pb.UpdateDnsPersonaRequest(dns_persona=renamed)))

    assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "DNS_PERSONA_EXISTS")
    assert refusal.metadata == {"name": "one", "dns_persona_id": first.dns_persona_id}
    assert other.reason == "DNS_PERSONA_EXISTS"
    assert await get(stub, second.dns_persona_id) == second


async def test_a_check_alone_stores_nothing(stub: Stub) -> None:
    made = await create(stub, named("one"), validate_only=True)

    assert made.name == "one"
    assert await listed(stub) == []


async def test_an_update_replaces_what_was_seen(stub: Stub) -> None:
    made = await create(stub, named("one"))
    changed = DnsPersona()
    changed.CopyFrom(made)
    changed.settings.attempt_limit = 3

    first = pb.UpdateDnsPersonaRequest(dns_persona=changed)
    updated = (await stub.UpdateDnsPersona(first)).dns_persona
    refusal = await refused(stub.UpdateDnsPersona(first))

    assert updated.settings.attempt_limit == 3
    assert updated.etag != made.etag
    assert (refusal.code, refusal.reason) == ("ABORTED", "ETAG_MISMATCH")
    assert refusal.metadata["etag"] == updated.etag
    assert await get(stub, made.dns_persona_id) == updated


async def test_an_update_that_changes_nothing_leaves_the_etag(stub: Stub) -> None:
    made = await create(stub, named("one"))

    again = (await stub.UpdateDnsPersona(pb.UpdateDnsPersonaRequest(dns_persona=made))).dns_persona

    assert again == made


async def test_a_persona_is_deleted_as_it_was_seen(stub: Stub) -> None:
    made = await create(stub, named("one"))
    request = pb.DeleteDnsPersonaRequest(dns_persona_id=made.dns_persona_id, etag='"7"')

    refusal = await refused(stub.DeleteDnsPersona(request))
    request.etag = made.etag
    await stub.DeleteDnsPersona(request)
    gone = await refused(stub.DeleteDnsPersona(request))

    assert refusal.reason == "ETAG_MISMATCH"
    assert (gone.code, gone.reason) == ("NOT_FOUND", "DNS_PERSONA_NOT_FOUND")
    assert gone.metadata == {"dns_persona_id": made.dns_persona_id}


async def test_personas_are_listed_by_name_page_by_page(stub: Stub) -> None:
    for name in ("b", "a", "ä", "c"):
        await create(stub, named(name))
    request = pb.ListDnsPersonasRequest(page_size=2)

    first = await stub.ListDnsPersonas(request)
    request.page_token = first.next_page_token
    second = await stub.ListDnsPersonas(request)

    assert [it.name for it in first.dns_personas] == ["a", "b"]
    assert [it.name for it in second.dns_personas] == ["c", "ä"]
    assert not second.next_page_token
    request.page_token = first.next_page_token[:-2]
    assert (await refused(stub.ListDnsPersonas(request))).reason == "INVALID_TOKEN"


async def test_a_page_is_bounded_in_bytes_and_never_empty(pool: Pool, stub: Stub) -> None:
    for name in ("a", "b", "c"):
        await create(stub, named(name, attempt_limit=2))
    personas = Personas(pool)

    page, more = await personas.page(None, 10, 1)
    rest, last = await personas.page("a", 10, 10_000)

    assert ([it.name for it in page], more) == (["a"], True)
    assert ([it.name for it in rest], last) == (["b", "c"], False)


async def test_every_bad_field_of_a_persona_is_named(stub: Stub) -> None:
    persona = named(
        " ",
        resolvers=[DnsResolver(address="nowhere"), DnsResolver(address="192.0.2.1", weight=1001)],
        timeout=Duration(seconds=99),
    )
    persona.description = "\0"

    refusal = await refused(stub.CreateDnsPersona(pb.CreateDnsPersonaRequest(dns_persona=persona)))
    update = await refused(stub.UpdateDnsPersona(pb.UpdateDnsPersonaRequest(dns_persona=persona)))

    assert refusal.reason == "INVALID_FIELDS"
    fields = {
        "dns_persona.name",
        "dns_persona.description",
        "dns_persona.settings.resolvers[0].address",
        "dns_persona.settings.resolvers[1].weight",
        "dns_persona.settings.timeout",
    }
    assert refusal.fields == fields
    assert update.fields == fields | {"dns_persona.dns_persona_id"}


# Documents.


async def test_personas_are_carried_elsewhere_in_a_document(stub: Stub) -> None:
    one = await create(stub, named("one", timeout=Duration(nanos=250_000_000), attempt_limit=2))
    two = await create(stub, named("two", resolvers=[DnsResolver(transport=DNS_TRANSPORT_SYSTEM)]))
    document = (await stub.ExportDnsPersonas(pb.ExportDnsPersonasRequest())).document
    for each in (one, two):
        await stub.DeleteDnsPersona(pb.DeleteDnsPersonaRequest(dns_persona_id=each.dns_persona_id))

    answer = await stub.ImportDnsPersonas(pb.ImportDnsPersonasRequest(document=document))

    assert [(it.name, it.settings) for it in answer.dns_personas] == [
        (one.name, one.settings),
        (two.name, two.settings),
    ]
    assert answer.replaced_count == 0
    assert await listed(stub) == ["one", "two"]
    again = (await stub.ExportDnsPersonas(pb.ExportDnsPersonasRequest())).document
    assert again == document


async def test_some_personas_are_exported_by_id(stub: Stub) -> None:
    one = await create(stub, named("one"))
    await create(stub, named("two"))
    request = pb.ExportDnsPersonasRequest(dns_persona_ids=[one.dns_persona_id])

    document = json.loads((await stub.ExportDnsPersonas(request)).document)
    request.dns_persona_ids.append(str(uuid4()))
    refusal = await refused(stub.ExportDnsPersonas(request))

    assert [persona["name"] for persona in document["dns_personas"]] == ["one"]
    assert refusal.reason == "DNS_PERSONA_NOT_FOUND"


def document(*personas: Any, format: str = "domainflow.dns-personas.v1") -> str:
    return json.dumps({"format": format, "dns_personas": personas})


async def test_an_import_replaces_where_it_may_and_is_all_or_nothing(stub: Stub) -> None:
    old = await create(stub, named("old"))
    request = pb.ImportDnsPersonasRequest(
        document=document({"name": "new"}, {"name": "old", "settings": {"window": 5}})
    )

    refusal = await refused(stub.ImportDnsPersonas(request))

    assert refusal.reason == "DNS_PERSONA_EXISTS"
    assert await listed(stub) == ["old"]
    request.replace = True
    request.validate_only = True
    assert (await stub.ImportDnsPersonas(request)).replaced_count == 1
    assert await get(stub, old.dns_persona_id) == old
    request.validate_only = False
    answer = await stub.ImportDnsPersonas(request)
    assert [it.name for it in answer.dns_personas] == ["new", "old"]
    assert answer.dns_personas[1].dns_persona_id == old.dns_persona_id
    assert answer.dns_personas[1].etag != old.etag
    assert answer.replaced_count == 1
    assert answer.dns_personas[1].settings == DnsSettings(window=5)


async def test_every_fault_of_a_document_is_named_at_once(stub: Stub) -> None:
    text = document(
        {"name": "a", "settings": {"timeout": "fast", "strategy": "BEST", "colour": 1}},
        {"name": "b", "settings": {"resolvers": [{"address": "x"}, {"weight": "heavy"}]}},
        {"name": "c", "etag": '"1"'},
        {"name": "c", "settings": {"timeout": "99s"}},
        "d",
        {"name": "e", "settings": {"resolvers": [{"address": "x", "transport": 77}]}},
        {"name": "f", "settings": {"retry_lanes": {}}},
        {"name": "g", "settings": {"attempt_limit": 1, "attemptLimit": 2}},
        {"name": "\ud800", "settings": {"timeout": None}},
        {"name": ""},
    )

    refusal = await refused(stub.ImportDnsPersonas(pb.ImportDnsPersonasRequest(document=text)))

    assert refusal.reason == "INVALID_FIELDS"
    assert {field.removeprefix("document.dns_personas") for field in refusal.fields} == {
        "[0].settings.timeout",
        "[0].settings.strategy",
        "[0].settings.colour",
        "[1].settings.resolvers[0].address",
        "[1].settings.resolvers[1].address",
        "[1].settings.resolvers[1].weight",
        "[2].etag",
        "[3].name",
        "[3].settings.timeout",
        "[4]",
        "[5].settings.resolvers[0].address",
        "[5].settings.resolvers[0].transport",
        "[6].settings.retry_lanes",
        "[7].settings.attempt_limit",
        "[8].name",
        "[9].name",
    }


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", "document"),
        ("[]", "document"),
        ("[" * 100_000, "document"),
        ('{"format": "domainflow.dns-personas.v1", "format": 1}', "document"),
        ('{"format": "domainflow.dns-personas.v1", "dns_personas": [NaN]}', "document"),
        (document(format="other"), "document.format"),
        ('{"format": "domainflow.dns-personas.v1"}', "document.dns_personas"),
        (document(*({"name": str(n)} for n in range(1001))), "document.dns_personas"),
        ('{"format":"domainflow.dns-personas.v1","dns_personas":[],"\\ud800":1}', None),
    ],
    ids=["cut", "list", "deep", "repeated", "nan", "format", "missing", "many", "half character"],
)
async def test_a_text_that_is_no_document_is_refused(
    stub: Stub, text: str, field: str | None
) -> None:
    refusal = await refused(stub.ImportDnsPersonas(pb.ImportDnsPersonasRequest(document=text)))

    assert refusal.reason == "INVALID_FIELDS"
    assert field is None or refusal.fields == {field}


# Using.


def sandbox_resolver(sandbox: SandboxDns, **more: Any) -> DnsResolver:
    return DnsResolver(address="{}:{}".format(*sandbox.address), **more)


def names_that(behaviour: Behaviour, sandbox: SandboxDns) -> Iterator[str]:
    settings = sandbox.settings
    for number in range(100_000):
        name = f"name-{number}.com"
        if truth(name, settings.seed, settings.mix).behaviour is behaviour:
            yield name


async def test_names_are_checked_as_a_persona_says(stub: Stub, sandbox: SandboxDns) -> None:
    persona = await create(stub, named("one", resolvers=[sandbox_resolver(sandbox)]))
    request = pb.CheckNamesRequest(names=["a.com"], dns_persona_id=persona.dns_persona_id)

    by_persona = await stub.CheckNames(request)
    by_settings = await stub.CheckNames(
        pb.CheckNamesRequest(names=["a.com"], settings=persona.settings)
    )

    right = truth("a.com", sandbox.settings.seed, sandbox.settings.mix).verdict
    assert by_persona.checked_names[0].dns.verdict == right
    assert by_settings.checked_names[0].dns.verdict == right
    request.dns_persona_id = str(uuid4())
    assert (await refused(stub.CheckNames(request))).reason == "DNS_PERSONA_NOT_FOUND"


async def test_a_stream_is_checked_as_a_persona_says(stub: Stub, sandbox: SandboxDns) -> None:
    persona = await create(stub, named("one", resolvers=[sandbox_resolver(sandbox)]))

    def requests(persona_id: str) -> list[pb.ValidateDomainsRequest]:
        start = pb.ValidateStart(dns_persona_id=persona_id)
        batch = pb.NameBatch(names=["a.com"])
        return [pb.ValidateDomainsRequest(start=start), pb.ValidateDomainsRequest(batch=batch)]

    answers = [it async for it in stub.ValidateDomains(iter(requests(persona.dns_persona_id)))]
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        [it async for it in stub.ValidateDomains(iter(requests(str(uuid4()))))]

    right = truth("a.com", sandbox.settings.seed, sandbox.settings.mix).verdict
    assert answers[0].results.names[0].dns.verdict == right
    assert read(unknown.value).reason == "DNS_PERSONA_NOT_FOUND"


async def test_there_is_one_way_to_say_how_names_are_checked(stub: Stub) -> None:
    settings = DnsSettings(resolvers=[DnsResolver(address="192.0.2.1")] * 2)
    settings.second_opinion.policy = SecondOpinion.POLICY_ALL
    request = pb.CheckNamesRequest(
        names=["a.com"],
        resolvers=["192.0.2.1"],
        dns_persona_id=str(uuid4()),
        settings=settings,
    )

    refusal = await refused(stub.CheckNames(request))

    assert refusal.fields == {
        "resolvers",
        "dns_persona_id",
        "settings.resolvers[1]",
        "settings.second_opinion.policy",
    }


async def test_each_resolver_of_a_persona_is_tried_on_its_own(
    stub: Stub, sandbox: SandboxDns
) -> None:
    good = next(names_that(Behaviour.RESOLVES, sandbox))
    absent = next(names_that(Behaviour.NXDOMAIN, sandbox))
    lying = SandboxDnsSettings(mix=sandbox.settings.mix, faults=Faults(lying=True))
    mute = SandboxDnsSettings(faults=Faults(loss=1.0))
    async with SandboxDns(lying) as liar, SandboxDns(mute) as silent:
        settings = DnsSettings(
            resolvers=[sandbox_resolver(each) for each in (sandbox, liar, silent)],
            timeout=Duration(nanos=100_000_000),
            canaries=[
                Canary(kind=Canary.KIND_GOOD, name=good),
                Canary(kind=Canary.KIND_NXDOMAIN, name=absent),
            ],
        )
        answer = await stub.TestDnsPersona(
            pb.TestDnsPersonaRequest(settings=settings, names=[good.upper(), absent])
        )

    states = [test.report.state for test in answer.resolver_tests]
    assert states == [
        RESOLVER_STATE_ADMITTED,
        RESOLVER_STATE_QUARANTINED,
        RESOLVER_STATE_SUSPECT,
    ]
    assert not answer.passed
    first, second, third = answer.resolver_tests
    assert [it.passed for it in first.report.canaries] == [True, True]
    assert [it.passed for it in second.report.canaries] == [True, False]
    assert absent in second.report.reason
    assert [it.name for it in first.checked_names] == [good, absent]
    assert first.report.score == 1
    assert third.report.timeout_count >= 1


async def test_a_persona_of_too_many_resolvers_is_not_tried(stub: Stub) -> None:
    settings = DnsSettings(resolvers=[DnsResolver(address=f"192.0.2.{n}") for n in range(1, 102)])
    made = await create(stub, DnsPersona(name="many", settings=settings))

    given = await refused(stub.TestDnsPersona(pb.TestDnsPersonaRequest(settings=settings)))
    stored = await refused(
        stub.TestDnsPersona(pb.TestDnsPersonaRequest(dns_persona_id=made.dns_persona_id))
    )

    assert given.fields == {"settings.resolvers"}
    assert stored.fields == {"dns_persona_id"}


async def test_nothing_that_is_given_with_a_persona_is_lost_over_https(stub: Stub) -> None:
    resolver = DnsResolver(
        address="8.8.8.8", transport=DNS_TRANSPORT_HTTPS, url="https://dns.google/dns-query"
    )
    second = DnsResolver()
    second.CopyFrom(resolver)
    second.address = "8.8.4.4"

    made = await create(stub, named("google", resolvers=[resolver, second]))

    assert list(made.settings.resolvers) == [resolver, second]
