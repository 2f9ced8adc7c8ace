"""Two towers that embed: views of a batch to unit-norm float32 embeddings, and what else the towers say on the way."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from vlp.ground.interleaved import Interleaved
from vlp.ground.patch_budget import PatchBudget
from vlp.ground.region_rows import RegionRows
from vlp.ground.types import Embeddings, RecipeError
from vlp.towers.before_projection import image_and_features, text_and_features
from vlp.towers.caption_decoder import CaptionDecoder, decoder_of
from vlp.towers.document_images import by_document, views_that_are_there
from vlp.towers.freeze import is_locked
from vlp.towers.gated_decoder import GatedDecoder
from vlp.towers.image_tokens import hand_out_tokens, map_shape, maps_of
from vlp.towers.learned_tokens import add_prompts, count_prompts
from vlp.towers.locating_decoder import LocatingDecoder, Told
from vlp.towers.native_aspect import budget_of
from vlp.towers.pixel_autoencoder import squared_change
from vlp.towers.text import can_cut, embed_cut, embed_full
from vlp.towers.tokenizers import PaddingTokenizer, frame
from vlp.towers.view_dropout import ViewDropout


class TwoTowers(nn.Module):
    """The passes of a dual encoder; `DualEncoder` builds it.

    Attributes:
        core: open_clip's model, with both towers, scale and bias.
        model_cfg: open_clip's configuration of both towers.
        preprocess_cfg: open_clip's description of how evaluation prepares an image.
        context_length: Tokens that the text tower has positions for.
        text_buckets: Groups of similar length that captions are split into, or `auto`.
        hands_out_features: Whether `forward` returns what the towers know before their projections, too.
        hands_out_maps: Whether it returns what the image tower says of each place, too.
        hands_out_changes: Whether it returns how far what stands in front of the image tower moves clean images, too.
    """

    core: Any
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    context_length: int
    text_buckets: int | Literal["auto"]
    hands_out_features = False
    hands_out_maps = False
    hands_out_changes = False
    _view_dropout: ViewDropout | None = None

    @property
    def tokenizer(self) -> PaddingTokenizer:
        """The tokenizer of the text tower."""
        raise NotImplementedError

    def forward(
        self,
        images: Float[Tensor, "v n 3 h w"],
        tokens: Int64[Tensor, "w n l"],
        lengths: Int64[NDArray[np.int64], "w n"],
        known: Float32[Tensor, "v n d"] | None = None,
        known_texts: Float32[Tensor, "w n d"] | None = None,
        interleaved: Interleaved | None = None,
        grids: Int64[Tensor, "v n 2"] | None = None,
        regions: RegionRows | None = None,
        draws: Float32[Tensor, "n d"] | None = None,
        clean: Float32[Tensor, "u n 3 h w"] | None = None,
    ) -> Embeddings:
        """Embed every view; the first of each modality leads.

        Args:
            images: Normalised pixels.
            lengths: On the CPU, so that cutting captions does not wait for the device, and no tensor: DDP and FSDP2
                move every tensor to the device.
            known: Embeddings of the images, which nobody looks at then.
            known_texts: The same of the captions.
            interleaved: Where samples are documents, whose images the views are.
            grids: Where images are packed, each at its own aspect ratio, their rows and columns of patches.
            regions: A part of the first view of each image, for a decoder that reads them.
            draws: Uniform numbers in [0, 1) of each sample, for what a decoder does by chance.
            clean: Images before any adversary, for `hands_out_changes`.
        """
        if interleaved is not None:
            return self._embed_documents(images, tokens[0], lengths[0], interleaved)
        image, seen, image_tokens = (known, (), None) if known is not None else self._image_views(images, grids)
        read_texts = (known_texts, (), None) if known_texts is not None else self._text_views(tokens, lengths)
        text, read, text_tokens = read_texts
        told = None
        if self.decoder is not None and image_tokens is not None:
            told = self._tell(image_tokens, text_tokens, tokens[0], lengths[0], regions, draws)
        return Embeddings(
            image=image[0],
            text=text[0],
            scale=self.scale,
            bias=self.bias,
            image_views=tuple(image[1:]),
            text_views=tuple(text[1:]),
            reference=image[0].detach() if self.locked_image else None,
            image_features=tuple(seen),
            text_features=tuple(read),
            image_maps=() if image_tokens is None or not self.hands_out_maps else maps_of(image_tokens, images),
            pixel_changes=self.pixel_changes(clean[0]) if self.hands_out_changes and clean is not None else None,
            tokens=tokens[0],
            token_counts=torch.as_tensor(lengths[0]),
            **({} if told is None else told._asdict()),
        )

    def _tell(
        self,
        image_tokens: Float[Tensor, "m k v"],
        text_tokens: Float[Tensor, "m l w"] | None,
        tokens: Int64[Tensor, "n l"],
        lengths: Int64[NDArray[np.int64], " n"],
        regions: RegionRows | None,
        draws: Float32[Tensor, "n d"] | None,
    ) -> Told | None:
        """Return what the decoder says of the captions of the first views; nothing where it lacks their states."""
        decoder, shown = self.decoder, image_tokens[: len(tokens)]
        if isinstance(decoder, LocatingDecoder):
            return decoder.tell(shown, tokens, lengths, self._num_start, regions, draws)
        if decoder is None or text_tokens is None:
            return None
        losses = decoder.losses(shown, text_tokens[: len(tokens)], tokens, lengths)
        return Told(losses, torch.as_tensor(lengths - 1))

    def _embed_documents(
        self,
        images: Float[Tensor, "v n 3 h w"],
        tokens: Int64[Tensor, "n l"],
        lengths: Int64[NDArray[np.int64], " n"],
        interleaved: Interleaved,
    ) -> Embeddings:
        """Embed each document: the mean of its images, and its whole text, as COSMO does (arXiv:2401.00849)."""
        assert isinstance(self.decoder, GatedDecoder), "documents are for such a decoder, as `run` checks"
        places = views_that_are_there(interleaved, images.device)
        rows, states = self._image_rows(images.flatten(0, 1).index_select(0, places))
        text, text_tokens = self._token_rows(tokens, lengths)
        assert states is not None and text_tokens is not None, "towers beside a decoder hand out tokens"
        image, image_tokens = by_document(rows, states, places, interleaved)
        image = _unit(image)
        return Embeddings(
            image=image,
            text=_unit(text),
            scale=self.scale,
            bias=self.bias,
            reference=image.detach() if self.locked_image else None,
            caption_losses=self.decoder.document_losses(image_tokens, text_tokens, tokens, interleaved),
            caption_words=torch.from_numpy(interleaved.is_word.sum(axis=1)),
        )

    def see(self, images: Float32[Tensor, "n 3 h w"]) -> Any:
        """Return what the image tower itself says of normalised pixels: features, or features and tokens."""
        return self.core.visual(images)

    def pixel_changes(self, images: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, " n"]:
        """Return how far what stands in front of the image tower moves each image, as `squared_change` does."""
        return squared_change(self.core.visual, images, self.preprocess_cfg["std"])

    def embed_images(
        self, images: Float[Tensor, "n 3 h w"], grids: Int64[Tensor, "n 2"] | None = None
    ) -> Float32[Tensor, "n d"]:
        """Embed normalised pixels; `grids` are those of packed images."""
        return _unit(self._image_rows(images, grids)[0])

    def embed_tokens(
        self, tokens: Int64[Tensor, "n l"], lengths: Int64[NDArray[np.int64], " n"]
    ) -> Float32[Tensor, "n d"]:
        """Embed captions; `lengths` stay on the CPU."""
        return _unit(self._token_rows(tokens, lengths)[0])

    def image_features(
        self, images: Float[Tensor, "n 3 h w"], grids: Int64[Tensor, "n 2"] | None = None
    ) -> Float32[Tensor, "n w"]:
        """Return what the image tower knows of normalised pixels before its projection."""
        return self._image_rows(images, grids, features=True)[0][:, self.embed_dim :].float()

    def token_features(
        self, tokens: Int64[Tensor, "n l"], lengths: Int64[NDArray[np.int64], " n"]
    ) -> Float32[Tensor, "n v"]:
        """Return what the text tower knows of captions before its projection."""
        return self._token_rows(tokens, lengths, features=True)[0][:, self.embed_dim :].float()

    def _image_views(
        self, images: Float[Tensor, "v n 3 h w"], grids: Int64[Tensor, "v n 2"] | None
    ) -> tuple[Tensor, Tensor | tuple[()], Tensor | None]:
        """Return embeddings, [v, n, d], features, [v, n, w], or none where nobody asks for them, and what a decoder
        reads, [v * n, k, w], where there is one."""
        flat = None if grids is None else grids.flatten(0, 1)
        rows, states = self._image_rows(images.flatten(0, 1), flat, features=self.hands_out_features)
        return (*self._parted(rows.unflatten(0, images.shape[:2])), states)

    def _text_views(
        self, tokens: Int64[Tensor, "w n l"], lengths: Int64[NDArray[np.int64], "w n"]
    ) -> tuple[Tensor, Tensor | tuple[()], Tensor | None]:
        """Return the same of captions; where there is dropout, the first view is read without it."""
        features = self.hands_out_features
        if self._view_dropout is None or len(tokens) == 1:
            rows, states = self._token_rows(tokens.flatten(0, 1), lengths.flatten(), features=features)
        else:
            first, states = self._token_rows(tokens[0], lengths[0], features=features)
            with self._view_dropout.asked_for():
                others, _ = self._token_rows(tokens[1:].flatten(0, 1), lengths[1:].flatten(), features=features)
            rows = torch.cat([first, others])
        return (*self._parted(rows.unflatten(0, tokens.shape[:2])), states)

    def locate(
        self, images: Float[Tensor, "n 3 h w"], tokens: Int64[Tensor, "n l"], lengths: Int64[Tensor, " n"]
    ) -> Float32[Tensor, "n 4"]:
        """Return the likeliest box of each caption in its image, as `LocatingDecoder.boxes` does.

        Args:
            images: Normalised pixels.
            lengths: On the CPU.
        """
        assert isinstance(self.decoder, LocatingDecoder), "who asks has looked"
        _, states = self._image_rows(images)
        assert states is not None, "towers beside a decoder hand out tokens"
        return self.decoder.boxes(states, tokens.to(images.device), lengths.numpy(), self._num_start)

    def hand_out_maps(self) -> int:
        """Let `forward` return what the image tower says of each place; return how many channels that has."""
        channels = self.hand_out_places()
        self.hands_out_maps = True
        return channels

    def hand_out_places(self) -> int:
        """Let the image tower return a token for each place beside its embeddings; return how many channels that has.

        Raises:
            RecipeError: It has no places, or only some of them, or none of it trains.
        """
        if self.locked_image:
            raise RecipeError(
                "model.freeze: a term compares places of images, which trains the image tower, and it is locked: train "
                "some of it, or leave the term out"
            )
        hand_out_tokens(self.core.visual)
        *_, channels = map_shape(self.core.visual)
        return channels

    def _parted(self, rows: Float[Tensor, "v n e"]) -> tuple[Tensor, Tensor | tuple[()]]:
        if not self.hands_out_features:
            return _unit(rows), ()
        return _unit(rows[..., : self.embed_dim]), rows[..., self.embed_dim :].float()

    def _image_rows(
        self, images: Float[Tensor, "n 3 h w"], grids: Int64[Tensor, "n 2"] | None = None, *, features: bool = False
    ) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n k w"] | None]:
        """Return what the tower says of images, features behind it, and the tokens that a decoder reads."""
        tower, seen = self.core.visual, (images,) if grids is None else (images, grids)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked_image):
            found: Any = image_and_features(tower, *seen) if features else tower(*seen)
            rows, states = found if isinstance(found, tuple) else (found, None)
            return rows, states

    def _token_rows(
        self, tokens: Int64[Tensor, "n l"], lengths: Int64[NDArray[np.int64], " n"], *, features: bool = False
    ) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n l w"] | None]:
        """Return the same of captions, and the states of their tokens."""
        tower = self.core.text
        run = partial(text_and_features, tower) if features else tower
        if count := count_prompts(tower):
            tokens, lengths = add_prompts(tokens, lengths, count, self._num_start)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked_text):
            if self.decoder is not None and self.decoder.reads_states:
                pooled, states = tower(tokens)
                return pooled, states
            if can_cut(tower):
                num_groups = None if self.text_buckets == "auto" else self.text_buckets
                return embed_cut(tower, tokens, lengths, num_groups, run), None
            return embed_full(run, tokens, self.context_length, self.tokenizer.pad_id), None

    @property
    def decoder(self) -> CaptionDecoder | None:
        """The decoder of captions, where the model has one."""
        return decoder_of(self.core)

    @property
    def budget(self) -> PatchBudget | None:
        """How large images may be, where each is read at its own aspect ratio."""
        return budget_of(self.core.visual)

    @property
    def embed_dim(self) -> int:
        """Width of the embeddings."""
        width: int = self.model_cfg["embed_dim"]
        return width

    @property
    def scale(self) -> Float32[Tensor, ""]:
        """Inverse temperature."""
        with torch.autocast(self.core.logit_scale.device.type, enabled=False):
            return self.core.logit_scale.float().exp().squeeze()

    @property
    def bias(self) -> Float32[Tensor, ""]:
        """Bias of the logits; a constant zero where the model has none."""
        if self.core.logit_bias is None:
            return torch.zeros((), device=self.core.logit_scale.device)
        return self.core.logit_bias.float().squeeze().clone()  # of now: the parameter moves, and is split again

    @property
    def locked_image(self) -> bool:
        """Whether no parameter of the image tower trains."""
        return is_locked(self.core.visual)

    @property
    def locked_text(self) -> bool:
        """Whether no parameter of the text tower trains."""
        return is_locked(self.core.text)

    @property
    def caption_length(self) -> int:
        """Tokens that a caption may have: those of the context but for learned ones."""
        return self.context_length - count_prompts(self.core.text)

    @cached_property
    def _num_start(self) -> int:
        return min(1, len(frame(self.tokenizer)[0]))


def _unit(features: Float[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
    with torch.autocast(features.device.type, enabled=False):
        return F.normalize(features.float(), dim=-1)
