"""Several methods learn the same rows with several seeds, one training after another: what is measured of each, as lines.

What trains is what a run trains with: the worker's rows, loading, adapter and trainer, by PEFT for all of them. Knows
recipes that were checked before; nothing of what the figures mean.
"""

import datetime
import gc
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data.encode import IGNORED, Encoded
from ..data.tokenizer import ChatTokenizer
from ..events import EventLog, History
from ..recipe import Recipe
from ..worker import device, feeding, material, parts, rehearsal, sft_settings, shortage, training
from ..worker.backends import peft
from ..worker.precision import Precision, choose

Say = Callable[..., None]
WARMING = 2  # steps that the speed leaves out: the first ones pay for what is made once
FLOAT32 = Precision("float32", "What is trained is held in float32, as an adapter is.")


class Entry(NamedTuple):
    """A method: its name, the recipe that it trains by, and whether it trains every weight instead of an adapter."""

    name: str
    recipe: Recipe
    full: bool


class Ground(NamedTuple):
    """What all entries share: the rows as they are fed, the format that is computed in, and a folder to write in."""

    rows: material.Material
    tokenizer: Any
    precision: Precision
    folder: Path
    batch_size: int  # of the recipe, by which rows of like length are grouped

    @property
    def pad(self) -> int:
        return self.tokenizer.pad_token_id


class Held(NamedTuple):
    """Mean nats per trained token of the held-out rows, and the share of rows of which each is the likeliest token."""

    loss: float
    exact: float


def tell(
    say: Say,
    hear: Iterable[Any],
    *,
    recipe: str,
    entries: Sequence[dict[str, Any]],
    seeds: Sequence[int],
    rows: int,
    folder: str,
) -> None:
    """Trains all entries with each seed: a line `ground`, then `step` by step and `result`; out of memory is a result.

    `entries` have a `name`, a `recipe` in YAML, and `full`; what is written goes into `folder`, which is empty. Raises RunError, DataError.
    """
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    known = [Entry(e["name"], Recipe.from_yaml(e["recipe"]), e["full"]) for e in entries]
    said = Progress(say, len(known) * len(seeds))
    ground = prepared(Recipe.from_yaml(recipe), Path(folder), said.passing)
    held = min(rows, len(ground.rows.heldout or ()))
    say("ground", rows=held, machine=machine(ground.precision))
    peaks: dict[str, int] = {}
    for seed in seeds:
        for entry in known:  # the seeds outside: what is cut short still compares all entries
            measured = attempted(ground, entry, seed, rows, said, peaks)
            _empty()
            said.one_more(entry, seed, measured)
            say("result", entry=entry.name, seed=seed, **measured)


class Progress:
    """Tells how far it all is, in words and by step."""

    def __init__(self, say: Say, of: int) -> None:
        self._say, self._of, self._done = say, of, 0

    def passing(self, text: str) -> None:
        self._say("progress", done=self._done, of=self._of, text=text)

    def step(self, entry: Entry, seed: int, step: dict[str, Any]) -> None:
        told = {"step": step["step"], "of": step["of"], "loss": _number(step["loss"])}
        self._say("step", entry=entry.name, seed=seed, **told)

    def one_more(self, entry: Entry, seed: int, measured: dict[str, Any]) -> None:
        self._done += 1
        held = measured["heldout_loss"]
        became = measured["why"] or f"{measured['seconds']:.0f} s of training"
        if held is not None:
            became += f", held-out loss {held:.3g}"
        self.passing(f"{self._done} of {self._of}: {entry.name}, seed {seed}: {became}")


def prepared(recipe: Recipe, folder: Path, passing: Callable[[str], None]) -> Ground:
    """Takes the card and prepares the rows, once for all entries; `passing` is told what is going on.

    Raises RunError when the card is held, DataError for rows that cannot be trained.
    """
    peft.import_libraries()
    device.hold_card(folder)
    device.limit_memory()
    tokenizer = peft.load_tokenizer(recipe)
    chat = ChatTokenizer.of(tokenizer, template=recipe.data.template)
    log, told = EventLog(folder / "rows.jsonl"), set()

    def once(text: str) -> None:
        if text not in told:
            told.add(text)
            passing(text)

    rows = material.gather(recipe, chat, log, passing=once)
    precision = choose(recipe.model.compute_dtype)
    return Ground(rows, tokenizer, precision, folder, recipe.training.batch_size)


def attempted(
    ground: Ground, entry: Entry, seed: int, rows: int, said: Progress, peaks: dict[str, int]
) -> dict[str, Any]:
    """What one training gave, by the names of a Result; `why` says in words where the memory ran out.

    `peaks` has those of entries that were measured with another seed: the shapes are the same.
    """
    folder = ground.folder / f"{len(list(ground.folder.iterdir()))}"
    folder.mkdir()
    log = EventLog(folder / "events.jsonl")
    history = History(log.path)

    def stepped(_: Any) -> None:
        history.update()
        said.step(entry, seed, history.steps[-1])

    try:
        made = trained(ground, entry, seed, log, stepped)
        found = _measured(made, history, folder)
        if entry.name not in peaks:
            peaks[entry.name] = peak(made, ground.rows)
        some = batches(ground.rows.heldout, rows, made.args.per_device_eval_batch_size, ground.pad)
        held = held_out(made.model, some, ground.precision)
    except Exception as error:
        if not shortage.is_shortage(error):
            raise
        found = _short(error, history)
        shortage.forget(error)
    else:
        found |= {"peak_bytes": peaks[entry.name], "heldout_loss": held and _number(held.loss)}
        found["exact"] = held and held.exact
    shutil.rmtree(folder)
    return found


def trained(
    ground: Ground, entry: Entry, seed: int, log: EventLog, stepped: Callable[[Any], None]
) -> Any:
    """A trainer that has trained: what a run of this recipe does, with the seed in place of the recipe's.

    In full fine-tuning all weights are held in float32, as the numbers of an adapter are, and computed with in the
    same format: steps smaller than the last digit of 16 bits would be lost.
    """
    import transformers

    recipe = entry.recipe.replace(training={"seed": seed})
    model = peft.load(recipe, FLOAT32 if entry.full else ground.precision).model
    transformers.set_seed(seed)
    if not entry.full:
        model = peft.attach(model, recipe)
    fields = sft_settings.settings(
        recipe,
        ground.precision,
        ground.folder,
        on_gpu=device.on_card(),
        backend=peft.trainer_options(recipe),
    )
    config, _ = sft_settings.sft_config(fields)
    cadence = training.Cadence(evaluate=0, sample=0, checkpoint=0, at_end=False)
    made = training.trainer(
        model=model,
        tokenizer=ground.tokenizer,
        config=config,
        train=ground.rows.train,
        heldout=None,
        batching=ground.rows.batching,
        packed_fields=peft.packed_fields,
        callback=training.between_steps(log, cadence, listen=stepped, sample=lambda *_, **__: None),
        order=_order(ground, recipe),
    )
    if device.on_card():
        torch.cuda.reset_peak_memory_stats()
    made.train()
    return made


def peak(made: Any, rows: material.Material) -> int:
    """Most bytes of tensors at once in training: weights, optimizer's state, gradients and activations together.

    On a card torch has counted them over all steps. On a CPU nobody counts: there one more pass over the longest rows
    is watched, and what is held all the time is added; an optimizer step's own short-lived tensors are not in it.
    """
    if device.on_card():
        return torch.cuda.max_memory_allocated()
    units = feeding.units(rows.train, rows.batching)
    batch = rehearsal.longest(made, units, made.args.per_device_train_batch_size)
    made.model.zero_grad(set_to_none=True)
    held = sum(parts.held(made.model, made.optimizer).values())
    with rehearsal.leaving_no_trace(made), parts.peak() as found:
        rehearsal.one_pass(made, batch)
    return held + found.above


def held_out(model: Any, batches: Iterable[feeding.Batch], precision: Precision) -> Held | None:
    """The held-out loss and exact match of `batches` by one pass, None for no rows.

    A row is exact when each of its trained tokens is the likeliest one after the row's own tokens before it. That is
    the same as greedy decoding that answers the row letter by letter: as long as every choice is the row's token, both
    go on from the same text, and the first other choice ends both.
    """
    nats, tokens, right, rows = 0.0, 0, 0, 0
    model.eval()
    on_card = model.device.type == "cuda"
    with torch.no_grad(), torch.autocast(model.device.type, precision.dtype, enabled=on_card):
        for batch in batches:
            inside = {
                name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")
            }
            labels = batch["labels"][:, 1:].to(model.device)
            learned = labels != IGNORED
            said = model(**inside).logits[:, :-1][learned].float()  # (trained tokens, vocabulary)
            nats += torch.nn.functional.cross_entropy(said, labels[learned], reduction="sum").item()
            wrong = torch.zeros_like(learned)
            wrong[learned] = said.argmax(-1) != labels[learned]
            tokens, rows = tokens + len(said), rows + len(labels)
            right += int((~wrong.any(1)).sum())
    return Held(nats / tokens, right / rows) if rows else None


def batches(
    heldout: Encoded | None, rows: int, at_once: int, pad_token_id: int
) -> Iterator[feeding.Batch]:
    """The first `rows` held-out rows as tensors, the longest first, `at_once` in each."""
    units = feeding.Rows(heldout) if heldout else None
    count = min(rows, len(heldout or ()))
    places = sorted(range(count), key=lambda place: -units.lengths[place])
    for first in range(0, count, at_once):
        found = [units[place][0] for place in places[first : first + at_once]]
        yield feeding.padded(found, pad_token_id)


def machine(precision: Precision) -> dict[str, Any]:
    """What the figures were measured on, and with which versions."""
    known = device.environment()
    return {
        "card": device.card(),
        "cpus": known["cpus"],
        "threads": known["threads"],
        "cuda": known["cuda"],
        "precision": precision.dtype_name,
        "backend": peft.NAME,
        "versions": device.versions(),
        "date": datetime.date.today().isoformat(),
    }


def _order(ground: Ground, recipe: Recipe) -> feeding.Order:
    """The rows' order by the seed and by the batch size of all, as a run with other micro-batches keeps it."""
    grouped = ground.rows.batching.choice == "grouped"
    otherwise = grouped and recipe.training.batch_size != ground.batch_size
    units = feeding.units(ground.rows.train, ground.rows.batching)
    return feeding.Order(
        units.lengths,
        ground.batch_size,
        seed=recipe.training.seed,
        grouped=grouped,
        sorted_by=recipe.effective_batch if otherwise else None,
    )


def _measured(made: Any, history: History, folder: Path) -> dict[str, Any]:
    """What a training took: seconds in its steps, tokens/s, numbers trained, and bytes of the file that is kept."""
    steps, model = history.steps, made.model
    counted = steps[WARMING:] or steps
    seconds = sum(step["seconds"] for step in counted)
    model.save_pretrained(str(folder))
    return {
        "seconds": sum(step["seconds"] for step in steps),
        "tokens_per_second": sum(step["tokens"] for step in counted) / seconds if seconds else None,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "kept_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        "why": "",
    }


def _short(error: Exception, history: History) -> dict[str, Any]:
    """What is told of a training that the memory did not suffice for."""
    history.update()
    at = f"after step {history.step}" if history.step else "before the first step"
    more = shortage.wanted(error)
    why = f"the memory ran out {at}" + (f": {shortage.size(more)} more were wanted" if more else "")
    none = ("heldout_loss", "exact", "peak_bytes", "tokens_per_second", "trainable", "kept_bytes")
    seconds = sum(step["seconds"] for step in history.steps)
    return dict.fromkeys(none) | {"seconds": seconds, "why": f"{why}."}


def _number(value: float) -> float | None:
    """The value if JSON can hold it: no NaN, no infinity."""
    return value if math.isfinite(value) else None


def _empty() -> None:
    """Gives back what the last training held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
