"""What 4 bits do to each linear layer of a model: asked of a process, and held as figures that can be ranked.

Knows shares and bytes; how they are told is in `quantization_text`. Loads no torch.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from .. import folders
from ..models import is_local
from ..problems import Problem, RunError
from ..recipe import Recipe
from . import quantization_text
from .process import Told, gathered

#: Relative error of weights drawn from a normal distribution, in blocks of 64 (4.2 million of them, bitsandbytes 0.50.2).
NORMAL = {"nf4": 0.092, "fp4": 0.122, "int4": 0.108}
#: From here on a layer's error is clearly above that: a thousandth of its weights ten times the size gives 1.13.
CLEARLY = 1.1
SHARES = (0.01, 0.03, 0.05)


@dataclass(frozen=True)
class Layer:
    """A linear layer and its errors: `error` relative in the Frobenius norm, `largest` relative to the largest weight.

    `block` is the number of its block, None outside of numbered ones; `extra_bytes` is what leaving it in 16 bit would
    cost; `norm` is the Frobenius norm of its weights.
    """

    name: str
    module: str
    block: int | None
    parameters: int
    error: float
    largest: float
    extra_bytes: int
    norm: float


class Kept(NamedTuple):
    """What lies in the blocks and is not quantized, by kind ("experts"): why, and how many tensors and parameters."""

    name: str
    why: str
    tensors: int
    parameters: int


class Broken(NamedTuple):
    """A layer with `count` weights that are no numbers, or infinite: it has no error."""

    name: str
    count: int


class Exempt(NamedTuple):
    """The worst layers in 16 bit: the `share` of all that is meant, their number, extra bytes, and what it removes.

    `removed` is their share of the squared error of all weights together.
    """

    share: float
    layers: int
    bytes: int
    removed: float


@dataclass(frozen=True)
class QuantizationErrors:
    """The errors of a model's layers, in the model's order; `others` are those of all weights by "nf4", "fp4" and "int4"."""

    model: str
    quant_type: str
    double_quant: bool
    layers: tuple[Layer, ...]
    others: dict[str, float] | None
    seconds: float
    kept: tuple[Kept, ...] = ()
    broken: tuple[Broken, ...] = ()

    @property
    def error(self) -> float:
        """Relative error of all weights together: the norm of all differences over the norm of all weights."""
        return _together((layer.error, layer.norm) for layer in self.layers)

    @property
    def normal(self) -> float:
        """The relative error that normally distributed weights have in this format."""
        return NORMAL[self.quant_type]

    @property
    def outliers(self) -> list[Layer]:
        """The layers whose error is clearly above that, worst first."""
        return [layer for layer in self.worst(None) if self.stands_out(layer.error)]

    @property
    def by_module(self) -> dict[str, float]:
        """The mean relative error of each kind of module, largest first."""
        means = _means((layer.module, layer.error) for layer in self.layers)
        return dict(sorted(means.items(), key=lambda item: -item[1]))

    @property
    def by_block(self) -> dict[int, float]:
        """The mean relative error of each block, by its number."""
        numbered = [layer for layer in self.layers if layer.block is not None]
        return dict(sorted(_means((layer.block, layer.error) for layer in numbered).items()))

    @property
    def exempt(self) -> tuple[Exempt, ...]:
        """What it would cost to leave the worst 1, 3 and 5 % of the layers in 16 bit, at least one, and what it removes."""
        return tuple(self.without(share) for share in SHARES)

    def worst(self, count: int | None = 5) -> list[Layer]:
        """The layers with the largest relative error, worst first; None gives all."""
        return sorted(self.layers, key=lambda layer: -layer.error)[:count]

    def stands_out(self, error: float) -> bool:
        """Whether a relative error is clearly above that of normally distributed weights."""
        return error > CLEARLY * self.normal

    def without(self, share: float) -> Exempt:
        """Cost and gain of leaving that share of the layers in 16 bit, the worst of them, and at least one."""
        chosen = self.worst(max(1, round(share * len(self.layers))))
        whole = sum((layer.error * layer.norm) ** 2 for layer in self.layers)
        gone = sum((layer.error * layer.norm) ** 2 for layer in chosen)
        cost = sum(layer.extra_bytes for layer in chosen)
        return Exempt(share, len(chosen), cost, gone / whole if whole else 0.0)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON: errors as shares, bytes, seconds."""
        told = {name.name: getattr(self, name.name) for name in fields(self)}
        return told | {
            "error": self.error,
            "normal": self.normal,
            "layers": [asdict(layer) for layer in self.layers],
            "worst": [layer.name for layer in self.worst()],
            "by_module": self.by_module,
            "by_block": self.by_block,
            "exempt": [one._asdict() for one in self.exempt],
            "kept": [one._asdict() for one in self.kept],
            "broken": [one._asdict() for one in self.broken],
        }

    def __str__(self) -> str:
        return quantization_text.text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return quantization_text.html(self)


async def inspect_quantization(
    model: str | Path | Recipe,
    *,
    revision: str | None = None,
    quant_type: str | None = None,
    double_quant: bool | None = None,
    compare: bool = False,
    told: Told | None = None,
) -> QuantizationErrors:
    """Quantizes each linear layer of a model's blocks in a process of its own, piece by piece, and tells the errors.

    `model` is a folder, a name on the hub (fetched into its cache), or a recipe, which then says what is not given here;
    else it is "nf4" with double quantization. `compare` adds the errors of NF4, FP4 and int4. Raises RunError.
    """
    recipe = model if isinstance(model, Recipe) else Recipe(model={"name": str(model)})
    settings = recipe.model
    place = Path(settings.name).expanduser()
    if is_local(settings.name) and not place.is_dir():  # told at once; the rest once torch is there
        raise RunError(folders.problems(place))
    arguments = {
        "model": settings.name,
        "revision": revision or settings.revision,
        "quant_type": settings.quant_type if quant_type is None else quant_type,
        "double_quant": settings.double_quant if double_quant is None else double_quant,
        "compare": compare,
    }
    if arguments["quant_type"] not in ("nf4", "fp4"):
        fact = f"quant_type is {quant_type!r}; bitsandbytes packs 4 bits as nf4 or fp4."
        raise RunError([Problem("model.quant_type", fact, "Give one of these.")])
    begun = time.monotonic()
    lines = await gathered("quantization", arguments, told)
    return found(arguments, lines, time.monotonic() - begun)


def found(
    arguments: Mapping[str, Any], lines: Iterable[dict[str, Any]], seconds: float
) -> QuantizationErrors:
    """The lines of an inspection as its result. Raises RunError when no layer's weights are numbers."""
    by_kind: dict[str, list[dict[str, Any]]] = {"kept": [], "layer": []}
    for line in lines:
        by_kind[line["kind"]].append(line)
    whole = [line for line in by_kind["layer"] if not line["broken"]]
    broken = tuple(Broken(one["name"], one["broken"]) for one in by_kind["layer"] if one["broken"])
    if not whole:
        fact = f"All {len(broken):,} linear layers of {arguments['model']} hold weights that are no numbers, {broken[0].name} for one."
        raise RunError([Problem("model.name", fact, "Copy or download the model again.")])
    double = arguments["double_quant"]
    layers = [
        Layer(
            **{name: line[name] for name in ("name", "module", "block", "parameters", "error")},
            largest=line["largest"], norm=line["norm"],
            extra_bytes=round(line["parameters"] * (16 - bits(double)) / 8),
        )
        for line in whole
    ]  # fmt: skip
    layers.sort(key=lambda layer: -1 if layer.block is None else layer.block)
    return QuantizationErrors(
        arguments["model"], arguments["quant_type"], double, tuple(layers),
        _others(whole) if arguments["compare"] else None, seconds,
        tuple(Kept(**{name: line[name] for name in Kept._fields}) for line in by_kind["kept"]),
        broken,
    )  # fmt: skip


def bits(double_quant: bool) -> float:
    """Bits that a weight takes with its share of the scales: 4.127 or 4.5 (arXiv 2305.14314, section 3)."""
    return 4 + (8 / 64 + 32 / (64 * 256) if double_quant else 32 / 64)


def _others(lines: list[dict[str, Any]]) -> dict[str, float]:
    squared = sum(line["norm"] ** 2 for line in lines)
    sums = {form: sum(line["others"][form] for line in lines) for form in lines[0]["others"]}
    return {form: math.sqrt(total / squared) if squared else 0.0 for form, total in sums.items()}


def _together(errors: Iterable[tuple[float, float]]) -> float:
    pairs = list(errors)
    squared = sum(norm**2 for _, norm in pairs)
    return (
        math.sqrt(sum((error * norm) ** 2 for error, norm in pairs) / squared) if squared else 0.0
    )


def _means(pairs: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    groups: dict[Any, list[float]] = {}
    for key, error in pairs:
        groups.setdefault(key, []).append(error)
    return {key: sum(errors) / len(errors) for key, errors in groups.items()}
