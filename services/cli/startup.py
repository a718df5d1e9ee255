"""Shows the parts of the suite getting ready, and says later when one had to be started again."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from services.suite.process import Report, State


class Startup:
    """`with Startup(console) as startup:` around the start; `startup.take` is the callback.

    After the block it goes on saying, in plain lines, what dies and comes back.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._reports: dict[str, Report] = {}
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._live: Live | None = None
        self._spinner = Spinner("dots")

    def take(self, report: Report) -> None:
        now = time.monotonic()
        before = self._reports.get(report.name)
        self._reports[report.name] = report
        self._began.setdefault(report.name, now)
        if report.state is State.READY:
            self._took.setdefault(report.name, now - self._began[report.name])
            if before is not None and before.state is State.RESTARTING:
                self._say(f"{report.name} is ready again (pid {report.pid})")
            elif self._live is None:
                self._say(f"{report.name} ready after {self._took[report.name]:.1f} s")
        elif report.state is State.RESTARTING and (before is None or before.state != report.state):
            self._say(f"{report.name} {report.detail.splitlines()[0]}, starting it again")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=10,
                redirect_stdout=False,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say(self, line: str) -> None:
        self._console.print(escape(line))

    def _render(self) -> RenderableType:
        # A copy: this runs in rich's thread while reports arrive.
        grid = Table.grid(padding=(0, 1))
        for report in list(self._reports.values()):
            ready = report.state is State.READY
            mark: RenderableType = Text("✓", style="green") if ready else self._spinner
            took = f"{self._took[report.name]:.1f} s" if report.name in self._took else ""
            grid.add_row(mark, report.name, Text(took if ready else report.state, style="dim"))
        return grid
