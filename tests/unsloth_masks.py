"""Run as a process of its own, with tests/unsloth_on_cpu on its path: asks the real Unsloth which tokens it would train.

python unsloth_masks.py ASKED ANSWERED     reads [{"folder", "instruction", "response", "rows": [ids, ...]}, ...] and
writes for each its rows' labels.
"""

import json
import sys
from pathlib import Path

import unsloth  # noqa: F401 - before Transformers, as it wants
from transformers import AutoTokenizer
from unsloth.chat_templates import train_on_responses_only

asked, answered = map(Path, sys.argv[1:])
labels = []
for one in json.loads(asked.read_text()):
    tokenizer = AutoTokenizer.from_pretrained(one["folder"])
    mask = train_on_responses_only(
        None,
        instruction_part=one["instruction"],
        response_part=one["response"],
        tokenizer=tokenizer,
        return_function=True,
    )
    said = mask({"input_ids": one["rows"]})["labels"]
    labels.append([[int(label) for label in row] for row in said])
answered.write_text(json.dumps(labels))
