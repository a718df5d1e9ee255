"""robots.txt by RFC 9309, and the opt-out list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.validation.http.robots import Robots, RobotsCache, parse


def allows(text: str, path: str, token: str = "domainflow") -> bool:
    return parse(text.encode(), token).allows(path)


@pytest.mark.parametrize(
    ("rules", "path", "allowed"),
    [
        ("", "/", True),
        ("Disallow: /", "/", False),
        ("Disallow:", "/", True),
        ("Disallow: /private", "/private/x", False),
        ("Disallow: /private", "/", True),
        # The longest match decides, whatever the order; allow wins a tie (2.2.2).
        ("Allow: /example/page/\nDisallow: /example/page/disallowed.gif", "/example/page/", True),
        (
            "Allow: /example/page/\nDisallow: /example/page/disallowed.gif",
            "/example/page/disallowed.gif",
            False,
        ),
        ("Disallow: /a\nAllow: /a", "/a", True),
        ("Disallow: /a\nAllow: /", "/a", False),
        # Wildcards and the end (2.2.3).
        ("Disallow: *.gif$", "/x.gif", False),
        ("Disallow: *.gif$", "/x.gif?y", True),
        ("Disallow: /*/private/", "/a/private/x", False),
        ("Disallow: /$", "/", False),
        ("Disallow: /$", "/a", True),
        ("Disallow: /a**b", "/axxb", False),
        ("Disallow: /a*bc$", "/abc", False),
        ("Disallow: /ab*bc$", "/abc", True),
        # Octets are compared as escaped (2.2.2).
        ("Disallow: /foo/bar/ツ", "/foo/bar/%E3%83%84", False),
        ("Disallow: /foo/bar/%E3%83%84", "/foo/bar/%e3%83%84", False),
        ("Disallow: /foo/bar/%62%61%7A", "/foo/bar/baz", False),
        ("Disallow: /a%2fb", "/a/b", True),
        ("Disallow: /x # why", "/x", False),
        ("disallow : /x", "/x", False),
        ("Disallow: /", "/robots.txt", True),
    ],
)
def test_a_rule_decides_as_the_standard_says(rules, path, allowed):
    assert allows("User-agent: *\n" + rules, path) is allowed


def test_the_group_that_names_us_replaces_the_one_for_everybody():
    text = "User-agent: *\nDisallow: /\n\nUser-agent: DomainFlow/2\nDisallow: /x\n"

    assert allows(text, "/")
    assert not allows(text, "/x")
    assert not allows(text, "/", token="another")


def test_groups_that_name_us_twice_are_one():
    text = "User-agent: domainflow\nDisallow: /a\nUser-agent: other\nUser-agent: domainflow\n"
    text += "Disallow: /b\nUser-agent: other\nDisallow: /c"

    assert not allows(text, "/a")
    assert not allows(text, "/b")
    assert allows(text, "/c")


def test_other_lines_do_not_end_a_group():
    text = "Disallow: /before\nUser-agent: *\nSitemap: https://x/\nCrawl-delay: 9\nDisallow: /a"

    assert not allows(text, "/a")
    assert allows(text, "/before")


def test_a_byte_order_mark_and_every_kind_of_line_end_are_read():
    assert not allows("\ufeffUser-agent: *\rDisallow: /a\r\nDisallow: /b", "/a")
    assert not allows("\ufeffUser-agent: *\rDisallow: /a\r\nDisallow: /b", "/b")


def test_a_file_of_many_agents_and_rules_keeps_only_those_for_us():
    agents = "".join(f"User-agent: a{number}\n" for number in range(15_000))
    rules = "".join(f"Disallow: /p{number}*x\n" for number in range(15_000))

    assert parse((agents + rules).encode(), "domainflow") == Robots()
    assert len(parse(f"User-agent: *\n{rules}".encode(), "domainflow").rules) <= 5_000


def test_a_pattern_of_many_stars_is_answered():
    assert allows("User-agent: *\nDisallow: /" + "*a" * 900 + "b", "/" + "a" * 2000)


@given(st.binary(max_size=2000), st.text(max_size=50))
def test_no_file_is_an_error(body, path):
    parse(b"User-agent: *\n" + body, "x").allows("/" + path)


def test_the_cache_forgets_what_is_old_and_what_is_too_much():
    cache = RobotsCache(size=2, keep=10)
    for number in range(3):
        cache.put(number, Robots(), now=number)

    assert len(cache) == 2
    assert cache.get(0, now=3) is None
    assert cache.get(2, now=11.9) == Robots()
    assert cache.get(2, now=12) is None


def test_the_cache_holds_few_large_files_and_many_small_ones():
    large = parse(b"User-agent: *\n" + b"Disallow: /%s\n" % (b"x" * 90) * 5_000, "x")
    small = parse(b"User-agent: *\nDisallow: /a\n", "x")
    cache = RobotsCache(memory=5_000_000)
    for number in range(100):
        cache.put(f"small {number}", small, now=0)
    cache.put("large", large, now=0)
    both = len(cache)
    for number in range(100):
        cache.put(number, large, now=0)

    assert both == 101
    assert len(cache) == 2
    assert cache.get(99, now=1) is large
    assert cache.get(99, now=4000) is None
    cache.put(98, large, now=1)
    assert len(cache) == 1
