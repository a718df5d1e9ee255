"""Where a list of things stored under a name goes on, as a sealed token."""

from dataclasses import dataclass

from services.chassis.errors import InvalidToken
from services.chassis.seal import Seal

# The first byte is kind and version of the rest.
_KIND = b"\x01"


@dataclass(frozen=True, slots=True)
class Place:
    """Behind the thing of this name."""

    name: str

    def seal(self, seal: Seal, bound: bytes) -> str:
        return seal.seal(_KIND + self.name.encode(), bound)

    @classmethod
    def open(cls, seal: Seal, token: str, bound: bytes) -> "Place":
        """Raises InvalidToken."""
        payload = seal.open(token, bound, field="page_token")
        if payload[:1] != _KIND:
            raise InvalidToken("is of a kind this version does not know", field="page_token")
        return cls(payload[1:].decode())
