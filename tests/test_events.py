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


def test_speed_counts_all_tokens_and_trained_speed_those_that_are_learned_from(log):
    history = History(log.path)
    assert (history.speed, history.trained_speed) == (None, None)
    for number in range(1, 31):
        values = dict.fromkeys(KINDS["step"], 1.0) | {"step": number, "of": 30, "seconds": 0.5}
        trained = 10 if number > 10 else 1000  # the last 20 count
        log.write("step", **values | {"tokens": 50, "trained_tokens": trained})
    history.update()
    assert (history.speed, history.trained_speed) == (100.0, 20.0)


def test_an_early_stop_is_told_until_the_run_goes_on(log):
    step(log, 6)
    history = History(log.path)
    history.update()
    assert history.stopped_early == ""
    why = "The held-out loss did not fall in 3 evaluations: best 0.410 at step 2."
    log.write("choice", what="early_stop", value="2", why=why)
    history.update()
    assert history.stopped_early == why and history.choices[-1]["value"] == "2"
    step(log, 7)  # it was resumed
    history.update()
    assert history.stopped_early == ""


def test_the_best_evaluation_is_the_lowest_number(log):
    history = History(log.path)
    for number, loss in ((1, float("nan")), (2, 0.5), (3, 0.4), (4, float("nan"))):
        log.write("eval", step=number, loss=loss, seconds=0.1)
        history.update()
        best = history.best_eval
        assert (best and best["step"]) == {1: None, 2: 2, 3: 3, 4: 3}[number]


def test_a_log_of_an_older_version_is_read(log):
    older = [
        {"kind": "memory", "step": 1, "process": 9},
        {"kind": "sample", "sample": "step-0-0", "step": 0, "text": "red"},
        {"kind": "adapter", "step": 9, "path": "adapter"},
    ]
    with log.path.open("ab") as file:
        file.writelines(json.dumps({"t": 1} | event).encode() + b"\n" for event in older)
    history = History(log.path)
    history.update()
    assert history.warnings == [] and history.stopped_early == ""
    assert history.memory[0].get("power") is None and history.adapter["step"] == 9


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


def test_a_half_answer_of_a_killed_worker_is_dropped_when_the_next_one_begins(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.write("token", sample="step-0-0", text="Hal")
    history = History(tmp_path / "events.jsonl")
    history.update()
    assert history.partial == {"step-0-0": "Hal"}
    log.write("phase", state="preparing", text="Reading the recipe.")
    history.update()
    assert history.partial == {}
