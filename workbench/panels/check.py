"""What this machine can do, as a table with the next step beside each problem. Knows no widgets."""

from html import escape

from ..machine import Machine, look, report
from . import pages

_LEVELS = {"ok": "ok", "warn": "warning", "stop": "error"}
_ORDER = ("stop", "warn", "ok")


def check_machine(machine: Machine | None = None) -> pages.Page:
    """What has to be mended first, then what will be slower or different, then what is good."""
    findings = sorted(report(machine or look()), key=lambda found: _ORDER.index(found.level))
    stops = sum(found.level == "stop" for found in findings)
    verdict = f"{stops} to mend before a run." if stops else "Ready for a run."
    html = "".join(pages.message(_LEVELS[f.level], f.fact, f.cure) for f in findings)
    text = "\n".join(f"{f.level:5} {f.fact} {f.cure}".rstrip() for f in findings)
    return pages.Page(f"<p><b>{escape(verdict)}</b></p>{html}", f"{verdict}\n{text}")
