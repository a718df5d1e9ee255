"""Mutations that are done once per request id, however often they are sent (AIP-155)."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.chassis.errors import RequestIdReused
from services.chassis.postgres import Connection, Pool


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a repeated mutation recognisable."""

    request_id: UUID
    method: str
    body_sha256: bytes


def request_key(request: Any) -> RequestKey | None:
    """The request's key for idempotence: its id, and a digest of everything it says."""
    if not request.request_id:
        return None
    name = request.DESCRIPTOR.full_name
    body = request.SerializeToString(deterministic=True)
    return RequestKey(UUID(request.request_id), name, hashlib.sha256(body).digest())


async def once(
    pool: Pool,
    key: RequestKey | None,
    change: Callable[[Connection], Awaitable[bytes]],
    *,
    validate_only: bool = False,
    table: str = "requests",
) -> bytes:
    """Run `change` in a transaction, at most once per key, and return its answer or the stored one.

    Concurrent repeats wait for the first. With `validate_only` everything is undone afterwards, the
    memory of the request too. `table` is the caller's own: a table has one writer. Raises
    RequestIdReused, and what `change` raises.
    """
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            response = await _answered(connection, key, change, table)
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.rollback() if validate_only else transaction.commit())
        return response


async def _answered(
    connection: Connection,
    key: RequestKey | None,
    change: Callable[[Connection], Awaitable[bytes]],
    table: str,
) -> bytes:
    if key is None:
        return await change(connection)
    while not await _claim(connection, key, table):
        # None when it was forgotten just now, for it is a day old.
        if (earlier := await _earlier_answer(connection, key, table)) is not None:
            return earlier
    response = await change(connection)
    await connection.execute(
        f"UPDATE {table} SET response = $2 WHERE request_id = $1", key.request_id, response
    )
    return response


async def _claim(connection: Connection, key: RequestKey, table: str) -> bool:
    claimed = await connection.fetchval(
        f"""INSERT INTO {table} (request_id, method, body_sha256, response)
           VALUES ($1, $2, $3, '') ON CONFLICT DO NOTHING RETURNING 1""",
        key.request_id,
        key.method,
        key.body_sha256,
    )
    return claimed is not None


async def _earlier_answer(connection: Connection, key: RequestKey, table: str) -> bytes | None:
    row = await connection.fetchrow(
        f"SELECT method, body_sha256, response FROM {table} WHERE request_id = $1", key.request_id
    )
    if row is None:
        return None
    if (row["method"], row["body_sha256"]) != (key.method, key.body_sha256):
        raise RequestIdReused(
            "this request_id came before, with another request", request_id=key.request_id
        )
    response: bytes = row["response"]
    return response
