"""Which proxy a request goes through, and whether a proxy is used at all. Pure: the time (seconds
of one process's monotonic clock) and randomness are arguments.

A proxy is judged by the results of the requests it carried. So many failures in a row take it out;
only so many successes in a row, of single trials at growing intervals, bring it back: one result,
good or bad, never changes anything twice. A page that cannot be had is no fault of the proxy and
counts neither way.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from math import inf

from services.chassis.errors import FieldViolation
from services.validation.http.proxies import MAX_WEIGHT, Proxy

MAX_MEMBERS = 1_000


class Strategy(StrEnum):
    """Which of the usable proxies is next."""

    # One after the other.
    ROUND_ROBIN = "round_robin"
    # Any, each as likely.
    RANDOM = "random"
    # The one with the fewest requests under way; of several, one after the other. Not the one used
    # least in all: who comes back after an hour would get every request.
    LEAST_USED = "least_used"
    # By weight, spread evenly: of any W requests in a row, W the sum of weights, each gets as many
    # as its weight while all stay usable.
    WEIGHTED = "weighted"


class Health(IntEnum):
    """Whether a proxy is used."""

    UP = 1
    # Not until its next trial.
    DOWN = 2
    # One request at a time, to see whether it works again.
    ON_TRIAL = 3


class Result(StrEnum):
    """What a request says about the proxy that carried it."""

    WORKED = "worked"
    # The proxy: no connection, refused credentials, a broken answer of its own.
    FAILED = "failed"
    # Nothing: the site failed, or the request was given up.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HealthRules:
    """When a proxy is taken out and brought back. `check_rules` says what is wrong with some."""

    # Failures in a row that take it out: 1-100.
    failures: int = 3
    # Successes in a row, of trials, that bring it back: 1-100.
    successes: int = 2
    # Seconds from being taken out to the first trial: 1-3,600.
    first_delay: float = 30.0
    # A failed trial, and going out again within max_delay of coming back, doubles the delay, up to
    # so many seconds: first_delay-86,400.
    max_delay: float = 600.0


@dataclass(frozen=True, slots=True)
class Member:
    """A proxy of a pool."""

    # What the pool's owner calls it.
    proxy_id: str
    proxy: Proxy
    # Its share with WEIGHTED: 1-MAX_WEIGHT.
    weight: int = 1
    # False: in the pool, and not used.
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class Counters:
    """What one proxy did since the pool was made. use_count = in_flight_count + worked_count +
    failed_count + unknown_count."""

    use_count: int = 0
    in_flight_count: int = 0
    worked_count: int = 0
    failed_count: int = 0
    unknown_count: int = 0
    # Times it was taken out.
    down_count: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """A proxy's health changed."""

    proxy_id: str
    before: Health
    after: Health


@dataclass(frozen=True, slots=True)
class Use:
    """A request under way. To be given back exactly once."""

    member: Member
    # Number of the use in its pool.
    number: int


@dataclass(frozen=True, slots=True)
class Condition:
    """One proxy as it is now."""

    proxy_id: str
    health: Health
    counters: Counters
    # Time of the next trial; None unless DOWN.
    trial_time: float | None


def check_rules(rules: HealthRules, path: str) -> Iterator[FieldViolation]:
    """What is wrong with rules that stand at `path`: every bad field by its name."""
    for name, most in (("failures", 100), ("successes", 100)):
        if not 1 <= getattr(rules, name) <= most:
            yield FieldViolation(f"{path}.{name}", f"has to be from 1 to {most}")
    if not 1 <= rules.first_delay <= 3_600:
        yield FieldViolation(f"{path}.first_delay", "has to be from 1 to 3,600 s")
    elif not rules.first_delay <= rules.max_delay <= 86_400:
        yield FieldViolation(
            f"{path}.max_delay", f"has to be from first_delay, {rules.first_delay:g}, to 86,400 s"
        )


def check_members(members: Sequence[Member], path: str) -> Iterator[FieldViolation]:
    """What is wrong with members that stand at `path`."""
    if len(members) > MAX_MEMBERS:
        yield FieldViolation(path, f"has {len(members):,} members, more than {MAX_MEMBERS:,}")
    first_at: dict[str, int] = {}
    for index, member in enumerate(members[:MAX_MEMBERS]):
        if not 1 <= member.weight <= MAX_WEIGHT:
            yield FieldViolation(f"{path}[{index}].weight", f"has to be from 1 to {MAX_WEIGHT:,}")
        first = first_at.setdefault(member.proxy_id, index)
        if first != index:
            yield FieldViolation(f"{path}[{index}].proxy_id", f"is that of {path}[{first}] already")


@dataclass(slots=True)
class _Seat:
    """A member and what is known of it."""

    member: Member
    health: Health = Health.UP
    # As in Counters.
    uses: int = 0
    in_flight: int = 0
    worked: int = 0
    failed: int = 0
    unknown: int = 0
    downs: int = 0
    # Failures in a row while UP, successes in a row while on trial.
    streak: int = 0
    # Of the next time out, seconds.
    delay: float = 0.0
    # When it came back last; None: it was never out.
    up_since: float | None = None
    trial_time: float = 0.0
    # Uses before this number began before its health changed: late news that change nothing.
    first_use: int = 0
    # The trial under way; -1 without one.
    trial: int = -1
    # Standing with WEIGHTED.
    credit: int = 0

    @property
    def counters(self) -> Counters:
        return Counters(
            self.uses, self.in_flight, self.worked, self.failed, self.unknown, self.downs
        )

    def is_usable(self, now: float) -> bool:
        """Whether a request may go through it now."""
        if self.health is Health.UP:
            return True
        # One trial at a time.
        return self.trial < 0 and (self.health is Health.ON_TRIAL or self.trial_time <= now)


class Pool:
    """Chooses proxies and learns from their results. Belongs to one process; not for threads.

    `random` gives numbers from 0 (included) to 1 (excluded). It also decides whom a rotation begins
    with, so that many processes do not all begin with the same one. A choice costs microseconds
    with ROUND_ROBIN and RANDOM, and some 0.1 us a member besides with LEAST_USED or WEIGHTED.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        strategy: Strategy,
        random: Callable[[], float],
        rules: HealthRules | None = None,
    ) -> None:
        self._strategy = strategy
        self._random = random
        self._rules = rules or HealthRules()
        self._seats: dict[str, _Seat] = {}
        # Active members, in the order of the rotation.
        self._order: list[_Seat] = []
        self._spin = random()
        # Indexes of the usable ones in order, until a health changes or this time; None: not known.
        self._usable: list[int] | None = None
        self._usable_until = 0.0
        # Index of whose turn it is.
        self._turn = 0
        self._uses = 0
        self._under_way: dict[int, _Seat] = {}
        self.replace(members)

    def replace(
        self,
        members: Sequence[Member],
        *,
        strategy: Strategy | None = None,
        rules: HealthRules | None = None,
    ) -> None:
        """Other members from now on, and another strategy and rules where they are given; those
        that stay keep health and counters, unless their proxy or its password is another now."""
        self._strategy = strategy or self._strategy
        self._rules = rules or self._rules
        seats = {}
        for member in members:
            seat = self._seats.get(member.proxy_id)
            if seat is None or _differ(seat.member.proxy, member.proxy):
                seat = _Seat(member, delay=self._rules.first_delay, first_use=self._uses)
            seat.member = member
            seats[member.proxy_id] = seat
        self._seats = seats
        active = [seat for seat in seats.values() if seat.member.is_active]
        begin = int(self._spin * len(active))
        self._order = active[begin:] + active[:begin]
        self._turn = min(self._turn, max(len(active) - 1, 0))
        self._usable = None

    def choose(self, now: float, avoid: Collection[str] = ()) -> tuple[Use, Change | None] | None:
        """The proxy of the next request, and the change when that is its first trial; None while
        none can be used: see `wait`. `avoid`: ids of proxies that failed this request before."""
        index = self._next(now, avoid)
        if index < 0:
            return None
        seat = self._order[index]
        self._turn = (index + 1) % len(self._order)
        use = Use(seat.member, self._uses)
        self._uses += 1
        change = None
        if seat.health is Health.DOWN:
            change = self._become(seat, Health.ON_TRIAL, use.number)
        if seat.health is Health.ON_TRIAL:
            seat.trial = use.number
            self._usable = None
        seat.uses += 1
        seat.in_flight += 1
        self._under_way[use.number] = seat
        return use, change

    def give_back(self, use: Use, result: Result, now: float) -> Change | None:
        """The request is over. Returns the change of the proxy's health that it makes, if any.

        Raises ValueError for a use that was given back before.
        """
        seat = self._under_way.pop(use.number, None)
        if seat is None:
            raise ValueError(f"use {use.number} is not under way")
        seat.in_flight -= 1
        if result is Result.WORKED:
            seat.worked += 1
        elif result is Result.FAILED:
            seat.failed += 1
        else:
            seat.unknown += 1
        if seat.trial == use.number:
            seat.trial = -1
            self._usable = None
        if self._seats.get(seat.member.proxy_id) is not seat or use.number < seat.first_use:
            return None
        return self._learn(seat, result, now)

    def wait(self, now: float) -> float | None:
        """Seconds until a proxy can be used, unless a trial ends sooner; 0 when one can be now;
        None when only the end of a trial, or other members, can help."""
        waits = [
            0.0 if seat.health is not Health.DOWN else max(seat.trial_time - now, 0.0)
            for seat in self._order
            if seat.trial < 0
        ]
        return min(waits, default=None)

    def conditions(self) -> list[Condition]:
        """Every member, active or not, in the order they were given."""
        return [
            Condition(
                seat.member.proxy_id,
                seat.health,
                seat.counters,
                seat.trial_time if seat.health is Health.DOWN else None,
            )
            for seat in self._seats.values()
        ]

    def _next(self, now: float, avoid: Collection[str]) -> int:
        """Index of the next one; -1 when none is usable."""
        usable = self._usable_now(now)
        if avoid:
            order = self._order
            usable = [index for index in usable if order[index].member.proxy_id not in avoid]
        if not usable:
            return -1
        if self._strategy is Strategy.RANDOM:
            return usable[int(self._random() * len(usable))]
        if self._strategy is Strategy.WEIGHTED:
            return self._richest(usable)
        first = bisect_left(usable, self._turn)
        if self._strategy is Strategy.ROUND_ROBIN:
            return usable[first % len(usable)]
        order = self._order
        turns = usable[first:] + usable[:first]
        loads = [order[index].in_flight for index in turns]
        return turns[loads.index(min(loads))]

    def _usable_now(self, now: float) -> list[int]:
        if self._usable is None or now >= self._usable_until:
            self._usable = [index for index, seat in enumerate(self._order) if seat.is_usable(now)]
            self._usable_until = min(
                (
                    seat.trial_time
                    for seat in self._order
                    if seat.health is Health.DOWN and seat.trial_time > now
                ),
                default=inf,
            )
        return self._usable

    def _richest(self, indexes: Sequence[int]) -> int:
        """Smooth weighted round robin: everyone earns its weight, the richest pays for all."""
        total = 0
        for index in indexes:
            seat = self._order[index]
            seat.credit += seat.member.weight
            total += seat.member.weight
        best = max(indexes, key=lambda index: self._order[index].credit)
        self._order[best].credit -= total
        return best

    def _learn(self, seat: _Seat, result: Result, now: float) -> Change | None:
        if result is Result.UNKNOWN or seat.health is Health.DOWN:
            return None
        rules = self._rules
        if seat.health is Health.UP:
            seat.streak = seat.streak + 1 if result is Result.FAILED else 0
            return self._take_out(seat, now) if seat.streak >= rules.failures else None
        if result is Result.FAILED:
            return self._take_out(seat, now)
        seat.streak += 1
        if seat.streak < rules.successes:
            return None
        seat.up_since = now
        return self._become(seat, Health.UP, self._uses)

    def _take_out(self, seat: _Seat, now: float) -> Change:
        rules = self._rules
        lasted = seat.up_since is None or now - seat.up_since > rules.max_delay
        if seat.health is Health.UP and lasted:
            seat.delay = rules.first_delay
        elif seat.downs:
            seat.delay = min(seat.delay * 2, rules.max_delay)
        seat.trial_time = now + seat.delay
        seat.downs += 1
        return self._become(seat, Health.DOWN, self._uses)

    def _become(self, seat: _Seat, health: Health, first_use: int) -> Change:
        change = Change(seat.member.proxy_id, seat.health, health)
        seat.health = health
        seat.streak = 0
        seat.credit = 0
        seat.first_use = first_use
        self._usable = None
        return change


def _differ(one: Proxy, other: Proxy) -> bool:
    return one != other or one.password != other.password
