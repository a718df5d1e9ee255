"""`make bench-query TIER=2m`: the query service in five parts, against the run that is kept.

1. pages at depth 1, 100, 1,000 and the last, in every order
2. results of 10,000 rows and more
3. 20 users with 100 queries each, at once
4. how much is read by index
5. memory over 1,000 rounds

Every figure has a yardstick, the same thing by bare means, measured in turns with it; what is
compared with tests/load/baseline-TIER.json is their ratio. Writes build/bench-query-TIER.json and
ends with 1 where a ratio got worse by more than a fifth in three runs of its part, or where a line
of parts 4 and 5 does not hold.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from rich.console import Console
from rich.table import Table

from domainflow.query.v1.query_service_pb2_grpc import QueryServiceStub
from tests.load.__main__ import ROOT, _commit, amount, machine, verdict
from tests.load.bare_server import bare_server
from tests.load.comparison import Finding, Judgement, Measurement, best_of, compare, kept
from tests.load.copying import make_copies
from tests.load.dataset import TIERS, dataset
from tests.load.latency_plot import draw
from tests.load.query_parts import PARTS, STRICT, Bench, by_offset
from tests.load.query_server import query_server

# A part with a figure that got worse is measured so often before that is believed.
TRIES = 3


async def measure(tier: str, baseline: dict[str, Any]) -> dict[str, Any]:
    """Everything a run finds out. A part that got worse is measured again before it is believed."""
    console = Console(stderr=True)
    begun = time.monotonic()
    data = await asyncio.to_thread(dataset, tier)
    await asyncio.to_thread(make_copies, data.database_url)
    console.print(f"{data.large_count:,} names after {time.monotonic() - begun:.0f} s")
    measured: dict[str, Measurement] = {}
    async with AsyncExitStack() as stack:
        server = stack.enter_context(query_server(data.database_url))
        options = [("grpc.max_receive_message_length", 64 * 2**20)]
        channel = grpc.aio.insecure_channel(server.address, options=options)
        await stack.enter_async_context(channel)
        bare = grpc.aio.insecure_channel(stack.enter_context(bare_server(data.database_url)))
        await stack.enter_async_context(bare)
        connection = await asyncpg.connect(data.database_url)
        stack.push_async_callback(connection.close)
        bench = Bench(data, server, QueryServiceStub(channel), QueryServiceStub(bare), connection)
        for part in PARTS:
            for attempt in range(TRIES):
                begun = time.monotonic()
                found = await part(bench)
                for each in found:
                    first = measured.get(each["name"])
                    measured[each["name"]] = best_of(first, each) if first else each
                took = time.monotonic() - begun
                console.print(f"{part.__name__} took {took:.0f} s{' again' if attempt else ''}")
                judged = compare(baseline, [measured[each["name"]] for each in found])
                if not any(each.judgement is Judgement.WORSE for each in judged):
                    break
        offsets = await by_offset(bench)
    return {
        "tier": tier,
        "names": data.large_count,
        "time": datetime.now(UTC).isoformat(),
        "commit": _commit(),
        "machine": machine(),
        "measurements": list(measured.values()),
        "by_offset": offsets,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load.bench_query", description=__doc__)
    parser.add_argument("tier", choices=list(TIERS))
    parser.add_argument("--keep", action="store_true", help="make this run the one to compare with")
    options = parser.parse_args(arguments)
    file = Path(__file__).parent / f"baseline-{options.tier}.json"
    baseline = {} if options.keep or not file.exists() else json.loads(file.read_text())
    run = asyncio.run(measure(options.tier, baseline.get("ratios", {})))
    findings = compare(baseline.get("ratios", {}), run["measurements"])
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / f"bench-query-{options.tier}.json").write_text(json.dumps(run, indent=2) + "\n")
    draw(run, build / f"latency_by_depth-{options.tier}.svg")
    if options.keep:
        about = {key: run[key] for key in ("tier", "names", "time", "commit", "machine")}
        ratios = kept(run["measurements"])
        file.write_text(json.dumps({**about, "ratios": ratios}, indent=2) + "\n")
        if run["names"] >= TIERS["2m"]:
            draw(run, ROOT / "docs" / "latency_by_depth.svg")
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(_table(run["measurements"], {each.name: each for each in findings}))
    failed = [each.name for each in findings if each.fails]
    failed += [
        each["name"]
        for each in run["measurements"]
        if each["name"] in STRICT and verdict(each) != "holds"
    ]
    for name in failed:
        console.print(f"[red]{name}: worse than it may be[/red]")
    if not baseline and not options.keep:
        console.print(f"nothing to compare with: make bench-query-baseline TIER={options.tier}")
    return 1 if failed else 0


def _table(measured: Sequence[Measurement], findings: dict[str, Finding]) -> Table:
    table = Table("measurement", "value", "yardstick", "ratio", "kept run", "line", "")
    for each in measured:
        yardstick = each.get("yardstick")
        finding = findings.get(each["name"])
        change = "" if finding is None or finding.change is None else f"{finding.change:+.0%}"
        table.add_row(
            each["name"],
            f"{amount(each['value'])} {each['unit']}",
            f"{amount(yardstick['value'])} {yardstick['unit']}, {yardstick['name']}"
            if yardstick
            else "",
            "" if each["ratio"] is None else f"{each['ratio']:.2f}",
            f"{finding.judgement} {change}" if finding else "",
            each.get("target") or "",
            verdict(each),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
