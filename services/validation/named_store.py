"""What callers store under a name: the only SQL about it. One public method is one transaction.

Personas, keyword sets, scoring profiles and pools of proxies have a table each, of one shape: id,
name, description, a message as bytes, and a version that goes up with every change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from services.chassis.errors import EtagMismatch, ResourceExists, ResourceNotFound, ServiceError
from services.chassis.postgres import Connection, Pool
from services.chassis.requests import RequestKey, once

_REQUESTS = "validation_requests"


@dataclass(frozen=True, slots=True)
class New:
    """What a caller says of a thing. `body` is its message, as protobuf bytes."""

    name: str
    description: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A thing as it is stored."""

    id: UUID
    name: str
    description: str
    body: bytes
    version: int
    create_time: datetime
    update_time: datetime

    @property
    def etag(self) -> str:
        return f'"{self.version}"'

    @property
    def new(self) -> New:
        """What makes it as it is."""
        return New(self.name, self.description, self.body)


Answer = Callable[[Stored], bytes]


class NamedStore:
    """One table of named things."""

    def __init__(
        self,
        pool: Pool,
        table: str,
        resource: str,
        *,
        body: str = "body",
        versions: str = "",
    ) -> None:
        """`resource`: one of them, as refusals call it, such as "keyword_set". `body`: the column
        of the message. `versions`: the table that keeps every version there ever was; empty: none
        does."""
        self._pool = pool
        self._table = table
        self._resource = resource
        self._body = body
        self._versions = versions
        self._columns = f"id, name, description, {body} AS body, version, create_time, update_time"

    async def get(self, thing_id: UUID) -> Stored:
        """Raises ResourceNotFound."""
        row = await self._pool.fetchrow(
            f"SELECT {self._columns} FROM {self._table} WHERE id = $1", thing_id
        )
        if row is None:
            raise self.not_found(thing_id)
        return Stored(**row)

    async def version(self, thing_id: UUID, version: int) -> Stored:
        """A thing as it was in this version, also when it is deleted; without a description, which
        is of no effect. Its update time is that of the version. Raises ResourceNotFound."""
        row = await self._pool.fetchrow(
            f"""SELECT id, name, '' AS description, body, version,
                    (SELECT min(create_time) FROM {self._versions} WHERE id = $1) AS create_time,
                    create_time AS update_time
                FROM {self._versions} WHERE id = $1 AND version = $2""",
            thing_id,
            version,
        )
        if row is None:
            raise ResourceNotFound(self._resource, thing_id, version=version)
        return Stored(**row)

    async def page(
        self, after: str | None, limit: int, size_limit: int
    ) -> tuple[list[Stored], bool]:
        """Up to `limit` things by name, from behind `after` on, and whether there are more.

        No more than fit into `size_limit` bytes, but one at least.
        """
        # One more than asked for tells whether there is a next page.
        rows = await self._pool.fetch(
            f"""SELECT {self._columns}, count FROM (
                    SELECT *, row_number() OVER by_name AS place, count(*) OVER () AS count,
                        sum(octet_length({self._body}) + octet_length(description) + 200)
                            OVER by_name AS size
                    FROM (SELECT * FROM {self._table} WHERE $1::text IS NULL OR name > $1
                          ORDER BY name LIMIT $2 + 1) AS page
                    WINDOW by_name AS (ORDER BY name)) AS measured
                WHERE place = 1 OR (place <= $2 AND size <= $3) ORDER BY name""",
            after,
            limit,
            size_limit,
        )
        things = [Stored(**{k: v for k, v in row.items() if k != "count"}) for row in rows]
        return things, bool(rows) and len(rows) < rows[0]["count"]

    async def some(self, thing_ids: Sequence[UUID], size_limit: int) -> list[Stored] | None:
        """Those things by name, or all without ids; None when they have more than `size_limit`
        bytes. Raises ResourceNotFound for the first of the ids that there is not."""
        async with self._pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                sizes = await connection.fetch(
                    f"""SELECT id, octet_length({self._body}) AS size FROM {self._table}
                        WHERE $1::uuid[] = '{{}}' OR id = ANY($1)""",
                    thing_ids,
                )
                found = {row["id"] for row in sizes}
                for thing_id in thing_ids:
                    if thing_id not in found:
                        raise self.not_found(thing_id)
                if sum(row["size"] for row in sizes) > size_limit:
                    return None
                rows = await connection.fetch(
                    f"SELECT {self._columns} FROM {self._table} WHERE id = ANY($1) ORDER BY name",
                    found,
                )
                return [Stored(**row) for row in rows]

    async def create(
        self, new: New, key: RequestKey | None, answer: Answer, *, validate_only: bool
    ) -> bytes:
        """Store a thing; returns what `answer` makes of it, or the stored answer of `key`.

        Raises ResourceExists, RequestIdReused.
        """

        async def insert(connection: Connection) -> bytes:
            made = await self._insert(connection, new)
            if made is None:
                raise await self._taken(connection, new.name)
            return answer(made)

        return await once(self._pool, key, insert, validate_only=validate_only, table=_REQUESTS)

    async def forget_requests(self, age: timedelta) -> None:
        """Drop stored answers older than `age`, of things of every kind."""
        await self._pool.execute(
            """DELETE FROM validation_requests WHERE request_id IN (
                   SELECT request_id FROM validation_requests
                   WHERE create_time < now() - $1::interval FOR UPDATE SKIP LOCKED)""",
            age,
        )

    async def update(
        self, thing_id: UUID, new: New, answer: Answer, *, etag: str, validate_only: bool
    ) -> bytes:
        """Replace a thing; one that is so already stays as it is, its version too.

        Raises ResourceNotFound, EtagMismatch, ResourceExists.
        """

        async def write(connection: Connection) -> bytes:
            before = await self._lock(connection, thing_id, etag)
            if new == before.new:
                return answer(before)
            try:
                async with connection.transaction():
                    after = await self._replace(connection, thing_id, new)
            except asyncpg.UniqueViolationError:
                raise await self._taken(connection, new.name) from None
            return answer(after)

        return await once(self._pool, None, write, validate_only=validate_only)

    async def delete(self, thing_id: UUID, *, etag: str) -> None:
        """Its versions stay. Raises ResourceNotFound, EtagMismatch."""
        async with self._pool.acquire() as connection, connection.transaction():
            await self._lock(connection, thing_id, etag)
            await connection.execute(f"DELETE FROM {self._table} WHERE id = $1", thing_id)

    async def import_all(
        self,
        new: Sequence[New],
        answer: Callable[[Sequence[Stored], int], bytes],
        *,
        replace: bool,
        validate_only: bool,
    ) -> bytes:
        """Store all of them, or none; `answer` gets them in their order and how many were replaced.
        One that is there and so already stays as it is, its version too.

        Their names differ. Raises ResourceExists unless they may replace others.
        """

        async def write(connection: Connection) -> bytes:
            stored = {}
            replaced = 0
            # In one order, so that two imports wait for each other and not both for ever.
            for each in sorted(new, key=lambda it: it.name.encode()):
                made = await self._insert(connection, each)
                while made is None:
                    if not replace:
                        raise await self._taken(connection, each.name)
                    before = await self._named(connection, each.name)
                    if before is None:
                        # Deleted meanwhile.
                        made = await self._insert(connection, each)
                    elif before.new == each:
                        made = before
                    else:
                        made = await self._replace(connection, before.id, each)
                        replaced += 1
                stored[each.name] = made
            return answer([stored[each.name] for each in new], replaced)

        return await once(self._pool, None, write, validate_only=validate_only)

    # What refusals say; a kind with errors of its own has its own.

    def not_found(self, thing_id: object) -> ServiceError:
        return ResourceNotFound(self._resource, thing_id)

    def exists(self, name: str, other_id: object) -> ServiceError:
        return ResourceExists(self._resource, name, other_id)

    def changed(self, thing_id: UUID, etag: str) -> ServiceError:
        return EtagMismatch(
            f"the {self._resource.replace('_', ' ')} changed since its etag was read",
            resource=self._resource,
            id=thing_id,
            etag=etag,
        )

    async def _insert(self, connection: Connection, new: New) -> Stored | None:
        """None when the name is taken."""
        row = await connection.fetchrow(
            f"""INSERT INTO {self._table} (id, name, description, {self._body})
                VALUES ($1, $2, $3, $4)
                ON CONFLICT (name) DO NOTHING RETURNING {self._columns}""",
            uuid4(),
            new.name,
            new.description,
            new.body,
        )
        return await self._kept(connection, Stored(**row)) if row else None

    async def _replace(self, connection: Connection, thing_id: UUID, new: New) -> Stored:
        """Of a row that is locked."""
        row = await connection.fetchrow(
            f"""UPDATE {self._table} SET name = $2, description = $3,
                    {self._body} = $4, version = version + 1, update_time = now()
                WHERE id = $1 RETURNING {self._columns}""",
            thing_id,
            new.name,
            new.description,
            new.body,
        )
        assert row is not None
        return await self._kept(connection, Stored(**row))

    async def _named(self, connection: Connection, name: str) -> Stored | None:
        """The thing of a name, locked; None when there is none."""
        thing_id = await connection.fetchval(
            f"SELECT id FROM {self._table} WHERE name = $1 FOR UPDATE", name
        )
        return None if thing_id is None else await self._lock(connection, thing_id, "")

    async def _kept(self, connection: Connection, stored: Stored) -> Stored:
        """The thing, whose version is kept where versions are."""
        if self._versions:
            await connection.execute(
                f"INSERT INTO {self._versions} (id, version, name, body) VALUES ($1, $2, $3, $4)",
                stored.id,
                stored.version,
                stored.name,
                stored.body,
            )
        return stored

    async def _lock(self, connection: Connection, thing_id: UUID, etag: str) -> Stored:
        row = await connection.fetchrow(
            f"SELECT {self._columns} FROM {self._table} WHERE id = $1 FOR UPDATE", thing_id
        )
        if row is None:
            raise self.not_found(thing_id)
        stored = Stored(**row)
        if etag and etag != stored.etag:
            raise self.changed(thing_id, stored.etag)
        return stored

    async def _taken(self, connection: Connection, name: str) -> ServiceError:
        # None when it was deleted just now; that the name was taken is true all the same.
        other = await connection.fetchval(f"SELECT id FROM {self._table} WHERE name = $1", name)
        return self.exists(name, other or "")


def http_personas(pool: Pool) -> NamedStore:
    return NamedStore(pool, "http_personas", "http_persona")


def keyword_sets(pool: Pool) -> NamedStore:
    return NamedStore(pool, "keyword_sets", "keyword_set", versions="keyword_set_versions")


def scoring_profiles(pool: Pool) -> NamedStore:
    return NamedStore(
        pool, "scoring_profiles", "scoring_profile", versions="scoring_profile_versions"
    )
