"""Which format a file has, by its first bytes and its ending, and the reader for it.

Knows the formats' names and marks; how each is read stands in its own module.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from ..problems import DataError, Problem
from . import arrow_files, csv_files, json_files, text_files
from .progress import Meter

Format = Literal["json", "csv", "text", "document", "parquet", "arrow"]
ENDINGS: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".md": "document",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
PLAIN = ("text", "document")  # formats of raw text
KNOWN = "Known are .jsonl, .json, .csv, .tsv (each also .gz), .parquet, .arrow, .txt and .md."
# Refused by their first bytes, so that a wrong ending does not hide them: what they are, and the way out.
REFUSED = (
    (b"PK\x03\x04", "a ZIP archive (.zip, .xlsx, .docx)", "Unpack it, or save the table as CSV."),
    (b"PK\x05\x06", "an empty ZIP archive", "Give a file with rows."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it and give the file that is in it."),
    (b"Rar!", "a RAR archive", "Unpack it and give the file that is in it."),
    (b"BZh", "packed with bzip2", "Unpack it, or pack it with gzip."),
    (b"\xfd7zXZ\x00", "packed with xz", "Unpack it, or pack it with gzip."),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "Unpack it, or pack it with gzip."),
    (b"%PDF", "a PDF", "Take its text out and save that as .txt."),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "Save the table as CSV, or the text as .txt."),
    (b"SQLite format 3", "an SQLite data base", "Write the table to a CSV or JSONL file."),
    (b"{\\rtf", "a rich text file", "Save it as plain text (.txt)."),
    (b"FEA1", "Feather's first version", "Write it again with a newer one, or as Parquet."),
    (b"PARE", "an encrypted Parquet file", "Decrypt it first, and write it as plain Parquet."),
)  # fmt: skip
REFUSED_ENDINGS = {
    ".xls": REFUSED[8],
    ".zip": REFUSED[0],
    ".xlsx": REFUSED[0],
    ".docx": REFUSED[0],
    ".7z": REFUSED[2],
    ".tar": (b"", "a tar archive", "Unpack it and give the file or folder that is in it."),
    ".tgz": (b"", "a tar archive", "Unpack it and give the file or folder that is in it."),
    ".pdf": REFUSED[7],
} | dict.fromkeys(
    (".pkl", ".pickle", ".pt", ".pth", ".joblib"),
    (b"", "a pickle, which can run code when it is read", "Save the rows as JSONL or CSV."),
)
PICKLE = b"\x80"  # and then its version


def is_data(path: Path) -> bool:
    """Whether a folder's file is one to read, by its ending."""
    return ending(path) in ENDINGS and not path.name.startswith(".")


def format_of(path: Path) -> Format:
    """The format of a file. Raises DataError when it is none that is read."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise text_files.unreadable(path, error) from None
    said = ending(path)
    _refuse(path, head, said)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    named = ENDINGS.get(said)
    if named in ("parquet", "arrow"):
        if head.startswith(text_files.GZIP):
            fact = f"{path.name} is packed with gzip, which is read for text only."
            raise DataError([Problem(str(path), fact, "Unpack it and give the unpacked file.")])
        fact = f"{path.name} ({path.stat().st_size:,} bytes) does not begin as a {named.capitalize()} file does."
        raise DataError([Problem(str(path), fact, "Copy or download it again, or write it anew.")])
    return named or _by_beginning(path)


def reader(
    path: Path, encoding: str | None, *, together: bool
) -> tuple[Callable[[Meter], Iterator[tuple[int, Any]]], str]:
    """What reads a file's rows as (number, record or Fault), and a note on how it is cut where that is a choice.

    A file of raw text is one row if it is Markdown or one of several (`together`); else blank lines part its rows.
    """
    kind = format_of(path)
    if kind == "parquet":
        return lambda meter: arrow_files.parquet(path, meter), ""
    if kind == "arrow":
        return lambda meter: arrow_files.arrow(path, meter), ""
    if kind == "document" or (kind == "text" and together):
        return lambda meter: text_files.whole(path, encoding, meter), "each file is one row"
    if kind == "text":
        note = "blank lines part the rows"
        return lambda meter: text_files.blocks_of_lines(path, encoding, meter), note
    records = json_files.records if kind == "json" else csv_files.records
    return lambda meter: records(path, encoding, meter), ""


def ending(path: Path) -> str:
    """The ending that says the format: that before .gz, where there is one."""
    endings = [one.lower() for one in path.suffixes]
    if endings[-1:] == [".gz"]:
        endings.pop()
    return endings[-1] if endings else ""


def _refuse(path: Path, head: bytes, said: str) -> None:
    found = next((kind for kind in REFUSED if head.startswith(kind[0])), None)
    found = found or REFUSED_ENDINGS.get(said)
    if found is None and head[:1] == PICKLE and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        found = REFUSED_ENDINGS[".pkl"]
    if found:
        _, what, cure = found
        raise DataError([Problem(str(path), f"{path.name} is {what}.", cure)])


def _by_beginning(path: Path) -> Format:
    """The format of a file whose ending says nothing."""
    beginning = next(text_files.text(path, None, Meter(None, None)), "").lstrip()
    if not beginning or beginning[0] in "{[":
        return "json"
    fact = f"{path.name} has no ending that says what it is, and does not begin as JSON does."
    cure = "Rename it to .csv if it is a table, or to .txt if it is raw text."
    raise DataError([Problem(str(path), fact, cure)])
