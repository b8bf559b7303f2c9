"""The backend for any machine: Transformers loads in NF4 by bitsandbytes, PEFT attaches the adapter.

Knows nothing of training. `unsloth.py` beside it has the same functions.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...problems import Problem, RunError
from ...recipe import Recipe
from ..precision import Precision

NAME = "peft"


class Loaded(NamedTuple):
    """A model, its tokenizer, and the repository or folder that the weights really came from."""

    model: Any
    tokenizer: Any
    source: str


def prepare(folder: Path) -> None:
    """Nothing of this backend has to be set before its libraries are imported, so the folder is only checked."""
    if not folder.is_dir():
        problem = Problem("", f"The run's folder {folder} is gone.", "Start the run again.")
        raise RunError([problem])


def import_libraries() -> None:
    """Imports what is slow to import (10 to 26 s on two cores), so that a spare worker has it behind it."""
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import trl.trainer.sft_trainer  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401


def load(recipe: Recipe, precision: Precision) -> Loaded:
    """Loads the base model, quantized if the recipe says so, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    settings = recipe.model
    model = AutoModelForCausalLM.from_pretrained(
        settings.name,
        revision=settings.revision,
        dtype=precision.dtype,
        quantization_config=_quantization(recipe, precision),
        device_map={"": 0} if torch.cuda.is_available() else "cpu",
        attn_implementation="sdpa",
    )
    # Embeddings and head stay in 16 bit: prepare_model_for_kbit_training would turn them to float32,
    # 2.1 GB more for an 8B model and no better (TRL stopped calling it in 2025-12).
    return Loaded(model, load_tokenizer(recipe), settings.name)


def load_tokenizer(recipe: Recipe) -> Any:
    """The model's tokenizer, with a padding token; padding is masked, so the end-of-text token can serve."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(recipe.model.name, revision=recipe.model.revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def attach(model: Any, recipe: Recipe) -> Any:
    """Puts a fresh adapter beside the target modules; B is zero, so the model's answers do not change yet."""
    from peft import LoraConfig, get_peft_model

    lora = recipe.lora
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        bias=lora.bias,
        modules_to_save=lora.modules_to_save or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def attach_saved(model: Any, adapter: Path, *, trainable: bool = False) -> Any:
    """Puts a saved adapter beside the base model."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)


@contextlib.contextmanager
def answering(model: Any) -> Iterator[None]:
    """Inside, the model is ready to generate: no dropout, a key-value cache; afterwards it is as it was."""
    import torch

    was_training, used_cache = model.training, model.config.use_cache
    model.eval()
    model.config.use_cache = True
    try:
        with torch.no_grad():
            yield
    finally:
        model.config.use_cache = used_cache
        model.train(was_training)


def trainer_options(recipe: Recipe) -> dict[str, Any]:
    """Fields of SFTConfig that differ between the backends: the loss, in chunks so that no full logits are held."""
    targets = recipe.lora.target_modules
    # TRL reads the head's weight directly in the chunked loss, which would pass over an adapter on it.
    on_head = isinstance(targets, list) and "lm_head" in targets
    return {
        "loss_type": "nll" if on_head else "chunked_nll",
        "gradient_checkpointing": recipe.training.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }


def packed_fields(lengths: Sequence[int]) -> None:
    """None: Transformers reads the boundaries from `position_ids`, and masks what it computed across them."""


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes the adapter and the tokenizer."""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _quantization(recipe: Recipe, precision: Precision) -> Any:
    if not recipe.model.load_in_4bit:
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=recipe.model.quant_type,
        bnb_4bit_use_double_quant=recipe.model.double_quant,
        bnb_4bit_compute_dtype=precision.dtype,
    )
