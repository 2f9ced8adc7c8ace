"""What the model finds: queries drawn at random, and the images it puts first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vlp.evaluators.base import Task, load_task
from vlp.evaluators.dataset import EvaluationSet, open_set
from vlp.evaluators.prompts import average, prompts_of
from vlp.evaluators.retrieval import rank_positives
from vlp.evaluators.shared import decode_ahead
from vlp.ground.types import Encoder, RecipeError
from vlp.html.frame import thumbnail
from vlp.run.trained_model import load_model_of_run
from vlp.towers.encoder import TowerEncoder

SEED = 0
SHOWN = 5
MAX_IMAGES = 2000


@dataclass(frozen=True)
class Hit:
    """One image of an answer."""

    rank: int
    score: float
    is_right: bool
    thumbnail: str
    caption: str


@dataclass(frozen=True)
class Shown:
    """A query, the rank of its best right image, and the images shown for it."""

    query: str
    rank: int
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Gallery:
    """Answers in groups, each with the rule by which its queries were drawn.

    Args:
        scope: Which images were searched, in words.
    """

    task: str
    step: int
    weights: str
    scope: str
    groups: tuple[tuple[str, tuple[Shown, ...]], ...]


@dataclass(frozen=True)
class Search:
    """Queries, the images they search, and which of these are right.

    Args:
        positives: Query and image of each right pair, sorted by query.
    """

    queries: tuple[str, ...]
    query_rows: Float32[Tensor, "q d"]
    image_rows: Float32[Tensor, "n d"]
    indices: tuple[int, ...]
    positives: Int64[Tensor, "2 p"]


def gallery_of_run(run: Path, tasks: Sequence[str]) -> Gallery:
    """Search the first retrieval set of the recipe, or else its first zero-shot set, with the run's newest weights.

    Raises:
        RecipeError: No such task, no data, or no whole checkpoint.
    """
    known = [load_task(name) for name in tasks]
    by_evaluator = {task.evaluator: task for task in reversed(known)}
    task = by_evaluator.get("retrieval") or by_evaluator.get("zero_shot")
    if task is None:
        raise RecipeError("the recipe evaluates no retrieval and no zero-shot task")
    data = open_set(task.data)
    trained = load_model_of_run(run)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = TowerEncoder(trained.model.to(device), device=device, batch_size=64)
    return build_gallery(task, data, encoder, step=trained.checkpoint.step, weights=trained.weights)


def build_gallery(task: Task, data: EvaluationSet, encoder: Encoder, *, step: int, weights: str) -> Gallery:
    """Search a set and show a few queries, drawn by a fixed seed."""
    indices = tuple(np.linspace(0, len(data) - 1, min(len(data), MAX_IMAGES)).round().astype(int).tolist())
    by_caption = data.kind == "retrieval"
    search = _by_caption(data, encoder, indices) if by_caption else _by_class(task, data, encoder, indices)
    ranks = rank_positives(search.query_rows, search.image_rows, search.positives).worst
    noun = "queries" if by_caption else "classes"
    groups = tuple(
        (rule, tuple(_answer(search, data, query, int(ranks[query])) for query in chosen))
        for rule, chosen in draw(ranks.tolist(), noun)
    )
    scope = (
        f"all {len(data)} images"
        if len(indices) == len(data)
        else f"{len(indices)} of {len(data)} images, evenly spaced"
    )
    return Gallery(task.name, step, weights, scope, groups)


def draw(ranks: Sequence[int], noun: str) -> list[tuple[str, list[int]]]:
    """Draw four queries from all, then two successes and two failures from the rest; say how."""
    source = random.Random(SEED)
    chosen = sorted(source.sample(range(len(ranks)), min(4, len(ranks))))
    groups = [(f"{len(chosen)} drawn at random from all {len(ranks)} {noun}", chosen)]
    for said, wanted in (
        ("with a right image in first place", [query for query, rank in enumerate(ranks) if rank == 1]),
        (f"without a right image among the first {SHOWN}", [query for query, rank in enumerate(ranks) if rank > SHOWN]),
    ):
        left = [query for query in wanted if query not in chosen]
        drawn = sorted(source.sample(left, min(2, len(left))))
        if drawn:
            rule = f"{len(drawn)} drawn at random from the {len(wanted)} {noun} {said}"
            groups.append((f"The only one of the {noun} {said}" if len(wanted) == 1 else rule, drawn))
    return groups


def _by_caption(data: EvaluationSet, encoder: Encoder, indices: tuple[int, ...]) -> Search:
    pairs = [(place, caption) for place, index in enumerate(indices) for caption in data.captions[index]]
    queries = tuple(caption for _, caption in pairs)
    positives = torch.stack([torch.arange(len(pairs)), torch.tensor([place for place, _ in pairs])])
    return Search(queries, encoder.embed_texts(queries), _images(data, encoder, indices), indices, positives)


def _by_class(task: Task, data: EvaluationSet, encoder: Encoder, indices: tuple[int, ...]) -> Search:
    labels = torch.tensor([data.labels[index] for index in indices])
    present = sorted(set(labels.tolist()))
    names = tuple(data.class_names[label] for label in present)
    settings = task.settings.model_dump()
    prompts = prompts_of(data, settings.get("prompts"), names)
    pairs = [
        (query, place) for query, label in enumerate(present) for place in torch.where(labels == label)[0].tolist()
    ]
    query_rows = average(encoder.embed_texts(prompts.texts), prompts.counts)
    return Search(names, query_rows, _images(data, encoder, indices), indices, torch.tensor(pairs).T.contiguous())


def _images(data: EvaluationSet, encoder: Encoder, indices: tuple[int, ...]) -> Float32[Tensor, "n d"]:
    places = decode_ahead(lambda place: data.image(indices[place]), range(len(indices)))
    return encoder.embed_images(places)


def _answer(search: Search, data: EvaluationSet, query: int, rank: int) -> Shown:
    """Show the first images, and the best right one where it is not among them; a right image loses ties."""
    scores = search.image_rows @ search.query_rows[query]
    right = set(search.positives[1, search.positives[0] == query].tolist())
    order = sorted(range(len(scores)), key=lambda place: (-float(scores[place]), place in right))
    shown = order[:SHOWN]
    if not right & set(shown):
        shown.append(next(place for place in order if place in right))
    hits = tuple(
        Hit(
            rank=order.index(place) + 1,
            score=float(scores[place]),
            is_right=place in right,
            thumbnail=thumbnail(data.image(search.indices[place]), effort=6),
            caption=_caption(data, search.indices[place]),
        )
        for place in shown
    )
    return Shown(search.queries[query], rank, hits)


def _caption(data: EvaluationSet, index: int) -> str:
    return data.captions[index][0] if data.kind == "retrieval" else data.class_names[data.labels[index]]
