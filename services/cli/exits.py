"""What the command's exit status says, and the one exception that ends a command on purpose."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Part of the interface: scripts depend on the numbers. Documented in `domainflow --help`."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CANCELLED = 3
    PHASE_FAILED = 4
    NOT_REACHABLE = 5
    INTERRUPTED = 130


class Failure(Exception):
    """Ends the command with one line on standard error and an exit code; never a traceback."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILURE) -> None:
        super().__init__(message)
        self.code = code
