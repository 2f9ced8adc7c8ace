"""The line between a start and an end: scored, chosen by one half, reported on the other, gone on with, written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.evaluators.sets import write_captions, write_classes
from tests.processes import run_processes
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from tests.towers.tiny import tiny_export
from vlp.cli import main
from vlp.evaluate import evaluate_model
from vlp.evaluators.halves import part_of
from vlp.ground import files
from vlp.ground.types import RecipeError
from vlp.merging import scoring
from vlp.merging.contributors import open_contributor, sha256_of_weights
from vlp.merging.line import interpolate
from vlp.merging.start_of_run import open_start
from vlp.towers.weight_average import between
from vlp.train import train

SHARES = (0.25, 0.5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two tasks on noise, two exports, and a run that started from another run."""
    folder = tmp_path_factory.mktemp("line")
    write_captions(folder / "own-set")
    write_classes(folder / "kept-set", [0, 1, 2] * 20)
    for name, evaluator, metric in (("own", "retrieval", "mean_recall@5"), ("kept", "zero_shot", "acc1")):
        (folder / f"{name}.yaml").write_text(
            f"version: 1\nevaluator: {evaluator}\nmain_metric: {metric}\ndata: {{root: {folder / f'{name}-set'}}}\n"
        )
    tiny_export(folder / "start")
    tiny_export(folder / "end", 0.2)
    write_shards(folder / "shards", num_shards=1, samples_per_shard=8)
    shards, tasks = f"{folder}/shards/*.tar", f"evaluation.tasks=[{folder}/own.yaml, {folder}/kept.yaml, geometry]"
    train(tiny_recipe(folder, shards, "name=first", "train.steps=2"))
    tuned = ("name=tuned", "train.steps=2", f"model.weights={folder}/runs/first", tasks, "evaluation.kept=[kept]")
    train(tiny_recipe(folder, shards, *tuned))
    return folder


def ends(place):
    return [str(place / "start"), str(place / "end")]


def tasks_of(place):
    return {"own": [str(place / "own.yaml")], "kept": [str(place / "kept.yaml")]}


def weights_of(name):
    return open_contributor(str(name))[1].state_dict()


@pytest.fixture(scope="module")
def line(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("found") / "line"
    report = interpolate(ends(place), folder, shares=SHARES, **tasks_of(place))
    return folder, report, json.loads((folder / "interpolation.json").read_text())


def test_every_share_is_scored_on_the_choosing_half_alone(line):
    folder, _, record = line
    assert [point["share"] for point in record["points"]] == [0.0, 0.25, 0.5, 1.0]
    for point in record["points"]:
        told = json.loads((folder / "scores" / f"share_{point['share']:g}" / "choosing" / "kept.json").read_text())
        assert told["metrics"]["acc1"]["count"] == sum(part_of(f"s{n:07d}") == "choosing" for n in range(60))
        assert point["kept"] == told["metrics"]["acc1"]["value"]
    read = {path.parent.name for path in (folder / "scores").glob("*/reporting")}
    assert read == {f"share_{share:g}" for share in {0.0, record["share"], 1.0}}


def test_the_chosen_point_is_the_best_by_hand_and_is_what_is_written(line, place):
    folder, report, record = line
    best = max(record["points"], key=lambda point: (point["own"] + point["kept"], -point["share"]))
    assert record["share"] == best["share"]
    expected = between(*(weights_of(end) for end in ends(place)), best["share"])
    found = weights_of(folder / "model")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert report.export.formats == ("open_clip", "transformers")


def test_what_is_reported_is_what_the_export_scores_on_the_other_half(line, place, tmp_path):
    folder, _, record = line
    path = tmp_path / "half.yaml"
    text = (place / "kept.yaml").read_text().replace("}\n", ", half: {part: reporting}}\n")
    path.write_text(text)
    evaluate_model(str(folder / "model"), [str(path)], tmp_path / "scores")
    told = json.loads((tmp_path / "scores" / "half.json").read_text())["metrics"]["acc1"]
    reported = next(each for each in record["reported"] if each["share"] == record["share"])["scores"]["kept"]
    assert {key: reported[key] for key in told} == told
    assert json.loads((folder / "model" / "eval" / "kept.json").read_text())["metrics"]["acc1"] == told


def test_the_card_says_what_was_done(line, place):
    folder, report, record = line
    card = (folder / "model" / "README.md").read_text()
    for end in ends(place):
        assert sha256_of_weights(weights_of(end)) in card
    assert f"The point {record['share']:g} of the way" in card and "arXiv:2109.01903" in card
    assert "(own: own; kept: kept)" in card
    assert json.loads((folder / "model" / "interpolation.json").read_text()) == record
    rows = record["comparison"]["rows"]
    assert {row["task"] for row in rows} == {"own", "kept", "mean"} and all(row["test"] for row in rows)
    assert "McNemar" in str(report) and "chosen: the highest mean of own and kept score" in str(report)


def test_what_is_scored_already_is_not_scored_again(line, place, tmp_path, monkeypatch):
    folder = tmp_path / "line"
    shutil.copytree(line[0], folder)
    (folder / "interpolation.json").unlink()
    (folder / "scores" / "share_0.25" / "choosing" / "own.json").unlink()
    scored = []
    run_tasks = scoring.run_tasks

    def listed(tasks, *words, done, **more):
        scored.extend(task.name for task in tasks if task.name not in done)
        return run_tasks(tasks, *words, done=done, **more)

    monkeypatch.setattr(scoring, "run_tasks", listed)
    with pytest.raises(RecipeError, match="exists already: --resume takes the scores that are there"):
        interpolate(ends(place), folder, shares=SHARES, **tasks_of(place))
    interpolate(ends(place), folder, shares=SHARES, resume=True, **tasks_of(place))
    assert scored == ["own"]
    assert json.loads((folder / "interpolation.json").read_text()) == line[2]
    other = interpolate(ends(place), folder, shares=SHARES, resume=True, most_lost=0.0, **tasks_of(place))
    assert "at most 0 points below that of the start" in str(other)
    interpolate([ends(place)[1], ends(place)[0]], folder, shares=(0.5,), resume=True, **tasks_of(place))
    assert scored.count("kept") >= 2  # other ends: nothing that was scored is of these weights


def test_a_run_knows_where_it_started_and_gets_a_copy_of_the_record(place, tmp_path, capsys):
    run = place / "runs" / "tuned"
    main(["interpolate", str(run), "--shares", "0.5", "--to", str(tmp_path / "line")])
    record = json.loads((tmp_path / "line" / "interpolation.json").read_text())
    assert (record["own"], record["kept"]) == (["own"], ["kept"])  # geometry is neither good nor bad
    assert record["start"]["sha256"] == sha256_of_weights(weights_of(place / "runs" / "first"))
    assert record["start"]["model"].startswith(f"the start of {run}: ")
    assert json.loads((run / "interpolation.json").read_text()) == record
    assert "on the reporting half, which has chosen nothing:" in capsys.readouterr().out


def test_a_start_that_changed_since_is_refused(place, tmp_path):
    shards = f"{place}/shards/*.tar"
    train(tiny_recipe(place, shards, "name=moving", "train.steps=1"))
    run = train(tiny_recipe(place, shards, "name=later", "train.steps=1", f"model.weights={place}/runs/moving"))
    open_start(str(run))
    longer = tiny_recipe(place, shards, "name=moving", "train.steps=2")
    train(longer, resume=True, allow_changes=True)
    with pytest.raises(RecipeError, match=r"what it started from is not what it was \(.*step 1.*step 2.*name START"):
        open_start(str(run))


def test_adapters_lead_from_the_start_to_what_they_make_of_it(place):
    adapted = ("name=adapted", "train.steps=1", "model.tune=lora", f"model.weights={place}/runs/first")
    run = train(tiny_recipe(place, f"{place}/shards/*.tar", *adapted))
    _, start = open_start(str(run))
    assert start.state_dict().keys() == weights_of(run).keys()
    assert all(torch.equal(start.state_dict()[name], value) for name, value in weights_of(place / "runs/first").items())


def _interpolate_with_others(rank, world_size, place):
    place = Path(place)
    report = interpolate(ends(place), place / "two", shares=SHARES, **tasks_of(place))
    return [list(row) for row in report.points], json.loads((place / "two" / "interpolation.json").read_text())


@pytest.mark.processes
def test_two_processes_write_what_one_does(line, place):
    found = run_processes(_interpolate_with_others, 2, str(place))
    expected = [list(row) for row in line[1].points], line[2]
    assert found == [expected, expected]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": ["runs/first"]}, "no line leads to a start that was random"),
        ({"names": ["start"]}, "is no run, so nobody knows where it started: name START and END"),
        ({"names": ["start", "end", "end"]}, "a line has two ends"),
        ({"names": ["start", "runs/first"]}, "another architecture"),
        ({"shares": (0.5, 1.5)}, "--shares: 0.5 1.5: each lies between 0, the start, and 1, the end"),
        ({"most_lost": -1.0}, "--most-lost: -1.0 is no number of points"),
        ({"own": ["emoji24"], "kept": ["emoji24"]}, "--own, --kept: emoji24 cannot be both"),
        ({"own": ["geometry"]}, "geometry: nothing can be chosen by modality_gap"),
        ({"kept": []}, "--kept: name tasks or suites; '.*end' knows none"),
        ({"own": ["emoji42"]}, "there is no task 'emoji42'"),
    ],
)
def test_what_makes_no_line_is_refused_and_leaves_nothing(place, tmp_path, changes, said):
    settings = {"own": ["emoji24"], "kept": ["photos-cc0"], **changes}
    names = [str(place / name) for name in settings.pop("names", ["start", "end"])]
    with pytest.raises(RecipeError, match=said):
        interpolate(names, tmp_path / "line", **settings)
    assert not (tmp_path / "line").exists()


def test_a_folder_that_another_process_holds_is_refused(line, place, monkeypatch):
    monkeypatch.setattr(files, "hold", lambda path: False)
    with pytest.raises(RecipeError, match="another process works in it"):
        interpolate(ends(place), line[0], shares=SHARES, resume=True, **tasks_of(place))
