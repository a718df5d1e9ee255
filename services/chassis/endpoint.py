"""IP endpoints as people write them: "192.0.2.1", "192.0.2.1:53", "2001:db8::1",
"[2001:db8::1]:53"; and who stands behind them. Pure."""

from ipaddress import ip_address, ip_network

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


class BadEndpoint(ValueError):
    """The text is no address with an optional port; the message says why."""


def parse_endpoint(text: str, *, default_port: int) -> tuple[str, int]:
    """Host and port. Host names are refused: they would themselves have to be resolved. Raises
    BadEndpoint."""
    host, port = text.strip(), str(default_port)
    if host.startswith("["):
        host, closed, rest = host[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise BadEndpoint(f"{text!r} is not of the form [address]:port")
        port = rest[1:] if rest else port
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    try:
        address = ip_address(host)
    except ValueError:
        raise BadEndpoint(f"{text!r} is not an IPv4 or IPv6 address") from None
    # The length first: int() raises for thousands of digits.
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise BadEndpoint(f"{text!r} has a port that is not a number from 1 to 65535")
    return str(address), int(port)


def written(host: str, port: int) -> str:
    """The endpoint as one text: "192.0.2.1:53", "[2001:db8::1]:53"."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def operator_of(host: str) -> str:
    """Who operates the resolver at an address, as far as the address tells: a well-known one, else
    its network (/24, IPv6 /48). Raises ValueError for anything but an address."""
    address = ip_address(host)
    known = _OPERATOR_OF.get(address)
    if known:
        return known
    return str(ip_network((address, 24 if address.version == 4 else 48), strict=False))
