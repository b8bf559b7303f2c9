"""The weights of a model's safetensors files, read piece by piece: never a whole shard, never a pickle.

Reads with plain file reads rather than a memory map, whose pages would count as the process's memory. Knows nothing of
what the weights are for.
"""

import contextlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from .. import folders, hub
from ..models import is_local
from ..problems import Problem, RunError

#: How safetensors calls the formats that a model's weights come in.
FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
BLOCK = 64  # weights that share a scale: pieces are whole blocks
#: Told the file that is fetched next, its number, and of how many.
Fetching = Callable[[str, int, int], None]


class Stored(NamedTuple):
    """A tensor in a safetensors file: `dtype` as the file calls it ("BF16"), `start` the byte that it begins at."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


def folder(
    model: str, revision: str | None = None, *, fetch: bool = False, told: Fetching | None = None
) -> Path:
    """Where a model's weights are: a folder, or the hub's cache, into which `fetch` brings what is missing file by file.

    Raises RunError when they are not there, are cut off, or are no safetensors.
    """
    if is_local(model):
        found = Path(model).expanduser()
        if problems := _problems(found):
            raise RunError(problems)
        return found
    cached = hub.cached_folder(model, revision)
    if cached and not _problems(cached):
        return cached
    if not fetch:
        fact = f"The weights of {model} are not on this machine."
        cure = "Give the folder that holds them, or load the model once: a run with it keeps them."
        raise RunError([Problem("model.name", fact, cure)])
    hub.read(model, revision)  # headers alone: what is wrong is told before gigabytes are fetched
    return _fetched(model, revision, told)


def tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder by name, read from the headers of its files. Raises RunError with what is wrong."""
    if problems := _problems(folder):
        raise RunError(problems)
    found: dict[str, Stored] = {}
    for file in _files(folder):
        found |= _stored(folder / file)
    return found


def pieces(stored: Stored, most: int = 2**24) -> Iterator[torch.Tensor]:
    """A 2-D tensor's rows, (rows, width) in its own dtype: as many at once as hold at most `most` numbers and whole blocks.

    A row that is no whole number of blocks comes with others, if need be more than `most`. Raises RunError for a tensor
    of another dtype than floats, or of a file that has shrunk.
    """
    width = stored.shape[-1]
    least = math.lcm(width, BLOCK)
    for piece in flat(stored, least * max(1, most // least)):
        yield piece.view(-1, width)


def flat(stored: Stored, most: int = 2**24) -> Iterator[torch.Tensor]:
    """All numbers of a tensor in the order in which they are stored, at most `most` at once, as 1-D tensors."""
    if stored.dtype not in FLOATS:
        fact = f"{stored.name} in {stored.file} is stored as {stored.dtype}, not as 16 or 32 bits."
        raise RunError([Problem("model.name", fact, "Give the model's 16-bit version.")])
    dtype = FLOATS[stored.dtype]
    left = math.prod(stored.shape)
    with stored.file.open("rb", buffering=0) as file:
        file.seek(stored.start)
        while left:
            piece = torch.empty(min(left, most), dtype=dtype)
            _fill(piece, file, stored)
            left -= piece.numel()
            yield piece


def _fill(piece: torch.Tensor, file: BinaryIO, stored: Stored) -> None:
    """Reads a tensor's bytes into it; one read gives at most 2 GiB, so that it may take several."""
    room = memoryview(piece.view(torch.uint8).numpy())
    at = 0
    while at < len(room):
        count = file.readinto(room[at:])
        if not count:
            fact = f"{stored.file} ended while {stored.name} was read."
            raise RunError([Problem("model.name", fact, "Copy or download it again.")])
        at += count


def _problems(folder: Path) -> list[Problem]:
    """What keeps the weights in a folder from being read; that it has no tokenizer does not matter here."""
    return [found for found in folders.problems(folder) if "has no tokenizer" not in found.fact]


def _files(folder: Path) -> list[str]:
    index = folder / folders.INDEX
    if not index.exists():
        return [folders.WEIGHTS]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _stored(path: Path) -> dict[str, Stored]:
    """The tensors of one file, of which the header was found to be in order."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: Stored(
            name, path, told["dtype"], tuple(told["shape"]), 8 + length + told["data_offsets"][0]
        )
        for name, told in header.items()
    }


def _fetched(model: str, revision: str | None, told: Fetching | None) -> Path:
    """The cache's folder after its configuration, index and files were fetched, one after the other. Raises RunError."""
    import httpx
    from huggingface_hub import errors, hf_hub_download

    try:
        place = Path(hf_hub_download(model, "config.json", revision=revision)).parent
        with contextlib.suppress(errors.EntryNotFoundError):  # a small model is one file without
            hf_hub_download(model, folders.INDEX, revision=revision)
        files = _files(place)
        for number, file in enumerate(files, start=1):
            if told is not None:
                told(file, number, len(files))
            hf_hub_download(model, file, revision=revision)
    except (OSError, httpx.HTTPError) as error:
        reason = f"{str(error).strip().splitlines()[0]:.200}".rstrip(".")
        fact = f"The weights of {model} could not be fetched: {reason}."
        raise RunError(
            [Problem("model.name", fact, "Try again: what was fetched is kept.")]
        ) from error
    return folder(model, revision)
