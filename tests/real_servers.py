"""A small Internet of independent servers: Debian's knot and nsd for zones, unbound to recurse.

The zones hold every kind of name that can be written into a zone file, and `Domain` says which name
is what. Needs Linux, for it listens on three addresses of 127.0.0.0/8.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

KNOT, NSD = "127.0.1.2", "127.0.1.3"
UNBOUND = "127.0.0.1"
# A zone below which every signature is broken: unbound trusts a key for it that is not there.
BROKEN = "broken.com"
TLDS = ("com", "net")
START_LIMIT = 30.0
PROGRAMS = {"knotd": "knot", "nsd": "nsd", "unbound": "unbound"}


class NoServers(RuntimeError):
    """A program is missing, or did not start."""


class Kind(IntEnum):
    """What a domain is; half of the sixteen numbers are of the first two."""

    ABSENT = 0
    ADDRESS = 1
    ADDRESSES = 2
    V6_ONLY = 3
    ALIAS = 4
    MAIL_ONLY = 5
    # A zone of its own, with "www" below it, and in one of two a wildcard.
    DELEGATED = 6
    DANGLING = 7
    # Delegated to a server that knows nothing of it.
    LAME = 8


_KINDS = (
    *(Kind.ABSENT,) * 5,
    *(Kind.ADDRESS,) * 4,
    Kind.ADDRESSES,
    Kind.V6_ONLY,
    Kind.ALIAS,
    Kind.MAIL_ONLY,
    Kind.DELEGATED,
    Kind.DELEGATED,
    Kind.DANGLING,
)


@dataclass(frozen=True, slots=True)
class Domain:
    """name<number>.com or .net."""

    number: int

    @property
    def name(self) -> str:
        return f"name{self.number}.{TLDS[self.number // 16 % 2]}"

    @property
    def kind(self) -> Kind:
        if self.number % 200 == 14:
            return Kind.LAME
        return _KINDS[self.number % 16]

    @property
    def wildcard(self) -> bool:
        return self.kind is Kind.DELEGATED and self.number // 32 % 2 == 0

    @property
    def address(self) -> str:
        return f"127.{64 + (self.number >> 16) % 64}.{self.number >> 8 & 255}.{self.number & 255}"


def names(domains: int) -> Iterator[tuple[str, bool]]:
    """Names to ask for, and whether each resolves through a wildcard only."""
    for number in range(domains):
        domain = Domain(number)
        yield domain.name, False
        if domain.kind is Kind.DELEGATED:
            yield f"www.{domain.name}", False
            yield f"other{number}.{domain.name}", domain.wildcard
            yield f"own.{domain.name}", False
        if number % 500 == 3:
            yield f"name{number}.{BROKEN}", False


def missing() -> str:
    """What keeps the servers from being started here; empty if nothing does."""
    if sys.platform != "linux":
        return "only Linux listens on all of 127.0.0.0/8"
    absent = [package for command, package in PROGRAMS.items() if not _find(command)]
    return f"not installed: {', '.join(absent)}" if absent else ""


@dataclass(frozen=True, slots=True)
class Internet:
    """Where the servers listen."""

    # Of the root and all zones.
    port: int
    root: str
    # Two recursive resolvers at UNBOUND.
    resolvers: tuple[int, int]


@contextmanager
def internet(domains: int) -> Iterator[Internet]:
    """All servers, for as many domains. Raises NoServers."""
    if reason := missing():
        raise NoServers(reason)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="internet-")))
        port = _free_port(KNOT, NSD)
        ports = _free_port(UNBOUND), _free_port(UNBOUND)
        zones = _write_zones(folder, domains)
        knot = _write_knot(folder, port)
        nsd = _write_nsd(folder, port, zones)
        stack.enter_context(_running([_find("knotd"), "-c", str(knot)], folder / "knot.log"))
        stack.enter_context(_running([_find("nsd"), "-d", "-c", str(nsd)], folder / "nsd.log"))
        _await_answer((KNOT, port), "name5.com", folder / "knot.log")
        _await_answer((NSD, port), "name21.net", folder / "nsd.log")
        for number, own in enumerate(ports):
            log = folder / f"unbound{number}.log"
            unbound = _write_unbound(folder, own, port, zones)
            stack.enter_context(_running([_find("unbound"), "-d", "-c", str(unbound)], log))
            _await_answer((UNBOUND, own), "name5.com", log)
        yield Internet(port, NSD, ports)


def _find(command: str) -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    return shutil.which(command, path=path) or ""


def _write_zones(folder: Path, domains: int) -> list[str]:
    """One file a zone; returns the delegated zones, the lame ones among them."""
    head = "$TTL 300\n@ SOA ns.{0}. host.{0}. 1 900 300 86400 300\n@ NS {1}\n"
    servers = {"com": "ns.com.", "net": "ns.net."}
    (folder / "root.zone").write_text(
        "$ORIGIN .\n$TTL 300\n@ SOA ns.net. host.net. 1 900 300 86400 300\n@ NS ns.net.\n"
        f"com NS ns.com.\nns.com. A {KNOT}\nnet NS ns.net.\nns.net. A {NSD}\n"
    )
    tops = {tld: [f"$ORIGIN {tld}.\n", head.format(tld, servers[tld])] for tld in TLDS}
    tops["com"].append(f"ns A {KNOT}\nbroken NS ns.net.\n")
    tops["net"].append(f"ns A {NSD}\n")
    zones = [BROKEN]
    for number in range(domains):
        domain = Domain(number)
        top = tops[domain.name.rpartition(".")[2]]
        top.append(_records(domain))
        if domain.kind in (Kind.DELEGATED, Kind.LAME):
            zones.append(domain.name)
        if domain.kind is Kind.DELEGATED:
            text = f"$ORIGIN {domain.name}.\n" + head.format(domain.name, "ns.net.")
            text += f"@ A {domain.address}\n@ AAAA 100::{number:x}\nwww CNAME @\nown A 127.9.9.9\n"
            if domain.wildcard:
                text += f"* A 127.8.8.{number % 250 + 1}\n"
            (folder / f"{domain.name}.zone").write_text(text)
    for tld, lines in tops.items():
        (folder / f"{tld}.zone").write_text("".join(lines))
    broken = "".join(
        f"name{number} A {Domain(number).address}\n" for number in range(3, domains, 500)
    )
    (folder / f"{BROKEN}.zone").write_text(
        f"$ORIGIN {BROKEN}.\n" + head.format(BROKEN, "ns.net.") + broken
    )
    return zones


def _records(domain: Domain) -> str:
    """What the top-level domain's zone says of a domain."""
    label, _, tld = domain.name.partition(".")
    match domain.kind:
        case Kind.ADDRESS:
            return f"{label} A {domain.address}\n"
        case Kind.ADDRESSES:
            more = "".join(f"{label} A 127.7.{part}.{domain.number % 251}\n" for part in (1, 2))
            return f"{label} A {domain.address}\n{more}{label} AAAA 100::{domain.number:x}\n"
        case Kind.V6_ONLY:
            return f"{label} AAAA 100::{domain.number:x}\n"
        case Kind.ALIAS:
            # Two records: to a name that stands for one with addresses.
            return (
                f"{label} CNAME alias{label}\nalias{label} CNAME name{domain.number - 6}.{tld}.\n"
            )
        case Kind.MAIL_ONLY:
            return f"{label} MX 10 mail\n"
        case Kind.DELEGATED | Kind.LAME:
            return f"{label} NS ns.net.\n"
        case Kind.DANGLING:
            return f"{label} CNAME absent{label}\n"
        case _:
            return ""


def _write_knot(folder: Path, port: int) -> Path:
    file = folder / "knot.conf"
    (folder / "knot").mkdir()
    file.write_text(
        f"""
server:
  rundir: {folder}/knot
  listen: {KNOT}@{port}
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: {folder}/knot
log:
  - target: stderr
    any: error
zone:
  - domain: com.
    file: {folder}/com.zone
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
"""
    )
    return file


def _write_nsd(folder: Path, port: int, zones: list[str]) -> Path:
    file = folder / "nsd.conf"
    files = {".": "root", "net": "net"} | {zone: zone for zone in zones}
    stanzas = [
        f"zone:\n  name: {zone}\n  zonefile: {it}.zone\n"
        for zone, it in files.items()
        if (folder / f"{it}.zone").exists()
    ]
    file.write_text(
        f"""
server:
  ip-address: {NSD}@{port}
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  pidfile: "{folder}/nsd.pid"
  zonelistfile: "{folder}/nsd.list"
  xfrdfile: "{folder}/nsd.xfrd"
  xfrdir: "{folder}"
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
remote-control:
  control-enable: no
"""
        + "".join(stanzas)
    )
    return file


def _write_unbound(folder: Path, own: int, port: int, zones: list[str]) -> Path:
    file = folder / f"unbound{own}.conf"
    # A delegation carries no port, so every zone is pointed to.
    stubs = {".": NSD, "com": KNOT, "net": NSD} | dict.fromkeys(zones, NSD)
    stanzas = [
        f"stub-zone:\n  name: {zone}\n  stub-addr: {host}@{port}\n" for zone, host in stubs.items()
    ]
    file.write_text(
        f"""
server:
  interface: {UNBOUND}@{own}
  port: {own}
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  logfile: ""
  log-time-ascii: yes
  verbosity: 0
  num-threads: 1
  do-ip6: no
  do-not-query-localhost: no
  access-control: 127.0.0.0/8 allow
  so-rcvbuf: 1m
  ede: yes
  trust-anchor: "{BROKEN}. DS 1 13 2 {"ab" * 32}"
remote-control:
  control-enable: no
"""
        + "".join(stanzas)
    )
    return file


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port(*hosts: str) -> int:
    """One that is free at all of them, over UDP and TCP."""
    for _ in range(50):
        with ExitStack() as stack:
            port = 0
            with suppress(OSError):
                for host in hosts:
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        sock = stack.enter_context(socket.socket(socket.AF_INET, kind))
                        sock.bind((host, port))
                        port = sock.getsockname()[1]
                return port
    raise NoServers(f"no port is free at {', '.join(hosts)}")


def _await_answer(address: tuple[str, int], name: str, log: Path) -> None:
    """Until `name` resolves there."""
    question = b"\0\1\1\0\0\1\0\0\0\0\0\0"
    question += b"".join(bytes((len(part),)) + part.encode() for part in name.split("."))
    question += b"\0\0\1\0\1"
    deadline = time.monotonic() + START_LIMIT
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        sock.connect(address)
        while time.monotonic() < deadline:
            with suppress(OSError):
                sock.send(question)
                answer = sock.recv(512)
                if answer[3] & 0x0F == 0 and answer[6:8] != b"\0\0":
                    return
            time.sleep(0.05)
    raise NoServers(f"{name} does not resolve at {address}: {log.read_text()[-1000:]}")
