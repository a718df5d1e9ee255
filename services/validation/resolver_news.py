"""Tells what a process learns of resolvers: reports, changes, and verdicts taken back."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby, islice

import asyncpg

from domainflow.campaign.v1 import event_pb2
from services.chassis.postgres import AWAY
from services.validation.dns.health import Change
from services.validation.dns.plan import Plan
from services.validation.engines import Engines
from services.validation.resolver_reports import Reporter, changed_event, reports
from services.validation.store import MAX_WITHDRAWN, Settled, Store
from services.validation.withdrawals import Withdrawals

log = logging.getLogger(__name__)

# Seconds between two reports. Changes are told at once.
PERIOD = 5.0
# Seconds until what may not have been stored yet is looked at again.
LOOK_PERIOD = 1.0

_AWAY = (asyncpg.PostgresError, *AWAY)


class ResolverNews:
    """What the engines of one process learn. `withdrawals` is what it has stored lately, if any."""

    def __init__(
        self,
        engines: Engines,
        store: Store,
        who: Reporter,
        withdrawals: Withdrawals[Plan, Settled] | None = None,
        *,
        period: float = PERIOD,
    ) -> None:
        self._engines = engines
        self._store = store
        self._who = who
        self._withdrawals = withdrawals if withdrawals is not None else Withdrawals()
        self._period = period
        # Changes not yet on record.
        self._untold: deque[event_pb2.SystemEvent] = deque(maxlen=1000)

    async def tell(self) -> None:
        """Until cancelled; then what was reported is removed."""
        report_at = time.monotonic()
        try:
            while True:
                wait = report_at - time.monotonic()
                if self._withdrawals.is_waiting(time.monotonic()):
                    wait = min(wait, LOOK_PERIOD)
                changes = await self._engines.changes(max(0.0, wait))
                self._take(changes)
                try:
                    await self._withdraw()
                    await self._tell_changes()
                    if changes or time.monotonic() >= report_at:
                        await self._report()
                        report_at = time.monotonic() + self._period
                except _AWAY as error:
                    log.warning("what is known of resolvers waits: %s", error)
                    report_at = time.monotonic() + LOOK_PERIOD
        finally:
            with contextlib.suppress(*_AWAY):
                await self._store.resolvers.sign_off(self._who.worker_id)

    def _take(self, changes: Iterable[tuple[Plan, Change]]) -> None:
        for plan, change in changes:
            self._untold.append(changed_event(change, self._who))
            if change.lied_since is not None:
                self._withdrawals.lied(
                    plan,
                    str(change.resolver),
                    change.reason,
                    change.lied_since,
                    time.monotonic(),
                )

    async def _withdraw(self) -> None:
        for lie, chunks in self._withdrawals.due():
            for some in _portions(chunks):
                withdrawn = await self._store.withdraw(some, lie.resolver, lie.reason)
                self._withdrawals.handled(lie, [it for it in some if it not in withdrawn.open])
                if withdrawn.name_count:
                    told = "%d verdicts were taken back because of %s: %s"
                    log.warning(told, withdrawn.name_count, lie.resolver, lie.reason)

    async def _tell_changes(self) -> None:
        while self._untold:
            await self._store.resolvers.changed(self._untold[0])
            self._untold.popleft()

    async def _report(self) -> None:
        told = reports(self._engines.resolvers(), self._who)
        await self._store.resolvers.report(self._who.worker_id, told)


def _portions(chunks: Iterable[Settled]) -> Iterator[list[Settled]]:
    """Chunks of one run each, in the order of their positions, as many as go into one event."""

    def place(chunk: Settled) -> tuple[int, int, int, int]:
        key = chunk.key
        return key.campaign_no, key.phase, key.run, key.first_position

    for _, of_run in groupby(sorted(chunks, key=place), key=lambda chunk: place(chunk)[:3]):
        while some := list(islice(of_run, MAX_WITHDRAWN)):
            yield some
