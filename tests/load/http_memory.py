"""Memory of a worker of the HTTP phase after a tenth of two hundred thousand pages, and after all.

A bench of its own: it takes a quarter of an hour. BENCH_SHARE makes it smaller.
"""

import asyncio
import json
from typing import Any

from tests.load.busy_suite import scaled
from tests.load.http_end_to_end import Trial, campaign
from tests.load.processes import server

PAGES = scaled(200_000, least=4_000)


def run() -> list[dict[str, Any]]:
    with server("tests.load.page_server") as said:
        phase = asyncio.run(campaign(Trial(PAGES), json.loads(said)))
    assert phase.outcomes == {"OK": PAGES}, phase.outcomes
    return [
        {
            "name": f"http_memory, {PAGES:,} pages",
            "value": phase.late_rss_mb,
            "unit": "MB",
            "yardstick": {
                "name": f"after {PAGES // 10:,}",
                "value": phase.early_rss_mb,
                "unit": "MB",
            },
            "ratio": phase.late_rss_mb / phase.early_rss_mb,
            "target": "ratio <= 1.1",
            "peak_rss_mb": phase.peak_rss_mb,
            "pages_per_second": PAGES / phase.seconds,
            "worker_cpu_ms_per_page": phase.worker_cpu / PAGES * 1e3,
        }
    ]
