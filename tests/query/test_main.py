"""The process: what it needs to start, that it serves, and that it leaves in order."""

import base64
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from domainflow.query.v1 import query_service_pb2 as pb
from domainflow.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.suite.ports import is_free
from tests.query.conftest import Writer

ROOT = Path(__file__).parents[2]
KEY = base64.b64encode(b"k" * 32).decode()


def start(**environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "services.query"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen/python")]),
            **environment,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_missing_variable_is_named_at_once() -> None:
    process = start()
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 2
    assert {"DATABASE_URL", "QUERY_ADDRESS", "PAGE_TOKEN_KEY"} <= set(complaint.split())


def test_a_bad_key_is_refused_before_anything_starts() -> None:
    process = start(DATABASE_URL="x", QUERY_ADDRESS="x", PAGE_TOKEN_KEY=f"{KEY},c2hvcnQ=")
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (2, "key 2 has 5 bytes, not 32\n")


async def test_it_serves_until_it_is_told_to_end(database_url: str, writer: Writer) -> None:
    made = await writer.campaign(3)
    port = next(port for port in range(21_000, 60_000) if is_free(port))
    process = start(
        DATABASE_URL=database_url, QUERY_ADDRESS=f"127.0.0.1:{port}", PAGE_TOKEN_KEY=KEY
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            health = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service="domainflow.query.v1.QueryService"),
                wait_for_ready=True,
            )
            async for answer in health:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break
            page = await QueryServiceStub(channel).ListDomains(
                pb.ListDomainsRequest(campaign_id=str(made))
            )
            assert page.total_size == 3
            health.cancel()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
