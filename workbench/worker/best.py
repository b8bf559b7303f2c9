"""Which adapter of a run is kept: the evaluations so far, the file with the best one's, and when it is time to end.

Knows the parameters that are trained, whichever backend made them, and held-out losses. Knows nothing of how these are
measured, nor of the folder in which the adapter is saved at the end.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..events import History
from ..recipe import Training
from .telling import Telling

FILE = "best.safetensors"


class Evaluated(NamedTuple):
    """The held-out loss after a step, in nats per token."""

    step: int
    loss: float


class Kept(NamedTuple):
    """The step whose adapter is kept, and in a sentence why; `put_back` says that it is not the last one's."""

    step: int
    why: str
    put_back: bool = False


class Evaluations:
    """The evaluations of a run, oldest first; those of steps that are trained again are replaced."""

    def __init__(self, found: Iterable[Evaluated] = (), *, forgiven: int = 0) -> None:
        """Up to the step `forgiven` nothing counts as an evaluation without a fall: it ended the training once already."""
        self._all, self._forgiven = list(found), forgiven

    @classmethod
    def of(cls, history: History) -> "Evaluations":
        """Those that a run's log tells."""
        stops = [event["t"] for event in history.choices if event["what"] == "early_stop"]
        over = [event["step"] for event in history.evals if stops and event["t"] <= stops[-1]]
        found = [Evaluated(event["step"], event["loss"]) for event in history.evals]
        return cls(found, forgiven=max(over, default=0))

    def __contains__(self, step: int) -> bool:
        return any(one.step == step for one in self._all)

    def add(self, step: int, loss: float) -> None:
        """Takes one in."""
        while self._all and self._all[-1].step >= step:
            self._all.pop()
        self._all.append(Evaluated(step, loss))

    @property
    def latest(self) -> Evaluated | None:
        return self._all[-1] if self._all else None

    @property
    def best(self) -> Evaluated | None:
        """The first one with the lowest loss, None while no loss was a number."""
        numbers = [one for one in self._all if math.isfinite(one.loss)]
        return min(numbers, key=lambda one: one.loss, default=None)

    @property
    def without_fall(self) -> int:
        """How many came since the best one; all, where no loss was a number."""
        since = max(self.best.step if self.best else 0, self._forgiven)
        return sum(one.step > since for one in self._all)


class Best:
    """The best adapter of one run, in its folder. A worker that resumes goes on from what the log and the file say."""

    def __init__(self, told: Telling, settings: Training, model: Any) -> None:
        self._told, self._settings, self._model = told, settings, model
        self.path = told.folder / FILE
        history = History(told.log.path)
        history.update()
        self.evaluations = Evaluations.of(history)
        found = header(self.path)
        # of another step the log knows nothing: the file is from before it was written anew
        self._filed = found if found and found.step in self.evaluations else None

    def evaluated(self, step: int, loss: float, *, last: bool) -> str:
        """Takes an evaluation in, and keeps its adapter where it is the best; returns why the training should end, if so.

        After the `last` step there is nothing to end, and what is kept is in the model.
        """
        seen = self.evaluations
        seen.add(step, loss)
        if last:
            return ""
        lower = math.isfinite(loss) and loss < (self._filed.loss if self._filed else math.inf)
        if lower and self._settings.keep == "best":
            self._keep(Evaluated(step, loss))
        patience = self._settings.patience
        if not patience or seen.without_fall < patience:
            return ""
        return _did_not_fall(seen)

    def put_back(self, last: int) -> Kept:
        """Has the model carry the adapter that is kept after training up to the step `last`, and says which it is."""
        latest, best, filed = self.evaluations.latest, self.evaluations.best, self._filed
        if self._settings.keep == "last":
            return Kept(last, "It is the last step's, as training.keep asks.")
        if latest is None:
            return Kept(last, "It is the last step's: no held-out loss was measured.")
        if best is None:
            return Kept(last, "It is the last step's: no held-out loss was a number.")
        if best == latest:
            return Kept(last, _lowest(best, last))
        lower = filed is not None and not filed.loss >= latest.loss  # true for nan, too
        if not lower or not restore(self._model, self.path):
            gone = f"that of step {best.step}, with the lowest held-out loss of {best.loss:.3f}, is not there any more"
            return Kept(last, f"It is the last step's: {gone}.")
        others = f"that of step {latest.step} was {latest.loss:.3f}"
        if filed.loss > best.loss:
            others += f", and the adapter of step {best.step}, with {best.loss:.3f}, is not there any more"
        most = "the lowest" if filed.loss <= best.loss else "lower than the latest"
        why = f"Its held-out loss of {filed.loss:.3f} was {most}; {others}."
        return Kept(filed.step, why, put_back=True)

    def forget(self) -> None:
        """Removes the file: the run will not go on, or keeps nothing."""
        self.path.unlink(missing_ok=True)

    def _keep(self, one: Evaluated) -> None:
        """Writes the file; where that fails, the training goes on with the one before."""
        from safetensors import SafetensorError

        try:
            keep(self._model, self.path, one)
        except (OSError, SafetensorError) as error:
            text = f"The adapter of step {one.step}, the best so far, could not be kept: {error}"
            cure = "Free some space: the next one that is better is kept again."
            self._told.warn(text.rstrip(".") + ".", cure)
        else:
            self._filed = one


def keep(model: Any, path: Path, one: Evaluated) -> None:
    """Writes all parameters that are trained, with the step and the loss, beside and renamed over.

    Raises OSError or SafetensorError when it cannot be written; an older file is then as it was.
    """
    from safetensors.torch import save_file

    tensors = {name: parameter.detach().contiguous() for name, parameter in trained(model)}
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata={"step": str(one.step), "loss": repr(one.loss)})
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def header(path: Path) -> Evaluated | None:
    """The step and the loss of a file; None where there is none that can be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            return Evaluated(int(said["step"]), float(said["loss"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def restore(model: Any, path: Path) -> bool:
    """Puts the parameters of a file back in place; False, with nothing changed, where it holds others or none."""
    import torch
    from safetensors import SafetensorError, safe_open

    parameters = dict(trained(model))
    try:
        with safe_open(path, "pt") as file, torch.no_grad():
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
            if shapes != {name: tuple(one.shape) for name, one in parameters.items()}:
                return False
            for name, parameter in parameters.items():
                parameter.copy_(file.get_tensor(name))
    except (OSError, SafetensorError):
        return False
    return True


def trained(model: Any) -> Iterator[tuple[str, Any]]:
    """The parameters that are trained, by name: of the adapter, and biases and whole modules where they are trained."""
    return ((name, one) for name, one in model.named_parameters() if one.requires_grad)


def _did_not_fall(seen: Evaluations) -> str:
    count, best = seen.without_fall, seen.best
    many = f"{count} evaluation{'s'[: count > 1]}"
    if best is None:
        return f"The held-out loss was not a number in {many}."
    return f"The held-out loss did not fall in {many}: best {best.loss:.3f} at step {best.step}."


def _lowest(best: Evaluated, last: int) -> str:
    if best.step == last:
        return f"Its held-out loss of {best.loss:.3f} was the lowest."
    return f"It is the last step's: the latest held-out loss, {best.loss:.3f} at step {best.step}, was the lowest."
