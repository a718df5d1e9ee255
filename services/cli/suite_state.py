"""What the suite on a data folder says of itself in suite.json, and whether it still runs."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from services.cli.exits import ExitCode, Failure
from services.cli.terminal import program

DATA_FOLDER = Path(".domainflow")


@dataclass(frozen=True, slots=True)
class Part:
    """One supervised process. `pid` and `port` are None where there is none."""

    name: str
    state: str
    pid: int | None
    port: int | None
    restarts: int


@dataclass(frozen=True, slots=True)
class SuiteState:
    """The file as it was read. `address` is empty until the door is open."""

    pid: int
    address: str
    parts: tuple[Part, ...]

    @property
    def is_running(self) -> bool:
        """Whether its supervisor lives; the file of a killed one stays behind."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return any(part.state != "stopped" for part in self.parts)


def read(data: Path) -> SuiteState | None:
    """None where no suite ever ran."""
    file = data / "suite.json"
    try:
        stored = json.loads(file.read_text())
        parts = tuple(
            Part(name, part["state"], part["pid"], part["port"], part["restarts"])
            for name, part in stored["parts"].items()
        )
        return SuiteState(int(stored["pid"]), str(stored["address"]), parts)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise Failure(f"{file} belongs to another user; name the door with --server") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{file} is damaged ({error}); `{program()} up` writes it anew") from None


def door(data: Path) -> str:
    """Address of the running suite's door."""
    state = read(data)
    if state is None or not state.is_running:
        raise Failure(
            f"no suite runs on {data}: start one with `{program()} up{data_argument(data)}`,"
            " or name a door with --server HOST:PORT",
            ExitCode.NOT_REACHABLE,
        )
    if not state.address:
        raise Failure(f"the suite on {data} is still starting", ExitCode.NOT_REACHABLE)
    return state.address


def door_argument(server: str, data: Path) -> str:
    """` --server ...` or ` --data ...` where a printed command needs it to work when typed."""
    return f" --server {server}" if server else data_argument(data)


def data_argument(data: Path) -> str:
    """` --data DIR`, or nothing for the default."""
    return "" if data == DATA_FOLDER else f" --data {data}"
