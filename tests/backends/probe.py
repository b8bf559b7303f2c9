"""Run as a process of its own: loads one backend by the package's functions and measures what the tests compare.

python probe.py BACKEND RECIPE ADAPTER FOLDER      writes FOLDER/measured.json
python probe.py model TOKENIZER FOLDER             writes a tiny random Llama there
"""

import json
import sys
from pathlib import Path

from workbench.data import batching
from workbench.data.encode import Tokenized, encode
from workbench.data.rows import Message, Row
from workbench.problems import RunError
from workbench.recipe import Recipe
from workbench.worker import backends, best, feeding, precision, sft_settings, training

# Two rows of token ids: short, since Triton's interpreter takes its time. The first three are not learned.
ROWS = ([5, 17, 42, 311, 99, 640, 7, 23, 1001, 64], [9, 8, 300, 512, 77, 21])


def main(name, recipe_file, adapter, folder):
    backend, recipe = backends.get(name), Recipe.load(recipe_file)
    staging = folder / "staging"
    staging.mkdir()
    backend.prepare(staging)  # as a spare worker does: the run's folder comes after the import
    backend.import_libraries()
    backend.prepare(folder)

    found = {}
    if name == "unsloth":
        found["cache"] = sorted(path.name for path in (folder / "unsloth_cache").iterdir())
        found["refusals"] = refusals(backend, recipe)
    model, found["source"] = load(backend, recipe, "float32")
    found["layers"] = sorted({type(layer).__name__ for layer in linear_layers(model)})
    model = backend.attach_saved(model, Path(adapter), trainable=True)
    found["trainable"] = [p for p, tensor in model.named_parameters() if tensor.requires_grad]
    found["float32"] = loss_and_gradients(model, batch())
    found["packed"] = loss_and_gradients(model, batch(backend.packed_fields))
    found["tokens"] = [losses(model, batch(how)) for how in (None, backend.packed_fields)]
    found["answers"] = answers(backend, model)
    found["put_back"] = put_back(backend, model, folder / best.FILE)
    found["step"] = packed_step(backend, recipe, model, folder)
    if name == "unsloth":
        found["fused"] = fused(backend, recipe, adapter)
    (folder / "measured.json").write_text(json.dumps(found))


def load(backend, recipe, dtype):
    loaded = backend.load(recipe, precision.Precision(dtype, "The test asks for it."))
    return loaded.model, loaded.source


def fused(backend, recipe, adapter):
    """The same batch through Unsloth's fused kernels: it patches them in for 16-bit weights only."""
    model, _ = load(backend, recipe, "float16")
    model = backend.attach_saved(model, Path(adapter), trainable=True)
    layer = model.base_model.model.model.layers[0]
    found = loss_and_gradients(model, batch())
    found["kernels"] = [
        layer.self_attn.apply_qkv.__name__,
        layer.self_attn.apply_o.__name__,
        layer.mlp.forward.__name__,
    ]
    return found


def packed_step(backend, recipe, model, folder):
    """What the worker's own trainer says of both rows: evaluated side by side, then one step on them packed."""
    from transformers import TrainerCallback

    encoded = encode(tokenized(), max_length=recipe.model.max_length)
    recipe = recipe.replace(training={"batching": "packed", "steps": 1, "batch_size": 2})
    options = backend.trainer_options(recipe)
    kind = precision.Precision("float32", "The test asks for it.")
    fields = sft_settings.settings(recipe, kind, folder, on_gpu=False, backend=options)
    trainer = training.trainer(
        model=model,
        tokenizer=backend.load_tokenizer(recipe),
        config=sft_settings.sft_config(fields)[0],
        train=encoded,
        heldout=encoded,
        batching=batching.plan(
            encoded.lengths, batch_size=2, accumulation=1, max_length=64, wanted="packed"
        ),
        packed_fields=backend.packed_fields,
        callback=TrainerCallback(),
    )
    evaluated = trainer.evaluate()["eval_loss"]
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    return {
        "evaluated": evaluated,
        "loss": logged["loss"],
        "tokens": [trainer.tokens, trainer.trained_tokens],
    }


def tokenized():
    import pyarrow as pa

    masks = [[0] * 3 + [1] * (len(row) - 3) for row in ROWS]
    columns = [
        pa.array(ROWS, pa.list_(pa.int32())),
        pa.array(masks, pa.list_(pa.uint8())),
    ]
    turns = (Message("user", "Hi."), Message("assistant", "Hi."))
    rows = [Row(number, turns) for number, _ in enumerate(ROWS, 1)]
    table = pa.Table.from_arrays(columns, ["input_ids", "mask"])
    return Tokenized(rows, table, None, "assistant", frozenset({0}))


def linear_layers(model):
    import torch

    head = model.get_output_embeddings()
    return [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]


def batch(packed_fields=None):
    """Both rows as the worker feeds them: padded, or packed into one sequence as the backend wants it."""
    import numpy as np

    masks = [np.arange(len(row)) >= 3 for row in ROWS]
    pieces = [feeding.Piece(np.array(row), mask) for row, mask in zip(ROWS, masks, strict=True)]
    made = (
        feeding.packed([pieces], 0, packed_fields) if packed_fields else feeding.padded(pieces, 0)
    )
    return {name: value for name, value in made.items() if name not in ("tokens", "trained_tokens")}


def losses(model, inputs):
    """The loss of each learned token in nats, row by row."""
    import torch

    labels = inputs["labels"][:, 1:]
    with torch.no_grad():
        given = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**given, use_cache=False).logits[:, :-1].transpose(1, 2).float()
    each = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
    return each[labels != -100].tolist()


def loss_and_gradients(model, inputs):
    model.train()
    model.zero_grad()
    loss = model(**inputs, use_cache=False).loss  # with a cache, Transformers sees no boundaries
    loss.backward()
    norms = {
        n: p.grad.float().norm().item() for n, p in model.named_parameters() if p.requires_grad
    }
    return {"loss": loss.item(), "gradients": norms}


def answers(backend, model):
    """Greedy answers with and without the adapter, and whether the model was left as it was found."""
    import torch

    model.train()
    ids = torch.tensor([ROWS[0]])
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    said = {}
    with backend.answering(model):
        said["training_inside"] = model.training
        said["tuned"] = model.generate(input_ids=ids, attention_mask=ids * 0 + 1, **options)[
            0
        ].tolist()
        with model.disable_adapter():
            base = model.generate(input_ids=ids, attention_mask=ids * 0 + 1, **options)
    said["base"] = base[0].tolist()
    said["training_after"] = model.training
    try:
        with backend.answering(model):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        said["training_after_interrupt"] = model.training
    return said


def put_back(backend, model, path):
    """Losses and answers with an adapter, with it changed, and with it put back, as after an evaluation."""
    import torch

    before = {name: one.detach().clone() for name, one in best.trained(model)}
    best.keep(model, path, best.Evaluated(1, 0.5))
    said = [answers_now(backend, model)]
    with torch.no_grad():
        for _, parameter in best.trained(model):
            parameter.add_(0.1)
    model.eval()  # as an evaluation leaves it
    said.append(answers_now(backend, model))
    restored = best.restore(model, path)
    said.append(answers_now(backend, model))
    after = dict(best.trained(model))
    equal = after.keys() == before.keys() and all(
        bool((one == after[name]).all()) for name, one in before.items()
    )
    return {"restored": restored, "equal": equal, "said": said}


def answers_now(backend, model):
    """The losses of both rows, and a greedy answer to the first of them."""
    import torch

    ids = torch.tensor([ROWS[0]])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with backend.answering(model):
        answer = model.generate(input_ids=ids, attention_mask=ids * 0 + 1, **options)
    return {"losses": losses(model, batch()), "answer": answer[0].tolist()}


def refusals(backend, recipe):
    """What is said to recipes that Unsloth cannot do as they are meant."""
    model, _ = load(backend, recipe, "float32")

    def said(action):
        try:
            action()
        except RunError as error:
            return str(error)
        return None

    head = recipe.replace(lora={"target_modules": ["q_proj", "lm_head"]})
    whole = recipe.replace(lora={"modules_to_save": ["q_proj"]})
    missing = recipe.replace(model={"name": str(Path(recipe.model.name).with_name("missing"))})
    return {
        "head": said(lambda: backend.attach(model, head)),
        "whole": said(lambda: backend.attach(model, whole)),
        "missing": said(lambda: load(backend, missing, "float32")),
        "bfloat16": said(lambda: load(backend, recipe, "bfloat16")),
    }


def make_model(tokenizer_folder, folder):
    """A Llama of two layers with random weights, wide enough apart that its answers are not all alike."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if sys.argv[1] == "model":
        make_model(*sys.argv[2:])
    else:
        main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
