"""Resolvers: how one is written, and where the system's own stand."""

import socket
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address, ip_network
from pathlib import Path

from services.chassis.endpoint import BadEndpoint, parse_endpoint


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

# Public resolvers whose addresses lie in several networks.
_OPERATORS = {
    "google": ("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"),
    "cloudflare": ("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"),
    "quad9": ("9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"),
    "opendns": ("208.67.222.222", "208.67.220.220", "2620:119:35::35", "2620:119:53::53"),
}
_OPERATOR_OF = {
    ip_address(address): name for name, addresses in _OPERATORS.items() for address in addresses
}


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
        if self.url:
            return self.url
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return _SCHEMES.get(self.transport, "") + address

    @property
    def operator(self) -> str:
        """Who operates it: second opinions come from somebody else."""
        if self.operated_by:
            return self.operated_by
        address = ip_address(self.host)
        known = _OPERATOR_OF.get(address)
        if known:
            return known
        return str(ip_network((address, 24 if address.version == 4 else 48), strict=False))

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
