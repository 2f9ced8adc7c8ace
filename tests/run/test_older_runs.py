"""A run that an older state of this package wrote goes on under the present one, with the losses that it had."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from vlp.objectives.base import Objective
from vlp.objectives.self_distillation import SelfDistillationTerm
from vlp.recipe.compose import load_recipe
from vlp.run.state import named_as_now
from vlp.train import train

# Four steps of a small recipe at commit 5211ba8638a5, from which the last checkpoint was taken away.
SHIPPED = Path(__file__).parent / "before_the_move.tar.xz"


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["loss/clip"], line["loss/sogclr"]) for line in lines}


@pytest.mark.filterwarnings("ignore:objective.sogclr")  # a learnable scale, for four steps
def test_a_run_from_before_the_move_goes_on(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with tarfile.open(SHIPPED) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and newer have it
        tar.extractall("runs")
    run = tmp_path / "runs" / "before_the_move"
    before = losses(run)
    assert sorted(before) == [1, 2, 3, 4] and len(list((run / "checkpoints").iterdir())) == 1
    train(load_recipe(str(run / "recipe.lock.yaml")), resume=True)
    after = losses(run)
    assert sorted(after) == [1, 2, 3, 4]
    for step, numbers in after.items():
        assert numbers == pytest.approx(before[step], rel=1e-5)
    assert (run / "checkpoints" / "step_00000004" / "manifest.json").is_file()
    assert "already" not in capfd.readouterr().err
    train(load_recipe(str(run / "recipe.lock.yaml")), resume=True)
    assert "trained to its last step, 4, already; a larger train.steps" in capfd.readouterr().err


def test_states_of_terms_whose_parts_moved_since_are_found():
    term = SelfDistillationTerm(num_prototypes=4, hidden_width=6, bottleneck=3)
    term.create(5)
    objective = Objective({"views": (term, lambda step: 1.0)})
    now = objective.state_dict()
    older = {name.replace("views.prototypes.", "views."): value for name, value in now.items()}
    assert older.keys() != now.keys() and "terms.views.head.prototypes" in older
    found = named_as_now(now, older)
    assert all(found[name] is older[name.replace("views.prototypes.", "views.")] for name in now)
