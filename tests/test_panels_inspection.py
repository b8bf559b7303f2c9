"""The inspection panel through its controls: what it asks for, what it shows, and that no process outlives it.

Most of it on made results; at the end once on the tiny model, with the processes that compute.
"""

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import numpy as np
import psutil
import pytest
from made_runs import made_run
from safetensors.numpy import save_file
from test_panels import inside, tooltip

from workbench.inspection.adapter import AdapterUpdates, Update, effective_rank
from workbench.inspection.quantization import Layer, QuantizationErrors
from workbench.inspection.truncation import Truncated
from workbench.models import linear_layers
from workbench.panels.inspection import adapter as adapter_module
from workbench.panels.inspection import base as base_module
from workbench.panels.inspection import mixing as mixing_module
from workbench.panels.inspection.panel import InspectPanel
from workbench.panels.inspection.section import Subject, Underway, adapted, moving, subject
from workbench.problems import Problem, RunError
from workbench.recipe import Recipe

BAD = "<img src=x onerror=alert(1)>"
TINY = str(Path(__file__).parents[1] / "data" / "tiny" / "model")


def errors(model: str = "made", **how: Any) -> QuantizationErrors:
    """What 4 bits would do to two blocks of two layers, one of them with outliers."""
    layers = tuple(
        Layer(f"model.layers.{block}.{module}", module, block, 4096, error, 0.1, 6000, 10.0)
        for block, module, error in (
            (0, "q_proj", 0.092), (0, "down_proj", 0.21), (1, "q_proj", 0.09), (1, "down_proj", 0.093),
        )
    )  # fmt: skip
    return QuantizationErrors(model, how.get("quant_type", "nf4"), True, layers, None, 1.0)


def updates(folder: Path | str = "adapter") -> AdapterUpdates:
    """What an adapter of rank 4 would have learned in two blocks."""
    made = []
    for block in (0, 1):
        for module in ("q_proj", "v_proj"):
            singular = (1.0 + block, 0.5, 0.1, 0.01)
            ranks = (effective_rank(singular, share) for share in (0.9, 0.99))
            size = math.sqrt(sum(value**2 for value in singular))
            name = f"model.layers.{block}.{module}"
            made.append(Update(name, module, block, 4, 1.0, size, 20.0, singular, *ranks))
    return AdapterUpdates(Path(folder), "made", 4, tuple(made), 5000, 1200)


def cut(rank: int = 2) -> Truncated:
    return Truncated(Path("adapter-rank-2"), 4, rank, 0.98, 0.061, 0.064, 64, 5000, 2600)


def made_adapter(folder: Path, *, rank: int = 4, seed: int = 0) -> Path:
    """An adapter on the tiny model's attention in PEFT's form, whose updates are small and fall off quickly."""
    numbers = np.random.default_rng(seed)
    tensors = {}
    layers = [layer for layer in linear_layers(TINY) if layer.module in ("q_proj", "v_proj")]
    for layer in layers:
        falls = 0.02 * 0.4 ** np.arange(rank, dtype=np.float32)
        a = numbers.standard_normal((rank, layer.in_features), dtype=np.float32)
        b = numbers.standard_normal((layer.out_features, rank), dtype=np.float32) * falls
        name = f"base_model.model.{layer.name}"
        tensors |= {f"{name}.lora_A.weight": a / 16, f"{name}.lora_B.weight": b}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": TINY,
        "r": rank, "lora_alpha": rank, "target_modules": ["q_proj", "v_proj"], "bias": "none",
        "lora_dropout": 0.0, "inference_mode": True, "fan_in_fan_out": False,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


class Asked(list):
    """Calls of an inspection, as their arguments; `answer` is what it gives or raises, None for never."""

    answer: Any = None
    ended = False

    async def __call__(self, *given: Any, **how: Any) -> Any:
        how.pop("told")(f"layer 3 of 28: {BAD}")
        self.append((*given, how))
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


class MadeMixer:
    """Answers with the mix that it is asked for; knows which of its kind are open."""

    opened: ClassVar[list["MadeMixer"]] = []
    waits = False

    def __init__(self, adapters: Any, **how: Any) -> None:
        self.adapters, self.how, self.asked, self.is_open = list(adapters), how, [], False

    async def __aenter__(self) -> "MadeMixer":
        self.is_open = True
        self.opened.append(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_open = False

    @property
    def names(self) -> list[str]:
        return [Path(name).name for name in self.adapters]

    async def ask(self, prompts: list[str], weights: dict[str, float], **how: Any) -> dict:
        self.asked.append((*prompts, weights, how))
        if self.waits:
            await asyncio.Event().wait()
        return {
            "answers": [f"{BAD} {json.dumps(weights)}"],
            "loss": 0.5 if how.get("rows") else None,
        }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Asked]:
    """Made inspections in the place of those that start a process."""
    made = {"base": Asked(), "adapter": Asked(), "truncate": Asked()}
    made["base"].answer, made["adapter"].answer, made["truncate"].answer = (
        errors(),
        updates(),
        cut(),
    )
    monkeypatch.setattr(base_module, "inspect_quantization", made["base"])
    monkeypatch.setattr(adapter_module, "inspect_adapter", made["adapter"])
    monkeypatch.setattr(adapter_module, "truncate_adapter", made["truncate"])
    monkeypatch.setattr("workbench.panels.progress.EVERY", 0.0)
    return made


@pytest.fixture
def mixers(monkeypatch: pytest.MonkeyPatch) -> list[MadeMixer]:
    """The made mixers that were opened, in the place of those with a process."""
    monkeypatch.setattr(mixing_module, "Mixer", MadeMixer)
    monkeypatch.setattr(MadeMixer, "opened", [])
    monkeypatch.setattr(MadeMixer, "waits", False)
    return MadeMixer.opened


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs on one base that have an adapter, one on another, and one that has none."""
    for age, (name, model) in enumerate({"wide": TINY, "narrow": TINY, "other": "a/b"}.items()):
        run = made_run(tmp_path, name, age=age, model={"name": model, "quant_type": "fp4"})
        told = {"base_model_name_or_path": model, "peft_type": "LORA"}
        (run.adapter_path / "adapter_config.json").write_text(json.dumps(told))
    made_run(tmp_path, "young", age=9, model={"name": TINY})
    return tmp_path


@pytest.fixture
def clean() -> Iterator[None]:
    """Closes the panel that is left."""
    yield
    if InspectPanel._open is not None:
        InspectPanel._open.close()


pytestmark = pytest.mark.usefixtures("clean")


async def settled(work: Underway) -> None:
    for _ in range(1000):
        if not work.busy:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it is still under way")


async def clicked(work: Underway) -> None:
    """Clicks the button that begins and waits for the end."""
    assert not work.begin.disabled, work._note.value
    work.begin.click()
    await settled(work)


def in_a_kernel(act: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(act(), 300))


# What is inspected


def test_a_run_a_folder_an_adapter_and_a_model_are_told_apart(runs: Path, tiny: Recipe):
    of_run = subject("wide", runs)
    assert (of_run.model, of_run.adapter, of_run.recipe.model.quant_type) == (TINY, "wide", "fp4")
    assert subject(runs / "wide", runs) == of_run
    assert subject(runs / "wide", runs.parent).adapter == str(runs / "wide" / "adapter")
    folder = str(runs / "wide" / "adapter")
    assert subject(folder, runs) == Subject(TINY, None, folder)
    assert subject("owner/model", runs) == Subject("owner/model")
    assert subject(tiny, runs).model == tiny.model.name
    assert of_run.name == "wide on tiny/model"


def test_the_list_holds_runs_with_an_adapter_on_the_same_base(runs: Path):
    assert adapted(runs) == ["wide", "narrow", "other"]
    assert adapted(runs, model="data/tiny/model") == adapted(runs, model=TINY) == ["wide", "narrow"]
    assert adapted(runs / "nowhere") == []


def test_without_anything_the_fields_choose_and_the_buttons_say_what_is_missing(runs: Path):
    panel = InspectPanel(outputs=runs)
    works = (panel.base.work, panel.adapter.work, panel.adapter.cutting, panel.mixing.work)
    assert all(work.begin.disabled for work in works)
    assert "Choose a run or a model first." in panel.base.work._note.value
    panel.model.value = TINY
    assert [work.begin.disabled for work in works] == [False, True, True, True]
    assert "folder first" in panel.adapter.work._note.value
    panel.run.value = "wide"
    assert panel.model.value == "" and panel.subject.adapter == "wide"
    assert not any(work.begin.disabled for work in works)
    assert "wide on tiny/model" in panel._title.value
    panel.model.value = BAD
    assert panel.run.value == "(none)" and BAD not in panel._title.value


def test_a_panel_of_a_run_takes_its_settings_and_each_control_says_its_line(runs: Path):
    panel = InspectPanel("wide", outputs=runs)
    assert panel.base.quant_type.value == "fp4" and panel.run not in inside(panel)
    assert "quant_type=&#x27;fp4&#x27;, double_quant=True)" in panel.base._code.value
    panel.base.double_quant.value, panel.base.compare.value = False, True
    assert "double_quant=False, compare=True)" in panel.base._code.value
    assert "wb.inspect_adapter(&quot;wide&quot;, outputs=" in panel.adapter._code.value
    assert "&quot;wide&quot;, rank=4, outputs=" in panel.adapter._cut_code.value
    panel.adapter.way.value, panel.adapter.to.value = "energy", " small "
    assert "energy=0.9, to=&#x27;small&#x27;, outputs=" in panel.adapter._cut_code.value
    assert panel.adapter.rank.disabled and not panel.adapter.energy.disabled
    assert "[{}, {&quot;wide&quot;: 1}]" in panel.mixing._code.value


def test_every_control_has_a_label_a_tooltip_and_a_class(runs: Path):
    panel = InspectPanel(outputs=runs)
    panel.run.value = "wide"
    for made in inside(panel):
        if isinstance(made, widgets.DOMWidget) and made.has_trait("description"):
            if isinstance(made, widgets.HTML):
                continue
            assert made.description and len(tooltip(made)) > 10, made
            assert any(name.startswith("wb-") for name in made._dom_classes), made.description


# What is shown


def test_what_was_found_is_shown_and_stays_in_the_notebook(runs: Path, asked):
    async def act() -> None:
        panel = InspectPanel("wide", outputs=runs)
        assert "Nothing was inspected yet." in repr(panel) and panel.left() == {"text/plain": ""}
        for work in (panel.base.work, panel.adapter.work, panel.adapter.cutting):
            await clicked(work)
            assert "Took " in work._note.value and work._bar.value == "" and work.stop.disabled
        assert asked["base"][0][0] == TINY
        assert asked["base"][0][1] == {"quant_type": "fp4", "double_quant": True}
        assert asked["adapter"] == [("wide", {"outputs": runs})]
        assert asked["truncate"] == [("wide", {"rank": 4, "outputs": runs})]
        for shown in (panel.base._shown.value, panel.adapter._figure.value):
            assert 'src="data:image/png;base64,' in shown and 'alt="' in shown
        text = repr(panel)
        assert str(errors()) in text and "Rank 4 uses" in text and str(cut()) in text
        left = panel.left()
        assert (
            left["text/html"].count('<img src="data:image/png') == 2 and left["text/plain"] == text
        )

    in_a_kernel(act)


def test_the_map_shows_what_is_chosen(runs: Path, asked):
    async def act() -> None:
        panel = InspectPanel("wide", outputs=runs)
        assert panel.adapter.show.layout.display == "none"
        await panel.adapter.inspect()
        first = panel.adapter._shown.value
        assert panel.adapter.show.layout.display == ""
        panel.adapter.show.value = "share"
        assert panel.adapter._shown.value != first
        assert updates().html("share") in panel.adapter._shown.value
        assert "wb.picture(updates, show=&#x27;share&#x27;)" in panel.adapter._code.value

    in_a_kernel(act)


def test_another_subject_takes_the_place_of_the_one_before(runs: Path, asked):
    async def act() -> None:
        panel = InspectPanel(outputs=runs)
        panel.run.value = "wide"
        await panel.base.inspect()
        await panel.adapter.inspect()
        asked["base"].answer = None
        panel.base.work.start()
        await asyncio.sleep(0.01)
        panel.run.value = "narrow"
        await settled(panel.base.work)
        assert asked["base"].ended
        assert panel.base.result is panel.adapter.result is None
        assert "<img" not in panel.base.html + panel.adapter.html
        assert panel.left() == {"text/plain": ""}

    in_a_kernel(act)


# Failure, Stop and the end


def test_a_failure_is_told_in_the_banner_and_the_button_is_there_again(runs: Path, asked):
    async def act() -> None:
        panel = InspectPanel("wide", outputs=runs)
        asked["base"].answer = RunError([Problem("", f"{BAD} is torn.", "Copy it again.")])
        await clicked(panel.base.work)
        assert "Copy it again." in panel.base.banner.value and BAD not in panel.base.banner.value
        assert not panel.base.work.begin.disabled and panel.base.work._bar.value == ""
        asked["base"].answer = ValueError("never thought of")
        await clicked(panel.base.work)
        assert "ValueError: never thought of" in panel.base.banner.value
        asked["base"].answer = errors()
        await clicked(panel.base.work)
        assert panel.base.banner.value == ""
        asked["truncate"].answer = RunError([Problem("", "rank is 0.", "Give 1 or more.")])
        panel.adapter.rank.value = 0
        await clicked(panel.adapter.cutting)
        assert "rank is 0." in panel.adapter.cut_banner.value
        assert asked["truncate"][-1][1]["rank"] == 0

    in_a_kernel(act)


def test_stop_ends_what_is_under_way_and_keeps_what_was_found(runs: Path, asked):
    async def act() -> None:
        panel = InspectPanel("wide", outputs=runs)
        await clicked(panel.base.work)
        asked["base"].answer = None
        panel.base.work.begin.click()
        await asyncio.sleep(0.01)
        assert panel.base.work.begin.disabled and not panel.base.work.stop.disabled
        assert 'value="3" max="28"' in panel.base.work._bar.value
        assert BAD not in panel.base.work._bar.value
        panel.base.work.begin.click()  # a second wish while the first is under way
        panel.base.work.stop.click()
        await settled(panel.base.work)
        assert asked["base"].ended and len(asked["base"]) == 2
        assert "Stopped." in panel.base.work._note.value and panel.base.result == errors()

    in_a_kernel(act)


@pytest.mark.parametrize("how", ["closed", "run again"])
def test_nothing_goes_on_when_the_panel_is(runs: Path, asked, mixers, how: str):
    async def act() -> None:
        panel = InspectPanel("wide", outputs=runs)
        panel.mixing.prompt.value = "Who?"
        await panel.mixing.ask()
        for made in asked.values():
            made.answer = None
        works = (panel.base.work, panel.adapter.work, panel.adapter.cutting)
        for work in works:
            work.start()
        await asyncio.sleep(0.01)
        panel.close() if how == "closed" else InspectPanel("narrow", outputs=runs)
        for work in works:
            await settled(work)
        await asyncio.sleep(0.01)
        assert all(made.ended for made in asked.values()) and not mixers[0].is_open
        assert panel.comm is None

    in_a_kernel(act)


def test_the_bar_follows_words_that_count():
    assert 'value="3" max="1000"' in moving("layer 3 of 1,000: <b>")
    assert "<b>" not in moving("layer 3 of 1,000: <b>")
    for text in ("loading the base", "0 of 0 files"):
        assert "<progress aria-label" in moving(text) and "value=" not in moving(text)


# Mixing


def test_the_base_each_adapter_and_the_mix_answer_side_by_side(runs: Path, mixers):
    async def act() -> None:
        panel = InspectPanel("wide", outputs=runs)
        mixing = panel.mixing
        assert list(mixing.known.options)[1:] == ["wide", "narrow"]
        mixing.known.value = "narrow"
        assert mixing.slots[1].name.value == "narrow" and mixing.slots[1].on.value
        mixing.slots[0].weight.value, mixing.slots[1].weight.value = 0.7, 0.3
        mixing.prompt.value = f"Who is {BAD}?"
        await clicked(mixing.work)
        mix = {"wide": 0.7, "narrow": 0.3}
        asked = [weights for _, weights, _ in mixers[0].asked]
        assert asked == [{}, {"wide": 1.0}, {"narrow": 1.0}, mix]
        assert mixers[0].adapters == ["wide", "narrow"] and "base" not in mixers[0].how
        assert mixers[0].asked[0][2] == {"max_new_tokens": 64}
        shown = mixing.html
        assert shown.count('class="wb-mix"') == 4 and BAD not in shown
        assert "0.7 × wide + 0.3 × narrow" in shown and "wide alone" in shown
        assert "base alone: " in repr(panel) and "0.7 × wide + 0.3 × narrow: " in repr(panel)
        assert "{&quot;wide&quot;: 0.7, &quot;narrow&quot;: 0.3}]" in mixing._code.value

    in_a_kernel(act)


def test_what_is_off_or_weightless_is_not_mixed_and_one_alone_is_not_asked_twice(runs: Path):
    panel = InspectPanel("wide", outputs=runs)
    mixing, (first, second, *_) = panel.mixing, panel.mixing.slots
    assert mixing.mixes == [{}, {"wide": 1.0}]
    first.weight.value = 0.5
    assert mixing.mixes == [{}, {"wide": 1.0}, {"wide": 0.5}]
    second.name.value, second.on.value, second.weight.value = "narrow", True, 0.0
    assert mixing.mixes[-2:] == [{"narrow": 1.0}, {"wide": 0.5}]
    first.on.value = False
    assert mixing.mixes == [{}, {"narrow": 1.0}]
    second.name.value, first.on.value, second.weight.value = "wide", True, 1.0
    with pytest.raises(RunError, match="wide is there twice"):
        mixing.mixes  # noqa: B018
    second.name.value, first.weight.value = "", math.nan
    with pytest.raises(RunError, match="The weight of wide is nan"):
        mixing.mixes  # noqa: B018


def test_places_appear_as_they_are_needed_and_are_four(runs: Path):
    mixing = InspectPanel("wide", outputs=runs).mixing

    def seen() -> int:
        return sum(slot.layout.display == "" for slot in mixing.slots)

    assert seen() == 2
    for number, name in enumerate(("a", "b", "c")):
        mixing.slots[number + 1].name.value = name
        assert seen() == min(4, number + 3)
    mixing.known.value = "narrow"
    assert "All 4 places are taken." in mixing.banner.value


def test_the_process_stays_between_questions_and_is_a_new_one_for_other_adapters(
    runs: Path, mixers
):
    async def act() -> None:
        mixing = InspectPanel("wide", outputs=runs).mixing
        assert mixing.end.disabled
        for prompt, weight in (("one", 1.0), ("two", 0.5)):
            mixing.prompt.value, mixing.slots[0].weight.value = prompt, weight
            await clicked(mixing.work)
        assert len(mixers) == 1 and len(mixers[0].asked) == 5
        assert [turn.prompt for turn in mixing.turns] == ["two", "one"]
        assert "10 minutes" in mixing._state.value
        mixing.known.value = "narrow"
        await clicked(mixing.work)
        await asyncio.sleep(0.01)
        assert [mixer.is_open for mixer in mixers] == [False, True]
        mixing.end.click()
        await asyncio.sleep(0.01)
        assert not mixers[1].is_open and mixing.end.disabled and len(mixing.turns) == 3
        await clicked(mixing.work)
        assert len(mixers) == 3
        mixing.measured.value = 16
        await clicked(mixing.work)
        assert mixers[-1].asked[-1][2]["rows"] == 16 and "held-out loss 0.5" in mixing.html
        assert "rows=16" in mixing._code.value and "(held-out loss 0.5): " in repr(mixing)

    in_a_kernel(act)


def test_the_process_ends_when_nothing_is_asked_for_long(runs: Path, mixers, monkeypatch):
    monkeypatch.setattr(mixing_module, "IDLE_SECONDS", 0.0)

    async def act() -> None:
        mixing = InspectPanel("wide", outputs=runs).mixing
        mixing.prompt.value = "Who?"
        await mixing.ask()
        await asyncio.sleep(0.02)
        assert not mixers[0].is_open and mixing.end.disabled

    in_a_kernel(act)


def test_a_question_that_is_stopped_ends_the_process_too(runs: Path, mixers):
    async def act() -> None:
        mixing = InspectPanel("wide", outputs=runs).mixing
        await clicked(mixing.work)
        assert "The prompt is empty." in mixing.banner.value and not mixers
        mixing.prompt.value = "Who?"
        MadeMixer.waits = True
        mixing.work.start()
        await asyncio.sleep(0.02)
        assert mixing.html.count("waiting") == 2
        mixing.work.stop.click()
        await settled(mixing.work)
        await asyncio.sleep(0.01)
        assert not mixers[0].is_open and mixing.html.count("no answer") == 2
        MadeMixer.waits = False
        await clicked(mixing.work)
        assert len(mixers) == 2 and len(mixing.turns[0].answers) == 2

    in_a_kernel(act)


def test_adapters_go_on_a_model_that_is_given_and_one_is_not_taken_twice(runs: Path, mixers):
    async def act() -> None:
        mixing = InspectPanel(TINY, outputs=runs).mixing
        mixing.prompt.value = "Who?"
        mixing.known.value = "wide"
        await clicked(mixing.work)
        assert mixers[0].how["base"] == TINY and f"base=&#x27;{TINY}&#x27;" in mixing._code.value
        mixing.slots[1].name.value, mixing.slots[1].on.value = str(runs / "wide"), True
        monkey = type("Same", (MadeMixer,), {"names": ["wide"]})
        mixing_module.Mixer = monkey
        await clicked(mixing.work)
        assert "are the same adapter." in mixing.banner.value

    in_a_kernel(act)


# The processes


def test_processes_on_the_tiny_model_answer_and_end_with_the_panel(
    tmp_path: Path, tiny: Recipe, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # several processes that share few cores
    for age, name in enumerate(("one", "two")):
        run = made_run(tmp_path, name, age=age, **tiny.model_dump(include={"model", "data"}))
        made_adapter(run.adapter_path, seed=age)

    async def act() -> None:
        before = asyncio.all_tasks()
        panel = InspectPanel("one", outputs=tmp_path)
        panel.mixing.known.value = "two"
        panel.mixing.prompt.value = "The lamp in the hall is broken."
        panel.mixing.longest.value = 8
        await asyncio.gather(panel.adapter.inspect(), panel.mixing.ask())
        assert len(panel.adapter.result.updates) == 8 and panel.adapter.result.rank == 4
        (turn,) = panel.mixing.turns
        assert len(turn.answers) == len(turn.mixes) == 4 and all(turn.answers)
        assert len(processes()) == 1
        panel.close()
        while asyncio.all_tasks() - before:  # the one that ends the process
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # asyncio closes its pipes
        assert not processes()

    in_a_kernel(act)


def processes() -> set[int]:
    """The inspections of this process that run."""
    found = psutil.Process().children()
    return {one.pid for one in found if "workbench.inside" in " ".join(one.cmdline())}
