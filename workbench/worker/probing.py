"""What a trial of the memory does, where a training would follow the recipe: few steps, nothing between or after them.

Knows cadences; the measuring itself is in `rehearsal.py`.
"""

from .training import Cadence

STEPS = 2  # the optimizer makes its state in the first, and has it in the second
ACCUMULATION = (
    2  # micro-batches a step: gradients are kept from one to the next, which more would not change
)
TOKENS = 16  # of the one answer


def cadence() -> Cadence:
    """No evaluation, sample or checkpoint."""
    return Cadence(evaluate=0, sample=0, checkpoint=0, at_end=False)
