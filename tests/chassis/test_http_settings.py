"""What an HTTP persona may say."""

import pytest

from services.chassis.http_settings import BadSettings, HttpSettings


def test_the_user_agent_is_honest_by_default():
    settings = HttpSettings()

    assert settings.user_agent.startswith("domainflow/")
    assert "+https://" in settings.user_agent
    assert settings.robots_token == "domainflow"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_agent", ""),
        ("user_agent", "a\r\nX: y"),
        ("user_agent", "a" * 501),
        ("headers", (("Host", "x"),)),
        ("headers", (("transfer-encoding", "chunked"),)),
        ("headers", (("A b", "x"),)),
        ("headers", (("A", "x\ny"),)),
        ("headers", (("A", "x"),) * 51),
        ("accept_language", "en\n"),
        ("schemes", ()),
        ("schemes", ("ftp",)),
        ("schemes", ("http", "http")),
        ("https_ports", ()),
        ("http_ports", (0,)),
        ("http_ports", (65536,)),
        ("http_ports", (80, 80)),
        ("max_redirects", -1),
        ("max_redirects", 21),
        ("allowed_statuses", frozenset()),
        ("allowed_statuses", frozenset({99})),
        ("connect_timeout", 0),
        ("connect_timeout", float("nan")),
        ("first_byte_timeout", 121),
        ("total_timeout", 1),
        ("total_timeout", float("inf")),
        ("body_limit", 1023),
        ("header_limit", 10**9),
        ("host_concurrency", 0),
        ("address_rate", -1),
        ("tls_floor", 5),
    ],
)
def test_a_field_out_of_its_limits_is_named(field, value):
    with pytest.raises(BadSettings) as bad:
        HttpSettings(**{field: value})

    assert list(bad.value.problems) == [field]


def test_every_bad_field_is_named_at_once():
    with pytest.raises(BadSettings) as bad:
        HttpSettings(user_agent="", max_redirects=99, http_ports=())

    assert set(bad.value.problems) == {"user_agent", "max_redirects", "http_ports"}
