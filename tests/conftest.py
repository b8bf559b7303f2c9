"""What the tests share: the tiny lane, short recipes on it, and one run that is trained once for all of them."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import workbench as wb
from workbench.recipe import Recipe
from workbench.run import Run

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny"

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for a hub is a fault
# Rows and tokens are read anew in each session, and leave nothing in the user's cache.
os.environ["WORKBENCH_CACHE"] = tempfile.mkdtemp(prefix="workbench-test-cache-")
os.environ["PYTHONWARNINGS"] = (
    "default"  # for the workers: what they use that is deprecated shows in worker.log
)


atexit.register(shutil.rmtree, os.environ["WORKBENCH_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """The tiny lane's own recipe."""
    return Recipe.load(TINY / "recipe.yaml")


@pytest.fixture(scope="session")
def short(tiny: Recipe) -> Recipe:
    """The same with 12 short steps: every cadence comes by, in seconds."""
    return tiny.replace(
        training={
            "steps": 12,
            "batch_size": 4,
            "eval_every": 6,
            "checkpoint_every": 4,
            "learning_rate": 4e-3,
        },
        data={"heldout": str(TINY / "heldout.jsonl")},
        samples={"every": 6, "max_new_tokens": 24, "score_rows": 16},
    )


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="session")
def trained(short: Recipe, outputs: Path) -> Iterator[Run]:
    """A run of `short` that was trained to its end; its worker is there to answer."""
    run = wb.start(short, name="trained", outputs=outputs)
    assert run.wait(300) == "ready"
    yield run
    run.close()


@pytest.fixture
def start(short: Recipe, outputs: Path) -> Iterator[Callable[..., Run]]:
    """Starts runs and sees to it that their workers end with the test."""
    started: list[Run] = []

    def begin(recipe: Recipe = short, **how: object) -> Run:
        started.append(wb.start(recipe, outputs=how.pop("outputs", outputs), **how))
        return started[-1]

    yield begin
    for run in started:
        if run.alive:
            run.close(timeout=5)
