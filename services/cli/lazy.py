"""Command groups whose commands are imported when they are called, or shown in a help text.

All commands together take longer to import than most of them take to run.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


def group(
    commands: Mapping[str, str], groups: Mapping[str, str] | None = None, **options: Any
) -> typer.Typer:
    """A group of these, commands first, each by its name as `module:function`.

    The function of a command is the command, that of a group makes it. `options` are Typer's.
    """
    functions = {name: (where, False) for name, where in commands.items()}
    functions |= {name: (where, True) for name, where in (groups or {}).items()}

    class Group(TyperGroup):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self.commands = _Commands(functions, self.rich_markup_mode)

    made = typer.Typer(cls=Group, **options)
    # Without a command of its own Typer wants this to see that it is a group.
    made.callback()(_nothing)
    return made


def _nothing() -> None:
    pass


class _Commands(MutableMapping[str, Any]):
    """The commands of a group by name, each made at the first look at it."""

    def __init__(self, functions: Mapping[str, tuple[str, bool]], markup: Any) -> None:
        self._functions = functions
        self._markup = markup
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module, _, function = self._functions[name][0].partition(":")
            found = getattr(import_module(module), function)
            # A group with nothing else in it: Typer makes commands of groups only.
            around = typer.Typer(rich_markup_mode=self._markup)
            if self._functions[name][1]:
                around.add_typer(found(), name=name)
            else:
                around.command(name)(found)
            self._made[name] = typer.main.get_group(around).commands[name]
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands do not go")

    def __iter__(self) -> Iterator[str]:
        return iter({**self._functions, **self._made})

    def __len__(self) -> int:
        return len({**self._functions, **self._made})
