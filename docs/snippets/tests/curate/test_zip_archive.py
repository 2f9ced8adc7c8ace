"""An archive becomes shards; what cannot be read costs its own row."""

import zipfile

import pytest

from tests.curate.pairs import captions_in, photo
from vlp.curate.pack import pack
from vlp.curate.sources.columns import Columns
from vlp.curate.sources.open_source import open_source
from vlp.ground.types import RecipeError


def test_images_with_their_texts_become_samples(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"photos/{number}.jpg", photo(number))
            archive.writestr(f"photos/{number}.txt", f"caption {number}")
        archive.writestr("photos/alone.jpg", photo(7))
        archive.writestr("photos/broken.jpg", b"no image")
        archive.writestr("photos/broken.txt", "a broken one")
    packed = pack(tmp_path / "set.zip", tmp_path / "out", workers=1)
    assert captions_in(packed.card) == ["caption 0", "caption 1", "caption 2"]
    listed = (tmp_path / "out" / "quarantine.jsonl").read_text()
    assert "missing_caption" in listed and "corrupt_image" in listed


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK, but no more")
    with pytest.raises(RecipeError, match="not a whole ZIP archive"):
        open_source(tmp_path / "set.zip", Columns())
