"""What rows are read from: a file, a folder of files, a data set on the hub, a list of dicts or a table of pandas.

Finds the parts of a source and what tells it from a changed one. Knows no shapes of rows.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..problems import DataError, Problem
from . import cache, formats, hub_sets, text_files
from .arrow_files import without_nulls
from .progress import Meter
from .rows import Row, as_record

if TYPE_CHECKING:
    from datasets import Dataset

ON_THE_HUB = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
LISTED = 8  # names of a folder's contents in a message
BATCH = 1_000  # rows of a table that are turned into dicts at once
Records = Iterator[tuple[int, Any]]


class Part(NamedTuple):
    """One file of a source, or all of it: `records` gives (number, record or Fault); `size` is in `unit`.

    `note` says how it is cut into rows where that is a choice.
    """

    name: str
    size: int
    records: Callable[[Meter], Records]
    note: str = ""
    unit: Literal["bytes", "rows"] = "rows"


class Source(NamedTuple):
    """The parts of a source in their order; `stamp` tells it from a changed one, and is None for what is in memory.

    `ignored` names what lies in the folder and is not read. `problems` say why parts of it cannot be read at all.
    """

    name: str
    parts: tuple[Part, ...]
    stamp: tuple[object, ...] | None
    ignored: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def find(source: Any, *, split: str, revision: str | None, encoding: str | None) -> Source:
    """What a source consists of. Raises DataError when it is not there or of no known kind."""
    if encoding is not None and not text_files.known_encoding(encoding):
        fact = f"data.encoding is {encoding!r:.60}, which Python does not know."
        raise DataError([Problem("data.encoding", fact, "utf-8, utf-16 and cp1252 are common.")])
    if isinstance(source, str | Path):
        return _named(source, split, revision, encoding)
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
        return _frame(source)
    if isinstance(source, Sequence) and not isinstance(source, bytes | bytearray):
        part = Part("the list", len(source), partial(_listed, source))
        return Source("the list", (part,), None)
    fact = f"The source of the rows is of the type {type(source).__name__}."
    cure = "Give a path, a name on the hub, a list of dicts or a pandas DataFrame."
    raise DataError([Problem("data.train", fact, cure)])


def plain(value: Any) -> Any:
    """A value of pandas or NumPy as Python has it: what is missing becomes None, arrays become lists."""
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float):
        return None if value != value else float(value)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    kind = type(value).__module__.partition(".")[0]
    if kind == "numpy":
        return plain(value.tolist())
    if kind == "pandas":
        return None if type(value).__name__ in ("NaTType", "NAType") else str(value)
    return value


def _named(source: str | Path, split: str, revision: str | None, encoding: str | None) -> Source:
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _folder(path, split, encoding)
        if path.is_file():
            return _files(path.name, [path], encoding)
        path.stat()
    except FileNotFoundError as error:
        if isinstance(source, str) and _may_be_on_the_hub(source, path):
            return _hub(source, split, revision)
        raise _not_there(path, error) from None
    except (OSError, ValueError) as error:  # ValueError: no path can be spelled so
        raise _not_there(path, error) from None
    fact = f"{path} is neither a file nor a folder, but a device or a pipe."
    raise DataError([Problem(str(path), fact, "Save the rows to a file.")])


def _not_there(path: Path, error: OSError | ValueError) -> DataError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    fact = f"The data file {str(path)!r:.200} cannot be read: {reason}."
    if str(path).isprintable():
        fact = f"The data file {path} cannot be read: {reason}."
    cure = "Give the path of a file or folder, or a name on the hub such as tatsu-lab/alpaca."
    return DataError([Problem(str(path), fact, cure)])


def _may_be_on_the_hub(source: str, path: Path) -> bool:
    return bool(ON_THE_HUB.fullmatch(source)) and not formats.is_data(path)


def _files(name: str, paths: list[Path], encoding: str | None) -> Source:
    """The files that can be read, and why the others cannot."""
    several = len(paths) > 1
    parts, problems, stamps = [], [], []
    for path in paths:
        try:
            records, note = formats.reader(path, encoding, together=several)
            stamps.append(cache.stamp(path))
            parts.append(Part(path.name, path.stat().st_size, records, note, "bytes"))
        except DataError as error:
            problems += error.problems
    return Source(name, tuple(parts), tuple(stamps), problems=tuple(problems))


def _folder(folder: Path, split: str, encoding: str | None) -> Source:
    name = folder.resolve().name or str(folder)
    if hub_sets.is_saved(folder):
        return _data_set(hub_sets.saved(folder, split), name)
    inside = sorted(folder.iterdir())
    files = [path for path in inside if path.is_file() and formats.is_data(path)]
    # A README beside tables is about them; text is read where there is nothing else.
    tables = [path for path in files if formats.ENDINGS[formats.ending(path)] not in formats.PLAIN]
    files = tables or files
    ignored = [path.name + "/" * path.is_dir() for path in inside if path not in files]
    if not files:
        shown = ", ".join(ignored[:LISTED]) + (", ..." if len(ignored) > LISTED else "")
        fact = f"The folder {folder} holds no data files, but {shown or 'nothing'}."
        raise DataError([Problem(str(folder), fact, formats.KNOWN)])
    found = _files(name, files, encoding)
    return found._replace(ignored=tuple(ignored))


def _hub(name: str, split: str, revision: str | None) -> Source:
    return _data_set(hub_sets.fetch(name, split, revision), name)


def _data_set(data: "Dataset", name: str) -> Source:
    part = Part(name, data.num_rows, lambda meter: hub_sets.records(data, name, meter))
    return Source(name, (part,), hub_sets.stamp(data))


def _listed(source: Sequence[Any], meter: Meter) -> Records:
    for number, record in enumerate(source, start=1):
        meter.at(number)
        yield number, as_record(record) if isinstance(record, Row) else plain(record)


def _frame(frame: Any) -> Source:
    names = [str(name) for name in frame.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        fact = f"The table has several columns that are called {', '.join(twice):.100}."
        raise DataError([Problem("data.train", fact, "Give each column a name of its own.")])

    def records(meter: Meter) -> Records:
        for start in range(0, len(frame), BATCH):
            some = frame.iloc[start : start + BATCH]
            columns = [some.iloc[:, place].tolist() for place in range(len(names))]
            for number, values in enumerate(zip(*columns, strict=True), start=start + 1):
                meter.at(number)
                fields = (without_nulls(plain(value)) for value in values)
                yield number, dict(zip(names, fields, strict=True))

    return Source("the table", (Part("the table", len(frame), records),), None)
