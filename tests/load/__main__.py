"""`python -m tests.load [name ...]`: run benches, each in a process of its own.

Appends a line per measurement to build/bench.jsonl and prints them all. A figure that misses its
line is shown as such and fails nothing; a bench that crashes makes the exit status 1.
"""

import argparse
import importlib
import json
import operator
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "bench.jsonl"
BENCHES = (
    "generate_store",
    "upload_list",
    "dns_engine",
    "dns_engine_peers",
    "dns_latency_mode",
    "dns_accuracy_1m",
    "dns_real_servers",
    "dns_end_to_end",
    "http_end_to_end",
    "http_memory",
    "keywords",
    "rescore",
    "stream_names",
    "stream_enriched",
    "stream_many",
    "export_parquet",
    "page_latency",
    "page_walk",
    "query_memory",
    "watch_lag",
    "pause_latency",
    "fair_share",
    "queue_overhead",
    "kill_storm",
)
# A bench that hangs is a crash, too.
LONGEST = 20 * 60.0
_TARGET = re.compile(r"(?P<what>\S.*?) (?P<relation>>=|<=|>|<) (?P<limit>[\d,.]+)")
_RELATIONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}

Measurement = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(BENCHES):
        parser.error(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    if options.into:
        _run_here(options.names[0], options.into)
        return 0
    return _run_all(options.names or BENCHES)


def _run_all(names: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(width=None if sys.stdout.isatty() else 140)
    commit = _commit()
    measured: list[Measurement] = []
    crashed = []
    for name in names:
        console.print(f"[bold]{name}[/bold] ...")
        origin = {"machine": machine(), "commit": commit, "time": datetime.now(UTC).isoformat()}
        results = _run_apart(name)
        if results is None:
            crashed.append(name)
            continue
        measured += results
        _keep([{**result, **origin} for result in results])
    console.print(_table(measured))
    for name in crashed:
        console.print(f"[red]{name} crashed[/red]")
    return 1 if crashed else 0


def _run_apart(name: str) -> list[Measurement] | None:
    """The measurements of a bench in a fresh process; None when it crashed."""
    with tempfile.TemporaryDirectory(prefix="domainflow-bench-") as folder:
        into = Path(folder) / "results.json"
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.load", name, "--into", str(into)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": _import_path()},
        )
        try:
            status = child.wait(LONGEST)
        except subprocess.TimeoutExpired:
            status = 1
        except KeyboardInterrupt:
            # The terminal told it, too; told twice it would not clean up.
            child.wait()
            raise
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        if status != 0:
            return None
        found: list[Measurement] = json.loads(into.read_text())
        return found


def _run_here(name: str, into: Path) -> None:
    # The way out that every bench has anyway, so that its servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    bench = importlib.import_module(f"tests.load.{name}")
    into.write_text(json.dumps(bench.run()))


def _import_path() -> str:
    paths = [str(ROOT), str(ROOT / "gen" / "python"), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(path for path in paths if path)


def _keep(lines: list[Measurement]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _table(measured: list[Measurement]) -> Table:
    table = Table("measurement", "value", "yardstick", "ratio", "line", "")
    for result in measured:
        yardstick = result.get("yardstick") or {}
        ratio = result.get("ratio")
        table.add_row(
            result["name"],
            f"{amount(result['value'])} {result['unit']}",
            f"{amount(yardstick['value'])} {yardstick['unit']}, {yardstick['name']}"
            if yardstick
            else "",
            "" if ratio is None else f"{ratio:.2f}",
            result.get("target") or "",
            verdict(result),
        )
    return table


def verdict(result: Measurement) -> str:
    """Whether a measurement reaches its line, such as "ratio >= 0.8" or "p95 < 20 ms"."""
    target = result.get("target")
    if not target:
        return ""
    parts = _TARGET.match(target)
    if parts is None:
        raise ValueError(f"{result['name']}: no line can be read in {target!r}")
    found = result["ratio"] if parts["what"] == "ratio" else result["value"]
    if found is None:
        return ""
    limit = float(parts["limit"].replace(",", ""))
    relation = parts["relation"]
    if _RELATIONS[relation](found, limit):
        return "holds"
    return "below the line" if relation in (">", ">=") else "over the line"


def amount(value: float) -> str:
    """A figure with as many digits as anybody needs."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What the figures of a run depend on besides the code."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
            1,
        ),
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_average": os.getloadavg(),
    }


def _cpu_model() -> str:
    with_models = Path("/proc/cpuinfo")
    if with_models.exists():
        for line in with_models.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit that was measured, with a + when the tree differs from it; "" without git."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
