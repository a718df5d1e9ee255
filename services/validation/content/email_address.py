"""What an e-mail address is here (RFC 5321, 6531): a local part of 1-64 octets without quotes, "@",
a domain name of the DNS; 254 octets in all. Pure.

The local part is made lower case. RFC 5321 leaves its case to the receiver, but no receiver of
note tells INFO from info, and a list of whom not to write to must not be escaped by a capital.
"""

import re
import unicodedata

from services.chassis.domain_name import NotADomainName, normalise

MAX_ADDRESS = 254
MAX_LOCAL = 64

# Dot-atom: atext of RFC 5322 and, by RFC 6531, letters beyond ASCII.
_ATEXT = r"[\w!#$%&'*+/=?^`{|}~-]"
_LOCAL = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*\Z")


class NotAnAddress(ValueError):
    """The text cannot be an e-mail address; the message says why."""


def normalise_address(text: str) -> str:
    """The address as it is kept and compared: trimmed, lower case, domain in A-labels.

    Raises NotAnAddress.
    """
    local, at, domain = text.strip().rpartition("@")
    if not at:
        raise NotAnAddress("has no @")
    try:
        domain = normalise(domain)
    except NotADomainName as problem:
        raise NotAnAddress(f"its domain {problem}") from None
    local = normalise_local(local)
    address = f"{local}@{domain}"
    if len(address.encode()) > MAX_ADDRESS:
        raise NotAnAddress(f"has more than {MAX_ADDRESS} octets")
    return address


def normalise_local(local: str) -> str:
    """The part before the @. Raises NotAnAddress."""
    if not local:
        raise NotAnAddress("has nothing before the @")
    # The length first: normalisation of long input is work for nothing.
    if len(local) > MAX_LOCAL:
        raise NotAnAddress(f"has more than {MAX_LOCAL} octets before the @")
    if not local.isascii():
        local = unicodedata.normalize("NFC", local)
    local = local.lower()
    if not _LOCAL.match(local):
        raise NotAnAddress("has characters or dots before the @ that cannot stand there")
    if len(local.encode()) > MAX_LOCAL:
        raise NotAnAddress(f"has more than {MAX_LOCAL} octets before the @")
    return local
