"""Names to verdicts with evidence: the first question, and all that it gives rise to."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from services.validation.dns.canaries import Canaries
from services.validation.dns.engine import Engine
from services.validation.dns.plan import Plan
from services.validation.dns.verdict import Outcome


class Examiner:
    """Examines names as a plan says. Open it with `async with`; one event loop only."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.engine = Engine(plan.resolvers, plan.engine)
        self.canaries = Canaries(plan, self.engine)

    async def __aenter__(self) -> Self:
        await self.engine.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.canaries.close()
        await self.engine.__aexit__(kind, error, trace)

    async def examine(self, names: Sequence[str]) -> list[Outcome]:
        """One outcome per name, in the order of `names`, which are normalised ASCII.

        Raises EngineClosed.
        """
        async with self.canaries.in_use():
            return await self.engine.resolve(names)
