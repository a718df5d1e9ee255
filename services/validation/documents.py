"""What is stored under a name as one JSON document, for people to keep and to carry elsewhere.

Written and read strictly: what is read either is understood whole, or every fault of it is named.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.chassis.errors import FieldViolation, InvalidFields

# In one document.
MAX_THINGS = 1000

# Where json_format found a fault, by its own lights: the path says it better.
_PLACE = re.compile(r" at \w+(\.\w+(\[\d+\])?)+\.?\Z")

_STEP = re.compile(r"[.\[]")

Thing = TypeVar("Thing", bound=Message)


@dataclass(frozen=True, slots=True)
class Form(Generic[Thing]):
    """A kind of document: of things of one type."""

    # {"format": format, key: [...]}
    format: str
    key: str
    message: type[Thing]
    # Fields that a thing brings along; the rest belongs to the place where it is stored.
    carried: Sequence[str]
    # Bytes.
    max_size: int = 1024 * 1024

    def write(self, things: Iterable[Thing]) -> str:
        """The document of these things: as people like to read it, unless that takes more than
        `max_size`."""
        carried = []
        for thing in things:
            whole = json_format.MessageToDict(thing, preserving_proto_field_name=True)
            carried.append({name: whole[name] for name in self.carried if name in whole})
        document = {"format": self.format, self.key: carried}
        text = json.dumps(document, ensure_ascii=False, indent=2)
        if len(text.encode()) > self.max_size:
            text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return text

    def read(
        self, document: str, check: Callable[[Thing, str], Iterable[FieldViolation]]
    ) -> list[Thing]:
        """The things of a document, in its order; `check` says what is wrong with one at a path.

        Raises InvalidFields with every fault there is.
        """
        things: list[Thing] = []
        if violations := list(self._read(document, check, things)):
            raise InvalidFields(
                FieldViolation(_shown(each.field), _shown(each.description)) for each in violations
            )
        return things

    def _read(
        self,
        document: str,
        check: Callable[[Thing, str], Iterable[FieldViolation]],
        things: list[Thing],
    ) -> Iterator[FieldViolation]:
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
        if whole.get("format") != self.format:
            yield FieldViolation("document.format", f"is not {self.format!r}")
        for key in whole.keys() - {"format", self.key}:
            yield FieldViolation(f"document.{key}", "is not part of such a document")
        entries = whole.get(self.key)
        if not isinstance(entries, list):
            yield FieldViolation(f"document.{self.key}", "is no list")
            return
        if len(entries) > MAX_THINGS:
            problem_of_all = f"are {len(entries)}, more than {MAX_THINGS}"
            yield FieldViolation(f"document.{self.key}", problem_of_all)
            return
        names: dict[str, int] = {}
        for index, entry in enumerate(entries):
            path = f"document.{self.key}[{index}]"
            thing = self.message()
            faults = list(_fill(thing, entry, path, only=self.carried))
            yield from faults
            # Of what could not be read the rules know only that it is missing.
            unread = _Paths(each.field for each in faults)
            yield from (each for each in check(thing, path) if not unread.touch(each.field))
            name = getattr(thing, "name", "")
            first = names.setdefault(name, index)
            if first != index and name:
                yield FieldViolation(f"{path}.name", f"is that of {self.key}[{first}] already")
            things.append(thing)


class _Paths:
    """Paths of fields, to tell which others are one of them, lead there or begin there."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = set(paths)
        self._above = {above for path in self._paths for above in _above(path)}

    def touch(self, path: str) -> bool:
        return (
            path in self._paths
            or path in self._above
            or any(above in self._paths for above in _above(path))
        )


def _above(path: str) -> Iterator[str]:
    """The paths that lead to this one: of `a.b[1].c`, `a`, `a.b` and `a.b[1]`."""
    return (path[: end.start()] for end in _STEP.finditer(path))


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
