"""What is packed for evaluation is what evaluators open, and scores as the same set does by hand."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.curate.conftest import write_images
from tests.shards import image_bytes
from tests.towers.tiny import tiny_export
from vlp.curate.pack_set import SetOptions, pack_set
from vlp.evaluate import evaluate_model
from vlp.evaluators.base import load_task
from vlp.evaluators.dataset import DataSource, open_set
from vlp.ground.types import RecipeError

DEFAULT = SetOptions()
ANIMALS = ("cat", "red panda", "dog")


@pytest.fixture
def animals(tmp_path):
    """Three folders of four images each."""
    folder = tmp_path / "animals"
    for number, name in enumerate(ANIMALS):
        for place in range(4):
            path = folder / name.replace(" ", "_") / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image_bytes(10 * number + place, "png"))
    return folder


def write_csv(path, rows, head=("path", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def opened(folder, split="test"):
    return open_set(DataSource(root=str(folder), split=split, classes_without_samples=None))


def test_folders_of_classes_become_a_task(animals, tmp_path):
    packed = pack_set(animals, tmp_path / "mine", DEFAULT, limits="samples=5", workers=1)
    found = opened(tmp_path / "mine")
    assert found.class_names == ("cat", "dog", "red panda") and found.templates == ("a photo of a {c}.",)
    assert found.labels == (0,) * 4 + (1,) * 4 + (2,) * 4
    assert sorted(path.name for path in (tmp_path / "mine" / "test").glob("*.tar")) == ["0.tar", "1.tar", "2.tar"]
    originals = sorted(animals.rglob("*.png"))
    assert [sample.image_bytes() for sample in found.samples] == [path.read_bytes() for path in originals]
    task = load_task(str(packed.task))
    assert (task.evaluator, task.random, task.data.samples, len(task.data.sha256)) == ("zero_shot", 0.333333, 12, 3)
    assert str(packed).splitlines()[-1] == f"vlp eval MODEL --tasks {packed.task}"


def test_the_task_scores(animals, tmp_path):
    packed = pack_set(animals, tmp_path / "mine", DEFAULT, workers=1)
    export = tiny_export(tmp_path / "export")
    assert evaluate_model(str(export), [str(packed.task)], tmp_path / "scores") == 0
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "scores").rglob("mine*.json")]
    assert record["metrics"]["acc1"]["count"] == 12 and record["metrics"]["acc1"]["value"] >= 0


def test_the_same_command_keeps_what_is_done_and_what_was_added(animals, tmp_path):
    task = pack_set(animals, tmp_path / "mine", DEFAULT, limits="samples=5", workers=1).task
    task.write_text("# my animals\n" + task.read_text().replace("main_metric: acc1", "main_metric: acc5"))
    (animals / "red_panda" / "3.png").write_bytes(image_bytes(99, "png"))
    packed = pack_set(animals, tmp_path / "mine", DEFAULT, limits="samples=5", workers=1)
    assert packed.kept == 10
    assert task.read_text().startswith("# my animals\n") and load_task(str(task)).main_metric == "acc5"


@pytest.mark.parametrize("label", ["n02", "2"])
def test_a_file_gives_classes_their_names(tmp_path, label):
    names = tmp_path / "names.txt"
    names.write_text("n00\tcat\nn01\tred panda\nn02\tdog\n" if label == "n02" else "cat\nred panda\ndog\n")
    paths = write_images(tmp_path / "images", 2)
    table = write_csv(tmp_path / "t.csv", [(path, label) for path in paths])
    packed = pack_set(table, tmp_path / "mine", SetOptions("classification", class_names=str(names)), workers=1)
    found = opened(tmp_path / "mine")
    assert found.class_names == ANIMALS and found.labels == (2, 2)
    assert "3 classes; 2 without a sample: cat, red panda" in str(packed)
    assert load_task(str(packed.task)).data.classes_without_samples == 2


@pytest.mark.parametrize(
    "folders", [("n02012849-crane", "n03126707-crane"), ("a/bat", "b/bat"), ("big_cat", "big cat")]
)
def test_two_folders_of_one_class_are_refused(tmp_path, folders):
    for number, folder in enumerate((*folders, "n02085620-dog" if folders[0][0] == "n" else "dog")):
        path = tmp_path / "images" / folder / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(image_bytes(number, "png"))
    with pytest.raises(RecipeError, match=r"folders of one class, '(crane|bat|big cat)': rename all but one"):
        pack_set(tmp_path / "images", tmp_path / "mine", DEFAULT, workers=1)


def test_folders_called_by_numbers_are_names_where_the_names_are_numbers(tmp_path):
    for number in (2, 3, 10):
        path = tmp_path / "images" / str(number) / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(image_bytes(number, "png"))
    (tmp_path / "names.txt").write_text("2\n3\n10\n")
    options = SetOptions(class_names=str(tmp_path / "names.txt"))
    pack_set(tmp_path / "images", tmp_path / "mine", options, workers=1)
    found = opened(tmp_path / "mine")
    numbers = {found.class_names[label] for label in found.labels}
    assert numbers == {"2", "3", "10"} and sorted(found.labels) == [0, 1, 2]


def test_features_called_by_numbers_keep_their_places(tmp_path):
    images = [{"bytes": image_bytes(number, "jpg"), "path": None} for number in range(3)]
    table = pa.table({"image": images, "label": [2, 0, 1]})
    path = tmp_path / "test-00000-of-00001.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": features(["2", "0", "1"])}), path)
    pack_set(path, tmp_path / "mine", DEFAULT, workers=1)
    assert opened(tmp_path / "mine").class_names == ("2", "0", "1")
    assert opened(tmp_path / "mine").labels == (2, 0, 1)


def test_a_number_that_may_be_a_name_is_refused(tmp_path):
    table = write_csv(tmp_path / "t.csv", [(path, 1) for path in write_images(tmp_path / "images", 2)])
    (tmp_path / "names.txt").write_text("1\n2\n3\n")
    options = SetOptions("classification", class_names=str(tmp_path / "names.txt"))
    with pytest.raises(RecipeError, match=r"a class is called '1', and is not number 1.*a tab before each name"):
        pack_set(table, tmp_path / "mine", options, workers=1)
    (tmp_path / "names.txt").write_text("1\t1\n2\t2\n3\t3\n")
    pack_set(table, tmp_path / "mine", options, workers=1)
    assert opened(tmp_path / "mine").labels == (0, 0)


def test_a_column_that_is_called_label_makes_classes(tmp_path):
    table = write_csv(tmp_path / "t.csv", zip(write_images(tmp_path / "images", 2), ("cat", "dog"), strict=True))
    pack_set(table, tmp_path / "mine", DEFAULT, workers=1)
    assert (opened(tmp_path / "mine").kind, opened(tmp_path / "mine").labels) == ("classification", (0, 1))


@pytest.mark.parametrize(
    ("labels", "kind", "said"),
    [
        (("cat|dog", "dog"), "multilabel", r"'cat\|dog' looks like 2 classes in one cell: write a list there"),
        (("cat; dog", "cat"), "classification", r"'cat; dog' looks like 2 classes in one cell"),
        (("Cat", "cat"), None, "'Cat' and 'cat' would be two classes: write them alike"),
    ],
)
def test_cells_that_are_no_names_of_classes_are_refused(tmp_path, labels, kind, said):
    table = write_csv(tmp_path / "t.csv", zip(write_images(tmp_path / "images", 2), labels, strict=True))
    with pytest.raises(RecipeError, match=said):
        pack_set(table, tmp_path / "mine", SetOptions(kind), workers=1)


def test_a_right_caption_among_the_wrong_ones_is_refused(tmp_path):
    (path,) = write_images(tmp_path / "images", 1)
    table = write_csv(tmp_path / "t.csv", [(path, json.dumps(["a boat", "a car", "a boat"]))], ("path", "caption"))
    with pytest.raises(RecipeError, match="bad_caption"):
        pack_set(table, tmp_path / "mine", SetOptions("choice"), workers=1)


def test_numbers_without_names_are_refused(tmp_path):
    table = write_csv(tmp_path / "t.csv", [(path, 1) for path in write_images(tmp_path / "images", 2)])
    with pytest.raises(RecipeError, match=r"classes are numbers \(1\).*--class-names FILE"):
        pack_set(table, tmp_path / "mine", SetOptions("classification"), workers=1)


def features(names):
    return json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})


def test_classes_of_a_parquet_file_keep_their_numbers(tmp_path):
    images = [{"bytes": image_bytes(number, "jpg"), "path": None} for number in range(3)]
    table = pa.table({"image": images, "label": [2, 0, 1]})
    path = tmp_path / "test-00000-of-00001.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": features(["dog", "cat", "ant"])}), path)
    pack_set(path, tmp_path / "mine", DEFAULT, workers=1)
    assert opened(tmp_path / "mine").class_names == ("dog", "cat", "ant")
    assert opened(tmp_path / "mine").labels == (2, 0, 1)


def test_classes_of_a_saved_dataset_keep_their_numbers(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": image_bytes(number, "jpg"), "path": None} for number in range(3)]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat", "ant"])})
    datasets.Dataset.from_dict({"image": images, "label": [2, 0, 1]}, kinds).save_to_disk(str(tmp_path / "saved"))
    pack_set(tmp_path / "saved", tmp_path / "mine", DEFAULT, workers=1)
    assert opened(tmp_path / "mine").labels == (2, 0, 1)


def test_captions_become_a_retrieval_set(photos, tmp_path):
    first = sorted(photos.glob("*.txt"))[0]
    packed = pack_set(photos, tmp_path / "mine", DEFAULT, workers=1)
    assert opened(tmp_path / "mine").captions[0] == (first.read_text().strip(),)
    assert load_task(str(packed.task)).data.captions == 10
    assert (tmp_path / "mine" / "dataset_type.txt").read_text() == "retrieval\n"


def test_all_captions_of_an_image_are_kept_a_line_each(tmp_path):
    path = write_images(tmp_path / "images", 1)[0]
    table = write_csv(tmp_path / "t.csv", [(path, "a\nfox"), (path, "an animal")], ("path", "caption"))
    pack_set(table, tmp_path / "mine", DEFAULT, workers=1)
    assert opened(tmp_path / "mine").captions == (("a fox", "an animal"),)


def test_several_labels_become_zeros_and_ones(tmp_path):
    paths = write_images(tmp_path / "images", 2)
    lines = [{"path": str(paths[0]), "labels": ["cat", "dog"]}, {"path": str(paths[1]), "labels": ["ant"]}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    packed = pack_set(tmp_path / "t.jsonl", tmp_path / "mine", SetOptions("multilabel"), workers=1)
    assert opened(tmp_path / "mine").class_names == ("ant", "cat", "dog")
    np.testing.assert_array_equal(opened(tmp_path / "mine").label_matrix, [[0, 1, 1], [1, 0, 0]])
    assert load_task(str(packed.task)).main_metric == "map"


def test_wrong_captions_follow_the_right_one(tmp_path):
    paths = write_images(tmp_path / "images", 2)
    lines = [{"path": str(path), "captions": ["a cat on a mat", "a mat on a cat"]} for path in paths]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pack_set(tmp_path / "t.jsonl", tmp_path / "mine", SetOptions("choice"), workers=1)
    assert opened(tmp_path / "mine").captions == (("a cat on a mat", "a mat on a cat"),) * 2


def test_a_train_split_shares_its_classes(animals, tmp_path):
    pack_set(animals, tmp_path / "mine", DEFAULT, workers=1)
    for path in (animals / "cat").iterdir():
        path.unlink()
    packed = pack_set(animals, tmp_path / "mine", SetOptions(name="train"), workers=1)
    assert packed.task is None
    assert opened(tmp_path / "mine", "train").labels == (1,) * 4 + (2,) * 4


@pytest.mark.processes
def test_one_and_two_processes_write_the_same_set(animals, tmp_path):
    for workers in (1, 2):
        pack_set(animals, tmp_path / str(workers) / "mine", DEFAULT, limits="samples=5", workers=workers)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / str(workers) / "mine" / "test").glob("*.tar")}
        for workers in (1, 2)
    )
    assert len(one) == 3 and one == two


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (
            [("a.png", "cat"), ("gone.png", "cat")],
            {},
            r"(?s)1 of 2 rows cannot be used, more than bad=0.*missing_image",
        ),
        ([("a.png", "cat"), ("bad.png", "cat")], {}, "(?s)corrupt_image"),
        ([("a.png", "cow")], {"class_names": "names.txt"}, r"(?s)bad_caption"),
        ([("a.png", "cat")], {"class_names": "twice.txt"}, "two classes are called 'cat'"),
        ([("a.png", "cat")], {"class_names": "half.txt"}, "1 of 2 lines have a tab"),
        ([("a.png", "cat")], {"prompts": "names.txt"}, r"prompt 'cat' of .* has no \{c\}"),
        ([("a.png", "cat")], {"name": "../test"}, "--as ../test"),
        ([("a.png", "cat")], {"kind": "choice", "columns": "caption=label"}, "(?s)bad_caption"),
    ],
)
def test_what_is_no_whole_set_is_refused(tmp_path, monkeypatch, rows, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(image_bytes(0, "png"))
    (tmp_path / "bad.png").write_bytes(image_bytes(0, "png")[:60])
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "twice.txt").write_text("cat\ncat\n")
    (tmp_path / "half.txt").write_text("n1\tcat\ndog\n")
    table = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(RecipeError, match=said):
        columns = options.pop("columns", "")
        chosen = SetOptions(**{"kind": "classification", **options})
        pack_set(table, tmp_path / "mine", chosen, columns=columns, workers=1)


def test_a_shard_without_a_row_leaves_no_gap(tmp_path):
    paths = write_images(tmp_path / "images", 1)
    rows = [(tmp_path / "gone.png", "cat")] * 2 + [(path, "cat") for path in paths]
    table = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(RecipeError, match="not one row of shard 0 can be used"):
        pack_set(table, tmp_path / "mine", SetOptions("classification"), limits="samples=1,bad=1", workers=1)


def test_another_kind_in_one_folder_is_refused(animals, photos, tmp_path):
    pack_set(animals, tmp_path / "mine", DEFAULT, workers=1)
    with pytest.raises(RecipeError, match="holds a pack with other settings"):
        pack_set(photos, tmp_path / "mine", DEFAULT, workers=1)
    with pytest.raises(RecipeError, match="says something else"):
        pack_set(
            animals,
            tmp_path / "mine",
            SetOptions(name="train", class_names=str(_names(tmp_path, "red panda", "cat", "dog"))),
            workers=1,
        )


def _names(folder, *names):
    path = folder / "order.txt"
    path.write_text("".join(f"{name}\n" for name in names))
    return path
