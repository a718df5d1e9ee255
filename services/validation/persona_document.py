"""Personas as one JSON document, for people to keep and to carry elsewhere.

Written and read strictly: what is read either is understood whole, or every fault of it is named.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from domainflow.validation.v1.dns_persona_pb2 import DnsPersona
from services.chassis.errors import FieldViolation, InvalidFields

FORMAT = "domainflow.dns-personas.v1"
# In one document; bytes, and personas.
MAX_SIZE = 1024 * 1024
MAX_PERSONAS = 1000

_PERSONAS = "document.dns_personas"
# What a persona brings along; the rest belongs to the place where it is stored.
_CARRIED = ("name", "description", "settings")

# Where json_format found a fault, by its own lights: the path says it better.
_PLACE = re.compile(r" at \w+(\.\w+(\[\d+\])?)+\.?\Z")

Check = Callable[[DnsPersona, str], Iterable[FieldViolation]]


def write(personas: Iterable[DnsPersona]) -> str:
    """The document of these personas."""
    carried = []
    for persona in personas:
        copy = DnsPersona(
            name=persona.name, description=persona.description, settings=persona.settings
        )
        carried.append(json_format.MessageToDict(copy, preserving_proto_field_name=True))
    return json.dumps({"format": FORMAT, "dns_personas": carried}, ensure_ascii=False, indent=2)


def read(document: str, check: Check) -> list[DnsPersona]:
    """The personas of a document, in its order; `check` says what is wrong with one at a path.

    Raises InvalidFields with every fault there is.
    """
    personas: list[DnsPersona] = []
    if violations := list(_read(document, check, personas)):
        raise InvalidFields(
            FieldViolation(_shown(each.field), _shown(each.description)) for each in violations
        )
    return personas


def _read(document: str, check: Check, personas: list[DnsPersona]) -> Iterator[FieldViolation]:
    try:
        whole = json.loads(document, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except RecursionError:
        yield FieldViolation("document", "is nested too deeply")
        return
    except ValueError as problem:
        yield FieldViolation("document", f"is no JSON: {problem}")
        return
    if not isinstance(whole, dict):
        yield FieldViolation("document", "is no JSON object")
        return
    if whole.get("format") != FORMAT:
        yield FieldViolation("document.format", f"is not {FORMAT!r}")
    for key in whole.keys() - {"format", "dns_personas"}:
        yield FieldViolation(f"document.{key}", "is not part of such a document")
    entries = whole.get("dns_personas")
    if not isinstance(entries, list):
        yield FieldViolation(_PERSONAS, "is no list")
        return
    if len(entries) > MAX_PERSONAS:
        yield FieldViolation(_PERSONAS, f"are {len(entries)}, more than {MAX_PERSONAS}")
        return
    names: dict[str, int] = {}
    for index, entry in enumerate(entries):
        path = f"{_PERSONAS}[{index}]"
        persona = DnsPersona()
        faults = list(_fill(persona, entry, path, only=_CARRIED))
        yield from faults
        # Of what could not be read the rules know only that it is missing.
        yield from (
            each
            for each in check(persona, path)
            if not any(_is_within(each.field, it.field) for it in faults)
        )
        first = names.setdefault(persona.name, index)
        if first != index and persona.name:
            yield FieldViolation(f"{path}.name", f"is that of dns_personas[{first}] already")
        personas.append(persona)


def _is_within(one: str, other: str) -> bool:
    """Whether one path is the other, or leads there, either way."""
    short, long = sorted((one, other), key=len)
    return long.startswith(short) and long[len(short) :][:1] in {"", ".", "["}


def _fill(
    message: Message, value: object, path: str, *, only: Sequence[str] = ()
) -> Iterator[FieldViolation]:
    """Fill a message from its JSON form. json_format alone would stop at the first fault."""
    if not isinstance(value, dict):
        yield FieldViolation(path, "is no JSON object")
        return
    # The stubs name two classes for one.
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if not only or field.name in only:
            fields[field.name] = fields[field.json_name] = field
    seen = set()
    for key, part in value.items():
        found = fields.get(key)
        if found is None:
            yield FieldViolation(f"{path}.{key}", f"is no field of {message.DESCRIPTOR.name} here")
        elif found.name in seen:
            yield FieldViolation(f"{path}.{found.name}", "is given twice")
        else:
            seen.add(found.name)
            yield from _fill_field(message, found, part, f"{path}.{found.name}")


def _fill_field(
    message: Message, field: FieldDescriptor, value: object, path: str
) -> Iterator[FieldViolation]:
    # As everywhere in the JSON form of protobuf, null is "not given".
    if value is None:
        return
    if not field.is_repeated:
        if _is_plain(field):
            yield from _parse(message, field, value, path)
        else:
            part = getattr(message, field.name)
            part.SetInParent()
            yield from _fill(part, value, path)
        return
    if not isinstance(value, list):
        yield FieldViolation(path, "is no list")
        return
    for index, element in enumerate(value):
        if _is_plain(field):
            faults = list(_parse(message, field, [element], f"{path}[{index}]"))
            yield from faults
            if faults:
                # The others keep their places.
                is_text = field.cpp_type == FieldDescriptor.CPPTYPE_STRING
                getattr(message, field.name).append("" if is_text else 0)
        else:
            part = getattr(message, field.name).add()
            yield from _fill(part, element, f"{path}[{index}]")


def _is_plain(field: FieldDescriptor) -> bool:
    """Whether json_format takes it as one value: no message, or one of protobuf's own."""
    kind = field.message_type
    return kind is None or kind.file.package == "google.protobuf"


def _parse(
    message: Message, field: FieldDescriptor, value: object, path: str
) -> Iterator[FieldViolation]:
    part = type(message)()
    try:
        json_format.ParseDict({field.name: value}, part)
        message.MergeFrom(part)
    # The last one for numbers without end.
    except (json_format.ParseError, ValueError, TypeError, ArithmeticError) as problem:
        text = str(problem)
        yield FieldViolation(path, _PLACE.sub("", text.partition(" field: ")[2] or text))


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:100]!r} is given twice in one object")
            seen.add(key)
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _shown(text: str) -> str:
    """As it can be sent: JSON can hold halves of characters."""
    return text.encode("utf-8", "backslashreplace").decode()[:500]
