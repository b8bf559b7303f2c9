"""The files of a tokenizer, from a folder or the Hugging Face hub, and which chat template they and the recipe mean.

Knows nothing of tokens: what the files say is put together in `tokenizer.py`.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from .. import folders, hub
from ..problems import DataError, Problem

TEMPLATES = Path(__file__).parent / "templates"
TOOL_USE = "tool_use"  # a second template that some models have, for conversations with tools
TOKENIZER, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


class Files(NamedTuple):
    """The path of tokenizer.json, what tokenizer_config.json says, and the chat templates by name."""

    tokenizer: Path
    config: dict[str, Any]
    templates: dict[str, str]


def fetch(name: str, revision: str | None = None) -> Files:
    """The tokenizer's files of a model: a folder, or a name on the hub. Raises DataError with the reason and the cure."""
    folder = Path(name).expanduser()
    if folder.exists() or _is_path(name):
        if not folder.is_dir():
            raise DataError(folders.problems(folder))
        return _read(folder, name)
    cached = hub.cached_folder(name, revision)
    if not cached or not (cached / TOKENIZER).exists():
        cached = _download(name, revision)
    return _read(cached, name)


def template(given: str) -> str:
    """The chat template that `data.template` means: a named one, a file, or the text itself. Raises DataError."""
    if given in named():
        return (TEMPLATES / f"{given}.jinja").read_text(encoding="utf-8")
    if "{{" in given or "{%" in given:
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        fact = f"data.template is {given!r}, which cannot be read as a file: {reason}."
        cure = f"Give {', '.join(named())}, the path of a .jinja file, or the template itself."
        raise DataError([Problem("data.template", fact, cure)]) from None


def named() -> list[str]:
    """The names of the templates that are part of the workbench."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def templates(said: Any) -> dict[str, str]:
    """Chat templates by name: one text is the default; older files have a list of named ones."""
    if isinstance(said, str):
        return {"default": said}
    if isinstance(said, list):
        return {one["name"]: one["template"] for one in said if isinstance(one, dict)}
    return dict(said) if isinstance(said, dict) else {}


def _is_path(name: str) -> bool:
    """Whether a name can only be a path: the hub has none of this form."""
    return name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name


def _read(folder: Path, name: str) -> Files:
    if not (folder / TOKENIZER).exists():
        raise DataError([_no_tokenizer(name)])
    config = _json(folder / CONFIG)
    found = templates(config.get("chat_template"))
    if (folder / TEMPLATE).exists():
        found = {"default": (folder / TEMPLATE).read_text(encoding="utf-8")}
        others = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        found |= {path.stem: path.read_text(encoding="utf-8") for path in others}
    return Files(folder / TOKENIZER, config, found)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; an empty one where there is none."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        said = None
    if not isinstance(said, dict):
        fact = f"{path} is not a JSON object."
        raise DataError([Problem("model.name", fact, "Copy or download it again.")])
    return said


def _download(name: str, revision: str | None) -> Path:
    """The folder of the hub's cache that holds the files afterwards."""
    import httpx
    from huggingface_hub import errors, hf_hub_download

    def got(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except errors.LocalEntryNotFoundError:  # the hub cannot be asked
            raise
        except errors.EntryNotFoundError:
            return None

    try:
        tokenizer, _, _ = (got(file) for file in (TOKENIZER, CONFIG, TEMPLATE))
    except (OSError, ValueError, httpx.HTTPError, errors.EntryNotFoundError) as error:
        raise DataError([hub._problem(name, revision, error)]) from error
    if tokenizer is None:
        raise DataError([_no_tokenizer(name)])
    return tokenizer.parent


def _no_tokenizer(name: str) -> Problem:
    fact = f"{name} has no {TOKENIZER}, which says how text becomes tokens."
    cure = "Take a version of the model that has it, or write it with AutoTokenizer.from_pretrained(name).save_pretrained(folder)."
    return Problem("model.name", fact, cure)
