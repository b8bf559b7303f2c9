"""A folder that holds a model: its configuration, the headers of its weights, and what it lacks.

Knows nothing of layers or of the hub. Reads headers only, a few kilobytes even of the largest model.
"""

import difflib
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from .problems import Problem

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
    "spiece.model",
)
LARGEST_HEADER = 100 * 2**20  # bytes, the format's own limit


class Tensor(NamedTuple):
    """A tensor as a header describes it; `dtype` as safetensors calls it ("BF16", "U8")."""

    dtype: str
    shape: tuple[int, ...]


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json, and all tensors by name; of a folder without `problems`."""
    return _json(folder / "config.json"), _tensors(folder)


def problems(folder: Path) -> list[Problem]:
    """What keeps a folder from being a model that can be tuned: all of it, without reading weights."""
    if not folder.exists():
        return [_no_folder(folder)]
    if not folder.is_dir():
        return [
            _problem(
                f"{folder} is a file.",
                "Give the folder that holds config.json and model.safetensors.",
            )
        ]
    has = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in has and "config.json" not in has:
        base = _json(folder / "adapter_config.json").get(
            "base_model_name_or_path", "its base model"
        )
        return [
            _problem(
                f"{folder} is an adapter, not a model.",
                f"Give the model that it was trained on: {base}.",
            )
        ]
    found = []
    if "config.json" not in has:
        found.append(
            _problem(
                f"{folder} has no config.json.",
                "Give a folder in the form that save_pretrained writes.",
            )
        )
    elif not _json(folder / "config.json"):
        found.append(
            _problem(
                f"{folder / 'config.json'} is not a JSON object.", "Copy or download it again."
            )
        )
    found += _weight_problems(folder)
    if not has.intersection(TOKENIZERS):
        cure = "Save the tokenizer beside the model: tokenizer.save_pretrained(folder)."
        found.append(_problem(f"{folder} has no tokenizer ({', '.join(TOKENIZERS[:2])}).", cure))
    return found


def _problem(fact: str, cure: str) -> Problem:
    return Problem("model.name", fact, cure)


def _no_folder(folder: Path) -> Problem:
    """The folder's absence, with the nearest one that exists and what in it is called much the same."""
    path = Path.cwd() / folder
    nearest = next(parent for parent in path.parents if parent.is_dir())
    lost = path.relative_to(nearest).parts[0]
    near = difflib.get_close_matches(lost, [p.name for p in nearest.iterdir() if p.is_dir()], n=1)
    cure = (
        f"Did you mean {nearest / near[0]}?"
        if near
        else f"The nearest folder that exists is {nearest}."
    )
    return _problem(f"The model folder {folder} does not exist.", cure)


def _weight_problems(folder: Path) -> list[Problem]:
    again = "Copy or download it again."
    try:
        _tensors(folder)
    except FileNotFoundError as error:
        lost = Path(error.filename).name
        if lost != WEIGHTS:
            return [_problem(f"{folder} lacks {lost}, which its index names.", again)]
        others = sorted(
            p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".gguf")
        )
        cure = "Save it with save_pretrained, which writes safetensors."
        instead = (
            f", only {', '.join(others[:3])}, which cannot be read safely or tuned"
            if others
            else ""
        )
        return [
            _problem(f"{folder} has no weights in {WEIGHTS}{instead}.", cure if others else again)
        ]
    except (OSError, ValueError) as error:
        return [_problem(f"The weights in {folder} cannot be read: {error}.", again)]
    return []


def _json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, an empty one when it holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by name. Raises OSError or ValueError with the reason."""
    index = folder / INDEX
    files = [WEIGHTS]
    if index.exists():
        files = sorted(set(_json(index).get("weight_map", {}).values()))
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _header(folder / file)
    return tensors


def _header(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if not 0 < length <= min(LARGEST_HEADER, size):
            raise ValueError(f"{path.name} ({size:,} bytes) does not begin like a safetensors file")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if size < end:
        raise ValueError(f"{path.name} is cut off: it has {size:,} of {end:,} bytes")
    return {
        name: Tensor(tensor["dtype"], tuple(tensor["shape"])) for name, tensor in header.items()
    }
