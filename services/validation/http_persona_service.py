"""The part of ValidationService that keeps HTTP personas: named ways of asking for pages."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from domainflow.validation.v1 import http_persona_pb2 as persona_pb
from domainflow.validation.v1 import http_settings_pb2
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from services.chassis.errors import FieldViolation, InvalidFields
from services.chassis.http_settings import Network, check_http_settings
from services.chassis.seal import Seal
from services.chassis.server import Rules
from services.validation.documents import Form
from services.validation.http_plans import HttpPlan, http_plan_of
from services.validation.named_calls import NamedCalls, check_texts, fill, rules_of
from services.validation.named_store import NamedStore, New, Stored

FORM = Form(
    "domainflow.http-personas.v1",
    "http_personas",
    persona_pb.HttpPersona,
    ("name", "description", "settings"),
)
_KIND = "http_persona"

Context = Any


class HttpPersonaService(pb_grpc.ValidationServiceServicer):
    """See validation_service.proto for every RPC's contract."""

    _http_personas: NamedCalls[persona_pb.HttpPersona]
    # That settings may name; see HTTP_ALLOWED_NETWORKS.
    _networks: Sequence[Network]

    async def CreateHttpPersona(
        self, request: persona_pb.CreateHttpPersonaRequest, context: Context
    ) -> persona_pb.CreateHttpPersonaResponse:
        return await self._http_personas.create(request, persona_pb.CreateHttpPersonaResponse)

    async def GetHttpPersona(
        self, request: persona_pb.GetHttpPersonaRequest, context: Context
    ) -> persona_pb.GetHttpPersonaResponse:
        return await self._http_personas.get(request, persona_pb.GetHttpPersonaResponse)

    async def ListHttpPersonas(
        self, request: persona_pb.ListHttpPersonasRequest, context: Context
    ) -> persona_pb.ListHttpPersonasResponse:
        return await self._http_personas.list(request, persona_pb.ListHttpPersonasResponse)

    async def UpdateHttpPersona(
        self, request: persona_pb.UpdateHttpPersonaRequest, context: Context
    ) -> persona_pb.UpdateHttpPersonaResponse:
        return await self._http_personas.update(request, persona_pb.UpdateHttpPersonaResponse)

    async def DeleteHttpPersona(
        self, request: persona_pb.DeleteHttpPersonaRequest, context: Context
    ) -> persona_pb.DeleteHttpPersonaResponse:
        return await self._http_personas.delete(request, persona_pb.DeleteHttpPersonaResponse)

    async def ExportHttpPersonas(
        self, request: persona_pb.ExportHttpPersonasRequest, context: Context
    ) -> persona_pb.ExportHttpPersonasResponse:
        return await self._http_personas.export(request, persona_pb.ExportHttpPersonasResponse)

    async def ImportHttpPersonas(
        self, request: persona_pb.ImportHttpPersonasRequest, context: Context
    ) -> persona_pb.ImportHttpPersonasResponse:
        return await self._http_personas.import_(request, persona_pb.ImportHttpPersonasResponse)

    async def _http_plan(
        self, persona_id: str, given: http_settings_pb2.HttpSettings, path: str = "settings"
    ) -> HttpPlan:
        """The plan of the persona, where a request names one, or of the settings at `path`.

        Raises ResourceNotFound, and InvalidFields for networks the service does not allow.
        """
        if not persona_id:
            if violations := list(check_http_settings(given, path, self._networks)):
                raise InvalidFields(violations)
            return http_plan_of(given, self._networks)
        persona = await self._http_personas.store.get(UUID(persona_id))
        settings = http_settings_pb2.HttpSettings.FromString(persona.body)
        # Those that the service allowed when it was saved may be fewer by now.
        return http_plan_of(settings, self._networks)


def http_persona_calls(
    store: NamedStore, seal: Seal, networks: Sequence[Network]
) -> NamedCalls[persona_pb.HttpPersona]:
    def check(persona: persona_pb.HttpPersona, path: str) -> Iterator[FieldViolation]:
        return check_http_settings(persona.settings, f"{path}.settings", networks)

    return NamedCalls(
        store,
        seal,
        kind=_KIND,
        form=FORM,
        requests=(persona_pb.CreateHttpPersonaRequest, persona_pb.UpdateHttpPersonaRequest),
        to_pb=http_persona_to_pb,
        to_new=_new,
        check=check_http_persona,
        thorough=check,
    )


def check_http_persona(persona: persona_pb.HttpPersona, path: str) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a persona that stands at `path`, but for networks
    that the service does not allow."""
    yield from check_texts(persona, path)
    yield from check_http_settings(persona.settings, f"{path}.settings")


def http_persona_to_pb(persona: Stored) -> persona_pb.HttpPersona:
    message = persona_pb.HttpPersona(
        settings=http_settings_pb2.HttpSettings.FromString(persona.body)
    )
    fill(message, persona, _KIND)
    return message


def _new(persona: persona_pb.HttpPersona) -> New:
    return New(
        persona.name,
        persona.description,
        persona.settings.SerializeToString(deterministic=True),
    )


# What the contract's own rules cannot say, by type of request.
RULES: Rules = rules_of(
    _KIND,
    persona_pb.CreateHttpPersonaRequest,
    persona_pb.UpdateHttpPersonaRequest,
    check_http_persona,
)
