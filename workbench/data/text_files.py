"""The text of a file: unpacked where it is gzip, decoded, and cut into lines; never more of it in memory than is bounded.

Knows bytes and letters; nothing of JSON, tables or rows.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ..problems import DataError, Problem
from .faults import Fault
from .progress import Meter

BLOCK = 2**20  # bytes read at once
MOST = 64 * 2**20  # letters of one row: what is longer is not read
BOMB, RATIO = (
    2**30,
    200,
)  # a gzip file may become this large, or larger by a ratio that text can reach
GZIP = b"\x1f\x8b"
MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: What a file that is not UTF-8 is guessed to be; of the hundred others most only look alike.
GUESSES = "cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 koi8_r cp932 euc_jp gb18030 big5 cp949"
GUESSED_FROM = 2**16  # bytes around the first that does not fit


def too_long() -> Fault:
    """The fault of a row that is longer than MOST."""
    return Fault(
        f"it is longer than {MOST // 2**20} MiB",
        "Look for a missing line break or quotation mark, or cut the row into several.",
        kind="too_long",
    )


def unreadable(path: Path, error: OSError) -> DataError:
    """The error of a file that the system does not hand over."""
    fact = f"The data file {path} cannot be read: {error.strerror or error}."
    return DataError([Problem(str(path), fact, "Give the path of a file that you may read.")])


def blocks(path: Path, meter: Meter) -> Iterator[bytes]:
    """The file's bytes, unpacked if it is gzip. Raises DataError when it cannot be read or unpacked."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(len(GZIP)) == GZIP
            raw.seek(0)
            file = gzip.GzipFile(fileobj=raw) if packed else raw
            unpacked = 0
            while block := file.read(BLOCK):
                unpacked += len(block)
                meter.at(raw.tell())
                if packed and unpacked > max(BOMB, RATIO * raw.tell()):
                    raise DataError([_bomb(path, raw.tell(), unpacked)])
                yield block
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = "it ends too early" if isinstance(error, EOFError) else "it is damaged"
        fact = f"{path.name} cannot be unpacked: {reason}, after {unpacked:,} bytes of text."
        cure = "Copy or download it again, or give the unpacked file."
        raise DataError([Problem(str(path), fact, cure)]) from None
    except OSError as error:
        raise unreadable(path, error) from None


def text(path: Path, encoding: str | None, meter: Meter) -> Iterator[str]:
    """The file's text, a piece at a time, without its byte order mark.

    A mark says what the encoding is; else it is `encoding`, or UTF-8. Raises DataError at bytes that do not fit.
    """
    stream = blocks(path, meter)
    first = next(stream, b"")
    codec, marked = _codec(first, encoding)
    decoder = codecs.getincrementaldecoder(codec)()
    done, line = marked, 1
    for block in chain([first[marked:]], stream, [b""]):
        held = decoder.getstate()[0]  # the beginning of a letter that the last block was cut in
        try:
            piece = decoder.decode(block, final=not block)
        except UnicodeError as error:
            start = error.start if isinstance(error, UnicodeDecodeError) else 0
            place = _Place(held + block, start, done - len(held), line)
            raise DataError([_not_text(path, codec, encoding, place)]) from None
        done += len(block)
        line += piece.count("\n")
        if piece:
            yield piece


def lines(pieces: Iterator[str], ending: str = "\n") -> Iterator[tuple[int, str | None]]:
    """Lines without their ending, numbered from 1; None stands for one that is longer than MOST.

    Not by `splitlines`, which would also cut at U+2028: that may stand inside a JSON text.
    """
    number, held, size = 1, [], 0
    for piece in pieces:
        first, *others = piece.split(ending)
        size += len(first)
        if size <= MOST:
            held.append(first)
        else:
            held.clear()
        if not others:
            continue
        yield number, "".join(held) if size <= MOST else None
        last = others.pop()
        for line in others:
            number += 1
            yield number, line
        number, held, size = number + 1, [last], len(last)
    if size:
        yield number, "".join(held) if size <= MOST else None


def whole(path: Path, encoding: str | None, meter: Meter) -> Iterator[tuple[int, dict | Fault]]:
    """A text file as one row."""
    pieces, size = [], 0
    for piece in text(path, encoding, meter):
        size += len(piece)
        if size > MOST:
            yield 1, too_long()
            return
        pieces.append(piece)
    if said := "".join(pieces).strip():
        yield 1, {"text": said}


def blocks_of_lines(
    path: Path, encoding: str | None, meter: Meter
) -> Iterator[tuple[int, dict | Fault]]:
    """A text file as rows that blank lines set apart, numbered by their place."""
    number, held, size = 1, [], 0
    for _, line in chain(lines(text(path, encoding, meter)), [(0, "")]):
        if line is None or line.strip():
            size += MOST + 1 if line is None else len(line) + 1
            if size <= MOST:
                held.append(line.rstrip("\r"))
            else:
                held.clear()
        elif size:
            yield number, {"text": "\n".join(held)} if size <= MOST else too_long()
            number, held, size = number + 1, [], 0


def known_encoding(encoding: str) -> bool:
    """Whether Python can decode text by this name."""
    try:
        codecs.getincrementaldecoder(encoding)
        "".encode(encoding)  # refuses what is no encoding of text, such as rot13
    except (LookupError, ValueError, TypeError):
        return False
    # These spell letters out in ASCII; a file is not written in them.
    return "escape" not in encoding and codecs.lookup(encoding).name not in ("idna", "punycode")


class _Place(NamedTuple):
    """Where decoding stopped: at `start` in these bytes, which begin at `before` in the file, on line `line`."""

    held: bytes
    start: int
    before: int
    line: int


def _codec(first: bytes, encoding: str | None) -> tuple[str, int]:
    """What a file that begins so is decoded with, and the bytes of its mark."""
    for mark, codec in MARKS:
        if first.startswith(mark):
            return codec, len(mark)
    if encoding:
        return encoding, 0
    zeros = tuple(byte == 0 for byte in first[:4])
    unmarked = {  # by the zero bytes of a first letter in ASCII
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
    }
    return unmarked.get(zeros, "utf-8"), 0


def _not_text(path: Path, codec: str, encoding: str | None, place: _Place) -> Problem:
    held, start, before, line = place
    line += held.count(b"\n", 0, start)
    byte = f"byte 0x{held[start]:02X}" if start < len(held) else "the end"
    name = {"utf-8": "UTF-8", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}.get(codec, codec)
    fact = f"{path.name} is not {name} text: {byte} at position {before + start:,} (line {line:,})."
    if encoding:
        return Problem(str(path), fact, "Set data.encoding to what it is written in.")
    guess = _guess(held[max(0, start - GUESSED_FROM // 2) : start + GUESSED_FROM // 2])
    if codec != "utf-8" or guess is None:
        return Problem(str(path), fact, "Save the file as UTF-8, or set data.encoding.")
    cure = f"It looks like {guess}: set data.encoding to {guess}, or save it as UTF-8."
    return Problem(str(path), fact, cure)


def _guess(held: bytes) -> str | None:
    """The likeliest encoding of some bytes; None where none fits."""
    from charset_normalizer import from_bytes

    guesses = GUESSES.split()
    best = from_bytes(held, cp_isolation=guesses, language_threshold=0.0).best()
    if best is None:
        return None
    # of those that read the same letters in these bytes, the most common
    return next((name for name in guesses if name in best.could_be_from_charset), best.encoding)


def _bomb(path: Path, packed: int, unpacked: int) -> Problem:
    fact = f"{path.name} becomes more than {RATIO} times as large when it is unpacked: {packed:,} bytes are {unpacked:,} so far."
    return Problem(str(path), fact, "If that is right, unpack it and give the unpacked file.")
