"""Reads a source into rows that lie in the cache, memory-mapped: any of a million is there at once, the second time too.

Knows how rows are kept; what a source is and what its records look like is known by `sources.py` and `shapes.py`.
"""

import hashlib
import json
import operator
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..problems import DataError, Problem
from . import cache, shapes, sources
from .faults import printable
from .progress import Meter, Progress
from .reading import About, Reading, schema
from .rows import Row, as_record, from_json

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

VERSION = 2  # of all that makes rows of a source; another one reads sources anew


class Rows(Sequence[Row]):
    """The rows of a source, decoded when they are asked for.

    `name` is short, for messages. `files` are the names of its files, and `shapes` what each of them holds (None where
    no row could be read); `ignored` is what else lies in the folder. `faults` are the rows that are no rows, out of
    `records` that were looked at. `key` names what the rows depend on: the source as it was, and how it was read.
    """

    def __init__(
        self, name: str, key: str, table: "pa.Table", about: About, kept: Path | None = None
    ) -> None:
        self.name, self.key, self._table, self._kept = name, key, table, kept
        self.files, self.shapes, self.faults, self.records, self.ignored = about

    @property
    def shape(self) -> shapes.Shape | None:
        """The shape of the first file that has rows."""
        return next(filter(None, self.shapes), None)

    @cached_property
    def content_keys(self) -> "np.ndarray":
        """`Row.content_key` of every row, `(rows,)` of uint64."""
        return self._table["key"].to_numpy()

    @cached_property
    def numbers(self) -> "np.ndarray":
        """The number of every row within its file, `(rows,)` of int64."""
        return self._table["number"].to_numpy()

    @cached_property
    def file_numbers(self) -> "np.ndarray":
        """Where in `files` the file of every row is, `(rows,)` of int32."""
        return self._table["file"].to_numpy()

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step == 1:
                some = self._table.slice(start, max(0, stop - start))
                return list(self._decoded(some.to_batches()))
            return self.of(range(start, stop, step))
        position = operator.index(place)
        if not -len(self) <= position < len(self):
            raise IndexError(f"{self.name} has {len(self):,} rows; position {position:,} is none")
        return next(self._decoded(self._table.slice(position % len(self), 1).to_batches()))

    def __iter__(self) -> Iterator[Row]:
        if self._kept is not None and self._kept.exists():
            return self._decoded(_unmapped(self._kept))
        return self._decoded(self._table.to_batches())

    def __repr__(self) -> str:
        faulty = f", {self.faults.count:,} faulty" if self.faults else ""
        return f"<{len(self):,} rows of {self.name}{faulty}>"

    def of(self, positions: Iterable[int]) -> list[Row]:
        """The rows at these positions, counted from 0, in this order."""
        return [self[position] for position in positions]

    def position(self, number: int, file: str = "") -> int:
        """Where the row of this number is, in the named file or the only one. Raises DataError if there is none."""
        import numpy as np

        name = file or self.files[0]
        if name in self.files:
            of_file = self.file_numbers == self.files.index(name)
            found = np.flatnonzero(of_file & (self.numbers == number))
            if len(found):
                return int(found[0])
        faulty = [
            group.fact
            for group in self.faults.groups
            if number in group.numbers and group.file in (name, "")
        ]
        reason = faulty[0] if faulty else "there is no such row"
        fact = f"{name}, row {number:,}: {reason}."
        raise DataError([Problem(f"{name}, row {number:,}", fact, self._span(name))])

    def _span(self, file: str) -> str:
        if file not in self.files:
            return f"Its files are {', '.join(self.files):.200}."
        mine = self.numbers[self.file_numbers == self.files.index(file)]
        return f"Its rows are {mine[0]:,} to {mine[-1]:,}." if len(mine) else "It has no rows."

    def _decoded(self, batches: "Iterable[pa.RecordBatch]") -> Iterator[Row]:
        names = self.files if len(self.files) > 1 else ("",) * len(self.files)
        for batch in batches:
            parts = (batch[column].to_pylist() for column in ("content", "number", "file"))
            for content, number, file in zip(*parts, strict=True):
                yield from_json(content, number, names[file])


def look(
    source: Any,
    *,
    split: str = "train",
    revision: str | None = None,
    shape: str = "auto",
    columns: dict[str, str] | None = None,
    encoding: str | None = None,
    system: str | None = None,
    progress: Progress | None = None,
) -> Rows:
    """The rows of a source; those that are faulty are left in `faults`.

    `progress` is told how many bytes (of files) or rows are done, and of how many. Raises DataError with all problems
    when a file cannot be read as a whole, fits no shape, or when there is nothing in any.
    """
    how = (split, revision, shape, sorted((columns or {}).items()), encoding, system)
    try:
        found = sources.find(source, split=split, revision=revision, encoding=encoding)
        reading = Reading(found, shape, columns or {}, system, progress)
        if found.stamp is None:
            return _in_memory(reading)
        if found.problems:
            reading.all(lambda batch: None)  # tells what is wrong with the other files too
        key = cache.key(VERSION, found.stamp, *how)
        name = f"rows-{key}.arrow"
        return Rows(found.name, key, *_kept(name, reading), cache.folder() / name)
    except DataError as error:  # names of files and columns can be such that no terminal takes them
        problems = [Problem(*map(printable, problem)) for problem in error.problems]
        raise DataError(problems) from error.__cause__


def read(source: Any, **how: Any) -> Rows:
    """The rows of a source, as `look`. Raises DataError when there are faults, with all of them."""
    rows = look(source, **how)
    if rows.faults:
        raise DataError(rows.faults.problems(rows.name))
    return rows


def write(rows: Iterable[Row | dict[str, Any]] | Any, path: str | Path) -> Path:
    """Writes Rows, a list of rows or dicts, or a table of pandas as JSONL: whole, or not at all.

    Raises DataError for another ending, and for a value that JSON does not have.
    """
    place = Path(path).expanduser()
    if place.suffix.lower() not in (".jsonl", ".ndjson"):
        fact = f"Rows are written as JSONL, and {place.name} does not end in .jsonl."
        raise DataError([Problem(str(place), fact, "Give a path such as clean.jsonl.")])
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with cache.beside(place) as new, new.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(_lines(rows))
    except OSError as error:
        fact = f"{place} cannot be written: {error.strerror or error}."
        raise DataError([Problem(str(place), fact, "Give another path.")]) from None
    return place


def _lines(rows: Any) -> Iterator[str]:
    if isinstance(rows, Rows):
        records: Iterable[Any] = map(as_record, rows)
    else:
        found = sources.find(rows, split="train", revision=None, encoding=None)
        records = (record for _, record in found.parts[0].records(Meter(None, None)))
    for number, record in enumerate(records, start=1):
        try:
            line = json.dumps(record, ensure_ascii=False)
            if not line.isascii() and _halves(line):
                line = json.dumps(record)
        except (TypeError, ValueError, RecursionError) as error:
            fact = f"Row {number:,} cannot be written as JSON: {error}."
            cure = "Use texts, numbers, lists and dicts only."
            raise DataError([Problem(f"row {number:,}", fact, cure)]) from None
        yield line + "\n"


def _halves(line: str) -> bool:
    """Whether it holds half a character, which only JSON's own spelling can write."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return True
    return False


def _in_memory(reading: Reading) -> Rows:
    import pyarrow as pa

    batches: list[pa.RecordBatch] = []
    about = reading.all(batches.append)
    table = pa.Table.from_batches(batches, schema())
    said = hashlib.blake2b(f"{VERSION} {about.to_json()}".encode(), digest_size=16)
    for batch in batches:
        for buffer in batch["number"].buffers() + batch["content"].buffers():
            said.update(buffer or b"")
    return Rows(reading.source.name, said.hexdigest(), table, about)


def _kept(name: str, reading: Reading) -> tuple["pa.Table", About]:
    """The entry of the cache, made if it is not there or damaged; where no cache can be written, a passing one."""
    make = partial(_write, reading)
    try:
        return _open(cache.kept(name, make))
    except _Damaged:
        (cache.folder() / name).unlink(missing_ok=True)
        return _open(cache.kept(name, make))
    except OSError:
        return _passing(name, make)


def _passing(name: str, make: Callable[[Path], None]) -> tuple["pa.Table", About]:
    """What `make` writes, in a file that is gone when nobody uses it any more."""
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            make(Path(folder) / name)
            return _open(Path(folder) / name)  # stays mapped without its name
    except OSError as error:
        fact = f"The rows can be kept neither in {cache.folder()} nor in {tempfile.gettempdir()}: {error.strerror or error}."
        cure = "Free some space, or set WORKBENCH_CACHE to a folder on another disk."
        raise DataError([Problem("WORKBENCH_CACHE", fact, cure)]) from None


def _unmapped(place: Path) -> "Iterator[pa.RecordBatch]":
    """The batches of a kept file, read one after the other: a map would hold all that was seen in memory."""
    import pyarrow as pa

    with pa.OSFile(str(place)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


class _Damaged(Exception):
    """An entry of the cache is not what was written."""


def _write(reading: Reading, place: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(str(place), "wb") as file, pa.ipc.new_file(file, schema()) as writer:
        about = reading.all(writer.write_batch)
        empty = pa.RecordBatch.from_arrays([[], [], [], []], schema=schema())
        # what is known only at the end goes with a last batch: one file is whole or not there
        writer.write_batch(empty, custom_metadata={"about": about.to_json()})


def _open(place: Path) -> tuple["pa.Table", About]:
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(pa.memory_map(str(place)))
        last = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        return reader.read_all(), About.from_json(last.custom_metadata[b"about"])
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise _Damaged from error
