"""`domainflow workers`: the pools with the reason for their size, and what each worker does."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.markup import escape
from rich.table import Table

from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc
from services.cli import terminal
from services.cli.connection import (
    DATA_FOLDER,
    DEADLINE,
    DataOption,
    ServerOption,
    connected,
    locate,
    run,
)


def workers(
    json: Annotated[
        bool,
        typer.Option("--json", help="JSON on standard output: a line of pools, one of workers."),
    ] = False,
    server: ServerOption = "",
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show the worker pools, why they are as large as they are, and the load of every worker.

    A fixed number of workers (`up --workers 3`) makes no pool: nothing is decided then.
    """

    async def work() -> None:
        async with connected(locate(server, data)) as channel:
            stub = validation_service_pb2_grpc.ValidationServiceStub(channel)
            pools, present = await asyncio.gather(
                stub.ListPools(pb.ListPoolsRequest(), timeout=DEADLINE),
                stub.ListWorkers(pb.ListWorkersRequest(), timeout=DEADLINE),
            )
        if json or not terminal.is_watched():
            terminal.emit(terminal.as_json(pools))
            terminal.emit(terminal.as_json(present))
            return
        if pools.worker_pools:
            terminal.show(pool_table(pools.worker_pools))
            terminal.paper().print()
        terminal.show(worker_table(present.workers))

    run(work())


def pool_table(pools: Sequence[pb.WorkerPool]) -> Table:
    headings = ("pool", "host", "processes", "range", "chunks each", "decided", "because")
    shown = terminal.table("", headings, right=("processes", "chunks each"))
    for pool in pools:
        shown.add_row(
            pool.pool,
            escape(pool.host),
            str(pool.process_count),
            f"{pool.min_process_count}-{pool.max_process_count}",
            f"{pool.task_limit:,}",
            _moment(pool.decide_time),
            escape(pool.reason),
        )
    return shown


def worker_table(present: Sequence[pb.Worker]) -> Table:
    figures = ("pid", "chunks", "names/s", "settled", "cores", "memory", "loss", "answers in")
    shown = terminal.table("", ("pool", "host", *figures, "slowest"), right=figures)
    for worker in present:
        load = worker.load
        worst = load.endpoints[0] if load.endpoints else None
        shown.add_row(
            worker.pool,
            escape(worker.host),
            str(worker.pid),
            f"{worker.chunks_in_flight:,}",
            f"{load.names_per_second:,.0f}",
            f"{worker.settled_count:,}",
            f"{load.cpu_cores:.2f}",
            f"{load.memory_bytes / 1024**2:,.0f} MB",
            f"{load.loss:.1%}",
            f"{load.latency_us / 1000:,.1f} ms" if load.latency_us else "",
            f"{worst.endpoint} {worst.latency_us / 1000:,.1f} ms, {worst.loss:.1%} lost"
            if worst
            else "",
        )
    return shown


def _moment(time: Timestamp) -> str:
    return f"{time.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
