"""Whether a run stops, and which step was best, follows from its scores alone."""

from __future__ import annotations

import shutil

import pytest

from tests.tiny import tiny_recipe
from vlp.evaluators.record import write_record
from vlp.ground.types import RecipeError
from vlp.recipe.schema import EvaluationSection
from vlp.run.folder import evaluations_of
from vlp.run.score_history import ScoreHistory, kept_tasks, own_tasks

FALLS = {"kept": {"task": "kept", "falls_by": 0.02}}
WAITS = {"own": {"task": "own", "patience": 2}}


def section(**settings):
    return EvaluationSection(**{"tasks": ("own", "kept"), "every": 5, "before": True, **settings})


def record(task, value, metric="acc1", **changes):
    return {
        "task": task,
        "evaluator": "zero_shot",
        "main_metric": metric,
        "weights": "model",
        "metrics": {metric: {"value": value}, "other": {"value": 1 - value}},
    } | changes


def played(evaluation, scores):
    """Return the history, and the verdict after each step; scores by step are of the own and the kept task."""
    history, verdicts = ScoreHistory(evaluation), []
    for step, (own, kept) in scores.items():
        history.add(step, [record("own", own), record("kept", kept)])
        verdicts.append(history.verdict)
    return history, verdicts


def test_a_fall_from_the_start_ends_the_run_and_the_step_before_it_is_the_best():
    scores = {0: (0.1, 0.30), 5: (0.2, 0.31), 10: (0.3, 0.29), 15: (0.4, 0.28), 20: (0.5, 0.40)}
    history, verdicts = played(section(stop_when=FALLS), dict(list(scores.items())[:4]))
    assert verdicts[:3] == ["", "", ""]
    assert verdicts[3] == "kept acc1 fell from 0.3000 at step 0 to 0.2800 (evaluation.stop_when.kept.falls_by: 0.02)"
    assert history.best_step() == 10
    history, verdicts = played(section(stop_when=FALLS), scores)
    assert verdicts[4] == "" and history.best_step() == 20


def test_a_fall_may_be_measured_from_the_best():
    rules = {"kept": {**FALLS["kept"], "against": "best"}}
    scores = {0: (0.1, 0.30), 5: (0.1, 0.35), 10: (0.1, 0.33)}
    _, verdicts = played(section(stop_when=rules, before=False), scores)
    assert verdicts[2].startswith("kept acc1 fell from 0.3500 at step 5 to 0.3300")
    assert played(section(stop_when=FALLS), scores)[1] == ["", "", ""]


def test_patience_counts_evaluations_since_the_best():
    history, verdicts = played(
        section(stop_when=WAITS), {0: (0.1, 0), 5: (0.2, 0), 10: (0.15, 0), 15: (0.3, 0), 20: (0.3, 0), 25: (0.2, 0)}
    )
    assert verdicts[:5] == [""] * 5
    assert verdicts[5].startswith("own acc1 was best at step 15, 0.3000, and no better since")
    assert history.best_step() == 15


def test_the_best_step_has_lost_little_and_gained_most():
    scores = {0: (0.1, 0.30), 5: (0.2, 0.29), 10: (0.5, 0.20), 15: (0.2, 0.30)}
    assert played(section(stop_when=FALLS | WAITS), scores)[0].best_step() == 5
    assert played(section(stop_when=WAITS), scores)[0].best_step() == 10
    assert played(section(), scores)[0].best_step() is None


def test_where_nothing_is_gained_the_newest_that_has_not_lost_is_best():
    scores = {0: (0.0, 0.30), 5: (0.0, 0.29), 10: (0.0, 0.20)}
    history = ScoreHistory(section(tasks=("kept",), stop_when=FALLS))
    for step, (_, kept) in scores.items():
        history.add(step, [record("kept", kept)])
    assert history.best_step() == 5


def test_a_model_that_heeds_less_of_what_is_written_on_images_has_not_fallen():
    rules = {"kept": {"task": "kept", "metric": "followed", "falls_by": 0.1}}
    history = ScoreHistory(section(stop_when=rules))
    verdicts = []
    for step, share in ((0, 0.6), (5, 0.3), (10, 0.65), (15, 0.71)):
        history.add(step, [record("own", 0.5), record("kept", share, "followed")])
        verdicts.append(history.verdict)
    assert verdicts[:3] == ["", "", ""]
    assert verdicts[3].startswith("kept followed rose from 0.6000 at step 0 to 0.7100")


def test_less_of_a_rank_is_better():
    rules = {"own": {"task": "own", "patience": 1, "metric": "median_rank"}}
    history = ScoreHistory(section(stop_when=rules))
    for step, rank in ((0, 9.0), (5, 4.0), (10, 5.0)):
        history.add(step, [record("own", rank, "median_rank"), record("kept", 0.5)])
    assert "own median_rank was best at step 5, 4.0000" in history.verdict
    assert history.best_step() == 5


def test_a_verdict_says_a_score_below_zero_as_it_is():
    history = ScoreHistory(section(stop_when=FALLS))
    for step, share in ((0, 0.1), (5, -0.2)):
        history.add(step, [record("own", 0.5), record("kept", share)])
    assert history.verdict.startswith("kept acc1 fell from 0.1000 at step 0 to -0.2000")


def test_another_metric_may_decide():
    rules = {"own": {"task": "own", "metric": "other", "patience": 1}}
    history, verdicts = played(section(stop_when=rules), {0: (0.5, 0), 5: (0.6, 0), 10: (0.2, 0)})
    assert verdicts[1].startswith("own other was best at step 0, 0.5000") and verdicts[2] == ""
    assert history.best_step() == 10
    wrong = {"own": {"task": "own", "metric": "othr", "patience": 1}}
    with pytest.raises(RecipeError, match=r"stop_when.own.metric: own has no 'othr'; did you mean 'other'"):
        played(section(stop_when=wrong), {0: (0.5, 0)})


def test_a_task_that_failed_decides_nothing_but_at_the_start():
    broken = {"task": "kept", "error": "RecipeError: no such file"}
    history, _ = played(section(stop_when=FALLS), {0: (0.1, 0.3), 5: (0.2, 0.3)})
    history.add(10, [record("own", 0.3), broken])
    assert history.verdict == ""
    with pytest.raises(RecipeError, match=r"stop_when.kept: the start.* has none \(RecipeError: no such file\)"):
        ScoreHistory(section(stop_when=FALLS)).add(0, [record("own", 0.3), broken])


def test_what_was_written_is_recalled_up_to_a_step(tmp_path):
    evaluation = section(stop_when=FALLS | WAITS)
    scores = {0: (0.1, 0.30), 5: (0.2, 0.30), 10: (0.1, 0.29), 15: (0.1, 0.3), 20: (0.9, 0.3)}
    for step, (own, kept) in scores.items():
        for each in (record("own", own), record("kept", kept)):
            write_record(evaluations_of(tmp_path, step) / f"{each['task']}.json", each)
    shutil.copytree(evaluations_of(tmp_path, 10), evaluations_of(tmp_path, 10).with_name("step_00000010 (copy)"))
    expected, _ = played(evaluation, dict(list(scores.items())[:4]))
    found = ScoreHistory(evaluation)
    found.recall(tmp_path, 15)
    assert (found.steps, found.verdict, found.best_step()) == (expected.steps, expected.verdict, 5)
    assert found.verdict
    assert not found.is_due(15, 100)
    (evaluations_of(tmp_path, 15) / "own.json").unlink()
    found.recall(tmp_path, 15)
    assert sorted(found.steps) == [0, 5, 10] and found.is_due(15, 100)


def test_scores_of_other_weights_are_not_taken_for_those_of_the_run(tmp_path):
    for task in ("own", "kept"):
        write_record(evaluations_of(tmp_path, 5) / f"{task}.json", record(task, 0.5, weights="ema"))
    history = ScoreHistory(section())
    history.recall(tmp_path, 5)
    assert history.is_due(5, 100)


def test_a_start_that_was_never_scored_is_missed(tmp_path):
    with pytest.raises(RecipeError, match=r"stop_when.kept: the run has no score of kept at step 0.*against: best"):
        ScoreHistory(section(stop_when=FALLS)).recall(tmp_path, 5)


@pytest.mark.parametrize(
    ("settings", "step", "due"),
    [
        ({}, 0, True),
        ({"before": False}, 0, False),
        ({"before": False}, 5, True),
        ({}, 7, False),
        ({"every": None}, 5, False),
        ({"every": None}, 20, True),
        ({"tasks": ()}, 0, False),
    ],
)
def test_what_is_due_at_the_start_or_after_a_resume(settings, step, due):
    assert ScoreHistory(section(**settings)).is_due(step, 20) is due


def test_own_tasks_are_those_that_none_keeps():
    evaluation = section(tasks=("a", "b", "c", "d"), kept=("b",), stop_when={"x": {"task": "c", "falls_by": 0.1}})
    assert (own_tasks(evaluation), kept_tasks(evaluation)) == (["a", "d"], ["b", "c"])


TASKS = "evaluation={tasks: [emoji24, geometry], every: 2, before: true, stop_when: {%s}}"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("emoji42: {patience: 2}", "evaluation.stop_when.emoji42: 'emoji42' is none of evaluation.tasks; did you mean"),
        ("emoji24: {}", "evaluation.stop_when.emoji24: give one of falls_by and patience"),
        ("emoji24: {patience: 2, falls_by: 0.1}", "give one of falls_by and patience"),
        (
            "emoji24: {patience: 2, against: best}",
            "evaluation.stop_when.emoji24.against: has no effect beside patience",
        ),
        ("emoji24: {falls_by: 0}", "evaluation.stop_when.emoji24.falls_by"),
        ("emoji24: {falls: 1}", "evaluation.stop_when.emoji24.falls: unknown key"),
    ],
)
def test_rules_that_say_nothing_are_refused(tmp_path, rule, said):
    with pytest.raises(RecipeError) as caught:
        tiny_recipe(tmp_path, "none", TASKS % rule)
    assert said in str(caught.value)


def test_rules_that_could_never_end_a_run_are_refused(tmp_path):
    rule = "emoji24: {falls_by: 0.1}"
    for change, said in (
        ("evaluation.before=false", "set evaluation.before=true, or against: best"),
        ("evaluation.every=null", "set evaluation.every"),
        (
            "evaluation.kept=[emoji]",
            "evaluation.kept: 'emoji' is none of evaluation.tasks.*; add it, or set evaluation.kept",
        ),
    ):
        with pytest.raises(RecipeError, match=said):
            tiny_recipe(tmp_path, "none", TASKS % rule, change)


def test_a_label_is_the_task_unless_one_is_given(tmp_path):
    rules = "emoji24: {falls_by: 0.1}, rising: {task: emoji24, patience: 3}"
    recipe = tiny_recipe(tmp_path, "none", TASKS % rules)
    assert [(label, rule.task) for label, rule in recipe.evaluation.stop_when.items()] == [
        ("emoji24", "emoji24"),
        ("rising", "emoji24"),
    ]
    assert tiny_recipe(tmp_path, "none", TASKS % rules, "evaluation.stop_when=null").evaluation.stop_when == {}
    fewer = tiny_recipe(tmp_path, "none", TASKS % rules, "evaluation.stop_when.rising=null")
    assert list(fewer.evaluation.stop_when) == ["emoji24"]
