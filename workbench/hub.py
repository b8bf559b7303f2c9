"""A model's configuration and headers from the Hugging Face hub, and why they cannot be had.

Knows nothing of layers. Weights stay where they are; only config.json (kept in the cache) and headers are fetched.
"""

import json
import os
from pathlib import Path
from typing import Any

from .folders import Tensor
from .problems import Problem, RunError


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """Where the hub's cache holds this model, None if it does not. Nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None  # read() says what is wrong with the name
    return Path(config).parent if isinstance(config, str) else None


def read(name: str, revision: str | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json, and dtype and shape of each tensor by name. Raises RunError with the reason and the cure."""
    import httpx
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        try:
            # Headers before config.json: without a network they fail at once, a download only after 23 s of retries.
            headers = HfApi().get_safetensors_metadata(name, revision=revision)
        except errors.NotASafetensorsRepoError:
            hf_hub_download(
                name, "config.json", revision=revision
            )  # says so if there is no such model at all
            raise
        config = json.loads(
            Path(hf_hub_download(name, "config.json", revision=revision)).read_text()
        )
    except (
        OSError,  # also what the hub's own answers are: not found, gated, offline
        ValueError,  # a name that cannot be one, a header or config.json that is no JSON
        httpx.HTTPError,
        errors.EntryNotFoundError,
        errors.NotASafetensorsRepoError,
        errors.SafetensorsParsingError,
    ) as error:
        raise RunError([_problem(name, revision, error)]) from error
    tensors = {
        key: Tensor(tensor.dtype, tuple(tensor.shape))
        for file in headers.files_metadata.values()
        for key, tensor in file.tensors.items()
    }
    return config, tensors


def _problem(name: str, revision: str | None, error: Exception) -> Problem:
    """What the hub's answer means, most particular first."""
    from huggingface_hub import errors, get_token

    where, page = "model.name", f"https://huggingface.co/{name}"
    if isinstance(error, errors.HFValidationError):
        fact = f"{name!r} is neither a folder here nor a name on the hub."
        return Problem(
            where, fact, "Give a folder (./model) or a name such as unsloth/Llama-3.2-1B-Instruct."
        )
    if isinstance(error, errors.GatedRepoError):
        if get_token():
            fact = f"{name} is gated, and the Hugging Face token that is set may not read it."
            return Problem(
                where, fact, f"Accept its terms at {page} with the account of the token."
            )
        fact = f"{name} is gated, and no Hugging Face token is set."
        return Problem(
            where, fact, f"Accept its terms at {page}, then set HF_TOKEN or run: hf auth login."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        fact = f"There is no folder {name} here, and no public model of that name on the hub."
        return Problem(
            where,
            fact,
            "Check the spelling; for a private model set HF_TOKEN or run: hf auth login.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return Problem(
            "model.revision",
            f"{name} has no revision {revision}.",
            f"Choose one from {page}/commits.",
        )
    if isinstance(error, errors.NotASafetensorsRepoError):
        fact = f"{name} holds no weights as safetensors."
        return Problem(
            where,
            fact,
            "Take a version that does; files of other forms can run code or cannot be tuned.",
        )
    if _has_no_config(error):
        fact = f"{name} has no config.json, so it is not a model for Transformers."
        return Problem(
            where,
            fact,
            "An adapter, or a GGUF file, is tuned by giving the model that it was made from.",
        )
    return _unreachable(name, error)


def _has_no_config(error: Exception) -> bool:
    from huggingface_hub import errors

    return isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    )


def _unreachable(name: str, error: Exception) -> Problem:
    from huggingface_hub import errors

    offline = (
        isinstance(error, errors.OfflineModeIsEnabled) or os.environ.get("HF_HUB_OFFLINE") == "1"
    )
    reason = (
        "HF_HUB_OFFLINE is set"
        if offline
        else f"{str(error).strip().splitlines()[0]:.200}".rstrip(".")
    )
    fact = f"{name} is not on this machine, and the hub cannot be read: {reason}."
    cure = "Unset HF_HUB_OFFLINE" if offline else "Check the network"
    return Problem("model.name", fact, f"{cure}, or give a folder that holds the model (./model).")
