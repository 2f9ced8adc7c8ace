"""Write what a teacher says of the views that a training will draw, for `strategies.stored_teacher`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import vlp.run.trained_model  # noqa: F401 - teachers may be runs
from vlp.data import Stream
from vlp.data.shards.cards import load_card
from vlp.data.stored_views import VIEWS, Numbers, first_missing, join_parts, part_path, write_part_of_views
from vlp.embeddings.parts import claim_folder
from vlp.ground import dist
from vlp.ground.types import Batch, RecipeError, Teacher
from vlp.recipe.model import build_model, settled
from vlp.recipe.schema import Recipe
from vlp.run.build_stream import build_augment, build_stream
from vlp.run.launch import check_same, join_evaluation
from vlp.run.stored_teachers import what_views_follow_from
from vlp.strategies.teacher import OtherModels

PAIRS_PER_PART = 16384  # of the whole job
Teach = Callable[[Batch], list[Teacher]]
Rows = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def embed_views(
    model: str, data: Sequence[str], folder: Path, recipe: Recipe, *, epochs: int, kind: Numbers = "float16"
) -> int:
    """Embed the views of a recipe's first epochs as its training would draw them; return how many there are.

    Started anew, it goes on where it was stopped. Started by torchrun or `accelerate launch`, the processes share the
    work, as those of a training do: with as many of them, and in float32, the numbers are to the bit what
    `strategies.teacher` would say on the CPU.

    Args:
        model: The teacher, as `strategies.teacher` takes one.
        data: Cards of the recipe's sources of pairs. Where they have shares, so many epochs of each are embedded.
        folder: Where the views go: an array for each epoch, of images, of texts, and of which are there.
        recipe: Draws the views.
        epochs: How many.
        kind: Type of the numbers; what is not float32 is made unit again when it is read.

    Raises:
        RecipeError: No such model or card, it is not the recipe's, or the folder holds something else.
    """
    device = join_evaluation()
    named = {"runs": str(folder.parent), "name": folder.name}  # where bad samples are listed
    whole = recipe.train.model_copy(update={"first_batches": ()})  # views do not depend on batches
    recipe = recipe.model_copy(update={**named, "train": whole})
    teacher = OtherModels(models=(model,))
    with dist.together():
        if epochs < 1:
            raise RecipeError(f"--views: {epochs} must be at least 1")
        if recipe.data.documents is not None:
            raise RecipeError("data.documents: views are stored of pairs: leave it out, and the cards of documents")
        _check_sources(recipe, data)
        towers = build_model(recipe.model)
        recipe = settled(recipe, towers)
        decides = what_views_follow_from(recipe, towers)
        said = teacher.load()
        stream = build_stream(_without_shares(recipe), towers, device)
    check_same("the teacher", said)
    teacher.start(towers.to(device))
    manifest = {
        "model": model,
        "checksum": int(teacher.state_dict()["checksums"][0]),
        "width": teacher.teacher_dim,
        "type": kind,
        "epochs": epochs,
        "samples": stream.num_samples,
        "batch_size": recipe.train.batch_size,
        "precision": recipe.train.precision,
        "decides": decides,
    }
    dist.on_main(partial(claim_folder, folder, manifest, VIEWS))
    augment = build_augment(recipe, towers).to(device)
    number_format = recipe.train.number_format
    pieces = 1 if recipe.train.micro_batches == "auto" else recipe.train.micro_batches

    def teach(batch: Batch) -> list[Teacher]:
        with nullcontext() if number_format is None else torch.autocast(device.type, dtype=number_format):
            return [teacher.teach(augment(each.images, each.draws), each) for each in batch.chunk(pieces)]

    _write_parts_of_views(stream, teach, folder, epochs, recipe.train.batch_size, kind)
    dist.barrier()
    return dist.on_main(partial(join_parts, folder, manifest))


def _without_shares(recipe: Recipe) -> Recipe:
    """Return a recipe in whose epochs each sample comes once: shares do not say which views there are."""
    train = {label: source.model_copy(update={"share": None}) for label, source in recipe.data.train.items()}
    data = recipe.data.model_copy(update={"train": train, "mixing": "sample"})
    return recipe.model_copy(update={"data": data})


def _check_sources(recipe: Recipe, data: Sequence[str]) -> None:
    cards = {load_card(source.card).fingerprint: source.card for source in recipe.data.train.values()}
    named = {load_card(card).fingerprint: card for card in data}
    if cards.keys() != named.keys():
        raise RecipeError(
            f"--recipe: it trains on {', '.join(cards.values())}, not on {', '.join(named.values())}: views are stored "
            "of all sources of a recipe; name the card of each"
        )


def _write_parts_of_views(
    stream: Stream, teach: Teach, folder: Path, epochs: int, batch_size: int, kind: Numbers
) -> None:
    """Embed this process's share of all batches, from the first stretch on that is not there."""
    num_batches = -(-epochs * stream.num_samples // batch_size)
    per_part = max(1, PAIRS_PER_PART // batch_size)
    num_parts = -(-num_batches // per_part)
    first = dist.on_main(partial(first_missing, folder, num_parts))
    batches = stream.batches(first * per_part * batch_size)
    total = epochs * stream.num_samples
    with tqdm(total=total, desc="embedding views", unit=" pairs", disable=not dist.is_main()) as bar:
        bar.update(min(total, first * per_part * batch_size))
        for number in range(first, num_parts):
            size = min(per_part, num_batches - number * per_part)
            rows = list(_embedded(islice(batches, size), stream, teach, epochs))
            visits, images, texts = (np.concatenate(each) for each in zip(*rows, strict=True))
            path = part_path(folder, number, dist.rank(), dist.world_size())
            write_part_of_views(path, visits, images, texts, kind)
            bar.update(min(size * batch_size, total - bar.n))
    batches.close()


def _embedded(batches: Iterator[Batch], stream: Stream, teach: Teach, epochs: int) -> Iterator[Rows]:
    """Yield visits, images and texts of batches, without what belongs to later epochs."""
    for batch in batches:
        assert batch.visits is not None, "the stream says which samples it has drawn"
        wanted = (batch.visits[:, 0] < epochs).numpy()
        parts = teach(stream.upload(batch))
        images = torch.cat([part.image for part in parts]).cpu().numpy()
        texts = torch.cat([part.text for part in parts]).cpu().numpy()
        yield batch.visits.numpy()[wanted], images[wanted], texts[wanted]
