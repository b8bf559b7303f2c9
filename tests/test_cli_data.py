"""`workbench data …` through `main` and as a process: what it says, where, and with which exit code it ends."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_data_pieces import MESSY, chat
from test_panels_data import number_of

import workbench as wb
from workbench.cli import main
from workbench.data import pieces, report, write

MODEL = MESSY.parent / "tiny" / "model"
FILE = MESSY / "messy.jsonl"
WITH_MODEL = ("--model", MODEL, "--max-length", 128)
WITH_TOKENS = "Give --model NAME or --recipe FILE to see tokens, and what is learned of them.\n"
WORKBENCH = [sys.executable, "-m", "workbench", "data"]


@pytest.fixture
def data(capsys):
    """Runs a command and returns its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["data", *map(str, arguments)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def good(tmp_path) -> Path:
    """A file that nothing stops."""
    rows = [{"messages": [m.turn() for m in chat(f"Order {n}", f"It is number {n}").messages]} for n in range(40)]  # fmt: skip
    return write(rows, tmp_path / "good.jsonl")


# check


def test_check_tells_the_report_and_ends_with_2_when_something_stops_a_run(data):
    code, out, err = data("check", FILE, *WITH_MODEL, "--heldout", MESSY / "heldout.jsonl")
    assert code == 2
    assert err == ""
    for words in (
        "rows                120  8 more cannot be read",
        "rows are cut here, at 128 tokens",
        "messages[1] has the role 'robot'.",
        "[drop_duplicates]",
    ):
        assert words in out
    assert all(letter.isprintable() or letter in "\n\t" for letter in out)


def test_check_ends_with_0_when_nothing_stops_a_run(data, good):
    code, out, _ = data("check", good, *WITH_MODEL)
    assert code == 0
    assert "tokens" in out


def test_check_without_a_model_tells_what_it_can_and_how_to_get_the_rest(data, good):
    code, out, err = data("check", good)
    assert code == 0
    assert re.search(r"rows +40\n", out)
    assert "Tokens were not counted" in out
    assert err == WITH_TOKENS


def test_check_for_programs_has_rows_shape_and_problems(data):
    code, out, err = data("check", FILE, *WITH_MODEL, "--json")
    told = json.loads(out)
    assert (code, err) == (2, "")
    assert (told["rows"], told["shape"]) == (120, "messages")
    made = report(FILE, tokenizer=wb.data.ChatTokenizer.load(str(MODEL)), max_length=128, context=512)  # fmt: skip
    assert told["problems"] == made.to_dict()["problems"]
    robot = next(found for found in told["problems"] if found["kind"] == "unknown_role")
    assert robot["count"] == 1
    assert robot["rows"] == [number_of('"robot"')]
    assert robot["cure"] == "Known are system, user, assistant, tool."


def test_check_takes_everything_from_a_recipe_and_settings_on_top(data, tmp_path, good):
    recipe = wb.Recipe.load(MESSY.parent / "tiny" / "recipe.yaml")
    made = recipe.replace(data={"train": str(good), "heldout": None}).save(tmp_path / "r.yaml")
    settings = ("--set", "data.loss_on=all", "--set", "model.max_length=16")
    code, out, _ = data("check", "--recipe", made, *settings, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["rows"] == 40
    assert told["max_length"] == 16
    assert told["tokens"] == told["trained_tokens"]


# What cannot be used


def test_a_file_that_is_not_there_is_told_on_standard_error(data):
    code, out, err = data("check", "nothing.jsonl")
    assert (code, out) == (2, "")
    assert "nothing.jsonl cannot be read" in err


def test_and_for_programs_as_json(data):
    code, out, err = data("check", "nothing.jsonl", "--json")
    told = json.loads(out)
    assert code == 2
    assert (told["rows"], told["shape"]) == (0, None)
    (problem,) = told["problems"]
    assert (problem["kind"], problem["rows"]) == ("unusable", [])
    assert f"{problem['fact']} {problem['cure']}" == err.strip()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--max-length", 3), "model.max_length is 3; it must be at least 16."),
        (("--set", "data.shap=text"), "data.shap is not a setting. Did you mean data.shape?"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_settings_that_cannot_be_used_are_told_with_code_2(data, good, given, says):
    code, out, err = data("check", good, *given)
    assert (code, out) == (2, "")
    assert says in err


# show


def test_show_tells_what_becomes_of_a_rows_tokens(data):
    number = number_of("shop in London")
    code, out, _ = data("show", FILE, "--row", number, *WITH_MODEL)
    title, *lines = out.splitlines()
    assert code == 0
    assert title == f"row {number}: 143 tokens, 9 trained (7%), 15 truncated (15 of them lost to training)"  # fmt: skip
    assert [line.split(" | ")[0].strip() for line in lines] == ["context", "trained", "lost"]
    assert lines[1].endswith('{"customer": "Ada", "product": "lamp", "')


def test_show_says_the_same_as_the_notebook(data):
    recipe = wb.Recipe(data={"train": str(FILE)}, model={"name": str(MODEL), "max_length": 128})
    number = number_of("order 605")
    _, out, _ = data("show", FILE, "--row", number, *WITH_MODEL)
    assert out.strip() == wb.show_tokens(recipe, row=number).text


def test_show_without_a_model_tells_the_turns_and_how_to_see_tokens(data):
    code, out, err = data("show", FILE, "--row", 1)
    assert code == 0
    assert [line.split(" | ")[0].strip() for line in out.splitlines()] == [
        "row 1", "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert err == WITH_TOKENS


@pytest.mark.parametrize("more", [(), WITH_MODEL], ids=["turns", "tokens"])
def test_control_characters_of_a_row_do_not_reach_the_terminal(data, more):
    _, out, _ = data("show", FILE, "--row", number_of("\\u001b[2J"), *more)
    assert "\x1b" not in out and "\x07" not in out
    assert "<U+001B>[2J" in out


def test_show_for_programs(data):
    _, out, _ = data("show", FILE, "--row", 1, *WITH_MODEL, "--json")
    told = json.loads(out)
    assert "".join(piece["text"] for piece in told["pieces"]).startswith("<|begin|><|system|>")
    assert told["trained"] == sum(len(p["ids"]) for p in told["pieces"] if p["kind"] == "trained")
    _, out, err = data("show", FILE, "--row", 1, "--json")
    told = json.loads(out)
    assert told["row"] == 1
    assert [turn["role"] for turn in told["messages"]][:2] == ["system", "user"]
    assert err == ""


def test_a_row_that_cannot_be_read_is_told_with_its_fault(data):
    number = number_of('"robot"')
    code, out, err = data("show", FILE, "--row", number)
    assert (code, out) == (2, "")
    assert err.startswith(f"messy.jsonl, row {number}: messages[1] has the role 'robot'.")


# clean


def test_clean_writes_a_file_that_nothing_stops(data, tmp_path):
    new = tmp_path / "new.jsonl"
    code, out, _ = data("clean", FILE, "--to", new, *WITH_MODEL)
    assert code == 0
    assert "drop_faulty" in out and "row 72" not in new.read_text()
    after = int(re.search(r"([\d,]+) are in", out)[1])
    assert len(new.read_text().splitlines()) == after
    code, out, _ = data("check", new, *WITH_MODEL, "--json")
    assert code == 0
    kinds = {found["kind"] for found in json.loads(out)["problems"]}
    assert not kinds & {"duplicates", "secrets", "role_twice", "answer_cut_off"}


def test_clean_writes_over_a_file_only_when_told_to(data, tmp_path):
    there = tmp_path / "there.jsonl"
    there.write_text("mine")
    code, _, err = data("clean", FILE, "--to", there)
    assert code != 0 and there.read_text() == "mine"
    assert (
        f"There is a file {there} already. Give another path, or replace=True (--replace)." in err
    )
    assert data("clean", FILE, "--to", there, "--replace")[0] == 0


def test_clean_applies_the_cures_that_are_named(data, tmp_path):
    cures = ("--cure", "drop_faulty", "--cure", "drop_duplicates")
    _, out, _ = data("clean", FILE, "--to", tmp_path / "new.jsonl", *cures, "--json")
    told = json.loads(out)
    assert [each["cure"] for each in told["applied"]] == ["drop_faulty", "drop_duplicates"]
    assert told["before"] - told["after"] == sum(each["rows"] for each in told["applied"])


def test_every_cure_can_be_named(data, tmp_path, capsys):
    from workbench.data.clean import CURES

    for cure in CURES:
        code, _, err = data("clean", FILE, "--to", tmp_path / f"{cure}.jsonl", "--cure", cure)
        assert code == (0 if cure == "drop_faulty" else 2), err
    with pytest.raises(SystemExit):
        main(["data", "clean", str(FILE), "--to", "x.jsonl", "--cure", "drop_all"])
    assert "drop_faulty" in capsys.readouterr().err


def test_clean_never_writes_over_its_source(data):
    before = FILE.read_bytes()
    code, _, err = data("clean", FILE, "--to", FILE)
    assert code == 2
    assert "is the file that the rows come from" in err
    assert FILE.read_bytes() == before


# As a process


def test_json_is_all_that_is_on_standard_output():
    command = [*WORKBENCH, "check", str(FILE), "--json"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert out.returncode == 2
    assert json.loads(out.stdout)["rows"] == 120


def test_on_a_terminal_the_row_is_in_colour_and_the_text_the_same():
    command = [*WORKBENCH, "show", str(FILE), "--row", "1", *map(str, WITH_MODEL)]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    here, there = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command, stdout=there, stderr=subprocess.DEVNULL, env=environment)
    os.close(there)
    read = b""
    while True:
        try:
            some = os.read(here, 65536)
        except OSError:  # the other end is closed
            break
        if not some:
            break
        read += some
    os.close(here)
    assert process.wait(60) == 0
    text = read.decode()
    assert "\x1b[1;32m" in text  # what is trained
    assert re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text).replace("\r", "").split() == plain.split()


def test_pieces_of_the_command_line_have_a_style_for_every_kind():
    from workbench.data_cli import STYLES

    assert set(STYLES) == {*pieces.KINDS, "hidden"} - {"context"}


def test_a_cure_that_is_a_setting_is_told_in_the_words_of_the_command_line(data, tmp_path):
    path = tmp_path / "old.csv"
    path.write_bytes(
        "question;answer\nCafé?;Ja, später.\nWürde das über Nacht gehen?;Schön wäre es.\n".encode(
            "cp1252"
        )
    )
    code, _, err = data("check", path)
    assert code == 2
    assert "set data.encoding to cp1252" in err
    assert err.rstrip().endswith("Settings are given as --set data.encoding=cp1252.")
    code, out, _ = data("check", path, "--set", "data.encoding=cp1252")
    assert code == 0 and "question and answer" in out
