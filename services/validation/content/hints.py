"""Which of many things a text has at all, told in one pass over it. Pure.

Searches by Python's regular expressions cost ten times as much: most texts have nothing for most of
them, and those are not begun.
"""

from collections.abc import Mapping

import re2


class Hints:
    """Patterns of RE2 by what they are a hint of. Safe for threads."""

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._names = tuple(patterns)
        self._set = re2.Set.SearchSet()
        for pattern in patterns.values():
            self._set.Add(pattern.encode())
        # Every text matches it: without it the set ran out of memory.
        self._set.Add(b"")
        self._set.Compile()

    def of(self, text: str) -> frozenset[str]:
        """Names of the patterns that the text matches somewhere; of all when that is not known."""
        matched = self._set.Match(text.encode("utf-8", "replace")) or ()
        if len(self._names) not in matched:
            return frozenset(self._names)
        return frozenset([self._names[it] for it in matched if it < len(self._names)])
