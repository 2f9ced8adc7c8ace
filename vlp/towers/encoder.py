"""A trained model as evaluators see it: PIL images and strings to embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Bool, Float32, Int64
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional

from vlp.ground.types import RecipeError
from vlp.towers.block_outputs import listening, style_over_places
from vlp.towers.dual import DualEncoder
from vlp.towers.image_tokens import only_rows
from vlp.towers.locating_decoder import LocatingDecoder
from vlp.towers.moved_tokens import moved_tokens, named
from vlp.towers.native_pixels import Packed, native_preparation
from vlp.towers.plain_pixels import PLAIN, normalised, part_shown, preparation
from vlp.towers.text import can_cut
from vlp.towers.token_table import token_table
from vlp.towers.writing import Writing

Prepared = Tensor | Packed


class TowerEncoder:
    """Embed images and texts with a dual encoder, exactly as open_clip would evaluate it.

    Args:
        device: Where the towers run; they must be there already.
        batch_size: Images or texts per forward.
        autocast: Run the towers under autocast to this type; their output is float32 in any case.
    """

    has_gradients = True

    def __init__(
        self,
        model: DualEncoder,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 256,
        autocast: torch.dtype | None = None,
    ):
        self.model = model
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.autocast = autocast
        self.transform: Callable[[Image], Prepared] = preparation(model.preprocess_cfg)
        if model.budget is not None:
            self.transform = native_preparation(model.preprocess_cfg, model.budget)
        self._plain = preparation(model.preprocess_cfg | PLAIN)

    @property
    def scale(self) -> float:
        """Inverse temperature."""
        return self.model.scale.item()

    def embed_images(self, images: Iterable[Image]) -> Float32[Tensor, "n d"]:
        """Embed images of any size and mode."""
        pixels = (self.transform(image) for image in images)
        with self._evaluating():
            return self._collect(self.model.embed_images(*self._move(batch)) for batch in self._batches(pixels))

    def embed_prepared(self, prepared: Sequence[Prepared]) -> Float32[Tensor, "n d"]:
        """Embed one batch of what `transform` makes of images."""
        with self._evaluating():
            return self.model.embed_images(*self._move(prepared)).cpu()

    def plain_pixels(self, image: Image) -> Float32[Tensor, "3 h w"]:
        """Return the pixels in [0, 1] that the image tower sees of an image of any size and mode.

        Raises:
            RecipeError: It sees each image at its own aspect ratio, and pixels of several have no common shape.
        """
        if self.model.budget is not None:
            raise RecipeError(
                "model.image.max_patches: images of several aspect ratios have no pixels that an attack or a policy "
                "could change: evaluate the model as a run without it, whose weights are the same"
            )
        return self._plain(image)

    def image_features(self, images: Iterable[Image]) -> Float32[Tensor, "n w"]:
        """Return what the image tower knows before its projection, for images of any size and mode.

        Raises:
            RecipeError: The tower has no projection to look behind.
        """
        pixels = (self.transform(image) for image in images)
        with self._evaluating():
            return self._collect(self.model.image_features(*self._move(batch)) for batch in self._batches(pixels))

    def embed_texts(self, texts: Sequence[str]) -> Float32[Tensor, "n d"]:
        """Embed texts; long ones are cut to the context."""
        with self._evaluating():
            parts = (self.model.tokenizer(batch) for batch in self._batches(iter(texts)))
            return self._collect(
                self.model.embed_tokens(tokens.to(self.device), sizes.numpy()) for tokens, sizes in parts
            )

    def text_features(self, texts: Sequence[str]) -> Float32[Tensor, "n v"]:
        """Return what the text tower knows before its projection."""
        with self._evaluating():
            parts = (self.model.tokenizer(batch) for batch in self._batches(iter(texts)))
            return self._collect(
                self.model.token_features(tokens.to(self.device), sizes.numpy()) for tokens, sizes in parts
            )

    def embed_pixels(self, pixels: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n d"]:
        """Embed what `plain_pixels` makes of images, in float32; gradients reach the pixels that ask for them."""
        with self.model.at_rest():
            found = self.model.core.visual(normalised(pixels, self.model.preprocess_cfg))
            return functional.normalize(only_rows(found), dim=-1)

    @torch.no_grad()
    def layers(self, pixels: Float32[Tensor, "n 3 h w"]) -> list[Float32[Tensor, "n w"]]:
        """Return what each block of the image tower says of what `plain_pixels` makes of images."""
        with listening(self.model.core.visual) as found:
            self.embed_pixels(pixels)
        return found

    @torch.no_grad()
    def styled_pixels(
        self, pixels: Float32[Tensor, "n 3 h w"]
    ) -> tuple[Float32[Tensor, "n d"], list[Float32[Tensor, "n 2 w"]]]:
        """Embed plain pixels, and return mean and deviation of each channel over places after each block."""
        with listening(self.model.core.visual, style_over_places) as found:
            return self.embed_pixels(pixels), found

    def read_texts(self, texts: Sequence[str]) -> tuple[Int64[Tensor, "n l"], Bool[Tensor, "n l"]]:
        """Return tokens of texts as `embed_shifted` takes them, and which are words: no padding, no mark of an end."""
        tokenizer = self.model.tokenizer
        tokens, lengths = tokenizer(texts)
        marks = tokenizer([""])[0].unique()
        if not can_cut(self.model.core.text):
            tokens = functional.pad(tokens, (0, self.model.context_length - tokens.shape[1]), value=tokenizer.pad_id)
        is_word = ~torch.isin(tokens, marks) & (torch.arange(tokens.shape[1]) < lengths[:, None])
        return tokens.to(self.device), is_word.to(self.device)

    def embed_shifted(
        self, tokens: Int64[Tensor, "n l"], is_word: Bool[Tensor, "n l"], shift: Float32[Tensor, "n l w"]
    ) -> Float32[Tensor, "n d"]:
        """Embed texts after the embeddings of their words are moved, in float32; gradients reach the shift."""
        text = self.model.core.text
        with self.model.at_rest(), moved_tokens(text, tokens, shift):
            return functional.normalize(text(named(tokens, is_word)), dim=-1)

    @property
    def words(self) -> Float32[Tensor, "v w"]:
        """Embeddings of all tokens."""
        return token_table(self.model.core.text).weight.detach()

    def caption_images(self, images: Iterable[Image], writing: Writing) -> list[str]:
        """Write a caption for each image, of any size and mode.

        Raises:
            RecipeError: The model has no decoder of captions, or its tokenizer no first token to start from.
        """
        from vlp.towers.generation.caption_writer import CaptionWriter  # half a second, which few runs need

        writer = CaptionWriter(self.model, writing)
        pixels = (self.transform(image) for image in images)
        with self._evaluating():
            return [caption for batch in self._batches(pixels) for caption in writer(*self._move(batch))]

    def locate_captions(self, images: Iterable[Image], captions: Sequence[str]) -> Float32[Tensor, "n 4"]:
        """Return where in each image the decoder finds what its caption says, the likeliest side each time.

        Args:
            captions: One for each image.

        Returns:
            Left, top, right and bottom in shares of the image's width and height.

        Raises:
            RecipeError: The model has no decoder that knows boxes.
        """
        model = self.model
        if not isinstance(model.decoder, LocatingDecoder):
            raise RecipeError("the model has no decoder that knows boxes (model.decoder={type: locating})")
        asked = zip(((self.transform(image), self._shown(image)) for image in images), captions, strict=True)
        found = [torch.empty(0, 4)]
        with self._evaluating():
            for batch in self._batches(((*seen, caption) for seen, caption in asked)):
                pixels, shown, texts = map(list, zip(*batch, strict=True))
                boxes = model.locate(self._move(pixels)[0], *model.tokenizer(texts)).cpu()
                first, last = (corner.repeat(1, 2) for corner in torch.tensor(shown).split(2, dim=1))
                found.append(first + boxes * (last - first))
        return torch.cat(found)

    def _shown(self, image: Image) -> tuple[float, float, float, float]:
        """Return which part of an image the model sees, in shares of it."""
        if self.model.budget is not None:
            return 0.0, 0.0, 1.0, 1.0
        return part_shown(self.model.preprocess_cfg, *image.size)

    def _batches(self, things: Iterator) -> Iterator[list]:
        while batch := list(islice(things, self.batch_size)):
            yield batch

    def _move(self, prepared: Sequence[Prepared]) -> tuple[Tensor, ...]:
        """Return pixels, and grids of patches behind them where images are packed."""
        parts = zip(*prepared, strict=True) if self.model.budget is not None else (prepared,)
        return tuple(torch.stack([*part]).to(self.device) for part in parts)

    def _collect(self, parts: Iterator[Tensor]) -> Float32[Tensor, "n d"]:
        found = [part.cpu() for part in parts]
        return torch.cat(found) if found else torch.empty(0, self.model.model_cfg["embed_dim"])

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        with (
            self.model.at_rest(),
            torch.inference_mode(),
            torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None),
        ):
            yield
