"""The alarms: each comes with its cause, says the value and the next step, and goes with its cause."""

import math

import pytest
from made_history import made

from workbench.alarm import KINDS, LOOKS, SHORT, WINDOW, _windows, alarms
from workbench.events import History

GIB = 2**30


class Log:
    """A history that is written in memory; `steps` adds so many alike."""

    def __init__(self, tmp_path):
        self.history = History(tmp_path / "events.jsonl")
        self.t = 0.0
        self.phase("training")

    def add(self, kind, **fields):
        self.t += 1
        self.history.absorb({"t": self.t, "kind": kind, **fields})

    def phase(self, state):
        self.add("phase", state=state, text="")

    def steps(self, count, loss=1.0, *, tokens=1000, trained=400, seconds=0.5, of=10_000):
        for _ in range(count):
            counts = {"tokens": tokens, "trained_tokens": trained, "seconds": seconds}
            known = {"epoch": 0.0, "learning_rate": 1e-3, "grad_norm": 1.0}
            self.add("step", step=self.history.step + 1, of=of, loss=loss, **known, **counts)

    def evals(self, *losses):
        for loss in losses:
            self.steps(10)
            self.add("eval", step=self.history.step, loss=loss, seconds=1.0)

    def memory(self, count=1, reserved=4 * GIB, used=5 * GIB, total=15 * GIB, **card):
        for _ in range(count):
            sizes = {"allocated": 0, "reserved": reserved, "process": GIB}
            self.add("memory", step=1, **sizes, device_used=used, device_total=total, **card)

    def found(self, **how):
        return {alarm.kind: alarm for alarm in alarms(self.history, **how)}


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


def test_a_run_that_goes_well_gives_no_alarm(tmp_path):
    for count in (0, 1, 20, 100):
        folder = tmp_path / str(count)
        folder.mkdir()
        assert alarms(made(folder, steps=count, of=200, gpu=True), patience=3) == []


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_lost_loss_stays_told(log, lost):
    log.steps(30)
    log.steps(1, lost)
    assert log.found()["nan"].text == f"The loss is {lost} at step 31: the adapter is spoilt."
    assert log.found()["nan"].cure.startswith("Cancel, and start again with a lower")
    log.steps(100)
    log.phase("stopped")
    assert list(log.found()) == ["nan"]


def test_what_was_kept_before_the_loss_was_lost_is_still_good(log):
    log.evals(0.5)
    log.steps(5, math.nan)
    alarm = log.found()["nan"]
    assert "that of step 10 is from before" in alarm.cure
    assert alarm.act == "stop"
    assert log.found(keep="last")["nan"].act == ""
    log.add("adapter", step=10, path="adapter", why="")
    log.phase("ready")
    assert "the adapter of step 10, from before" in log.found()["nan"].cure


@pytest.mark.parametrize("low", [0.1, 2.0])
def test_a_loss_that_explodes_and_comes_back(log, low):
    log.steps(1, 12.0)  # the first steps of an untrained model are no explosion
    log.steps(60, low)
    log.steps(2, low + 9)  # nor are two hard batches
    assert "exploding" not in log.found()
    log.steps(SHORT, low + 3)
    alarm = log.found()["exploding"]
    assert f"{low + 3:.3g}" in alarm.text and f"{low:.3g}" in alarm.text
    assert "learning rate" in alarm.cure
    log.steps(WINDOW, low)
    assert "exploding" not in log.found()


def test_a_loss_that_explodes_early_is_told_by_what_it_was_down_to_for_a_moment(log):
    for loss in (5.4, 5.0, 4.6, 4.0, 3.4, 2.8, 2.2, 1.8, 1.5, 1.3, 1.25, 1.2, 1.2, 1.2, 1.2):
        log.steps(1, loss)
    assert "exploding" not in log.found()
    log.steps(SHORT, 4.1)
    assert "exploding" in log.found()


def test_losses_that_jump_from_row_to_row_are_no_explosion(log):
    for number in range(100):
        log.steps(1, 0.6 if number % 3 else 2.9)
        assert "exploding" not in log.found()


def test_overfitting_batches_and_a_slow_start_are_no_explosion(log):
    log.steps(40, 0.05)
    log.steps(40, 0.6)
    assert "exploding" not in log.found()


def test_steps_without_trained_tokens_are_counted(log):
    log.steps(1, trained=0)
    assert log.found()["no_trained_tokens"].text.startswith("The last step had no")
    log.steps(10)
    alarm = log.found()["no_trained_tokens"]
    assert alarm.text.startswith("1 of the last 11 steps")
    assert alarm.level == "warning"
    log.steps(WINDOW)
    assert "no_trained_tokens" not in log.found()
    log.steps(WINDOW, trained=0)
    assert log.found()["no_trained_tokens"].level == "error"


def test_rising_held_out_loss_names_the_best_and_offers_to_stop(log):
    log.evals(0.9, 0.41, 0.45)
    assert "rising" not in log.found()
    log.evals(0.52)
    alarm = log.found(patience=3)["rising"]
    assert alarm.text == (
        "The held-out loss did not fall in 2 evaluations: 0.52 at step 40, 0.41 at step 20."
    )
    assert alarm.cure.startswith("Best at step 20; stop and keep it?")
    assert "After 1 more such evaluation the run does so by itself." in alarm.cure
    assert alarm.act == "stop"
    assert "by itself" not in log.found(patience=0)["rising"].cure
    assert "keeps the last step's" in log.found(keep="last")["rising"].cure
    log.evals(0.4)
    assert "rising" not in log.found()


def test_an_evaluation_that_equals_the_best_is_not_above_it(log):
    log.evals(0.5, 0.5, 0.5, 0.6, 0.5)
    assert "rising" not in log.found()
    log.evals(math.nan, math.nan)
    assert "nan at step" in log.found()["rising"].text


def test_after_the_last_step_there_is_nothing_to_stop(log):
    log.evals(0.1, 0.2, 0.3)
    assert "rising" in log.found()
    log.steps(1, of=log.history.step + 1)
    assert "rising" not in log.found()


def test_a_slower_run_is_told_and_a_pause_or_a_slow_step_is_not(log):
    log.steps(100)
    log.steps(WINDOW // 4, seconds=60)  # an evaluation, a pause, another program for a moment
    log.steps(1)
    assert "slower" not in log.found()
    log.steps(WINDOW, seconds=1.0)
    assert "1,000 tokens/s" in log.found()["slower"].text
    assert "2,000" in log.found()["slower"].text
    log.steps(WINDOW)
    assert "slower" not in log.found()


def test_a_resumed_run_is_compared_with_itself(log):
    log.steps(100)
    log.phase("preparing")
    log.phase("training")
    log.steps(100, seconds=2.0)
    assert "slower" not in log.found()


def test_a_card_that_is_nearly_full(log):
    log.memory(used=14.9 * GIB)
    alarm = log.found(planned={"expected": 9 * GIB, "safe": 10 * GIB})["memory"]
    assert "14.90 GiB of 15.00 GiB. The plan called 10.00 GiB safe." in alarm.text
    assert "run.resume(batch_size=...)" in alarm.cure
    log.memory(used=0, total=0)  # no card
    assert "memory" not in log.found()
    log.memory(reserved=14.5 * GIB)
    assert "memory" in log.found()
    log.memory()
    assert "memory" not in log.found()


def test_a_throttled_card_is_told_after_a_while_and_its_power_limit_is_only_a_note(log):
    log.memory(2, throttled="temperature", temperature=88, power=71.0)
    assert "throttled" not in log.found()
    log.memory(throttled="temperature", temperature=88, power=71.0)
    alarm = log.found()["throttled"]
    assert "because of temperature (88 \N{DEGREE SIGN}C, 71 W)." in alarm.text
    assert alarm.level == "warning"
    log.memory(3, throttled="power")
    assert log.found()["throttled"].level == "note"
    log.memory(throttled="")
    assert "throttled" not in log.found()


def test_readings_of_an_older_version_give_no_alarm(log):
    log.memory(5)
    assert log.found() == {}


def test_the_order_is_always_the_same(log):
    log.steps(60)
    log.evals(0.1, 0.2, 0.3)
    log.memory(3, used=15 * GIB, throttled="power")
    log.steps(WINDOW, 9.0, trained=0, seconds=9.0)
    log.steps(1, math.nan)
    assert list(log.found()) == list(KINDS)


def test_when_the_training_is_over_only_what_spoilt_it_is_told(log):
    log.evals(0.1, 0.2, 0.3)
    log.steps(WINDOW, 9.0, trained=0, seconds=9.0)
    log.memory(used=15 * GIB)
    assert log.found()
    log.phase("stopped")
    assert log.found() == {}


def test_each_alarm_has_a_fact_and_a_next_step(log):
    log.steps(60)
    log.evals(0.1, 0.2, 0.3)
    log.memory(3, used=15 * GIB, throttled="temperature")
    log.steps(WINDOW, 9.0, trained=0, seconds=9.0)
    for alarm in alarms(log.history):
        assert alarm.text.endswith(".")
        assert len(alarm.cure) > 20
        assert alarm.level in ("note", "warning", "error")
        assert any(letter.isdigit() for letter in alarm.text) or alarm.kind == "throttled"


def test_what_was_looked_at_once_is_looked_at_again_as_a_run_grows():
    """Else an alarm would come and go with the choice of windows."""
    before: set[int] = set()
    for count in range(WINDOW * LOOKS - WINDOW, WINDOW * LOOKS * 5, WINDOW * 7):
        starts = {window[0] for window in _windows(range(count))} - {count - WINDOW}
        assert len(starts) <= LOOKS  # and so 100,000 steps cost what 1,000 do
        assert all(start in before or start > max(before) for start in starts if before)
        before = starts
