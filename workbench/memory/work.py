"""What a run asks of a model, in numbers: rows, tokens, the adapter, the optimizer. Knows recipes; nothing of bytes."""

from dataclasses import dataclass
from typing import Literal

from ..recipe import Recipe

SCORED = 32  # rows that are answered at once when exact match is measured (worker/answering.py)


@dataclass(frozen=True)
class Work:
    """What a run asks of the model: a micro-batch of `rows` rows of `length` tokens each, and the adapter.

    `trained_tokens` of the micro-batch have a loss (None: all). `answer_rows` are answered at once, from prompts of
    `prompt_tokens`, with `new_tokens` each; 0 rows ask nothing.
    """

    rows: int
    length: int
    rank: int = 16
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    dora: bool = False
    dropout: float = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    modules_to_save: tuple[str, ...] = ()
    load_in_4bit: bool = True
    double_quant: bool = True
    optimizer: str = "adamw_8bit"
    checkpointing: bool = True
    trained_tokens: int | None = None
    answer_rows: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch, padding included."""
        return self.rows * self.length


def work_of(recipe: Recipe, longest: int | None = None) -> Work:
    """The work of a recipe whose longest row has `longest` tokens; not known, it is taken to fill max_length."""
    model, lora, training, samples = recipe.model, recipe.lora, recipe.training, recipe.samples
    fills = training.batching in ("packed", "wrapped") or longest is None
    length = model.max_length if fills else min(longest, model.max_length)
    targets = lora.target_modules
    new = min(samples.max_new_tokens, model.max_length - 1)
    return Work(
        rows=training.batch_size,
        length=length,
        rank=lora.rank,
        targets=targets if targets == "all-linear" else tuple(targets),
        dora=lora.dora,
        dropout=lora.dropout,
        bias=lora.bias,
        modules_to_save=tuple(lora.modules_to_save),
        load_in_4bit=model.load_in_4bit,
        double_quant=model.double_quant,
        optimizer=training.optimizer,
        checkpointing=training.gradient_checkpointing,
        answer_rows=min(samples.score_rows, SCORED) or 1,
        prompt_tokens=max(1, min(length, model.max_length - new)),
        new_tokens=new,
    )
