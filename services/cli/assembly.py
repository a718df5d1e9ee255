"""Puts the parts of an export together: one Parquet, CSV or NDJSON file, a batch at a time.

Import it where it is used only: pyarrow takes 0.1 s and more. Rows are never Python objects.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet

from services.cli.kept import Part

# Rows that are compressed together: what readers of Parquet skip or read as a whole.
ROW_GROUP = 122_880
CAMPAIGN_ID = "campaign_id"
# Columns of few values. In the others hardly any value comes twice, and a dictionary of them is
# made only to be thrown away: a third of the time, and for times and positions a larger file.
_DICTIONARIES = (
    CAMPAIGN_ID,
    "dns_verdict",
    "dns_rcode",
    "dns_resolver",
    "http_verdict",
    "http_status_code",
    "score",
    "lead_status",
    "lead_reason",
)
# Columns of numbers that hardly differ from the ones before them.
_DELTAS = ("position", "dns_check_time")


def assemble(
    parts: Sequence[Part], schema: bytes, columns: Sequence[str], form: str, path: Path
) -> int:
    """Write the rows of all parts in order, those that are still to come as they come.

    `schema` is that of the parts; `columns` may also have campaign_id, which no row says itself.
    The answer is the number of rows. Raises kept.Dropped.
    """
    rows = pa.ipc.read_schema(pa.py_buffer(schema))
    campaign_id = pa.field(CAMPAIGN_ID, pa.string(), nullable=False)
    whole = pa.schema([campaign_id if c == CAMPAIGN_ID else rows.field(c) for c in columns])
    count = 0
    with _writer(form)(path, whole) as writer:
        for part in parts:
            for batch in batches(part, rows):
                arrays = [
                    pa.repeat(part.campaign_id, len(batch)) if c == CAMPAIGN_ID else batch.column(c)
                    for c in columns
                ]
                writer.write(pa.RecordBatch.from_arrays(arrays, schema=whole))
                count += len(batch)
    return count


def batches(part: Part, schema: Any) -> Iterator[Any]:
    """The record batches of a part, until nothing else comes. Raises kept.Dropped."""
    with pa.OSFile(str(part.path)) as file:
        while part.wait(file.tell()) > file.tell():
            yield pa.ipc.read_record_batch(pa.ipc.read_message(file), schema)


class _Writer(Protocol):
    """Writes one file."""

    def __init__(self, path: Path, schema: Any) -> None: ...

    def write(self, batch: Any) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class _Parquet:
    """Collects batches to row groups."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._file = pa.parquet.ParquetWriter(
            path,
            schema,
            compression="zstd",
            use_dictionary=[name for name in schema.names if name in _DICTIONARIES],
            column_encoding={
                name: "DELTA_BINARY_PACKED" for name in schema.names if name in _DELTAS
            },
        )
        self._batches: list[Any] = []
        self._count = 0

    def write(self, batch: Any) -> None:
        self._batches.append(batch)
        self._count += len(batch)
        if self._count >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._batches:
            table = pa.Table.from_batches(self._batches)
            self._file.write_table(table, row_group_size=len(table))
        self._batches, self._count = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()


def _writer(form: str) -> type[_Writer]:
    if form == "parquet":
        return _Parquet
    # Imported here: it takes as long as all of the above, and most exports are Parquet.
    from services.cli.lines import Csv, Ndjson

    return Csv if form == "csv" else Ndjson
