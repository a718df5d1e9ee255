"""The yardstick of streams: psql copying the same rows of the same server."""

import os
import subprocess
import sys
import time
from pathlib import Path

from services.suite.postgres import binaries

ROOT = Path(__file__).parents[2]


def names_query(*campaign_nos: int) -> str:
    """No join, no order."""
    return f"SELECT name FROM domains WHERE campaign_no IN ({','.join(map(str, campaign_nos))})"


def enriched_query(campaign_no: int) -> str:
    """The columns of StreamEnriched of the first run, joined; the order is left to the server."""
    joins = "".join(
        f" LEFT JOIN {table} {alias} ON {alias}.campaign_no = {campaign_no}"
        f" AND {alias}.run = 1 AND {alias}.position = d.position"
        for table, alias in (
            ("dns_results", "r"),
            ("http_results", "h"),
            ("page_analyses", "a"),
            ("leads", "l"),
        )
    )
    return f"""SELECT d.position, d.name, r.verdict, r.addresses, r.check_time_us, h.verdict,
        h.status_code, h.final_url, h.title, a.score, l.status, l.reason
        FROM domains d{joins} WHERE d.campaign_no = {campaign_no}"""


def copy_seconds(database_url: str, query: str) -> float:
    """Seconds of the fastest way out there is: nobody looks at the rows."""
    begun = time.perf_counter()
    subprocess.run(
        [
            str(binaries() / "psql"),
            "--no-psqlrc",
            "--dbname",
            database_url,
            "--command",
            f"COPY ({query}) TO STDOUT",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


def make_copies(database_url: str, *, seal: bool = True) -> None:
    """All that the suite's maintainer has done some time after campaigns have finished; without
    `seal` no copies of them."""
    subprocess.run(
        [sys.executable, "-m", "services.query", "maintain", "--once"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(ROOT / "gen/python"), os.environ.get("PYTHONPATH", "")]
            ),
            "DATABASE_URL": database_url,
            "QUERY_SEAL": "on" if seal else "off",
        },
        check=True,
    )
