"""A small model before a set on which it is always right, and files of attacks that take a second."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from tests.evaluators.sets import task_on, write_captions, write_classes
from tests.towers.tiny import tiny_model
from vlp.evaluators.base import Task
from vlp.evaluators.prompts import class_embeddings, prompts_of
from vlp.evaluators.shared import SharedEncoder
from vlp.robust.attack_file import Listed
from vlp.robust.attack_task import attack_task
from vlp.robust.attacks.base import attacks
from vlp.robust.kept_outcomes import KeptOutcomes
from vlp.robust.opening import Opened, open_task
from vlp.robust.planned_attacks import Planned, attacks_on
from vlp.robust.problem import Problem
from vlp.towers.encoder import TowerEncoder
from vlp.towers.plain_pixels import normalised

BATCH = 8


def encoder_of(model=None, kind=TowerEncoder):
    """Return a model in evaluation mode as evaluators see it."""
    model = (model or tiny_model()).eval().requires_grad_(False)
    return kind(model, batch_size=BATCH)


def classes_it_knows(folder: Path, size: int = 20, *, shift: int = 0) -> Task:
    """Write a set of noise whose labels are what the tiny model takes it for, and return its task.

    Args:
        shift: Added to the labels, so that the model is always wrong.
    """
    task = task_on(write_classes(folder / "guess", [0, 1, 2] * size, num_shards=1), "zero_shot", "acc1")
    shared = SharedEncoder(encoder_of())
    data = shared.open(task.data)
    scores = shared.images(data)[:size] @ class_embeddings(shared, prompts_of(data, None)).T
    labels = ((scores.argmax(dim=1) + shift) % 3).tolist()
    root = write_classes(folder / "known", labels, num_shards=1)
    return classes_at(root)


def classes_at(root: Path) -> Task:
    """Return the task of a set of classes that was written before."""
    return task_on(root, "zero_shot", "acc1", classes_without_samples=None)


def captions_it_meets(folder: Path, size: int = 12) -> Task:
    """Write a retrieval set and return its task."""
    captions = [[f"a {word} photo", f"the {word}"] for word in (f"dog{number}" for number in range(size))]
    return captions_at(write_captions(folder / "captions", captions))


def captions_at(root: Path) -> Task:
    """Return the task of a retrieval set that was written before."""
    return task_on(root, "retrieval", "mean_recall@1")


@cache
def model_that_learned():
    """Return a tiny model that knows the pairs of `captions_it_meets` by heart."""
    model = tiny_model()
    encoder = TowerEncoder(model)
    with tempfile.TemporaryDirectory() as folder:
        data = SharedEncoder(encoder).open(captions_it_meets(Path(folder)).data)
        pixels = torch.stack([encoder.plain_pixels(data.image(place)) for place in range(len(data))])
    tokens, lengths = model.tokenizer([captions[0] for captions in data.captions])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        images = torch.nn.functional.normalize(model.core.visual(normalised(pixels, model.preprocess_cfg)), dim=1)
        logits = 20 * images @ model.embed_tokens(tokens, lengths.numpy()).T
        labels = torch.arange(len(data))
        loss = torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def opened(task: Task, encoder=None, *, samples: int | None = None) -> Opened:
    """Open a task before a model."""
    encoder = encoder or encoder_of()
    return open_task(task, encoder, SharedEncoder(encoder), samples=samples, batch_size=BATCH)


def plan_of(name: str, *radii: float, is_probe: bool = False, **settings) -> list[Planned]:
    """Plan an attack at some radii."""
    listed = Listed(name, name, settings)
    return [Planned(listed, listed.build(), radius, is_probe) for radius in radii]


def record_of(stage: Opened, plan, folder: Path | None = None, *, resume: bool = False):
    """Attack and return the record; no hook is left on the model."""
    kept = KeptOutcomes(folder, resume=resume)
    record = attack_task(stage, attacks_on(stage.task, plan), kept, lambda *_told: None, model_checksum=1.0)
    model = getattr(stage.stage.encoder, "model", None)
    parts = model.modules() if isinstance(model, torch.nn.Module) else ()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    return record


def gates_of(stage: Opened, plan) -> dict[str, bool]:
    """Attack and say which gates passed."""
    return {gate["name"]: gate["is_passed"] for gate in record_of(stage, plan)["gates"]}


def shares(record, metric: str = "acc1") -> dict[tuple[str, float], float]:
    """Return what is left by attack and radius."""
    return {(each["label"], each["radius"]): each["metrics"][metric]["value"] for each in record["attacks"]}


def random_problem(
    num: int = 6, candidates: int = 5, size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Problem, torch.Tensor]:
    """Return a problem of a model that is one layer and a bend, and pixels that it is right about."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3 * size * size, 7, generator=generator).to(dtype)
    rows = torch.nn.functional.normalize(torch.randn(candidates, 7, generator=generator), dim=1).to(dtype)
    pixels = torch.rand(num, 3, size, size, generator=generator).to(dtype)

    def embed(values):
        return torch.nn.functional.normalize(((values - 0.5).flatten(1) @ weights).tanh(), dim=1)

    best = (embed(pixels) @ rows.T).argmax(dim=1)
    return Problem(embed, rows, torch.nn.functional.one_hot(best, candidates).bool(), 20.0), pixels


def with_attack(planned: Planned, attack) -> Planned:
    """Put another attack in the place of a planned one."""
    return replace(planned, attack=attack)


SETTINGS = {
    "pgd": {"steps": 4},
    "pgd_margin": {"steps": 4},
    "apgd_ce": {"steps": 6, "restarts": 2},
    "apgd_t": {"steps": 4, "targets": 2},
    "square": {"queries": 20},
    "random_signs": {"tries": 2},
}
"""Settings under which an attack takes a second."""


def small(name: str):
    """Return a registered attack that takes a second."""
    return attacks.build(name, SETTINGS[name])
