"""Shapes of models that many people tune, known without a network: the table is known_models.json.

Knows nothing of folders or of the hub. The table holds, by the name on the hub, those fields of each config.json that
the shapes follow from.
"""

import difflib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from .shapes import Shapes, from_config

#: Parts of a name that say how a model was trained on, not how it is built.
_VARIANTS = {"instruct", "it", "base", "chat", "pt", "hf", "meta", "thinking"}
#: Ends of the names of Unsloth's copies in 4 bits; the first keeps modules of its own choice in 16 bit.
_DYNAMIC, _PACKED = "-unsloth-bnb-4bit", "-bnb-4bit"
_SHORT = {"tinyllama": "tinyllama-1.1b-v1.0"}
#: Models that Unsloth's copies spell as Llama's, with q, k, v, gate and up apart.
_RESPELT = ("phi-3-mini-4k", "phi-3.5-mini", "phi-4")


def find(name: str) -> Shapes | None:
    """The shapes of a model by its hub name, Unsloth's copies and trained variants included; None if not known."""
    owner, _, model = name.strip().casefold().rpartition("/")
    end = next((end for end in (_DYNAMIC, _PACKED) if model.endswith(end)), "")
    key = _plain(model.removesuffix(end))
    for official, config in _table().items():
        its_owner, _, its_model = official.casefold().partition("/")
        if _plain(its_model) == key and owner in ("", "unsloth", its_owner):
            return _shapes(name.strip(), key, config, end, copied=owner == "unsloth")
    return None


def names() -> list[str]:
    """The names of all models in the table, as the hub spells them."""
    return list(_table())


def like(name: str) -> list[str]:
    """Up to three names in the table that are nearly this one, nearest first."""
    table = {_plain(official.casefold().partition("/")[2]): official for official in _table()}
    model = name.strip().casefold().rpartition("/")[2]
    for end in (_DYNAMIC, _PACKED):
        model = model.removesuffix(end)
    return [table[key] for key in difflib.get_close_matches(_plain(model), table, 3, 0.6)]


def _shapes(name: str, key: str, config: dict[str, Any], end: str, *, copied: bool) -> Shapes:
    """Shapes of an entry under the name that was asked for."""
    unknown: tuple[str, ...] = ()
    if copied and key in _RESPELT:
        config = config | {"model_type": "llama"}
        unknown += (
            "whether this copy has q, k and v apart, as Unsloth's copies of Phi have (assumed)",
        )
    if end:
        config = {field: value for field, value in config.items() if field != "quantization_config"}
        config["quantization_config"] = {"quant_method": "bitsandbytes"}
    if end == _DYNAMIC:
        unknown += (
            "which modules this copy keeps in 16 bit (assumed: none); its config.json says",
        )
    shapes = from_config(config, name)
    if end and shapes.experts:
        unknown += ("whether this copy has its experts in 4 bits (assumed: it does not)",)
    return replace(shapes, unknown=shapes.unknown + unknown)


def _plain(model: str) -> str:
    """A name without its owner and without the parts that change no shape."""
    plain = "-".join(part for part in model.split("-") if part not in _VARIANTS)
    return _SHORT.get(plain, plain)


def _table() -> dict[str, dict[str, Any]]:
    return json.loads(Path(__file__).with_name("known_models.json").read_text(encoding="utf-8"))
