"""20,000 names of knot and nsd behind unbound: where our outcome is not dnspython's.

`python -m tests.load.dns_real_servers` prints the results; `run()` returns them.
"""

import asyncio
import json
import sys
import time
from typing import Any

from tests.load.name_server import tool
from tests.real_servers import PROGRAMS, internet, names
from tests.second_resolver import agrees, ask_dnspython, examine

# Some 20,000 names.
DOMAINS = 15_000


def run() -> list[dict[str, Any]]:
    """Raises NoServers where a program is neither installed nor installable."""
    for command, package in PROGRAMS.items():
        tool(command, package)
    return [asyncio.run(_measure())]


async def _measure() -> dict[str, Any]:
    asked = dict(names(DOMAINS))
    with internet(DOMAINS) as where:
        started = time.monotonic()
        outcomes = await examine(list(asked), where)
        examined = time.monotonic()
        others = await ask_dnspython(list(asked), where.resolvers[0])
        ended = time.monotonic()
    wrong = [
        f"{outcome}; dnspython: {other}"
        for outcome, other in zip(outcomes, others, strict=True)
        if not agrees(outcome, other, wildcard=asked[outcome.name])
    ]
    for line in wrong[:20]:
        sys.stderr.write(f"{line}\n")
    return {
        "name": "dns_real_servers, other than dnspython's",
        "value": len(wrong),
        "unit": "names",
        "target": "names <= 0",
        "names": len(asked),
        "seconds": round(examined - started, 1),
        # It finds out much less, and the resolver remembers what we asked for.
        "dnspython_seconds": round(ended - examined, 1),
    }


if __name__ == "__main__":
    sys.stdout.write("".join(json.dumps(result) + "\n" for result in run()))
