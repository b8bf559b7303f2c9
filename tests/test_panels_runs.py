"""The list of runs through its controls: what a row tells, what the buttons do, and why they cannot where they cannot."""

import asyncio
import re
from pathlib import Path

import made_history
import pytest
from made_runs import living_worker, made_run

import workbench as wb
from workbench import digest as digests
from workbench.events import EventLog
from workbench.panels.runs.panel import PAGE, RunsPanel
from workbench.panels.runs.run_choice import reasons, told
from workbench.panels.runs.run_row import about, sparkline
from workbench.problems import RunError
from workbench.run import Run


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """An outputs folder with three runs, newest first: wide, narrow, failed."""
    made_run(tmp_path, "wide", age=0, lora={"rank": 32})
    made_run(tmp_path, "narrow", age=1, lora={"rank": 2})
    made_run(tmp_path, "failed", age=2, steps=0, state="failed")
    return tmp_path


def names(panel: RunsPanel) -> list[str]:
    return [row.box.description for row in panel.rows if row.layout.display == ""]


def click(panel: RunsPanel, *acts: str) -> None:
    for act in acts:
        button = panel.choice.buttons.get(act) or getattr(panel.choice, act)
        assert not button.disabled, act
        button.click()


def text(html: str) -> str:
    return re.sub(r"<[^>]+>", " ", html)


def why(panel: RunsPanel) -> str:
    return text(panel.choice._note.value)


# The list


def test_a_row_tells_what_came_of_a_run(three: Path):
    panel = wb.runs_panel(three)
    assert names(panel) == ["wide", "narrow", "failed"]
    row = panel.rows[0]
    shown = row._about.value
    for part in ("closed", "20 of 20 steps", "held out", "10 s", "rank 32", "Llama-3.2-1B-Instruct"):  # fmt: skip
        assert part in text(shown)
    assert 'aria-label="loss 3.' in shown
    assert "no steps" in panel.rows[2]._about.value
    assert "wide" in repr(panel) and "1 to 3 of 3 runs." in repr(panel)
    assert "<pre" in panel.bundle()["text/html"]


def test_an_empty_folder_and_one_that_is_not_there(tmp_path: Path):
    for outputs in (tmp_path, tmp_path / "nowhere"):
        panel = wb.runs_panel(outputs)
        assert names(panel) == [] and repr(panel) == f"There are no runs in {outputs}."
        assert all(button.disabled for button in panel.choice.buttons.values())


def test_pages_of_ten_and_a_filter(tmp_path: Path):
    for number in range(23):
        made_run(tmp_path, f"run-{number:02}", age=number, steps=2, lora={"rank": 2 + number % 2})
    panel = wb.runs_panel(tmp_path)
    assert len(names(panel)) == PAGE and panel.back.disabled
    panel.on.click()
    assert names(panel)[0] == "run-10" and not panel.back.disabled
    panel.on.click()
    assert names(panel) == ["run-20", "run-21", "run-22"] and panel.on.disabled
    panel.rows[0].box.value = True
    panel.filter.value = "run-0"
    assert len(names(panel)) == 10 and "of 10 of 23 runs" in panel._count.value
    assert [run.name for run in panel.picked] == ["run-20"]
    panel.filter.value = "run-0, rank 3"
    assert names(panel) == [f"run-0{n}" for n in (1, 3, 5, 7, 9)]
    panel.filter.value = "<b>"
    assert names(panel) == [] and "None of the 23 runs" in panel._count.value


def test_what_is_new_shows_and_what_is_gone_goes(three: Path):
    panel = wb.runs_panel(three)
    panel.pick("wide", "narrow")
    log = EventLog(three / "narrow" / "events.jsonl")
    made_history.take_step(log, 21, 40, 0.5)
    made_run(three, "newest", age=-1)
    wb.trash("wide", outputs=three)
    panel.refresh_button.click()
    assert names(panel) == ["newest", "narrow", "failed"]
    assert "21 of 40 steps" in panel.rows[1]._about.value
    assert [row.box.value for row in panel.rows[:3]] == [False, True, False]


def test_the_list_goes_on_by_itself_and_reads_old_logs_bit_by_bit(three: Path, monkeypatch):
    monkeypatch.setattr("workbench.panels.runs.panel.EVERY", 0.01)
    monkeypatch.setattr("workbench.panels.runs.panel.FIRST_LOOK", 0.0)

    async def watch() -> None:
        panel = wb.runs_panel(three)
        assert "Reading its log" in panel.rows[0]._about.value
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if "closed" in panel.rows[1]._about.value and (three / "narrow" / digests.FILE).exists():  # fmt: skip
                break
        made_run(three, "newest", age=-1)
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if names(panel)[0] == "newest":
                break
        assert names(panel) == ["newest", "wide", "narrow", "failed"]
        panel.close()

    asyncio.run(watch())


def test_one_list_at_a_time(three: Path):
    first = wb.runs_panel(three)
    wb.runs_panel(three)
    assert first.comm is None


def test_what_a_file_says_is_shown_as_text(tmp_path: Path):
    run = made_run(tmp_path, "lamp", model={"name": "<img src=x onerror=alert(1)>"})
    log = EventLog(run.history.path)
    made_history.event(log, "phase", state="<b>failed</b>", text="")
    panel = wb.runs_panel(tmp_path)
    assert "<img" not in panel.rows[0]._about.value and "<b>failed" not in panel.rows[0]._about.value  # fmt: skip


def test_a_curve_has_words_and_needs_two_points():
    assert 'aria-label="loss 3.2 to 0.4"' in sparkline([3.2, 1.0, 0.4], 3.2, 0.4)
    assert sparkline([3.2], 3.2, 3.2) == sparkline([], None, None) == ""
    assert "Reading its log" in about(None, 0)


# What can be done


def test_each_button_tells_why_it_cannot(three: Path):
    panel = wb.runs_panel(three)
    assert "Open, Resume, Duplicate, Rename: pick one run." in why(panel)
    assert "Compare: pick 2 to 6 runs." in why(panel)
    panel.pick("narrow")
    assert "Rename: type a new name." in why(panel)
    panel.choice.name.value = "reef"
    assert not panel.choice.buttons["rename"].disabled
    panel.pick("narrow", "wide")
    assert "Rename: pick one run alone." in why(panel)
    assert not panel.choice.buttons["compare"].disabled
    panel.none.click()
    assert panel.picked == [] and panel.none.disabled


@pytest.mark.parametrize(
    ("state", "cannot"),
    [
        ("training", {"resume", "rename", "trash", "close", "compare"}),
        ("ready", {"resume", "rename", "trash", "compare"}),
        ("closed", {"close", "compare"}),
    ],
)
def test_what_a_worker_allows(tmp_path: Path, state: str, cannot: set[str]):
    run = made_run(tmp_path, "lamp", state=state)
    if state == "closed":
        found = reasons([("lamp", digests.digest(run))], "reef")
    else:
        with living_worker(run):
            found = reasons([("lamp", digests.digest(run))], "reef")
    assert {act for act, reason in found.items() if reason} == cannot
    assert told(found).endswith(".")


def test_the_line_of_python_is_that_of_the_picked(three: Path):
    panel = wb.runs_panel(three)
    panel.pick("wide")
    assert f"run = wb.Run.open('wide', outputs={str(three)!r})" in text(panel.choice.code.value).replace("&#x27;", "'")  # fmt: skip
    with pytest.raises(RunError, match="There is no run 'reef' in"):
        panel.pick("reef")


def test_open_shows_the_monitor(three: Path):
    panel = wb.runs_panel(three)
    panel.rows[0].box.value = True
    click(panel, "open")
    (monitor,) = panel._place.children
    assert monitor.run.name == "wide" and monitor.state == "closed"


def test_rename(three: Path):
    panel = wb.runs_panel(three)
    panel.pick("wide")
    panel.choice.name.value = " reef "
    click(panel, "rename")
    assert names(panel) == ["reef", "narrow", "failed"] and panel.choice.name.value == ""
    assert [run.name for run in panel.picked] == ["reef"] and "wide is now reef." in why(panel)
    panel.choice.name.value = "narrow"
    click(panel, "rename")
    assert "There is a run &#x27;narrow&#x27; already." in panel.banner.value


def test_delete_asks_and_can_be_undone(three: Path):
    panel = wb.runs_panel(three)
    panel.pick("wide", "failed")
    click(panel, "trash")
    assert "Move 2 runs wide, failed to the trash?" in text(panel.choice._question.value)
    click(panel, "no")
    assert panel.choice._confirm.layout.display == "none" and len(names(panel)) == 3
    click(panel, "trash", "yes")
    assert names(panel) == ["narrow"] and panel.picked == []
    assert "Moved to" in why(panel) and (three / ".trash").is_dir()
    click(panel, "back")
    assert names(panel) == ["wide", "narrow", "failed"]
    assert panel.choice.back.layout.display == "none"


def test_another_kernel_was_faster(three: Path):
    panel = wb.runs_panel(three)
    panel.pick("wide", "narrow")
    click(panel, "trash")
    wb.trash("wide", outputs=three)
    click(panel, "yes")
    assert "The folder of run wide is gone." in panel.banner.value
    assert names(panel) == ["failed"]


def test_duplicate_shows_the_settings_ready_to_start(three: Path):
    panel = wb.runs_panel(three)
    panel.pick("wide")
    click(panel, "duplicate")
    (launch,) = panel._place.children
    assert launch.recipe == Run.open("wide", three).recipe
    panel.close()


def test_compare_shows_curves_and_settings(three: Path):
    panel = wb.runs_panel(three)
    panel.pick("wide", "narrow")
    click(panel, "compare")
    (beside,) = panel._place.children
    assert beside.compared.settings == {"lora.rank": (32, 2)}
    image = beside._image.value
    assert 'src="data:image/png;base64,' in image and "Loss curves of wide, narrow" in image
    beside.by.value = "tokens"
    assert beside._image.value != image and "by=&quot;tokens&quot;" in beside._code.value
    assert panel.banner.value == ""
    click(panel, "trash", "yes")
    assert panel._place.children == () and names(panel) == ["failed"]


def test_a_run_that_cannot_be_read_can_be_deleted(three: Path):
    (three / "wide" / "recipe.yaml").write_text("lora: [")
    panel = wb.runs_panel(three)
    panel.pick("wide")
    assert "not valid YAML" in panel.rows[names(panel).index("wide")]._about.value
    assert "Resume, Duplicate: " in why(panel)
    click(panel, "trash", "yes")
    assert "wide" not in names(panel)


def test_what_resume_refuses_is_in_the_banner(three: Path, monkeypatch):
    panel = wb.runs_panel(three)
    panel.pick("narrow")

    def refuse(run: Run, **_: object) -> None:
        raise RunError([wb.Problem("", "The GPU is busy.", "Wait.")])

    monkeypatch.setattr(Run, "resume", refuse)
    click(panel, "resume")
    assert "The GPU is busy." in panel.banner.value
    panel.refresh_button.click()
    assert names(panel) == ["wide", "narrow", "failed"]
