"""A recipe as a script by hand, once with Unsloth and once with PEFT and bitsandbytes, with what each line does.

The scripts follow from the recipe, so they are never out of date with it. They read rows of messages and learn each
row's last one; they measure, score and resume nothing, which is what a run does beside. Knows no torch: it writes
code. What is wrong in scripts that are often copied: `corrections.py`.
"""

import json
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from ..problems import Problem, RecipeError
from ..recipe import Recipe
from .corrections import code, table

ADAPTER = "adapter"  # the folder that the scripts write


class Part(NamedTuple):
    """A piece of a script, and what it does."""

    code: str
    says: str


@dataclass(frozen=True)
class Listing:
    """A script in parts. `print` shows it with what each part does as comments, ready to be run."""

    backend: str
    parts: tuple[Part, ...]

    @property
    def code(self) -> str:
        """The script."""
        return "\n".join(part.code for part in self.parts) + "\n"

    def __str__(self) -> str:
        return "\n\n".join(f"# {part.says}\n{part.code}" for part in self.parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [(code(part.code), escape(part.says)) for part in self.parts]
        return table(f"By hand with {self.backend}", ("the script", "what it does"), rows)


def peft(recipe: Recipe) -> Listing:
    """The script with Transformers, bitsandbytes and PEFT. Raises RecipeError for rows that are no messages."""
    _check(recipe)
    settings, lora = recipe.model, recipe.lora
    options = {"dtype": "dtype", "device_map": "place", "attn_implementation": _python("sdpa")}
    quantized = ()
    if settings.load_in_4bit:
        options = {"quantization_config": "four_bit", **options}
        quantized = (Part(_four_bit(recipe), "How the frozen weights are packed: 4 bits each with a scale for 64 of them, expanded to `dtype` for each product."),)  # fmt: skip
    if settings.revision:
        options["revision"] = _python(settings.revision)
    adapter = {
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout,
        "target_modules": lora.target_modules, "use_rslora": lora.rslora, "use_dora": lora.dora,
        "bias": lora.bias, "modules_to_save": lora.modules_to_save or None, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    return Listing(
        "PEFT and bitsandbytes",
        (
            Part(_PEFT_IMPORTS, "Nothing is rewritten; the order does not matter."),
            Part(_PEFT_PLACE, "bfloat16 where the card has it, float16 on a T4, float32 on a CPU."),
            *quantized,
            Part(
                _call("model = AutoModelForCausalLM.from_pretrained", _python(settings.name), options),
                "Reads the weights and packs those of the linear layers; embeddings, head and norms stay in `dtype`.",
            ),
            Part(_tokenizer(recipe), "The model's own tokenizer and chat template."),
            Part(
                f"torch.manual_seed({recipe.training.seed})\n"
                + _call("model = get_peft_model", "model", {"peft_config": _inner("LoraConfig", adapter)}),
                "Freezes all weights and puts A and B beside each target layer. B is zero, so the answers are as before.",
            ),
            *_training(recipe, "dtype == torch.bfloat16", "dtype == torch.float16", *[_ROUNDED] * settings.load_in_4bit),
        ),
    )  # fmt: skip


def unsloth(recipe: Recipe) -> Listing:
    """The script with Unsloth. Raises RecipeError for rows that are no messages."""
    _check(recipe)
    settings, lora, training = recipe.model, recipe.lora, recipe.training
    checkpointing = "unsloth" if training.gradient_checkpointing else False
    options: dict[str, Any] = {
        "max_seq_length": settings.max_length, "dtype": None, "load_in_4bit": settings.load_in_4bit,
        "load_in_16bit": not settings.load_in_4bit, "use_gradient_checkpointing": checkpointing,
        "random_state": training.seed,
    }  # fmt: skip
    shown = {name: _python(value) for name, value in options.items()}
    says = "Loads in NF4 with double quantization, from Unsloth's own 4-bit copy where there is one. The tokenizer that it gives may be changed, so it is not taken."
    own = settings.load_in_4bit and (settings.quant_type, settings.double_quant) != ("nf4", True)
    before = ()
    if own or settings.revision:
        shown["use_exact_model_name"] = "True"
        says = "Loads these very weights: Unsloth's own copy has another revision and packing."
    if settings.revision:
        shown["revision"] = _python(settings.revision)
    if own:
        shown["quantization_config"] = "four_bit"
        before = (Part(_four_bit(recipe, dtype=_SUPPORTED), "How the frozen weights are packed: not Unsloth's usual way."),)  # fmt: skip
    adapter = {
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout,
        "target_modules": lora.target_modules, "use_rslora": lora.rslora, "use_dora": lora.dora,
        "bias": lora.bias, "modules_to_save": lora.modules_to_save or None,
        "use_gradient_checkpointing": checkpointing, "random_state": training.seed,
    }  # fmt: skip
    return Listing(
        "Unsloth",
        (
            Part(_unsloth_imports(own), "Unsloth first: it rewrites what is imported after it, for the whole process."),
            *before,
            Part(_call("model, _ = FastLanguageModel.from_pretrained", _python(settings.name), shown), says),
            Part(_tokenizer(recipe), "The model's own tokenizer and chat template."),
            Part(
                _call("model = FastLanguageModel.get_peft_model", "model", {k: _python(v) for k, v in adapter.items()}),
                "The same adapter as PEFT's, with fused kernels. It also says how activations are kept: in main memory.",
            ),
            *_training(recipe, "is_bfloat16_supported()", "not is_bfloat16_supported()"),
        ),
    )  # fmt: skip


def _check(recipe: Recipe) -> None:
    """Raises RecipeError for rows that the scripts would not read."""
    if recipe.data.shape not in ("auto", "messages") or recipe.data.columns:
        told = "data.columns is set" if recipe.data.columns else f"data.shape is {recipe.data.shape}"  # fmt: skip
        fact = f"The script reads rows of messages; {told}."
        cure = "Write the rows as messages first: wb.data.write(wb.data.read(FILE), 'rows.jsonl')."
        raise RecipeError([Problem("data.shape", fact, cure)])


_PEFT_IMPORTS = """\
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer"""

_PEFT_PLACE = """\
on_gpu = torch.cuda.is_available()
place = {"": 0} if on_gpu else "cpu"
if not on_gpu:
    dtype = torch.float32
elif torch.cuda.get_device_capability() >= (8, 0):
    dtype = torch.bfloat16
else:
    dtype = torch.float16"""

_ROWS = """\
rows = load_dataset("json", data_files={train}, split="train")
rows = rows.map(
    lambda row: {{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}},
    remove_columns=rows.column_names,
)"""

_EXACT = """\
for parameter in model.parameters():
    if parameter.requires_grad:
        parameter.data = parameter.data.float()"""


_ROUNDED = Part(_EXACT, "TRL has just rounded the adapter of a 4-bit model to bfloat16. In float32 small steps are not lost, and float16's loss scaling works.")  # fmt: skip
_SUPPORTED = "torch.bfloat16 if is_bfloat16_supported() else torch.float16"


def _unsloth_imports(four_bit: bool) -> str:
    torch = "\nimport torch" * four_bit
    return f"""\
from unsloth import FastLanguageModel, is_bfloat16_supported{torch}
from datasets import load_dataset
from transformers import AutoTokenizer{", BitsAndBytesConfig" * four_bit}
from trl import SFTConfig, SFTTrainer"""


def _four_bit(recipe: Recipe, dtype: str = "dtype") -> str:
    options = {
        "load_in_4bit": "True",
        "bnb_4bit_quant_type": _python(recipe.model.quant_type),
        "bnb_4bit_use_double_quant": _python(recipe.model.double_quant),
        "bnb_4bit_compute_dtype": dtype,
    }
    return _call("four_bit = BitsAndBytesConfig", "", options)


def _tokenizer(recipe: Recipe) -> str:
    named = [_python(recipe.model.name)]
    if recipe.model.revision:
        named.append(f"revision={_python(recipe.model.revision)}")
    return f"tokenizer = AutoTokenizer.from_pretrained({', '.join(named)})"


def _training(recipe: Recipe, bf16: str, fp16: str, *made: Part) -> tuple[Part, ...]:
    """From the rows to the saved adapter: the same for both, but for what is done once the trainer is `made`."""
    training = recipe.training
    length = (
        {"max_steps": _python(training.steps)}
        if training.steps
        else {"num_train_epochs": _python(training.epochs or 1.0)}
    )
    settings = {
        "output_dir": _python("checkpoints"), "save_strategy": _python("no"), "report_to": _python("none"),
        "max_length": _python(recipe.model.max_length),
        "per_device_train_batch_size": _python(training.batch_size),
        "gradient_accumulation_steps": _python(training.accumulation), **length,
        "learning_rate": _python(training.learning_rate), "lr_scheduler_type": _python(training.scheduler),
        "warmup_steps": _python(training.warmup), "optim": _python(training.optimizer),
        "weight_decay": _python(training.weight_decay), "max_grad_norm": _python(training.max_grad_norm),
        "gradient_checkpointing": _python(training.gradient_checkpointing),
        "packing": _python(training.batching in ("packed", "wrapped")),
        "bf16": bf16, "fp16": fp16, "logging_steps": "1", "seed": _python(training.seed),
    }  # fmt: skip
    trainer = {
        "model": "model",
        "processing_class": "tokenizer",
        "train_dataset": "rows",
        "args": "settings",
    }
    return (
        Part(_ROWS.format(train=_python(recipe.data.train)), "Each row as what is read (prompt) and what is learned (completion): its last message."),
        Part(_call("settings = SFTConfig", "", settings), "Every field that matters, set on purpose: importing Unsloth moves the defaults. A warm-up below 1 is a share of the steps."),
        Part(_call("trainer = SFTTrainer", "", trainer), "No peft_config: the model carries its adapter already."),
        *made,
        Part("trainer.train()", "Only A and B are changed."),
        Part(f"model.save_pretrained({_python(ADAPTER)})", "The adapter alone, in PEFT's format; either way can load it."),
    )  # fmt: skip


def _python(value: Any) -> str:
    """A value as Python writes it, texts in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    return repr(value)


def _call(name: str, first: str, options: dict[str, str]) -> str:
    """A call with an option a line."""
    lines = [first] * bool(first) + [f"{key}={value}" for key, value in options.items()]
    return f"{name}(\n" + "".join(f"    {line},\n" for line in lines) + ")"


def _inner(name: str, options: dict[str, Any]) -> str:
    """A call as a value of another call's option."""
    lines = "".join(f"        {key}={_python(value)},\n" for key, value in options.items())
    return f"{name}(\n{lines}    )"
