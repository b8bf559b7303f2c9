"""The command line through `main` and as a process: what it prints, where, and with which exit code it ends."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_runs import living_worker, made_run

from workbench import terminal
from workbench.cli import changed, main
from workbench.events import EventLog
from workbench.problems import RecipeError
from workbench.recipe import Recipe
from workbench.run import Run
from workbench.terminal import as_commands, in_json, line, printable

TINY = Path(__file__).parents[1] / "data" / "tiny" / "recipe.yaml"
WORKBENCH = [sys.executable, "-m", "workbench"]


def ran(*arguments: object, outputs: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command as a process."""
    command = [*WORKBENCH, *map(str, arguments), "--outputs", str(outputs)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


# What is said of an event


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"kind": "phase", "state": "loading", "text": "Loading x."}, "loading: Loading x."),
        (
            {"kind": "data", "rows": 2400, "heldout_rows": 0, "tokens": 200, "trained_tokens": 66},
            "data: 2,400 rows; 200 tokens, 33% of them trained on",
        ),
        (
            {"kind": "eval", "step": 50, "loss": 0.12345, "seconds": 1},
            "held-out loss at step 50: 0.123",
        ),
        (
            {"kind": "score", "step": 9, "correct": 1, "rows": 300, "adapter": False, "seconds": 1},
            "exact match before training: 1 of 300 held-out rows",
        ),
        (
            {"kind": "warning", "text": "It is late.", "cure": "Sleep."},
            "warning: It is late. Sleep.",
        ),
        ({"kind": "command", "taken": False, "text": "No."}, "not done: No."),
        ({"kind": "command", "taken": True, "text": ""}, None),
        ({"kind": "memory", "step": 1}, None),
        ({"kind": "of a later version"}, None),
    ],
)
def test_an_event_in_one_line(event: dict, text: str | None):
    assert line(event) == text


def test_a_models_text_cannot_take_over_the_terminal():
    assert printable("red\x1b[2J\x07 and\nblue") == "red\ufffd[2J\ufffd and\nblue"
    answer = {"kind": "sample", "step": 1, "adapter": True, "text": "a\x1b]0;title\x07\nb"}
    assert line(answer) == "answer at step 1: a\ufffd]0;title\ufffd b"


# Settings on the command line


def test_settings_are_read_as_yaml(tiny: Recipe):
    given = [
        "lora.rank=8",
        "lora.target_modules=[q_proj, v_proj]",
        "backend=peft",
        "model.revision=",
    ]
    recipe = changed(tiny, given)
    assert (recipe.lora.rank, recipe.lora.target_modules) == (8, ["q_proj", "v_proj"])
    assert recipe.backend == "peft" and recipe.model.revision is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("lora.rank", "--set lora.rank has no value. Write it as --set lora.rank=8."),
        ("lora.rank=", "--set lora.rank= has no value. Write it as --set lora.rank=8."),
        ("lora.rank=[1", "--set lora.rank=[1 is not valid YAML. Write it as --set lora.rank=8."),
        ("=8", "--set =8 names no setting. Write it as --set lora.rank=8."),
        ("rank=8", "rank is not a setting. Did you mean lora.rank?"),
        ("lora.rank.x=8", "lora.rank.x is not a setting. Did you mean lora.rank?"),
        ("a.b.c=1", "a.b.c is not a setting. Write it as --set lora.rank=8."),
        ("backend.x=1", "backend.x is not a setting. Did you mean backend?"),
    ],
)
def test_a_setting_that_cannot_be_read(tiny: Recipe, given: str, told: str):
    with pytest.raises(RecipeError) as caught:
        changed(tiny, [given])
    assert str(caught.value) == told


def test_a_whole_group_is_set_by_a_table_only(tiny: Recipe):
    lora = changed(tiny, ["lora={rank: 4}", "lora.alpha=3"]).lora
    assert (lora.rank, lora.alpha) == (4, 3)
    with pytest.raises(RecipeError, match="lora is a group of settings. Set one of them."):
        changed(tiny, ["lora=8", "lora.rank=8"])


def test_all_settings_that_are_wrong_are_told_at_once(tiny: Recipe):
    with pytest.raises(RecipeError) as caught:
        changed(tiny, ["rank=8", "lora.rank=0", "lora.alpha=[1"])
    assert {problem.where for problem in caught.value.problems} == {
        "rank",
        "lora.rank",
        "lora.alpha",
    }


# Errors: one sentence a problem on standard error, nothing on standard output


def test_all_problems_of_a_recipe_and_exit_code_2(tmp_path: Path):
    bad = ["lora.rank=0", "lora.rnak=3", "training.learning_rate=much"]
    out = ran("train", TINY, *(f"--set={setting}" for setting in bad), outputs=tmp_path)
    assert out.returncode == 2 and out.stdout == ""
    assert out.stderr.splitlines() == [
        "lora.rank is 0; it must be at least 1. 8 or 16 is a good start.",
        "lora.rnak is not a setting. Did you mean lora.rank?",
        "training.learning_rate is 'much'; it must be a number. 1e-4 to 3e-4 is usual for LoRA.",
    ]
    assert list(tmp_path.iterdir()) == []


def test_what_preflight_finds_is_told_before_a_worker_starts(tmp_path: Path, capsys):
    arguments = [
        "--set=model.name=./nowhere",
        "--set=data.train=./none.jsonl",
        "--outputs",
        str(tmp_path),
    ]
    assert main(["train", str(TINY), *arguments]) == 2
    errors = capsys.readouterr().err
    assert "nowhere" in errors and "none.jsonl" in errors and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["watch", "stop", "resume"])
def test_a_run_that_is_not_there(command: str, tmp_path: Path, capsys):
    assert main([command, "nobody", "--outputs", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("There is no run 'nobody' in ")


def test_what_the_system_refuses_is_one_sentence(untrained: Run, capsys):
    untrained.history.path.mkdir()
    arguments = ["watch", untrained.name, "--outputs", str(untrained.folder.parent)]
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert told.err == f"{untrained.history.path} cannot be used: Is a directory.\n"


@pytest.mark.parametrize(
    ("python", "command"),
    [
        (
            "Choose another name, or open it with Run.open().",
            "Choose another --name, or see it with workbench watch lamp.",
        ),
        ("Ask it with reopen(), or start.", 'Ask it with workbench sample lamp "…", or start.'),
        ("resume() goes on from step 3.", "workbench resume lamp goes on from step 3."),
        ("resume(batch_size=8) goes on.", "workbench resume lamp --batch-size 8 goes on."),
        ("Close it with close() first.", "Close it with workbench stop lamp first."),
        (
            "Close it with Run.open('a', outputs='/b').close(), or wait.",
            "Close it with workbench stop 'a' --outputs '/b', or wait.",
        ),
    ],
)
def test_errors_name_commands_instead_of_python(python: str, command: str):
    assert as_commands(python, "lamp") == command


def test_a_name_that_is_taken_and_what_to_type(untrained: Run, capsys):
    arguments = ["--outputs", str(untrained.folder.parent)]
    assert main(["train", str(TINY), "--name", untrained.name, *arguments]) == 2
    assert f"workbench watch {untrained.name} --outputs" in capsys.readouterr().err


def test_json_for_every_program():
    told = in_json({"loss": float("nan"), "all": [1.5, float("-inf")], "step": 3})
    assert told == '{"loss": null, "all": [1.5, null], "step": 3}'


# One question among others


@pytest.fixture
def untrained(tiny: Recipe, tmp_path: Path) -> Run:
    """A run's folder with its recipe, and nothing that a worker wrote."""
    folder = tmp_path / "outputs" / "lamp"
    folder.mkdir(parents=True)
    tiny.save(folder / "recipe.yaml")
    return Run(folder)


def test_only_the_answer_to_this_question_is_shown(untrained: Run, monkeypatch, capsys):
    log = EventLog(untrained.history.path)
    log.write("token", sample="another", text="a long answer to another question")
    log.write("token", sample="this", text="Yes")
    answer = {"step": 1, "prompt": "?", "system": None, "expected": None, "adapter": True}
    answer |= {"text": "Yes.", "ended": True, "tokens": 2, "seconds": 1}
    answer |= {"rendered": "?", "same_as": None}
    monkeypatch.setattr(Run, "alive", True)
    monkeypatch.setattr(Run, "ask", lambda run, prompt, **how: "this")
    monkeypatch.setattr(time, "sleep", lambda s: log.write("sample", sample="this", **answer))
    assert main(["sample", "lamp", "?", "--outputs", str(untrained.folder.parent)]) == 0
    assert capsys.readouterr().out == "Yes.\n"


def test_a_question_that_is_refused(untrained: Run, monkeypatch, capsys):
    log = EventLog(untrained.history.path)
    log.write("command", id="this", do="ask", taken=False, text="The prompt is too long.")
    monkeypatch.setattr(Run, "alive", True)
    monkeypatch.setattr(Run, "ask", lambda run, prompt, **how: "this")
    assert main(["sample", "lamp", "?", "--outputs", str(untrained.folder.parent)]) == 1
    assert capsys.readouterr().err == "The prompt is too long.\n"


def test_ctrl_c_while_the_model_loads_ends_its_worker(untrained: Run, monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    closed = []
    monkeypatch.setattr(Run, "reopen", lambda run: run)
    monkeypatch.setattr(Run, "close", lambda run: closed.append(run.name))
    monkeypatch.setattr(terminal, "follow", interrupted)
    assert main(["sample", "lamp", "?", "--outputs", str(untrained.folder.parent)]) == 130
    assert closed == ["lamp"]


def test_no_runs_yet(tmp_path: Path, capsys):
    assert main(["runs", "--outputs", str(tmp_path)]) == 0
    assert "There are no runs in" in capsys.readouterr().out
    assert main(["runs", "--json", "--outputs", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_list_of_runs_of_all_kinds(tmp_path: Path, capsys):
    made_run(tmp_path, "lamp", lora={"rank": 4})
    made_run(tmp_path, "failed", age=1, steps=0, state="failed")
    broken = made_run(tmp_path, "broken", age=2)
    (broken.folder / "recipe.yaml").write_text("lora: {rank: 0}")
    assert main(["runs", "--outputs", str(tmp_path)]) == 0
    told = capsys.readouterr()
    head, *rows = [text.split() for text in told.out.splitlines()]
    assert head[:3] == ["run", "state", "steps"] and len(rows) == 3
    by_name = {row[0]: row for row in rows}
    assert by_name["lamp"][1:5] == ["closed", "20", "of", "20"] and "10 s" in told.out
    assert by_name["failed"][1:4] == ["failed", "–", "–"] and "of ?" not in told.out
    assert told.err.startswith("broken: In ") and "rank is 0" in told.err
    assert main(["runs", "--json", "--outputs", str(tmp_path)]) == 0
    row = next(r for r in json.loads(capsys.readouterr().out) if r["run"] == "lamp")
    assert (row["step"], row["seconds"]) == (20, 10.0) and row["size"] > 1000


def test_two_runs_side_by_side(tmp_path: Path, capsys):
    for rank in (2, 32):
        made_run(tmp_path, f"rank-{rank}", lora={"rank": rank})
    there = ["--outputs", str(tmp_path)]
    picture = tmp_path / "curves.png"
    arguments = ["compare", "rank-2", "rank-32", "--by", "tokens", "--picture", str(picture)]
    assert main([*arguments, *there]) == 0
    out = capsys.readouterr().out
    assert "lora.rank" in out and f"The curves by tokens are in {picture}." in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["compare", "rank-2", "rank-32", "--json", *there]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == {"lora.rank": [2, 32]}
    assert main(["compare", "rank-2", *there]) == 1
    assert "it takes two. Name another one: workbench compare A B." in capsys.readouterr().err
    assert main(["compare", "rank-2", "nobody", *there]) == 1
    assert capsys.readouterr().err.startswith("There is no run 'nobody' in ")


def test_rename_trash_and_restore(tmp_path: Path, capsys):
    for name in ("a", "b"):
        made_run(tmp_path, name, state="ready")
    there = ["--outputs", str(tmp_path)]
    assert main(["rename", "a", "b", *there]) == 1
    assert capsys.readouterr().err == "There is a run 'b' already. Choose another name.\n"
    assert main(["rename", "a", "c", *there]) == 0
    assert capsys.readouterr().out == "a is now c.\n"
    assert main(["trash", "nobody", "b", "c", *there]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("There is no run 'nobody'") and len(told.out.splitlines()) == 2
    assert main(["restore", "b", "--json", *there]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "b", "folder": str(tmp_path / "b")}
    with living_worker(Run.open("b", tmp_path)):
        assert main(["trash", "b", *there]) == 1
    assert f"Close it with workbench stop b --outputs {tmp_path} first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["runs"], ["compare", "a", "b"], ["plan", "--models"], ["plan", "--table"], ["runs", "--help"]],
    ids=" ".join,
)  # fmt: skip
def test_a_reader_that_has_read_enough(tmp_path: Path, arguments: list[str]):
    for name in ("a", "b"):
        made_run(tmp_path, name)
    command = [*WORKBENCH, *arguments, "--outputs", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as `| head -0` does
    assert process.stderr.read() == b""
    process.wait(60)


def test_the_doctor_gives_the_same_to_people_and_programs(capsys):
    code = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert main(["doctor", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert len(found["findings"]) == len(lines)
    assert any(line.split()[1:3] == ["backend:", "auto"] for line in lines)


# A run that is there


def test_runs_and_watch(trained: Run, outputs: Path, capsys):
    assert main(["runs", "--json", "--outputs", str(outputs)]) == 0
    row = next(r for r in json.loads(capsys.readouterr().out) if r["run"] == trained.name)
    assert (row["step"], row["of"]) == (12, 12)
    assert row["loss"] == trained.history.steps[-1]["loss"]
    assert main(["watch", trained.name, "--outputs", str(outputs)]) == 0
    told = capsys.readouterr().out
    assert "training: Training." in told and "step 12 of 12" in told
    assert main(["watch", trained.name, "--json", "--outputs", str(outputs)]) == 0
    events = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert (events[0]["kind"], events[-1]["kind"]) == ("run", "end")
    assert events[-1]["adapter"] == str(trained.adapter_path)
    assert sum(event["kind"] == "step" for event in events) == 12


def test_a_live_run_answers(trained: Run, outputs: Path, capsys):
    asked = [
        "sample",
        trained.name,
        "Ada here.",
        "--max-new-tokens",
        "8",
        "--outputs",
        str(outputs),
    ]
    assert main(asked) == 0
    streamed = capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert streamed.removesuffix("\n") == printable(answer["text"])
    assert answer["adapter"] and answer["tokens"] <= 8
    assert trained.alive


def test_a_bar_on_a_terminal(trained: Run, outputs: Path):
    master, slave = pty.openpty()
    command = [*WORKBENCH, "watch", trained.name, "--outputs", str(outputs)]
    process = subprocess.Popen(
        command, stdout=slave, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(slave)
    shown = b""
    try:
        while block := os.read(master, 65536):
            shown += block
    except OSError:  # how Linux says that the other end is closed
        pass
    assert process.wait(60) == 0
    assert "━" in shown.decode() and "step 12 of 12" in shown.decode()


def hears_ctrl_c() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_keeps_the_adapter_resume_goes_on_and_the_closed_run_answers(
    short: Recipe, outputs: Path, tmp_path: Path
):
    recipe = short.replace(
        training={"steps": 40, "checkpoint_every": 2, "eval_every": 0},
        samples={"every": 0, "score_rows": 0, "max_new_tokens": 4},
    ).save(tmp_path / "recipe.yaml")
    command = [
        *WORKBENCH,
        "train",
        str(recipe),
        "--json",
        "--name",
        "by-hand",
        "--outputs",
        str(outputs),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c
    )
    for text in process.stdout:
        event = json.loads(text)
        if event["kind"] == "step" and event["step"] == 3:
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Stopping after this step; the adapter is kept." in errors
    end = json.loads(rest.splitlines()[-1])
    assert end["state"] == "stopped" and Path(end["adapter"]).is_dir()
    run = Run.open("by-hand", outputs)
    assert not run.alive and run.history.step < 40

    done = ran("resume", "by-hand", outputs=outputs)
    assert done.returncode == 0, done.stderr
    assert "step 40 of 40" in done.stdout and not run.alive

    answered = ran(
        "sample", "by-hand", "Ada here.", "--max-new-tokens", 4, "--base", "--json", outputs=outputs
    )
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout)["adapter"] is False
    assert not run.alive

    again = ran("resume", "by-hand", outputs=outputs)
    assert again.returncode == 1
    assert "has done all of its 40 steps" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.slow
def test_stop_from_another_terminal(short: Recipe, outputs: Path, start):
    run = start(short.replace(training={"steps": 5000}, samples={"every": 0, "score_rows": 0}))
    until = time.monotonic() + 120
    while run.history.step < 1 and time.monotonic() < until:
        run.refresh()
        time.sleep(0.05)
    out = ran("stop", run.name, outputs=outputs)
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith(f"{run.name}: Stopped at step ")
    assert run.adapter_path.is_dir() and not run.alive
