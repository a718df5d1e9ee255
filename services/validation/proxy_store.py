"""Proxies and their passwords at rest: the only SQL about them. One public method is one
transaction.

A password is sealed for its row and opened where it is used, and nowhere else: no refusal, log
line or repr of this module has it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg

from services.chassis.config import read_settings
from services.chassis.errors import (
    EtagMismatch,
    FieldViolation,
    InvalidFields,
    NoSecretKey,
    ResourceExists,
    ResourceNotFound,
)
from services.chassis.postgres import Connection, Pool
from services.chassis.requests import RequestKey, once
from services.chassis.secrets import Secret, SecretBox, UnreadableSecret, place
from services.validation.http.proxies import Imported, Proxy, Scheme
from services.validation.http.proxy_pool import MAX_MEMBERS
from services.validation.proxy_reports import ProxyReports

_REQUESTS = "validation_requests"
_COLUMNS = (
    "id, scheme, host, port, username, password, weight, disabled, description, version,"
    " create_time, update_time"
)
# How lists are sorted, and what is unique.
_PLACE = "scheme, host, port, username"
Place = tuple[str, str, int, str]


@dataclass(frozen=True, slots=True)
class SecretSettings:
    """Environment of every role that uses proxies; names in upper case."""

    # Base64 of 32 bytes; several, comma-separated, to rotate: the first seals. Empty: no password
    # can be stored or read.
    domainflow_secret_keys: str = field(default="", repr=False)


def secret_box(environment: Mapping[str, str] | None = None) -> SecretBox | None:
    """What seals and opens passwords; None without keys. Raises BadKey."""
    keys = read_settings(SecretSettings, environment).domainflow_secret_keys
    return SecretBox.of(keys) if keys else None


@dataclass(frozen=True, slots=True)
class NewProxy:
    """What a caller says of a proxy. Without `has_password` a stored one stays."""

    proxy: Proxy
    has_password: bool
    weight: int = 1
    disabled: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class StoredProxy:
    """A proxy as it is stored. `password` is an envelope."""

    id: UUID
    scheme: str
    host: str
    port: int
    username: str
    password: bytes | None = field(repr=False)
    weight: int
    disabled: bool
    description: str
    version: int
    create_time: datetime
    update_time: datetime

    @property
    def etag(self) -> str:
        return f'"{self.version}"'

    @property
    def shown(self) -> Proxy:
        """All but the password."""
        return Proxy(Scheme(self.scheme), self.host, self.port, self.username)

    @property
    def place(self) -> Place:
        return self.scheme, self.host, self.port, self.username


@dataclass(frozen=True, slots=True)
class Seat:
    """A proxy of a pool, with its password still sealed."""

    pool_id: UUID
    stored: StoredProxy


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A pool of proxies without its members. `body` is a ProxyPool with strategy and rules."""

    id: UUID
    version: int
    body: bytes


@dataclass(frozen=True, slots=True)
class ImportCounts:
    """What an import came to."""

    created: int
    present: int


Answer = Callable[[Sequence[StoredProxy]], bytes]


class ProxyStore:
    """The table of proxies, and what the pools have of it."""

    def __init__(self, pool: Pool, box: SecretBox | None = None) -> None:
        """`box`: seals and opens passwords; without one none can be stored or used."""
        self._pool = pool
        self._box = box
        self.reports = ProxyReports(pool)

    def open(self, stored: StoredProxy) -> Proxy:
        """The proxy with its password. Raises UnreadableSecret."""
        if stored.password is None:
            return stored.shown
        if self._box is None:
            raise UnreadableSecret("there is no key (DOMAINFLOW_SECRET_KEYS)")
        return replace(stored.shown, password=self._box.open(stored.password, _bound(stored.id)))

    async def get(self, proxy_id: UUID) -> StoredProxy:
        """Raises ResourceNotFound."""
        row = await self._pool.fetchrow(f"SELECT {_COLUMNS} FROM proxies WHERE id = $1", proxy_id)
        if row is None:
            raise ResourceNotFound("proxy", proxy_id)
        return StoredProxy(**row)

    async def some(self, proxy_ids: Sequence[UUID]) -> list[StoredProxy]:
        """In their order. Raises ResourceNotFound for the first that there is not."""
        rows = await self._pool.fetch(
            f"SELECT {_COLUMNS} FROM proxies WHERE id = ANY($1)", proxy_ids
        )
        found = {row["id"]: StoredProxy(**row) for row in rows}
        for proxy_id in proxy_ids:
            if proxy_id not in found:
                raise ResourceNotFound("proxy", proxy_id)
        return [found[proxy_id] for proxy_id in proxy_ids]

    async def page(self, after: Place | None, limit: int) -> tuple[list[StoredProxy], bool]:
        """Up to `limit` proxies by place, from behind `after` on, and whether there are more."""
        rows = await self._pool.fetch(
            f"""SELECT {_COLUMNS} FROM proxies
                WHERE $1::text IS NULL OR ({_PLACE}) > ($1, $2::text, $3::int, $4::text)
                ORDER BY {_PLACE} LIMIT $5""",
            *(after or (None, "", 0, "")),
            limit + 1,
        )
        return [StoredProxy(**row) for row in rows[:limit]], len(rows) > limit

    async def create(
        self,
        new: Sequence[NewProxy],
        key: RequestKey | None,
        answer: Answer,
        *,
        validate_only: bool,
    ) -> bytes:
        """Store all of them, or none; returns what `answer` makes of them in their order, or the
        stored answer of `key`. Their places differ.

        Raises ResourceExists, NoSecretKey, RequestIdReused.
        """

        async def insert(connection: Connection) -> bytes:
            stored: dict[Place, StoredProxy] = {}
            # In one order, so that two calls wait for each other and not both for ever.
            for each in sorted(new, key=lambda it: it.proxy.identity):
                made = await self._insert(connection, each)
                if made is None:
                    raise await _taken(connection, each.proxy)
                stored[each.proxy.identity] = made
            return answer([stored[each.proxy.identity] for each in new])

        return await once(self._pool, key, insert, validate_only=validate_only, table=_REQUESTS)

    async def update(
        self, proxy_id: UUID, new: NewProxy, answer: Answer, *, etag: str, validate_only: bool
    ) -> bytes:
        """Replace a proxy; its password stays unless another is given or it has no user any more,
        and goes to no other place: whoever may change the URL need not know it.

        Raises ResourceNotFound, EtagMismatch, ResourceExists, NoSecretKey, InvalidFields.
        """

        async def write(connection: Connection) -> bytes:
            before = await _lock(connection, proxy_id, etag)
            password = before.password if new.proxy.user else None
            if new.has_password:
                password = self._seal(proxy_id, new.proxy.password)
            elif password is not None and new.proxy.identity[:3] != before.place[:3]:
                problem = (
                    "is required with another scheme, host or port: the stored one stays there"
                )
                raise InvalidFields([FieldViolation("proxy.password", problem)])
            if new.proxy.scheme is Scheme.SOCKS5 and new.proxy.user and password is None:
                problem = "is required with a user (RFC 1929)"
                raise InvalidFields([FieldViolation("proxy.password", problem)])
            try:
                async with connection.transaction():
                    row = await connection.fetchrow(
                        f"""UPDATE proxies SET scheme = $2, host = $3, port = $4, username = $5,
                                password = $6, weight = $7, disabled = $8, description = $9,
                                version = version + 1, update_time = now()
                            WHERE id = $1 RETURNING {_COLUMNS}""",
                        proxy_id,
                        *new.proxy.identity,
                        password,
                        new.weight,
                        new.disabled,
                        new.description,
                    )
            except asyncpg.UniqueViolationError:
                raise await _taken(connection, new.proxy) from None
            assert row is not None
            return answer([StoredProxy(**row)])

        return await once(self._pool, None, write, validate_only=validate_only)

    async def update_all(
        self, proxy_ids: Sequence[UUID], *, weight: int, disabled: bool | None
    ) -> int:
        """Change the weight (0: not) and whether they are disabled (None: not) of proxies, all or
        none; returns how many were not so already. Raises ResourceNotFound."""
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(
                "SELECT id FROM proxies WHERE id = ANY($1) ORDER BY id FOR UPDATE", proxy_ids
            )
            found = {row["id"] for row in rows}
            for proxy_id in proxy_ids:
                if proxy_id not in found:
                    raise ResourceNotFound("proxy", proxy_id)
            changed = await connection.fetch(
                """UPDATE proxies SET weight = coalesce(nullif($2, 0), weight),
                       disabled = coalesce($3, disabled), version = version + 1,
                       update_time = now()
                   WHERE id = ANY($1) AND (weight <> coalesce(nullif($2, 0), weight)
                       OR disabled <> coalesce($3, disabled))
                   RETURNING id""",
                proxy_ids,
                weight,
                disabled,
            )
            return len(changed)

    async def delete(self, proxy_id: UUID, *, etag: str) -> None:
        """Delete a proxy and take it out of its pools. Raises ResourceNotFound, EtagMismatch."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _change_pools_of(connection, [proxy_id])
            await _lock(connection, proxy_id, etag)
            await connection.execute("DELETE FROM proxies WHERE id = $1", proxy_id)

    async def delete_all(self, proxy_ids: Sequence[UUID]) -> int:
        """Delete proxies and take them out of their pools; returns how many there were."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _change_pools_of(connection, proxy_ids)
            rows = await connection.fetch(
                """DELETE FROM proxies WHERE id IN (
                       SELECT id FROM proxies WHERE id = ANY($1) ORDER BY id FOR UPDATE)
                   RETURNING id""",
                proxy_ids,
            )
            return len(rows)

    async def import_all(
        self, given: Sequence[Imported], pool_id: UUID | None, *, validate_only: bool
    ) -> ImportCounts:
        """Store those that are new, give those that are there the password of the list where it
        has one, and put all of them into a pool, behind its members. Their places differ.

        Raises ResourceNotFound, InvalidFields when the pool would have too many, NoSecretKey.
        """
        counts = ImportCounts(0, 0)
        # Thousands of them: others go on meanwhile.
        rows = await asyncio.to_thread(self._sealed, given)

        async def write(connection: Connection) -> bytes:
            nonlocal counts
            if pool_id is not None:
                await lock_pool(connection, pool_id)
            columns = list(zip(*rows, strict=True)) or [()] * 7
            made = await connection.fetch(
                f"""INSERT INTO proxies (id, {_PLACE}, password, weight)
                    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[],
                        $5::text[], $6::bytea[], $7::int[])
                    ON CONFLICT ({_PLACE}) DO NOTHING RETURNING id, {_PLACE}""",
                *columns,
            )
            ids: dict[Place, UUID] = {tuple(row)[1:]: row["id"] for row in made}
            created = len(ids)
            present = [each for each in given if each.proxy.identity not in ids]
            ids |= await self._renew(connection, [each.proxy for each in present])
            if pool_id is not None:
                members = [ids[each.proxy.identity] for each in given]
                await _append_members(connection, pool_id, members)
            counts = ImportCounts(created, len(present))
            return b""

        await once(self._pool, None, write, validate_only=validate_only)
        return counts

    async def pools(self, pool_ids: Sequence[UUID]) -> tuple[list[PoolRow], list[Seat]]:
        """Those of the pools that there are, and their members in order."""
        async with self._pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                pools = await connection.fetch(
                    "SELECT id, version, body FROM proxy_pools WHERE id = ANY($1)", pool_ids
                )
                members = await connection.fetch(
                    f"""SELECT proxy_pool_id, {_COLUMNS} FROM proxy_pool_members
                        JOIN proxies ON id = proxy_id
                        WHERE proxy_pool_id = ANY($1) ORDER BY proxy_pool_id, place, id""",
                    pool_ids,
                )
        seats = []
        for row in members:
            stored = dict(row)
            seats.append(Seat(stored.pop("proxy_pool_id"), StoredProxy(**stored)))
        return [PoolRow(**row) for row in pools], seats

    async def seal_anew(self) -> int:
        """Seal with the newest key what an older one sealed, so that that can be dropped; returns
        how many there were. What no key opens stays as it is."""
        if self._box is None:
            return 0
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(
                "SELECT id, password FROM proxies WHERE password IS NOT NULL ORDER BY id FOR UPDATE"
            )
            sealed = []
            for row in rows:
                with contextlib.suppress(UnreadableSecret):
                    if not self._box.is_current(row["password"]):
                        envelope = self._box.reseal(row["password"], _bound(row["id"]))
                        sealed.append((row["id"], envelope))
            # The same password: no other version.
            await connection.executemany("UPDATE proxies SET password = $2 WHERE id = $1", sealed)
            return len(sealed)

    def _seal(self, proxy_id: UUID, password: Secret) -> bytes | None:
        if not password:
            return None
        if self._box is None:
            raise NoSecretKey
        return self._box.seal(password, _bound(proxy_id))

    async def _insert(self, connection: Connection, new: NewProxy) -> StoredProxy | None:
        """None when there is one at its place."""
        proxy_id = uuid4()
        row = await connection.fetchrow(
            f"""INSERT INTO proxies (id, scheme, host, port, username, password, weight, disabled,
                    description)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                ON CONFLICT ({_PLACE}) DO NOTHING RETURNING {_COLUMNS}""",
            proxy_id,
            *new.proxy.identity,
            self._seal(proxy_id, new.proxy.password),
            new.weight,
            new.disabled,
            new.description,
        )
        return StoredProxy(**row) if row else None

    async def _renew(self, connection: Connection, proxies: Sequence[Proxy]) -> dict[Place, UUID]:
        """The ids of those that are there, by place; each with the password that is given."""
        if not proxies:
            return {}
        rows = await connection.fetch(
            f"""SELECT {_COLUMNS} FROM proxies JOIN
                    unnest($1::text[], $2::text[], $3::int[], $4::text[]) AS given ({_PLACE})
                USING ({_PLACE}) ORDER BY {_PLACE} FOR UPDATE OF proxies""",
            *zip(*(proxy.identity for proxy in proxies), strict=True),
        )
        found = {stored.place: stored for stored in (StoredProxy(**row) for row in rows)}
        if len(found) < len(proxies):
            # Deleted in the moment between.
            raise EtagMismatch("proxies were deleted meanwhile", resource="proxy", id="", etag="")
        renewed = [
            (found[proxy.identity].id, proxy.password)
            for proxy in proxies
            if proxy.password and not self._is(found[proxy.identity], proxy.password)
        ]
        await connection.executemany(
            """UPDATE proxies SET password = $2, version = version + 1, update_time = now()
               WHERE id = $1""",
            [(proxy_id, self._seal(proxy_id, password)) for proxy_id, password in renewed],
        )
        return {place: stored.id for place, stored in found.items()}

    def _sealed(self, given: Sequence[Imported]) -> list[tuple[object, ...]]:
        """Rows of the table, in one order, so that two imports do not wait for each other."""
        rows: list[tuple[object, ...]] = []
        for each in sorted(given, key=lambda it: it.proxy.identity):
            proxy_id = uuid4()
            password = self._seal(proxy_id, each.proxy.password)
            rows.append((proxy_id, *each.proxy.identity, password, each.weight))
        return rows

    def _is(self, stored: StoredProxy, password: Secret) -> bool:
        try:
            return self.open(stored).password == password
        except UnreadableSecret:
            return False


def _bound(proxy_id: UUID) -> bytes:
    return place("proxies", str(proxy_id), "password")


async def lock_pool(connection: Connection, pool_id: UUID) -> None:
    """Raises ResourceNotFound."""
    row = await connection.fetchrow("SELECT 1 FROM proxy_pools WHERE id = $1 FOR UPDATE", pool_id)
    if row is None:
        raise ResourceNotFound("proxy_pool", pool_id)


async def _append_members(connection: Connection, pool_id: UUID, proxy_ids: Sequence[UUID]) -> None:
    """Of a pool that is locked."""
    added = await connection.fetch(
        """INSERT INTO proxy_pool_members (proxy_pool_id, proxy_id, place)
           SELECT $1, proxy_id, place + (SELECT coalesce(max(place) + 1, 0)
               FROM proxy_pool_members WHERE proxy_pool_id = $1)
           FROM unnest($2::uuid[]) WITH ORDINALITY AS given (proxy_id, place)
           ON CONFLICT DO NOTHING RETURNING proxy_id""",
        pool_id,
        proxy_ids,
    )
    count = await connection.fetchval(
        "SELECT count(*) FROM proxy_pool_members WHERE proxy_pool_id = $1", pool_id
    )
    if count > MAX_MEMBERS:
        problem = f"would have {count:,} proxies, more than {MAX_MEMBERS:,}"
        raise InvalidFields([FieldViolation("proxy_pool_id", problem)])
    if added:
        await connection.execute(
            "UPDATE proxy_pools SET version = version + 1, update_time = now() WHERE id = $1",
            pool_id,
        )


async def _change_pools_of(connection: Connection, proxy_ids: Sequence[UUID]) -> None:
    """Pools whose members are about to go are other ones from now on. Before their proxies are
    locked, as whoever changes a pool does it."""
    await connection.execute(
        """UPDATE proxy_pools SET version = version + 1, update_time = now()
           WHERE id IN (SELECT id FROM proxy_pools WHERE id IN (
               SELECT proxy_pool_id FROM proxy_pool_members WHERE proxy_id = ANY($1))
               ORDER BY id FOR UPDATE)""",
        proxy_ids,
    )


async def _lock(connection: Connection, proxy_id: UUID, etag: str) -> StoredProxy:
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM proxies WHERE id = $1 FOR UPDATE", proxy_id
    )
    if row is None:
        raise ResourceNotFound("proxy", proxy_id)
    stored = StoredProxy(**row)
    if etag and etag != stored.etag:
        raise EtagMismatch(
            "the proxy changed since its etag was read",
            resource="proxy",
            id=proxy_id,
            etag=stored.etag,
        )
    return stored


async def _taken(connection: Connection, proxy: Proxy) -> ResourceExists:
    other = await connection.fetchval(
        f"SELECT id FROM proxies WHERE ({_PLACE}) = ($1, $2, $3, $4)", *proxy.identity
    )
    # A user is no secret; a password is.
    name = f"{proxy.label} {proxy.user}".rstrip()
    return ResourceExists("proxy", name, other or "")
