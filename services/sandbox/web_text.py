"""What pages of the sandbox are written with: languages, keywords, pages that many names share.

Pure data. No keyword stands in any other text here, nor in what is made of syllables, and none
has another length in capitals.
"""

# Letters of other scripts are meant.
# ruff: noqa: RUF001

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Declared(StrEnum):
    """Where a page says which character set it has."""

    HEADER = "header"
    META = "meta"
    MARK = "byte order mark"
    NOWHERE = "nowhere"


class Charset(NamedTuple):
    """How the text of a page becomes bytes."""

    # Of Python.
    codec: str
    # As the page says it.
    label: str
    declared: Declared


@dataclass(frozen=True, slots=True)
class Language:
    """One language that pages are written in."""

    # What pages say of themselves (BCP 47); they say one of them, or nothing.
    tags: tuple[str, ...]
    # Equally frequent.
    charsets: tuple[Charset, ...]
    keywords: tuple[str, ...]
    # Sentences around a keyword.
    carriers: tuple[str, ...]
    tagline: str
    # "Contact", as headings and links say it.
    contact: str
    # Function words, which all sentences have.
    words: tuple[str, ...]
    # All others are made of these.
    syllables: tuple[str, ...]
    # Legal forms of companies.
    forms: tuple[str, ...]


_UTF8 = Charset("utf-8", "utf-8", Declared.HEADER)
_UTF8_META = Charset("utf-8", "utf-8", Declared.META)
_UTF8_MARK = Charset("utf-8-sig", "utf-8", Declared.MARK)
_LATIN = (
    _UTF8,
    _UTF8,
    _UTF8_META,
    _UTF8_META,
    _UTF8_MARK,
    Charset("cp1252", "windows-1252", Declared.HEADER),
    Charset("iso-8859-1", "iso-8859-1", Declared.HEADER),
    Charset("iso-8859-15", "iso-8859-15", Declared.META),
)

LANGUAGES = (
    Language(
        ("en", "en-GB", "en-US"),
        (_UTF8, _UTF8, _UTF8, _UTF8_META, _UTF8_META, _UTF8_MARK,
         Charset("ascii", "", Declared.NOWHERE), Charset("ascii", "iso-8859-1", Declared.HEADER)),
        ("solar panels", "heat pump", "roof repair", "wedding photography", "dental implants",
         "organic coffee", "yoga retreat", "boat rental"),
        ("We have known all about {} since 1987.", "Ask us for {} today.",
         "What others call {} is our trade.", "Nobody does {} better."),
        "made to last", "Contact",
        ("the", "a", "of", "and", "to", "in", "with", "for", "on", "by"),
        ("bel", "tor", "min", "sa", "ren", "do", "lic", "par", "ven", "os", "tra", "quil", "ne",
         "fam", "ur", "gle"),
        ("Ltd", "Inc.", "LLC"),
    ),
    Language(
        ("de", "de-DE", "de-AT"),
        _LATIN,
        ("Wärmepumpe kaufen", "Dachdecker Notdienst", "Hörgeräte Beratung", "Küchen nach Wunsch"),
        ("Seit 1987 steht bei uns {} an erster Stelle.", "Fragen Sie uns nach {}.",
         "Was andere {} nennen, ist unser Handwerk."),
        "für höchste Ansprüche", "Kontakt",
        ("der", "die", "das", "und", "mit", "für", "über", "von", "auf", "können"),
        ("schau", "ber", "gel", "mün", "for", "ker", "ling", "straß", "ver", "ös", "han", "tig"),
        ("GmbH", "AG", "KG"),
    ),
    Language(
        ("fr", "fr-FR", "fr-CA"),
        _LATIN,
        ("pompe à chaleur", "rénovation énergétique", "plombier à domicile", "crèche privée"),
        ("Depuis 1987, {} est notre métier.", "Demandez {} dès aujourd'hui.",
         "Chez nous, {} va de soi."),
        "qualité et proximité", "Contact et accès",
        ("le", "la", "les", "des", "à", "pour", "où", "avec", "dès", "être"),
        ("mai", "ré", "lon", "cha", "vin", "té", "bou", "fê", "ver", "sai", "nel", "quor"),
        ("SARL", "SAS", "SA"),
    ),
    Language(
        ("es", "es-ES", "es-MX"),
        _LATIN,
        ("placas solares económicas", "clínica veterinaria", "alquiler de coches",
         "diseño de jardines"),
        ("Desde 1987 nos ocupamos de {}.", "Pregunte por {} hoy mismo.",
         "Lo que otros llaman {} es nuestro oficio."),
        "calidad y compañía", "Contacto",
        ("el", "la", "los", "de", "y", "con", "para", "más", "según", "año"),
        ("can", "bre", "ción", "mar", "ñe", "lo", "tri", "gón", "pe", "vi", "dor", "sol"),
        ("S.L.", "S.A."),
    ),
    Language(
        ("ru", "ru-RU"),
        (_UTF8, _UTF8_META, Charset("cp1251", "windows-1251", Declared.HEADER),
         Charset("cp1251", "windows-1251", Declared.META),
         Charset("koi8_r", "koi8-r", Declared.HEADER)),
        ("тепловой насос", "ремонт крыши", "детский сад", "аренда лодок"),
        ("С 1987 года мы знаем всё про {}.", "Спросите нас про {} сегодня.",
         "Наше дело - {}."),
        "сделано на совесть", "Контакты",
        ("и", "в", "на", "не", "что", "для", "как", "мы", "из", "по"),
        ("бо", "рен", "ка", "лис", "тов", "ми", "гра", "зно", "ше", "вол", "дя", "фур"),
        ("OOO", "ZAO"),
    ),
    Language(
        ("ja", "ja-JP"),
        (_UTF8, _UTF8_META, Charset("shift_jis", "shift_jis", Declared.META),
         Charset("euc_jp", "euc-jp", Declared.HEADER),
         Charset("utf-16", "utf-16", Declared.MARK)),
        ("太陽光発電", "屋根修理", "結婚写真", "有機珈琲"),
        ("私たちは1987年から「{}」に携わっています。", "「{}」のことはお尋ねください。"),
        "品質第一", "お問い合わせ",
        ("は", "が", "を", "に", "で", "と", "の", "も", "から", "まで"),
        ("山", "川", "木", "町", "サ", "ト", "ミ", "ロ", "花", "石", "ネ", "ク"),
        ("K.K.",),
    ),
)  # fmt: skip
# One page in so many tens is in each, in their order.
LANGUAGE_SHARES = (0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5)
KEYWORDS = tuple(keyword for language in LANGUAGES for keyword in language.keywords)

BRANDS = (
    "Nordwind", "Bluefield", "Castello", "Harborline", "Quintus", "Marigold", "Stonebrook",
    "Valdoro", "Kestrel", "Lumenta", "Oakhurst", "Perigon", "Riverton", "Silvano", "Tamarind",
    "Westmark",
)  # fmt: skip
TRADES = ("Systems", "Trading", "Atelier", "Partners", "Works", "Studio", "Group", "Supply")

_PAGE = '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{0}</title>{1}</head>'
# Pages that are the same for many names but for the name: titles and the whole, "{name}" in both.
PARKED = (
    (
        "{name}",
        _PAGE.format("{name}", '<script src="https://lander.parking.example/caf.js"></script>')
        + "<body><h1>{name}</h1><p>This domain is parked free, courtesy of Registrar Example.</p>"
        "<h2>Related searches</h2><ul><li><a href='/?q=1'>Credit Cards</a></li><li><a"
        " href='/?q=2'>Cheap Flights</a></li><li><a href='/?q=3'>Car Insurance</a></li></ul>"
        "<p>The sponsored listings displayed above are served automatically by a third party."
        "</p><a href='/privacy'>Privacy Policy</a></body></html>",
    ),
    (
        "{name} - parked",
        _PAGE.format("{name} - parked", "<meta name='robots' content='noindex'>")
        + "<body class='parking-lander'><div>Welcome to {name}</div><p>This web page is parked for"
        " FREE. Is this your domain? Let's turn it into a website!</p><p>Would you like to buy"
        " this domain? Learn more about domain parking.</p></body></html>",
    ),
    (
        "",
        "<!doctype html><html data-adblockkey='MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK'><head>"
        "<script>window.park='eyJ1dWlkIjoiMCIsInBhZ2UiOiJ7bmFtZX0ifQ==';</script></head><body>"
        "<div id='target' style='opacity:0'></div><script src='/parking.js'></script>"
        "<noscript>{name} is a parked domain. Sponsored listings.</noscript></body></html>",
    ),
    (
        "{name} | Domain parking",
        _PAGE.format("{name} | Domain parking", "")
        + "<body><h2>{name}</h2><p>This domain has recently been registered and is parked here by"
        " its owner.</p><p>Top related links: Insurance, Loans, Hotels, Online Degrees.</p>"
        "<p>This page was generated by the domain parking service.</p></body></html>",
    ),
)
FOR_SALE = (
    (
        "{name} is for sale",
        _PAGE.format("{name} is for sale", "")
        + "<body><h1>The domain name {name} is for sale!</h1><p>Make an offer or buy it now for"
        " USD 2,495.</p><form><input name='offer'><button>Submit offer</button></form>"
        "<p>Safe transfer and buyer protection.</p></body></html>",
    ),
    (
        "Buy {name}",
        _PAGE.format("Buy {name}", "")
        + "<body><h1>Buy this domain</h1><p>{name} may be for sale by its owner. Inquire now:"
        " this premium domain is available for purchase or lease to own.</p></body></html>",
    ),
)
UNDER_CONSTRUCTION = (
    (
        "Coming soon",
        _PAGE.format("Coming soon", "")
        + "<body><h1>Coming soon</h1><p>Our new website is on its way. Please come back later!</p>"
        "</body></html>",
    ),
    (
        "Under construction",
        _PAGE.format("Under construction", "")
        + "<body><h1>{name}</h1><p>This site is currently under construction.</p></body></html>",
    ),
    (
        "Maintenance",
        _PAGE.format("Maintenance", "")
        + "<body><h1>We will be back soon</h1><p>{name} is undergoing scheduled maintenance."
        "</p></body></html>",
    ),
)
LOGIN = (
    (
        "Sign in",
        _PAGE.format("Sign in", "")
        + "<body><form method='post' action='/session'><h1>Sign in</h1><label>User name <input"
        " name='user'></label><label>Password <input type='password' name='password'></label>"
        "<button>Log in</button></form><a href='/forgotten'>Forgotten?</a></body></html>",
    ),
    (
        "Log In - WordPress",
        _PAGE.format("Log In - WordPress", "")
        + "<body class='login'><form name='loginform' id='loginform' action='/wp-login.php'"
        " method='post'><p>Username or Email Address <input type='text' name='log'></p><p>Password"
        " <input type='password' name='pwd'></p><input type='submit' value='Log In'></form>"
        "<a href='/'>Go to {name}</a></body></html>",
    ),
)
SOFT_404 = (
    (
        "Page not found",
        _PAGE.format("Page not found", "")
        + "<body><h1>Page not found</h1><p>Sorry, the page you are looking for does not exist."
        "</p></body></html>",
    ),
    (
        "404 - File or directory not found",
        _PAGE.format("404 - File or directory not found", "")
        + "<body><h1>Server error</h1><h2>404 - File or directory not found.</h2><p>The resource"
        " you are looking for might have been removed or had its name changed.</p></body></html>",
    ),
    (
        "Oops!",
        _PAGE.format("Oops!", "")
        + "<body><h1>Oops! That page can't be found.</h1><p>It looks like nothing was found at"
        " {name}. Error 404.</p></body></html>",
    ),
)
# What a server shows before anybody has put a page there; the first of the templates.
DEFAULT_PAGES = (
    (
        "Welcome to nginx!",
        _PAGE.format("Welcome to nginx!", "")
        + "<body><h1>Welcome to nginx!</h1><p>If you see this page, the nginx web server is"
        " successfully installed and working. Further configuration is required.</p></body></html>",
    ),
    (
        "Apache2 Default Page: It works",
        _PAGE.format("Apache2 Default Page: It works", "")
        + "<body><h1>It works!</h1><p>This is the default welcome page used to test the correct"
        " operation of the Apache2 server after installation.</p></body></html>",
    ),
)
