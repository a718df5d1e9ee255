"""Names without an ordinary answer: when to ask again, and when to believe what is heard. Pure.

Every reason has a lane of its own, with its own budget and delays: silence does not use up what is
granted to SERVFAIL, nor the other way round.
"""

from collections.abc import Mapping

from services.validation.dns.settings import SOFT_DELAY_LIMIT, EngineSettings, Lane
from services.validation.dns.verdict import Verdict, conclude

# Questions about one name and type at most, whatever the lanes add up to.
LIMIT = 60
# Before a name is TIMEOUT, so many resolvers were asked and mute, if there are as many.
WITNESSES = 3

_SOFT = (Verdict.SERVFAIL, Verdict.REFUSED, Verdict.ERROR)
# How likely it may be that a name is TIMEOUT because every packet about it was lost: so much, or
# what the budget for silence gives at a loss of 5%.
CHANCE = 1e-6
USUAL_LOSS = 0.05
# No answer heard less often is concluded on while silence is commoner.
_CORROBORATED = 3


class Lanes:
    """The lanes of an engine."""

    def __init__(self, settings: EngineSettings) -> None:
        listed = {lane.reason: lane for lane in settings.lanes}
        soft = min(settings.soft_tries, settings.tries)
        self._lanes = {Verdict.TIMEOUT: Lane(Verdict.TIMEOUT, settings.tries, 0, 0)}
        for reason in _SOFT:
            self._lanes[reason] = Lane(reason, soft, settings.soft_delay, SOFT_DELAY_LIMIT)
        self._lanes.update(listed)
        self._soft_delay = settings.soft_delay
        self._chance = max(CHANCE, USUAL_LOSS ** self._lanes[Verdict.TIMEOUT].tries)
        # Questions about one name at most.
        self.limit = min(LIMIT, sum(lane.tries for lane in self._lanes.values()))
        # Seconds that a name takes which is mute, and that any takes at most.
        self.mute_time = self._time(Verdict.TIMEOUT, settings.timeout)
        self.longest = sum(self._time(reason, settings.timeout) for reason in self._lanes)

    def delay(self, reason: Verdict, times: int) -> float:
        """Seconds to wait before asking again what was answered so for the nth time.

        More silence than its lane is for comes from a path that is overloaded: later each time.
        """
        lane = self._lanes[reason]
        delay = min(lane.delay * 2.0 ** (times - 1), lane.max_delay)
        over = times - lane.tries
        if reason is Verdict.TIMEOUT and over >= 0:
            delay = max(delay, min(self._soft_delay * 2.0**over, SOFT_DELAY_LIMIT))
        return float(delay)

    def may_be_mute(self, heard: Mapping[Verdict, int]) -> bool:
        """Whether silence is all there was, and as often as it takes."""
        return heard.get(Verdict.TIMEOUT, 0) >= self._lanes[Verdict.TIMEOUT].tries and not any(
            heard.get(reason) for reason in _SOFT
        )

    def believe(
        self, heard: Mapping[Verdict, int], *, mute: int, usable: int, loss: float = 0.0
    ) -> Verdict | None:
        """The verdict that what was heard proves; None: ask again.

        `heard` counts attempts, TIMEOUT among them only at resolvers that answer others: of
        `usable` such, `mute` different ones. `loss` is the share of packets that the path to them
        loses. An answer is believed that came as often as its lane demands and twice as often as
        all others together: some passing failures among them are not rare over millions of names.
        Silence takes nothing away from an answer, and is the name's own only where it is unlikely
        to be the path's.
        """
        if self.may_be_mute(heard):
            unlikely = loss ** heard[Verdict.TIMEOUT] <= self._chance
            return Verdict.TIMEOUT if unlikely and mute >= min(WITNESSES, usable) else None
        answers = sum(heard.get(reason, 0) for reason in _SOFT)
        for reason in _SOFT:
            count = heard.get(reason, 0)
            if count >= self._lanes[reason].tries and count >= 2 * (answers - count):
                return reason
        return None

    def _time(self, reason: Verdict, timeout: float) -> float:
        tries = self._lanes[reason].tries
        return tries * timeout + sum(self.delay(reason, number) for number in range(1, tries))


def last_word(heard: Mapping[Verdict, int]) -> Verdict:
    """The verdict when no more may be asked although nothing is proved.

    An answer heard once or twice among more silence proves nothing: then TIMEOUT is the truth.
    """
    answers = {reason: heard[reason] for reason in _SOFT if heard.get(reason)}
    total = sum(answers.values())
    if not answers:
        return Verdict.TIMEOUT
    best = conclude(answers)
    if total > heard.get(Verdict.TIMEOUT, 0):
        return best
    clear = answers[best] >= _CORROBORATED and answers[best] >= 2 * (total - answers[best])
    return best if clear else Verdict.TIMEOUT


def account(heard: Mapping[Verdict, int], ede: int = -1) -> str:
    """What was heard, in words, with the extended error if there was one."""
    parts = [f"{verdict.name} {count}x" for verdict, count in heard.items() if count]
    text = ", ".join(parts)
    return f"{text}; extended error {ede}" if ede >= 0 else text
