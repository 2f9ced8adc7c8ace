"""What is counted without content is what real towers hold and compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.small_steps import TEXT, small_recipe
from vlp.plan.counts import count, tower_costs
from vlp.recipe.model import build_model
from vlp.strategies.base import Strategy

TOKENS = 7


@pytest.fixture(params=["float32", "bfloat16"])
def recipe(request):
    return small_recipe("vitb32_clip", f"train.precision={request.param}")


def test_parameters_and_operations_are_those_of_real_towers(recipe):
    found = count(recipe, tokens=TOKENS)
    towers = build_model(recipe.model)
    assert found.parameters == sum(value.numel() for value in towers.parameters())
    assert found.weights == sum(value.nbytes for value in (*towers.parameters(), *towers.buffers()))
    image, text, cast = tower_costs(towers, TOKENS, recipe.train.number_format)
    for real, counted in ((image, found.image), (text, found.text)):
        assert real.operations == counted.operations and real.forward == counted.forward
        assert real.saved == pytest.approx(counted.saved, rel=0.02)  # kernels of attention pad a little
    assert found.cast == cast
    assert (found.cast > 0) == (recipe.train.precision == "bfloat16")


def test_a_layer_by_hand():
    """Products of one transformer block and of the patches, forward and twice backward, the pixels' gradient aside."""
    image = {"type": "vit", "layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
    found = count(small_recipe("vitb32_clip", "train.precision=float32", image=image), tokens=TOKENS)
    tokens, width, heads = 5, 32, 2  # four patches and the class
    block = 2 * tokens * width * width * (3 + 1 + 4 + 4)
    attention = 2 * 2 * heads * tokens * tokens * (width // heads)
    projection = 2 * width * 16
    patches = 2 * 4 * (3 * 16 * 16) * width
    least = 3 * (block + projection) + 2 * patches
    assert least <= found.image.operations <= least + 4 * attention


def test_checkpointing_keeps_less_and_computes_more():
    image = {"type": "vit", "layers": 3, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
    plain, apart, less = (
        count(small_recipe("vitb32_clip", f"model.grad_checkpointing={value}", image=image), tokens=TOKENS)
        for value in ("false", "selective", "true")
    )
    assert less.image.saved < 0.5 * plain.image.saved
    assert 1.1 * plain.image.operations < less.image.operations < 1.4 * plain.image.operations
    assert less.image.saved < apart.image.saved < 0.8 * plain.image.saved
    assert apart.image.operations == plain.image.operations


def test_a_locked_tower_computes_a_third_and_keeps_nothing():
    plain, locked = (
        count(small_recipe("vitb32_clip", *settings), tokens=TOKENS) for settings in ((), ("model.freeze=[visual]",))
    )
    assert locked.image.saved == 0
    assert locked.image.operations < 0.45 * plain.image.operations
    assert locked.trained < plain.trained == plain.parameters


def test_averages_views_and_captions_are_counted():
    plain, averaged = (count(small_recipe(name), tokens=TOKENS) for name in ("vitb32_dclw", "vitb32_teacher_contrast"))
    assert plain.beside == 0
    assert averaged.beside >= 4 * averaged.parameters
    assert count(small_recipe("vitb32_multi_crop"), tokens=TOKENS).image_views > 1
    assert count(small_recipe("vitb32_hard_negatives"), tokens=TOKENS).text_views > 1


def test_teachers_compute_a_forward_pass_and_networks_of_terms_are_named():
    found = count(small_recipe("vitb32_teacher_contrast"), tokens=TOKENS)
    towers = found.image.operations + found.text.operations
    assert 0.3 * towers < found.strategies < 0.5 * towers  # the gradient of the pixels is not computed
    assert found.uncounted == ()
    assert count(small_recipe("vitb32_clip"), tokens=TOKENS).strategies == 0
    assert count(small_recipe("vitb32_amcl"), tokens=TOKENS).uncounted == ("objective.amcl",)


def test_a_decoder_is_counted():
    """Two blocks of each kind of attention, and the vocabulary: three products forward and backward."""
    recipe = small_recipe("vitb32_coca", "train.precision=float32", text=TEXT | {"vocab_size": 49_408})
    few, many = (count(recipe, tokens=tokens) for tokens in (4, 8))
    assert count(small_recipe("vitb32_clip"), tokens=TOKENS).decoder.operations == 0
    words = 2 * 32 * 49_408  # a state of 32 numbers
    assert few.decoder.forward > 3 * words and many.decoder.forward > 7 * words
    assert 2.5 * many.decoder.forward < many.decoder.operations < 3.05 * many.decoder.forward
    assert many.decoder.saved > few.decoder.saved > 0


@pytest.mark.parametrize(
    ("name", "images", "texts"),
    [("vitb32_clip_negatives", 1, 2), ("vitb32_hard_negatives", 1, 2), ("vitb32_mv_infonce", 2, 1)],
)
def test_what_strategies_add_to_a_batch_is_counted(name, images, texts):
    recipe = small_recipe(name)
    found = count(recipe, tokens=TOKENS)
    assert (found.image_views, found.text_views) == (images, texts)
    assert found.uncounted == ()


@pytest.mark.parametrize(("settings", "views"), [("{steps: 2}", 2), ("{steps: 2, clean_weight: 0.0}", 1)])
def test_what_an_adversary_computes_is_counted(settings, views):
    few, more = (
        count(small_recipe("vitb32_clip", f"strategies.adversarial_images={each}"), tokens=TOKENS)
        for each in (settings, settings.replace("2", "4", 1))
    )
    assert few.image_views == views
    assert few.uncounted == ()
    # forward, and backward to the pixels alone: weights get no gradient
    assert (more.strategies - few.strategies) / 2 == pytest.approx(2 * few.image.forward, rel=0.1)
    assert few.strategies == pytest.approx(2 * 2 * few.image.forward + few.text.forward, rel=0.1)


class Nosy(Strategy):
    def after_forward(self, images, batch, embeddings):
        if not torch.isfinite(embeddings.image).all():
            raise ValueError("not a number")
        return embeddings


def test_a_strategy_that_reads_what_is_in_a_batch_is_named(monkeypatch):
    monkeypatch.setattr("vlp.plan.counts.build_strategies", lambda recipe: {"nosy": Nosy()})
    assert count(small_recipe("vitb32_clip"), tokens=TOKENS).uncounted == ("strategies.nosy",)


def test_captions_are_as_long_as_asked_for_within_the_context():
    recipe = small_recipe("vitb32_clip")
    assert [count(recipe, tokens=tokens).tokens for tokens in (None, 3.6, 99)] == [16, 4, 16]
    few, many = (count(recipe, tokens=tokens).text.operations for tokens in (4, 16))
    assert 3.5 * few < many


@pytest.mark.parametrize(("kind", "copies"), [("adamw", 0.0), ("lion", 2.0), ("lamb", 3.0)])
def test_what_a_guarded_step_copies_is_counted(kind, copies):
    """Weights and moments, where no kernel skips by itself."""
    assert count(small_recipe("vitb32_clip", f"optimizer.type={kind}"), tokens=TOKENS).guarded == copies


def test_nothing_is_computed(monkeypatch):
    """A tower of a billion parameters takes no memory."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = {"type": "vit", "layers": 12, "width": 2560, "head_width": 80, "patch_size": 16, "image_size": 224}
    found = count(small_recipe("vitb32_clip", image=image), tokens=TOKENS)
    assert found.parameters > 9e8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB


@pytest.mark.parametrize("name", ["vitb32_coca", "vitb32_pixpro", "vitb32_fastclip", "lit_cwcl", "smoke"])
def test_other_recipes_are_counted(name):
    found = count(small_recipe(name), tokens=TOKENS)
    assert found.image.operations > 0 and found.matrices >= 1
    assert np.isfinite(found.text.saved) and torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_towers_of_timm_are_counted(name):
    recipe = small_recipe("vitb32_clip", image={"type": "timm", "name": name})
    found = count(recipe, tokens=TOKENS)
    assert found.parameters == sum(value.numel() for value in build_model(recipe.model).parameters())
    assert found.image.operations > 2 * found.image.forward > 0


def test_the_images_of_a_document_are_counted():
    found = count(small_recipe("cosmo_embedded"), tokens=TOKENS)
    assert found.image_views == 3 and found.decoder.operations > 2 * found.decoder.forward > 0
