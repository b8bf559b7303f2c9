"""An adapter's folder in PEFT's form, read without a pickle, and what its updates `scale * B @ A` are made of.

The singular values come by two thin QR decompositions, never by the update itself. Knows nothing of a loaded model.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from .. import folders
from ..problems import Problem, RunError
from . import shards

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TELL_SECONDS = 1.0  # between two words of progress

_FACTOR = re.compile(
    r"^(?:base_model\.model\.)?(?P<module>.+)\."
    r"(?:lora_(?P<side>[AB])\.(?:default\.)?weight|lora_embedding_(?P<embedding>[AB]))$"
)
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks?)\.(\d+)\.")
#: Ways to begin that take something out of the base's weights too (PEFT, LoraConfig.init_lora_weights).
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
#: Settings of PEFT's LoraConfig that make more, or something else, of A and B.
_VARIANTS = ("arrow_config", "kasa_config", "monteclora_config", "use_bdlora", "use_qalora")


class Keys(NamedTuple):
    """A module's factors in the file: their names and shapes, A (rank, in) and B (out, rank); `scale` as it is used."""

    a: str
    b: str
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    scale: float

    @property
    def rank(self) -> int:
        return self.a_shape[0]


class Factors(NamedTuple):
    """A module's A (rank, in) and B (out, rank) in the file's dtype, and the scale of their product."""

    module: str
    a: torch.Tensor
    b: torch.Tensor
    scale: float


class Decomposed(NamedTuple):
    """B @ A as u @ diag(s) @ vh, without the scale: (out, k), (k,) falling, (k, in), in float64."""

    u: torch.Tensor
    s: torch.Tensor
    vh: torch.Tensor


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's folder: its configuration, the factors by module, and the names of what else the file holds."""

    folder: Path
    config: dict[str, Any]
    modules: dict[str, Keys]
    others: tuple[str, ...]

    @property
    def file(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def rank(self) -> int:
        """The largest rank of its modules."""
        return max(keys.rank for keys in self.modules.values())

    @property
    def parameters(self) -> int:
        """Numbers in all A and B."""
        shapes = (shape for keys in self.modules.values() for shape in (keys.a_shape, keys.b_shape))
        return sum(map(math.prod, shapes))

    def factors(self) -> Iterator[Factors]:
        """Module by module. Raises RunError for one that holds NaN or infinity."""
        with safe_open(self.file, "pt") as file:
            for module, keys in self.modules.items():
                a, b = file.get_tensor(keys.a), file.get_tensor(keys.b)
                if not (a.isfinite().all() and b.isfinite().all()):
                    fact = f"{module} in {self.file} holds numbers that are not finite."
                    raise _refusal(fact, "Its training went astray: take an earlier checkpoint.")
                yield Factors(module, a, b, keys.scale)

    def tensors(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Some of the file's tensors as they are."""
        with safe_open(self.file, "pt") as file:
            return {name: file.get_tensor(name) for name in names}


def read(folder: Path) -> Adapter:
    """Reads configuration and header. Raises RunError for what is no LoRA adapter, cut off, or a pickle."""
    config = _config(folder)
    shapes = _shapes(folder)
    found: dict[str, dict[str, str]] = {}
    others = []
    for name in shapes:
        if match := _FACTOR.match(name):
            side = match["side"] or match["embedding"]
            found.setdefault(match["module"], {})[side] = name
        else:
            others.append(name)
    if not found:
        raise _refusal(f"{folder / WEIGHTS} holds no lora_A and lora_B.", "Save the adapter again.")
    modules = {}
    for module, sides in found.items():
        pair = [shapes.get(sides.get(side, ""), ()) for side in "AB"]
        if len(pair[0]) != 2 or len(pair[1]) != 2 or pair[0][0] != pair[1][1] or not pair[0][0]:
            told = " and ".join(str(list(shape)) if shape else "nothing" for shape in pair)
            fact = f"{module} in {folder / WEIGHTS} has A and B of shapes {told}, which make no product."
            raise _refusal(fact, "Save the adapter again: layers of two dimensions are inspected.")
        scale = _scale(config, module, pair[0][0])
        modules[module] = Keys(sides["A"], sides["B"], *pair, scale)
    return Adapter(folder, config, modules, tuple(others))


def decompose(a: torch.Tensor, b: torch.Tensor) -> Decomposed:
    """The singular value decomposition of B (out, rank) @ A (rank, in), by the QR of each and a (rank, rank) SVD.

    B = Q_b R_b and A.T = Q_a R_a, so B @ A = Q_b (R_b R_a.T) Q_a.T: the small middle has all singular values.
    """
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return Decomposed(q_b @ u, s, vh @ q_a.T)


def singular_values(factors: Factors) -> torch.Tensor:
    """Those of `scale * B @ A`, falling, (at most rank,) in float64."""
    r_b, r_a = (torch.linalg.qr(x.double(), mode="r").R for x in (factors.b, factors.a.T))
    return abs(factors.scale) * torch.linalg.svdvals(r_b @ r_a.T)


def norm(stored: shards.Stored) -> float:
    """The Frobenius norm of a weight that is read piece by piece."""
    return math.sqrt(
        sum(float(piece.double().square().sum()) for piece in shards.flat(stored, 2**22))
    )


def weights(adapter: Adapter, base: Path) -> dict[str, shards.Stored]:
    """The base's weight for each of the adapter's modules. Raises RunError when the adapter is for another base."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if quantized := (config.get("quantization_config") or {}).get("quant_method"):
        fact = f"The base {base} is stored in few bits ({quantized}): its weights' norms cannot be read."
        raise _refusal(fact, "Give the 16-bit version as base.")
    stored = shards.tensors(base)
    return {module: _weight(adapter, module, stored, base) for module in adapter.modules}


def tell(
    say: Callable[..., None],
    hear: Iterator[dict[str, Any]],
    *,
    folder: str,
    base: str | None,
    own_base: str,
    revision: str | None,
) -> None:
    """Says an "update" for each module and an "adapter" for the whole. `base` must be at hand, `own_base` need not."""
    adapter = read(Path(folder))
    known, without = _base(adapter, base, own_base, revision)
    of, last = len(adapter.modules), time.monotonic()
    for done, factors in enumerate(adapter.factors()):
        if time.monotonic() - last > TELL_SECONDS:
            last = time.monotonic()
            text = f"Measured {done} of {of} modules."
            say("progress", done=done, of=of, text=text)
        singular = singular_values(factors).tolist()
        block = _BLOCK.search(factors.module)
        say(
            "update",
            name=factors.module,
            module=factors.module.rpartition(".")[2],
            block=int(block[1]) if block else None,
            rank=factors.a.shape[0],
            scale=factors.scale,
            update=math.hypot(*singular),
            weight=norm(known[factors.module]) if known else None,
            singular=singular,
        )
    say(
        "adapter",
        rank=adapter.rank,
        bytes=adapter.file.stat().st_size,
        parameters=adapter.parameters,
        without=without,
        notes=_notes(adapter),
    )


def _base(
    adapter: Adapter, base: str | None, own_base: str, revision: str | None
) -> tuple[dict[str, shards.Stored], str]:
    """The base's weights, or none and the reason. Raises RunError for a `base` that was asked for and cannot be used."""
    if base:
        return weights(adapter, shards.folder(base)), ""
    if not own_base:
        return (
            {},
            "The adapter does not tell its base, so its updates are not compared: give base=.",
        )
    try:
        place = shards.folder(own_base, revision)
    except RunError as error:
        told = f"{error.problems[0].fact} The updates are not compared with it: give base=."
        return {}, told
    config = folders.read(place)[0]
    if (config.get("quantization_config") or {}).get("quant_method"):
        told = f"The base {own_base} is stored in few bits already: give its 16-bit version as base= to compare."
        return {}, told
    return weights(adapter, place), ""


def _weight(
    adapter: Adapter, module: str, stored: dict[str, shards.Stored], base: Path
) -> shards.Stored:
    """A module's weight: by its name, or by names of which one ends with the other ("transformer.h.0…" and "h.0…")."""
    wanted = f"{module}.weight"
    names = [wanted] if wanted in stored else _alike(wanted, stored)
    if not names and wanted.endswith(
        "lm_head.weight"
    ):  # a head that shares the embeddings' weights
        names = [name for name in stored if name.endswith("embed_tokens.weight")]
    other = "Give the base that the adapter was trained on"
    named = adapter.config.get("base_model_name_or_path")
    cure = f"{other}: its folder names {named}." if named else f"{other}."
    if len(names) != 1:
        raise _refusal(f"{base} has no {module}, which the adapter changes.", cure)
    weight, keys = stored[names[0]], adapter.modules[module]
    shape = (keys.b_shape[0], keys.a_shape[1])
    if tuple(weight.shape) not in (shape, shape[::-1]):  # embeddings and Conv1D lie the other way
        fact = (
            f"The adapter is for another base: its {module} is {shape[0]} x {shape[1]}, "
            f"that of {base} is {' x '.join(map(str, weight.shape))}."
        )
        raise _refusal(fact, cure)
    return weight


def _alike(wanted: str, stored: dict[str, shards.Stored]) -> list[str]:
    ends = (name for name in stored if name.endswith(".weight"))
    return [name for name in ends if wanted.endswith(f".{name}") or name.endswith(f".{wanted}")]


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        fact = f"{folder} holds no adapter: it has no {CONFIG}."
        raise _refusal(fact, "Give the folder that PEFT's save_pretrained wrote.") from None
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise _refusal(f"{path} is not a JSON object.", "Copy or save the adapter again.")
    kind = config.get("peft_type")
    if kind != "LORA":
        fact = f"{folder} holds an adapter of type {kind}; LoRA's are inspected."
        raise _refusal(fact, "Give a LoRA adapter.")
    if config.get("target_parameters"):
        fact = f"{folder} adapts single parameters (target_parameters), as those of fused experts."
        raise _refusal(fact, "Adapters of linear layers and embeddings are inspected.")
    if variant := next((name for name in _VARIANTS if config.get(name)), None):
        fact = f"{folder} is a variant of LoRA ({variant}), whose update is not B @ A."
        raise _refusal(fact, "Plain LoRA, rsLoRA and DoRA are inspected.")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        fact = f"{folder} began with {start}, which changes the base's weights too: B @ A is not all that differs."
        cure = "Save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA."
        raise _refusal(fact, cure)
    return config


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """All tensors of the adapter's file, from its header."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        if pickles:
            fact = f"{folder} holds its weights in {pickles[0]}, a pickle, which can run code: it is not read."
            raise _refusal(fact, "Save it with save_pretrained, which writes safetensors.")
        raise _refusal(f"{folder} has no {WEIGHTS}.", "Copy or save the adapter again.")
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        fact = f"{path} ({size:,} bytes) is cut off or is no safetensors file: {error}."
        raise _refusal(fact, "Copy or download it again.") from None


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) with rsLoRA; alpha by the first pattern that fits, as PEFT's get_pattern_key."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _notes(adapter: Adapter) -> list[str]:
    """What the figures leave out."""
    notes = []
    sizes = [name for name in adapter.others if "lora_magnitude_vector" in name]
    if sizes:
        notes.append(
            "DoRA also learned the size of each weight row; the figures are of B @ A alone."
        )
    rest = [name.removeprefix("base_model.model.") for name in adapter.others if name not in sizes]
    if rest:
        more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
        notes.append(f"Also in the file, and not in the figures: {', '.join(rest[:3])}{more}.")
    return notes


def _refusal(fact: str, cure: str) -> RunError:
    return RunError([Problem("", fact, cure)])
