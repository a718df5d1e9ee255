"""Checks over a stream: batches of names in, verdicts out as they are settled."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence

from domainflow.validation.v1 import dns_pb2, http_pb2
from domainflow.validation.v1 import validation_service_pb2 as pb
from services.chassis.domain_name import NotADomainName, normalise
from services.chassis.errors import FieldViolation, InvalidFields
from services.validation.dns.verdict import Outcome, Verdict
from services.validation.evidence import outcome_to_pb
from services.validation.page_answers import fill, fit
from services.validation.page_check import PageCheck
from services.validation.suppression_store import Suppressed

# Names received and not yet taken by the client; fewer where their pages are asked for too. A batch
# is let in whole once it fits.
MAX_IN_PROGRESS = 5_000
MAX_WITH_PAGES = 500
# Names that are answered together: those behind a mute one would wait for its last time-out.
SLICE = 25
# Bytes of a name with its page: as many as may be in progress are held for a client that does not
# read.
PAGE_BYTES = 256 * 1024
# Characters that are sent back of what is no name.
MAX_REJECTED = 300

Examine = Callable[[Sequence[str]], Awaitable[Sequence[Outcome]]]


class CheckStream:
    """One ValidateDomains call after its first message."""

    def __init__(self, examine: Examine, pages: PageCheck | None = None) -> None:
        """`pages` reads those of the names that resolve; None: they are not asked for."""
        self._examine = examine
        self._pages = pages
        self._most = MAX_IN_PROGRESS if pages is None else MAX_WITH_PAGES
        self._in_progress = 0
        # Set whenever something left, so that the next batch may fit.
        self._left = asyncio.Event()
        # Bounded by the names in progress. An exception ends the stream with it.
        self._ready: asyncio.Queue[pb.ValidateDomainsResponse | BaseException] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._names = self._rejected = 0
        self._verdicts: Counter[int] = Counter()
        self._http_verdicts: Counter[int] = Counter()

    async def answers(
        self, requests: AsyncIterator[pb.ValidateDomainsRequest]
    ) -> AsyncGenerator[pb.ValidateDomainsResponse, None]:
        """Results of the batches in `requests`, then the summary. Raises InvalidFields."""
        began = time.monotonic()
        reading = self._start(self._read, requests)
        try:
            while self._in_progress or not reading.done() or not self._ready.empty():
                answer = await self._next(reading)
                if answer is None:
                    continue
                yield answer
                # Only now: a client that does not read keeps us from reading it.
                self._in_progress -= len(answer.results.names)
                self._left.set()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
        yield self._summary(time.monotonic() - began)

    async def _next(self, reading: "asyncio.Task[None]") -> pb.ValidateDomainsResponse | None:
        """What is ready next; None when the client has said all and there is nothing left."""
        getting = asyncio.ensure_future(self._ready.get())
        try:
            # The end of the requests may leave nothing to wait for.
            waiting = {getting} if self._in_progress or reading.done() else {getting, reading}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                return None
            answer = getting.result()
        finally:
            getting.cancel()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _start(
        self, work: Callable[..., Awaitable[None]], *arguments: object
    ) -> "asyncio.Task[None]":
        async def guarded() -> None:
            try:
                # Called in here: a task that is cancelled before it begins leaves nothing behind.
                await work(*arguments)
            except Exception as error:
                self._ready.put_nowait(error)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read(self, requests: AsyncIterator[pb.ValidateDomainsRequest]) -> None:
        number = 0
        async for request in requests:
            if request.WhichOneof("kind") != "batch":
                problem = "must be the first message of a stream, and only it"
                raise InvalidFields([FieldViolation("start", problem)])
            names = request.batch.names
            while self._in_progress and self._in_progress + len(names) > self._most:
                self._left.clear()
                await self._left.wait()
            self._in_progress += len(names)
            # In a thread: a thousand names of Unicode take up to 0.3 s, and all other calls wait.
            good, rejected = await asyncio.to_thread(_sort_out, names)
            self._names += len(names)
            self._rejected += len(rejected)
            if rejected:
                self._put(number, rejected)
            for piece in _sliced(good):
                self._start(self._check, number, piece)
            number += 1

    async def _check(self, number: int, piece: Sequence[tuple[int, str]]) -> None:
        outcomes = await self._examine([name for _, name in piece])
        now = time.time_ns()
        self._verdicts.update(outcome.verdict for outcome in outcomes)
        settled, resolved = [], []
        for (index, name), outcome in zip(piece, outcomes, strict=True):
            made = pb.ValidatedName(index=index, name=name, dns=outcome_to_pb(outcome, now))
            if self._pages is not None and outcome.verdict is Verdict.RESOLVED:
                resolved.append((made, outcome))
            else:
                settled.append(made)
        if settled:
            self._put(number, settled)
        if self._pages is not None and resolved:
            excluded = await self._pages.excluded({made.name for made, _ in resolved})
            for made, outcome in resolved:
                entry = excluded.get(made.name)
                self._start(self._add_page, self._pages, number, made, outcome, entry)

    async def _add_page(
        self,
        pages: PageCheck,
        number: int,
        made: pb.ValidatedName,
        outcome: Outcome,
        excluded: Suppressed | None,
    ) -> None:
        site = await pages.of_outcome(outcome, excluded)
        self._http_verdicts[site.verdict] += 1
        fill(made, site, time.time_ns())
        fit(made, [made], PAGE_BYTES)
        self._put(number, [made])

    def _put(self, number: int, names: Sequence[pb.ValidatedName]) -> None:
        results = pb.ValidateResults(batch_number=number, names=names)
        self._ready.put_nowait(pb.ValidateDomainsResponse(results=results))

    def _summary(self, seconds: float) -> pb.ValidateDomainsResponse:
        summary = pb.ValidateSummary(
            name_count=self._names,
            rejected_count=self._rejected,
            verdict_counts=[
                pb.VerdictCount(verdict=dns_pb2.DnsVerdict.ValueType(verdict), count=count)
                for verdict, count in sorted(self._verdicts.items())
            ],
            http_verdict_counts=[
                pb.HttpVerdictCount(verdict=http_pb2.HttpVerdict.ValueType(verdict), count=count)
                for verdict, count in sorted(self._http_verdicts.items())
            ],
        )
        summary.duration.FromNanoseconds(int(seconds * 1e9))
        return pb.ValidateDomainsResponse(summary=summary)


def _sort_out(
    names: Sequence[str],
) -> tuple[list[tuple[int, str]], list[pb.ValidatedName]]:
    """The names with their places, and the answers to those that are none."""
    good, rejected = [], []
    for index, name in enumerate(names):
        try:
            good.append((index, normalise(name)))
        except NotADomainName as problem:
            name = name[:MAX_REJECTED]
            rejected.append(pb.ValidatedName(index=index, name=name, rejected=str(problem)))
    return good, rejected


def _sliced(good: Sequence[tuple[int, str]]) -> Iterator[Sequence[tuple[int, str]]]:
    return (good[at : at + SLICE] for at in range(0, len(good), SLICE))
