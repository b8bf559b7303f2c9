"""A worker whose memory is taken away: it says what held it and what to do, loses nothing, and goes on where it can.

The allocations fail for real: the system refuses this process more (RLIMIT_DATA), as on a small machine.
"""

import json
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import workbench as wb
from workbench import commands
from workbench.problems import Problem, RunError
from workbench.worker import device
from workbench.worker.hearing import Ended, Hearing
from workbench.worker.shortage import Shortages, is_shortage, size, wanted
from workbench.worker.telling import Telling

MIB = 2**20
QUIET = {"every": 0, "score_rows": 0, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def few(short, tmp_path_factory):
    """Steps of 32 rows at once, whose activations take most of the memory, and 8 held-out rows."""
    heldout = tmp_path_factory.mktemp("rows") / "heldout.jsonl"
    rows = Path(short.data.heldout).read_text(encoding="utf-8").splitlines()[:8]
    heldout.write_text("\n".join(rows), encoding="utf-8")
    return short.replace(
        data={"heldout": str(heldout)},
        training={"steps": 4, "batch_size": 32, "eval_every": 0, "checkpoint_every": 0},
        samples=QUIET,
    )


@pytest.fixture
def limited(monkeypatch):
    """Sets the limit of workers that are started from here on."""
    return lambda limit: monkeypatch.setenv(device.MEMORY_LIMIT, limit)


def worker(run) -> int:
    return json.loads((run.folder / "worker.json").read_text())["pid"]


def choke(run, *, after: int, room: int) -> None:
    """Pauses the run after a step, and leaves it so many bytes more than it holds then."""
    until(run, lambda: run.history.step >= after)
    run.pause()
    until(run, lambda: run.history.state == "paused")
    pid = worker(run)
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    held = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    resource.prlimit(pid, resource.RLIMIT_DATA, (held + room, resource.RLIM_INFINITY))
    run.unpause()


def until(run, true, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end and not run.history.errors, (run.state, run.history.errors)
        time.sleep(0.02)
        run.refresh()


def losses(run) -> list[float]:
    return [step["loss"] for step in run.history.steps]


# In training


def test_what_was_learned_is_kept_and_fewer_rows_at_once_go_on_with_the_same_losses(
    start, few, limited
):
    limited("8GiB")  # none to speak of, but what is freed is given back at once
    whole = start(few)
    assert whole.wait(200) == "ready"
    whole.close()

    run = start(few)
    plan = {"advice": [{"text": "rank 16 to 8", "saves": 3 * MIB, "settings": {"lora.rank": 8}}]}
    (run.folder / "plan.json").write_text(json.dumps(plan))
    choke(run, after=1, room=8 * MIB)
    with pytest.raises(RunError) as caught:
        run.wait(200)
    (told,) = run.history.shortages
    step = told["step"]
    assert (told["phase"], told["batch_size"], told["retrying"]) == ("training", 32, False)
    assert 1 <= step < 4 and step == run.history.step
    assert told["wanted"] > 0
    assert told["held"]["activations"] == max(told["held"].values()) > 100 * MIB
    assert told["advice"] == plan["advice"]
    said = str(caught.value)
    assert f"The memory ran out while training at step {step}, with 32 rows at once: " in said
    assert f"It held activations {size(told['held']['activations'])}, the optimizer's" in said
    assert f"resume(batch_size=16) goes on from step {step} with 16 rows at once" in said
    assert said.endswith("the same effective batch of 32. rank 16 to 8 saves 3.0 MiB.")
    assert [c["step"] for c in run.history.checkpoints] == [step]

    run.resume(batch_size=8)
    assert run.wait(200) == "ready"
    assert losses(run) == pytest.approx(losses(whole), abs=1e-4) and len(losses(run)) == 4
    assert run.history.probes[-1]["batch_size"] == 8
    assert run.recipe.training.batch_size == 32  # the user's
    run.close()


def test_retry_goes_on_by_itself_in_the_same_process_id_and_forgets_nothing(start, few, limited):
    limited("8GiB")
    run = start(few.replace(training={"on_oom": "retry"}))
    pid = worker(run)
    choke(run, after=1, room=8 * MIB)
    until(run, lambda: run.history.shortages)
    asked = run.ask("Ada here.", max_new_tokens=2)  # comes while no worker listens
    assert run.wait(200) == "ready"
    (told,) = run.history.shortages
    assert told["retrying"] is True
    assert [s["step"] for s in run.history.steps] == [1, 2, 3, 4]
    assert [p["batch_size"] for p in run.history.probes] == [32, 16]
    assert worker(run) == pid and run.alive
    (warning,) = run.history.warnings
    assert warning["cure"] == (
        "It goes on by itself with 16 rows at once and the same effective batch of 32."
    )
    done = [c["do"] for c in run.history.commands if c["taken"]]
    assert done == ["pause", "unpause", "ask"]  # each once
    samples = [s["sample"] for s in run.history.samples]
    assert samples.count(asked) == 1 and len(set(samples)) == len(samples)
    run.close()
    assert not run.alive


def test_more_rows_than_can_be_are_told_before_the_first_step(start, few, limited):
    limited("100MiB")
    run = start(few.replace(training={"batch_size": 1024, "accumulation": 1}))
    with pytest.raises(RunError, match="ran out while training, with 1024 rows at once") as caught:
        run.wait(200)
    assert "resume(batch_size=512) starts again with 512 rows at once" in str(caught.value)
    assert run.history.checkpoints == []


def test_auto_stops_at_what_does_not_fit(start, few, limited):
    limited("120MiB")
    run = start(few.replace(training={"batch": "auto", "steps": 1}))
    assert run.wait(200) == "ready"
    (choice,) = [c for c in run.history.choices if c["what"] == "micro_batch"]
    assert int(choice["value"]) < 32
    why = choice["why"]
    assert "are free" in why or "did not fit" in why or "would not fit, by the plan" in why
    assert run.history.shortages == []
    run.close()


# Beside the training


def test_answers_and_evaluations_that_do_not_fit_end_no_training(start, few, limited, tmp_path):
    short_rows = [{"prompt": f"Hi {i}", "completion": f"ok {i}"} for i in range(64)]
    text = " ".join(["the lamp is broken"] * 44)  # 300 tokens and more
    long_rows = [{"prompt": f"{text} {i}", "completion": f"fine {i}"} for i in range(32)]
    for name, rows in (("train", short_rows), ("heldout", long_rows)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    limited("130MiB")
    run = start(
        few.replace(
            model={"max_length": 480},
            data={name: str(tmp_path / f"{name}.jsonl") for name in ("train", "heldout")},
            training={"batch_size": 16, "accumulation": 1, "steps": 2, "eval_every": 1},
            samples={"score_rows": 32},
        )
    )
    assert run.wait(200) == "ready"
    told = run.history.shortages
    evaluations = [e["batch_size"] for e in told if e["phase"] == "evaluation"]
    assert evaluations == [16, 8, 4, 2, 1][: len(evaluations)] and evaluations
    assert {e["phase"] for e in told} == {"answering", "evaluation"}
    assert run.history.step == 2 and len(run.history.evals) == 2  # the second as small as the first
    assert run.history.scores == []
    assert len(run.history.warnings) >= len(told)
    run.close()


def test_a_question_that_does_not_fit_is_refused_and_the_worker_stays(tmp_path):
    import torch

    def too_long(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    told = Telling(tmp_path)
    hearing = Hearing(told, Shortages(told))
    hearing.questions = SimpleNamespace(ask=too_long)
    told.phase("ready", "Trained.")
    asked = commands.send(tmp_path / "commands.jsonl", "ask", prompt="Ada here.")
    with pytest.raises(Ended, match="without a question"):
        hearing.serve(0.2)
    history = wb.History(told.log.path)
    history.update()
    (answer,) = history.commands
    assert (answer["id"], answer["taken"]) == (asked, False)
    assert answer["text"] == "The memory ran out while answering: 2.0 MiB more were wanted."
    assert [e["phase"] for e in history.shortages] == ["answering"]


def test_a_model_that_does_not_fit_is_told_with_the_plans_parts(start, few, limited):
    limited("1MiB")
    run = start(few)
    plan = {"parts": {"weights": 5 * MIB, "scales": MIB, "embeddings": 2 * MIB, "head": 10}}
    (run.folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(RunError) as caught:
        run.wait(120)
    (told,) = run.history.shortages
    assert (told["phase"], told["held"]) == ("loading", plan["parts"])
    assert "It was to hold weights 5.0 MiB, embeddings 2.0 MiB, scales 1.0 MiB." in str(
        caught.value
    )


# How it is recognised


@pytest.mark.parametrize(
    ("error", "bytes_wanted"),
    [
        (
            RuntimeError(
                "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 14.7 GiB of which"
            ),
            3 * 2**29,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), None),
        (
            RuntimeError("Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp"),
            None,
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory:"
                " you tried to allocate 85983232 bytes. Error code 12 (Cannot allocate memory)"
            ),
            85983232,
        ),
        (MemoryError(), None),
        (MemoryError("Unable to allocate 82.0 MiB for an array with shape (1,)"), 82 * MIB),
        (RuntimeError("std::bad_alloc"), None),
        (OSError(12, "Cannot allocate memory"), None),
    ],
)
def test_a_shortage_is_recognised_however_it_is_said(error, bytes_wanted):
    assert is_shortage(error)
    assert wanted(error) == bytes_wanted
    outer = ValueError("The model could not be loaded")
    outer.__cause__ = error
    assert is_shortage(outer)


def test_torchs_own_error_is_one_and_others_are_none():
    import torch

    assert is_shortage(torch.OutOfMemoryError("HIP ran short"))
    for other in (
        ValueError("odd"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RunError([Problem("", "The disk is out of memory.", "")]),
    ):
        assert not is_shortage(other)


@pytest.mark.parametrize(
    ("text", "count"),
    [("1000", 1000), ("2GiB", 2**31), ("512 MiB", 2**29), ("1.5gib", 3 * 2**29), ("64KB", 2**16)],
)
def test_the_limit_is_a_size(text, count):
    assert device.in_bytes(text) == count


@pytest.mark.parametrize("text", ["much", "-1", "2 GiB more", ""])
def test_what_is_no_size_is_said(text):
    with pytest.raises(ValueError, match="WORKBENCH_MEMORY_LIMIT is"):
        device.in_bytes(text)


def test_a_limit_that_is_no_size_is_told_before_anything_is_made(few, limited, tmp_path):
    limited("much")
    with pytest.raises(RunError, match="WORKBENCH_MEMORY_LIMIT is 'much', which is no size"):
        wb.start(few, outputs=tmp_path)
    assert list(tmp_path.iterdir()) == []
