"""HTTP personas: what is refused, and documents of them."""

import json

from google.protobuf.duration_pb2 import Duration

from domainflow.validation.v1.http_persona_pb2 import (
    CreateHttpPersonaRequest,
    DeleteHttpPersonaRequest,
    ExportHttpPersonasRequest,
    HttpPersona,
    ImportHttpPersonasRequest,
    UpdateHttpPersonaRequest,
)
from domainflow.validation.v1.http_settings_pb2 import HttpHeader, HttpRetryLane, HttpSettings
from domainflow.validation.v1.validation_service_pb2_grpc import ValidationServiceStub
from tests.refusals import refused

Stub = ValidationServiceStub
SETTINGS = HttpSettings(
    user_agent="me/1",
    headers=[HttpHeader(name="X-A", value="b")],
    schemes=["http"],
    redirect_limit=0,
    connect_timeout=Duration(nanos=250_000_000),
    retry_lanes=[HttpRetryLane(reason=HttpRetryLane.REASON_TLS, delay=Duration())],
    allowed_networks=["127.0.0.1/32"],
)


async def create(stub: Stub, name: str, settings: HttpSettings) -> HttpPersona:
    persona = HttpPersona(name=name, settings=settings)
    answer = await stub.CreateHttpPersona(CreateHttpPersonaRequest(http_persona=persona))
    return answer.http_persona


async def test_every_bad_setting_is_named_at_once(stub: Stub) -> None:
    settings = HttpSettings(
        user_agent="a\nb",
        headers=[HttpHeader(name="Cookie", value="a=b")],
        total_timeout=Duration(seconds=1),
        window=2001,
        allowed_networks=["nowhere"],
    )
    persona = HttpPersona(name="a", settings=settings)

    refusal = await refused(stub.CreateHttpPersona(CreateHttpPersonaRequest(http_persona=persona)))

    assert {field.removeprefix("http_persona.settings.") for field in refusal.fields} == {
        "user_agent",
        "headers[0]",
        "total_timeout",
        "window",
        "allowed_networks[0]",
    }


async def test_networks_beyond_those_of_the_service_are_refused_by_name(stub: Stub) -> None:
    made = await create(stub, "one", SETTINGS)
    wide = HttpSettings(allowed_networks=["127.0.0.0/16", "10.0.0.0/8"])
    made.settings.CopyFrom(wide)
    field = "settings.allowed_networks[1]"

    created = await refused(create(stub, "two", wide))
    updated = await refused(stub.UpdateHttpPersona(UpdateHttpPersonaRequest(http_persona=made)))
    entry = {"name": "two", "settings": {"allowed_networks": list(wide.allowed_networks)}}
    document = {"format": "domainflow.http-personas.v1", "http_personas": [entry]}
    imported = await refused(
        stub.ImportHttpPersonas(ImportHttpPersonasRequest(document=json.dumps(document)))
    )

    assert created.fields == updated.fields == {f"http_persona.{field}"}
    assert "10.0.0.0/8" in created.message
    assert imported.fields == {f"document.http_personas[0].{field}"}


async def test_personas_are_carried_elsewhere_in_a_document(stub: Stub) -> None:
    made = [await create(stub, "one", SETTINGS), await create(stub, "two", HttpSettings())]
    document = (await stub.ExportHttpPersonas(ExportHttpPersonasRequest())).document
    for each in made:
        await stub.DeleteHttpPersona(DeleteHttpPersonaRequest(http_persona_id=each.http_persona_id))

    answer = await stub.ImportHttpPersonas(ImportHttpPersonasRequest(document=document))
    taken = await refused(stub.ImportHttpPersonas(ImportHttpPersonasRequest(document=document)))
    replaced = await stub.ImportHttpPersonas(
        ImportHttpPersonasRequest(document=document, replace=True)
    )

    assert [(it.name, it.settings) for it in answer.http_personas] == [
        ("one", SETTINGS),
        ("two", HttpSettings()),
    ]
    assert taken.reason == "RESOURCE_EXISTS"
    # They are so already.
    assert (answer.replaced_count, replaced.replaced_count) == (0, 0)
    again = await stub.ExportHttpPersonas(ExportHttpPersonasRequest())
    assert again.document == document
