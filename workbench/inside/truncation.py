"""Cuts an adapter down to the first singular values of each module's update, and writes it as a new adapter in PEFT's form.

The new B and A share the root of the singular values between them, and each module's scale stays what it was. What the
file holds beside A and B is kept as it is. Knows nothing of how an adapter's folder is found.
"""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from ..problems import Problem, RunError, WorkbenchError
from ..recipe import Recipe
from .adapter import CONFIG, WEIGHTS, Adapter, Decomposed, decompose, read

ROUNDING = 1e-7  # of the largest singular value: what is smaller is float32's rounding
#: What is copied beside the weights: nothing that could run code.
_COPIED = (".json", ".jinja", ".md", ".model", ".txt")


class Cut(NamedTuple):
    """A module's new factors, A (k, in) and B (out, k) in the old dtype; `kept` and `of` are the scaled energies."""

    a: torch.Tensor
    b: torch.Tensor
    kept: float
    of: float


def truncate(adapter: Adapter, *, rank: int | None, energy: float | None) -> dict[str, Cut | None]:
    """Cuts each module to `rank`, or to as many singular values as hold `energy` of it; None for what learned nothing.

    Raises RunError for a rank above the adapter's, and when no module has learned anything.
    """
    if rank is not None and rank > adapter.rank:
        fact = (
            f"rank is {rank}; the adapter has {adapter.rank}, and a larger one would add nothing."
        )
        raise _refusal("rank", fact, f"Give a rank from 1 to {adapter.rank}.")
    cuts: dict[str, Cut | None] = {}
    for factors in adapter.factors():
        parts = decompose(factors.a, factors.b)
        count = effective(parts.s, energy) if rank is None else min(rank, len(parts.s))
        learned = count > 0 and bool(parts.s[0] > 0)
        cuts[factors.module] = (
            _cut(parts, count, factors.a.dtype, factors.scale) if learned else None
        )
    if not any(cuts.values()):
        fact = "The adapter has learned nothing: every B is 0, so its rank after truncation is 0."
        raise _refusal("", fact, "Train it first: there is nothing to keep.")
    return cuts


def effective(singular: torch.Tensor, energy: float) -> int:
    """How many of the falling singular values hold this share of their squares' sum: all but rounding for 1."""
    squares = singular.square()
    real = int((singular > ROUNDING * singular[0]).sum())
    short = squares.cumsum(0) < energy * squares.sum() * (1 - 1e-12)
    return min(int(short.sum()) + 1, real)


def write(adapter: Adapter, cuts: dict[str, Cut | None], to: Path) -> None:
    """Writes the new adapter whole or not at all. Raises RunError when something is there already."""
    if to.exists():
        fact = f"{to} exists already; nothing is overwritten."
        raise _refusal("to", fact, "Give another folder as to=, or remove that one.")
    tensors = adapter.tensors(adapter.others)
    for module, cut in cuts.items():
        keys = adapter.modules[module]
        if cut is None:
            tensors = {name: t for name, t in tensors.items() if not _of(name, keys.a)}
        else:
            tensors |= {keys.a: cut.a, keys.b: cut.b}
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in adapter.folder.iterdir():
        if path.is_file() and path.suffix in _COPIED and path.name != CONFIG:
            shutil.copyfile(path, partial / path.name)
    config = json.dumps(configured(adapter, cuts), indent=2, sort_keys=True)
    (partial / CONFIG).write_text(config, encoding="utf-8")
    save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
    partial.rename(to)


def configured(adapter: Adapter, cuts: dict[str, Cut | None]) -> dict[str, Any]:
    """The new adapter_config.json: ranks, and alphas with which every scale stays as it was; what was left out is no target."""
    root = bool(adapter.config.get("use_rslora"))
    ranks = {module: cut.a.shape[0] for module, cut in cuts.items() if cut is not None}
    alphas = {
        module: _whole(adapter.modules[module].scale * (math.sqrt(rank) if root else rank))
        for module, rank in ranks.items()
    }
    rank = max(ranks.values())
    (alpha, _), *_ = Counter(alphas[m] for m in ranks if ranks[m] == rank).most_common(1)
    config = adapter.config | {
        "r": rank,
        "lora_alpha": alpha,
        # "^" since PEFT takes a pattern for the end of a module's name
        "rank_pattern": {f"^{m}": each for m, each in ranks.items() if each != rank},
        "alpha_pattern": {f"^{m}": each for m, each in alphas.items() if each != alpha},
    }
    if len(ranks) < len(cuts):
        config |= {"target_modules": sorted(ranks)}
    return config


def tell(
    say: Callable[..., None],
    hear: Iterable[dict[str, Any]],
    *,
    folder: str,
    to: str,
    rank: int | None,
    energy: float | None,
    rows: int,
    recipe: str | None,
    holder: str,
) -> None:
    """Cuts, writes, and says "truncated"; with a `recipe` the loss before and after on its held-out `rows`, as "losses"."""
    adapter = read(Path(folder))
    say("progress", done=0, of=3, text=f"Cutting {len(adapter.modules)} modules.")
    cuts = truncate(adapter, rank=rank, energy=energy)
    write(adapter, cuts, Path(to))
    new = [cut for cut in cuts.values() if cut is not None]
    say(
        "truncated",
        rank_before=adapter.rank,
        rank=max(cut.a.shape[0] for cut in new),
        kept=sum(cut.kept for cut in new) / sum(cut.of for cut in new),
        ranks=sorted(Counter(cut.a.shape[0] for cut in new).items()),
        left_out=[module for module, cut in cuts.items() if cut is None],
        bytes_before=adapter.file.stat().st_size,
        bytes=(Path(to) / WEIGHTS).stat().st_size,
    )
    if recipe is None or not rows:
        return
    say("progress", done=1, of=3, text="Loading the base to measure the loss before and after.")
    try:
        losses = _losses(Recipe.from_yaml(recipe), Path(folder), Path(to), rows, Path(holder))
    except WorkbenchError as error:  # the new adapter is there all the same
        losses = {"why": f"The loss was not measured: {error.problems[0]}"}
    say("losses", **losses)


def _losses(recipe: Recipe, before: Path, after: Path, rows: int, holder: Path) -> dict[str, Any]:
    from . import mixing  # brings PEFT and Transformers, 6 s that a refusal need not wait for

    folders = {str(before): before, str(after): after}
    mixture = mixing.load(recipe, folders, holder)
    held = mixing.heldout_rows(recipe, mixture.chat, rows)
    if not held:
        return {"why": "The recipe holds no rows out, so the loss was not measured."}
    losses = {
        f"loss_{name}": mixture.loss(held, {str(path): 1})
        for name, path in (("before", before), ("after", after))
    }
    return losses | {"rows": len(held)}


def _cut(parts: Decomposed, count: int, dtype: torch.dtype, scale: float) -> Cut:
    root = parts.s[:count].sqrt()
    b = (parts.u[:, :count] * root).to(dtype).contiguous()
    a = (root[:, None] * parts.vh[:count]).to(dtype).contiguous()
    squares = (scale * parts.s).square()
    return Cut(a, b, float(squares[:count].sum()), float(squares.sum()))


def _of(name: str, a_key: str) -> bool:
    """Whether a tensor belongs to the module of this A: DoRA's sizes, a bias of B."""
    module = re.sub(r"lora_(?:embedding_)?A(?:\.default)?(?:\.weight)?$", "lora_", a_key)
    return name.startswith(module)


def _whole(alpha: float) -> float | int:
    """As PEFT writes it where it is a whole number."""
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def _refusal(where: str, fact: str, cure: str) -> RunError:
    return RunError([Problem(where, fact, cure)])
