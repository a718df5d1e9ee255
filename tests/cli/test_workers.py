"""`domainflow workers`, and how many `up` is told to start."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from domainflow.validation.v1 import validation_service_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc
from domainflow.validation.v1.task_pb2 import EndpointLoad, WorkerLoad
from services.cli.__main__ import app
from services.cli.up import worker_processes
from services.cli.workers import pool_table, worker_table
from services.suite.suite import WorkerRange

REASON = "2 -> 3 processes: 1.2M names wait, 40 s at 30,000/s"
POOL = pb.WorkerPool(
    pool="dns",
    host="machine",
    process_count=3,
    task_limit=10_000,
    min_process_count=1,
    max_process_count=8,
    reason=REASON,
)
WORKER = pb.Worker(
    worker_id="machine-7-aa",
    pool="dns",
    host="machine",
    pid=7,
    chunks_in_flight=12,
    settled_count=1_234_567,
    load=WorkerLoad(
        cpu_cores=0.87,
        memory_bytes=90 << 20,
        names_per_second=30_000,
        loss=0.004,
        latency_us=12_300,
        endpoints=[EndpointLoad(endpoint="192.0.2.1:53", loss=0.02, latency_us=15_000)],
    ),
)


class Validation(validation_service_pb2_grpc.ValidationServiceServicer):
    def ListPools(self, request: Any, context: Any) -> Any:
        return pb.ListPoolsResponse(worker_pools=[POOL])

    def ListWorkers(self, request: Any, context: Any) -> Any:
        return pb.ListWorkersResponse(workers=[WORKER])


def shown(table: Any) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_pools_and_workers_are_told_in_json(serve: Callable[..., str]) -> None:
    address = serve(validation=Validation())

    result = CliRunner().invoke(app(), ["workers", "--json", "--server", address])

    assert result.exit_code == 0, result.stderr
    pools, workers = (json.loads(line) for line in result.stdout.splitlines())
    assert pools["workerPools"][0]["reason"] == REASON
    assert workers["workers"][0]["load"]["cpuCores"] == 0.87


def test_door_that_does_not_answer_ends_with_five() -> None:
    result = CliRunner().invoke(app(), ["workers", "--server", "127.0.0.1:1"])

    assert result.exit_code == 5
    assert len(result.stderr.splitlines()) == 1


def test_tables_show_the_reason_and_the_figures() -> None:
    pools, workers = shown(pool_table([POOL])), shown(worker_table([WORKER, pb.Worker()]))

    assert REASON in pools
    assert "1-8" in pools
    for figure in ("1,234,567", "30,000", "0.87", "90 MB", "0.4%", "12.3 ms", "192.0.2.1:53"):
        assert figure in workers


@pytest.mark.parametrize(
    ("text", "meant"),
    [("auto", WorkerRange(1, 0)), ("3", 3), ("1-4", WorkerRange(1, 4)), ("2-2", WorkerRange(2, 2))],
)
def test_workers_are_a_number_a_range_or_left_to_the_work(
    text: str, meant: int | WorkerRange
) -> None:
    assert worker_processes(text) == meant


@pytest.mark.parametrize("text", ["0", "65", "4-1", "1-", "-3", "many", "", "1-4-5", "1.5"])
def test_anything_else_is_wrong_usage(text: str, tmp_path: Any) -> None:
    result = CliRunner().invoke(app(), ["up", f"--workers={text}", "--data", str(tmp_path)])

    assert result.exit_code == 2
    assert "--workers" in result.stderr


def test_there_may_be_no_workers_for_pages(tmp_path: Any) -> None:
    assert worker_processes("0", "--http-workers", least=0) == 0

    result = CliRunner().invoke(app(), ["up", "--http-workers=0-2", "--data", str(tmp_path)])

    assert result.exit_code == 2
    assert "--http-workers" in result.stderr
