"""Every setting of a run: its type, bounds and default, and one sentence that names the trade-off.

Knows nothing of any machine: whether a path exists or a GPU is there is asked in `preflight.py`.
Bounds, labels, tooltips, the errors and the command line's help all come from the fields here.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from .problems import Problem, RecipeError

TargetModules = Literal["all-linear"] | Annotated[list[str], Field(min_length=1)]
Optimizer = Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "sgd"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Shape = Literal["auto", "messages", "conversations", "completion", "alpaca", "question", "text"]
Role = Literal["system", "user", "assistant", "tool"]
LossOn = Literal["assistant", "last", "all"] | Annotated[list[Role], Field(min_length=1)]
Batching = Literal["auto", "padded", "grouped", "packed", "wrapped"]


#: Settings that may hold a path; one that begins with ./ or ../ counts from the recipe file's folder.
PATHS = (("model", "name"), ("data", "train"), ("data", "heldout"), ("data", "template"))


def setting(default: Any, label: str, says: str, *, cure: str, **bounds: Any) -> Any:
    """A field: its label, the sentence for tooltip and help, and what to do when the value is out of bounds."""
    return Field(default, title=label, description=says, json_schema_extra={"cure": cure}, **bounds)


class Section(BaseModel):
    """A group of settings that belong together; unknown names are refused, values cannot be changed in place."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Model(Section):
    """Which model, and in what precision its frozen weights are held."""

    name: str = setting(
        "unsloth/Llama-3.2-1B-Instruct",
        "Model",
        "A folder (./model) or a name on the Hugging Face hub (owner/model); a larger model knows more and needs more memory.",
        cure="Give a folder that holds config.json, or a name such as unsloth/Llama-3.2-1B-Instruct.",
        min_length=1,
    )
    revision: str | None = setting(
        None,
        "Revision",
        "Branch, tag or commit on the hub; a commit makes the run repeatable, a branch follows its updates.",
        cure="Leave it out, or give a commit such as 5f0b02c.",
    )
    max_length: int = setting(
        2048,
        "Sequence length (tokens)",
        "Rows longer than this are cut; activations and their memory grow in proportion.",
        cure="Choose between 16 and 1,048,576; 2048 suits most chats.",
        ge=16,
        le=1_048_576,
    )
    load_in_4bit: bool = setting(
        True,
        "4-bit",
        "Frozen weights in 4 bits (QLoRA) take about a quarter of the memory of 16 bits (LoRA) and cost some speed.",
        cure="Give true or false.",
    )
    quant_type: Literal["nf4", "fp4"] = setting(
        "nf4",
        "4-bit type",
        "NF4 fits normally distributed weights better than FP4, at the same size.",
        cure="Give nf4 or fp4.",
    )
    double_quant: bool = setting(
        True,
        "Double quantization",
        "Quantizes the block scales too: 0.37 bits a weight less, at no measurable loss.",
        cure="Give true or false.",
    )
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = setting(
        "auto",
        "Compute dtype",
        "What the weights are expanded to for each product; auto takes bfloat16, float16 on cards without it, float32 on a CPU.",
        cure="Leave it at auto.",
    )


class Lora(Section):
    """The adapter: two thin matrices beside each target module, the only thing that is trained."""

    rank: int = setting(
        16,
        "Rank",
        "Width of the adapter: a higher rank can learn more, and takes more memory and rows.",
        cure="8 or 16 is a good start.",
        ge=1,
        le=1024,
    )
    alpha: float = setting(
        16,
        "Alpha",
        "The adapter's output is scaled by alpha / rank; doubling it acts much like doubling the learning rate.",
        cure="Take it equal to the rank, or twice the rank.",
        gt=0,
        le=4096,
    )
    dropout: float = setting(
        0.0,
        "Dropout",
        "Share of the adapter's inputs that is dropped at random: helps against over-fitting on few rows, slows learning.",
        cure="0 is usual; 0.05 to 0.1 for a few hundred rows.",
        ge=0,
        lt=1,
    )
    target_modules: TargetModules = setting(
        "all-linear",
        "Target modules",
        "Layers that get an adapter: all linear ones learn best; attention alone is smaller and learns less.",
        cure="Give all-linear, or a list such as [q_proj, v_proj].",
    )
    rslora: bool = setting(
        False,
        "rsLoRA",
        "Scales by alpha / sqrt(rank) instead: keeps a rank of 64 or more from learning too slowly.",
        cure="Give true or false.",
    )
    dora: bool = setting(
        False,
        "DoRA",
        "Learns the size of each weight row apart from its direction: sometimes better at a low rank, about a quarter slower.",
        cure="Give true or false.",
    )
    bias: Literal["none", "all", "lora_only"] = setting(
        "none",
        "Bias",
        "Also train bias terms; the tuned model then differs from its base even with the adapter switched off.",
        cure="Leave it at none.",
    )
    modules_to_save: list[str] = setting(
        [],
        "Modules trained in full",
        "Layers trained whole and saved beside the adapter, such as embed_tokens for new tokens; costs much memory.",
        cure="Leave it empty unless you added tokens.",
    )


class Data(Section):
    """Which rows are learned from, how they are read and written, and which are kept apart to measure with."""

    train: str = setting(
        "train.jsonl",
        "Training rows",
        "A file, a folder of files (JSON, JSONL, CSV, TSV, Parquet, Arrow, text), or a data set on the hub (owner/name).",
        cure="Give the path of a file or folder, or a name such as tatsu-lab/alpaca.",
        min_length=1,
    )
    heldout: str | None = setting(
        None,
        "Held-out rows",
        "Rows that are never trained on: their loss tells learning from memorizing. Left out, some training rows are kept apart.",
        cure="Give the path of a file or folder, or leave it out.",
    )
    heldout_share: float = setting(
        0.05,
        "Held-out share",
        "Share of the rows that is kept apart where no held-out file is given: more measure better, and teach less. 0 keeps none.",
        cure="0.05 is usual.",
        ge=0,
        le=0.5,
    )
    split: str = setting(
        "train",
        "Split on the hub",
        "Which split of a data set on the hub is learned from; a file or folder has none.",
        cure="train is usual; the data set's page lists its splits.",
        min_length=1,
    )
    revision: str | None = setting(
        None,
        "Revision of the data",
        "Branch, tag or commit of a data set on the hub; a commit makes the run repeatable, a branch follows its updates.",
        cure="Leave it out, or give a commit such as 5f0b02c.",
    )
    shape: Shape = setting(
        "auto",
        "Shape of a row",
        "How a row says its conversation; auto looks at the columns and tells what it saw.",
        cure="Leave it at auto.",
    )
    columns: dict[str, str] = setting(
        {},
        "Column map",
        "Which columns make up a row, for tables of no known shape, such as {prompt: '{title} {body}', completion: '{answer}'}.",
        cure="Give prompt and completion (and system), or text, each with {column} names in it; leave it empty to detect.",
    )
    encoding: str | None = setting(
        None,
        "Text encoding",
        "What a text file that is not UTF-8 is written in, such as cp1252 for an older Excel; a wrong one garbles letters.",
        cure="Leave it out for UTF-8 and UTF-16.",
    )
    system: str | None = setting(
        None,
        "System prompt of the rows",
        "Put before each row that has none: the model then expects it when it is asked, too.",
        cure="Give a text, or leave it out.",
    )
    template: str | None = setting(
        None,
        "Chat template",
        "How a conversation is written, for a model that has no template of its own; one the model does not know must be learned.",
        cure="Leave it out for the model's own; else plain, chatml or alpaca, the path of a .jinja file, or the template itself.",
    )
    loss_on: LossOn = setting(
        "assistant",
        "Loss on",
        "Learn what the assistant says in every turn, in the last turn, in the whole conversation, or what given roles say.",
        cure="assistant is right for chats and instructions; last, all, or a list such as [assistant, tool] are the others.",
    )

    @field_validator("columns")
    @classmethod
    def _known_parts(cls, columns: dict[str, str]) -> dict[str, str]:
        if not columns:
            return columns
        parts = ("prompt", "completion", "system", "text")
        if unknown := [name for name in columns if name not in parts]:
            raise ValueError(
                f"data.columns names {', '.join(unknown)}; a row can be made of {', '.join(parts)}."
            )
        whole = {"text"} == set(columns) or {"prompt", "completion"} <= set(columns) - {"text"}
        if not whole or ("text" in columns and len(columns) > 1):
            raise ValueError(
                f"data.columns has {', '.join(columns)}; give prompt and completion (and system if wanted), or text alone."
            )
        return columns

    @property
    def reading(self) -> dict[str, Any]:
        """The settings that say how a source is read, as arguments of `workbench.data.read`."""
        return {
            "split": self.split,
            "revision": self.revision,
            "shape": self.shape,
            "columns": self.columns,
            "encoding": self.encoding,
            "system": self.system,
        }


class Training(Section):
    """How the adapter learns, and how often the run stops to measure."""

    steps: int | None = setting(
        None,
        "Steps",
        "Optimizer steps in all; more steps learn more, until the held-out loss turns up.",
        cure="Give at least 1, or leave it out and set epochs.",
        ge=1,
    )
    epochs: float | None = setting(
        None,
        "Epochs",
        "Passes over the rows; 1 to 3 is usual, more memorizes. One pass if neither steps nor epochs are given.",
        cure="1 to 3 is usual.",
        gt=0,
        le=1000,
    )
    batch_size: int = setting(
        2,
        "Batch size (rows)",
        "Rows that go through the model at once: larger is faster until the memory is full.",
        cure="Start with 1 or 2.",
        ge=1,
        le=4096,
    )
    batch: Literal["as_given", "auto"] = setting(
        "as_given",
        "Micro-batch",
        "auto tries how many rows at once are fastest among those that fit, for some seconds at the start, and keeps batch size x accumulation.",
        cure="as_given takes the batch size as it is; auto tries others with the same effective batch.",
    )
    accumulation: int = setting(
        8,
        "Accumulation",
        "Batches summed up for one optimizer step: a larger effective batch for time instead of memory.",
        cure="Choose it so that batch size x accumulation is 8 to 32.",
        ge=1,
        le=4096,
    )
    on_oom: Literal["stop", "retry"] = setting(
        "stop",
        "Out of memory",
        "stop keeps what was learned and tells what to turn; retry goes on by itself with half the rows at once and twice the accumulation, at less speed.",
        cure="Give stop or retry.",
    )
    learning_rate: float = setting(
        2e-4,
        "Learning rate",
        "Size of each step: LoRA needs about ten times that of full fine-tuning; too high, and the loss jumps.",
        cure="1e-4 to 3e-4 is usual for LoRA.",
        gt=0,
        le=1,
    )
    scheduler: Scheduler = setting(
        "linear",
        "Schedule",
        "How the learning rate falls: linear and cosine end near 0, constant lets you stop anywhere.",
        cure="linear is a good start.",
    )
    warmup: float = setting(
        0.03,
        "Warm-up (share of steps)",
        "Share of the steps in which the learning rate rises from 0: steadier starts, a little slower.",
        cure="0.03 is usual.",
        ge=0,
        lt=1,
    )
    optimizer: Optimizer = setting(
        "adamw_8bit",
        "Optimizer",
        "8-bit states take a quarter of AdamW's memory; paged ones move to main memory when the card is full.",
        cure="adamw_8bit is a good start.",
    )
    weight_decay: float = setting(
        0.0,
        "Weight decay",
        "Pulls the adapter towards zero each step: a brake on over-fitting, and on learning.",
        cure="0 to 0.01 is usual.",
        ge=0,
        le=1,
    )
    max_grad_norm: float = setting(
        1.0,
        "Gradient clip",
        "Longer gradients are shortened to this norm: guards against a single bad batch.",
        cure="0.3 to 1 is usual.",
        gt=0,
    )
    gradient_checkpointing: bool = setting(
        True,
        "Gradient checkpointing",
        "Recomputes activations instead of keeping them: far less memory for about a third more time.",
        cure="Give true or false.",
    )
    batching: Batching = setting(
        "auto",
        "Batching",
        "Rows of any length padded, grouped by length, or packed into full sequences: less padding is faster, and packing makes fewer, larger steps.",
        cure="auto takes what keeps the batch as it is; padded, grouped, packed (rows stay apart) and wrapped (raw text, cut anywhere) are the others.",
    )
    eval_every: int = setting(
        50,
        "Evaluate every (steps)",
        "How often the held-out loss is measured; 0 means only at the end. Each time costs a pass over the held-out rows.",
        cure="Give 0 or more.",
        ge=0,
    )
    patience: int = setting(
        3,
        "Early stopping (evaluations)",
        "Ends the training when the held-out loss did not fall below its best in so many evaluations: saves time, and may miss a late fall. 0 never does.",
        cure="3 is usual; give 0 to train all steps.",
        ge=0,
    )
    keep: Literal["best", "last"] = setting(
        "best",
        "Adapter kept",
        "best keeps the adapter with the lowest held-out loss, last that of the last step, which has learned longer and may have memorized.",
        cure="Give best or last.",
    )
    checkpoint_every: int = setting(
        100,
        "Checkpoint every (steps)",
        "How often everything needed to resume is written; at most this many steps are lost. 0 means never.",
        cure="Give 0 or more.",
        ge=0,
    )
    seed: int = setting(
        3407,
        "Seed",
        "Fixes the adapter's start and the order of the rows, so that two runs can be compared.",
        cure="Any whole number from 0.",
        ge=0,
        lt=2**32,
    )

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps is {self.steps} and epochs is {self.epochs:g}; only one of them can end the run. Remove one."
            )
        return self


class Samples(Section):
    """What the model is asked while it learns, so that its answers can be read."""

    prompts: list[str] = setting(
        [],
        "Prompts",
        "Asked before, during and after training; without any, three rows' own questions are: held-out rows if there are some.",
        cure="Give a list of texts.",
    )
    system: str | None = setting(
        None,
        "System prompt",
        "Put before each prompt; use the one that your rows were written with, or none.",
        cure="Give a text, or leave it out.",
    )
    every: int = setting(
        50,
        "Sample every (steps)",
        "How often the prompts are answered; 0 means only before and after. Each time holds up training.",
        cure="Give 0 or more.",
        ge=0,
    )
    max_new_tokens: int = setting(
        128,
        "Longest answer (tokens)",
        "Where an answer is cut; longer answers take longer.",
        cure="Give 1 or more; 128 is a good start.",
        ge=1,
        le=32_768,
    )
    temperature: float = setting(
        0.0,
        "Temperature",
        "0 always takes the likeliest token, so that answers can be compared; higher is more varied.",
        cure="0 for comparing, 0.7 for chatting.",
        ge=0,
        le=5,
    )
    top_p: float = setting(
        1.0,
        "Top-p",
        "With a temperature: draw only from the likeliest tokens that make up this probability.",
        cure="0.9 to 1 is usual.",
        gt=0,
        le=1,
    )
    score_rows: int = setting(
        0,
        "Rows scored",
        "Held-out rows answered before and after and compared letter by letter (exact match); 0 skips it.",
        cure="Give 0 or more; 300 gives a steady figure.",
        ge=0,
    )


class Recipe(Section):
    """Every setting of a run. Raises RecipeError with all problems at once; `replace` gives a changed copy."""

    model: Model = Field(Model(), title="Model")
    lora: Lora = Field(Lora(), title="LoRA")
    data: Data = Field(Data(), title="Data")
    training: Training = Field(Training(), title="Training")
    samples: Samples = Field(Samples(), title="Samples")
    backend: Literal["auto", "unsloth", "peft"] = setting(
        "auto",
        "Backend",
        "Unsloth is faster and needs an NVIDIA GPU; PEFT with bitsandbytes runs anywhere. auto takes Unsloth where it can.",
        cure="Leave it at auto.",
    )

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            problems = {p.where: p for p in map(_problem, error.errors())}  # one for a union
            raise RecipeError(list(problems.values())) from None

    @property
    def effective_batch(self) -> int:
        """Rows that one optimizer step learns from."""
        return self.training.batch_size * self.training.accumulation

    @property
    def lora_scale(self) -> float:
        """What the adapter's output is multiplied by: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        rank = self.lora.rank
        return self.lora.alpha / (rank**0.5 if self.lora.rslora else rank)

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some settings changed: `recipe.replace(lora={"rank": 8}, backend="peft")`."""
        settings = self.model_dump()
        for name, value in changes.items():
            inside = settings.get(name)
            merge = isinstance(inside, dict) and isinstance(value, dict)
            settings[name] = {**inside, **value} if merge else value
        return Recipe(**settings)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by dotted name, in their order; what a user's own table holds is no setting."""
        found: dict[str, Any] = {}
        for name, value in self:
            inside = isinstance(value, Section)
            found |= {f"{name}.{key}": held for key, held in value} if inside else {name: value}
        return found

    def differences(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """The settings that differ, by dotted name, with the value here and there."""
        here, there = self.settings, other.settings
        return {name: (here[name], there[name]) for name in here if here[name] != there[name]}

    def as_code(self) -> str:
        """The Python that makes this recipe: only what differs from the defaults."""
        changed: dict[str, Any] = {}
        for name, (value, _) in self.differences(Recipe()).items():
            section, _, key = name.rpartition(".")
            if section:
                changed.setdefault(section, {})[key] = value
            else:
                changed[key] = value
        lines = "".join(f"    {name}={value!r},\n" for name, value in changed.items())
        return f"wb.Recipe(\n{lines})" if lines else "wb.Recipe()"

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> Path:
        """Writes the recipe as YAML and returns the path."""
        path = Path(path)
        path.write_text(self.to_yaml(), encoding="utf-8")
        return path

    @classmethod
    def from_yaml(cls, text: str, *, folder: str | Path = ".") -> "Recipe":
        """Reads YAML; paths in it that begin with ./ or ../ count from `folder`."""
        try:
            settings = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            where = " ".join(str(error).split())
            fact = f"The recipe is not valid YAML: {where}."
            raise RecipeError([Problem("", fact, "Correct that line.")]) from None
        if not isinstance(settings, dict):
            fact = f"The recipe is a {type(settings).__name__}; it must be a table of settings."
            raise RecipeError([Problem("", fact, "Begin with a line such as 'model:'.")])
        for section, key in PATHS:
            inside = settings.get(section)
            value = inside.get(key) if isinstance(inside, dict) else None
            if isinstance(value, str) and value.startswith(("./", "../")):
                inside[key] = str((Path(folder) / value).resolve())
        return cls(**{str(name): value for name, value in settings.items()})

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Reads a YAML file; paths in it that begin with ./ or ../ count from the file's folder."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            fact = f"The recipe {path} cannot be read: {reason}."
            raise RecipeError([Problem("", fact, "Give the path of a YAML file.")]) from None
        return cls.from_yaml(text, folder=path.parent)


def field(name: str) -> FieldInfo:
    """The field behind a dotted name such as "lora.rank": `title`, `description`, `default` and bounds."""
    section, _, key = name.rpartition(".")
    owner = Recipe.model_fields[section].annotation if section else Recipe
    return owner.model_fields[key]


def bounds(name: str) -> dict[str, float]:
    """The bounds of a numeric field by their pydantic names (`ge`, `gt`, `le`, `lt`), as far as it has them."""
    limits = {}
    for mark in field(name).metadata:
        for kind in ("ge", "gt", "le", "lt"):
            if hasattr(mark, kind):
                limits[kind] = getattr(mark, kind)
    return limits


_RULES = {
    "greater_than_equal": "it must be at least {ge}",
    "greater_than": "it must be greater than {gt}",
    "less_than_equal": "it must be at most {le}",
    "less_than": "it must be less than {lt}",
    "literal_error": "it must be {expected}",
    "int_parsing": "it must be a whole number",
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_parsing": "it must be a number",
    "float_type": "it must be a number",
    "bool_parsing": "it must be true or false",
    "bool_type": "it must be true or false",
    "string_type": "it must be a text",
    "list_type": "it must be a list",
    "dict_type": "it must be a table of names and values",
    "model_type": "it must be a group of settings",
    "model_attributes_type": "it must be a group of settings",
    "too_short": "it must not be empty",
    "string_too_short": "it must not be empty",
}


def _problem(error: Any) -> Problem:
    """One of pydantic's findings as fact, value and next step."""
    place = [str(part) for part in error["loc"] if not str(part).startswith(("literal[", "list["))]
    name = ".".join(place)
    if error["type"] == "extra_forbidden":
        owner = Recipe if len(place) == 1 else Recipe.model_fields[place[0]].annotation
        known = list(owner.model_fields)
        near = difflib.get_close_matches(place[-1], known, n=1)
        section = ".".join(place[:-1])
        cure = (
            f"Did you mean {'.'.join(filter(None, (section, near[0])))}?"
            if near
            else f"Known are: {', '.join(known)}."
        )
        return Problem(name, f"{name} is not a setting.", cure)
    if error["type"] == "value_error":
        return Problem(name, str(error["ctx"]["error"]), "")
    rule = _RULES.get(error["type"], error["msg"][:1].lower() + error["msg"][1:])
    limits = error.get("ctx", {})
    rule = rule.format(**{k: f"{v:g}" if isinstance(v, float) else v for k, v in limits.items()})
    try:
        cure = field(".".join(place[:2])).json_schema_extra["cure"]
    except (KeyError, TypeError, AttributeError):
        cure = "Remove it to take the default."
    return Problem(name, f"{name} is {error['input']!r}; {rule}.", cure)
