"""How to look for domains that match, when nobody knows how many do: decided from what was found.

Few are found one by one along an index, many by reading all of a range: one in five takes as long
either way.
"""

# One domain in so many.
SPARSE = 5
# Most positions that are read at once, in sizes of a batch.
WIDEST = 10
# Ranges that are read before the index is tried again.
PATIENCE = 16


class Pace:
    """Which way to go next, and how far: `driven` along the index, or else `step` positions."""

    def __init__(self, size: int, *, indexed: bool) -> None:
        self._size = size
        self._indexed = indexed
        self._until_retry = 0
        self.driven = indexed
        self.step = size

    def found_along_the_index(self, candidates: int, span: int) -> None:
        """So many of `span` positions meet the indexed condition."""
        if candidates * SPARSE > span:
            self.driven = False
            self._until_retry = PATIENCE

    def found_in_range(self, matches: int, span: int) -> None:
        """So many of `span` positions, all of them read, match."""
        wide = self._size * WIDEST
        self.step = min(wide, max(self._size, self._size * span // matches if matches else wide))
        self._until_retry -= 1
        if self._indexed and matches * 2 * SPARSE < span and self._until_retry <= 0:
            self.driven = True
