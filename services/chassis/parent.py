"""Ties a process to the life of the one that started it, also when that one is killed (Linux)."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Be killed when the process `parent`, which started this one, ends; SystemExit if it has.

    The kernel ties us to the parent's thread that started us. Elsewhere than on Linux only a
    parent that has ended already is noticed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before the request was made.
    if os.getppid() != parent:
        sys.exit("the process that started this one has ended")
