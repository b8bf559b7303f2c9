"""What was planned for a run before its worker started: `plan.json` in its folder. Knows nothing of how it was planned."""

import json
from pathlib import Path
from typing import Any

FILE = "plan.json"


def read(folder: Path) -> dict[str, Any] | None:
    """The plan, None where there is none or it cannot be read: then the worker measures without a prediction."""
    try:
        plan = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def advice(plan: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Settings to turn, the best first: each with its `text`, what it `saves` in bytes, and the `settings`."""
    found = (plan or {}).get("advice")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
