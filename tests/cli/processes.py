"""Commands in processes of their own: for pipes, signals and what a shell sees."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def process(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "gen" / "python")])
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        # As from a terminal, although tests may run where Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )
