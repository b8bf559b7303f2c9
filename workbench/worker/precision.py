"""Which number format the model computes in on this machine, and why. Knows nothing of recipes' other settings."""

from typing import NamedTuple


class Precision(NamedTuple):
    """The name of a torch dtype ("bfloat16", "float16" or "float32") and the reason for it."""

    dtype_name: str
    why: str

    @property
    def dtype(self):  # noqa: ANN201 - a torch.dtype, and torch is not imported here
        import torch

        return getattr(torch, self.dtype_name)


def choose(asked: str) -> Precision:
    """The precision for `model.compute_dtype` (`auto` looks at the device)."""
    import torch

    if asked != "auto":
        return Precision(asked, "The recipe asks for it.")
    if not torch.cuda.is_available():
        return Precision("float32", "There is no GPU, and CPUs compute fastest in float32.")
    card = torch.cuda.get_device_name()
    if torch.cuda.get_device_capability() >= (8, 0):
        return Precision(
            "bfloat16", f"{card} computes in bfloat16, which cannot overflow as float16 does."
        )
    return Precision(
        "float16", f"{card} has no bfloat16; the loss is scaled so that small gradients survive."
    )
