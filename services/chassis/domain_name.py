"""What a DNS name is here (RFC 1035, 1123, 5891): LDH labels of 1-63, 253 in all, at least two
labels. Pure."""

import re

import idna

MAX_NAME = 253
MAX_LABEL = 63

# The ordinary name, in one match. The last label is not all digits: that would read as an address.
_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}\Z")


class NotADomainName(ValueError):
    """The text cannot be a DNS name; the message says why."""


def normalise(text: str) -> str:
    """The name as it is stored and asked for: trimmed, lower case, A-labels, no trailing dot.

    Raises NotADomainName.
    """
    name = text.strip().lower().removesuffix(".")
    if len(name) <= MAX_NAME and _NAME.match(name):
        return name
    if not name.isascii():
        # Again: there are other characters than the ASCII one that stand for the dot.
        name = _to_ascii(name).removesuffix(".")
    problem = explain(name)
    if problem:
        raise NotADomainName(problem)
    return name


def explain(name: str) -> str:
    """What is wrong with an ASCII, lower-case name; empty when nothing is."""
    if not name:
        return "is empty"
    if len(name) > MAX_NAME:
        return f"has {len(name)} characters, more than {MAX_NAME}"
    labels = name.split(".")
    for label in labels:
        if problem := explain_label(label):
            return problem
    if len(labels) < 2:
        return "has no dot: a name needs a parent domain"
    if labels[-1].isdigit():
        return "ends in a number: that would be an address"
    return ""


def explain_label(label: str) -> str:
    """What is wrong with one ASCII, lower-case label; empty when nothing is."""
    if not label:
        return "has an empty label"
    if len(label) > MAX_LABEL:
        return f"has a label of {len(label)} characters, more than {MAX_LABEL}"
    if label[0] == "-" or label[-1] == "-":
        return f"has a label with a hyphen at its edge: {label!r}"
    if bad := sorted(set(re.sub(r"[a-z0-9-]", "", label))):
        return f"has characters other than letters, digits and hyphens: {''.join(bad)!r}"
    return ""


def _to_ascii(name: str) -> str:
    # idna takes quadratic time on long input (CVE-2024-3651, CVE-2026-45409): bound it first.
    if len(name) > MAX_NAME:
        raise NotADomainName(f"has {len(name)} characters, more than {MAX_NAME}")
    try:
        return idna.encode(name, uts46=True, transitional=False).decode()
    except idna.IDNAError as error:
        raise NotADomainName(f"is no internationalised name: {error}") from error
