"""What a list and a comparison tell of runs: digests that are kept and never stale, and only the settings that differ."""

import json
from pathlib import Path

import made_history
import pytest
from made_runs import living_worker, made_run

import workbench as wb
from workbench import digest as digests
from workbench.digest import digest, found, short, sparks, thinned
from workbench.events import EventLog
from workbench.listing import cells, lines
from workbench.problems import RunError
from workbench.run import Run

# Digests


def test_a_digest_tells_what_the_history_does(tmp_path: Path):
    run = made_run(tmp_path, "lamp", lora={"rank": 4})
    told = digest(run)
    history = made_history.read(run.folder)
    assert (told.state, told.step, told.of, told.done) == ("closed", 20, 20, False)
    assert told.loss == history.steps[-1]["loss"] and told.best_loss == history.best_eval["loss"]
    assert (told.exact_match, told.seconds, told.speed) == (0.95, 10.0, 2000.0)
    assert told.changed == {"lora.rank": 4} and told.problem == ""
    assert len(told.losses) == 20


def test_an_ended_runs_log_is_read_once_and_again_when_it_grew(tmp_path: Path, monkeypatch):
    run = made_run(tmp_path, "lamp")
    first = digest(run)
    with monkeypatch.context() as context:
        context.setattr(Run, "refresh", lambda run: pytest.fail("its log was read again"))
        assert digest(Run(run.folder)) == first
    log = EventLog(run.history.path)
    made_history.take_step(log, 21, 22, 0.1)
    assert digest(Run(run.folder)).step == 21
    (run.folder / "recipe.yaml").write_text("lora: {rank: 2}")
    assert digest(Run(run.folder)).changed == {"lora.rank": 2}


def test_a_kept_digest_that_is_torn_or_of_another_version_is_made_anew(tmp_path: Path):
    run = made_run(tmp_path, "lamp")
    first = digest(run)
    kept = run.folder / digests.FILE
    for text in ("{", "[]", json.dumps({"stamp": json.loads(kept.read_text())["stamp"], "digest": {"new": 1}})):  # fmt: skip
        kept.write_text(text)
        assert digest(Run(run.folder)) == first


def test_a_living_run_is_read_each_time(tmp_path: Path):
    run = made_run(tmp_path, "lamp", state="training")
    with living_worker(run):
        assert digest(run).alive
        made_history.take_step(EventLog(run.history.path), 21, 22, 0.1)
        assert digest(run).step == 21
        assert not (run.folder / digests.FILE).exists()


def test_nothing_that_a_folder_holds_raises(tmp_path: Path):
    torn = made_run(tmp_path, "torn")
    with torn.history.path.open("ab") as file:
        file.write(b'{"kind": "step", "st\n\xff\xfe\n{"kind": "ev')
    told = digest(torn)
    assert (told.state, told.step, told.problem) == ("closed", 20, "")

    broken = made_run(tmp_path, "broken")
    (broken.folder / "recipe.yaml").write_text("lora: [")
    assert "is not valid YAML" in digest(broken).problem and digest(broken).step == 20

    unreadable = made_run(tmp_path, "unreadable")
    unreadable.history.path.unlink()
    unreadable.history.path.mkdir()
    told = digest(unreadable)
    assert (told.state, told.problem) == ("unreadable", "events.jsonl cannot be read: Is a directory.")  # fmt: skip

    strange = made_run(tmp_path, "strange")
    with strange.history.path.open("a") as file:
        file.write('{"kind": "step", "step": 21, "of": 22}\n')
    assert digest(strange).state == "unreadable"
    assert lines([cells(run, digest(run)) for run in found(tmp_path)])


def test_only_what_can_be_a_run_is_found_newest_first(tmp_path: Path):
    assert found(tmp_path / "nowhere") == []
    for age, name in enumerate(("b", "a", "c")):
        made_run(tmp_path, name, age=age)
    for other in (".trash", "<img>", "no-run"):
        (tmp_path / other).mkdir()
    (tmp_path / "<img>" / "recipe.yaml").write_text("")
    assert [run.name for run in found(tmp_path)] == ["b", "a", "c"]


def test_a_curve_keeps_its_ends_and_its_length():
    assert thinned([1.0, float("nan"), 2.0]) == [1.0, 2.0]
    few = thinned([float(n) for n in range(1000)], 10)
    assert len(few) == 10 and few == sorted(few) and few[0] < 100 and few[-1] > 900
    assert sparks([3, 2, 1]) == "█▅▁" and sparks([]) == "" and sparks([1, 1]) == "▁▁"


def test_what_was_changed_in_short():
    changed = {"data.train": "x", "training.seed": 1, "lora.alpha": 8.0, "lora.rank": 4, "lora.dora": True}  # fmt: skip
    assert short(changed, 3) == "rank 4, alpha 8, seed 1, +1 more"
    assert short({}) == ""


def test_the_list_fits(tmp_path: Path):
    rows = [cells(run, digest(run)) for run in (made_run(tmp_path, "lamp"), made_run(tmp_path, "a-longer-name"))]  # fmt: skip
    head, *_ = lines(rows)
    assert head.split() == "run state steps loss curve held out exact time size model".split()
    for width in (80, 40, 20):
        narrow = lines(rows, width)
        assert narrow[0].startswith("run") and max(map(len, narrow)) <= max(width, 21)


# Comparisons


def test_only_what_differs_is_shown(tmp_path: Path):
    made_run(tmp_path, "narrow", lora={"rank": 2})
    made_run(tmp_path, "wide", steps=40, lora={"rank": 32})
    told = wb.compare(["narrow", "wide"], outputs=tmp_path)
    assert told.settings == {"lora.rank": (2, 32)}
    assert [run["step"] for run in told.figures] == [20, 40] and told.notes == ()
    assert told.figures[0]["adapter_size"] == 1000
    text = str(told)
    assert text.startswith("Lowest held-out loss: ") and "seed" not in text
    assert [line.split() for line in text.splitlines() if "lora.rank" in line] == [["lora.rank", "2", "32"]]  # fmt: skip
    assert json.loads(json.dumps(told.as_dict()))["settings"] == {"lora.rank": [2, 32]}
    assert wb.compare([Run(tmp_path / "narrow"), "wide"], outputs=tmp_path) == told


def test_the_same_settings(tmp_path: Path):
    told = wb.compare([made_run(tmp_path, "a"), made_run(tmp_path, "b")])
    assert told.settings == {} and "No setting differs." in told._repr_html_()


@pytest.mark.parametrize("chosen", [[], ["a"], ["a", "a"], "a"])
def test_one_run_is_not_compared(tmp_path: Path, chosen: list[str] | str):
    made_run(tmp_path, "a")
    with pytest.raises(RunError, match="it takes two. Name another one: compare"):
        wb.compare(chosen, outputs=tmp_path)


def test_a_run_that_is_not_there(tmp_path: Path):
    made_run(tmp_path, "a")
    with pytest.raises(RunError, match="There is no run 'b' in"):
        wb.compare(["a", "b"], outputs=tmp_path)


def test_what_keeps_figures_from_being_compared_is_told(tmp_path: Path):
    made_run(tmp_path, "a", model={"name": "owner/one"}, data={"heldout": "x.jsonl"})
    made_run(tmp_path, "b", model={"name": "owner/two"}, data={"heldout": "y.jsonl"})
    notes = " ".join(wb.compare(["a", "b"], outputs=tmp_path).notes)
    assert (
        "The models differ" in notes
        and "data.heldout differ" in notes
        and "2 changes at once" in notes
    )


def test_alpha_that_moves_with_the_rank_is_no_second_change(tmp_path: Path):
    for rank in (2, 16):
        made_run(tmp_path, f"rank-{rank}", lora={"rank": rank, "alpha": rank})
    notes = wb.compare(["rank-2", "rank-16"], outputs=tmp_path).notes
    assert notes == (
        "Alpha moves with the rank: the scale alpha / rank is 1 in all, so the two are one change.",
    )


def test_column_maps_and_broken_recipes_are_compared_as_far_as_they_go(tmp_path: Path):
    columns = {"prompt": "{<q>}", "completion": "{a}"}
    made_run(tmp_path, "a", data={"columns": columns})
    made_run(tmp_path, "b")
    broken = made_run(tmp_path, "c")
    (broken.folder / "recipe.yaml").write_text("lora: {rank: 0}")
    told = wb.compare(["a", "b", "c"], outputs=tmp_path)
    assert told.settings == {"data.columns": (columns, {}, None)}
    assert "The settings of c are left out." in told.notes[0] and "rank is 0" in told.notes[0]
    assert "<q>" not in told._repr_html_() and "{&lt;q&gt;}" in told._repr_html_()


def test_runs_that_never_took_a_step(tmp_path: Path):
    for name in ("a", "b"):
        made_run(tmp_path, name, steps=0, state="failed")
    told = wb.compare(["a", "b"], outputs=tmp_path)
    assert told.headline == "" and "steps" not in str(told)
