"""How the harness reads a bench's line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.load.__main__ import machine, verdict


@pytest.mark.parametrize(
    ("target", "value", "ratio", "said"),
    [
        ("ratio >= 0.8", 1, 0.8, "holds"),
        ("ratio >= 0.8", 1, 0.79, "below the line"),
        ("ratio <= 1.1", 1, 1.1, "holds"),
        ("ratio <= 1.1", 1, 1.2, "over the line"),
        ("names/s >= 30,000", 30_000, 0.1, "holds"),
        ("names/s >= 30,000", 29_999, 0.1, "below the line"),
        ("p95 < 20 ms", 19.9, 0.1, "holds"),
        ("p95 < 20 ms", 20, 0.1, "over the line"),
        # Without its yardstick on this machine nothing can be said.
        ("ratio >= 0.8", 1, None, ""),
        (None, 1, 1, ""),
    ],
)
def test_a_line_is_read_as_written(
    target: str | None, value: float, ratio: float | None, said: str
) -> None:
    assert verdict({"name": "it", "value": value, "ratio": ratio, "target": target}) == said


def test_a_line_that_cannot_be_read_is_an_error() -> None:
    result: dict[str, Any] = {"name": "it", "value": 1, "target": "as fast as can be"}
    with pytest.raises(ValueError, match="as fast as can be"):
        verdict(result)


def test_the_machine_is_described_in_full() -> None:
    assert all(machine().values())


def test_an_unknown_bench_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.load", "no_such_bench"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no bench no_such_bench; there are generate_store" in done.stderr
