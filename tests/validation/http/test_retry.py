"""When a failed name is asked again."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.http.retry import (
    MAX_DELAY,
    Again,
    Lane,
    LaneName,
    RetryPolicy,
    decide,
    lane_of,
    retry_after_of,
)
from services.validation.http.verdict import Verdict

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
STEADY = RetryPolicy(jitter=0)


@pytest.mark.parametrize(
    ("verdict", "status", "lane"),
    [
        (Verdict.RATE_LIMITED, 429, LaneName.RATE_LIMITED),
        (Verdict.SERVER_ERROR, 503, LaneName.RATE_LIMITED),
        (Verdict.SERVER_ERROR, 500, LaneName.SERVER_ERROR),
        (Verdict.TIMEOUT, 0, LaneName.TIMEOUT),
        (Verdict.TLS_HANDSHAKE, 0, LaneName.TLS),
        (Verdict.CONNECTION_RESET, 0, LaneName.RESET),
        (Verdict.CONNECTION_REFUSED, 0, LaneName.RESET),
        (Verdict.UNREACHABLE, 0, LaneName.RESET),
        (Verdict.OK, 200, None),
        (Verdict.NOT_FOUND, 404, None),
        (Verdict.TLS_CERTIFICATE, 0, None),
        (Verdict.ADDRESS_NOT_ALLOWED, 0, None),
        (Verdict.EXCLUDED, 0, None),
        (Verdict.PROTOCOL_ERROR, 0, None),
    ],
)
def test_each_kind_of_failure_has_its_lane(verdict, status, lane):
    assert lane_of(verdict, status) is lane


def test_delays_double_until_the_lane_is_used_up():
    def delays(tries):
        return decide(
            STEADY, Verdict.RATE_LIMITED, tries={LaneName.RATE_LIMITED: tries}, random=0.0
        )

    assert [delays(tries) and delays(tries).after for tries in (1, 2, 3, 4)] == [30, 60, 120, None]


def test_a_lane_is_not_charged_for_another():
    tries = {LaneName.RATE_LIMITED: 3, LaneName.TIMEOUT: 1}

    assert decide(STEADY, Verdict.TIMEOUT, tries=tries, random=0.0) == Again(60, LaneName.TIMEOUT)


def test_a_name_that_wanders_between_lanes_ends():
    tries = {LaneName.RATE_LIMITED: 3, LaneName.RESET: 2, LaneName.TIMEOUT: 1}

    assert decide(STEADY, Verdict.TIMEOUT, tries=tries, random=0.0) is None


def test_nobody_is_asked_before_the_time_he_named():
    tries = {LaneName.RATE_LIMITED: 1}

    def asked(seconds):
        return decide(
            RetryPolicy(), Verdict.RATE_LIMITED, tries=tries, retry_after=seconds, random=0.0
        )

    assert asked(120.0).after == 120
    assert asked(1.0).after == 30
    assert asked(3601.0) is None


@given(
    st.sampled_from(Verdict),
    st.sampled_from([0, 429, 503]),
    st.dictionaries(st.sampled_from(LaneName), st.integers(0, 50)),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1),
)
def test_a_delay_is_never_before_retry_after_and_never_endless(
    verdict, status, tries, retry_after, random
):
    again = decide(
        RetryPolicy(), verdict, status=status, tries=tries, retry_after=retry_after, random=random
    )

    if again is not None:
        assert (retry_after or 0) <= again.after <= MAX_DELAY


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sun, 22 Nov 2026 12:01:30 GMT", 90.0),
        ("Sunday, 22-Nov-26 12:01:30 GMT", 90.0),
        ("Sun Nov 22 12:01:30 2026", 90.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
        ("9" * 5000, 9999999999.0),
        ("Sun, 99 Nov 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(header, seconds):
    assert retry_after_of(header, NOW) == seconds


@given(st.text(max_size=80))
def test_no_retry_after_is_an_error(header):
    retry_after_of(header, NOW)


def test_a_lane_out_of_its_limits_is_refused():
    with pytest.raises(ValueError, match="tries"):
        Lane(tries=0, delay=1, max_delay=1)
    with pytest.raises(ValueError, match="max_delay"):
        Lane(tries=1, delay=1, max_delay=1e9)
