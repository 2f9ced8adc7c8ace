"""What there is to evaluate on: as lists on a command line and as a page."""

from __future__ import annotations

import re

import pytest

from vlp.cli import main
from vlp.commands.task_table import tasks_page
from vlp.evaluators.suites import suite_files
from vlp.evaluators.variants import families


@pytest.fixture(scope="module")
def page():
    return tasks_page()


def listed(capsys, *words):
    main(["list", *words])
    return [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]


def test_each_file_of_tasks_has_a_line_however_many_tasks_it_holds(capsys):
    lines = dict(listed(capsys, "tasks"))
    assert len(lines) == len(list(families()))
    assert lines["crossmodal3600-VARIANT"].endswith("(variants: ar, bn, cs, da, de, el, ...)")
    assert lines["fmow[-VARIANT]"].endswith("(variants: wilds)")
    assert "variants" not in lines["cifar10"]
    assert max(len(name) for name in lines) < 40


def test_suites_are_listed_with_what_they_are(capsys):
    lines = dict(listed(capsys, "suites"))
    assert lines.keys() == suite_files().keys()
    assert lines["datacomp38"].startswith("DataComp's 38 tasks")
    assert [name for name, _ in listed(capsys, "suites", "imagenet")] == ["imagenet-c", "imagenet-shifts"]


def test_the_page_has_every_suite_and_every_task(page):
    rows = re.findall(r"^\| \[?([\w-]+)", page, flags=re.MULTILINE)
    wanted = [path.stem for path, _ in families()]
    assert [row for row in rows if row not in ("suite", "task", "---")] == [*sorted(suite_files()), *wanted]
    assert re.findall(r"^### (\S+)$", page, flags=re.MULTILINE) == wanted


def test_a_row_has_the_facts_of_the_file(page):
    (row,) = [line for line in page.splitlines() if line.startswith("| [fgvc_aircraft]")]
    facts = ["wds_fgvc_aircraft", "3,333", "100", "zero_shot", "mean_per_class_recall", "0.01"]
    assert [cell.strip() for cell in row.split("|")][2:8] == facts
    (row,) = [line for line in page.splitlines() if line.startswith("| [babel_imagenet]")]
    assert "| wds_babel_imagenet-VARIANT | 900 to 50,000 | 18 to 1,000 |" in row
