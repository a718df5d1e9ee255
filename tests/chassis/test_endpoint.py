"""Addresses with ports, as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.endpoint import BadEndpoint, parse_endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        (" 192.0.2.1:5353 ", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_addresses_are_read(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text, default_port=53) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dns.example",
        "192.0.2.1:",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:٣",
        "192.0.2.1:-1",
        pytest.param("192.0.2.1:" + "9" * 5000, id="a port of 5000 digits"),
        "192.0.2",
        "[2001:db8::1",
        "[2001:db8::1]53",
        "[2001:db8::1]:",
        "[::1]:x",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadEndpoint):
        parse_endpoint(text, default_port=53)


@given(st.text() | st.text("0123456789.:[]af", max_size=30))
def test_any_text_is_an_endpoint_or_refused(text: str) -> None:
    try:
        host, port = parse_endpoint(text, default_port=53)
    except BadEndpoint:
        return
    assert host
    assert 1 <= port <= 65535
