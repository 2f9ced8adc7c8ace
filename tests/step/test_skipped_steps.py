"""A step that is skipped leaves no trace: the next one is that of a run that never saw the bad batch, bit for bit."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.processes import run_processes
from tests.strategies.runs import recipe_of
from tests.teachers import tiny_teacher
from vlp.embeddings.embed_views import embed_views
from vlp.run.assemble import assemble
from vlp.strategies.base import strategies
from vlp.train import one_step

CONVOLUTIONAL = "model.image={type: timm, name: resnet10t, image_size: 64}"  # with batch norm, which keeps averages
USED = {
    "ema": ("objective={sogclr: {budget: 1.0}, cluster_proxies: {centres: 4}, swav: {}, clip: {}}",),
    "dual_teacher": ("strategies.dual_teacher={}", "objective={soft_targets: {}, byolip: {predictor: direct}}"),
    "adversarial_words": (
        "data.text_views={synonyms: {count: 2, synonyms: 1.0}}",
        "strategies.adversarial_words={}",
    ),
    "ema_teacher": ("strategies.ema_teacher={}", "objective={cwcl: {}, mann_whitney: {}, groco: {}}"),
    "dense_teacher": (
        "strategies.dense_teacher={}",
        "objective.pixpro={hidden_width: 8, width: 4}",
        "data.views={second: {}}",
        "model.image.patch_dropout=0",
    ),
    "local_to_global": (
        "strategies.local_to_global={count: 2, size: 16}",
        "objective={self_distillation: {num_prototypes: 8}, masked_prediction: {num_prototypes: 8}}",
        "model.image.patch_dropout=0",
    ),
    "hard_negatives": (
        "data.captions.negatives={count: 2}",
        "strategies.hard_negatives={}",
        "objective.clip_negatives={}",
    ),
    "image_views": ("strategies.image_views={}", "objective.swalip={}", "train.micro_batches=2"),
    "replay": (
        "strategies={replay: {sources: [tiny]}, dual_teacher: {decay: 0.9}}",
        "evaluation.weights=model",
        "objective.teacher_contrast={replayed: true}",
    ),
    "style_views": ("strategies.style_views={count: 4}", "objective.mv_infonce={}"),
    "shuffled_captions": ("strategies.shuffled_captions={}", "objective.clip_negatives={}"),
    "teacher": (
        f"strategies.teacher={{models: [{tiny_teacher()}]}}",
        "objective={feature_distillation: {}, drrho: {budget: 1.0}, ranker_distillation: {}}",
    ),
    "short_first": ("strategies.short_first={tokens: 4, steps: 3}",),
    "unmasked_end": ("strategies.unmasked_end={steps: 3}",),
    "sequence_lengths": ("strategies.sequence_lengths={lengths: [1, 4]}",),
    "small_first": ("strategies.small_first={image_size: 32, steps: 3}", CONVOLUTIONAL),
}


def used_by(name, folder) -> tuple[str, ...]:
    """Return settings with which a strategy has something to do."""
    if name != "stored_teacher":
        return USED.get(name, (f"strategies.{name}={{}}",))
    recipe = recipe_of(folder)
    card = next(iter(recipe.data.train.values())).card
    embed_views(tiny_teacher(), [card], folder / "views", recipe, epochs=3)
    return f"strategies.stored_teacher={{folders: [{folder / 'views'}]}}", "objective={soft_targets: {}, clip: {}}"


def state_of(parts) -> dict[str, torch.Tensor]:
    """Return a copy of all that training changes, but for the count of skipped steps."""
    sets = {"towers": parts.towers.state_dict(), "objective": parts.objective.state_dict()}
    for label, strategy in parts.strategies.items():
        sets[label] = {**strategy.state_dict(), **(strategy.weights() or {})}
    for number, optimizer in enumerate(parts.optimizers):
        moments = optimizer.state_dict()["state"]
        sets[f"optimizer {number}"] = {f"{key}.{name}": x for key, kept in moments.items() for name, x in kept.items()}
    return {
        f"{label}.{name}": torch.as_tensor(x).clone() for label, values in sets.items() for name, x in values.items()
    }


def differences(ours, theirs) -> list[str]:
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def spoil_pixels(parts):
    """Let the first image of every batch be NaN; return what mends it."""
    clean = parts.augment

    def spoilt(images, draws):
        pixels = clean(images, draws)
        pixels[:, 0] = torch.nan
        return pixels

    parts.augment = spoilt
    return lambda: setattr(parts, "augment", clean)


def spoil_gradient(parts):
    """Let a gradient overflow on its way through the towers."""
    return parts.towers.core.logit_scale.register_hook(lambda gradient: gradient * torch.inf).remove


def run_beside(recipe, twin, spoil) -> tuple[list[str], list[str], float]:
    """Take two steps, a bad one and one more; return what the bad one changed, how the rest differs from a run that
    never saw it, and how many steps were skipped."""
    parts, other = assemble(recipe, resume=False, allow_changes=False), None
    batches = list(islice(parts.stream.batches(0), 4))
    for step in range(2):
        one_step(parts, batches[step], step)
    before = state_of(parts)
    mend = spoil(parts)
    one_step(parts, batches[2], 2)
    changed = differences(state_of(parts), before)
    mend()
    report, _ = one_step(parts, batches[3], 3)
    other = assemble(twin, resume=False, allow_changes=False)
    for step in (0, 1, 3):
        expected, _ = one_step(other, batches[step], step)
    different = differences(state_of(parts), state_of(other)) + differences(report, expected)
    return changed, different, float(parts.safe_step.state["skipped"])


@pytest.mark.parametrize("spoil", [spoil_pixels, spoil_gradient])
@pytest.mark.parametrize("name", list(strategies))
def test_a_skipped_step_leaves_no_trace(tmp_path, name, spoil):
    used = used_by(name, tmp_path)
    recipes = [recipe_of(tmp_path / which, *used) for which in ("seen", "unseen")]
    assert run_beside(*recipes, spoil) == ([], [], 1.0)


def _one_of_two(rank, world_size, folder):
    terms = "objective={sogclr: {budget: 1.0}, cluster_proxies: {centres: 4}, byolip: {predictor: direct}, groco: {}}"
    used = ("strategies.dual_teacher={}", "strategies.shuffled_captions={}", "objective.clip_negatives={}", terms)
    recipes = [
        recipe_of(Path(folder) / f"{which} {rank}", *used, f"runs={folder}/{which}") for which in ("seen", "unseen")
    ]
    return run_beside(*recipes, spoil_pixels if rank == 1 else lambda parts: lambda: None)


@pytest.mark.processes
def test_what_one_process_skips_all_forget(tmp_path):
    assert run_processes(_one_of_two, 2, str(tmp_path)) == [([], [], 1.0)] * 2


def test_the_scale_is_clamped_after_a_step(tmp_path):
    parts = assemble(recipe_of(tmp_path, "model.max_scale=20.0"), resume=False, allow_changes=False)
    with torch.no_grad():
        parts.towers.core.logit_scale.fill_(5.0)
    one_step(parts, next(parts.stream.batches(0)), 0)
    assert parts.towers.scale.item() == pytest.approx(20.0)
