"""The worker on a real card, with either backend: `make gpu-check` runs these and writes what the card does beside them."""

import asyncio
import importlib.util
import time
from collections.abc import Callable

import pytest

from workbench import machine
from workbench.problems import RunError
from workbench.recipe import Recipe
from workbench.run import Run

CARDS = machine.look().cards
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not CARDS, reason="there is no NVIDIA GPU here"),
]
BACKENDS = ["unsloth", "peft"]


@pytest.fixture(scope="module")
def on_card(short: Recipe) -> Recipe:
    """Twelve steps of the tiny lane with what a user's run has: 8-bit AdamW and gradient checkpointing."""
    return short.replace(
        training={"optimizer": "adamw_8bit", "gradient_checkpointing": True, "batch_size": 8}
    )


def trained_on(start: Callable[..., Run], recipe: Recipe, backend: str) -> Run:
    run = start(recipe.replace(backend=backend))
    assert run.wait(900) == "ready"
    return run


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_trains_and_tells_of_the_card(start, on_card: Recipe, backend: str):
    run = trained_on(start, on_card, backend)
    losses = [step["loss"] for step in run.history.steps]
    assert len(losses) == 12 and losses[-1] < losses[0]
    reading = run.history.memory[-1]
    assert 0 < reading["allocated"] <= reading["reserved"] <= reading["device_used"]
    assert reading["device_total"] == CARDS[0].total
    told = {name: reading[name] for name in ("utilisation", "temperature", "power", "throttled")}
    if (
        importlib.util.find_spec("pynvml") and told["temperature"] is not None
    ):  # null on a part of a card (MIG)
        assert 0 <= told["utilisation"] <= 100 and 0 < told["temperature"] < 120
        assert 0 < told["power"] < 2000 and isinstance(told["throttled"], str)
    else:
        assert set(told.values()) == {None}
    choices = {choice["what"]: choice["value"] for choice in run.history.choices}
    assert choices["backend"] == backend
    can_bfloat16 = CARDS[0].capability >= (8, 0)
    assert choices["precision"] == ("bfloat16" if can_bfloat16 else "float16")
    answer = asyncio.run(run.answer("Ada here.", max_new_tokens=8))
    assert 0 < answer["tokens"] <= 8


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_of_its_memory_comes_back(start, on_card: Recipe, backend: str):
    free = CARDS[0].free
    run = trained_on(start, on_card, backend)
    run.close()
    until = time.monotonic() + 30
    while machine.look().cards[0].free < free - 64 * 2**20:
        assert time.monotonic() < until, "the worker has ended and its memory is still taken"
        time.sleep(0.5)


def test_a_second_run_on_the_same_card_is_refused_by_name(start, on_card: Recipe):
    first = start(on_card.replace(training={"steps": 5000}, backend="peft"))
    until = time.monotonic() + 120
    while first.state == "preparing" and time.monotonic() < until:
        time.sleep(0.1)
    with pytest.raises(RunError, match=f"The GPU is busy with run '{first.name}'"):
        start(on_card)


def test_both_backends_begin_at_the_same_loss(start, on_card: Recipe):
    first = [trained_on(start, on_card, b).history.steps[0]["loss"] for b in BACKENDS]
    # The same rows and a B of zero: what differs is rounding in 16 bits, 2**-8 of a loss of about 8.
    assert first[0] == pytest.approx(first[1], abs=0.1)


def test_an_adapter_of_unsloth_answers_under_peft(start, on_card: Recipe):
    run = trained_on(start, on_card, "unsloth")
    told = asyncio.run(run.answer("Ada here.", max_new_tokens=12))["text"]
    run.close()
    (run.folder / "backend.json").write_text('{"value": "peft", "why": "a test"}')
    run.reopen()
    assert run.wait(300) == "ready"
    assert asyncio.run(run.answer("Ada here.", max_new_tokens=12))["text"][:4] == told[:4]
