"""The suppression list in its table: looked up by candidates, never read into memory.

A name is suppressed by few possible entries: itself and the names above it, plain, after a dot or
hashed. All of those are looked up by the primary key, for many names in one statement; so neither
memory nor time depends on how long the list is, and every answer is of now.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from services.chassis.config import BadEnvironment, read_settings
from services.chassis.postgres import Pool
from services.validation.content.email_address import NotAnAddress, normalise_address
from services.validation.content.suppression import (
    MIN_SALT,
    entries_of_address,
    entries_of_name,
)

# After every character that an entry may have.
_LAST = "\U0010ffff"
_COLUMNS = "entry, scope, reason, create_time"
OF_ENTRIES = f"""SELECT {_COLUMNS} FROM suppressions
    WHERE entry = ANY($1::text[]) AND scope >= $2"""


class Scope(IntEnum):
    """What an entry keeps from happening. The numbers are those of
    domainflow.validation.v1.SuppressionScope; a larger one includes the smaller."""

    LEADS = 1
    FETCH = 2


@dataclass(frozen=True, slots=True)
class NewSuppression:
    """An entry in its normal form, to be stored."""

    entry: str
    scope: Scope
    reason: str


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A stored entry."""

    entry: str
    scope: Scope
    # Who asked for it and why.
    reason: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class SuppressionSettings:
    """Environment of every role that asks the list; names in upper case."""

    # Key of hashed entries, at least 16 bytes of text; empty: there are none.
    domainflow_suppression_salt: str = ""


def suppression_salt(environment: Mapping[str, str] | None = None) -> bytes:
    """The key of hashed entries; empty without one. Raises BadEnvironment for a short one."""
    settings = read_settings(SuppressionSettings, environment)
    salt = settings.domainflow_suppression_salt.encode()
    if salt and len(salt) < MIN_SALT:
        raise BadEnvironment(
            f"DOMAINFLOW_SUPPRESSION_SALT has {len(salt)} bytes, fewer than {MIN_SALT}"
        )
    return salt


class Suppressions:
    """The list. `salt` is the key of its hashed entries; without one they match nothing."""

    def __init__(self, pool: Pool, salt: bytes = b"") -> None:
        self._pool = pool
        self.salt = salt

    async def of_names(
        self, names: Collection[str], scope: Scope = Scope.LEADS
    ) -> dict[str, Suppressed]:
        """The most specific entry of at least this scope for each of the names that has one.

        Names are in their normal form: lower case, A-labels, no dot at the end.
        """
        return await self._matched({it: entries_of_name(it, self.salt) for it in names}, scope)

    async def of_addresses(self, addresses: Collection[str]) -> dict[str, Suppressed]:
        """The most specific entry for each of the e-mail addresses, as they are given, that has
        one. What is no address has none."""
        candidates = {}
        for address in addresses:
            with contextlib.suppress(NotAnAddress):
                candidates[address] = entries_of_address(normalise_address(address), self.salt)
        return await self._matched(candidates, Scope.LEADS)

    async def add(
        self, suppressions: Iterable[NewSuppression], *, validate_only: bool = False
    ) -> tuple[int, int]:
        """Store entries, all or none; returns how many are new and how many were there.

        One that is there gets the new scope and reason, as does one that comes twice.
        """
        given = list(suppressions)
        latest = {it.entry: it for it in given}
        # In one order, so that two calls wait for each other and not both for ever.
        ordered = [latest[entry] for entry in sorted(latest)]
        if validate_only:
            there = await self._pool.fetchval(
                "SELECT count(*) FROM suppressions WHERE entry = ANY($1::text[])", list(latest)
            )
            created = len(ordered) - there
        else:
            created = await self._pool.fetchval(
                """WITH stored AS (
                       INSERT INTO suppressions AS s (entry, scope, reason)
                       SELECT * FROM unnest($1::text[], $2::smallint[], $3::text[])
                       ON CONFLICT (entry) DO UPDATE SET scope = excluded.scope,
                           reason = excluded.reason
                       RETURNING s.xmax = 0 AS is_new)
                   SELECT count(*) FILTER (WHERE is_new) FROM stored""",
                [it.entry for it in ordered],
                [int(it.scope) for it in ordered],
                [it.reason for it in ordered],
            )
        return created, len(given) - created

    async def remove(self, entries: Collection[str]) -> int:
        """Remove entries in their stored forms; returns how many there were."""
        removed: int = await self._pool.fetchval(
            """WITH gone AS (
                   SELECT entry FROM suppressions WHERE entry = ANY($1::text[])
                   ORDER BY entry FOR UPDATE),
               removed AS (
                   DELETE FROM suppressions WHERE entry = ANY(ARRAY(SELECT entry FROM gone))
                   RETURNING 1)
               SELECT count(*) FROM removed""",
            list(entries),
        )
        return removed

    async def page(self, prefix: str, after: str, limit: int) -> list[Suppressed]:
        """At most `limit` entries that begin with `prefix`, in order, behind `after`."""
        rows = await self._pool.fetch(
            f"""SELECT {_COLUMNS} FROM suppressions
                WHERE entry > $1 AND entry >= $2 AND entry < $3 ORDER BY entry LIMIT $4""",
            after,
            prefix,
            prefix + _LAST,
            limit,
        )
        return [_suppressed(*row) for row in rows]

    async def _matched(
        self, candidates: Mapping[str, Sequence[str]], scope: Scope
    ) -> dict[str, Suppressed]:
        wanted = set().union(*candidates.values())
        if not wanted:
            return {}
        rows = await self._pool.fetch(OF_ENTRIES, list(wanted), int(scope))
        found = {row["entry"]: _suppressed(*row) for row in rows}
        if not found:
            return {}
        matched = {}
        for asked, entries in candidates.items():
            entry = next((it for it in entries if it in found), None)
            if entry is not None:
                matched[asked] = found[entry]
        return matched


def _suppressed(entry: str, scope: int, reason: str, create_time: datetime) -> Suppressed:
    return Suppressed(entry, Scope(scope), reason, create_time)
