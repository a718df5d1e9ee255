"""IP endpoints as people write them: "192.0.2.1", "192.0.2.1:53", "2001:db8::1",
"[2001:db8::1]:53". Pure."""

from ipaddress import ip_address


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
        ip_address(host)
    except ValueError:
        raise BadEndpoint(f"{text!r} is not an IPv4 or IPv6 address") from None
    # The length first: int() raises for thousands of digits.
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise BadEndpoint(f"{text!r} has a port that is not a number from 1 to 65535")
    return host, int(port)
