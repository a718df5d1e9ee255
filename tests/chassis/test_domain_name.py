"""What a DNS name is."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.chassis.domain_name import NotADomainName, explain, normalise

LABEL_63 = "a" * 63
NAME_253 = ".".join([LABEL_63, LABEL_63, LABEL_63, "b" * 61])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.com", "example.com"),
        ("  Example.COM. \r\n", "example.com"),
        ("bücher.de", "xn--bcher-kva.de"),
        ("BÜCHER.de", "xn--bcher-kva.de"),
        ("faß.de", "xn--fa-hia.de"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("例え。テスト。", "xn--r8jz45g.xn--zckzah"),
        ("xn--bcher-kva.de", "xn--bcher-kva.de"),
        ("0.a", "0.a"),
        ("a--b.com", "a--b.com"),
        (f"{LABEL_63}.com", f"{LABEL_63}.com"),
        (NAME_253, NAME_253),
        (NAME_253 + ".", NAME_253),
    ],
)
def test_names_take_one_form(text: str, name: str) -> None:
    assert normalise(text) == name


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (".", "is empty"),
        ("com", "no dot"),
        ("a..com", "empty label"),
        (".com", "empty label"),
        ("a.com..", "empty label"),
        ("-a.com", "hyphen at its edge"),
        ("a-.com", "hyphen at its edge"),
        ("a_b.com", "'_'"),
        ("a b.com", "' '"),
        ("*.com", "'*'"),
        ("a\x00.com", "other than letters"),
        ("http://a.com", "'/:'"),
        ("192.0.2.1", "an address"),
        ("a.123", "an address"),
        (f"{LABEL_63}a.com", "64 characters"),
        ("a" + NAME_253, "254 characters"),
        ("ü" * 63 + ".com", "internationalised"),
        ("\u0301a.com", "internationalised"),
        ("☃\u200d.com", "internationalised"),
    ],
)
def test_what_is_no_name_says_why(text: str, problem: str) -> None:
    with pytest.raises(NotADomainName, match=problem.replace("*", r"\*")):
        normalise(text)


# A loop of quadratic cost would not end within the test's time limit.
@pytest.mark.parametrize(
    "text", ["a" * 2_000_000, "a." * 1_000_000, "ü" * 1_000_000, "-" * 2_000_000, "。" * 1_000_000]
)
def test_huge_text_is_refused_at_once(text: str) -> None:
    with pytest.raises(NotADomainName, match="more than 253"):
        normalise(text)


@given(st.text(max_size=300) | st.text("aB.-_ü。ß\u0300א1\u200d ", max_size=80))
@example("\u3002")
@example("xn--.com")
@example("xn--a\u0300.com")
def test_any_text_is_a_valid_name_or_refused(text: str) -> None:
    try:
        name = normalise(text)
    except NotADomainName:
        return
    assert explain(name) == ""
    assert normalise(name) == name
    assert name == name.lower()
