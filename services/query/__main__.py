"""The query service as a process.

`python -m services.query` (or `... serve`) answers calls, `... maintain` keeps what is derived true
beside it, and `... maintain --once` does what is due and ends.
"""

import asyncio
import gc
import logging
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass

from services.chassis import telemetry
from services.chassis.config import BadEnvironment, read_settings
from services.chassis.contract import QUERY
from services.chassis.pool import MeasuredPool
from services.chassis.pool_reports import process_label, reported
from services.chassis.postgres import Beside, Pulse, open_pool
from services.chassis.seal import BadKey, Seal, parse_keys
from services.chassis.server import serve
from services.query import maintainer
from services.query.passing import add_query_service
from services.query.reads import Reads
from services.query.replica import Replica
from services.query.service import RULES, QueryService
from services.query.statements import StatementWatch


@dataclass(frozen=True, slots=True)
class Settings:
    """Environment of this process, in upper case."""

    database_url: str
    # Base64 of 32 bytes; several, comma-separated, to rotate: the first seals.
    page_token_key: str
    # host:port to listen on.
    query_address: str
    log_format: str = "text"
    query_connections: int = 10
    query_statement_timeout: float = 15
    # A streaming replica for reads that may be behind; empty: there is none.
    database_replica_url: str = ""
    # Seconds that it may be behind to answer those who want an answer fast.
    query_max_replica_lag: float = 30
    # Milliseconds from which on a statement is logged, and kept with its plan.
    query_slow_ms: float = 500


async def run(settings: Settings, seal: Seal) -> None:
    process = process_label("query")
    watch = StatementWatch(process, slow=settings.query_slow_ms / 1000)
    pool = await open_pool(
        settings.database_url,
        application_name="domainflow-query",
        max_size=settings.query_connections,
        read_only=True,
        statement_timeout=settings.query_statement_timeout,
        on_statement=watch.note,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(pool)
        beside = Beside(settings.database_url, application_name="domainflow-query-care")
        await stack.enter_async_context(beside)
        await stack.enter_async_context(watch.recorded(beside))
        pulse = await stack.enter_async_context(Pulse(settings.database_url))
        replica = None
        if settings.database_replica_url:
            replica = Replica(
                settings.database_replica_url,
                settings.database_url,
                application_name="domainflow-query",
                max_size=settings.query_connections,
                statement_timeout=settings.query_statement_timeout,
                on_statement=watch.note,
            )
            await stack.enter_async_context(replica)

        def pools() -> dict[str, MeasuredPool]:
            of_replica = replica.pool if replica else None
            return {process: pool} | ({f"{process} replica": of_replica} if of_replica else {})

        await stack.enter_async_context(reported(beside, pools))
        reads = Reads(pool, replica, max_lag=settings.query_max_replica_lag)
        await serve(
            settings.query_address,
            service_name=QUERY,
            register=lambda server: add_query_service(
                QueryService(reads=reads, seal=seal, beside=beside), server
            ),
            ready=pulse.check,
            rules=RULES,
        )


def main() -> int:
    match sys.argv[1:]:
        case [] | ["serve"]:
            return _serve()
        case ["maintain"]:
            return _maintain(once=False)
        case ["maintain", "--once"]:
            return _maintain(once=True)
    sys.stderr.write("usage: python -m services.query [serve | maintain [--once]]\n")
    return 2


def _maintain(*, once: bool) -> int:
    try:
        settings = maintainer.read()
    except BadEnvironment as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    telemetry.set_up("query-maintainer", json_logs=settings.log_format == "json")
    try:
        return 0 if asyncio.run(maintainer.run(settings, once=once)) else 1
    except Exception:
        logging.getLogger(__name__).exception("the maintainer ended")
        return 1


def _serve() -> int:
    try:
        settings = read_settings(Settings)
        seal = Seal(parse_keys(settings.page_token_key))
    except (BadEnvironment, BadKey) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    telemetry.set_up("query", json_logs=settings.log_format == "json")
    # Rows and messages make no cycles: with Python's defaults, collections took 1-4 % of
    # the CPU time of pages of 1,000 domains and freed nothing.
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)
    asyncio.run(run(settings, seal))
    return 0


if __name__ == "__main__":
    sys.exit(main())
