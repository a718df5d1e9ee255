"""DNS personas: the only SQL about them. One public method is one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from services.chassis.errors import DnsPersonaExists, DnsPersonaNotFound, EtagMismatch
from services.chassis.postgres import Connection, Pool
from services.chassis.requests import RequestKey, once

_COLUMNS = "id, name, description, settings, version, create_time, update_time"
_REQUESTS = "validation_requests"


@dataclass(frozen=True, slots=True)
class NewPersona:
    """What a caller says of a persona. `settings` is a DnsSettings, as protobuf bytes."""

    name: str
    description: str
    settings: bytes


@dataclass(frozen=True, slots=True)
class Persona:
    """A persona as it is stored."""

    id: UUID
    name: str
    description: str
    settings: bytes
    version: int
    create_time: datetime
    update_time: datetime

    @property
    def etag(self) -> str:
        return f'"{self.version}"'


Answer = Callable[[Persona], bytes]


class Personas:
    """The table of personas."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, persona_id: UUID) -> Persona:
        """Raises DnsPersonaNotFound."""
        row = await self._pool.fetchrow(
            f"SELECT {_COLUMNS} FROM dns_personas WHERE id = $1", persona_id
        )
        if row is None:
            raise DnsPersonaNotFound(persona_id)
        return Persona(**row)

    async def page(
        self, after: str | None, limit: int, size_limit: int
    ) -> tuple[list[Persona], bool]:
        """Up to `limit` personas by name, from behind `after` on, and whether there are more.

        No more than fit into `size_limit` bytes, but one at least.
        """
        # One more than asked for tells whether there is a next page.
        rows = await self._pool.fetch(
            f"""SELECT {_COLUMNS}, count FROM (
                    SELECT *, row_number() OVER by_name AS place, count(*) OVER () AS count,
                        sum(octet_length(settings) + octet_length(description) + 200) OVER by_name
                            AS size
                    FROM (SELECT * FROM dns_personas WHERE $1::text IS NULL OR name > $1
                          ORDER BY name LIMIT $2 + 1) AS page
                    WINDOW by_name AS (ORDER BY name)) AS measured
                WHERE place = 1 OR (place <= $2 AND size <= $3) ORDER BY name""",
            after,
            limit,
            size_limit,
        )
        personas = [Persona(**{k: v for k, v in row.items() if k != "count"}) for row in rows]
        return personas, bool(rows) and len(rows) < rows[0]["count"]

    async def some(self, persona_ids: Sequence[UUID], size_limit: int) -> list[Persona] | None:
        """Those personas by name, or all without ids; None when they have more than `size_limit`
        bytes. Raises DnsPersonaNotFound for the first of the ids that there is not."""
        async with self._pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                sizes = await connection.fetch(
                    """SELECT id, octet_length(settings) AS size FROM dns_personas
                       WHERE $1::uuid[] = '{}' OR id = ANY($1)""",
                    persona_ids,
                )
                found = {row["id"] for row in sizes}
                for persona_id in persona_ids:
                    if persona_id not in found:
                        raise DnsPersonaNotFound(persona_id)
                if sum(row["size"] for row in sizes) > size_limit:
                    return None
                rows = await connection.fetch(
                    f"SELECT {_COLUMNS} FROM dns_personas WHERE id = ANY($1) ORDER BY name", found
                )
                return [Persona(**row) for row in rows]

    async def create(
        self, new: NewPersona, key: RequestKey | None, answer: Answer, *, validate_only: bool
    ) -> bytes:
        """Store a persona; returns what `answer` makes of it, or the stored answer of `key`.

        Raises DnsPersonaExists, RequestIdReused.
        """

        async def insert(connection: Connection) -> bytes:
            made = await _insert(connection, new)
            if made is None:
                raise await _taken(connection, new.name)
            return answer(made)

        return await once(self._pool, key, insert, validate_only=validate_only, table=_REQUESTS)

    async def forget_requests(self, age: timedelta) -> None:
        """Drop stored answers older than `age`."""
        await self._pool.execute(
            """DELETE FROM validation_requests WHERE request_id IN (
                   SELECT request_id FROM validation_requests
                   WHERE create_time < now() - $1::interval FOR UPDATE SKIP LOCKED)""",
            age,
        )

    async def update(
        self, persona_id: UUID, new: NewPersona, answer: Answer, *, etag: str, validate_only: bool
    ) -> bytes:
        """Replace a persona; one that is so already stays as it is, its version too.

        Raises DnsPersonaNotFound, EtagMismatch, DnsPersonaExists.
        """

        async def write(connection: Connection) -> bytes:
            before = await _lock(connection, persona_id, etag)
            if new == NewPersona(before.name, before.description, before.settings):
                return answer(before)
            try:
                async with connection.transaction():
                    row = await connection.fetchrow(
                        f"""UPDATE dns_personas SET name = $2, description = $3, settings = $4,
                                version = version + 1, update_time = now()
                            WHERE id = $1 RETURNING {_COLUMNS}""",
                        persona_id,
                        new.name,
                        new.description,
                        new.settings,
                    )
            except asyncpg.UniqueViolationError:
                raise await _taken(connection, new.name) from None
            assert row is not None
            return answer(Persona(**row))

        return await once(self._pool, None, write, validate_only=validate_only)

    async def delete(self, persona_id: UUID, *, etag: str) -> None:
        """Raises DnsPersonaNotFound, EtagMismatch."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _lock(connection, persona_id, etag)
            await connection.execute("DELETE FROM dns_personas WHERE id = $1", persona_id)

    async def import_all(
        self,
        new: Sequence[NewPersona],
        answer: Callable[[Sequence[Persona], int], bytes],
        *,
        replace: bool,
        validate_only: bool,
    ) -> bytes:
        """Store all of them, or none; `answer` gets them in their order and how many were replaced.

        Their names differ. Raises DnsPersonaExists unless they may replace others.
        """

        async def write(connection: Connection) -> bytes:
            stored = {}
            # In one order, so that two imports wait for each other and not both for ever.
            for each in sorted(new, key=lambda persona: persona.name.encode()):
                made = await (_insert_or_replace if replace else _insert)(connection, each)
                if made is None:
                    raise await _taken(connection, each.name)
                stored[each.name] = made
            replaced = sum(persona.version > 1 for persona in stored.values())
            return answer([stored[each.name] for each in new], replaced)

        return await once(self._pool, None, write, validate_only=validate_only)


async def _insert(connection: Connection, new: NewPersona) -> Persona | None:
    """None when the name is taken."""
    row = await connection.fetchrow(
        f"""INSERT INTO dns_personas (id, name, description, settings) VALUES ($1, $2, $3, $4)
            ON CONFLICT (name) DO NOTHING RETURNING {_COLUMNS}""",
        uuid4(),
        new.name,
        new.description,
        new.settings,
    )
    return Persona(**row) if row else None


async def _insert_or_replace(connection: Connection, new: NewPersona) -> Persona:
    row = await connection.fetchrow(
        f"""INSERT INTO dns_personas (id, name, description, settings) VALUES ($1, $2, $3, $4)
            ON CONFLICT (name) DO UPDATE SET description = excluded.description,
                settings = excluded.settings, version = dns_personas.version + 1,
                update_time = now()
            RETURNING {_COLUMNS}""",
        uuid4(),
        new.name,
        new.description,
        new.settings,
    )
    assert row is not None
    return Persona(**row)


async def _lock(connection: Connection, persona_id: UUID, etag: str) -> Persona:
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM dns_personas WHERE id = $1 FOR UPDATE", persona_id
    )
    if row is None:
        raise DnsPersonaNotFound(persona_id)
    persona = Persona(**row)
    if etag and etag != persona.etag:
        raise EtagMismatch(
            "the persona changed since its etag was read",
            dns_persona_id=persona_id,
            etag=persona.etag,
        )
    return persona


async def _taken(connection: Connection, name: str) -> DnsPersonaExists:
    # None when it was deleted just now; that the name was taken is true all the same.
    other = await connection.fetchval("SELECT id FROM dns_personas WHERE name = $1", name)
    return DnsPersonaExists(
        f"another DNS persona has the name {name!r}", name=name, dns_persona_id=other or ""
    )
