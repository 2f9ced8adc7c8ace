"""A set is complete or refused, and the message names the file."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from PIL import Image

from tests.evaluators.sets import HashEncoder, draw_image, opened, task_on, write_captions, write_classes, write_tar
from vlp.data.pixels.decode import decode_image
from vlp.evaluators.base import Task
from vlp.evaluators.corruptions import Corruption, corrupt, cut_square
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.record import table
from vlp.evaluators.tasks import run_tasks
from vlp.ground.types import RecipeError

SECOND = "test/1.tar"


def refused(root, **declared):
    with pytest.raises(RecipeError) as caught:
        open_set(DataSource(root=str(root), **declared))
    return str(caught.value)


def test_samples_come_in_the_order_of_the_shards(tmp_path):
    data = opened(write_classes(tmp_path / "set", labels=(0, 1, 2, 0, 1)))
    assert [sample.key for sample in data.samples] == ["s0000000", "s0000002", "s0000004", "s0000001", "s0000003"]
    assert data.labels == (0, 2, 1, 1, 0)
    assert data.class_names == ("red cat", "green dog", "blue bird")
    assert data.image(0).size == (12, 12)
    assert data.image(0).mode == "RGB"


def test_captions_are_split_by_line(tmp_path):
    data = opened(write_captions(tmp_path / "set", [["one", "two"], ["three"]]))
    assert data.captions == (("one", "two"), ("three",))


def test_what_macos_puts_beside_shards_is_none(tmp_path):
    root = write_captions(tmp_path / "set", [["one"]])
    (root / "test" / "._0.tar").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    assert len(opened(root)) == 1


def test_a_mark_of_the_byte_order_is_no_part_of_a_caption(tmp_path):
    assert opened(write_captions(tmp_path / "set", [["\ufeffone", "two"]])).captions == (("one", "two"),)


def test_label_vectors_load_without_pickle(tmp_path):
    root = write_classes(tmp_path / "set", num_shards=1)
    (root / "dataset_type.txt").write_text("multilabel")
    np.save(tmp_path / "labels.npy", np.array([1, 1, 1]))
    write_tar(root / "test/0.tar", [("a.png", draw_image(0)), ("a.npy", (tmp_path / "labels.npy").read_bytes())])
    assert opened(root).label_matrix.tolist() == [[1, 1, 1]]
    np.save(tmp_path / "labels.npy", np.array([print], dtype=object), allow_pickle=True)
    write_tar(root / "test/0.tar", [("a.png", draw_image(0)), ("a.npy", (tmp_path / "labels.npy").read_bytes())])
    assert "0.tar" in refused(root)


def test_members_of_other_kinds_are_never_opened(tmp_path):
    root = write_classes(tmp_path / "set", labels=(0, 1, 2), num_shards=1)
    members = [("x.png", draw_image(9)), ("x.cls", b"0"), ("x.pyd", pickle.dumps(refused)), ("README.md", b"!")]
    for number in (1, 2):
        members += [(f"y{number}.png", draw_image(number)), (f"y{number}.cls", str(number).encode())]
    write_tar(root / "test/0.tar", members)
    assert len(opened(root)) == 3


@pytest.mark.parametrize(
    ("shards", "named"), [("3", "2.tar"), ("1", "1.tar"), ("two", "two"), ("0", "0"), ("", "nshards.txt")]
)
def test_a_wrong_shard_count_is_an_error(tmp_path, shards, named):
    root = write_classes(tmp_path / "set")
    (root / "test/nshards.txt").write_text(shards)
    message = refused(root)
    assert "nshards.txt" in message
    assert named in message


@pytest.mark.parametrize("name", ["test/nshards.txt", SECOND])
def test_a_missing_file_is_an_error_that_names_it(tmp_path, name):
    root = write_classes(tmp_path / "set")
    (root / name).unlink()
    assert name.split("/")[1] in refused(root)


def test_a_missing_folder_is_an_error(tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 100, 512, 2048, 4096])
def test_a_cut_shard_is_an_error_wherever_it_is_cut(tmp_path, keep):
    root = write_classes(tmp_path / "set")
    whole = (root / SECOND).read_bytes()
    (root / SECOND).write_bytes(whole[:keep])
    assert "1.tar" in refused(root)


def test_a_garbled_header_is_an_error(tmp_path):
    root = write_classes(tmp_path / "set")
    garbled = bytearray((root / SECOND).read_bytes())
    second_header = bytes(garbled).index(b"s0000001.cls")
    garbled[second_header] ^= 0xFF
    (root / SECOND).write_bytes(garbled)
    assert "1.tar" in refused(root)


@pytest.mark.parametrize("lost", ["png", "cls"])
def test_half_a_sample_is_an_error(tmp_path, lost):
    root = write_classes(tmp_path / "set")
    write_tar(root / SECOND, [(f"z.{suffix}", b"0") for suffix in ("png", "cls") if suffix != lost])
    message = refused(root)
    assert "1.tar" in message
    assert "'z'" in message


@pytest.mark.parametrize("label", [b"3", b"-1", b"cat", b""])
def test_a_class_outside_the_names_is_an_error(tmp_path, label):
    root = write_classes(tmp_path / "set")
    write_tar(root / SECOND, [("z.png", draw_image(0)), ("z.cls", label)])
    message = refused(root)
    assert "1.tar" in message
    assert "'z'" in message


def test_a_missing_class_name_is_an_error(tmp_path):
    root = write_classes(tmp_path / "set")
    (root / "classnames.txt").write_text("red cat\ngreen dog\n")
    message = refused(root)
    assert "classnames.txt" in message
    assert "class 2" in message


@pytest.mark.parametrize("name", ["classnames.txt", "zeroshot_classification_templates.txt"])
def test_a_blank_line_is_an_error(tmp_path, name):
    root = write_classes(tmp_path / "set")
    (root / name).write_text("a {c}\n\nb {c}\n")
    assert re.search(f"{name}.*line 2", refused(root))


def test_a_class_without_samples_is_an_error_unless_the_task_says_so(tmp_path):
    root = write_classes(tmp_path / "set", labels=(0, 2, 0))
    assert "green dog" in refused(root)
    assert len(open_set(DataSource(root=str(root), classes_without_samples=1))) == 3


@pytest.mark.parametrize("declared", [{"samples": 6}, {"classes": 4}])
def test_another_number_than_declared_is_an_error(tmp_path, declared):
    root = write_classes(tmp_path / "set")
    assert str(*declared.values()) in refused(root, **declared)


def test_another_number_of_captions_is_an_error(tmp_path):
    root = write_captions(tmp_path / "set", [["one", "two"], ["three"]])
    assert "3 captions, but the task declares 4" in refused(root, captions=4)


def test_a_blank_caption_is_an_error(tmp_path):
    assert "0.tar" in refused(write_captions(tmp_path / "set", [["one", " "], ["three"]]))


def test_another_checksum_is_an_error_that_names_the_file(tmp_path):
    root = write_classes(tmp_path / "set")
    assert SECOND in refused(root, sha256={SECOND: "0" * 64})
    assert "no file" in refused(root, sha256={"test/7.tar": "0" * 64})


def test_the_checksum_of_a_set_sees_every_file(tmp_path):
    root = write_classes(tmp_path / "set")
    before = opened(root).sha256
    (root / "zeroshot_classification_templates.txt").write_text("the {c}\n")
    assert opened(root).sha256 != before


def test_one_shard_twice_is_an_error(tmp_path):
    root = write_classes(tmp_path / "set")
    (root / SECOND).write_bytes((root / "test/0.tar").read_bytes())
    message = refused(root)
    assert "0.tar" in message
    assert "1.tar" in message


def test_a_broken_image_is_an_error_that_names_its_sample(tmp_path):
    root = write_classes(tmp_path / "set")
    write_tar(root / SECOND, [("z.png", draw_image(0)[:-30]), ("z.cls", b"1")])
    data = opened(root)
    with pytest.raises(RecipeError, match=r"1\.tar.*'z'"):
        data.image(len(data) - 1)


def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    data = opened(write_classes(tmp_path / "set"))
    monkeypatch.setattr("vlp.evaluators.dataset.MAX_PIXELS", 100)
    with pytest.raises(RecipeError, match="12x12"):
        data.image(0)


def odd_images():
    """Images that training and Pillow make different pixels of, by name; one of each is the same."""
    ramp = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    clear = {"transparency": 0}
    return {
        "clear": (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), {}, True),
        "opaque": (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), {}, False),
        "ramp": (Image.fromarray(ramp), {}, True),
        "palette": (palette, clear, True),
        "gray": (Image.new("LA", (4, 4), (10, 0)), {}, True),
        "colour": (Image.new("RGB", (4, 4), (10, 20, 30)), {}, False),
    }


@pytest.mark.parametrize("name", odd_images())
def test_images_are_decoded_as_in_training(tmp_path, name):
    """16 bits scaled to 8, transparent parts white; the count says where a referee sees other pixels."""
    image, info, differs = odd_images()[name]
    root = write_classes(tmp_path / "set")
    image.save(tmp_path / "odd.png", **info)
    content = (tmp_path / "odd.png").read_bytes()
    write_tar(root / SECOND, [("z.png", content), ("z.cls", b"1")])
    data = opened(root)
    found, is_different = data.decode(len(data) - 1)
    assert np.array_equal(np.asarray(found), np.asarray(decode_image(content, 100)))
    assert is_different is differs
    referee = open_set(DataSource(root=str(root), pixels="referee"))
    theirs, is_different = referee.decode(len(data) - 1)
    assert np.array_equal(np.asarray(theirs), np.asarray(Image.open(tmp_path / "odd.png").convert("RGB")))
    assert is_different is differs
    assert np.array_equal(np.asarray(theirs), np.asarray(found)) is not differs


def test_a_record_counts_the_images_that_differ(tmp_path):
    root = write_classes(tmp_path / "set")
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    write_tar(root / SECOND, [("z.png", (tmp_path / "clear.png").read_bytes()), ("z.cls", b"1")])
    task = Task.from_mapping(
        "odd", {"version": 1, "evaluator": "zero_shot", "main_metric": "acc1", "data": {"root": str(root)}}, "odd.yaml"
    )
    (record,) = run_tasks([task], HashEncoder(), model="hash")
    assert record["pixels"] == {"as": "training", "images_that_differ": 1}
    assert "--pixels referee" in table([record])


def test_an_unset_environment_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("VLP_EVAL_ROOT", raising=False)
    assert "VLP_EVAL_ROOT" in refused("${VLP_EVAL_ROOT}/set")
    monkeypatch.setenv("VLP_EVAL_ROOT", str(tmp_path))
    write_classes(tmp_path / "set")
    assert len(open_set(DataSource(root="${VLP_EVAL_ROOT}/set"))) == 5


def test_an_unknown_kind_is_an_error(tmp_path):
    root = write_classes(tmp_path / "set")
    (root / "dataset_type.txt").write_text("segmentation")
    assert "dataset_type.txt" in refused(root)


def test_classes_without_samples_may_be_unknown(tmp_path):
    root = write_classes(tmp_path / "set", labels=(0, 2, 0))
    assert len(open_set(DataSource(root=str(root), classes_without_samples=None))) == 3


def test_images_are_corrupted_when_they_are_read_whatever_the_order(tmp_path):
    root = write_classes(tmp_path / "set")
    fog = {"kind": "fog", "severity": 4, "size": 64}
    data = open_set(DataSource(root=str(root), corruption=fog))
    plain = open_set(DataSource(root=str(root)))
    found = {index: data.image(index).tobytes() for index in (4, 0, 2, 0)}
    assert data.image(0).size == (64, 64)
    by_hand = corrupt(cut_square(plain.image(2), 64), Corruption(**fog), plain.samples[2].key)
    assert found[2] == by_hand.tobytes() != cut_square(plain.image(2), 64).tobytes()
    assert data.changes() == {"corruption": Corruption(**fog)}
    assert plain.fingerprint == plain.sha256 == data.sha256
    others = [open_set(DataSource(root=str(root), corruption=fog | more)) for more in ({"seed": 1}, {"severity": 3})]
    assert len({plain.fingerprint, data.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_corruption_that_is_none_names_the_key_and_a_neighbour(tmp_path):
    with pytest.raises(RecipeError, match=r"data\.corruption\.kind.*gaussian_noise"):
        task_on(tmp_path, "zero_shot", "acc1", corruption={"kind": "gausian_noise", "severity": 1})
