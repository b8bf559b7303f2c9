"""Data sets of the `datasets` library: fetched from the Hugging Face hub, or saved to a folder by it.

Runs no code that comes with a data set. Knows no shapes of rows.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..problems import DataError, Problem
from . import arrow_files, cache
from .progress import Meter

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1_000  # rows
SECONDS = 10  # to wait for the hub's first answer


def fetch(name: str, split: str, revision: str | None) -> "Dataset":
    """The split of a data set on the hub. Raises DataError with the reason and the cure."""
    import datasets
    import httpx
    from huggingface_hub import HfApi, errors

    try:
        try:  # first, because without a network it fails at once, and a download only after 23 s of retries
            HfApi().dataset_info(name, revision=revision, timeout=SECONDS)
        except (httpx.TransportError, errors.OfflineModeIsEnabled):
            if revision or not _is_cached(name):  # what is in the cache may be another revision
                raise
        return datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:  # the library raises many kinds, and any kind from its readers
        raise DataError([_problem(name, split, revision, error)]) from error


def _is_cached(name: str) -> bool:
    """Whether `datasets` has prepared this data set before; it then needs no network."""
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, _, own = name.partition("/")
    folder = f"{owner}___{camelcase_to_snakecase(own)}"
    return (Path(datasets.config.HF_DATASETS_CACHE) / folder).is_dir()


def saved(folder: Path, split: str) -> "Dataset":
    """What `save_to_disk` wrote to a folder; of several splits the one that is named. Raises DataError."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        fact = f"{folder.name} cannot be read as a saved data set: {_first_line(error)}."
        raise DataError([Problem(str(folder), fact, "Save it again with save_to_disk.")]) from error
    if isinstance(found, datasets.Dataset):
        return found
    if split not in found:
        raise DataError([_no_split(folder.name, split, list(found))])
    return found[split]


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def records(data: "Dataset", name: str, meter: Meter) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by their place from 1."""
    batches = (
        batch
        for table in data.with_format("arrow").iter(BATCH)
        for batch in table.combine_chunks().to_batches()
    )
    for number, record in arrow_files.records(batches, name):
        meter.at(number)
        yield number, record


def stamp(data: "Dataset") -> tuple[object, ...]:
    """What tells this data set from a changed one."""
    files = [cache.stamp(Path(file["filename"])) for file in data.cache_files]
    return (*files, data.num_rows, data._fingerprint)


def _problem(name: str, split: str, revision: str | None, error: Exception) -> Problem:
    """What an answer of the hub, or of the library, means; most particular first."""
    from huggingface_hub import errors, get_token

    where, page = "data.train", f"https://huggingface.co/datasets/{name}"
    causes = _causes(error)
    said = _first_line(error)
    # the library keeps the hub's own answer only in its words
    if "is a gated dataset" in said or isinstance(error, errors.GatedRepoError):
        reason = "the token that is set may not read it" if get_token() else "no token is set"
        cure = f"Accept its terms at {page}"
        cure += "." if get_token() else ", then set HF_TOKEN or run: hf auth login."
        return Problem(where, f"{name} is gated, and {reason}.", cure)
    if isinstance(error, errors.RevisionNotFoundError):
        fact = f"{name} has no revision {revision}."
        return Problem("data.revision", fact, f"Choose one from {page}/commits.")
    if isinstance(error, errors.RepositoryNotFoundError):
        fact = f"There is no file or folder {name} here, and no public data set of that name on the hub."
        cure = "Check the spelling; for a private one set HF_TOKEN or run: hf auth login."
        return Problem(where, fact, cure)
    if said.startswith("Unknown split"):
        return _no_split(name, split, _listed(said))
    if said.startswith("Config name is missing"):
        fact = f"{name} has several configurations, and none can be named here."
        cure = (
            "Load one with datasets.load_dataset and save it with to_parquet, then give that file."
        )
        return Problem(where, fact, cure)
    if "scripts are no longer supported" in said:
        fact = f"{name} is read by a script of its own, and scripts of data sets are not run."
        return Problem(where, fact, "Choose one that holds JSON, CSV or Parquet files.")
    if _is_offline(causes):
        return _unreachable(name, causes)
    fact = f"{name} cannot be read from the hub: {said}."
    return Problem(where, fact, f"Look at {page}, or download its files and give their folder.")


def _is_offline(causes: list[BaseException]) -> bool:
    import httpx
    from huggingface_hub import errors

    offline = (
        ConnectionError,
        TimeoutError,
        httpx.TransportError,
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
    )
    return any(isinstance(cause, offline) for cause in causes)


def _unreachable(name: str, causes: list[BaseException]) -> Problem:
    switched_off = os.environ.get("HF_HUB_OFFLINE") == "1"
    reason = "HF_HUB_OFFLINE is set" if switched_off else _first_line(causes[0])
    fact = f"There is no file or folder {name} here, and the hub cannot be read: {reason}."
    cure = "Unset HF_HUB_OFFLINE" if switched_off else "Check the network"
    return Problem("data.train", fact, f"{cure}, or give the path of a file or folder.")


def _no_split(name: str, split: str, known: list[str]) -> Problem:
    fact = f"{name} has no split {split!r}."
    cure = f"Set data.split to one of {', '.join(known)}." if known else "Set data.split."
    return Problem("data.split", fact, cure)


def _listed(said: str) -> list[str]:
    """The names between the brackets of a message."""
    inside = said.partition("[")[2].rpartition("]")[0]
    return [name.strip(" '\"") for name in inside.split(",") if name.strip()]


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it came from, outermost first."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _first_line(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{said[0] if said else type(error).__name__:.200}".rstrip(".")
