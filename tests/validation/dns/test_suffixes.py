from importlib.resources import files

import pytest

from services.validation.dns.suffixes import is_shared, public_suffix, registrable


@pytest.mark.parametrize(
    ("name", "suffix", "domain"),
    [
        ("", "", ""),
        ("com", "com", ""),
        ("example.com", "com", "example.com"),
        ("a.b.example.com", "com", "example.com"),
        ("co.uk", "co.uk", ""),
        ("example.co.uk", "co.uk", "example.co.uk"),
        ("www.example.co.uk", "co.uk", "example.co.uk"),
        ("example.uk", "uk", "example.uk"),
        ("shop.kobe.jp", "shop.kobe.jp", ""),
        ("www.shop.kobe.jp", "shop.kobe.jp", "www.shop.kobe.jp"),
        ("city.kobe.jp", "kobe.jp", "city.kobe.jp"),
        ("www.city.kobe.jp", "kobe.jp", "city.kobe.jp"),
        ("name.xn--55qx5d.cn", "xn--55qx5d.cn", "name.xn--55qx5d.cn"),
        ("unlisted", "unlisted", ""),
        ("a.b.unlisted", "unlisted", "b.unlisted"),
    ],
)
def test_a_name_has_the_suffix_of_its_registry_and_one_domain_below_it(name, suffix, domain):
    assert public_suffix(name) == suffix
    assert registrable(name) == domain


def test_domains_whose_owner_shares_them_out_are_registered_themselves():
    assert registrable("someone.github.io") == "github.io"
    assert is_shared("github.io")
    assert is_shared("com")
    assert not is_shared("example.com")


def test_suffixes_are_those_of_the_lists_own_test_data():
    """The data: checkPublicSuffix('name', 'registrable domain or null'); some lines need the whole
    list, which registries have no part in."""
    data = (files("publicsuffixlist") / "test_psl.txt").read_text(encoding="utf-8")
    checked = 0
    for line in data.splitlines():
        if not line.startswith("checkPublicSuffix('"):
            continue
        name, _, domain = line[len("checkPublicSuffix(") : -2].replace("'", "").partition(", ")
        if not name.isascii() or name != name.lower() or name.startswith("."):
            continue
        if name.endswith(("blogspot.com", "github.io", "uk.com")):
            continue
        assert registrable(name) == ("" if domain == "null" else domain), name
        checked += 1
    assert checked > 40
