"""Editing images by text: plain loops, a space in which edits work, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.evaluators.kinds import TableEncoder, check_intervals, check_samples, values_of, write_set
from tests.evaluators.sets import HashEncoder, opened, write_captions, write_classes
from vlp.evaluators.arithmetic import EmbeddingArithmetic, read_edits
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError

WHO, WHERE = ("man", "woman", "cat"), ("bench", "bed")
KINDS = [f"a {who} on a {where}" for who in WHO for where in WHERE]


def edits_of(kind, words=False):
    """Return a caption and the edits that change one of its words."""
    _, who, _, _, where = kind.split()
    changes = [(who, other, f"a {other} on a {where}") for other in WHO if other != who]
    changes += [(where, other, f"a {who} on a {other}") for other in WHERE if other != where]
    return [f"{caption}\t{old}\t{new}" if words else caption for old, new, caption in changes]


def write(folder, words=False, copies=3):
    samples = {
        f"s{place}_{copy}": {"txt": "\n".join([kind, *edits_of(kind, words)]).encode()}
        for place, kind in enumerate(KINDS)
        for copy in range(copies)
    }
    return opened(write_set(folder, "choice", samples))


def search_by_hand(evaluator, images, texts):
    """SIMAT's search, one edit at a time."""
    hits = []
    for edit in evaluator.edits:
        goal = images[edit.place] + evaluator.scale * (texts[edit.after] - texts[edit.before])
        scores = {place: float(row @ goal) for place, row in enumerate(images) if place != edit.place}
        best = max(scores, key=scores.get)
        hits.append(evaluator.shown[best] == edit.caption)
    return np.array(hits)


@pytest.mark.parametrize("words", [False, True])
def test_a_search_by_hand(tmp_path, words):
    evaluator = EmbeddingArithmetic(write(tmp_path / "set", words), scale=0.7)
    shared = SharedEncoder(HashEncoder())
    found = evaluator.run(shared)
    texts = dict(zip(evaluator.texts, shared.texts(evaluator.texts), strict=True))
    hits = search_by_hand(evaluator, shared.images(evaluator.data), texts)
    assert len(hits) == found.details["edits"] == len(KINDS) * 3 * 3
    assert found.samples["acc1"].values == hits.astype(float).tolist()
    check_samples(found, ["acc1", "acc1_argmax", "image_only_acc1", "text_only_acc1"])
    check_intervals(found)
    assert found.details["chance"] == pytest.approx(3 / 17)


def composed(tmp_path, words, gap):
    """A space in which every word is a direction, and texts lie apart from images by a gap."""
    data = write(tmp_path / "set", words)
    axes = dict(zip((*WHO, *WHERE), torch.eye(6), strict=False))
    draw = torch.Generator().manual_seed(0)

    def row(caption, jitter):
        named = sum(axes[word] for word in caption.split() if word in axes)
        return torch.nn.functional.normalize(named + jitter * torch.randn(6, generator=draw), dim=0)

    images = torch.stack([row(captions[0], 0.02) for captions in data.captions])
    away = gap * torch.eye(6)[5]
    texts = {text: (row(text, 0.0) + away).tolist() for text in (*KINDS, *WHO, *WHERE)}
    return EmbeddingArithmetic(data).run(SharedEncoder(TableEncoder(data, images, texts)))


@pytest.mark.parametrize("words", [False, True])
def test_where_words_are_directions_edits_work_and_an_image_alone_finds_its_like(tmp_path, words):
    found = values_of(composed(tmp_path, words, gap=0.0))
    assert found["acc1"] == found["acc1_argmax"] == found["text_only_acc1"] == 1
    assert found["image_only_acc1"] == 0


def test_edits_shrink_with_a_gap(tmp_path):
    """Unit norm makes the difference of two texts short where both lie far off, on the same side."""
    assert values_of(composed(tmp_path, False, gap=4.0))["acc1"] < 0.1


def test_equal_scores_are_told_apart(tmp_path):
    data = write(tmp_path / "set", copies=1)
    images = torch.ones(len(data), 3)
    encoder = TableEncoder(data, images, {kind: [1.0, 1.0, 1.0] for kind in KINDS})
    found = EmbeddingArithmetic(data).run(SharedEncoder(encoder))
    assert values_of(found)["acc1"] == 0
    assert values_of(found)["acc1_argmax"] == 1
    assert found.details["ties"] == found.details["edits"]


def test_lines_of_words_and_lines_of_captions(tmp_path):
    words, captions = (read_edits(write(tmp_path / str(kind), kind, copies=1))[1] for kind in (True, False))
    assert [(edit.place, edit.caption) for edit in words] == [(edit.place, edit.caption) for edit in captions]
    assert (words[0].before, words[0].after) == ("man", "woman")
    assert (captions[0].before, captions[0].after) == (KINDS[0], "a woman on a bench")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a dog on a bed", "no image of the set shows 'a dog on a bed'"),
        ("a cat", "the edit 'a cat' is what its image shows already"),
        ("a man\tcat", "is neither a caption nor a caption and two words"),
    ],
)
def test_edits_that_cannot_be_are_refused(tmp_path, line, message):
    samples = {"s0": {"txt": f"a cat\n{line}".encode()}, "s1": {"txt": b"a man\na cat"}}
    with pytest.raises(RecipeError, match=message):
        EmbeddingArithmetic(opened(write_set(tmp_path / "set", "choice", samples)))


def test_other_settings_and_kinds_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"settings.scale is 0"):
        EmbeddingArithmetic(write(tmp_path / "set"), scale=0)
    with pytest.raises(RecipeError, match="needs choice"):
        EmbeddingArithmetic(opened(write_classes(tmp_path / "classes")))
    with pytest.raises(RecipeError, match="no sample has an edit"):
        EmbeddingArithmetic(opened(write_captions(tmp_path / "captions", [["a cat"], ["a dog"]])))


def test_images_without_edits_are_found_too(tmp_path):
    data = opened(write_captions(tmp_path / "set", [["a cat", "a dog"], ["a dog"], ["a fish"]]))
    texts = {"a cat": [1.0, 0.0], "a dog": [0.0, 1.0]}
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.2, 1.0]])
    found = EmbeddingArithmetic(data).run(SharedEncoder(TableEncoder(data, images, texts)))
    assert values_of(found)["acc1"] == values_of(found)["text_only_acc1"] == 0
    assert values_of(found)["image_only_acc1"] == 1
