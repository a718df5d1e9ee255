"""Files that only their owner may read: passwords, keys, configurations that hold one."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def kept_secret(file: Path, make: Callable[[], str] = lambda: secrets.token_hex(24)) -> str:
    """A random secret made once and kept in a file only its owner can read."""
    if not file.exists():
        write_private(file, make() + "\n")
    return file.read_text().strip()


def write_private(file: Path, text: str) -> None:
    """Write a file of mode 0600 whole or not at all."""
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    fresh.replace(file)
