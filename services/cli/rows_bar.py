"""Rows that come: a bar with speed and time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from services.cli.progress import PLAIN_INTERVAL
from services.cli.refusal import Refusal
from services.cli.terminal import span


class RowsBar:
    """`with RowsBar(console, total) as bar:`, `begin` with what is there, then `add` what comes.

    The speed is that of this process: rows of an earlier one cost it nothing.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        *,
        estimated: bool = False,
        interval: float = PLAIN_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._total = total
        self._about = "about " if estimated else ""
        self._interval = interval
        self._clock = clock
        self._begun = self._said_at = clock()
        self._before = self._count = 0
        self._bar = Progress(
            BarColumn(28),
            TextColumn("{task.fields[line]}"),
            TextColumn("{task.fields[trouble]}", style="yellow"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=total or None, line="", trouble="")

    @property
    def count(self) -> int:
        """Rows that are there."""
        return self._count

    def begin(self, count: int) -> None:
        """So many rows are there from before."""
        self._before = self._count = count
        self._begun = self._clock()
        if count:
            self._console.print(f"going on after {count:,} rows that are there already")
        self._show()

    def add(self, count: int) -> None:
        self._count += count
        self._show()
        now = self._clock()
        if self._bar.disable and now - self._said_at >= self._interval:
            self._console.print(self.line())
            self._said_at = now

    def finishing(self) -> None:
        """All rows are there; the file still has to be written."""
        self._total = max(self._count, 0)
        self._bar.update(self._task, line=f"{self._count:,} rows, writing the file", trouble="")

    def trouble(self, cause: Refusal) -> None:
        text = f"connection lost ({cause.message}), trying again"
        self._bar.update(self._task, trouble=text)
        if self._bar.disable:
            self._console.print(escape(text))

    def line(self) -> str:
        """`1,200,000 of 2,000,000 rows  640,000/s  0:02 left`."""
        elapsed = self._clock() - self._begun
        rate = (self._count - self._before) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self._count:,} of {self._about}{self._total:,} rows"]
        if rate:
            parts.append(f"{rate:,.0f}/s")
            parts.append(f"{span(max(0, self._total - self._count) / rate)} left")
        return "  ".join(parts)

    def _show(self) -> None:
        self._bar.update(self._task, completed=self._count, line=self.line(), trouble="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
