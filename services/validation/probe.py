"""What the workers of a pool do with names: the only thing in which pools differ."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from services.validation.load import EndpointCounts
from services.validation.results import ChunkResults
from services.validation.store import Claim, Store

# What a probe has to know of one name to check it, and whatever it finds out about it.
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
_Item = TypeVar("_Item", contravariant=True)
_Outcome = TypeVar("_Outcome", contravariant=True)


class Unable(Exception):
    """This process cannot check names now, whichever; the text says why. Blames no name."""


@dataclass(frozen=True, slots=True)
class Later:
    """In place of an outcome: the name is to be checked again, and not soon."""

    # Of time.monotonic().
    due: float


# Items to what came of them, in the same order. Called several times at once for one claim. `Later`
# only where the probe has a way to set chunks aside.
Check = Callable[[Sequence[Item]], Awaitable[Sequence[Outcome | Later]]]


class Parking(Protocol[_Item, _Outcome]):
    """How a chunk some of whose names wait is set aside: what is known of its names is stored, and
    `Probe.items` reads it when the chunk is taken up again."""

    def is_finished(self, item: _Item) -> bool:
        """Whether `Check` has only to tell again what came of the item."""

    def progress(self, items: Sequence[_Item], found: Sequence[_Outcome | Later]) -> bytes:
        """Encode what came of all of a claim's items, but for those that were finished before."""


class Probe(Protocol[Item, Outcome]):
    """How the names of some phases are checked. Open as long as its worker lives."""

    # The subject its tasks come from, such as "dns".
    pool: str
    # Numbers of its phases, as in domainflow.campaign.v1.Phase.
    phases: frozenset[int]
    # Chunks are taken when fewer names than this are still to be asked about.
    names_ahead: int

    @property
    def parking(self) -> Parking[Item, Outcome] | None:
        """None: its checks wait for every name."""

    @property
    def names_limit(self) -> int:
        """Names in hand at most, for the memory's sake; it may change at any time."""

    def waiting(self) -> int:
        """Names that `Check` was given and that are not asked about yet."""

    def endpoints(self) -> Iterable[EndpointCounts]:
        """What was counted of the resolvers or hosts that are asked, since each source began."""

    async def attend(self, store: Store, worker_id: str, host: str) -> None:
        """Tell what is learnt of the resolvers or hosts that are asked, until cancelled."""

    async def items(self, store: Store, claim: Claim) -> Sequence[Item]:
        """Read what there is to check, in order of position: one for each name of the claim, or the
        attempt fails."""

    def name(self, item: Item) -> str:
        """The name of an item."""

    def prepare(self, claim: Claim) -> AbstractAsyncContextManager[Check[Item, Outcome]]:
        """Get ready for the claim's campaign.

        What it raises is taken to be wrong for every name; what `Check` raises, for one of those
        it was given.
        """

    def results(self, claim: Claim, outcomes: Sequence[Outcome]) -> ChunkResults:
        """Encode the outcomes of all of the claim's names."""

    def dead_letter(self, item: Item) -> Outcome:
        """The outcome of an item that was given up."""

    def time_limit(self, claim: Claim) -> float:
        """Seconds that checking the claim's names takes at the very most when all is well."""
