"""Machines that are none: network namespaces, each on a cable of its own to this one.

A process in one has its own interfaces, routes and ports; pulling the cable is what an unplugged
machine looks like from here. Needs root and `ip`; `why_not` says what is missing.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# For tests of networks alone (RFC 2544); the third byte keeps runs beside each other apart.
_NETWORK = "198.18.{run}.{host}"
HERE = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to start a process: `prefix` goes before its command."""

    name: str
    address: str
    prefix: tuple[str, ...] = ()
    bridge: str = ""

    def unplug(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        _ip("link", "set", self.name, "nomaster")

    def plug_in(self) -> None:
        _ip("link", "set", self.name, "master", self.bridge)


@dataclass(frozen=True, slots=True)
class Lan:
    """`host` is this machine's address in it; `network` is all of them."""

    host: str
    network: str
    machines: tuple[Machine, ...]


def why_not() -> str:
    """Why there can be no namespaces here; "" where they can be made."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "network namespaces need ip (package iproute2)"
    name = f"dft{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.strip()}"
    try:
        _ip("link", "add", name, "type", "bridge")
        _ip("link", "delete", name)
    except subprocess.CalledProcessError as error:
        return f"no bridges here: {error.stderr.strip()}"
    finally:
        _ip("netns", "delete", name)
    return ""


@contextlib.contextmanager
def lan(count: int) -> Iterator[Lan]:
    """A bridge and so many machines on it."""
    _remove_leftovers()
    run = os.getpid() % 250 + 1
    bridge = f"df{os.getpid()}"
    machines = tuple(
        Machine(name, _NETWORK.format(run=run, host=number), ("ip", "netns", "exec", name), bridge)
        for number, name in (
            (each, f"{bridge}-{each}") for each in range(HERE + 1, HERE + 1 + count)
        )
    )
    address = _NETWORK.format(run=run, host=HERE)
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{address}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for machine in machines:
            name = machine.name
            _ip("netns", "add", name)
            # The end on the bridge carries the machine's name, the other one is its eth0.
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", bridge, "up")
            _ip("-netns", name, "address", "add", f"{machine.address}/24", "dev", "eth0")
            _ip("-netns", name, "link", "set", "lo", "up")
            _ip("-netns", name, "link", "set", "eth0", "up")
        yield Lan(address, _NETWORK.format(run=run, host="0/24"), machines)
    finally:
        for machine in machines:
            _remove(machine.name)
        _remove(bridge)


def _remove_leftovers() -> None:
    """What a test that was killed could not take away."""
    links = [path.name for path in Path("/sys/class/net").glob("df[0-9]*")]
    for name in links:
        owner = name.removeprefix("df").partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _remove(name)


def _remove(name: str) -> None:
    for kind in ("netns", "link"):
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip(kind, "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
