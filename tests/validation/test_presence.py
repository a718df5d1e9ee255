"""Who lives, whatever the database's clock says."""

from datetime import UTC, datetime, timedelta

from services.validation.presence import Presence, Sighting

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def row(reported: float = 0, *, age: float = 0, name: str = "worker") -> Sighting:
    """A report of `reported` seconds after noon, `age` seconds ago by the database's clock."""
    return Sighting(name, NOON + timedelta(seconds=reported), age)


def test_a_worker_lives_for_a_minute_after_its_last_report() -> None:
    presence = Presence()

    assert presence.look(100, [row()]) == ({"worker": 0}, set())
    assert presence.look(160, [row(age=60)]) == ({"worker": 60}, set())
    assert presence.look(161, [row(age=61)]) == ({}, {"worker"})


def test_every_report_counts_anew() -> None:
    presence = Presence()

    for seconds in range(0, 300, 50):
        assert presence.look(seconds, [row(seconds)]) == ({"worker": 0}, set())


def test_a_clock_that_is_set_changes_nothing_for_those_who_are_known() -> None:
    presence = Presence()
    presence.look(0, [row()])

    assert presence.look(5, [row(5, age=3600)]) == ({"worker": 0}, set())
    assert presence.look(10, [row(-3590, age=-3600)]) == ({"worker": 0}, set())


def test_an_old_report_of_a_stranger_is_hidden_until_the_next_one() -> None:
    presence = Presence()

    assert presence.look(0, [row(age=3600)]) == ({}, set())
    assert presence.look(5, [row(3605, age=0)]) == ({"worker": 0}, set())


def test_a_stranger_that_never_reports_is_gone_after_a_minute() -> None:
    presence = Presence()
    presence.look(0, [row(age=3600), row(age=-3600, name="of the future")])

    assert presence.look(61, [row(age=3661), row(age=-3539, name="of the future")]) == (
        {},
        {"worker", "of the future"},
    )
