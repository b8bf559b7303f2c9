"""The shape of the code: which module may know which, what stays light, and that notebooks, pins and README are in order."""

import ast
import functools
import importlib
import itertools
import json
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "workbench"
MODULES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# From the ground up: a module imports from its own floor or from below. The worker stands beside the house.
FLOORS = (
    ("problems",),
    ("recipe", "events", "commands", "names", "lock", "cards", "folders", "hub", "data"),
    (
        "alarm",
        "answers",
        "machine",
        "models",
        "summary",
        "presets",
        "caution",
        "preflight",
        "spawn",
        "overrides",
        "looking",
    ),
    ("memory",),
    ("run",),
    ("starting", "digest", "inspection"),
    ("tidying", "comparing"),
    ("listing",),
    ("charts", "terminal", "demo"),
    ("panels", "cli", "data_cli", "plan_cli", "runs_cli", "inspect_cli"),
    ("__main__",),
)
FLOOR = {unit: number for number, units in enumerate(FLOORS) for unit in units}
BESIDE = ("worker", "inside")  # the house: what they are started for is told in files and lines
WORKER_MAY = {"problems", "recipe", "events", "commands", "lock", "data"}
INSIDE_MAY = {*WORKER_MAY, "worker", "folders", "hub", "models"}

# package -> the only parts of the workbench that may import it
ONLY_IN = {
    "datasets": {"worker", "data", "inside"},
    "ipecharts": {"panels"},
    "ipywidgets": {"panels"},
    "jinja2": {"data"},
    "matplotlib": {"charts"},
    "nbclient": {"demo"},
    "pyarrow": {"worker", "data"},
    "rich": {"terminal", "cli", "data_cli", "plan_cli", "demo"},
    "tokenizers": {"data"},
}
for heavy in "torch transformers trl peft bitsandbytes accelerate unsloth unsloth_zoo".split():
    ONLY_IN[heavy] = {"worker", "inside"}

LONGEST = 350  # lines of a file, 50 of a function: what is longer does two things
LONGER = {"recipe.py"}  # one entry for each setting, and nothing else


def unit(path: Path) -> str:
    """The first-level name in the package: recipe, data, worker, ..."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@functools.cache
def imports(path: Path) -> tuple[tuple[str, ...], ...]:
    """Everything that a file imports, anywhere in it, as absolute dotted parts."""
    package = ("workbench", *path.relative_to(PACKAGE).parts[:-1])
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [tuple(name.name.split(".")) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found += [(*module, name.name) for name in node.names]
    return tuple(found)


def inner_imports() -> dict[str, set[str]]:
    """unit -> the other units that it imports; `__init__` names them as text and is left out."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        mine = found.setdefault(unit(path), set())
        mine |= {parts[1] for parts in imports(path) if parts[0] == "workbench" and len(parts) > 1}
    found.pop("__init__")
    return {name: others - {name} for name, others in found.items()}


def test_every_module_has_a_floor():
    homeless = set(inner_imports()) - set(FLOOR) - {*BESIDE}
    assert not homeless, f"say in FLOORS where {homeless} belong"


def test_imports_never_go_upstairs():
    upstairs = [
        f"{name} imports {other}"
        for name, others in inner_imports().items()
        for other in others
        if name not in BESIDE and FLOOR.get(other, 99) > FLOOR[name]
    ]
    assert not upstairs


def test_the_worker_knows_only_what_lies_in_the_folder():
    graph = inner_imports()
    assert graph["worker"] <= WORKER_MAY
    assert [name for name, others in graph.items() if "worker" in others] == ["inside"]


def test_what_is_inside_knows_the_worker_and_is_known_by_nobody():
    graph = inner_imports()
    assert graph["inside"] <= INSIDE_MAY
    assert not [name for name, others in graph.items() if "inside" in others]


def test_no_imports_in_a_circle():
    graph = inner_imports()

    def reachable(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        if name in seen:
            return set()
        below = graph.get(name, set())
        return below | {far for near in below for far in reachable(near, seen | {name})}

    assert not [name for name in graph if name in reachable(name)]


@pytest.mark.parametrize("package", ONLY_IN)
def test_heavy_packages_stay_where_they_belong(package: str):
    elsewhere = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if unit(path) not in ONLY_IN[package] and any(p[0] == package for p in imports(path))
    ]
    assert not elsewhere


def loaded_after(statement: str) -> tuple[float, set[str]]:
    """Seconds that a statement takes in a new Python, and the packages that it loaded."""
    code = (
        f"import json, sys, time; t = time.perf_counter(); {statement}; t = time.perf_counter() - t;"
        "print(json.dumps([t, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    seconds, packages = json.loads(out.stdout)
    return seconds, set(packages)


def test_importing_the_workbench_is_quick_and_light():
    measured = [loaded_after("import workbench") for _ in range(3)]
    assert statistics.median(seconds for seconds, _ in measured) < 0.3
    assert not {"torch", "transformers", "ipywidgets", "matplotlib", "numpy"} & measured[0][1]


def test_the_kernels_side_needs_no_torch_and_no_widgets():
    _, packages = loaded_after(
        "import workbench as w; w.Run, w.Recipe, w.Spare, w.charts, w.preflight"
    )
    assert not {"torch", "transformers", "datasets", "ipywidgets", "numpy"} & packages


def test_every_public_name_is_there():
    import workbench

    assert all(getattr(workbench, name) is not None for name in dir(workbench))
    with pytest.raises(AttributeError, match="workbench has no 'strat'"):
        workbench.strat  # noqa: B018


def test_the_names_in_data_mean_what_they_say_whatever_was_imported_before():
    from workbench import data

    for name in ("clean", "report", "table"):
        importlib.import_module(f"workbench.data.{name}")
    assert all(callable(getattr(data, name)) for name in dir(data))
    assert data.report.__name__ == "report"
    with pytest.raises(AttributeError, match="workbench.data has no 'raed'"):
        data.raed  # noqa: B018
    assert "numpy" not in loaded_after("import workbench; dir(workbench.data)")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_and_fits_on_a_few_pages(path: Path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "it opens by saying what it is"
    assert text.count("\n") <= LONGEST or path.name in LONGER
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert own_lines(node) <= 50, f"{node.name} is long"


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without those of the functions in it, and without its docstring."""
    inner = [n for n in ast.walk(function) if n is not function and isinstance(n, type(function))]
    lines = set(range(function.lineno, function.end_lineno + 1))
    documented = function.body[:1] if ast.get_docstring(function) else []
    for node in [*inner, *documented]:
        lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("check", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_ruff_is_content(check: list[str]):
    out = subprocess.run(
        [sys.executable, "-m", "ruff", *check, "."], capture_output=True, text=True, cwd=ROOT
    )
    assert out.returncode == 0, out.stdout + out.stderr


# Notebooks


def code_cells(path: Path) -> list[dict]:
    return [
        c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"
    ]


def plain_python(cell: dict) -> str:
    """A cell's source with its magics as Python."""
    return TransformerManager().transform_cell("".join(cell["source"]))


def test_there_are_notebooks():
    names = ("00_check_your_machine", "01_first_finetune", "02_your_data")
    assert {f"{name}.ipynb" for name in names} <= {path.name for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_it_has_a_kernel(self, path: Path):
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        assert (
            metadata["kernelspec"]["name"] == "python3"
        )  # else JupyterLab asks before anything runs
        assert "widgets" not in metadata

    def test_it_is_clean(self, path: Path):
        for cell in code_cells(path):
            assert cell["outputs"] == [] and cell["execution_count"] is None

    def test_its_cells_are_short_and_parse(self, path: Path):
        for cell in code_cells(path):
            assert len("".join(cell["source"]).splitlines()) <= 12
            compile(plain_python(cell), path.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    def test_it_holds_no_logic(self, path: Path):
        for cell in code_cells(path):
            nodes = ast.walk(ast.parse(plain_python(cell)))
            assert not [n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)]

    def test_it_names_no_place_on_somebodys_disk(self, path: Path):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"""["'](?:/[a-z]|~/|[A-Z]:\\)[^"']*""", text)

    def test_each_code_cell_is_told_before_in_few_words(self, path: Path):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for before, cell in itertools.pairwise(cells):
            if cell["cell_type"] == "code":
                assert before["cell_type"] == "markdown"
        for cell in cells:
            if cell["cell_type"] == "markdown":
                prose = re.sub(r"\]\([^)]*\)", "]", "".join(cell["source"]))
                assert len(prose.split()) <= 65, prose


# Pins


def requirements(name: str) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("-r")]
    return {requirement.name.lower().replace("-", "_"): requirement for requirement in found}


def test_the_same_package_has_the_same_pin_everywhere():
    cpu, gpu, colab = (requirements(f"requirements{kind}.txt") for kind in ("-cpu", "", "-colab"))
    pinned = {name: str(r.specifier) for name, r in (cpu | gpu).items()}
    for name, requirement in colab.items():
        if str(requirement.specifier).startswith("=="):
            assert pinned[name] == str(requirement.specifier), name


def test_pins_lie_within_what_pyproject_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    pins = requirements("requirements-cpu.txt") | requirements("requirements.txt")
    for text in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        allowed = Requirement(text)
        pin = pins.get(allowed.name.lower().replace("-", "_"))
        if pin is not None:
            assert str(pin.specifier)[2:] in allowed.specifier, text


def test_colab_keeps_its_own_torch_and_jupyter():
    kept = {"torch", "torchvision", "jupyterlab", "ipykernel", "ipython", "ipywidgets", "tornado"}
    assert not kept & set(requirements("requirements-colab.txt"))


def test_no_torchvision_beside_a_cpu_build_of_torch():
    assert "torchvision" not in requirements("requirements-cpu.txt")


# README


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def in_code(text: str) -> str:
    """What a text shows as code: fenced blocks and spans."""
    return "\n".join(
        re.findall(r"```[a-z]*\n(.*?)```", text, re.S) + re.findall(r"`([^`\n]+)`", text)
    )


def test_the_commands_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?m)^\s*(?:\$ )?make ([a-z][a-z-]+)", in_code(readme()))) <= targets
    said = set(re.findall(r"(?m)^\s*(?:\$ )?workbench ([a-z]+)", in_code(readme())))
    for command in said:
        subprocess.run(
            [sys.executable, "-m", "workbench", command, "--help"],
            check=True, capture_output=True, cwd=ROOT,
        )  # fmt: skip


def test_the_file_tree_in_the_readme_names_every_module():
    for name in inner_imports():
        if not name.startswith("__"):
            assert re.search(rf"\b{name}(\.py|/)", readme()), f"the README's file tree lacks {name}"


def test_links_in_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", readme()):
        if "://" not in target:
            assert (ROOT / target).exists(), target
