"""Both backends do the same: same rows, same start, same losses, gradients and answers, within stated tolerances.

In float32 on the CPU they differ by rounding only. Unsloth's fused kernels work on 16-bit weights, and are held
to the float32 numbers of PEFT as closely as 16 bits allow.
"""

import pytest

pytestmark = pytest.mark.slow
FLOAT32 = 1e-4  # relative
FLOAT16 = 2e-2


def test_runs_give_the_same_losses_from_the_first_step_to_the_last(runs):
    unsloth, peft = (runs[name].history for name in ("unsloth", "peft"))
    assert len(unsloth.steps) == len(peft.steps) == 3
    for ours, theirs in zip(unsloth.steps, peft.steps, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=FLOAT32)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=10 * FLOAT32)
        for count in ("tokens", "trained_tokens", "learning_rate"):
            assert ours[count] == theirs[count]
    assert unsloth.steps[-1]["loss"] != unsloth.steps[0]["loss"]
    assert unsloth.evals[0]["loss"] == pytest.approx(peft.evals[0]["loss"], rel=FLOAT32)


def test_runs_answer_the_same(runs):
    unsloth, peft = (
        [e["text"] for e in runs[name].history.samples] for name in ("unsloth", "peft")
    )
    assert unsloth == peft


def test_an_adapter_trained_by_unsloth_is_the_same_in_peft(measured):
    ours, theirs = (measured[name]["answers"] for name in ("unsloth", "peft"))
    assert ours["tuned"] == theirs["tuned"]
    assert ours["base"] == theirs["base"]
    assert ours["tuned"] != ours["base"]


def test_a_trained_adapter_gives_the_same_loss_and_gradients(measured):
    compare(measured["unsloth"]["float32"], measured["peft"]["float32"], FLOAT32)


def test_fused_kernels_give_the_same_loss_and_gradients(measured):
    compare(measured["unsloth"]["fused"], measured["peft"]["float32"], FLOAT16)


@pytest.mark.parametrize("backend", ["unsloth", "peft"])
def test_packed_rows_give_the_loss_and_gradients_of_rows_alone(measured, backend):
    compare(measured[backend]["packed"], measured[backend]["float32"], FLOAT32)


@pytest.mark.parametrize("backend", ["unsloth", "peft"])
def test_packed_rows_give_each_token_the_loss_it_has_alone(measured, backend):
    apart, together = measured[backend]["tokens"]
    assert len(apart) == 10  # of two rows of 10 and 6 tokens, all but the first three
    assert together == pytest.approx(apart, rel=FLOAT32)
    assert apart == pytest.approx(measured["peft"]["tokens"][0], rel=10 * FLOAT32)


@pytest.mark.parametrize("backend", ["unsloth", "peft"])
def test_the_trainer_tells_the_same_loss_packed_and_side_by_side(measured, backend):
    step, alone = measured[backend]["step"], measured[backend]["float32"]["loss"]
    assert step["evaluated"] == pytest.approx(alone, rel=FLOAT32)
    assert step["loss"] == pytest.approx(alone, rel=FLOAT32)
    assert step["tokens"] == [16, 10]


def compare(ours, theirs, tolerance):
    """The loss within the tolerance, each gradient's norm within ten times it (of the largest norm, for small ones)."""
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=tolerance)
    assert ours["gradients"].keys() == theirs["gradients"].keys()
    largest = max(theirs["gradients"].values())
    for name, norm in theirs["gradients"].items():
        assert ours["gradients"][name] == pytest.approx(
            norm, rel=10 * tolerance, abs=tolerance * largest
        ), name
