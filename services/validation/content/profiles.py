"""Profiles in social networks, by one URL each. Pure.

Links that share a page, or lead to a post, a search or the network itself, are no profiles.
"""

import re
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, unquote, urlsplit

from services.validation.content.sighting import ContactKind, Found, Owner, Sighting, rounded

MAX_URL = 1_000

_HANDLE = re.compile(r"[\w.-]{1,100}\Z")
_HOST = re.compile(
    r"(?:https?:)?//(?:[\w.-]{1,63}\.)?([\w-]{1,63}\.[a-z]{2,6})[/?:]", re.IGNORECASE
)


def _at_root(base: str, reserved: str, *, mark: str = "") -> Callable[[list[str], str], str]:
    """Networks whose profiles stand right below the root, with `mark` before the handle."""
    taken = frozenset(reserved.split())

    def canonical(parts: list[str], _query: str) -> str:
        handle = parts[0].removeprefix("@")
        if mark and not parts[0].startswith(mark):
            return ""
        if len(parts) > 1 and parts[1].lower() not in _TABS:
            return ""
        if not _HANDLE.match(handle) or handle.lower() in taken:
            return ""
        return f"{base}{mark}{handle.lower()}"

    return canonical


def _below(base: str, kinds: str, *, keep_case: str = "") -> Callable[[list[str], str], str]:
    """Networks whose profiles stand below a word for their kind."""
    words = frozenset(kinds.split())
    exact = frozenset(keep_case.split())

    def canonical(parts: list[str], _query: str) -> str:
        if len(parts) < 2 or parts[0].lower() not in words:
            return ""
        kind, handle = parts[0].lower(), unquote(parts[1])
        if not handle or not all(each.isalnum() or each in "-_.&'+" for each in handle):
            return ""
        return f"{base}{kind}/{handle if kind in exact else handle.lower()}"

    return canonical


def _facebook(parts: list[str], query: str) -> str:
    first = parts[0].lower()
    if first == "profile.php":
        number = parse_qs(query[:500]).get("id", [""])[0]
        return f"https://www.facebook.com/profile.php?id={number}" if number.isdigit() else ""
    if first in ("pages", "people", "p", "pg"):
        # /pages/NAME/ID, /people/NAME/ID, /p/NAME-ID, /pg/HANDLE.
        last = parts[min(2, len(parts) - 1)] if first in ("pages", "people") else parts[-1]
        if first == "pg" and len(parts) > 1:
            return _facebook_handle(parts[1:2], "")
        number = last.rpartition("-")[2]
        ok = number.isascii() and number.isdigit() and len(number) > 5
        return f"https://www.facebook.com/{number}" if ok else ""
    return _facebook_handle(parts, query)


def _youtube(parts: list[str], query: str) -> str:
    if parts[0].startswith("@"):
        return _youtube_handle(parts, query)
    return _youtube_kinds(parts, query)


# What may follow a profile's handle without making it something else.
_TABS = frozenset(
    "about home info reviews photos videos posts featured services shop community playlists"
    " mentions".split()
)
_facebook_handle = _at_root(
    "https://www.facebook.com/",
    "sharer sharer.php share share.php dialog plugins tr login login.php watch groups events"
    " hashtag help policies privacy policy.php legal terms.php home.php photo photo.php"
    " permalink.php story.php marketplace gaming business ads settings about 2008 fbml"
    " l.php media video reel reels stories search v2.0",
)
_youtube_handle = _at_root("https://www.youtube.com/", "", mark="@")
_youtube_kinds = _below("https://www.youtube.com/", "channel c user", keep_case="channel c user")
_x = _at_root(
    "https://x.com/",
    "intent share home search hashtag i login signup settings explore tos privacy about"
    " compose messages notifications statuses oauth widgets",
)
_linkedin = _below("https://www.linkedin.com/", "company in school showcase pub")
_xing = _below("https://www.xing.com/", "pages companies profile company")

_NETWORKS: dict[str, Callable[[list[str], str], str]] = {
    "linkedin.com": _linkedin,
    "twitter.com": _x,
    "x.com": _x,
    "facebook.com": _facebook,
    "fb.com": _facebook,
    "instagram.com": _at_root(
        "https://www.instagram.com/",
        "p reel reels explore accounts stories tv direct about developer legal share",
    ),
    "youtube.com": _youtube,
    "github.com": _at_root(
        "https://github.com/",
        "about features pricing login join sponsors topics marketplace explore security orgs"
        " apps settings enterprise customer-stories collections trending search contact site"
        " readme team new issues pulls",
    ),
    "xing.com": _xing,
    "tiktok.com": _at_root("https://www.tiktok.com/", "", mark="@"),
    "pinterest.com": _at_root(
        "https://www.pinterest.com/", "pin search ideas settings business login categories about"
    ),
    "threads.net": _at_root("https://www.threads.net/", "", mark="@"),
    "threads.com": _at_root("https://www.threads.net/", "", mark="@"),
    "bsky.app": _below("https://bsky.app/", "profile"),
    "t.me": _at_root("https://t.me/", "share joinchat iv proxy socks s addstickers"),
    "vk.com": _at_root("https://vk.com/", "share.php share widget_share.php login feed search"),
}  # fmt: skip
# Makers of what sites are made with: their own profiles stand in the footers of others.
_MAKERS = frozenset(
    "wordpress wordpressdotcom wix squarespace shopify jimdo weebly webflow godaddy elementor"
    " elegantthemes themeforest envato templatemonster joomla drupal typo3 prestashop"
    " magento bigcommerce ionos strato hostinger facebook twitter instagram linkedin youtube"
    " google meta fontawesome getbootstrap twbs".split()
)


def canonical_profile(url: str) -> str:
    """The one URL of the profile that a URL leads to; empty where it leads to none."""
    url = url[:MAX_URL].strip()
    host = _HOST.match(url if "?" in url or url.count("/") > 2 else f"{url}/")
    network = _NETWORKS.get(host[1].lower()) if host else None
    if network is None:
        return ""
    try:
        pieces = urlsplit(url)
    except ValueError:
        return ""
    parts = [part for part in pieces.path.split("/") if part]
    if parts and parts[0] == "#!":
        parts = parts[1:]
    if not parts or any(part.startswith(("{", "%7B", "$")) for part in parts[:2]):
        return ""
    return network(parts, pieces.query)


def in_link(target: str, label: str, owner: Owner) -> Iterator[Sighting]:
    """The profile that a link of the page leads to."""
    yield from _sighting(target, Found.LINK, label or target, owner, 0.6)


def in_data(target: str, context: str, owner: Owner) -> Iterator[Sighting]:
    """The profile that a sameAs of structured data names."""
    yield from _sighting(target, Found.STRUCTURED, context, owner, 0.78)


def _sighting(
    target: str, found: Found, context: str, owner: Owner, confidence: float
) -> Iterator[Sighting]:
    profile = canonical_profile(target)
    if not profile:
        return
    handle = re.sub(r"[^\w]|_", "", profile.rpartition("/")[2]).lower()
    if handle in _MAKERS and handle != owner.label:
        return
    if min(len(owner.label), len(handle)) > 2 and (owner.label in handle or handle in owner.label):
        confidence += 0.2
    if "linkedin.com/in/" in profile or "xing.com/profile/" in profile:
        # Of a person, perhaps of the author of an article.
        confidence -= 0.15
    yield Sighting(ContactKind.SOCIAL, profile, found, rounded(confidence), context=context)
