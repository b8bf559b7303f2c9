"""Makes the tiny lane's tokenizer and model from the text of `text.py`: a Llama of 3.9 million parameters, on the CPU.

Knows tokens and training. Knows nothing of the fine-tuning task beyond its vocabulary: no task row is trained on here.

    python data/tiny/pretrain.py --minutes 8        writes model/ beside this file, and prints what goes into CARD.md
"""

import argparse
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from copying import ROPE_THETA, begin_copying
from text import FIELDS, documents, message, task_rows, ticket
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
BATCH, SEQ = 12, 160
FIRST = 0.1  # weight in the loss of a token that is new to its document
PEAK = 1e-3  # learning rate of AdamW; ten times that forgets how to copy
SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE in which a word is the same tokens wherever it stands: the marks and spaces between words are apart."""
    bpe = Tokenizer(models.BPE())
    words_digits_and_marks = pre_tokenizers.Split(
        Regex(r"\p{L}+|\p{N}|[^\p{L}\p{N}]+"), behavior="isolated"
    )
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words_digits_and_marks, as_bytes])
    bpe.decoder = decoders.ByteLevel()
    texts = list(islice(documents(seed=10), 20_000))
    texts += [
        message["content"]
        for row in task_rows(2000, seed=1, heldout=False)
        for message in row["messages"]
    ]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1536,
        min_frequency=20,
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    begin_copying(model)
    return model


def token_documents(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Iterator[list[int]]:
    """Documents as token ids; one in four is just random tokens, told again with nothing between them.

    There, what follows a token is what followed it before: the plainest case of copying, and the first to be learned.
    """
    rng = random.Random(seed)
    plain = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    for text in documents(seed):
        if rng.random() < 0.25:
            tokens = rng.choices(plain, k=rng.randint(4, 24))
            yield tokens * rng.randint(2, 3)
        yield tokenizer.encode(text, add_special_tokens=False)


def batches(
    tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids `(BATCH, SEQ)` and their weights in the loss.

    Documents lie one after the other, each behind a `<|begin|>`, cut where a row is full. A token that its document
    had before counts in full, another only FIRST: which name comes up is chance, and learning chance drowns the rest.
    """
    ids: list[int] = []
    weights: list[float] = []
    for document in token_documents(tokenizer, seed=seed):
        seen: set[int] = set()
        for token in (tokenizer.bos_token_id, *document):
            ids.append(token)
            weights.append(1.0 if token in seen else FIRST)
            seen.add(token)
        size = BATCH * SEQ
        if len(ids) >= size:
            yield (
                torch.tensor(ids[:size]).view(BATCH, SEQ),
                torch.tensor(weights[:size]).view(BATCH, SEQ),
            )
            ids, weights = ids[size:], weights[size:]


def weighted_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Mean loss in nats per token of ids `(batch, seq)`, each token counted by its weight."""
    logits = model(ids).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()


@torch.no_grad()
def prose_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Mean loss in nats per token over the held-out documents of prose.txt."""
    total = count = 0
    for text in (HERE / "prose.txt").read_text().split("\n\n"):
        ids = torch.tensor(
            [[tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]]
        )
        total += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count


@torch.no_grad()
def copied(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, tickets: int = 60
) -> float:
    """Share of values that the model restates right, of held-out tickets: every token must be its likeliest."""
    rng = random.Random(30)
    right = 0
    for _ in range(tickets):
        record = ticket(rng, heldout=True)
        text = f"<|user|>{message(rng, record)}<|end|><|assistant|>"
        for name in FIELDS:
            text += f"{name}: "
            before = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
            value = tokenizer.encode(record[name], add_special_tokens=False)
            logits = model(torch.tensor([before + value])).logits[0, len(before) - 1 : -1]
            right += logits.argmax(-1).tolist() == value
            text += f"{record[name]}; "
    return right / (tickets * len(FIELDS))


def rate(done: float) -> float:
    """Share of the peak learning rate at a share `done` of the time: a short warm-up, a plateau, a linear end."""
    return min(1.0, done / 0.01, (1.0 - done) / 0.4)


def pretrain(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, seconds: float, folder: Path
) -> dict:
    """Trains until the time is up and returns what the model card reports."""
    adamw = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    start, smooth, step = time.monotonic(), None, 0
    for step, (ids, weights) in enumerate(batches(tokenizer, seed=20), 1):
        done = (time.monotonic() - start) / seconds
        if done >= 1:
            break
        adamw.param_groups[0]["lr"] = PEAK * rate(done)
        loss = weighted_loss(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        model.zero_grad()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step}  {time.monotonic() - start:.0f} s  loss {smooth:.3f}", flush=True)
        if step % 100 == 0:
            print(f"copied {copied(model, tokenizer, tickets=20):.2f}", flush=True)
            save(model, tokenizer, folder)
    save(model, tokenizer, folder)
    return {
        "steps": step - 1,
        "tokens": (step - 1) * BATCH * SEQ,
        "seconds": round(time.monotonic() - start),
        "loss": smooth,
    }


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the model in float16 (half the bytes; the workbench computes in float32 on a CPU)."""
    half = LlamaForCausalLM(model.config).to(torch.float16)
    half.load_state_dict(
        {name: value.to(torch.float16) for name, value in model.state_dict().items()}
    )
    half.generation_config.pad_token_id = tokenizer.pad_token_id
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=HERE / "model")
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    model = new_model(tokenizer)
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters", flush=True)
    card = pretrain(model, tokenizer, seconds=60 * args.minutes, folder=args.out)
    saved = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    card |= {"prose_loss": prose_loss(saved, tokenizer), "copied": copied(saved, tokenizer)}
    card["sha256"] = hashlib.sha256((args.out / "model.safetensors").read_bytes()).hexdigest()
    print(json.dumps(card, indent=2))
