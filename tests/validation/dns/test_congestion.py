"""The window of one resolver, against modelled resolvers; times are nanoseconds."""

from random import Random

import pytest

from services.validation.dns import congestion
from services.validation.dns.congestion import LEAST, START, Congestion, Round
from services.validation.dns.limits import RateLimit

MS = 1_000_000


class Model:
    """A resolver `delay` away that takes `rate` questions a second and holds so many more."""

    def __init__(
        self, delay: int, *, rate: int = 10**9, holds: int = 10**9, loss: float = 0.0
    ) -> None:
        self.delay = delay
        self.rate = rate
        self.holds = holds
        self.loss = loss
        self.now = 0
        self._random = Random(1)

    def rounds(self, window: Congestion, count: int) -> list[int]:
        """The window after each of so many rounds in which it was always full."""
        sizes = []
        for _ in range(count):
            asked = window.window
            taken = min(asked, int(self.rate * self.delay / 1e9) + self.holds)
            waited = max(self.delay, int(taken / self.rate * 1e9))
            lost = asked - taken + sum(self._random.random() < self.loss for _ in range(taken))
            self.now += max(waited, congestion.LEAST_ROUND)
            answered = asked - lost
            times = {"timed": answered, "waited": answered * waited, "fastest": waited}
            last = Round(answered, lost, 0, full=True, **(times if answered else {}))
            window.observe(last, self.now)
            sizes.append(window.window)
        return sizes


def test_a_distant_resolver_gets_thousands_of_questions_within_some_round_trips():
    assert Model(100 * MS).rounds(Congestion(10_000), 10)[-1] > 5000


def test_a_loss_of_one_percent_does_not_narrow_the_window():
    sizes = Model(100 * MS, loss=0.01).rounds(Congestion(10_000), 300)

    assert min(sizes[20:]) > 5000


def test_a_near_resolver_never_gets_more_than_its_socket_holds():
    assert set(Model(MS).rounds(Congestion(10_000), 1000)) == {START}


def test_the_window_is_never_wider_than_the_engines():
    assert max(Model(100 * MS).rounds(Congestion(300), 50)) == 300
    assert Congestion(10).window == 10


def test_a_resolver_that_drops_questions_gets_about_what_it_takes():
    # 2,000 questions a round trip and 200 in its buffer.
    sizes = Model(100 * MS, rate=20_000, holds=200).rounds(Congestion(10_000), 300)

    assert 1000 < sum(sizes[100:]) / 200 < 2400


def test_a_window_for_a_resolver_that_gets_slower_shrinks_to_where_it_began():
    window = Congestion(10_000)
    wide = Model(50 * MS).rounds(window, 20)[-1]
    assert wide > 2 * START

    model = Model(400 * MS)
    model.now = 100_000 * MS
    sizes = model.rounds(window, 10)

    assert sizes[-1] < wide / 2
    assert min(sizes) >= START


def test_names_that_nobody_answers_are_no_reason_for_a_narrow_window():
    sizes = Model(50 * MS, loss=0.3).rounds(Congestion(10_000), 200)

    assert min(sizes) >= LEAST
    assert sizes[-1] > START


def test_silence_changes_nothing():
    window = Congestion(10_000)
    before = Model(50 * MS).rounds(window, 20)[-1]

    window.observe(Round(answered=0, late=before, came_late=0, full=True), 10**12)

    assert window.window == before


def test_a_cut_for_questions_that_were_only_slow_is_undone():
    window = Congestion(10_000)
    model = Model(50 * MS)
    before = model.rounds(window, 20)[-1]

    window.observe(Round(answered=100, late=400, came_late=0), model.now)
    assert window.window < before
    window.observe(Round(answered=500, late=0, came_late=390), model.now + 20 * MS)
    assert window.window == before


def test_there_is_one_cut_for_all_that_one_full_buffer_lost():
    window = Congestion(10_000)
    model = Model(50 * MS)
    before = model.rounds(window, 20)[-1]

    for _ in range(5):
        window.observe(Round(answered=100, late=400, came_late=0), model.now)

    assert window.window == int(before * congestion.LOSS_CUT)


def test_a_resolver_that_was_away_starts_anew():
    window = Congestion(10_000)
    model = Model(50 * MS)
    model.rounds(window, 5)
    for _ in range(50):
        model.now += 10_000 * MS
        window.observe(Round(answered=30, late=1000 + window.window, came_late=0), model.now)
        window.observe(Round(answered=3000, late=0, came_late=0), model.now + 5000 * MS)
    narrow = window.window
    assert narrow < START

    window.restart()

    assert window.window == START


@pytest.mark.parametrize("rate", [1, 7, 100, 10_000])
def test_a_rate_limit_lets_so_many_questions_go_a_second(rate):
    limit = RateLimit(rate)
    gone = 0
    for now in range(0, 10_000 * MS, 20 * MS):
        allowed = limit.allowed(now)
        limit.take(allowed)
        gone += allowed

    assert rate * 10 * 0.95 - 1 <= gone <= rate * 10.05 + 1


def test_a_rate_limit_saves_nothing_up():
    limit = RateLimit(1000)
    assert limit.allowed(3600 * 1000 * MS) == 51


def test_a_clock_that_stands_still_lets_nothing_more_go():
    limit = RateLimit(10)
    limit.take(limit.allowed(MS))
    assert limit.allowed(MS) == 0
    assert limit.allowed(0) == 0
