"""Secrets at rest: what must be used again later, such as a proxy's password, and read by nobody.

An envelope is AES-256-GCM with a random nonce, bound to the one place it is stored at: copied to
another row or column it does not open. It says which key made it, so keys can be exchanged while
both are known: the first key seals, every key opens. Nothing here shows a secret in a message, a
log line or a repr.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.chassis.seal import KEY_SIZE, NONCE_SIZE, BadKey, binding, parse_keys

# First byte of an envelope; another format takes another number.
FORMAT = 1
# Bytes of a key's id. It is derived from the key: nobody can give two keys one name, and the
# wrong key under the right name is found out.
KEY_ID_SIZE = 8
TAG_SIZE = 16
OVERHEAD = 1 + KEY_ID_SIZE + NONCE_SIZE + TAG_SIZE

__all__ = ["BadKey", "Secret", "SecretBox", "UnreadableSecret", "key_id_of", "new_key", "place"]


class UnreadableSecret(Exception):
    """An envelope does not open; the message says why, never what is in it."""


class Secret:
    """A text that shows itself only when asked by `reveal`.

    Equal to another secret of the same text, in constant time. It cannot be a key of a dict,
    pickled, or written as JSON.
    """

    __slots__ = ("_text",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for where it is used."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_encoded(self._text), _encoded(other._text))

    def __repr__(self) -> str:
        return "Secret(***)" if self._text else "Secret()"

    def __str__(self) -> str:
        return "***" if self._text else ""

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, _memo: object) -> "Secret":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: seal it")


def place(table: str, row_id: str, column: str) -> bytes:
    """What an envelope is bound to: the place it is stored at."""
    return binding(f"secret {table}.{column}", row_id.encode())


def new_key() -> bytes:
    """A random key."""
    return os.urandom(KEY_SIZE)


class SecretBox:
    """Seals and opens. The first key seals, every key opens: prepend a key to rotate, seal anew
    what `is_current` denies, then drop the old one."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Raises BadKey without a key, and for one that is not 32 bytes."""
        if not keys:
            raise BadKey("there is no key")
        for number, key in enumerate(keys, start=1):
            if len(key) != KEY_SIZE:
                raise BadKey(f"key {number} has {len(key)} bytes, not {KEY_SIZE}")
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._newest = _key_id(keys[0])

    @classmethod
    def of(cls, text: str) -> "SecretBox":
        """From a comma-separated list of base64 texts, the newest key first. Raises BadKey."""
        return cls(parse_keys(text))

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of the known keys in hexadecimal, the one that seals first. They may be shown."""
        return tuple(each.hex() for each in self._ciphers)

    def seal(self, secret: Secret, bound: bytes) -> bytes:
        """An envelope: format, key id, nonce, then OVERHEAD in all beyond the secret's UTF-8."""
        head = bytes([FORMAT]) + self._newest
        nonce = os.urandom(NONCE_SIZE)
        text = _encoded(secret.reveal())
        return head + nonce + self._ciphers[self._newest].encrypt(nonce, text, head + bound)

    def open(self, envelope: bytes, bound: bytes) -> Secret:
        """The secret. Raises UnreadableSecret."""
        key_id = _checked_key_id(envelope)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise UnreadableSecret(f"sealed with the key {key_id.hex()}, which is not known here")
        head, rest = envelope[: 1 + KEY_ID_SIZE], envelope[1 + KEY_ID_SIZE :]
        try:
            text = cipher.decrypt(rest[:NONCE_SIZE], rest[NONCE_SIZE:], head + bound)
        except InvalidTag:
            raise UnreadableSecret("damaged, or stored at another place") from None
        return Secret(text.decode("utf-8", "surrogatepass"))

    def is_current(self, envelope: bytes) -> bool:
        """Whether the newest key made it. Raises UnreadableSecret for what is no envelope."""
        return _checked_key_id(envelope) == self._newest

    def reseal(self, envelope: bytes, bound: bytes) -> bytes:
        """The same secret under the newest key; the envelope itself where it is that already.

        Raises UnreadableSecret.
        """
        if self.is_current(envelope):
            return envelope
        return self.seal(self.open(envelope, bound), bound)

    def __repr__(self) -> str:
        return f"SecretBox(key_ids={self.key_ids!r})"


def key_id_of(envelope: bytes) -> str:
    """Id of the key that made an envelope, in hexadecimal. Raises UnreadableSecret."""
    return _checked_key_id(envelope).hex()


def _checked_key_id(envelope: bytes) -> bytes:
    if len(envelope) < OVERHEAD:
        raise UnreadableSecret(f"no envelope: has {len(envelope)} bytes, fewer than {OVERHEAD}")
    if envelope[0] != FORMAT:
        raise UnreadableSecret(f"has format {envelope[0]}, not {FORMAT}")
    return bytes(envelope[1 : 1 + KEY_ID_SIZE])


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"domainflow secret key id\0" + key).digest()[:KEY_ID_SIZE]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
