"""Names by top-level domain and outcome, from the lines that are hashed for a receipt. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

# Top-level domain -> number of the outcome -> names. What chunks.tld_counts has as JSON.
TldCounts: TypeAlias = Mapping[str, Mapping[int, int]]

# To look for one ending in all lines takes 13-23 ns a line, to look at each line's ending 180.
_FEW = 8
# A sample: so many windows of so many characters.
_WINDOWS, _WINDOW = 8, 1_000


def tld_counts(lines: str, outcomes: Mapping[str, int]) -> TldCounts:
    """Count lines "name OUTCOME\\n" by the name's last label and the outcome's number."""
    counts: dict[str, dict[int, int]] = {}
    for ending, count in _endings(lines).items():
        tld, _, outcome = ending.partition(" ")
        counts.setdefault(tld, {})[outcomes[outcome]] = count
    return counts


def _endings(lines: str) -> Mapping[str, int]:
    """What follows the last dot of each line, and how many lines have it."""
    line_count = lines.count("\n")
    few = _sample(lines)
    if len(few) <= _FEW:
        counts = {ending: lines.count(f".{ending}\n") for ending in few}
        if sum(counts.values()) == line_count:
            return counts
    return Counter([line.rpartition(".")[2] for line in lines.split("\n")[:line_count]])


def _sample(lines: str) -> set[str]:
    """Endings of some lines, from all over."""
    step = max(len(lines) // _WINDOWS, 1)
    return {
        line.rpartition(".")[2]
        for start in range(0, len(lines), step)
        # Without the first and the last, which are cut.
        for line in lines[start : start + _WINDOW].split("\n")[1:-1]
    }
