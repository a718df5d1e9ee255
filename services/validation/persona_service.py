"""The part of ValidationService that keeps personas: named ways of asking DNS."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from domainflow.validation.v1 import dns_settings_pb2, resolver_pb2
from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from domainflow.validation.v1.dns_persona_pb2 import DnsPersona
from services.chassis.dns_settings import check_settings
from services.chassis.domain_name import NotADomainName, normalise
from services.chassis.errors import FieldViolation, InvalidFields
from services.chassis.seal import Seal
from services.chassis.server import Rules
from services.validation.documents import Form
from services.validation.named_calls import NamedCalls, check_texts, fill, rules_of
from services.validation.named_store import New, Stored
from services.validation.persona_store import Personas
from services.validation.persona_trial import MAX_RESOLVERS, trial
from services.validation.plans import plan_of_settings

FORM = Form(
    "domainflow.dns-personas.v1", "dns_personas", DnsPersona, ("name", "description", "settings")
)
_KIND = "dns_persona"
_MAX_NAMES = 10

Context = Any


class PersonaService(pb_grpc.ValidationServiceServicer):
    """See validation_service.proto for every RPC's contract."""

    def __init__(self, *, personas: Personas, seal: Seal) -> None:
        self._dns_personas = NamedCalls(
            personas,
            seal,
            kind=_KIND,
            form=FORM,
            to_pb=persona_to_pb,
            to_new=_new,
            check=check_persona,
        )

    async def CreateDnsPersona(
        self, request: pb.CreateDnsPersonaRequest, context: Context
    ) -> pb.CreateDnsPersonaResponse:
        return await self._dns_personas.create(request, pb.CreateDnsPersonaResponse)

    async def GetDnsPersona(
        self, request: pb.GetDnsPersonaRequest, context: Context
    ) -> pb.GetDnsPersonaResponse:
        return await self._dns_personas.get(request, pb.GetDnsPersonaResponse)

    async def ListDnsPersonas(
        self, request: pb.ListDnsPersonasRequest, context: Context
    ) -> pb.ListDnsPersonasResponse:
        return await self._dns_personas.list(request, pb.ListDnsPersonasResponse)

    async def UpdateDnsPersona(
        self, request: pb.UpdateDnsPersonaRequest, context: Context
    ) -> pb.UpdateDnsPersonaResponse:
        return await self._dns_personas.update(request, pb.UpdateDnsPersonaResponse)

    async def DeleteDnsPersona(
        self, request: pb.DeleteDnsPersonaRequest, context: Context
    ) -> pb.DeleteDnsPersonaResponse:
        return await self._dns_personas.delete(request, pb.DeleteDnsPersonaResponse)

    async def ExportDnsPersonas(
        self, request: pb.ExportDnsPersonasRequest, context: Context
    ) -> pb.ExportDnsPersonasResponse:
        return await self._dns_personas.export(request, pb.ExportDnsPersonasResponse)

    async def ImportDnsPersonas(
        self, request: pb.ImportDnsPersonasRequest, context: Context
    ) -> pb.ImportDnsPersonasResponse:
        return await self._dns_personas.import_(request, pb.ImportDnsPersonasResponse)

    async def TestDnsPersona(
        self, request: pb.TestDnsPersonaRequest, context: Context
    ) -> pb.TestDnsPersonaResponse:
        settings = await self._settings(request.dns_persona_id, request.settings)
        plan = plan_of_settings(settings)
        if len(plan.resolvers) > MAX_RESOLVERS:
            field = "dns_persona_id" if request.dns_persona_id else "settings.resolvers"
            description = f"has {len(plan.resolvers)} resolvers; {MAX_RESOLVERS} are tested at most"
            raise InvalidFields([FieldViolation(field, description)])
        tests = await trial(plan, [normalise(name) for name in request.names])
        return pb.TestDnsPersonaResponse(
            resolver_tests=tests, passed=all(passed(test) for test in tests)
        )

    async def _settings(
        self, persona_id: str, given: dns_settings_pb2.DnsSettings
    ) -> dns_settings_pb2.DnsSettings:
        """The settings of the persona, where a request names one. Raises DnsPersonaNotFound."""
        if not persona_id:
            return given
        persona = await self._dns_personas.store.get(UUID(persona_id))
        return dns_settings_pb2.DnsSettings.FromString(persona.body)


def check_persona(persona: DnsPersona, path: str) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a persona that stands at `path`."""
    yield from check_texts(persona, path)
    yield from check_settings(persona.settings, f"{path}.settings")


def check_choice(
    request: pb.CheckNamesRequest | pb.TestDnsPersonaRequest | pb.ValidateStart,
    path: str = "",
) -> Iterator[FieldViolation]:
    """What the contract's rules cannot say about a request that takes a persona or settings."""
    if request.dns_persona_id and request.HasField("settings"):
        yield FieldViolation(f"{path}dns_persona_id", "does not go with settings")
    yield from check_settings(request.settings, f"{path}settings")


def passed(test: pb.ResolverTest) -> bool:
    """Whether the resolver would be admitted."""
    return test.report.state == resolver_pb2.RESOLVER_STATE_ADMITTED


def persona_to_pb(persona: Stored) -> DnsPersona:
    message = DnsPersona(settings=dns_settings_pb2.DnsSettings.FromString(persona.body))
    fill(message, persona, _KIND)
    return message


def _new(persona: DnsPersona) -> New:
    return New(
        persona.name,
        persona.description,
        persona.settings.SerializeToString(deterministic=True),
    )


def _check_test(request: pb.TestDnsPersonaRequest) -> Iterator[FieldViolation]:
    yield from check_choice(request)
    for index, name in enumerate(request.names[:_MAX_NAMES]):
        try:
            normalise(name)
        except NotADomainName as problem:
            yield FieldViolation(f"names[{index}]", str(problem))


# What the contract's own rules cannot say, by type of request.
RULES: Rules = {
    **rules_of(_KIND, pb.CreateDnsPersonaRequest, pb.UpdateDnsPersonaRequest, check_persona),
    pb.TestDnsPersonaRequest: _check_test,
}
