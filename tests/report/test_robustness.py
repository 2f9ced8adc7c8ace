"""The section about attacks is whole and true to its record, whatever is in it."""

from __future__ import annotations

import copy

import pytest

from tests.report.test_report import HOSTILE, make_gallery, read_page
from tests.robust.stages import captions_it_meets, classes_it_knows, opened, plan_of, record_of
from tests.synthetic_run import write_run
from vlp.evaluators.record import write_record
from vlp.report.page import page
from vlp.report.reading import read_run
from vlp.report.robustness import robustness, section_body
from vlp.robust.attack_file import AttackFile, AttackList
from vlp.robust.planned_attacks import planned
from vlp.run.folder import robust_records


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    place = tmp_path_factory.mktemp("sets")
    chosen = {"pgd": {"steps": 2}, "square": {"queries": 3}}
    listed = tuple(plan_of(name, 1, **settings)[0].listed for name, settings in chosen.items())
    plan = planned(AttackList("mine", AttackFile(version=1, radii=(2, 8), attacks=chosen), listed))
    tasks = [
        record_of(opened(classes_it_knows(place, 8)), plan),
        record_of(opened(captions_it_meets(place, 8)), [*plan, *plan_of("one_word", 1.0, candidates=3)]),
        {"task": "noisy", "main_metric": "acc1", "metrics": tasks_metrics()},
        {"task": "lost", "error": "RecipeError: no such folder"},
    ]
    return {
        "attacks": "mine",
        "weights": "ema",
        "step": 400,
        "is_believable": False,
        "date": "2026-01-01",
        "tasks": tasks,
    }


def tasks_metrics():
    return {"acc1": {"value": 0.25, "low": 0.1, "high": 0.4, "count": 12}}


@pytest.fixture(scope="module")
def run(tmp_path_factory, record):
    folder = write_run(tmp_path_factory.mktemp("runs"), evaluations=1)
    write_record(folder / "evaluations" / "step_00000400" / "robust" / "robust.json", record)
    return folder


def test_the_page_has_the_section_and_its_numbers(run, record):
    assert [path.parts[-3] for path in robust_records(run)] == ["step_00000400"]
    found = read_page(page(read_run(run), make_gallery()))
    assert "robustness" in found.sections
    told = set(found.numbers)
    for task in record["tasks"][:2]:
        entries = [*task["attacks"], *task["worst"]]
        values = [each["metrics"][task["main_metric"]]["value"] for each in entries if not each.get("is_probe")]
        assert set(values) <= told
        assert task["diagnostics"]["cka_of_embeddings"]["value"] in told


def test_the_weights_that_a_run_evaluates_come_first_and_copies_of_folders_never(tmp_path, record):
    run = write_run(tmp_path, evaluations=1)
    places = ["step_00000400/weights_model", "step_00000400.old", "step_00000400 (copy)"]
    for place in places:
        write_record(run / "evaluations" / place / "robust" / "robust.json", record | {"weights": "model"})
    assert "<code>model</code>" in robustness(run)
    write_record(run / "evaluations" / "step_00000400" / "robust" / "robust.json", record)
    assert "<code>ema</code>" in robustness(run) and len(robust_records(run)) == 2


def test_pictures_and_captions_are_shown_before_and_after(run, record):
    html = robustness(run)
    for sample in record["tasks"][0]["pictures"]["samples"]:
        assert all(sample[name] in html for name in ("clean", "change", "attacked"))
    example = next(each for each in record["tasks"][1]["attacks"] if each["examples"])["examples"][0]
    assert example["before"] in html and example["after"] in html
    assert "RecipeError: no such folder" in html and "as it is" in html
    assert all(src.startswith("data:image/webp;base64,") for src in read_page(html).loads)


def test_gates_that_failed_come_first(record):
    changed = copy.deepcopy(record)
    changed["tasks"][0]["gates"][0] |= {"is_passed": False, "said": "the end"}
    assert section_body(changed).startswith('<p class="missing">known: zero radius failed: the end')


def test_hostile_words_stay_words(record):
    changed = copy.deepcopy(record)
    changed["tasks"][0]["task"] = HOSTILE
    for task in changed["tasks"][:2]:
        for sample in task["pictures"]["samples"]:
            sample["right"] = sample["before"] = [HOSTILE]
        for each in task["attacks"]:
            each["label"] = HOSTILE
            for example in each["examples"]:
                example["after"] = HOSTILE
    reader = read_page(section_body(changed))
    assert reader.scripts == 0 and reader.handlers == []


def test_a_run_that_was_not_attacked_has_no_section(tmp_path):
    assert robustness(write_run(tmp_path, evaluations=1)) == ""
