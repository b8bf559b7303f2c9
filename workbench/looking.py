"""What a recipe's rows look like before they are trained: the report on them, and single rows token by token.

Reads what the recipe names and hands it on; knows nothing of panels, terminals or runs.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import models
from .problems import DataError, WorkbenchError
from .recipe import Recipe

if TYPE_CHECKING:
    from .data.encode import Tokenized
    from .data.pieces import View
    from .data.report import Report
    from .data.rows import Row
    from .data.table import Rows
    from .data.tokenizer import ChatTokenizer

Progress = Callable[[int, int | None], None]


def rows_of(recipe: Recipe, *, progress: Progress | None = None) -> "Rows":
    """The training rows that can be read; the others are in its `faults`. Raises DataError when there are none."""
    from .data import table

    rows = table.look(recipe.data.train, **recipe.data.reading, progress=progress)
    if not len(rows):
        raise DataError(rows.faults.problems(rows.name))
    return rows


def tokenizer_of(recipe: Recipe) -> "ChatTokenizer":
    """The tokenizer of the recipe's model, with the recipe's chat template if it names one. Raises DataError."""
    from .data.tokenizer import ChatTokenizer

    model = recipe.model
    return ChatTokenizer.load(model.name, model.revision, template=recipe.data.template)


def view_row(recipe: Recipe, row: "Row", *, pad_to: int | None = None) -> "View":
    """One row as the recipe's model meets it; nothing else is tokenized. `pad_to` is in tokens. Raises DataError."""
    from .data import encode, pieces

    tokenizer, length = tokenizer_of(recipe), recipe.model.max_length
    one = encode.tokenize([row], tokenizer, loss_on=recipe.data.loss_on)
    return pieces.view(
        row.name, one.ids(0), one.mask(0), tokenizer, max_length=length, pad_to=pad_to
    )


def tokenized(
    recipe: Recipe, *, progress: Progress | None = None
) -> "tuple[Tokenized, ChatTokenizer]":
    """All training rows with their tokens, and what they were tokenized with. Raises DataError."""
    from .data import encode

    rows, tokenizer = rows_of(recipe, progress=progress), tokenizer_of(recipe)
    made = encode.tokenize(rows, tokenizer, loss_on=recipe.data.loss_on, progress=progress)
    return made, tokenizer


def report_on(recipe: Recipe, *, tokens: bool = True, progress: Progress | None = None) -> "Report":
    """The report on the recipe's rows; without `tokens` its model is not asked for. Raises DataError."""
    from .data.report import report

    data, training = recipe.data, recipe.training
    return report(
        data.train,
        tokenizer=tokenizer_of(recipe) if tokens else None,
        heldout=data.heldout,
        max_length=recipe.model.max_length,
        loss_on=data.loss_on,
        batch_size=training.batch_size,
        effective_batch=recipe.effective_batch,
        heldout_share=data.heldout_share,
        context=_context(recipe) if tokens else None,
        progress=progress,
        **data.reading,
    )


def _context(recipe: Recipe) -> int | None:
    """Tokens that the model can read; None where only its tokenizer is there."""
    try:
        return models.read(recipe.model.name, recipe.model.revision).context_length
    except WorkbenchError:
        return None
