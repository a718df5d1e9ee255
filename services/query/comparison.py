"""Two runs of a phase compared: the domains that differ, and the figures of all."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from domainflow.campaign.v1.campaign_pb2 import Phase
from domainflow.query.v1 import stream_pb2 as pb
from services.chassis.errors import CampaignNotFound, FieldViolation, InvalidFields, RunNotFound
from services.query.change_token import DifferencePlace
from services.query.differences import FIELDS, VERDICT_BIT, Differences, Pair
from services.query.messages import fill_dns, fill_http
from services.query.outcomes import DNS
from services.query.sealed import MESSAGE_LIMIT

DEFAULT_DIFFERENCES, MAX_DIFFERENCES = 1_000, 5_000
# Positions that are compared at once.
COMPARED = 5_000
NOT_EARLIER = FieldViolation("base_run", "is not earlier than run")

# Waits for a turn with the database, and holds it.
Turn: TypeAlias = "Callable[[], AbstractAsyncContextManager[None]]"


async def two_runs(
    differences: Differences, no: int, request: pb.StreamDifferencesRequest, shown: int
) -> tuple[int, int]:
    """The runs to compare. Raises RunNotFound, InvalidFields."""
    phase = request.phase or DNS
    there = await differences.runs(no, phase)
    run = request.run or shown
    earlier = [each for each in there if each < run]
    base_run = request.base_run or (earlier[-1] if earlier else 0)
    if run and base_run >= run:
        raise InvalidFields([NOT_EARLIER])
    for each, words in ((run, "a run that is shown"), (base_run, "an earlier run")):
        if each not in there:
            raise RunNotFound(
                f"the phase has no results of {f'run {each}' if each else words}",
                campaign_id=request.campaign_id,
                phase=Phase.Name(phase),  # type: ignore[arg-type]  # a plain number
                run=each,
            )
    return base_run, run


class Comparison:
    """Two runs from a position on, and the figures so far."""

    def __init__(
        self,
        request: pb.StreamDifferencesRequest,
        differences: Differences,
        no: int,
        turn: Turn,
        place: DifferencePlace,
    ) -> None:
        self._id = request.campaign_id
        self._phase = int(request.phase or DNS)
        self._fields = FIELDS[self._phase]
        self._wanted = VERDICT_BIT if request.verdicts_only else (1 << len(self._fields)) - 1
        self._size = min(request.batch_size or DEFAULT_DIFFERENCES, MAX_DIFFERENCES)
        self._differences = differences
        self._no = no
        self._turn = turn
        self._place = place
        self._groups: Counter[tuple[int, int, int]] = Counter()

    async def found(self) -> AsyncGenerator[list[pb.Difference], None]:
        """The differences in order of position, each list fit for a message."""
        place = self._place
        runs = place.base_run, place.run
        for first in range(place.position, place.end, COMPARED):
            past = min(first + COMPARED, place.end)
            async with self._turn():
                groups = await self._differences.compare(
                    self._no, self._phase, *runs, first, past, self._wanted
                )
            if groups is None:
                raise CampaignNotFound(self._id)
            masks: dict[int, int] = {}
            for group in groups:
                self._groups[group.base_verdict, group.verdict, group.mask] += group.count
                masks.update(dict.fromkeys(group.positions, group.mask))
            positions = sorted(masks)
            for start in range(0, len(positions), self._size):
                some = positions[start : start + self._size]
                async with self._turn():
                    pairs = await self._differences.pairs(self._no, self._phase, *runs, some)
                for made in _fitting([self._difference(p, masks[p], pairs) for p in some]):
                    yield made

    def _difference(self, position: int, mask: int, pairs: Mapping[int, Pair]) -> pb.Difference:
        if position not in pairs:
            raise CampaignNotFound(self._id)
        pair = pairs[position]
        if pair.base is None or pair.later is None:
            # Also when it was taken back since it was compared.
            mask = VERDICT_BIT
        made = pb.Difference(
            position=position,
            name=pair.name,
            fields=[field for bit, field in enumerate(self._fields) if mask >> bit & 1],
        )
        if self._phase == DNS:
            if pair.base:
                fill_dns(made.base_dns, pair.base)
            if pair.later:
                fill_dns(made.dns, pair.later)
        else:
            if pair.base:
                fill_http(made.base_http, pair.base)
            if pair.later:
                fill_http(made.http, pair.later)
        return made

    def report(self) -> pb.DifferenceReport:
        """The figures of all that was compared."""
        verdicts: Counter[tuple[int, int]] = Counter()
        fields: Counter[str] = Counter()
        equal = evidence = 0
        for (base_verdict, verdict, mask), count in self._groups.items():
            equal += 0 if mask else count
            if mask & VERDICT_BIT:
                verdicts[base_verdict, verdict] += count
            elif mask:
                evidence += count
            for bit, field in enumerate(self._fields):
                if mask & ~VERDICT_BIT & 1 << bit:
                    fields[field] += count
        return pb.DifferenceReport(
            base_run=self._place.base_run,
            run=self._place.run,
            compared_count=self._groups.total(),
            equal_count=equal,
            evidence_count=evidence,
            verdict_changes=[
                pb.VerdictChange(base_verdict=base, verdict=verdict, count=count)
                for (base, verdict), count in sorted(
                    verdicts.items(), key=lambda item: (-item[1], item[0])
                )
            ],
            field_counts=fields,
        )


def _fitting(made: Sequence[pb.Difference]) -> Iterator[list[pb.Difference]]:
    """These differences in pieces that each fit a message."""
    piece: list[pb.Difference] = []
    size = 0
    for each in made:
        # As a field of a message, one after the other.
        more = each.ByteSize() + 5
        if piece and size + more > MESSAGE_LIMIT:
            yield piece
            piece, size = [], 0
        piece.append(each)
        size += more
    if piece:
        yield piece
