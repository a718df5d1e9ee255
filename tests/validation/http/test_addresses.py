"""Which addresses may be connected to."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.http.addresses import (
    IPV4_SPECIAL_PURPOSE,
    IPV6_SPECIAL_PURPOSE,
    METADATA,
    AddressPolicy,
    judge,
)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "93.184.216.34",
        "172.32.0.1",
        "100.128.0.1",
        "223.255.255.254",
        "2606:4700::1111",
        "2a00:1450:4001::1",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
        "2002:101:101::1",
    ],
)
def test_a_public_address_is_allowed(address):
    assert judge(address) is None


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1", "Loopback"),
        ("10.1.2.3", "Private-Use"),
        ("172.31.255.255", "172.16.0.0/12"),
        ("192.168.1.1", "Private-Use"),
        ("169.254.7.7", "Link Local"),
        ("100.64.0.1", "Shared"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "This network"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "Reserved"),
        ("255.255.255.255", "broadcast"),
        ("192.0.0.9", "Port Control Protocol"),
        ("::", "unspecified"),
        ("::1", "Loopback"),
        ("fe80::1", "Link-Local"),
        ("fd12::1", "Unique-Local"),
        ("ff02::1", "multicast"),
        ("fec0::1", "global unicast"),
        ("4000::1", "global unicast"),
        ("::7f00:1", "global unicast"),
        ("::ffff:0:127.0.0.1", "global unicast"),
        ("2001:db8::1", "Documentation"),
        ("3fff::1", "Documentation"),
        ("100::1", "Discard"),
        ("5f00::1", "SRv6"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("::ffff:169.254.169.254", "holds 169.254.169.254"),
        ("::ffff:127.0.0.1", "holds 127.0.0.1"),
        ("64:ff9b::10.0.0.1", "holds 10.0.0.1"),
        ("64:ff9b::169.254.169.254", "metadata"),
        ("64:ff9b:1::1.1.1.1", "Translat"),
        ("2002:a00:1::1", "holds 10.0.0.1"),
        # Teredo: the server's address, and the client's with every bit turned.
        ("2001:0:a00:1::f5ff:fffe", "holds 10.0.0.1"),
        ("2001:0:101:101::f5ff:fffe", "holds 10.0.0.1"),
        ("fe80::1%eth0", "zone"),
        ("2606:4700::1111%1", "zone"),
        ("127.1", "canonical"),
        ("0177.0.0.1", "canonical"),
        ("2130706433", "canonical"),
        ("0x7f000001", "canonical"),
        ("localhost", "canonical"),
        ("", "canonical"),
    ],
)
def test_another_address_is_refused_with_its_reason(address, said):
    assert said in (judge(address) or "allowed")


@pytest.mark.parametrize("block", IPV4_SPECIAL_PURPOSE + IPV6_SPECIAL_PURPOSE, ids=str)
def test_the_edges_of_every_block_of_the_registries_are_refused(block):
    if block.network == ipaddress.ip_network("64:ff9b::/96"):
        return
    if block.name in ("6to4", "TEREDO", "IPv4-mapped Address"):
        # Judged by what they hold; the first address of each holds 0.0.0.0.
        assert judge(str(block.network[0]))
        return

    assert judge(str(block.network[0]))
    assert judge(str(block.network[-1]))


def test_an_allowed_network_is_reached_in_every_form():
    policy = AddressPolicy.parse(allowed=["127.0.0.0/8", "::1/128"])

    assert judge("127.0.0.1", policy) is None
    assert judge("::1", policy) is None
    assert judge("::ffff:127.0.0.1", policy) is None
    assert judge("10.0.0.1", policy)


def test_a_denied_network_is_refused_though_public_or_allowed():
    policy = AddressPolicy.parse(allowed=["127.0.0.0/8"], denied=["127.0.0.2/32", "1.1.1.0/24"])

    assert "configuration" in judge("127.0.0.2", policy)
    assert "configuration" in judge("::ffff:127.0.0.2", policy)
    assert "configuration" in judge("1.1.1.1", policy)
    assert "configuration" in judge("64:ff9b::1.1.1.1", policy)
    assert judge("127.0.0.1", policy) is None


def test_a_local_translation_prefix_is_reached_where_allowed_but_never_for_metadata():
    policy = AddressPolicy.parse(allowed=["64:ff9b:1::/48"], denied=["10.0.0.0/8"])

    assert judge("64:ff9b:1::1.1.1.1", policy) is None
    assert "metadata" in judge("64:ff9b:1::169.254.169.254", policy)
    # The same as a /48 prefix holds it (RFC 6052).
    assert "metadata" in judge("64:ff9b:1:a9fe:a9:fe00::", policy)
    assert "configuration" in judge("64:ff9b:1::10.0.0.1", policy)


@pytest.mark.parametrize("address", sorted(map(str, METADATA)))
def test_no_configuration_allows_a_metadata_address(address):
    everything = AddressPolicy.parse(allowed=["0.0.0.0/0", "::/0"])

    assert "metadata" in judge(address, everything)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_form_that_holds_it(address):
    number = int(address)
    forms = [
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address(0x64FF9B << 96 | number),
        ipaddress.IPv6Address(0x2002 << 112 | number << 80),
    ]

    assert {judge(str(form)) is None for form in forms} == {judge(str(address)) is None}


@given(st.ip_addresses())
def test_what_the_standard_library_calls_private_is_never_allowed(address):
    if judge(str(address)) is None and not ipaddress.ip_address(address).version == 6:
        assert address.is_global
    if judge(str(address)) is None:
        assert not address.is_multicast
        assert not address.is_loopback
        assert not address.is_link_local


@given(st.text(max_size=60))
def test_no_text_is_an_error(text):
    judge(text)
