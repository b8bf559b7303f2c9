"""Measures what a layer holds for each token under PEFT, against the widths in workbench/memory/habits.py.

`python bench/activations.py` builds small Llama blocks in NF4 with LoRA on the CPU, about four minutes. What autograd
keeps is counted by its own hooks, the peak of a backward pass from the profiler's memory events. Run it after a change
of Transformers, PEFT or bitsandbytes; nothing here passes or fails.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig
from transformers.utils import logging

from workbench.memory import parts
from workbench.memory.habits import habits
from workbench.memory.shapes import Shapes, from_config
from workbench.memory.work import Work

RANK = 8
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class Case(NamedTuple):
    """A block's widths, and what is done with it; `tokens` in `rows` rows."""

    name: str
    dtype: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    tokens: int = 512
    rows: int = 1
    targets: tuple[str, ...] | str = "all-linear"
    dropout: float = 0.0


def cases() -> list[Case]:
    """Each width varied by itself, ratios of models that people tune, and what changes a layer."""
    varied = [
        ("plain", 256, 8, 8, 32, 512), ("wider", 512, 8, 8, 32, 512), ("more queries", 256, 16, 8, 32, 512),
        ("fewer keys", 256, 8, 4, 32, 512), ("wider MLP", 256, 8, 8, 32, 1024),
        ("Llama-3.1-8B's ratios", 256, 8, 2, 32, 896), ("Qwen2.5-1.5B's ratios", 256, 8, 2, 32, 1488),
        ("Qwen3-0.6B's ratios", 384, 8, 2, 64, 1280),
    ]  # fmt: skip
    both = [Case(row[0], dtype, *row[1:]) for dtype in ("bfloat16", "float32") for row in varied]
    usual = Case("", "bfloat16", 256, 8, 2, 32, 896)
    return [
        *both,
        usual._replace(name="two rows", rows=2),
        usual._replace(name="attention only", targets=ATTENTION),
        usual._replace(name="dropout", dropout=0.05),
        usual._replace(name="attention only", dtype="float32", targets=ATTENTION),
        usual._replace(name="dropout", dtype="float32", dropout=0.05),
    ]


def config(case: Case, layers: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=case.hidden,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.head_dim,
        intermediate_size=case.mlp,
        num_hidden_layers=layers,
        vocab_size=128,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )


def built(case: Case, layers: int, *, checkpointing: bool) -> Any:
    """Random blocks in NF4 with LoRA in 32 bits beside them, as the PEFT backend makes them."""
    dtype = getattr(torch, case.dtype)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config(case, layers)).to(dtype).save_pretrained(folder)
        packed = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map="cpu",
            attn_implementation="sdpa",
            quantization_config=packed,
        )
    targets = case.targets if case.targets == "all-linear" else list(case.targets)
    lora = LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        lora_dropout=case.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    model.train()
    model.enable_input_require_grads()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def forward(case: Case, model: Any) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """The blocks alone, without head and loss: the last hidden state, which a loss holds on to, and something to go back from."""
    ids = torch.randint(0, 100, (case.rows, case.tokens // case.rows))

    def act() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.dtype == "bfloat16"):
            told = model.model.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
            )
        return told.last_hidden_state, told.last_hidden_state.float().mean()

    return act


def peak(case: Case) -> float:
    """Bytes a token at the fullest moment of one layer's backward pass, computed again, without its kept input."""
    act = forward(case, built(case, 1, checkpointing=True))
    act()[1].backward()  # makes the gradients, which stay
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as seen:
        hidden, score = act()
        score.backward()
        del hidden
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        highest = max(highest, alive)
    assert highest > 0, "the profiler saw no memory"
    return highest / case.tokens - case.hidden * getattr(torch, case.dtype).itemsize


def kept(case: Case) -> float:
    """Bytes a token that autograd keeps of a layer: what three keep beyond one, halved."""
    return (_saved(case, 3) - _saved(case, 1)) / 2


def _saved(case: Case, layers: int) -> float:
    model = built(case, layers, checkpointing=False)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, torch.Tensor] = {}  # holds the tensors too, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in parameters:
            seen[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward(case, model)()
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values()) / case.tokens


def formula(case: Case) -> tuple[float, float]:
    """(kept, peak) bytes a token as `parts.layer` has them; on a CPU dropout's mask has the format of the values."""
    size = getattr(torch, case.dtype).itemsize
    backend = habits("peft", dtype=case.dtype)._replace(mask_bytes=size)
    work = Work(case.rows, case.tokens // case.rows, RANK, case.targets, dropout=case.dropout)

    def layer(layers: int, *, checkpointing: bool) -> float:
        shapes: Shapes = from_config(config(case, layers).to_dict())
        asked = replace(work, checkpointing=checkpointing)
        return parts.layer(shapes, asked, backend) / case.tokens

    whole = [layer(layers, checkpointing=False) for layers in (1, 3)]
    return (whole[1] - whole[0]) / 2, layer(1, checkpointing=True)


def main() -> int:
    """Prints bytes a token, measured and by formula, and the worst errors."""
    torch.manual_seed(1)
    logging.disable_progress_bar()
    print("bytes a token:                                    kept, formula       peak, formula")
    worst = {"kept": 0.0, "peak": 0.0}
    for case in cases():
        expected = dict(zip(worst, formula(case), strict=True))
        measured = {"kept": kept(case), "peak": peak(case)}
        told = []
        for name in worst:
            error = expected[name] / measured[name] - 1
            worst[name] = max(worst[name], error, key=abs)
            told.append(f"{measured[name]:9,.0f} {expected[name]:7,.0f} {error:+6.1%}")
        widths = f"{case.hidden}, {case.heads * case.head_dim}, {case.kv_heads * case.head_dim}, {case.mlp}"
        print(f"{case.dtype:8} {case.name:22} {widths:20}{'  '.join(told)}", flush=True)
    print(f"worst: kept {worst['kept']:+.1%}, peak {worst['peak']:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
