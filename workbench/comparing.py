"""Runs side by side: only the settings that differ, and what came of them. Reads digests, which are quick; draws no curves.

Knows nothing of widgets; the curves over each other are in `charts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from .digest import Digest, digest, named, said
from .problems import Problem, RunError, WorkbenchError
from .run import Run
from .summary import duration, size

#: What decides which tokens the held-out loss is the mean of.
HELD_OUT = ("data.heldout", "data.split", "data.shape", "data.columns", "data.system", "data.template", "data.loss_on", "model.max_length")  # fmt: skip
KEPT_APART = ("data.train", "data.heldout_share")  # where no held-out file is given
NUMBER = "padding:2px 14px 2px 0;text-align:left;vertical-align:top;overflow-wrap:anywhere;font-variant-numeric:tabular-nums"  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """`settings` has the values of those that differ, by dotted name, in the order of `names`; `figures` one dict a run.

    Figures are bytes, seconds, nats per token and None for what a run has not told. `notes` say what to mind.
    """

    names: tuple[str, ...]
    settings: dict[str, tuple[Any, ...]]
    figures: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For a program: what `workbench compare --json` prints."""
        runs = [{"run": name, **told} for name, told in zip(self.names, self.figures, strict=True)]
        differ = {name: list(values) for name, values in self.settings.items()}
        return {"runs": runs, "settings": differ, "notes": list(self.notes)}

    @property
    def headline(self) -> str:
        """Which run has the lowest held-out loss; empty where fewer than two tell one."""
        losses = [
            (told["best_heldout_loss"], name, told["best_step"])
            for name, told in zip(self.names, self.figures, strict=True)
            if told["best_heldout_loss"] is not None
        ]
        if len(losses) < 2:
            return ""
        (loss, name, step), (second, other, _) = sorted(losses)[:2]
        if f"{loss:.3g}" == f"{second:.3g}":
            return f"Lowest held-out loss: {loss:.3g} in {name} and in {other}."
        return f"Lowest held-out loss: {loss:.3g} in {name} at step {step:,}; next is {second:.3g} in {other}."

    def __str__(self) -> str:
        rows = [("", *self.names), *_setting_rows(self), *_figure_rows(self)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.names) + 1)]
        lines = [self.headline] if self.headline else []
        for title, some in (("Settings that differ", _setting_rows(self)), ("Figures", _figure_rows(self))):  # fmt: skip
            lines += ["", title]
            shown = [("", *self.names), *some] if some else [("none", *[""] * len(self.names))]
            lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in shown]  # fmt: skip
        return "\n".join([*lines, *([""] * bool(self.notes)), *self.notes]).strip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return (
            f'<div class="wb-compared" style="line-height:1.5;overflow-x:auto"><b>{escape(self.headline)}</b>'
            f"{_table(self)}"
            f'<ul style="margin:2px 0">{notes}</ul></div>'
        )


def compare(runs: Sequence[str | Run], *, outputs: str | Path = "outputs") -> Compared:
    """Sets two runs or more side by side, by name or as they are. Raises RunError for fewer, or one that is not there."""
    if isinstance(runs, str | Run):
        runs = [runs]
    chosen = list({run.folder: run for run in (named(each, outputs) for each in runs)}.values())
    if len(chosen) < 2:
        fact = f"There {'is 1 run' if chosen else 'are no runs'} to compare; it takes two."
        raise RunError([Problem("", fact, "Name another one: compare([a, b]).")])
    digests = [digest(run) for run in chosen]
    differ, notes = _differences(chosen)
    steered = zip(chosen, digests, strict=True)
    notes += [
        f"Changed while {run.name} ran: {'; '.join(told.steered)}."
        for run, told in steered
        if told.steered
    ]
    figures = tuple(_figures(run, told) for run, told in zip(chosen, digests, strict=True))
    return Compared(tuple(run.name for run in chosen), differ, figures, tuple(notes))


def _differences(runs: Sequence[Run]) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
    """The settings that differ; None stands for those of a recipe that cannot be read, which a note tells."""
    told: list[dict[str, Any] | None] = []
    notes = []
    for run in runs:
        try:
            told.append(run.recipe.settings)
        except WorkbenchError as error:
            told.append(None)
            notes.append(f"The settings of {run.name} are left out. {error}")
    known = [each for each in told if each is not None]
    differ = {
        name: tuple(None if each is None else each[name] for each in told)
        for name in (known[0] if known else ())
        if any(each[name] != known[0][name] for each in known)
    }
    return differ, notes + _to_mind(differ, known)


def _to_mind(differ: dict[str, tuple[Any, ...]], known: Sequence[dict[str, Any]]) -> list[str]:
    """What keeps the figures from being compared as they stand."""
    notes = []
    if "model.name" in differ:
        notes.append("The models differ: losses per token compare only where the tokens are the same; exact match does.")  # fmt: skip
    apart = any(each["data.heldout"] is None for each in known)
    if others := [n for n in (*HELD_OUT, *(KEPT_APART if apart else ())) if n in differ]:
        notes.append(f"The held-out losses are not of the same tokens: {', '.join(others)} differ.")
    count = len(differ)
    if scale := _same_scale(differ, known):
        notes.append(f"Alpha moves with the rank: the scale alpha / rank is {scale:g} in all, so the two are one change.")  # fmt: skip
        count -= 1
    if count > 1:
        notes.append(f"{count} changes at once: to learn what one of them does, make that one alone.")  # fmt: skip
    return notes


def _same_scale(
    differ: dict[str, tuple[Any, ...]], known: Sequence[dict[str, Any]]
) -> float | None:
    """What the adapters' output is multiplied by, where rank and alpha differ and it does not."""
    if not {"lora.rank", "lora.alpha"} <= set(differ) or any(e["lora.rslora"] for e in known):
        return None
    scales = {each["lora.alpha"] / each["lora.rank"] for each in known}
    return scales.pop() if len(scales) == 1 else None


def _figures(run: Run, told: Digest) -> dict[str, Any]:
    adapter = run.adapter_path / "adapter_model.safetensors"
    return {
        "state": told.state,
        "step": told.step,
        "of": told.of,
        "loss": told.loss,
        "best_heldout_loss": told.best_loss,
        "best_step": told.best_step,
        "exact_match": told.exact_match,
        "train_seconds": told.seconds,
        "tokens_per_second": told.speed,
        "peak_memory": told.peak,
        "trainable": told.trainable,
        "adapter_size": adapter.stat().st_size if adapter.is_file() else None,
    }


def _setting_rows(compared: Compared) -> list[tuple[str, ...]]:
    return [(name, *(said(value, 40) for value in values)) for name, values in compared.settings.items()]  # fmt: skip


def _figure_rows(compared: Compared) -> list[tuple[str, ...]]:
    """Each figure that any run has told, in words."""
    rows = []
    for title, words in _WORDS.items():
        cells = [words(told) for told in compared.figures]
        if any(cells):
            rows.append((title, *(cell or "–" for cell in cells)))
    return rows


def _best(told: dict[str, Any]) -> str:
    loss, step = told["best_heldout_loss"], told["best_step"]
    return "" if loss is None else f"{loss:.3g} at step {step:,}"


def _or_none(name: str, words: Any) -> Any:
    return lambda told: "" if told[name] is None else words(told[name])


_WORDS = {
    "state": lambda told: told["state"],
    "steps": lambda told: f"{told['step']:,} of {told['of']:,}" if told["of"] else "",
    "loss at the end": _or_none("loss", lambda loss: f"{loss:.3g}"),
    "best held-out loss": _best,
    "exact match": _or_none("exact_match", lambda share: f"{share:.0%}"),
    "training": lambda told: duration(told["train_seconds"]) if told["step"] else "",
    "speed": _or_none("tokens_per_second", lambda speed: f"{speed:,.0f} tokens/s"),
    "peak memory": _or_none("peak_memory", size),
    "trainable parameters": _or_none("trainable", lambda count: f"{count:,}"),
    "adapter on disk": _or_none("adapter_size", size),
}


def _table(compared: Compared) -> str:
    """A column for each run: first the settings that differ, then the figures."""
    names = "".join(
        f'<th scope="col" style="{NUMBER}">{escape(name)}</th>' for name in compared.names
    )
    differ = _setting_rows(compared)
    parts = [f"<thead><tr><td></td>{names}</tr></thead>"]
    for title, rows in (("Settings that differ", differ), ("Figures", _figure_rows(compared))):
        head = f'<tr><th scope="rowgroup" colspan="{len(compared.names) + 1}" style="{NUMBER};padding-top:8px">{title}</th></tr>'
        body = "".join(
            f'<tr><th scope="row" style="{NUMBER};font-weight:400">{escape(row[0])}</th>'
            + "".join(f'<td style="{NUMBER}">{escape(cell)}</td>' for cell in row[1:])
            + "</tr>"
            for row in rows
        )
        parts.append(f"<tbody>{head if rows else ''}{body}</tbody>")
    style = "border-collapse:collapse;margin:6px 0;line-height:1.45;color:inherit"
    same = "" if differ else "<div>No setting differs.</div>"
    return f'{same}<table style="{style}">{"".join(parts)}</table>'
