"""Resolvers: how one is written, and where the system's own stand."""

import socket
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from services.chassis.endpoint import BadEndpoint, operator_of, parse_endpoint, written


class Transport(IntEnum):
    """The numbers are those of domainflow.validation.v1.DnsTransport."""

    UDP = 1
    TCP = 2
    TLS = 3
    HTTPS = 4
    HTTPS_JSON = 5


DEFAULT_PORTS = {
    Transport.UDP: 53,
    Transport.TCP: 53,
    Transport.TLS: 853,
    Transport.HTTPS: 443,
    Transport.HTTPS_JSON: 443,
}
_SCHEMES = {Transport.TCP: "tcp://", Transport.TLS: "tls://"}


@dataclass(frozen=True, slots=True)
class Resolver:
    """A recursive resolver, by address: a name would itself have to be resolved."""

    host: str
    port: int = 53
    transport: Transport = Transport.UDP
    # For HTTPS. Its host is checked against the certificate.
    url: str = ""
    # For TLS: name in the certificate; empty: the address has to be in it.
    tls_name: str = ""
    # Certificates to trust instead of the machine's, PEM; empty: the machine's.
    ca_pem: str = ""
    # As configured; see `operator`.
    operated_by: str = ""
    # For the weighted strategy.
    weight: int = 1
    # Questions per second, and unanswered at once; 0: no limit but the measured one.
    rate_limit: int = 0
    in_flight_limit: int = 0

    @classmethod
    def parse(cls, text: str) -> "Resolver":
        """From "192.0.2.1", "192.0.2.1:53", "::1", "[::1]" or "[::1]:53". Raises BadEndpoint."""
        return cls(*parse_endpoint(text, default_port=53))

    def __str__(self) -> str:
        """What results and reports call it; no two resolvers of a plan are called the same."""
        where = written(self.host, self.port)
        if self.url:
            # One service has several addresses.
            return f"{self.url}#{where}"
        return _SCHEMES.get(self.transport, "") + where

    @property
    def operator(self) -> str:
        """Who operates it: second opinions come from somebody else."""
        return self.operated_by or operator_of(self.host)

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
