"""Proxies: what one is, and lists of them as people have them. Pure.

No message, label or repr of this module shows a password, or what stood where one may have stood.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

from services.chassis.domain_name import explain_label
from services.chassis.endpoint import written
from services.chassis.errors import FieldViolation, InvalidFields
from services.chassis.secrets import Secret

# RFC 1929: user and password of SOCKS5 have 1-255 octets each. The same for HTTP.
MAX_CREDENTIAL = 255
MAX_HOST = 253
MAX_URL = 2_000
# Of a list: lines, and characters of a line.
MAX_LINES = 10_000
MAX_LINE = 2_000
MAX_WEIGHT = 1_000

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_PORT = re.compile(r"[0-9]{1,5}\Z")


class Scheme(StrEnum):
    """How to speak to the proxy."""

    HTTP = "http"
    # HTTP over TLS.
    HTTPS = "https"
    # RFC 1928. It is told addresses, never names: what is asked for was judged by address.
    SOCKS5 = "socks5"


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy. Nothing shows its password."""

    scheme: Scheme
    # Lower-case name, or address.
    host: str
    port: int
    # Empty without credentials.
    user: str = ""
    password: Secret = field(default_factory=lambda: Secret(""), compare=False)

    @property
    def label(self) -> str:
        """As results, counters and logs call it: URL without credentials."""
        return f"{self.scheme}://{written(self.host, self.port)}"

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """Equal for what is the same proxy, whatever its password."""
        return self.scheme, self.host, self.port, self.user


def parse_url(text: str, path: str = "url") -> Proxy:
    """From "scheme://[user:password@]host:port". Credentials may be percent-encoded; an "@" or ":"
    in a password need not be.

    Raises InvalidFields with fields below `path`: scheme, host, port, user, password.
    """
    text = text.strip()
    if len(text) > MAX_URL:
        raise InvalidFields([FieldViolation(path, f"has more than {MAX_URL:,} characters")])
    match = _SCHEME.match(text)
    if not match:
        raise InvalidFields([FieldViolation(f"{path}.scheme", _WRONG_SCHEME)])
    rest = text[match.end() :]
    credentials, at, place = rest.rpartition("@")
    place = place.removesuffix("/")
    user, _, password = credentials.partition(":")
    if any(each in place for each in "/?#"):
        raise InvalidFields(
            [FieldViolation(path, "has more than scheme, credentials, host and port")]
        )
    host, port = _host_and_port(place)
    proxy = make(
        match[1], host, port, unquote(user) if at else "", unquote(password), path=f"{path}."
    )
    return proxy


def make(
    scheme: str, host: str, port: str | int, user: str = "", password: str = "", *, path: str = ""
) -> Proxy:
    """From fields. Raises InvalidFields with every field that is wrong, at `path` and its name."""
    host = host.strip().lower()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    scheme = scheme.strip().lower()
    port = str(port).strip()
    violations = [
        FieldViolation(f"{path}{name}", problem)
        for name, problem in (
            ("scheme", "" if scheme in list(Scheme) else _WRONG_SCHEME),
            ("host", _problem_with_host(host)),
            ("port", "" if _is_port(port) else "is not a number from 1 to 65535"),
            ("user", _problem_with_user(user, password, scheme)),
            ("password", _problem_with_password(user, password, scheme)),
        )
        if problem
    ]
    if violations:
        raise InvalidFields(violations)
    if ":" in host:
        host = str(ip_address(host))
    return Proxy(Scheme(scheme), host, int(port), user, Secret(password))


_WRONG_SCHEME = "is not http, https or socks5"


def _is_port(text: str) -> bool:
    return _PORT.match(text) is not None and 1 <= int(text) <= 65535


def _problem_with_host(host: str) -> str:
    if not host:
        return "is required"
    try:
        address = ip_address(host)
    except ValueError:
        if ":" in host:
            return "is no IPv6 address"
    else:
        if isinstance(address, IPv6Address) and address.scope_id:
            return "has a zone: no other machine knows it"
        return ""
    if len(host) > MAX_HOST:
        return f"has {len(host)} characters, more than {MAX_HOST}"
    labels = host.removesuffix(".").split(".")
    if labels[-1].isdigit() or any(map(explain_label, labels)):
        # Not what is wrong with which label: that would quote it.
        return "is neither a name nor an address"
    return ""


def _problem_with_user(user: str, password: str, scheme: str) -> str:
    if not user:
        return "is required with a password" if password else ""
    if ":" in user and scheme != Scheme.SOCKS5:
        return "has a colon, which ends it (RFC 7617)"
    return _problem_with_credential(user)


def _problem_with_password(user: str, password: str, scheme: str) -> str:
    if not password:
        return "is required with a user (RFC 1929)" if user and scheme == Scheme.SOCKS5 else ""
    return _problem_with_credential(password)


def _problem_with_credential(text: str) -> str:
    if _CONTROL.search(text):
        return "has a control character"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "has half a surrogate pair"
    return f"has {size} bytes, more than {MAX_CREDENTIAL}" if size > MAX_CREDENTIAL else ""


def _host_and_port(text: str) -> tuple[str, str]:
    """Of "host:port"; a part that is missing is empty. An IPv6 address needs brackets."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        return (host, rest.removeprefix(":")) if closed and rest[:1] in ("", ":") else ("", "")
    host, _, port = text.partition(":")
    return host, port


@dataclass(frozen=True, slots=True)
class Imported:
    """A proxy of a list."""

    # From 1.
    line: int
    proxy: Proxy
    # From a column of that name, 1-MAX_WEIGHT.
    weight: int = 1


@dataclass(frozen=True, slots=True)
class BadLine:
    """What is wrong with one field of a line. Neither says what stood there: it may be a secret."""

    # From 1.
    line: int
    # "scheme", "host", "port", "user", "password", "weight"; empty for the whole line.
    field: str
    problem: str
    # The line with the same proxy; 0: that is not what is wrong.
    repeats: int = 0


@dataclass(frozen=True, slots=True)
class ProxyList:
    """What came of a text."""

    proxies: Sequence[Imported]
    bad_lines: Sequence[BadLine]


_COLUMNS = {
    "url": "url", "proxy": "url", "scheme": "scheme", "protocol": "scheme", "type": "scheme",
    "host": "host", "ip": "host", "address": "host", "hostname": "host", "server": "host",
    "ip address": "host", "port": "port", "user": "user", "username": "user", "login": "user",
    "password": "password", "pass": "password", "weight": "weight",
}  # fmt: skip
_PLAIN_COLUMNS = ("host", "port", "user", "password")
_DELIMITERS = ("\t", ";", ",")


def parse_list(text: str, *, scheme: Scheme = Scheme.HTTP) -> ProxyList:
    """Proxies of a text with one per line, `scheme` where a line names none:

        host:port                       host:port:user:password (which may have colons)
        user:password@host:port         scheme://... with any of these
        [2001:db8::1]:port              [2001:db8::1]:port:user:password

    or of CSV with comma, semicolon or tab: columns as the first line names them (url, or scheme,
    host, port, user, password, weight and their common synonyms), without such a line
    host,port,user,password. Empty lines and those that begin with "#" are left out.
    """
    found: list[Imported] = []
    bad: list[BadLine] = []
    first_at: dict[tuple[str, str, int, str], int] = {}
    columns: Sequence[str] | None = None
    is_first = True
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if number > MAX_LINES:
            bad.append(BadLine(number, "", f"is after {MAX_LINES:,} lines, as many as are read"))
            break
        if is_first:
            is_first = False
            line = line[: MAX_LINE + 1]
            columns = _header(line)
            if columns:
                continue
        try:
            each = _parse_line(number, line, columns, scheme)
        except InvalidFields as problem:
            bad += [BadLine(number, v.field, v.description) for v in problem.violations]
            continue
        first = first_at.setdefault(each.proxy.identity, number)
        if first == number:
            found.append(each)
        else:
            bad.append(BadLine(number, "", f"is the same proxy as line {first}", first))
    return ProxyList(tuple(found), tuple(bad))


def _header(line: str) -> Sequence[str] | None:
    """Our names of the columns, when the line names columns; empty for one we do not know."""
    cells = [cell.strip().lower() for cell in _cells(line)]
    names = [_COLUMNS.get(cell, "") for cell in cells]
    return names if "url" in names or ("host" in names and "port" in names) else None


def _parse_line(number: int, line: str, columns: Sequence[str] | None, scheme: Scheme) -> Imported:
    if len(line) > MAX_LINE:
        raise InvalidFields([FieldViolation("", f"has more than {MAX_LINE:,} characters")])
    cells = _cells(line)
    # A password may have a comma: without columns, it is CSV when the second cell is a port.
    if columns is None and (len(cells) < 2 or not _PORT.match(cells[1].strip())):
        return Imported(number, _parse_text(line, scheme))
    names = columns or _PLAIN_COLUMNS
    if len(cells) > len(names):
        raise InvalidFields(
            [FieldViolation("", f"has {len(cells)} fields, more than {len(names)}")]
        )
    row = {name: cell for name, cell in zip(names, cells, strict=False) if name}
    weight = row.get("weight", "").strip() or "1"
    violations = []
    if not (weight.isascii() and weight.isdigit() and len(weight) < 9) or not (
        1 <= int(weight) <= MAX_WEIGHT
    ):
        violations.append(FieldViolation("weight", f"is not a number from 1 to {MAX_WEIGHT:,}"))
    try:
        if row.get("url", "").strip():
            proxy = _parse_text(row["url"].strip(), scheme)
        else:
            proxy = make(
                row.get("scheme", "").strip() or scheme,
                row.get("host", ""),
                row.get("port", ""),
                row.get("user", ""),
                row.get("password", ""),
            )
    except InvalidFields as problem:
        raise InvalidFields([*problem.violations, *violations]) from None
    if violations:
        raise InvalidFields(violations)
    return Imported(number, proxy, int(weight))


def _cells(line: str) -> list[str]:
    for delimiter in _DELIMITERS:
        if delimiter in line:
            return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return [line]


def _parse_text(text: str, scheme: Scheme) -> Proxy:
    """One proxy in one of the forms that `parse_list` names."""
    match = _SCHEME.match(text)
    given = match[1] if match else scheme
    rest = text[match.end() :] if match else text
    host, port, user, password = _colons(rest)
    if port and _PORT.match(port):
        return make(given, host, port, user, password)
    try:
        return parse_url(text if match else f"{scheme}://{text}")
    except InvalidFields as problem:
        raise InvalidFields(
            [
                FieldViolation(v.field.removeprefix("url").removeprefix("."), v.description)
                for v in problem.violations
            ]
        ) from None


def _colons(text: str) -> tuple[str, str, str, str]:
    """ "host:port:user:password"; empty where the text has another form."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        rest = rest.removeprefix(":")
    else:
        host, _, rest = text.partition(":")
    if "@" in host:
        return "", "", "", ""
    port, _, credentials = rest.partition(":")
    user, _, password = credentials.partition(":")
    return host, port if credentials else port.removesuffix("/"), user, password
