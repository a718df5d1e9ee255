"""DNS personas among the things that are stored under a name: they have refusals of their own."""

from uuid import UUID

from services.chassis.errors import (
    DnsPersonaExists,
    DnsPersonaNotFound,
    EtagMismatch,
    ServiceError,
)
from services.chassis.postgres import Pool
from services.validation.named_store import NamedStore


class Personas(NamedStore):
    """The table of DNS personas."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool, "dns_personas", "dns_persona", body="settings")

    def not_found(self, thing_id: object) -> ServiceError:
        return DnsPersonaNotFound(thing_id)

    def exists(self, name: str, other_id: object) -> ServiceError:
        return DnsPersonaExists(
            f"another DNS persona has the name {name!r}", name=name, dns_persona_id=other_id
        )

    def changed(self, thing_id: UUID, etag: str) -> ServiceError:
        return EtagMismatch(
            "the persona changed since its etag was read", dns_persona_id=thing_id, etag=etag
        )
