"""Resolvers: how one is written, and where the system's own stand."""

import socket
from dataclasses import dataclass
from pathlib import Path

from services.chassis.endpoint import BadEndpoint, parse_endpoint


@dataclass(frozen=True, slots=True)
class Resolver:
    """A recursive resolver, by address: a name would itself have to be resolved."""

    host: str
    port: int = 53

    @classmethod
    def parse(cls, text: str) -> "Resolver":
        """From "192.0.2.1", "192.0.2.1:53", "::1", "[::1]" or "[::1]:53". Raises BadEndpoint."""
        return cls(*parse_endpoint(text, default_port=53))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET


def system_resolvers(path: Path = Path("/etc/resolv.conf")) -> tuple[Resolver, ...]:
    """The resolvers this machine uses; the loopback one when none is named, as libc has it."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found.append(Resolver.parse(words[1]))
            except BadEndpoint:
                continue
    return tuple(found) or (Resolver("127.0.0.1"),)
