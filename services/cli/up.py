"""`domainflow up`: the whole suite in the foreground, until told to stop."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Annotated

import typer

from services.cli import terminal
from services.cli.connection import DATA_FOLDER, DataOption, run
from services.cli.exits import ExitCode
from services.cli.startup import Startup
from services.cli.suite_state import data_argument
from services.suite.suite import Options, Suite, WorkerRange

NUMBERS = "N|MIN-MAX|auto"


def up(
    data: DataOption = DATA_FOLDER,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port of the door. Default: 8080 or the next free one."
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar=NUMBERS,
            help="Processes that ask DNS: so many, or as many within a range as there is work for."
            " auto: from 1 to the number of cores.",
        ),
    ] = "auto",
    http_workers: Annotated[
        str,
        typer.Option(metavar=f"{NUMBERS}|0", help="As --workers: processes that fetch pages."),
    ] = "auto",
    analysis_workers: Annotated[
        str,
        typer.Option(
            metavar=f"{NUMBERS}|0",
            help="As --workers: processes that score pages and decide on leads.",
        ),
    ] = "auto",
    replica: Annotated[
        bool,
        typer.Option(
            "--replica",
            help="Run a second PostgreSQL that follows the first and answers reads that may be"
            " behind. Takes as much disk again.",
        ),
    ] = False,
) -> None:
    """Run the suite on this machine: PostgreSQL, NATS, the services, and Envoy as the only door.

    Stays in the foreground. Ctrl-C or SIGTERM stops everything in order, a second one at once.
    All data is below the data folder and survives, also a kill -9. The door's address is printed
    on standard output once everything is ready.

    With DATABASE_URL or NATS_URL set, the servers that they name are used instead.
    """
    suite: Suite | None = None
    processes = worker_processes(workers)
    further = {
        "http_workers": worker_processes(http_workers, "--http-workers", least=0),
        "analysis_workers": worker_processes(analysis_workers, "--analysis-workers", least=0),
    }

    async def serve() -> None:
        nonlocal suite
        with Startup(terminal.eyes()) as startup:
            options = Options.from_environment(
                port=port, workers=processes, replica=replica, **further
            )
            suite = Suite(data, options, on_change=startup.take)
            await suite.start()
        try:
            terminal.emit(f"http://{suite.address}")
            terminal.say(_next_commands(data_argument(data)))
            await asyncio.Event().wait()
        finally:
            await suite.stop()

    def at_once() -> None:
        for name, process in (suite.processes if suite else {}).items():
            if process.pid is not None:
                # PostgreSQL's immediate shutdown takes its backends along; the log is replayed.
                how = signal.SIGQUIT if name in ("postgres", "replica") else signal.SIGKILL
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, how)
        os._exit(ExitCode.INTERRUPTED)

    run(until_signalled(serve(), at_once))


def worker_processes(text: str, option: str = "--workers", *, least: int = 1) -> int | WorkerRange:
    """Read --workers: "3", "1-4" or "auto", each number from 1 to 64; one alone from `least` on.
    Raises BadParameter."""
    if text == "auto":
        return WorkerRange()
    fewest, dash, most = text.partition("-")
    numbers = [fewest, most] if dash else [fewest]
    least = 1 if dash else least
    if not all(it.isascii() and it.isdigit() and least <= int(it) <= 64 for it in numbers):
        raise typer.BadParameter(
            f"{text!r} is neither a number of {least}-64, nor a range such as 1-4, nor auto",
            param_hint=option,
        )
    if not dash:
        return int(fewest)
    if int(fewest) > int(most):
        raise typer.BadParameter(f"{text!r} begins above its end", param_hint=option)
    return WorkerRange(int(fewest), int(most))


async def until_signalled(
    work: Coroutine[object, object, None], at_once: Callable[[], None]
) -> None:
    """Run `work`; a signal cancels it, which is a good end here, and a second one means at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    signalled = False

    def stop() -> None:
        nonlocal signalled
        if signalled:
            at_once()
        signalled = True
        terminal.say("stopping; once more stops at once")
        task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not signalled:
            raise
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
    terminal.say("stopped")


def _next_commands(data: str) -> str:
    return (
        "\nThe suite is ready; Ctrl-C stops it. Next, in another terminal:\n\n"
        f"  domainflow check example.com --http{data}\n"
        "  domainflow campaign create --name shops --pattern PREFIX --prefix-length 2"
        f" --constant shop --tld .com --watch{data}\n"
        f"  domainflow campaign list{data}\n"
    )
