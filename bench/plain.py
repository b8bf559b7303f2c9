"""The yardstick: QLoRA by hand with PEFT or Unsloth and TRL, with the settings of a recipe and nothing of the workbench around it.

`python bench/plain.py BACKEND RECIPE FILE STEPS` appends one JSON line per step to FILE: when it was done, and its loss.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from workbench.data.batching import order
from workbench.data.encode import encode, tokenize
from workbench.data.table import read
from workbench.data.tokenizer import ChatTokenizer
from workbench.recipe import Recipe
from workbench.worker import backends, precision, sft_settings


def peft_model(recipe: Recipe, dtype: Any) -> Any:
    """A 4-bit base with a LoRA adapter, as PEFT's documentation does it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=recipe.model.quant_type,
        bnb_4bit_use_double_quant=recipe.model.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    base = AutoModelForCausalLM.from_pretrained(
        recipe.model.name,
        dtype=dtype,
        quantization_config=nf4,
        device_map={"": 0} if torch.cuda.is_available() else "cpu",
    )
    lora = LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        target_modules=recipe.lora.target_modules,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, lora)


def unsloth_model(recipe: Recipe, dtype: Any) -> Any:
    """The same, as Unsloth's notebooks do it."""
    from unsloth import FastLanguageModel

    checkpointing = "unsloth" if recipe.training.gradient_checkpointing else False
    base, _ = FastLanguageModel.from_pretrained(
        recipe.model.name,
        max_seq_length=recipe.model.max_length,
        dtype=dtype,
        load_in_4bit=True,
        use_gradient_checkpointing=checkpointing,
    )
    return FastLanguageModel.get_peft_model(
        base,
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        use_gradient_checkpointing=checkpointing,
        random_state=recipe.training.seed,
    )


def main(backend: str, recipe_path: str, file: str, steps: str) -> None:
    """Trains."""
    recipe = Recipe.load(recipe_path).replace(training={"steps": int(steps)})
    module = backends.get(backend)
    module.prepare(Path(tempfile.mkdtemp(prefix="workbench-bench-")))
    module.import_libraries()
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback, set_seed
    from trl import SFTTrainer

    chosen = precision.choose(recipe.model.compute_dtype)
    tokenizer = module.load_tokenizer(recipe)
    length = recipe.model.max_length
    tokenized = tokenize(read(recipe.data.train), ChatTokenizer.of(tokenizer), loss_on="assistant")
    rows = encode(tokenized, max_length=length)
    set_seed(recipe.training.seed)
    model = (unsloth_model if backend == "unsloth" else peft_model)(recipe, chosen.dtype)
    fields = sft_settings.settings(
        recipe,
        chosen,
        Path(tempfile.mkdtemp()),
        on_gpu=torch.cuda.is_available(),
        backend=module.trainer_options(recipe),
    )

    class Times(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                line = {"step": state.global_step, "t": time.time(), "loss": logs["loss"]}
                out.write(json.dumps(line) + "\n")

    # The same rows in the same steps as a run, laid one after the other.
    epochs = -(-int(steps) * recipe.effective_batch // len(rows))
    batch = recipe.training.batch_size
    places = [
        place
        for epoch in range(epochs)
        for place in order(
            rows.lengths, batch, seed=recipe.training.seed, epoch=epoch, grouped=False
        ).tolist()
    ]
    fields["train_sampling_strategy"] = "sequential"
    prepared = [{"input_ids": row.input_ids, "labels": row.labels} for row in rows]

    exact = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    trainer = SFTTrainer(
        model=model,
        args=sft_settings.sft_config(fields)[0],
        train_dataset=Dataset.from_list(prepared).select(places),
        processing_class=tokenizer,
        callbacks=[Times()],
    )
    trainer.remove_callback(PrinterCallback)
    for (
        parameter,
        value,
    ) in exact:  # TRL rounds the adapter to bfloat16; a run does not, and that is slow on a CPU
        parameter.data = value
    with open(file, "w", buffering=1) as out:
        trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
