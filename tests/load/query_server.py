"""The query service as a process of its own, as the benches meet it."""

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from domainflow.query.v1.query_service_pb2_grpc import QueryServiceStub

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class QueryServer:
    """A running query service and a blocking stub for it."""

    pid: int
    stub: QueryServiceStub
    address: str

    def rss_mb(self) -> float:
        """Resident memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def query_server(database_url: str) -> Iterator[QueryServer]:
    """Start `python -m services.query` and stop it at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen(
        [sys.executable, "-m", "services.query"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(ROOT / "gen/python"), os.environ.get("PYTHONPATH", "")]
            ),
            "DATABASE_URL": database_url,
            "QUERY_ADDRESS": address,
            "PAGE_TOKEN_KEY": base64.b64encode(os.urandom(32)).decode(),
        },
    )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
            yield QueryServer(process.pid, QueryServiceStub(channel), address)
    finally:
        process.terminate()
        process.wait(timeout=30)
