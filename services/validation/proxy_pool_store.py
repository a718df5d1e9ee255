"""Pools of proxies with their members. One public method is one transaction.

To callers a pool's body is a ProxyPool with proxy_ids, strategy and health_rules; in the tables the
members have rows of their own, so that a proxy that is deleted leaves its pools.
"""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from domainflow.validation.v1.proxy_pb2 import ProxyPool
from services.chassis.errors import ResourceNotFound
from services.chassis.postgres import Connection, Pool
from services.validation.named_store import NamedStore, New, Stored


class ProxyPoolStore(NamedStore):
    """The table of pools, and that of their members."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool, "proxy_pools", "proxy_pool")

    async def get(self, thing_id: UUID) -> Stored:
        """Raises ResourceNotFound."""
        async with self._pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                row = await connection.fetchrow(
                    f"SELECT {self._columns} FROM {self._table} WHERE id = $1", thing_id
                )
                if row is None:
                    raise self.not_found(thing_id)
                (stored,) = await _with_members(connection, [Stored(**row)])
                return stored

    async def page(
        self, after: str | None, limit: int, size_limit: int
    ) -> tuple[list[Stored], bool]:
        """As NamedStore; members count besides."""
        stored, more = await super().page(after, limit, size_limit)
        async with self._pool.acquire() as connection:
            found = await _with_members(connection, stored)
        some: list[Stored] = []
        for each in found:
            size_limit -= len(each.body) + len(each.description.encode()) + 200
            if some and size_limit < 0:
                return some, True
            some.append(each)
        return some, more

    async def _kept(self, connection: Connection, stored: Stored) -> Stored:
        """What was written has the members in its body: they are put where they belong."""
        pool = ProxyPool.FromString(stored.body)
        ids = [UUID(each) for each in pool.proxy_ids]
        # Nobody deletes them before they are members.
        rows = await connection.fetch(
            "SELECT id FROM proxies WHERE id = ANY($1) ORDER BY id FOR KEY SHARE", ids
        )
        found = {row["id"] for row in rows}
        for proxy_id in ids:
            if proxy_id not in found:
                raise ResourceNotFound("proxy", proxy_id)
        del pool.proxy_ids[:]
        await connection.execute(
            "UPDATE proxy_pools SET body = $2 WHERE id = $1",
            stored.id,
            pool.SerializeToString(deterministic=True),
        )
        await connection.execute(
            "DELETE FROM proxy_pool_members WHERE proxy_pool_id = $1", stored.id
        )
        await connection.executemany(
            """INSERT INTO proxy_pool_members (proxy_pool_id, proxy_id, place)
               VALUES ($1, $2, $3)""",
            [(stored.id, proxy_id, place) for place, proxy_id in enumerate(ids)],
        )
        return stored

    async def _lock(self, connection: Connection, thing_id: UUID, etag: str) -> Stored:
        (stored,) = await _with_members(
            connection, [await super()._lock(connection, thing_id, etag)]
        )
        return stored


def new_pool(pool: ProxyPool) -> New:
    """What a caller says of a pool, to be stored."""
    # Equal pools have equal bytes, however their ids were written.
    ids = [str(UUID(each)) for each in pool.proxy_ids]
    body = ProxyPool(proxy_ids=ids, strategy=pool.strategy)
    if pool.HasField("health_rules"):
        body.health_rules.CopyFrom(pool.health_rules)
    return New(pool.name, pool.description, body.SerializeToString(deterministic=True))


async def _with_members(connection: Connection, pools: Sequence[Stored]) -> list[Stored]:
    rows = await connection.fetch(
        """SELECT proxy_pool_id, proxy_id FROM proxy_pool_members
           WHERE proxy_pool_id = ANY($1) ORDER BY proxy_pool_id, place, proxy_id""",
        [pool.id for pool in pools],
    )
    members: dict[UUID, list[str]] = {}
    for row in rows:
        members.setdefault(row["proxy_pool_id"], []).append(str(row["proxy_id"]))
    found = []
    for pool in pools:
        body = ProxyPool.FromString(pool.body)
        body.proxy_ids.extend(members.get(pool.id, ()))
        found.append(replace(pool, body=body.SerializeToString(deterministic=True)))
    return found
