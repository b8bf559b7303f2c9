"""What reaches the model: every row once an epoch, the same under each choice, and the same loss and gradients packed."""

import warnings

import numpy as np
import pyarrow as pa
import pytest

from workbench.data import batching
from workbench.data.encode import IGNORED, Tokenized, encode
from workbench.data.rows import Message, Row
from workbench.worker import feeding, sft_settings, training
from workbench.worker.backends import peft
from workbench.worker.precision import Precision

FLOAT32 = Precision("float32", "for the test")
LONGEST = 32
ROWS = 70
CHOICES = ("padded", "grouped", "packed", "wrapped")
WHOLE = CHOICES[:3]  # those that keep a row's tokens together


@pytest.fixture(scope="module")
def tokenized() -> Tokenized:
    """Rows of 2 to 60 tokens, each token another id, so that it can be told again; about half are learned."""
    chance = np.random.default_rng(3)
    lengths = np.clip(chance.lognormal(2.7, 0.8, ROWS), 2, 60).astype(int)
    return made_of(np.split(np.arange(1, lengths.sum() + 1), lengths.cumsum()[:-1]), chance)


def made_of(ids, chance) -> Tokenized:
    """Rows of these ids; of each, some tokens are learned, the second always."""
    masks = [chance.integers(0, 2, len(row)) for row in ids]
    for mask in masks:
        mask[1] = 1
    columns = {
        "input_ids": pa.array([row.tolist() for row in ids], pa.list_(pa.int32())),
        "mask": pa.array([mask.tolist() for mask in masks], pa.list_(pa.uint8())),
    }
    turns = (Message("user", "Hi."), Message("assistant", "Hi."))
    rows = [Row(number, turns) for number in range(1, len(ids) + 1)]
    table = pa.Table.from_batches(pa.table(columns).to_batches(max_chunksize=9))
    return Tokenized(rows, table, None, "all", frozenset({0}))


@pytest.fixture(scope="module")
def encoded(tokenized):
    """All rows but every seventh, cut."""
    positions = np.flatnonzero(np.arange(ROWS) % 7)
    return encode(tokenized, max_length=LONGEST, positions=positions)


def plan(encoded, choice: str, **how):
    settings = {"batch_size": 4, "accumulation": 1, "max_length": encoded.max_length, "seed": 1}
    lengths = encoded.tokenized.lengths[encoded.positions]
    return batching.plan(lengths, wanted=choice, **(settings | how))


def epoch_of(encoded, choice: str, *, epoch: int = 0, packed_fields=peft.packed_fields):
    """The batches of an epoch, in order."""
    units = feeding.units(encoded, plan(encoded, choice))
    collate = feeding.collator(units, None, 0, packed_fields if choice == "packed" else None)
    order = feeding.Order(units.lengths, 4, seed=1, grouped=choice == "grouped")
    order.set_epoch(epoch)
    rows = feeding.dataset(units)
    places = list(order)
    return [
        collate([rows[place] for place in places[at : at + 4]]) for at in range(0, len(places), 4)
    ]


def fed(batch) -> np.ndarray:
    """The ids in a batch that are no padding (which is 0, as no token is), line by line."""
    ids = batch["input_ids"].numpy().ravel()
    return ids[ids != 0]


@pytest.mark.parametrize("choice", WHOLE)
@pytest.mark.parametrize("epoch", [0, 3])
def test_each_token_of_each_row_is_fed_once_an_epoch(encoded, choice: str, epoch: int):
    batches = epoch_of(encoded, choice, epoch=epoch)
    given = sorted(token for row in encoded for token in row.input_ids)
    assert sorted(np.concatenate([fed(batch) for batch in batches]).tolist()) == given
    assert sum(batch["tokens"] for batch in batches) == encoded.tokens == len(given)


def test_wrapped_rows_run_on_uncut_and_in_their_order(encoded):
    units = feeding.units(encoded, plan(encoded, "wrapped"))
    pieces = [units[place] for place in range(len(units.lengths))]
    assert all(len(piece) == 1 for piece in pieces)
    assert [len(piece.ids) for (piece,) in pieces] == units.lengths.tolist()
    assert set(units.lengths[:-1].tolist()) == {LONGEST}
    for column, read in (("ids", encoded.tokenized.ids), ("mask", encoded.tokenized.mask)):
        given = np.concatenate([read(int(position)) for position in encoded.positions])
        run = np.concatenate([getattr(piece, column) for (piece,) in pieces])
        assert (run == given).all() and len(run) > encoded.tokens
    tokens = np.concatenate([fed(batch) for batch in epoch_of(encoded, "wrapped")])
    assert len(tokens) == len(set(tokens.tolist())) == len(given)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_label_is_its_token_where_that_is_learned(encoded, choice: str):
    masks = [encoded.tokenized.mask(position) for position in range(ROWS)]
    learned = np.concatenate(([0], *masks))  # by id
    for batch in epoch_of(encoded, choice):
        ids, labels = batch["input_ids"].numpy(), batch["labels"].numpy()
        counted = labels != IGNORED
        assert (labels[counted] == ids[counted]).all() and learned[ids[counted]].all()
        assert not counted[:, 0].any()
        assert batch["trained_tokens"] == counted.sum()


def test_each_choice_trains_the_same_tokens(encoded):
    def trained(choice):
        labels = [batch["labels"].numpy().ravel() for batch in epoch_of(encoded, choice)]
        found = np.concatenate(labels)
        return sorted(found[found != IGNORED].tolist())

    same = trained("padded")
    assert same == trained("grouped") == trained("packed")
    assert same == sorted(label for row in encoded for label in row.labels[1:] if label != IGNORED)


@pytest.mark.parametrize("choice", ["padded", "grouped", "wrapped"])
def test_the_waste_that_is_told_is_the_padding_that_is_made(encoded, choice: str):
    batches = epoch_of(encoded, choice)
    room = sum(batch["input_ids"].numel() for batch in batches)
    told = plan(encoded, choice).waste[choice]
    assert told == pytest.approx(1 - sum(batch["tokens"] for batch in batches) / room)
    assert choice == "wrapped" or told > 0


def test_the_waste_that_is_told_of_packing_is_the_room_left_empty(encoded):
    units = feeding.units(encoded, plan(encoded, "packed"))
    assert units.lengths.max() <= LONGEST
    told = plan(encoded, "packed").waste["packed"]
    assert told == pytest.approx(1 - encoded.tokens / (LONGEST * len(units.lengths)))
    padded = sum(batch["input_ids"].numel() for batch in epoch_of(encoded, "packed"))
    assert 1 - encoded.tokens / padded <= told + 1e-9  # what is made is at most that


def test_for_a_backend_that_wants_lengths_packed_rows_lie_in_one_line_without_padding(encoded):
    def fields(lengths):
        return {"lengths": lengths}

    batches = epoch_of(encoded, "packed", packed_fields=fields)
    for flat, lines in zip(batches, epoch_of(encoded, "packed"), strict=True):
        assert flat["input_ids"].shape == flat["position_ids"].shape == (1, flat["tokens"])
        assert sum(flat["lengths"]) == flat["tokens"] == lines["tokens"]
        starts = np.cumsum([0, *flat["lengths"][:-1]])
        assert np.flatnonzero(flat["position_ids"][0].numpy() == 0).tolist() == starts.tolist()
        assert flat["trained_tokens"] == lines["trained_tokens"]


def test_heldout_rows_come_longest_first_and_padded(encoded):
    held = feeding.Rows(encoded, longest_first=True)
    assert (np.diff(held.lengths) <= 0).all()
    collate = feeding.collator(feeding.Rows(encoded), held, 0, peft.packed_fields)
    examples = list(feeding.dataset(held, heldout=True))
    batch = collate(examples)
    assert batch["attention_mask"].sum(1).tolist() == held.lengths.tolist()
    given = sorted(token for row in encoded for token in row.input_ids)
    assert sorted(fed(batch).tolist()) == given


# With a model


@pytest.fixture(scope="module")
def loaded(tiny):
    """The tiny model in float32, with an adapter that does something; in NF4 it would only be slower."""
    import torch

    with warnings.catch_warnings():  # imports of the libraries warn about each other
        warnings.simplefilter("ignore")
        peft.import_libraries()
    torch.manual_seed(0)
    recipe = tiny.replace(model={"load_in_4bit": False})
    found = peft.load(recipe, FLOAT32)
    model = peft.attach(found.model, recipe)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return found._replace(model=model)


@pytest.fixture(scope="module")
def speakable(loaded):
    """Rows of ids that the tiny model knows, 3 to 60 tokens, of which the first 48 are kept."""
    chance = np.random.default_rng(4)
    sizes = [3, 60, 9, 31, 17, 12, 40, 5, 26, 8]
    rows = [chance.integers(8, loaded.model.config.vocab_size, size) for size in sizes]
    return encode(made_of(rows, chance), max_length=48)


def forward(model, batch):
    """The loss of each trained token in nats, by its row's ids up to there, and their mean."""
    import torch

    inputs = {k: v for k, v in batch.items() if k not in ("labels", "tokens", "trained_tokens")}
    logits = model(**inputs, use_cache=False).logits[:, :-1].transpose(1, 2)
    labels = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits, labels, ignore_index=IGNORED, reduction="none"
    )
    ids = batch["input_ids"]
    starts = batch.get("position_ids", torch.arange(ids.shape[1]).expand_as(ids))
    found = {}
    for line, place in (labels != IGNORED).nonzero().tolist():
        first = place + 1 - int(starts[line, place + 1])
        found[tuple(ids[line, first : place + 2].tolist())] = losses[line, place].item()
    return found, losses.sum() / (labels != IGNORED).sum()


def batch_of(encoded, choice, packed_fields=None):
    """All rows in one batch."""
    units = feeding.units(encoded, plan(encoded, choice))
    collate = feeding.collator(units, None, 0, packed_fields)
    return collate(list(feeding.dataset(units)))


@pytest.mark.parametrize("fields", [peft.packed_fields, lambda lengths: {}], ids=["lines", "flat"])
def test_packed_rows_give_each_token_the_loss_it_has_alone(loaded, speakable, fields):
    loaded.model.eval()
    apart, mean = forward(loaded.model, batch_of(speakable, "padded"))
    together, packed_mean = forward(loaded.model, batch_of(speakable, "packed", fields))
    assert together.keys() == apart.keys()
    for token, loss in apart.items():
        assert together[token] == pytest.approx(loss, abs=1e-4)
    assert packed_mean.item() == pytest.approx(mean.item(), abs=1e-5)


def test_packed_rows_give_the_gradients_of_rows_alone(loaded, speakable):
    def gradients(batch):
        loaded.model.zero_grad()
        forward(loaded.model, batch)[1].backward()
        named = loaded.model.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.requires_grad}

    loaded.model.train()
    apart = gradients(batch_of(speakable, "padded"))
    together = gradients(batch_of(speakable, "packed", peft.packed_fields))
    assert apart and apart.keys() == together.keys()
    for name, gradient in apart.items():
        assert gradient.norm() > 0
        assert (together[name] - gradient).norm() < 1e-4 * gradient.norm(), name


@pytest.fixture
def trainer(tiny, loaded, speakable, tmp_path):
    """Makes a trainer on the ten rows, whose data collator writes down what it was asked for."""

    def make(choice: str, **fields):
        from transformers import TrainerCallback

        recipe = tiny.replace(training={"batch_size": 2, "steps": None, "epochs": 2.0})
        options = peft.trainer_options(recipe)
        settings = sft_settings.settings(recipe, FLOAT32, tmp_path, on_gpu=False, backend=options)
        config, _ = sft_settings.sft_config(settings | fields)
        made = training.trainer(
            model=loaded.model,
            tokenizer=loaded.tokenizer,
            config=config,
            train=speakable,
            heldout=speakable,
            batching=plan(speakable, choice, batch_size=2),
            packed_fields=peft.packed_fields,
            callback=TrainerCallback(),
        )
        collate, made.asked = made.data_collator, []

        def written_down(examples):
            made.asked.append([example["place"] for example in examples])
            return collate(examples)

        made.data_collator = written_down
        return made

    return make


@pytest.mark.parametrize("choice", CHOICES)
def test_the_trainer_takes_as_many_steps_as_were_planned(trainer, choice: str, speakable):
    made = trainer(choice)
    made.train()
    assert (
        made.state.global_step == 2 * plan(speakable, choice, batch_size=2).steps_per_epoch[choice]
    )
    first, second = np.array_split(np.array(made.asked, dtype=object), 2)
    first, second = ([place for places in half for place in places] for half in (first, second))
    assert sorted(first) == sorted(second) and first != second
    if choice != "wrapped":
        assert made.tokens == 2 * speakable.tokens


def test_a_resumed_epoch_goes_on_with_the_rows_that_are_left(trainer, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None}
    for choice in ("padded", "grouped"):
        whole = trainer(choice, **saving)
        whole.train()
        for step in (3, 6):  # within the first epoch of five steps, and within the second
            again = trainer(choice, **saving)
            again.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / f"checkpoint-{step}"))
            assert again.asked == whole.asked[step:]


def test_the_heldout_loss_is_the_mean_over_trained_tokens(trainer, loaded, speakable):
    loaded.model.eval()
    _, mean = forward(loaded.model, batch_of(speakable, "padded"))
    for batch_size in (1, 3, 16):
        made = trainer("padded", per_device_eval_batch_size=batch_size)
        assert made.evaluate()["eval_loss"] == pytest.approx(mean.item(), abs=1e-5)
        assert made.tokens == 0
