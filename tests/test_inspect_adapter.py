"""What an adapter learned: singular values by the small QR, effective ranks, a smaller adapter, and what is refused."""

import asyncio
import functools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from workbench.charts.ranks import ranks
from workbench.inside import adapter as inside
from workbench.inside import truncation
from workbench.inspection.adapter import AdapterUpdates, Update, effective_rank, inspect_adapter
from workbench.inspection.adapter_folder import locate
from workbench.inspection.truncation import Truncated, truncate_adapter
from workbench.problems import RunError
from workbench.run import Run

MODEL = Path(__file__).parents[1] / "data" / "tiny" / "model"
LORA = {"r": 8, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 3},
        "alpha_pattern": {"^model.layers.1.self_attn.v_proj": 4},
    },
    "embeddings": {"target_modules": ["embed_tokens", "down_proj"]},
    "dora": {"use_dora": True, "target_modules": ["q_proj", "up_proj"]},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def base() -> Any:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def learned(model: Any, seed: int = 0) -> Any:
    """As if it had been trained: updates whose singular values fall."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                parameter.normal_(std=0.02)
            if "lora_A" in name:  # (rank, in): each row half as large as the one before
                parameter.mul_(0.5 ** torch.arange(len(parameter))[:, None])
    return model


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Adapters of the tiny model by kind, each made once."""
    folders: dict[str, Path] = {}

    def folder(kind: str, **how: Any) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("adapters") / kind
            settings = LoraConfig(**LORA | KINDS.get(kind, {}) | how)
            learned(get_peft_model(base(), settings)).save_pretrained(folders[kind])
        return folders[kind]

    return folder


@pytest.fixture
def copied(made: Callable[..., Path], tmp_path: Path) -> Path:
    """A plain adapter to spoil."""
    return Path(shutil.copytree(made("plain"), tmp_path / "adapter"))


def told(folder: Path, **how: Any) -> dict[str, list[dict[str, Any]]]:
    """What the inspection says, by kind of line, in this process."""
    lines: dict[str, list[dict[str, Any]]] = {"update": [], "progress": []}

    def say(kind: str, **values: Any) -> None:
        lines.setdefault(kind, []).append(json.loads(json.dumps(values, allow_nan=False)))

    arguments = {"base": None, "own_base": str(MODEL), "revision": None} | how
    inside.tell(say, iter(()), folder=str(folder), **arguments)
    return lines


@functools.cache
def updates_of(folder: Path) -> dict[str, torch.Tensor]:
    """PEFT's own account: each module's update, (out, in)."""
    model = PeftModel.from_pretrained(base(), str(folder))
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").detach()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


# Singular values


@pytest.mark.parametrize("kind", ["plain", "rslora", "patterns", "embeddings"])
def test_the_singular_values_are_those_of_the_whole_update(made: Callable, kind: str):
    weights = base().state_dict()
    whole = updates_of(made(kind))
    found = {line["name"]: line for line in told(made(kind))["update"]}
    assert set(found) == set(whole)
    for name, delta in whole.items():
        line = found[name]
        if line["block"] in (1, None):  # a whole decomposition takes long
            exact = torch.linalg.svdvals(delta)[: line["rank"]]
            assert torch.allclose(torch.tensor(line["singular"]), exact, rtol=1e-4, atol=1e-6)
        assert line["update"] == pytest.approx(float(delta.norm()), rel=1e-5)
        assert line["weight"] == pytest.approx(float(weights[f"{name}.weight"].norm()), rel=1e-5)


def test_an_adapter_that_learned_nothing_is_said_to_use_no_rank(tmp_path: Path):
    get_peft_model(base(), LoraConfig(**LORA)).save_pretrained(tmp_path / "new")
    found = asyncio.run(inspect_adapter(tmp_path / "new"))
    assert not found.learned and found.used(0.9) == found.used(0.99) == 0
    said = "This adapter of rank 8 has learned nothing: every B is 0, as at its start. Effective rank 0."
    assert str(found).startswith(said) and said in found.html()
    assert "Nothing was learned" in " ".join(words(ranks(found)))
    with pytest.raises(RunError, match="its rank after truncation is 0"):
        truncation.truncate(inside.read(tmp_path / "new"), rank=2, energy=None)


@pytest.mark.parametrize(
    ("kind", "note"),
    [("dora", "DoRA also learned the size of each weight row"), ("saved", "lm_head.weight")],
)
def test_what_the_figures_leave_out_is_told(made: Callable, kind: str, note: str):
    (whole,) = told(made(kind))["adapter"]
    assert any(note in line for line in whole["notes"])


def test_the_small_way_is_exact_for_the_shapes_of_an_8b():
    """Of one block of Llama-3.1-8B; one product alone would take 235 MB. Against eigenvalues of another small product."""
    shapes = {"q": (4096, 4096), "k": (1024, 4096), "up": (14336, 4096), "down": (4096, 14336)}
    for wide, deep in shapes.values():
        factors = inside.Factors("m", torch.randn(16, deep), torch.randn(wide, 16), 0.5)
        values = inside.singular_values(factors)
        gram = torch.linalg.eigvals((factors.a @ factors.a.T) @ (factors.b.T @ factors.b))
        assert torch.allclose(
            values, gram.real.sort(descending=True)[0].sqrt().double() / 2, rtol=1e-3
        )


def test_effective_rank_counts_what_holds_the_energy():
    assert effective_rank((3.0, 0.0, 0.0), 0.99) == 1
    assert effective_rank((1.0,) * 10, 0.9) == 9
    assert effective_rank((2.0, 1.0, 1.0), 1) == 3
    assert effective_rank((0.0, 0.0), 0.9) == effective_rank((), 0.9) == 0
    falling = tuple(0.7**place for place in range(16))
    found = [effective_rank(falling, energy / 100) for energy in range(1, 101)]
    assert found == sorted(found) and found[-1] == 16


# What is told


def made_up(rank: int = 4, **how: Any) -> AdapterUpdates:
    values = (1.0, 0.3, 0.1, 0.01)
    names = [f"model.layers.{block}.<i>.{kind}" for block in (0, 1) for kind in ("q_proj", "up")]
    found = [
        Update(
            name, name.rpartition(".")[2], int(name.split(".")[2]), rank, 2.0, math.hypot(*values), 10.0, values,
            effective_rank(values, 0.9), effective_rank(values, 0.99),
        )
        for name in names
    ]  # fmt: skip
    given = {"folder": Path("a<b"), "base": "o/m", "rank": rank, "bytes": 2**20, "parameters": 9}
    return AdapterUpdates(**{**given, "updates": tuple(found), **how})


def words(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_report_tells_ranks_and_what_a_smaller_one_would_hold():
    found = made_up()
    assert (
        str(found).splitlines()[0] == "Rank 4 uses 1.0 here (90 % of what it learned), 2.0 (99 %)."
    )
    assert "Rank 2 would hold 98.9 % of it: wb.truncate_adapter(…, rank=2)" in made_up_flat(
        0.1, 0.1
    )
    assert "Rank 2 would hold only 52.8 % of it: the rank is used." in made_up_flat(0.9, 0.9)
    assert "10.5 %" in str(found)  # of the weight
    assert found.kept(4) == 1 and found.kept(1) == pytest.approx(1 / 1.1001)
    assert found.used(1) == 4


def made_up_flat(*others: float) -> str:
    values = (1.0, 0.9, *others)  # falling, of rank 4
    update = Update("m.layers.0.q", "q", 0, 4, 1.0, math.hypot(*values), None, values, 1, 1)
    return str(made_up(updates=(update,), without="Why not."))


def test_the_map_is_safe_and_can_show_other_figures():
    found = made_up()
    page = found.html()
    assert "<i>" not in page and "a<b" not in page and "<script" not in page
    assert '<th scope="row"' in page and ">1</td>" in page
    assert ">2</td>" in found.html("rank99") and ">10.5 %</td>" in found.html("share")
    with pytest.raises(ValueError, match="rank90, rank99, share"):
        found.html("most")
    bare = made_up(updates=(Update("q", "q", None, 4, 1.0, 1.0, None, (1.0,), 1, 1),))
    assert "cannot be compared" in bare.html("share")


def test_it_can_be_kept_as_json():
    kept = json.loads(json.dumps(made_up().as_dict(), allow_nan=False))
    assert kept["used90"] == 1 and kept["updates"][0]["share"] == pytest.approx(0.1049, rel=1e-3)


def test_the_figure_has_each_number_and_the_mean_ranks():
    said = words(ranks(made_up()))
    assert said[:4] == ["1"] * 4 and said[4:] == ["1.0 hold 90 %", "2.0 hold 99 %"]
    assert words(ranks(made_up(), "share"))[:4] == ["10.5"] * 4
    with pytest.raises(ValueError, match="rank90"):
        ranks(made_up(), "most")


# Bad input


def spoil_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def spoil_cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def spoil_nan(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[next(iter(tensors))][0, 0] = math.nan
    save_file(tensors, path)


def spoil_pair(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, path)


def spoil_others(folder: Path) -> None:
    save_file({"model.norm.weight": torch.ones(3)}, folder / "adapter_model.safetensors")


def configured(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_pickle, "adapter_model.bin, a pickle, which can run code: it is not read. Save it"),
        (spoil_cut, r"\(5,000 bytes\) is cut off .* Copy or download it again\."),
        (spoil_nan, "holds numbers that are not finite"),
        (spoil_pair, "A and B of shapes .* and nothing, which make no product"),
        (spoil_others, "holds no lora_A and lora_B"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "it has no adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("[1"), "is not a JSON object"),
        (configured(peft_type="IA3"), "an adapter of type IA3; LoRA's are inspected"),
        (configured(target_parameters=["w"]), "adapts single parameters"),
        (configured(init_lora_weights="pissa"), "changes the base's weights too"),
        (configured(use_qalora=True), r"a variant of LoRA \(use_qalora\)"),
    ],
)
def test_what_is_no_adapter_that_can_be_read_is_refused(
    copied: Path, spoil: Callable[[Path], None], said: str
):
    spoil(copied)
    with pytest.raises(RunError, match=said):
        list(inside.read(copied).factors())


def other_base(tmp_path: Path, **changes: int) -> Path:
    config = AutoModelForCausalLM.from_pretrained(MODEL).config
    config.update(changes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    for path in MODEL.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "other")
    return tmp_path / "other"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"intermediate_size": 320}, "The adapter is for another base: its model.layers.0.mlp"),
        ({"num_hidden_layers": 2}, "has no model.layers.2.* which the adapter changes"),
    ],
)
def test_an_adapter_for_another_base_is_refused(
    made: Callable, tmp_path: Path, changes: dict[str, int], said: str
):
    with pytest.raises(RunError, match=said) as refused:
        told(made("plain"), base=str(other_base(tmp_path, **changes)))
    assert str(MODEL) in str(refused.value)  # which base it is for


def test_without_its_base_an_adapter_is_inspected_alone(made: Callable, tmp_path: Path):
    found = told(made("plain"), own_base="nobody/nothing")
    assert all(line["weight"] is None for line in found["update"])
    assert "nobody/nothing are not on this machine" in found["adapter"][0]["without"]
    assert "does not tell its base" in told(made("plain"), own_base="")["adapter"][0]["without"]
    with pytest.raises(RunError, match="does not exist"):
        told(made("plain"), base=str(tmp_path / "gone"))


def test_the_norms_of_a_base_in_few_bits_are_not_read(made: Callable, tmp_path: Path):
    packed = Path(shutil.copytree(MODEL, tmp_path / "packed"))
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (packed / "config.json").write_text(json.dumps(config))
    without = told(made("plain"), own_base=str(packed))["adapter"][0]["without"]
    assert "is stored in few bits already: give its 16-bit version as base= to compare." in without
    with pytest.raises(RunError, match=r"stored in few bits \(bitsandbytes\).* 16-bit version"):
        told(made("plain"), base=str(packed))


def test_an_adapter_is_found_by_run_name_or_folder(trained: Run, outputs: Path, made: Callable):
    ways = (trained, trained.name, trained.folder, trained.adapter_path, str(trained.adapter_path))
    found = [locate(way, outputs) for way in ways]
    assert {place.folder for place in found} == {trained.adapter_path}
    assert {(place.base, place.run) for place in found} == {(str(MODEL), trained.folder)}
    alone = locate(made("plain"))
    assert (alone.base, alone.run, alone.recipe) == (str(MODEL), None, None)


def test_where_there_is_no_adapter_it_is_said_what_there_is(trained: Run, tmp_path: Path):
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(trained.folder / "recipe.yaml", new)
    (tmp_path / "file.txt").touch()
    (tmp_path / "empty").mkdir()
    for given, said in (
        (new, "Run new has no adapter yet: it is preparing, at step 0. Wait for its end"),
        (tmp_path / "file.txt", "is a file. Give a run, or the folder that holds"),
        (MODEL, "is a model, not an adapter"),
        (tmp_path / "empty", "holds no adapter: it has no adapter_config.json"),
        ("nothing", "'nothing' is neither a run in .* nor a folder. The newest runs there: new"),
    ):
        with pytest.raises(RunError, match=said):
            locate(given, tmp_path)


# Truncation


def cut(folder: Path, to: Path, *, rank: int | None = None, energy: float | None = None) -> float:
    """Cuts and writes; returns the share of energy that is kept."""
    adapter = inside.read(folder)
    cuts = truncation.truncate(adapter, rank=rank, energy=energy)
    truncation.write(adapter, cuts, to)
    new = [each for each in cuts.values() if each is not None]
    return sum(each.kept for each in new) / sum(each.of for each in new)


def logits(folder: Path) -> torch.Tensor:
    model = PeftModel.from_pretrained(base(), str(folder)).eval()
    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


@pytest.mark.parametrize("kind", KINDS)
def test_at_full_rank_nothing_changes(made: Callable, tmp_path: Path, kind: str):
    assert cut(made(kind), tmp_path / "new", rank=8) == pytest.approx(1)
    before, after = logits(made(kind)), logits(tmp_path / "new")
    assert torch.allclose(before, after, atol=1e-5)
    old, new = (load_file(f / "adapter_model.safetensors") for f in (made(kind), tmp_path / "new"))
    assert {n: t.shape for n, t in old.items()} == {n: t.shape for n, t in new.items()}


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("plain", {"rank": 2}),
        ("rslora", {"energy": 0.9}),
        ("patterns", {"energy": 0.9}),
        ("embeddings", {"rank": 2}),
    ],
)
def test_what_is_left_is_the_nearest_update_of_its_rank(
    made: Callable, tmp_path: Path, kind: str, how: dict[str, float]
):
    kept = cut(made(kind), tmp_path / "new", **how)
    before, after = updates_of(made(kind)), updates_of(tmp_path / "new")
    lost = of = 0.0
    for name, delta in before.items():
        off = (delta - after[name]).norm()
        if "layers" not in name or "layers.1." in name:
            s = torch.linalg.svdvals(delta)
            rank = effective_rank(s.tolist(), 0.9) if "energy" in how else 2
            nearest = float(s[rank:].norm())  # Eckart-Young
            assert float(off) == pytest.approx(nearest, rel=1e-3, abs=1e-6)
        lost, of = lost + float(off) ** 2, of + float(delta.norm()) ** 2
    assert kept == pytest.approx(1 - lost / of, abs=1e-5) and kept < 1
    if "energy" in how:
        assert kept >= 0.9


def test_the_new_adapter_keeps_dtype_files_and_scale(made: Callable, copied: Path):
    path = copied / "adapter_model.safetensors"
    save_file({name: t.bfloat16() for name, t in load_file(path).items()}, path)
    (copied / "tokenizer.json").write_text("{}")
    (copied / "optimizer.pt").touch()
    new = copied.with_name("new")
    cut(copied, new, rank=4)
    assert {t.dtype for t in load_file(new / "adapter_model.safetensors").values()} == {
        torch.bfloat16
    }
    assert {p.name for p in new.iterdir()} == {p.name for p in copied.iterdir()} - {"optimizer.pt"}
    scales = [k.scale for f in (copied, new) for k in inside.read(f).modules.values()]
    assert set(scales) == {12 / 8}
    config = json.loads((new / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (4, 6, {})
    with pytest.raises(RunError, match="exists already; nothing is overwritten"):
        cut(copied, new, rank=4)


def test_modules_that_learned_nothing_are_left_out(copied: Path, tmp_path: Path):
    path = copied / "adapter_model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if "layers.0" in name and "lora_B" in name:
            tensor.zero_()
    save_file(tensors, path)
    cut(copied, tmp_path / "new", energy=0.9)
    left = load_file(tmp_path / "new" / "adapter_model.safetensors")
    assert left and not [name for name in left if "layers.0" in name]
    assert not [name for name in updates_of(tmp_path / "new") if "layers.0" in name]
    cut(copied, tmp_path / "whole", energy=1)
    assert torch.allclose(logits(copied), logits(tmp_path / "whole"), atol=1e-5)


def test_a_rank_above_the_adapters_is_refused(made: Callable):
    with pytest.raises(RunError, match="rank is 9; the adapter has 8.* Give a rank from 1 to 8"):
        truncation.truncate(inside.read(made("plain")), rank=9, energy=None)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"rank": 0},
            "rank is 0; it must be a whole number of at least 1. A rank of 0 would leave",
        ),
        ({"rank": -1}, "rank is -1"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"rank": True}, "rank is True"),
        ({"energy": 0}, "energy is 0; it must be greater than 0 and at most 1"),
        ({"energy": 1.5}, "energy is 1.5"),
        ({"energy": math.nan}, "energy is nan"),
        ({"rank": 2, "energy": 0.9}, "Both rank and energy are given"),
        ({}, "Neither rank nor energy is given"),
        ({"rank": 2, "rows": -1}, "rows is -1"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(made: Callable, how: dict, said: str):
    with pytest.raises(RunError, match=said):
        asyncio.run(truncate_adapter(made("plain"), **how))


def test_what_became_of_it_is_told():
    found = Truncated(
        Path("x<y"),
        16,
        8,
        0.9253,
        0.5,
        0.625,
        64,
        2**21,
        2**20,
        ranks={2: 1, 8: 1},
        left_out=("q",),
    )
    text = str(found)
    assert "Rank 16 was cut to ranks of 2 to 8 (mean 5.0): 92.5 % of what it learned" in text
    assert "0.5000 before, 0.6250 after: +0.1250 (nats per trained token, 64 rows)" in text
    assert "x&lt;y" in found._repr_html_() and json.loads(json.dumps(found.as_dict()))["rank"] == 8


# End to end


def test_a_trained_adapter_is_inspected_and_cut(trained: Run, outputs: Path):
    words: list[str] = []
    found = asyncio.run(inspect_adapter(trained.name, outputs=outputs, told=words.append))
    assert len(found.updates) == 28 and found.rank == 16 and found.learned
    assert 0 < found.used(0.9) < found.used(0.99) <= 16
    assert all(0 < update.share < 1 for update in found.updates)
    assert found.bytes == (trained.adapter_path / "adapter_model.safetensors").stat().st_size
    new = asyncio.run(
        truncate_adapter(trained, rank=2, rows=16, outputs=outputs, told=words.append)
    )
    assert new.folder == trained.adapter_path.with_name("adapter-rank-2")
    assert new.kept == pytest.approx(found.kept(2), abs=1e-4) and new.bytes < new.bytes_before / 6
    assert new.rows == 16
    assert new.loss_after > new.loss_before and words
    assert locate(new.folder).run == trained.folder


def test_an_adapter_of_no_run_is_cut_without_a_loss(made: Callable, tmp_path: Path):
    new = asyncio.run(truncate_adapter(made("plain"), energy=0.9, to=tmp_path / "small"))
    assert (new.loss_before, new.loss_after, new.rows) == (None, None, 0)
    assert "The adapter is of no run here" in str(new) and new.folder == tmp_path / "small"


def test_a_cut_that_is_interrupted_leaves_no_folder_that_looks_finished(
    trained: Run, outputs: Path
):
    place = trained.adapter_path.with_name("adapter-rank-3")

    async def interrupted() -> None:
        task = asyncio.create_task(truncate_adapter(trained, rank=3, outputs=outputs))
        while not place.exists():
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(interrupted())
    assert not place.exists() and trained.adapter_path.is_dir()
