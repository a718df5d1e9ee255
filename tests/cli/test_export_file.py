"""Exports to files: whole or not there, and taken up where they stopped, whatever stopped them."""

import asyncio
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from rich.console import Console
from typer.testing import CliRunner, Result

from domainflow.query.v1 import query_service_pb2_grpc
from domainflow.query.v1 import read_session_pb2 as pb
from domainflow.query.v1.filter_pb2 import DomainFilter
from services.cli import assembly, kept, session_export
from services.cli.__main__ import app
from services.cli.retry import Patience
from services.cli.rows_bar import RowsBar
from services.query.read_sessions import COLUMNS
from tests.cli.test_commands import CAMPAIGN
from tests.eventually import eventually
from tests.query.conftest import Writer

OTHER = "01890000-0000-7000-8000-000000000002"
SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
    ]
)
BATCH = 10
ROOT = Path(__file__).parents[2]
PATHS = f"{ROOT}:{ROOT / 'gen/python'}"


class Sessions(query_service_pb2_grpc.QueryServiceServicer):
    """Campaigns of `count` names, in streams of `size`; stream "7:20" is positions 7 to 19.

    Messages have BATCH rows. Of streams that begin behind `open_to` one message comes, then none
    until `more` is set. `cuts` are the numbers of messages after which the next calls break off.
    """

    def __init__(self, count: int, size: int, *, cuts: list[int] | None = None) -> None:
        self.count, self.size = count, size
        self.cuts = cuts or []
        self.open_to = count
        self.more = threading.Event()
        self.expired = False
        self.code = grpc.StatusCode.UNAVAILABLE
        self.asked: list[pb.CreateReadSessionRequest] = []
        self.read: list[str] = []
        self.lock = threading.Lock()

    def CreateReadSession(
        self, request: pb.CreateReadSessionRequest, context: Any
    ) -> pb.CreateReadSessionResponse:
        self.asked.append(request)
        ends = range(0, self.count, self.size)
        streams = [
            pb.ReadStream(name=f"{first}:{min(first + self.size, self.count)}") for first in ends
        ]
        schema = pa.schema([SCHEMA.field(column) for column in request.columns])
        session = pb.ReadSession(
            streams=streams,
            arrow_schema=bytes(schema.serialize()),
            estimated_row_count=self.count,
        )
        return pb.CreateReadSessionResponse(session=session)

    def ReadRows(self, request: pb.ReadRowsRequest, context: Any) -> Iterator[pb.ReadRowsResponse]:
        with self.lock:
            self.read.append(request.read_stream)
            left = self.cuts.pop(0) if self.cuts else -1
        if self.expired:
            context.abort_with_status(rpc_status.to_status(over()))
        columns = self.asked[-1].columns
        begin, end = map(int, request.read_stream.split(":"))
        for number, first in enumerate(range(begin, end, BATCH)):
            if number == left:
                context.abort(self.code, "the door is closing")
            while number and begin >= self.open_to and not self.more.wait(0.02):
                if not context.is_active():
                    return
            past = min(first + BATCH, end)
            values = {
                "position": list(range(first, past)),
                "name": [f"name{n}.com" for n in range(first, past)],
            }
            batch = pa.RecordBatch.from_pydict(
                {column: values[column] for column in columns},
                schema=pa.schema([SCHEMA.field(column) for column in columns]),
            )
            yield pb.ReadRowsResponse(
                arrow_record_batch=bytes(batch.serialize()),
                row_count=past - first,
                rest_stream=f"{past}:{end}",
            )


def over() -> status_pb2.Status:
    status = status_pb2.Status(
        code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message="the session's time is over"
    )
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="READ_SESSION_EXPIRED", domain="domainflow"))
    status.details.append(packed)
    return status


def export(*arguments: str, address: str) -> Result:
    command = ["domains", "export", CAMPAIGN, *arguments, "--server", address]
    return CliRunner().invoke(app(), command)


def names(count: int) -> list[str]:
    return [f"name{n}.com" for n in range(count)]


@pytest.mark.parametrize("form", ["parquet", "csv", "ndjson"])
@pytest.mark.parametrize("count", [0, 1, 95])
def test_the_file_has_all_rows_in_order_of_position(
    serve: Any, tmp_path: Path, form: str, count: int
) -> None:
    file = tmp_path / "rows"

    result = export(
        "--format", form, "--columns", "position,campaign_id,name", "--output", str(file),
        "--streams", "3", address=serve(rows=Sessions(count, 20, cuts=[1, 0, 2, 0])),
    )  # fmt: skip

    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert f"{count} rows in {file}" in result.stderr
    assert list(tmp_path.iterdir()) == [file]
    wanted = [(n, CAMPAIGN, name) for n, name in enumerate(names(count))]
    if form == "parquet":
        rows = [tuple(row.values()) for row in pq.read_table(file).to_pylist()]
    elif form == "csv":
        header, *lines = csv.reader(file.read_text().splitlines())
        assert header == ["position", "campaign_id", "name"]
        rows = [(int(a), b, c) for a, b, c in lines]
    else:
        rows = [tuple(json.loads(line).values()) for line in file.read_text().splitlines()]
    assert rows == wanted


def test_several_campaigns_come_one_after_the_other(serve: Any, tmp_path: Path) -> None:
    file, sessions = tmp_path / "rows", Sessions(30, 20)
    result = export(
        OTHER, "--format", "csv", "--columns", "campaign_id,name", "--output", str(file),
        address=serve(rows=sessions),
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rows = [f"{campaign},{name}" for campaign in (CAMPAIGN, OTHER) for name in names(30)]
    assert file.read_text().splitlines()[1:] == rows
    assert [request.campaign_id for request in sessions.asked] == [CAMPAIGN, OTHER]


def test_a_file_that_was_there_stays_until_the_new_one_is_whole(serve: Any, tmp_path: Path) -> None:
    file, sessions = tmp_path / "rows", Sessions(95, 20, cuts=[0, 0])
    sessions.code = grpc.StatusCode.DATA_LOSS
    file.write_text("as before")
    arguments = "--columns", "name", "--output", str(file), "--format", "csv"
    address = serve(rows=sessions)

    result = export(*arguments, address=address)
    assert result.exit_code == 1
    assert f"0 rows are kept in {file}.parts: the same command goes on" in result.stderr
    assert file.read_text() == "as before"

    sessions.cuts.clear()
    assert export(*arguments, address=address).exit_code == 0
    assert file.read_text().splitlines() == ["name", *names(95)]
    assert len(sessions.asked) == 1


def parts_with_rows(folder: Path) -> int:
    return sum(part.stat().st_size > 0 for part in folder.glob("*.arrow"))


async def begun(folder: Path, size: int) -> None:
    """Return once something of so many parts is there."""

    async def there() -> None:
        assert parts_with_rows(folder) >= size

    await eventually(there, within=30)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_export_goes_on_after_what_was_kept(
    serve: Any, tmp_path: Path, how: signal.Signals
) -> None:
    """Streams 0 and 1 come whole, of streams 2 and 3 there is one message when it is stopped."""
    file, sessions = tmp_path / "rows.parquet", Sessions(100, 25)
    sessions.open_to = 50
    arguments = ["--format", "parquet", "--columns", "name", "--output", str(file)]
    address = serve(rows=sessions)
    command = ["domains", "export", CAMPAIGN, *arguments, "--server", address]
    folder = tmp_path / "rows.parquet.parts"
    with running(*command) as first:
        asyncio.run(begun(folder, 4))
        second = export(*arguments, address=address)
        assert (second.exit_code, "another command is writing" in second.stderr) == (1, True)
        first.send_signal(how)
        _, said = first.communicate(timeout=30)
    if how == signal.SIGINT:
        assert first.returncode == 130
        assert "70 rows are kept" in said
        assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == [folder]
    # As a write that was under way when the power went.
    with (folder / "000003.arrow").open("ab") as part:
        part.write(b"half a message")
    sessions.read.clear()
    sessions.more.set()

    other = export(*arguments[:-3], "position", *arguments[-2:], address=address)
    assert (other.exit_code, "belongs to an export of other" in other.stderr) == (2, True)
    result = export(*arguments, "--resume", address=address)

    assert result.exit_code == 0, result.stderr
    assert pq.read_table(file)["name"].to_pylist() == names(100)
    assert list(tmp_path.iterdir()) == [file]
    # The session is the same, and what was kept is not read again.
    assert len(sessions.asked) == 1
    kept_rows = 10 if how == signal.SIGINT else 0
    assert sorted(sessions.read) == [f"{50 + kept_rows}:75", f"{75 + kept_rows}:100"]
    assert f"going on after {50 + 2 * kept_rows} rows" in result.stderr


def test_an_export_can_be_gone_on_with_after_every_message(serve: Any, tmp_path: Path) -> None:
    """One message a call, and a new command for each."""
    file, sessions = tmp_path / "rows", Sessions(60, 25)
    address = serve(rows=sessions)
    arguments = "--format", "ndjson", "--columns", "position", "--output", str(file)
    # Not worth another try.
    sessions.code = grpc.StatusCode.DATA_LOSS
    commands = 0
    while not file.exists():
        # Every stream breaks off after a message, unless it has no other.
        sessions.cuts = [1] * 10
        export(*arguments, "--streams", "1", address=address)
        commands += 1
        assert commands < 10
    rows = [json.loads(line)["position"] for line in file.read_text().splitlines()]
    assert rows == list(range(60))
    assert commands == 5
    assert len(sessions.asked) == 1


def test_a_session_that_is_over_is_said_and_can_be_begun_anew(serve: Any, tmp_path: Path) -> None:
    file, sessions = tmp_path / "rows", Sessions(60, 25, cuts=[1, 1])
    sessions.code = grpc.StatusCode.DATA_LOSS
    address = serve(rows=sessions)
    arguments = "--format", "csv", "--columns", "name", "--output", str(file)
    export(*arguments, address=address)
    sessions.cuts.clear()
    sessions.expired = True

    result = export(*arguments, address=address)
    assert result.exit_code == 1
    assert "the session's time is over; what was kept cannot be gone on with" in result.stderr
    assert "--restart" in result.stderr

    sessions.expired = False
    assert export(*arguments, "--restart", address=address).exit_code == 0
    assert file.read_text().splitlines()[1:] == names(60)
    assert len(sessions.asked) == 2


def test_what_cannot_be_done_is_said_before_anything_is(serve: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "rows")
    address = serve(rows=Sessions(10, 10))
    for arguments in (
        ["--format", "parquet"],
        ["--resume"],
        ["--restart"],
        ["--output", file, "--resume", "--restart"],
        ["--output", file, "--columns", "colour"],
        ["--output", file, "--columns", "name,name"],
        ["--output", file, "--streams", "0"],
    ):
        result = export(*arguments, address=address)
        assert result.exit_code == 2, arguments
    result = export("--output", file, "--resume", address=address)
    assert (result.exit_code, "nothing was kept" in result.stderr) == (1, True)
    result = export("--output", str(tmp_path / "none" / "rows"), address=address)
    assert (result.exit_code, "No such file or directory" in result.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder").mkdir()
    result = export("--output", str(tmp_path / "folder"), address=address)
    assert (result.exit_code, "is a folder" in result.stderr) == (2, True)
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_every_filter_is_for_files(serve: Any, tmp_path: Path) -> None:
    file, sessions = tmp_path / "rows", Sessions(10, 10)
    address = serve(rows=sessions)
    filters = "--lead", "qualified", "--tld", ".com", "--min-score", "0.5", "--no-warnings"
    assert export(*filters, address=address).exit_code == 2
    result = export(
        *filters, "--columns", "name", "--output", str(file), "--streams", "16", address=address
    )
    assert result.exit_code == 0, result.stderr
    [asked] = sessions.asked
    wanted = DomainFilter(lead_statuses=[1], tlds=["com"], min_score=0.5, has_warnings=False)
    assert (asked.filter, asked.max_streams) == (wanted, 64)


def test_a_part_that_lost_what_was_synced_is_not_used(tmp_path: Path) -> None:
    part = kept.Part(tmp_path / "0.arrow", CAMPAIGN, b"", "0:10")
    part.find()
    part.add(b"abcdef", 1, "1:10")
    part.keep()
    part.close()
    (tmp_path / "0.arrow").write_bytes(b"abc")
    with pytest.raises(kept.Failure, match="damaged"):
        kept.Part(tmp_path / "0.arrow", CAMPAIGN, b"", "0:10").find()


def test_writing_ends_in_the_middle_of_a_part_when_nobody_wants_it(tmp_path: Path) -> None:
    """A part may be a million rows: who presses Ctrl-C does not wait for the rest of it."""
    part = kept.Part(tmp_path / "0.arrow", CAMPAIGN, b"", "0:2")
    part.find()
    for position in range(2):
        batch = pa.RecordBatch.from_pydict({"position": [position], "name": ["a.com"]}, SCHEMA)
        part.add(bytes(batch.serialize()), 1, f"{position + 1}:2")
    part.finish()
    part.close()
    batches = assembly.batches(part, SCHEMA)
    assert next(batches)["position"].to_pylist() == [0]
    part.drop()
    with pytest.raises(kept.Dropped):
        next(batches)


@pytest.mark.parametrize("between", range(4))
async def test_who_presses_ctrl_c_twice_has_not_to_wait_either(
    serve: Any, tmp_path: Path, between: int
) -> None:
    """The second one comes while the first one still ends the streams."""
    sessions, folder = Sessions(100, 25), kept.Kept(tmp_path / "rows")
    sessions.open_to = 0
    asked = session_export.Asked([CAMPAIGN], ["name"], DomainFilter(), "csv", streams=2)
    with folder.held():
        async with grpc.aio.insecure_channel(serve(rows=sessions)) as channel:
            exporting = asyncio.create_task(
                session_export.export(
                    query_service_pb2_grpc.QueryServiceStub(channel),
                    asked,
                    folder,
                    resume=False,
                    restart=False,
                    bar=lambda total, estimated: RowsBar(Console(quiet=True), total),
                    patience=lambda shown: Patience(),
                )
            )
            await begun(folder.folder, 1)
            exporting.cancel()
            for _ in range(between):
                await asyncio.sleep(0)
            exporting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exporting
        plan = folder.plan()
        assert plan is not None
        # Of each stream that is read, the message that came.
        assert sum(part.rows for part in folder.parts(plan)) > 0
    assert not folder.output.exists()


def test_one_command_at_a_time_has_the_folder_of_an_export(tmp_path: Path) -> None:
    """Also when one comes while another one, which is done, takes the folder away."""
    output, inside = tmp_path / "rows", threading.Lock()
    rounds, troubles = [0] * 4, []

    def begin_and_finish(number: int) -> None:
        while rounds[number] < 80 and not troubles:
            folder = kept.Kept(output)
            try:
                with folder.held():
                    if not inside.acquire(blocking=False):
                        raise AssertionError("two have it")
                    folder.begin(kept.Plan({}, [], 0, estimated=False))
                    folder.forget()
                    rounds[number] += 1
                    inside.release()
            except kept.Failure:
                # Another one has it.
                continue
            except BaseException as error:
                troubles.append(error)

    threads = [threading.Thread(target=begin_and_finish, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    assert list(tmp_path.iterdir()) == []


def test_a_restart_that_reaches_nobody_loses_nothing(serve: Any, tmp_path: Path) -> None:
    sessions = Sessions(30, 30, cuts=[2])
    sessions.code = grpc.StatusCode.PERMISSION_DENIED
    arguments = ["--columns", "name", "--output", str(tmp_path / "rows")]

    def there() -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in (tmp_path / "rows.parts").iterdir()}

    assert export(*arguments, address=serve(rows=sessions)).exit_code != 0
    before = there()
    assert export(*arguments, "--restart", address="127.0.0.1:9").exit_code != 0
    assert there() == before


def test_columns_are_those_of_the_service() -> None:
    assert session_export.COLUMNS == COLUMNS


def test_the_bar_counts_only_what_this_command_read_into_its_speed() -> None:
    now = [0.0]
    console = Console(record=True, width=100)
    with RowsBar(console, 2_000, interval=5, clock=lambda: now[0]) as bar:
        bar.begin(1_000)
        for _ in range(4):
            now[0] += 2
            bar.add(100)
        assert bar.line() == "1,400 of 2,000 rows  50/s  0:12 left"
    said = console.export_text().splitlines()
    assert said == [
        "going on after 1,000 rows that are there already",
        "1,300 of 2,000 rows  50/s  0:14 left",
    ]


async def test_an_export_outlives_the_service(database_url: str, tmp_path: Path) -> None:
    """The real service, killed in the middle of an export; every column against SQL."""
    connection = await asyncpg.connect(database_url)
    try:
        writer = Writer(connection)
        made = await writer.campaign(120_000)
        await writer.plan(made, 120_000, 120_000)
        await connection.execute(
            """INSERT INTO dns_results (campaign_no, run, position, verdict, rcode, attempt_count,
                tcp, duration_us, check_time_us, addresses)
            SELECT $1, 1, g, 1 + g % 2, 0, 1, false, 1, g, CASE g % 2 WHEN 0 THEN '192.0.2.1' END
            FROM generate_series(0, 119999) g""",
            made.no,
        )
    finally:
        await connection.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    file = tmp_path / "rows.parquet"
    service = started(database_url, address)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        arguments = ["domains", "export", str(made), "--format", "parquet", "--output", str(file)]
        with running(*arguments, "--server", address) as command:
            await begun(tmp_path / "rows.parquet.parts", 1)
            service.kill()
            service.wait()
            service = started(database_url, address)
            _, said = await asyncio.to_thread(command.communicate)
        assert command.returncode == 0, said
    finally:
        service.kill()
        service.wait()
    table = pq.read_table(file)
    assert table["position"].to_pylist() == list(range(120_000))
    assert table["name"].to_pylist() == [f"name-{n}.example" for n in range(120_000)]
    assert table["dns_verdict"].to_pylist() == ["RESOLVED", "NXDOMAIN"] * 60_000
    assert table["addresses"].to_pylist() == [["192.0.2.1"], []] * 60_000
    assert set(table["score"].to_pylist()) == {None}


def running(*arguments: str) -> "subprocess.Popen[str]":
    """The command line in a process of its own, made without a fork of this one's gRPC threads.

    As from a terminal, although tests may run where Ctrl-C is ignored.
    """
    program = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("services.cli", run_name="__main__", alter_sys=True)
"""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PATHS},
    )


def started(database_url: str, address: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "services.query"],
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "PYTHONPATH": PATHS,
            "DATABASE_URL": database_url,
            "QUERY_ADDRESS": address,
            "PAGE_TOKEN_KEY": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
        },
    )
