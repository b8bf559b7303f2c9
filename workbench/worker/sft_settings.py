"""Every field of TRL's SFTConfig, set on purpose: importing Unsloth moves the defaults, and a later TRL may too.

Knows the recipe and nothing of models. Values as of trl 1.14.2 and transformers 5.17.0 where none of ours is better.
"""

import dataclasses
from pathlib import Path
from typing import Any

from ..recipe import Recipe
from .precision import Precision

# What the workbench does by itself (logging, evaluation cadence, templates, masks) or does not use is off here.
PINNED: dict[str, Any] = {
    "lr_scheduler_kwargs": None, "optim_args": None, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
    "optim_target_modules": None, "average_tokens_across_devices": True, "label_smoothing_factor": 0.0,
    "bf16_full_eval": False, "fp16_full_eval": False, "tf32": None,
    "torch_compile": False, "torch_compile_backend": None, "torch_compile_mode": None,
    "use_liger_kernel": False, "liger_kernel_config": None, "use_cache": False, "neftune_noise_alpha": None,
    "torch_empty_cache_steps": None, "auto_find_batch_size": False,
    "logging_strategy": "steps", "logging_steps": 1, "logging_first_step": True, "log_on_each_node": False,
    "logging_nan_inf_filter": False, "include_num_input_tokens_seen": "no", "log_level": "warning",
    "log_level_replica": "warning", "disable_tqdm": True, "report_to": "none", "run_name": None,
    "project": "workbench", "trackio_space_id": None, "trackio_bucket_id": None, "trackio_static_space_id": None,
    # Cadences can be changed while the run goes on, so the callback asks for each evaluation and checkpoint.
    "eval_strategy": "no", "eval_steps": None, "eval_delay": 0, "eval_on_start": False,
    "save_strategy": "no", "save_steps": 500, "prediction_loss_only": True,
    "eval_do_concat_batches": True, "eval_use_gather_object": False, "eval_accumulation_steps": None,
    "include_for_metrics": [], "batch_eval_metrics": False,
    "save_only_model": False, "save_on_each_node": False, "save_total_limit": 2, "enable_jit_checkpoint": False,
    "push_to_hub": False, "hub_token": None, "hub_private_repo": None, "hub_model_id": None,
    "hub_strategy": "every_save", "hub_always_push": False, "hub_revision": None,
    "load_best_model_at_end": False, "metric_for_best_model": None, "greater_is_better": None,
    "ignore_data_skip": False, "restore_callback_states_from_checkpoint": False, "full_determinism": False,
    "accelerator_config": None, "parallelism_config": None,
    "dataloader_drop_last": False, "dataloader_num_workers": 0, "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None, "dataloader_multiprocessing_context": None, "dataloader_in_order": True,
    "remove_unused_columns": False, "label_names": ["labels"], "train_sampling_strategy": "random",
    "length_column_name": "length", "ddp_find_unused_parameters": False, "ddp_bucket_cap_mb": None,
    "ddp_broadcast_buffers": None, "ddp_static_graph": None, "ddp_backend": None, "ddp_timeout": 1800,
    "fsdp": None, "fsdp_config": None, "deepspeed": None, "debug": "", "skip_memory_metrics": True,
    "do_train": False, "do_eval": False, "do_predict": False, "resume_from_checkpoint": None, "local_rank": -1,
    "model_init_kwargs": None, "trust_remote_code": False, "router_aux_loss_coef": None,
    # The data layer renders, masks, cuts and packs; the trainer gets token ids and labels.
    "chat_template_path": None, "dataset_text_field": "text", "dataset_kwargs": {"skip_prepare_dataset": True},
    "dataset_num_proc": None, "eos_token": None, "max_length": None, "truncation_mode": "keep_start",
    "shuffle_dataset": False, "packing": False, "packing_strategy": "bfd", "padding_free": False,
    "pad_to_multiple_of": None, "eval_packing": False, "completion_only_loss": False,
    "assistant_only_loss": False, "activation_offloading": False, "pad_token": None,
}  # fmt: skip


def settings(
    recipe: Recipe, precision: Precision, folder: Path, *, on_gpu: bool, backend: dict[str, Any]
) -> dict[str, Any]:
    """All fields by name; `backend` is what the backend's `trainer_options` asks for, and wins."""
    training = recipe.training
    epochs = training.epochs or 1.0  # not looked at when there are steps
    ours = {
        "output_dir": str(folder / "checkpoints"),
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulation,
        "num_train_epochs": epochs,
        "max_steps": training.steps or -1,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": training.warmup,  # below 1 it is a share of the steps
        "optim": training.optimizer,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "bf16": on_gpu and precision.dtype_name == "bfloat16",
        "fp16": on_gpu and precision.dtype_name == "float16",
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "seed": training.seed,
        "data_seed": training.seed,
    }
    return PINNED | ours | backend


def sft_config(fields: dict[str, Any]) -> tuple[Any, list[str]]:
    """The SFTConfig, and the names of fields that the installed TRL has and we do not know: its defaults hold there."""
    from trl import SFTConfig

    known = {field.name for field in dataclasses.fields(SFTConfig) if field.init}
    config = SFTConfig(**{name: value for name, value in fields.items() if name in known})
    return config, sorted(known - set(fields))
