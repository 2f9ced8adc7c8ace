"""From a recipe's `data` section to the stream that feeds the towers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vlp.data import Augment, Captions, Crop, SampleSet, Stream, TextAugment, Views, WrongCaptions
from vlp.data.arrange import arrange
from vlp.data.mined_captions import Mining, check_one_card, read_mined
from vlp.data.order.shuffle import Order
from vlp.data.order.timetable import Ramp
from vlp.data.pixels.native_crop import NativeCrop
from vlp.data.pixels.policies import policies
from vlp.data.regions import Regions
from vlp.data.sample_groups import read_groups
from vlp.data.shards.cards import load_card
from vlp.data.texts.documents import Documents
from vlp.data.uploads import Uploads, link_to
from vlp.ground import dist
from vlp.ground.cores import fair_share
from vlp.ground.patch_budget import PatchBudget
from vlp.ground.types import RecipeError, VlpWarning
from vlp.recipe.inflation import inflated
from vlp.recipe.schema import DataSection, Recipe, settings
from vlp.run.decode_fit import build_device_decoder
from vlp.run.document_fit import check_documents
from vlp.run.region_fit import check_regions
from vlp.towers.dual import DualEncoder

COUNTED_BATCHES = 16
MANY_COPIES = 0.05  # of a batch
MOST_WORKERS = 8


def build_stream(recipe: Recipe, towers: DualEncoder, device: torch.device) -> Stream:
    """Build the stream of a recipe's training pairs.

    Raises:
        RecipeError: Sources or settings that cannot work; names the key.
    """
    data = inflated(recipe.data)
    samples = SampleSet(
        {label: load_card(source.card) for label, source in data.train.items()},
        {label: source.repeat for label, source in data.train.items()},
    )
    check_documents(data, samples, towers)
    check_regions(data, samples)
    _check_mining(data, samples)
    order = _build_order(recipe, samples)
    _check_twins(recipe.train.batch_size, samples, order)
    views = _build_views(data, samples, towers.image_size, towers.budget)
    return Stream(
        samples,
        views,
        towers.tokenizer,
        batch_size=recipe.train.batch_size,
        first_batches=recipe.train.first_sizes,
        seed=recipe.seed,
        order=order,
        rank=dist.rank(),
        world_size=dist.world_size(),
        workers=count_workers(data.workers, device),
        worker_timeout=data.worker_timeout,
        bad_sample_budget=data.bad_sample_budget,
        upload=Uploads(device, link_to(device)),
        quarantine=recipe.folder / "quarantine.jsonl",
        on_device=build_device_decoder(data, views, device),
        max_patches=data.max_patches,
    )


def build_augment(recipe: Recipe, towers: DualEncoder) -> Augment:
    """Return what normalises the pixels of a batch, and changes them."""
    prepared = towers.preprocess_cfg
    data = inflated(recipe.data)
    return Augment(prepared["mean"], prepared["std"], data.spare_first_view, **settings(data.augment))


def count_workers(wanted: int | Literal["auto"], device: torch.device) -> int:
    """Return how many processes decode for this one; called by all processes of a job."""
    if wanted != "auto":
        return wanted
    cores = fair_share()
    # a core enqueues what a GPU does; on the CPU the model itself takes most of the time
    spare = cores - 1 if device.type != "cpu" else cores // 4
    return min(MOST_WORKERS, max(1, spare))


def _build_order(recipe: Recipe, samples: SampleSet) -> Order:
    shares: dict[str, Ramp] = {}
    for label, source in recipe.data.train.items():
        share = source.share
        try:
            if share is not None:
                shares[label] = Ramp(start=share) if isinstance(share, float) else Ramp(**settings(share))
        except ValueError as error:
            raise RecipeError(f"data.train.{label}.share: {error}") from error
    return arrange(
        samples,
        seed=recipe.seed,
        batch_size=recipe.train.batch_size,
        first_batches=recipe.train.first_sizes,
        shares=shares,
        mixing=recipe.data.mixing,
        shuffle_shards=recipe.data.shuffle_shards,
        groups=None if recipe.data.groups is None else read_groups(Path(recipe.data.groups), samples),
    )


def _check_mining(data: DataSection, samples: SampleSet) -> None:
    """Refuse to mine wrong captions beside others, in several cards, or fewer than are wanted."""
    wrong, key = data.captions.negatives, "data.captions.negatives.mining"
    if wrong is None or wrong.mining is None:
        return
    Mining(**settings(wrong.mining))
    check_one_card(samples, key)
    for other in ("key", "mined"):
        if getattr(wrong, other) is not None:
            raise RecipeError(f"{key}: it finds what data.captions.negatives.{other} would name: leave one out")
    if wrong.mining.count < wrong.count:
        raise RecipeError(
            f"{key}.count: {wrong.mining.count} captions are fewer than data.captions.negatives.count={wrong.count}: "
            "mine as many or more"
        )


def _check_twins(batch_size: int, samples: SampleSet, order: Order) -> None:
    """Refuse a batch that must hold samples twice, and warn of many of them: they are no negatives of each other."""
    if batch_size > samples.num_distinct:
        raise RecipeError(
            f"train.batch_size: {batch_size} pairs are more than the {samples.num_distinct} different samples of "
            "data.train, and a sample is no negative of itself: set train.batch_size to that or less, or add data"
        )
    copies = count_copies(batch_size, samples, order)
    if copies > MANY_COPIES * batch_size:
        warnings.warn(
            f"data.train: about {copies:.2g} of the {batch_size} pairs of a batch are copies of others in it, which "
            "are no negatives of them: lower train.batch_size, or the share or repeat of small sources",
            VlpWarning,
            stacklevel=3,
        )


def count_copies(batch_size: int, samples: SampleSet, order: Order) -> float:
    """Return how many pairs of a batch stand in it before, as a mean over batches of the first epoch."""
    last = max(order.num_samples // batch_size, 1)
    copies = []
    for number in np.unique(np.linspace(0, last, COUNTED_BATCHES).astype(np.int64)):
        ids = samples.originals(order.samples_at(number * batch_size + np.arange(batch_size))[1])
        copies.append(batch_size - len(np.unique(ids)))
    return float(np.mean(copies))


def _build_views(
    data: DataSection, samples: SampleSet, size: int | tuple[int, int], budget: PatchBudget | None
) -> Views:
    crops, rewordings = [Crop(size, **settings(data.crop))], [TextAugment(**settings(data.captions.augment))]
    for label, view in data.views.items():
        with _renamed("data.crop", f"data.views.{label}"):
            crops += [Crop(size, **settings(view, "count"))] * view.count
    for label, view in data.text_views.items():
        with _renamed("data.captions.augment", f"data.text_views.{label}"):
            rewordings += [TextAugment(**settings(view, "count"))] * view.count
    wrong = data.captions.negatives
    mined = None if wrong is None or wrong.mined is None else read_mined(Path(wrong.mined), samples, wrong.count)
    return Views(
        crops=tuple(crops) if budget is None else tuple(NativeCrop(crop, budget) for crop in crops),
        captions=Captions(**settings(data.captions, "augment", "negatives")),
        rewordings=tuple(rewordings),
        negatives=None if wrong is None else WrongCaptions(**settings(wrong, "mining")),
        policy=None if data.policy is None else policies.build(data.policy.type, settings(data.policy, "type")),
        spare_first=data.spare_first_view,
        documents=None if data.documents is None else Documents(**settings(data.documents)),
        regions=None if data.regions is None else Regions(**settings(data.regions)),
        mined=mined,
    )


@contextmanager
def _renamed(key: str, used: str) -> Iterator[None]:
    """Let the mistakes of a part that is built at several places name the one that was written."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(str(error).replace(key, used)) from error
