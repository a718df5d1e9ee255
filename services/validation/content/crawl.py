"""Which further pages of a host are worth a request. Pure."""

# ruff: noqa: RUF001

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import unquote

from services.validation.content.markup import Link, host_of


class Subject(IntEnum):
    """What a page seems to be about; the smaller, the sooner it is fetched."""

    CONTACT = 1
    IMPRINT = 2
    ABOUT = 3
    TEAM = 4
    LOCATIONS = 5
    PRIVACY = 6
    OTHER = 9


@dataclass(frozen=True, slots=True)
class Budget:
    # Pages besides the front page, 0 to 20.
    max_pages: int = 3
    # Decoded bytes of these pages together.
    max_bytes: int = 150_000
    # Also pages that are about none of the subjects, when there is room.
    include_other: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """When a front page alone is too little: all three must hold."""

    unique_keywords_below: int = 2
    bytes_below: int = 60_000
    parked_confidence_below: float = 0.5


@dataclass(frozen=True, slots=True)
class NextPage:
    url: str
    subject: Subject


# Growth of the different keywords from one page to the next under which it is not worth going on.
MIN_GROWTH = 1.15

# Whole words of a path or link text, lower case, without accents where people leave them out.
_WORDS: dict[Subject, str] = {
    Subject.CONTACT: (
        "contact contacts contactus contacto contactos contato contatos contatti contatto "
        "contactez kontakt kontakte kontakty kontaktu kontaktai kontakta yhteystiedot iletisim "
        "iletişim kapcsolat contactar kontaktformular контакт контакты контакти επικοινωνια "
        "επικοινωνία 联系我们 联系 聯絡我們 お問い合わせ 問い合わせ 문의 문의하기 연락처 "
        "liên-hệ lien-he hubungi צור-קשר"
    ),
    Subject.IMPRINT: (
        "imprint impressum legal-notice legalnotice legal mentions-legales mentions-légales "
        "mentionslegales aviso-legal avisolegal note-legali notelegali colofon "
        "anbieterkennzeichnung tiráž 特定商取引法 会社概要 informacje-prawne "
        "informacion-legal"
    ),
    Subject.ABOUT: (
        "about aboutus about-us company who-we-are whoweare our-story ueber-uns über-uns "
        "ueberuns uber-uns unternehmen firma wir a-propos à-propos apropos qui-sommes-nous "
        "entreprise societe société nosotros sobre-nosotros quienes-somos quiénes-somos empresa "
        "chi-siamo chisiamo azienda sobre sobre-nos sobre-nós quem-somos over-ons overons o-nas "
        "onas o-firmie om-oss om-os omoss tietoa-meista rolunk rólunk despre-noi hakkımızda "
        "hakkimizda o-nama о-нас о-компании компания 关于我们 關於我們 会社案内 회사소개"
    ),
    Subject.TEAM: (
        "team our-team the-team people staff leadership management ansprechpartner mitarbeiter "
        "equipe équipe equipo nuestro-equipo squadra zespol zespół ons-team команда 团队 "
        "スタッフ"
    ),
    Subject.LOCATIONS: (
        "location locations offices office branches stores standorte standort filialen agences "
        "sedes sucursales sedi vestigingen oddzialy филиалы"
    ),
    Subject.PRIVACY: (
        "privacy privacy-policy datenschutz datenschutzerklaerung datenschutzerklärung "
        "confidentialite privacidad informativa-privacy privacybeleid polityka-prywatnosci"
    ),
}
_SUBJECTS = {word: subject for subject, words in _WORDS.items() for word in words.split()}
_LONGEST = max(it.count("-") + 1 for it in _SUBJECTS)
# Nothing to read, or something that changes what is asked for.
_NOT_PAGES = re.compile(
    r"\.(?:pdf|jpe?g|png|gif|webp|svg|ico|zip|gz|rar|7z|docx?|xlsx?|pptx?|mp[34]|avi|mov|css|js|xml|"
    r"json|rss|vcf|ics|exe|dmg|apk)$|/(?:wp-admin|wp-login|logout|login|signin|cart|checkout|"
    r"warenkorb|feed|cgi-bin)\b|[?&](?:add-to-cart|action|logout|session|sid|phpsessid)=",
    re.IGNORECASE,
)
_SEPARATORS = re.compile(r"[\s/_.,&|+:;!?()\"'-]+")
_MAX_WORDS = 4
_MAX_LINKS = 1_000


def is_needed(
    *, unique_keywords: int, byte_size: int, parked_confidence: float, need: Need = Need()
) -> bool:
    """Whether a front page says too little by itself to be judged."""
    return (
        unique_keywords < need.unique_keywords_below
        and byte_size < need.bytes_below
        and parked_confidence < need.parked_confidence_below
    )


def is_worth_going_on(unique_keywords: Sequence[int]) -> bool:
    """Whether another page is likely to add something.

    `unique_keywords` are the different keywords known after the front page and each further page.
    Two further pages at least are read; then growth under 1.15 ends it.
    """
    if len(unique_keywords) < 3:
        return True
    before, after = unique_keywords[-2:]
    return after > 0 and after >= MIN_GROWTH * max(1, before)


def next_pages(
    front_url: str, links: Iterable[Link], *, budget: Budget = Budget(), spent_bytes: int = 0
) -> tuple[NextPage, ...]:
    """Pages of the front page's host to fetch, the most telling first, each once.

    `spent_bytes` is what further pages took so far. Ordered by subject, then by depth of the path,
    then as on the page. Links that say nofollow are left out: they mostly lead to logins and carts.
    The caller checks robots.txt.
    """
    room = max(0, min(20, budget.max_pages))
    if not room or spent_bytes >= budget.max_bytes:
        return ()
    host = host_of(front_url)
    seen = {_same(front_url)}
    found: list[tuple[int, int, int, NextPage]] = []
    for at, link in enumerate(links):
        if at == _MAX_LINKS:
            break
        if not link.same_host or link.nofollow or _NOT_PAGES.search(link.url):
            continue
        key = _same(link.url)
        if key in seen:
            continue
        seen.add(key)
        subject = subject_of(link)
        if subject is Subject.OTHER and not budget.include_other:
            continue
        depth = link.url.count("/") + link.url.count("?")
        # The exact host before its "www." twin: no further name to look up.
        twin = host_of(link.url) != host
        found.append((subject, twin + depth, at, NextPage(link.url, subject)))
    found.sort(key=lambda it: it[:3])
    chosen: list[NextPage] = []
    later: list[NextPage] = []
    subjects: set[Subject] = set()
    # One page of each subject first: five branches say less than a branch and an imprint.
    for *_, page in found:
        (later if page.subject in subjects else chosen).append(page)
        subjects.add(page.subject)
    return tuple((chosen + later)[:room])


def subject_of(link: Link) -> Subject:
    """What a link's path or text says its page is about."""
    path = unquote(link.url.partition("//")[2].partition("/")[2].partition("?")[0]).lower()
    best = Subject.OTHER
    for text in [*path[:300].split("/"), link.text[:100].lower()]:
        words = [it for it in _SEPARATORS.split(text.rpartition(".htm")[0] or text) if it]
        # A sentence or the name of an article mentions many things.
        if len(words) > _MAX_WORDS:
            continue
        for start in range(len(words)):
            for length in range(1, min(_LONGEST, len(words) - start) + 1):
                subject = _SUBJECTS.get("-".join(words[start : start + length]), Subject.OTHER)
                best = min(best, subject)
    return best


def _same(url: str) -> str:
    """One key for addresses that are nearly always one page."""
    rest = url.partition("//")[2].lower().removeprefix("www.")
    address, _, query = rest.partition("?")
    for index in ("index.html", "index.htm", "index.php"):
        address = address.removesuffix(index)
    return f"{address.rstrip('/')}?{query}" if query else address.rstrip("/")
