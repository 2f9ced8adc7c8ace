"""Class names and prompts under eval/ are what the packages say that publish them."""

from __future__ import annotations

import importlib
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.layout import read_lines
from vlp.evaluators.variants import families
from vlp.ground.paths import folders

EVAL = next(folders("eval"))


@pytest.fixture
def prepare(monkeypatch):
    monkeypatch.syspath_prepend(EVAL / "prepare")
    return importlib.import_module("prompts")


@pytest.fixture
def package(prepare):
    """Where clip_benchmark keeps its lists."""
    folder = prepare.datasets_folder()
    if folder is None:
        pytest.skip(f"clip-benchmark {prepare.VERSION} is not installed; eval/prepare/prompts.py says how")
    return folder


def variants_of(stem):
    (names,) = [names for path, names in families() if path.stem == stem]
    return [name.removeprefix(f"{stem}-") for name in names]


def test_files_of_open_clip_are_what_the_script_writes(prepare):
    files = dict(prepare.from_open_clip())
    assert len(files) == 3
    for name, lines in files.items():
        assert (EVAL / name).read_text(encoding="utf-8") == prepare.content_of(lines), name


def test_files_of_clip_benchmark_are_what_the_script_writes(prepare, package):
    files = dict(prepare.from_clip_benchmark(package))
    assert len(files) > 50
    for name, lines in files.items():
        assert (EVAL / name).read_text(encoding="utf-8") == prepare.content_of(lines), name
    written = {
        path.relative_to(EVAL).as_posix() for path in EVAL.glob("*/*") if path.parent.name in ("classnames", "prompts")
    }
    assert written == files.keys() | dict(prepare.from_open_clip()).keys()
    assert prepare._json(package, "en_classnames")["imagenet1k"] == list(read_lines(EVAL / "classnames/imagenet1k.txt"))


def test_languages_of_tasks_are_those_of_clip_benchmark(prepare, package):
    for stem, file in (
        ("crossmodal3600", "crossmodal3600"),
        ("crossmodal3600_all", "crossmodal3600"),
        ("xtd10", "xtd10"),
        ("multilingual_mscoco_captions", "multilingual_mscoco"),
    ):
        languages = prepare.constant(package / f"{file}.py", "SUPPORTED_LANGUAGES")
        assert sorted(variants_of(stem)) == sorted(languages), stem
    for stem in ("flickr30k-200", "xtd200"):
        assert variants_of(stem) == prepare.constant(package / "flores_langs.py", "flores_languages"), stem


def test_languages_of_babel_imagenet_have_the_classes_that_clip_benchmark_names(prepare, package):
    from vlp.evaluators.variants import read_task

    known = importlib.import_module("babel_imagenet").languages(package)
    assert variants_of("babel_imagenet") == list(known)
    for language, (numbers, names, prompts) in known.items():
        mapping = read_task(f"babel_imagenet-{language}")[1]
        assert mapping["data"]["classes"] == len(numbers) == len(names)
        assert mapping["data"]["samples"] == 50 * len(numbers)
        assert mapping["random"] == pytest.approx(1 / len(numbers), abs=1e-6)
        assert len(prompts) == 80 and all("{c}" in prompt for prompt in prompts)


def test_prompts_by_class_are_given_for_every_class(prepare, package):
    prompts = prepare.cupl(package)
    assert set(prompts) == set(read_lines(EVAL / "classnames/imagenet1k.txt"))
    assert all(isinstance(lines, list) and lines for lines in prompts.values())


def test_a_blank_name_stays_a_class(prepare):
    assert prepare.content_of(["near", "", " far "]) == "near\n(no name)\nfar\n"
    assert "(no name)" in read_lines(EVAL / "classnames/clevr_closest_object_distance.txt")


def test_a_constant_is_read_without_running_its_file(prepare, tmp_path):
    path = tmp_path / "code.py"
    path.write_text("raise SystemExit\nnames = {'b', 'a'}\nif names:\n    deep = ['c']\n")
    assert prepare.constant(path, "names") == {"a", "b"}
    assert prepare.constant(path, "deep") == ["c"]
    with pytest.raises(LookupError, match=r"code\.py assigns nothing to other"):
        prepare.constant(path, "other")


def test_a_set_of_some_classes_is_made_from_one_of_all(prepare, tmp_path):
    """Five classes, of which 3 and 1 stay, as 0 and 1; images are copied as they are."""
    source = tmp_path / "wds_imagenet1k" / "test"
    source.mkdir(parents=True)
    images = {}
    for shard in range(2):
        with tarfile.open(source / f"{shard}.tar", "w") as tar:
            for number in range(10):
                key, label = f"s{shard}{number}", number % 5
                buffer = io.BytesIO()
                Image.fromarray(np.full((8, 8, 3), 10 * number, np.uint8)).save(buffer, "png")
                images[key] = (label, buffer.getvalue())
                for ending, content in (("cls", str(label).encode()), ("png", buffer.getvalue())):
                    member = tarfile.TarInfo(f"{key}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (source / "nshards.txt").write_text("2")
    target = tmp_path / "wds_babel_imagenet-xx"
    script = importlib.import_module("babel_imagenet")
    assert script.write_set(source.parent, target, [3, 1], ["drei", "eins"], ["ein {c}", "das {c}"]) == 8
    made = open_set(DataSource(root=str(target), samples=8, classes=2))
    assert made.class_names == ("drei", "eins")
    assert made.templates == ("ein {c}", "das {c}")
    for sample, label in zip(made.samples, made.labels, strict=True):
        assert images[sample.key] == ((3, 1)[label], sample.image_bytes())
