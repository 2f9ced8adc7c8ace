"""Captions scored by COCO's code: numbers by hand, and a task from a model's words to its record."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.evaluators.every_task import probe_on
from tests.evaluators.sets import HashEncoder, task_on, write_captions
from tests.processes import run_processes
from vlp.evaluators.dataset import open_set
from vlp.evaluators.tasks import run_task
from vlp.ground.types import RecipeError

pytest.importorskip("pycocoevalcap", reason="pip install 'vlp[captions]'")
pytest.importorskip("nltk", reason="pip install 'vlp[captions]'")

from vlp.evaluators.caption_metrics import score_captions, words_of

REFERENCES = [["a red cat sits on a mat", "a cat"], ["two dogs run in the snow", "dogs running"]]


class Parrot(HashEncoder):
    """Says of each picture what somebody wrote of it."""

    def __init__(self, captions):
        super().__init__()
        self.captions = captions

    def caption_images(self, images, writing):
        self.writing = writing
        pixels = [image.getpixel((0, 0)) for image in images]
        return [self.captions[pixel] for pixel in pixels]


def values(captions, references=REFERENCES, measures=("bleu", "rouge_l", "cider")):
    return {metric.name: metric.value for metric in score_captions(captions, references, measures).metrics}


def test_bleu_by_hand():
    """Of 4 and 3 words, 3 and 3 stand in a reference; as short as the nearest reference, or shorter by its measure."""
    found = values(["a red cat runs", "two dogs run"])
    lengths, nearest = 4 + 3, 2 + 2
    assert lengths > nearest  # no penalty
    assert found["bleu1"] == pytest.approx(6 / 7, rel=1e-6)
    assert found["bleu2"] == pytest.approx(math.sqrt(6 / 7 * 4 / 5), rel=1e-6)  # a red, red cat; two dogs, dogs run


def test_rouge_by_hand():
    """The longest common subsequence of `a cat on` and the first reference is 3 of 7 words."""
    found = values(["a cat on"], [["a red cat sits on a mat"]])
    precision, recall, beta = 1.0, 3 / 7, 1.2
    assert found["rouge_l"] == pytest.approx((1 + beta**2) * precision * recall / (recall + beta**2 * precision))


def test_cider_of_a_repeated_reference_is_ten_for_each_it_equals():
    """A cosine of 1 for one to four words, times 10; other references have nothing in common with it."""
    references = [["one two three four five"], ["six seven eight nine ten"]]
    assert values(["one two three four five", "six seven eight nine ten"], references)["cider"] == pytest.approx(10)
    assert values(["six seven eight nine ten", "one two three four five"], references)["cider"] == pytest.approx(0)


def test_words_are_split_as_coco_splits_them():
    """What its Java program made of these where this was written."""
    assert words_of("It's a dog's life, isn't it? (yes) $5.00 U.S. well-known 3.14 can't. The dog's bowl... end.") == (
        "it 's a dog 's life is n't it -lrb- yes -rrb- $ 5.00 u.s. well-known 3.14 ca n't the dog 's bowl end"
    )


def test_each_image_adds_what_it_is_worth():
    found = score_captions(["a red cat", "a bird"], REFERENCES, ("rouge_l", "cider"))
    for metric in found.metrics:
        each = found.samples[metric.name].values
        assert len(each) == 2 and metric.value == pytest.approx(sum(each) / 2) and each[0] > each[1]
    assert found.details["distinct"] == 2 and found.details["examples"][1]["caption"] == "a bird"


def _record(root):
    task = probe_on(root, "caption_metrics", "cider", num_beams=3)
    data = open_set(task.data)
    first = {data.decode(place)[0].getpixel((0, 0)): listed[0] for place, listed in enumerate(data.captions)}
    assert len(first) == len(data)  # no two pictures begin alike
    encoder = Parrot(first)
    record = run_task(task, encoder, model="parrot")
    assert encoder.writing.num_beams == 3
    return record["metrics"]


def _on_two(rank, world_size, root):
    return _record(root)


@pytest.mark.processes
def test_a_task_from_pictures_to_its_record(tmp_path):
    root = write_captions(tmp_path / "set")
    one = _record(root)
    assert one["cider"]["value"] > 1 and one["bleu1"]["value"] == pytest.approx(1)
    for two in run_processes(_on_two, 2, root):
        assert two == one


def test_models_that_write_nothing_and_sets_without_captions_are_refused(tmp_path):
    task = task_on(write_captions(tmp_path / "set"), "caption_metrics", "cider")
    with pytest.raises(RecipeError, match="writes no captions"):
        run_task(task, HashEncoder(), model="none")
    choice = replace(task, data=task.data.model_copy(update={"root": str(tmp_path / "other")}))
    with pytest.raises(RecipeError):
        run_task(choice, Parrot({}), model="none")
