"""Compares the figures of a run with those of a kept one: by their ratios to a yardstick, never by
seconds. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# A ratio may get worse by this share; medians of the same code on a shared machine differ by 10 %.
TOLERANCE = 0.20

Measurement = dict[str, Any]


class Judgement(StrEnum):
    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    # Not in the kept run.
    NEW = "new"
    # In the kept run only: what is not measured any more cannot be said to be as fast.
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Finding:
    """One measurement against the kept one. `change` is the share by which it got worse; negative:
    better; None: there is nothing to compare."""

    name: str
    judgement: Judgement
    change: float | None = None

    @property
    def fails(self) -> bool:
        return self.judgement in (Judgement.WORSE, Judgement.GONE)


def compare(
    kept: Mapping[str, Mapping[str, Any]],
    measured: Iterable[Measurement],
    tolerance: float = TOLERANCE,
) -> list[Finding]:
    """`kept`: by name, with `ratio` and `lower_is_better`. What has no ratio is not compared."""
    current = {each["name"]: each for each in measured if each.get("ratio") is not None}
    findings = []
    for name, each in current.items():
        if name not in kept:
            findings.append(Finding(name, Judgement.NEW))
            continue
        change = worsening(kept[name]["ratio"], each["ratio"], bool(each["lower_is_better"]))
        findings.append(Finding(name, _judged(change, tolerance), change))
    return findings + [Finding(name, Judgement.GONE) for name in kept if name not in current]


def worsening(before: float, now: float, lower_is_better: bool) -> float:
    """0.2: a fifth slower, or a fifth fewer in the same time turned round. -0.2: as much better."""
    if before <= 0 or now <= 0:
        raise ValueError(f"no ratios: {before}, {now}")
    return now / before - 1 if lower_is_better else before / now - 1


def kept(measured: Iterable[Measurement]) -> dict[str, dict[str, Any]]:
    """What of a run is kept for later ones to be compared with."""
    fields = ("ratio", "lower_is_better", "value", "unit")
    return {
        each["name"]: {field: each[field] for field in fields}
        for each in measured
        if each.get("ratio") is not None
    }


def best_of(first: Measurement, again: Measurement) -> Measurement:
    """The better one of two runs of the same measurement: what is slow for a reason of its own is
    slow in both."""
    if first.get("ratio") is None or again.get("ratio") is None:
        return again
    worse = worsening(first["ratio"], again["ratio"], bool(first["lower_is_better"])) > 0
    return first if worse else again


def _judged(change: float, tolerance: float) -> Judgement:
    if change > tolerance:
        return Judgement.WORSE
    return Judgement.BETTER if change < -tolerance / (1 + tolerance) else Judgement.SAME
