"""The state of chance in this process: Python's, NumPy's and torch's, on every device. Knows nothing of what draws."""

import random
from typing import Any


def now() -> tuple[Any, ...]:
    """The state of all generators."""
    import numpy as np
    import torch

    card = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), card


def restore(state: tuple[Any, ...]) -> None:
    """Puts all generators back to where they were."""
    import numpy as np
    import torch

    of_python, of_numpy, of_torch, of_card = state
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    if of_card is not None:
        torch.cuda.set_rng_state(of_card)
