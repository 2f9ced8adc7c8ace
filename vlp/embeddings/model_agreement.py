"""How much two models agree: in their weights, and in what they say of a data set."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from vlp.data.shards.cards import load_card
from vlp.embeddings.agreement import Agreement, compare_embeddings
from vlp.embeddings.embed import embed
from vlp.embeddings.parts import MANIFEST
from vlp.ground import dist
from vlp.ground.types import Metric, RecipeError
from vlp.run.launch import join_evaluation
from vlp.run.subject import Subject, find_subject
from vlp.towers.borrowed import BorrowedModel
from vlp.towers.drift import weight_drift
from vlp.towers.dual import DualEncoder


def agree(first: str, second: str, data: str | None = None) -> Agreement:
    """Compare two folders of embeddings, or two models.

    Of models with weights of equal names and shapes, such as two checkpoints, or a run and its averages, it has
    `weight_drift`: |w - w'| / |w|, w being the weights of the first; and with data what `compare_embeddings` has.

    Args:
        first: Folder of `vlp embed`, or a model as `vlp eval` takes it.
        second: Another of the same kind.
        data: Name or path of a data card that two models embed.

    Raises:
        RecipeError: No such model or folder, or there is nothing to compare.
    """
    embedded = [(Path(name).expanduser() / MANIFEST).is_file() for name in (first, second)]
    if all(embedded):
        if data is not None:
            raise RecipeError(f"--data {data}: {first} and {second} hold embeddings already; leave it out")
        return compare_embeddings(Path(first).expanduser(), Path(second).expanduser())
    if any(embedded):
        raise RecipeError(f"{first} and {second}: one holds embeddings and the other does not; name two models")
    join_evaluation()
    with dist.together():
        if data is not None:
            load_card(data)  # before models are read
        drift = drift_of_models(find_subject(first), find_subject(second))
    if data is None:
        if not drift:
            raise RecipeError(
                f"{first} and {second} have no weights of equal names and shapes; --data CARD compares what they say "
                "(what is behind @WIDTH or @HEAD has no weights of its own)"
            )
        return Agreement(0, tuple(drift))
    found = _embed_and_compare(first, second, data)
    return Agreement(found.samples, (*drift, *found.metrics))


def drift_of_models(first: Subject, second: Subject) -> list[Metric]:
    """Return the distance of the weights of two models; none unless names and shapes are the same."""
    weights, others = (_weights(subject) for subject in (first, second))
    shapes, other_shapes = ({name: weight.shape for name, weight in each.items()} for each in (weights, others))
    if not weights or shapes != other_shapes:
        return []
    count = sum(weight.numel() for weight in weights.values())
    return [Metric(name, value, count) for name, value in weight_drift(weights, others).items()]


def _weights(subject: Subject) -> Mapping[str, Tensor]:
    """Return weights by name; none of a pair of ONNX files, which may have folded and renamed them, or of a part."""
    if subject.width is not None or subject.head is not None:
        return {}
    if isinstance(subject.model, DualEncoder):
        return subject.model.state_dict()
    return subject.model.model.state_dict() if isinstance(subject.model, BorrowedModel) else {}


def _embed_and_compare(first: str, second: str, data: str) -> Agreement:
    """Embed the data with both models, one after the other, into a folder that goes again."""
    folder = Path(dist.on_main(partial(tempfile.mkdtemp, prefix="vlp-agree-")))
    try:
        for place, name in (("first", first), ("second", second)):
            embed(name, data, folder / place, kind="float32", file_format="npy")
        return dist.on_main(partial(compare_embeddings, folder / "first", folder / "second"))
    finally:
        if dist.is_main():
            shutil.rmtree(folder, ignore_errors=True)
