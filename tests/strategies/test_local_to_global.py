"""Small crops, hidden patches and averaged weights: what each shows, when they begin, and no matter in what layout."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from tests.strategies.layouts import assert_alike, in_two_processes, steps_of
from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.towers.tiny import tiny_batch, tiny_model
from vlp.ground.types import Batch, RecipeError
from vlp.strategies.local_to_global import LocalToGlobal
from vlp.strategies.random_crops import random_crops
from vlp.train import train

HEAD = "num_prototypes: 8, hidden_width: 8, bottleneck: 4"
LATE = "weight: {start: 0.0, end: 0.5, first_step: 3, last_step: 4}"
SMALL = "strategies.local_to_global={decay: 0.9, count: 2, size: 16}"
PARTS = (
    STEADY,
    SMALL,
    f"objective={{clip: {{}}, self_distillation: {{{HEAD}}}, masked_prediction: {{{HEAD}}}}}",
)
LATE_PARTS = (
    STEADY,
    "model.image.image_size=48",
    f"objective={{clip: {{}}, uniformity: null, self_distillation: {{{HEAD}, {LATE}}}}}",
    f"objective.masked_prediction={{{HEAD}, {LATE}}}",
    SMALL,
)


def ramp(size=8):
    """An image whose first colour says where a pixel lies from left to right, the second from top to bottom."""
    across = (torch.arange(size) + 0.5).expand(size, size) / size
    return torch.stack([across, across.T, torch.zeros(size, size)])[None]


def cropped(*draws, **settings):
    how = {"scale": (0.25, 1.0), "size": (4, 4), "flip": 0.0} | settings
    return random_crops(ramp(), torch.tensor([draws]), **how)[0]


def test_crops_show_what_the_draws_say():
    whole = cropped(1.0, 0.5, 0.3, 0.6, 0.5, size=(8, 8))
    torch.testing.assert_close(whole, ramp()[0])
    torch.testing.assert_close(cropped(1.0, 0.5, 0.3, 0.6, 0.5, size=(8, 8), flip=0.6), ramp()[0].flip(-1))
    corner = cropped(0.0, 0.5, 0.0, 1.0, 0.5)  # a quarter of the area, on the left, at the bottom
    torch.testing.assert_close(corner[0, 0], torch.tensor([1.0, 3.0, 5.0, 7.0]) / 16)
    torch.testing.assert_close(corner[1, :, 0], 0.5 + torch.tensor([1.0, 3.0, 5.0, 7.0]) / 16)
    wide = cropped(0.0, 1.0, 0.5, 0.5, 0.5)  # sqrt(1/4 * 4/3) by sqrt(1/4 * 3/4)
    assert wide[0, 0, -1] - wide[0, 0, 0] == pytest.approx(3 / 4 * (1 / 3) ** 0.5)
    assert wide[1, -1, 0] - wide[1, 0, 0] == pytest.approx(3 / 4 * (3 / 16) ** 0.5)


def test_what_is_handed_to_terms():
    model = tiny_model().eval()
    model.hand_out_places()
    images, tokens, lengths = tiny_batch(model)
    strategy = LocalToGlobal(decay=1.0, count=3, size=16, global_scale=(1.0, 1.0), flip=0.0, hidden=0.25)
    strategy.borrow({"mask_token": torch.nn.Parameter(torch.randn(32))})
    strategy.start(model)
    size, ids = tokens.shape[1], torch.arange(tokens.shape[1])
    draws = torch.rand(1, size, 4, generator=torch.Generator().manual_seed(5))
    pixels = torch.zeros(1, size, 1, 1, 3, dtype=torch.uint8)
    batch = Batch(pixels, tokens, lengths, draws, ids, ids, ("tiny",) * size)
    plain = model(images, tokens, lengths.numpy())
    before = model.core.visual(images[0])[0].detach()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    seen = strategy.after_forward(images, batch, plain)
    assert (seen.image, seen.text) == (plain.image, plain.text)  # what other terms read stays
    assert len(seen.image_views) == 3 and all(view.requires_grad for view in seen.image_views)
    assert seen.hidden_patches.shape == seen.taught_patches.shape == (size, 4, 32)
    assert seen.hidden_patches.requires_grad and not seen.taught_patches.requires_grad
    wide = strategy._cut(images[0], batch)[0]  # the whole area, 4 : 3 at most, so that little is lost
    torch.testing.assert_close(seen.teacher.image, normalize(strategy.look(wide)[0], dim=1))
    assert not torch.allclose(seen.teacher.image, plain.image) and before.shape == plain.image.shape
    parts = [strategy.after_forward(images[:, k : k + 1], batch.narrow(k, 1), plain) for k in range(size)]
    torch.testing.assert_close(torch.cat([part.hidden_patches for part in parts]), seen.hidden_patches)
    strategy.before_step(0, frozenset({"ids"}))
    assert strategy.after_forward(images, batch, plain) is plain


def test_before_it_begins_the_teacher_is_a_copy():
    model = tiny_model()
    strategy = LocalToGlobal(decay=0.5)
    strategy.start(model)
    values = []
    for wanted in (frozenset(), frozenset({"teacher"})):
        strategy.before_step(0, wanted)
        with torch.no_grad():
            model.core.visual.proj.add_(1.0)
        strategy.after_step(model)
        values.append(model.core.visual.proj.detach() - strategy.average["core.visual.proj"])
    assert not values[0].any()
    torch.testing.assert_close(values[1], torch.full_like(values[1], 0.5))


def test_a_run_begins_late_and_resumes_bit_for_bit(tmp_path):
    """Before the terms begin, the losses are those of a run that does not know them."""
    assert_resumes(recipe_of(tmp_path, *LATE_PARTS, "train.micro_batches=2"))
    (run,) = (tmp_path / "runs").iterdir()
    late = losses_of(run)
    names = {"loss/self_distillation", "loss/masked_prediction"}
    assert [names <= losses.keys() for losses in late] == [False] * 3 + [True] * 3
    alone = ("objective.uniformity=null", "train.micro_batches=2", "name=alone")
    plain = losses_of(train(recipe_of(tmp_path, *LATE_PARTS[:2], *alone)))
    assert [line["loss/clip"] for line in plain][:4] == [line["loss/clip"] for line in late][:4]
    assert plain[5]["loss/clip"] != late[5]["loss/clip"]


def test_micro_batches_and_two_processes_equal_one():
    case = ("vitb32_clip", PARTS)
    whole = steps_of(*case)
    assert_alike(steps_of(*case, micro_batches=4), whole)
    for of_a_process in in_two_processes({"both": case}, {"in pieces": ({}, 2)}):
        assert_alike(of_a_process["in pieces"]["both"], whole)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (("strategies.local_to_global.size=20",), "size: the image tower does not take 20 px"),
        (("model.image.patch_dropout=0.5",), "leaves patches out"),
        (("model.freeze=[visual]",), "model.freeze: .* it is locked"),
        (("strategies.local_to_global=null", "strategies.dual_teacher={}"), "add strategies.local_to_global"),
        (("objective={self_distillation: null, masked_prediction: null}",), "no term learns from it"),
    ],
)
@pytest.mark.filterwarnings("ignore:model.freeze")
def test_what_cannot_work_is_refused(tmp_path, overrides, complaint):
    with pytest.raises(RecipeError, match=complaint):
        train(recipe_of(tmp_path, *PARTS, *overrides))


@pytest.mark.parametrize("settings", [{"count": 0}, {"scale": (0.5, 0.4)}, {"global_scale": (0.0, 1.0)}, {"hidden": 1}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"must be|must lie in"):
        LocalToGlobal(**settings)
