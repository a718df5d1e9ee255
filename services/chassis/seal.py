"""Opaque tokens: bytes that only the suite can read, write and redirect.

Sealed with AES-GCM and bound to a method and its arguments: a token says where to go on, never what
to show.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.chassis.errors import InvalidToken

KEY_SIZE = 32
# Random nonces are safe for 2^32 seals under one key: with a cursor every 5,000 names, 2 x 10^13
# names.
NONCE_SIZE = 12


class BadKey(ValueError):
    """A key that is not base64 of 32 bytes."""


def binding(method: str, arguments: bytes) -> bytes:
    """What a token is bound to: the method, and every argument that must not change."""
    return hashlib.sha256(method.encode() + b"\0" + arguments).digest()


def parse_keys(text: str) -> list[bytes]:
    """Keys from a comma-separated list of base64 texts. Raises BadKey."""
    keys = []
    for number, part in enumerate(text.split(","), start=1):
        try:
            key = base64.b64decode(part.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise BadKey(f"key {number} is not base64") from None
        if len(key) != KEY_SIZE:
            raise BadKey(f"key {number} has {len(key)} bytes, not {KEY_SIZE}")
        keys.append(key)
    return keys


class Seal:
    """Makes and reads tokens. The first key seals, every key opens: prepend a key to rotate."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = [AESGCM(key) for key in keys]

    def seal(self, payload: bytes, bound: bytes) -> str:
        """A token in the URL-safe alphabet."""
        nonce = os.urandom(NONCE_SIZE)
        sealed = self._ciphers[0].encrypt(nonce, payload, bound)
        return base64.urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()

    def open(self, token: str, bound: bytes, *, field: str) -> bytes:
        """The payload. Raises InvalidToken, naming the request's `field`."""
        sealed = _decode(token, field)
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], bound)
            except InvalidTag:
                continue
        raise InvalidToken(
            "is damaged, or belongs to another method, other arguments or a retired key",
            field=field,
        )


def _decode(token: str, field: str) -> bytes:
    try:
        encoded = token.encode("ascii")
        sealed = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        sealed = b""
    # Base64 has spellings that decode alike; only the one that was handed out is taken.
    if len(sealed) <= NONCE_SIZE or base64.urlsafe_b64encode(sealed).rstrip(b"=") != encoded:
        raise InvalidToken("is not a token of this service", field=field)
    return sealed
