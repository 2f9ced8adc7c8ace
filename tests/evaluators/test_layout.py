"""A set lies in a folder or behind an address, and both give the same samples, read as training reads them."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile

import pytest

from tests.evaluators.sets import HashEncoder, draw_image, opened, task_on, write_captions, write_classes, write_tar
from tests.flaky_server import serving
from vlp.data.shards import download
from vlp.evaluators.dataset import DataSource, look, open_set
from vlp.evaluators.layout import find_root
from vlp.evaluators.tasks import run_tasks
from vlp.ground.types import RecipeError


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def server():
    with serving() as running:
        yield running


def put(server, root, name="set"):
    """Put a set on the server; return its address."""
    for path in root.rglob("*"):
        if path.is_file():
            server.files[f"/{name}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return f"{server.address}/{name}"


def same(one, other):
    kept = ("kind", "labels", "captions", "class_names", "templates", "sha256")
    assert all(getattr(one, name) == getattr(other, name) for name in kept)
    assert [sample.key for sample in one.samples] == [sample.key for sample in other.samples]
    for mine, its in zip(one.samples, other.samples, strict=True):
        assert mine.image_bytes() == its.image_bytes()


@pytest.mark.parametrize("write", [write_classes, write_captions])
def test_a_remote_set_is_the_local_one(tmp_path, server, write):
    root = write(tmp_path / "set")
    same(open_set(DataSource(root=put(server, root))), opened(root))


NAMES = [("wds_vtab-dtd", "wds_vtab-dtd_test"), ("wds_vtab-cifar10", "wds_cifar10_test"), ("wds_cars", "wds_cars_test")]


@pytest.mark.parametrize("asked, there", NAMES)
def test_a_set_is_found_by_the_name_that_datacomp_gives_it(tmp_path, server, asked, there):
    root = write_classes(tmp_path / there)
    assert find_root(str(tmp_path / asked)).root == str(root.resolve())
    address = put(server, root, there)
    assert find_root(address.replace(there, asked)).root == address
    same(open_set(DataSource(root=address.replace(there, asked))), opened(root))


@pytest.mark.parametrize("asked, there", NAMES)
def test_the_name_that_was_asked_for_comes_first(tmp_path, server, asked, there):
    for name in (asked, there):
        put(server, write_classes(tmp_path / name), name)
    assert find_root(str(tmp_path / asked)).name == asked
    assert find_root(f"{server.address}/{asked}").name == asked


def test_a_set_that_is_nowhere_is_called_what_it_was_asked_for(tmp_path, server):
    assert find_root(f"{server.address}/wds_vtab-dtd").name == "wds_vtab-dtd"
    with pytest.raises(RecipeError, match=r"wds_vtab-dtd': no such folder"):
        find_root(str(tmp_path / "wds_vtab-dtd"))


def test_caltech101_of_torchvision_does_not_stand_in_for_that_of_vtab(tmp_path):
    write_classes(tmp_path / "wds_caltech101")
    with pytest.raises(RecipeError, match="no such folder"):
        find_root(str(tmp_path / "wds_vtab-caltech101"))


def test_shards_are_fetched_once_and_lists_at_each_start(tmp_path, server):
    address = put(server, write_classes(tmp_path / "set"))
    open_set(DataSource(root=address))
    before = [path for path, asked in server.requests if path.endswith(".tar") and not asked]
    server.requests.clear()
    open_set(DataSource(root=address))
    again = [path for path, asked in server.requests if path.endswith(".tar") and asked != "bytes=0-0"]
    assert len(before) == 2 and not again
    assert "/set/classnames.txt" in [path for path, _ in server.requests]


def test_a_sick_server_is_asked_again(tmp_path, server):
    root = write_classes(tmp_path / "set")
    address = put(server, root)
    server.troubles["/set/test/1.tar"] = ["503", "reset", "short"]
    server.troubles["/set/classnames.txt"] = ["503"]
    same(open_set(DataSource(root=address)), opened(root))


def test_a_remote_set_without_its_shard_or_count_is_refused(tmp_path, server):
    address = put(server, write_classes(tmp_path / "set"))
    del server.files["/set/test/1.tar"]
    with pytest.raises(RecipeError, match=r"1\.tar.*404"):
        open_set(DataSource(root=address))
    del server.files["/set/test/nshards.txt"]
    with pytest.raises(RecipeError, match=r"nshards\.txt: no such file"):
        look(DataSource(root=address))


def test_a_page_instead_of_class_names_is_refused(tmp_path, server):
    address = put(server, write_classes(tmp_path / "set"))
    server.troubles["/set/classnames.txt"] = ["page"] * 100
    with pytest.raises(RecipeError, match=r"classnames\.txt.*page"):
        open_set(DataSource(root=address))


def test_an_environment_variable_may_hold_an_address(tmp_path, server, monkeypatch):
    put(server, write_classes(tmp_path / "set"))
    monkeypatch.setenv("VLP_EVAL_ROOT", server.address)
    assert len(open_set(DataSource(root="${VLP_EVAL_ROOT}/set"))) == 5


def test_the_address_that_clip_benchmark_takes_is_understood():
    theirs = "https://huggingface.co/datasets/clip-benchmark/wds_cars/tree/main"
    assert find_root(theirs).root == "https://huggingface.co/datasets/clip-benchmark/wds_cars/resolve/main"


def test_a_task_scores_the_same_from_afar(tmp_path, server):
    root = write_classes(tmp_path / "set", labels=[0, 1, 2] * 7)
    here = task_on(root, "zero_shot", "acc1")
    afar = task_on(root, "zero_shot", "acc1").__class__(**{**here.__dict__, "data": DataSource(root=put(server, root))})
    one, other = run_tasks([here, afar], HashEncoder(), model="m")
    assert one["metrics"] == other["metrics"] and one["data_sha256"] == other["data_sha256"]


@pytest.mark.parametrize("name", ["a{0..3}b", "star*", "what?", "[x]", "$HOME", "with space", "~tilde", "a::b"])
def test_the_folder_may_have_any_name(tmp_path, name):
    root = write_classes(tmp_path / name.replace("$HOME", "dollar"))
    same(opened(root), opened(write_classes(tmp_path / "plain")))


def test_more_than_ten_shards_keep_the_order_of_their_numbers(tmp_path):
    data = opened(write_classes(tmp_path / "set", labels=[i % 3 for i in range(12)], num_shards=12))
    assert [sample.key for sample in data.samples] == [f"s{i:07d}" for i in range(12)]


def test_tars_put_behind_one_another_are_read_to_the_end(tmp_path):
    root = write_classes(tmp_path / "set")
    shard = root / "test/1.tar"
    write_tar(tmp_path / "more.tar", [("z.png", draw_image(7)), ("z.cls", b"1")])
    shard.write_bytes(shard.read_bytes() + (tmp_path / "more.tar").read_bytes())
    assert [sample.key for sample in opened(root).samples][-1] == "z"


def test_a_hard_link_stands_for_its_image(tmp_path):
    root = write_classes(tmp_path / "set", labels=(0, 1, 2))
    first = draw_image(0)
    with tarfile.open(root / "test/1.tar", "w") as tar:
        for name, content in (("a.png", first), ("a.cls", b"1"), ("b.cls", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        tar.addfile(link)
    linked = {sample.key: sample.image_bytes() for sample in opened(root).samples}
    assert linked["b"] == first


def test_a_sparse_member_is_refused_by_name(tmp_path):
    if shutil.which("tar") is None:
        pytest.skip("no tar program")
    root = write_classes(tmp_path / "set", labels=(0, 1, 2))
    (tmp_path / "z.cls").write_bytes(b"1")
    with (tmp_path / "z.png").open("wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["tar", "--sparse", "-cf", root / "test/1.tar", "z.cls", "z.png"], cwd=tmp_path, check=True)
    data = opened(root)
    with pytest.raises(RecipeError, match=r"1\.tar.*'z'.*sparse"):
        data.image(len(data) - 1)


def test_two_images_of_one_sample_are_refused(tmp_path):
    root = write_classes(tmp_path / "set")
    write_tar(root / "test/1.tar", [("z.png", draw_image(0)), ("z.jpg", draw_image(0)), ("z.cls", b"1")])
    with pytest.raises(RecipeError, match="'z' has two images"):
        opened(root)
    write_tar(root / "test/1.tar", [("z.png", draw_image(0)), ("z.cls", b"1"), ("z.cls", b"2")])
    with pytest.raises(RecipeError, match=r"'z'.*two members '\.cls'"):
        opened(root)
