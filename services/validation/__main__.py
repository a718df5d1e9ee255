"""The validation service as a process: `python -m services.validation serve` or `... work`."""

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass

import uvloop

from domainflow.validation.v1 import validation_service_pb2, validation_service_pb2_grpc
from services.chassis import jetstream, telemetry
from services.chassis.config import BadEnvironment, read_settings
from services.chassis.contract import VALIDATION
from services.chassis.postgres import AWAY, Pulse, open_pool
from services.chassis.server import serve
from services.validation.engines import Engines
from services.validation.service import ValidationService, check_names
from services.validation.store import Store
from services.validation.worker import Worker


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Environment of the role `serve`; names in upper case."""

    database_url: str
    # host:port to listen on.
    validation_address: str


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """Environment of the role `work`; names in upper case."""

    database_url: str
    nats_url: str


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Environment of both roles. `log_format` is text or json."""

    log_format: str = "text"


async def run_service(settings: ServeSettings) -> None:
    """Answer calls until a signal ends it."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(
            settings.database_url, application_name="domainflow-validation", max_size=4
        )
        stack.push_async_callback(pool.close)
        pulse = await stack.enter_async_context(Pulse(settings.database_url))
        engines = await stack.enter_async_context(Engines())
        store = Store(pool)
        service = ValidationService(store=store, engines=engines)
        await serve(
            settings.validation_address,
            service_name=VALIDATION,
            register=lambda server: (
                validation_service_pb2_grpc.add_ValidationServiceServicer_to_server(service, server)
            ),
            ready=pulse.check,
            rules={validation_service_pb2.CheckNamesRequest: check_names},
        )


async def run_worker(settings: WorkSettings) -> None:
    """Take chunks until a signal ends it; claims are then given back."""
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
        engines = await stack.enter_async_context(Engines())
        store = Store(pool)
        host, pid = socket.gethostname(), os.getpid()
        worker_id = f"{host}-{pid}-{secrets.token_hex(4)}"
        worker = Worker(
            store=store, queue=queue, engines=engines, worker_id=worker_id, host=host, pid=pid
        )

        loop = asyncio.get_running_loop()
        working = asyncio.create_task(worker.work())
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, working.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await working
        with contextlib.suppress(*AWAY):
            await store.sign_off(worker_id)


def main() -> int:
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    process: Coroutine[None, None, None]
    try:
        if role == "serve":
            process = run_service(read_settings(ServeSettings))
        elif role == "work":
            process = run_worker(read_settings(WorkSettings))
        else:
            sys.stderr.write("usage: python -m services.validation serve|work\n")
            return 2
        log_format = read_settings(LogSettings).log_format
    except BadEnvironment as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    telemetry.set_up(f"validation-{role}", json_logs=log_format == "json")
    # Objects of the hot path live for milliseconds; full collections only walk what stays.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    try:
        uvloop.run(process)
    except Exception:
        logging.getLogger(__name__).exception("the process ended")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
