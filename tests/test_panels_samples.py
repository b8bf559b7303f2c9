"""What the model says in panels: the tables, the sheet of answers and the prompt box, and that no text of theirs can act."""

import asyncio
import re
import time
from types import SimpleNamespace

import ipywidgets as widgets
import pytest
from made_history import event, made, read, sample

from workbench.commands import CommandReader
from workbench.events import EventLog, History
from workbench.panels.answers import conversation, quoted, samples
from workbench.panels.answers.ask import OPEN, AskBox, AskPanel
from workbench.panels.answers.sheet import SampleSheet, as_text, sheet_page
from workbench.panels.banner import Banner
from workbench.problems import Problem, RunError
from workbench.recipe import Recipe
from workbench.run import Run

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</bdi></details></div><img src=x onerror=alert(1)>",
    "\x1b]0;title\x07\x1b[31mred\x1b[0m",
    "pay \u202e0001\u202c \u2066now",
    "half \ud83d of a character \udc00",
    "nothing\x00here\x85\x9b31m",
    "x" * 100_000,
    "word " * 20_000 + "<b>end</b>",
]


class FolderRun:
    """What panels use of a run, without a process: reads the folder, notes what was asked."""

    def __init__(self, folder, history: History | None = None) -> None:
        self.folder, self.name = folder, folder.name
        self.history = history or made(folder, steps=5, of=10)
        self.recipe = Recipe().replace(samples={"system": "Answer in JSON.", "max_new_tokens": 64})
        self.log = EventLog(folder / "events.jsonl")
        self.asked: list[dict] = []
        self.alive = True
        self.adapter_path = folder / "adapter"

    def refresh(self):
        return self.history.update()

    def ask(self, prompt: str, **how) -> str:
        if not prompt.strip():
            raise RunError([Problem("", "The prompt is empty.", "Ask something.")])
        self.asked.append({"prompt": prompt} | how)
        return f"id-{len(self.asked)}"

    def reopen(self) -> None:
        self.asked.append({"do": "reopen"})
        self.history.state = "preparing"

    # what the worker would write

    def phase(self, state: str) -> None:
        event(self.log, "phase", state=state, text=f"It is {state}.")

    def token(self, command: str, text: str) -> None:
        event(self.log, "token", sample=command, text=text)

    def answer(self, command: str, text: str, **fields) -> None:
        known = {"step": 5, "prompt": "Which?", "adapter": True, "ended": True, "tokens": 20}
        event(
            self.log, "sample", **(known | {"sample": command, "text": text, "seconds": 2} | fields)
        )


@pytest.fixture
def run(tmp_path) -> FolderRun:
    return FolderRun(tmp_path)


def inside(widget: widgets.Widget) -> list[widgets.Widget]:
    children = getattr(widget, "children", ())
    return [widget, *(found for child in children for found in inside(child))]


def shown(root: widgets.Widget) -> str:
    """All HTML in a panel."""
    return "\n".join(part.value for part in inside(root) if isinstance(part, widgets.HTML))


def strip(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html)


# Tables


def test_marked_leaves_the_text_as_it_is_and_marks_only_what_differs():
    before, after = quoted.marked("the lamp is red", "the <lamp> is blue")
    assert strip(before) == "the lamp is red"
    assert strip(after) == "the &lt;lamp&gt; is blue"
    assert "red</mark>" in before
    assert "blue</mark>" in after
    assert "<mark" not in "".join(quoted.marked("same", "same"))


def test_before_and_after_stand_side_by_side_with_ticks_and_scores(tmp_path):
    run = FolderRun(tmp_path, made(tmp_path, state="ready"))
    table = samples.compare_samples(run)
    assert table.html.count("&#10003; exact") == 1
    assert table.html.count("&#10007; differs") == 1
    assert "0 of 20" in table.text
    assert "19 of 20 held-out answers exact (95.0%)" in table.text


def test_a_run_that_was_stopped_says_that_it_was_not_asked_again(run):
    assert "not asked" in samples.compare_samples(run).html


def test_the_data_at_a_glance(tiny):
    page = samples.glance(tiny)
    assert "2,400 training rows, 320 held out rows" in page.text
    assert page.html.count("<tr>") == 4


# The sheet


def many(folder, prompts: int = 50, checkpoints: int = 10, text: str = "late {step}") -> History:
    """A run that was asked often; the answer to prompt 3 repeats itself."""
    log = EventLog(folder / "events.jsonl")
    for step in range(0, 10 * checkpoints, 10):
        for number in range(prompts):
            said = text.format(step=step, number=number) if number != 2 else "no " * 40
            event(
                log, "sample", sample=f"step-{step}-{number}", step=step, prompt=f"Prompt {number}?",
                expected="late 90", text=said, adapter=step > 0, ended=number != 3, tokens=64,
                same_as=12 if number == 4 else None, seconds=1,
            )  # fmt: skip
    return read(folder)


def columns(sheet: SampleSheet) -> list[str]:
    return re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', sheet._table.value)[1:]


def prompts(sheet: SampleSheet) -> list[str]:
    return re.findall(r"Prompt \d+\?", sheet._table.value)


def test_a_row_for_each_prompt_and_a_column_for_each_checkpoint(tmp_path):
    sheet = SampleSheet()
    sheet.follow(many(tmp_path, prompts=3, checkpoints=3))
    assert columns(sheet) == ["Step 0, base model", "Step 10", "Step 20"]
    assert prompts(sheet) == ["Prompt 0?", "Prompt 1?", "Prompt 2?"]
    assert "expected: " in sheet._table.value
    assert "late 10" in strip(sheet._table.value)
    assert sheet._table.value.count("<mark") == 2 * 2  # the steps' numbers, from the second on
    assert "asked at 3 steps." in sheet._about.value


def test_flags_are_told_in_words_and_the_expected_answer_is_ticked(tmp_path):
    sheet = SampleSheet()
    sheet.follow(many(tmp_path))
    html = sheet._table.value
    for words in ("repeats \u201cno\u201d \u00d740", "cut at 64 tokens", "same as the answer of"):
        assert html.count(words) == 5
    assert html.count("&#10003; exact") == 4  # at the last step; the repeating one never
    assert "&#10007;" not in html


def test_of_many_checkpoints_five_are_shown_and_others_can_be_chosen(tmp_path):
    sheet = SampleSheet()
    sheet.follow(many(tmp_path, prompts=1, checkpoints=10))
    assert columns(sheet) == ["Step 0, base model", "Step 20", "Step 40", "Step 70", "Step 90"]
    sheet.columns.value = "ends"
    assert columns(sheet) == ["Step 0, base model", "Step 90"]
    sheet.columns.value = "newest"
    assert columns(sheet) == [f"Step {step}" for step in (50, 60, 70, 80, 90)]
    sheet.columns.value = "all"
    assert len(columns(sheet)) == 10
    assert "wb.sample_sheet(run, columns=&quot;all&quot;, first=1)" in sheet._code.value


def test_many_prompts_are_leafed_through(tmp_path):
    sheet = SampleSheet()
    sheet.follow(many(tmp_path, prompts=12, checkpoints=2))
    assert prompts(sheet) == [f"Prompt {number}?" for number in range(5)]
    assert sheet.previous.disabled and not sheet.next.disabled
    sheet.next.click()
    sheet.next.click()
    assert prompts(sheet) == ["Prompt 10?", "Prompt 11?"]
    assert sheet.next.disabled and not sheet.previous.disabled
    assert "prompts 11 to 12 of 12" in sheet._place.value
    assert "first=11" in sheet._code.value
    sheet.previous.click()
    assert prompts(sheet)[0] == "Prompt 5?"


def test_the_sheet_redraws_only_when_an_answer_to_its_prompts_is_new(tmp_path):
    history, sheet = many(tmp_path, prompts=2, checkpoints=2), SampleSheet()
    sheet.follow(history)
    changes = []
    for part in inside(sheet):
        part.observe(changes.append)
    sheet.follow(history)
    log = EventLog(tmp_path / "events.jsonl")
    event(log, "sample", sample="a user's", step=10, prompt="?", text="late", adapter=True)
    history.update()
    sheet.follow(history)
    assert changes == []
    event(log, "token", sample="b", text="It is being written")
    history.update()
    sheet.follow(history)
    assert changes == []  # it stands in the prompt box
    sample(log, 20, "newer", adapter=True)
    history.update()
    sheet.follow(history)
    assert "newer" in strip(sheet._table.value)


def test_of_a_long_history_only_what_is_shown_is_compared(tmp_path, monkeypatch):
    history, sheet, compared = many(tmp_path, 50, 10), SampleSheet(), []
    real = quoted.marked
    monkeypatch.setattr(quoted, "marked", lambda *texts: compared.append(texts) or real(*texts))
    sheet.follow(history)
    assert len(compared) == 5 * 4
    event(
        EventLog(tmp_path / "events.jsonl"), "sample", sample="step-90-0", step=90, prompt="Prompt 0?",
        text="late", adapter=True,
    )  # fmt: skip
    history.update()
    sheet.follow(history)
    assert len(compared) == 5 * 4 + 1  # the others were drawn before


def test_the_sheet_as_a_page_and_as_text(tmp_path):
    run = FolderRun(tmp_path, many(tmp_path, prompts=7, checkpoints=8))
    page = sheet_page(run, columns="ends", first=4)
    assert "Prompt 3?" in page.html and "Prompt 6?" in page.html and "Prompt 2?" not in page.html
    assert (
        "4. Prompt 3? (expected: late 90)\n   Step 0, base model: late 0 [cut at 64 tokens]"
        in page.text
    )
    assert "Prompt 6?" in sheet_page(run, first=99).html
    assert "Step 70: late 70" in as_text(run.history)
    with pytest.raises(RunError, match="columns is 'some'. Give spread, all, ends, newest."):
        sheet_page(run, columns="some")


def test_a_run_without_answers_says_so(tmp_path):
    run = FolderRun(tmp_path, History(tmp_path / "none.jsonl"))
    assert sheet_page(run).text == "No prompt was answered yet."
    sheet = SampleSheet()
    sheet.follow(run.history)
    assert "none yet" in sheet._about.value
    assert sheet._controls.layout.display == "none"


def put_back(folder, *, asked: bool, state: str = "ready") -> FolderRun:
    """A run of 21 steps that keeps the adapter of step 15; whether it was asked once it had been put back."""
    history = History(folder / "events.jsonl")

    def told(kind: str, t: float, **fields) -> None:
        history.absorb({"kind": kind, "t": t} | fields)

    def said(t: float, step: int, text: str, name: str = "") -> None:
        fields = {"prompt": "Which?", "system": None, "expected": None, "adapter": step > 0}
        told("sample", t, sample=name or f"step-{step}-0", step=step, text=text, **fields)

    told("phase", 1.0, state="training", text="Training.")
    said(2.0, 0, "base")
    told("score", 3.0, step=0, correct=0, rows=32, adapter=False)
    told("step", 4.0, step=21, of=50)
    said(5.0, 21, "of the last")
    said(6.0, 21, "early", "user-1")
    told("adapter", 7.0, step=15, path="", why="")
    if asked:
        said(8.0, 21, "of the kept")
        said(8.5, 21, "late", "user-2")
        told("score", 9.0, step=21, correct=32, rows=32, adapter=True)
    told("phase", 10.0, state=state, text="")
    return FolderRun(folder, history)


def test_answers_of_an_adapter_that_was_put_back_bear_its_step(tmp_path):
    run, sheet = put_back(tmp_path, asked=True), SampleSheet()
    sheet.follow(run.history)
    assert columns(sheet) == ["Step 0, base model", "Step 15, kept (asked after step 21)"]
    assert "of the last" not in strip(sheet._table.value)
    scored = "Exact match 0 of 32 before, 32 of 32 after (step 15, kept)."
    assert scored in sheet._about.value and "Sample now" not in sheet._about.value
    page = samples.compare_samples(run)
    assert "After 15 steps (kept)</th>" in page.html
    assert "After 15 steps (kept): 32 of 32" in page.text and "Sample now" not in page.text
    run.history.absorb({"kind": "step", "t": 11.0, "step": 22, "of": 50})
    later = {"kind": "sample", "t": 12.0, "sample": "step-22-0", "step": 22, "adapter": True}
    run.history.absorb(later | {"prompt": "?", "system": None, "expected": None, "text": "on"})
    sheet.follow(run.history)
    assert columns(sheet)[-1] == "Step 22"  # a training that went on has left the kept one


def test_a_stopped_run_says_that_its_kept_adapter_was_not_asked(tmp_path):
    run = put_back(tmp_path, asked=False, state="stopped")
    fact = "The kept adapter is that of step 15; these answers are of step 21. Press Sample now"
    page = samples.compare_samples(run)
    assert fact in page.text and "After 21 steps</th>" in page.html
    assert "Not scored after training: the run was stopped." in page.text
    assert fact in sheet_page(run).html and "Exact match 0 of 32 before." in sheet_page(run).html


# The prompt box


@pytest.fixture
def box(run) -> AskBox:
    return AskBox(run, Banner())


def look(box: AskBox) -> str:
    """What is shown after the log was read again."""
    box._run.refresh()
    box.follow(box._run.history)
    return strip(shown(box))


def test_the_box_begins_with_what_the_recipe_says(box):
    assert box.system.value == "Answer in JSON."
    assert box.temperature.value == 0.0
    assert box.longest.value == 64


def test_what_was_asked_is_what_the_lines_of_python_say(box, run):
    box.prompt.value, box.temperature.value, box.longest.value = 'Say "hi"', 0.7, 12
    tuned, base = re.findall(r"<code[^>]*>([^<]*)</code>", box._code.value)
    assert tuned == (
        "answer = await run.answer(&#x27;Say &quot;hi&quot;&#x27;, temperature=0.7, "
        "max_new_tokens=12, system=&#x27;Answer in JSON.&#x27;)"
    )
    assert base.startswith("base = ") and base.endswith(", adapter=False)")
    box.ask.click()
    how = {"temperature": 0.7, "max_new_tokens": 12, "system": "Answer in JSON."}
    assert run.asked == [{"prompt": 'Say "hi"', "adapter": a} | how for a in (True, False)]
    assert box.prompt.value == 'Say "hi"'


def test_a_long_prompt_is_a_name_in_the_line_of_python(box):
    box.prompt.value = box.system.value = "x" * 100_000
    assert "run.answer(prompt, temperature" in box._code.value
    assert "system=system" in box._code.value


def test_without_the_base_model_only_the_tuned_one_is_asked(box, run):
    box.prompt.value, box.base.value, box.system.value = "Which?", False, ""
    box.ask.click()
    assert run.asked == [
        {"prompt": "Which?", "adapter": True, "temperature": 0.0, "max_new_tokens": 64}
    ]
    assert "adapter=False" not in box._code.value
    assert "Base model" not in look(box)


def test_answers_come_piece_by_piece_side_by_side_and_then_whole(box, run):
    box.prompt.value = "Which?"
    box.ask.click()
    assert "answered between two steps" in look(box)
    assert strip(box._newest.value).count("waiting") == 2
    run.token("id-1", "The lamp")
    run.token("id-1", " is")
    assert "The lamp is" in look(box)
    run.answer("id-1", "The lamp is red.", rendered="<s>user: Which?</s>")
    run.token("id-2", "Lamp")
    assert "The lamp is red.20 tokens in 2.0 s, 10 tokens/s" in look(box)
    assert "Lamp&#9612;" in strip(box._newest.value)
    run.answer("id-2", "Lamp " * 30, adapter=False, ended=False)
    assert "repeats \u201cLamp\u201d \u00d730" in look(box)
    assert "cut at 20 tokens" in box._newest.value
    assert "&lt;s&gt;user: Which?&lt;/s&gt;" in box._rendered.value
    assert box._newest.value.index("Tuned") < box._newest.value.index("Base model")
    assert not box._is_busy()
    assert repr(box).startswith("Asked: Which?\n  tuned: The lamp is red.\n  base: Lamp Lamp")


def test_a_question_tells_of_which_step_the_tuned_model_was(tmp_path):
    text = look(AskBox(put_back(tmp_path, asked=True), Banner()))
    assert "Tuned, step 15 (kept)late" in text and "Tuned, step 21early" in text


def test_an_answer_that_had_no_room_says_what_cut_it(box, run):
    box.prompt.value, box.base.value = "Which?", False
    box.ask.click()
    run.answer("id-1", "The lamp", ended=False)
    fits = run.recipe.model.max_length
    assert f"cut at 20 tokens: prompt and answer must fit in {fits:,}" in look(box)
    event(run.log, "command", id="x", do="stop", taken=True, text="")
    look(box)
    assert "must fit" not in box._newest.value  # the end of the run cut it


def test_how_long_an_answer_may_be_is_a_whole_number_or_refused_beside_the_button(
    tmp_path, tiny, monkeypatch
):
    tiny.save(tmp_path / "recipe.yaml")
    made(tmp_path, state="ready")
    monkeypatch.setattr(Run, "alive", True)
    around = Banner()
    box = AskBox(Run.open(tmp_path.name, tmp_path.parent), around)
    box.prompt.value, box.longest.value = "Which?", 12.5
    box.ask.click()
    assert "samples.max_new_tokens is 12.5" in box._banner.value and around.value == ""
    assert box.children[box.children.index(box._banner) + 1].children[0] is box.ask
    box.longest.value = 12
    box.ask.click()
    (asked, _) = CommandReader(tmp_path / "commands.jsonl").new()
    assert asked["max_new_tokens"] == 12 and "max_new_tokens=12" in box._code.value


def test_the_exact_prompt_is_folded_away(box, run):
    run.answer("x", "red", rendered="<|user|>\nWhich?")
    look(box)
    assert not box.exact.is_open
    box.exact.button.click()
    assert box.exact.is_open
    run.answer("y", "red", prompt="An older version's")
    assert "It was not noted" in look(box)


def test_the_last_questions_are_kept_newest_first(box, run):
    for number in range(7):
        box.prompt.value = f"Question {number}?"
        box.ask.click()
        run.answer(f"id-{2 * number + 1}", f"tuned {number}", prompt=box.prompt.value)
        run.answer(f"id-{2 * number + 2}", f"base {number}", prompt=box.prompt.value, adapter=False)
    text = look(box)
    asked = re.findall(r"Question \d\?", strip(box._newest.value + box._earlier.value))
    assert asked == [f"Question {number}?" for number in (6, 5, 4, 3, 2)]
    assert "tuned 2" in text and "base 2" in text


def test_a_new_box_shows_what_was_asked_before(run):
    run.answer("one", "red")
    run.answer("two", "blue", adapter=False)
    run.answer("step-5-0", "not a user's")
    run.answer("three", "late", prompt="When?", system="Be <brief>.")
    run.token("four", "being writ")
    box = AskBox(run, Banner())
    text = look(box)
    assert "being writ" in strip(box._newest.value) and "asked elsewhere" in text
    assert "not a user's" not in text
    assert "system: Be &lt;brief&gt;." in text
    assert len(box.turns) == 3
    assert "red" in strip(box._earlier.value) and "blue" in strip(box._earlier.value)


def test_a_refusal_stands_where_the_answer_would(box, run):
    box.prompt.value = "Which?"
    box.ask.click()
    event(run.log, "command", id="id-1", do="ask", taken=False, text="No <room> is left.")
    look(box)
    assert "No &lt;room&gt; is left." in box._newest.value
    assert strip(box._newest.value).count("waiting") == 1


def test_what_cannot_be_asked_is_told_and_nothing_is_lost(box, run):
    box.prompt.value = "  "
    box.ask.click()
    assert "The prompt is empty." in box._banner.value
    box.prompt.value = "half \ud83d"
    box.ask.click()
    assert "Character 6 of the question is half of one." in box._banner.value
    assert box.prompt.value == "half \ud83d" and run.asked == []
    box.prompt.value = "whole"
    box.ask.click()
    assert box._banner.value == ""


def test_the_worker_gets_what_was_asked_and_bounds_are_the_recipes(tmp_path, tiny, monkeypatch):
    tiny.save(tmp_path / "recipe.yaml")
    made(tmp_path, state="ready")
    monkeypatch.setattr(Run, "alive", True)
    box = AskBox(Run.open(tmp_path.name, tmp_path.parent), Banner())
    assert box.system.value == tiny.samples.system and not box.ask.disabled
    box.prompt.value, box.temperature.value = "Which?", 0.5
    box.ask.click()
    commands = CommandReader(tmp_path / "commands.jsonl")
    for command, adapter in zip(commands.new(), (True, False), strict=True):
        assert (command["do"], command["prompt"], command["adapter"]) == ("ask", "Which?", adapter)
        assert (command["temperature"], command["system"]) == (0.5, tiny.samples.system)
        assert command["max_new_tokens"] == tiny.samples.max_new_tokens
    box.temperature.value = -1
    box.ask.click()
    assert "samples.temperature is -1.0; it must be" in box._banner.value
    assert commands.new() == [] and len(box.turns) == 1


def test_a_recipe_that_cannot_be_read_leaves_the_defaults(tmp_path):
    (tmp_path / "recipe.yaml").write_text("lora: {rank: <b>many</b>}")
    made(tmp_path, state="closed")
    box = AskBox(Run.open(tmp_path.name, tmp_path.parent), Banner())
    assert "recipe cannot be read" in box._banner.value and "<b>many" not in box._banner.value
    assert box.longest.value == Recipe().samples.max_new_tokens


@pytest.mark.parametrize(
    ("state", "can", "says"),
    [
        ("preparing", False, "when it is loaded"),
        ("loading", False, "when it is loaded"),
        ("training", True, "between two steps"),
        ("paused", True, "paused"),
        ("ready", True, "there to answer"),
        ("stopped", True, "there to answer"),
        ("failed", False, "The worker has ended. It left no adapter"),
        ("closed", False, "The worker has ended. It left no adapter"),
    ],
)
def test_the_model_can_be_asked_while_it_is_there(box, run, state, can, says):
    run.phase(state)
    look(box)
    assert box.ask.disabled is not can
    assert says in box._note.value and 'role="status"' in box._note.value
    assert box.load.layout.display == "none"


def test_a_killed_workers_run_that_can_be_resumed_cannot_be_asked(box, run):
    run.alive = False
    run.phase("stopped")
    look(box)
    assert box.ask.disabled


def test_the_model_is_loaded_again_and_what_was_lost_is_told(box, run):
    box.prompt.value = "Which?"
    box.ask.click()
    run.token("id-1", "The la")
    run.adapter_path.mkdir()
    run.phase("closed")
    assert "Not answered: the worker ended before." in look(box)
    assert box.load.layout.display == ""
    box.load.click()
    assert run.asked[-1] == {"do": "reopen"}
    assert box.ask.disabled and box.load.layout.display == "none"
    run.phase("ready")
    assert "Not answered" in look(box) and "The la&#9612;" not in strip(box._newest.value)
    assert not box.ask.disabled and not box._is_busy()


def test_it_follows_by_itself_until_nothing_is_awaited(run):
    async def conversation() -> None:
        box = AskBox(run, Banner())
        box.prompt.value, box.base.value = "Which?", False
        box.ask.click()
        run.answer("id-1", "The lamp is red.")
        await asyncio.wait_for(box._task, 10)
        assert "The lamp is red." in strip(box._newest.value)

    asyncio.run(conversation())


def test_tasks_end_with_the_panel_and_panels_are_few(run):
    async def many_cells() -> None:
        panels = [AskPanel(run) for _ in range(20)]
        panels[-1].box.prompt.value = "Which?"
        panels[-1].box.ask.click()
        assert sum(panel.comm is not None for panel in panels) == OPEN
        for panel in list(AskPanel._open):
            panel.close()
        await asyncio.wait_for(asyncio.wait([p._task for p in panels]), 10)
        await asyncio.wait_for(panels[-1].box._task, 10)
        assert AskPanel._open == []

    before = live_widgets()
    asyncio.run(many_cells())
    assert live_widgets() == before


def live_widgets() -> int:
    """By the name of ipywidgets 8 or 7."""
    return len(getattr(widgets.widget, "_instances", None) or widgets.Widget.widgets)


def test_a_saved_notebook_keeps_the_questions_as_text(run):
    run.answer("one", "<b>red</b>")
    panel = AskPanel(run)
    bundle = panel.bundle()
    panel.close()
    assert "Asked: Which?\n  tuned: <b>red</b>" in bundle["text/plain"]
    assert "&lt;b&gt;red" in bundle["text/html"] and "<b>" not in bundle["text/html"]


def test_every_control_has_a_label_a_tooltip_and_a_mark(box):
    for root in (box, SampleSheet()):
        for part in inside(root):
            if isinstance(part, widgets.Button | widgets.HTML | widgets.Box | widgets.HBox):
                continue
            tip = part.tooltip if part.has_trait("tooltip") else part.description_tooltip
            assert part.description and len(tip) > 10, part
            assert any(mark.startswith("wb-") for mark in part._dom_classes)
        for part in inside(root):
            if isinstance(part, widgets.Button):
                assert part.description and len(part.tooltip) > 10


# Text of models, rows and users


@pytest.mark.parametrize("evil", EVIL, ids=lambda text: ascii(text[:20]))
def test_no_text_can_act_or_flood(tmp_path, evil):
    run = FolderRun(tmp_path, History(tmp_path / "events.jsonl"))
    for step, text in ((0, evil), (10, evil + " changed"), (20, "changed " + evil)):
        told = {
            "prompt": evil,
            "system": evil,
            "expected": evil,
            "rendered": evil,
            "t": time.time(),
        }
        known = {"kind": "sample", "step": step, "adapter": step > 0, "ended": False, "tokens": 3}
        for name in (f"step-{step}-0", f"user-{step}"):
            run.history.absorb({"sample": name, "text": text, "seconds": 1, **told, **known})
    run.history.absorb({"kind": "token", "sample": "now", "text": evil})
    run.history.state, run.name = "ready", evil
    panel, sheet = AskPanel(run), SampleSheet()
    panel.box.prompt.value = panel.box.system.value = evil
    if evil.isascii():  # half a character cannot be asked
        panel.box.ask.click()
        command = {"kind": "command", "id": "id-1", "do": "ask", "taken": False, "text": evil}
        run.history.absorb(command)
    panel.update()
    sheet.follow(run.history)
    panel.close()
    pages = [samples.compare_samples(run), sheet_page(run)]
    for html in [shown(panel), shown(sheet), *(page.html for page in pages)]:
        is_harmless(html)
    for text in [repr(panel), as_text(run.history), *(page.text for page in pages)]:
        is_harmless(text.replace("<", "&lt;"))


def is_harmless(html: str) -> None:
    """No tag but ours, no control character, nothing that turns the writing around, and no megabytes."""
    html.encode()
    assert len(html) < 250_000
    assert not re.search("<(script|img|b>end)", html)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    for tag in ("bdi", "details", "div", "mark", "span"):
        assert len(re.findall(f"<{tag}[ >]", html)) == html.count(f"</{tag}>"), tag


def test_a_long_text_can_be_unfolded_up_to_a_bound():
    html = quoted.html("x" * 100_000, 2000)
    assert "<summary" in html and "98,000 more characters" in html
    assert "90,000 more, in the run's events.jsonl" in html
    assert len(html) < 12_000


def test_a_text_that_is_being_written_shows_its_end():
    assert (
        strip(quoted.ending("x" * 5000 + "the end", 10))
        == "4,997 earlier characters &#8230; xxxthe end"
    )


def test_an_unfinished_turn_awaits_an_answer():
    wish = conversation.Wish(1.0, "Which?", None, {True: "a"})
    history = SimpleNamespace(samples=[], commands=[], partial={}, adapter={})
    (turn,) = conversation.turns(history, [wish], ())
    assert conversation.awaited(turn)
    (turn,) = conversation.turns(history, [wish], {"a"})
    assert not conversation.awaited(turn)
