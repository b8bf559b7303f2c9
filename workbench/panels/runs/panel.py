"""The list of runs: what came of each, which to open, go on with, rename, copy, delete, and set side by side.

A task on the kernel's own loop looks every few seconds for what is new; a run that has ended is read once.
"""

import asyncio
import time
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from ... import tidying
from ...digest import FILE, Digest, digest, found
from ...listing import cells, lines, nothing_in
from ...problems import Problem, RunError, WorkbenchError
from ...run import Run
from .. import controls, pages
from ..banner import Banner, guarded
from ..buttons import button
from ..following import task_of_the_kernel
from ..launch.panel import LaunchPanel
from ..monitor.panel import Monitor
from ..panel import SinglePanel
from .run_choice import RunChoice
from .run_row import RunRow
from .side_by_side import SideBySide

PAGE = 10  # runs that are shown at once
EVERY = 3.0  # seconds between two looks
FIRST_LOOK = 0.4  # seconds at most that the list is made in; logs that were not read by then follow


class RunsPanel(SinglePanel):
    """`runs` are all in the folder, newest first, `shown` those of this page, `picked` those that the buttons act on."""

    def __init__(self, outputs: str | Path = "outputs") -> None:
        self.outputs = Path(outputs)
        self._where = "" if str(outputs) == "outputs" else f", outputs={str(outputs)!r}"
        self.runs: list[Run] = []
        self._told: dict[Path, Digest] = {}
        self._sizes: dict[Path, int] = {}
        self._picked: set[Path] = set()
        self._trashed: list[str] = []
        self._first = 0
        self.banner = Banner()
        says = "Keeps the runs whose name, state, model or changed settings hold this; a comma sets parts apart"
        self.filter = controls.described(widgets.Text, "Filter", says, "runs-filter", placeholder="failed, rank 8")  # fmt: skip
        self.refresh_button = button("Refresh", "wb.runs(): looks for new runs", "", "runs-refresh")  # fmt: skip
        self.none = button("Pick none", "Unpicks all runs", "times", "runs-none")
        self.back = button("Newer", "The page before", "chevron-left", "runs-newer")
        self.on = button("Older", "The next page", "chevron-right", "runs-older")
        self._count = widgets.HTML()
        self.rows = [RunRow(self._pick(number)) for number in range(PAGE)]
        acts = {
            "open": self.watch, "resume": self.resume, "close": self.end_workers,
            "duplicate": self.duplicate, "compare": self.compare, "trash": self.trash,
            "rename": lambda: self.rename(self.choice.name.value), "restore": self.restore,
        }  # fmt: skip
        self.choice = RunChoice(self.banner, {a: self._then_look(do) for a, do in acts.items()})
        self._place = widgets.VBox()
        top = _line(self.filter, self.refresh_button, self.none)
        turn = _line(self.back, self.on, self._count)
        super().__init__(
            [widgets.HTML(pages.heading("Runs", f"in {self.outputs}")), top, *self.rows, turn, self.banner, self.choice, self._place]
        )  # fmt: skip
        self.add_class("wb-runs")
        for made, act in (
            (self.refresh_button, self.update),
            (self.none, lambda: (self._picked.clear(), self._draw())),
            (self.back, lambda: self.turn(-1)),
            (self.on, lambda: self.turn(1)),
        ):
            made.on_click(guarded(self.banner, act))
        self.filter.observe(guarded(self.banner, lambda: self.turn(0)), names="value")
        self._task = task_of_the_kernel(self._follow())
        self._look_for = FIRST_LOOK if self._task else float("inf")
        self.update()

    # What is there

    @property
    def matching(self) -> list[Run]:
        """The runs that the filter lets through; one whose log was not read yet is known by its name."""
        parts = [" ".join(part.split()) for part in self.filter.value.lower().split(",")]
        return [run for run in self.runs if all(part in self._words(run) for part in parts)]

    @property
    def shown(self) -> list[Run]:
        """The runs of this page."""
        return self.matching[self._first : self._first + PAGE]

    @property
    def picked(self) -> list[Run]:
        """The runs that the buttons act on, newest first; a page that was turned and a filter keep them."""
        return [run for run in self.runs if run.folder in self._picked]

    def pick(self, *names: str) -> None:
        """Picks these runs and no others. Raises RunError for one that is not there."""
        known = {run.name: run.folder for run in self.runs}
        if unknown := [name for name in names if name not in known]:
            fact = f"There is no run {unknown[0]!r} in {self.outputs}."
            raise RunError([Problem("", fact, "Refresh, or see what the filter hides.")])
        self._picked = {known[name] for name in names}
        self._draw()

    def update(self) -> None:
        """Looks which runs there are, and what is new in those shown and picked."""
        before = {run.folder: run for run in self.runs}
        self.runs = [before.get(run.folder, run) for run in found(self.outputs)]
        there = {run.folder for run in self.runs}
        self._picked &= there
        self._told = {folder: told for folder, told in self._told.items() if folder in there}
        self.turn(0)

    def turn(self, pages_on: int) -> None:
        """Turns so many pages on or back."""
        last = max(0, (len(self.matching) - 1) // PAGE * PAGE)
        self._first = min(max(0, self._first + pages_on * PAGE), last)
        until = time.monotonic() + self._look_for
        for run in [*self.shown, *self.picked]:
            if time.monotonic() < until:  # the rest is read bit by bit, so that nothing waits
                self._read(run)
        self._draw()

    # What is done: each does what its button does

    def watch(self) -> Monitor:
        """Shows the picked run's monitor below and returns it."""
        return self._show(Monitor(self._one(), own=True))

    def resume(self) -> Monitor:
        """Has the picked run go on from its last checkpoint, and shows its monitor."""
        return self._show(Monitor(self._one().resume(), own=True))

    def end_workers(self) -> None:
        """Ends the workers of the picked runs, which are over and wait for questions."""
        for run in self.picked:
            run.close()
            self._forget(run)

    def duplicate(self) -> LaunchPanel:
        """Shows the picked run's settings below, to be changed and started as a new run, and returns that panel."""
        recipe = self._one().recipe
        return self._show(LaunchPanel(recipe, outputs=self.outputs, warm=False))

    def compare(self) -> SideBySide:
        """Shows the picked runs side by side and returns that panel."""
        return self._show(SideBySide(self.picked, self.banner))

    def rename(self, name: str) -> None:
        """Gives the picked run another name."""
        run = self._one()
        old = run.name
        tidying.rename(run, name.strip())
        self._picked = {run.folder}
        self._hide(old)
        self._hide(run.name)  # what shows it may hold the very run that has another name now
        self.choice.name.value = ""
        self._after(f"{old} is now {run.name}.")

    def trash(self) -> None:
        """Moves the picked runs to the trash; those that cannot be are told, and the others are moved all the same."""
        moved, problems = {}, []
        for run in self.picked:
            try:
                moved[run.name] = tidying.trash(run).name
                self._hide(run.name)
            except WorkbenchError as error:
                problems += error.problems
        self._trashed = list(moved.values())
        if moved:
            names = next(iter(moved)) if len(moved) == 1 else f"{len(moved)} runs"
            self._after(f"Moved to {self.outputs / tidying.TRASH}: {', '.join(moved)}.", back=names)
        if problems:
            self.update()
            raise RunError(problems)

    def restore(self) -> None:
        """Brings back what was moved to the trash last."""
        waiting, self._trashed = self._trashed, []
        back = [tidying.restore(name, outputs=self.outputs) for name in waiting]
        self._picked = {run.folder for run in back}
        self._after(f"{', '.join(run.name for run in back)}: back in the list.")

    def close(self) -> None:
        """Closes the list with what it shows below; runs go on."""
        if self._task is not None:
            self._task.cancel()
        super().close()

    def bundle(self) -> dict[str, Any]:
        """What a cell's output holds: the text keeps its columns."""
        text = f'<pre style="overflow-x:auto">{escape(repr(self))}</pre>'
        return super().bundle() | {"text/html": text}

    def __repr__(self) -> str:
        known = [(run, self._told[run.folder]) for run in self.shown if run.folder in self._told]
        if not known:
            return self._counted()
        return "\n".join([*lines([cells(run, told) for run, told in known]), self._counted()])

    # How it is done

    async def _follow(self) -> None:
        look = guarded(self.banner, self.update)
        while True:
            unread = [run for run in [*self.shown, *self.runs] if run.folder not in self._told]
            begun = time.monotonic()
            if unread:
                self._read(unread[0])
                guarded(self.banner, self._draw)()
                # At least half of the time is left to the cells.
                await asyncio.sleep(max(0.02, time.monotonic() - begun))
            else:
                await asyncio.sleep(EVERY)
                look()

    def _read(self, run: Run) -> None:
        told = self._told[run.folder] = digest(run)
        self._sizes[run.folder] = tidying.size_of(run)
        if run.history.steps and not told.alive and (run.folder / FILE).exists():
            self._forget(run)  # its digest lies beside the log: the log need not be kept in memory

    def _forget(self, run: Run) -> None:
        """Reads the run anew the next time."""
        self.runs = [Run(run.folder) if one is run else one for one in self.runs]

    def _draw(self) -> None:
        shown = self.shown
        for row, run in zip(self.rows, shown, strict=False):
            told, size = self._told.get(run.folder), self._sizes.get(run.folder, 0)
            row.show(run.name, told, size, run.folder in self._picked)
        for row in self.rows[len(shown) :]:
            row.hide()
        self.back.disabled = not self._first
        self.on.disabled = self._first + PAGE >= len(self.matching)
        self.none.disabled = not self._picked
        self._count.value = escape(self._counted())
        self._follow_choice()

    def _follow_choice(self) -> None:
        names = [run.name for run in self.picked]
        code = f"runs = wb.runs({str(self.outputs)!r})" if self._where else "runs = wb.runs()"
        if len(names) == 1:
            code = f"run = wb.Run.open({names[0]!r}{self._where})"
        elif names:
            code = f"runs = [wb.Run.open(name{self._where}) for name in {names}]"
        for run in self.picked:
            if run.folder not in self._told:
                self._read(run)
        self.choice.follow([(run.name, self._told[run.folder]) for run in self.picked], code)

    def _counted(self) -> str:
        """How many there are, and which of them are shown."""
        count, many = len(self.matching), len(self.runs)
        if not many:
            return nothing_in(self.outputs)
        if not count:
            return f"None of the {many} runs has these words."
        of = f"{count:,} of {many:,} runs" if count < many else f"{count:,} run{'s'[: count > 1]}"
        return f"{self._first + 1} to {min(self._first + PAGE, count)} of {of}."

    def _words(self, run: Run) -> str:
        told = self._told.get(run.folder)
        if told is None:
            return run.name.lower()
        settings = " ".join(f"{k.rpartition('.')[2]} {v}" for k, v in told.changed.items())
        return f"{run.name} {told.state} {told.model} {settings}".lower()

    def _pick(self, number: int) -> Any:
        def picked(wanted: bool) -> None:
            folder = self.shown[number].folder
            (self._picked.add if wanted else self._picked.discard)(folder)
            self._draw()

        return lambda wanted: guarded(self.banner, lambda: picked(wanted))()

    def _one(self) -> Run:
        if len(self.picked) != 1:
            fact = f"{len(self.picked) or 'No'} runs are picked; this takes one."
            raise RunError([Problem("", fact, "Pick one run alone.")])
        return self.picked[0]

    def _then_look(self, act: Any) -> Any:
        def acted() -> None:
            self.banner.clear()
            act()
            self.update()

        return acted

    def _after(self, text: str, *, back: str = "") -> None:
        self.update()
        self.choice.say(text, back=back)

    def _show(self, part: Any) -> Any:
        self._hide()
        self._place.children = (part,)
        return part

    def _hide(self, name: str = "") -> None:
        """Closes what is shown below; with a `name`, only where it shows that run."""
        for part in self._place.children:
            shown = getattr(part, "runs", None) or [getattr(part, "run", None)]
            if not name or name in [getattr(run, "name", "") for run in shown]:
                self._place.children = ()
                part.close()


def _line(*parts: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))
