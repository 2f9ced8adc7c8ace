"""The moments at which a strategy may act."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from jaxtyping import Bool, Float32, UInt8
from torch import Tensor, nn

from vlp.ground.registry import Registry
from vlp.ground.types import Batch, Embeddings, Reading, RecipeError
from vlp.towers.dual import DualEncoder

Augmentation = Callable[[UInt8[Tensor, "v n h w 3"], Float32[Tensor, "v n k"]], Float32[Tensor, "v n 3 h w"]]
"""Normalised pixels as the towers are to see them, from those of a batch and its draws: a pure function."""


class Strategy:
    """Does nothing; a strategy overrides the moments it needs.

    Attributes:
        provides: What it adds to embeddings that a term may need, such as `reference`.
        makes_views: Whether it adds image or text views, which some term should read.
        takes_text_views: Whether it reads the further text views of the data, so that no term need do so.
        can_shard: Whether it works on parameters that are split over processes (FSDP).
        reads_images: Whether it looks at the pixels, or changes them; without such a strategy they can be left out
            where the embeddings of a locked image tower are kept.
        changes_captions: Whether it changes tokens, or adds captions; without such a strategy the embeddings of a
            locked text tower can be kept.
    """

    provides: frozenset[str] = frozenset()
    makes_views: bool = False
    takes_text_views: bool = False
    can_shard: bool = True
    reads_images: bool = True
    changes_captions: bool = True

    def load(self) -> str:
        """Read models or files that it works with, before anything else; return what all processes must have read."""
        return ""

    @property
    def teacher_dim(self) -> int | None:
        """Width of the teacher's embeddings, once it is loaded; None where it has the model's, or there is none."""
        return None

    def held(self) -> Iterable[Tensor]:
        """Return what it holds on the device beside `weights` and `state_dict`, and no checkpoint keeps."""
        return ()

    def borrow(self, lent: Mapping[str, nn.Parameter]) -> None:
        """Take parameters that terms train and this strategy puts to work, by name, before all below."""

    def twin_of(self, model: DualEncoder) -> DualEncoder | None:
        """Return a copy that it needs beside the model, which is whole for the last time: both are split hereafter.

        Asked before `start`, and only where the launch splits parameters over processes.
        """
        return None

    def augmented_by(self, augment: Augmentation) -> None:
        """Learn how the images of a batch will be normalised and augmented, before `start`."""

    def start(self, model: DualEncoder) -> None:
        """See the model once, before the first step."""

    def before_step(self, step: int, wanted: frozenset[str]) -> None:
        """Learn which step, counted from 0, is about to begin, and what terms that have begun need of embeddings.

        Args:
            wanted: Names of their needs, and `views` where one looks at further views; others may be left out.
        """

    def before_forward(self, batch: Batch) -> Batch:
        """Change the batch on the device."""
        return batch

    def before_towers(self, images: Float32[Tensor, "v n 3 h w"], batch: Batch) -> Float32[Tensor, "w n 3 h w"]:
        """Change what the image tower is about to see: normalised pixels, after all augmentation; or add views.

        With micro-batches it is called twice for each, first without gradients. Meeting other processes is for
        `before_forward`.
        """
        return images

    def after_forward(self, images: Tensor, batch: Batch, embeddings: Embeddings) -> Embeddings:
        """Add to the embeddings, for example a teacher's features.

        Args:
            images: As they were augmented, before any `before_towers`.
        """
        return embeddings

    def readings(self, embeddings: Embeddings) -> tuple[Reading, ...]:
        """Return what the objective is evaluated on: the embeddings of the whole share, or several versions of them.

        The first leads: what terms remember, they remember of it.
        """
        return (Reading(embeddings),)

    def after_step(self, model: DualEncoder, taken: Bool[Tensor, ""] | None = None) -> None:
        """See the model after each optimizer step.

        Args:
            taken: Whether the weights have moved, on the device; a step that was skipped must leave no trace here.
                None where it is known that they have.
        """

    def weights(self) -> dict[str, Tensor] | None:
        """Return weights to evaluate and export instead of the model's, by parameter name."""
        return None

    def gauges(self, model: DualEncoder) -> Mapping[str, float]:
        """Return numbers to log now and then, by name; called by all processes, where logging waits anyway."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint must keep beside `weights`."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what `state_dict` returned."""


strategies: Registry[Strategy] = Registry("strategy", "vlp.strategies")


def all_readings(used: Mapping[str, Strategy], embeddings: Embeddings) -> dict[str, Reading]:
    """Return what the objective is evaluated on once all strategies have had their say.

    Returns:
        By the labels of the strategies that a reading is not the first of, joined by "+"; the leading one has none and
        comes first. Strategies that made views last take them first.

    Raises:
        RecipeError: There are several, and something has read the first alone: a decoder of captions, or what compares
            places of views.
    """
    found = {"": Reading(embeddings)}
    for label, strategy in reversed([*used.items()]):
        found = {
            "+".join(filter(None, (label if number else "", name))): Reading(part.embeddings, part.weight * one.weight)
            for name, one in found.items()
            for number, part in enumerate(strategy.readings(one.embeddings))
        }
    if len(found) > 1:
        _check_read_once([*found][1], embeddings)
    return found


def _check_read_once(label: str, embeddings: Embeddings) -> None:
    for is_read, reader, part in (
        (embeddings.caption_losses is not None, "the decoder of captions", "model.decoder"),
        (bool(embeddings.taught_maps), "what compares places of views", "strategies.dense_teacher"),
        (embeddings.hidden_patches is not None, "what predicts hidden patches", "objective.masked_prediction"),
        (embeddings.pixel_changes is not None, "what keeps an auto-encoder near the image", "objective.pixel_change"),
    ):
        if is_read:
            raise RecipeError(
                f"strategies.{label}: {reader} reads clean pairs alone, which would count twice: leave {part} or the "
                "adversary out, or set its clean_weight to 0"
            )
