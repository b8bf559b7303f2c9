"""The event log and the History: what is written is read, nothing is lost to a torn line or a full disk."""

import json

import pytest

from workbench.events import KINDS, EventLog, History


def step(log: EventLog, number: int, loss: float = 1.0) -> None:
    values = dict.fromkeys(KINDS["step"], 1.0)
    log.write(
        "step", **values | {"step": number, "of": 9, "loss": loss, "seconds": 0.5, "tokens": 50}
    )


@pytest.fixture
def log(tmp_path):
    return EventLog(tmp_path / "events.jsonl")


def test_what_is_written_is_read_once(log):
    history = History(log.path)
    step(log, 1)
    assert [event["step"] for event in history.update()] == [1]
    assert history.update() == []
    step(log, 2)
    history.update()
    assert (history.step, history.of, history.speed) == (2, 9, 100.0)


def test_an_event_has_the_fields_of_its_kind(log):
    with pytest.raises(ValueError, match="a phase event has the fields"):
        log.write("phase", state="training")


def test_half_a_line_waits_for_its_other_half(log):
    history = History(log.path)
    step(log, 1)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:20])
    assert history.update() == []
    log.path.write_bytes(whole)
    assert len(history.update()) == 1


def test_a_torn_line_is_skipped_with_a_warning_and_spoils_no_other(log):
    step(log, 1)
    with log.path.open("ab") as file:
        file.write(b'{"t": 1, "kind": "step", "st')
    again = EventLog(log.path)
    step(again, 2)
    history = History(log.path)
    history.update()
    assert [s["step"] for s in history.steps] == [1, 2]
    assert history.warnings[0]["text"].startswith("A line of events.jsonl is torn")


def test_steps_trained_again_after_a_resume_replace_the_earlier_ones(log):
    for number, loss in ((1, 3.0), (2, 2.0), (3, 1.5), (2, 2.5)):
        step(log, number, loss)
    history = History(log.path)
    history.update()
    assert [(s["step"], s["loss"]) for s in history.steps] == [(1, 3.0), (2, 2.5)]


def test_a_kind_from_a_later_version_is_no_fault(log):
    with log.path.open("ab") as file:
        file.write(json.dumps({"t": 1, "kind": "hologram"}).encode() + b"\n")
    history = History(log.path)
    assert len(history.update()) == 1
    assert history.warnings == []


def test_nan_survives(log):
    step(log, 1, float("nan"))
    history = History(log.path)
    history.update()
    assert history.steps[0]["loss"] != history.steps[0]["loss"]


def test_a_growing_answer_is_there_until_the_whole_one_comes(log):
    log.write("token", sample="a", text="red ")
    log.write("token", sample="a", text="lamp")
    history = History(log.path)
    history.update()
    assert history.partial == {"a": "red lamp"}
    log.write("sample", **dict.fromkeys(KINDS["sample"]) | {"sample": "a", "text": "red lamp"})
    history.update()
    assert history.partial == {}
    assert history.samples[0]["text"] == "red lamp"
