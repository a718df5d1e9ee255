"""The parser against dnspython, and against bytes that mean harm."""

from random import Random

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.validation.dns import wire
from services.validation.dns.verdict import Answer
from services.validation.dns.wire import Echo, Malformed, Questions, echo_of, read

LABEL = st.text("abcXYZ019-", min_size=1, max_size=12)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join)
ADDRESS = st.ip_addresses(v=4).map(str)
TTL = st.integers(0, 2**31 - 1)


def question_of(name: str) -> bytes:
    return Questions(wire.A).build(name)


def response_to(name: str, records: list[str] = [], rcode: int = 0) -> dns.message.Message:  # noqa: B006
    query = dns.message.make_query(name, "A", use_edns=0, payload=1232)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    response.set_rcode(rcode)
    for record in records:
        owner, ttl, kind, data = record.split(" ", 3)
        response.answer.append(dns.rrset.from_text(f"{owner}.", int(ttl), "IN", kind, data))
    return response


@given(NAME)
def test_the_question_is_the_one_dnspython_writes(name):
    expected = dns.message.make_query(name, "A", use_edns=0, payload=1232).to_wire()

    assert wire.HEADER == expected[2:12]
    assert question_of(name) + wire.OPT_RECORD == expected[12:]


@pytest.mark.parametrize("name", ["", ".", "a..b", "a" * 64 + ".com", "a." * 127 + "b", "é.com"])
def test_a_name_without_encoding_is_refused(name):
    with pytest.raises(ValueError):  # noqa: PT011
        question_of(name)


def test_the_table_of_parents_stays_bounded():
    questions = Questions(wire.A)

    for number in range(20_000):
        questions.build(f"www.name{number}.com")

    assert len(questions.suffixes) <= 4096


@given(NAME, st.randoms(use_true_random=False))
def test_case_is_all_that_a_case_table_changes(name, random):
    question = question_of(name)

    for table in wire.case_tables(random, 5):
        assert question.translate(table).lower() == question.lower()


def test_case_tables_differ():
    question = question_of("abcdefghijklmnopqrstuvwxyz.com")

    cased = {question.translate(table) for table in wire.case_tables(Random(1), 50)}

    assert len(cased) == 50


@given(NAME, st.lists(ADDRESS, max_size=20, unique=True), TTL, st.sampled_from([0, 2, 3, 5]))
def test_ordinary_answers_read_as_dnspython_reads_them(name, addresses, ttl, rcode):
    addresses = [] if rcode else addresses
    message = response_to(name, [f"{name} {ttl} A {it}" for it in addresses], rcode).to_wire()

    answer = read(message, question_of(name), wire.A)

    parsed = dns.message.from_wire(message)
    found = [item.address for rrset in parsed.answer for item in rrset]
    assert answer.rcode == parsed.rcode()
    assert list(answer.addresses) == found
    assert answer.ttl == (ttl if addresses else -1)


@given(NAME, st.lists(ADDRESS, min_size=1, max_size=8, unique=True), st.integers(0, 2**32 - 1))
def test_the_quick_way_agrees_with_the_careful_one(name, addresses, ttl):
    question = question_of(name)
    message = response_to(name, [f"{name} 0 A {it}" for it in addresses]).to_wire()
    message = message.replace(wire.A_RECORD + bytes(4), wire.A_RECORD + ttl.to_bytes(4, "big"))

    count = wire.QUICK[message[2:8]]
    quick = wire.addresses_at(message, 12 + len(question), count)

    careful = read(message, question, wire.A)
    assert quick == (careful.addresses, careful.ttl)


def test_no_response_that_needs_care_is_taken_the_quick_way():
    ordinary = bytes.fromhex("818000010001")
    assert ordinary in wire.QUICK
    # A question, another opcode, TC, another rcode, two questions, none, many answers.
    for odd in (
        "018000010001", "898000010001", "838000010001", "818200010000",
        "818000020001", "818000000001", "818000010009", "818300010001",
    ):  # fmt: skip
        assert bytes.fromhex(odd) not in wire.QUICK


@given(NAME, st.lists(NAME, min_size=1, max_size=8, unique_by=str.lower), ADDRESS, st.data())
def test_a_chain_is_followed_whatever_the_order_of_records(name, hops, address, data):
    if name.lower() in [hop.lower() for hop in hops]:
        return
    owners = [name, *hops]
    records = [
        f"{owner} {60 + at} CNAME {target}."
        for at, (owner, target) in enumerate(zip(owners, hops, strict=False))
    ]
    records.append(f"{hops[-1]} 50 A {address}")
    message = response_to(name, data.draw(st.permutations(records))).to_wire()

    answer = read(message, question_of(name), wire.A)

    assert answer.chain == tuple(hop.lower() for hop in hops)
    assert (answer.addresses, answer.ttl, answer.looped) == ((address,), 50, False)


@pytest.mark.parametrize(
    "targets",
    [["x.example"], ["a.example", "x.example"], ["a.example", "b.example", "a.example"]],
    ids=["itself", "back to the name", "back into the chain"],
)
def test_a_looping_chain_is_found(targets):
    owners = ["x.example", *targets]
    pairs = dict(zip(owners, targets, strict=False))
    records = [f"{owner} 60 CNAME {target}." for owner, target in pairs.items()]

    answer = read(response_to("x.example", records).to_wire(), question_of("x.example"), wire.A)

    assert answer.looped
    assert list(answer.chain) == targets


def test_a_chain_longer_than_eight_counts_as_a_loop():
    hops = [f"h{at}.example" for at in range(9)]
    records = [
        f"{owner} 60 CNAME {target}."
        for owner, target in zip(["x.example", *hops], hops, strict=False)
    ]
    records.append("h8.example 60 A 192.0.2.1")

    answer = read(response_to("x.example", records).to_wire(), question_of("x.example"), wire.A)

    assert answer.looped
    assert answer.addresses == ()


def test_addresses_of_other_names_are_not_taken():
    message = response_to("x.example", ["y.example 60 A 192.0.2.1"]).to_wire()

    assert read(message, question_of("x.example"), wire.A).addresses == ()


def test_an_extended_rcode_is_read():
    response = response_to("x.example")
    response.set_rcode(dns.rcode.BADVERS)

    assert read(response.to_wire(), question_of("x.example"), wire.A).rcode == 16


@pytest.mark.parametrize(
    ("codes", "ede"), [([], -1), ([22], 22), ([0], 0), ([22, 7, 9], 7), ([6, 22], 6)]
)
def test_the_extended_error_about_signatures_is_read_first(codes, ede):
    options = [dns.edns.GenericOption(10, b"12345678"), *map(dns.edns.EDEOption, codes)]
    response = response_to("x.example", rcode=2)
    response.use_edns(0, payload=1232, options=options)

    assert read(response.to_wire(), question_of("x.example"), wire.A).ede == ede


@pytest.mark.parametrize(
    "options", [b"\0\x0f", b"\0\x0f\0\1\0", b"\0\x0f\0\2\0", b"\0\x0f\xff\xff\0\6"]
)
def test_a_broken_option_says_nothing(options):
    question = question_of("x.example")
    record = b"\0\0\x29\4\xd0\0\0\0\0" + len(options).to_bytes(2, "big") + options
    message = b"\0\0\x81\x82\0\1\0\0\0\0\0\1" + question + record

    answer = read(message, question, wire.A)
    assert (answer.rcode, answer.ede) == (2, -1)


def test_a_referral_is_told_from_an_empty_answer():
    response = response_to("x.example")
    response.flags &= ~dns.flags.RA
    response.authority.append(dns.rrset.from_text("example.", 60, "IN", "NS", "ns.example."))
    assert read(response.to_wire(), question_of("x.example"), wire.A).referral

    soa = "ns. host. 1 2 3 4 5"
    response.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", soa))
    assert not read(response.to_wire(), question_of("x.example"), wire.A).referral


def test_ipv6_addresses_are_read():
    query = dns.message.make_query("x.example", "AAAA")
    response = dns.message.make_response(query)
    response.answer.append(dns.rrset.from_text("x.example.", 60, "IN", "AAAA", "2001:db8::1"))

    question = Questions(wire.AAAA).build("x.example")
    assert read(response.to_wire(), question, wire.AAAA).addresses == ("2001:db8::1",)


def test_the_echo_of_another_question_is_foreign():
    question = question_of("abc.example")
    good = response_to("abc.example").to_wire()

    assert echo_of(good, question) is Echo.SAME
    assert echo_of(good, question_of("aBc.example")) is Echo.FOLDED
    for other in ("abd.example", "abc.exampl", "abc.example.com", "c.example"):
        assert echo_of(response_to(other).to_wire(), question) is Echo.FOREIGN
    assert echo_of(good, question[:-3] + b"\x1c" + question[-2:]) is Echo.FOREIGN
    assert echo_of(dns.message.make_query("abc.example", "A").to_wire(), question) is Echo.FOREIGN
    assert echo_of(good[:12], question) is Echo.FOREIGN
    assert echo_of(good[:4] + bytes(8), question) is Echo.ABSENT
    assert echo_of(b"", question) is Echo.FOREIGN


POINTERS = {
    "to itself": b"\xc0\x1a",
    "forwards": b"\xc0\x30",
    "past the end": b"\xff\xff",
    "cut off": b"\xc0",
    "an unknown label": b"\x80\x01a\x00",
    "a label past the end": b"\x3fabc",
}


@pytest.mark.parametrize("owner", POINTERS.values(), ids=POINTERS)
def test_a_hostile_name_is_malformed(owner):
    question = question_of("x.example")
    head = b"\0\0\x81\x80\0\1\0\1\0\0\0\0" + question
    assert len(head) <= 0x1B

    with pytest.raises(Malformed):
        read(head + owner, question, wire.A)


def test_a_name_grown_by_pointers_stops_at_255_bytes():
    question = question_of("x.example")
    message = bytearray(b"\0\0\x81\x80\0\1\0\x14\0\0\0\0" + question)
    target = 12
    for _ in range(20):
        start = len(message)
        message += b"\x3f" + b"a" * 63 + (0xC000 | target).to_bytes(2, "big")
        message += b"\0\x10\0\1\0\0\0\0\0\0"
        target = start

    with pytest.raises(Malformed, match="255"):
        read(bytes(message), question, wire.A)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_random_bytes_never_crash_the_parser(noise):
    question = question_of("x.example")

    for message in (noise, b"\0\0\x81\x80\0\1\0\2\0\1\0\1" + question + noise):
        if echo_of(message, question) is Echo.SAME:
            try:
                assert isinstance(read(message, question, wire.A), Answer)
            except Malformed:
                pass


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_answer_reads_as_dnspython_reads_it_or_not_at_all(data):
    records = [
        "x.example 60 CNAME y.example.",
        "y.example 60 A 192.0.2.1",
        "y.example 60 A 192.0.2.2",
    ]
    message = bytearray(response_to("x.example", records).to_wire())
    question = question_of("x.example")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(12 + len(question), len(message) - 1))
        message[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(12 + len(question), len(message)))

    try:
        answer = read(bytes(message[:cut]), question, wire.A)
    except Malformed:
        return
    try:
        parsed = dns.message.from_wire(bytes(message[:cut]), ignore_trailing=True)
        chain = parsed.resolve_chaining()
    except Exception:
        # dnspython refuses more than needed here, such as a second OPT.
        return
    if not answer.looped and chain.answer is not None and answer.rcode == 0:
        assert set(answer.addresses) == {item.address for item in chain.answer}
