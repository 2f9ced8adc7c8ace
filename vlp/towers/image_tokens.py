"""Towers that say something of each place of an image beside its embedding: tokens, for a decoder, or a map of them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float32
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from vlp.ground.types import RecipeError
from vlp.towers.native_aspect import NativeTimm
from vlp.towers.patch_masks import masks_of
from vlp.towers.trial_inputs import one_image

Found = tuple[Float[Tensor, "n d"], Float[Tensor, "n k w"]]


class TokenTimm(TimmModel):
    """open_clip's adapter of a timm backbone that also returns what the backbone hands to its pooling.

    Tokens of transformers, without those that stand before the patches; the places of a feature map, row by row.
    """

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Found:
        """Embed images; also return a token for each place."""
        features = self.trunk.forward_features(x)
        rows: Tensor = self.head(self.trunk.forward_head(features))
        return rows, self._in_a_row(features)

    def _in_a_row(self, features: Tensor) -> Float[Tensor, "n k w"]:
        if features.ndim == 3:
            return features[:, getattr(self.trunk, "num_prefix_tokens", 0) :]
        is_last = getattr(self.trunk, "output_fmt", "NCHW") == "NHWC"
        return features.flatten(1, 2) if is_last else features.flatten(2).transpose(1, 2)


class TokenResNet(ModifiedResNet):
    """open_clip's ResNet that also returns the map that its attention pool reads, row by row."""

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Found:
        """Embed images; also return a token for each place."""
        for part in (self.stem, self.layer1, self.layer2, self.layer3, self.layer4):
            x = part(x)
        rows: Tensor = self.attnpool(x)
        return rows, x.flatten(2).transpose(1, 2)


def hand_out_tokens(visual: nn.Module) -> None:
    """Let an image tower return its tokens beside its embeddings, which stay the same bit for bit.

    Raises:
        RecipeError: It is of a kind whose tokens are not known here.
    """
    if isinstance(visual, TokenTimm | TokenResNet):
        return
    if isinstance(visual, NativeTimm):
        raise _refused("its images have grids of their own (image.max_patches): leave max_patches out")
    if isinstance(visual, VisionTransformer):
        visual.output_tokens = True
    elif isinstance(visual, ModifiedResNet):
        visual.__class__ = TokenResNet
    elif isinstance(visual, TimmModel):
        _check_parts(visual)
        visual.__class__ = TokenTimm
    else:
        raise _refused(f"a {type(visual).__name__} hands out no tokens")


def token_shape(visual: nn.Module) -> tuple[int, int]:
    """Return how many tokens a tower that hands them out makes of an image at rest, and how wide they are."""
    with torch.no_grad():
        _, tokens = _at_rest(visual)
    return tokens.shape[1], tokens.shape[2]


def map_shape(visual: nn.Module) -> tuple[int, int, int]:
    """Return height, width and channels of the map that the tokens of such a tower are.

    Raises:
        RecipeError: They are no map: learned queries, tokens beside the patches, or only some of the patches.
    """
    if masks_of(visual):
        raise _refused("it leaves patches out: set its patch_dropout (of timm's: patch_drop) to 0")
    if isinstance(visual, VisionTransformer) and visual.attn_pool is not None:
        raise _refused("it reads the patches with learned queries, which have no place: leave pooler_queries out")
    count, channels = token_shape(visual)
    height, width = one_image(visual).shape[2:]
    rows, columns = _grid(count, height, width)
    if rows * columns != count:
        raise _refused(f"its {count} tokens of {height} x {width} pixels are no grid")
    return rows, columns, channels


def maps_of(
    tokens: Float[Tensor, "m k w"], images: Float[Tensor, "v n 3 height width"]
) -> tuple[Float32[Tensor, "n r c w"], ...]:
    """Return the map of each view: the tokens that a tower with maps has returned for all of them, row by row."""
    maps = tokens.float().unflatten(1, _grid(tokens.shape[1], *images.shape[3:]))
    found: tuple[Tensor, ...] = maps.unflatten(0, images.shape[:2]).unbind()
    return found


def _grid(count: int, height: int, width: int) -> tuple[int, int]:
    """Return how many rows and columns of square patches an image is covered by."""
    patch = (height * width / count) ** 0.5
    return round(height / patch), round(width / patch)


def only_rows(found: Any) -> Tensor:
    """Return the embeddings of what a tower returns, with or without tokens."""
    rows: Tensor = found[0] if isinstance(found, tuple) else found
    return rows


def _at_rest(visual: nn.Module) -> Any:
    was_training = visual.training
    visual.eval()
    weight = next(visual.parameters())
    found = visual(one_image(visual).to(weight.device, weight.dtype))
    visual.train(was_training)
    return found


@torch.no_grad()
def _check_parts(visual: TimmModel) -> None:
    """Refuse a backbone that does not compute as its two halves say: one behind the other, with a tensor between."""
    whole = _at_rest(visual)
    own = type(visual)
    visual.__class__ = TokenTimm
    try:
        parted, tokens = _at_rest(visual)
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        raise _refused(f"timm's {type(visual.trunk).__name__} hands out no tokens ({error})") from error
    finally:
        visual.__class__ = own
    is_same = isinstance(whole, FakeTensor) or torch.equal(whole, parted)  # the former have no content
    if tokens.ndim != 3 or not is_same:
        raise _refused(f"timm's {type(visual.trunk).__name__} hands out no tokens")


def _refused(reason: str) -> RecipeError:
    return RecipeError(
        f"model.image: something reads the tokens of the image (model.decoder, or a term that compares places), and "
        f"{reason}; or use a vision transformer or a ResNet of open_clip, or another backbone of timm"
    )
