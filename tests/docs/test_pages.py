"""Pages show files as they are, the picture shows the house as it is, and the results are those of the reports."""

from __future__ import annotations

import itertools
import re
import shlex

import pytest

from docs.tools.house import draw
from docs.tools.pages import DOCS, MEASURED, README, SNIPPETS, shown_in, with_figures, with_snippets
from docs.tools.results import Report, missed, read_reports, results_page
from docs.tools.rooms import arrows, rooms
from tests.house import FLOOR, imports, room_of
from vlp.cli import build_parser
from vlp.recipe.arguments import parse

PAGES = sorted(DOCS.glob("*.md"))
WITH_COMMANDS = [*PAGES, README, *(README.parent / name / "README.md" for name in ("data", "eval", "benchmarks"))]
HOW_TOS = [page for page in PAGES if page.stem.startswith("add-a") and page.stem != "add-a-dataset"]


def test_there_is_a_page_for_each_kind_of_part():
    assert {page.stem for page in HOW_TOS} >= {
        *("add-a-term", "add-a-strategy", "add-an-evaluator", "add-a-tower", "add-a-source", "add-a-rule"),
    }


@pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.stem)
def test_a_page_shows_files_as_they_are(page):
    text = page.read_text(encoding="utf-8")
    assert shown_in(text)
    assert with_snippets(text) == text, "renew it: make pages"


@pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.stem)
def test_a_page_shows_no_other_python(page):
    """What a test does not run ages."""
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)) <= set(shown_in(text).values())


def test_every_part_is_shown_somewhere():
    shown = {name for page in PAGES for name in shown_in(page.read_text(encoding="utf-8"))}
    files = {str(path.relative_to(SNIPPETS)) for path in SNIPPETS.rglob("*.*") if "__pycache__" not in path.parts}
    assert files - shown == {"recipes/vitb32_distance.yaml"}  # every term needs a recipe; one is shown


def test_another_file_makes_a_page_stale():
    text = "[`eval/x.yaml`](snippets/eval/emoji24-calibration.yaml):\n\n```yaml\nversion: 0\n```\n"
    assert "version: 0" not in with_snippets(text) and "evaluator: calibration" in with_snippets(text)


def commands_in_blocks(text):
    """Return the words of every `vlp` command of a page that stands in a block, without what a shell does behind it."""
    lines = (
        "\n".join(re.findall(r"```(?:bash|text)\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ").splitlines()
    )
    found = [shlex.split(match[1], comments=True) for line in lines if (match := re.match(r"(?:\$ )?vlp (.+)", line))]
    return [list(itertools.takewhile(lambda word: word not in ("|", ">", "&&", ";"), words)) for words in found]


def what_is_wrong_with(words, capsys):
    """Return what the command line says of a command, or nothing."""
    try:
        parse(build_parser(), words)
    except SystemExit as left:
        return capsys.readouterr().err if left.code else ""
    return ""


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(README.parent)))
def test_the_command_line_understands_every_command_of_a_page(page, capsys):
    text = page.read_text(encoding="utf-8")
    for words in commands_in_blocks(text):
        assert not what_is_wrong_with(words, capsys), words
    for words in map(str.split, re.findall(r"`vlp ([^`]+)`", text)):  # which may leave out what a sentence is not about
        if words[0].islower():
            assert not re.search("unrecognized|invalid choice", what_is_wrong_with(words, capsys)), words


def test_pages_with_commands_that_do_not_exist_are_seen(capsys):
    assert len([words for page in WITH_COMMANDS for words in commands_in_blocks(page.read_text("utf-8"))]) > 150
    wrong = "```bash\nvlp data split a.yaml --to a \\\n  --names train=1  # x\n```"
    (words,) = commands_in_blocks(wrong)
    assert words == ["data", "split", "a.yaml", "--to", "a", "--names", "train=1"]
    assert "--shares" in what_is_wrong_with(words, capsys)


def test_the_picture_of_the_house_is_up_to_date():
    assert (DOCS / "images" / "house.svg").read_text(encoding="utf-8") == draw(), "renew it: make pages"


def test_the_picture_shows_every_room_and_hides_no_import():
    assert rooms().keys() == FLOOR.keys()
    reached = {name: {name} for name in rooms()}
    for name in sorted(rooms(), key=FLOOR.__getitem__):
        for upper, lower in arrows():
            if upper == name:
                reached[name] |= reached[lower]
    for module, others in imports().items():
        for other in others:
            if module != "vlp" and room_of(other) != "ground":
                assert room_of(other) in reached[room_of(module)], (module, other)


def test_the_results_are_up_to_date():
    assert (DOCS / "results.md").read_text(encoding="utf-8") == results_page(read_reports()), "renew it: make pages"


def test_the_figures_of_the_readme_are_those_of_the_reports():
    text = README.read_text(encoding="utf-8")
    assert {theme for _, theme, _, _ in MEASURED.findall(text)} == {"quickstart", "objectives", "loader", "step"}
    assert with_figures(text) == text, "renew it: make pages"
    assert with_figures(text.replace("open_clip", "another")) != text.replace("open_clip", "another")


def test_every_report_is_listed_and_what_was_missed_is_said():
    reports = read_reports()
    assert len(reports) >= 7
    page = results_page(reports)
    assert all(report.link in page for report in reports)
    target = {"what": "speed", "measured": 1.5, "at_least": 2.0, "reached": False}
    report = Report(DOCS / "x.md", "x", {"targets": [target, {**target, "what": "other", "reached": True}]})
    assert missed([report])[1:] == [["speed", "1.5", ">= 2", "[x](../benchmarks/reports/x.md)"]]
