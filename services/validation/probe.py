"""What the workers of a pool do with names: the only thing in which pools differ."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from services.validation.load import EndpointCounts
from services.validation.results import ChunkResults
from services.validation.store import Claim, Store

# Whatever a probe finds out about one name.
Outcome = TypeVar("Outcome")
# Names to their outcomes, in the same order. Called several times at once for one claim.
Check = Callable[[Sequence[str]], Awaitable[Sequence[Outcome]]]


class Probe(Protocol[Outcome]):
    """How the names of one phase are checked. Open as long as its worker lives."""

    # The subject its tasks come from, such as "dns".
    pool: str
    # Number of its phase, as in domainflow.campaign.v1.Phase.
    phase: int
    # Names in hand at most, for the memory's sake.
    names_limit: int
    # Chunks are taken when fewer names than this are still to be asked about.
    names_ahead: int

    def waiting(self) -> int:
        """Names that `Check` was given and that are not asked about yet."""

    def endpoints(self) -> Iterable[EndpointCounts]:
        """What was counted of the resolvers or hosts that are asked, since each source began."""

    async def attend(self, store: Store, worker_id: str, host: str) -> None:
        """Tell what is learnt of the resolvers or hosts that are asked, until cancelled."""

    def prepare(self, claim: Claim) -> AbstractAsyncContextManager[Check[Outcome]]:
        """Get ready for the claim's campaign.

        What it raises is taken to be wrong for every name; what `Check` raises, for one of those
        it was given.
        """

    def results(self, claim: Claim, outcomes: Sequence[Outcome]) -> ChunkResults:
        """Encode the outcomes of all of the claim's names."""

    def dead_letter(self, name: str) -> Outcome:
        """The outcome of a name that was given up."""

    def time_limit(self, claim: Claim) -> float:
        """Seconds that checking the claim's names takes at the very most when all is well."""
