"""What in QLoRA scripts that are often copied fails or harms with the pinned versions, and what to write instead.

Knows nothing of recipes; a right script is written by `two_paths.py`.
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

BORDER = "1px solid var(--jp-border-color2, #9e9e9e88)"
CELL = "padding:5px 14px 5px 0;text-align:left;vertical-align:top;white-space:normal"
CODE = "margin:0;font-size:12px;white-space:pre-wrap;overflow-wrap:anywhere;background:none;color:inherit"


class Correction(NamedTuple):
    """What is often written, what comes of it, and what to write instead."""

    often: str
    comes: str
    instead: str


class Corrections(tuple[Correction, ...]):
    """Several of them, as a table."""

    def __str__(self) -> str:
        return "\n".join(f"{one.often}\n    {one.comes}\n    -> {one.instead}" for one in self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [(code(one.often), escape(one.comes), code(one.instead)) for one in self]
        return table("Often copied", ("written", "what comes of it", "instead"), rows)


def corrections() -> Corrections:
    """What in scripts that are often copied fails or harms with the pinned versions, and what to write instead."""
    return Corrections(Correction(*each) for each in _CORRECTIONS)


_CORRECTIONS = (
    (
        "FastLanguageModel.from_pretrained(..., use_bf16_immediately=True)",
        "A TypeError after the download: neither Unsloth nor Transformers has such an argument.",
        "leave it out",
    ),
    (
        "dtype=torch.bfloat16",
        "A T4 has no bfloat16: Unsloth warns, and takes float16.",
        "dtype=None  # Unsloth looks at the card",
    ),
    (
        "AutoModelForCausalLM.from_pretrained(..., load_in_4bit=True)",
        "A TypeError since Transformers 5.",
        "quantization_config=BitsAndBytesConfig(load_in_4bit=True, ...)",
    ),
    ("torch_dtype=...", "Deprecated in Transformers 5.", "dtype=..."),
    (
        "SFTTrainer(model, peft_config=LoraConfig(...))",
        "Once Unsloth was imported it is ignored without a word, and every weight is trained.",
        "model = get_peft_model(model, LoraConfig(...))  # before the trainer",
    ),
    (
        "model = prepare_model_for_kbit_training(model)",
        "Turns embeddings and head to float32: 2.1 GB more for an 8B model, and no better.",
        "leave it out; TRL does too",
    ),
    (
        "import unsloth  # and plain PEFT later on",
        "The import rewrites transformers, peft and trl for the whole process.",
        "one process (or kernel) for each",
    ),
    (
        "SFTConfig(...)  # no learning_rate",
        "TRL's default is 2e-5, made for full fine-tuning; after importing Unsloth it is 5e-5.",
        "learning_rate=2e-4  # every field on purpose",
    ),
    (
        'target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]',
        "Works, and learns less: adapters on all linear layers are what reaches 16-bit quality in the QLoRA paper.",
        'target_modules="all-linear"',
    ),
    (
        "lora_dropout=0  # must be, with Unsloth",
        "It need not be any more: its fused kernels compute dropout, too.",
        "lora_dropout=0.05  # for few rows",
    ),
)


def code(text: str) -> str:
    """Code as HTML, escaped."""
    return f'<pre style="{CODE}">{escape(text)}</pre>'


def table(caption: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; without script."""
    head = "".join(
        f'<th scope="col" style="{CELL};border-bottom:{BORDER}">{title}</th>' for title in titles
    )
    body = "".join(
        "<tr>" + "".join(f'<td style="{CELL};border-bottom:{BORDER}">{cell}</td>' for cell in row) + "</tr>"
        for row in rows
    )  # fmt: skip
    style = "border-collapse:collapse;line-height:1.4;color:inherit;font-size:13px;width:100%"
    return (
        '<div class="wb-listing" style="max-width:1000px;overflow-x:auto">'
        f'<table style="{style}"><caption style="text-align:left;font-weight:600">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
