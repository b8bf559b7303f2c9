"""Several adapters beside one base, each with a weight: what the mix answers, and what it loses on held-out rows.

PEFT's layers add every active adapter's output, `base(x) + Σ scale * B(A(x))`, so a mix is a scale for each: exact, and
no weight of the base is touched. Knows nothing of how an adapter's folder is found.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from ..data import sides
from ..data.encode import Encoded, encode, tokenize
from ..data.template import prompt_ids
from ..data.tokenizer import ChatTokenizer
from ..problems import Problem, RunError, WorkbenchError
from ..recipe import Recipe
from ..worker import device
from ..worker.answering import Answerer, Decoding
from ..worker.backends import peft
from ..worker.precision import Precision, choose
from ..worker.questions import conversation
from . import contest, shards
from .adapter import Adapter, Keys, read

Weights = Mapping[str, float]


@dataclass(frozen=True)
class Mixture:
    """A base with several adapters, known to PEFT by `keys`; `adapters` by the names that weights are given for."""

    model: Any
    tokenizer: Any
    chat: ChatTokenizer
    precision: Precision
    recipe: Recipe
    adapters: dict[str, Adapter]
    keys: dict[str, str]

    def weigh(self, weights: Weights) -> bool:
        """Gives each adapter its weight, 0 to those not named; returns whether any is left on.

        Raises RunError for a name that is not loaded, and for adapters that cannot be added up.
        """
        active = self._checked(weights)
        for layer in self.model.modules():
            if isinstance(layer, LoraLayer):
                for name, weight in active.items():
                    layer.set_scale(self.keys[name], weight)
        if active:
            self.model.base_model.set_adapter(
                [self.keys[name] for name in active], inference_mode=True
            )
        return bool(active)

    def answers(
        self,
        prompts: Sequence[str],
        weights: Weights,
        *,
        system: str | None = None,
        max_new_tokens: int = 64,
    ) -> list[str]:
        """What the mix answers to each prompt, greedily. Raises RunError or DataError for what cannot be asked."""
        on = self.weigh(weights)
        asked = [prompt_ids(conversation(system, prompt), self.chat) for prompt in prompts]
        answerer = Answerer(
            peft,
            self.model,
            self.tokenizer,
            max_length=self._longest(),
            end_ids=self.chat.end_ids,
        )
        answers = answerer.answer_all(
            asked,
            Decoding(max_new_tokens),
            adapter=on,
            interrupted=lambda: False,
            passing=lambda _: None,
        )
        return [answer.text for answer in answers]

    def loss(self, rows: Encoded, weights: Weights) -> float:
        """The mix's mean loss on encoded rows, in nats per trained token."""
        on = self.weigh(weights)
        some = contest.batches(
            rows, len(rows), self.recipe.training.batch_size, self.tokenizer.pad_token_id
        )
        if on:
            return contest.held_out(self.model, some, self.precision).loss
        with self.model.disable_adapter():
            return contest.held_out(self.model, some, self.precision).loss

    def _longest(self) -> int:
        known = getattr(self.model.config, "max_position_embeddings", None)
        return min(self.recipe.model.max_length, known or self.recipe.model.max_length)

    def _checked(self, weights: Weights) -> dict[str, float]:
        """The adapters that are on, with their weights."""
        for name in weights:
            if name not in self.adapters:
                fact = f"There is no adapter {name!r} in this mix."
                raise _refusal(fact, f"It has {', '.join(self.adapters)}.")
        active = {name: float(weight) for name, weight in weights.items() if weight}
        for name, weight in active.items():
            why = _alone(self.adapters[name])
            if why and (len(active) > 1 or weight != 1):
                fact = f"Adapter {name} {why}, so it is no sum: it cannot be scaled or mixed."
                raise _refusal(fact, "Give it the weight 1 alone, or take a plain LoRA.")
        return active


def load(recipe: Recipe, adapters: Mapping[str, Path], holder: Path) -> Mixture:
    """Loads the recipe's base as a run does, and all adapters beside it; `holder` is the folder that holds the card.

    Raises RunError for adapters that do not fit, a base that is not at hand, and a card that is busy.
    """
    found = {name: read(folder) for name, folder in adapters.items()}
    for name, adapter in found.items():
        if adapter.config.get("bias", "none") != "none":
            fact = f"Adapter {name} also trained the base's bias terms, which cannot be mixed or switched off."
            raise _refusal(fact, "Take an adapter that was trained with lora.bias none.")
    shards.folder(recipe.model.name, recipe.model.revision)
    transformers.utils.logging.disable_progress_bar()
    device.hold_card(holder)
    precision = choose(recipe.model.compute_dtype)
    model, tokenizer, _ = peft.load(recipe, precision)
    chat = ChatTokenizer.of(tokenizer, template=recipe.data.template)
    for name, adapter in found.items():
        _check_fit(model, name, adapter, recipe.model.name)
    keys = {
        name: f"mixed_{number}" for number, name in enumerate(found)
    }  # a module's name has no dots
    for name, adapter in found.items():
        if isinstance(model, PeftModel):
            model.load_adapter(str(adapter.folder), keys[name])
        else:
            model = PeftModel.from_pretrained(model, str(adapter.folder), keys[name])
    model.eval()
    return Mixture(model, tokenizer, chat, precision, recipe, found, keys)


def heldout_rows(recipe: Recipe, chat: ChatTokenizer, count: int) -> Encoded | None:
    """The first held-out rows of a recipe, as a run feeds them; None where it holds none out. Raises DataError."""
    held = sides.read(recipe.data).heldout
    if not held:
        return None
    tokens = tokenize(held.rows, chat, loss_on=recipe.data.loss_on)
    positions = held.positions[:count]
    return encode(tokens, max_length=recipe.model.max_length, positions=positions)


def tell(
    say: Callable[..., None],
    hear: Iterable[dict[str, Any]],
    *,
    recipe: str,
    adapters: dict[str, str],
    holder: str,
) -> None:
    """Loads, says "ready", and answers each request, a mix, with "answers" or "refused" and the request's `id`.

    A request has `prompts`, `weights`, `system`, `max_new_tokens`, and `rows`, the held-out rows to measure the loss on.
    """
    settings = Recipe.from_yaml(recipe)
    say("progress", done=0, of=1, text=f"Loading {settings.model.name}.")
    mixture = load(
        settings, {name: Path(folder) for name, folder in adapters.items()}, Path(holder)
    )
    say("ready", adapters=list(adapters), base=settings.model.name)
    rows: dict[int, Encoded | None] = {}
    for request in hear:
        try:
            say("answers", id=request["id"], **_met(mixture, request, rows))
        except WorkbenchError as error:
            say("refused", id=request["id"], problems=[list(p) for p in error.problems])


def _met(
    mixture: Mixture, request: dict[str, Any], rows: dict[int, Encoded | None]
) -> dict[str, Any]:
    """What is said to one request; `rows` keeps those that were read before."""
    weights, count = request["weights"], request["rows"]
    if count and count not in rows:
        rows[count] = heldout_rows(mixture.recipe, mixture.chat, count)
    held = rows.get(count)
    return {
        "answers": mixture.answers(
            request["prompts"],
            weights,
            system=request["system"],
            max_new_tokens=request["max_new_tokens"],
        )
        if request["prompts"]
        else [],
        "loss": mixture.loss(held, weights) if held else None,
    }


def _alone(adapter: Adapter) -> str:
    """Why an adapter cannot be added to others; "" where it can."""
    if adapter.config.get("use_dora"):
        return "is DoRA, which also sets the size of each weight row"
    if adapter.config.get("modules_to_save"):
        return f"holds modules trained in full ({', '.join(adapter.config['modules_to_save'])})"
    if adapter.config.get("trainable_token_indices"):
        return "holds embeddings of single tokens trained in full"
    return ""


def _check_fit(model: Any, name: str, adapter: Adapter, base: str) -> None:
    """Raises RunError, naming the first module that the base lacks or has in another shape."""
    for module, keys in adapter.modules.items():
        try:
            shape = _shape(model.get_submodule(module))
        except AttributeError:
            shape = None
        if shape != _wanted(keys):
            there = "has none" if shape is None else f"has it as {shape[0]} x {shape[1]}"
            wanted = " x ".join(map(str, _wanted(keys)))
            fact = f"Adapter {name} is for another base: it changes {module}, {wanted}; {base} {there}."
            named = adapter.config.get("base_model_name_or_path") or "not told"
            raise _refusal(fact, f"Give the base that it was trained on: {named}.")


def _wanted(keys: Keys) -> tuple[int, int]:
    return keys.b_shape[0], keys.a_shape[1]


def _shape(layer: torch.nn.Module) -> tuple[int, int]:
    """(out, in) of a layer, packed or not; of embeddings (width, tokens). Raises AttributeError for any other."""
    if hasattr(layer, "embedding_dim"):
        return layer.embedding_dim, layer.num_embeddings
    if hasattr(layer, "nx"):  # Conv1D
        return layer.nf, layer.nx
    return layer.out_features, layer.in_features


def _refusal(fact: str, cure: str) -> RunError:
    return RunError([Problem("", fact, cure)])
