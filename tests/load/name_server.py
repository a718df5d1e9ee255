"""A fast authoritative server to measure against: Debian's knot, a generated zone, loopback."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ZONE = "com"
# Enough for a zone of a million names on one shared core.
START_LIMIT = 60.0


class NoNameServer(RuntimeError):
    """knot is neither installed nor installable here."""


def tool(command: str, package: str) -> str | None:
    """The path of a program, installed from Debian if need be; None where that cannot be."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    found = shutil.which(command, path=path)
    if found or os.geteuid() != 0 or not shutil.which("apt-get"):
        return found
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", package]):
        subprocess.run(
            ["apt-get", "-q", *arguments], env=environment, stdout=subprocess.DEVNULL, check=False
        )
    return shutil.which(command, path=path)


def exists(number: int) -> bool:
    """Whether name<number> is in the zone: two in five are."""
    return number % 5 < 2


def address_of(number: int) -> str:
    return f"127.{64 + (number >> 16) % 64}.{number >> 8 & 255}.{number & 255}"


@contextmanager
def fast_name_server(names: int, *, workers: int = 1) -> Iterator[str]:
    """Serve name0.com ... of which `exists` says which are there; yields "host:port"."""
    program = tool("knotd", "knot")
    if program is None:
        raise NoNameServer("knotd is missing: run `apt-get install knot` as root")
    with tempfile.TemporaryDirectory(prefix="knot-") as folder:
        port = _free_port()
        configuration = _write(Path(folder), port, names, workers)
        process = subprocess.Popen(
            [program, "-c", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _await_answer(process, port)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stderr is not None:
                process.stderr.close()


def _write(folder: Path, port: int, names: int, workers: int) -> Path:
    with (folder / "zone").open("w", encoding="ascii") as zone:
        zone.write(f"$ORIGIN {ZONE}.\n$TTL 300\n@ SOA ns. host. 1 900 300 86400 300\n@ NS ns.\n")
        zone.writelines(
            f"name{number} A {address_of(number)}\n" for number in range(names) if exists(number)
        )
    configuration = folder / "knot.conf"
    configuration.write_text(
        f"""
server:
  rundir: {folder}
  listen: 127.0.0.1@{port}
  udp-workers: {workers}
  tcp-workers: 1
  background-workers: 1
database:
  storage: {folder}
log:
  - target: stderr
    any: error
zone:
  - domain: {ZONE}.
    file: {folder}/zone
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
""",
        encoding="ascii",
    )
    return configuration


def _free_port() -> int:
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as streams,
        ):
            datagrams.bind(("127.0.0.1", 0))
            port: int = datagrams.getsockname()[1]
            try:
                streams.bind(("127.0.0.1", port))
            except OSError:
                # Free over UDP only.
                continue
            return port


def _await_answer(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Until the zone is loaded: name0.com resolves."""
    question = b"\0\1\0\0\0\1\0\0\0\0\0\0\5name0\3com\0\0\1\0\1"
    deadline = time.monotonic() + START_LIMIT
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        sock.connect(("127.0.0.1", port))
        while time.monotonic() < deadline:
            if process.poll() is not None:
                errors = process.stderr.read() if process.stderr else b""
                raise NoNameServer(f"knotd ended: {errors.decode(errors='replace')[-500:]}")
            try:
                sock.send(question)
                answer = sock.recv(512)
            except OSError:
                # Not bound yet, or not loaded yet; a refusal comes at once.
                time.sleep(0.05)
                continue
            if answer[3] & 0x0F == 0 and answer[6:8] == b"\0\1":
                return
            time.sleep(0.05)
    raise NoNameServer(f"knotd did not load the zone in {START_LIMIT:.0f} s")
