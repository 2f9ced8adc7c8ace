"""The multimodal half of a CoCa: a decoder that reads a caption's tokens and looks at those of its image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from numpy.typing import NDArray
from open_clip.transformer import LayerNorm, MultimodalTransformer, QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.ground.types import RecipeError, send
from vlp.towers.class_token import ClassTokenText
from vlp.towers.image_tokens import hand_out_tokens, token_shape
from vlp.towers.linear_cross_entropy import linear_cross_entropy, number_format

Decoder = TypeVar("Decoder", bound="CaptionDecoder")


class CaptionDecoder(MultimodalTransformer):
    """open_clip's decoder, which also says how well it predicts captions without a logit for every word of each.

    Yu et al. 2022, section 3.2 (arXiv:2205.01917): blocks that attend to earlier tokens, each followed by one that
    attends to the tokens of the image.

    Attributes:
        image_map: From the width of the image's tokens to the decoder's; None where they have it.
        reads_states: Whether it reads the states of the text tower, which is its unimodal half then.
    """

    image_map: nn.Linear | None
    reads_states = True

    def in_order(self) -> Iterator[tuple[nn.Module, bool]]:
        """Yield the blocks as they follow each other, and whether each looks at the image."""
        for block, looking in zip(self.resblocks, self.cross_attn, strict=True):
            yield block, False
            yield looking, True

    def seen(self, image_tokens: Float[Tensor, "n k v"]) -> Float[Tensor, "n k w"]:
        """Return tokens of images as the blocks look at them."""
        return image_tokens if self.image_map is None else self.image_map(image_tokens)

    def states(
        self,
        image_tokens: Float[Tensor, "n k v"],
        text_tokens: Float[Tensor, "n l w"],
        look_mask: Bool[Tensor, "n 1 l k"] | None = None,
        mask: Float[Tensor, "l l"] | None = None,
    ) -> Float[Tensor, "n l w"]:
        """Return the state of each token, which depends on the image and on the caption up to that token.

        Args:
            look_mask: Which tokens of images each token looks at; None is all.
            mask: Added to the logits of attention among tokens; None is that of the decoder, which hides later ones.
        """
        length = text_tokens.shape[1]
        image_tokens = self.seen(image_tokens)
        hidden = text_tokens
        mask = self.attn_mask[:length, :length] if mask is None else mask
        for block, looks in self.in_order():
            if looks:
                hidden = self._run(block, hidden, image_tokens, image_tokens, look_mask)
            else:
                hidden = self._run(block, hidden, None, None, mask)
        found: Tensor = self.ln_final(hidden)
        return found

    def losses(
        self,
        image_tokens: Float[Tensor, "n k v"],
        text_tokens: Float[Tensor, "n l w"],
        tokens: Int64[Tensor, "n l"],
        lengths: Int64[NDArray[np.int64], " n"],
    ) -> Float32[Tensor, " n"]:
        """Return -log of the probability of each caption behind its first token, given its image.

        Args:
            text_tokens: States of the caption's tokens in the unimodal half.
            lengths: Of captions, start and end included; on the CPU, so that nothing waits for the device.
        """
        return self.losses_of(words_of(lengths, tokens.shape[1]), image_tokens, text_tokens, tokens)

    def losses_of(
        self,
        is_word: Bool[NDArray[np.bool_], "n m"],
        image_tokens: Float[Tensor, "n k v"],
        text_tokens: Float[Tensor, "n l w"],
        tokens: Int64[Tensor, "n l"],
        look_mask: Bool[Tensor, "n 1 l k"] | None = None,
    ) -> Float32[Tensor, " n"]:
        """Return the same of some of the tokens.

        Args:
            is_word: Which tokens, but the first, are predicted.
            look_mask: As in `states`.
        """
        size, length = tokens.shape
        at, after = _predicted(is_word, tokens.device)
        hidden = self.states(image_tokens, text_tokens[:, :-1], look_mask).flatten(0, 1).index_select(0, at)
        labels = tokens.flatten().index_select(0, after)
        losses = linear_cross_entropy(hidden, self.text_projection, labels, number_format(hidden.device.type))
        return losses.new_zeros(size * (length - 1)).index_copy(0, at, losses).view(size, length - 1).sum(dim=1)

    def forward(self, image_embs: Float[Tensor, "n k v"], text_embs: Float[Tensor, "n l w"]) -> Float[Tensor, "n l m"]:
        """Return the logits of the word behind each token."""
        return self.states(image_embs, text_embs) @ self.text_projection

    def _run(self, block: nn.Module, *arguments: Tensor | None) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            found: Tensor = checkpoint(block, *arguments, use_reentrant=False)
            return found
        whole: Tensor = block(*arguments)
        return whole


def decoder_of(core: nn.Module) -> CaptionDecoder | None:
    """Return the decoder of a model, where it has one."""
    found = getattr(core, "text_decoder", None)
    return found if isinstance(found, CaptionDecoder) else None


def build_decoder(config: Mapping[str, Any], model_cfg: Mapping[str, Any]) -> CaptionDecoder:
    """Build the decoder of open_clip's `multimodal_cfg`, with random weights."""
    decoder = bare_decoder(CaptionDecoder, config, model_cfg)
    begin(decoder)
    return decoder


def bare_decoder(kind: type[Decoder], config: Mapping[str, Any], model_cfg: Mapping[str, Any]) -> Decoder:
    """Build a decoder whose weights are what lies in memory."""
    decoder = kind(
        width=config["width"],
        layers=config["layers"],
        heads=config["heads"],
        context_length=config["context_length"],
        ls_init_value=config.get("ls_init_value"),
        act_layer=activation(model_cfg),
        norm_layer=LayerNorm,
        output_dim=config["vocab_size"],
    )
    decoder.image_map = None
    return decoder


def activation(model_cfg: Mapping[str, Any]) -> type[nn.Module]:
    """Return what the blocks of a model compute with."""
    return QuickGELU if model_cfg["quick_gelu"] else nn.GELU


def begin(decoder: CaptionDecoder) -> None:
    """Give a decoder its first weights.

    open_clip leaves those of the vocabulary as they come out of memory, and the blocks as torch has them; here they
    start like those of its text transformer.
    """
    width, layers = decoder.ln_final.normalized_shape[0], len(decoder.resblocks)
    nn.init.normal_(decoder.text_projection, std=width**-0.5)
    for block in (*decoder.resblocks, *decoder.cross_attn):
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=(2 * width * layers) ** -0.5)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=(2 * width * layers) ** -0.5)


def join_decoder(decoder: CaptionDecoder, visual: nn.Module, text: nn.Module) -> None:
    """Let the image tower hand out tokens, and the decoder read them; refuse towers that cannot.

    Tokens of the image that have another width pass a linear map, which is the decoder's. Those of open_clip's vision
    transformers have to have the width where it reads the text tower: open_clip's CoCa has no place for a map.

    Raises:
        RecipeError: Names the key and a way out.
    """
    width = decoder.ln_final.normalized_shape[0]
    if decoder.reads_states:
        _check_text(width, text)
    hand_out_tokens(visual)
    if decoder.reads_states and isinstance(visual, VisionTransformer):
        _check_width(visual, width)
    elif (of_image := token_shape(visual)[1]) != width:
        decoder.image_map = nn.Linear(of_image, width)


def _check_text(width: int, text: nn.Module) -> None:
    if not isinstance(text, ClassTokenText):
        raise RecipeError(
            "model.decoder: the text tower sees whole captions, and would tell the decoder what it should predict: use "
            "a causal transformer with a class token (model.text={type: transformer, pool: cls})"
        )
    if text.width != width:
        raise RecipeError(f"model.decoder: is {width} wide, and reads the text tower, which is {text.width} wide")


def _check_width(visual: VisionTransformer, width: int) -> None:
    of_image = visual.ln_post.normalized_shape[0]
    if of_image != width:
        pooled = visual.attn_pool is not None
        raise RecipeError(
            f"model.decoder: is {width} wide, and the tokens of the image are {of_image} wide: "
            + (f"set model.embed_dim={width}" if pooled else f"set model.image.pooler_queries and embed_dim={width}")
        )


def words_of(lengths: Int64[NDArray[np.int64], " n"], width: int) -> Bool[NDArray[np.bool_], "n l"]:
    """Return which tokens of captions of a width, but the first, stand for a word or the end."""
    found: NDArray[np.bool_] = np.arange(1, width) < lengths[:, None]
    return found


def _predicted(is_word: Bool[NDArray[np.bool_], "n l"], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the places of the states that predict a word, among those of all tokens but the last, and of the words."""
    rows, columns = np.nonzero(is_word)
    width = is_word.shape[1]
    both = np.concatenate([rows * width + columns, rows * (width + 1) + columns + 1])
    at, after = send(torch.from_numpy(both), device).chunk(2)
    return at, after
