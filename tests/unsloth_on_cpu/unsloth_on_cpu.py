"""Runs the real Unsloth on a machine that has no GPU: what is changed is the device, never Unsloth's own work.

Triton interprets Unsloth's fused kernels with NumPy, so they compute the same numbers, slowly; every CUDA
allocation lands on the CPU; NF4 weights are decoded by bitsandbytes' CPU code where Unsloth would call its
CUDA library. Loading, patching of layers and trainers, the losses, the gradients, generating and saving are
Unsloth's own. Timings and memory figures mean nothing here.

What is not run: torch.compile, anything of several GPUs, 16-bit number formats on a real card.

Keep models tiny: hidden 128, 2 layers, 32 tokens a step take seconds a step. `sitecustomize.py` beside this
file arms it in any process started with this folder on its PYTHONPATH. The device answers are faked in the
thread that imports Unsloth, which must be the one that trains. torchvision must not be installed beside a
CPU-only torch: its binary does not load there, and then Transformers does not import.
"""

import functools
import os

GIB = 1 << 30
ENVIRONMENT = {
    "UNSLOTH_ALLOW_CPU": "1",  # Unsloth's own switch for importing without a device
    "UNSLOTH_COMPILE_DISABLE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TRITON_INTERPRET": "1",
}
CUDA_SYMBOLS = (
    "cdequantize_blockwise_fp32",
    "cdequantize_blockwise_fp16_nf4",
    "cdequantize_blockwise_bf16_nf4",
    "cdequantize_blockwise_fp32_nf4",
    "cgemm_4bit_inference_naive_fp16",
    "cgemm_4bit_inference_naive_bf16",
)


def before_import():
    """Everything that must hold while Unsloth's modules are executed."""
    os.environ.update(ENVIRONMENT)
    import bitsandbytes.functional as bnb  # before the device is faked: it picks its CPU code now

    for symbol in CUDA_SYMBOLS:
        setattr(bnb.lib, symbol, _NotCalled())
    _answer_for_the_device()
    _cuda_means_cpu()


def after_import():
    """What Unsloth leaves out when it is imported without a device, and where it would call CUDA directly."""
    import unsloth
    import unsloth.kernels.utils as kernels
    from unsloth.context_parallel import patch_sft_trainer
    from unsloth.models.rl import PatchFastRL
    from unsloth.trainer import _patch_trl_trainer

    kernels._fast_dequantize_bnb = _dequantize
    del os.environ["UNSLOTH_ALLOW_CPU"]  # with it, TRL's trainers would stay as they were
    PatchFastRL(FastLanguageModel=unsloth.FastLanguageModel)
    _patch_trl_trainer()
    patch_sft_trainer()

    for model_class in (unsloth.FastLanguageModel, unsloth.FastModel):
        real = model_class.from_pretrained
        model_class.from_pretrained = staticmethod(functools.partial(real, device_map="cpu"))


class _Properties:
    name = "no GPU (tests)"
    major, minor = 8, 0
    total_memory = 16 * GIB
    multi_processor_count = 8
    is_integrated = False


class _Device:
    idx = 0

    def __init__(self, *_): ...

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


class _Stream(_Device):
    cuda_stream = 0

    def wait_stream(self, *_): ...

    def synchronize(self): ...


def _answer_for_the_device():
    """Answers the questions that Unsloth asks of its card. `torch.cuda.is_available()` stays False, which is the truth."""
    import torch

    cuda = torch.cuda
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.device = _Device
    cuda.get_device_properties = lambda *a, **k: _Properties()
    cuda.get_device_capability = lambda *a, **k: (8, 0)
    cuda.mem_get_info = cuda.memory.mem_get_info = lambda *a, **k: (12 * GIB, 16 * GIB)
    cuda.is_bf16_supported = lambda *a, **k: True
    cuda.synchronize = lambda *a, **k: None
    cuda.Stream = _Stream
    cuda.stream = cuda.current_stream = cuda.default_stream = lambda *a, **k: _Stream()
    torch._C._cuda_getCurrentRawStream = lambda _: 0


def _cuda_means_cpu():
    """Sends every allocation for a CUDA device (0, "cuda:0", torch.device) to the CPU, in this thread."""
    import torch
    from torch.overrides import TorchFunctionMode

    def on_cpu(device):
        if isinstance(device, bool):
            return device
        if isinstance(device, int) or (isinstance(device, str) and device.startswith("cuda")):
            return "cpu"
        if isinstance(device, torch.device) and device.type == "cuda":
            return torch.device("cpu")
        return device

    class CudaMeansCpu(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = dict(kwargs or {})
            if func is torch.device and args and isinstance(args[0], int):
                return torch.device("cpu:0")
            if func is torch.Tensor.cuda:
                return args[0]
            if kwargs.get("device") is not None:
                kwargs["device"] = on_cpu(kwargs["device"])
            if func is torch.Tensor.to:
                args = (
                    args[0],
                    *(a if isinstance(a, torch.Tensor) else on_cpu(a) for a in args[1:]),
                )
            return func(*args, **kwargs)

    CudaMeansCpu().__enter__()


class _NotCalled:
    """Stands for a CUDA symbol of bitsandbytes: Unsloth looks it up at import, and must never call it here."""

    restype = None

    def __call__(self, *_):
        raise RuntimeError("a CUDA kernel of bitsandbytes was called without a GPU")


def _dequantize(weight, quant_state=None, out=None, use_global_buffer=False):
    """The same as Unsloth's function of this name, by the CPU code of bitsandbytes."""
    import bitsandbytes.functional as bnb

    if quant_state is None:
        return weight
    transposed = weight.shape[0] == 1
    dense = bnb.dequantize_4bit(weight.t() if transposed else weight, quant_state)
    return dense.t() if transposed else dense
