"""`python -m workbench.worker.measure MODEL TEXT`: what 4 bits cost, as the loss of a base model on a text in both precisions.

Prints {"loss_fp32", "loss_nf4", "tokens"} as JSON, in nats per token. Knows nothing of runs or adapters.
"""

import argparse
import json
from pathlib import Path
from typing import Any

BATCH = 32  # documents at once: 4-bit weights are expanded once for all of them


def documents(text: str) -> list[str]:
    """The parts of a text that blank lines set apart."""
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def token_rows(texts: list[str], tokenizer: Any, longest: int) -> list[list[int]]:
    """Token ids of each document after the beginning-of-text token, cut at `longest`; what cannot be predicted is left out."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    rows = ([*begin, *tokenizer.encode(text, add_special_tokens=False)][:longest] for text in texts)
    return [row for row in rows if len(row) > 1]


def mean_loss(model: Any, rows: list[list[int]]) -> float:
    """Mean loss in nats over all tokens that have a predecessor in their document."""
    import torch

    total = 0.0
    with torch.inference_mode():
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            longest = max(map(len, batch))
            filled = [row + [0] * (longest - len(row)) for row in batch]
            ids = torch.tensor(filled, device=model.device)
            real = torch.arange(longest) < torch.tensor([[len(row)] for row in batch])
            mask = real.to(model.device)
            logits = model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1].float()
            wanted = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
            total += torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), wanted, reduction="sum"
            ).item()
    return total / predicted(rows)


def predicted(rows: list[list[int]]) -> int:
    """How many tokens have a predecessor."""
    return sum(len(row) - 1 for row in rows)


def measure(name: str, text: str) -> dict[str, float]:
    """Loads the model in float32 and then in NF4 with double quantization, both computing in float32."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    losses = {}
    for key, in_4bit in (("loss_fp32", False), ("loss_nf4", True)):
        model = _load(name, in_4bit=in_4bit)
        longest = min(model.config.max_position_embeddings, 2048)
        rows = token_rows(documents(text), tokenizer, longest)
        losses[key] = mean_loss(model, rows)
    return losses | {"tokens": predicted(rows)}


def _load(name: str, *, in_4bit: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(
        name,
        dtype=torch.float32,
        quantization_config=nf4 if in_4bit else None,
        device_map={"": 0} if torch.cuda.is_available() else "cpu",
    ).eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[2])
    parser.add_argument("model", help="a folder, or a name on the hub")
    parser.add_argument("text", type=Path, help="a UTF-8 file; blank lines set documents apart")
    args = parser.parse_args()
    print(json.dumps(measure(args.model, args.text.read_text(encoding="utf-8"))))
