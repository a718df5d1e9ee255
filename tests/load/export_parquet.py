"""Rows a second from the tables to one Parquet file, against psql copying the same join.

The whole command counts: its start, the session, the streams, the file that is whole and synced.
"""

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq

from domainflow.query.v1 import read_session_pb2 as pb
from services.suite.postgres import binaries
from tests.load.dataset import Dataset, dataset
from tests.load.query_server import ROOT, QueryServer, query_server

ROUNDS = 3
STREAMS = 2
# As the joined statement that anybody would write; every column of a row.
_COPY = """COPY (
    SELECT d.position, d.name, r.verdict, r.rcode, r.addresses, r.resolver, r.check_time_us,
        h.verdict, h.status_code, h.final_url, h.title, a.score, l.status, l.reason
    FROM domains d
    LEFT JOIN dns_results r ON r.campaign_no = {no} AND r.run = 1 AND r.position = d.position
    LEFT JOIN http_results h ON h.campaign_no = {no} AND h.run = 1 AND h.position = d.position
    LEFT JOIN page_analyses a ON a.campaign_no = {no} AND a.run = 1 AND a.position = d.position
    LEFT JOIN leads l ON l.campaign_no = {no} AND l.run = 1 AND l.position = d.position
    WHERE d.campaign_no = {no}
) TO STDOUT"""


def run() -> list[dict[str, Any]]:
    data = dataset(os.environ.get("TIER", "2m"))
    copied, exported, streamed, sizes = [], [], [], []
    with query_server(data.database_url) as server, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "names.parquet"
        # Also compiles the modules, as an installation has them.
        _export(server, data.small, file)
        memory = [server.rss_mb()]
        for _ in range(ROUNDS):
            copied.append(data.large_count / _copy_seconds(data))
            streamed.append(data.large_count / _stream_seconds(server, data))
            exported.append(data.large_count / _export(server, data.large, file))
            assert pq.read_metadata(file).num_rows == data.large_count
            sizes.append(file.stat().st_size / 2**20)
            memory.append(server.rss_mb())
    yardstick = {"name": "psql COPY of the same join", "value": median(copied), "unit": "rows/s"}
    client_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return [
        {
            "name": f"export_parquet {what}",
            "value": median(values),
            "unit": "rows/s",
            "yardstick": yardstick,
            "ratio": median(values) / yardstick["value"],
            "target": "ratio >= 1",
            "rows": data.large_count,
            "streams": STREAMS,
            "rounds": {"measured": values, "copied": copied},
            "service_mb": memory,
            "client_mb": client_mb,
            "file_mb": sizes[-1],
        }
        for what, values in (("file", exported), ("streams", streamed))
    ]


def _export(server: QueryServer, campaign_id: UUID, file: Path) -> float:
    """Seconds of the command."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'gen/python'}",
        "PYTHONPYCACHEPREFIX": str(file.parent / "compiled"),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    begun = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "services.cli", "domains", "export", str(campaign_id)),
            *("--format", "parquet", "--output", str(file), "--streams", str(STREAMS)),
            *("--server", server.address),
        ],
        cwd=ROOT,
        env=environment,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


def _stream_seconds(server: QueryServer, data: Dataset) -> float:
    """Seconds until all streams have ended, side by side; nobody looks at the batches."""
    begun = time.perf_counter()
    request = pb.CreateReadSessionRequest(campaign_id=str(data.large), max_streams=STREAMS)
    session = server.stub.CreateReadSession(request).session
    received: list[int] = []

    def read(name: str) -> None:
        messages = server.stub.ReadRows(pb.ReadRowsRequest(read_stream=name))
        received.extend(message.row_count for message in messages)

    readers = [threading.Thread(target=read, args=(each.name,)) for each in session.streams]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    elapsed = time.perf_counter() - begun
    assert sum(received) == data.large_count
    return elapsed


def _copy_seconds(data: Dataset) -> float:
    begun = time.perf_counter()
    subprocess.run(
        [
            *(str(binaries() / "psql"), "--no-psqlrc", "--dbname", data.database_url),
            *("--command", _COPY.format(no=data.large_no)),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun
