"""One attempt at the claim on standard input, as a process: `python -m services.validation.alone
POOL`. Its parent is a worker.

No role of `services.validation`: with what those import it would take three times as long to start
and twice the memory.
"""

import asyncio
import logging
import sys
from dataclasses import dataclass

from services.chassis.config import BadEnvironment, read_settings
from services.chassis.seal import BadKey
from services.validation.http_plans import default_user_agent
from services.validation.isolation import NOT_PREPARED, attempt_alone
from services.validation.probes import NoSuchPool, probe_of
from services.validation.proxy_pools import machines_policy
from services.validation.proxy_store import secret_box


@dataclass(frozen=True, slots=True)
class Settings:
    """Environment; names in upper case."""

    database_url: str


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m services.validation.alone POOL\n")
        return 2
    logging.basicConfig(stream=sys.stderr)
    try:
        open_probe = probe_of(sys.argv[1])
        settings = read_settings(Settings)
        secret_box()
        machines_policy()
        default_user_agent()
    except (NoSuchPool, BadEnvironment, BadKey) as problem:
        sys.stderr.write(f"{problem}\n")
        return NOT_PREPARED
    return asyncio.run(attempt_alone(settings.database_url, open_probe))


if __name__ == "__main__":
    sys.exit(main())
