import json

import pytest

from services.validation.content.linked_data import items_of_json_ld
from services.validation.content.markup import parse


def microdata(html: str) -> list[object]:
    return list(parse(html.encode(), url="https://example.com/").microdata)


def test_objects_of_a_graph_come_one_by_one() -> None:
    script = '[{"@context": "x", "@graph": [{"@type": "A"}, {"@type": "B"}]}, {"@type": "C"}]'

    assert [it["@type"] for it in items_of_json_ld(script, 10)] == ["A", "B", "C"]


@pytest.mark.parametrize(
    "script",
    ["", "null", "3", '"x"', "{", "[[]]", "{}", "[" * 100_000, "9" * 10_000, '{"a"', "\0"],
)
def test_what_is_no_object_is_left_out(script: str) -> None:
    assert items_of_json_ld(script, 10) == []


def test_objects_are_bounded() -> None:
    deep: object = "x"
    for _ in range(50):
        deep = {"a": deep}
    script = json.dumps({"deep": deep, "many": list(range(1_000)), "long": "x" * 9_999})
    script = (
        script[:-1] + ', "big": 1e999, "huge": 99999999999999999999, "bad": "\\ud800\\n\\u0000a"}'
    )

    (item,) = items_of_json_ld(script, 10)

    assert len(json.dumps(item)) < 3_000
    assert (item["big"], item["huge"], item["bad"]) == (None, None, "a")


def test_html_comments_around_json_are_no_part_of_it() -> None:
    assert items_of_json_ld('<!-- {"a": "&amp;"} -->', 10) == [{"a": "&"}]


def test_microdata_has_the_form_of_json_ld() -> None:
    html = """<div itemscope itemtype="https://schema.org/LocalBusiness"><div>
      <span itemprop="name">Bak<b>ery</b></span></div><a itemprop=url href="/x">u</a>
      <div itemprop="address" itemscope itemtype="http://schema.org/PostalAddress">
        <div itemprop="postalCode">123</div><meta itemprop=addressCountry content=DE></div>
      <span itemprop="telephone">1</span><span itemprop="telephone">2</span></div>
      <span itemprop="name">outside</span>
      <p itemscope itemtype="http://schema.org/Person"><i itemprop="name">Ann</i></p>"""

    assert microdata(html) == [
        {
            "@type": "LocalBusiness",
            "name": "Bak ery",
            "url": "https://example.com/x",
            "address": {"@type": "PostalAddress", "postalCode": "123", "addressCountry": "DE"},
            "telephone": ["1", "2"],
        },
        {"@type": "Person", "name": "Ann"},
    ]


def test_items_of_other_vocabularies_are_left_out() -> None:
    assert microdata("<p itemscope itemtype=http://other.org/X><i itemprop=a>b</i></p>") == []
