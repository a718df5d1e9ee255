"""Columns as bytes of the contract's batches."""

from collections.abc import Mapping, Sequence
from typing import cast

from domainflow.query.v1.query_service_pb2 import DomainBatch
from domainflow.query.v1.stream_pb2 import EnrichedBatch
from services.query.columns import COLUMNS, Columns, Kind, Prefixed
from services.query.sealed import delimited

# What stands before each name on the wire.
DOMAIN_TAG = DomainBatch.NAMES_FIELD_NUMBER << 3 | 2
ENRICHED_TAG = EnrichedBatch.NAMES_FIELD_NUMBER << 3 | 2

# The columns of a batch of names alone.
NAMES_ONLY = frozenset({"names"})
ALL = frozenset(COLUMNS)


def domain_payload(columns: Columns) -> bytes:
    """The columns as a part of a DomainBatch."""
    return _payload(DomainBatch(), columns, _DOMAIN_FIELDS)


def enriched_payload(columns: Columns) -> bytes:
    """The columns as a part of an EnrichedBatch."""
    return _payload(EnrichedBatch(), columns, _ENRICHED_FIELDS)


_DOMAIN_FIELDS = {f.name: f.number for f in DomainBatch.DESCRIPTOR.fields}
_ENRICHED_FIELDS = {f.name: f.number for f in EnrichedBatch.DESCRIPTOR.fields}


def _payload(
    batch: DomainBatch | EnrichedBatch, columns: Columns, fields: Mapping[str, int]
) -> bytes:
    small = []
    for path, values in columns.values.items():
        if isinstance(values, Prefixed) and values.tag == fields[path] << 3 | 2:
            wire = values.wire()
            if wire is not None:
                small.append(wire)
                continue
        if COLUMNS[path].kind is Kind.SMALL:
            # Numbers below 128, packed, are these very bytes.
            small.append(delimited(fields[path], cast(bytes, values)))
        elif COLUMNS[path].kind is Kind.TEXT:
            getattr(batch, path).extend(columns.texts(path))
        else:
            getattr(batch, path).extend(cast(Sequence[int], values))
    return b"".join((batch.SerializeToString(), *small))
