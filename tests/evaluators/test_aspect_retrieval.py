"""Search under named aspects, by hand: four pictures of two colours and two kinds, a coordinate for each word."""

from __future__ import annotations

import pytest
import torch

from tests.evaluators.every_task import probe_on
from tests.evaluators.kinds import TableEncoder
from tests.evaluators.sets import opened, write_captions
from vlp.evaluators.aspect_retrieval import AspectRetrieval, named_words
from vlp.evaluators.tasks import run_task
from vlp.ground.types import RecipeError

CAPTIONS = [["a red cat"], ["the Red dog", "nothing"], ["blue cat"], ["blue, dog"], ["a fish"]]
ROWS = [(1, 0, 1, 0), (1, 0, 0, 1), (0, 1, 1, 0), (0, 1, 0, 1), (9, 9, 0, 0)]
GATES = {"colour": (1.0, 1.0, 0.0, 0.0), "kind": (1.0, 1.0, 1.0, 1.0)}
WORDS = {"colour": ["red", "blue"], "kind": ["dog", "cat"]}


class Gated:
    """A table whose filters are a table too."""

    def __init__(self, encoder):
        self.ungated, self.scale = encoder, 100.0
        self.embed_images, self.embed_texts = encoder.embed_images, None

    def text_gates(self, texts):
        return torch.tensor([GATES[text] for text in texts])


@pytest.fixture
def folder(tmp_path):
    return write_captions(tmp_path / "set", CAPTIONS)


def test_a_filter_finds_what_is_alike_in_it(folder):
    """Without one the right caption comes first, and then half the time the other that is right."""
    texts = {caption: row for listed, row in zip(CAPTIONS, ROWS, strict=True) for caption in listed}
    table = TableEncoder(opened(folder), torch.tensor(ROWS, dtype=torch.float32), texts)
    task = probe_on(folder, "aspect_retrieval", "map_at_r", aspects={name: name for name in GATES}, words=WORDS)
    record = run_task(task, Gated(table), model="m")
    found = {name: metric["value"] for name, metric in record["metrics"].items()}
    assert found == pytest.approx(
        {
            "colour_map_at_r": 1,
            "kind_map_at_r": 0.75,
            "map_at_r": 0.875,
            "colour_ungated_map_at_r": 0.75,
            "kind_ungated_map_at_r": 0.75,
            "ungated_map_at_r": 0.75,
        }
    )
    assert record["details"]["words"] == {"colour": {"red": 2, "blue": 2}, "kind": {"dog": 2, "cat": 2}}
    assert record["details"]["openness"]["kind"] == [1, 0]
    with pytest.raises(RecipeError, match="a TableEncoder has no filter that a text opens"):
        run_task(task, table, model="m")


def test_a_caption_names_the_first_of_the_words_that_it_has():
    named = named_words([["dog and cat"], ["bird", "a Dog!"], ["catfish"]], ["cat", "dog"], "kind")
    assert named.image_places.tolist() == [0, 1] and named.shown.tolist() == [[True, False], [False, True]]
    assert (named.text_places.tolist(), named.text_words.tolist()) == ([0, 2], [0, 1])
    assert named.counts == {"cat": 1, "dog": 1}


def test_what_cannot_be_told_apart_is_refused(folder):
    with pytest.raises(RecipeError, match=r"settings\.words\.kind: captions have .*'horse': 0"):
        named_words(CAPTIONS, ["cat", "horse"], "kind")
    with pytest.raises(RecipeError, match=r"name those of each of settings\.aspects"):
        AspectRetrieval(opened(folder), aspects={"a": "b"}, words={})
