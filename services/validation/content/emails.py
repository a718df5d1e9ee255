"""E-mail addresses in texts and links, in the disguises people give them. Pure.

Linear: every "@" and every disguise of one is looked at with a bounded window, and at most
MAX_MARKS of them.
"""

import re
from collections.abc import Iterator, Sequence, Set
from functools import cache
from importlib.resources import files
from urllib.parse import unquote

from services.validation.content.email_address import NotAnAddress, normalise_address
from services.validation.content.sighting import (
    ContactKind,
    Found,
    Owner,
    Sighting,
    lowered,
    readable,
    rounded,
)
from services.validation.dns.suffixes import registrable

# "@" and its disguises looked at in one page, each.
MAX_MARKS = 2_000
MAX_ADDRESSES_OF_LINK = 20

_LOCAL_WINDOW, _DOMAIN_WINDOW, _URL_WINDOW = 70, 320, 200
# Backwards, from the "@" on. What atext allows and texts use as delimiters is left out: / = ? | `
_LOCAL = re.compile(r"[\w.!#$%&'*+^{}~-]{1,66}")
_DOMAIN = re.compile(r"[^\W_][\w-]{0,62}(?:\.[^\W_][\w-]{0,62}){1,10}")
_PATH = re.compile(r":[/~0-9]")
_ENCODED = re.compile(r"(?:%[0-9a-fA-F]{2})+")
_GLUED = re.compile(r"[a-z]{2,}(?=[A-Z])")
# One class at the front, or the search is ten times slower. "(a)" is told apart from "-a-" later.
_AT = re.compile(
    r"[\[({<|*_-][ \t]{0,2}(at|ät|a|@|arroba|arobase|chez|kukac|klammeraffe|snabel-a|собака)"
    r"[ \t]{0,2}[\])}>|*_-]"
)
_REFERENCE = re.compile(r"&(?:#0{0,4}64|#x0{0,4}40|commat);")
_DOT = re.compile(
    r"[ \t]{0,2}(?:[\[({<][ \t]{0,2}(?:dot|punkt|point|punto|ponto|d|\.)[ \t]{0,2}[\])}>]"
    r"|&#46;|&#x2e;|&period;|[-_|*](?:dot|punkt)[-_|*])[ \t]{0,2}"
    r"|[ \t](?:dot|punkt)[ \t]",
    re.IGNORECASE,
)

_VERSION = re.compile(r"\d+\.\d+(?:\.|\Z)|\d+x\.|v\d+\.\d")
_MACHINE = re.compile(
    r"[0-9a-f]{16,}\Z|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\Z|(?=(?:\D*\d){8})[^@]{25,}\Z"
)
_FILES = frozenset(
    "png jpg jpeg gif svg webp avif ico bmp tif tiff css js mjs ts map json html htm php asp aspx"
    " xml pdf woff woff2 ttf eot mp3 mp4 webm mov zip gz".split()
)
# RFC 2606 and 6761, and what forms and templates show.
_EXAMPLE_DOMAINS = frozenset(
    "example beispiel exemple ejemplo esempio voorbeeld yourdomain your-domain yourcompany"
    " your-company yoursite yourwebsite mydomain mycompany mysite domainname musterfirma"
    " mustermann ihredomain ihre-domain deinedomain deine-domain domaine dominio".split()
)
_EXAMPLE_NAMES = frozenset(
    "domain.com domain.tld domain.de email.tld mail.tld company.com website.com site.com"
    " email.com test.com acme.com sentry.io wixpress.com".split()
)
_EXAMPLE_LOCALS = frozenset(
    "your yourname your.name your-name youremail your.email your-email yourmail you me name"
    " username user.name vorname.nachname vorname name.surname first.last firstname.lastname"
    " someone somebody example beispiel mustermann max.mustermann erika.mustermann john.doe"
    " jane.doe johndoe janedoe jon.doe deine.email ihre.email xxx xxxx".split()
)
_ROLES = frozenset(
    "info kontakt contact contacto contatti contato office mail email hello hallo hi bonjour"
    " sales vertrieb verkauf service support kundenservice anfrage anfragen enquiries inquiries"
    " team buero post zentrale empfang reception bookings reservierung hola ventas commercial"
    " biuro sekretariat firma admin welcome shop".split()
)
_UNREAD = frozenset(
    "noreply no-reply no_reply donotreply do-not-reply mailer-daemon postmaster hostmaster"
    " abuse bounce bounces unsubscribe".split()
)
_OTHER_DUTIES = frozenset(
    "privacy datenschutz dpo datenschutzbeauftragter dsb gdpr legal copyright dmca security"
    " webmaster jobs karriere career careers bewerbung presse press".split()
)
_FREE = frozenset(
    "gmail.com googlemail.com outlook.com hotmail.com live.com yahoo.com icloud.com aol.com"
    " gmx.de gmx.net gmx.at gmx.ch web.de t-online.de freenet.de proton.me protonmail.com"
    " mail.ru yandex.ru orange.fr wanadoo.fr free.fr laposte.net libero.it hotmail.fr hotmail.de"
    " yahoo.de yahoo.fr wp.pl o2.pl onet.pl seznam.cz bluewin.ch qq.com 163.com 126.com".split()
)
# Words before a bare "at" that make it a preposition.
_NOT_LOCALS = frozenset(
    "us me look is are was be available find here online site now more live located based or and"
    " in on it hosted page website out up not only also just available".split()
)

_BASE = {
    Found.STRUCTURED: 0.9,
    Found.LINK: 0.9,
    Found.PROTECTED: 0.88,
    Found.TEXT: 0.8,
    Found.DISGUISED: 0.75,
    Found.REVERSED: 0.6,
}
_PROTECTED_LINK = "/cdn-cgi/l/email-protection#"
_PROTECTED_TEXT = "[email protected]"

# Without any of them in a text, no address is disguised there. As RE2 writes them.
HINTS = {
    "disguise": (
        r"(?i)[\[({<|*_-][ \t]{0,2}(?:at|ät|a|@|arroba|arobase|chez|kukac|klammeraffe|snabel-a"
        r"|собака)[ \t]{0,2}[\])}>|*_-]|&(?:#0{0,4}64|#x0{0,4}40|commat);"
    ),
    "at": r"(?i) at ",
    # Without it, a bare "at" stands in no address but one of the page's own domain.
    "dot": (
        r"(?i)[\[({<][ \t]{0,2}(?:dot|punkt|point|punto|ponto|d|\.)[ \t]{0,2}[\])}>]"
        r"|&#46;|&#x2e;|&period;|[-_|*](?:dot|punkt)[-_|*]|[ \t](?:dot|punkt)[ \t]"
    ),
}
_ALL_HINTS = frozenset(HINTS)


def in_text(
    text: str, lower: str, owner: Owner, hints: Set[str] = _ALL_HINTS
) -> Iterator[Sighting]:
    """Addresses of a text, plain and disguised. `lower` is the text in lower case, `hints` those of
    HINTS that it has."""
    at = text.find("@")
    for _ in range(MAX_MARKS):
        if at < 0:
            break
        found = _plain(text, at, owner)
        if found:
            yield found
        at = text.find("@", at + 1)
    for start, end in _disguises(lower, owner, hints):
        found = _disguised(text, start, end, owner)
        if found:
            yield found


def in_link(target: str, label: str, owner: Owner) -> Iterator[Sighting]:
    """Addresses of a mailto: link, or of one that Cloudflare protects."""
    if _PROTECTED_LINK in target:
        yield from in_protected(target.rpartition("#")[2], label, owner)
        return
    if target[:7].lower() != "mailto:":
        return
    # Bounded before it is decoded: a link may be a megabyte.
    text = readable(unquote(target[7:4_000].partition("?")[0]))
    for part in re.split("[,;]", text)[:MAX_ADDRESSES_OF_LINK]:
        part = part.strip().strip("<>\"'")
        found = _of(part, Found.LINK, owner, context=label or part)
        if found:
            yield found
        else:
            for each in in_text(part, lowered(part), owner):
                yield each._replace(start=-1, end=-1, context=label or part)


def in_protected(code: str, context: str, owner: Owner) -> Iterator[Sighting]:
    """The address of a data-cfemail value: hexadecimal, the first byte is XORed with the others."""
    try:
        key, *rest = bytes.fromhex(code[:600])
        address = bytes(each ^ key for each in rest).decode()
    except ValueError:
        return
    found = _of(address.partition("?")[0], Found.PROTECTED, owner, context=context or address)
    if found:
        yield found


def in_data(value: str, context: str, owner: Owner) -> Iterator[Sighting]:
    """The address of a schema.org property."""
    text = readable(value[:1_000]).strip()
    if text[:7].lower() == "mailto:":
        text = unquote(text[7:]).partition("?")[0]
    found = _of(text, Found.STRUCTURED, owner, context=context)
    if found:
        yield found
    else:
        for each in in_text(text, lowered(text), owner):
            yield each._replace(start=-1, end=-1, context=context)


def reveal(text: str, protected: Sequence[str]) -> str:
    """The text with what Cloudflare hides, where text and codes agree in number."""
    if not protected or text.count(_PROTECTED_TEXT) != len(protected):
        return text
    parts = text.split(_PROTECTED_TEXT)
    shown = [parts[0]]
    for code, part in zip(protected, parts[1:], strict=True):
        found = next(in_protected(code, "", Owner("", "", "")), None)
        shown += [found.value if found else _PROTECTED_TEXT, part]
    return "".join(shown)


def _plain(text: str, at: int, owner: Owner) -> Sighting | None:
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if not before or not after:
        return None
    if before == " " and after == " ":
        return _spaced(text, at, owner)
    if not (before.isalnum() or before in "_+-.") or not after.isalnum():
        return None
    local = _local_before(text, at)
    domain = _domain_after(text, at + 1)
    start, end = at - len(local), at + 1 + len(domain)
    if local and domain and not _in_url(text, start, end, local):
        found = _of(f"{local}@{domain}", Found.TEXT, owner, start=start, end=end)
        if found:
            return found
    return _reversed(text, at, owner)


def _spaced(text: str, at: int, owner: Owner) -> Sighting | None:
    """ "info @ example.com": only where it is no "concert @ venue.com"."""
    local = _local_before(text, at - 1)
    domain = _domain_after(text, at + 2)
    if local.lower() not in _ROLES or not domain:
        return None
    return _of(
        f"{local}@{domain}",
        Found.DISGUISED,
        owner,
        start=at - 1 - len(local),
        end=at + 2 + len(domain),
    )


def _reversed(text: str, at: int, owner: Owner) -> Sighting | None:
    """ "moc.elpmaxe@ofni", only where what it spells is likely: most is nonsense backwards."""
    start = at - len(_local_before(text, at))
    end = at + 1
    window = text[end : end + _LOCAL_WINDOW]
    match = _LOCAL.match(window)
    end += match.end() if match else 0
    local, _, domain = text[start:end][::-1].partition("@")
    local, domain = local.strip(".-").lower(), domain.strip(".-").lower()
    if not (local in _ROLES or domain in _FREE or (owner.domain and domain == owner.domain)):
        return None
    return _of(f"{local}@{domain}", Found.REVERSED, owner, start=start, end=end)


def _disguises(lower: str, owner: Owner, hints: Set[str]) -> Iterator[tuple[int, int]]:
    if "disguise" in hints:
        for count, match in enumerate(_AT.finditer(lower)):
            if count >= MAX_MARKS:
                break
            if match[1] == "at" or match[0][0] in "[({<":
                yield match.span()
        for start, _ in _places(lower, "&"):
            reference = _REFERENCE.match(lower, start)
            if reference:
                yield reference.span()
    if "at" in hints:
        # A preposition nearly always; "_disguised" tells by what follows.
        bare = " at "
        for start, _ in _places(lower, bare if "dot" in hints else bare + owner.domain):
            yield start, start + len(bare)


def _places(lower: str, word: str) -> Iterator[tuple[int, int]]:
    start = lower.find(word)
    for _ in range(MAX_MARKS):
        if start < 0:
            return
        yield start, start + len(word)
        start = lower.find(word, start + len(word))


def _disguised(text: str, start: int, end: int, owner: Owner) -> Sighting | None:
    mark = text[start:end].lower()
    bare = mark == " at "
    after = text[end : end + _DOMAIN_WINDOW].removeprefix(" ").removeprefix(" ")
    # Most at signs that are none end here.
    if not after or not after[0].isalnum():
        return None
    if bare and "dot" not in after[:80].lower() and not _DOT.search(after[:80]):
        return _role_at_home(text, start, end, owner)
    spelled = _DOT.sub(".", after)
    domain = _domain_after(spelled, 0)
    if not domain or (bare and spelled.startswith(after[: len(domain)])):
        return None
    before = text[max(start - _LOCAL_WINDOW, 0) : start]
    before = _DOT.sub(".", before.rstrip(" \t"))
    local = _local_before(before, len(before))
    if not local or ("(a)" in mark and text[start - 1 : start].isspace()):
        return None
    if bare and local.lower() in _NOT_LOCALS:
        return None
    # Where the domain ends in the text as it is: at least where its last label does.
    tail = domain.rpartition(".")[2]
    place = text.find(tail, end, end + _DOMAIN_WINDOW)
    last = place + len(tail) if place >= 0 else end
    return _of(
        f"{local}@{domain}",
        Found.DISGUISED,
        owner,
        start=max(start - len(local), 0),
        end=last,
        less=0.2 if bare else 0.0,
    )


def _role_at_home(text: str, start: int, end: int, owner: Owner) -> Sighting | None:
    """ "info at example.com" on a page of example.com."""
    if not owner.domain:
        return None
    domain = _domain_after(text, end)
    local = _local_before(text, start)
    if domain.lower() != owner.domain or local.lower() not in _ROLES:
        return None
    first, last = start - len(local), end + len(domain)
    return _of(f"{local}@{domain}", Found.DISGUISED, owner, start=first, end=last, less=0.3)


def _local_before(text: str, at: int) -> str:
    match = _LOCAL.match(text[max(at - _LOCAL_WINDOW, 0) : at][::-1])
    if not match or match.end() > 64:
        return ""
    local = match.group()[::-1]
    encoded = _ENCODED.match(local)
    if encoded:
        local = local[encoded.end() :]
    # "\\u003einfo@": what stands before is an escaped ">".
    if local[:4] == "u003" and text[at - len(local) - 1 : at - len(local)] == "\\":
        local = local[5:]
    return local.lstrip("!#$%&'*+^{}~.-")


def _domain_after(text: str, at: int) -> str:
    """The domain that begins there, without what was written on to its end."""
    match = _DOMAIN.match(text, at, at + 255)
    if not match:
        return ""
    domain = match.group().rstrip("-_")
    parent, _, last = domain.rpartition(".")
    before = parent.rpartition(".")[2]
    if last[0].isupper() and before != parent and before.islower():
        # "example.com.Call us".
        return parent
    if last.lower() in _top_level_domains() or not last.isascii():
        return domain
    glued = _GLUED.match(last)
    if glued and glued.group() in _top_level_domains():
        # "example.deTel": the next block's text.
        return f"{parent}.{glued.group()}"
    return ""


def _in_url(text: str, start: int, end: int, local: str) -> bool:
    """Whether it is credentials in a URL, a path, or user@host:path of scp and git."""
    follows = text[end : end + 2]
    if local == "git" or _PATH.match(follows):
        return True
    scheme = text.rfind("://", max(start - _URL_WINDOW, 0), start)
    return scheme >= 0 and not _has_space(text, scheme, start)


def _has_space(text: str, start: int, end: int) -> bool:
    return len(text[start:end].split(None, 1)) > 1 or text[end - 1 : end].isspace()


def _of(
    text: str,
    found: Found,
    owner: Owner,
    *,
    start: int = -1,
    end: int = -1,
    context: str = "",
    less: float = 0.0,
) -> Sighting | None:
    try:
        address = normalise_address(text)
    except NotAnAddress:
        return None
    local, _, domain = address.rpartition("@")
    if not _is_plausible(local, domain):
        return None
    confidence = rounded(_BASE[found] - less + _standing(local, domain, owner))
    return Sighting(ContactKind.EMAIL, address, found, confidence, start, end, context)


def _is_plausible(local: str, domain: str) -> bool:
    """Whether it is somebody's address, not a file, a version, a key or an example."""
    tld = domain.rpartition(".")[2]
    if tld not in _top_level_domains():
        return False
    if (tld in _FILES and _VERSION.search(domain)) or _VERSION.match(domain):
        return False
    if local in _EXAMPLE_LOCALS or _MACHINE.match(local):
        return False
    own = registrable(domain)
    return bool(own) and own not in _EXAMPLE_NAMES and own.partition(".")[0] not in _EXAMPLE_DOMAINS


def _standing(local: str, domain: str, owner: Owner) -> float:
    """How much likelier, or less, it makes the address that of the site's owner."""
    own = registrable(domain)
    if owner.domain and own == owner.domain:
        points = 0.07
    elif own in _FREE:
        points = -0.05
    else:
        points = -0.2
    if local in _ROLES:
        points += 0.02
    elif local in _UNREAD:
        points -= 0.6
    elif local in _OTHER_DUTIES:
        points -= 0.15
    return points


@cache
def _top_level_domains() -> frozenset[str]:
    """Top-level domains of the public suffix list, in A-labels."""
    path = files("publicsuffixlist") / "public_suffix_list.dat"
    part = path.read_text(encoding="utf-8").partition("// ===END ICANN DOMAINS===")[0]
    labels = {
        line.split(maxsplit=1)[0].rpartition(".")[2]
        for line in part.splitlines()
        if line.strip() and not line.startswith("//")
    }
    return frozenset(
        label if label.isascii() else label.encode("idna").decode() for label in labels
    )
