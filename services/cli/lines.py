"""Rows of Arrow record batches as lines of CSV and NDJSON. Rows are never Python objects.

Import it where it is used only: pyarrow.compute takes 0.1 s.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc


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


class Csv(_Lines):
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


class Ndjson(_Lines):
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
