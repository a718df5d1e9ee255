"""Contacts of pages: found, and not imagined."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domainflow.validation.v1 import lead_pb2
from services.validation.content import sighting
from services.validation.content.contacts import (
    MAX_CONTACTS,
    MAX_OF_KIND,
    Contact,
    ContactKind,
    ContactPage,
    Found,
    find_contacts,
)
from services.validation.content.profiles import canonical_profile

URL = "https://www.firma.de/kontakt"


def found(kind, **page):
    contacts = find_contacts(ContactPage(**{"url": URL, **page}))
    return [each.value for each in contacts if each.kind is kind]


def emails(text, **page):
    return found(ContactKind.EMAIL, text=text, **page)


def phones(text, **page):
    return found(ContactKind.PHONE, text=text, **page)


def companies(text="", **page):
    return found(ContactKind.COMPANY, text=text, **page)


def protected(address, key=0x5A):
    return bytes([key, *(each ^ key for each in address.encode())]).hex()


def test_numbers_are_those_of_the_contract():
    assert {f"CONTACT_KIND_{each.name}": each.value for each in ContactKind} == {
        name: number for name, number in lead_pb2.ContactKind.items() if number
    }


# E-mail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Write to info@firma.de.",
        "E-Mail:info@firma.de",
        "<info@firma.de>",
        "(info@firma.de)",
        '"info@firma.de"',
        "*info@firma.de*",
        "INFO@FIRMA.DE",
        "info@firma.deTelefon 030",
        "info@firma.de.Rufen Sie an",
        "%20info@firma.de",
        "\\u003einfo@firma.de",
        "mailto=info@firma.de",
        "info\u200b@fir\u00adma.de",
        "info\uff20firma\uff0ede",  # full width
        "info&#64;firma.de",
        "info&#x40;firma&#46;de",
        "info [at] firma.de",
        "info[at]firma[dot]de",
        "info(at)firma(dot)de",
        "info (at) firma (punkt) de",
        "info {at} firma {dot} de",
        "info <at> firma <dot> de",
        "info[@]firma.de",
        "info(ät)firma.de",
        "info(a)firma.de",
        "info (arroba) firma (punto) de",
        "info at firma dot de",
        "INFO AT FIRMA DOT DE",
        "info_at_firma.de",
        "info-at-firma-dot-de",
        "info @ firma.de",
        "info at firma.de",
        "ed.amrif@ofni",
    ],
)
def test_an_address_is_found_however_it_is_written(text):
    assert emails(f"Kontakt\n{text}\nund mehr") == ["info@firma.de"]
    assert emails(text) == ["info@firma.de"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("john.doe-smith+news@mail.other.co.uk", "john.doe-smith+news@mail.other.co.uk"),
        ("john [dot] smith [at] other [dot] com", "john.smith@other.com"),
        ("o'neil@other.ie", "o'neil@other.ie"),
        ("büro@müller.de", "büro@xn--mller-kva.de"),
        ("post@почта.рф", "post@xn--80a1acny.xn--p1ai"),
        ("a@163.com", "a@163.com"),
        ("x" * 64 + "@other.de", "x" * 64 + "@other.de"),
    ],
)
def test_addresses_of_every_kind_are_found(text, address):
    assert emails(f"see {text} now") == [address]


@pytest.mark.parametrize(
    "text",
    [
        "logo@2x.png",
        "hero@3x.zip",
        "img/icon@2x.ai",
        "photo@home.de.jpg",
        "jquery@3.6.0.min.js",
        "react@18.2.0",
        "lodash@4.17.21.zip",
        "npm i vue@next",
        "https://cdn.jsdelivr.net/npm/bootstrap@5.0.2/dist",
        "https://9f2c1e7ab6d94b8ea1b2c3d4e5f60718@o12345.ingest.sentry.io/123",
        "9f2c1e7ab6d94b8ea1b2c3d4e5f60718@sentry-next.wixpress.com",
        "https://user:secret@host.com/path",
        "ftp://anonymous@ftp.host.com",
        "git@github.com:firma/site.git",
        "deploy@host.com:/srv/www",
        "https://medium.com/@some.user",
        "@some.user",
        "20240102123456.1234567890ABCDEF@mail.host.com",
        "123e4567-e89b-12d3-a456-426614174000@host.com",
        "info@example.com",
        "info@example.org",
        "you@yourdomain.com",
        "max.mustermann@web.de",
        "john.doe@gmail.com",
        "your.email@gmail.com",
        "someone@test",
        "root@localhost",
        "user@host.local",
        "a..b@firma.de",
        ".@firma.de",
        "x" * 65 + "@firma.de",
        "a@" + "b" * 64 + ".de",
        "a@-firma.de",
        "a@192.0.2.1",
        "Look at firma dot de",
        "visit us at other.com",
        "sales at other.com",
        "concert @ venue.com",
        "case (a) www.firma.de",
        "may stop at any point in time",
        "printed at each point it is",
        "@@@@",
        "@",
    ],
)
def test_what_only_looks_like_an_address_is_none(text):
    assert emails(f"see {text} now") == []
    assert emails(text) == []


@pytest.mark.parametrize(
    "link",
    [
        "mailto:info@firma.de",
        "MAILTO:Info@Firma.de?subject=Hello&body=x@y.de",
        "mailto:%20info%40firma.de",
        "mailto:info(at)firma.de",
        "mailto:<info@firma.de>",
        "/cdn-cgi/l/email-protection#" + protected("info@firma.de?subject=x"),
    ],
)
def test_addresses_of_links_are_found(link):
    (contact,) = find_contacts(ContactPage(URL, links=[(link, "Write to us")]))

    assert contact.value == "info@firma.de"
    assert contact.found in (Found.LINK, Found.PROTECTED, Found.DISGUISED)
    assert contact.snippet == "Write to us"


def test_a_link_may_have_several_addresses_or_none():
    assert found(ContactKind.EMAIL, links=[("mailto:a@firma.de,b@firma.de", "")]) == [
        "a@firma.de",
        "b@firma.de",
    ]
    assert found(ContactKind.EMAIL, links=[("mailto:?subject=Look", ""), ("mailto:", "")]) == []


def test_protected_addresses_stand_in_the_text_where_they_were_hidden():
    page = ContactPage(
        URL,
        text="Our office answers at [email\u00a0protected] every day",
        protected=[protected("office@firma.de")],
    )
    (contact,) = find_contacts(page)

    assert contact.value == "office@firma.de"
    assert contact.found is Found.PROTECTED
    assert "office@firma.de" in emails(page.text, protected=page.protected)


@pytest.mark.parametrize("code", ["", "5a", "zz", "5", "ff" * 1000, protected("no address")])
def test_broken_protection_is_no_address(code):
    assert emails("[email protected]", protected=[code]) == []


def test_the_site_s_own_address_comes_first_and_machines_come_last():
    text = "noreply@firma.de\nagency@webdesign.com\nfirma@gmail.com\njane@firma.de\ninfo@firma.de"

    assert emails(text) == [
        "info@firma.de",
        "jane@firma.de",
        "firma@gmail.com",
        "agency@webdesign.com",
        "noreply@firma.de",
    ]


# Phone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Tel. 030 901820", "+4930901820"),
        ("Tel: 030/901820-10", "+493090182010"),
        ("Telefon (030) 901820", "+4930901820"),
        ("Call +49 (0)30 901820", "+4930901820"),
        ("+49 30 901820", "+4930901820"),
        ("+49.30.901820", "+4930901820"),
        ("+44 20 7946 0958", "+442079460958"),
        ("Tel. 0049 30 901820", "+4930901820"),
        ("0171 / 5123456", "+491715123456"),
        ("Mobil: 01715123456", "+491715123456"),
        ("Tel.: \uff10\uff13\uff10 901820", "+4930901820"),
        ("Tel. +49 30 901820 / +49 30 901821", "+4930901820"),
        ("(212) 736-5000", "+12127365000"),
        ("01 42 68 53 00", "+33142685300"),
    ],
)
def test_phones_are_found_in_texts(text, number):
    tld = {"+1": "com", "+3": "fr"}.get(number[:2], "de")
    page = {"url": f"https://firma.{tld}"}

    assert phones(f"Kontakt\n{text}\n", **page)[0] == number


@pytest.mark.parametrize(
    "text",
    [
        "12.03.2024",
        "2024-03-12 10:30",
        "03/12/2024",
        "2019-2024",
        "01.01.2024 - 31.12.2024",
        "1.234.567,89 €",
        "EUR 1 234 567",
        "$1,234,567.00",
        "Preis 0123456 EUR",
        "USt-IdNr. DE123456789",
        "USt-IdNr.: 301 234 567",
        "HRB 0123 456",
        "IBAN DE89 3704 0044 0532 0130 00",
        "Konto 0532 013 000",
        "ISBN 978-3-16-148410-0",
        "Artikel-Nr. 0123-456789",
        "order no. 0171 5123456",
        "192.168.100.200",
        "52.5200, 13.4050",
        "1234567890",
        "Tel. 0000000",
        "Tel. 1234567890",
        "Tel. +49 123456789",
        "4111 1111 1111 1111",
        "v1.2.3-20240102",
        "id=0301234567",
        "(212) 555-0123",
        "#030901820",
        "1920x1080",
        "12 345 678 900 kWh",
        "Boston, MA 02110-1301",
        "unhandled syscall: 247 445668",
        "a string of 0000..0777 (0..511)",
        "(arm64) 359645 fixed",
        "24156e2...5391653",
        "bug 0301 445668",
        "0 255603",
        "<Buffer 02 01 04 03 06 05 08 07>",
        "110",
        "+",
        "+49",
    ],
)
def test_other_numbers_are_no_phones(text):
    assert phones(f"see {text} now") == []
    assert phones(text) == []


@pytest.mark.parametrize(
    ("link", "number"),
    [
        ("tel:+49-30-901820", "+4930901820"),
        ("tel:030901820", "+4930901820"),
        ("TEL://030%20901820", "+4930901820"),
        ("tel:+4930901820;ext=12", "+4930901820"),
        ("callto:+4930901820", "+4930901820"),
        ("https://wa.me/4930901820?text=hi", "+4930901820"),
        ("https://api.whatsapp.com/send?phone=4930901820&text=x", "+4930901820"),
    ],
)
def test_phones_are_found_in_links(link, number):
    assert found(ContactKind.PHONE, links=[(link, "Call")]) == [number]


@pytest.mark.parametrize(
    "link", ["tel:", "tel:12", "tel:+", "tel:abc", "tel:+1", "https://wa.me/?text=x", "tel:0000000"]
)
def test_links_without_a_number_give_none(link):
    assert found(ContactKind.PHONE, links=[(link, "Call")]) == []


@pytest.mark.parametrize(
    ("page", "number"),
    [
        ({"url": "https://firma.at"}, "+4315123456"),
        ({"url": "https://firma.com", "language": "de-AT"}, "+4315123456"),
        ({"url": "https://firma.com", "country": "at"}, "+4315123456"),
        (
            {
                "url": "https://firma.com",
                "items": [{"@type": "Place", "address": {"addressCountry": "Austria"}}],
            },
            "+4315123456",
        ),
        ({"url": "https://firma.com"}, "015123456"),
        ({"url": "https://firma.io"}, "015123456"),
    ],
    ids=["domain", "language", "hint", "structured data", "nobody knows", "open domain"],
)
def test_the_country_of_a_number_comes_from_what_the_page_says(page, number):
    assert phones("Tel. 01 5123456", **page) == [number]


def test_a_link_comes_before_the_text_and_a_fax_last():
    page = ContactPage(
        URL,
        text="Tel. 030 901820\nFax 030 901821\nMobil 0171 5123456",
        links=[("tel:0171-5123456", "")],
    )

    assert [each.value for each in find_contacts(page)] == [
        "+491715123456",
        "+4930901820",
        "+4930901821",
    ]


# Company --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("© 2026 Müller Bau GmbH. Alle Rechte vorbehalten.", "Müller Bau GmbH"),
        ("Copyright © 2019-2026 by Acme Widgets, Inc. All rights reserved", "Acme Widgets, Inc."),
        ("© Blue Kite | Impressum | Datenschutz", "Blue Kite"),
        ("(c) 2026 Blue Kite - Powered by WordPress", "Blue Kite"),
        ("Blue Kite © 2026", "Blue Kite"),
        ("Impressum\nAngaben gemäß § 5 TMG\nBlue Kite\nWeg 1", "Blue Kite"),
        ("Impressum\nMüller & Söhne GmbH & Co. KG\nWeg 1", "Müller & Söhne GmbH & Co. KG"),
        ("Raison sociale : Blue Kite\n", "Blue Kite"),
        ("We are Northern Light Ltd, a maker of lamps", "Northern Light Ltd"),
        ("Ragione sociale: Luce S.r.l.", "Luce S.r.l."),
        ("Spółka Jasna sp. z o.o. w Krakowie", "Spółka Jasna sp. z o.o."),
        ("(c) 1989 Free Software Foundation, Inc. 51 Street", "Free Software Foundation, Inc."),
        ("Copyright © 2014 The Open Group", "The Open Group"),
        ("О нас: ООО «Ромашка», Москва", "ООО «Ромашка»"),  # noqa: RUF001
        ("会社名 株式会社青空\n", "株式会社青空"),
    ],
)
def test_companies_are_found_in_texts(text, name):
    assert companies(text)[0] == name


@pytest.mark.parametrize(
    "text",
    [
        "the copyright law of 1976",
        "© 2026",
        "© 2026 All rights reserved",
        "see (a), (b) and (c) Above",
        "this AG and that SE",
        "Copyright",
        "the limited LLC",
        "THE ENTIRE RISK AS TO THE QUALITY",
        "Copyright (C) 2002, and GNU",
        "",
    ],
)
def test_texts_without_a_company_give_none(text):
    assert companies(text) == []


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Dachdecker Berlin | Firma Holz", "Firma Holz"),
        ("Blue Kite - Startseite", None),
        ("Firma - Startseite", None),
        ("Startseite", None),
        ("Kontakt - Blue Kite", "Blue Kite"),
        ("Die Firma: Holz und mehr", "Die Firma: Holz und mehr"),
    ],
)
def test_the_part_of_a_title_that_is_the_site_s_is_taken(title, name):
    assert companies(title=title) == ([name] if name else [])


def test_structured_data_outranks_the_rest():
    items = [{"@type": "Organization", "legalName": "Firma Holz GmbH", "name": "Firma"}]

    names = companies("© 2026 Blue Kite", items=items, title="x | Firma Holz")

    assert names[0] == "Firma Holz GmbH"
    assert "Blue Kite" in names


# Structured data ------------------------------------------------------------------------------


def test_structured_data_gives_all_kinds():
    items = [
        {
            "@context": "https://schema.org",
            "@graph": [
                {
                    "@type": ["LocalBusiness", "https://schema.org/Dentist"],
                    "name": "Praxis Licht",
                    "email": "mailto:praxis@firma.de",
                    "contactPoint": [{"@type": "ContactPoint", "telephone": "030 901820"}],
                    "faxNumber": "030 901821",
                    "address": {"addressCountry": {"@type": "Country", "name": "DE"}},
                    "sameAs": ["https://www.facebook.com/PraxisLicht/"],
                }
            ],
        }
    ]

    contacts = find_contacts(ContactPage("https://praxis.com", items=items))

    assert {(each.kind, each.value) for each in contacts} == {
        (ContactKind.EMAIL, "praxis@firma.de"),
        (ContactKind.PHONE, "+4930901820"),
        (ContactKind.PHONE, "+4930901821"),
        (ContactKind.COMPANY, "Praxis Licht"),
        (ContactKind.SOCIAL, "https://www.facebook.com/praxislicht"),
    }
    assert {each.found for each in contacts} == {Found.STRUCTURED}
    assert "LocalBusiness.email: mailto:praxis@firma.de" in {each.snippet for each in contacts}


def test_microdata_is_read_like_json_ld():
    items = [
        {
            "type": ["https://schema.org/Organization"],
            "properties": {
                "name": ["Blue Kite"],
                "https://schema.org/telephone": ["+49 30 901820"],
                "address": [{"properties": {"addressCountry": ["DE"]}}],
            },
        }
    ]

    assert companies(items=items) == ["Blue Kite"]
    assert found(ContactKind.PHONE, items=items) == ["+4930901820"]


def test_people_that_a_page_talks_about_are_not_its_owner():
    items = [
        {
            "@type": "Review",
            "author": {"@type": "Organization", "name": "Critics", "email": "c@critics.com"},
        },
        {"@type": "Organization", "name": "Blue Kite", "email": "a@other.com"},
    ]

    assert companies(items=items) == ["Blue Kite", "Critics"]
    assert found(ContactKind.EMAIL, items=items) == ["a@other.com", "c@critics.com"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                "@type type properties name email telephone address sameAs addressCountry @graph"
                " legalName @value @id faxNumber".split()
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.sampled_from(["@type", "name", "address"]), json_values)))
def test_structured_data_of_any_shape_is_read(items):
    find_contacts(ContactPage(URL, items=items))


def test_structured_data_of_any_depth_is_read():
    nested = {"@type": "Organization", "name": "Deep"}
    for _ in range(sys.getrecursionlimit() * 3):
        nested = {"a": [nested]}

    assert companies(items=[nested, {"@type": "Organization", "name": "Blue Kite"}])


# Social ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "profile"),
    [
        ("https://de.linkedin.com/company/Blue-Kite/about/", "linkedin.com/company/blue-kite"),
        ("http://linkedin.com/in/jane-doe-123?trk=x", "linkedin.com/in/jane-doe-123"),
        ("https://twitter.com/BlueKite", "https://x.com/bluekite"),
        ("https://mobile.twitter.com/@BlueKite/", "https://x.com/bluekite"),
        ("//x.com/bluekite?lang=de", "https://x.com/bluekite"),
        ("https://www.facebook.com/BlueKite/?ref=x", "facebook.com/bluekite"),
        ("https://de-de.facebook.com/pages/Blue-Kite/123456789", "facebook.com/123456789"),
        ("https://facebook.com/profile.php?id=100012345", "facebook.com/profile.php?id=100012345"),
        ("https://www.instagram.com/blue.kite_/", "instagram.com/blue.kite_"),
        ("https://www.youtube.com/@BlueKite/videos", "youtube.com/@bluekite"),
        ("https://youtube.com/channel/UCaBc123", "youtube.com/channel/UCaBc123"),
        ("https://github.com/bluekite", "https://github.com/bluekite"),
        ("https://www.xing.com/pages/bluekite", "xing.com/pages/bluekite"),
        ("https://www.tiktok.com/@bluekite?lang=de", "tiktok.com/@bluekite"),
        ("https://bsky.app/profile/bluekite.de", "bsky.app/profile/bluekite.de"),
        ("https://t.me/bluekite", "https://t.me/bluekite"),
    ],
)
def test_a_profile_has_one_url(url, profile):
    canonical = canonical_profile(url)

    assert canonical.endswith(profile)
    assert canonical_profile(canonical) == canonical


@pytest.mark.parametrize(
    "url",
    [
        "https://twitter.com/intent/tweet?text=x",
        "https://twitter.com/share?url=x",
        "https://x.com/bluekite/status/123",
        "https://x.com/",
        "https://x.com",
        "https://www.facebook.com/sharer/sharer.php?u=x",
        "https://www.facebook.com/tr?id=1&ev=PageView",
        "https://www.facebook.com/plugins/like.php",
        "https://www.linkedin.com/shareArticle?mini=true&url=x",
        "https://www.linkedin.com/",
        "https://www.instagram.com/p/Cabc/",
        "https://www.youtube.com/watch?v=x",
        "https://www.youtube.com/embed/x",
        "https://github.com/bluekite/site",
        "https://github.com/login",
        "https://www.xing.com/spi/shares/new?url=x",
        "https://www.tiktok.com/tag/x",
        "https://t.me/share/url?url=x",
        "https://www.pinterest.com/pin/create/button/?url=x",
        "https://notfacebook.com/bluekite",
        "https://facebook.com.evil.example/bluekite",
        "https://firma.de/facebook.com/x",
        "https://x.com/{handle}",
        "javascript:alert(1)",
        "https://[::1",
        "",
    ],
)
def test_links_that_lead_to_no_profile_are_left_out(url):
    assert canonical_profile(url) == ""


def test_profiles_like_the_domain_come_first_and_those_of_makers_not_at_all():
    links = [
        ("https://twitter.com/wordpress", ""),
        ("https://x.com/somebody", ""),
        ("https://www.instagram.com/firma", "Instagram"),
    ]

    assert found(ContactKind.SOCIAL, links=links) == [
        "https://www.instagram.com/firma",
        "https://x.com/somebody",
    ]


# All together ---------------------------------------------------------------------------------


def test_a_contact_says_where_it_was_seen_and_how():
    text = "Lorem ipsum " * 50 + "Kontakt: info@firma.de für Fragen " + "dolor sit " * 50

    (contact,) = find_contacts(ContactPage(URL, text=text))

    assert contact == Contact(
        ContactKind.EMAIL, "info@firma.de", URL, contact.snippet, Found.TEXT, 0.89
    )
    assert "Kontakt: info@firma.de für Fragen" in contact.snippet
    assert 150 < len(contact.snippet) <= 200


def test_a_value_is_given_once_with_the_surest_find():
    page = ContactPage(
        URL,
        text="info@firma.de INFO@firma.de info [at] firma.de",
        links=[("mailto:info@firma.de", "write")],
    )
    (contact,) = find_contacts(page)

    assert contact.found is Found.LINK


def test_the_number_of_contacts_is_bounded():
    text = " ".join(f"person{number}@firma.de" for number in range(500))
    text += "\n".join(f"Tel. +49 30 90{number:04}" for number in range(500))
    links = [(f"https://x.com/person{number}", "") for number in range(500)]
    page = ContactPage(URL, text=text, links=links)

    contacts = find_contacts(page)

    assert len(contacts) == MAX_CONTACTS
    assert sum(each.kind is ContactKind.EMAIL for each in contacts) == MAX_OF_KIND
    assert len(find_contacts(page, limit=3)) == 3


def is_storable(text):
    return "\0" not in text and "\n" not in text and text.encode() is not None


parts = st.sampled_from(
    "@,[at],(dot),.,.de,info,+49,030 ,901820,-,/,\n, ,Tel. ,©,GmbH,Copyright ,2026,Müller,\u200b,"
    "\u0130,\ud800,\0,株式会社,Impressum,&#64;,://,ß,[email protected],Inc.,:,|,é, at ".split(",")
)
hostile = st.lists(parts | st.text(max_size=3), max_size=60).map("".join)


@settings(max_examples=150)
@given(hostile, hostile, st.lists(st.tuples(hostile | hostile.map("mailto:{}".format), hostile)))
def test_any_page_gives_contacts_that_can_be_stored(text, title, links):
    page = ContactPage(URL, text=text, title=title, site_name=title, links=links, language=title)

    contacts = find_contacts(page)

    assert len({(each.kind, each.value) for each in contacts}) == len(contacts)
    assert [-each.confidence for each in contacts] == sorted(-each.confidence for each in contacts)
    for each in contacts:
        assert each.value == each.value.strip() != ""
        assert is_storable(each.value)
        assert is_storable(each.snippet)
        assert len(each.value) <= 500
        assert len(each.snippet) <= 200
        assert 0 < each.confidence < 1


def test_no_character_grows_in_lower_case_once_it_is_readable():
    every = "".join(map(chr, [*range(0x80, 0xD800), *range(0xE000, 0x20000)]))

    text = sighting.readable(every)

    assert len(sighting.lowered(text)) == len(text)


HOSTILE = {
    "at signs": "@" * 1_000_000,
    "addresses": "a@b.de " * 140_000,
    "chained": "a@b.c" * 200_000,
    "long locals": ("x" * 64 + "@") * 15_000,
    "long domains": "a@" + "b." * 500_000,
    "marks": "[at]" * 250_000,
    "words": " at " * 250_000,
    "dots": " a at b dot " * 80_000,
    "references": "&#64;" * 200_000,
    "digits": "1" * 1_000_000,
    "groups": "030 901820 " * 90_000,
    "labelled": "Tel. 030 9018 " * 70_000,
    "plus": "+" * 1_000_000,
    "brackets": "1((((((((" * 110_000,
    "forms": "A GmbH " * 140_000,
    "copyright": "©" * 1_000_000,
    "copyrights": "copyright 2026 " * 66_000,
    "imprints": "impressum " * 100_000,
    "colons": "firma: A\n" * 110_000,
    "spaces": " " * 1_000_000,
    "lines": "\n" * 1_000_000,
    "invisible": "\u200b" * 1_000_000,
    "protected": "[email protected]" * 58_000,
    "capitals": "A" * 1_000_000,
    "kana": "青" * 1_000_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_megabyte_is_read_within_the_limits(text):
    links = [("mailto:" + text, text), ("tel:" + text, text), ("https://x.com/" + text, text)]
    items = [{"@type": text, "name": text, "email": text, "telephone": text, "sameAs": text}]
    page = ContactPage(URL, text, links, items, text, text, text, text, [text])

    assert len(find_contacts(page)) <= MAX_CONTACTS


@pytest.mark.parametrize(
    "title",
    [
        "firma.de",
        "firma.de - parked",
        "firma.de | Domain parking",
        "firma.de is for sale",
        "Buy firma.de",
        "www.firma.de | Startseite und mehr",
        "Log In - WordPress",
        "404 - File or directory not found",
        "Coming soon | Another page",
    ],
)
def test_titles_of_pages_that_are_nobodys_own_name_no_company(title):
    assert companies(title=title) == []


def test_a_domain_that_is_written_as_a_name_is_one():
    assert companies(title="Shoes and more | Firma.de") == ["Firma.de"]
