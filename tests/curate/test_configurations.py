"""Several data sets in one clone of the hub are not one."""

from __future__ import annotations

import pytest

from tests.shards import image_bytes
from vlp.cli import main
from vlp.curate.pack import pack
from vlp.data import SampleSet
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

README = """---
license: mit
configs:
{}
---
# Pictures
configs: nothing of this
"""
BY_SPLIT = """- config_name: small
  data_files:
  - split: train
    path: data/small-*
- config_name: large
  default: true
  data_files:
    train: [data/large-0.parquet, "data/large-1*"]
- config_name: gone
  data_files: elsewhere/*.parquet"""
BY_FOLDER = """- config_name: small
  data_dir: data/s
- config_name: large
  data_files: "data/l/**" """
ONE = """- config_name: default
  data_files: data/*"""


def write(path, caption):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"image": [image_bytes(0)], "caption": [caption]}), path)


def captions(packed):
    samples = SampleSet({"d": load_card(str(packed.card))})
    return sorted(sample.read("txt").decode() for sample in (samples[number] for number in range(len(samples))))


@pytest.fixture
def clone(tmp_path):
    def make(head, *files):
        for file in files:
            write(tmp_path / "clone" / file, file)
        if head:
            (tmp_path / "clone" / "README.md").write_text(README.format(head))
        return tmp_path / "clone"

    return make


CLONES = {
    "by split": (BY_SPLIT, ("data/small-0.parquet", "data/large-0.parquet", "data/large-1.parquet")),
    "by folder": (BY_FOLDER, ("data/s/0.parquet", "data/l/0.parquet", "data/l/1.parquet")),
    "folders": ("", ("small/train-00000-of-00001.parquet", "large/train-0.parquet", "large/train-1.parquet")),
    "conversion": ("", ("small/train/0000.parquet", "large/partial-train/0000.parquet", "large/train/0001.parquet")),
}


@pytest.mark.parametrize("name", CLONES)
def test_configurations_are_not_joined_unasked(clone, tmp_path, name):
    head, files = CLONES[name]
    folder = clone(head, *files)
    message = (
        r"several configurations: (small \(1\), large|large \(2\), small) \(\d\); choose with --configuration NAME"
    )
    with pytest.raises(RecipeError, match=message):
        pack(folder, tmp_path / "mine", workers=1)
    assert captions(pack(folder, tmp_path / "large", configuration="large", workers=1)) == sorted(files[1:])
    assert captions(pack(folder, tmp_path / "both", configuration="small+large", workers=1)) == sorted(files)
    with pytest.raises(RecipeError, match=r"has no 'big' \(known: "):
        pack(folder, tmp_path / "mine", configuration="big", workers=1)
    with pytest.raises(RecipeError, match=r"other settings:\n  configuration: large -> small"):
        pack(folder, tmp_path / "large", configuration="small", workers=1)


@pytest.mark.parametrize(
    ("head", "files"),
    [
        (ONE, ("data/0.parquet", "data/1.parquet")),
        ("", ("2023/a.parquet", "2024/b.parquet")),
        ("", ("a.parquet", "b.parquet")),
        ("[", ("data/0.parquet", "data/1.parquet")),
        ("- 3", ("data/0.parquet", "data/1.parquet")),
        ("- config_name: x\n  data_files: [/etc/*, hf://a/b, 3, ../*]", ("data/0.parquet", "data/1.parquet")),
    ],
)
def test_one_data_set_needs_no_choice(clone, tmp_path, head, files):
    folder = clone(head, *files)
    assert captions(pack(folder, tmp_path / "mine", workers=1)) == sorted(files)


def test_what_has_no_configurations_says_so(clone, tmp_path):
    folder = clone("", "a.parquet")
    for source in (folder, folder / "a.parquet"):
        with pytest.raises(RecipeError, match="--configuration x: "):
            pack(source, tmp_path / "mine", configuration="x", workers=1)
    (tmp_path / "t.csv").write_text("path,caption\na.jpg,a\n")
    with pytest.raises(RecipeError, match=r"has no configurations; name a folder of parquet files"):
        pack(tmp_path / "t.csv", tmp_path / "mine", configuration="x", workers=1)


def test_the_command_takes_one(clone, tmp_path, capsys):
    folder = clone(*CLONES["folders"][:1], *CLONES["folders"][1])
    main(["data", "pack", str(folder), "--to", str(tmp_path / "mine"), "--configuration", "small", "--workers", "1"])
    assert "1 samples of 1 rows" in capsys.readouterr().out
