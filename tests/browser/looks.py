"""What the browser tests share: pictures in outputs/screenshots, themes, what axe-core finds, and how controls are moved."""

from importlib import resources
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "outputs" / "screenshots"
MARGIN = 12  # pixels around what is photographed
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
#: Faults of these grades are none that somebody could live with.
GRAVE = ("serious", "critical")
AXE = """async css => {
    const found = await axe.run({include: [[css]]}, {
        runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'], resultTypes: ['violations']});
    return found.violations.map(fault => ({id: fault.id, impact: fault.impact,
        nodes: fault.nodes.map(node => node.html.slice(0, 300) + ' | ' + node.failureSummary)})); }"""
CONTROLS = """css => [...document.querySelectorAll(css + ' :is(input, select, textarea, button)')]
    .filter(one => one.offsetParent !== null && !one.disabled)
    .map(one => (one.labels?.[0] ?? one).innerText.trim() || one.getAttribute('aria-label') || one.title || '')"""
FOCUSED = """() => { const one = document.activeElement;
    return (one.labels?.[0] ?? one).innerText.trim() || one.getAttribute('aria-label') || one.title || ''; }"""
IS_CONTROL = "() => document.activeElement.matches('input, select, textarea, button')"
#: How the focused control differs from how it looks without the focus: an outline, a shadow or another border.
RING = """() => { const one = document.activeElement, look = () => { const s = getComputedStyle(one);
        return [s.outlineStyle === 'none' ? '' : s.outlineWidth + s.outlineColor, s.boxShadow, s.borderColor,
                s.backgroundColor].join('|'); };
    const on = look(); one.blur(); const off = look(); one.focus(); return on !== off; }"""


def cell(page: Any, code: str) -> int:
    """The number of the cell that holds this code."""
    find = """code => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells
        .findIndex(cell => cell.cell_type === 'code' && cell.source.includes(code))"""
    return page.evaluate(find, code)


def photograph(page: Any, name: str, css: str) -> Path:
    """A picture of an element in outputs/screenshots."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    picture(page, path, css)
    return path


def picture(page: Any, path: Path, css: str) -> None:
    """An element with a margin around it, as far as the page is high."""
    page.evaluate("css => document.querySelector(css).scrollIntoView()", css)
    page.wait_for_timeout(300)
    box, view = page.locator(css).first.bounding_box(), page.viewport_size
    x, y = max(0, box["x"] - MARGIN), max(0, box["y"] - MARGIN / 2)
    width = min(box["width"] + 2 * MARGIN, view["width"] - x)
    height = min(box["height"] + MARGIN, view["height"] - y)
    page.screenshot(path=path, clip={"x": x, "y": y, "width": width, "height": height})


def theme(page: Any, name: str) -> None:
    """Changes JupyterLab's theme: light or dark."""
    change = (
        f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: '{THEMES[name]}'}})"
    )
    page.evaluate(f"() => {change}.then(() => null)")
    is_light = "light => document.body.dataset.jpThemeLight === light"
    page.wait_for_function(is_light, arg="true" if name == "light" else "false")
    page.wait_for_timeout(700)  # its style sheet is loaded


def faults(page: Any, css: str) -> list[str]:
    """What axe-core finds to be serious or critical inside of an element."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(resources.files("axe_core_python").joinpath("axe.min.js").read_text())
    found = [fault for fault in page.evaluate(AXE, css) if fault["impact"] in GRAVE]
    return [f"{fault['id']}: {node}" for fault in found for node in fault["nodes"]]


def controls(page: Any, css: str) -> list[str]:
    """The names of all controls in an element that can be used now, in the order of the page."""
    return page.evaluate(CONTROLS, css)


def tabbed(page: Any, css: str) -> list[str]:
    """The names of the controls that Tab leads to, from the first in an element on, as many as it has.

    Each must show that it has the focus. Boxes that scroll get it too, and are passed over.
    """
    count = len(controls(page, css))
    page.locator(f"{css} :is(input, select, textarea, button):visible:enabled").first.focus()
    names: list[str] = []
    for _ in range(2 * count):
        if page.evaluate(IS_CONTROL):
            names.append(page.evaluate(FOCUSED))
            assert page.evaluate(RING), f"{names[-1]} does not show that it has the focus"
        if len(names) == count:
            break
        page.keyboard.press("Tab")
    return names


def move(page: Any, css: str) -> str:
    """Changes a control to something else as a user would; returns what was done."""
    control = page.locator(f"{css} :is(input, select, textarea)").first
    kind = control.evaluate("one => one.type || one.tagName.toLowerCase()")
    if kind == "checkbox":
        control.click()
        return "clicked"
    if kind.startswith("select"):
        options = control.locator("option").all_inner_texts()
        now = control.evaluate("one => one.selectedOptions[0].innerText")
        other = next(text for text in options if text != now)
        control.select_option(label=other)
        return other
    value = control.input_value()
    other = (
        str(float(value) / 2 if float(value) > 0.5 else float(value) + 0.25)
        if kind == "number"
        else f"{value}x"
    )
    if kind == "number" and "step" and control.evaluate("one => one.step") in ("", "1"):
        other = str(int(float(value)) + 1)
    control.fill(other)
    control.press("Tab")
    return other
