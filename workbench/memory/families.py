"""How models of each family are built, and a configuration's fields read with the defaults of its family.

Knows nothing of how many parameters follow. Traits and defaults are those of the classes in Transformers 5.17; a test
compares what follows from them with these models, parameter for parameter.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..problems import Problem, RunError

_GATED = ("gate_proj", "up_proj", "down_proj")
_FUSED = ("gate_up_proj", "down_proj")


class Family(NamedTuple):
    """How models of one model_type are built. A bias is there, is not, or a field of the configuration says so."""

    attention: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")  # two: q, k, v are one
    mlp: tuple[str, ...] = _GATED
    paths: tuple[str, str, str] = ("model.layers", "self_attn", "mlp")
    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    norms: int = 2  # of hidden width in a block
    norm_vectors: int = 1  # 2: a norm has a shift too; 0: it has no parameters
    # Norms of queries and keys. "head": over one head; "all": over all; a field's name: "all" if it is set.
    qk_norm: str = ""
    window: int = 0  # 0: none; 1: all layers; n: all but each nth; -1: from max_window_layers on
    experts: bool = False
    packs: bool = True
    defaults: Mapping[str, Any] = {}  # of fields that a config.json may leave out


_BIASED = {"qkv_bias": "attention_bias", "o_bias": "attention_bias"}
_EXPERTS = {"experts": True, "window": 1}
_QWEN = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28, "use_sliding_window": False}  # fmt: skip
_GEMMA = {"tie_word_embeddings": True, "head_dim": 256, "num_key_value_heads": 4, "sliding_window": 4096, "num_attention_heads": 8}  # fmt: skip
_GLM = {"head_dim": 128, "num_key_value_heads": 2, "attention_bias": True}
_LLAMA = Family(**_BIASED, mlp_bias="mlp_bias")
#: By model_type, as the classes in Transformers 5.17 are written and as their configurations default.
FAMILIES = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "mistral": Family(window=1, defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "ministral3": Family(window=1, defaults={"num_key_value_heads": 8, "head_dim": 128}),
    "smollm3": _LLAMA._replace(defaults={"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "qwen2": Family(qkv_bias=True, window=-1, defaults=_QWEN),
    "qwen3": Family(**_BIASED, qk_norm="head", window=-1, defaults=_QWEN | {"head_dim": 128}),
    "gemma": Family(**_BIASED, defaults=_GEMMA | {"num_key_value_heads": 16, "num_attention_heads": 16}),
    "gemma2": Family(**_BIASED, norms=4, window=2, defaults=_GEMMA),
    "gemma3_text": Family(**_BIASED, norms=4, qk_norm="head", window=6, defaults=_GEMMA | {"vocab_size": 262208}),
    "phi3": Family(attention=("qkv_proj", "o_proj"), mlp=_FUSED, window=1),
    "phi": Family(attention=("q_proj", "k_proj", "v_proj", "dense"), mlp=("fc1", "fc2"), norms=1, norm_vectors=2, qkv_bias=True, o_bias=True, mlp_bias=True),
    "olmo": Family(**_BIASED, norm_vectors=0),
    "olmo2": Family(**_BIASED, qk_norm="all"),
    "olmo3": Family(**_BIASED, qk_norm="all", window=4, defaults={"sliding_window": 4096}),
    "falcon": Family(attention=("query_key_value", "dense"), mlp=("dense_h_to_4h", "dense_4h_to_h"), paths=("transformer.h", "self_attention", "mlp"), qkv_bias="bias", o_bias="bias", mlp_bias="bias", norm_vectors=2, packs=False, defaults={"tie_word_embeddings": True}),
    "cohere": Family(**_BIASED, norms=1, qk_norm="use_qk_norm", defaults={"tie_word_embeddings": True}),
    "cohere2": Family(**_BIASED, norms=1, window=4, defaults={"tie_word_embeddings": True, "sliding_window": 4096}),
    "stablelm": Family(qkv_bias="use_qkv_bias", norm_vectors=2, qk_norm="qk_layernorm", defaults={"num_key_value_heads": 32}),
    "starcoder2": Family(mlp=("c_fc", "c_proj"), qkv_bias="use_bias", o_bias="use_bias", mlp_bias="use_bias", norm_vectors=2, window=1, defaults={"num_key_value_heads": 2, "use_bias": True, "tie_word_embeddings": True}),
    "gpt2": Family(attention=("c_attn", "c_proj"), mlp=("c_fc", "c_proj"), paths=("transformer.h", "attn", "mlp"), qkv_bias=True, o_bias=True, mlp_bias=True, norm_vectors=2, defaults={"tie_word_embeddings": True, "n_positions": 1024}),
    "gpt_neox": Family(attention=("query_key_value", "dense"), mlp=("dense_h_to_4h", "dense_4h_to_h"), paths=("gpt_neox.layers", "attention", "mlp"), **_BIASED, mlp_bias=True, norm_vectors=2, defaults={"attention_bias": True}),
    "glm": Family(mlp=_FUSED, qkv_bias="attention_bias", defaults=_GLM),
    "glm4": Family(mlp=_FUSED, qkv_bias="attention_bias", norms=4, defaults=_GLM),
    "seed_oss": Family(qkv_bias="attention_bias", o_bias="attention_out_bias", mlp_bias="mlp_bias", defaults=_GLM | {"num_key_value_heads": 8}),
    "exaone4": Family(qk_norm="head", window=4, defaults={"num_key_value_heads": 32, "sliding_window": 4096}),
    "mixtral": Family(**_EXPERTS, defaults={"num_key_value_heads": 8, "num_experts": 8, "num_experts_per_tok": 2}),
    "qwen2_moe": Family(qkv_bias="qkv_bias", experts=True, window=-1, defaults=_QWEN | {"num_key_value_heads": 16, "qkv_bias": True, "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632}),
    "qwen3_moe": Family(**_BIASED, qk_norm="head", **_EXPERTS, defaults={"num_key_value_heads": 4, "use_sliding_window": False, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}),
    "olmoe": Family(**_BIASED, qk_norm="all", experts=True, defaults={"num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8}),
    "gpt_oss": Family(**_BIASED, experts=True, window=2, defaults={"num_key_value_heads": 8, "head_dim": 64, "attention_bias": True, "sliding_window": 128, "num_experts": 128, "num_experts_per_tok": 4}),
}  # fmt: skip
#: Models whose text part is built like another family's.
ALIASES = {"gemma3": "gemma3_text", "mistral3": "mistral", "qwen2_5_vl_text": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_vl": "qwen2"}  # fmt: skip
#: Other names of a field.
NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "n_embed"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "d_ff"),
    "num_experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len"),
}
#: The largest sizes that are believed: about eight times those of any published model.
MOST = {
    "num_hidden_layers": 2048,
    "hidden_size": 2**18,
    "vocab_size": 2**23,
    "intermediate_size": 2**21,
    "sliding_window": 2**31,
}
MOST_OTHERWISE = 2**17
#: Fields of layers that have no formula here.
STRANGE = {
    "kv_lora_rank": "attention with compressed keys and values",
    "n_shared_experts": "shared experts",
    "first_k_dense_replace": "the first layers' MLPs without experts",
    "mamba_d_state": "state-space layers",
    "ssm_cfg": "state-space layers",
    "conv_L_cache": "convolutions",
    "linear_num_value_heads": "layers of linear attention",
    "hidden_size_per_layer_input": "embeddings of each layer",
    "cross_attention_layers": "cross-attention",
}  # fmt: skip


class Fields:
    """Reads a configuration's fields and gathers what is wrong with them, and what could not be told."""

    def __init__(self, config: Any, name: str) -> None:
        self.name, self.problems, self.unknown = name or "config.json", [], []
        self.outer = config if isinstance(config, dict) else {}
        if not isinstance(config, dict):
            self.wrong(f"{self.name} is {_said(config)}; it must be an object with fields.")
        self.text = self.part("text_config") or self.outer
        kind = self.text.get("model_type") or self.outer.get("model_type")
        self.model_type = kind if isinstance(kind, str) else ""
        self.family = FAMILIES.get(ALIASES.get(self.model_type, self.model_type))

    def part(self, key: str) -> dict[str, Any]:
        """A field that holds an object; an empty one where it is not there."""
        value = self.outer.get(key)
        if value is not None and not isinstance(value, dict):
            self.wrong(f"{key} is {_said(value)}; it must be an object with fields.")
        return value if isinstance(value, dict) else {}

    def wrong(
        self, fact: str, cure: str = "Take the config.json that the model came with."
    ) -> None:
        problem = Problem("model.name", fact, cure)
        if problem not in self.problems:  # a field may be read again
            self.problems.append(problem)

    def raise_problems(self) -> None:
        """Raises RunError with all that is wrong so far."""
        if self.problems:
            raise RunError(self.problems)

    def find(self, key: str) -> tuple[str, Any]:
        """A field's own name and its value, by any of its names: the text part's, the model's, its family's."""
        names = NAMES.get(key, (key,))
        for where in (self.text, self.outer, self.family.defaults if self.family else {}):
            for name in names:
                if name in where:
                    return name, where[name]
        return names[0], None

    def number(self, key: str, least: int = 1, most: int = MOST_OTHERWISE) -> int | None:
        """A whole number, None where it is not there or wrong."""
        name, value = self.find(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.wrong(f"{name} is {_said(value)}; it must be a whole number from {least:,} to {most:,}.")  # fmt: skip
            return None
        return value

    def needed(self, key: str) -> int:
        """A number that nothing can be told without; 1 beside a problem."""
        before, value = len(self.problems), self.number(key, most=MOST.get(key, MOST_OTHERWISE))
        if value is None and len(self.problems) == before:
            self.wrong(f"{self.name} has no {key}.")
        return value or 1

    def source(self, key: str) -> str:
        """Where a value is from, as the end of a phrase: nothing where the configuration gives it."""
        given = any(name in self.text or name in self.outer for name in NAMES.get(key, (key,)))
        return "" if given else f" (the default of {self.model_type})"

    def truth(self, key: str) -> bool | None:
        """True or False, None where it is not there or wrong."""
        name, value = self.find(key)
        if value is None or isinstance(value, bool):
            return value
        self.wrong(f"{name} is {_said(value)}; it must be true or false.")
        return None

    def yes(self, key: bool | str) -> bool:
        """Whether a bias or a norm is there: as given, or as the field of this name says."""
        return key if isinstance(key, bool) else self.truth(key) is True


def _said(value: Any) -> str:
    """A value as a sentence can hold it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits; a list in a list in a list
        return "a value too large to print"
    return text if len(text) <= 60 else f"{text[:57]}..."
