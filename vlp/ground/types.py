"""The only values that cross borders: Batch -> Embeddings -> Metric, and the error a user can mend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from jaxtyping import Bool, Float32, Int64, UInt8
from PIL.Image import Image
from torch import Tensor, cat, device, stack

from vlp.ground.interleaved import Interleaved
from vlp.ground.region_rows import RegionRows

OF_DECODER = ("caption_losses", "region_losses")
OPTIONAL_NUMBERS = ("reference", "negatives", *OF_DECODER, "hidden_patches", "taught_patches", "pixel_changes")
ON_DEVICE = ("images", "tokens", "draws", "ids", "caption_ids")
BY_VIEW = ("images", "tokens", "lengths", "draws", "caption_keys", "cuts", "grids")
BY_NARROWING = ("interleaved", "regions")
BY_SAMPLE = ("ids", "caption_ids", "sources", "captions", "visits", "blank")


class RecipeError(ValueError):
    """A mistake in a recipe, a card, a task or a command; the message names the key and a way out."""


class VlpWarning(UserWarning, RuntimeWarning):
    """What a user should know of but need not mend; everything that this package warns of. An error in its tests."""


def send(values: Tensor, to: device) -> Tensor:
    """Copy from the CPU without waiting for the copy: through page-locked memory where the goal is CUDA."""
    return (values.pin_memory() if to.type == "cuda" else values).to(to, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """This process's share of one global batch.

    Args:
        images: Decoded and cropped pixels; nothing is normalised yet.
        tokens: Caption tokens, cut to the longest caption of the batch.
        lengths: Tokens of each caption including its end token; stays on the CPU, so that bucketing never waits.
        draws: Uniform numbers in [0, 1), a pure function of (seed, epoch, sample): the randomness of everything
            that augments on the device, whatever the layout of processes and workers.
        ids: Stable sample ids: equal for what is the same member of the same tar, however often an epoch holds it.
        caption_ids: Stable hash of what identifies the caption: pairs with equal hashes are no negatives of each other.
        sources: Label of the data source of each sample.
        num_negatives: Wrong captions of each sample: the last so many text views.
        captions: First text view of each sample as the tokenizer read it, for models with their own.
        visits: Epoch and number of each sample, from which views are drawn: repetitions count apart; on the CPU.
        blank: Which samples have no pixels, as their embedding is kept; images are empty where all have none.
        caption_keys: Stable hash of the tokens of each caption; on the CPU.
        cuts: What each image view of the data shows of its picture: left, top, right and bottom in pixels of the
            picture, and 1 where it is mirrored, else 0; stays on the CPU. Zeros where there are no pixels. Views that
            strategies add behind them show what the first one shows.
        interleaved: Of documents, which image each token looks at; image views are theirs, text views one. On the CPU.
        grids: Where images keep their aspect ratio and are packed (`PatchBudget.pack`), rows and columns of patches.
        regions: Where asked for, a part of the first view of each image, with a caption of its own; on the CPU.
    """

    images: UInt8[Tensor, "views n h w 3"]
    tokens: Int64[Tensor, "views n l"]
    lengths: Int64[Tensor, "views n"]
    draws: Float32[Tensor, "views n draws"]
    ids: Int64[Tensor, " n"]
    caption_ids: Int64[Tensor, " n"]
    sources: tuple[str, ...]
    num_negatives: int = 0
    captions: tuple[str, ...] = ()
    visits: Int64[Tensor, "n 2"] | None = None
    blank: Bool[Tensor, " n"] | None = None
    caption_keys: Int64[Tensor, "views n"] | None = None
    cuts: Float32[Tensor, "views n 5"] | None = None
    interleaved: Interleaved | None = None
    grids: Int64[Tensor, "views n 2"] | None = None
    regions: RegionRows | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: Any) -> Batch:
        """Return a whole copy on `device`; lengths stay where they are. `Stream.upload` does not wait for it."""
        return self.on_device(lambda values: values.to(device))

    def on_device(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the same with all changed that belongs on the device."""
        known = {name: value for name in (*ON_DEVICE, "grids") if (value := getattr(self, name)) is not None}
        changed: dict[str, Any] = {name: change(value) for name, value in known.items()}
        return replace(self, **changed)

    def chunk(self, num_chunks: int) -> list[Batch]:
        """Split into equal micro-batches along the samples."""
        size = len(self) // num_chunks
        return [self.narrow(k * size, size) for k in range(num_chunks)]

    def narrow(self, start: int, size: int) -> Batch:
        """Return the samples `start` to `start + size`."""
        rows, views = slice(start, start + size), (slice(None), slice(start, start + size))
        known = {name: value for name in (*BY_VIEW, *BY_SAMPLE) if (value := getattr(self, name)) is not None}
        cut = {name: value[views if name in BY_VIEW else rows] for name, value in known.items()}
        cut |= {name: part.narrow(start, size) for name in BY_NARROWING if (part := getattr(self, name)) is not None}
        return replace(self, **cut)

    def with_views(self, images: UInt8[Tensor, "w n h w 3"], draws: Float32[Tensor, "w n draws"]) -> Batch:
        """Return the same with further image views behind the others, each of the crop of the first."""
        return replace(self, images=cat([self.images, images]), draws=cat([self.draws, draws]))


@dataclass(frozen=True)
class Teacher:
    """What another model, or an average of this one, says about a batch; of unit norm and without gradient.

    Args:
        negatives: What it says of wrong captions, where it reads them.
    """

    image: Float32[Tensor, "n r"]
    text: Float32[Tensor, "n r"]
    negatives: Float32[Tensor, "n m r"] | None = None

    def numbers(self) -> Iterator[Tensor]:
        """Yield all that it says."""
        yield from (part for part in (self.image, self.text, self.negatives) if part is not None)

    def each(self, change: Callable[[Tensor], Tensor]) -> Teacher:
        """Return the same with all numbers changed."""
        negatives = None if self.negatives is None else change(self.negatives)
        return Teacher(change(self.image), change(self.text), negatives)


@dataclass(frozen=True)
class Embeddings:
    """What the towers say about a batch; float32 and of unit norm from here on.

    Args:
        image: One row per sample, first image view.
        text: One row per sample, first text view.
        scale: Inverse temperature that multiplies cosines (not its logarithm).
        bias: Added to every logit by sigmoid losses; zero where the model has none.
        image_views: Further image views, each shaped like `image`.
        text_views: Further text views, each shaped like `text`.
        reference: Features without gradient that weigh pairs (locked tower or EMA teacher).
        negatives: Wrong captions made for each image.
        teacher: Embeddings of a teacher.
        image_features: What the image tower knows of each view, in order, before its projection; empty where not asked.
        text_features: The same of the text tower, of the wrong captions too.
        image_maps: What it says of each place of these views, row by row from the top left; empty where not asked.
        taught_maps: The same of averaged weights, of the first views. `image_cuts`: what these show, as `Batch.cuts`.
        hidden_patches: What the image tower says of patches that it does not see, as many of each image.
            `taught_patches`: what averaged weights say of them, which see them; without gradient.
        pixel_changes: How far what stands in front of the image tower moves each clean image; mean square, in 255ths.
        replayed: Which samples come from data that were learned before.
        caption_losses: What a decoder says of each caption of the first text view given the first view of its image:
            -log of its probability. `caption_words`: over how many tokens that is a sum; on the CPU.
        region_losses: The same of a region's caption, the box behind it, a box and the caption behind that. Zeros where
            an image has no region. `region_words`: over how many tokens these are sums; on the CPU.
        tokens: Of first captions; `token_counts`: with end tokens, on the CPU. `negative_*`: those of wrong captions.
    """

    image: Float32[Tensor, "n d"]
    text: Float32[Tensor, "n d"]
    scale: Float32[Tensor, ""]
    bias: Float32[Tensor, ""]
    image_views: tuple[Float32[Tensor, "n d"], ...] = ()
    text_views: tuple[Float32[Tensor, "n d"], ...] = ()
    reference: Float32[Tensor, "n r"] | None = None
    negatives: Float32[Tensor, "n m d"] | None = None
    teacher: Teacher | None = None
    image_features: tuple[Float32[Tensor, "n w"], ...] = ()
    text_features: tuple[Float32[Tensor, "n v"], ...] = ()
    image_maps: tuple[Float32[Tensor, "n h w c"], ...] = ()
    taught_maps: tuple[Float32[Tensor, "n h w c"], ...] = ()
    image_cuts: tuple[Float32[Tensor, "n 5"], ...] = ()
    hidden_patches: Float32[Tensor, "n p c"] | None = None
    taught_patches: Float32[Tensor, "n p c"] | None = None
    pixel_changes: Float32[Tensor, " n"] | None = None
    replayed: Bool[Tensor, " n"] | None = None
    caption_losses: Float32[Tensor, " n"] | None = None
    caption_words: Int64[Tensor, " n"] | None = None
    region_losses: Float32[Tensor, "n 4"] | None = None
    region_words: Int64[Tensor, "n 4"] | None = None
    tokens: Int64[Tensor, "n l"] | None = None
    token_counts: Int64[Tensor, " n"] | None = None
    negative_tokens: Int64[Tensor, "n m l"] | None = None
    negative_token_counts: Int64[Tensor, "n m"] | None = None

    def numbers(self) -> Iterator[Tensor]:
        """Yield all that holds real numbers."""
        yield from (self.image, self.text, self.scale, self.bias, *self.image_views, *self.text_views)
        yield from (*self.image_features, *self.text_features, *self.image_maps, *self.taught_maps)
        yield from (part for name in OPTIONAL_NUMBERS if (part := getattr(self, name)) is not None)
        if self.teacher is not None:
            yield from self.teacher.numbers()

    def each(self, change: Callable[[Tensor], Tensor]) -> Embeddings:
        """Return the same with all real numbers changed."""
        names = ("image", "text", "scale", "bias", *OPTIONAL_NUMBERS)
        changed: dict[str, Any] = {n: change(part) for n in names if (part := getattr(self, n)) is not None}
        return replace(
            self,
            **changed,
            image_views=tuple(map(change, self.image_views)),
            text_views=tuple(map(change, self.text_views)),
            image_features=tuple(map(change, self.image_features)),
            text_features=tuple(map(change, self.text_features)),
            image_maps=tuple(map(change, self.image_maps)),
            taught_maps=tuple(map(change, self.taught_maps)),
            teacher=None if self.teacher is None else self.teacher.each(change),
        )

    def with_images(self, order: Sequence[int]) -> Embeddings:
        """Return the same with its image views in another order, and all of them; 0 is `image`, the first leads.

        Args:
            order: Numbers of views; those that are not named are left out.
        """
        views = (self.image, *self.image_views)
        image, *further = (views[place] for place in order)
        features = tuple(self.image_features[place] for place in order) if self.image_features else ()
        maps = tuple(self.image_maps[place] for place in order) if self.image_maps else ()
        return replace(self, image=image, image_views=tuple(further), image_features=features, image_maps=maps)

    def with_texts(self, order: Sequence[int]) -> Embeddings:
        """Return the same with its text views in another order; features of wrong captions stay behind them."""
        views = (self.text, *self.text_views)
        text, *further = (views[place] for place in order)
        known = self.text_features
        features = (*(known[place] for place in order), *known[len(views) :]) if known else ()
        return replace(self, text=text, text_views=tuple(further), text_features=features)

    def with_negatives(self, batch: Batch) -> Embeddings:
        """Return the same with the last text views as wrong captions, which are those of the batch."""
        count, kept = batch.num_negatives, len(self.text_views) - batch.num_negatives
        tokens, counts = batch.tokens[-count:].transpose(0, 1), batch.lengths[-count:].T
        wrong: dict[str, Any] = {"negatives": stack(self.text_views[kept:], dim=1), "negative_tokens": tokens}
        return replace(self, text_views=self.text_views[:kept], negative_token_counts=counts, **wrong)


@dataclass(frozen=True)
class Reading:
    """Embeddings that the objective is evaluated on, and the weight of what it finds."""

    embeddings: Embeddings
    weight: float = 1.0


@dataclass(frozen=True)
class Metric:
    """One number of an evaluator, with a 95 % interval where one is defined."""

    name: str
    value: float
    count: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PerSample:
    """What each sample adds to a metric, so that two models can be compared sample by sample later.

    Args:
        values: A number per sample; the metric is their mean.
        groups: Where given, the metric is the mean over groups of the means within them; a number per sample.
    """

    values: Sequence[float]
    groups: Sequence[int] | None = None


@dataclass(frozen=True)
class Evaluation:
    """All that one task found out: its metrics, and curves or lists that a report may draw.

    Args:
        samples: For metrics that are means over samples, what each sample adds.
    """

    metrics: tuple[Metric, ...]
    details: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, PerSample] = field(default_factory=dict)


class Encoder(Protocol):
    """What an evaluator needs of a model: unit-norm float32 embeddings on the CPU, and its logit scale."""

    @property
    def scale(self) -> float: ...

    def embed_images(self, images: Iterable[Image]) -> Float32[Tensor, "n d"]: ...

    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]: ...


class FeatureEncoder(Protocol):
    """A model that also says what its image tower knows before the projection into the shared space, in float32."""

    def image_features(self, images: Iterable[Image]) -> Float32[Tensor, "n w"]: ...


class PixelEncoder(Encoder, Protocol):
    """A model that can be shown changed pixels, as an attack does.

    Args:
        has_gradients: Whether gradients of embeddings reach the pixels.
        plain_pixels: An image of any size and mode to the pixels in [0, 1] that the image tower sees of it.
        embed_pixels: Such pixels to embeddings, in float32, exactly as `embed_images` embeds the image.
    """

    has_gradients: bool

    def plain_pixels(self, image: Image) -> Float32[Tensor, "3 h w"]: ...

    def embed_pixels(self, pixels: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]: ...


class LayerEncoder(Protocol):
    """A model that says what each block of its image tower makes of plain pixels, averaged over places."""

    def layers(self, pixels: Float32[Tensor, "n 3 h w"]) -> list[Float32[Tensor, "n w"]]: ...


class WordEncoder(Protocol):
    """A model whose word embeddings can be moved, as attacks on texts do.

    Args:
        words: Embeddings of all tokens.
        read_texts: Texts to rows of tokens, and which of these are words.
        embed_shifted: Both, and a vector per token that is added to the embeddings of words, to those of the texts.
    """

    @property
    def words(self) -> Float32[Tensor, "v w"]: ...

    def read_texts(self, texts: Sequence[str]) -> tuple[Int64[Tensor, "n l"], Bool[Tensor, "n l"]]: ...

    def embed_shifted(
        self, tokens: Int64[Tensor, "n l"], is_word: Bool[Tensor, "n l"], shift: Float32[Tensor, "n l w"]
    ) -> Float32[Tensor, "n d"]: ...


class Captioner(Protocol):
    """A model that also writes a caption for each image."""

    def caption_images(self, images: Iterable[Image], writing: Any) -> list[str]: ...
