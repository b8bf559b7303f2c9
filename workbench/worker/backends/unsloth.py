"""The backend for NVIDIA GPUs: Unsloth loads, attaches its fused LoRA kernels, and replaces TRL's trainer.

Knows nothing of training. `peft.py` beside it has the same functions. Importing Unsloth rewrites transformers,
peft and trl for the whole process, so nothing here imports it before `import_libraries`, and no process has both.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...problems import Problem, RunError
from ...recipe import Recipe
from ..precision import Precision

NAME = "unsloth"
CACHE = "unsloth_cache"  # the folder of the modules that Unsloth writes and imports
_LOCATION = "UNSLOTH_COMPILE_LOCATION"
# What Unsloth can train in full; it moves these there from the target modules, too.
_EMBEDDINGS = ("lm_head", "embed_tokens")


class Loaded(NamedTuple):
    """A model, its tokenizer, and the repository or folder that the weights really came from."""

    model: Any
    tokenizer: Any
    source: str


def prepare(folder: Path) -> None:
    """Keeps the modules that Unsloth generates in `folder`, and its usage statistics at home.

    Called before the import. A spare worker calls it again with the run's folder, long after the import: the
    modules then move there, and a link stays behind, because Unsloth goes on using the place it knows.
    """
    place = folder.resolve() / CACHE
    if "unsloth" not in sys.modules:
        os.environ.update({_LOCATION: str(place), "UNSLOTH_DISABLE_STATISTICS": "1"})
        return
    known = Path(os.environ[_LOCATION])
    if known.resolve() == place:
        return
    shutil.copytree(known, place, dirs_exist_ok=True)
    shutil.rmtree(known)
    known.symlink_to(place, target_is_directory=True)


def import_libraries() -> None:
    """Imports what is slow to import (20 to 40 s on two cores). Raises RunError where Unsloth cannot work."""
    try:
        import unsloth  # noqa: F401 - first: it must come before what it rewrites
    except NotImplementedError as error:  # Unsloth's answer to a machine without a GPU
        fact = f"Unsloth needs a GPU and finds none: {_first_line(error)}"
        raise _refusal(
            fact, "Set backend: peft, which runs anywhere, or run on a machine with an NVIDIA GPU."
        ) from error
    except ImportError as error:
        fact = f"Unsloth cannot be imported: {_first_line(error)}"
        raise _refusal(fact, "Install requirements.txt anew, or set backend: peft.") from error
    import trl.trainer.sft_trainer  # noqa: F401


def load(recipe: Recipe, precision: Precision) -> Loaded:
    """Loads the base model, quantized if the recipe says so, and its tokenizer.

    Unsloth may take another repository than was asked for: its own copy, quantized ahead. It does so only where
    that changes nothing that the recipe fixes. Raises RunError when the model is unknown, unsupported or too large.
    """
    from unsloth import FastLanguageModel, is_bfloat16_supported

    settings = recipe.model
    if precision.dtype_name == "bfloat16" and not is_bfloat16_supported():
        fact = "model.compute_dtype is bfloat16, which this GPU lacks; Unsloth would take float16 without a word."
        raise _refusal(fact, "Leave model.compute_dtype at auto.")
    own_quantization = settings.load_in_4bit and (settings.quant_type, settings.double_quant) != (
        "nf4",
        True,
    )
    resolved = [settings.name]
    options: dict[str, Any] = {"revision": settings.revision} if settings.revision else {}
    if own_quantization:
        options["quantization_config"] = _quantization(recipe, precision)
    try:
        model, _ = FastLanguageModel.from_pretrained(
            settings.name,
            max_seq_length=settings.max_length,
            dtype=precision.dtype,
            load_in_4bit=settings.load_in_4bit,
            load_in_16bit=not settings.load_in_4bit,
            # Another repository has no such revision, and its quantization is baked in.
            use_exact_model_name=own_quantization or settings.revision is not None,
            use_gradient_checkpointing=_checkpointing(recipe),
            random_state=recipe.training.seed,
            on_model_resolved=resolved.append,
            **options,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise _explained(error, settings.name) from error
    # Not the tokenizer that came along: Unsloth may have changed it, and the rows are encoded by the recipe's.
    return Loaded(model, load_tokenizer(recipe), resolved[-1])


def load_tokenizer(recipe: Recipe) -> Any:
    """The tokenizer of the model that the recipe names, the same as with the other backend."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(recipe.model.name, revision=recipe.model.revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def attach(model: Any, recipe: Recipe) -> Any:
    """Puts a fresh adapter beside the target modules. Raises RunError for layers that Unsloth would train otherwise."""
    lora = recipe.lora
    targets = lora.target_modules
    if targets == "all-linear":
        targets = _linear_names(model)
    whole = sorted(set(targets) & set(_EMBEDDINGS))
    if whole:
        fact = f"lora.target_modules has {', '.join(whole)}; Unsloth gives those no adapter and trains them in full."
        raise _refusal(
            fact, "Move them to lora.modules_to_save, which says so, or set backend: peft."
        )
    return _attach(
        model,
        recipe.training.seed,
        use_gradient_checkpointing=_checkpointing(recipe),
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        bias=lora.bias,
        modules_to_save=list(lora.modules_to_save) or None,
    )


def attach_saved(model: Any, adapter: Path, *, trainable: bool = False) -> Any:
    """Puts a saved adapter beside the base model, with Unsloth's kernels."""
    from peft import LoraConfig, load_peft_weights, set_peft_model_state_dict

    saved = LoraConfig.from_pretrained(str(adapter))
    model = _attach(
        model,
        0,
        use_gradient_checkpointing="unsloth" if trainable else False,
        r=saved.r,
        lora_alpha=saved.lora_alpha,
        lora_dropout=saved.lora_dropout,
        target_modules=sorted(saved.target_modules),
        use_rslora=saved.use_rslora,
        use_dora=saved.use_dora,
        bias=saved.bias,
        modules_to_save=saved.modules_to_save,
    )
    set_peft_model_state_dict(model, load_peft_weights(str(adapter), device=str(model.device)))
    if not trainable:
        model.requires_grad_(False)
    return model


@contextlib.contextmanager
def answering(model: Any) -> Iterator[None]:
    """Inside, the model is ready to generate, by Unsloth's own switch; afterwards it is as it was.

    No gradients: a forward pass with them outside of training would spoil what torch.compile keeps for the training.
    """
    import torch
    from unsloth import FastLanguageModel

    was_training = model.training
    for parameter in model.parameters():
        # Its copies for generating stay when it was not training before, and are taken for the adapter's own later.
        vars(parameter).pop("_fast_lora", None)
    FastLanguageModel.for_inference(model)
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:  # with the gradient checkpointing that it was attached with
            FastLanguageModel.for_training(model)


def trainer_options(recipe: Recipe) -> dict[str, Any]:
    """Fields of SFTConfig that differ between the backends, and those that only Unsloth's has."""
    return {
        # max_length=1024 is TRL's default and counts as not given, and None as the model's own; this one is heeded.
        "max_seq_length": recipe.model.max_length,
        # Unsloth's forward pass holds no full logits either: it cuts the cross entropy itself.
        "loss_type": "nll",
        "gradient_checkpointing": recipe.training.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},  # it offloads by this path only
        "unsloth_num_chunks": -1,
        "unsloth_logit_chunk_multiplier": None,
        "unsloth_grpo_mini_batch": None,
        "vllm_sampling_params": None,
        "context_parallel_size": 1,
        "context_parallel_backend": "ring",
        "context_parallel_rotate_method": "allgather",
    }


def packed_fields(lengths: Sequence[int]) -> dict[str, Any]:
    """What a batch of rows laid end to end must carry beside `position_ids`, from which Unsloth reads no boundaries."""
    import torch

    return {"packed_seq_lengths": torch.tensor(lengths, dtype=torch.int32)}


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes the adapter and the tokenizer, such that PEFT alone can load them."""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _attach(model: Any, seed: int, **settings: Any) -> Any:
    from unsloth import FastLanguageModel

    try:
        return FastLanguageModel.get_peft_model(model, random_state=seed, **settings)
    except TypeError as error:
        if "is not allowed" not in str(error):
            raise
        names = ", ".join(settings["modules_to_save"])
        fact = f"lora.modules_to_save is {names}; Unsloth trains only lm_head, embed_tokens and norms in full."
        raise _refusal(fact, "Name only those, or set backend: peft.") from error


def _checkpointing(recipe: Recipe) -> str | bool:
    """Unsloth's own checkpointing keeps the activations in main memory."""
    return "unsloth" if recipe.training.gradient_checkpointing else False


def _linear_names(model: Any) -> list[str]:
    """Names of all linear layers but the head, each once, in the model's order."""
    import torch

    head = model.get_output_embeddings()
    linear = (
        name.rpartition(".")[2]
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    )
    return list(dict.fromkeys(linear))


def _quantization(recipe: Recipe, precision: Precision) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=recipe.model.quant_type,
        bnb_4bit_use_double_quant=recipe.model.double_quant,
        bnb_4bit_compute_dtype=precision.dtype,
    )


def _explained(error: Exception, name: str) -> Exception:
    """The error as fact and cure where we know it, else the error itself."""
    said = str(error)
    if "Failed to load model" in said or isinstance(error, OSError):
        fact = f"Unsloth finds no model {name}: {_first_line(error)}"
        cure = "Check the name and the network; a gated model needs a token: run `hf auth login`."
        return _refusal(fact, cure)
    if isinstance(error, NotImplementedError) or "not supported" in said:
        fact = (
            f"Unsloth {_version()} does not know the architecture of {name}: {_first_line(error)}"
        )
        return _refusal(fact, "Set backend: peft, which takes any that Transformers knows.")
    if "does not fit in GPU memory" in said:
        cure = "Close other programs on the GPU, set model.load_in_4bit: true, or choose a smaller model."
        return _refusal(f"{name} does not fit on the GPU: {_first_line(error)}", cure)
    return error


def _refusal(fact: str, cure: str) -> RunError:
    return RunError([Problem("", fact, cure)])


def _first_line(error: Exception) -> str:
    """The first line that says what is wrong; Unsloth puts that of Transformers below a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("AutoConfig error:")] or lines
    words = (
        telling[0].removeprefix("AutoConfig error:").strip() if telling else type(error).__name__
    )
    return words.rstrip(".") + "."


def _version() -> str:
    import unsloth

    return unsloth.__version__
