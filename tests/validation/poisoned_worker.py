"""A worker process whose probe does harm on one name. Environment: NATS_URL, and that of
poisoned_attempt.py."""

import asyncio
import os
import sys

from services.chassis import jetstream
from services.chassis.postgres import open_pool
from services.validation.store import Store
from services.validation.worker import Worker
from tests.validation.poisoned_attempt import poisoned_probe


async def work() -> None:
    pool = await open_pool(os.environ["DATABASE_URL"], application_name="poisoned", max_size=6)
    queue = await jetstream.connect(os.environ["NATS_URL"], name="poisoned")
    store = Store(pool)
    async with poisoned_probe(store) as probe:
        worker = Worker(
            store=store,
            queue=queue,
            probe=probe,
            worker_id=f"poisoned-{os.getpid()}",
            host="host",
            pid=os.getpid(),
            alone=(sys.executable, "-m", "tests.validation.poisoned_attempt"),
        )
        await worker.work()


if __name__ == "__main__":
    asyncio.run(work())
