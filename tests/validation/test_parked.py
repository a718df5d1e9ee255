"""What is known of a chunk's names while others wait: written and read again, or left unread."""

from dataclasses import replace

import pytest

from services.validation.http.retry import Attempt, LaneName
from services.validation.http.verdict import Verdict
from services.validation.http_rows import HttpOutcome
from services.validation.parked import Progress, Waiting, decoded, encoded

NOW = 1_700_000_000_000_000
FINISHED = (
    HttpOutcome(3, "a.com", Verdict.OK, 2, 7_000_000_000, b"result", b"page"),
    HttpOutcome(2**31 - 1, "b.com", Verdict.GONE, 1, 0, b"", None),
    HttpOutcome(5, "c.com", Verdict.OK, 1, 9, b"x" * 70_000, b""),
)
WAITING = (
    Waiting(
        position=4,
        attempts=3,
        elapsed_us=86_400_000_000,
        tries={LaneName.RATE_LIMITED: 2, LaneName.TIMEOUT: 1},
        earlier=(Attempt(Verdict.RATE_LIMITED, 429, 30.5), Attempt(Verdict.TIMEOUT, 0, 60.25)),
        time_us=NOW,
    ),
    Waiting(position=6, attempts=0, elapsed_us=0, tries={}, earlier=(), time_us=NOW),
)
NAMES = {it.position: it.name for it in FINISHED} | {4: "d.com", 6: "e.com"}
BODY = encoded(FINISHED, WAITING, NOW)


def test_what_is_written_is_read_again() -> None:
    assert decoded(BODY, NAMES) == Progress(
        {it.position: it for it in FINISHED}, {it.position: it for it in WAITING}
    )
    assert decoded(encoded((), (), 0), NAMES) == Progress({}, {})


def test_names_that_are_not_asked_about_are_left_out() -> None:
    """As those of the second half of a chunk that was split."""
    assert decoded(BODY, {3: "a.com", 6: "e.com"}) == Progress({3: FINISHED[0]}, {6: WAITING[1]})


def test_more_attempts_than_any_policy_allows_are_told_by_the_last() -> None:
    many = [Attempt(Verdict.TIMEOUT, 0, float(number)) for number in range(300)]
    progress = decoded(encoded((), [replace(WAITING[0], earlier=many)], NOW), NAMES)
    assert progress is not None
    assert list(progress.waiting[4].earlier) == many[-255:]


@pytest.mark.parametrize("size", [0, 1, 20, 21, 40, 60, len(BODY) - 1])
def test_what_is_cut_short_is_not_read(size: int) -> None:
    assert decoded(BODY[:size], NAMES) is None


@pytest.mark.parametrize(
    "body",
    [
        # Another format, other columns, more than there should be, a verdict and a lane nobody
        # knows.
        b"\xff" + BODY[1:],
        BODY[:1] + b"\0\0\0\0" + BODY[5:],
        BODY + b"\0",
        encoded([FINISHED[0]], (), NOW).replace(b"\0\0\0\3\1", b"\0\0\0\3\xfe"),
        BODY.replace(b"timeout", b"tim\xffout"),
        BODY.replace(b"timeout", b"another"),
    ],
)
def test_what_another_version_wrote_is_not_read(body: bytes) -> None:
    assert body != BODY
    assert decoded(body, NAMES) is None
