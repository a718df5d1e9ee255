"""Turns of the maintainer's jobs, without a clock."""

from services.query.maintenance.schedule import LONGEST_REST, RETRY, Agenda, rest


def test_jobs_begin_in_their_order() -> None:
    agenda = Agenda({"a": 1, "b": 60, "c": 5})
    order = []
    for now in (10.0, 11.0, 12.0):
        job, wait = agenda.next(now)
        order.append(job)
        assert wait == 0
        agenda.found_nothing(job, now, took=0.001)

    assert order == ["a", "b", "c"]


def test_job_that_found_nothing_is_due_after_its_period() -> None:
    agenda = Agenda({"a": 5})
    agenda.found_nothing("a", 100.0, took=0.001)

    assert agenda.next(100.0) == ("a", 5.0)
    assert agenda.next(104.0) == ("a", 1.0)
    assert agenda.next(200.0) == ("a", 0.0)


def test_looks_that_take_long_are_rare() -> None:
    agenda = Agenda({"a": 1})
    agenda.found_nothing("a", 100.0, took=2.0)

    assert agenda.next(100.0) == ("a", 40.0)


def test_job_with_endless_work_lets_all_others_have_their_turns() -> None:
    agenda = Agenda({"endless": 1, "b": 3, "c": 3})
    turns = []
    now = 0.0
    while now < 30:
        job, wait = agenda.next(now)
        now += wait
        turns.append(job)
        if job == "endless":
            now += 0.5
            agenda.worked(job, now)
        else:
            agenda.found_nothing(job, now, took=0.01)

    assert turns.count("endless") >= 50
    assert 8 <= turns.count("b") <= 11
    assert 8 <= turns.count("c") <= 11


def test_failed_campaign_is_left_out_for_a_while_by_that_job_only() -> None:
    agenda = Agenda({"a": 1, "b": 1})
    agenda.failed("a", 7, 100.0)
    agenda.failed("a", 8, 130.0)

    assert agenda.aside("a", 131.0) == [7, 8]
    assert agenda.aside("b", 131.0) == []
    assert agenda.aside("a", 101.0 + RETRY) == [8]
    assert agenda.aside("a", 131.0 + RETRY) == []


def test_half_of_the_time_is_rest_but_no_rest_is_long() -> None:
    assert rest(0.2) == 0.2
    assert rest(0) == 0
    assert rest(3600) == LONGEST_REST
