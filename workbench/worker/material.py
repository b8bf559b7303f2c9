"""What a run learns from: its rows read, split, written with the chat template, tokenized, and laid into batches.

Everything here happens before a weight is loaded, with the same functions as the preview in a notebook. Knows the
recipe and the log; nothing of models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import batching, masks, sides, template
from ..data.encode import Encoded, Tokenized, encode, tokenize
from ..data.rows import Row, named
from ..data.tokenizer import ChatTokenizer
from ..events import EventLog
from ..problems import DataError, Problem, RunError
from ..recipe import Recipe
from .copies import Copies
from .questions import FROM_ROWS, conversation, system_prompt

if TYPE_CHECKING:
    import numpy as np

CHECKED = 200  # rows by which the notebook's tokenizer is compared with Transformers', and the template checked

Passing = Callable[[str], None]


@dataclass(frozen=True)
class Material:
    """The rows of both sides as they are fed to the trainer, how they are batched, and those that can be asked.

    `copies` finds the training row that says what an answer says.
    """

    train: Encoded
    heldout: Encoded | None
    batching: batching.Batching
    askable_train: list[Row]
    askable_heldout: list[Row]
    copies: Copies


def gather(
    recipe: Recipe, tokenizer: ChatTokenizer, log: EventLog, *, passing: Passing
) -> Material:
    """Prepares the rows; `passing` is told in words what is going on, and may raise to end it.

    Raises DataError or RunError with all that stands in the way.
    """
    data, length = recipe.data, recipe.model.max_length
    _check_prompts(recipe, tokenizer)
    passing("Reading the rows.")
    both = sides.read(data, progress=lambda done, of: passing("Reading the rows."))
    shape = both.train.rows.shape
    log.write("choice", what="shape", value=shape.name, why=shape.why)
    log.write("choice", what="heldout", value=str(len(both.heldout or ())), why=both.why)

    def tokenized(part: sides.Side) -> Tokenized:
        def told(done: int, of: int | None) -> None:
            passing(f"Tokenizing and masking: {done:,} of {of:,} rows.")

        return tokenize(part.rows, tokenizer, loss_on=data.loss_on, progress=told)

    passing("Rendering the chat template and masking the rows.")
    some = both.train.first(CHECKED)
    _compare_tokenizers(recipe, tokenizer, some, log)
    tokens, positions = tokenized(both.train), both.train.positions
    plan = _plan(recipe, tokens.lengths[positions], raw_text=shape.name == "text")
    run_on = plan.choice == "wrapped"
    train = encode(tokens, max_length=length, positions=positions, run_on=run_on)
    heldout = None
    if both.heldout:
        held = tokenized(both.heldout)
        heldout = encode(held, max_length=length, positions=both.heldout.positions)
    warned = [*template.check(tokenizer, some, loss_on=data.loss_on), *train.warnings]
    for problem in [*warned, *(heldout.warnings if heldout else ())]:
        log.write("warning", text=problem.fact, cure=problem.cure)
    log.write("choice", what="batching", value=plan.choice, why=plan.why)
    log.write(
        "data",
        rows=len(train),
        heldout_rows=len(heldout or ()),
        tokens=train.tokens,
        trained_tokens=train.trained_tokens,
        cut_rows=train.cut_rows,
    )
    asked = (both.train.first(FROM_ROWS), both.heldout.first() if both.heldout else [])
    askable = [_askable(rows, tokenizer, length, log) for rows in asked]
    passing("Noting what the rows answer.")
    return Material(train, heldout, plan, *askable, Copies(both.train))


def _plan(recipe: Recipe, lengths: "np.ndarray", *, raw_text: bool) -> batching.Batching:
    training = recipe.training
    return batching.plan(
        lengths,
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        max_length=recipe.model.max_length,
        wanted=training.batching,
        raw_text=raw_text,
        seed=training.seed,
    )


def _compare_tokenizers(
    recipe: Recipe, tokenizer: ChatTokenizer, rows: list[Row], log: EventLog
) -> None:
    """Warns when a preview made without Transformers shows other tokens than those that are trained."""
    try:
        previewed = ChatTokenizer.load(
            recipe.model.name, recipe.model.revision, template=recipe.data.template
        )
    except DataError:  # then there is no preview that could differ
        return
    if previewed.key == tokenizer.key:
        return
    both = (
        masks.tokens(rows, side, loss_on=recipe.data.loss_on) for side in (previewed, tokenizer)
    )
    other = [
        row.number
        for row, a, b in zip(rows, *both, strict=True)
        if (a.ids, a.mask) != (b.ids, b.mask)
    ]
    if other:
        text = f"Transformers tokenizes {len(other):,} of {len(rows):,} rows otherwise than their preview: {named(other)}."
        cure = "What is trained is Transformers' way; look at those rows with its tokenizer."
        log.write("warning", text=text, cure=cure)


def _askable(
    rows: list[Row], tokenizer: ChatTokenizer, max_length: int, log: EventLog
) -> list[Row]:
    """The rows whose question leaves room for an answer within `max_length` tokens; warns of the others by number."""
    asked = [row for row in rows if row.prompt]  # raw text asks nothing
    sizes = [
        len(template.prompt_ids(row.prompt, tokenizer, tools=row.tools or None)) for row in asked
    ]
    others = [row.number for row, size in zip(asked, sizes, strict=True) if size >= max_length]
    if others:
        text = f"Not asked, since their questions fill {max_length:,} tokens and leave no room for an answer: {named(others)}."
        log.write("warning", text=text, cure="Raise model.max_length.")
    return [row for row, size in zip(asked, sizes, strict=True) if size < max_length]


def _check_prompts(recipe: Recipe, tokenizer: ChatTokenizer) -> None:
    """Raises RunError for all of the recipe's prompts that leave no room for an answer."""
    limit, problems = recipe.model.max_length, []
    for number, prompt in enumerate(recipe.samples.prompts, 1):
        turns = conversation(system_prompt(recipe), prompt)
        tokens = len(template.prompt_ids(turns, tokenizer))
        if tokens >= limit:
            fact = f"Prompt {number} of samples.prompts has {tokens:,} tokens; with its answer it must fit in {limit:,}."
            cure = "Shorten it, or raise model.max_length."
            problems.append(Problem("samples.prompts", fact, cure))
    if problems:
        raise RunError(problems)
