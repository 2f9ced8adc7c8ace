"""AdversarialRankerTerm against a slow reading of the paper and its code; who learns of what."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import DIM, VOCABULARY, draw_leaves, extras, gradients_of, pairs_of, share_of
from vlp.objectives.adversarial_ranker import AdversarialRankerTerm

SMALL = {"width": 8, "layers": 1, "context_length": 4}
VARIANTS = [
    {**SMALL, "num_negatives": 3, "temperature": 2.0, "adversarial": 0.5, "context_length": 3},
    {**SMALL, "num_negatives": 2, "adversarial": 0.5, "context_length": 3, "mined": True},
]


def READING(b, term, num_negatives=7, temperature=1.0, adversarial=0.0, context_length=32, mined=False, **_settings):
    """Section 3 of the paper, one query at a time; rows of one sample are no candidates of each other."""
    maps, tokens, counts = b.more["image_maps"][0], b.more["tokens"], b.more["token_counts"]
    wrong_tokens, wrong_counts = b.more["negative_tokens"], b.more["negative_token_counts"]

    def score(images, texts, of_mined=()):
        places = torch.stack([maps[k].detach().flatten(0, 1) for k in images])
        read = torch.cat([tokens[texts], *(wrong_tokens[k] for k in of_mined)])[:, :context_length]
        return term.ranker(places, read, torch.cat([counts[texts], *(wrong_counts[k] for k in of_mined)]))

    total = 0.0
    for logits, of_images in ((b.logits, True), (b.logits.T, False)):
        for i in range(b.size):
            others = [j for j in range(b.size) if b.ids[j] != b.ids[i]]
            wrong = sorted(others, key=lambda j: -logits[i, j].item())[:num_negatives]
            here, there = [i] * (1 + len(wrong)), [i, *wrong]
            alike = logits[i, [i, *wrong]]
            if mined and of_images:
                further = b.more["negatives"][i]
                scores = score(here + [i] * len(further), there, of_mined=[i])
                alike = torch.cat([alike, b.scale * (further @ b.image[i])])
            else:
                scores = score(here, there) if of_images else score(there, here)
            total = total - scores.log_softmax(0)[0]
            shares, told = alike.log_softmax(0), scores.detach() / temperature
            total = total - (told.softmax(0) * shares).sum()
            for rank, share in zip(told[1:].tolist(), shares[1:], strict=True):
                total = total + adversarial * -math.log1p(math.exp(rank - told[0].item())) * share
    return total / (2 * b.size)


def built(**settings):
    """Return the term of a small ranker, always the same."""
    torch.manual_seed(0)
    term = AdversarialRankerTerm(**{**SMALL, **settings})
    term.fit_vocabulary(VOCABULARY)
    term.create(DIM)
    return term.double()


def parts_of(**settings):
    """Return the loss and the gradients of images, texts and everything of the ranker."""
    term, leaves = built(**settings), draw_leaves(7)
    loss = share_of(term, pairs_of(*leaves, **extras(7)))
    wanted = [*leaves[:2], *term.parameters()]
    return loss.item(), torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)


def test_at_first_the_ranker_learns_alone():
    alone, (image, text, *ranker) = parts_of(first_step=1)
    both, (_, _, *same) = parts_of()
    assert alone < both and not image.any() and not text.any()
    for ours, theirs in zip(ranker, same, strict=True):
        torch.testing.assert_close(ours, theirs)  # nothing that the towers learn reaches it


def test_no_gradient_reaches_the_towers_through_the_ranker():
    more = extras(7)
    loss = share_of(built(), pairs_of(*draw_leaves(7), **more))
    assert torch.autograd.grad(loss, more["image_maps"][0], allow_unused=True) == (None,)


def test_padding_and_pieces_change_nothing(monkeypatch):
    whole, gradients = parts_of()
    monkeypatch.setattr("vlp.objectives.adversarial_ranker.PIECE", 4)
    pieces, same = parts_of()
    assert pieces == pytest.approx(whole, rel=1e-12)
    torch.testing.assert_close(gradients, same)
    term, more = built(context_length=6), extras(7)
    padded = more | {"tokens": torch.nn.functional.pad(more["tokens"], (0, 1), value=19)}
    torch.testing.assert_close(*(gradients_of(term, draw_leaves(7), **read) for read in (more, padded)))


@pytest.mark.parametrize("settings", [{"num_negatives": 0}, {"temperature": 0.0}, {"adversarial": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        AdversarialRankerTerm(**settings)
