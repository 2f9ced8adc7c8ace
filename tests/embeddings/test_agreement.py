"""Two folders of embeddings against each other: the same model, a moved one, one of another width."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.shards import write_shards
from tests.towers.tiny import tiny_export
from vlp.embeddings.agreement import compare_embeddings
from vlp.embeddings.embed import embed
from vlp.embeddings.model_agreement import agree
from vlp.embeddings.parts import read_embeddings
from vlp.evaluators.cka import linear_cka
from vlp.ground.types import RecipeError

CARD = "embedded-photos"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("agreement")
    for name, shift in (("same", 0.0), ("moved", 0.03)):
        export = tiny_export(root / f"model_{name}", shift)
        embed(str(export), CARD, root / name, kind="float32", file_format="npy")
    return root


def values_of(agreement):
    return {metric.name: metric.value for metric in agreement.metrics}


def test_a_model_agrees_with_itself(folders):
    found = values_of(compare_embeddings(folders / "same", folders / "same"))
    assert found == pytest.approx(
        {"cka_images": 1, "cka_texts": 1, "moved_images": 0, "moved_texts": 0, "same_text": 1, "same_image": 1},
        abs=1e-6,
    )


def test_a_moved_model_agrees_less_and_by_hand(folders):
    agreement = compare_embeddings(folders / "same", folders / "moved")
    found = values_of(agreement)
    (_, ours), (_, theirs) = (read_embeddings(folders / name, "texts") for name in ("same", "moved"))
    first, second = torch.from_numpy(ours).double(), torch.from_numpy(theirs).double()
    assert found["cka_texts"] == pytest.approx(linear_cka(first, second).value) and found["cka_texts"] < 0.9999
    assert found["moved_texts"] == pytest.approx(
        np.mean([1 - a @ b for a, b in zip(first, second, strict=True)]), abs=1e-6
    )
    _, images = read_embeddings(folders / "same")
    _, their_images = read_embeddings(folders / "moved")
    same = (images @ ours.T).argmax(1) == (their_images @ theirs.T).argmax(1)
    assert found["same_text"] == pytest.approx(same.mean(), abs=0.02)
    assert f"{agreement.samples:,} samples in both" in str(agreement) and "cka_images" in str(agreement)


def test_other_data_are_refused(folders, tmp_path):
    export = tiny_export(tmp_path / "model")
    embed(str(export), "embedded", tmp_path / "other", sides=["texts"], file_format="npy")
    with pytest.raises(RecipeError, match="are of other data"):
        compare_embeddings(folders / "same", tmp_path / "other")


def test_too_few_samples_are_told_by_the_name_of_their_card(folders, tmp_path):
    write_shards(tmp_path / "few", 1, 3)
    (tmp_path / "few" / "card.yaml").write_text("name: few\nshards: '*.tar'\n")
    export = tiny_export(tmp_path / "model")
    with pytest.raises(RecipeError, match=r"^3 samples of few are embedded in both, and a comparison takes 4"):
        agree(str(export), str(export), str(tmp_path / "few" / "card.yaml"))


def test_no_common_side_is_refused(folders, tmp_path):
    export = tiny_export(tmp_path / "model")
    for side in ("images", "texts"):
        embed(str(export), CARD, tmp_path / side, sides=[side], file_format="npy")
    with pytest.raises(RecipeError, match="no side in common"):
        compare_embeddings(tmp_path / "images", tmp_path / "texts")
    assert {name[:3] for name in values_of(compare_embeddings(folders / "same", tmp_path / "texts"))} == {"cka", "mov"}
