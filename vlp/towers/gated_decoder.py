"""The multimodal half of a COSMO: a decoder that looks at images among its texts through gates that begin shut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from open_clip.transformer import LayerNorm
from torch import Tensor, nn

from vlp.ground.interleaved import Interleaved
from vlp.ground.ranges import Count, Positive
from vlp.ground.types import RecipeError, send
from vlp.towers.attention import LeanBlock
from vlp.towers.base import caption_decoders
from vlp.towers.caption_decoder import CaptionDecoder, activation, bare_decoder, begin
from vlp.towers.open_clip import TransformerDecoder

GATED = "gated"  # the entry of `multimodal_cfg` that no other library knows
Looks = Literal["latest", "earlier"]


@caption_decoders.register("gated")
class GatedSource(TransformerDecoder):
    """A decoder of texts among images.

    Wang et al. 2024, section 3 (COSMO, arXiv:2401.00849); gates and mask as in Flamingo (Alayrac et al. 2022, section
    2.3 and appendix A.1.3, arXiv:2204.14198): every so many blocks, one that looks at the images is put before, whose
    two sums pass a tanh of a number that begins at 0: at the start the decoder sees no image.

    Args:
        layers: Number of blocks that attend to the text so far.
        heads: Number of attention heads.
        every: Blocks of text for each that looks at images; 2 in COSMO.
        looks: A token looks at the `latest` image before it, or at that and all `earlier` ones (COSMO on OBELICS).
        mlp_ratio: Width of the hidden layer of a block that looks, relative to the decoder's; 2 in COSMO, which halves
            its attention too.
    """

    def __init__(
        self,
        *,
        layers: Count = 12,
        heads: Count = 8,
        every: int = 2,
        looks: Looks = "latest",
        mlp_ratio: Positive = 2.0,
    ):
        if not 1 <= every <= layers:
            raise RecipeError(f"model.decoder.every: {every} is not from 1 to layers={layers}")
        super().__init__(layers=layers, heads=heads)
        self.gated = {"every": every, "looks": looks, "mlp_ratio": mlp_ratio}

    def config(self, text_cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Return it as open_clip would have it, and what open_clip has no place for."""
        return {**super().config(text_cfg), GATED: self.gated}


class TanhGate(nn.Module):
    """Multiply by the tanh of a number that begins at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.openness = nn.Parameter(torch.zeros(1))

    def forward(self, states: Float[Tensor, "n l w"]) -> Float[Tensor, "n l w"]:
        """Let through as much as the gate is open."""
        return states * self.openness.tanh()


class GatedBlock(LeanBlock):
    """open_clip's block that looks at an image, with a gate at each of its sums, and a mask of what each token sees.

    Args:
        mlp_ratio: Width of its hidden layer relative to `width`.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, act_layer: type[nn.Module]):
        super().__init__(
            width, heads, mlp_ratio, act_layer=act_layer, norm_layer=LayerNorm, is_cross_attention=True
        )  # fmt: skip
        self.ls_1, self.ls_2 = TanhGate(), TanhGate()

    def attention(self, q_x: Tensor, k_x: Any = None, v_x: Any = None, attn_mask: Any = None) -> Tensor:
        """Look at all of one image, or with a mask [n, 1, l, k] at what each token sees: perhaps at nothing."""
        if attn_mask is None:
            return super().attention(q_x, k_x, v_x)
        layer, width = self.attn, q_x.shape[2]
        weight, bias = layer.in_proj_weight, layer.in_proj_bias
        queries = F.linear(q_x, weight[:width], bias[:width])
        keys, values = F.linear(k_x, weight[width:], bias[width:]).chunk(2, dim=-1)
        queries, keys, values = (
            rows.unflatten(2, (layer.num_heads, -1)).transpose(1, 2) for rows in (queries, keys, values)
        )
        sees = attn_mask.any(dim=3, keepdim=True)
        mask = attn_mask | ~sees  # a row of nothing would be NaN
        seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        out: Tensor = layer.out_proj(seen.transpose(1, 2).flatten(2))
        return out * sees[:, 0]


class GatedDecoder(CaptionDecoder):
    """CoCa's decoder, but that blocks which look at images come before those of text, fewer, and gated.

    Attributes:
        every: Blocks of text for each that looks.
        looks: At the latest image alone, or at earlier ones too.
    """

    every: int
    looks: Looks

    def in_order(self) -> Iterator[tuple[nn.Module, bool]]:
        """Yield the blocks as they follow each other, and whether each looks at images."""
        looking = iter(self.cross_attn)
        for number, block in enumerate(self.resblocks):
            if number % self.every == 0:
                yield next(looking), True
            yield block, False

    def document_losses(
        self,
        image_tokens: Float[Tensor, "n k v"],
        text_tokens: Float[Tensor, "n l w"],
        tokens: Int64[Tensor, "n l"],
        interleaved: Interleaved,
    ) -> Float32[Tensor, " n"]:
        """Return -log of the probability of the words of each document, whose images have all their tokens in a row."""
        look_mask = self.look_mask(interleaved, image_tokens.shape[1], tokens.device)
        return self.losses_of(interleaved.is_word, image_tokens, text_tokens, tokens, look_mask)

    def look_mask(self, interleaved: Interleaved, num_tokens: int, device: torch.device) -> Bool[Tensor, "n 1 l k"]:
        """Return which tokens of a document's images each token of its text but the last looks at.

        Args:
            num_tokens: Of all its images together, absent ones included.
        """
        seen = send(torch.from_numpy(interleaved.seen), device)[:, :-1, None]
        of_image = torch.arange(num_tokens, device=device) // (num_tokens // interleaved.most) + 1
        mask = seen == of_image if self.looks == "latest" else seen >= of_image
        return mask[:, None]


def build_gated(config: Mapping[str, Any], model_cfg: Mapping[str, Any]) -> GatedDecoder:
    """Build the decoder of a `multimodal_cfg` with gates, with random weights."""
    decoder = bare_decoder(GatedDecoder, config, model_cfg)
    gated, width, heads = config[GATED], config["width"], config["heads"]
    decoder.every, decoder.looks = gated["every"], gated["looks"]
    num_looking = -(-config["layers"] // decoder.every)
    decoder.cross_attn = nn.ModuleList(
        GatedBlock(width, heads, gated["mlp_ratio"], activation(model_cfg)) for _ in range(num_looking)
    )
    begin(decoder)
    return decoder
