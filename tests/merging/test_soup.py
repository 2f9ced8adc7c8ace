"""A greedy soup takes what does not lower its score, and reports what no choice has seen."""

from __future__ import annotations

import json

import pytest
import torch

from tests.evaluators.sets import write_classes
from tests.merging.test_merge import weights_of
from tests.towers.tiny import tiny_export
from vlp.cli import main
from vlp.evaluate import evaluate_model
from vlp.evaluators.base import load_task
from vlp.evaluators.comparison.score_folders import value_of
from vlp.evaluators.halves import part_of
from vlp.ground.types import RecipeError
from vlp.merging.contributors import open_contributor
from vlp.merging.scoring import score
from vlp.merging.soup import greedy_soup
from vlp.towers.weight_average import WeightAverage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three models, and a task on noise by which they differ."""
    folder = tmp_path_factory.mktemp("soup")
    write_classes(folder / "set", [0, 1, 2] * 20)
    (folder / "noise.yaml").write_text(
        f"version: 1\nevaluator: zero_shot\nmain_metric: acc1\ndata: {{root: {folder / 'set'}, samples: 60}}\n"
    )
    (folder / "shape.yaml").write_text(
        f"version: 1\nevaluator: geometry\nmain_metric: alignment\ndata: {{root: {folder / 'set'}, samples: 60}}\n"
    )
    names = [
        str(tiny_export(folder / name, shift)) for name, shift in (("a", 0.0), ("b", 0.2), ("c", -0.3), ("d", 1e-4))
    ]
    return folder, names


def slow_soup(names, task):
    """Recipe 1 of the paper: every average from the models themselves."""

    def value(contributors):
        average = WeightAverage()
        for name in contributors:
            average.add(weights_of(name), name=name)
        _, model = open_contributor(names[0])
        model.load_state_dict(average.mean())
        return value_of(score(model, [task.half("choosing")], "m", CPU)[0])

    ranked = sorted(names, key=lambda name: -value([name]))
    chosen = []
    for name in ranked:
        if not chosen or value([*chosen, name]) >= value(chosen):
            chosen.append(name)
    return chosen, ranked


def test_the_soup_is_that_of_the_paper(place, tmp_path, capsys):
    folder, names = place
    task = load_task(str(folder / "noise.yaml"))
    chosen, ranked = slow_soup(names, task)
    main(["merge", *names, "--greedy", str(folder / "noise.yaml"), "--to", str(tmp_path / "soup")])
    record = json.loads((tmp_path / "soup" / "merge.json").read_text())
    assert [row["model"] for row in record["models"]] == chosen
    assert [row["model"] for row in record["tried"]] == ranked
    assert [row["model"] for row in record["tried"] if row["kept"]] == chosen
    assert 1 < len(chosen) < len(names)  # else the test could not tell a soup from an average
    average = WeightAverage()
    for name in chosen:
        average.add(weights_of(name), name=name)
    found = weights_of(str(tmp_path / "soup"))
    assert all(torch.equal(found[key], value) for key, value in average.mean().items())
    assert "Wortsman et al. 2022" in (tmp_path / "soup" / "README.md").read_text()
    assert chosen[0] in capsys.readouterr().out


def test_the_score_that_is_reported_is_of_samples_that_did_not_choose(place, tmp_path):
    folder, names = place
    greedy_soup(names, str(folder / "noise.yaml"), tmp_path / "soup")
    told = json.loads((tmp_path / "soup" / "eval" / "noise.json").read_text())
    assert told["data_changes"] == {"half": {"part": "reporting", "of_instances": False}}
    count = sum(part_of(f"s{number:07d}") == "reporting" for number in range(60))
    assert told["metrics"]["acc1"]["count"] == count
    evaluate_model(str(tmp_path / "soup"), [str(folder / "noise.yaml")], tmp_path / "whole")
    whole = json.loads((tmp_path / "whole" / "noise.json").read_text())
    assert whole["metrics"]["acc1"]["count"] == 60 and whole["model_checksum"] == told["model_checksum"]


def test_what_is_neither_good_nor_bad_chooses_nothing(place, tmp_path):
    folder, names = place
    with pytest.raises(RecipeError, match="shape: nothing can be chosen by alignment"):
        greedy_soup(names, str(folder / "shape.yaml"), tmp_path / "soup")
    assert not (tmp_path / "soup").exists()
