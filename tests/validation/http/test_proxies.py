"""Proxies as people write them."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidFields
from services.chassis.secrets import Secret
from services.validation.http import proxies
from services.validation.http.proxies import Proxy, Scheme, make, parse_list, parse_url


def shown(proxy):
    return f"{proxy.scheme} {proxy.host} {proxy.port} {proxy.user} {proxy.password.reveal()}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://proxy.example:3128", "http proxy.example 3128  "),
        ("HTTPS://Proxy.Example:443/", "https proxy.example 443  "),
        ("socks5://192.0.2.1:1080", "socks5 192.0.2.1 1080  "),
        ("http://[2001:DB8:0::1]:8080", "http 2001:db8::1 8080  "),
        ("http://proxy:3128", "http proxy 3128  "),
        ("http://user:pa%3Ass%40@h.example:80", "http h.example 80 user pa:ss@"),
        ("http://user:p@ss:w/rd#1@h.example:80", "http h.example 80 user p@ss:w/rd#1"),
        ("http://user@h.example:80", "http h.example 80 user "),
        ("socks5://a%3Ab:c@h.example:80", "socks5 h.example 80 a:b c"),
    ],
)
def test_a_url_is_read(text, expected):
    assert shown(parse_url(text)) == expected


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {"url.scheme"}),
        ("h.example:80", {"url.scheme"}),
        ("socks4://h.example:80", {"url.scheme"}),
        ("socks5h://h.example:80", {"url.scheme"}),
        ("ftp://:0", {"url.scheme", "url.host", "url.port"}),
        ("http://h.example", {"url.port"}),
        ("http://h.example:65536", {"url.port"}),
        ("http://h.example:٣", {"url.port"}),
        ("http://" + "9" * 1_500 + ":1", {"url.host"}),
        ("http://2001:db8::1:80", {"url.host", "url.port"}),
        ("http://[2001:db8::g]:80", {"url.host"}),
        ("http://[fe80::1%25eth0]:80", {"url.host"}),
        ("http://[2001:db8::1:80", {"url.host", "url.port"}),
        ("http://-a.example:80", {"url.host"}),
        ("http://300.1.2.3:80", {"url.host"}),
        ("http://a b:80", {"url.host"}),
        ("http://h.example:80/path", {"url"}),
        ("http://h.example:80?x", {"url"}),
        ("http://:secret@h.example:80", {"url.user"}),
        ("http://a%3Ab:c@h.example:80", {"url.user"}),
        ("socks5://user@h.example:80", {"url.password"}),
        ("http://us%0Aer:pa%00ss@h.example:80", {"url.user", "url.password"}),
        ("http://" + "u" * 256 + ":" + "p" * 256 + "@h.example:80", {"url.user", "url.password"}),
        ("http://" + "x" * 2_000, {"url"}),
    ],
)
def test_every_bad_field_of_a_url_is_named(text, fields):
    with pytest.raises(InvalidFields) as refusal:
        parse_url(text)

    assert {each.field for each in refusal.value.violations} == fields


def test_every_bad_field_is_named_at_once():
    with pytest.raises(InvalidFields) as refusal:
        make("socks4", "-", "x", "", "p", path="proxies[3].")

    assert [each.field for each in refusal.value.violations] == [
        "proxies[3].scheme",
        "proxies[3].host",
        "proxies[3].port",
        "proxies[3].user",
    ]


def test_nothing_shows_a_password():
    proxy = parse_url("http://user:hunter2@h.example:80")

    assert "hunter2" not in f"{proxy} {proxy!r} {proxy.label} {proxy.identity}"
    assert proxy.password == Secret("hunter2")
    assert proxy.label == "http://h.example:80"


def test_a_proxy_is_the_same_whatever_its_password():
    one, other = (parse_url(f"http://user:{each}@h.example:80") for each in "ab")

    assert one.identity == other.identity
    assert len({one, other}) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("192.0.2.1:8080", "http 192.0.2.1 8080  "),
        ("192.0.2.1:8080:user:pass", "http 192.0.2.1 8080 user pass"),
        ("h.example:8080:user:pa:ss@,/", "http h.example 8080 user pa:ss@,/"),
        ("user:pass@h.example:8080", "http h.example 8080 user pass"),
        ("user:80@h.example:8080", "http h.example 8080 user 80"),
        ("socks5://h.example:1080:user:pass", "socks5 h.example 1080 user pass"),
        ("socks5://user:pass@h.example:1080", "socks5 h.example 1080 user pass"),
        ("https://h.example:8443/", "https h.example 8443  "),
        ("[2001:db8::1]:8080", "http 2001:db8::1 8080  "),
        ("[2001:db8::1]:8080:user:pass", "http 2001:db8::1 8080 user pass"),
        ("h.example,8080", "http h.example 8080  "),
        ("h.example,8080,user,pass", "http h.example 8080 user pass"),
        ('h.example;8080;user;"pa;ss"', "http h.example 8080 user pa;ss"),
        ("h.example\t8080\tuser\tpass", "http h.example 8080 user pass"),
    ],
)
def test_lines_of_all_forms_are_read(line, expected):
    found = parse_list(f"\ufeff# ours\r\n\r\n  {line}\r\n")

    assert [(each.line, shown(each.proxy)) for each in found.proxies] == [(3, expected)]
    assert not found.bad_lines


def test_columns_may_be_named():
    text = 'Port;IP;Login;Password;Country;Protocol;Weight\n80;192.0.2.1;u;"a;b";DE;SOCKS5;3\n'

    (each,) = parse_list(text).proxies

    assert shown(each.proxy) == "socks5 192.0.2.1 80 u a;b"
    assert each.weight == 3


def test_a_column_of_urls_may_have_weights():
    (each,) = parse_list("url,weight\nhttps://h.example:1,7\n").proxies

    assert (each.proxy.label, each.weight) == ("https://h.example:1", 7)


def test_the_scheme_of_lines_without_one_is_chosen():
    (each,) = parse_list("h.example:1080", scheme=Scheme.SOCKS5).proxies

    assert each.proxy.scheme is Scheme.SOCKS5


def test_bad_lines_say_what_is_wrong_and_not_what_stood_there():
    text = (
        "h.example:80\n"
        "h.example:80\n"
        "hunter2\n"
        "h.example:hunter2\n"
        "ftp://h.example:80\n"
        "-hunter2-:80\n"
        "user:hunter2@:80\n"
        "h.example,80,user,hunter2,DE\n" + "hunter2" * 400
    )

    found = parse_list(text)

    assert [(bad.line, bad.field) for bad in found.bad_lines] == [
        (2, ""),
        (3, "port"),
        (4, "port"),
        (5, "scheme"),
        (6, "host"),
        (7, "host"),
        (8, ""),
        (9, ""),
    ]
    assert "hunter2" not in repr(found)
    assert len(found.proxies) == 1


def test_a_bad_weight_is_named_beside_other_bad_fields():
    found = parse_list("host,port,weight\nh.example,0,0\nh.example,1,1001\n")

    assert [(bad.line, bad.field) for bad in found.bad_lines] == [
        (2, "port"),
        (2, "weight"),
        (3, "weight"),
    ]


def test_lines_beyond_the_limit_are_not_read_in_silence():
    found = parse_list("\n" * proxies.MAX_LINES + "h.example:80")

    assert not found.proxies
    assert [bad.line for bad in found.bad_lines] == [proxies.MAX_LINES + 1]


@given(
    st.sampled_from(Scheme),
    st.sampled_from(["h.example", "192.0.2.1", "2001:db8::1", "proxy"]),
    st.integers(1, 65535),
    st.text("abc%:@/# é", max_size=10),
    st.text("abc%:@/# é", max_size=10),
)
def test_credentials_written_into_a_url_come_out_as_they_were(scheme, host, port, user, password):
    try:
        proxy = make(scheme, host, port, user, password)
    except InvalidFields:
        return
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""

    again = parse_url(f"{scheme}://{credentials}{place}")

    assert again == proxy
    assert again.password == proxy.password


@given(st.text(max_size=200) | st.text('h.:1 ,;"\t\n@/[]%hostportul', max_size=80))
def test_any_text_is_a_list(text):
    found = parse_list(text)

    assert all(isinstance(each.proxy, Proxy) for each in found.proxies)
    assert len({each.line for each in found.proxies}) == len(found.proxies)
