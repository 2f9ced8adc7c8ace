"""What stands beside an image is read as the kind of the set says, or refused by name."""

from __future__ import annotations

import io

import numpy as np
import pytest

from tests.evaluators.sets import draw_image, write_tar
from vlp.evaluators.dataset import DataSource, open_set
from vlp.ground.types import RecipeError


def vector(*numbers, dtype=np.int64):
    file = io.BytesIO()
    np.save(file, np.array(numbers, dtype=dtype))
    return file.getvalue()


def write(root, kind, *samples):
    """Write a set of one shard; each sample is what stands beside its image, by extension."""
    (root / "test").mkdir(parents=True)
    if kind != "classification":
        (root / "dataset_type.txt").write_text(kind)
    else:
        (root / "classnames.txt").write_text("cat\ndog\n")
    (root / "test/nshards.txt").write_text("1")
    members = []
    for number, labels in enumerate(samples):
        members.append((f"s{number}.png", draw_image(number)))
        members += [(f"s{number}.{name}", content) for name, content in labels.items()]
    write_tar(root / "test/0.tar", members)
    return str(root)


def test_a_choice_has_the_right_caption_and_wrong_ones(tmp_path):
    root = write(tmp_path / "set", "choice", {"txt": b"right\nwrong"}, {"txt": b"right\nwrong\nworse"})
    data = open_set(DataSource(root=root))
    assert data.kind == "choice"
    assert data.captions == (("right", "wrong"), ("right", "wrong", "worse"))


def test_a_choice_of_one_is_refused(tmp_path):
    root = write(tmp_path / "set", "choice", {"txt": b"right\nwrong"}, {"txt": b"right"})
    with pytest.raises(RecipeError, match=r"0\.tar.*'s1' has 1 captions to choose from"):
        open_set(DataSource(root=root))


def test_an_association_has_a_cue_and_a_verdict(tmp_path):
    root = write(tmp_path / "set", "association", {"txt": b"a pack", "cls": b"1"}, {"txt": b"a pack", "cls": b"0"})
    data = open_set(DataSource(root=root))
    assert (data.captions, data.labels) == ((("a pack",), ("a pack",)), (1, 0))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"txt": b"a pack", "cls": b"2"}, "'s0' says 2, neither 0 nor 1"),
        ({"txt": b"a pack\na herd", "cls": b"1"}, "'s0' has 2 cues"),
        ({"txt": b"a pack"}, r"'s0' has no \.cls"),
    ],
)
def test_a_wrong_association_is_refused(tmp_path, labels, message):
    with pytest.raises(RecipeError, match=message):
        open_set(DataSource(root=write(tmp_path / "set", "association", labels)))


def test_groups_stand_in_columns(tmp_path):
    samples = [{"cls": b"0", "npy": vector(3, 0)}, {"cls": b"1", "npy": vector(4, 1)}]
    root = write(tmp_path / "set", "classification", *samples)
    data = open_set(DataSource(root=root, groups=("region", "year")))
    assert {name: values.tolist() for name, values in data.groups.items()} == {"region": [3, 4], "year": [0, 1]}
    assert open_set(DataSource(root=root)).groups == {}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (vector(3), "'s0' has 1 numbers of type int64, and data.groups names 2"),
        (vector(3, 1, dtype=np.float32), "'s0' has 2 numbers of type float32"),
        (b"no array", "'s0' do not load"),
        (None, r"'s0' has no \.npy"),
    ],
)
def test_wrong_groups_are_refused(tmp_path, numbers, message):
    labels = {"cls": b"0"} if numbers is None else {"cls": b"0", "npy": numbers}
    root = write(tmp_path / "set", "classification", labels, {"cls": b"1", "npy": vector(1, 1)})
    with pytest.raises(RecipeError, match=message):
        open_set(DataSource(root=root, groups=("region", "year")))
