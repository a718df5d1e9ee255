"""A watched campaign as one moving line on a terminal, or as plain lines where nobody looks."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2, event_pb2
from domainflow.validation.v1 import proxy_pb2, resolver_pb2
from services.cli.refusal import Refusal
from services.cli.terminal import label, span

# Seconds between plain lines when standard error is no terminal.
PLAIN_INTERVAL = 5.0
# Seconds after which a chunk is said to keep its phase waiting.
LONG_CHUNK = 5
# A phase that is given this status while another one is shown is prepared or left out.
_NOT_ITS_TURN = {campaign_pb2.PHASE_STATUS_CONFIGURED, campaign_pb2.PHASE_STATUS_SKIPPED}


@dataclass(slots=True)
class Picture:
    """What is known of one campaign's running phase, folded from the messages of a watch."""

    name: str = ""
    phase: "campaign_pb2.Phase.ValueType" = campaign_pb2.PHASE_UNSPECIFIED
    status: "campaign_pb2.PhaseStatus.ValueType" = campaign_pb2.PHASE_STATUS_UNSPECIFIED
    failure: str = ""
    run: int = 0
    name_count: int = 0
    settled_count: int = 0
    names_per_second: float = 0.0
    remaining: float | None = None
    drawn_at: float = 0.0
    revision: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    # What the phase waits for, in words; empty when nothing is known.
    waiting: str = ""
    worker_memory_bytes: int = 0
    # Rows deleted and rows there were, once the campaign is being deleted.
    deleted: tuple[int, int] | None = None
    is_gone: bool = False

    def take(self, message: campaign_service_pb2.WatchCampaignsResponse, now: float) -> str:
        """Fold one message in; the answer is a line worth keeping on the screen, or empty."""
        match message.WhichOneof("kind"):
            case "state":
                return self._take_state(message.state)
            case "progress":
                self._take_progress(message.progress, now)
            case "event":
                return self._take_event(message.event)
            case "system_event":
                return system_note(message.system_event)
            case "deletion":
                deletion = message.deletion
                self.deleted = deletion.deleted_count, deletion.row_count
                self.is_gone = deletion.finished
                return "deleted" if deletion.finished else ""
        return ""

    def remaining_at(self, now: float) -> float | None:
        """The last estimate less the time that has passed since: an ETA that counts."""
        if self.remaining is None:
            return None
        return max(0.0, self.remaining - (now - self.drawn_at))

    @property
    def total(self) -> int | None:
        """Names there are to settle; none while nobody knows, as during an upload: then those there
        are have all been settled, and nobody says how long it will take."""
        running = self.status == campaign_pb2.PHASE_STATUS_RUNNING
        if running and self.remaining is None and self.settled_count >= self.name_count:
            return None
        return self.name_count or None

    def _take_state(self, state: campaign_pb2.Campaign) -> str:
        self.name, self.revision = state.name, state.revision
        self.phase, self.status = state.current_phase, state.status
        for phase in state.phases:
            if phase.phase == state.current_phase:
                self.name_count, self.settled_count = phase.name_count, phase.settled_count
                self.failure, self.run = phase.failure, phase.run
        return _short_of(sum(phase.missing_count for phase in state.phases))

    def _take_progress(self, progress: event_pb2.Progress, now: float) -> None:
        self.phase, self.status, self.revision = progress.phase, progress.status, progress.revision
        self.run = progress.run
        self.name_count, self.settled_count = progress.name_count, progress.settled_count
        self.names_per_second = progress.names_per_second
        self.outcomes = {o.outcome: o.count for o in progress.outcomes}
        known = progress.HasField("remaining")
        self.remaining = progress.remaining.ToTimedelta().total_seconds() if known else None
        self.drawn_at = now
        self.waiting = waiting_text(progress.waiting_for)
        self.worker_memory_bytes = progress.worker_memory_bytes

    def _take_event(self, event: event_pb2.Event) -> str:
        match event.WhichOneof("kind"):
            case "phase_changed":
                return self._take_change(event.phase_changed)
            case "chunk_settled":
                # Progress is sent now and then; what was settled since the last one comes on top.
                settled = event.chunk_settled
                shown = (settled.phase, settled.run) == (self.phase, self.run)
                if shown and event.revision > self.revision:
                    self.settled_count += settled.name_count
                    for outcome in settled.outcomes:
                        before = self.outcomes.get(outcome.outcome, 0)
                        self.outcomes[outcome.outcome] = before + outcome.count
            case "verdicts_withdrawn":
                withdrawn = event.verdicts_withdrawn
                shown = (withdrawn.phase, withdrawn.run) == (self.phase, self.run)
                if shown and event.revision > self.revision:
                    self.settled_count -= withdrawn.name_count
                    gone = {it.outcome: it.count for it in withdrawn.outcomes}
                    left = {key: n - gone.get(key, 0) for key, n in self.outcomes.items()}
                    self.outcomes = {key: n for key, n in left.items() if n}
            case "names_reserved":
                return _short_of(event.names_reserved.missing_count)
        return event_note(event)

    def _take_change(self, changed: event_pb2.PhaseChanged) -> str:
        why = because(changed.reason)
        line = f"{phase_label(changed.phase)}: {status_label(changed.to_status)}{why}"
        if changed.phase != self.phase and changed.to_status in _NOT_ITS_TURN:
            return line
        if (changed.phase, changed.run) != (self.phase, self.run):
            self.name_count = self.settled_count = 0
            self.outcomes, self.remaining, self.names_per_second = {}, None, 0.0
            self.waiting = ""
        self.phase, self.status, self.run = changed.phase, changed.to_status, changed.run
        if changed.to_status == campaign_pb2.PHASE_STATUS_FAILED:
            self.failure = changed.reason
        return line


def _short_of(missing_count: int) -> str:
    if not missing_count:
        return ""
    return f"the pattern has no more names: {missing_count:,} fewer than asked for"


def plain(picture: Picture, now: float) -> str:
    """`DNS validation  12,000 of 100,000  9,500/s  0:09 left  RESOLVED 7,000, NXDOMAIN 5,000`."""
    parts = headline(picture, now), outcomes_text(picture), standing_text(picture)
    return "  ".join(part for part in parts if part)


def headline(picture: Picture, now: float) -> str:
    """All but the outcomes."""
    if picture.deleted is not None:
        deleted, rows = picture.deleted
        return f"being deleted  {deleted:,} of {max(rows, deleted):,} rows"
    parts = [phase_label(picture.phase)]
    if (total := picture.total) is not None:
        parts.append(f"{picture.settled_count:,} of {total:,}")
    else:
        parts.append(f"{picture.settled_count:,}")
    if picture.status != campaign_pb2.PHASE_STATUS_RUNNING:
        parts.append(status_label(picture.status))
        return "  ".join(parts)
    if picture.names_per_second:
        parts.append(f"{picture.names_per_second:,.0f}/s")
    left = picture.remaining_at(now)
    if left is not None:
        parts.append(f"{span(left)} left")
    return "  ".join(parts)


def outcomes_text(picture: Picture) -> str:
    """Largest first; equal ones by name, so that the line does not flicker."""
    # After a state, which has no outcomes, the ones known are not all.
    if sum(picture.outcomes.values()) != picture.settled_count:
        return ""
    ranked = sorted(picture.outcomes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{outcome} {count:,}" for outcome, count in ranked)


def standing_text(picture: Picture) -> str:
    """What the phase waits for and what the workers take, while it runs."""
    if picture.status != campaign_pb2.PHASE_STATUS_RUNNING or picture.deleted is not None:
        return ""
    memory = picture.worker_memory_bytes
    parts = [picture.waiting, f"workers take {memory / 2**20:,.0f} MB" if memory else ""]
    return "; ".join(part for part in parts if part)


def waiting_text(waiting: event_pb2.WaitingFor) -> str:
    """`slowest 192.0.2.1:53, 120 ms, 2% lost; chunk at 4,000 for 0:42 with w1`."""
    parts = []
    if waiting.endpoint:
        latency = waiting.endpoint_latency.ToMilliseconds()
        measured = [f"{latency:,} ms" if latency else "", f"{waiting.endpoint_loss:.0%} lost"]
        parts.append(", ".join([f"slowest {waiting.endpoint}", *filter(None, measured)]))
    if waiting.oldest_age.seconds >= LONG_CHUNK:
        age = span(waiting.oldest_age.seconds)
        chunk = f"chunk at {waiting.oldest_first_position:,} for {age}"
        parts.append(f"{chunk} with {waiting.oldest_worker}" if waiting.oldest_worker else chunk)
    if delayed := waiting.delayed_chunk_count:
        parts.append(f"{counted(delayed, 'chunk')} to be tried again later")
    return "; ".join(parts)


def event_note(event: event_pb2.Event) -> str:
    """An event that is worth a line, in words; empty for the others."""
    match event.WhichOneof("kind"):
        case "chunk_retried":
            retried = event.chunk_retried
            return f"chunk at {retried.first_position:,} is tried again{colon(retried.cause)}"
        case "campaign_updated":
            updated = event.campaign_updated
            return f"changed: {', '.join(updated.fields)}{because(updated.reason)}"
        case "chunk_size_decided":
            decided = event.chunk_size_decided
            return f"chunks of {counted(decided.chunk_size, 'name')}{colon(decided.reason)}"
        case "chunk_split":
            split = event.chunk_split
            whole = f"chunk at {split.first_position:,}, {counted(split.name_count, 'name')},"
            return f"{whole} is split in two{colon(split.cause)}"
        case "name_dead_lettered":
            letter = event.name_dead_lettered
            return f"gave {letter.name} up{colon(letter.cause)}"
        case "dead_letters_resolved":
            resolved = event.dead_letters_resolved
            state = label(campaign_pb2.DeadLetterState.Name(resolved.state), "DEAD_LETTER_STATE_")
            letters = counted(resolved.count, "dead letter")
            return f"{letters} {state}{because(resolved.reason)}"
        case "verdicts_withdrawn":
            withdrawn = event.verdicts_withdrawn
            names = counted(withdrawn.name_count, "verdict")
            return f"{names} of {withdrawn.resolver} taken back{colon(withdrawn.reason)}"
        case "deletion_started":
            return f"deletion began{because(event.deletion_started.reason)}"
    return ""


def system_note(event: event_pb2.SystemEvent) -> str:
    """What happened to the suite itself, in words; empty for what this version does not know."""
    match event.WhichOneof("kind"):
        case "pool_decided":
            return _pool_note(event.pool_decided)
        case "resolver_changed":
            return _resolver_note(event.resolver_changed)
        case "proxy_changed":
            return _proxy_note(event.proxy_changed)
    return ""


def _resolver_note(changed: event_pb2.ResolverChanged) -> str:
    state = label(resolver_pb2.ResolverState.Name(changed.state), "RESOLVER_STATE_")
    return f"resolver {changed.resolver} is {state} on {changed.host}{colon(changed.reason)}"


def _proxy_note(changed: event_pb2.ProxyChanged) -> str:
    health = label(proxy_pb2.ProxyHealth.Name(changed.to_health), "PROXY_HEALTH_")
    return f"proxy {changed.proxy} is {health} for {changed.worker_id}{colon(changed.reason)}"


def _pool_note(decided: event_pb2.PoolDecided) -> str:
    size = f"{decided.process_count} processes of {counted(decided.task_limit, 'chunk')}"
    return f"{decided.pool} workers on {decided.host}: {size}{colon(decided.reason)}"


def because(reason: str) -> str:
    """A caller's reason, to be put after what was done."""
    return f" ({reason})" if reason else ""


def colon(cause: str) -> str:
    """A cause, to be put after what came of it."""
    return f": {cause}" if cause else ""


def counted(number: int, unit: str) -> str:
    """`1 chunk`, `2,000 chunks`."""
    return f"{number:,} {unit}" if number == 1 else f"{number:,} {unit}s"


def phase_label(phase: "campaign_pb2.Phase.ValueType") -> str:
    return label(campaign_pb2.Phase.Name(phase), "PHASE_")


def status_label(status: "campaign_pb2.PhaseStatus.ValueType") -> str:
    return label(campaign_pb2.PhaseStatus.Name(status), "PHASE_STATUS_")


class Display:
    """`with Display(console) as display:` then `display.take(message)` for each message."""

    def __init__(
        self,
        console: Console,
        *,
        live: bool = True,
        interval: float = PLAIN_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._wants_live = live and console.is_terminal
        self._interval = interval
        self._clock = clock
        self._said_at = clock()
        self._trouble = ""
        self._live: Live | None = None
        self.picture = Picture()

    def take(self, message: campaign_service_pb2.WatchCampaignsResponse) -> None:
        now = self._clock()
        self._trouble = ""
        note = self.picture.take(message, now)
        if note:
            self.note(note)
        if self._live is None and now - self._said_at >= self._interval:
            self.note(plain(self.picture, now))
            self._said_at = now

    def note(self, line: str) -> None:
        """A line that stays."""
        self._console.print(escape(line))

    def trouble(self, line: str) -> None:
        """Say once that the connection is lost; on a terminal until the next message comes."""
        if self._live is None and not self._trouble:
            self.note(line)
        self._trouble = line

    def __enter__(self) -> Self:
        if self._wants_live:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=5,
                transient=True,
                # Standard output is data and often not the terminal that standard error is.
                redirect_stdout=False,
                redirect_stderr=False,
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
        picture = self.picture
        if (picture.settled_count or picture.name_count) and not picture.is_gone:
            self.note(plain(self.picture, self._clock()))

    def _render(self) -> RenderableType:
        picture = self.picture
        grid = Table.grid(padding=(0, 2))
        if self._trouble:
            grid.add_row(Text(self._trouble, style="yellow"))
            return grid
        bar = ProgressBar(
            total=picture.total,
            completed=picture.settled_count,
            width=28,
            pulse=picture.total is None,
        )
        grid.add_row(bar, Text(headline(picture, self._clock())))
        lines = [text for text in (outcomes_text(picture), standing_text(picture)) if text]
        return Group(grid, *(Text(line, style="dim") for line in lines))


class Tally:
    """A count that moves: a bar on a terminal, a plain line at intervals elsewhere."""

    def __init__(
        self,
        console: Console,
        unit: str,
        *,
        total: int | None = None,
        live: bool = True,
        interval: float = PLAIN_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._unit = unit
        self._interval = interval
        self._clock = clock
        self._said_at = clock()
        self._live = live and console.is_terminal
        self._bar = Progress(
            BarColumn(28),
            TextColumn("{task.fields[count]:,} " + unit),
            TimeElapsedColumn(),
            TextColumn("{task.fields[trouble]}", style="yellow"),
            console=console,
            transient=True,
            disable=not self._live,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=total, count=0, trouble="")

    def move(self, *, count: int | None = None, done: int | None = None) -> None:
        """`count` is what is shown, `done` what the bar measures against the total."""
        self._bar.update(self._task, trouble="")
        if done is not None:
            self._bar.update(self._task, completed=done)
        if count is not None:
            self._bar.update(self._task, count=count)
            now = self._clock()
            if not self._live and now - self._said_at >= self._interval:
                self._console.print(f"{count:,} {self._unit}")
                self._said_at = now

    def trouble(self, cause: Refusal) -> None:
        text = f"connection lost ({cause.message}), trying again"
        self._bar.update(self._task, trouble=text)
        if not self._live:
            self._console.print(escape(text))

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
