"""The report of a run that started from weights says what it gained and lost, and draws the way there."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.evaluators.comparison.records import write_scores
from tests.report.test_report import Reader
from vlp.commands.compare_models import print_comparison
from vlp.recipe.compose import load_recipe, lock_text
from vlp.report import write_report
from vlp.report.gained_and_kept import gained_and_kept, reason_to_stop
from vlp.report.reading import read_run
from vlp.run.folder import INTERPOLATION, evaluations_of

OWN, KEPT = "photos-cc0", "emoji24"
COURSE = {0: (0.1, 0.8), 10: (0.4, 0.75), 20: (0.7, 0.6)}
RULES = f"stop_when: {{{KEPT}: {{falls_by: 0.1}}}}, "


def write_tuned(folder, *, course=COURSE, before="true", rules="", kept=f"[{KEPT}]", size=200):
    run = folder / "tuned"
    run.mkdir()
    tasks = f"evaluation={{tasks: [{OWN}, {KEPT}, geometry], before: {before}, every: 10, {rules}kept: {kept}}}"
    recipe = load_recipe("smoke", ["name=tuned", "train.steps=40", tasks])
    (run / "recipe.lock.yaml").write_text(lock_text(recipe))
    for step, scores in course.items():
        for task, score in zip((OWN, KEPT), scores, strict=True):
            values = np.arange(size) % size < score * size
            write_scores(evaluations_of(run, step), task, values, step=step, weights="ema", details={})
    (run / "metrics.jsonl").write_text(json.dumps({"step": 20, "seconds": 9.0, "loss": 1.0}) + "\n")
    return run


def write_line(run, **changes):
    points = [
        {"share": share, "own": own, "kept": kept, "scores": {}}
        for share, own, kept in ((0.0, 0.12, 0.82), (0.5, 0.65, 0.79), (1.0, 0.71, 0.58))
    ]
    record = {"own": [OWN], "kept": [KEPT], "share": 0.5, "points": points, **changes}
    (run / INTERPOLATION).write_text(json.dumps(record))


def section_of(run):
    return gained_and_kept(read_run(run))


def cells(html):
    rows = re.findall(r"<tr>(<td.*?)</tr>", html)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in rows]


def test_the_table_says_what_was_gained_and_lost_by_paired_tests(tmp_path):
    rows = cells(section_of(write_tuned(tmp_path)))
    assert [(row[0], row[1], row[3], row[4], row[-1]) for row in rows] == [
        (OWN, "own", "0.1000", "0.7000", "gained"),
        (KEPT, "kept", "0.8000", "0.6000", "lost"),
        ("mean", "", "0.4500", "0.6500", "gained"),
    ]
    assert [row[5] for row in rows] == ["+0.6000", "\N{MINUS SIGN}0.2000", "+0.2000"]
    assert all(".." in row[6] and row[7] for row in rows)


def test_what_may_be_chance_is_no_loss(tmp_path):
    rows = cells(section_of(write_tuned(tmp_path, course={0: (0.5, 0.5), 10: (0.5, 0.495)})))
    assert [row[-1] for row in rows] == ["no more than chance"] * 3


def test_the_best_step_of_a_run_with_rules_stands_for_its_end(tmp_path):
    html = section_of(write_tuned(tmp_path, rules=RULES))
    assert cells(html)[0][3:5] == ["0.1000", "0.4000"]
    assert "after step 10, the best one" in html
    assert reason_to_stop(read_run(tmp_path / "tuned")).startswith(f"{KEPT} acc1 fell from 0.8000 at step 0 to 0.6000")


def test_the_way_is_drawn_step_by_step_and_along_the_line(tmp_path):
    run = write_tuned(tmp_path)
    alone = section_of(run)
    assert alone.count("<circle") == 3 and "the run, step by step" in alone
    assert "step 10 keeps 75.0\N{NARROW NO-BREAK SPACE}% and has 40.0\N{NARROW NO-BREAK SPACE}%" in alone
    write_line(run)
    both = section_of(run)
    assert both.count("<circle") == 3 + 3 + 1  # the chosen share has a ring
    assert "on half of the samples" in both and ">share 0.5</text>" in both
    places = [float(place) for place in re.findall(r'class="dot plum" cx="([\d.]+)"', both)]
    assert places == sorted(places, reverse=True)  # the start keeps most


def test_a_line_alone_is_drawn_where_the_start_was_not_scored(tmp_path):
    run = write_tuned(tmp_path, course={10: (0.4, 0.7)}, before="false", kept="[]")
    assert section_of(run) == ""
    write_line(run)
    html = section_of(run)
    assert "between its start and its end" in html and "<table" not in html


def test_the_page_is_whole_with_it(tmp_path):
    run = write_tuned(tmp_path, rules=RULES)
    write_line(run)
    text = write_report(run).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == [] and reader.loads == []
    assert "gained-and-kept" in reader.sections
    assert "stopped early: step 20 of 40" in text


@pytest.mark.parametrize("course", [{20: (0.5, 0.5)}, {0: (0.5, 0.5)}])
def test_without_a_before_and_an_after_there_is_nothing_to_say(tmp_path, course):
    assert section_of(write_tuned(tmp_path, course=course)) == ""


def test_a_run_alone_is_compared_with_its_start(tmp_path, capsys):
    run = write_tuned(tmp_path)
    print_comparison([str(run)])
    printed = capsys.readouterr().out
    assert f"A = {evaluations_of(run, 0)}" in printed and f"B = {run}" in printed
    assert re.search(rf"{OWN} +acc1 +0.1000 +0.7000 .*B is better", printed)
