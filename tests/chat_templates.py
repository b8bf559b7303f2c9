"""Real chat templates for the tests, read from the installed TRL and Unsloth, and a tokenizer that knows their tokens."""

import ast
import importlib.util
import json
from functools import cache
from pathlib import Path

from workbench.data.rows import Message, Row
from workbench.data.tokenizer_files import named, template

TINY = Path(__file__).parents[1] / "data" / "tiny" / "model"
TOKENS = """<s> </s> <|endoftext|> <|im_start|> <|im_end|> <|im_sep|> <|begin_of_text|> <|eot_id|> <|eom_id|>
<|start_header_id|> <|end_header_id|> <start_of_turn> <end_of_turn> [INST] [/INST]""".split()
ADDED = "<think> </think> <tool_call> </tool_call> <tool_response> </tool_response>".split()

# of TRL: as the models ship them, and those that were changed for training and marked
PLAIN = (
    "llama3 llama3_1 llama3_2 qwen2_5 qwen3 qwen3_instruct_2507 gemma gemma3 phi3 phi3_5".split()
)
MARKED = "llama3 qwen2_5 qwen3 qwen3_instruct_2507 gemma gemma3 phi3 phi3_5".split()
# of Unsloth: the names of its variables
UNSLOTH = """chatml llama3 llama31 qwen25 qwen3 qwen3_instruct gemma gemma3 mistral phi3 phi4 zephyr llama vicuna
alpaca""".split()


def folder_of(package: str) -> Path:
    """Where a package is installed, without importing it."""
    return Path(importlib.util.find_spec(package).origin).parent


@cache
def trl(name: str) -> str:
    return (folder_of("trl") / "chat_templates" / f"{name}.jinja").read_text()


@cache
def unsloth() -> dict[str, str]:
    """Unsloth's templates by name, read from its source; empty where it is not installed."""
    if importlib.util.find_spec("unsloth") is None:
        return {}
    tree = ast.parse((folder_of("unsloth") / "chat_templates.py").read_text())
    texts = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            name = node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""
            if name.endswith("_template") and isinstance(node.value.value, str):
                said = node.value.value.replace("{system_message}", "You are kind.")
                texts[name.removesuffix("_template").removeprefix("liquid_")] = said
    return {name: texts[name] for name in UNSLOTH if name in texts}


def every() -> dict[str, str]:
    """All templates by a name for the test's output."""
    return (
        {f"trl-{name}": trl(name) for name in PLAIN}
        | {f"trl-{name}_training": trl(f"{name}_training") for name in MARKED}
        | {f"unsloth-{name}": text for name, text in unsloth().items()}
        | {f"ours-{name}": template(name) for name in named()}
    )


def eos(name: str) -> str:
    """The token that ends texts for the model of a template."""
    return (
        "</s>"
        if any(part in name for part in ("mistral", "zephyr", "-llama", "vicuna"))
        and "llama3" not in name
        else "<|endoftext|>"
    )


def save_tokenizer(folder: Path, text: str, eos_token: str = "<|endoftext|>") -> Path:
    """The tiny model's tokenizer with the tokens of all templates, saved by Transformers."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(TINY)
    made.add_special_tokens({"bos_token": "<s>", "eos_token": eos_token})
    made.add_tokens(TOKENS, special_tokens=True)
    made.add_tokens(ADDED)
    made.chat_template = text
    made.save_pretrained(folder)
    return folder


def row(*turns: tuple[str, str], number: int = 1, tools: list | None = None) -> Row:
    messages = tuple(turn if isinstance(turn, Message) else Message(*turn) for turn in turns)
    return Row(number, messages, json.dumps(tools) if tools else "")


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Looks a case up.",
            "parameters": {
                "type": "object",
                "properties": {"case": {"type": "integer", "description": "Its number."}},
                "required": ["case"],
            },
        },
    }
]
CALL = json.dumps([{"name": "lookup", "arguments": {"case": 705}, "id": "abcdefghi"}])

ROWS = {
    "single": row(("user", "Hi, this is Ben."), ("assistant", "Hello Ben.")),
    "system": row(("system", "Be brief."), ("user", "And 705?"), ("assistant", "It is damaged.")),
    "several": row(
        ("user", "Hi, this is Ben."),
        ("assistant", "Hello Ben."),
        ("user", "And 705?"),
        ("assistant", "It is damaged.\nSend it back."),
        ("user", "Thank you."),
        ("assistant", "Goodbye."),
    ),
    "system, several": row(
        ("system", "Be brief."),
        ("user", "Hi."),
        ("assistant", "Hello."),
        ("user", "Hello."),
        ("assistant", "Hi."),
    ),
    "unicode": row(
        ("user", "Wie heißt „Grün“ auf Japanisch? 🙂"), ("assistant", "緑 (みどり), 👩‍🚀 e\u0301té.")
    ),
    "same words": row(("user", "user"), ("assistant", "assistant"), ("user", "user"), ("assistant", "user")),
    "space around": row(("user", "  Hi\n"), ("assistant", "\n Hello \n"), ("user", " ok "), ("assistant", " Bye. ")),
    "markup": row(
        ("user", "Write <|im_end|> and <b>&amp;</b> {{ x }} {% y %}"),
        ("assistant", 'It is "<|im_start|>user".'),
        ("user", "[/INST] <end_of_turn>"),
        ("assistant", "### Assistant:\nNo."),
    ),
    "empty system": row(("system", ""), ("user", "Hi."), ("assistant", "Hello.")),
    "empty answer": row(("user", "Hi."), ("assistant", ""), ("user", "Hi?"), ("assistant", "Hello.")),
    "thinking": row(
        ("user", "2 + 2?"),
        Message("assistant", "4", reasoning="Two and two."),
        ("user", "And 3 + 3?"),
        Message("assistant", "6", reasoning="Three and three."),
    ),
    "thinking in words": row(
        ("user", "2 + 2?"),
        ("assistant", "<think>\nTwo and two.\n</think>\n\n4"),
        ("user", "And 3 + 3?"),
        ("assistant", "<think>\nThree.\n</think>\n\n6"),
    ),
    "tools": row(
        ("user", "And 705?"),
        Message("assistant", "", tool_calls=CALL),
        Message("tool", '{"state": "damaged"}', name="lookup", call_id="abcdefghi"),
        ("assistant", "It is damaged."),
        ("user", "Thank you."),
        ("assistant", "Goodbye."),
        tools=TOOLS,
    ),
    "tools, twice": row(
        ("system", "Be brief."),
        ("user", "And 705?"),
        Message("assistant", "I look.", tool_calls=CALL),
        Message("tool", "damaged", name="lookup", call_id="abcdefghi"),
        Message("assistant", "", tool_calls=CALL),
        Message("tool", "lost", name="lookup", call_id="abcdefghi"),
        ("assistant", "It is damaged and lost."),
        tools=TOOLS,
    ),
    "tools, none called": row(("user", "Hi."), ("assistant", "Hello."), tools=TOOLS),
}  # fmt: skip
