"""Rows of Parquet and Arrow files, and of anything that hands out Arrow's batches.

Only some rows are in memory at a time, however large the file's own groups are. Knows no shapes of rows.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..problems import DataError, Problem
from .progress import Meter
from .text_files import BLOCK

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS, BATCH_BYTES = 2_000, 16 * 2**20  # of one batch; whichever comes first
Records = Iterator[tuple[int, dict[str, Any]]]


def parquet(path: Path, meter: Meter) -> Records:
    """Rows of a Parquet file. Raises DataError when it is broken, encrypted or names columns twice."""
    import pyarrow.parquet as pq

    with _told(path, "Parquet"), pq.ParquetFile(path, buffer_size=BLOCK) as file:
        about = file.metadata
        size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        rows = BATCH_BYTES * about.num_rows // max(size, 1)
        batches = file.iter_batches(max(1, min(BATCH_ROWS, rows)))
        share = path.stat().st_size / max(about.num_rows, 1)
        for number, record in records(batches, path.name):
            meter.at(int(number * share))
            yield number, record


def arrow(path: Path, meter: Meter) -> Records:
    """Rows of an Arrow file or stream, as Feather and `datasets` write them too. Raises DataError as `parquet` does."""
    import pyarrow as pa

    with _told(path, "Arrow"), pa.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(place) for place in range(reader.num_record_batches))
        else:
            file.seek(0)
            batches = pa.ipc.open_stream(file)
        number = 0
        for batch in batches:
            batch.validate(full=True)  # what is damaged would else be read from anywhere in memory
            for _, record in records(_cut(batch), path.name):
                number += 1
                yield number, record
            meter.at(file.tell())


def records(batches: Iterable["pa.RecordBatch"], name: str) -> Records:
    """Rows by their place from 1. What is null inside a nested value is left out of it.

    Raises DataError when `name` has columns of the same name.
    """
    number = 0
    for batch in batches:
        names = batch.schema.names
        if twice := sorted({column for column in names if names.count(column) > 1}):
            fact = f"{name}: several of its columns are called {', '.join(twice):.100}."
            raise DataError([Problem(name, fact, "Give each column a name of its own.")])
        for values in zip(*map(_values, batch.columns), strict=True):
            number += 1
            yield number, dict(zip(names, values, strict=True))


def without_nulls(value: Any) -> Any:
    """A nested value without the fields that are null: a table has every field in every row."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def _cut(batch: "pa.RecordBatch") -> Iterator["pa.RecordBatch"]:
    rows = max(1, BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1))
    step = min(BATCH_ROWS, rows)
    return (batch.slice(start, step) for start in range(0, batch.num_rows, step))


def _values(column: "pa.Array") -> list[Any]:
    """A column as Python has it, nested ones a level at a time: Arrow's own way makes an object of every value first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_temporal(kind):
        column = column.cast(pa.string())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.list_value_length(column).to_pylist()
        inner = iter(_values(column.flatten()))
        return [None if length is None else list(islice(inner, length)) for length in lengths]
    if pa.types.is_struct(kind) and kind.num_fields:
        names = [kind.field(place).name for place in range(kind.num_fields)]
        there = column.is_valid().to_pylist()
        rows = zip(*map(_values, column.flatten()), strict=True)
        return [
            {name: value for name, value in zip(names, row, strict=True) if value is not None}
            if valid
            else None
            for valid, row in zip(there, rows, strict=True)
        ]
    values = column.to_pylist()
    return list(map(without_nulls, values)) if pa.types.is_nested(kind) else values


@contextmanager
def _told(path: Path, kind: str) -> Iterator[None]:
    """Makes one sentence of what Arrow says about a file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if "encrypt" in said or "decrypt" in said:
            fact = f"{path.name} is encrypted."
            cure = "Decrypt it first, and write it as plain Parquet."
        else:
            fact = f"{path.name} cannot be read as {kind}: {said:.200}."
            cure = "Copy or download it again, or write it anew."
        raise DataError([Problem(str(path), fact, cure)]) from None
