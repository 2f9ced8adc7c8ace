"""Boxes against true ones: a slow reading of the overlap, predictors by hand, cards as sets, and a small decoder."""

from __future__ import annotations

import random
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.evaluators.kinds import check_intervals, check_samples, values_of
from tests.evaluators.sets import HashEncoder, draw_image, opened, task_on, write_captions, write_regions
from tests.evaluators.test_scripts import load_script
from tests.towers.test_locating_decoder import LOCCA
from tests.towers.tiny import WORDS, tiny_bert, tiny_model
from vlp.data.shards.kept import write_kept
from vlp.evaluators.corruptions import Corruption
from vlp.evaluators.dataset import DataSource, look, open_set
from vlp.evaluators.grounding import Grounding, overlaps, score_boxes
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.tasks import run_task
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder

SIDE = 20  # cells along an image, in which areas are counted
LEFT, RIGHT, LOW = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.5, 1.0, 1.0)
REGIONS = [[(LEFT, "a left half"), (RIGHT, "a right half")], [], [(LOW, "a lower half")], [(LEFT, "a left half")]]


class Knows(HashEncoder):
    """Says where each caption is."""

    def __init__(self, boxes):
        super().__init__()
        self.boxes = boxes

    def locate_captions(self, images, captions):
        return torch.tensor([self.boxes[caption] for _, caption in zip(images, captions, strict=True)])


def cells_of(box):
    """Return the cells of a grid that lie in a box."""
    left, top, right, bottom = box
    return {(x, y) for x in range(SIDE) for y in range(SIDE) if left <= x < right and top <= y < bottom}


def test_the_overlap_is_that_of_counted_cells():
    draws = random.Random(0)
    boxes, others = ([[draws.randrange(SIDE + 1) for _ in range(4)] for _ in range(200)] for _ in range(2))
    expected = []
    for one, other in zip(map(cells_of, boxes), map(cells_of, others), strict=True):
        expected.append(len(one & other) / len(one | other) if one | other else 0)
    assert 0 < sum(value > 0 for value in expected) < 200
    found = [torch.tensor(rows) / SIDE for rows in (boxes, others)]
    assert overlaps(*found).tolist() == pytest.approx(expected, abs=1e-6)
    evaluation = score_boxes(*found)
    right = [value >= 0.5 for value in expected]
    assert values_of(evaluation) == pytest.approx({"acc@0.5": sum(right) / 200, "mean_iou": sum(expected) / 200})
    assert evaluation.samples["acc@0.5"].values == right
    assert evaluation.details["without_area"] == sum(not cells for cells in map(cells_of, boxes))
    check_samples(evaluation, ["acc@0.5", "mean_iou"])
    check_intervals(evaluation)


def test_half_of_the_union_is_right():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    assert values_of(score_boxes(boxes, torch.tensor([[0.0, 0.0, 1.0, 0.5]])))["acc@0.5"] == 1
    assert values_of(score_boxes(boxes, torch.tensor([[0.0, 0.0, 1.0, 0.51]])))["acc@0.5"] == 0


def test_who_knows_all_and_who_always_says_the_same(tmp_path):
    task = task_on(write_regions(tmp_path / "parts.yaml", REGIONS), "grounding", "acc@0.5", samples=4, captions=4)
    boxes = {caption: box for listed in REGIONS for box, caption in listed}
    record = run_task(task, Knows(boxes), model="knows", folder=tmp_path / "out")
    assert {name: metric["value"] for name, metric in record["metrics"].items()} == {"acc@0.5": 1, "mean_iou": 1}
    assert record["details"]["examples"][2] == {"caption": "a lower half", "written": [*LOW], "true": [*LOW]}
    record = run_task(task, Knows(dict.fromkeys(boxes, LEFT)), model="constant")
    assert record["metrics"]["acc@0.5"]["value"] == 0.5
    assert record["metrics"]["mean_iou"]["value"] == pytest.approx((1 + 0 + 1 / 3 + 1) / 4)


def test_a_card_is_a_set_with_its_kept_samples_its_halves_and_one_split(tmp_path):
    card = write_regions(tmp_path / "parts.yaml", REGIONS)
    whole = open_set(DataSource(root=str(card)))
    assert whole.captions == (("a left half", "a right half"), (), ("a lower half",), ("a left half",))
    write_kept(tmp_path / "kept.npz", 4, torch.tensor([1, 2]).numpy())
    kept = open_set(DataSource(root=str(write_regions(tmp_path / "parts.yaml", REGIONS, keep="kept.npz"))))
    assert [sample.key for sample in kept.samples] == ["s0000001", "s0000002"] and kept.sha256 != whole.sha256
    half = open_set(DataSource(root=str(card), half={"part": "choosing"}))
    assert Grounding(kept).texts == ("a lower half",) and len(half) < 3
    with pytest.raises(RecipeError, match=r"data\.split is 'val': .*parts\.yaml is a card"):
        look(DataSource(root=str(card), split="val"))


def test_what_has_no_boxes_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="none of its 2 images has a region"):
        Grounding(open_set(DataSource(root=str(write_regions(tmp_path / "none.yaml", [[], []])))))
    with pytest.raises(RecipeError, match=r"is a retrieval set .*needs regions"):
        Grounding(opened(write_captions(tmp_path / "set")))
    with pytest.raises(RecipeError, match=r"bare\.yaml: regions: an evaluation set needs them"):
        look(DataSource(root=str(write_regions(tmp_path / "bare.yaml", REGIONS, regions=None))))
    broken = write_regions(tmp_path / "broken.yaml", [[((0.5, 0.0, 0.2, 1.0), "inside out")]])
    with pytest.raises(RecipeError, match=r"broken\.yaml: sample 's0000000' of broken\.tar: .*a box has left"):
        open_set(DataSource(root=str(broken)))
    task = task_on(write_regions(tmp_path / "parts.yaml", REGIONS), "grounding", "acc@0.5")
    with pytest.raises(RecipeError, match="cuts squares out of images"):
        Grounding(open_set(task.data.model_copy(update={"corruption": Corruption(kind="fog", severity=1)})))
    with pytest.raises(RecipeError, match="no decoder that knows boxes"):
        run_task(task, TowerEncoder(tiny_model()), model="none")
    with pytest.raises(RecipeError, match="a object gives embeddings alone and writes no boxes"):
        SharedEncoder.boxes(SimpleNamespace(encoder=object()), open_set(task.data))


def test_the_parquet_files_that_people_have_become_cards(tmp_path, monkeypatch):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    said = [["dog on left", "the dog"], ["man"]]
    refs = [
        {"ann_info": {"bbox": box}, "ref_info": {"sentences": [{"raw": text.title(), "sent": text} for text in texts]}}
        for box, texts in zip([[0.0, 3.0, 6.0, 9.0], [1.2, 0.0, 10.8, 12.1]], said, strict=True)
    ]
    rows = [{"image": {"bytes": draw_image(0), "path": "a.png"}, "ref_list": refs}]
    (tmp_path / "data").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data/refcoco_unc_testA-00000-of-00001.parquet")
    script = load_script("prepare/refcoco")
    monkeypatch.setattr(sys, "argv", ["refcoco.py", str(tmp_path), str(tmp_path / "sets")])
    script.main()
    data = open_set(DataSource(root=str(tmp_path / "sets/wds_refcoco/testA.yaml"), samples=1, captions=3))
    assert data.captions == (("dog on left", "the dog", "man"),)
    found, expected = [region.box for region in data.samples[0].regions], [(0, 0.25, 0.5, 1)] * 2 + [(0.1, 0, 1, 1)]
    assert [side for box in found for side in box] == pytest.approx([side for box in expected for side in box])
    monkeypatch.setattr(sys, "argv", ["refcoco.py", str(tmp_path / "sets"), str(tmp_path)])
    with pytest.raises(SystemExit, match="no file such as"):
        script.main()


def test_a_decoder_writes_the_same_box_whoever_else_is_asked(tmp_path):
    text = {**LOCCA["text"], "tokenizer": tiny_bert(tmp_path / "bert")}
    model = tiny_model(**{**LOCCA, "text": text}).eval()
    words = [" ".join(WORDS[4 : 5 + number % 3]) for number in range(20)]
    regions = [[(LEFT, words[2 * number]), (LOW, words[2 * number + 1])] for number in range(10)]
    data = open_set(DataSource(root=str(write_regions(tmp_path / "parts.yaml", regions))))
    found = SharedEncoder(TowerEncoder(model)).boxes(data)
    encoder = TowerEncoder(model, batch_size=3)
    alone = [encoder.locate_captions([data.image(number // 2)], [words[number]])[0] for number in range(20)]
    assert torch.equal(found, torch.stack(alone))
    assert len(found.unique(dim=0)) > 1
