"""Documents of personas: whatever JSON holds, it is either understood or refused by field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domainflow.validation.v1 import dns_settings_pb2
from domainflow.validation.v1.dns_persona_pb2 import DnsPersona
from services.chassis.dns_settings import check_settings
from services.chassis.errors import InvalidFields
from services.validation.persona_service import FORM

NAMES = sorted(
    {
        spelling
        for message in (
            DnsPersona,
            *(
                getattr(dns_settings_pb2, name)
                for name in dns_settings_pb2.DESCRIPTOR.message_types_by_name
            ),
        )
        for field in message.DESCRIPTOR.fields
        for spelling in (field.name, field.json_name)
    }
)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["1s", "0.5s", "-1s", "1e9s", "192.0.2.1", "DNS_TRANSPORT_TLS"])
)
TREES: Any = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(st.lists(TREES, max_size=3))
def test_any_json_is_understood_or_refused_by_field(personas: list[Any]) -> None:
    text = json.dumps({"format": FORM.format, "dns_personas": personas})

    try:
        read = FORM.read(text, lambda it, path: check_settings(it.settings, path))
    except InvalidFields as refusal:
        for violation in refusal.violations:
            assert violation.field.startswith("document.dns_personas")
            assert violation.description
            (violation.field + violation.description).encode()
    else:
        written = FORM.write(read)
        again = FORM.read(written, lambda it, path: [])
        assert FORM.write(again) == written


def test_what_cannot_be_read_hides_no_broken_rule() -> None:
    settings = {
        "foo": 1,
        "window": "many",
        "record_types": ["RECORD_TYPE_X", "RECORD_TYPE_A"],
        "resolvers": [{"address": 7}, {"address": "nowhere"}],
        "authority": {"root_servers": [3, "192.0.2.1", "nowhere"]},
    }
    document = {"format": FORM.format, "dns_personas": [{"settings": settings}]}

    with pytest.raises(InvalidFields) as caught:
        FORM.read(
            json.dumps(document), lambda it, path: check_settings(it.settings, f"{path}.settings")
        )

    path = "document.dns_personas[0]"
    assert [each.field.removeprefix(path) for each in caught.value.violations] == [
        ".settings.foo",
        ".settings.window",
        ".settings.record_types[0]",
        ".settings.resolvers[0].address",
        ".settings.authority.root_servers[0]",
        ".settings.resolvers[1].address",
        ".settings.authority.root_servers[2]",
    ]


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidFields):
        FORM.read(text, lambda it, path: [])


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ('{"window": 1e999}', "window"),
        ('{"window": 99999999999999999999}', "window"),
        ('{"strategy": 1e999}', "strategy"),
        ('{"record_types": ["RECORD_TYPE_A", 1e999]}', "record_types[1]"),
        ('{"record_types": [null]}', "record_types[0]"),
        ('{"timeout": 1e999}', "timeout"),
        ('{"timeout": "99999999999999999999s"}', "timeout"),
        ('{"timeout": {"seconds": 1}}', "timeout"),
        ('{"canaries_disabled": 1}', "canaries_disabled"),
    ],
)
def test_values_that_no_field_holds_are_refused(settings: str, field: str) -> None:
    persona = f'{{"name": "a", "settings": {settings}}}'
    text = f'{{"format": "{FORM.format}", "dns_personas": [{persona}]}}'

    with pytest.raises(InvalidFields) as caught:
        FORM.read(text, lambda it, path: [])

    (violation,) = caught.value.violations
    assert violation.field == f"document.dns_personas[0].settings.{field}"
    assert "DnsSettings" not in violation.description
