"""Runs renamed, moved to the trash and back: nothing is written over, nothing deleted, and a living worker keeps its folder."""

import shutil
from pathlib import Path

import pytest
from made_runs import living_worker, made_run

import workbench as wb
from workbench import digest, tidying
from workbench.problems import RunError
from workbench.run import Run


def names(outputs: Path) -> list[str]:
    return [run.name for run in digest.found(outputs)]


def test_a_renamed_run_is_the_same_run(tmp_path: Path):
    run = made_run(tmp_path, "lamp")
    run.refresh()
    assert wb.rename(run, "attention-only") is run
    assert (run.name, run.folder) == ("attention-only", tmp_path / "attention-only")
    assert run.refresh() == [] and run.history.step == 20
    assert names(tmp_path) == ["attention-only"]
    assert Run.open("attention-only", tmp_path).adapter_path.is_dir()
    assert wb.rename("attention-only", "attention-only", outputs=tmp_path).name == "attention-only"


@pytest.mark.parametrize("name", ["../lamp", "", ".trash", "a/b", "lamp ", "ä"])
def test_names_that_no_folder_can_have(tmp_path: Path, name: str):
    run = made_run(tmp_path, "lamp")
    with pytest.raises(RunError, match="cannot be the name of a run"):
        wb.rename(run, name)
    assert names(tmp_path) == ["lamp"]


def test_a_name_that_is_taken(tmp_path: Path):
    run, other = made_run(tmp_path, "lamp"), made_run(tmp_path, "reef", steps=4)
    with pytest.raises(RunError) as caught:
        wb.rename(run, "reef")
    assert str(caught.value) == "There is a run 'reef' already. Choose another name."
    other.refresh()
    assert other.history.step == 4


def test_a_run_goes_to_the_trash_and_comes_back(tmp_path: Path):
    run = made_run(tmp_path, "lamp")
    before = sorted(path.name for path in run.folder.rglob("*"))
    place = wb.trash(run)
    assert place.parent == tmp_path / ".trash" and place.name.startswith("lamp-")
    assert names(tmp_path) == [] and wb.runs(tmp_path) == []
    back = wb.restore("lamp", outputs=tmp_path)
    assert sorted(path.name for path in back.folder.rglob("*")) == before
    assert names(tmp_path) == ["lamp"] and tidying.trashed(tmp_path) == []


def test_runs_of_one_name_do_not_meet_in_the_trash(tmp_path: Path):
    places = [wb.trash(made_run(tmp_path, "lamp", steps=steps)) for steps in (4, 6, 8)]
    assert len(set(places)) == 3 and all(place.is_dir() for place in places)
    assert tidying.trashed(tmp_path) == places[::-1]
    assert wb.restore("lamp", outputs=tmp_path).history.step == 8
    with pytest.raises(RunError, match="There is a run 'lamp' already. Bring it back under"):
        wb.restore("lamp", outputs=tmp_path)
    assert wb.restore(places[0].name, outputs=tmp_path, to="first").history.step == 4
    with pytest.raises(RunError, match="There is no run 'reef' in"):
        wb.restore("reef", outputs=tmp_path)


@pytest.mark.parametrize("state", ["training", "ready"])
def test_what_a_worker_still_uses_stays_where_it_is(tmp_path: Path, state: str):
    run = made_run(tmp_path, "lamp", state=state)
    with living_worker(run):
        for tidy in (lambda: wb.rename(run, "reef"), lambda: wb.trash(run)):
            with pytest.raises(RunError) as caught:
                tidy()
            assert f"Run lamp is {state}: its worker is still there. Close it" in str(caught.value)
        assert names(tmp_path) == ["lamp"]
    assert wb.trash(run).is_dir()


def test_two_kernels_delete_the_same_run(tmp_path: Path):
    first, second = made_run(tmp_path, "lamp"), Run(tmp_path / "lamp")
    wb.trash(first)
    with pytest.raises(RunError, match="The folder of run lamp is gone. Another kernel has moved"):
        wb.trash(second)
    with pytest.raises(RunError, match="The folder of run lamp is gone"):
        wb.rename(second, "reef")


def test_a_run_whose_files_cannot_be_read_is_tidied_up_all_the_same(tmp_path: Path):
    run = made_run(tmp_path, "lamp")
    (run.folder / "events.jsonl").unlink()
    (run.folder / "events.jsonl").mkdir()
    (run.folder / "recipe.yaml").write_text("lora: [")
    (run.folder / "worker.json").write_text("{")
    wb.rename(run, "broken")
    assert wb.trash(run).is_dir()


def test_a_trash_that_cannot_be_made(tmp_path: Path):
    run = made_run(tmp_path, "lamp")
    (tmp_path / ".trash").write_text("a file")
    with pytest.raises(RunError, match="Run lamp cannot be moved to the trash: "):
        wb.trash(run)
    assert names(tmp_path) == ["lamp"]


def test_the_size_is_that_of_all_files(tmp_path: Path):
    run = made_run(tmp_path, "lamp")
    whole = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    assert tidying.size_of(run) == whole > 1000
    shutil.rmtree(run.folder)
    assert tidying.size_of(run) == 0
