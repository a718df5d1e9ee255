"""The validation service as a process.

`python -m services.validation serve` answers calls, `... work [POOL]` takes chunks, and `... pool
[POOL]` keeps as many workers as there is work for.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass

import uvloop

from domainflow.validation.v1 import validation_service_pb2_grpc
from services.chassis import jetstream, telemetry
from services.chassis.config import BadEnvironment, read_settings
from services.chassis.contract import VALIDATION
from services.chassis.parent import end_with
from services.chassis.pool_reports import process_label, reported
from services.chassis.postgres import AWAY, Beside, Pulse, open_pool
from services.chassis.seal import KEY_SIZE, BadKey, Seal, parse_keys
from services.chassis.server import serve
from services.validation import machine
from services.validation.engines import Engines
from services.validation.fetchers import Fetchers
from services.validation.http_plans import default_user_agent
from services.validation.page_check import PageChecks
from services.validation.persona_store import Personas
from services.validation.pool import Bounds, Rules
from services.validation.pools import Pools
from services.validation.probes import NoSuchPool, OpenProbe, probe_of
from services.validation.proxy_pools import ProxyPools, machines_policy
from services.validation.proxy_store import secret_box
from services.validation.resolver_news import ResolverNews
from services.validation.resolver_reports import Reporter
from services.validation.service import RULES, ValidationService
from services.validation.stall import ended_when_stalled
from services.validation.store import Store
from services.validation.supervisor import Supervisor
from services.validation.suppression_store import suppression_salt
from services.validation.worker import REPORT_PERIOD, Worker

# Descriptors are often limited to 1,024 without need; no process has use for more than this.
DESCRIPTORS = 65_536
_RULES = Rules()


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Environment of the role `serve`; names in upper case."""

    database_url: str
    # host:port to listen on.
    validation_address: str
    # Base64 of 32 bytes; several, comma-separated, to rotate: the first seals. Empty: a key of this
    # process, so that nobody can go on with a list once it has ended.
    page_token_key: str = ""


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """Environment of the role `work`; names in upper case."""

    database_url: str
    nats_url: str
    # Seconds between two reports.
    worker_report_period: float = REPORT_PERIOD
    # Set by the role `pool` for its workers: they follow its decisions and end with it.
    worker_supervisor_pid: int = 0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Environment of the role `pool`; names in upper case. The workers get the same environment."""

    database_url: str
    nats_url: str
    # Fewest and most worker processes; 0 is the number of this machine's cores, or the fewest
    # where that is more.
    worker_min: int = 1
    worker_max: int = 0
    # Seconds between two looks, and figures of services/validation/pool.py.
    pool_period: float = 5.0
    pool_grow_after: float = _RULES.grow_after
    pool_idle_rounds: int = _RULES.idle_rounds
    pool_cpu_limit: float = _RULES.cpu_limit
    pool_loss_limit: float = _RULES.loss_limit


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Environment of every role. `log_format` is text or json."""

    log_format: str = "text"


async def run_service(settings: ServeSettings) -> None:
    """Answer calls until a signal ends it."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(
            settings.database_url, application_name="domainflow-validation", max_size=4
        )
        stack.push_async_callback(pool.close)
        pools = {process_label("validation"): pool}
        reports = Beside(settings.database_url, application_name="domainflow-validation-reports")
        await stack.enter_async_context(reports)
        await stack.enter_async_context(reported(reports, lambda: pools))
        pulse = await stack.enter_async_context(Pulse(settings.database_url))
        engines = await stack.enter_async_context(Engines())
        store = Store(pool, suppression_salt(), secret_box())
        if sealed := await store.proxies.seal_anew():
            told = "%d passwords of proxies were sealed with the newest key"
            logging.getLogger(__name__).info(told, sealed)
        policy = machines_policy()
        proxy_pools = ProxyPools(store.proxies, policy=policy)
        fetchers = await stack.enter_async_context(
            Fetchers(
                engines,
                suppressions=store.suppressions,
                proxy_pools=proxy_pools,
                denied=policy.denied,
            )
        )
        service = ValidationService(
            store=store,
            engines=engines,
            personas=Personas(pool),
            seal=Seal(_keys(settings.page_token_key)),
            policy=policy,
            page_checks=PageChecks(fetchers, store.suppressions),
        )
        host = socket.gethostname()
        news = ResolverNews(engines, store, Reporter(f"serve-{host}", host))
        for beside in (
            store.pools.watch(),
            store.resolvers.watch(),
            store.proxies.reports.watch(),
            news.tell(),
            proxy_pools.tell(f"serve-{host}"),
        ):
            stack.push_async_callback(_end, asyncio.create_task(beside))
        await serve(
            settings.validation_address,
            service_name=VALIDATION,
            register=lambda server: (
                validation_service_pb2_grpc.add_ValidationServiceServicer_to_server(service, server)
            ),
            ready=pulse.check,
            rules=RULES,
            thorough_rules=service.thorough_rules,
        )


async def run_worker(settings: WorkSettings, open_probe: OpenProbe) -> None:
    """Take chunks until a signal ends it; claims are then given back."""
    if settings.worker_supervisor_pid:
        end_with(settings.worker_supervisor_pid)
    async with AsyncExitStack() as stack:
        pool = await open_pool(
            settings.database_url,
            application_name="domainflow-worker",
            max_size=6,
            # A worker frozen in the middle of storing holds the campaign's row: not for longer.
            statement_timeout=15,
        )
        stack.push_async_callback(pool.close)
        queue = await jetstream.connect(settings.nats_url, name="worker")
        stack.push_async_callback(queue.close)
        store = Store(pool, suppression_salt(), secret_box())
        probe = await stack.enter_async_context(open_probe(store))
        host, pid = socket.gethostname(), os.getpid()
        worker_id = f"{host}-{pid}-{secrets.token_hex(4)}"
        pools = {worker_id: pool}
        reports = Beside(settings.database_url, application_name="domainflow-worker-reports")
        await stack.enter_async_context(reports)
        await stack.enter_async_context(reported(reports, lambda: pools))
        worker = Worker(
            store=store,
            queue=queue,
            probe=probe,
            worker_id=worker_id,
            host=host,
            pid=pid,
            supervised=settings.worker_supervisor_pid > 0,
            report_period=settings.worker_report_period,
        )
        with ended_when_stalled():
            await _until_signalled(worker.work())
        with contextlib.suppress(*AWAY):
            await store.pools.sign_off(worker_id)


async def run_pool(settings: PoolSettings, name: str) -> None:
    """Keep workers of the pool `name` until a signal ends it; they then give their claims back."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(
            settings.database_url, application_name="domainflow-pool", max_size=2
        )
        stack.push_async_callback(pool.close)
        pools = {process_label(f"{name}-pool"): pool}
        reports = Beside(settings.database_url, application_name="domainflow-pool-reports")
        await stack.enter_async_context(reports)
        await stack.enter_async_context(reported(reports, lambda: pools))
        queue = await jetstream.connect(settings.nats_url, name="pool")
        stack.push_async_callback(queue.close)
        supervisor = Supervisor(
            pools=Pools(pool),
            queue=queue,
            pool=name,
            host=socket.gethostname(),
            command=[sys.executable, "-m", "services.validation", "work", name],
            bounds=Bounds(
                settings.worker_min,
                settings.worker_max or max(machine.cores(), settings.worker_min),
            ),
            rules=Rules(
                grow_after=settings.pool_grow_after,
                idle_rounds=settings.pool_idle_rounds,
                cpu_limit=settings.pool_cpu_limit,
                loss_limit=settings.pool_loss_limit,
            ),
            period=settings.pool_period,
        )
        await _until_signalled(supervisor.supervise())


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _until_signalled(work: Coroutine[None, None, None]) -> None:
    """Run `work` until a signal cancels it."""
    working = asyncio.create_task(work)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, working.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await working


def _keys(text: str) -> list[bytes]:
    return parse_keys(text) if text else [os.urandom(KEY_SIZE)]


def _serve_settings() -> ServeSettings:
    settings = read_settings(ServeSettings)
    _keys(settings.page_token_key)
    machines_policy()
    default_user_agent()
    suppression_salt()
    secret_box()
    return settings


def _pool_settings() -> PoolSettings:
    settings = read_settings(PoolSettings)
    if settings.worker_min < 1 or 0 < settings.worker_max < settings.worker_min:
        raise BadEnvironment(
            f"WORKER_MIN={settings.worker_min} and WORKER_MAX={settings.worker_max} are no range"
        )
    return settings


def _allow_descriptors() -> None:
    """Let the process have as many descriptors as it may: a thousand resolvers take as many."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, DESCRIPTORS)
    if limit != resource.RLIM_INFINITY and limit < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))


def main() -> int:
    role, pool = (*sys.argv[1:], "", "")[:2]
    process: Coroutine[None, None, int | None]
    try:
        if role == "serve" and len(sys.argv) == 2:
            process = run_service(_serve_settings())
        elif role in ("work", "pool") and len(sys.argv) <= 3:
            open_probe = probe_of(pool or "dns")
            suppression_salt()
            secret_box()
            machines_policy()
            default_user_agent()
            if role == "work":
                process = run_worker(read_settings(WorkSettings), open_probe)
            else:
                process = run_pool(_pool_settings(), pool or "dns")
        else:
            sys.stderr.write(
                "usage: python -m services.validation serve | work [POOL] | pool [POOL]\n"
            )
            return 2
        log_format = read_settings(LogSettings).log_format
    except (NoSuchPool, BadEnvironment, BadKey) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    telemetry.set_up(f"validation-{role}", json_logs=log_format == "json")
    _allow_descriptors()
    # Objects of the hot path live for milliseconds. A full collection takes some 20 ms; without one
    # now and then, circles that lived for a second would stay for hours, with the pages they hold.
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    try:
        return uvloop.run(process) or 0
    except Exception:
        logging.getLogger(__name__).exception("the process ended")
        return 1


if __name__ == "__main__":
    sys.exit(main())
