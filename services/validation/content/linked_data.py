"""Structured data of a page as bounded objects: JSON-LD, and microdata of schema.org. Pure."""

import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from html import unescape

from services.validation.content.tokens import Tokens, attributes_of

# Characters of one JSON-LD script; a longer one is left out.
MAX_SCRIPT = 500_000
# Within an object: nesting, entries of a list or object, characters of a text.
MAX_DEPTH = 8
MAX_ENTRIES = 50
MAX_STRING = 1_000
# Items inside of items.
_MAX_OPEN = 32
# Tags in which the end of a property's text is looked for.
_MAX_TAGS = 20
_URLS = {"a": "href", "link": "href", "area": "href", "img": "src", "object": "data"}


def items_of_json_ld(script: str, limit: int) -> list[Mapping[str, object]]:
    """Objects of a JSON-LD script, those of a list or @graph one by one; none when it is no JSON.

    What is nested deeper, or is more than the limits, is left out; texts are cut.
    """
    if limit <= 0 or len(script) > MAX_SCRIPT:
        return []
    try:
        data = json.loads(script.strip().removeprefix("<!--").removesuffix("-->"), strict=False)
    except (ValueError, RecursionError):
        return []
    found: list[Mapping[str, object]] = []
    waiting: deque[object] = deque([data])
    while waiting and len(found) < limit:
        value = waiting.popleft()
        if isinstance(value, list):
            waiting.extendleft(reversed(value[:limit]))
        elif isinstance(value, dict):
            graph = value.get("@graph")
            if isinstance(graph, list):
                waiting.extendleft(reversed(graph[:limit]))
            else:
                item = _bounded(value, MAX_DEPTH)
                if isinstance(item, dict) and item:
                    found.append(item)
    return found


def items_of_microdata(
    tokens: Tokens, absolute: Callable[[str], str], limit: int
) -> tuple[Mapping[str, object], ...]:
    """Items of schema.org as objects of JSON-LD, outer ones only: inner ones are properties.

    `absolute` makes a URL of a reference. Where the end of an item's element is missing, it ends
    with the page.
    """
    found: list[dict[str, object]] = []
    # Name of the item's element, how many of that name are open in it, the item.
    items: list[tuple[str, list[int], dict[str, object]]] = []
    for at, name in enumerate(tokens.names):
        if not name:
            continue
        if name[0] == "/":
            if items and items[-1][0] == name[1:]:
                items[-1][1][0] -= 1
                if not items[-1][1][0]:
                    items.pop()
            continue
        source = tokens.attributes[at] or ""
        attributes = attributes_of(source) if "item" in source.lower() else {}
        properties = attributes.get("itemprop", "").split()[:4]
        if "itemscope" in attributes and len(items) < _MAX_OPEN:
            kind = attributes.get("itemtype", "").partition(" ")[0].rstrip("/")
            item: dict[str, object] = {"@type": _clean(kind.rpartition("/")[2])}
            if properties and items:
                _add(items[-1][2], properties, item)
            elif "schema.org/" in kind and len(found) < limit:
                found.append(item)
            items.append((name, [1], item))
            continue
        if items and items[-1][0] == name:
            items[-1][1][0] += 1
        if properties and items and (value := _value(tokens, at, name, attributes, absolute)):
            _add(items[-1][2], properties, value)
    return tuple(found)


def _value(
    tokens: Tokens,
    at: int,
    name: str,
    attributes: Mapping[str, str],
    absolute: Callable[[str], str],
) -> str:
    if "content" in attributes:
        return _clean(attributes["content"])
    if name in _URLS:
        reference = attributes.get(_URLS[name], "")
        return absolute(reference) or _clean(reference)
    if name == "time" and attributes.get("datetime"):
        return _clean(attributes["datetime"])
    end = at + 1
    last = min(len(tokens.names), at + _MAX_TAGS)
    while end < last and tokens.names[end] != "/" + name:
        end += 1
    texts = tokens.texts[at + 1 : end + 1]
    return _clean(unescape(" ".join(it[: 2 * MAX_STRING] for it in texts)))


def _add(item: dict[str, object], properties: list[str], value: object) -> None:
    for name in properties:
        name = name[:100]
        known = item.get(name)
        if known is None:
            if len(item) < MAX_ENTRIES:
                item[name] = value
        elif isinstance(known, list):
            if len(known) < MAX_ENTRIES:
                known.append(value)
        else:
            item[name] = [known, value]


def _bounded(value: object, depth: int) -> object:
    if isinstance(value, str):
        return _clean(unescape(value[: 2 * MAX_STRING]) if "&" in value else value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if abs(value) < 2**53 else None
    if not depth:
        return None
    if isinstance(value, list):
        return [_bounded(it, depth - 1) for it in value[:MAX_ENTRIES]]
    if isinstance(value, dict):
        entries = list(value.items())[:MAX_ENTRIES]
        return {_clean(key)[:100]: _bounded(it, depth - 1) for key, it in entries}
    return None


def _clean(text: str) -> str:
    """In one line, without what no table takes: NUL, lone surrogates."""
    text = text[: 2 * MAX_STRING].replace("\0", "")
    if not text.isascii():
        text = text.encode("utf-8", "ignore").decode("utf-8")
    return " ".join(text.split())[:MAX_STRING].rstrip()
