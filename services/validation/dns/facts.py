"""What a verdict and its evidence say of the registrable domain. Pure.

Most facts follow from the verdict and the zone that spoke for it, so that an ordinary outcome need
not carry them.
"""

from services.validation.dns import wire
from services.validation.dns.suffixes import public_suffix, registrable
from services.validation.dns.verdict import Outcome, Verdict

_UNKNOWN = None, None
_YES = True, True
_NO = False, False


def of(outcome: Outcome) -> tuple[bool | None, bool | None]:
    """Whether the registrable domain is registered, and delegated; None: cannot be told.

    The registrable domain is the label below the public suffix with the suffix: a suffix itself has
    none. What was learned from the authority counts before what can be concluded.
    """
    verdict = outcome.verdict
    evidence = outcome.evidence
    if evidence is None:
        # A million of these a minute.
        if verdict is Verdict.NXDOMAIN:
            return _absent(outcome.name, outcome.chain, outcome.authority)
        if verdict is Verdict.RESOLVED:
            return _UNKNOWN if public_suffix(outcome.name) == outcome.name else _YES
        return _concluded(outcome)
    concluded = _concluded(outcome)
    registered = concluded[0] if evidence.registered is None else evidence.registered
    delegated = concluded[1] if evidence.delegated is None else evidence.delegated
    return registered, delegated


def at_or_below(name: str, zone: str) -> bool:
    """Whether `zone` ("." or empty: the root) is `name` or one of its ancestors."""
    return name == zone or zone in ("", ".") or name.endswith("." + zone)


def _concluded(outcome: Outcome) -> tuple[bool | None, bool | None]:
    name, verdict, evidence = outcome.name, outcome.verdict, outcome.evidence
    domain = registrable(name)
    if not domain:
        return _UNKNOWN
    if evidence is not None and any(
        it.qtype in (wire.NS, wire.SOA) and it.verdict is Verdict.RESOLVED and not it.chain
        for it in evidence.records
    ):
        # Name servers or a start of authority of its own, whatever its addresses are.
        return _YES
    if verdict is Verdict.NXDOMAIN:
        return _absent(name, outcome.chain, outcome.authority)
    if verdict in (Verdict.RESOLVED, Verdict.CNAME_LOOP):
        return _YES
    if verdict is Verdict.WILDCARD:
        proof = evidence.wildcard if evidence is not None else None
        if proof is None:
            return _UNKNOWN
        return _YES if at_or_below(proof.parent, domain) else _NO
    if verdict is Verdict.NO_DATA:
        # That a name exists in its registry's zone does not make it somebody's.
        below = bool(outcome.authority) and at_or_below(outcome.authority, domain)
        return (
            _YES if outcome.chain or (below and at_or_below(name, outcome.authority)) else _UNKNOWN
        )
    return _UNKNOWN


def _absent(name: str, chain: tuple[str, ...], zone: str) -> tuple[bool | None, bool | None]:
    """What it says that `zone` knows no such name."""
    suffix = public_suffix(name)
    if zone == suffix and not chain and zone != name:
        # Nearly always.
        return _NO
    if name == suffix or not suffix:
        return _UNKNOWN
    if chain:
        # The alias exists; what it points to does not.
        return _YES
    if not zone:
        return _UNKNOWN
    if at_or_below(suffix, zone):
        return _NO
    # Somebody's zone lies between the suffix and the name.
    return _YES if at_or_below(name, zone) else _UNKNOWN
