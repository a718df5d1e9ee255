"""Commands in processes of their own: for pipes, signals and what a shell sees."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# As from a terminal, although tests may run where Ctrl-C is ignored. Not between fork and exec:
# what runs there in a process with threads may crash.
_INTERRUPTIBLE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"""


def process(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "gen" / "python")])
    return subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTIBLE, "-m", "services.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        **options,
    )
