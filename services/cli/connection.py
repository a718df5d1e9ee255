"""Finds the door, opens the channel, and turns the end of a command into an exit code."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import grpc
import typer
from google.protobuf.descriptor import MethodDescriptor

from domainflow.campaign.v1 import campaign_service_pb2
from domainflow.query.v1 import query_service_pb2
from domainflow.validation.v1 import validation_service_pb2
from services.cli import refusal, suite_state
from services.cli.exits import ExitCode, Failure
from services.cli.suite_state import DATA_FOLDER as DATA_FOLDER
from services.cli.terminal import complain, program, say
from services.suite.lock import FolderInUse
from services.suite.ports import PortTaken
from services.suite.process import StartFailed

# Seconds a unary call may take, with its repeats.
DEADLINE = 30.0

ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="DOMAINFLOW_SERVER",
        metavar="HOST:PORT",
        help="The door to speak to (https://HOST:PORT for TLS). Default: the suite that runs on"
        " the data folder.",
    ),
]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="DOMAINFLOW_DATA",
        metavar="DIR",
        help="Data folder of the suite: its database, queue, logs and suite.json.",
    ),
]

T = TypeVar("T")


# A repeat of these finds the work of the first, and complains of it or tells less: they change
# something and carry no request_id.
_CHANGES = ("Update", "Delete", "Import", "Set", "Add", "Remove", "Bulk")


def _repeatable() -> list[dict[str, str]]:
    """Every unary method that may be: reads change nothing, and mutations carry a request_id.

    Streams are taken up again where they were cut (watch.py, upload.py, export.py).
    """
    files = (campaign_service_pb2, query_service_pb2, validation_service_pb2)
    services = [s for file in files for s in file.DESCRIPTOR.services_by_name.values()]
    return [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if not (method.client_streaming or method.server_streaming or _is_once(method))
    ]


def _is_once(method: MethodDescriptor) -> bool:
    has_id = "request_id" in method.input_type.fields_by_name
    return method.name.startswith(_CHANGES) and not has_id


_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": _repeatable(),
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def locate(server: str, data: Path) -> str:
    """Address of the door: as told, else as the suite on `data` wrote it down."""
    return server or suite_state.door(data)


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the door. Nothing is sent before the first call."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", 64 * 1024 * 1024),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        # A door that vanished without a word is noticed while a stream is open.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    scheme, _, rest = address.rpartition("://")
    target = rest.rstrip("/")
    if scheme == "https":
        channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options)
    elif scheme in ("", "http"):
        channel = grpc.aio.insecure_channel(target, options)
    else:
        raise Failure(f"{address}: only http:// and https:// are spoken", ExitCode.USAGE)
    async with channel:
        yield channel


def run(work: Coroutine[object, object, T], on_interrupt: Callable[[], str] | None = None) -> T:
    """Run a command to its end; every known way to fail becomes one line and an exit code."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        say(on_interrupt() if on_interrupt else "interrupted")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:
        # The reader has what it wanted (`| head`). Nothing may be flushed into the pipe at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.OK) from None
    except grpc.aio.AioRpcError as error:
        said = refusal.read(error)
        complain(f"{said}{_advice(said)}")
        raise typer.Exit(said.exit_code) from None
    except asyncio.CancelledError:
        complain("stopped")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except (FolderInUse, PortTaken, StartFailed) as failure:
        complain(str(failure))
        raise typer.Exit(ExitCode.FAILURE) from None
    except Failure as failure:
        complain(str(failure))
        raise typer.Exit(failure.code) from None
    except OSError as error:
        complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        raise typer.Exit(ExitCode.FAILURE) from None


def _advice(said: refusal.Refusal) -> str:
    if said.exit_code is ExitCode.NOT_REACHABLE and not said.reason:
        called = program()
        return f"; is the suite running? `{called} doctor` tells, `{called} up` starts it"
    return ""
