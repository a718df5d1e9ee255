"""A worker process whose probe does harm on one name: `poisoned_worker.py work|try`.

Environment: DATABASE_URL, NATS_URL, POISON (the name), HARM (kill or hang).
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis import jetstream
from services.chassis.postgres import open_pool
from services.validation.engines import Engines
from services.validation.isolation import attempt_alone
from services.validation.store import Store
from services.validation.worker import Worker
from tests.validation.probes import PoisonedProbe, hang, kill_this_process


@asynccontextmanager
async def poisoned_probe() -> AsyncIterator[PoisonedProbe]:
    harm = {"kill": kill_this_process, "hang": hang}[os.environ["HARM"]]
    async with Engines() as engines:
        yield PoisonedProbe(engines, os.environ["POISON"], harm)


async def work() -> None:
    pool = await open_pool(os.environ["DATABASE_URL"], application_name="poisoned", max_size=6)
    queue = await jetstream.connect(os.environ["NATS_URL"], name="poisoned")
    async with poisoned_probe() as probe:
        worker = Worker(
            store=Store(pool),
            queue=queue,
            probe=probe,
            worker_id=f"poisoned-{os.getpid()}",
            host="host",
            pid=os.getpid(),
            alone=(sys.executable, "-m", "tests.validation.poisoned_worker", "try"),
        )
        await worker.work()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        asyncio.run(work())
    else:
        sys.exit(asyncio.run(attempt_alone(os.environ["DATABASE_URL"], poisoned_probe)))
