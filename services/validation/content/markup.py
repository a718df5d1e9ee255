"""What a page says: bytes in, title, text, links and structured data out, all bounded. Pure.

No page is refused: broken markup, another kind of document or nothing at all give a Document too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from itertools import chain, repeat

from services.validation.content.encodings import Encoding, decode
from services.validation.content.linked_data import items_of_json_ld, items_of_microdata
from services.validation.content.tokens import Tokens, attributes_of, tokens_of

# Characters, unless it says otherwise. What is longer is cut; a URL that is longer is left out.
MAX_TITLE = 500
MAX_DESCRIPTION = 1_000
MAX_TEXT = 500_000
MAX_HEADINGS = 100
MAX_HEADING = 300
MAX_LINKS = 1_000
MAX_LINK_TEXT = 200
# Elements that are looked at for links: most pages repeat theirs.
MAX_ANCHORS = 3_000
MAX_URL = 2_048
MAX_HOSTS = 200
MAX_CONTACT_LINKS = 200
MAX_SCRIPT_TEXT = 50_000
MAX_OUTLINE = 200_000
# Objects of structured data.
MAX_ITEMS = 100
# Tags in which the end of a heading or link is looked for: one that never ends ends there.
MAX_INLINE_TAGS = 200


@dataclass(frozen=True, slots=True)
class Link:
    # Absolute, http or https, without a fragment.
    url: str
    # What is shown, or the image's alternative text; empty without both.
    text: str
    # The host of the page itself; a leading "www." makes no difference, nor does the port.
    same_host: bool
    nofollow: bool


@dataclass(frozen=True, slots=True)
class Heading:
    # 1 to 6.
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """One page. Every text but `lines` and `script_text` is folded: no line ends, no NUL, one space
    between words."""

    title: str
    # BCP 47, such as "de" or "pt-BR"; empty when the page does not say.
    language: str
    # What a reader sees, without scripts and styles; at most 500,000 characters.
    text: str
    # The same characters at the same offsets, but a line feed where a block ends.
    lines: str
    description: str
    # As <meta property="og:site_name"> has it.
    site_name: str
    headings: tuple[Heading, ...]
    # In order of the page, each URL once, at most 1,000.
    links: tuple[Link, ...]
    # mailto:, tel:, sms:, whatsapp:, skype: and protected e-mail: target as written and text of the
    # link, at most 200.
    contact_links: tuple[tuple[str, str], ...]
    # Values of data-cfemail: addresses that a script of Cloudflare shows; at most 200.
    protected: tuple[str, ...]
    # Share of the text's characters that are inside links, 0 to 1.
    anchor_share: float
    # Directives of <meta name="robots">, lower case.
    robots: tuple[str, ...]
    generator: str
    # URL the page gives as its own; empty without one.
    canonical: str
    # Target of <meta http-equiv="refresh">; empty without one.
    refresh: str
    # When the page says it was last changed or else published, as written; empty without it.
    modified: str
    # Objects of JSON-LD, those of a @graph one by one; bounded in depth, number and length.
    json_ld: tuple[Mapping[str, object], ...]
    # Items of schema.org in microdata, in the form of JSON-LD ("@type", properties).
    microdata: tuple[Mapping[str, object], ...]
    form_count: int
    has_password_field: bool
    script_count: int
    # Hosts that scripts, frames, images and style sheets come from, lower case, at most 200.
    resource_hosts: tuple[str, ...]
    # Inline scripts and the attributes of <html>, for known marks; at most 50,000.
    script_text: str
    # Names of all tags in order, a space between: the shape of the page; at most 200,000.
    outline: str
    # Of the body, decompressed.
    byte_size: int
    encoding: Encoding
    # A limit above cut the text, headings or links.
    is_cut: bool


# What str.split takes for a space, besides the plain one.
_SPACES = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_RUN = re.compile(" {2,}")
# Runs of spaces in so many characters up to which they are replaced, each by itself: half a
# microsecond each, a tenth of one for each word that is cut out.
_FEW_RUNS, _SAMPLE = 16, 4_096
_NOT_TEXT = re.compile(r"[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff\ufffe\uffff]")
# Tags inside of words: no space comes from them.
_INLINE = dict.fromkeys(
    (
        it
        for name in (
            "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd mark q ruby s "
            "samp small span strike strong sub sup time tt u var wbr"
        ).split()
        for it in (name, "/" + name)
    ),
    "",
)
# Comments.
_INLINE[""] = ""
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_ENDS = {f"/h{level}" for level in range(1, 7)}
_LOOKED_AT = (
    {"a", "/a", "html", "base", "meta", "link", "title", "script", "form", "input", "time", "img"}
    | {"iframe", "frame", "svg", "/svg", "template", "/template"}
    | set(_HEADINGS)
)
# "&amp;" is not one of them: what it makes may look like another reference.
_COMMON_REFERENCES = (
    ("&nbsp;", " "),
    ("&#39;", "'"),
    ("&quot;", '"'),
    ("&lt;", "<"),
    ("&gt;", ">"),
)
_RESOURCES = {"img", "iframe", "frame"}
_CONTACT_SCHEMES = ("mailto:", "tel:", "sms:", "whatsapp:", "skype:", "callto:")
_HREF = re.compile(r"""[ \t\n\r\f/"']href(?:="([^"&]*+)")?""", re.IGNORECASE)
_PROTECTED = re.compile(r"data-cfemail=[\"']?([0-9a-fA-F]{6,600})\b")
_REFRESHED = re.compile(r"url\s*+=\s*+[\"']?+([^\"'\s]++)", re.IGNORECASE)
_URL_NOISE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]")
_STRIPPED = dict.fromkeys(map(ord, "\t\n\r"))
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*+:")
_LANGUAGE = re.compile(
    r"([a-z]{2,3})(?:-[a-z]{3})?(?:-([a-z]{4}))?(?:-([a-z]{2}|[0-9]{3}))?(?:-.*)?", re.IGNORECASE
)
# Deprecated codes and their preferred ones (IANA language subtag registry).
_PREFERRED = {"iw": "he", "in": "id", "ji": "yi", "jw": "jv", "mo": "ro"}
_HTML_TYPES = ("", "text/html", "application/xhtml+xml", "application/xml", "text/xml")


def parse(
    body: bytes,
    *,
    url: str,
    content_type: str = "",
    content_language: str = "",
    charset_hint: str = "",
) -> Document:
    """Read a page.

    `url` is that of the response, after redirects; `content_type` and `content_language` are its
    headers, `charset_hint` the encoding to try where nothing else decides. Text of another type is
    taken as it is; what is no text at all gives an empty text. Never raises.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _HTML_TYPES and not media_type.startswith("text/"):
        return _Reader(url, content_language).document("", body, decode(b"")[1])
    html, encoding = decode(body, content_type=content_type, hint=charset_hint)
    reader = _Reader(url, content_language)
    if media_type in _HTML_TYPES:
        return reader.document(html, body, encoding)
    return reader.document(html.replace("&", "&amp;").replace("<", "&lt;"), body, encoding)


def fold(text: str, limit: int) -> str:
    """Text in one line: references decoded, no control characters, one space between words."""
    if "&" in text:
        text = unescape(text)
    if text.isprintable() and "  " not in text:
        text = text.strip()
    else:
        # NUL and lone surrogates have no place in a table.
        text = " ".join(_NOT_TEXT.sub("", " ".join(text.split())).split())
    return text if len(text) <= limit else text[:limit].rstrip()


def _blocks(text: str) -> str:
    """What stands between NULs, each in one line as by `fold`, with one NUL between them. For a
    whole page: most have few spaces to fold, and no words are cut out for those."""
    if "&" in text:
        for reference, character in _COMMON_REFERENCES:
            text = text.replace(reference, character)
        if "&" in text:
            text = unescape(text)
    # Decoded bytes and references have neither surrogates nor NUL.
    text = "\0".join(filter(None, map(str.strip, text.split("\0"))))
    head = text[:_SAMPLE]
    if head.count("  ") + head.count("\n ") < _FEW_RUNS:
        for space in _SPACES:
            if space in text:
                text = text.replace(space, " ")
        # From the end it is found to be missing sooner.
        if text.rfind("  ") < 0:
            return text
        if text.count("  ") * _SAMPLE < _FEW_RUNS * len(text):
            return _RUN.sub(" ", text)
    return " ".join(text.split())


def language_tag(value: str) -> str:
    """Language, script and region of a tag in the form of BCP 47; empty when it is none."""
    tag = value.partition(",")[0].strip().replace("_", "-").partition(".")[0]
    found = _LANGUAGE.fullmatch(tag[:100])
    if not found:
        return ""
    language = found[1].lower()
    parts = [_PREFERRED.get(language, language)]
    if found[2]:
        parts.append(found[2].title())
    if found[3]:
        parts.append(found[3].upper())
    return "-".join(parts)


def host_of(url: str) -> str:
    """Host of an absolute http(s) URL, lower case, without port and credentials."""
    authority = url.partition("//")[2]
    for end in "/?#":
        authority = authority.partition(end)[0]
    authority = authority.rpartition("@")[2]
    if authority.startswith("["):
        address, closed, _ = authority[1:].partition("]")
        return address.lower() if closed else ""
    return authority.partition(":")[0].rstrip(".").lower()


def same_site(host: str, other: str) -> bool:
    """Whether two hosts are one but for a leading "www."."""
    return host.removeprefix("www.") == other.removeprefix("www.")


class _Reader:
    """Collects what one pass over the tags finds."""

    def __init__(self, url: str, content_language: str) -> None:
        self._base(url)
        self._host = host_of(url)
        self._home = self._origin + "/"
        self._languages = ["", "", content_language, ""]
        self._metas: dict[str, str] = {}
        self._title: str | None = None
        self._canonical = ""
        self._headings: list[Heading] = []
        self._links: dict[str, Link] = {}
        self._contact_links: dict[str, str] = {}
        self._resources: dict[str, None] = {}
        self._json_ld: list[Mapping[str, object]] = []
        self._scripts: list[str] = []
        self._script_size = 0
        self._forms = self._script_count = self._heading_count = 0
        self._password = False
        self._anchor_size = self._anchor_count = 0
        self._time = ""
        self._cut = False

    def document(self, html: str, body: bytes, encoding: Encoding) -> Document:
        html = html.replace("\0", "")
        tokens = tokens_of(html)
        # Ends of blocks are marked by what no page has any more.
        spaces = list(map(_INLINE.get, tokens.names, repeat(" \0 ")))
        self._read(tokens, spaces)
        text = "".join(
            chain(tokens.texts[:1], chain.from_iterable(zip(spaces, tokens.texts[1:], strict=True)))
        )
        blocks = _blocks(text)
        text = blocks.replace("\0", " ")
        metas = self._metas
        outline = " ".join(tokens.names)
        size = len(text)
        self._languages[1] = metas.get("content-language", "")
        self._languages[3] = metas.get("og:locale", "")
        sources = " ".join(filter(None, tokens.attributes))
        has_items = "itemscope" in sources or "ITEMSCOPE" in sources
        microdata = items_of_microdata(tokens, self._absolute, MAX_ITEMS) if has_items else ()
        return Document(
            title=fold(self._title or "", MAX_TITLE),
            language=next(filter(None, map(language_tag, self._languages)), ""),
            text=text[:MAX_TEXT].rstrip(),
            lines=blocks.replace("\0", "\n")[:MAX_TEXT].rstrip(),
            site_name=fold(metas.get("og:site_name", ""), MAX_HEADING),
            description=fold(
                metas.get("description") or metas.get("og:description") or "", MAX_DESCRIPTION
            ),
            headings=tuple(self._headings),
            links=tuple(self._links.values()),
            contact_links=tuple(self._contact_links.items()),
            protected=tuple(_PROTECTED.findall(html)[:200]) if "data-cfemail" in html else (),
            anchor_share=round(min(1.0, self._anchor_size / size), 3) if size else 0.0,
            robots=tuple(
                fold(it, 50) for it in metas.get("robots", "").lower()[:500].split(",") if it
            ),
            generator=fold(metas.get("generator", ""), 200),
            canonical=self._canonical,
            refresh=self._refresh(metas.get("refresh", "")),
            modified=self._modified(),
            json_ld=tuple(self._json_ld),
            microdata=microdata,
            form_count=self._forms,
            has_password_field=self._password,
            script_count=self._script_count,
            resource_hosts=tuple(self._resources),
            script_text="\n".join(self._scripts),
            outline=outline[:MAX_OUTLINE],
            byte_size=len(body),
            encoding=encoding,
            is_cut=self._cut or size > MAX_TEXT,
        )

    def _read(self, tokens: Tokens, spaces: list[str]) -> None:
        texts, names, attributes, raw = tokens
        anchor = -1
        svg = template = 0
        template_start = -1
        for at in [at for at, name in enumerate(names) if name in _LOOKED_AT]:
            name = names[at]
            if name == "a":
                if anchor >= 0:
                    self._anchor(tokens, spaces, anchor, at)
                anchor = at
            elif name == "/a":
                if anchor >= 0:
                    self._anchor(tokens, spaces, anchor, at)
                anchor = -1
            elif name == "script":
                self._script(attributes[at], raw[at] or "")
            elif name == "meta":
                self._meta(attributes_of(attributes[at]))
            elif name in _HEADINGS:
                self._heading(tokens, spaces, at)
            elif name == "svg":
                svg += 1
            elif name == "/svg":
                svg = max(0, svg - 1)
            elif name == "title":
                if self._title is None and not svg:
                    self._title = raw[at] or ""
            elif name == "template":
                if not template:
                    template_start = at
                template += 1
            elif name == "/template":
                template -= template > 0
                if not template and template_start >= 0:
                    texts[template_start + 1 : at + 1] = repeat("", at - template_start)
                    template_start = -1
            elif name == "form":
                self._forms += 1
            elif name == "html":
                # Once: a page with a thousand of them is not read a thousand times.
                if not self._scripts:
                    self._root(attributes_of(attributes[at]))
            elif source := attributes[at]:
                # An image, frame or style sheet of the page's own host is of no interest.
                if name not in _RESOURCES or "//" in source:
                    self._other(name, attributes_of(source))
        if anchor >= 0:
            self._anchor(tokens, spaces, anchor, len(names))

    def _root(self, attributes: Mapping[str, str]) -> None:
        self._languages[0] = attributes.get("lang", "") or attributes.get("xml:lang", "")
        self._scripts.append(" ".join(f"{key}={it}" for key, it in attributes.items())[:2_000])

    def _other(self, name: str, attributes: Mapping[str, str]) -> None:
        if name == "base":
            if not self._has_base and (base := self._absolute(attributes.get("href", ""))):
                self._base(base, given=True)
        elif name == "link":
            rel = attributes.get("rel", "").lower().split()
            if "canonical" in rel:
                self._canonical = self._canonical or self._absolute(attributes.get("href", ""))
            elif "stylesheet" in rel:
                self._resource(attributes.get("href", ""))
        elif name == "input":
            self._password |= attributes.get("type", "").strip().lower() == "password"
        elif name == "time":
            self._time = self._time or attributes.get("datetime", "")
        else:
            self._resource(attributes.get("src", ""))

    def _base(self, url: str, *, given: bool = False) -> None:
        self._has_base = given
        self._scheme, _, rest = url.partition("://")
        self._origin = f"{self._scheme}://{re.split('[/?#]', rest, maxsplit=1)[0]}"
        path = re.split("[?#]", url[len(self._origin) :], maxsplit=1)[0]
        self._folder = path.rpartition("/")[0] + "/"
        self._path = path or "/"
        self._resolved: dict[str, str] = {}

    def _absolute(self, reference: str) -> str:
        """The URL a reference means; empty when it is none of http(s), or too long."""
        url = self._resolved.get(reference)
        if url is None:
            url = self._resolve(reference)
            # Most of a page's references come more than once.
            if len(reference) <= MAX_URL and len(self._resolved) < MAX_ANCHORS:
                self._resolved[reference] = url
        return url

    def _resolve(self, reference: str) -> str:
        # RFC 3986, 5.2, of which urllib's form costs ten times as much.
        url = reference.partition("#")[0].strip()
        if _URL_NOISE.search(url):
            url = url.translate(_STRIPPED)
            url = _URL_NOISE.sub(lambda it: "%20" if it[0] == " " else "", url)
        if not url or len(url) > MAX_URL:
            return ""
        if "\\" in url:
            url = url.replace("\\", "/")
        if url[:8].lower().startswith(("http://", "https://")):
            head, _, rest = url.partition("://")
            url = f"{head.lower()}://{rest}"
        elif _SCHEME.match(url):
            return ""
        elif url.startswith("//"):
            url = f"{self._scheme}:{url}"
        elif url[0] == "?":
            return self._within(self._path + url)
        else:
            path, mark, query = url.partition("?")
            if path[0] != "/":
                path = self._folder + path
            if "/." in path:
                path = _without_dots(path)
            return self._within(path + mark + query)
        return url if host_of(url) else ""

    def _within(self, path: str) -> str:
        url = self._origin + path
        return url if len(url) <= MAX_URL else ""

    def _anchor(self, tokens: Tokens, spaces: list[str], start: int, end: int) -> None:
        end = min(end, start + MAX_INLINE_TAGS)
        shown = _between(tokens, spaces, start, end)
        self._anchor_size += len(shown)
        source = tokens.attributes[start]
        if not source or 'href="#' in source:
            return
        self._anchor_count += 1
        if self._anchor_count > MAX_ANCHORS:
            self._cut = True
            return
        reference, nofollow = _href(source)
        if not reference:
            return
        is_contact = reference.lstrip()[:9].lower().startswith(_CONTACT_SCHEMES)
        if is_contact or "email-protection#" in reference:
            if len(self._contact_links) < MAX_CONTACT_LINKS:
                target = fold(reference, MAX_URL)
                self._contact_links[target] = self._contact_links.get(target) or shown
            return
        url = self._absolute(reference)
        known = self._links.get(url)
        if not url or (known is not None and known.text):
            return
        if known is None and len(self._links) == MAX_LINKS:
            self._cut = True
            return
        if not shown and "img" in tokens.names[start + 1 : end]:
            at = tokens.names.index("img", start + 1, end)
            shown = fold(attributes_of(tokens.attributes[at]).get("alt", ""), MAX_LINK_TEXT)
        self._links[url] = Link(
            url,
            shown[:MAX_LINK_TEXT].rstrip(),
            url.startswith(self._home) or same_site(host_of(url), self._host),
            nofollow,
        )

    def _heading(self, tokens: Tokens, spaces: list[str], start: int) -> None:
        self._heading_count += 1
        if self._heading_count > MAX_HEADINGS:
            self._cut = True
            return
        names = tokens.names
        end = start + 1
        last = min(len(names), start + MAX_INLINE_TAGS)
        while end < last and names[end] not in _ENDS and names[end] not in _HEADINGS:
            end += 1
        if text := _between(tokens, spaces, start, end)[:MAX_HEADING].rstrip():
            self._headings.append(Heading(_HEADINGS[names[start]], text))

    def _script(self, source: str | None, content: str) -> None:
        self._script_count += 1
        attributes = attributes_of(source)
        if "ld+json" in attributes.get("type", "").lower():
            room = MAX_ITEMS - len(self._json_ld)
            self._json_ld.extend(items_of_json_ld(content, room))
            return
        self._resource(attributes.get("src", ""))
        room = MAX_SCRIPT_TEXT - self._script_size
        if content and room > 0:
            self._scripts.append(content[:room])
            self._script_size += len(content)

    def _resource(self, reference: str) -> None:
        # Most are of the page's own host, and told apart without resolving them.
        if "//" in reference[:8] and len(self._resources) < MAX_HOSTS:
            if host := host_of(self._absolute(reference)):
                self._resources[host[:253]] = None

    def _meta(self, attributes: Mapping[str, str]) -> None:
        name = (
            attributes.get("name")
            or attributes.get("property")
            or attributes.get("http-equiv")
            or attributes.get("itemprop")
            or ""
        ).lower()
        if name and len(self._metas) < 200:
            self._metas.setdefault(name, attributes.get("content", ""))

    def _refresh(self, content: str) -> str:
        found = _REFRESHED.search(content[:MAX_URL])
        return self._absolute(found[1]) if found else ""

    def _modified(self) -> str:
        metas = self._metas
        told: list[object] = [
            metas.get(name)
            for name in (
                "article:modified_time",
                "og:updated_time",
                "last-modified",
                "datemodified",
            )
        ]
        told += [it.get("dateModified") for it in self._json_ld]
        told.append(metas.get("article:published_time"))
        told += [it.get("datePublished") for it in self._json_ld]
        told.append(self._time)
        return next((fold(it, 40) for it in told if isinstance(it, str) and it), "")


def _href(source: str) -> tuple[str, bool]:
    """The reference of a link, and whether it says nofollow."""
    if "rel" not in source and "REL" not in source:
        # Most links; half the time of reading all attributes. A quote that is open before the match
        # would make it a part of another value.
        found = _HREF.search(source)
        if found and found[1] is not None:
            before = source[: found.start()]
            if "'" not in before and not before.count('"') % 2:
                return found[1], False
    attributes = attributes_of(source)
    return attributes.get("href", ""), "nofollow" in attributes.get("rel", "").lower()


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4, of a path that begins with a slash."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _between(tokens: Tokens, spaces: Sequence[str], start: int, end: int) -> str:
    """Text from one tag to another, folded."""
    texts = tokens.texts
    if end == start + 1:
        text = texts[end]
    else:
        text = texts[start + 1] + "".join(
            chain.from_iterable(
                zip(spaces[start + 1 : end], texts[start + 2 : end + 1], strict=True)
            )
        )
    return fold(text.replace("\0", ""), MAX_TEXT)
