"""Settings that can be used and that the evidence speaks against: the value, what to do, and who found it.

Knows recipes and how many rows there are; nothing of machines. What a recipe refuses is not its business.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .models import USUAL
from .recipe import Recipe

LOWEST_RATE = 5e-5
#: Of the learning rate times the adapter's scale: over ten times what guides and papers end with (3e-4 at a scale of 2).
HIGHEST_STEP = 5e-3
LARGEST_BATCH = 32  # rows
HIGH_RANK = 64
MOST_PASSES = 3
#: Modules of attention as most models call them, where a model's own are not known; "dense" is an MLP's in some.
ATTENTION = USUAL[: USUAL.index("out_proj") + 1]

QLORA = "QLoRA (arXiv 2305.14314)"
REGRET = "LoRA Without Regret (Thinking Machines, 2025)"
RSLORA = "rsLoRA (arXiv 2312.03732)"
BENCHMARK = "PEFT's benchmark on MetaMathQA with Llama-3.2-3B (2026)"


class Caution(NamedTuple):
    """One setting by its dotted name, what speaks against its value, the next step, and where that was found.

    `change` holds the settings, by dotted name, that follow the cure; empty where there is more than one way.
    """

    setting: str
    text: str
    cure: str
    source: str
    change: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.text} {self.cure} ({self.source})"


def cautions(
    recipe: Recipe,
    *,
    rows: int | None = None,
    modules: Mapping[str, Sequence[str]] | None = None,
) -> list[Caution]:
    """What speaks against a recipe's settings; `rows` are trained on, None where they were not counted.

    `modules` are the model's linear modules by group, of which "attention" is looked at; left out, usual names are.
    """
    found = (
        _low_rate(recipe), _large_steps(recipe), _attention_alone(recipe, modules), _large_batch(recipe),
        _high_rank(recipe), _many_passes(recipe, rows), _dora(recipe), _fp4(recipe), _float16(recipe),
    )  # fmt: skip
    return [one for one in found if one is not None]


def _low_rate(recipe: Recipe) -> Caution | None:
    rate = recipe.training.learning_rate
    if rate >= LOWEST_RATE or recipe.training.optimizer == "sgd":
        return None
    return Caution(
        "training.learning_rate",
        f"The learning rate {_short(rate)} is low for LoRA: it needs about ten times that of full fine-tuning.",
        "1e-4 to 3e-4 is usual.",
        f"{REGRET}: the best rate is 9.8 times that of full fine-tuning; {QLORA} used 1e-4 to 2e-4",
        {"training.learning_rate": 2e-4},
    )


def _large_steps(recipe: Recipe) -> Caution | None:
    """The rate and the scale act alike: doubling one is much like doubling the other."""
    rate, scale = recipe.training.learning_rate, recipe.lora_scale
    if rate * scale <= HIGHEST_STEP or recipe.training.optimizer == "sgd":
        return None
    usual = {"training.learning_rate": 2e-4}
    if 2e-4 * scale > HIGHEST_STEP:
        usual |= {"lora.alpha": float(recipe.lora.rank), "lora.rslora": False}
    at = f" at a scale of {scale:.3g}" if scale != 1 else ""
    return Caution(
        "training.learning_rate",
        f"The learning rate {_short(rate)}{at} makes very large steps: the loss may jump and not come back.",
        "1e-4 to 3e-4 is usual, with alpha at one or two times the rank.",
        f"Unsloth's and Axolotl's guides: 1e-4 to 3e-4 with alpha at once or twice the rank; {QLORA} used 1e-4 to 2e-4",
        usual,
    )


def _short(rate: float) -> str:
    """ "2e-5": as people write it."""
    return f"{rate:g}".replace("e-0", "e-")


def _attention_alone(recipe: Recipe, modules: Mapping[str, Sequence[str]] | None) -> Caution | None:
    chosen = recipe.lora.target_modules
    if chosen == "all-linear":
        return None
    attention = set((modules or {}).get("attention") or ATTENTION)
    if not {name.rpartition(".")[2] for name in chosen} <= attention:
        return None
    return Caution(
        "lora.target_modules",
        f"Only modules of attention get an adapter ({', '.join(chosen)}); the MLP learns nothing.",
        "Take all linear modules; at a lower rank, if memory is short.",
        f"{QLORA}, figure 2: all layers are needed to match full fine-tuning; {REGRET}: attention alone loses even with as many parameters",
        {"lora.target_modules": "all-linear"},
    )


def _large_batch(recipe: Recipe) -> Caution | None:
    training, batch = recipe.training, recipe.effective_batch
    if batch <= LARGEST_BATCH:
        return None
    rows = min(training.batch_size, LARGEST_BATCH)
    smaller = {"training.batch_size": rows, "training.accumulation": LARGEST_BATCH // rows}
    return Caution(
        "training.accumulation",
        f"The effective batch is {batch:,} rows ({training.batch_size} \N{MULTIPLICATION SIGN} {training.accumulation}); LoRA learns less from large ones.",
        f"Stay at {LARGEST_BATCH} or below.",
        f"{REGRET}, and TRL's guide to it: an effective batch below {LARGEST_BATCH}",
        smaller,
    )


def _high_rank(recipe: Recipe) -> Caution | None:
    lora = recipe.lora
    if lora.rank < HIGH_RANK or lora.rslora:
        return None
    alpha = round(2 * lora.rank**0.5)  # a scale of 2, that of alpha at twice the rank
    return Caution(
        "lora.rslora",
        f"Rank {lora.rank} without rsLoRA: alpha / rank, here {recipe.lora_scale:.2g}, keeps a high rank from learning more than a low one.",
        f"Switch rsLoRA on; alpha {alpha} then gives a scale of 2.",
        f"{RSLORA}; {BENCHMARK}: rank 64 reached 0.474 without and 0.513 with it, rank 32 0.478",
        {"lora.rslora": True, "lora.alpha": float(alpha)},
    )


def _many_passes(recipe: Recipe, rows: int | None) -> Caution | None:
    """Each pass over the same rows is counted, whether it was asked for in epochs or follows from steps."""
    training = recipe.training
    if training.steps is not None:
        if not rows:
            return None
        passes = training.steps * recipe.effective_batch / rows
    else:
        passes = training.epochs or 1
    if passes <= MOST_PASSES:
        return None
    which = "Each row" if rows is None else f"Each of {rows:,} training rows"
    fewer: dict[str, Any] = {"training.steps": None, "training.epochs": float(MOST_PASSES)}
    return Caution(
        "training.epochs" if training.steps is None else "training.steps",
        f"{which} is learned from {passes:.3g} times: what repeats is memorized rather than learned.",
        f"1 to {MOST_PASSES} passes are usual; more rows teach more than more passes.",
        "Unsloth's and Axolotl's guides: 1 to 3 epochs; Lightning's LoRA insights: 2 passes over 50,000 rows did worse than 1",
        fewer,
    )


def _dora(recipe: Recipe) -> Caution | None:
    if not recipe.lora.dora:
        return None
    return Caution(
        "lora.dora",
        "DoRA makes each step about a quarter slower.",
        "Compare a run without it before you keep it.",
        f"{BENCHMARK}: 0.469 in 1,191 s with DoRA, 0.478 in 942 s without, both at rank 32",
        {"lora.dora": False},
    )


def _fp4(recipe: Recipe) -> Caution | None:
    model = recipe.model
    if not model.load_in_4bit or model.quant_type != "fp4":
        return None
    return Caution(
        "model.quant_type",
        "FP4 loses more of the model than NF4, at the same size.",
        "Take nf4.",
        f"{QLORA}, table 4: a mean MMLU of 52.2 with FP4, 53.1 with NF4 and double quantization, 53.0 in 16 bits",
        {"model.quant_type": "nf4"},
    )


def _float16(recipe: Recipe) -> Caution | None:
    if recipe.model.compute_dtype != "float16":
        return None
    return Caution(
        "model.compute_dtype",
        "Computing in float16 can overflow, and the run then learns nothing more.",
        "Leave it at auto: bfloat16 where the card has it.",
        "README of QLoRA's authors: 80 % of fine-tunings of LLaMA-7B in float16 ended without an error",
        {"model.compute_dtype": "auto"},
    )


def text(found: Iterable[Caution]) -> str:
    """Cautions as lines for a terminal or a saved notebook."""
    return "\n".join(f"! {caution}" for caution in found)
