"""Zero-shot classification on small numbers, against scikit-learn, and with ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from tests.evaluators.kinds import check_intervals, check_samples, values_of, vector, write_set
from tests.evaluators.sets import HashEncoder, opened, unit, write_captions, write_classes
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.zero_shot import ZeroShot, classify
from vlp.ground.types import RecipeError


def draw(num_images=300, num_classes=7, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = unit(torch.randn(num_images, width, generator=generator))
    classes = unit(torch.randn(num_classes, width, generator=generator))
    labels = torch.multinomial(torch.arange(1.0, num_classes + 1), num_images, replacement=True, generator=generator)
    return images, classes, labels


def names(number):
    return tuple(f"class {k}" for k in range(number))


def test_four_images_counted_by_hand():
    classes = torch.eye(3)
    images = unit(torch.tensor([[3.0, 1, 0], [2, 3, 1], [0, 2, 3], [3, 2, 1]]))
    evaluation = classify(images, classes, torch.tensor([0, 0, 1, 0]), names(3), 1)
    found = values_of(evaluation)
    assert found["acc1"] == 2 / 4
    assert found["mean_per_class_recall"] == (2 / 3 + 0 / 1) / 2
    assert evaluation.details["ranks"] == [1, 2, 2, 1]
    assert evaluation.details["predictions"] == [0, 1, 2, 0]
    assert evaluation.details["confusion"] == [[2, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_equals_scikit_learn():
    images, classes, labels = draw()
    found = values_of(classify(images, classes, labels, names(7), 1))
    scores = (images @ classes.T).numpy()
    assert found["mean_per_class_recall"] == balanced_accuracy_score(labels, scores.argmax(1))
    assert found["acc1"] == (scores.argmax(1) == labels.numpy()).mean()
    assert found["acc5"] == top_k_accuracy_score(labels, scores, k=5)


def test_classes_without_images_do_not_count_in_the_mean_recall():
    images, classes, labels = draw()
    fewer = labels.clamp(max=5)
    found = values_of(classify(images, classes, fewer, names(7), 1))
    scores = (images @ classes.T).numpy()
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        expected = balanced_accuracy_score(fewer, scores.argmax(1))
    assert found["mean_per_class_recall"] == expected


def test_fewer_than_five_classes_have_no_acc5():
    images, classes, labels = draw(num_classes=4)
    assert "acc5" not in values_of(classify(images, classes, labels, names(4), 1))


def test_the_first_of_tied_classes_wins_and_ties_are_counted():
    classes = torch.eye(4)[[0, 0, 1, 2]]
    images = torch.eye(4)[[0, 0, 1]]
    evaluation = classify(images, classes, torch.tensor([0, 1, 2]), names(4), 1)
    found = values_of(evaluation)
    assert found["acc1"] == 2 / 3
    assert found["acc1_strict"] == 1 / 3
    assert evaluation.details["ties"] == 2
    assert evaluation.details["ranks"] == [1, 2, 1]


def test_a_collapsed_model_is_right_on_the_first_class_only():
    images, classes, labels = draw()
    evaluation = classify(torch.ones_like(images) / 4, torch.ones_like(classes) / 4, labels, names(7), 1)
    assert values_of(evaluation)["acc1"] == int((labels == 0).sum()) / len(labels)
    assert values_of(evaluation)["acc1_strict"] == 0
    assert evaluation.details["ties"] == len(labels)


def test_chunks_do_not_matter(monkeypatch):
    images, classes, labels = draw()
    whole = classify(images, classes, labels, names(7), 1)
    monkeypatch.setattr("vlp.evaluators.zero_shot.CHUNK", 11)
    assert classify(images, classes, labels, names(7), 1) == whole


def test_prompts_are_averaged_as_unit_vectors(tmp_path):
    data = opened(write_classes(tmp_path / "set"))
    encoder = HashEncoder()
    evaluator = ZeroShot(data)
    assert evaluator.texts[:3] == ("a photo of a red cat.", "a red cat", "a photo of a green dog.")
    evaluation = evaluator.run(SharedEncoder(encoder))

    images = encoder.embed_images(data.image(i) for i in range(len(data)))
    by_hand = []
    for name in data.class_names:
        first, second = encoder.embed_texts([f"a photo of a {name}."]), encoder.embed_texts([f"a {name}"])
        by_hand.append(unit((first + second) / 2))
    predictions = (images @ torch.cat(by_hand).T).argmax(1)
    assert evaluation.details["predictions"] == predictions.tolist()
    assert evaluation.details["templates"] == 2


def test_prompts_of_a_file_replace_those_of_the_set(tmp_path):
    (tmp_path / "prompts.txt").write_text("one {c}\n")
    data = opened(write_classes(tmp_path / "set"))
    assert ZeroShot(data, prompts=str(tmp_path / "prompts.txt")).texts == (
        "one red cat",
        "one green dog",
        "one blue bird",
    )


def test_a_prompt_without_a_place_for_the_class_is_an_error(tmp_path):
    root = write_classes(tmp_path / "set")
    (root / "zeroshot_classification_templates.txt").write_text("a photo\n")
    with pytest.raises(RecipeError, match=r"a photo.*no \{c\}"):
        ZeroShot(opened(root))


@pytest.mark.parametrize("name", ["classnames.txt", "zeroshot_classification_templates.txt"])
def test_a_set_without_class_names_or_prompts_is_an_error(tmp_path, name):
    root = write_classes(tmp_path / "set")
    (root / name).unlink()
    with pytest.raises(RecipeError, match=name):
        ZeroShot(opened(root))


def test_a_set_of_another_kind_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="retrieval set"):
        ZeroShot(opened(write_captions(tmp_path / "set")))


def test_a_perfect_model_is_perfect():
    labels = torch.from_numpy(np.arange(60) % 6)
    found = values_of(classify(torch.eye(6)[labels], torch.eye(6), labels, names(6), 1))
    assert set(found.values()) == {1.0}


def test_what_samples_add_makes_up_the_metrics():
    images, classes, labels = draw()
    evaluation = classify(images, classes, labels, names(7), 1)
    check_samples(evaluation, ["acc1", "acc5", "acc1_strict", "mean_per_class_recall", "macro_f1"])
    check_intervals(evaluation)


def grouped(tmp_path):
    samples = {f"s{i}": {"cls": str(i % 6).encode(), "npy": vector(i % 4, i % 3)} for i in range(36)}
    root = write_set(tmp_path / "set", "classification", samples, [f"thing {word}" for word in "abcdef"])
    return open_set(DataSource(root=str(root), groups=("country", "region")))


def test_the_worst_group_of_a_set(tmp_path):
    data = grouped(tmp_path)
    evaluation = ZeroShot(data, group="country", ignore_groups=(2,), top=5).run(SharedEncoder(HashEncoder()))
    hits = np.array(evaluation.details["ranks"]) <= 5
    shares = [hits[np.arange(36) % 4 == group].mean() for group in range(4)]
    assert values_of(evaluation)["worst_group_acc5"] == min(shares[0], shares[1], shares[3])
    assert values_of(evaluation)["mean_group_acc5"] == pytest.approx(np.mean(shares))
    assert evaluation.details["groups_acc5_by_country"]["ignored"] == [2]
    check_samples(evaluation, ["mean_group_acc5", "acc1"])


def test_a_hierarchy_of_a_set(tmp_path):
    data = grouped(tmp_path)
    (tmp_path / "tree.yaml").write_text("".join(f"{name}: {'xy'[i % 2]}\n" for i, name in enumerate(data.class_names)))
    evaluation = ZeroShot(data, hierarchy=str(tmp_path / "tree.yaml")).run(SharedEncoder(HashEncoder()))
    predictions = np.array(evaluation.details["predictions"])
    assert values_of(evaluation)["acc1_super"] == (predictions % 2 == np.arange(36) % 2).mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group": "contry"}, "no column 'contry'; did you mean 'country'"),
        ({"group": "region", "ignore_groups": (7,)}, "no sample is in group 7"),
        ({"ignore_groups": (1,)}, "no effect without settings.group"),
        ({"top": 5}, "no effect without settings.group"),
        ({"group": "region", "top": 7}, "settings.top is 7, and there are 6 classes"),
    ],
)
def test_settings_of_groups_that_make_no_sense_are_errors(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        ZeroShot(grouped(tmp_path), **settings)
