"""The plot of docs/performance.md: how long a page takes, by how many come before it."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# The same figures make the same file.
mpl.rcParams["svg.hashsalt"] = "domainflow"
mpl.rcParams["svg.fonttype"] = "none"
_COLOURS = ("#4477aa", "#228833", "#ccbb44", "#aa3377")


def draw(run: dict[str, Any], file: Path) -> None:
    """Median milliseconds of pages by depth, a line an order, and of pages by OFFSET."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    pages = [each for each in run["measurements"] if each.get("depth")]
    for colour, order in zip(
        _COLOURS, dict.fromkeys(each["order"] for each in pages), strict=False
    ):
        points = sorted((each["depth"], each["p50"]) for each in pages if each["order"] == order)
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=f"by {order}")
    axes.plot(*zip(*run["by_offset"], strict=True), "s--", color="#999999", label="SQL with OFFSET")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("page (100 domains each)")
    axes.set_ylabel("ms, median")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_title(f"One page of a campaign of {run['names']:,} names", fontsize=11)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, format="svg", metadata={"Date": None})
