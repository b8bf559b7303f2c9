"""What is known of a model without its weights: shapes, adapter sizes, and why a model cannot be had."""

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workbench import folders, models
from workbench.problems import RunError

TINY = Path(__file__).parents[1] / "data" / "tiny" / "model"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_header(path: Path, tensors: dict[str, tuple[str, list[int]]], size: int = 0) -> None:
    """A safetensors file that is a header and `size` bytes of nothing."""
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
        for name, (dtype, shape) in tensors.items()
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * size)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def test_adapter_parameters_are_those_that_peft_makes() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    layers = models.linear_layers(str(TINY))
    for targets, dora in (("all-linear", False), (["q_proj", "mlp.down_proj"], True)):
        model = AutoModelForCausalLM.from_pretrained(TINY)
        peft = get_peft_model(model, LoraConfig(r=8, target_modules=targets, use_dora=dora))
        trainable = sum(p.numel() for p in peft.parameters() if p.requires_grad)
        assert models.lora_parameters(layers, 8, targets, dora=dora) == trainable


def test_linear_layers_are_those_in_the_blocks_attention_first() -> None:
    model = models.read(str(TINY))
    layers = model.linear_layers()
    assert models.target_modules(layers) == ALL
    assert len(layers) == len(ALL) * model.config["num_hidden_layers"]
    one = next(layer for layer in layers if layer.module == "down_proj")
    middle, hidden = model.config["intermediate_size"], model.config["hidden_size"]
    assert (one.in_features, one.out_features) == (middle, hidden)
    assert model.context_length == model.config["max_position_embeddings"]


def test_shards_give_what_one_file_gives(copy: Path) -> None:
    whole = models.read(str(copy))
    weights = {}
    for number, (name, tensor) in enumerate(whole.tensors.items()):
        shard = f"model-{number % 2}.safetensors"
        weights.setdefault(shard, {})[name] = (tensor.dtype, list(tensor.shape))
    for shard, tensors in weights.items():
        write_header(copy / shard, tensors)
    (copy / "model.safetensors").unlink()
    where = {name: shard for shard, tensors in weights.items() for name in tensors}
    (copy / folders.INDEX).write_text(json.dumps({"weight_map": where}))
    assert models.read(str(copy)).tensors == whole.tensors
    (copy / "model-1.safetensors").unlink()
    assert [str(problem) for problem in folders.problems(copy)] == [
        f"{copy} lacks model-1.safetensors, which its index names. Copy or download it again."
    ]


def test_shapes_of_packed_weights_come_from_the_configuration(copy: Path) -> None:
    whole = models.read(str(copy))
    linear = {layer.name for layer in whole.linear_layers()}
    packed = {}
    for name, (dtype, shape) in whole.tensors.items():
        path = name.removesuffix(".weight")
        if path in linear:
            packed[name] = ("U8", [shape[0] * shape[1] // 2, 1])
            packed[f"{name}.quant_state.bitsandbytes__nf4"] = ("U8", [100])
            packed[f"{name}.absmax"] = ("U8", [shape[0] * shape[1] // 64])
        else:
            packed[name] = (dtype, list(shape))
    write_header(copy / folders.WEIGHTS, packed)
    assert models.linear_layers(str(copy)) == whole.linear_layers()
    packed["model.layers.0.mlp.odd_proj.weight"] = ("U8", [77, 1])
    packed["model.layers.0.mlp.odd_proj.weight.quant_state.bitsandbytes__nf4"] = ("U8", [100])
    write_header(copy / folders.WEIGHTS, packed)
    with pytest.raises(
        RunError, match=r"The shape of model.layers.0.mlp.odd_proj in .* cannot be told"
    ):
        models.linear_layers(str(copy))


def test_gpt2_stores_its_weights_the_other_way_round(tmp_path: Path, copy: Path) -> None:
    tensors = {
        "wte.weight": ("F32", [50, 8]),
        "h.0.ln_1.weight": ("F32", [8]),
        "h.0.attn.c_attn.weight": ("F32", [8, 24]),
    }
    write_header(copy / folders.WEIGHTS, tensors)
    (copy / "config.json").write_text('{"model_type": "gpt2"}')
    assert models.linear_layers(str(copy)) == (
        models.LinearLayer("h.0.attn.c_attn", "c_attn", 8, 24),
    )


def test_a_folder_that_is_no_model_says_all_that_it_lacks(tmp_path: Path, copy: Path) -> None:
    def says(folder: Path) -> list[str]:
        return [str(problem) for problem in folders.problems(folder)]

    near = tmp_path / "modle"
    assert says(near) == [f"The model folder {near} does not exist. Did you mean {copy}?"]
    assert says(tmp_path / "x" / "y") == [
        f"The model folder {tmp_path}/x/y does not exist. The nearest folder that exists is {tmp_path}."
    ]
    assert says(copy / "config.json")[0].startswith(
        f"{copy}/config.json is a file. Give the folder"
    )
    for name in ("config.json", "tokenizer.json"):
        (copy / name).unlink()
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert says(copy) == [
        f"{copy} has no config.json. Give a folder in the form that save_pretrained writes.",
        f"{copy} has no weights in model.safetensors, only pytorch_model.bin, which cannot be read safely or"
        " tuned. Save it with save_pretrained, which writes safetensors.",
        f"{copy} has no tokenizer (tokenizer.json, tokenizer.model). Save the tokenizer beside the model:"
        " tokenizer.save_pretrained(folder).",
    ]
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    assert says(copy) == [
        f"{copy} is an adapter, not a model. Give the model that it was trained on: owner/base."
    ]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda raw: raw[:-5000],
            "model.safetensors is cut off: it has {size:,} of {whole:,} bytes",
        ),
        (
            lambda raw: b"version https://git-lfs.github.com/spec/v1\n",
            "does not begin like a safetensors",
        ),
        (lambda raw: b"", "model.safetensors (0 bytes) does not begin like a safetensors file"),
    ],
)
def test_damaged_weights_are_found_by_their_header(copy: Path, damage, says) -> None:
    raw = (copy / "model.safetensors").read_bytes()
    broken = damage(raw)
    (copy / "model.safetensors").write_bytes(broken)
    (problem,) = folders.problems(copy)
    assert says.format(size=len(broken), whole=len(raw)) in problem.fact
    assert problem.cure == "Copy or download it again."


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("./x", True), ("/x", True), ("~/x", True), ("a/b/c", True), ("..", True), ("x/", True),
        ("owner/model", False), ("gpt2", False),
    ],
)  # fmt: skip
def test_a_path_is_told_from_a_name_on_the_hub(name: str, local: bool) -> None:
    assert models.is_local(name) == local


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: owner/tiny is there, owner/gated is gated, everything else is not found."""

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, *, body: bool) -> None:
        _, model, *rest = self.path.removeprefix("/").split("/")
        file = TINY / rest[-1] if rest and "resolve" in self.path else TINY / "nothing"
        if model == "gated":
            self.reply(
                403 if self.headers.get("authorization") else 401, {"X-Error-Code": "GatedRepo"}
            )
        elif model != "tiny":
            self.reply(401, {"X-Error-Code": "RepoNotFound"})
        elif "nowhere" in rest:
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif not file.exists():
            self.reply(404, {"X-Error-Code": "EntryNotFound"})
        else:
            raw = file.read_bytes()
            headers = {
                "ETag": f'"{file.name}"',
                "X-Repo-Commit": "a" * 40,
                "Content-Length": str(len(raw)),
            }
            self.reply(200, headers, raw if body else b"")

    def reply(self, status: int, headers: dict[str, str], raw: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def hub_says(tmp_path_factory: pytest.TempPathFactory):
    """What reading a name on a hub gives, in a process of its own: its address is fixed at import."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = (
        "import sys; from workbench import models\n"
        "try: print(len(models.linear_layers(*sys.argv[1:])))\n"
        "except models.RunError as error: print(error)"
    )

    def says(*arguments: str, program: str = program, **settings: str) -> str:
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path_factory.getbasetemp() / "hub"),
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "",
            **settings,
        }
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    yield says
    server.shutdown()


def test_a_model_on_the_hub_is_read_and_one_in_the_cache_needs_no_network(hub_says) -> None:
    layers = str(len(models.linear_layers(str(TINY))))
    assert hub_says("owner/tiny") == layers
    assert "the hub cannot be read" in hub_says("owner/tiny", HF_HUB_OFFLINE="1")
    download = (
        "from huggingface_hub import hf_hub_download\n"
        "for name in ('config.json', 'model.safetensors', 'tokenizer.json'): hf_hub_download('owner/tiny', name)"
    )
    hub_says(program=download)
    assert hub_says("owner/tiny", HF_HUB_OFFLINE="1") == layers


def test_a_token_that_may_not_read_a_gated_model_is_told_from_none(hub_says) -> None:
    assert hub_says("owner/gated", HF_TOKEN="hf_" + "x" * 34) == (
        "owner/gated is gated, and the Hugging Face token that is set may not read it."
        " Accept its terms at https://huggingface.co/owner/gated with the account of the token."
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["owner/gated"],
            "owner/gated is gated, and no Hugging Face token is set. Accept its terms at"
            " https://huggingface.co/owner/gated, then set HF_TOKEN or run: hf auth login.",
        ),
        (
            ["owner/nobody"],
            "There is no folder owner/nobody here, and no public model of that name on the hub."
            " Check the spelling; for a private model set HF_TOKEN or run: hf auth login.",
        ),
        (
            ["owner/tiny", "nowhere"],
            "owner/tiny has no revision nowhere."
            " Choose one from https://huggingface.co/owner/tiny/commits.",
        ),
        (
            ["a b/c"],
            "'a b/c' is neither a folder here nor a name on the hub."
            " Give a folder (./model) or a name such as unsloth/Llama-3.2-1B-Instruct.",
        ),
    ],
)
def test_a_model_that_the_hub_does_not_give_is_explained(hub_says, arguments, says) -> None:
    assert hub_says(*arguments) == says


def test_a_hub_that_is_not_there_is_said_at_once(hub_says) -> None:
    assert hub_says("owner/other", HF_ENDPOINT="http://127.0.0.1:9") == (
        "owner/other is not on this machine, and the hub cannot be read: [Errno 111] Connection refused."
        " Check the network, or give a folder that holds the model (./model)."
    )
    assert hub_says("owner/other", HF_HUB_OFFLINE="1") == (
        "owner/other is not on this machine, and the hub cannot be read: HF_HUB_OFFLINE is set."
        " Unset HF_HUB_OFFLINE, or give a folder that holds the model (./model)."
    )
