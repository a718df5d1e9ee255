"""Calls that wait for their names to be sent, and which of them is next."""

from collections import deque
from collections.abc import Collection, Iterator
from itertools import count

from services.validation.dns.query import Call
from services.validation.dns.upstream import Route

# Names of a call that need not wait for longer ones: some milliseconds' work, as in the chunks of a
# campaign that has little to do.
SHORT = 500
# While both wait, so many turns are short calls' before a longer one has one: a stream of short
# ones that never ends must not hold up the others for ever.
SHORT_TURNS = 7


class Line:
    """The earlier are served first, but for short ones, which need not wait for long ones."""

    def __init__(self) -> None:
        # By route: many calls may wait for one resolver, and others must not wait with them.
        self._short: dict[Route, deque[Call]] = {}
        self._long: dict[Route, deque[Call]] = {}
        self._numbers = count()
        self._turns = 0

    def __bool__(self) -> bool:
        return bool(self._short or self._long)

    def __iter__(self) -> Iterator[Call]:
        for lines in (self._short, self._long):
            for line in lines.values():
                yield from line

    def add(self, call: Call) -> None:
        call.number = next(self._numbers)
        self._lines_of(call).setdefault(call.route, deque()).append(call)

    def remove(self, call: Call) -> None:
        """No matter whether it is in the line."""
        lines = self._lines_of(call)
        line = lines.get(call.route)
        if line is None or call not in line:
            return
        line.remove(call)
        if not line:
            del lines[call.route]

    def clear(self) -> None:
        self._short.clear()
        self._long.clear()

    def next(self, full: Collection[Route]) -> Call | None:
        """Whose turn it is, of those on routes that are not `full`."""
        if not self._short or not self._long:
            return _first(self._short or self._long, full)
        self._turns = (self._turns + 1) % (SHORT_TURNS + 1)
        lines = (self._short, self._long) if self._turns else (self._long, self._short)
        return _first(lines[0], full) or _first(lines[1], full)

    def _lines_of(self, call: Call) -> dict[Route, deque[Call]]:
        return self._short if len(call.names) <= SHORT else self._long


def _first(lines: dict[Route, deque[Call]], full: Collection[Route]) -> Call | None:
    heads = [line[0] for route, line in lines.items() if route not in full]
    return min(heads, key=_number, default=None)


def _number(call: Call) -> int:
    return call.number
