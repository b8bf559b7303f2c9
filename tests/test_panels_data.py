"""The panels for rows without a kernel: what is shown is safe and readable without colour, what is pressed is done."""

import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from xml.etree import ElementTree

import ipywidgets as widgets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipywidgets.widgets import widget as all_widgets
from test_data_pieces import LENGTH, MESSY, chat, shown
from test_panels import inside, tooltip

import workbench as wb
from workbench.data import clean
from workbench.data.pieces import MOST
from workbench.panels import progress
from workbench.panels.rows import lengths, report_page, tokens
from workbench.panels.rows.data_report import DataReport, by_cure
from workbench.panels.rows.inspector import TokenInspector
from workbench.problems import DataError
from workbench.recipe import Recipe


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The messy file, read by the tiny model."""
    made = Recipe.load(MESSY.parent / "tiny" / "recipe.yaml")
    data = {"train": str(MESSY / "messy.jsonl"), "heldout": str(MESSY / "heldout.jsonl")}
    return made.replace(data=data, model={"max_length": LENGTH})


@pytest.fixture
def inspector(recipe) -> TokenInspector:
    return wb.token_inspector(recipe)


@pytest.fixture
def panel(recipe, tmp_path) -> DataReport:
    return wb.data_report(recipe, to=tmp_path / "clean.jsonl")


def number_of(words: str) -> int:
    """The number of the first row of the messy file with these words."""
    lines = (MESSY / "messy.jsonl").read_text(encoding="utf-8").split("\n")
    return next(number for number, line in enumerate(lines, 1) if words in line)


class Reader(HTMLParser):
    """What a browser makes of HTML: the tags, and the text in the row's box."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.open, self.row = Counter(), [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        assert not [name for name in names if name.startswith("on")]
        self.tags[tag] += 1
        self.open.append((tag, names))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        boxes = [names.get("class") for _, names in self.open]
        hidden = any(names.get("aria-hidden") for _, names in self.open)
        self.row += data if "wb-row" in boxes and not hidden else ""


# Tokens as a page


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_a_row_says_stays_text_and_can_be_seen(text):
    html = tokens.html(shown(chat(text, text), max_length=20, pad_to=30))
    read = Reader(html)
    assert set(read.tags) <= set("div span b mark del bdi details summary code".split())
    assert all(letter.isprintable() or letter in "\n\t" for letter in html)
    if "\r" not in text:
        plain = re.sub(r"U\+[0-9A-F]{4,6}", "", text)
        letters = [c for c in plain if c.isprintable() or c in "\n\t"]
        assert not Counter(letters) - Counter(read.row)


def test_a_script_in_a_row_stays_text(recipe):
    number = number_of("<script>")
    page = wb.show_tokens(recipe, row=number)
    assert "<script" not in page.html
    assert "<img" not in page.html
    assert "taken over" in Reader(page.html).row
    assert "<script>" in page.text


def test_every_fate_is_told_apart_without_colour():
    row = chat("Well", "Yes. No.")
    html = tokens.html(shown(row, max_length=9))
    box = html[html.index('class="wb-row"') :]
    looks = {
        kind: re.sub(r"(var|color-mix)\([^;]*", "", style)
        for kind, style in re.findall(r'class="wb-(trained|context|lost)" style="([^"]*)"', box)
    }
    assert len(set(looks.values())) == 3
    assert "underline solid" in looks["trained"]
    assert "underline dotted" in looks["context"]
    assert "line-through" in looks["lost"]
    assert box.count("<mark") == 1 and box.count("<del") == 1  # for where styles are removed
    assert box.count("outline:1px solid") == 5  # special tokens
    padded = tokens.html(shown(row, pad_to=40))
    assert "repeating-linear-gradient" in padded
    assert "&times; 27" in padded


def test_the_legend_counts_what_is_shown():
    html = tokens.html(shown(chat("Well", "Yes. No."), max_length=9, pad_to=9))
    legend = unescape(re.sub("<[^>]*>", "", re.search('wb-legend".*?</div>', html)[0]))
    assert re.findall(r"([a-z][a-z ,:]*?)\s*(\d+)", legend.partition(">")[2]) == [
        ("trained", "2"),
        ("context: read, not learned", "7"),
        ("lost: truncated, would be trained", "4"),
        ("special token", "4"),
    ]


def test_ids_are_there_on_hover_and_to_unfold():
    seen = shown(chat("Well 😀", "Yes"))
    html = tokens.html(seen)
    (ids,) = re.findall(r"<code[^>]*>([\d ]+)</code>", html)
    told = [token for title in re.findall(r'title="[^"]*, id ([\d ]+)"', html) for token in title.split()]  # fmt: skip
    assert told == ids.split()
    assert len(told) == seen.counts.tokens


def test_a_row_of_100_000_characters_is_a_page_that_a_browser_can_show():
    seen = shown(chat("One two three. " * 7_000, "Yes."), max_length=10**6)
    html = tokens.html(seen)
    assert len(html) < 1_000_000
    assert html.count(" title=") <= MOST
    assert f"{seen.hidden:,} more tokens" in html
    assert '<mark class="wb-trained"' in html


def test_the_page_of_a_row_says_the_same_as_its_text(recipe):
    page = wb.show_tokens(recipe, row=1)
    assert page.text.startswith("row 1: ")
    assert page.text.split(": ")[1].split("\n")[0] in unescape(page.html)


def test_masks_can_be_compared(recipe):
    texts = {
        loss_on: wb.show_tokens(recipe.replace(data={"loss_on": loss_on}), row=1).text
        for loss_on in ("assistant", "last", "all")
    }
    kinds = {name: Counter(re.findall(r"(?m)^ *(\w+) \|", text)) for name, text in texts.items()}
    assert kinds["assistant"]["trained"] == 2
    assert kinds["last"]["trained"] == 1
    assert kinds["all"] == {"trained": 1}


def test_a_row_that_is_not_there_is_told(recipe):
    with pytest.raises(DataError) as raised:
        wb.show_tokens(recipe, row=9_999)
    assert "row 9,999" in str(raised.value)


# The inspector


def test_a_number_goes_to_its_row_and_previous_and_next_go_on(inspector):
    assert inspector.row == 1
    inspector.number.value = 5
    assert inspector.row == 5
    assert "<b>row 5</b>" in inspector._view.value
    inspector.next.click()
    assert (inspector.row, inspector.number.value) == (6, 6)
    inspector.previous.click()
    inspector.previous.click()
    assert inspector.row == 4
    inspector.show(1)
    inspector.previous.click()
    assert inspector.position == len(inspector.tokenized) - 1


def test_a_faulty_row_is_refused_with_its_fault_and_the_next_move_clears_it(inspector):
    bad = number_of('"robot"')
    inspector.number.value = bad
    assert "messages[1] has the role &#x27;robot&#x27;" in inspector.banner.value
    inspector.next.click()
    assert inspector.banner.value == ""
    assert inspector.row == 2


def test_the_buttons_go_from_worst_to_next_worst(inspector):
    inspector.worst_buttons["answer cut"].click()
    assert inspector.row == number_of("shop in London")
    assert "wb-lost" in inspector._view.value
    seen = []
    for _ in range(6):
        inspector.worst_buttons["nothing trained"].click()
        seen.append(inspector.position)
    ranked = inspector.worst["nothing trained"]
    assert seen == [*ranked.positions, ranked.positions[0]]
    assert "number 1 of 5" in inspector._note.value


def test_a_button_without_such_rows_says_so_and_cannot_be_pressed(recipe):
    long = wb.token_inspector(recipe.replace(model={"max_length": 4096}))
    for kind, label in (("answer cut", "Answer cut (0)"), ("nothing trained", "Nothing trained (0)")):  # fmt: skip
        assert long.worst_buttons[kind].description == label
        assert long.worst_buttons[kind].disabled


def test_a_text_is_found_and_found_again(inspector, monkeypatch):
    inspector.text.value = "SHOP IN LONDON"
    assert inspector.row == number_of("shop in London")
    inspector.find.click()  # leaving the box for the button has found it already
    assert inspector.row == number_of("shop in London")
    inspector.text.value = "I want a visit."
    first = inspector.row
    inspector._found_at = 0.0
    inspector.find.click()
    assert inspector.row != first
    inspector.text.value = "no row says this"
    assert "No row has &#x27;no row says this&#x27; in it." in inspector._note.value


def test_its_line_of_python_shows_the_same_row(inspector, recipe):
    inspector.worst_buttons["longest"].click()
    line = unescape(re.search("<code[^>]*>(.*)</code>", inspector._code.value)[1])
    assert eval(line, {"wb": wb, "recipe": recipe}).text == inspector.page.text


def test_rows_that_cannot_be_read_are_told_at_first(inspector):
    assert "8 more rows cannot be read." in inspector.banner.value


def test_of_several_files_the_file_is_chosen_too(recipe, tmp_path):
    for name, asked in (("a", "Hi"), ("b", "Ho")):
        rows = [{"messages": [m.turn() for m in chat(f"{asked} {n}", "Yes").messages]} for n in range(3)]  # fmt: skip
        wb.data.write(rows, tmp_path / f"{name}.jsonl")
    made = recipe.replace(data={"train": str(tmp_path)})
    inspector = wb.token_inspector(made)
    inspector.show(2, file="b.jsonl")
    assert inspector.file.value == "b.jsonl"
    assert "Ho 1" in inspector.page.text.replace("\n", "")
    assert "file=&#x27;b.jsonl&#x27;" in inspector._code.value
    inspector.file.value = "a.jsonl"
    assert "Hi 1" in inspector.page.text


def test_a_saved_notebook_keeps_the_row(inspector):
    html = inspector.bundle()["text/html"]
    assert "wb-trained" in html
    assert "row 1" in repr(inspector)


# The report


def test_the_report_page_tells_everything_and_escapes_it(recipe):
    page = wb.show_report(recipe)
    told = unescape(re.sub("<[^>]*>", " ", page.html))
    report = page.report
    for found in report.findings:
        assert found.fact in told
        assert found.cure in told
    assert page.text == str(report)
    Reader(page.html.replace("<br>", ""))
    assert f"{report.figures.tokens:,}" in told
    assert report.batching.why in told
    assert "sequence length 128" in told


def test_findings_are_sorted_by_harm(recipe):
    html = wb.show_report(recipe).html
    marks = re.findall(r'aria-label="(error|warning|note)"', html)
    assert marks == sorted(marks, key=("error", "warning", "note").index)


def test_without_findings_that_is_said():
    assert "Nothing was found" in report_page.findings_html([])


def test_the_suggested_cures_are_ticked_and_the_line_does_what_the_button_does(panel, tmp_path):
    before = (MESSY / "messy.jsonl").read_bytes()
    assert set(panel.cures) == {
        "drop_faulty", "mask_secrets", "merge_turns", "drop_last_user_turn",
        "drop_untrained", "drop_duplicates", "drop_leaks",
    }  # fmt: skip
    panel.button.click()
    pressed = (tmp_path / "clean.jsonl").read_bytes()
    line = unescape(re.search("<code[^>]*>(.*)</code>", panel._code.value)[1])
    cleaned = eval(line, {"wb": wb, "report": panel.report})
    assert cleaned == panel.cleaned
    assert (tmp_path / "clean.jsonl").read_bytes() == pressed
    assert clean(panel.report, "suggested", to=tmp_path / "other.jsonl").after == cleaned.after
    assert (MESSY / "messy.jsonl").read_bytes() == before
    for each in cleaned.applied:
        assert each.cure in panel._done.value
    assert f"{cleaned.after:,} are in" in panel._done.value


def test_what_is_ticked_is_what_is_applied(panel):
    for name, box in panel.boxes.items():
        box.value = name in ("drop_faulty", "drop_duplicates")
    assert '["drop_faulty", "drop_duplicates"]' in unescape(panel._code.value)
    assert [each.cure for each in panel.clean().applied] == ["drop_faulty", "drop_duplicates"]
    for box in panel.boxes.values():
        box.value = False
    assert panel.button.disabled


def test_every_cure_that_findings_name_has_a_box(panel):
    remedies = {found.remedy for found in panel.report.findings} - {""}
    assert set(by_cure(panel.report)) == set(panel.boxes) == remedies


def test_what_cannot_be_cleaned_is_told_in_the_banner(panel):
    panel.boxes["drop_faulty"].value = False
    panel.button.click()
    assert "8 rows of messy.jsonl cannot be read" in panel.banner.value
    assert panel.cleaned is None
    panel.boxes["drop_faulty"].value = True
    panel.to.value = "clean.txt"
    panel.button.click()
    assert "does not end in .jsonl" in panel.banner.value


def test_a_saved_notebook_keeps_the_report(panel):
    assert "wb-figures" in panel.bundle()["text/html"]
    assert "row" in repr(panel)


# Both panels


def test_every_control_has_a_label_and_a_tooltip(inspector, panel):
    found = 0
    for root in (inspector, panel):
        for made in inside(root):
            if made.has_trait("description") and not isinstance(made, widgets.HTML):
                assert made.description, made
                assert len(tooltip(made)) > 10, made.description
                found += 1
    assert found > 15


def test_panels_that_are_made_again_leave_nothing_behind(recipe):
    for make in (wb.token_inspector, wb.data_report):
        make(recipe)
        before = len(all_widgets._instances)
        for _ in range(3):
            last = make(recipe)
        assert len(all_widgets._instances) == before
        last.close()
        assert len(all_widgets._instances) < before


# Lengths


@pytest.mark.parametrize("max_length", [16, 100, 128, 5_000])
def test_the_histogram_has_a_bar_for_each_length_that_occurs(max_length):
    edges, counts = [32, 64, 128, 256, 512], [3, 0, 1, 40_000]
    root = ElementTree.fromstring(lengths.svg(np.array(edges), np.array(counts), max_length))
    bars = root.findall("rect")
    heights = [float(bar.get("height")) for bar in bars]
    assert len(bars) == 3
    assert min(heights) >= lengths.LEAST and max(heights) == heights[-1]
    cut = [edges[place] >= max_length for place in (0, 2, 3)]
    assert ["cut" in bar.find("title").text for bar in bars] == cut
    for bar in bars:
        assert float(bar.get("x")) >= lengths.LEFT
        assert float(bar.get("x")) + float(bar.get("width")) <= lengths.WIDTH - lengths.RIGHT + 0.1
    texts = [text.text for text in root.findall("text")]
    assert f"sequence length {max_length:,}" in texts
    assert root.get("aria-label").startswith("Histogram of the rows' lengths: 40,004 rows")


def test_a_bar_says_how_many_rows_and_which_lengths():
    root = ElementTree.fromstring(lengths.svg([32, 64], [1], 48))
    assert root.find("rect/title").text == "33 to 64 tokens: 1 row"


# Progress


def test_progress_is_shown_after_a_while_and_gone_at_the_end(monkeypatch):
    drawn: list[str] = []

    class Handle:
        def update(self, shown):
            drawn.append(shown.data)

    def display(shown, display_id):
        drawn.append(shown.data)
        return Handle()

    monkeypatch.setattr("IPython.get_ipython", object)
    monkeypatch.setattr("IPython.display.display", display)
    times = iter([0.0, 0.5, 1.5, 1.6, 2.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with progress.bar("Reading <rows>") as tell:
        for done in range(4):
            tell(done, 4)
    assert [re.sub("<[^>]*>", "", html).strip() for html in drawn] == [
        "Reading &lt;rows&gt;  25%",
        "Reading &lt;rows&gt;  75%",
        "",
    ]


def test_outside_of_a_notebook_no_bar_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.bar("Reading") as tell:
        tell(1, 2)
    assert capsys.readouterr().out == ""


def test_a_bar_without_an_end_says_how_far_it_is():
    assert 'max="4"' in progress.html("x", 1, 4)
    assert "max" not in progress.html("x", 1_000, None)
    assert "1,000" in progress.html("x", 1_000, None)
