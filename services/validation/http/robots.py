"""What robots.txt (RFC 9309) forbids. Pure."""

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

# Bytes of a robots.txt that are read; RFC 9309 asks for at least 500 KiB.
MAX_ROBOTS = 512 * 1024
# Lines with rules for us; a real file has some tens.
_MAX_RULES = 5_000
_MAX_PATTERN = 2_000
# What a rule takes in memory besides its pattern, roughly, in bytes.
_RULE_SIZE = 300
_ESCAPE = re.compile(r"%[0-9a-fA-F]{2}")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Rule(NamedTuple):
    """One Allow or Disallow line."""

    # Parts between stars, normalised; "/a*b" is ("/a", "b").
    parts: tuple[str, ...]
    # Whether the last part is the end of the path: the pattern ended in "$".
    anchored: bool
    # Octets of the pattern: the longest that matches decides.
    length: int
    allows: bool

    def matches(self, path: str) -> bool:
        first, *middle = self.parts
        if not path.startswith(first):
            return False
        at = len(first)
        if not middle:
            return not self.anchored or at == len(path)
        last = middle.pop()
        for part in middle:
            # The leftmost place is as good as any: linear, whatever the pattern.
            found = path.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        if self.anchored:
            return len(path) - len(last) >= at and path.endswith(last)
        return path.find(last, at) >= 0


@dataclass(frozen=True, slots=True)
class Robots:
    """The rules of one robots.txt for one user agent, the deciding ones first."""

    rules: tuple[Rule, ...] = ()

    def allows(self, path: str) -> bool:
        """Whether a path with its query may be asked for."""
        if not self.rules or path == "/robots.txt":
            return True
        path = _normalised(path)
        for rule in self.rules:
            if rule.matches(path):
                return rule.allows
        return True


ALLOW_ALL = Robots()


def parse(body: bytes, token: str) -> Robots:
    """The rules for the product `token` (lower case): of the groups that name it, else of those for
    everybody. Groups of others are skipped at once: keeping them would let a file of 15,000 agents
    and as many rules take minutes."""
    ours: list[Rule] = []
    everybody: list[Rule] = []
    named = False
    # Which lists the group at hand adds to, and whether its list of agents is still open.
    into: list[list[Rule]] = []
    agents_open = False
    text = body[:MAX_ROBOTS].decode("utf-8", "replace").removeprefix("\ufeff")
    for line in re.split(r"[\r\n]+", text):
        key, colon, value = line.partition("#")[0].partition(":")
        if not colon:
            continue
        key, value = key.strip().lower(), value.strip()
        if key == "user-agent":
            if not agents_open:
                into, agents_open = [], True
            agent = re.match(r"\*|[A-Za-z_-]*", value)
            found = agent[0].lower() if agent else ""
            if found == "*":
                into.append(everybody)
            elif found == token:
                named = True
                into.append(ours)
        elif key in ("allow", "disallow"):
            agents_open = False
            if value and into and len(value) <= _MAX_PATTERN:
                for rules in into:
                    if len(rules) < _MAX_RULES:
                        rules.append(_rule(value, key == "allow"))
    rules = ours if named else everybody
    # Of two of the same length, the one that allows (RFC 9309, 2.2.2).
    return Robots(tuple(sorted(rules, key=lambda rule: (-rule.length, not rule.allows))))


def _rule(pattern: str, allows: bool) -> Rule:
    anchored = pattern.endswith("$")
    parts = tuple(
        _normalised(part) for part in re.sub(r"\*+", "*", pattern.removesuffix("$")).split("*")
    )
    return Rule(parts, anchored, len(pattern.encode()), allows)


def _normalised(path: str) -> str:
    """Octets outside ASCII escaped, escapes of ordinary characters undone, others in capitals."""
    if path.isascii() and "%" not in path:
        return path

    def undone(escape: re.Match[str]) -> str:
        octet = int(escape[0][1:], 16)
        return chr(octet) if octet in _UNRESERVED else escape[0].upper()

    escaped = "".join(
        character
        if character.isascii()
        else "".join(f"%{octet:02X}" for octet in character.encode("utf-8", "surrogatepass"))
        for character in path
    )
    return _ESCAPE.sub(undone, escaped)


class RobotsCache:
    """Rules by origin and agent, the least recently used forgotten. Seconds of a monotonic clock.

    RFC 9309 asks to use a copy no longer than a day; an hour lets a site's owner change his mind.
    """

    def __init__(
        self, *, size: int = 4096, keep: float = 3600.0, memory: int = 32 * 1024 * 1024
    ) -> None:
        """`memory`: bytes of all rules together, roughly: an honest file takes one thousandth of
        what a hostile one may."""
        self._size = size
        self._keep = keep
        self._memory = memory
        self._taken = 0
        self._kept: OrderedDict[object, tuple[float, Robots, int]] = OrderedDict()

    def get(self, key: object, now: float) -> Robots | None:
        found = self._kept.get(key)
        if found is None:
            return None
        if now >= found[0]:
            self._forget(key)
            return None
        self._kept.move_to_end(key)
        return found[1]

    def put(self, key: object, robots: Robots, now: float) -> None:
        if key in self._kept:
            self._forget(key)
        size = sum(_RULE_SIZE + rule.length for rule in robots.rules)
        self._kept[key] = now + self._keep, robots, size
        self._taken += size
        while len(self._kept) > self._size or self._taken > self._memory:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: object) -> None:
        self._taken -= self._kept.pop(key)[2]

    def __len__(self) -> int:
        return len(self._kept)
