"""How resolvers are written and read."""

import pytest

from services.chassis.endpoint import BadEndpoint
from services.validation.dns.resolvers import Resolver, system_resolvers


@pytest.mark.parametrize(
    ("text", "resolver", "shown"),
    [
        ("1.2.3.4", Resolver("1.2.3.4", 53), "1.2.3.4:53"),
        ("1.2.3.4:5353", Resolver("1.2.3.4", 5353), "1.2.3.4:5353"),
        (" 1.2.3.4 ", Resolver("1.2.3.4", 53), "1.2.3.4:53"),
        ("::1", Resolver("::1", 53), "[::1]:53"),
        ("[::1]", Resolver("::1", 53), "[::1]:53"),
        ("[2001:db8::1]:5353", Resolver("2001:db8::1", 5353), "[2001:db8::1]:5353"),
    ],
)
def test_a_resolver_is_read_and_shown(text, resolver, shown):
    assert Resolver.parse(text) == resolver
    assert str(resolver) == shown
    assert Resolver.parse(shown) == resolver


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not an IPv4 or IPv6 address"),
        ("dns.google", "not an IPv4 or IPv6 address"),
        ("1.2.3", "not an IPv4 or IPv6 address"),
        ("1.2.3.4:", "not a number"),
        ("1.2.3.4:dns", "not a number"),
        ("1.2.3.4:0", "not a number from 1 to 65535"),
        ("1.2.3.4:65536", "not a number from 1 to 65535"),
        ("[::1", "not of the form"),
        ("[::1]53", "not of the form"),
    ],
)
def test_a_bad_resolver_is_refused_with_the_reason(text, complaint):
    with pytest.raises(BadEndpoint, match=complaint):
        Resolver.parse(text)


def test_system_resolvers_come_from_resolv_conf(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("# nameserver 9.9.9.9\nsearch x\nnameserver 192.0.2.1\nnameserver nonsense\n"
                    "nameserver 2001:db8::1\n")  # fmt: skip

    assert system_resolvers(path) == (Resolver("192.0.2.1"), Resolver("2001:db8::1"))


def test_without_resolv_conf_the_loopback_resolver_is_used(tmp_path):
    assert system_resolvers(tmp_path / "absent") == (Resolver("127.0.0.1"),)
