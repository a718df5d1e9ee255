"""Phone numbers in texts and links, in E.164 where their country is known. Pure.

A number is believed for what stands around it: a tel: link, a "+", a word such as "Tel." before it,
or a shape that nothing else has. What is neither, is a date, a price, an IP address or follows "VAT
no." is not. The numbering plans are those of Google's libphonenumber.
"""

import re
from collections.abc import Iterator, Sequence, Set
from urllib.parse import unquote

import phonenumbers
from phonenumbers import PhoneNumber, PhoneNumberFormat

from services.validation.content.sighting import ContactKind, Found, Sighting, readable, rounded

# Groups of digits looked at in one page, and numbers parsed, at some 50 us each.
MAX_GROUPS = 3_000
MAX_PARSED = 200
# E.164: digits at most, with the country's; fewer than 7 are extensions and service codes.
MAX_DIGITS, MIN_DIGITS = 15, 7

_GROUP = re.compile(r"[0-9][0-9 ()./\u2012-\u2015-]{5,24}[0-9]")
# A text that does not match it, as RE2 writes it, has no number: digits enough in one group.
HINTS = {"number": rf"[0-9](?:[ ()./\x{{2012}}-\x{{2015}}-]*[0-9]){{{MIN_DIGITS - 1}}}"}
_NOT_DIGIT = re.compile(r"[^0-9]+")
_DATE = re.compile(
    r"(?:[0-3]?\d[./-] ?[01]?\d[./-] ?(?:19|20)\d\d|(?:19|20)\d\d[./-][01]?\d[./-][0-3]?\d)"
    r"(?!\d)|(?:19|20)\d\d ?[-/\u2012-\u2015] ?(?:19|20)?\d\d\Z"
)
_THOUSANDS = re.compile(r"\d{1,3}(?:[. ]\d{3})+\Z")
_NETWORK = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}\Z")
_POST_CODE = re.compile(r"\d{5}-\d{3,4}\Z")
_DECIMAL = re.compile(r"\d+\.\d+\Z")
_MEASURED = re.compile(
    r" ?(?:€|\$|£|¥|%|°|,\d|:\d|(?:eur|usd|gbp|chf|kg|km|cm|mm|px|kb|mb|gb|kwh|ml|mg|pcs|st[ck])\b)"
)
_NORTH_AMERICAN = re.compile(r"(?:1[ .-])?\(?[2-9]\d\d\)?[ .-] ?[2-9]\d\d[ .-]\d{4}\Z")
# "01 42 68 53 00": how phones are written there.
_PAIRS = re.compile(r"\d\d(?:[ .]\d\d){3,}\Z")
_IN_PAIRS = frozenset({"FR", "BE", "CH", "LU", "DK", "NO", "MA", "DZ", "TN"})
_FICTION = re.compile(r"\+1\d{3}55501\d\d\Z")
# The word that is nearest to the number counts. At the beginning of a word: not "syscall".
_LABEL = re.compile(
    r"(?P<fax>(?:tele)?fax)"
    r"|(?<!\w)(?P<phone>tel\b|t[ée]l[ée]?ph|telefon|fon\b|phone|mobil|handy|cell(?:phone|ular)?\b"
    r"|call(?: us| me| now| today| at| on)\b|call ?:|whatsapp|hotline|móvil|rufnummer|ruf:|anruf"
    r"|durchwahl|тел|моб|[tpm][.:])|(?P<sign>電話|电话|☎|☏|✆|📞|📱)"
    r"|(?<!\w)(?P<other>ust|umsatz|steuer|vat\b|tax|iban|bic|blz|konto|account|hr[ab]\b|regist"
    r"|isbn|issn|ean\b|gtin|sku|artikel|art\.|item|model|order|bestell|auftrag|kunden|invoice"
    r"|rechnung|siret|siren|rcs|nif\b|cif\b|kvk|krs|nip\b|regon|inn\b|ogrn|company n|version"
    r"|lat\b|lng\b|lon\b|uid|ref\b|license|licence|zip\b|plz|postfach|box|doi|id\b|gmt|utc"
    r"|bug|issue|copyright)|(?P<mark>©|\$|€|£|#|==|0x)"
)
_KINDS = {"fax": "fax", "phone": "phone", "sign": "phone", "other": "other", "mark": "other"}
_LABEL_WINDOW = 28
_SEPARATOR = re.compile(r" {2,}| ?/ ?| [-\u2012-\u2015] ")
_TEL = re.compile(r"(?:tel|callto|sms):(?://)?", re.IGNORECASE)
_WHATSAPP = re.compile(
    r"https?://(?:wa\.me/|(?:api|web)\.whatsapp\.com/send/?\?(?:[^#]{0,200}&)?phone=)"
    r"(?:\+|%2b)?([0-9]{7,15})",
    re.IGNORECASE,
)

# Top-level domains that say nothing of the country: open to all, and used so.
_OPEN_TLDS = frozenset(
    "ac ag ai am bz cc cd co fm gg gl im io la ly me ms mu nu pw sc sh st to tv vc vg ws".split()
)
_SPOKEN_IN = {
    "bg": "BG", "cs": "CZ", "da": "DK", "de": "DE", "el": "GR", "es": "ES", "et": "EE",
    "fi": "FI", "fr": "FR", "he": "IL", "hr": "HR", "hu": "HU", "id": "ID", "it": "IT",
    "ja": "JP", "ko": "KR", "lt": "LT", "lv": "LV", "nb": "NO", "nl": "NL", "nn": "NO",
    "no": "NO", "pl": "PL", "pt": "PT", "ro": "RO", "ru": "RU", "sk": "SK", "sl": "SI",
    "sr": "RS", "sv": "SE", "th": "TH", "tr": "TR", "uk": "UA", "vi": "VN", "zh": "CN",
}  # fmt: skip


def regions_of(*, countries: Sequence[str], tld: str, language: str) -> tuple[str, ...]:
    """Where numbers without a country are tried, the likeliest first: the countries somebody
    named, that of the top-level domain, that of the language tag, where the language is spoken.

    ISO 3166 codes of two letters; what is no such code is left out.
    """
    known = [country.upper() for country in countries]
    if tld not in _OPEN_TLDS:
        known.append("GB" if tld == "uk" else tld.upper())
    subtags = re.split("[-_]", language[:35])
    known += [each.upper() for each in subtags[1:] if len(each) == 2]
    known.append(_SPOKEN_IN.get(subtags[0].lower(), ""))
    return tuple(dict.fromkeys(each for each in known if each in phonenumbers.SUPPORTED_REGIONS))


def in_link(target: str, label: str, regions: Sequence[str]) -> Iterator[Sighting]:
    """The number of a tel:, callto:, sms: or WhatsApp link."""
    scheme = _TEL.match(target)
    if scheme:
        number = readable(unquote(target[scheme.end() : scheme.end() + 100]))
        number = number.partition(";")[0].partition("?")[0].strip()
        context = label or number
    else:
        whatsapp = _WHATSAPP.match(target)
        if not whatsapp:
            return
        number, context = f"+{whatsapp[1]}", label or target
    found = _given(number, regions, Found.LINK, context)
    if found:
        yield found


def in_data(
    value: str, context: str, regions: Sequence[str], *, is_fax: bool = False
) -> Iterator[Sighting]:
    """The number of a schema.org property."""
    found = _given(readable(value[:100]).strip(), regions, Found.STRUCTURED, context)
    if found:
        yield found._replace(confidence=_FAX) if is_fax else found


def in_text(text: str, lower: str, regions: Sequence[str], hints: Set[str]) -> Iterator[Sighting]:
    """Numbers of a text; `lower` is the text in lower case, `hints` those of HINTS that it has."""
    if "number" not in hints:
        return
    parsed = 0
    for count, match in enumerate(_GROUP.finditer(text)):
        if count >= MAX_GROUPS or parsed >= MAX_PARSED:
            return
        start, end = match.span()
        plus = _has_plus(text, start)
        label = _label(lower, start, plus)
        group = match.group()
        if label == "other" or not _is_candidate(text, lower, start, end, group, plus, label):
            continue
        parsed += 1
        found = _written(group, plus, label, regions)
        if found:
            value, length, confidence = found
            first = text.rfind("+", max(start - 3, 0), start) if plus else start
            yield Sighting(
                ContactKind.PHONE, value, Found.TEXT, rounded(confidence), first, start + length
            )


_FAX = 0.12


def _given(text: str, regions: Sequence[str], found: Found, context: str) -> Sighting | None:
    """A number that somebody marked as one."""
    if not MIN_DIGITS <= len(_NOT_DIGIT.sub("", text)) <= MAX_DIGITS + 2 and not re.search(
        "[a-zA-Z]{3}", text
    ):
        return None
    number, rank = _parse(text, regions)
    if number is not None:
        value = phonenumbers.format_number(number, PhoneNumberFormat.E164)
        confidence = 0.57 if rank < 0 else 0.92 if rank == 0 else 0.85
    else:
        value = _NOT_DIGIT.sub("", text)
        confidence = 0.4
        if text.lstrip(" (").startswith("+") or not MIN_DIGITS <= len(value) <= MAX_DIGITS:
            return None
    if _is_filler(value):
        return None
    return Sighting(ContactKind.PHONE, value, found, rounded(confidence), context=context)


def _has_plus(text: str, start: int) -> bool:
    return "+" in text[max(start - 2, 0) : start] and not text[start - 1 : start].isspace()


def _label(lower: str, start: int, plus: bool) -> str:
    """ "phone", "fax", "other" or nothing: the kind of the last word before the number."""
    window = lower[max(start - _LABEL_WINDOW, 0) : start]
    kind = ""
    for match in _LABEL.finditer(window.rpartition("\n")[2] or window):
        kind = _KINDS[match.lastgroup or ""]
    # A "+" is never part of a registration number.
    return "" if plus and kind == "other" else kind


def _is_candidate(
    text: str, lower: str, start: int, end: int, group: str, plus: bool, label: str
) -> bool:
    """Whether it can be a number at all, before it is parsed."""
    before, after = text[start - 1 : start], text[end : end + 1]
    if before.isalnum() and (before.isascii() or not label):
        return False
    if before in tuple("=_#@/\\%$€£¥&") or (after.isalpha() and after.isascii()):
        return False
    if before in ("-", ".", ",") and (
        text[start - 2 : start - 1].isdigit() or text[start - 2 : start - 1] == before
    ):
        return False
    if group.count(")") > group.count("(") + (before == "("):
        return False
    if _MEASURED.match(lower, end) or after in tuple("@=_"):
        return False
    digits = sum(map(group.count, "0123456789"))
    if digits < MIN_DIGITS or _DATE.match(group):
        return False
    if plus:
        return True
    if _DECIMAL.match(group):
        return False
    if label:
        return True
    if any(each.match(group) for each in (_THOUSANDS, _NETWORK, _POST_CODE)):
        return False
    return group[0] == "0" or _NORTH_AMERICAN.match(text, _opened(text, start), end) is not None


def _opened(text: str, start: int) -> int:
    return start - 1 if text[start - 1 : start] == "(" else start


def _written(
    group: str, plus: bool, label: str, regions: Sequence[str]
) -> tuple[str, int, float] | None:
    """Value, characters of the group that are the number, and confidence."""
    shape = not label and not plus
    if shape and group[0] == "0":
        # Digits alone, and a dump of bytes, are somebody's phone where nothing says so but rarely.
        if not regions or group.isdigit() or not group[1].isdigit():
            return None
        if _PAIRS.match(group) and regions[0] not in _IN_PAIRS:
            return None
    american = _NORTH_AMERICAN.match(group.lstrip("(")) is not None
    if american and not plus and not regions:
        regions = ("US",)
    elif american and shape:
        # Elsewhere it has another meaning, or none.
        regions = [each for each in regions if phonenumbers.country_code_for_region(each) == 1]
    for length in _lengths(group):
        text = f"+{group[:length]}" if plus else group[:length]
        number, rank = _parse(text, regions)
        if number is None or rank < 0:
            continue
        value = phonenumbers.format_number(number, PhoneNumberFormat.E164)
        if _is_filler(value):
            return None
        if label == "fax":
            return value, length, _FAX
        confidence = 0.85 if label and plus else 0.75 if label or plus else 0.5
        return value, length, confidence if plus or rank == 0 else confidence - 0.05
    digits = _NOT_DIGIT.sub("", group)
    if label == "phone" and not plus and not regions and len(digits) <= MAX_DIGITS:
        return None if _is_filler(digits) else (digits, len(group), 0.3)
    return None


def _lengths(group: str) -> Iterator[int]:
    """All of it, then less: two numbers may stand in one group."""
    yield len(group)
    for count, match in enumerate(_SEPARATOR.finditer(group)):
        if match.start() >= MIN_DIGITS:
            yield match.start()
        if count == 3:
            return


def _parse(text: str, regions: Sequence[str]) -> tuple[PhoneNumber | None, int]:
    """The number in the first region that it is valid in, and how many come before that; else, with
    -1, in the first one whose numbers have its length."""
    possible = None
    international = text.lstrip(" (").startswith("+")
    if text.startswith("00") and not international:
        # The international prefix of most of the world.
        text, international = f"+{text[2:]}", True
    for index, region in enumerate([None] if international else regions[:4]):
        try:
            number = phonenumbers.parse(text, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            return number, index
        if possible is None and phonenumbers.is_possible_number(number):
            possible = number
    return possible, -1


def _is_filler(value: str) -> bool:
    """Numbers that stand for no one: 0000000, 1234567, 555-0100."""
    digits = value.lstrip("+")
    return (
        len(set(digits[-7:])) == 1
        or "1234567890" in digits
        or "0123456" in digits[:8]
        or digits.startswith("1234567")
        or _FICTION.match(value) is not None
    )
