"""Environment variables -> one frozen dataclass per service."""

import os
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

Settings = TypeVar("Settings")


class BadEnvironment(Exception):
    """Variables are missing or unreadable; the message names all of them."""


def read_settings(kind: type[Settings], environment: Mapping[str, str] | None = None) -> Settings:
    """Build the dataclass `kind` from variables named like its fields in upper case.

    Fields are str, int or float; one without a default is required. Raises BadEnvironment.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    problems = []
    types = get_type_hints(kind)
    for field in fields(kind):  # type: ignore[arg-type]
        variable = field.name.upper()
        text = environment.get(variable, "")
        if text:
            try:
                values[field.name] = types[field.name](text)
            except ValueError:
                problems.append(f"{variable}={text!r} is not {types[field.name].__name__}")
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append(f"{variable} is not set")
    if problems:
        raise BadEnvironment("; ".join(problems))
    return kind(**values)
