"""Makes rows of a source's records, a batch at a time, and notes what is no row.

Knows the shapes of rows, and how a batch is laid out; not where it is kept (`table.py`).
"""

import json
from collections.abc import Callable
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from ..problems import DataError, Problem
from . import shapes, sources
from .faults import Fault, Faults
from .fits import SHAPES
from .progress import Meter, Progress
from .rows import Row, to_json
from .text_files import MOST
from .turns import kind_of

if TYPE_CHECKING:
    import pyarrow as pa

LOOKED_AT = 200  # records of each file by which its shape is told
BATCH_ROWS, BATCH_BYTES = 4_096, 16 * 2**20  # of one batch; whichever comes first


class About(NamedTuple):
    """What is said of rows beside the rows: of each file its name, shape and how it is cut; faults; records seen."""

    files: tuple[str, ...]
    shapes: tuple[shapes.Shape | None, ...]
    faults: Faults
    records: int
    ignored: tuple[str, ...]

    def to_json(self) -> str:
        """As text, for the cache."""
        kept = [shape and list(shape) for shape in self.shapes]
        return json.dumps([self.files, kept, self.faults.to_json(), self.records, self.ignored])

    @classmethod
    def from_json(cls, said: bytes) -> "About":
        """What `to_json` wrote."""
        files, kept, faults, records, ignored = json.loads(said)
        found = tuple(shape and shapes.Shape(*shape) for shape in kept)
        return cls(tuple(files), found, Faults.from_json(faults), records, tuple(ignored))


class Reading:
    """A source on its way to rows, by the settings that say how."""

    def __init__(
        self,
        source: sources.Source,
        shape: str,
        columns: dict[str, str],
        system: str | None,
        progress: Progress | None,
    ) -> None:
        self.source, self._detect = source, partial(shapes.detect, shape=shape, columns=columns)
        self._system, self._progress = system, progress

    def all(self, put: Callable[["pa.RecordBatch"], None]) -> About:
        """Reads everything and hands it on in batches. Raises DataError with all problems."""
        self._meter = Meter(self._progress, sum(part.size for part in self.source.parts))
        self._faults, self._records = Faults(), 0
        problems, found = list(self.source.problems), []
        batch = _Batch(put)
        for place, part in enumerate(self.source.parts):
            shape = None
            try:
                shape = self._part(place, part, batch)
            except DataError as error:
                problems += error.problems
            found.append(shape)
            self._meter.finish(part.size)
        batch.flush()
        if problems:
            raise DataError([*problems, *self._faults.problems(self.source.name)])
        if not self._records:
            raise DataError([_nothing(self.source)])
        self._meter.tell(last=True)
        files = tuple(part.name for part in self.source.parts)
        return About(files, tuple(found), self._faults, self._records, self.source.ignored)

    def _part(self, place: int, part: sources.Part, batch: "_Batch") -> shapes.Shape | None:
        """Reads one file; its shape, or None if it holds nothing that has one."""
        file = part.name if len(self.source.parts) > 1 else ""
        records = self._objects(part, file)
        first = list(self._first(records))
        shape = self._shape([record for _, record in first], part.name) if first else None
        for number, record in chain(first, records):
            try:
                row = shapes.to_row(record, shape, number, file=file, system=self._system)
                batch.add(row, place)
            except Fault as fault:
                self._faults.add(fault, number, file)
        if shape and part.note:
            shape = shape._replace(why=f"{shape.why}; {part.note}")
        return shape

    def _shape(self, records: list[dict], name: str) -> shapes.Shape:
        try:
            return self._detect(records)
        except DataError as error:
            named = [Problem(p.where, f"{name}: {p.fact}", p.cure) for p in error.problems]
            raise DataError(named) from None

    def _objects(self, part: sources.Part, file: str) -> sources.Records:
        """The records of a part; what is none is noted as a fault."""
        for number, record in part.records(self._meter):
            self._records += 1
            if not self._records % 256:
                self._meter.tell()
            if isinstance(record, dict):
                yield number, record
                continue
            if not isinstance(record, Fault):
                fact = f"it is {kind_of(record)}, not an object"
                record = Fault(fact, f"Known are: {SHAPES}.")
            self._faults.add(record, number, file)

    def _first(self, records: sources.Records) -> sources.Records:
        """The records by which the shape is told: few, and not much of a file of very long ones."""
        began = self._meter.now
        for number, record in islice(records, LOOKED_AT):
            yield number, record
            if self._meter.now - began > MOST:
                return


class _Batch:
    """Rows that are collected until they are enough for a batch."""

    def __init__(self, put: Callable[["pa.RecordBatch"], None]) -> None:
        self._put, self._bytes = put, 0
        self._columns: tuple[list, list, list, list] = ([], [], [], [])

    def add(self, row: Row, file: int) -> None:
        """Takes a row of the file at this place. Raises Fault when it cannot be kept."""
        try:
            content = to_json(row).encode()
            key = row.content_key()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            fact = f"it holds {half}, half of a character"
            raise Fault(fact, "Remove it, or write the whole character.", kind="encoding") from None
        except RecursionError:
            raise Fault("it is nested too deeply", "Make it flatter.") from None
        for column, value in zip(self._columns, (row.number, file, content, key), strict=True):
            column.append(value)
        self._bytes += len(content)
        if len(self._columns[0]) == BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hands on what is there."""
        if self._columns[0]:
            self._put(_record_batch(*self._columns))
            self._bytes = 0
            self._columns = ([], [], [], [])


def schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [("number", pa.int64()), ("file", pa.int32()), ("content", pa.large_string()), ("key", pa.uint64())]
    )  # fmt: skip


def _record_batch(
    numbers: list[int], files: list[int], contents: list[bytes], keys: list[int]
) -> "pa.RecordBatch":
    import pyarrow as pa

    content = pa.array(contents, pa.large_binary()).view(pa.large_string())
    columns = [pa.array(numbers, pa.int64()), pa.array(files, pa.int32()), content]
    return pa.RecordBatch.from_arrays([*columns, pa.array(keys, pa.uint64())], schema=schema())


def _nothing(source: sources.Source) -> Problem:
    size = sum(part.size for part in source.parts)
    empty = source.parts[0].unit == "bytes" and not size
    fact = f"{source.name} is empty (0 bytes)." if empty else f"{source.name} holds no rows."
    return Problem(source.name, fact, f"Give rows of a known shape: {SHAPES}.")
