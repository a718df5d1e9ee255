"""Public suffixes: where registries stop and registrants begin. Pure, but for reading the list.

Two readings of publicsuffix.org's list. `public_suffix` and `registrable` follow its first part
alone, which is about registries: what they say is about delegations. `is_shared` follows the whole
list, which also names domains whose owners hand out what is below, as github.io.
"""

from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.resources import files

PARENTS = 65_536
_END_OF_REGISTRIES = "// ===END ICANN DOMAINS==="


class _Rules:
    """The list's rules, by the name each decides about."""

    def __init__(self, lines: Iterable[str]) -> None:
        # A name -> its public suffix, where a rule or an exception has exactly that name.
        self.exact: dict[str, str] = {}
        # Every child of these is a public suffix, unless `exact` knows better.
        self.starred: set[str] = set()
        for line in lines:
            rule = line.split(maxsplit=1)[0] if line.strip() else "//"
            if rule.startswith("//"):
                continue
            name = rule.lstrip("!*.").lower()
            if not name.isascii():
                name = name.encode("idna").decode("ascii")
            if rule.startswith("!"):
                self.exact[name] = name.partition(".")[2]
            else:
                self.exact.setdefault(name, name)
                if rule.startswith("*."):
                    self.starred.add(name)


def _lines() -> list[str]:
    path = files("publicsuffixlist") / "public_suffix_list.dat"
    return path.read_text(encoding="utf-8").splitlines()


@cache
def _registries() -> _Rules:
    lines = _lines()
    return _Rules(lines[: lines.index(_END_OF_REGISTRIES)])


@cache
def _everyone() -> _Rules:
    return _Rules(_lines())


def public_suffix(name: str) -> str:
    """The registry's suffix of a normalised ASCII name, which may be one; "" for the root."""
    rules = _registries()
    exact = rules.exact.get(name)
    if exact is not None:
        return exact
    parent = name.partition(".")[2]
    if not parent or parent in rules.starred:
        return name
    return _suffix_of_parent(parent)


# Names of a campaign share parents.
_suffix_of_parent = lru_cache(PARENTS)(public_suffix)


def registrable(name: str) -> str:
    """The domain a registry delegates, `name` or above it; "" where `name` is a suffix itself."""
    suffix = public_suffix(name)
    if len(suffix) == len(name):
        return ""
    return name[name.rfind(".", 0, len(name) - len(suffix) - 1) + 1 :]


def is_shared(name: str) -> bool:
    """Whether what is directly below `name` belongs to others: a registry's or another's suffix."""
    rules = _everyone()
    exact = rules.exact.get(name)
    if exact is not None:
        return exact == name
    parent = name.partition(".")[2]
    return not parent or parent in rules.starred
