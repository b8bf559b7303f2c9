"""Run as a process of its own: loads one backend by the package's functions and measures what the tests compare.

python probe.py BACKEND RECIPE ADAPTER FOLDER      writes FOLDER/measured.json
python probe.py model TOKENIZER FOLDER             writes a tiny random Llama there
"""

import json
import sys
from pathlib import Path

from workbench.problems import RunError
from workbench.recipe import Recipe
from workbench.worker import backends, precision

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
    found["float32"] = loss_and_gradients(model, padded())
    found["packed"] = loss_and_gradients(model, packed(backend))
    found["answers"] = answers(backend, model)
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
    found = loss_and_gradients(model, padded())
    found["kernels"] = [
        layer.self_attn.apply_qkv.__name__,
        layer.self_attn.apply_o.__name__,
        layer.mlp.forward.__name__,
    ]
    return found


def linear_layers(model):
    import torch

    head = model.get_output_embeddings()
    return [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]


def padded():
    """Both rows as a batch `(2, longest)`."""
    import torch

    longest = max(map(len, ROWS))
    lines = [
        (row + [0] * (longest - len(row)), [1] * len(row) + [0] * (longest - len(row)))
        for row in ROWS
    ]
    ids, mask = (torch.tensor(column) for column in zip(*lines, strict=True))
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def packed(backend):
    """Both rows laid end to end `(1, total)`, as the worker's collator does it."""
    import torch

    labels = [label for row in ROWS for label in [-100] * 3 + row[3:]]
    batch = {
        "input_ids": torch.tensor([[token for row in ROWS for token in row]]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([[place for row in ROWS for place in range(len(row))]]),
    }
    if backend.NAME == "unsloth":
        batch |= backend.packed_fields([len(row) for row in ROWS])
    return batch


def loss_and_gradients(model, batch):
    model.train()
    model.zero_grad()
    loss = model(**batch, use_cache=False).loss  # with a cache, Transformers sees no boundaries
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
