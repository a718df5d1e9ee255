"""Answers in JSON become the bytes that the engine reads."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.validation.dns import json_answers, wire


def question(name: str, qtype: int = wire.A, header: bytes = wire.HEADER) -> bytes:
    return b"\x12\x34" + header + wire.Questions(qtype).build(name) + wire.OPT_RECORD


def read(found: object, name: str, qtype: int = wire.A):
    response = json_answers.to_wire(json.dumps(found).encode(), question(name, qtype))
    asked = question(name, qtype)[12:-11]
    assert response[:2] == b"\x12\x34"
    assert wire.echo_of(response, asked) is wire.Echo.SAME
    return wire.read(response, asked, qtype)


def test_the_question_is_taken_apart():
    packet = question("WWW.Example.com", wire.MX, wire.HEADER_UNCHECKED)

    assert json_answers.asked(packet) == ("WWW.Example.com", wire.MX, True)
    assert json_answers.asked(question("name.example")) == ("name.example", wire.A, False)


def test_an_answer_behind_an_alias_is_read():
    answer = read(
        {
            "Status": 0,
            "TC": False,
            "RD": True,
            "RA": True,
            "AD": False,
            "CD": False,
            "Question": [{"name": "www.example.com.", "type": 1}],
            "Answer": [
                {"name": "www.example.com.", "type": 5, "TTL": 300, "data": "host.example.net."},
                {"name": "host.example.net.", "type": 1, "TTL": 60, "data": "192.0.2.1"},
                {"name": "host.example.net.", "type": 46, "TTL": 60, "data": "A 8 3 of no use"},
            ],
            "Comment": "Response from 192.0.2.53.",
        },
        "www.EXAMPLE.com",
    )

    assert (answer.rcode, answer.addresses, answer.chain, answer.ttl) == (
        0,
        ("192.0.2.1",),
        ("host.example.net",),
        60,
    )


def test_a_name_that_does_not_exist_names_its_zone():
    # As Cloudflare writes it: without the final dot.
    soa = "a.gtld-servers.net nstld.verisign-grs.com 1700000000 1800 900 604800 900"
    answer = read(
        {
            "Status": 3,
            "RA": True,
            "Question": [{"name": "nobody.com", "type": 1}],
            "Authority": [{"name": "com", "type": 6, "TTL": 900, "data": soa}],
        },
        "nobody.com",
    )

    assert (answer.rcode, answer.addresses, answer.authority) == (3, (), "com")


@pytest.mark.parametrize(
    ("qtype", "data", "read_as"),
    [
        (wire.AAAA, "2001:db8::1", "2001:db8::1"),
        (wire.NS, "ns1.example.net.", "ns1.example.net"),
        (wire.MX, "10 mail.example.net.", "10 mail.example.net"),
        (wire.SOA, "ns1.example. me.example. 1 2 3 4 5", "ns1.example me.example 1 2 3 4 5"),
    ],
)
def test_each_type_is_read(qtype, data, read_as):
    record = {"name": "name.example.", "type": qtype, "TTL": 5, "data": data}

    assert read({"Status": 0, "RA": True, "Answer": [record]}, "name.example", qtype).addresses == (
        read_as,
    )


def test_a_code_of_more_than_four_bits_survives():
    assert read({"Status": 16}, "name.example").rcode == 16


def test_the_root_is_asked_and_read():
    record = {"name": ".", "type": 2, "TTL": 5, "data": "a.root-servers.net."}
    packet = b"\x12\x34" + wire.HEADER + b"\0\0\2\0\1"

    response = json_answers.to_wire(
        json.dumps({"Status": 0, "RA": True, "Answer": [record]}).encode(), packet
    )

    assert json_answers.asked(packet)[0] == ""
    assert wire.read(response, b"\0\0\2\0\1", wire.NS).addresses == ("a.root-servers.net",)


A_RECORD = {"name": "name.example.", "type": 1, "TTL": 5, "data": "192.0.2.1"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"\xff",
        b"[" * 100_000,
        b"null",
        b"[]",
        b"{}",
        *(
            json.dumps(found).encode()
            for found in (
                {"Status": "0"},
                {"Status": True},
                {"Status": -1},
                {"Status": 1 << 40},
                {"Status": 0, "Question": [{"name": "other.example.", "type": 1}]},
                {"Status": 0, "Question": [{"name": "name.example.", "type": 28}]},
                {"Status": 0, "Question": 5},
                {"Status": 0, "Answer": "192.0.2.1"},
                {"Status": 0, "Answer": [A_RECORD | {"data": "192.0.2.999"}]},
                {"Status": 0, "Answer": [A_RECORD | {"data": 5}]},
                {"Status": 0, "Answer": [A_RECORD | {"TTL": "soon"}]},
                {"Status": 0, "Answer": [A_RECORD | {"TTL": -1}]},
                {"Status": 0, "Answer": [A_RECORD | {"name": "x" * 64}]},
                {"Status": 0, "Answer": [{"type": 1}]},
                {"Status": 0, "Answer": [A_RECORD] * 5000},
            )
        ),
    ],
)
def test_what_is_no_answer_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        json_answers.to_wire(text, question("name.example"))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
KEYS = st.sampled_from(
    ["Status", "TC", "RA", "Question", "Answer", "Authority", "name", "type", "TTL", "data"]
)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["name.example.", "a.example", ".", "", "\\", "a..b"])
            | st.text(max_size=70),
            "type": st.sampled_from([1, 2, 5, 6, 15, 28, 39, 46]),
            "data": SCALARS | st.sampled_from(["\\# 4 01020304", "\\# 3 010203", "1 ( x.", "9 x."]),
        },
        optional={"TTL": SCALARS},
    ),
    max_size=4,
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20
)
ANSWERS = st.fixed_dictionaries(
    {"Status": st.integers(0, 30) | SCALARS},
    optional={"Answer": RECORDS, "Authority": RECORDS, "TC": st.booleans()},
)


@settings(max_examples=60)
@given(found=ANYTHING | ANSWERS, qtype=st.sampled_from(wire.QTYPES))
def test_whatever_comes_is_refused_or_readable(found, qtype):
    asked = question("name.example", qtype)
    try:
        response = json_answers.to_wire(json.dumps(found).encode(), asked)
    except ValueError:
        return
    wire.read(response, asked[12:-11], qtype)
