"""Places that weights come from: folders, and installed packages."""

from __future__ import annotations

from pathlib import Path

import pytest
import sklearn

from vlp.ground.types import RecipeError
from vlp.towers.sources import architecture_of, folder_of, place_of


def test_a_package_has_places():
    root = Path(sklearn.__file__).parent
    assert place_of("package:sklearn/datasets/data/iris.csv") == root / "datasets/data/iris.csv"
    assert folder_of("package:sklearn/datasets") == root / "datasets"
    assert folder_of("package:sklearn/nowhere") is None


@pytest.mark.parametrize("name", ["package:no_such_thing/model", "package:no-name/model", "package:../model"])
def test_a_package_that_is_not_installed_is_named(name):
    with pytest.raises(RecipeError, match="is not installed: pip install"):
        place_of(name)


def test_what_towers_are_of(tmp_path):
    assert architecture_of("ViT-B-32:openai") == "ViT-B-32"
    assert architecture_of("hf-hub:org/name") == "hf-hub:org/name"
    assert architecture_of(str(tmp_path)) == str(tmp_path)
    (tmp_path / "epoch_1.pt").touch()
    with pytest.raises(RecipeError, match="does not say what its towers are"):
        architecture_of(str(tmp_path / "epoch_1.pt"))
