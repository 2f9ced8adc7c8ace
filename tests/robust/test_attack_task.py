"""What is left of a task under attack: the evaluator's own numbers, the worst case, and outcomes that are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.processes import run_processes
from tests.robust.stages import (
    captions_it_meets,
    classes_at,
    classes_it_knows,
    encoder_of,
    model_that_learned,
    opened,
    plan_of,
    record_of,
    shares,
)
from vlp.evaluators.tasks import run_task
from vlp.robust.stage import Stage
from vlp.robust.task_record import WORST


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return classes_it_knows(tmp_path_factory.mktemp("sets"), 12)


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    return captions_it_meets(tmp_path_factory.mktemp("sets"))


@pytest.mark.parametrize("kind", ["classes", "captions"])
def test_clean_numbers_and_those_at_radius_zero_are_those_of_the_evaluation(kind, request):
    task = request.getfixturevalue(kind)
    metrics = run_task(task, encoder_of(), model="m")["metrics"]
    record = record_of(opened(task), plan_of("apgd_ce", 0.0, steps=2))
    attacked = record["attacks"][0]["metrics"]
    taken = {name: metric["value"] for name, metric in attacked.items() if "success@" in name}
    assert record["clean"] == {name: attacked[name] for name in attacked if name not in taken} == metrics
    assert taken and not any(taken.values())


@pytest.fixture(scope="module")
def learned():
    return encoder_of(model_that_learned())


@pytest.mark.parametrize(
    ("kind", "metric"),
    [("classes", "acc1"), ("captions", "image_to_text_recall@1"), ("captions", "text_to_image_recall@1")],
)
def test_attacks_leave_less(kind, metric, request, learned):
    encoder = learned if kind == "captions" else encoder_of()
    record = record_of(opened(request.getfixturevalue(kind), encoder), plan_of("pgd_margin", 4, 40, steps=5))
    left = shares(record, metric)
    assert record["clean"][metric]["value"] > left["pgd_margin", 4] > left["pgd_margin", 40]


def test_the_worst_case_takes_each_image_from_the_attack_that_did_worst_to_it(classes):
    plan = [*plan_of("pgd", 8, steps=1), *plan_of("pgd_margin", 8, steps=3), *plan_of("random_signs", 8)]
    stage = opened(classes)
    outcomes = [each.attack.change(stage.stage, 8) for each in plan]
    hits = torch.stack([stage.stage.goal.ranks(outcome.rows) == 1 for outcome in outcomes]).all(dim=0)
    (worst,) = record_of(stage, plan)["worst"]
    assert (worst["label"], worst["radius"]) == (WORST, 8)
    assert worst["metrics"]["acc1"]["value"] == pytest.approx(hits.double().mean().item())
    assert worst["metrics"]["acc1"]["low"] < worst["metrics"]["acc1"]["value"] < worst["metrics"]["acc1"]["high"]


def test_of_a_search_the_worst_case_is_no_better_than_an_attack(captions, learned):
    radii = (2, 4, 8, 16)
    record = record_of(
        opened(captions, learned), [*plan_of("pgd", *radii, steps=2), *plan_of("pgd_margin", *radii, steps=2)]
    )
    main = record["main_metric"]
    assert [each["radius"] for each in record["worst"]] == list(radii)
    for worst in record["worst"]:
        alone = [each["metrics"] for each in record["attacks"] if each["radius"] == worst["radius"]]
        assert len(alone) == 2
        assert worst["metrics"][main]["value"] <= min(each[main]["value"] for each in alone)


def test_some_samples_are_a_set_of_their_own(classes):
    stage = opened(classes, samples=5)
    assert (len(stage.data), stage.of) == (5, 12)
    record = record_of(stage, plan_of("pgd", 1, steps=1))
    assert (record["samples"], record["of"], record["clean"]["acc1"]["count"]) == (5, 12, 5)
    assert record["data_sha256"] != opened(classes).data.fingerprint


def test_outcomes_are_taken_where_nothing_changed(classes, tmp_path, monkeypatch):
    done = []
    change = Stage.change_images

    def counted(stage, perturb, radius):
        done.append(radius)
        return change(stage, perturb, radius)

    monkeypatch.setattr(Stage, "change_images", counted)
    stage = opened(classes)
    plan = plan_of("pgd", 1, 4, steps=2)
    first = record_of(stage, plan, tmp_path)
    assert record_of(stage, plan, tmp_path, resume=True) == first
    assert done == [1, 4]
    record_of(stage, plan_of("pgd", 1, 4, 8, steps=2), tmp_path, resume=True)
    assert done == [1, 4, 8]
    record_of(stage, plan_of("pgd", 1, steps=3), tmp_path, resume=True)
    record_of(opened(classes, samples=5), plan_of("pgd", 1, steps=2), tmp_path, resume=True)
    assert done == [1, 4, 8, 1, 1]
    next(tmp_path.glob("*pgd-8-*.npz")).write_bytes(b"PK\x03\x04 torn")
    record_of(stage, plan_of("pgd", 8, steps=2), tmp_path, resume=True)
    assert done[-1] == 8
    record_of(stage, plan, tmp_path)
    assert done[-2:] == [1, 4]


def test_an_outcome_is_read_as_it_was_written(classes, tmp_path):
    stage = opened(classes)
    (plan,) = plan_of("pgd", 4, steps=2)
    record_of(stage, [plan], tmp_path)
    with np.load(next(tmp_path.glob("*.npz")), allow_pickle=False) as arrays:
        assert arrays["rows"].shape == (12, 16)
    outcome = plan.attack.change(stage.stage, 4)
    assert set(outcome.pictures) == {str(place) for place in stage.stage.shown}
    assert set(next(iter(outcome.pictures.values()))) == {"clean", "change", "attacked"}


def _on_this_process(rank, _world_size, root):
    torch.set_num_threads(1)
    plan = [*plan_of("pgd", 4, steps=2), *plan_of("square", 8, queries=4)]
    return record_of(opened(classes_at(root)), plan)


@pytest.mark.processes
def test_two_processes_equal_one(classes):
    root = Path(classes.data.root)
    alone = _on_this_process(0, 1, root)
    assert run_processes(_on_this_process, 2, root) == [alone, alone]


def test_outcomes_of_attacks_on_other_prompts_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("a photo of a {c}\n")
    task = classes_it_knows(tmp_path, 8)
    task = replace(task, settings=task.settings.model_copy(update={"prompts": "mine.txt"}))
    change, done = Stage.change_images, []
    monkeypatch.setattr(Stage, "change_images", lambda *inputs: done.append(1) or change(*inputs))
    for prompt, number in (("a photo of a {c}", 1), ("a photo of a {c}", 1), ("a picture of a {c}", 2)):
        (tmp_path / "mine.txt").write_text(f"{prompt}\n")
        record_of(opened(task), plan_of("random_signs", 4, tries=1), tmp_path / "kept", resume=True)
        assert len(done) == number
