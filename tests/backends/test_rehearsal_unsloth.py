"""The real Unsloth rehearses like PEFT: it tells its parts, and the training after it is as it was."""

import pytest

from workbench.worker.parts import OF_THE_MODEL

pytestmark = pytest.mark.slow


def test_both_backends_tell_the_same_parts_of_the_same_model(runs):
    unsloth, peft = (runs[name].history.probes for name in ("unsloth", "peft"))
    assert len(unsloth) == len(peft) == 1
    ours, theirs = unsloth[0]["measured"], peft[0]["measured"]
    for name in ("weights", "embeddings", "head", "adapters", "gradients"):
        assert ours[name] == theirs[name] > 0, name
    assert all(ours[name] >= 0 for name in OF_THE_MODEL)
    assert ours["scales"] > 0 and ours["optimizer"] > 0 and ours["activations"] > 0
    for name in ("step", "batch_size", "longest", "tokens"):
        assert unsloth[0][name] == peft[0][name], name
    assert unsloth[0]["step"] == 1 and unsloth[0]["tokens"] == unsloth[0]["longest"]


def test_what_unsloth_writes_down_can_be_learned_from(runs):
    import json

    record = runs["unsloth"].folder.parent / "memory.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    (line,) = [line for line in lines if line["run"] == "unsloth"]
    assert line["backend"] == "unsloth" and line["versions"]["unsloth_zoo"]
    assert line["measured"] == runs["unsloth"].history.probes[0]["measured"]
