"""What the card says of itself beside its memory: how busy, how warm, how much power it draws, and why it runs slower.

Asks NVML through `pynvml`, which need not be installed, and knows nothing of runs. What cannot be known is None: without
a card, without pynvml, on a part of a card (MIG), of which NVML tells neither load nor power, or on an older driver.
"""

import functools
from collections.abc import Callable
from typing import Any

NAMES = ("utilisation", "temperature", "power", "throttled")
#: Why the clocks are lower than they could be, by the bits of NVML's nvmlClocksEventReasons (nvml.h; "NvmlClocksEventReasons"
#: in the API reference). 0x1 (idle) is none, 0x2 and 0x100 are clocks that somebody has set.
REASONS = (
    (0x0000000000000020 | 0x0000000000000040, "temperature"),  # SwThermalSlowdown, HwThermalSlowdown
    (0x0000000000000004 | 0x0000000000000080, "power"),  # SwPowerCap, HwPowerBrakeSlowdown
    (0x0000000000000010, "other cards"),  # SyncBoost: the slowest of a group sets the pace
    (0x0000000000000002 | 0x0000000000000100, "clocks that were set"),  # ApplicationsClocksSetting, Display…
)  # fmt: skip
HARDWARE = 0x0000000000000008  # HwSlowdown: the card halves its clocks, for temperature or power, or says no more
TEMPERATURE_GPU = 0  # nvmlTemperatureSensors_t: NVML_TEMPERATURE_GPU


def as_fields(
    *, percent: int | None, celsius: int | None, milliwatts: int | None, reasons: int | None
) -> dict[str, Any]:
    """NVML's raw values as fields of a memory event: percent, degrees C, W, and why it is throttled in words ("" if not)."""
    power = None if milliwatts is None else round(milliwatts / 1000, 1)
    throttled = None if reasons is None else _in_words(reasons)
    return dict(zip(NAMES, (percent, celsius, power, throttled), strict=True))


def read() -> dict[str, Any]:
    """The card in use as fields of a memory event, None for what is not known; raises nothing, takes about 0.1 ms."""
    library, card = handle()
    if card is None:
        return dict.fromkeys(NAMES)

    def reasons() -> int:
        # the name up to driver 530, which newer drivers know too
        return library.nvmlDeviceGetCurrentClocksThrottleReasons(card)

    return as_fields(
        percent=_known(lambda: library.nvmlDeviceGetUtilizationRates(card).gpu),
        celsius=_known(lambda: library.nvmlDeviceGetTemperature(card, TEMPERATURE_GPU)),
        milliwatts=_known(lambda: library.nvmlDeviceGetPowerUsage(card)),
        reasons=_known(reasons),
    )


def _in_words(reasons: int) -> str:
    found = [word for bits, word in REASONS if reasons & bits]
    if reasons & HARDWARE and not {"temperature", "power"} & set(found):
        found.insert(0, "the card's own protection")
    return ", ".join(found)


def _known(ask: Callable[[], int]) -> int | None:
    try:
        return int(ask())
    except Exception:  # NVML's errors share no class with a missing function or a lost driver
        return None


@functools.cache  # NVML is opened once in a process: that takes 20 to 50 ms
def handle() -> tuple[Any, Any]:
    """NVML and its handle of the card that torch uses; None for both where there is no such thing."""
    try:
        import pynvml
        import torch

        if not torch.cuda.is_available():
            return None, None
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except Exception:  # not installed, not allowed, a part of a card, or another maker's
        return None, None
