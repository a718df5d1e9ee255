"""One attempt in a process of its own whose probe does harm on one name.

Environment: DATABASE_URL, POISON (the name), HARM (kill or hang).
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.validation.engines import Engines
from services.validation.isolation import attempt_alone
from services.validation.store import Store
from tests.validation.probes import PoisonedProbe, hang, kill_this_process


@asynccontextmanager
async def poisoned_probe(_: Store) -> AsyncIterator[PoisonedProbe]:
    harm = {"kill": kill_this_process, "hang": hang}[os.environ["HARM"]]
    async with Engines() as engines:
        yield PoisonedProbe(engines, os.environ["POISON"], harm)


if __name__ == "__main__":
    sys.exit(asyncio.run(attempt_alone(os.environ["DATABASE_URL"], poisoned_probe)))
