"""A million names of known truth through resolvers that fail and lie: how many verdicts are wrong.

`python -m tests.load.dns_accuracy_1m [names]` prints the results; `run()` returns them.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from itertools import islice
from typing import Any

import uvloop

from services.validation.dns.examiner import Examiner
from services.validation.dns.plan import Plan
from services.validation.dns.verdict import Agreement
from tests import accuracy
from tests.load.processes import cpu, peak_rss_mb

NAMES = 1_000_000
BATCH = 2_000
# Batches under way at once. Names that stay mute keep theirs for some seconds, so there are more
# than a worker has.
CALLS = 50


def run() -> list[dict[str, Any]]:
    # A process of its own, so that memory and CPU time are the examiner's alone.
    command = [sys.executable, "-m", "tests.load.dns_accuracy_1m"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


async def _measure(plan: Plan, count: int) -> list[dict[str, Any]]:
    # As worker processes do: what lives forever is not for the collector to walk.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    account = accuracy.Account()
    left = accuracy.names(count)

    async def ask() -> None:
        while batch := list(islice(left, BATCH)):
            account.take(batch, await examiner.examine(batch))

    async with Examiner(plan) as examiner:
        started, used = time.monotonic(), cpu(os.getpid())
        await asyncio.gather(*(ask() for _ in range(CALLS)))
        elapsed, used = time.monotonic() - started, cpu(os.getpid()) - used
        stats = examiner.engine.stats()
    if account.wrong:
        sys.stderr.write(f"{account}\n")
    positives = sum(account.agreements.values()) - account.agreements[Agreement.NOT_ASKED]
    return [
        {
            "name": "dns_accuracy_1m, wrong verdicts or evidence",
            "value": account.wrong,
            "unit": "names",
            "target": "names <= 0",
            "names": account.seen,
            "kinds": dict(account.kinds),
            "verdicts": {it.name: times for it, times in account.verdicts.items()},
            "agreements": {it.name: times for it, times in account.agreements.items()},
            "confirmed": round(1 - account.agreements[Agreement.UNCONFIRMED] / positives, 4),
            "registration_unknown": account.unknown,
        },
        {
            "name": "dns_accuracy_1m, speed",
            "value": round(count / elapsed),
            "unit": "names/s",
            "seconds": round(elapsed, 1),
            # The comparison with the truth is inside.
            "cpu_s_per_million": round(used / count * 1e6, 1),
            "questions_per_name": round(stats.sent / count, 2),
            "peak_rss_mb": round(peak_rss_mb(os.getpid()), 1),
        },
    ]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else NAMES
    with accuracy.bad_resolvers(processes=3) as plan:
        for result in uvloop.run(_measure(plan, count)):
            sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
