"""Models compared from records: pairs, seeds, suites, and what is refused or said."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
from scipy import stats

from tests.evaluators.comparison.records import write_scores
from vlp.evaluators.comparison import compare_folders
from vlp.evaluators.comparison.bootstrap import holm
from vlp.evaluators.comparison.side_by_side import as_csv, as_json, as_markdown, as_text
from vlp.ground.types import RecipeError


def hits(share, size=400, seed=0):
    """Zeros and ones; those of a higher share hold those of a lower one, as where models agree on what is hard."""
    return (np.random.default_rng(seed).random(size) < share).astype(float)


def two(tmp_path, first, second, task="t", **settings):
    write_scores(tmp_path / "a", task, first, **settings)
    write_scores(tmp_path / "b", task, second, **settings)
    return [tmp_path / "a", tmp_path / "b"]


def test_a_difference_of_accuracies_has_mcnemars_p(tmp_path):
    first, second = hits(0.5), hits(0.55)
    (row,) = compare_folders(two(tmp_path, first, second)).rows
    gained, lost = int((second > first).sum()), int((first > second).sum())
    assert row.test == "McNemar"
    assert row.difference.p == row.corrected_p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert row.difference.value == pytest.approx(second.mean() - first.mean())
    assert row.difference.low < row.difference.value < row.difference.high
    assert row.is_distinguishable and row.better == 1


def test_pairs_tell_apart_what_intervals_of_each_do_not(tmp_path):
    first, second = hits(0.5), hits(0.55)
    (paired,) = compare_folders(two(tmp_path / "paired", first, second)).rows
    unpaired = compare_folders(two(tmp_path / "unpaired", first, second, samples=False))
    (row,) = unpaired.rows
    assert row.test == "unpaired intervals"
    assert row.difference.high - row.difference.low > 2 * (paired.difference.high - paired.difference.low)
    assert paired.is_distinguishable and not row.is_distinguishable
    assert any("not paired" in note and "unpaired/a" in note for note in unpaired.notes)


def test_unpaired_intervals_are_those_of_independent_samples(tmp_path):
    first, second = hits(0.5), hits(0.7, seed=1)
    (row,) = compare_folders(two(tmp_path, first, second, samples=False)).rows
    spread = np.sqrt(first.var() / 400 + second.var() / 400)
    assert row.difference.high - row.difference.low == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_a_mean_over_groups_is_respected(tmp_path):
    """The first is better on the many, the second on the few, which weigh as much."""
    groups = [0] * 380 + [1] * 20
    first, second = np.r_[np.ones(380), np.zeros(20)], np.r_[np.zeros(38), np.ones(342), np.ones(20)]
    (row,) = compare_folders(two(tmp_path, first, second, groups=groups)).rows
    assert row.values == pytest.approx((0.5, 0.95))
    assert row.test == "paired bootstrap"
    assert row.better == 1


def test_all_ties_are_no_difference(tmp_path):
    (row,) = compare_folders(two(tmp_path, hits(0.5), hits(0.5))).rows
    assert (row.difference.value, row.difference.probability, row.corrected_p) == (0.0, 0.5, 1.0)
    assert (row.difference.low, row.difference.high) == (0.0, 0.0)
    assert row.better is None


@pytest.mark.parametrize("values", [([0.0], [1.0]), ([0.25], [0.75])])
def test_one_sample_tells_nothing(tmp_path, values):
    comparison = compare_folders(two(tmp_path, *values))
    (row,) = comparison.rows
    assert (row.difference.low, row.difference.high, row.difference.p) == (None, None, 1.0)
    assert "not distinguishable" in as_text(comparison)
    json.loads(as_json(comparison), parse_constant=pytest.fail)


def test_three_samples_that_agree_tell_nothing(tmp_path):
    (row,) = compare_folders(two(tmp_path, [0.1, 0.2, 0.3], [0.2, 0.3, 0.5])).rows
    assert row.difference.p == 0.25


def test_the_mean_over_tasks_is_compared_and_counted_in_the_correction(tmp_path):
    for seed in range(4):
        folders = two(tmp_path, hits(0.5, seed=seed), hits(0.53, seed=seed), task=f"t{seed}")
    comparison = compare_folders(folders)
    suite = comparison.rows[-1]
    assert (suite.task, suite.count, comparison.num_compared) == ("mean", 4, 5)
    singles = [row.difference for row in comparison.rows[:-1]]
    assert suite.difference.value == pytest.approx(np.mean([each.value for each in singles]))
    widths = np.array([each.high - each.low for each in singles])
    assert suite.difference.high - suite.difference.low == pytest.approx(np.sqrt((widths**2).sum()) / 4, rel=0.1)
    assert [row.corrected_p for row in comparison.rows] == holm([row.difference.p for row in comparison.rows])


def test_every_pair_of_three_models_is_compared(tmp_path):
    folders = [write_scores(tmp_path / name, "t", hits(share)) for name, share in (("a", 0.4), ("b", 0.42), ("c", 0.6))]
    comparison = compare_folders(folders)
    assert [row.pair for row in comparison.rows] == [(0, 1), (0, 2), (1, 2)]
    assert [row.better for row in comparison.rows][1:] == [2, 2]
    assert "A C" in as_text(comparison)


def seeds(tmp_path, name, shares, seed=0):
    words = [str(write_scores(tmp_path / f"{name}{i}", "t", hits(share, seed=seed))) for i, share in enumerate(shares)]
    return ",".join(words)


def test_seeds_that_vary_more_than_models_differ_are_not_told_apart(tmp_path):
    alone = compare_folders([seeds(tmp_path, "x", [0.5]), seeds(tmp_path, "y", [0.56])]).rows[0]
    varied = compare_folders([seeds(tmp_path, "a", [0.40, 0.50, 0.60]), seeds(tmp_path, "b", [0.46, 0.56, 0.66])])
    (row,) = varied.rows
    assert alone.is_distinguishable and not row.is_distinguishable
    expected = [np.mean([hits(share + more).mean() for share in (0.40, 0.50, 0.60)]) for more in (0, 0.06)]
    assert row.values == pytest.approx(expected)
    assert row.difference.high - row.difference.low > 3 * (alone.difference.high - alone.difference.low)
    assert "(3 seeds)" in as_text(varied)
    assert "another training seed" not in as_text(varied)


def test_seeds_that_agree_are_told_apart(tmp_path):
    comparison = compare_folders([seeds(tmp_path, "a", [0.49, 0.5, 0.51]), seeds(tmp_path, "b", [0.59, 0.6, 0.61])])
    (row,) = comparison.rows
    assert row.better == 1
    assert row.test == "paired bootstrap"


def test_one_seed_against_three_is_said(tmp_path):
    comparison = compare_folders([seeds(tmp_path, "a", [0.5]), seeds(tmp_path, "b", [0.5, 0.6, 0.55])])
    assert "one seed of A" in as_text(comparison)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_sha256": "other"}, "scored on other data"),
        ({"version": 2}, "another version"),
        ({"evaluator": "retrieval"}, "another evaluator"),
        ({"keys": [f"x{i}" for i in range(400)]}, "other samples"),
        ({"groups": [0] * 200 + [1] * 200}, "other groups"),
    ],
)
def test_what_is_not_the_same_task_is_refused_and_the_rest_compared(tmp_path, changes, reason):
    two(tmp_path, hits(0.5), hits(0.6), task="good")
    write_scores(tmp_path / "a", "bad", hits(0.5))
    write_scores(tmp_path / "b", "bad", hits(0.6), **changes)
    comparison = compare_folders([tmp_path / "a", tmp_path / "b"])
    assert [row.task for row in comparison.rows] == ["good"]
    assert reason in comparison.refused["bad"]
    assert "bad: NOT COMPARED" in as_text(comparison)
    with pytest.raises(RecipeError, match=reason):
        compare_folders([tmp_path / "a", tmp_path / "b"], ["bad"])


def test_probes_that_learned_from_other_data_are_refused(tmp_path):
    for folder, data in (("a", "1"), ("b", "2")):
        told = {"learned_from": [{"split": "train", "samples": 9, "sha256": data}]}
        write_scores(tmp_path / folder, "probe", hits(0.5), details=told)
        write_scores(tmp_path / folder, "other", hits(0.5))
    found = compare_folders([tmp_path / "a", tmp_path / "b"])
    assert found.refused["probe"].startswith("a probe learned from other data")
    assert [row.task for row in found.rows] == ["other"]


def test_two_records_of_a_task_in_one_folder_are_refused(tmp_path):
    for folder in ("a", "b"):
        write_scores(tmp_path / folder, "t", hits(0.5))
    shutil.copy(tmp_path / "a" / "t.json", tmp_path / "a" / "t (copy).json")
    with pytest.raises(RecipeError, match=r"t\.json: a second record of t in .*a: move one of them away"):
        compare_folders([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("one", "other", "is_refused"),
    [
        ({"model_checksum": 1.0}, {"model_checksum": 2.0}, True),
        ({"model": "m"}, {"model": "n"}, True),
        ({"step": 5}, {"step": 6}, True),
        ({"model_checksum": 1.0, "model": "m"}, {"model_checksum": 1.0, "model": "./m"}, False),
        ({"model_checksum": None}, {"model_checksum": 2.0}, False),
    ],
)
def test_records_of_two_models_in_one_folder_are_refused(tmp_path, one, other, is_refused):
    for folder in ("a", "b"):
        write_scores(tmp_path / folder, "t", hits(0.5), **one)
        write_scores(tmp_path / folder, "u", hits(0.5), **(other if folder == "a" else one))
    with pytest.raises(RecipeError, match="records of several models: t is of") if is_refused else nullcontext():
        compare_folders([tmp_path / "a", tmp_path / "b"])


def test_a_sample_more_is_another_set(tmp_path):
    write_scores(tmp_path / "a", "t", hits(0.5, 400))
    write_scores(tmp_path / "b", "t", hits(0.5, 401))
    with pytest.raises(RecipeError, match=r"other samples \(400 in .*a, 401 in .*b\)"):
        compare_folders([tmp_path / "a", tmp_path / "b"])


def test_a_table_of_another_record_is_refused(tmp_path):
    folders = two(tmp_path, hits(0.5), hits(0.6))
    record = json.loads((tmp_path / "b" / "t.json").read_text())
    record["metrics"]["acc1"]["value"] += 0.01
    (tmp_path / "b" / "t.json").write_text(json.dumps(record))
    with pytest.raises(RecipeError, match=r"b/t.*evaluate again"):
        compare_folders(folders)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts_sha256": "other"}, "other prompts"),
        ({"settings": {"prompts": "x"}}, "other settings"),
        ({"versions": {"torch": "2.9"}}, "other libraries (torch 2.8 and 2.9)"),
        ({"commit": "def"}, "other commits of vlp (abc and def)"),
        ({"pixels": {"as": "referee"}}, "other pixels (training and referee)"),
    ],
)
def test_what_may_differ_is_said_by_name(tmp_path, changes, said):
    write_scores(tmp_path / "a", "t", hits(0.5))
    write_scores(tmp_path / "b", "t", hits(0.6), **changes)
    comparison = compare_folders([tmp_path / "a", tmp_path / "b"])
    assert len(comparison.rows) == 1
    assert any(said in note and note.endswith(": t") for note in comparison.notes)


def test_tasks_of_one_model_alone_are_left_out_and_said(tmp_path):
    two(tmp_path, hits(0.5), hits(0.6))
    write_scores(tmp_path / "a", "alone", hits(0.5))
    (tmp_path / "b" / "alone.json").write_text('{"task": "alone", "error": "RecipeError: no data"}')
    comparison = compare_folders([tmp_path / "a", tmp_path / "b"])
    assert [row.task for row in comparison.rows] == ["t"]
    assert any(note.startswith("alone: left out") and note.endswith("b") for note in comparison.notes)


def test_a_number_without_interval_is_shown_and_not_judged(tmp_path):
    none = {"metrics": {"acc1": {"value": 0.5, "low": None, "high": None, "count": 4}}}
    comparison = compare_folders(two(tmp_path, [1.0, 0.0], [1.0, 0.0], samples=False, **none))
    assert comparison.rows[0].difference is None
    assert "no interval" in as_text(comparison)
    assert json.loads(as_json(comparison))["rows"][0]["p"] is None


@pytest.mark.parametrize(
    ("settings", "better"),
    [
        ({"metric": "median_rank"}, 0),
        ({"metric": "followed"}, 0),
        ({"metric": "worst_toxicity_crime"}, 0),
        ({"metric": "joint_modality_nmi"}, None),
        ({"evaluator": "geometry"}, None),
        ({"evaluator": "tolerance", "metric": "tolerance"}, None),
        ({"evaluator": "diagnostics", "metric": "cka"}, None),
        ({"evaluator": "diagnostics", "metric": "image_to_text_hubness"}, 0),
        ({"evaluator": "diagnostics", "metric": "image_to_text_query_auc"}, 1),
    ],
)
def test_higher_is_not_always_better(tmp_path, settings, better):
    comparison = compare_folders(two(tmp_path, hits(0.3), hits(0.6), **settings))
    assert comparison.rows[0].is_distinguishable
    assert comparison.rows[0].better == better
    assert ("different" in as_text(comparison).split("verdict")[1].splitlines()[1]) == (better is None)


def test_the_mean_is_of_tasks_in_which_higher_is_better(tmp_path):
    for task, settings in (("a", {}), ("b", {}), ("c", {"evaluator": "diagnostics", "metric": "cka"})):
        two(tmp_path, hits(0.3), hits(0.6), task, **settings)
    assert compare_folders([tmp_path / "a", tmp_path / "b"]).rows[-1].metric == "2 tasks"


def test_no_number_depends_on_the_other_tasks_or_on_chance(tmp_path):
    folders = two(tmp_path, hits(0.5), hits(0.6))
    first = compare_folders(folders).rows[0].difference
    two(tmp_path, hits(0.3), hits(0.2), task="more")
    again = compare_folders(folders).rows[-2:]
    assert first in [row.difference for row in compare_folders(folders).rows]
    assert again == compare_folders(folders).rows[-2:]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a"], "two models or more"),
        (["a", "a"], "compared with itself"),
        (["a", "nowhere"], "nowhere"),
        (["a", "empty"], "empty: no records"),
        (["a", "run"], r"run: a run without evaluations; vlp eval .*run writes them"),
        (["a", "broken"], r"broken/t\.json: not an evaluation record"),
    ],
)
def test_mistakes_are_named(tmp_path, names, said):
    two(tmp_path, hits(0.5), hits(0.6))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "t.json").write_text('{"task": "t"}')
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "data.lock.json").write_text("{}")
    with pytest.raises(RecipeError, match=said):
        compare_folders([tmp_path / name for name in names])


def test_an_unknown_task_has_a_neighbour(tmp_path):
    with pytest.raises(RecipeError, match=r"'emoji'.*emoji24"):
        compare_folders(two(tmp_path, hits(0.5), hits(0.6), task="emoji24"), ["emoji"])


def test_a_run_is_compared_by_its_newest_evaluation(tmp_path):
    write_scores(tmp_path / "run" / "evaluations" / "step_00000010", "t", hits(0.1))
    write_scores(tmp_path / "run" / "evaluations" / "step_00000200", "t", hits(0.5))
    (tmp_path / "run" / "evaluations" / "step_00000300").mkdir()
    write_scores(tmp_path / "run" / "evaluations" / "step_00000200.before", "t", hits(0.9))
    write_scores(tmp_path / "b", "t", hits(0.6))
    (row,) = compare_folders([tmp_path / "run", tmp_path / "b"]).rows
    assert row.values == pytest.approx((hits(0.5).mean(), hits(0.6).mean()))


def test_all_forms_say_the_same(tmp_path):
    two(tmp_path, hits(0.5), hits(0.6))
    folders = two(tmp_path, hits(0.5), hits(0.505), task="close")
    comparison = compare_folders(folders)
    text, markdown, table = as_text(comparison), as_markdown(comparison), as_csv(comparison)
    data = json.loads(as_json(comparison), parse_constant=pytest.fail)
    assert [row["better"] for row in data["rows"]] == [None, "B", "B"]
    assert data["correction"] == "Holm, 3 comparisons"
    assert data["models"]["A"]["folders"] == [str(tmp_path / "a")]
    assert [line.split(",")[0] for line in table.splitlines()] == ["task", "close", "t", "mean"]
    assert table.splitlines()[0].split(",") == list(data["rows"][0])
    for form in (text, markdown):
        assert form.count("not distinguishable") == 1
        assert form.count("B is better") == 2
        assert "Holm" in form and "3 comparisons" in form
    body = text.split("\n\n")[1].splitlines()
    assert len({line.index(word) for line, word in zip(body[1:], ("~", "B is", "B is"), strict=True)}) == 1
    assert len({line.count(" | ") for line in markdown.splitlines() if line.startswith("|")}) == 1
