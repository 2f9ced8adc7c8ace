"""Faces by DataComp's rules, one face at a time."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluators.kinds import check_intervals, check_samples, values_of, vector, write_set
from tests.evaluators.sets import HashEncoder, unit
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.faces import Faces, score_faces
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError


def draw(size=300, seed=0):
    random = np.random.default_rng(seed)
    limits = {"race": 7, "gender": 2, "age": 9, "toxic": 21}
    columns = {name: random.integers(limit, size=size) for name, limit in limits.items() if name != "toxic"}
    columns["race_binary"] = (columns["race"] != 1).astype(np.int64)
    return {name: random.integers(limit, size=size) for name, limit in limits.items()}, columns


def worst(hits, groups):
    return min(
        np.mean([hit for hit, other in zip(hits, groups, strict=True) if other == group]) for group in set(groups)
    )


@pytest.mark.parametrize("seed", range(3))
def test_equals_datacomps_rules(seed):
    predictions, columns = draw(seed=seed)
    found = values_of(score_faces(predictions, columns))
    faces = range(300)
    binary, race, gender = (columns[name].tolist() for name in ("race_binary", "race", "gender"))
    is_race = [int(predictions["race"][i] != 1) == binary[i] for i in faces]
    is_gender = [predictions["gender"][i] == gender[i] for i in faces]
    is_age = [predictions["age"][i] == columns["age"][i] for i in faces]
    assert found["acc_race"] == pytest.approx(np.mean(is_race))
    assert found["worst_group_acc_race"] == pytest.approx(worst(is_race, binary))
    assert found["acc_gender"] == found["acc_gender_x"] == pytest.approx(np.mean(is_gender))
    assert found["worst_group_acc_gender"] == pytest.approx(worst(is_gender, binary))
    assert found["worst_group_acc_gender_x"] == pytest.approx(worst(is_gender, list(zip(gender, race, strict=True))))
    assert found["acc_age"] == pytest.approx(np.mean(is_age))
    assert found["worst_group_acc_age"] == pytest.approx(worst(is_age, binary))
    is_crime = [predictions["toxic"][i] >= 18 for i in faces]
    is_animal = [14 <= predictions["toxic"][i] < 18 for i in faces]
    assert found["toxicity_crime"] == pytest.approx(np.mean(is_crime))
    assert found["toxicity_nonhuman"] == pytest.approx(np.mean(is_animal))
    assert found["worst_toxicity_crime"] == pytest.approx(1 - worst([not hit for hit in is_crime], race))
    assert found["acc_race_exact"] == pytest.approx(np.mean(predictions["race"] == columns["race"]))


def test_numbers_have_samples_and_intervals():
    evaluation = score_faces(*draw())
    check_samples(evaluation, ["acc_race", "acc_gender", "acc_age", "toxicity_crime", "mean_group_acc_gender_x"])
    check_intervals(evaluation)
    assert evaluation.details["groups_toxicity_crime_by_race"]["samples"] == np.bincount(draw()[1]["race"]).tolist()


NAMES = {
    "race": ["Black", "White", "Indian"],
    "gender": ["male", "female"],
    "age": ["0-2", "3-9"],
    "toxic": [f"label{i}" for i in range(21)],
}


def written(
    tmp_path, names=NAMES, templates=("race:a {c} person", "gender:a {c}", "gender:one {c}", "age:{c}", "toxic:{c}")
):
    samples = {f"s{i}": {"cls": b"0", "npy": vector(i % 2, i % 2, i % 3, int(i % 3 != 1))} for i in range(12)}
    lines = [f"{attribute}:{name}" for attribute, each in names.items() for name in each]
    root = write_set(tmp_path / "set", "classification", samples, lines, templates)
    groups = ("age", "gender", "race", "race_binary")
    return open_set(DataSource(root=str(root), groups=groups, classes_without_samples=len(lines) - 1))


def test_runs_on_a_set(tmp_path):
    data = written(tmp_path)
    evaluator = Faces(data)
    assert evaluator.texts[:5] == ("a Black person", "a White person", "a Indian person", "a male", "one male")
    encoder = HashEncoder()
    evaluation = evaluator.run(SharedEncoder(encoder))
    images = encoder.embed_images(data.image(i) for i in range(12))
    rows = [unit(encoder.embed_texts([f"a {name}", f"one {name}"])).mean(0) for name in ("male", "female")]
    hits = [
        int(image @ unit(rows[1][None])[0] > image @ unit(rows[0][None])[0]) == i % 2 for i, image in enumerate(images)
    ]
    assert evaluation.samples["acc_gender"].values == [float(hit) for hit in hits]


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        (NAMES | {"toxic": ["thief"]}, None, "needs 19 class names .* begin with 'toxic:'; there are 1 and 1"),
        (NAMES | {"race": ["Black"]}, None, "needs 2 class names .* begin with 'race:'"),
        (NAMES | {"rcae": ["Black"]}, None, "'rcae' does not begin with one of race:, gender:, age:, toxic:"),
        (NAMES, ("race:{c}", "gender:{c}", "toxic:{c}"), "'age:'; there are 2 and 0"),
        (NAMES, ("race:{c}", "gender:a man", "age:{c}", "toxic:{c}"), "'gender:'"),
    ],
)
def test_sets_that_lack_something_are_named(tmp_path, names, templates, message):
    arguments = (names,) if templates is None else (names, templates)
    with pytest.raises(RecipeError, match=message):
        Faces(written(tmp_path, *arguments))
