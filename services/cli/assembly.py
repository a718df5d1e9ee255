"""Puts the parts of an export together: one Parquet, CSV or NDJSON file, a batch at a time.

Import it where it is used only: pyarrow takes 0.4 s. Rows are never Python objects.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from services.cli.kept import Part

# Rows that are compressed together: what readers of Parquet skip or read as a whole.
ROW_GROUP = 122_880
CAMPAIGN_ID = "campaign_id"


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
    with _WRITERS[form](path, whole) as writer:
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
        self._file = pa.parquet.ParquetWriter(path, schema, compression="zstd")
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


class _Lines:
    """A file of texts."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._file = path.open("wb")

    def _join(self, pieces: list[Any]) -> None:
        """Write each row's pieces, one after the other."""
        lines = pc.binary_join_element_wise(*pieces, "")
        size = pc.sum(pc.binary_length(lines)).as_py() or 0
        self._file.write(memoryview(lines.buffers()[2])[:size] if size else b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


class _Csv(_Lines):
    """A header, then a line a row; what is not known is empty."""

    def __init__(self, path: Path, schema: Any) -> None:
        super().__init__(path, schema)
        self._file.write((",".join(schema.names) + "\n").encode())
        # A line with nothing on it would be none.
        self._nothing = '""' if len(schema.names) == 1 else ""

    def write(self, batch: Any) -> None:
        pieces: list[Any] = []
        for column in batch.columns:
            pieces += [",", pc.coalesce(_csv(column), self._nothing)]
        self._join([*pieces[1:], "\n"])


class _Ndjson(_Lines):
    """An object a line; what is not known is null, and a list without entries."""

    def write(self, batch: Any) -> None:
        pieces: list[Any] = []
        for number, (name, column) in enumerate(
            zip(batch.schema.names, batch.columns, strict=True)
        ):
            pieces += [f"{',' if number else '{'}{json.dumps(name)}:", _json(column)]
        self._join([*pieces, "}\n"])


def _text(column: Any) -> Any:
    """As strings, null for what is not known or empty."""
    if pa.types.is_list(column.type):
        joined = pc.binary_join(column, ",")
        return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)
    if pa.types.is_timestamp(column.type):
        plain = column.cast(pa.int64()).cast(pa.timestamp("us")).cast(pa.string())
        stamped = pc.replace_substring(plain, " ", "T")
        return pc.binary_join_element_wise(stamped, "Z", "")
    return column.cast(pa.string())


def _csv(column: Any) -> Any:
    """As fields of a line, quoted where they have to be; null for what is not known or empty."""
    texts = _text(column)
    special = pc.match_substring_regex(texts, '[",\r\n]')
    if not pc.any(special).as_py():
        return texts
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(texts, '"', '""'), '"', "")
    return pc.if_else(special, quoted, texts)


def _json(column: Any) -> Any:
    """As JSON, which is never null."""
    if pa.types.is_list(column.type):
        values = pa.ListArray.from_arrays(column.offsets, _quoted(column.values))
        joined = pc.binary_join(values, ",")
        return pc.binary_join_element_wise("[", pc.coalesce(joined, ""), "]", "")
    if pa.types.is_string(column.type) or pa.types.is_timestamp(column.type):
        return pc.coalesce(_quoted(_text(column)), "null")
    return pc.coalesce(_text(column), "null")


def _quoted(texts: Any) -> Any:
    if pc.any(pc.match_substring_regex(texts, "[\\x00-\\x1f]")).as_py():
        quoted = [
            None if text is None else json.dumps(text, ensure_ascii=False)
            for text in texts.to_pylist()
        ]
        return pa.array(quoted, pa.string())
    escaped = pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')
    return pc.binary_join_element_wise('"', escaped, '"', "")


_WRITERS: Mapping[str, type[_Writer]] = {"parquet": _Parquet, "csv": _Csv, "ndjson": _Ndjson}
