"""The terms of DeGLA together are the authors' loss, read slowly, with their text-grounded contrast as it is meant."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import pairs_of, unit
from vlp.ground.types import Teacher
from vlp.objectives.base import Objective
from vlp.recipe.compose import load_recipe
from vlp.recipe.named_parts import build_objective

SIZE, DIM, MADE = 5, 6, 4
BATCH_OF_PAPER = 256


def authors_loss(image, text, wrong, teacher, scale):
    """CLIPloss_DeGLA for one process, captions first and then wrong captions, sample by sample.

    Its text-grounded mask is that of its image-grounded one here: each caption meets its own wrong captions.
    """
    texts = torch.cat([text, wrong.flatten(0, 1)])
    taught = torch.cat([teacher.text, teacher.negatives.flatten(0, 1)])
    right = torch.arange(SIZE)
    logits = scale * image @ texts.T
    loss = (functional.cross_entropy(logits, right) + functional.cross_entropy(logits[:, :SIZE].T, right)) / 2
    own = torch.full((SIZE, SIZE), -torch.inf).double().fill_diagonal_(0)
    mask = torch.cat([own, own.repeat_interleave(MADE, dim=1)], dim=1)
    by_text = 10.0 * text @ torch.cat([teacher.text, texts[SIZE:]]).T
    loss = loss + 0.1 * functional.cross_entropy(by_text + mask, right)
    loss = loss + 0.1 * functional.cross_entropy(logits + mask, right)
    summed = (image - teacher.image).square().sum() + (texts - taught).square().sum()
    return loss + 0.005 * summed * BATCH_OF_PAPER / SIZE  # the same for each pair as in a batch of 256


def test_the_recipe_is_the_published_loss():
    image, text = unit(SIZE, DIM, 1), unit(SIZE, DIM, 2)
    wrong, taught = (torch.stack([unit(SIZE, DIM, k) for k in range(at, at + MADE)], dim=1) for at in (10, 20))
    teacher = Teacher(unit(SIZE, DIM, 3), unit(SIZE, DIM, 4), taught)
    objective = build_objective(load_recipe("finetune_degla"))
    assert isinstance(objective, Objective)
    loss, _ = objective(pairs_of(image, text, scale=20.0, negatives=wrong, teacher=teacher), 0)
    assert loss.item() == pytest.approx(authors_loss(image, text, wrong, teacher, 20.0).item(), rel=1e-9)


def test_without_wrong_captions_and_teacher_it_is_clip():
    recipe = load_recipe("finetune_degla")
    assert (recipe.data.captions.negatives.count, recipe.train.batch_size) == (MADE, BATCH_OF_PAPER)
    assert recipe.strategies["dual_teacher"].negatives
